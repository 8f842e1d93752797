"""Event: what happened to a VM, as plugins' ``virtuoso_event`` is told."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class EventType(StrEnum):
    """What a program did to a VM through this library."""

    SAVED = "saved"
    STARTED = "started"
    STOPPED = "stopped"
    REBOOTED = "rebooted"
    PAUSED = "paused"
    RESUMED = "resumed"
    DESTROYED = "destroyed"


@dataclass(frozen=True, slots=True)
class Event:
    """Something that this program did to a VM.

    Attributes:
        type: what.
        vm: the VM's name.
        uuid: the VM's UUID.
        uri: its hypervisor, without a password.
    """

    type: EventType
    vm: str
    uuid: str
    uri: str
