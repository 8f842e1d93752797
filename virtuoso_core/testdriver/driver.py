"""TestHypervisor: declarations for libvirt's mock, which remembers what it is told and runs nothing."""

from __future__ import annotations

from types import MappingProxyType

from ..libvirt_base import LibvirtHypervisor, Wiring
from ..libvirt_base.options import BOOT, HEADLESS, VNC_PASSWORD
from ..spec import Feature, option_table


class TestHypervisor(LibvirtHypervisor):
    """``test:///default`` is shared by all connections of a process; ``test:///PATH.xml`` is private, made from a file.

    Its disk images need not exist.
    """

    __test__ = False  # not a test of pytest's

    name = "test"
    schemes = ("test",)
    # libvirt's mock crashes the process when asked for the address of a guest on a network without one
    features = frozenset(Feature) - {Feature.ADDRESSES}
    probes_images = False
    options = option_table(HEADLESS, VNC_PASSWORD, BOOT)
    wirings = MappingProxyType(
        {
            "nat": (Wiring("The mock's network 'default'.", "network", "network", default="default", forward="nat"),),
            "bridged": (Wiring("A bridge, never looked for.", "bridge", "bridge", default="br0"),),
            "host_only": (
                Wiring(
                    "A network of the host and its guests.",
                    "network",
                    "network",
                    default="virtuoso-host-only",
                    own=True,
                ),
            ),
            "internal": (
                Wiring(
                    "A network of guests only.",
                    "network",
                    "network",
                    default="virtuoso-internal",
                    addressed=False,
                    own=True,
                ),
            ),
        }
    )
