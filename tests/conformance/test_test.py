"""libvirt's mock keeps the promises."""

from virtuoso_core.testdriver.driver import TestHypervisor
from virtuoso_core.testing import HypervisorSuite


class TestTest(HypervisorSuite):
    hypervisor = TestHypervisor
