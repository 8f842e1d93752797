"""VMBase: what all groups of a VM's public calls rest on: its draft, its checks, its name in messages."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from ..backend import VMBackend, name_taken
from ..errors import InvalidStateError, VMNotFoundError
from ..events import Event, EventType
from ..spec import State, VMSpec, check_name

if TYPE_CHECKING:
    from ..hypervisor import Hypervisor

OFF = (State.STOPPED, State.SUSPENDED)
"""The states in which nothing of a VM runs."""


class VMBase(VMBackend):
    """The draft of a VM's configuration and the checks before each call."""

    def __init__(
        self, hypervisor: Hypervisor, *, name: str = "", uuid: str = "", defaults: VMSpec | None = None
    ) -> None:
        """A driver makes a VM either from what it found (name, uuid) or anew, from ``defaults``."""
        super().__init__(hypervisor, name=name, uuid=uuid, new=defaults is not None)
        self._baseline = defaults
        self._draft = defaults
        self._ignored: dict[str, Any] = {}
        self._gone = False
        self._gone_to = ""
        """The URI of the hypervisor that it was moved to."""

    @property
    def hypervisor(self) -> Hypervisor:
        """The connection that this VM belongs to."""
        return self._hypervisor

    @property
    def name(self) -> str:
        """Unique on its hypervisor. Setting another one renames the VM at ``save()``, where the feature "rename" is.

        Raises:
            InvalidValueError: empty, over 200 bytes, with a slash or a control character.
        """
        return self._known_name if self._draft is None else self._draft.name

    @name.setter
    def name(self, value: str) -> None:
        self._edit(name=check_name(value))

    @property
    def uuid(self) -> str:
        """What identifies the VM whatever its name; "" while it is not saved."""
        return self._uuid

    @property
    def _title(self) -> str:
        name = self.name
        return repr(name if len(name) <= 60 else name[:57] + "...")

    @property
    def _where(self) -> dict[str, Any]:
        """For every error about this VM: ``raise InvalidStateError("...", **self._where)``."""
        return {"vm": self._known_name or self.name, "uri": self._hypervisor.uri}

    def _check_name_free(self, name: str) -> None:
        """Raise VMExistsError when another VM has that name, for hypervisors that do not look themselves."""
        for other in self._hypervisor._list_vms():
            if other._known_name == name and other._uuid != self._uuid:
                raise name_taken(name, other)

    def _current(self) -> VMSpec:
        if self._draft is None:
            self._present()
            self._remember(self._read())
        assert self._draft is not None
        return self._draft

    def _remember(self, spec: VMSpec) -> None:
        self._baseline = self._draft = spec

    def _edit(self, **fields: Any) -> None:
        self._draft = replace(self._current(), **fields)

    def _present(self, *, writing: str = "") -> None:
        self._hypervisor._ready(writing=writing)
        if self._gone_to:
            raise VMNotFoundError(
                f"The VM {self._title} was moved to {self._gone_to}.",
                hint="Use what migrate() returned.",
                **self._where,
            )
        if self._gone:
            raise VMNotFoundError(
                f"The VM {self._title} was destroyed.", hint="Make another one: hypervisor.new_vm()", vm=self.name
            )

    def _require_saved(self, problem: str, *, writing: str = "") -> None:
        self._present(writing=writing and f"{writing} the VM {self._title}")
        if self._new:
            raise InvalidStateError(
                f"The VM {self._title} {problem}: it was never saved.", hint="Call vm.save() first."
            )

    def _require_state(self, problem: str, *wanted: State) -> State:
        """The state, which is one of those; ``problem`` is what stands before "is stopped, not running" otherwise."""
        state = self._get_state()
        if state not in wanted:
            raise InvalidStateError(
                f"{problem} is {state}, not {wanted[0]}.",
                hint="Start it first." if state in (*OFF, State.CRASHED) else "",
                **self._where,
            )
        return state

    def _emit(self, type: EventType) -> None:
        from ..plugins import default_registry

        default_registry().notify(Event(type, self._known_name, self._uuid, str(self._hypervisor.uri)))
