"""HVM, PV and PVH in a domain document: which one it is, how one becomes another, and what libxl refuses late.

libvirt takes nearly any definition for Xen. What libxl cannot do with it fails at the start, mostly without a reason
given: so it is looked for before.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from string import ascii_lowercase

from virtuoso_core.errors import InvalidValueError
from virtuoso_core.xml import DomainDocument

PYGRUB = "pygrub"
"""Xen's program that reads a PV guest's GRUB, and with it the kernel, from its disk."""
_TYPES = {"hvm": ("hvm", "xenfv"), "pv": ("linux", "xenpv"), "pvh": ("xenpvh", "xenpvh")}
_IMPLIED = ("emulator", "controller", "input", "video", "serial", "console")
"""Devices that follow from the kind of VM: libvirt fills in those of the new kind, and refuses those of the old one."""
_REFUSED = {
    "channel/target[@type='virtio']": "a virtio channel, as for QEMU's guest agent",
    "video/model[@type='virtio']": "a virtio screen",
}

Problems = Iterator[tuple[str, str]]
"""What is wrong, after "The VM 'a' ", and what to do about it."""


def virtualization(document: DomainDocument) -> str | None:
    """One of "hvm", "pv" and "pvh"."""
    if "xenpvh" in (document.os_type, document.machine):
        return "pvh"
    return "pv" if document.os_type in ("linux", "xen") else document.os_type


def write_virtualization(document: DomainDocument, value: str | None) -> None:
    """Make it another kind of VM, with all that depends on it."""
    wanted, old = value or "hvm", virtualization(document)
    if wanted == old:
        return
    document.os_type, document.machine = _TYPES[wanted]
    write_bootloader(document, None)
    if "hvm" not in (wanted, old):
        return
    for tag in _IMPLIED:
        for element in document.root.findall(f"devices/{tag}"):
            document.remove(element)
    document.add_device("console", type="pty")
    if wanted == "hvm":
        document.add_device("input", type="tablet", bus="usb")
        document.add(document.add_device("video"), "model", type="vga")
        document.ensure(document.root, ("features", "acpi"))
        document.set_boot(("hd",))
    else:
        document.loader = None
        document.set_boot(())
        _name_disks(document)


def _name_disks(document: DomainDocument) -> None:
    """Name the disks as PV guests know them, each by the first letter that is free."""
    taken = {disk.target for disk in document.disks}
    free = (name for letter in ascii_lowercase if (name := f"xvd{letter}") not in taken)
    for disk in document.disks:
        if disk.device == "disk" and not (disk.target or "").startswith("xvd"):
            disk.target, disk.bus = next(free), "xen"
            for address in disk.element.findall("address"):
                document.remove(address)


def write_kernel(document: DomainDocument, value: str | None) -> None:
    """A kernel instead of what finds one on the disk, or the other way round."""
    document.kernel = value
    if virtualization(document) == "pv":
        write_bootloader(document, None)


def write_bootloader(document: DomainDocument, value: str | None) -> None:
    """What finds a kernel on the disk; without one, what this kind of VM needs."""
    if value is None and virtualization(document) == "pv" and document.kernel is None:
        value = PYGRUB
    if value is not None and document.bootloader is None:
        os_element = document.find(document.root, ("os",))
        before = None if os_element is None else os_element.getprevious()  # where libvirt's schema wants it
        document.add(document.root, "bootloader", after=before)
    document.bootloader = value


def check(document: DomainDocument, problems: Problems) -> None:
    """Raise InvalidValueError for the first problem."""
    for what, advice in problems:
        raise InvalidValueError(f"The VM {document.name!r} {what}.", hint=advice, vm=document.name)


def device_problems(document: DomainDocument) -> Problems:
    """Devices that libxl refuses."""
    paravirtual = virtualization(document) != "hvm"
    for path, device in _REFUSED.items():
        if document.root.find(f"devices/{path}") is not None:
            yield f"has {device}, which Xen has not", "Take it out with virsh edit."
    slots = set()
    for disk in document.disks:
        parts = re.fullmatch(r"(xvd|hd|sd)([a-z]+\d*)", disk.target or "")
        slot = (parts[1] == "sd", parts[2]) if parts else None  # until its guest has drivers for Xen, xvda is hda too
        if slot is None or slot in slots:
            problem = "Xen does not know" if slot is None else "another disk has already"
            yield (
                f"has a disk at {disk.target!r}, which {problem}",
                "Name another, such as xvdb, with virsh edit.",
            )
        slots.add(slot)
        if paravirtual and disk.device != "disk":
            yield f"has a {disk.device} drive, which only HVM VMs can have", "Take it out with virsh edit."
    for card in document.interfaces:
        again = f'vm.remove_network("{card.mac_address}"), then vm.network() again'
        if card.type in ("user", "direct"):
            yield f"has a network card of libvirt's type {card.type!r}, which Xen has not", f"{again}."
        if paravirtual and card.model not in (None, "netfront"):
            yield (
                f"has a network card of the model {card.model!r}; PV and PVH VMs have netfront only",
                f"{again}, without a model.",
            )


def option_problems(document: DomainDocument) -> Problems:
    """Options that do not go together."""
    if document.kernel is not None and document.bootloader is not None:
        yield "has both a kernel and a bootloader, which would find another one", 'vm.set("bootloader", None)'
    if virtualization(document) != "hvm":
        if document.boot:
            yield "is PV or PVH, where 'boot' means nothing", 'vm.set("boot", None)'
        if any(screen.password for screen in document.graphics):
            yield "is PV or PVH, where Xen takes no VNC password", 'vm.set("vnc_password", None)'


def boot_problems(document: DomainDocument) -> Problems:
    """Nothing to boot."""
    if virtualization(document) != "hvm" and document.kernel is None:
        if document.bootloader is None:
            advice = 'Name one on the host: vm.set("kernel", PATH); to boot its disk: vm.set("virtualization", "hvm")'
            yield "is PV or PVH and has no kernel to boot", advice
        elif document.main_disk is None:
            advice = 'vm.disk_image = PATH, or vm.set("kernel", PATH)'
            yield f"has neither a kernel nor a disk where {document.bootloader} could find one", advice
