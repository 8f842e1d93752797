"""GuestActs: a running guest through libvirt: addresses, screen, console, agent."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

from ..console import Console
from ..errors import ConnectionLostError, HypervisorError, UnsupportedError, VirtuosoError, VMNotFoundError
from ..facts import Address, AddressReport, Display, RunResult
from ..xml import DomainDocument
from .agent import ADD_CHANNEL, Agent, is_connected
from .binding import libvirt
from .console import open_console
from .domain import LibvirtDomain
from .errors import is_code, words_of


class GuestActs(LibvirtDomain):
    """What is asked of a running guest."""

    # Addresses.

    def _address_reports(self) -> Iterator[AddressReport]:
        binding = libvirt()
        for source in self._hypervisor.address_sources:
            name = source.lower()
            if source == "AGENT" and self._hypervisor.readonly:
                yield AddressReport(name, said="a read-only connection may not ask it")
                continue
            number = getattr(binding, f"VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_{source}")
            found, trouble = {}, None
            try:
                found = self._call("ask for the addresses of", self._domain.interfaceAddresses, number, 0)
            except (ConnectionLostError, VMNotFoundError):
                raise
            except VirtuosoError as error:
                trouble = error  # this source cannot tell; another may
            addresses = [
                Address(entry["addr"], card.get("hwaddr"), name)
                for card in (found or {}).values()
                for entry in card.get("addrs") or ()
                if card.get("hwaddr") != "00:00:00:00:00:00"
            ]
            if addresses:
                yield AddressReport(name, tuple(self._latest_first(addresses) if source == "LEASE" else addresses))
            else:
                yield AddressReport(name, (), *self._silence(source, trouble))

    def _running_document(self) -> DomainDocument:
        """What runs now, which may differ from what the next start uses; without passwords."""
        return DomainDocument(self._call("look at", self._domain.XMLDesc, 0))

    def _latest_first(self, leases: list[Address]) -> list[Address]:
        """A guest that introduced itself differently before has older leases too, until they expire."""
        if len({(lease.mac_address, ":" in lease.ip) for lease in leases}) == len(leases):
            return leases
        native = self._hypervisor.connection.native
        expiry: dict[str, int] = {}
        for name in {card.source_network for card in self._running_document().interfaces if card.source_network}:
            network = self._call("find the network of", native.networkLookupByName, name)
            for known in self._call("look at the leases of", network.DHCPLeases, None, 0):
                expiry[known["ipaddr"]] = known["expirytime"] or 2**63  # 0: for ever
        cards = list(dict.fromkeys(lease.mac_address for lease in leases))
        return sorted(leases, key=lambda lease: (cards.index(lease.mac_address), -expiry.get(lease.ip, 0)))

    def _silence(self, source: str, trouble: VirtuosoError | None) -> tuple[str, str]:
        """Why a source knows no address, and what to do about it."""
        document = self._running_document()
        if source == "LEASE":
            return self._no_lease(document, trouble)
        if source == "AGENT":
            return self._no_agent(document, trouble)
        if trouble is not None:
            return f"could not be asked: {words_of(trouble)}", ""
        return "the host has not heard of its network cards", ""

    def _no_lease(self, document: DomainDocument, trouble: VirtuosoError | None) -> tuple[str, str]:
        cards = [card for card in document.interfaces if card.source_network]
        if not cards:
            return "none of its network cards is on a network of libvirt's", ""
        if trouble is not None:
            return f"could not be asked: {words_of(trouble)}", ""
        said = []
        for card in cards:
            name = card.source_network or ""
            if self._hospitable(name):
                said.append(f"the network {name!r} has no lease for {card.mac_address}")
            else:
                said.append(f"the network {name!r} has no DHCP server of libvirt's for {card.mac_address}")
        return ", ".join(said), "Does the guest ask for an address by DHCP, on the network card that it has?"

    def _hospitable(self, name: str) -> bool:
        try:
            described = self._hypervisor.host_networks.describe(name)
        except (HypervisorError, UnsupportedError):
            return True  # it cannot be told
        return described is not None and described.root.find("ip/dhcp") is not None

    def _no_agent(self, document: DomainDocument, trouble: VirtuosoError | None) -> tuple[str, str]:
        hint = f"Install {self._hypervisor.agent} in the guest and start it."
        if document.interfaces and all(card.type == "user" for card in document.interfaces):
            hint = f"On user networking only an agent can tell. {hint}"
        if trouble is None:
            return "knows none", ""
        if isinstance(trouble, UnsupportedError):
            return "the VM has no channel to one", ADD_CHANNEL
        if not is_code(trouble, "AGENT_UNRESPONSIVE", "AGENT_UNSYNCED", "OPERATION_TIMEOUT"):
            return f"could not be asked: {words_of(trouble)}", hint
        return ("does not answer" if is_connected(document) else "none runs in the guest"), hint

    # Commands, console, screen.

    def _run_in_guest(self, words: Sequence[str], stdin: bytes, timeout: float) -> RunResult:
        return Agent(self, timeout).run(words, stdin)

    def _console(self, force: bool) -> Console:
        return open_console(self, force)

    def _displays(self) -> Iterator[Display]:
        flags = 0 if self._hypervisor.readonly else libvirt().VIR_DOMAIN_XML_SECURE  # only that tells of passwords
        document = DomainDocument(self._call("look at", self._domain.XMLDesc, flags))
        for screen in document.graphics:
            password = bool(screen.password)
            port = next((port for port in (screen.port, screen.tls_port) if port is not None and port > 0), None)
            if screen.type not in ("vnc", "spice", "rdp"):
                continue  # a window, or a renderer without a way in
            if port is not None:
                host = screen.listen_address or screen.listen or "127.0.0.1"
                yield Display(screen.type, host, port, password=password)
            elif screen.socket is not None:
                yield Display(screen.type, "", None, screen.socket, password=password)

    def _screenshot(self) -> bytes:
        stream = self._call("open a stream for", self._hypervisor.connection.native.newStream, 0)
        self._call("take a screenshot of", self._domain.screenshot, stream, 0, 0)
        data = io.BytesIO()
        self._call("take a screenshot of", stream.recvAll, lambda _, chunk, __: data.write(chunk), None)
        self._call("take a screenshot of", stream.finish)
        return _as_png(data)


def _as_png(picture: io.BytesIO) -> bytes:
    """Hypervisors send PNG, PPM or BMP."""
    if picture.getvalue().startswith(b"\x89PNG\r\n"):
        return picture.getvalue()
    from PIL import Image

    out = io.BytesIO()
    with Image.open(picture) as image:
        image.save(out, "PNG")
    return out.getvalue()
