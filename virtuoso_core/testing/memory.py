"""A hypervisor that exists in this process only: for tests of programs, and the proof that drivers need no libvirt."""

from __future__ import annotations

import json
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from types import MappingProxyType
from typing import ClassVar, Self

from ..backend import name_taken
from ..errors import InvalidStateError, VMNotFoundError
from ..events import Event, EventType
from ..facts import Progress, Snapshot, Stats, VMSummary
from ..hypervisor import Credentials, Hypervisor, default_spec
from ..plugins import hookimpl
from ..spec import BASIC, Feature, Option, SaveResult, State, VMSpec, option_table
from ..storage import Storage
from ..unfinished import Undertaking
from ..uri import URI
from ..vm import VM
from .memory_images import MemoryStorage

api_version = 1


@hookimpl
def virtuoso_hypervisors() -> Iterable[type[Hypervisor]]:
    """The plugin's one driver."""
    return [MemoryHypervisor]


class _Host:
    """What all connections to one URI share: the saved VMs and their states."""

    def __init__(self) -> None:
        self.lock = threading.RLock()
        self.specs: dict[str, VMSpec] = {}
        self.states: dict[str, State] = {}
        self.autostarts: set[str] = set()
        self.snapshots: dict[str, dict[str, tuple[Snapshot, VMSpec]]] = {}
        self.images = MemoryStorage()
        self.watchers: list[Callable[[EventType, str, str, str], None]] = []

    def tell(self, type: EventType, name: str, identity: str, detail: str = "") -> None:
        """Let all that watch know what happened to a VM."""
        with self.lock:  # so that all hear it in the same order
            for watcher in self.watchers:
                watcher(type, name, identity, detail)


class MemoryHypervisor(Hypervisor):
    """VMs that are only remembered: ``memory:///NAME`` is one host, empty at first, for the life of the process.

    Example:
        >>> from virtuoso_core import connect
        >>> connect("memory:///doc").new_vm().state
        <State.NEW: 'new'>
    """

    name = "memory"
    schemes = ("memory",)
    features = BASIC - {Feature.ADDRESSES, Feature.SCREENSHOT} | {
        Feature.CREATE_DISK,
        Feature.UPLOAD,
        Feature.DISKS,
        Feature.CDROM,
        Feature.CLOUD_INIT,
        Feature.LIVE,
        Feature.AUTOSTART,
        Feature.STATS,
        Feature.SUSPEND,
        Feature.MIGRATE,
        Feature.EVENTS,
        Feature.SNAPSHOT,
        Feature.CLONE,
    }
    networks: Mapping[str, str] = MappingProxyType(
        {
            "nat": "remembered, joins nothing",
            "bridged": "remembered, joins nothing",
            "host_only": "remembered, joins nothing",
            "internal": "remembered, joins nothing",
        }
    )
    options = option_table(
        Option("headless", "bool", "Remembered, changes nothing."),
        Option("stubborn", "bool", "The guest ignores requests to stop."),
    )
    _hosts: ClassVar[dict[str, _Host]] = {}

    def __init__(self, uri: URI, *, readonly: bool = False) -> None:
        super().__init__(uri, readonly=readonly)
        self.host = self._hosts.setdefault(f"{uri.host}{uri.path}", _Host())

    @classmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Self:
        """Always succeeds; credentials are not asked for."""
        return cls(uri, readonly=readonly)

    def _version(self) -> str:
        return "in memory"

    def _new_vm(self) -> VM:
        return MemoryVM(self, defaults=default_spec())

    def _list_vms(self) -> Iterable[VM]:
        with self.host.lock:
            return [MemoryVM(self, name=spec.name, uuid=identity) for identity, spec in self.host.specs.items()]

    def _summaries(self) -> Iterable[VMSummary]:
        with self.host.lock:
            return [
                VMSummary(spec.name, identity, self.host.states[identity], spec.memory, spec.cpus)
                for identity, spec in self.host.specs.items()
            ]

    def _all_stats(self) -> Iterable[Stats]:
        with self.host.lock:
            return [
                Stats(spec.name, identity, time.time(), spec.cpus, None, spec.memory)
                for identity, spec in self.host.specs.items()
                if self.host.states[identity] in (State.RUNNING, State.PAUSED)
            ]

    def _storage(self) -> Storage:
        return self.host.images

    def _watch(self, tell: Callable[[Event | Exception], None]) -> Callable[[], None]:
        def watcher(type: EventType, name: str, identity: str, detail: str) -> None:
            tell(Event(type, name, identity, str(self.uri), detail))

        with self.host.lock:
            self.host.watchers.append(watcher)

        def end() -> None:
            with self.host.lock:
                self.host.watchers.remove(watcher)

        return end


class MemoryVM(VM):
    """A VM of MemoryHypervisor."""

    _hypervisor: MemoryHypervisor

    def _read(self) -> VMSpec:
        return self._saved()

    def _saved(self) -> VMSpec:
        found = self._hypervisor.host.specs.get(self._uuid)
        if found is None:
            raise VMNotFoundError(
                f"The VM {self.name!r} is gone from {self._hypervisor.uri}.", vm=self.name, uri=self._hypervisor.uri
            )
        return found

    def _create(self, spec: VMSpec) -> str:
        host = self._hypervisor.host
        with host.lock:
            self._check_name_free(spec.name)
            identity = str(uuid.uuid4())
            host.specs[identity], host.states[identity] = spec, State.STOPPED
            host.tell(EventType.SAVED, spec.name, identity, "new")
        return identity

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        host = self._hypervisor.host
        with host.lock:
            if "name" in changed:
                self._check_name_free(spec.name)
            self._before = self._saved()
            host.specs[self._uuid] = self._before.with_values_of(spec, changed)
            self._tell(EventType.SAVED, "changed")
            state = host.states[self._uuid]
            live = state in (State.RUNNING, State.PAUSED) and changed <= {"memory", "cpus", "more_disks", "cdrom"}
            return SaveResult.APPLIED if state is State.STOPPED or live else SaveResult.NEXT_START

    def _undo_update(self) -> None:
        with self._hypervisor.host.lock:
            self._saved()
            self._hypervisor.host.specs[self._uuid] = self._before
            self._tell(EventType.SAVED, "changed")

    def _render(self, spec: VMSpec, changed: frozenset[str]) -> str:
        plain = spec.values() | {"networks": [str(network) for network in spec.networks]}
        return json.dumps(plain, indent=2, ensure_ascii=False)

    def _get_state(self) -> State:
        with self._hypervisor.host.lock:
            self._saved()
            return self._hypervisor.host.states[self._uuid]

    def _set_state(self, state: State, event: EventType, detail: str = "") -> None:
        states = self._hypervisor.host.states
        with self._hypervisor.host.lock:
            self._saved()
            if states[self._uuid] is not state:
                states[self._uuid] = state
                self._tell(event, detail)

    def _tell(self, event: EventType, detail: str = "") -> None:
        self._hypervisor.host.tell(event, self._saved().name, self._uuid, detail)

    def _start(self) -> None:
        self._set_state(State.RUNNING, EventType.STARTED, "booted")

    def _power_off(self) -> None:
        self._set_state(State.STOPPED, EventType.STOPPED, "its plug was pulled")

    def _undefine(self) -> None:
        with self._hypervisor.host.lock:
            self._tell(EventType.DESTROYED)
            self._forget()

    def _forget(self) -> None:
        host = self._hypervisor.host
        del host.specs[self._uuid], host.states[self._uuid]
        host.autostarts.discard(self._uuid)
        host.snapshots.pop(self._uuid, None)

    def _request_stop(self) -> None:
        if self._get_state() is State.STOPPED:
            raise InvalidStateError(f"The VM {self.name!r} is off.")
        if not self._saved().options.get("stubborn"):
            self._set_state(State.STOPPED, EventType.STOPPED, "shut down")

    def _reboot(self) -> None:
        self._tell(EventType.REBOOTED)

    def _pause(self) -> None:
        self._set_state(State.PAUSED, EventType.PAUSED)

    def _resume(self) -> None:
        self._set_state(State.RUNNING, EventType.RESUMED)

    def _get_autostart(self) -> bool:
        self._saved()
        return self._uuid in self._hypervisor.host.autostarts

    def _set_autostart(self, on: bool) -> None:
        self._saved()
        autostarts = self._hypervisor.host.autostarts
        (autostarts.add if on else autostarts.discard)(self._uuid)

    @property
    def _kept(self) -> dict[str, tuple[Snapshot, VMSpec]]:
        """Its snapshots, each with the configuration; of what is on disks they remember nothing."""
        return self._hypervisor.host.snapshots.setdefault(self._uuid, {})

    def _snapshots(self) -> Iterable[Snapshot]:
        with self._hypervisor.host.lock:
            self._saved()
            return [snapshot for snapshot, _ in self._kept.values()]

    def _take_snapshot(self, name: str, description: str) -> None:
        with self._hypervisor.host.lock:
            state = self._get_state()
            parent = next((each.name for each in self._snapshots() if each.current), None)
            made = Snapshot(name, datetime.now(UTC), state, parent=parent, description=description)
            self._kept[name] = (made, self._saved())
            self._make_current(name)

    def _make_current(self, name: str | None) -> None:
        for key, (snapshot, spec) in self._kept.items():
            self._kept[key] = (replace(snapshot, current=key == name), spec)

    def _revert(self, name: str) -> None:
        host = self._hypervisor.host
        with host.lock:
            snapshot, spec = self._kept[name]
            host.specs[self._uuid] = replace(spec, name=self._saved().name)
            events = {State.RUNNING: EventType.STARTED, State.PAUSED: EventType.PAUSED}
            self._set_state(snapshot.state, events.get(snapshot.state, EventType.STOPPED), "back at a snapshot")
            self._make_current(name)

    def _delete_snapshot(self, name: str) -> None:
        with self._hypervisor.host.lock:
            gone, _ = self._kept.pop(name)
            for key, (snapshot, spec) in self._kept.items():
                if snapshot.parent == name:
                    self._kept[key] = (replace(snapshot, parent=gone.parent), spec)
            if gone.current:
                self._make_current(gone.parent)

    def _clone(self, spec: VMSpec, step: Undertaking) -> str:
        return self._create(spec)

    def _suspend(self) -> None:
        self._set_state(State.SUSPENDED, EventType.SUSPENDED)

    def _migrate(self, target: Hypervisor, copy_disks: bool, progress: Progress | None) -> None:
        assert isinstance(target, MemoryHypervisor)
        here, there = self._hypervisor.host, target.host
        with here.lock:
            spec = self._saved()
            if there is here:
                raise InvalidStateError(
                    f"The VM {self.name!r} cannot move to {target.uri}: that is the host it is on.", **self._where
                )
            for other in target._list_vms():
                if other.name == spec.name:
                    raise name_taken(spec.name, other)
            there.specs[self._uuid], there.states[self._uuid] = spec, here.states[self._uuid]
            if self._uuid in here.autostarts:
                there.autostarts.add(self._uuid)
            self._tell(EventType.MIGRATED)
            self._forget()
        if progress is not None:
            progress(spec.memory * 1024, spec.memory * 1024)

    def _delete_image(self, path: str) -> None:
        self._hypervisor._storage().delete(path)  # it may never have been made
