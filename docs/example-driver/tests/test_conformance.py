"""The driver keeps the promises, on real QEMU."""

from virtuoso_core.testing import HypervisorSuite
from virtuoso_qmp.driver import QmpHypervisor


class TestQmp(HypervisorSuite):
    hypervisor = QmpHypervisor
    choke_point = "call"
