"""LibvirtHypervisor: a connection to any hypervisor that libvirt drives. A driver adds declarations and a template."""

from __future__ import annotations

import importlib.resources
import os
import re
import shlex
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

from .. import images
from ..diagnosis import Check
from ..errors import (
    HypervisorError,
    ImageFormatError,
    InvalidNetworkError,
    UnsupportedError,
    UnsupportedNetworkError,
    VMNotFoundError,
)
from ..events import Event
from ..facts import Stats, VMSummary
from ..hypervisor import Credentials, Hypervisor
from ..local_storage import LocalStorage
from ..spec import BASIC, Feature, Network, State, VMSpec
from ..storage import OpenImage, Storage
from ..uri import URI
from ..vm import VM
from ..xml import Disk, Document, DomainDocument, Interface
from . import diagnosis
from .binding import libvirt
from .connection import Connection
from .domain import state_of
from .events import EventSource
from .networks import HostNetworks, Wiring, Wirings
from .options import DISK_FORMAT, XmlOption
from .stats import all_stats
from .vm import LibvirtVM
from .volumes import VolumeStorage

_UUID = re.compile(r"[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}", re.IGNORECASE)


class LibvirtHypervisor(Hypervisor):
    """A hypervisor behind libvirt.

    A driver's package holds a ``domain.xml`` beside its class: the definition of a new VM. The first ``<disk>`` and
    the first ``<interface>`` in it are the patterns of those that are added; a new VM has neither.

    Besides what every driver declares, one on libvirt declares the attributes below.
    """

    features: frozenset[Feature] = BASIC | {
        Feature.DISKS,
        Feature.CDROM,
        Feature.LIVE,
        Feature.AUTOSTART,
        Feature.SUSPEND,
        Feature.EVENTS,
    }
    vm_class: ClassVar[type[LibvirtVM]] = LibvirtVM
    connection_class: ClassVar[type[Connection]] = Connection
    daemon: ClassVar[str] = "libvirtd"
    """The modular daemon that serves it; "" where libvirt runs the driver inside this process."""
    daemon_packages: ClassVar[tuple[str, str]] = ("libvirt-daemon-system", "libvirt-daemon")
    """What to install for the daemon to be there: on Debian, on Fedora."""
    wirings: ClassVar[Wirings] = MappingProxyType({})
    """Our types of network, each with the ways to write it; the first is meant unless the source says otherwise."""
    networks: Mapping[str, str] = MappingProxyType({})
    """Follows from the wirings."""
    bulk_stats: ClassVar[bool] = False
    """Whether one call of libvirt's tells memory and processors of all VMs."""
    managed_save: ClassVar[bool] = True
    """Whether it can keep a VM's memory on disk."""
    undefine_flags: ClassVar[tuple[str, ...]] = ("MANAGED_SAVE", "SNAPSHOTS_METADATA")
    """The VIR_DOMAIN_UNDEFINE_* flags that it knows."""
    address_sources: ClassVar[tuple[str, ...]] = ("LEASE", "AGENT", "ARP")
    """The VIR_DOMAIN_INTERFACE_ADDRESSES_SRC_* that it knows, best first."""
    agent: ClassVar[str] = "qemu-guest-agent"
    """What to install in a guest that tells its addresses."""
    snapshots_in_images: ClassVar[bool] = False
    """Whether snapshots are QEMU's, kept in disk images or beside them, so that formats and versions matter."""
    probes_images: ClassVar[bool] = True
    """Whether images are files whose existence and format matter."""

    def __init_subclass__(cls, **named: Any) -> None:
        super().__init_subclass__(**named)
        cls.networks = _described(cls.wirings)

    def __init__(self, uri: URI, connection: Connection, *, readonly: bool = False) -> None:
        super().__init__(uri, readonly=readonly)
        self.connection = connection
        self.ways = self.wirings_at(uri)
        self.networks = _described(self.ways)
        self.host_networks = HostNetworks(connection)
        self._capabilities: Document | None = None
        self._images: Storage | None = None
        self._events = EventSource(self)
        self.running_cards: dict[tuple[str, int], frozenset[tuple[str, ...]]] = {}
        """What the cards of running VMs join, as last read."""

    @classmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Self:
        """Connect through libvirt."""
        connection = cls.connection_class(
            uri,
            readonly=readonly,
            credentials=credentials,
            event_loop=cls._needs_event_loop(uri),
            checks=lambda: cls._diagnose_connection(uri),
        )
        return cls(uri, connection, readonly=readonly)

    @classmethod
    def wirings_at(cls, uri: URI) -> Wirings:
        """The wirings at one URI, for a driver where they differ."""
        return cls.wirings

    @classmethod
    def _needs_event_loop(cls, uri: URI) -> bool:
        """Whether the driver runs inside this process and wants libvirt's event loop."""
        return False

    @property
    def xml_options(self) -> Mapping[str, XmlOption]:
        """The options, which all stand in the XML."""
        return {name: option for name, option in self.options.items() if isinstance(option, XmlOption)}

    @property
    def local(self) -> bool:
        """Whether the hypervisor's files are this machine's."""
        return self.uri.is_local

    def capabilities(self) -> Document:
        """What libvirt says of the host, asked once a connection."""
        if self._capabilities is None:
            text = self.connection.call("read the capabilities", self.connection.native.getCapabilities)
            self._capabilities = Document(text)
        return self._capabilities

    def image_user(self) -> images.HostUser:
        """Whom the hypervisor's processes run as when they open disk images."""
        for model in self.capabilities().root.iterfind("host/secmodel"):
            if model.findtext("model") == "dac":
                label = model.findtext("baselabel") or ""
                uid, _, gid = label.replace("+", "").partition(":")
                if uid.isdecimal() and gid.isdecimal():
                    return images.HostUser.of(int(uid), int(gid))
        return images.HostUser.of(os.geteuid(), os.getegid())

    # What Hypervisor asks for.

    def _version(self) -> str:
        native, call = self.connection.native, self.connection.call
        kind = call("ask for the hypervisor's name", native.getType)
        own = call("ask for the hypervisor's version", native.getVersion)
        library = call("ask for libvirt's version", native.getLibVersion)
        return f"{kind} {_dotted(own)}, libvirt {_dotted(library)}"

    def _new_vm(self) -> VM:
        return self.vm_class(self, defaults=self.read_spec(self.new_document()))

    def _find_vm(self, key: str) -> VM:
        native, call = self.connection.native, self.connection.call
        if _UUID.fullmatch(key):
            try:
                return self._visible(call(f"find the VM {key!r}", native.lookupByUUIDString, key, vm=key))
            except VMNotFoundError:
                pass  # it may be a name that looks like a UUID
        return self._visible(call(f"find the VM {key!r}", native.lookupByName, key, vm=key))

    def _visible(self, domain: Any) -> LibvirtVM:
        if self._is_host(domain):
            raise VMNotFoundError(f"{domain.name()!r} on {self.uri} is the host itself, not a VM.", uri=self.uri)
        return self._vm(domain)

    def _list_vms(self) -> Iterable[VM]:
        return [self._vm(domain) for domain in self._domains()]

    def _domains(self) -> list[Any]:
        found = self.connection.call("list the VMs", self.connection.native.listAllDomains, 0)
        return [domain for domain in found if not self._is_host(domain)]

    def _is_host(self, domain: Any) -> bool:
        """Whether what libvirt lists among the VMs is the host; asked of the handle alone, without a call."""
        return False

    def _vm(self, domain: Any) -> LibvirtVM:
        return self.vm_class(self, name=domain.name(), uuid=domain.UUIDString(), domain=domain)

    def _summaries(self) -> Iterable[VMSummary]:
        binding, native, call = libvirt(), self.connection.native, self.connection.call
        kept: set[str] = set()
        if self.managed_save:
            saved = call("list the VMs", native.listAllDomains, binding.VIR_CONNECT_LIST_DOMAINS_MANAGEDSAVE)
            kept = {domain.UUIDString() for domain in saved}
        found = self._stats() if self.bulk_stats else [(domain, {}) for domain in self._domains()]
        return [line for domain, stats in found if (line := self._summary(domain, stats, kept)) is not None]

    def _stats(self) -> list[tuple[Any, dict[str, Any]]]:
        """State, memory and processors of all VMs in one call."""
        binding, native = libvirt(), self.connection.native
        wanted = binding.VIR_DOMAIN_STATS_STATE | binding.VIR_DOMAIN_STATS_BALLOON | binding.VIR_DOMAIN_STATS_VCPU
        # a VM in the middle of a long job must not block a list
        busy = binding.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        found: list[tuple[Any, dict[str, Any]]] = self.connection.call(
            "list the VMs", native.getAllDomainStats, wanted, busy
        )
        return found

    def _summary(self, domain: Any, stats: Mapping[str, Any], kept: set[str]) -> VMSummary | None:
        uuid = domain.UUIDString()
        number, memory, cpus = stats.get("state.state"), stats.get("balloon.maximum"), stats.get("vcpu.current")
        if number is None or memory is None or cpus is None:
            try:  # there are no statistics here, or it was busy
                number, memory, _, cpus, _ = self.connection.call("look at a VM", domain.info)
            except VMNotFoundError:
                return None
        state = state_of(number)
        if state is State.STOPPED and uuid in kept:
            state = State.SUSPENDED
        return VMSummary(domain.name(), uuid, state, memory, cpus)

    def _close(self) -> None:
        self.connection.close()

    def _all_stats(self) -> Iterable[Stats]:
        return all_stats(self)

    def saved_memory_folder(self) -> str | None:
        """Where this machine keeps the memory of suspended VMs; None where that cannot be seen from here."""
        return None

    def log_of(self, name: str) -> str | None:
        """The file on the host that has what the VM's own program said, for people; None where there is none."""
        return None

    def _watch(self, tell: Callable[[Event | Exception], None]) -> Callable[[], None]:
        return self._events.add(tell)

    def _storage(self) -> Storage:
        if self._images is None:
            taken = self.options.get("disk_format", DISK_FORMAT).choices
            self._images = LocalStorage(taken) if self.local else VolumeStorage(self, taken)
        return self._images

    def _open_images(self) -> Iterable[OpenImage]:
        if not self.bulk_stats:
            return
        binding = libvirt()
        flags = binding.VIR_CONNECT_GET_ALL_DOMAINS_STATS_ACTIVE | binding.VIR_CONNECT_GET_ALL_DOMAINS_STATS_NOWAIT
        running = self.connection.call(
            "look at what runs",
            self.connection.native.getAllDomainStats,
            binding.VIR_DOMAIN_STATS_BLOCK,
            flags | binding.VIR_CONNECT_GET_ALL_DOMAINS_STATS_BACKING,
        )
        for domain, stats in running:
            tops: set[str] = set()
            for number in range(stats.get("block.count", 0)):
                disk, path = stats.get(f"block.{number}.name", ""), stats.get(f"block.{number}.path")
                if path is not None:
                    yield OpenImage(domain.name(), domain.UUIDString(), path, disk in tops)
                tops.add(disk)  # each disk, then what it is based on

    def _image_path(self, text: str) -> str:
        return os.path.abspath(os.path.expanduser(text)) if self.local else text

    # What `virtuoso doctor` asks for.

    @classmethod
    def _diagnose(cls, uri: URI) -> Iterable[Check]:
        yield diagnosis.check_binding()
        yield from cls._diagnose_connection(uri)

    @classmethod
    def _diagnose_connection(cls, uri: URI) -> Iterable[Check]:
        """What this machine must have for a connection; the first that fails is the hint when none comes about."""
        if uri.is_local and cls.daemon and not cls._needs_event_loop(uri):
            yield diagnosis.check_daemon(uri, cls.daemon, cls.daemon_packages)

    def _examine(self) -> Iterable[Check]:
        yield from diagnosis.check_networks(self)
        yield from diagnosis.check_stopped(self)

    def _examine_image(self, path: str) -> Iterable[Check]:
        return [diagnosis.check_image(self, path)]

    # The domain document: from spec to XML and back.

    def template(self) -> DomainDocument:
        """The driver's ``domain.xml``."""
        package = sys.modules[type(self).__module__].__package__ or ""
        return DomainDocument(importlib.resources.files(package).joinpath("domain.xml").read_bytes())

    def new_document(self) -> DomainDocument:
        """What a new VM starts from: the template without its patterns."""
        document = self.template()
        for pattern in (*document.disks[:1], *document.interfaces[:1]):
            pattern.remove()
        return document

    def read_spec(self, document: DomainDocument) -> VMSpec:
        """What a document says, as plain data."""
        options = {name: option.read(document) for name, option in self.xml_options.items()}
        disk, cdrom, seed = document.main_disk, document.cdrom, document.seed
        return VMSpec(
            name=document.name or "",
            memory=document.memory or 0,
            cpus=document.cpus or 1,
            disk_image=None if disk is None else disk.path,
            networks=tuple(self._read_network(card) for card in document.interfaces),
            options=MappingProxyType({name: value for name, value in options.items() if value is not None}),
            more_disks=tuple(disk.path for disk in document.further_disks if disk.path),
            cdrom=None if cdrom is None else cdrom.path,
            seed=None if seed is None else seed.path,
        )

    def patch(self, document: DomainDocument, spec: VMSpec, changed: frozenset[str]) -> None:
        """Write the changed values, and nothing else, into a document."""
        if "name" in changed:
            document.name = spec.name
        if "memory" in changed:
            document.set_memory(spec.memory)
        if "cpus" in changed:
            document.set_cpus(spec.cpus)
        if "more_disks" in changed:
            for surplus in [disk for disk in document.further_disks if disk.path not in spec.more_disks]:
                surplus.remove()
        if "disk_image" in changed:
            self._patch_disk(document, spec, known_format="options.disk_format" in changed)
        if "more_disks" in changed:
            self._add_disks(document, spec)
        if "networks" in changed:
            self._patch_networks(document, spec.networks)
        for name, option in self.xml_options.items():  # in the order declared: the later may build on the earlier
            if f"options.{name}" in changed:
                value = spec.options.get(name)
                # taken away: what a new VM has
                option.write(document, option.read(self.new_document()) if value is None else value)
        if "cdrom" in changed:  # after the options: the machine type decides where it is plugged in
            self._patch_cdrom(document, spec.cdrom)
        if "seed" in changed:
            self._patch_seed(document, spec.seed)

    def _patch_disk(self, document: DomainDocument, spec: VMSpec, *, known_format: bool) -> None:
        disk = document.main_disk
        if spec.disk_image is None:
            if disk is not None:
                disk.remove()
            if document.main_disk is not None:
                raise self._no_main_disk(document, document.main_disk.path)
            return
        if disk is None:
            disk = document.add_disk(self.template().disks[0].element)
        self._check_image(spec.disk_image)
        disk.set_path(spec.disk_image, block=self._is_block(spec.disk_image))
        if not known_format:
            self._write_format(disk, spec.disk_image)

    def _no_main_disk(self, document: DomainDocument, first: str | None) -> UnsupportedError:
        return UnsupportedError(
            f"The VM {document.name!r} has more disks: without its first one, {first} would be its main disk.",
            hint="Set disk_image to another image, or take the others away first: vm.remove_disk(path).",
            vm=document.name,
            uri=self.uri,
        )

    def _add_disks(self, document: DomainDocument, spec: VMSpec) -> None:
        there = {disk.path for disk in document.further_disks}
        for path in spec.more_disks:
            if path in there:
                continue
            if document.main_disk is None:
                raise self._no_main_disk(document, path)
            self._check_image(path)
            disk = document.add_disk(self.template().disks[0].element, further=True)
            disk.set_path(path, block=self._is_block(path))
            self._write_format(disk, path)

    def cdrom_bus(self, document: DomainDocument) -> str:
        """Where a CD-ROM drive is plugged in, so that any system finds it: "ide", "sata" or "scsi"."""
        if document.arch not in (None, "x86_64", "i686"):
            return "scsi"
        return "sata" if "q35" in (document.machine or "") else "ide"

    def seed_bus(self, document: DomainDocument) -> str:
        """The same for the drive that holds what cloud-init reads."""
        return self.cdrom_bus(document)

    def _add_cdrom(self, document: DomainDocument, bus: str) -> Disk:
        pattern = self.template().disks
        return document.add_cdrom(bus, pattern[0].driver_name if pattern else None)

    def _patch_cdrom(self, document: DomainDocument, path: str | None) -> None:
        drive = document.cdrom
        if path is None:
            if drive is not None:
                drive.empty()
            return
        self._check_disc(path)
        if drive is None:
            drive = self._add_cdrom(document, self.cdrom_bus(document))
        elif drive.format is not None:
            drive.format = "raw"
        drive.set_path(path, block=self._is_block(path))

    def _patch_seed(self, document: DomainDocument, path: str | None) -> None:
        drive = document.seed
        if path is None:
            if drive is not None:
                drive.remove()
            return
        if drive is None:
            drive = self._add_cdrom(document, self.seed_bus(document))
        drive.set_path(path, block=False)

    def _check_image(self, path: str) -> None:
        if self.probes_images and self.local:
            images.check_image(path)

    def _check_disc(self, path: str) -> None:
        """The same for what goes into a CD-ROM drive, for a driver that takes other files there."""
        self._check_image(path)

    def _is_block(self, path: str) -> bool:
        return images.is_block_device(path) if self.local else path.startswith("/dev/")

    def _write_format(self, disk: Disk, path: str) -> None:
        if self.probes_images:
            disk.format = self.image_format(path)

    def image_format(self, path: str) -> str:
        """The image's format, looked at here or asked of the host. Raises ImageFormatError when it cannot be told."""
        readable = self.local and os.access(path, os.R_OK)
        found = images.probe_format(path) if readable else self._volume_format(path)
        if found is None:
            raise ImageFormatError(
                f"The format of {path} on {self.uri} cannot be told from here.",
                hint='Say it: vm.set("disk_format", "qcow2")',
                uri=self.uri,
            )
        if found not in self.options.get("disk_format", DISK_FORMAT).choices:
            raise ImageFormatError(
                f"The disk image {path} is in the format {found!r}, which the {self.name} driver does not take.",
                hint=f"Convert it: qemu-img convert -O qcow2 {shlex.quote(path)} {shlex.quote(path + '.qcow2')}",
                uri=self.uri,
            )
        return found

    def _volume_format(self, path: str) -> str | None:
        """What a storage pool of the host knows of it."""
        if Feature.CREATE_DISK in self.features and not self.local and not self._is_block(path):
            return self._storage().info(path).format
        call = self.connection.call
        try:
            volume = call(f"look at {path}", self.connection.native.storageVolLookupByPath, path)
            described = DomainDocument(call(f"look at {path}", volume.XMLDesc, 0))
        except (HypervisorError, UnsupportedError):
            return None  # no pool holds it
        element = described.find(described.root, ("target", "format"))
        return None if element is None else element.get("type")

    # Networks.

    def _network_defaults(self, network: Network) -> Network:
        wiring = self._wiring(network)
        source = network.source or wiring.default
        if wiring.source is None and network.source is not None:
            raise InvalidNetworkError(
                f"A network of type {network.type!r} on {self.uri} has no source to choose.", hint="Leave source out."
            )
        if wiring.source is not None and source is None:
            raise InvalidNetworkError(
                f"A network of type {network.type!r} on {self.uri} needs a source.",
                hint=f"{wiring.doc} Name it: vm.network({network.type!r}, source='br0')",
            )
        pattern = self.template().interfaces
        model = network.model or (pattern[0].model if pattern else None)
        return replace(network, source=source, model=model)

    def _wiring(self, network: Network) -> Wiring:
        ways = self.ways.get(network.type)
        if ways is None:
            raise UnsupportedNetworkError(
                f"The network card {network.mac_address} is of a kind that cannot be made on {self.uri}.",
                hint=f"These can: {', '.join(self.networks)}.",
                uri=self.uri,
            )
        if len(ways) > 1 and network.source is not None and not self._is_bridge(network.source):
            return ways[1]
        return ways[0]

    def _is_bridge(self, name: str) -> bool:
        """Whether the host's network interface is a bridge, rather than a card to share."""
        if self.local:
            return not os.path.exists(f"/sys/class/net/{name}") or os.path.exists(f"/sys/class/net/{name}/bridge")
        try:
            found = self.connection.call(f"look at {name}", self.connection.native.interfaceLookupByName, name)
            described = DomainDocument(self.connection.call(f"look at {name}", found.XMLDesc, 0))
        except (HypervisorError, UnsupportedError):
            return True  # the host does not tell: a bridge is what the word promises
        return described.type == "bridge"

    def _patch_networks(self, document: DomainDocument, networks: tuple[Network, ...]) -> None:
        wanted = {network.mac_address: network for network in networks}
        cards = {card.mac_address or "": card for card in document.interfaces}
        for mac, card in cards.items():
            if mac not in wanted:
                card.remove()
        for mac, network in wanted.items():
            existing = cards.get(mac)
            if existing is None:
                pattern = self.template().interfaces[0].element
                last = document.interfaces[-1:]
                devices = document.ensure(document.root, ("devices",))
                new = document.insert(devices, pattern, after=last[0].element if last else None)
                self._wiring(network).write(Interface(document, new), network)
            elif self._read_network(existing) != network:
                self._wiring(network).write(existing, network)

    def _read_network(self, card: Interface) -> Network:
        type, wiring = self.recognise(card)
        source = wiring.source_of(card) if wiring else card.source_network or card.source_bridge or card.source_dev
        return Network(type, card.mac_address or "", source, card.model)

    def recognise(self, card: Interface) -> tuple[str, Wiring | None]:
        """Which of our types a card is of; "other" when of none."""
        fitting = [
            (type, wiring)
            for type, ways in self.ways.items()
            for wiring in ways
            if wiring.kind == card.type and (wiring.source is None or wiring.source_of(card))
        ]
        for type, wiring in fitting:
            if len(fitting) == 1 or wiring.source_of(card) == wiring.default:
                return type, wiring
        for type, wiring in fitting:
            if wiring.source == "network" and self.host_networks.matches(card.source_network or "", wiring):
                return type, wiring
        return "other", None


def _described(wirings: Wirings) -> Mapping[str, str]:
    return MappingProxyType({type: ways[0].doc for type, ways in wirings.items()})


def _dotted(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
