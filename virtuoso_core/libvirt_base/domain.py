"""LibvirtDomain: what all acts on a VM behind libvirt rest on: its domain, and the one way to call libvirt about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..spec import State
from ..vm import VM
from ..xml import DomainDocument
from .binding import libvirt

if TYPE_CHECKING:
    from .hypervisor import LibvirtHypervisor

_STATES = {
    "BLOCKED": State.RUNNING,
    "CRASHED": State.CRASHED,
    "PAUSED": State.PAUSED,
    "PMSUSPENDED": State.PAUSED,
    "RUNNING": State.RUNNING,
    "SHUTDOWN": State.RUNNING,
    "SHUTOFF": State.STOPPED,
}


def state_of(number: int) -> State:
    """Our state for a VIR_DOMAIN_* number; a VM that is off may yet have its memory saved."""
    binding = libvirt()
    return next(
        (ours for name, ours in _STATES.items() if getattr(binding, f"VIR_DOMAIN_{name}") == number), State.UNKNOWN
    )


class LibvirtDomain(VM):
    """A VM and its domain."""

    _hypervisor: LibvirtHypervisor

    def __init__(self, hypervisor: LibvirtHypervisor, *, domain: Any = None, **known: Any) -> None:
        super().__init__(hypervisor, **known)
        self._domain = domain
        self._document: DomainDocument | None = None
        self._before: DomainDocument | None = None

    def _call(self, doing: str, function: Callable[..., Any], *args: Any) -> Any:
        name = self._known_name or self.name
        return self._hypervisor.connection.call(f"{doing} the VM {name!r}", function, *args, vm=name)

    def _native(self) -> Any:
        return self._domain
