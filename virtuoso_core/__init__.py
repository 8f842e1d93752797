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
from .errors import *  # noqa: F403
from .events import Event, EventType
from .hypervisor import CredentialRequest, Credentials, Hypervisor
from .spec import (
    Address,
    Feature,
    GiB,
    MiB,
    Network,
    Option,
    SaveResult,
    State,
    VMSpec,
    VMSummary,
    format_memory,
    parse_memory,
)
from .uri import URI
from .vm import VM

__version__ = "0.1.0"

__all__ = [
    "URI",
    "VM",
    "Address",
    "CredentialRequest",
    "Credentials",
    "Event",
    "EventType",
    "Feature",
    "GiB",
    "Hypervisor",
    "MiB",
    "Network",
    "Option",
    "SaveResult",
    "State",
    "VMSpec",
    "VMSummary",
    "connect",
    "format_memory",
    "parse_memory",
]
__all__ += errors.__all__
