"""A hypervisor that exists in this process only: for tests of programs, and the proof that drivers need no libvirt."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import ClassVar, Self

from ..errors import InvalidStateError, VMNotFoundError
from ..facts import VMSummary
from ..hypervisor import Credentials, Hypervisor, default_spec
from ..plugins import hookimpl
from ..spec import BASIC, Feature, Option, SaveResult, State, VMSpec, option_table
from ..uri import URI
from ..vm import VM

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


class MemoryHypervisor(Hypervisor):
    """VMs that are only remembered: ``memory:///NAME`` is one host, empty at first, for the life of the process.

    Example:
        >>> from virtuoso_core import connect
        >>> connect("memory:///doc").new_vm().state
        <State.NEW: 'new'>
    """

    name = "memory"
    schemes = ("memory",)
    features = BASIC - {Feature.ADDRESSES, Feature.SCREENSHOT}
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
        return identity

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        host = self._hypervisor.host
        with host.lock:
            if "name" in changed:
                self._check_name_free(spec.name)
            self._before = self._saved()
            host.specs[self._uuid] = self._before.with_values_of(spec, changed)
            return SaveResult.APPLIED if host.states[self._uuid] is State.STOPPED else SaveResult.NEXT_START

    def _undo_update(self) -> None:
        with self._hypervisor.host.lock:
            self._saved()
            self._hypervisor.host.specs[self._uuid] = self._before

    def _render(self, spec: VMSpec, changed: frozenset[str]) -> str:
        plain = spec.values() | {"networks": [str(network) for network in spec.networks]}
        return json.dumps(plain, indent=2, ensure_ascii=False)

    def _get_state(self) -> State:
        with self._hypervisor.host.lock:
            self._saved()
            return self._hypervisor.host.states[self._uuid]

    def _set_state(self, state: State) -> None:
        with self._hypervisor.host.lock:
            self._saved()
            self._hypervisor.host.states[self._uuid] = state

    def _start(self) -> None:
        self._set_state(State.RUNNING)

    def _power_off(self) -> None:
        self._set_state(State.STOPPED)

    def _undefine(self) -> None:
        with self._hypervisor.host.lock:
            self._saved()
            del self._hypervisor.host.specs[self._uuid], self._hypervisor.host.states[self._uuid]

    def _request_stop(self) -> None:
        if self._get_state() is State.STOPPED:
            raise InvalidStateError(f"The VM {self.name!r} is off.")
        if not self._saved().options.get("stubborn"):
            self._set_state(State.STOPPED)

    def _reboot(self) -> None:
        self._saved()

    def _pause(self) -> None:
        self._set_state(State.PAUSED)

    def _resume(self) -> None:
        self._set_state(State.RUNNING)

    def _delete_image(self, path: str) -> None:
        pass  # there are no files behind the paths
