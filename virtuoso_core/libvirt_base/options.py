"""XmlOption: a set() key that stands in the domain XML, and the keys that drivers on libvirt have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

from ..errors import InvalidOptionError, InvalidValueError
from ..spec import MAX_CPUS as MOST_CPUS
from ..spec import MiB, Option, parse_memory
from ..xml import DomainDocument


def _absent(document: DomainDocument) -> None:
    return None


def _refuse(document: DomainDocument, value: Any) -> None:
    raise NotImplementedError


@dataclass(frozen=True)
class XmlOption(Option):
    """An option with its place in the domain XML.

    Attributes:
        read: its value in a document, or None when it is not set there.
        write: puts a value there; None takes it away. Raises InvalidOptionError when the rest does not allow it.
    """

    read: Callable[[DomainDocument], Any] = field(default=_absent, repr=False, compare=False)
    write: Callable[[DomainDocument, Any], None] = field(default=_refuse, repr=False, compare=False)


def absolute_path(path: str) -> str:
    """For options that name a file on the hypervisor's host. Raises InvalidOptionError."""
    if not os.path.isabs(path):
        raise InvalidOptionError(f"{path!r} is not an absolute path.", hint="It is a path on the hypervisor's host.")
    return path


def _write_headless(document: DomainDocument, value: bool | None) -> None:
    if value:
        for screen in document.graphics:
            screen.remove()
    elif not document.graphics:
        document.add_device("graphics", type="vnc", port="-1", autoport="yes", listen="127.0.0.1")


HEADLESS = XmlOption(
    "headless",
    "bool",
    "No screen to connect to; the serial console stays.",
    read=lambda document: not document.graphics,
    write=_write_headless,
)


def _write_vnc_password(document: DomainDocument, value: str | None) -> None:
    screens = [screen for screen in document.graphics if screen.type == "vnc"]
    if not screens and value is not None:
        raise InvalidOptionError(
            "vnc_password needs a VNC screen, which this VM has not.", hint='set("headless", False)'
        )
    for screen in screens:
        screen.password = value


VNC_PASSWORD = XmlOption(
    "vnc_password",
    "str",
    "What the VNC screen asks for; the protocol knows 8 characters at most.",
    minimum=1,
    maximum=8,
    secret=True,
    example="s3cret",
    read=lambda document: next((screen.password for screen in document.graphics if screen.type == "vnc"), None),
    write=_write_vnc_password,
)

BOOT = XmlOption(
    "boot",
    "list",
    "What to boot from.",
    choices=("hd", "cdrom", "network", "fd"),
    read=lambda document: document.boot or None,
    write=lambda document, value: document.set_boot(value or ()),
)


def _write_serial_log(document: DomainDocument, value: str | None) -> None:
    if value is None:
        document.serial_log = document.serial_log_append = None
        return
    if document.serial_type is None:
        document.serial_type = "pty"
    if document.serial_log is None:
        document.serial_log_append = "off"
    document.serial_log = value


SERIAL_LOG = XmlOption(
    "serial_log",
    "str",
    "A file on the host that gets all that the guest writes to its serial console.",
    minimum=1,
    maximum=4096,
    check=absolute_path,
    example="/var/log/serial.log",
    read=lambda document: document.serial_log,
    write=_write_serial_log,
)


def _write_disk_format(document: DomainDocument, value: str | None) -> None:
    disk = document.main_disk
    if value is not None and disk is None:
        raise InvalidOptionError("disk_format needs a disk, which this VM has not.", hint="Set disk_image too.")
    if disk is not None and value is not None:
        disk.format = value


DISK_FORMAT = XmlOption(
    "disk_format",
    "str",
    "The format of disk_image, where the library cannot look into it (a remote host).",
    choices=("qcow2", "raw", "vmdk", "vdi", "vpc", "qed"),
    read=lambda document: None if document.main_disk is None else document.main_disk.format,
    write=_write_disk_format,
)


def _boot_setting(name: str, doc: str, example: str, check: Callable[[Any], Any] | None = None) -> XmlOption:
    """A text that says how a kernel is started directly."""
    return XmlOption(
        name,
        "str",
        doc,
        minimum=1,
        maximum=4096,
        check=check,
        example=example,
        read=attrgetter(name),
        write=lambda document, value: setattr(document, name, value),
    )


KERNEL = _boot_setting(
    "kernel", "A kernel on the host to boot, instead of what is on the disk.", "/boot/vmlinuz-guest", absolute_path
)
INITRD = _boot_setting("initrd", "The kernel's first file system, on the host.", "/boot/initrd-guest", absolute_path)
CMDLINE = _boot_setting("cmdline", "The kernel's arguments.", "root=/dev/vda1 console=ttyS0")


class MemoryOption(XmlOption):
    """An option that is an amount of memory, in KiB; texts such as "8 GiB" are taken too."""

    def parse(self, value: object) -> int:
        """The amount in KiB, at whole MiB. Raises InvalidOptionError."""
        try:
            found = parse_memory(value)
        except InvalidValueError:
            found = -1
        if found < 0 or found % MiB:
            raise self._bad(value)
        return found

    @property
    def takes(self) -> str:
        """What the option takes, in words."""
        return "an amount of memory at whole MiB: KiB as a number, or a text such as '8 GiB'"


def _check_cpus(count: int) -> int:
    if not 1 <= count <= MOST_CPUS:
        raise InvalidOptionError(f"{count} is no number of CPUs.", hint=f"It is from 1 to {MOST_CPUS}.")
    return count


MAX_CPUS = XmlOption(
    "max_cpus",
    "int",
    "How many CPUs it can be given while it runs, more than cpus.",
    example=16,
    check=_check_cpus,
    read=lambda document: None if document.vcpus_current is None else document.vcpus_maximum,
    write=lambda document, value: document.set_max_cpus(value),
)

MAX_MEMORY = MemoryOption(
    "max_memory",
    "int",
    "How far its memory can grow while it runs.",
    example=16 * 1024 * MiB,
    read=lambda document: document.max_memory,
    write=lambda document, value: document.set_max_memory(value),
)
