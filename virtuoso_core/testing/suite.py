"""HypervisorSuite: every group of the conformance suite in one class, for a driver's tests to inherit."""

from __future__ import annotations

from .configuration import ConfigurationGroup
from .declaration import DeclarationGroup
from .disks import DisksGroup
from .failures import FailuresGroup
from .guest import GuestGroup
from .libvirt_xml import LibvirtGroup
from .lifecycle import LifecycleGroup
from .rollback import RollbackGroup
from .running import RunningGroup
from .ways_back import WaysBackGroup


class HypervisorSuite(
    DeclarationGroup,
    LifecycleGroup,
    ConfigurationGroup,
    DisksGroup,
    GuestGroup,
    WaysBackGroup,
    RunningGroup,
    FailuresGroup,
    RollbackGroup,
    LibvirtGroup,
):
    """Proves that a driver keeps the promises of the public API.

    A driver on libvirt is tested on libvirt's in-process mock, with no daemon; every driver on a real hypervisor
    where the environment names one: ``VIRTUOSO_TEST_URI_KVM=qemu:///system`` for the driver named "kvm". VMs are
    made and removed there, with names that start with "virtuoso-suite-".

    Example::

        from virtuoso_core.testing import HypervisorSuite
        from virtuoso_kvm.driver import KvmHypervisor

        class TestKvm(HypervisorSuite):
            hypervisor = KvmHypervisor
    """
