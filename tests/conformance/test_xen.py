"""The Xen driver keeps the promises."""

from virtuoso_core.testing import HypervisorSuite
from virtuoso_xen.driver import XenHypervisor


class TestXen(HypervisorSuite):
    hypervisor = XenHypervisor
