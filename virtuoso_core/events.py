"""Event: what happened to a VM, as plugins' ``virtuoso_event`` and ``hypervisor.events()`` tell it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from queue import SimpleQueue
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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


class EventStream:
    """What happens to the VMs of one hypervisor, as ``hypervisor.events()`` gives it: an iterator, plain or async.

    It listens from the moment it is made until ``close()``, or until its ``with`` block ends.
    """

    def __init__(self, hypervisor: Hypervisor, timeout: float | None) -> None:
        self._hypervisor, self._timeout = hypervisor, timeout
        self._queue: SimpleQueue[Event | Exception] = SimpleQueue()
        self._stop = hypervisor._watch(self._queue.put)
