"""The KVM driver keeps the promises."""

from virtuoso_core.testing import HypervisorSuite
from virtuoso_kvm.driver import KvmHypervisor


class TestKvm(HypervisorSuite):
    hypervisor = KvmHypervisor
