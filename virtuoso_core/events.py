"""Event: what happened to a VM, as plugins' ``virtuoso_event`` and ``hypervisor.events()`` tell it."""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum, StrEnum
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Self

from .errors import InvalidValueError

if TYPE_CHECKING:
    import asyncio

    from .hypervisor import Hypervisor


class EventType(StrEnum):
    """What happened to a VM."""

    SAVED = "saved"
    STARTED = "started"
    STOPPED = "stopped"
    REBOOTED = "rebooted"
    PAUSED = "paused"
    RESUMED = "resumed"
    SUSPENDED = "suspended"
    CRASHED = "crashed"
    MIGRATED = "migrated"
    SNAPSHOT_TAKEN = "snapshot-taken"
    REVERTED = "reverted"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened to a VM: plugins are told what this program did, ``hypervisor.events()`` all.

    Attributes:
        type: what.
        vm: the VM's name.
        uuid: the VM's UUID.
        uri: its hypervisor, without a password.
        detail: more, in the hypervisor's words, such as why it stopped; "" where nothing is told.
    """

    type: EventType
    vm: str
    uuid: str
    uri: str
    detail: str = ""


class _Nothing(Enum):
    """What a stream's queue holds besides events and the error that ended them."""

    MORE = "nothing more comes"
    YET = "nothing came yet"


_Item = Event | Exception | _Nothing


class _Inbox:
    """What drivers tell, in any thread, until the stream takes it. It does not know the stream, which may go first."""

    def __init__(self) -> None:
        self.queue: SimpleQueue[_Item] = SimpleQueue()
        self.wake: Callable[[], object] | None = None
        """Lets the coroutine that waits look again."""

    def put(self, item: _Item) -> None:
        self.queue.put(item)
        wake = self.wake
        if wake is not None:
            try:
                wake()
            except RuntimeError:
                pass  # the loop of that coroutine was closed: nobody waits there


class EventStream:
    """What happens to the VMs of one hypervisor, as ``hypervisor.events()`` gives it: an iterator, plain or async.

    It listens from the moment it is made until ``close()``, the end of its ``with`` block, or the hypervisor's
    ``close()``; each of these, from any thread, ends the iteration. Events wait in memory until they are taken, any
    number of them. Where the timeout ended the iteration, iterating again goes on.

    Example:
        >>> from virtuoso_core import connect
        >>> with connect("memory:///stream") as hypervisor:
        ...     events = hypervisor.events(timeout=0)
        ...     vm = hypervisor.new_vm()
        ...     vm.name = "web"
        ...     _ = vm.save()
        ...     vm.start()
        ...     [str(event.type) for event in events]
        ['saved', 'started']
    """

    def __init__(self, hypervisor: Hypervisor, timeout: float | None) -> None:
        if timeout is not None and (
            not isinstance(timeout, (int, float)) or isinstance(timeout, bool) or not 0 <= timeout < float("inf")
        ):
            raise InvalidValueError(
                f"{timeout!r} is not a time to wait for events.",
                hint="It is a number of seconds, 0 or more; None waits for ever.",
            )
        self._timeout = timeout
        self._hypervisor = hypervisor
        self._inbox = _Inbox()
        self._waiting: tuple[asyncio.AbstractEventLoop, asyncio.Event] | None = None
        # listens until closed, or until nobody has the stream any more; at exit there is nothing to end
        self._listening = weakref.finalize(self, hypervisor._watch(self._inbox.put))
        self._listening.atexit = False

    def close(self) -> None:
        """Stop listening: the iteration ends, and events that were not taken are dropped. Twice does nothing."""
        self._listening()
        self._inbox.put(_Nothing.MORE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        item = self._taken()
        if item is _Nothing.YET and self._timeout != 0:
            try:
                item = self._kept(self._inbox.queue.get(timeout=self._timeout))
            except Empty:
                pass
        return self._opened(item, StopIteration)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        import asyncio

        loop = asyncio.get_running_loop()
        if self._waiting is None or self._waiting[0] is not loop:
            self._waiting = loop, asyncio.Event()
        arrived = self._waiting[1]
        self._inbox.wake = lambda: loop.call_soon_threadsafe(arrived.set)
        end = None if self._timeout is None else time.monotonic() + self._timeout
        arrived.clear()
        while (item := self._taken()) is _Nothing.YET:
            try:
                async with asyncio.timeout(None if end is None else end - time.monotonic()):
                    await arrived.wait()
            except TimeoutError:
                break
            arrived.clear()
        return self._opened(item, StopAsyncIteration)

    def __repr__(self) -> str:
        return f"<EventStream of {self._hypervisor.uri}{'' if self._listening.alive else ' closed'}>"

    def _taken(self) -> _Item:
        """What waits, without waiting."""
        if not self._listening.alive:
            return _Nothing.MORE
        try:
            return self._kept(self._inbox.queue.get_nowait())
        except Empty:
            return _Nothing.YET

    def _kept(self, item: _Item) -> _Item:
        """The item; what ended the events stays there for the next one that asks, in this thread or another."""
        if not isinstance(item, Event):
            self._inbox.put(item)
        return item

    def _opened(self, item: _Item, end: type[Exception]) -> Event:
        """The event, or the end: by the class given, or by the error that was told."""
        if not self._listening.alive:
            raise end
        if isinstance(item, Event):
            return item
        if isinstance(item, Exception):
            raise item
        raise end
