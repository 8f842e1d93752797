"""The stream of events: plain and async, its ends, and what libvirt's events mean; on memory and libvirt's mock."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest

from virtuoso_core import Event, Hypervisor, connect
from virtuoso_core.errors import ConnectionClosedError, ConnectionLostError, InvalidValueError
from virtuoso_core.events import EventStream, EventType
from virtuoso_core.libvirt_base import events as libvirt_events
from virtuoso_core.testing.memory import MemoryHypervisor


def make(hypervisor: Hypervisor, name: str = "web") -> Any:
    """A saved VM."""
    vm = hypervisor.new_vm()
    vm.name = name
    vm.save()
    return vm


def in_thread(act: Callable[[], object], after: float = 0.2) -> threading.Thread:
    """Act a little later."""
    timer = threading.Timer(after, act)
    timer.daemon = True
    timer.start()
    return timer


def test_a_life(hypervisor: MemoryHypervisor) -> None:
    with hypervisor.events(timeout=0) as events:
        vm = make(hypervisor)
        vm.memory = "2 GiB"
        vm.save()
        vm.start()
        vm.start()
        vm.pause()
        vm.resume()
        vm.reboot()
        vm.stop()
        vm.destroy()
        told = list(events)
    assert " ".join(event.type for event in told) == ("saved saved started paused resumed rebooted stopped destroyed")
    assert {(event.vm, event.uuid, event.uri) for event in told} == {("web", vm.uuid, str(hypervisor.uri))}
    assert told[-2].detail == "shut down"


def test_another_connections_doing_is_told(hypervisor: MemoryHypervisor) -> None:
    with hypervisor.events(timeout=5) as events, connect(str(hypervisor.uri)) as other:
        make(other)
        assert next(events).type is EventType.SAVED


def test_only_from_now_on(hypervisor: MemoryHypervisor) -> None:
    make(hypervisor, "before")
    with hypervisor.events(timeout=0) as events:
        make(hypervisor, "after")
        assert [event.vm for event in events] == ["after"]


def test_the_timeout_is_of_silence_and_may_be_waited_for_again(hypervisor: MemoryHypervisor) -> None:
    with hypervisor.events(timeout=0.3) as events:
        begin = time.monotonic()
        assert list(events) == []
        assert 0.2 < time.monotonic() - begin < 3
        make(hypervisor)
        assert [event.type for event in events] == [EventType.SAVED]


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), True, "1"])
def test_no_timeout(timeout: Any, hypervisor: MemoryHypervisor) -> None:
    with pytest.raises(InvalidValueError, match="not a time to wait"):
        hypervisor.events(timeout)
    assert hypervisor.host.watchers == []


def test_an_event_wakes_who_waits(hypervisor: MemoryHypervisor) -> None:
    with hypervisor.events() as events:
        thread = in_thread(lambda: make(hypervisor))
        assert next(events).vm == "web"
        thread.join()


@pytest.mark.parametrize("what", ["stream", "hypervisor"])
def test_closing_ends_the_iteration_of_every_thread(what: str, hypervisor: MemoryHypervisor) -> None:
    events = hypervisor.events()
    ended: list[list[Event]] = []
    threads = [threading.Thread(target=lambda: ended.append(list(events)), daemon=True) for _ in range(3)]
    for thread in threads:
        thread.start()
    in_thread(events.close if what == "stream" else hypervisor.close)
    for thread in threads:
        thread.join(10)
    assert ended == [[], [], []]
    assert list(events) == []
    assert hypervisor.host.watchers == []
    assert "closed" in repr(events)
    events.close()


def test_a_closed_stream_drops_what_was_not_taken(hypervisor: MemoryHypervisor) -> None:
    events = hypervisor.events(timeout=0)
    make(hypervisor)
    events.close()
    assert list(events) == []


def test_a_closed_hypervisor_has_no_events(hypervisor: MemoryHypervisor) -> None:
    hypervisor.close()
    with pytest.raises(ConnectionClosedError):
        hypervisor.events()


def test_a_stream_that_nobody_has_any_more_listens_no_more(hypervisor: MemoryHypervisor) -> None:
    make(hypervisor)
    for _ in hypervisor.events(timeout=0):
        pass
    gc.collect()
    assert hypervisor.host.watchers == []


class Losing(MemoryHypervisor):
    """A hypervisor that tells of one event, and then that it is lost."""

    def _watch(self, tell: Callable[[Event | Exception], None]) -> Callable[[], None]:
        tell(Event(EventType.STARTED, "web", "1", str(self.uri)))
        tell(ConnectionLostError("It is gone."))
        return lambda: None


def test_a_lost_connection_is_raised_after_what_came_before_it_and_again(hypervisor: MemoryHypervisor) -> None:
    events = EventStream(Losing(hypervisor.uri), None)
    assert next(events).type is EventType.STARTED
    for _ in range(2):
        with pytest.raises(ConnectionLostError):
            next(events)
    events.close()
    assert list(events) == []


# Async.


def test_async(hypervisor: MemoryHypervisor) -> None:
    """Other coroutines run meanwhile; events come from other threads; silence ends it."""

    async def watch() -> tuple[list[str], int]:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0.01)

        ticking = asyncio.create_task(tick())
        in_thread(lambda: make(hypervisor).start())
        with hypervisor.events(timeout=0.6) as events:
            told = [str(event.type) async for event in events]
        ticking.cancel()
        return told, ticks

    told, ticks = asyncio.run(watch())
    assert told == ["saved", "started"]
    assert ticks > 10


def test_async_many_events(hypervisor: MemoryHypervisor) -> None:
    """None is lost between two looks, and two loops in turn may have one stream."""
    events = hypervisor.events(timeout=5)

    async def watch(number: int) -> list[str]:
        found = []
        async for event in events:
            found.append(event.vm)
            if len(found) == number:
                break
        return found

    names = [f"vm-{number}" for number in range(300)]
    threads = [threading.Thread(target=lambda: [make(hypervisor, name) for name in names])]
    for thread in threads:
        thread.start()
    assert asyncio.run(watch(100)) + asyncio.run(watch(200)) == names
    threads[0].join()
    make(hypervisor, "late")  # the loops are closed, and nobody is woken
    assert next(events).vm == "late"
    events.close()


def test_async_cancelled(hypervisor: MemoryHypervisor) -> None:
    async def watch() -> None:
        with hypervisor.events() as events:
            task = asyncio.ensure_future(anext(events))
            await asyncio.sleep(0.05)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            make(hypervisor)
            assert (await anext(events)).vm == "web"

    asyncio.run(watch())
    assert hypervisor.host.watchers == []


@pytest.mark.parametrize("what", ["stream", "hypervisor"])
def test_async_closed(what: str, hypervisor: MemoryHypervisor) -> None:
    async def watch() -> list[Event]:
        events = hypervisor.events()
        in_thread(events.close if what == "stream" else hypervisor.close)
        return [event async for event in events]

    assert asyncio.run(watch()) == []


def test_async_lost(hypervisor: MemoryHypervisor) -> None:
    async def watch(events: AsyncIterator[Event]) -> None:
        assert (await anext(events)).vm == "web"
        with pytest.raises(ConnectionLostError):
            await anext(events)

    asyncio.run(watch(EventStream(Losing(hypervisor.uri), None)))


# libvirt's.


@pytest.fixture
def mock() -> Iterator[Any]:
    """libvirt's mock."""
    pytest.importorskip("libvirt")
    with connect("test:///default") as opened:
        yield opened


def test_every_meaning_is_one_of_libvirts(mock: Hypervisor) -> None:
    """Each name that is mapped exists, so that none is mapped in vain."""
    from virtuoso_core.libvirt_base.binding import libvirt

    binding = libvirt()
    for (name, why), found in libvirt_events._MEANINGS.items():
        number = getattr(binding, f"VIR_DOMAIN_EVENT_{name}")
        assert libvirt_events.meaning(number, getattr(binding, f"VIR_DOMAIN_EVENT_{name}_{why}")) == found
    assert libvirt_events.meaning(binding.VIR_DOMAIN_EVENT_SHUTDOWN, 0) is None
    removed = binding.VIR_DOMAIN_EVENT_UNDEFINED
    assert libvirt_events.meaning(removed, binding.VIR_DOMAIN_EVENT_UNDEFINED_RENAMED) is None
    assert libvirt_events.meaning(999, 0) is None


def test_a_rename_is_no_removal(mock: Hypervisor) -> None:
    vm = make(mock, "virtuoso-events-old")
    with mock.events(timeout=0.5) as events:
        vm.name = "virtuoso-events-new"
        vm.save()
        told = [(event.type, event.vm) for event in events if event.uuid == vm.uuid]
    vm.destroy()
    assert EventType.DESTROYED not in dict(told)
    assert (EventType.SAVED, "virtuoso-events-new") in told


def test_listening_begins_and_ends_with_the_streams(mock: Any) -> None:
    source = mock._events
    first, second = mock.events(), mock.events()
    assert source._connection is mock.connection
    first.close()
    assert len(source._callbacks) == 2
    second.close()
    assert (source._connection, source._callbacks, source._listeners) == (None, [], ())


def test_the_end_of_the_connection_is_told(mock: Any) -> None:
    """As libvirt's callback would say it; the integration tests kill a real daemon."""
    from virtuoso_core.libvirt_base.binding import libvirt

    events = mock.events(timeout=5)
    mock._events._lost(None, libvirt().VIR_CONNECT_CLOSE_REASON_KEEPALIVE, None)
    with pytest.raises(ConnectionLostError, match="no sign of life") as caught:
        next(events)
    assert "connect() and events() again" in caught.value.hint
