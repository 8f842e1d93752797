"""The hypervisor in memory keeps the promises: the suite needs no libvirt."""

from virtuoso_core.testing import HypervisorSuite
from virtuoso_core.testing.memory import MemoryHypervisor


class TestMemory(HypervisorSuite):
    hypervisor = MemoryHypervisor

    def assert_deleted(self, disk_image: str) -> None:
        """Nothing is behind its disk images."""
