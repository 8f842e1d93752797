"""The conformance suite on a real QEMU."""

from __future__ import annotations

from typing import ClassVar

import pytest

from tests.labs.hosts import PrivateHost
from virtuoso_core.testing import HypervisorSuite
from virtuoso_kvm.driver import KvmHypervisor


class TestKvmOnQemu(HypervisorSuite):
    hypervisor = KvmHypervisor
    option_samples: ClassVar = {"accel": ["tcg"]}  # the lab hides /dev/kvm, so that it is the same everywhere

    @pytest.fixture
    def real_uri(self, host: PrivateHost) -> str:
        return host.uri

    @pytest.fixture
    def disk_image(self, blank_disk: str) -> str:
        return blank_disk
