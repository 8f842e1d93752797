"""The driver for VMware's servers keeps the promises, as far as libvirt's mock tells.

How an existing VM changes, by calls that the mock refuses, its snapshots, whose texts the mock takes otherwise, and how
one connects are tried on simulators: tests/vmware.
The driver for Workstation works on files, of which the mock knows nothing.
"""

from typing import Any

import pytest

from virtuoso_core import URI, Feature, Hypervisor
from virtuoso_core.libvirt_base.connection import Connection
from virtuoso_core.testing import HypervisorSuite
from virtuoso_vmware.esx import EsxHypervisor


class TestEsx(HypervisorSuite):
    hypervisor = EsxHypervisor
    needs_disk = True

    @pytest.fixture
    def disk_image(self) -> str:
        return "[datastore1] suite/disk.vmdk"

    @pytest.fixture
    def further_image(self, request: pytest.FixtureRequest) -> str:
        suffix = "iso" if request.function.__name__ == "test_cdrom" else "vmdk"
        return f"[datastore1] suite/further.{suffix}"

    def connect(self, uri: str, *, readonly: bool = False, **_: Any) -> Hypervisor:
        where = URI.parse(uri)
        opened: Any = EsxHypervisor(where, Connection(where, readonly=readonly), readonly=readonly)
        opened.features = EsxHypervisor.features - {Feature.MODIFY, Feature.DELETE_DISK, Feature.SNAPSHOT}
        opened._check_there = lambda path: None
        return opened  # type: ignore[no-any-return]
