"""GuestActs: a running guest through libvirt: addresses, screen, console, agent."""

from __future__ import annotations

import io
from collections.abc import Iterator

from ..errors import HypervisorError, InvalidStateError, InvalidValueError, UnsupportedError
from ..facts import Address, AddressReport
from ..spec import State
from .binding import libvirt
from .domain import LibvirtDomain


class GuestActs(LibvirtDomain):
    """What is asked of a running guest."""

    def _address_reports(self) -> Iterator[AddressReport]:
        binding = libvirt()
        for source in self._hypervisor.address_sources:
            number = getattr(binding, f"VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_{source}")
            try:
                found = self._call("ask for the addresses of", self._domain.interfaceAddresses, number, 0)
            except (UnsupportedError, HypervisorError, InvalidStateError, InvalidValueError) as error:
                if self._get_state() is not State.RUNNING:
                    raise
                yield AddressReport(source.lower(), said=error.message)
                continue  # this source cannot tell; another may
            yield AddressReport(
                source.lower(),
                tuple(
                    Address(entry["addr"], card.get("hwaddr"), source.lower())
                    for card in (found or {}).values()
                    for entry in card.get("addrs") or ()
                    if card.get("hwaddr") != "00:00:00:00:00:00"
                ),
            )

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
