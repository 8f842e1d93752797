"""StartActs: what keeps a VM from starting or going on, looked for before, and named after libvirt failed."""

from __future__ import annotations

import errno
import os
import shlex
import socket
import time
from collections.abc import Iterator, Sequence

from .. import images
from ..errors import (
    HypervisorError,
    ImageInUseError,
    ImageUnreadableError,
    MacAddressInUseError,
    NoSpaceError,
    NotEnoughMemoryError,
    PortInUseError,
    VirtuosoError,
    VMNotFoundError,
)
from ..spec import format_memory
from ..xml import Disk, DomainDocument, Interface
from .binding import libvirt
from .domain import LibvirtDomain
from .errors import last_words

_SETTLE = 1.0
"""Seconds in which a guest that goes on comes upon the full disk again that stopped it."""


class StartActs(LibvirtDomain):
    """The checks around a start."""

    # Before.

    def _check_macs(self, document: DomainDocument) -> None:
        """No running VM has one of the MAC addresses on the same network.

        libvirt tells them in each VM's configuration only: what was read once is kept with the connection, so that only
        VMs that were started since cost a call.
        """
        mine = {key for card in document.interfaces for key in _places(card)}
        if not mine or not self._hypervisor.daemon:
            return  # without a daemon, each of these calls would go to a host far away
        binding, hypervisor = libvirt(), self._hypervisor
        active = binding.VIR_CONNECT_LIST_DOMAINS_ACTIVE
        running = self._call("look at what runs beside", hypervisor.connection.native.listAllDomains, active)
        known = hypervisor.running_cards
        cards: dict[tuple[str, int], frozenset[tuple[str, ...]]] = {}
        for domain in running:
            key = domain.UUIDString(), domain.ID()
            if key[0] == self._uuid or hypervisor._is_host(domain):
                continue
            try:
                cards[key] = known[key] if key in known else self._cards_of(domain)
                if mine & cards[key]:
                    cards[key] = self._cards_of(domain)  # some may have been unplugged
            except VMNotFoundError:
                continue  # it stopped while we looked
            for mac, kind, place in sorted(mine & cards[key]):
                raise MacAddressInUseError(
                    f"The VM {self.name!r} cannot start on {hypervisor.uri}: the running VM {domain.name()!r} has its "
                    f"MAC address {mac} on the same {kind} {place!r}.",
                    hint=f"Stop {domain.name()!r}, or give this VM another address: vm.remove_network({mac!r}), "
                    "vm.network(...), vm.save().",
                    **self._where,
                )
        hypervisor.running_cards = cards

    def _cards_of(self, domain: object) -> frozenset[tuple[str, ...]]:
        document = DomainDocument(self._call("look at what runs beside", domain.XMLDesc, 0))  # type: ignore[attr-defined]
        return frozenset(key for card in document.interfaces for key in _places(card))

    # After.

    def _image_times(self) -> dict[str, int]:
        """When each image of this machine's was last given to another user, among other things."""
        return {disk.path: found for disk in self._images() if disk.path and (found := _changed(disk.path)) is not None}

    def _images(self) -> Iterator[Disk]:
        hypervisor = self._hypervisor
        if self._document is not None and hypervisor.local and hypervisor.probes_images:
            yield from (disk for disk in self._document.disks if disk.type in ("file", "block") and disk.path)

    def _why_not_started(self, error: VirtuosoError, before: dict[str, int]) -> VirtuosoError:
        """What can be seen of the cause, for libvirt has one code for all that goes wrong in QEMU; else its words."""
        if type(error) is not HypervisorError or self._document is None:
            return error
        said = last_words(error)
        found = self._locked_image() or self._unreadable_image(before) or self._taken_port() or self._scarce_memory()
        if found is not None:
            kind, why, hint = found
            return kind(
                f"Could not start the VM {self.name!r} on {self._hypervisor.uri}: {why} The hypervisor says: {said}",
                hint=hint,
                **self._where,
            )
        log = self._hypervisor.log_of(self.name)
        return HypervisorError(
            f"Could not start the VM {self.name!r} on {self._hypervisor.uri}: {said}",
            code=error.code,
            hint=f"Its host keeps all that was said in {log}" if log else error.hint,
            **self._where,
        )

    def _locked_image(self) -> tuple[type[VirtuosoError], str, str] | None:
        for disk in self._images():
            path = disk.path or ""
            if not disk.shareable and images.is_locked(path):
                why = f"another program uses its disk {path}."
                return ImageInUseError, why, f"End that first; to see which it is: sudo lsof {shlex.quote(path)}"
        return None

    def _unreadable_image(self, before: dict[str, int]) -> tuple[type[VirtuosoError], str, str] | None:
        """libvirt lends images to the hypervisor's user, unless it is told not to, or it cannot, as on NFS.

        When the start fails it takes them back; but that shows in the file's time of change.
        """
        who = self._hypervisor.image_user()
        for disk in self._images():
            path = disk.path or ""
            wanted = images.READ if disk.readonly or disk.device == "cdrom" else images.READ | images.WRITE
            if path in before and _changed(path) != before[path]:
                continue
            if images.may_open(path, wanted, who.uid, who.gids) is False:
                verb = "read" if wanted == images.READ else "read and write"
                letters = "r" if wanted == images.READ else "rw"
                return (
                    ImageUnreadableError,
                    f"the hypervisor runs as the user {who.name}, which may not {verb} {path}.",
                    f"Let it: sudo setfacl -m u:{who.name}:{letters} {shlex.quote(path)}; "
                    f"or: sudo chown {who.name} {shlex.quote(path)}",
                )
        return None

    def _taken_port(self) -> tuple[type[VirtuosoError], str, str] | None:
        if self._document is None or not self._hypervisor.local:
            return None
        for screen in self._document.graphics:
            port = screen.port
            if port is None or port <= 0 or screen.autoport or not _is_taken(screen.listen or "127.0.0.1", port):
                continue
            why = f"another program listens on port {port}, which the VM's {(screen.type or 'screen').upper()} wants."
            return (
                PortInUseError,
                why,
                f"End that first (sudo ss -ltnp 'sport = :{port}'), or let libvirt choose the port: in virsh edit, "
                "port='-1' autoport='yes'.",
            )
        return None

    def _scarce_memory(self) -> tuple[type[VirtuosoError], str, str] | None:
        assert self._document is not None
        wanted = self._document.memory or 0
        if self._document.root.find("memoryBacking/hugepages") is not None:
            return None
        try:
            found = self._call("look at the host of", self._hypervisor.connection.native.getMemoryStats, -1, 0)
        except VirtuosoError:
            return None  # not every driver tells
        free = sum(found.get(name, 0) for name in ("free", "buffers", "cached"))
        if not found.get("total") or wanted <= free:
            return None
        return (
            NotEnoughMemoryError,
            f"it wants {format_memory(wanted)} of memory, and its host has {_rough(free)} free of "
            f"{_rough(found['total'])}.",
            'Give it less: vm.memory = "1 GiB"; or stop other VMs first.',
        )

    # Going on.

    def _check_goes_on(self) -> None:
        """A guest that a failing disk stopped is stopped by it again at once, where nothing was mended."""
        end = time.monotonic() + _SETTLE
        while not stopped_by_a_disk(self._call("look at", self._domain.state)):
            if time.monotonic() > end:
                return
            time.sleep(0.1)
        full, why = self._disk_trouble()
        kind = NoSpaceError if full else HypervisorError
        raise kind(
            f"The VM {self.name!r} on {self._hypervisor.uri} stands still again: {why}.",
            hint="Make room there, then resume it; nothing is lost until then."
            if full
            else "Look at that storage, and at its host's kernel log; then resume it.",
            **self._where,
        )

    def _disk_trouble(self) -> tuple[bool, str]:
        """What stopped a guest that a disk's error stopped: whether its host is full, and the words for it."""
        failing = self._call("ask for the disk errors of", self._domain.diskErrors, 0)
        document = DomainDocument(self._call("read", self._domain.XMLDesc, 0))
        paths = {disk.target: disk.path for disk in document.disks}
        full = [target for target, error in failing.items() if error == libvirt().VIR_DOMAIN_DISK_ERROR_NO_SPACE]
        names = ", ".join(str(paths.get(target) or target) for target in sorted(full or failing)) or "one of its disks"
        return bool(full), f"{'there is no space left for' if full else 'its host cannot read or write'} {names}"


def stopped_by_a_disk(found: Sequence[int]) -> bool:
    """Whether libvirt's state and reason say that a disk's error made the guest stand still."""
    binding = libvirt()
    return list(found) == [binding.VIR_DOMAIN_PAUSED, binding.VIR_DOMAIN_PAUSED_IOERROR]


def _places(card: Interface) -> Iterator[tuple[str, ...]]:
    """What a card joins, with its MAC address: of two that are the same, one is not heard."""
    mac = (card.mac_address or "").lower()
    if mac:
        joined = (("network", card.source_network), ("bridge", card.source_bridge), ("card", card.source_dev))
        yield from ((mac, kind, place) for kind, place in joined if place)


def _changed(path: str) -> int | None:
    try:
        return os.stat(path).st_ctime_ns
    except OSError:
        return None


def _is_taken(address: str, port: int) -> bool:
    try:
        with socket.create_server((address, port), family=socket.AF_INET6 if ":" in address else socket.AF_INET):
            return False
    except OSError as error:
        return error.errno == errno.EADDRINUSE


def _rough(kib: int) -> str:
    """An amount as people say it."""
    return f"{kib / 1024 / 1024:.1f} GiB"
