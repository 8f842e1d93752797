"""Virtuoso: the same few calls for virtual machines on every hypervisor.

Importing this loads no plugin, no libvirt and no lxml::

    from virtuoso_core import connect

    with connect("qemu:///session") as hypervisor:
        vm = hypervisor.new_vm()
        vm.name, vm.memory, vm.disk_image = "web", "2 GiB", "/images/web.qcow2"
        vm.network("nat")
        vm.save()
        vm.start()
"""

from . import errors
from .connect import connect
from .console import Console
from .errors import *  # noqa: F403
from .events import Event, EventStream, EventType
from .facts import (
    Address,
    AddressReport,
    DiskInfo,
    Display,
    Progress,
    RunResult,
    Screenshot,
    Snapshot,
    Stats,
    VMSummary,
)
from .hypervisor import CredentialRequest, Credentials, Hypervisor
from .spec import Feature, GiB, MiB, Network, Option, SaveResult, State, VMSpec, format_memory, parse_memory
from .uri import URI
from .vm import VM

__version__ = "0.1.0"

__all__ = [
    "URI",
    "VM",
    "Address",
    "AddressReport",
    "Console",
    "CredentialRequest",
    "Credentials",
    "DiskInfo",
    "Display",
    "Event",
    "EventStream",
    "EventType",
    "Feature",
    "GiB",
    "Hypervisor",
    "MiB",
    "Network",
    "Option",
    "Progress",
    "RunResult",
    "SaveResult",
    "Screenshot",
    "Snapshot",
    "State",
    "Stats",
    "VMSpec",
    "VMSummary",
    "connect",
    "format_memory",
    "parse_memory",
]
__all__ += errors.__all__
