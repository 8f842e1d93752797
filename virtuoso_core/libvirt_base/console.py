"""LibvirtConsole: a serial console on a stream of libvirt's, which its event loop reads."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Any

from ..console import Console
from ..errors import ConnectionLostError, HypervisorError, InvalidStateError, InvalidValueError, VirtuosoError
from ..waiting import Wait
from ..xml import DomainDocument
from .binding import libvirt
from .errors import is_code

if TYPE_CHECKING:
    from .connection import Connection
    from .domain import LibvirtDomain

_log = logging.getLogger(__name__)

_CHUNK = 65536
"""Bytes taken from the stream at a time; libvirt's own packets hold no more than four of these."""
_FULL = 30.0
"""Seconds that a guest may take to make room for what is typed."""
_LOOK = 1.0
"""Seconds after which a reader looks whether the connection still works: a dead one tells nothing."""


def open_console(vm: LibvirtDomain, force: bool) -> LibvirtConsole:
    """The VM's first console; it is running.

    Raises:
        InvalidStateError: it has none, or one that nobody can sit at, or another program has it.
    """
    _check_there_is_one(vm)
    hypervisor = vm._hypervisor
    connection = hypervisor.connection.listening(in_process=not hypervisor.daemon)
    try:
        return LibvirtConsole(vm, connection, _open_stream(vm, connection, force))
    except BaseException:
        if connection is not hypervisor.connection:
            connection.close()
        raise


def _check_there_is_one(vm: LibvirtDomain) -> None:
    document = DomainDocument(vm._call("look at", vm._domain.XMLDesc, 0))
    first = next(iter(document.terminals), None)
    if first is None:
        raise InvalidStateError(
            f"The VM {vm.name!r} on {vm._hypervisor.uri} has no serial console.",
            hint="Add one with virsh edit, among its devices: <console type='pty'/>; then stop and start it.",
            **vm._where,
        )
    if first.type not in ("pty", "unix"):
        raise InvalidStateError(
            f"The serial console of the VM {vm.name!r} on {vm._hypervisor.uri} goes elsewhere: it is of the type "
            f"{first.type!r}.",
            hint="Make it of the type 'pty', with virsh edit; then stop and start the VM.",
            **vm._where,
        )


def _open_stream(vm: LibvirtDomain, connection: Connection, force: bool) -> Any:
    binding = libvirt()
    domain = vm._call("find", connection.native.lookupByUUIDString, vm.uuid)
    stream = vm._call("open a stream for", connection.native.newStream, binding.VIR_STREAM_NONBLOCK)
    flags = binding.VIR_DOMAIN_CONSOLE_FORCE if force else 0
    try:
        try:
            # safe: also against programs that open the terminal without libvirt, where they lock it
            vm._call("open the console of", domain.openConsole, None, stream, flags | binding.VIR_DOMAIN_CONSOLE_SAFE)
        except (InvalidValueError, HypervisorError) as error:
            if not is_code(error, "INVALID_ARG", "NO_SUPPORT"):
                raise
            vm._call("open the console of", domain.openConsole, None, stream, flags)  # this driver cannot tell
    except HypervisorError as error:
        if not is_code(error, "OPERATION_FAILED"):
            raise
        raise InvalidStateError(
            f"Another program has the console of the VM {vm.name!r} on {vm._hypervisor.uri}.",
            hint="Close it there, or take it away: vm.console(force=True).",
            **vm._where,
        ) from error
    return stream


class LibvirtConsole(Console):
    """A console whose bytes libvirt's event loop collects, so that any thread may wait for them."""

    def __init__(self, vm: LibvirtDomain, connection: Connection, stream: Any) -> None:
        self._vm, self._connection, self._stream = vm, connection, stream
        self._changed = threading.Condition()
        self._came = bytearray()
        self._over = self._closed = False
        self._error: ConnectionLostError | None = None
        binding = libvirt()
        events = binding.VIR_STREAM_EVENT_READABLE | binding.VIR_STREAM_EVENT_ERROR | binding.VIR_STREAM_EVENT_HANGUP
        vm._call("read the console of", stream.eventAddCallback, events, self._heard, None)

    def _heard(self, stream: Any, events: int, _: object) -> None:
        """In the thread of the event loop: take what is there."""
        over, error = True, None
        try:
            over = self._take(stream, events)
        except ConnectionLostError as lost:
            error = lost
        except VirtuosoError as problem:  # somebody took it away, or the VM went
            _log.debug("the console of the VM %r ended: %s", self._vm.name, problem)
        if over:
            try:
                stream.eventRemoveCallback()
            except libvirt().libvirtError:
                pass  # close() was faster
            with self._changed:
                self._over = True
                if not self._closed:
                    self._error = error
                self._changed.notify_all()

    def _take(self, stream: Any, events: int) -> bool:
        """Whether that was the end."""
        if not events & libvirt().VIR_STREAM_EVENT_READABLE:
            return True
        while isinstance(data := self._vm._call("read the console of", stream.recv, _CHUNK), bytes):
            if not data:
                return True
            with self._changed:
                self._came += data
                self._changed.notify_all()
        return False

    @property
    def ended(self) -> bool:
        return self._over

    def _receive(self, timeout: float | None) -> bytes:
        end = None if timeout is None else time.monotonic() + timeout
        with self._changed:
            while not self._came and not self._over:
                left = _LOOK if end is None else min(_LOOK, end - time.monotonic())
                if left <= 0:
                    return b""
                self._changed.wait(left)
                if not self._came and not self._over and not self._connection.is_alive():
                    self._over, self._error = True, self._lost()
            if self._came:
                data = bytes(self._came)
                self._came.clear()
                return data
            if self._error is not None and not self._closed:
                raise self._error
            return b""

    def _lost(self) -> ConnectionLostError:
        return ConnectionLostError(
            f"The connection to {self._connection.uri} broke; the console of the VM {self._vm.name!r} ended with it.",
            hint=f"{self._connection.lost_hint} Then call connect() again.",
            **self._vm._where,
        )

    def write(self, data: bytes) -> None:
        wait = Wait(_FULL, first=0.01, longest=0.2)
        rest = bytes(data)
        while rest:
            if self._over:
                raise self._ended()
            try:
                sent = self._vm._call("write to the console of", self._stream.send, rest)
            except HypervisorError as error:
                if self._over or not self._is_on():
                    raise self._ended() from error
                raise
            if sent > 0:
                rest = rest[sent:]
            elif not wait.pause():
                raise HypervisorError(
                    f"The guest of {self._vm.name!r} on {self._vm._hypervisor.uri} did not take what was typed on its "
                    f"console for {_FULL:g} s; {len(rest)} bytes are left.",
                    **self._vm._where,
                )

    def _is_on(self) -> bool:
        return bool(self._vm._call("look at", self._vm._domain.isActive))

    def _ended(self) -> InvalidStateError:
        return InvalidStateError(
            f"The console of the VM {self._vm.name!r} on {self._vm._hypervisor.uri} ended.",
            hint="Open it again: vm.console()." if not self._closed else "It was closed before.",
            **self._vm._where,
        )

    def close(self) -> None:
        with self._changed:
            if self._closed:
                return
            self._closed, ended, self._over = True, self._over, True
            self._changed.notify_all()
        refused = libvirt().libvirtError
        try:
            if not ended:
                self._stream.eventRemoveCallback()
        except refused:
            pass  # its end came just now
        try:
            if ended:
                self._stream.finish()
            else:
                self._stream.abort()
        except refused as error:
            _log.debug("the console of the VM %r ended before it was closed: %s", self._vm.name, error)
        if self._connection is not self._vm._hypervisor.connection:
            self._connection.close()
