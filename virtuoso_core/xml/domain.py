"""libvirt's domain document: typed views of the domain, its disks, network cards and screens."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from string import ascii_lowercase
from typing import TYPE_CHECKING

from ..errors import InvalidValueError
from .document import Document, View, children
from .fields import Flag, Integer, Memory, Text, YesNo

if TYPE_CHECKING:
    from lxml.etree import _Element

_MEMORY_STEP = 1024
"""KiB: cells of a NUMA topology are cut at whole MiB where the total allows, as huge pages need."""


class Disk(View):
    """A ``<disk>``."""

    type = Text(attribute="type")
    device_attribute = Text(attribute="device")
    driver_name = Text("driver", attribute="name")
    format = Text("driver", attribute="type")
    source_file = Text("source", attribute="file")
    source_dev = Text("source", attribute="dev")
    source_dir = Text("source", attribute="dir")
    source_pool = Text("source", attribute="pool")
    source_volume = Text("source", attribute="volume")
    source_protocol = Text("source", attribute="protocol")
    source_name = Text("source", attribute="name")
    target = Text("target", attribute="dev")
    bus = Text("target", attribute="bus")
    backing_store = Flag("backingStore")
    readonly = Flag("readonly")
    shareable = Flag("shareable")
    boot_order = Integer("boot", attribute="order")

    @property
    def device(self) -> str:
        """What it is to the guest; libvirt's default is "disk"."""
        return self.device_attribute or "disk"

    @property
    def path(self) -> str | None:
        """The source as one text: a file, device or folder; POOL/VOLUME; PROTOCOL:NAME; None when there is none."""
        if self.source_pool:
            return f"{self.source_pool}/{self.source_volume}"
        if self.source_protocol:
            return f"{self.source_protocol}:{self.source_name or ''}"
        return self.source_file or self.source_dev or self.source_dir

    def set_path(self, path: str, *, block: bool) -> None:
        """Another source: a file, or a block device; what described the old one's chain goes."""
        new, old = "block" if block else "file", self.type or "file"
        if path == self.path and new == old:
            return
        attribute = "dev" if block else "file"
        source = self.document.ensure(self.element, ("source",))
        self.document.set_attribute(source, attribute, path)
        source.attrib.pop("file" if block else "dev", None)
        if old not in ("file", "block"):  # hosts, sign-in, pool: nothing of it fits
            for name in [name for name in source.attrib if name != attribute]:
                del source.attrib[name]
            for child in [*source.iterchildren("*"), *children(self.element, "auth")]:
                self.document.remove(child)
        if new != old:
            self.type = new
        self.backing_store = False


class Interface(View):
    """An ``<interface>``: a network card."""

    type = Text(attribute="type")
    mac_address = Text("mac", attribute="address")
    source_network = Text("source", attribute="network")
    source_bridge = Text("source", attribute="bridge")
    source_dev = Text("source", attribute="dev")
    source_name = Text("source", attribute="name")
    source_mode = Text("source", attribute="mode")
    model = Text("model", attribute="type")
    target = Text("target", attribute="dev")
    boot_order = Integer("boot", attribute="order")


class Graphics(View):
    """A ``<graphics>``: a screen."""

    type = Text(attribute="type")
    port = Integer(attribute="port")
    autoport = YesNo(attribute="autoport")
    listen = Text(attribute="listen")
    password = Text(attribute="passwd")


class Cell(View):
    """A ``<cell>`` of a NUMA topology."""

    memory = Memory(attribute="memory")


class DomainDocument(Document):
    """The whole ``<domain>``.

    Raises:
        XMLParseError: no well-formed XML.

    Example:
        >>> domain = DomainDocument("<domain><name>a</name><memory unit='GiB'>2</memory></domain>")
        >>> domain.memory
        2097152
        >>> domain.set_memory(4 * 1024 * 1024)
        >>> domain.text
        '<domain><name>a</name><memory unit="GiB">4</memory></domain>'
    """

    type = Text(attribute="type")
    name = Text("name")
    uuid = Text("uuid")
    memory = Memory("memory")
    current_memory = Memory("currentMemory")
    max_memory = Memory("maxMemory")
    vcpus_maximum = Integer("vcpu")
    vcpus_current = Integer("vcpu", attribute="current")
    arch = Text("os", "type", attribute="arch")
    machine = Text("os", "type", attribute="machine")
    os_type = Text("os", "type")
    firmware = Text("os", attribute="firmware")
    firmware_features = Flag("os", "firmware")
    secure_boot = YesNo("os", "firmware", "feature", attribute="enabled")
    secure_boot_name = Text("os", "firmware", "feature", attribute="name")
    loader = Text("os", "loader")
    loader_type = Text("os", "loader", attribute="type")
    nvram = Text("os", "nvram")
    kernel = Text("os", "kernel")
    initrd = Text("os", "initrd")
    cmdline = Text("os", "cmdline")
    bootloader = Text("bootloader")
    cpu_mode = Text("cpu", attribute="mode")
    cpu_model = Text("cpu", "model")
    cpu_match = Text("cpu", attribute="match")
    cpu_check = Text("cpu", attribute="check")
    cpu_migratable = Text("cpu", attribute="migratable")
    sockets = Integer("cpu", "topology", attribute="sockets")
    dies = Integer("cpu", "topology", attribute="dies")
    clusters = Integer("cpu", "topology", attribute="clusters")
    cores = Integer("cpu", "topology", attribute="cores")
    threads = Integer("cpu", "topology", attribute="threads")
    emulator = Text("devices", "emulator")
    serial_log = Text("devices", "serial", "log", attribute="file")
    serial_log_append = Text("devices", "serial", "log", attribute="append")
    serial_type = Text("devices", "serial", attribute="type")

    @property
    def document(self) -> Document:
        """Itself: the fields above are those of its root."""
        return self

    @property
    def element(self) -> _Element:
        """The root."""
        return self.root

    # Memory and processors: several places that must agree.

    def set_memory(self, kib: int) -> None:
        """Give the VM that much memory wherever its size is written: total, balloon, NUMA cells.

        Raises:
            InvalidValueError: memory devices or a maximum fix it, so that the change would not happen.
        """
        old = self.memory
        if old == kib:
            return
        if self._memory_devices():
            raise InvalidValueError(
                f"The memory of the VM {self.name!r} is partly in pluggable memory devices.",
                hint="Take the <memory> devices out of its XML first, with virsh edit.",
            )
        if self.max_memory is not None and kib > self.max_memory:
            raise InvalidValueError(
                f"The VM {self.name!r} has a maximum of {self.max_memory} KiB of memory (<maxMemory>).",
                hint="Ask for less, or raise <maxMemory> first, with virsh edit.",
            )
        self._scale_cells(kib)
        self.memory = kib
        balloon = self.current_memory
        if balloon is not None and (balloon == old or balloon > kib):
            self.current_memory = kib

    def _memory_devices(self) -> list[_Element]:
        devices = self.find(self.root, ("devices",))
        return [] if devices is None else list(children(devices, "memory"))

    def _scale_cells(self, kib: int) -> None:
        cells = [cell for cell in self._cells() if cell.memory]
        if not cells:
            return
        sizes = [cell.memory or 0 for cell in cells]
        total = sum(sizes)
        step = _MEMORY_STEP if kib % _MEMORY_STEP == 0 else 1
        shares = [size * kib // total // step * step for size in sizes]
        shares[-1] += kib - sum(shares)
        if min(shares) < 1:
            raise InvalidValueError(
                f"The VM {self.name!r} has {len(cells)} NUMA cells, too many for {kib} KiB of memory.",
                hint="Ask for more memory, or change <numa> with virsh edit.",
            )
        for cell, share in zip(cells, shares, strict=True):
            cell.memory = share

    def _cells(self) -> list[Cell]:
        numa = self.find(self.root, ("cpu", "numa"))
        return [] if numa is None else [Cell(self, cell) for cell in children(numa, "cell")]

    @property
    def cpus(self) -> int | None:
        """How many processors the guest starts with."""
        return self.vcpus_current or self.vcpus_maximum

    def set_cpus(self, count: int) -> None:
        """Let the guest start with that many processors; raises what bounds it and keeps a topology consistent.

        Raises:
            InvalidValueError: the count does not fit the topology of cores and threads.
        """
        if self.cpus == count:
            return
        if self.vcpus_current is not None and count <= (self.vcpus_maximum or 0):
            self.vcpus_current = count
            return
        per_socket = (self.dies or 1) * (self.clusters or 1) * (self.cores or 1) * (self.threads or 1)
        if self.sockets is not None:
            if count % per_socket:
                raise InvalidValueError(
                    f"The VM {self.name!r} has {per_socket} processors a socket; {count} is no multiple of that.",
                    hint=f"Ask for a multiple of {per_socket}, or change <topology> with virsh edit.",
                )
            self.sockets = count // per_socket
        if self.vcpus_current is not None:
            self.vcpus_current = count
        self.vcpus_maximum = count

    # Devices.

    def _devices(self, tag: str) -> list[_Element]:
        devices = self.find(self.root, ("devices",))
        return [] if devices is None else list(children(devices, tag))

    @property
    def disks(self) -> list[Disk]:
        """Every disk, CD-ROM and floppy."""
        return [Disk(self, element) for element in self._devices("disk")]

    @property
    def main_disk(self) -> Disk | None:
        """The first one that is a disk, not a CD-ROM, floppy or LUN."""
        return next((disk for disk in self.disks if disk.device == "disk"), None)

    @property
    def interfaces(self) -> list[Interface]:
        """The network cards in their order."""
        return [Interface(self, element) for element in self._devices("interface")]

    @property
    def graphics(self) -> list[Graphics]:
        """The screens."""
        return [Graphics(self, element) for element in self._devices("graphics")]

    def add_device(self, tag: str, **attributes: str) -> _Element:
        """A new device, after the last one of its kind."""
        devices = self.ensure(self.root, ("devices",))
        same = list(children(devices, tag))
        return self.add(devices, tag, after=same[-1] if same else None, **attributes)

    def add_disk(self, template: _Element) -> Disk:
        """A new disk like the template, at the first free target of its kind."""
        taken = {disk.target for disk in self.disks}
        disks = self._devices("disk")
        devices = self.ensure(self.root, ("devices",))
        disk = Disk(self, self.insert(devices, template, after=disks[-1] if disks else None))
        prefix = (disk.target or "sda")[:-1]
        letters = (*ascii_lowercase, *map("".join, product(ascii_lowercase, repeat=2)))
        disk.target = next(name for letter in letters if (name := prefix + letter) not in taken)
        return disk

    # The boot order: one list in <os>, or a number on each device.

    @property
    def boot(self) -> tuple[str, ...]:
        """The kinds of devices to boot from, in order: "hd", "cdrom", "fd", "network"."""
        numbered = sorted((order, kind) for view, kind in self._bootable() if (order := view.boot_order) is not None)
        if numbered:
            return tuple(dict.fromkeys(kind for _, kind in numbered))
        os = self.find(self.root, ("os",))
        return () if os is None else tuple(boot.get("dev", "") for boot in children(os, "boot"))

    def set_boot(self, kinds: Iterable[str]) -> None:
        """That order and no other."""
        wanted = tuple(kinds)
        if wanted == self.boot:
            return
        for numbered in self.root.findall("devices/*/boot"):  # libvirt takes no mixture of both ways
            self.remove(numbered)
        boots = self.root.findall("os/boot")
        for boot, kind in zip(boots, wanted, strict=False):
            boot.set("dev", kind)
        for surplus in boots[len(wanted) :]:
            self.remove(surplus)
        for kind in wanted[len(boots) :]:
            boots.append(
                self.add(self.ensure(self.root, ("os",)), "boot", after=boots[-1] if boots else None, dev=kind)
            )

    def _bootable(self) -> list[tuple[Disk | Interface, str]]:
        kinds = {"disk": "hd", "lun": "hd", "cdrom": "cdrom", "floppy": "fd"}
        disks: list[tuple[Disk | Interface, str]] = [(disk, kinds.get(disk.device, "hd")) for disk in self.disks]
        return disks + [(card, "network") for card in self.interfaces]
