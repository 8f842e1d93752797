"""What happens to VMs as libvirt tells it: one source a hypervisor, for all that listen, in our words."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from ..errors import ConnectionLostError, VirtuosoError
from ..events import Event, EventType
from .binding import libvirt
from .connection import Connection

if TYPE_CHECKING:
    from .hypervisor import LibvirtHypervisor

Tell = Callable[[Event | Exception], None]

_MEANINGS: dict[tuple[str, str], tuple[EventType, str]] = {
    ("DEFINED", "ADDED"): (EventType.SAVED, "new"),
    ("DEFINED", "UPDATED"): (EventType.SAVED, "changed"),
    ("DEFINED", "RENAMED"): (EventType.SAVED, "renamed"),
    ("DEFINED", "FROM_SNAPSHOT"): (EventType.SAVED, "from a snapshot"),
    ("UNDEFINED", "REMOVED"): (EventType.DESTROYED, ""),
    ("STARTED", "BOOTED"): (EventType.STARTED, "booted"),
    ("STARTED", "MIGRATED"): (EventType.STARTED, "moved here from another host"),
    ("STARTED", "RESTORED"): (EventType.STARTED, "from its suspended memory"),
    ("STARTED", "FROM_SNAPSHOT"): (EventType.STARTED, "from a snapshot"),
    ("STARTED", "WAKEUP"): (EventType.RESUMED, "the guest woke"),
    ("SUSPENDED", "PAUSED"): (EventType.PAUSED, "asked to"),
    ("SUSPENDED", "MIGRATED"): (EventType.PAUSED, "for its move to another host"),
    ("SUSPENDED", "IOERROR"): (EventType.PAUSED, "input/output error of a disk"),
    ("SUSPENDED", "WATCHDOG"): (EventType.PAUSED, "its watchdog bit"),
    ("SUSPENDED", "RESTORED"): (EventType.PAUSED, "suspended while it was paused"),
    ("SUSPENDED", "FROM_SNAPSHOT"): (EventType.PAUSED, "from a snapshot"),
    ("SUSPENDED", "API_ERROR"): (EventType.PAUSED, "an act of the hypervisor failed"),
    ("SUSPENDED", "POSTCOPY"): (EventType.PAUSED, "for its move to another host"),
    ("SUSPENDED", "POSTCOPY_FAILED"): (EventType.PAUSED, "its move to another host failed"),
    ("RESUMED", "UNPAUSED"): (EventType.RESUMED, ""),
    ("RESUMED", "MIGRATED"): (EventType.RESUMED, "after its move from another host"),
    ("RESUMED", "FROM_SNAPSHOT"): (EventType.RESUMED, "from a snapshot"),
    ("RESUMED", "POSTCOPY"): (EventType.RESUMED, "after its move from another host"),
    ("RESUMED", "POSTCOPY_FAILED"): (EventType.RESUMED, "its move to another host failed"),
    ("STOPPED", "SHUTDOWN"): (EventType.STOPPED, "shut down"),
    ("STOPPED", "DESTROYED"): (EventType.STOPPED, "its plug was pulled"),
    ("STOPPED", "CRASHED"): (EventType.CRASHED, ""),
    ("STOPPED", "MIGRATED"): (EventType.MIGRATED, "to another host"),
    ("STOPPED", "SAVED"): (EventType.SUSPENDED, ""),
    ("STOPPED", "FAILED"): (EventType.STOPPED, "the hypervisor's process failed"),
    ("STOPPED", "FROM_SNAPSHOT"): (EventType.STOPPED, "for a snapshot"),
    ("PMSUSPENDED", "MEMORY"): (EventType.PAUSED, "the guest sleeps"),
    ("PMSUSPENDED", "DISK"): (EventType.STOPPED, "the guest hibernates"),
    ("CRASHED", "PANICKED"): (EventType.CRASHED, "the guest panicked"),
    ("CRASHED", "CRASHLOADED"): (EventType.CRASHED, "the guest panicked and keeps its memory"),
}
"""What libvirt's VIR_DOMAIN_EVENT_* with their details mean. SHUTDOWN is not here: STOPPED follows. Neither is
UNDEFINED for RENAMED: the VM lives on."""

_WHY_LOST = {"EOF": "its end was closed", "ERROR": "it failed", "KEEPALIVE": "it gave no sign of life"}


def meaning(number: int, detail: int) -> tuple[EventType, str] | None:
    """The type and the words for a lifecycle event; None for what is not told."""
    binding = libvirt()
    for (name, why), found in _MEANINGS.items():
        if (
            getattr(binding, f"VIR_DOMAIN_EVENT_{name}", None) == number
            and getattr(binding, f"VIR_DOMAIN_EVENT_{name}_{why}", None) == detail
        ):
            return found
    return None


class EventSource:
    """The one place where libvirt tells a hypervisor's events, registered while somebody listens."""

    def __init__(self, hypervisor: LibvirtHypervisor) -> None:
        self._hypervisor = hypervisor
        self._lock = threading.RLock()
        self._listeners: tuple[Tell, ...] = ()
        self._connection: Connection | None = None
        self._callbacks: list[int] = []
        self._end: ConnectionLostError | None = None
        """What was told last, where the connection broke."""
        self._running: set[tuple[str, int]] = set()
        """The VMs, with libvirt's numbers, that run as far as was told."""

    def add(self, tell: Tell) -> Callable[[], None]:
        """Tell that one too; what is returned ends it."""
        with self._lock:
            if not self._listeners:
                self._open()
            self._listeners += (tell,)
            if self._end is not None:
                tell(self._end)
        return lambda: self._remove(tell)

    def _remove(self, tell: Tell) -> None:
        with self._lock:
            self._listeners = tuple(other for other in self._listeners if other is not tell)
            if not self._listeners:
                self._close()

    def _open(self) -> None:
        binding, mine = libvirt(), self._hypervisor.connection
        mine.call("listen for events", mine.native.getLibVersion)  # another connection may work where this one broke
        self._connection = connection = mine.listening(in_process=not self._hypervisor.daemon)
        native, call = connection.native, connection.call
        try:
            for number, function in (
                (binding.VIR_DOMAIN_EVENT_ID_LIFECYCLE, self._lifecycle),
                (binding.VIR_DOMAIN_EVENT_ID_REBOOT, self._reboot),
            ):
                self._callbacks.append(
                    call("listen for events", native.domainEventRegisterAny, None, number, function, None)
                )
            call("listen for the connection's end", native.registerCloseCallback, self._lost, None)
            active = binding.VIR_CONNECT_LIST_DOMAINS_ACTIVE
            found = call("list the VMs that run", native.listAllDomains, active)
            self._running |= {(domain.UUIDString(), domain.ID()) for domain in found}
        except VirtuosoError:
            self._close()
            raise

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is None:
            return
        binding, native = libvirt(), connection.native
        for number in self._callbacks:
            with suppress(binding.libvirtError):  # the connection broke: nobody tells us anything any more
                native.domainEventDeregisterAny(number)
        with suppress(binding.libvirtError):
            native.unregisterCloseCallback()
        self._callbacks, self._running, self._end = [], set(), None
        if connection is not self._hypervisor.connection:
            connection.close()

    # In the thread of libvirt's event loop. It may hold a lock of libvirt's that _close() waits for: none of ours here.

    def _lifecycle(self, _: Any, domain: Any, number: int, detail: int, __: Any) -> None:
        binding = libvirt()
        found = meaning(number, detail)
        key = domain.UUIDString(), domain.ID()
        if number == binding.VIR_DOMAIN_EVENT_STARTED:
            self._running = self._running | {key}
        elif number == binding.VIR_DOMAIN_EVENT_STOPPED:
            self._running = {other for other in self._running if other[0] != key[0]}
        elif found == (EventType.RESUMED, "") and key not in self._running:
            return  # QEMU starts every VM paused, and lets it go before libvirt tells of the start
        if found is not None:
            self._tell(found[0], domain, found[1])

    def _reboot(self, _: Any, domain: Any, __: Any) -> None:
        self._tell(EventType.REBOOTED, domain, "")

    def _tell(self, type: EventType, domain: Any, detail: str) -> None:
        if self._hypervisor._is_host(domain):
            return
        event = Event(type, domain.name(), domain.UUIDString(), str(self._hypervisor.uri), detail)
        for tell in self._listeners:
            tell(event)

    def _lost(self, _: Any, reason: int, __: Any) -> None:
        binding, uri = libvirt(), self._hypervisor.uri
        if reason == binding.VIR_CONNECT_CLOSE_REASON_CLIENT:
            return  # we did
        why = next(
            (
                words
                for name, words in _WHY_LOST.items()
                if getattr(binding, f"VIR_CONNECT_CLOSE_REASON_{name}") == reason
            ),
            "it ended",
        )
        error = ConnectionLostError(
            f"The connection to {uri} broke while its events were watched: {why}.",
            hint=f"{self._hypervisor.connection.lost_hint} Then call connect() and events() again: "
            "what happened meanwhile is not told.",
            uri=uri,
        )
        self._end = error  # before the look at who listens: who joins meanwhile looks the other way round
        for tell in self._listeners:
            tell(error)
