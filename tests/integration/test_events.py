"""Events of a real libvirtd: what others do, a guest's own doing, a daemon that dies or freezes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from tests.integration.conftest import NewVM, until
from tests.labs.hosts import PrivateHost
from virtuoso_core import Event, Hypervisor, connect
from virtuoso_core.errors import ConnectionLostError, ReadOnlyError
from virtuoso_core.events import EventStream, EventType


@pytest.fixture
def mortal(lab: None) -> Iterator[PrivateHost]:
    """A host whose daemon is not to be relied on."""
    with PrivateHost("watched") as host:
        yield host


def types(events: EventStream, vm: str, last: EventType) -> list[str]:
    """What is told of a VM, up to the last that is waited for."""
    found: list[str] = []
    for event in events:
        if event.vm == vm:
            found.append(str(event.type))
        if event.type is last:
            return found
    pytest.fail(f"no {last}: {found}")


def test_what_others_do(host: PrivateHost, hypervisor: Hypervisor, new_vm: NewVM) -> None:
    """virsh on the host; a connection that may only read hears it too."""
    vm = new_vm()
    virsh = ("virsh", "-c", "qemu:///system")
    with connect(host.uri, readonly=True) as reader, reader.events(timeout=20) as events:
        with pytest.raises(ReadOnlyError):
            reader.new_vm().save()
        vm.save()
        for words in (["start"], ["suspend"], ["resume"], ["destroy"], ["undefine"]):
            assert host.run([*virsh, *words, vm.name]).returncode == 0
        told = types(events, vm.name, EventType.DESTROYED)
    assert told == ["saved", "started", "paused", "resumed", "stopped", "destroyed"]


def test_a_running_vm_that_somebody_lets_go(hypervisor: Hypervisor, new_vm: NewVM) -> None:
    """Paused before anybody listened: its going on is told."""
    vm = new_vm()
    vm.save()
    vm.start()
    vm.pause()
    with hypervisor.events(timeout=20) as events:
        vm.resume()
        assert next(events).type is EventType.RESUMED
        vm.stop(timeout=0)
        stopped = next(events)
        assert (stopped.type, stopped.detail) == (EventType.STOPPED, "its plug was pulled")
        vm.start()
        assert next(events).type is EventType.STARTED


def test_suspended_and_back(hypervisor: Hypervisor, new_vm: NewVM) -> None:
    vm = new_vm()
    vm.save()
    vm.start()
    with hypervisor.events(timeout=20) as events:
        vm.native.managedSave(0)
        assert types(events, vm.name, EventType.SUSPENDED)[-1] == "suspended"
        vm.start()
        assert next(events).detail == "from its suspended memory"


def test_local_connections_stay_without_the_event_loop(host: PrivateHost) -> None:
    """The connection that calls are made on is not the one that listens, which goes with the last stream."""
    with connect(host.uri) as hypervisor:
        source = hypervisor._events  # type: ignore[attr-defined]
        with hypervisor.events(), hypervisor.events():
            assert source._connection is not hypervisor.connection  # type: ignore[attr-defined]
            listening = source._connection.native
        assert source._connection is None
        del listening


def test_async(hypervisor: Hypervisor, new_vm: NewVM) -> None:
    """Made, started and removed in another thread."""

    def work() -> None:
        vm = new_vm(name="told-async")
        vm.save()
        vm.start()
        vm.destroy(force=True)

    async def watch() -> list[str]:
        with hypervisor.events(timeout=30) as events:
            working = asyncio.create_task(asyncio.to_thread(work))
            found = []
            async for event in events:
                if event.vm == "told-async":
                    found.append(str(event.type))
                if event.type is EventType.DESTROYED:
                    break
            await working
        return found

    assert asyncio.run(watch()) == ["saved", "started", "stopped", "destroyed"]


def test_daemon_killed(mortal: PrivateHost) -> None:
    """The iteration says so; a new connection has events again, and the old one can be closed."""
    hypervisor = connect(mortal.uri)
    events = hypervisor.events(timeout=60)
    killer = threading.Timer(0.5, mortal.kill_libvirtd)
    killer.start()
    try:
        with pytest.raises(ConnectionLostError, match=r"broke while its events were watched") as caught:
            next(events)
        assert "connect() and events() again" in caught.value.hint
        assert caught.value.uri == str(hypervisor.uri)
    finally:
        killer.join()
        mortal.start_libvirtd()
    with hypervisor.events(timeout=5) as late, pytest.raises(ConnectionLostError):
        next(late)  # beside the first one, which is not closed yet
    events.close()
    with pytest.raises(ConnectionLostError):
        hypervisor.events()  # the daemon is there again, and nothing reconnects by itself
    hypervisor.close()
    with connect(mortal.uri) as again, again.events(timeout=20) as events:
        vm = again.new_vm()
        vm.name = "after"
        vm.save()
        assert next(events).vm == "after"


@pytest.mark.parametrize("end", ["hypervisor", "stream"])
def test_closing_in_another_thread(end: str, host: PrivateHost) -> None:
    hypervisor = connect(host.uri)
    events = hypervisor.events()
    told: list[list[Event]] = []
    watcher = threading.Thread(target=lambda: told.append(list(events)), daemon=True)
    watcher.start()
    (hypervisor if end == "hypervisor" else events).close()
    until(lambda: not watcher.is_alive(), "end of the iteration", 10)
    assert told == [[]]
    hypervisor.close()
