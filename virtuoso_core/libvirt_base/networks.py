"""Networks: how our types are written as <interface>, and the host's networks that VMs need before they start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Literal

from ..errors import HypervisorError, NetworkInactiveError, NetworkNotFoundError
from ..spec import Network
from ..xml import Document, Interface
from .connection import Connection

SourceAttribute = Literal["network", "bridge", "dev", "name"]

_DNSMASQ = "http://libvirt.org/schemas/network/dnsmasq/1.0"
_SUBNETS = tuple(range(122, 138))
"""Third numbers of the 192.168.x.0/24 networks tried in turn for a network that we make."""


@dataclass(frozen=True)
class Wiring:
    """How one type of network is written as an ``<interface>`` of one hypervisor.

    Attributes:
        doc: a sentence for people.
        kind: ``<interface type=...>``.
        source: the attribute of ``<source>`` that names the host's side, or None where there is none.
        default: the host's side when none was given; None where the user must name it.
        forward: what ``<forward mode=...>`` the host's network has, for a kind of "network"; "" means none.
        addressed: whether such a network gives the host an address in it.
        own: whether the library makes that network by itself when it is missing.
        mode: ``<source mode=...>``, for macvtap.
    """

    doc: str
    kind: str
    source: SourceAttribute | None = None
    default: str | None = None
    forward: str = ""
    addressed: bool = True
    own: bool = False
    mode: str | None = None

    def write(self, card: Interface, network: Network) -> None:
        """Make the element say what the network says; the source stays as it is where it means the same."""
        if card.type != self.kind or self.source_of(card) != network.source:
            card.type = self.kind
            source = card.document.find(card.element, ("source",))
            if source is not None:
                card.document.remove(source)
            if self.source is not None and network.source is not None:
                setattr(card, f"source_{self.source}", network.source)
                card.source_mode = self.mode
        card.mac_address = network.mac_address
        card.model = network.model

    def source_of(self, card: Interface) -> str | None:
        """The host's side that the element names."""
        return None if self.source is None else getattr(card, f"source_{self.source}")


Wirings = Mapping[str, tuple[Wiring, ...]]

# On networks that libvirt keeps on the host, for each driver whose VMs can join them.
NAT = Wiring(
    "Behind the host's address, on libvirt's network 'default' or another one.",
    "network",
    "network",
    default="default",
    forward="nat",
)
HOST_ONLY = Wiring(
    "The host and its guests among themselves.", "network", "network", default="virtuoso-host-only", own=True
)
INTERNAL = Wiring(
    "Guests among themselves, without the host.",
    "network",
    "network",
    default="virtuoso-internal",
    addressed=False,
    own=True,
)


class HostNetworks:
    """The networks that libvirt keeps on the host."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def matches(self, name: str, wiring: Wiring) -> bool:
        """Whether the host's network of that name is of the wiring's kind; False when there is none."""
        found = self.describe(name)
        if found is None:
            return False
        forward = found.find(found.root, ("forward",))
        mode = "" if forward is None else forward.get("mode", "nat")
        addressed = found.find(found.root, ("ip",)) is not None
        if mode in ("", "none"):
            return wiring.forward == "" and addressed == wiring.addressed
        if mode in ("nat", "route", "open"):
            return wiring.forward == "nat"
        return wiring.forward == "bridge"

    def describe(self, name: str) -> Document | None:
        """The definition of the host's network of that name; None when there is none."""
        call = self._connection.call
        try:
            network = call(f"find the network {name!r}", self._connection.native.networkLookupByName, name)
            return Document(call(f"read the network {name!r}", network.XMLDesc, 0))
        except NetworkNotFoundError:
            return None

    def is_active(self, name: str) -> bool | None:
        """Whether the host's network of that name is started; None when there is none."""
        call = self._connection.call
        try:
            network = call(f"find the network {name!r}", self._connection.native.networkLookupByName, name)
        except NetworkNotFoundError:
            return None
        return bool(call(f"look at the network {name!r}", network.isActive))

    def require_active(self, name: str, wiring: Wiring | None, *, start: bool, vm: str) -> None:
        """See that the network runs; start, and where need be make, what may be started.

        Raises:
            NetworkNotFoundError, NetworkInactiveError: with what to type.
        """
        call, uri = self._connection.call, self._connection.uri
        ours = wiring is not None and wiring.own and name == wiring.default
        host = quote(str(uri))
        start_it = f"virtuoso -c {host} start {quote(vm)} --start-networks"
        try:
            network = call(f"find the network {name!r}", self._connection.native.networkLookupByName, name)
        except NetworkNotFoundError:
            usual = wiring is not None and name == wiring.default
            if usual and (start or ours):
                assert wiring is not None
                self._make(name, wiring)
                return
            hint = f"Make and start it: {start_it}" if usual else ""
            raise NetworkNotFoundError(
                f"The VM {vm!r} needs the network {name!r}, which {uri} does not have.",
                hint=hint or f"See what is there: virsh -c {host} net-list --all",
                vm=vm,
                uri=uri,
            ) from None
        if call(f"look at the network {name!r}", network.isActive):
            return
        if not start and not ours:
            raise NetworkInactiveError(
                f"The VM {vm!r} needs the network {name!r}, which is not started on {uri}.",
                hint=f"Start it: virsh -c {host} net-start {quote(name)}; or: {start_it}",
                vm=vm,
                uri=uri,
            )
        call(f"start the network {name!r}", network.create)

    def _make(self, name: str, wiring: Wiring) -> None:
        """Define and start it, on the first subnet that nothing else uses."""
        call = self._connection.call
        last: HypervisorError | None = None
        for subnet in _SUBNETS:
            text = network_xml(name, wiring, subnet)
            network = call(f"define the network {name!r}", self._connection.native.networkDefineXML, text)
            try:
                call(f"start the network {name!r}", network.create)
            except HypervisorError as error:
                call(f"remove the network {name!r}", network.undefine)
                last = error
                continue
            call(f"let the network {name!r} start with the host", network.setAutostart, True)
            return
        assert last is not None
        raise last


def network_xml(name: str, wiring: Wiring, subnet: int) -> str:
    """The definition of a network that the library makes."""
    from lxml import etree

    root = etree.Element("network", nsmap={"dnsmasq": _DNSMASQ})
    etree.SubElement(root, "name").text = name
    if wiring.forward:
        etree.SubElement(root, "forward", mode=wiring.forward)
    if wiring.addressed:
        ip = etree.SubElement(root, "ip", address=f"192.168.{subnet}.1", netmask="255.255.255.0")
        dhcp = etree.SubElement(ip, "dhcp")
        etree.SubElement(dhcp, "range", start=f"192.168.{subnet}.2", end=f"192.168.{subnet}.254")
        # without it the first lease of every new guest waits seconds for an answer to a ping
        options = etree.SubElement(root, f"{{{_DNSMASQ}}}options")
        etree.SubElement(options, f"{{{_DNSMASQ}}}option", value="no-ping")
    return etree.tostring(root, encoding="unicode")
