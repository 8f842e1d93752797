"""TestHypervisor: declarations for libvirt's mock, which remembers what it is told and runs nothing."""

from __future__ import annotations

import os
from types import MappingProxyType
from typing import ClassVar, Self

from ..errors import ConnectError
from ..hypervisor import Credentials
from ..libvirt_base import LibvirtHypervisor, Wiring
from ..libvirt_base.networks import HOST_ONLY, INTERNAL, NAT, Wirings
from ..libvirt_base.options import BOOT, HEADLESS, VNC_PASSWORD
from ..spec import BASIC, Feature, option_table
from ..uri import URI


class TestHypervisor(LibvirtHypervisor):
    """``test:///default`` is shared by all connections of a process; ``test:///PATH.xml`` is private, made from a file.

    Its disk images need not exist.
    """

    __test__ = False  # not a test of pytest's

    name = "test"
    schemes = ("test",)
    daemon = ""
    # libvirt's mock crashes the process when asked for the address of a guest on a network without one
    features = BASIC - {Feature.ADDRESSES, Feature.DELETE_DISK} | {
        Feature.DISKS,
        Feature.CDROM,
        Feature.LIVE,
        Feature.AUTOSTART,
        Feature.SUSPEND,
        Feature.EVENTS,
        Feature.SNAPSHOT,
    }
    probes_images = False
    options = option_table(HEADLESS, VNC_PASSWORD, BOOT)
    wirings: ClassVar[Wirings] = MappingProxyType(
        {
            "nat": (NAT,),
            "bridged": (Wiring("A bridge, never looked for.", "bridge", "bridge", default="br0"),),
            "host_only": (HOST_ONLY,),
            "internal": (INTERNAL,),
        }
    )

    @classmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Self:
        """Connect; a missing file is found here, for libvirt's parser would print it on stderr."""
        if uri.path != "/default" and not os.path.isfile(uri.path):
            raise ConnectError(
                f"Cannot connect to {uri}: there is no file {uri.path}.",
                hint="test:///default needs none; test:///PATH reads the mock's state from an XML file.",
                uri=uri,
            )
        return super().open(uri, readonly=readonly, credentials=credentials)
