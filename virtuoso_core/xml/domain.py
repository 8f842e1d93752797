"""libvirt's domain document: typed views of the domain, its disks, network cards and screens."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product
from string import ascii_lowercase
from typing import TYPE_CHECKING

from ..errors import InvalidValueError
from ..spec import SEED_SUFFIX
from .document import Document, View, children
from .fields import Flag, Integer, Memory, Text, YesNo

if TYPE_CHECKING:
    from lxml.etree import _Element

_MEMORY_STEP = 1024
"""KiB: cells of a NUMA topology are cut at whole MiB where the total allows, as huge pages need."""
_MEMORY_SLOTS = 16
"""How many times memory can be plugged into a VM that is given room for it."""
_PLAIN_CELL = {"id", "cpus", "memory", "unit"}
"""What a NUMA cell that does nothing but hold the memory says."""


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

    def empty(self) -> None:
        """Take the disc out of a drive, which stays."""
        if self.path is None:
            return
        for name in ("source", "backingStore", "auth"):
            for child in list(children(self.element, name)):
                self.document.remove(child)
        if self.type not in ("file", "block"):
            self.type = "file"


def _is_seed(disk: Disk) -> bool:
    return (disk.path or "").endswith(SEED_SUFFIX)


def _targets(prefix: str) -> list[str]:
    """The names that disks can have, in order."""
    letters = (*ascii_lowercase, *map("".join, product(ascii_lowercase, repeat=2)))
    return [prefix + letter for letter in letters]


def _free(prefix: str, taken: set[str]) -> str:
    return next(name for name in _targets(prefix) if name not in taken)


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
    tls_port = Integer(attribute="tlsPort")
    listen = Text(attribute="listen")
    socket_attribute = Text(attribute="socket")
    listen_socket = Text("listen", attribute="socket")
    listen_address = Text("listen", attribute="address")
    password = Text(attribute="passwd")

    @property
    def socket(self) -> str | None:
        """The Unix socket that it listens on, if any."""
        return self.listen_socket or self.socket_attribute


class Terminal(View):
    """A ``<console>`` or ``<serial>``."""

    type = Text(attribute="type")


class Channel(View):
    """A ``<channel>`` between the host and a program in the guest."""

    name = Text("target", attribute="name")
    state = Text("target", attribute="state")


class Cell(View):
    """A ``<cell>`` of a NUMA topology."""

    memory = Memory(attribute="memory")
    cpus = Text(attribute="cpus")


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
    memory_slots = Integer("maxMemory", attribute="slots")
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
                hint="Ask for less, or raise <maxMemory> first: the option max_memory, or virsh edit.",
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
        self._set_most_cpus(count)
        if self.vcpus_current is not None:
            self.vcpus_current = count

    def _set_most_cpus(self, count: int) -> None:
        per_socket = (self.dies or 1) * (self.clusters or 1) * (self.cores or 1) * (self.threads or 1)
        if self.sockets is not None:
            if count % per_socket:
                raise InvalidValueError(
                    f"The VM {self.name!r} has {per_socket} processors a socket; {count} is no multiple of that.",
                    hint=f"Ask for a multiple of {per_socket}, or change <topology> with virsh edit.",
                )
            self.sockets = count // per_socket
        old = self.vcpus_maximum or 1
        cells = self._cells()
        if len(cells) == 1 and cells[0].cpus in ("0", f"0-{old - 1}"):  # else libvirt would refuse fewer
            cells[0].cpus = f"0-{count - 1}" if count > 1 else "0"
        self.vcpus_maximum = count

    # Room to grow while it runs.

    def set_max_cpus(self, count: int | None) -> None:
        """Let the guest get that many processors while it runs; None leaves it those that it starts with.

        Raises:
            InvalidValueError: no more than it starts with; they do not fit the topology of cores and threads.
        """
        now = self.cpus or 1
        if count is not None and count <= now:
            raise InvalidValueError(
                f"The VM {self.name!r} starts with {now} processors: {count} at most leaves no room to grow.",
                hint='Ask for more, or for none: vm.set("max_cpus", None).',
            )
        if (count or now) != self.vcpus_maximum:
            self._set_most_cpus(count or now)
        self.vcpus_current = None if count is None else now

    def set_max_memory(self, kib: int | None) -> None:
        """Let the guest's memory grow to that much while it runs; None takes the room away.

        What is plugged in belongs to a NUMA cell, so that there must be one.
        """
        if kib == self.max_memory:
            return
        cells = self._cells()
        if kib is None:
            self.remove(self.ensure(self.root, ("maxMemory",)))
            if len(cells) == 1 and set(cells[0].element.attrib) <= _PLAIN_CELL and not len(cells[0].element):
                cells[0].remove()  # all that made it is what was taken away
            return
        if self.memory_slots is None:
            self.memory_slots = _MEMORY_SLOTS
        self.max_memory = kib
        if not cells:
            numa = self.ensure(self.root, ("cpu", "numa"))
            self.add(numa, "cell", id="0", memory=str(self.memory or 0), unit="KiB")

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
    def further_disks(self) -> list[Disk]:
        """Every disk after the main one whose source is one that can be told."""
        return [disk for disk in [disk for disk in self.disks if disk.device == "disk"][1:] if disk.path]

    @property
    def cdrom(self) -> Disk | None:
        """The first CD-ROM drive but that of the seed."""
        return next((disk for disk in self.disks if disk.device == "cdrom" and not _is_seed(disk)), None)

    @property
    def seed(self) -> Disk | None:
        """The CD-ROM drive that holds what cloud-init reads."""
        return next((disk for disk in self.disks if disk.device == "cdrom" and _is_seed(disk)), None)

    @property
    def interfaces(self) -> list[Interface]:
        """The network cards in their order."""
        return [Interface(self, element) for element in self._devices("interface")]

    @property
    def graphics(self) -> list[Graphics]:
        """The screens."""
        return [Graphics(self, element) for element in self._devices("graphics")]

    @property
    def terminals(self) -> list[Terminal]:
        """The consoles, then the serial ports: the first is the one that libvirt opens."""
        return [Terminal(self, element) for tag in ("console", "serial") for element in self._devices(tag)]

    @property
    def agent_channel(self) -> Channel | None:
        """The channel to QEMU's guest agent."""
        channels = [Channel(self, element) for element in self._devices("channel")]
        return next((channel for channel in channels if channel.name == "org.qemu.guest_agent.0"), None)

    def add_device(self, tag: str, **attributes: str) -> _Element:
        """A new device, after the last one of its kind."""
        devices = self.ensure(self.root, ("devices",))
        same = list(children(devices, tag))
        return self.add(devices, tag, after=same[-1] if same else None, **attributes)

    def add_disk(self, template: _Element, *, further: bool = False) -> Disk:
        """A new disk like the template, at the first free target of its kind; a further one after all others."""
        disks = self._devices("disk")
        devices = self.ensure(self.root, ("devices",))
        taken = self._targets()
        disk = Disk(self, self.insert(devices, template, after=disks[-1] if disks else None))
        prefix = (disk.target or "sda")[:-1]
        used = [number for number, name in enumerate(_targets(prefix)) if name in taken]
        disk.target = _targets(prefix)[used[-1] + 1] if further and used else _free(prefix, taken)
        return disk

    def add_cdrom(self, bus: str, driver: str | None) -> Disk:
        """A new CD-ROM drive, empty.

        Args:
            bus: "ide", "sata" or "scsi".
            driver: who reads the disc, such as "qemu"; None where libvirt knows no choice.
        """
        prefix = "hd" if bus == "ide" else "sd"
        target = _free(prefix, self._targets())
        disk = Disk(self, self.add_device("disk", type="file", device="cdrom"))
        if driver is not None:
            disk.driver_name, disk.format = driver, "raw"
        disk.target, disk.bus = target, bus
        disk.readonly = True
        return disk

    def _targets(self) -> set[str]:
        """The names of disks that are taken: with xvda Xen's guests have hda too, until they know Xen."""
        names = {disk.target for disk in self.disks if disk.target}
        twins = {f"hd{name[3:]}" for name in names if name.startswith("xvd")}
        return names | twins | {f"xvd{name[2:]}" for name in names if name.startswith("hd")}

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
