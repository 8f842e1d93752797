"""The hypervisor in memory keeps the promises: the suite needs no libvirt."""

import pytest

from virtuoso_core.testing import HypervisorSuite
from virtuoso_core.testing.memory import MemoryHypervisor


class TestMemory(HypervisorSuite):
    hypervisor = MemoryHypervisor

    @pytest.fixture
    def migration_target(self) -> str:
        """Another host in memory."""
        return "memory:///another-host"

    def assert_deleted(self, disk_image: str) -> None:
        """Nothing is behind its disk images."""
