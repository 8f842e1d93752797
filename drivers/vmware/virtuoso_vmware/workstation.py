"""WorkstationHypervisor: Workstation, Player and Fusion.

libvirt translates between domain XML and .vmx files. Everything else goes to VMware's own ``vmrun``, because libvirt's
driver knows a powered-off machine only in the connection that defined it, writes each .vmx anew when it defines it,
and asks a guest politely where it should pull the plug.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

from virtuoso_core import URI
from virtuoso_core.diagnosis import Check
from virtuoso_core.errors import (
    ConnectError,
    HypervisorError,
    ImageFormatError,
    InvalidStateError,
    InvalidURIError,
    VirtuosoError,
    VMExistsError,
    VMNotFoundError,
)
from virtuoso_core.hypervisor import Credentials
from virtuoso_core.images import check_image
from virtuoso_core.libvirt_base import LibvirtVM, Wiring
from virtuoso_core.libvirt_base.binding import libvirt
from virtuoso_core.libvirt_base.connection import Connection
from virtuoso_core.spec import Feature, Network, Option, SaveResult, State, VMSpec, VMSummary, option_table
from virtuoso_core.vm import VM
from virtuoso_core.xml import DomainDocument, Interface

from .base import VmwareHypervisor, VmwareVM
from .registry import Registry
from .vmx import VmxFile, remove_machine

_PRODUCTS = {
    "vmwarews": ("ws", "vmware"),
    "vmwareplayer": ("player", "vmplayer"),
    "vmwarefusion": ("fusion", "vmware-vmx"),
}
"""What vmrun calls each, and the program beside vmrun that libvirt asks for the version."""
_TIMEOUT = 120.0
"""Seconds for one call of vmrun; a start returns when the machine is powered on."""
_ASKING = 5.0
"""Seconds given to vmrun for asking a guest to stop; the guest may take longer to do so."""
_LIBVIRT_READS = 10_000
"""Bytes of a running machine's .vmx that libvirt is ready to read."""
_OPTIONS: dict[str, tuple[str, dict[Any, str]]] = {
    "headless": ("guestinfo.virtuoso.headless", {True: "TRUE", False: "FALSE"}),
    "firmware": ("firmware", {"uefi": "efi"}),
}
"""Options by their key in the .vmx file, with its words for their values."""


@dataclass(frozen=True)
class Vmnet(Wiring):
    """One of VMware's virtual switches, which libvirt names in the card's target."""

    def write(self, card: Interface, network: Network) -> None:
        """The card's element for the network."""
        super().write(card, network)
        card.target = network.source


class WorkstationVM(VmwareVM):
    """A machine by its .vmx file."""

    _hypervisor: WorkstationHypervisor

    def __init__(self, hypervisor: WorkstationHypervisor, *, path: str = "", **known: Any) -> None:
        super().__init__(hypervisor, **known)
        self._path = path

    def _native(self) -> Any:
        return self._path

    def _read(self) -> VMSpec:
        self._vmx: VmxFile = self._call("read", VmxFile, self._path)
        native = self._hypervisor.connection.native
        text = self._call("read", native.domainXMLFromNative, "vmware-vmx", self._vmx.for_libvirt(), 0)
        self._document = DomainDocument(text)
        for disk in self._document.disks:
            if disk.source_file:  # VMware counts from the folder of the .vmx
                disk.source_file = os.path.join(os.path.dirname(self._path), disk.source_file)
        options: dict[str, Any] = {"firmware": "bios"}
        for name, (key, words) in _OPTIONS.items():
            said = self._vmx.settings.get(key, "").lower()
            options.update((name, value) for value, word in words.items() if word.lower() == said)
        spec = self._hypervisor.read_spec(self._document)
        return replace(spec, name=self._vmx.name, options=MappingProxyType(options))

    def _create(self, spec: VMSpec) -> str:
        document = self._new_document(spec)
        assert spec.disk_image is not None
        path = os.path.join(os.path.realpath(os.path.dirname(spec.disk_image)), f"{spec.name}.vmx")
        with self._hypervisor.registry.locked():
            if (taken := self._taken(spec.name)) is not None:
                raise taken
            if os.path.lexists(path):
                raise VMExistsError(
                    f"There is already a file {path}, which the VM {spec.name!r} would need.",
                    hint="Choose another name, or put the disk into a folder of its own.",
                    vm=spec.name,
                )
            try:
                self._call("save", self._write_file, document.text)
                vmx: VmxFile = self._call("save", VmxFile, path)
                self._call("save", vmx.changed(_values(spec, spec.changed_from(VMSpec("", 0, 0)))).write)
                self._call("remember", self._hypervisor.registry.add, [path])
            except BaseException:
                if os.path.lexists(path):
                    os.unlink(path)
                raise
        self._path = path
        return vmx.uuid

    def _write_file(self, text: str) -> None:
        """Have libvirt write the .vmx of a domain, which it need not keep."""
        self._hypervisor.connection.native.defineXMLFlags(text, libvirt().VIR_DOMAIN_DEFINE_VALIDATE).undefine()

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        assert self._document is not None
        if (state := self._get_state()) is not State.STOPPED:
            raise InvalidStateError(
                f"The VM {self._known_name!r} is {state}: VMware would overwrite the change.",
                hint="Stop it first.",
                vm=self._known_name,
                uri=self._hypervisor.uri,
            )
        self._hypervisor.patch(self._document.copy(), spec, changed & {"memory", "cpus"})  # refuses what cannot be
        self._old = self._vmx
        self._call("save", self._vmx.changed(_values(spec, changed)).write)
        return SaveResult.APPLIED

    def _undo_update(self) -> None:
        self._call("put back the settings of", self._old.write)

    def _get_state(self) -> State:
        vmx = self._call("look at", VmxFile, self._path)
        return self._hypervisor.state_of(vmx, self._call("look at", self._hypervisor.running))

    def _start(self) -> None:
        window = "nogui" if self._read().options.get("headless") else "gui"
        self._call("start", self._hypervisor.vmrun, "start", self._path, window)

    def _power_off(self) -> None:
        try:
            self._unless_off("pull the plug of", lambda: self._hypervisor.vmrun("stop", self._path, "hard"))
        except InvalidStateError:
            pass

    def _ask_guest(self) -> None:
        self._unless_off("stop", lambda: self._hypervisor.vmrun("stop", self._path, "soft", timeout=_ASKING))

    def _reboot(self) -> None:
        self._call("reboot", self._hypervisor.vmrun, "reset", self._path, "soft")

    def _undefine(self) -> None:
        self._call("remove", remove_machine, self._path)

    def _prepare_start(self, start_networks: bool) -> None:
        image = self._read().disk_image
        if image is not None:
            self._hypervisor._check_image(image)


def _values(spec: VMSpec, changed: frozenset[str]) -> dict[str, str | None]:
    """The changed values as settings of a .vmx file."""
    values: dict[str, str | None] = {}
    if "memory" in changed:
        values["memsize"] = str(spec.memory // 1024)
    if "cpus" in changed:
        values["numvcpus"] = str(spec.cpus)
    for name, (key, words) in _OPTIONS.items():
        if f"options.{name}" in changed:
            values[key] = words.get(spec.options.get(name))
    return values


class WorkstationHypervisor(VmwareHypervisor):
    """VMware's products for one's own machine: ``vmwarews:///session``, ``vmwareplayer:``, ``vmwarefusion:``."""

    name = "vmware-workstation"
    schemes = tuple(_PRODUCTS)
    vm_class: ClassVar[type[LibvirtVM]] = WorkstationVM
    # vmrun cannot tell a paused machine from a running one
    features = frozenset({Feature.MODIFY, Feature.SHUTDOWN, Feature.REBOOT, Feature.READONLY})
    modifiable = frozenset({"memory", "cpus", "options"})
    wirings = MappingProxyType(
        {
            "nat": (Wiring("Behind the host's address, on VMware's own NAT (vmnet8).", "user"),),
            "bridged": (Wiring("On the host's own network, by VMware's bridge.", "bridge", "bridge", "vmnet0"),),
            "host_only": (Vmnet("The host and its guests among themselves.", "bridge", "bridge", "vmnet1"),),
            "internal": (Vmnet("A switch made in VMware's network editor, such as vmnet5.", "bridge", "bridge"),),
        }
    )
    options = option_table(
        Option("headless", "bool", "No window on the host's screen."),
        Option("firmware", "str", "What starts the machine.", choices=("bios", "uefi")),
    )

    def __init__(self, uri: URI, connection: Connection, *, readonly: bool = False) -> None:
        super().__init__(uri, connection, readonly=readonly)
        self.registry = Registry()

    @classmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Self:
        """Connect; with nobody to sign in to."""
        if not uri.is_local or uri.path != "/session":
            raise InvalidURIError(f"The URI {uri} cannot be used.", hint=f"Write {uri.scheme}:///session", uri=uri)
        if shutil.which("vmrun") is None:
            (check,) = cls._diagnose_connection(uri)
            raise ConnectError(f"Cannot connect to {uri}: {check.explanation}", hint=check.advice, uri=uri)
        try:
            # libvirt refuses to translate on a connection that is read-only for it
            return cls(uri, Connection(uri), readonly=readonly)
        except ConnectError as error:
            if culprits := _unreadable(_running(uri)):
                error.hint = "libvirt must be able to read what runs. Stop it, or mend it: " + "; ".join(culprits)
            raise

    @classmethod
    def _diagnose_connection(cls, uri: URI) -> Iterable[Check]:
        missing = [program for program in ("vmrun", _PRODUCTS[uri.scheme][1]) if shutil.which(program) is None]
        if missing:
            advice = "Install VMware, and put the folder of its programs on the PATH."
            yield Check("VMware", "fail", f"Not found on the PATH: {', '.join(missing)}.", advice)
        else:
            yield Check("VMware", "ok", f"Installed: {shutil.which('vmrun')}.")

    def vmrun(self, *words: str, timeout: float = _TIMEOUT) -> str:
        """What VMware's own program prints. Raises HypervisorError."""
        return _vmrun(self.uri, *words, timeout=timeout)

    def running(self) -> set[str]:
        """The .vmx files of the machines that run, or stand still in memory."""
        return _running(self.uri)

    def state_of(self, vmx: VmxFile, running: set[str]) -> State:
        """A machine's state, from what runs and from its own file."""
        if os.path.realpath(vmx.path) in running:
            return State.RUNNING
        return State.SUSPENDED if vmx.settings.get("checkpoint.vmstate") else State.STOPPED

    def _machines(self, running: set[str]) -> list[VmxFile]:
        """All that is known. One that was seen running once is remembered."""
        known = self.registry.paths()
        if new := sorted(running.difference(known)):
            self.connection.call("remember what runs", self.registry.add, new)
        machines = []
        for path in [*known, *new]:
            try:
                machines.append(VmxFile(path))
            except VirtuosoError:
                continue  # it went while we looked, or is not ours to read
        return machines

    def _list_vms(self) -> Iterable[VM]:
        running = self.connection.call("list the VMs", self.running)
        return [self._machine(vmx) for vmx in self._machines(running)]

    def _machine(self, vmx: VmxFile) -> WorkstationVM:
        return WorkstationVM(self, path=vmx.path, name=vmx.name, uuid=vmx.uuid)

    def _find_vm(self, key: str) -> VM:
        machines = list(self._list_vms())
        found = [vm for vm in machines if vm.uuid == key.lower()] + [vm for vm in machines if vm.name == key]
        if not found:
            raise VMNotFoundError(f"There is no VM {key!r} on {self.uri}.", vm=key, uri=self.uri)
        return found[0]

    def _summaries(self) -> Iterable[VMSummary]:
        running = self.connection.call("list the VMs", self.running)
        for vmx in self._machines(running):
            memory, cpus = vmx.number("memsize", 32) * 1024, vmx.number("numvcpus", 1)
            yield VMSummary(vmx.name, vmx.uuid, self.state_of(vmx, running), memory, cpus)

    def _check_image(self, path: str) -> None:
        check_image(path)
        super()._check_image(path)
        with open(path, "rb") as file:
            start = file.read(21)
        if not start.startswith((b"KDMV", b"COWD", b"# Disk DescriptorFile")):
            raise ImageFormatError(
                f"{path} is no disk image for VMware, whatever its name says.",
                hint=f"Convert it: qemu-img convert -O vmdk '{path}' '{path.removesuffix('.vmdk')}-converted.vmdk'",
            )

    def recognise(self, card: Interface) -> tuple[str, Wiring | None]:
        """The target tells a virtual switch from the bridge to the host's network."""
        if card.type != "bridge":
            return super().recognise(card)
        usual = self.ways["host_only"][0].default
        type = "bridged" if card.target is None else "host_only" if card.target == usual else "internal"
        return type, self.ways[type][0]


def _vmrun(uri: URI, *words: str, timeout: float = _TIMEOUT) -> str:
    command = ["vmrun", "-T", _PRODUCTS[uri.scheme][0], *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        if timeout == _ASKING:
            return ""  # the guest was asked, which is all that was wanted
        raise HypervisorError(f"vmrun {words[0]} did not end within {timeout:g} s.", uri=uri) from error
    except OSError as error:
        raise HypervisorError(f"vmrun does not run: {error.strerror}.", uri=uri) from error
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        raise HypervisorError(f"vmrun {words[0]} failed on {uri}: {said or done.returncode}.", uri=uri)
    return done.stdout


def _running(uri: URI) -> set[str]:
    return {os.path.realpath(line) for line in _vmrun(uri, "list").splitlines() if os.path.isabs(line)}


def _unreadable(paths: Iterable[str]) -> list[str]:
    """What libvirt is known to stumble over, in words; all of them when nothing stands out."""
    found = []
    for path in sorted(paths):
        try:
            vmx = VmxFile(path)
        except VirtuosoError as error:
            found.append(error.message)
            continue
        cards = [key for key, value in vmx.settings.items() if key.endswith(".connectiontype") and value == "hostonly"]
        if len(vmx.data) > _LIBVIRT_READS:
            found.append(f"{path} has {len(vmx.data)} bytes, and libvirt reads {_LIBVIRT_READS}")
        if cards:
            found.append(f'{path} has {cards[0]} = "hostonly": write "custom", and vnet = "vmnet1"')
    return found or sorted(paths)
