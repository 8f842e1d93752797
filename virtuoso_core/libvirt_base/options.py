"""XmlOption: a set() key that stands in the domain XML, and the keys that drivers on libvirt have in common."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ..errors import InvalidOptionError
from ..spec import Option
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
