"""WorkstationHypervisor: Workstation, Player and Fusion.

libvirt translates between domain XML and .vmx files. Everything else goes to VMware's own ``vmrun``, because libvirt's
driver knows a powered-off machine only in the connection that defined it, writes each .vmx anew when it defines it,
and asks a guest politely where it should pull the plug.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Self

from virtuoso_core import URI, Hypervisor
from virtuoso_core.diagnosis import Check
from virtuoso_core.errors import (
    HypervisorError,
    ImageUnreadableError,
    InvalidStateError,
    InvalidURIError,
    VirtuosoError,
    VMExistsError,
)
from virtuoso_core.facts import Address, AddressReport, VMSummary
from virtuoso_core.hypervisor import Credentials
from virtuoso_core.images import check_image
from virtuoso_core.libvirt_base import LibvirtVM, Wiring
from virtuoso_core.libvirt_base.binding import libvirt
from virtuoso_core.spec import Feature, Network, Option, SaveResult, State, VMSpec, option_table
from virtuoso_core.vm import VM
from virtuoso_core.xml import DomainDocument, Interface

from .base import NO_TOOLS, VmwareHypervisor, VmwareVM, foreign_image
from .registry import Registry
from .vmrun import ASKING, PRODUCTS, running, vmrun
from .vmx import VmxFile

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
    """A machine whose ``_domain`` is the path of its .vmx file: a domain of libvirt's would go with the connection."""

    _hypervisor: WorkstationHypervisor
    _domain: str

    def _read(self) -> VMSpec:
        self._vmx: VmxFile = self._call("read", VmxFile, self._domain)
        native = self._hypervisor.connection.native
        text = self._call("read", native.domainXMLFromNative, "vmware-vmx", self._vmx.for_libvirt(), 0)
        self._document = DomainDocument(text)
        for disk in self._document.disks:
            if disk.source_file:  # VMware counts from the folder of the .vmx
                disk.source_file = os.path.join(os.path.dirname(self._domain), disk.source_file)
        options: dict[str, Any] = {"firmware": "bios"}
        for name, (key, words) in _OPTIONS.items():
            said = self._vmx.settings.get(key, "").lower()
            options.update((name, value) for value, word in words.items() if word.lower() == said)
        spec = self._hypervisor.read_spec(self._document)
        return replace(spec, name=self._vmx.name, options=MappingProxyType(options))

    def _create(self, spec: VMSpec) -> str:
        document = self._new_document(spec)
        assert spec.disk_image is not None
        path = Path(os.path.realpath(os.path.dirname(spec.disk_image)), f"{spec.name}.vmx")
        native, validate = self._hypervisor.connection.native, libvirt().VIR_DOMAIN_DEFINE_VALIDATE
        with Registry().locked() as registry, ExitStack() as undo:
            self._check_name_free(spec.name)
            if os.path.lexists(path):
                problem = f"There is already a file {path}, which the VM {spec.name!r} would need."
                hint = "Choose another name, or put the disk into a folder of its own."
                raise VMExistsError(problem, hint=hint, **self._where)
            undo.callback(path.unlink, missing_ok=True)
            # libvirt writes the file of a domain that is defined, and leaves it there when it forgets the domain
            self._call("save", lambda: native.defineXMLFlags(document.text, validate).undefine())
            vmx: VmxFile = self._call("save", VmxFile, str(path))
            self._call("save", vmx.changed(_settings(spec, spec.changed_from(VMSpec("", 0, 0)))).write)
            self._call("remember", registry.add, [vmx.path])
            undo.pop_all()
        self._domain = vmx.path
        return vmx.uuid

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        assert self._document is not None
        self._require_off("VMware would overwrite the change")
        self._hypervisor.patch(self._document.copy(), spec, changed & {"memory", "cpus"})  # refuses what cannot be
        self._old = self._vmx
        self._call("save", self._vmx.changed(_settings(spec, changed)).write)
        return SaveResult.APPLIED

    def _undo_update(self) -> None:
        self._call("put back the settings of", self._old.write)

    def _get_state(self) -> State:
        vmx: VmxFile = self._call("look at", VmxFile, self._domain)
        return vmx.state(self._call("look at", running, self._hypervisor.uri))

    def _vmrun(self, command: str, *how: str, **named: Any) -> str:
        return vmrun(self._hypervisor.uri, command, self._domain, *how, **named)

    def _start(self) -> None:
        window = "nogui" if self._read().options.get("headless") else "gui"
        self._call("start", self._vmrun, "start", window)

    def _power_off(self) -> None:
        with suppress(InvalidStateError):
            self._unless_off("pull the plug of", lambda: self._vmrun("stop", "hard"))

    def _ask_guest(self) -> None:
        self._unless_off("stop", lambda: self._vmrun("stop", "soft", timeout=ASKING))

    def _reboot(self) -> None:
        self._call("reboot", self._vmrun, "reset", "soft")

    def _suspend(self) -> None:
        self._call("suspend", self._vmrun, "suspend", "hard")  # without scripts, which need VMware Tools

    def _address_reports(self) -> Iterator[AddressReport]:
        """The one address of the guest that vmrun tells; not of which card it is."""
        try:
            said = self._call("ask for the address of", self._vmrun, "getGuestIPAddress").strip()
        except HypervisorError as error:
            yield AddressReport("tools", said=error.message.rstrip("."), hint=NO_TOOLS)
            return
        known = said not in ("", "unknown")
        yield AddressReport("tools", (Address(said, None, "tools"),) if known else (), "" if known else "know none")

    def _undefine(self) -> None:
        self._call("remove", lambda: VmxFile(self._domain).remove())

    def _prepare_start(self, start_networks: bool) -> None:
        spec, hypervisor = self._read(), self._hypervisor
        for path in (spec.disk_image, *spec.more_disks):
            if path is not None:
                hypervisor._check_image(path)
        for path in (spec.cdrom, spec.seed):
            if path is not None:
                hypervisor._check_there(path)


def _settings(spec: VMSpec, changed: frozenset[str]) -> dict[str, str | None]:
    """The changed values as settings of a .vmx file."""
    settings = {f"options.{name}": (key, words.get(spec.options.get(name))) for name, (key, words) in _OPTIONS.items()}
    settings |= {"memory": ("memsize", str(spec.memory // 1024)), "cpus": ("numvcpus", str(spec.cpus))}
    return dict(setting for field, setting in settings.items() if field in changed)


class WorkstationHypervisor(VmwareHypervisor):
    """VMware's products for one's own machine: ``vmwarews:///session``, ``vmwareplayer:``, ``vmwarefusion:``."""

    name = "vmware-workstation"
    schemes = tuple(PRODUCTS)
    vm_class: ClassVar[type[LibvirtVM]] = WorkstationVM
    # vmrun cannot tell a paused machine from a running one
    features = frozenset(
        {
            Feature.ADDRESSES,
            Feature.CDROM,
            Feature.CLOUD_INIT,
            Feature.DISKS,
            Feature.MODIFY,
            Feature.READONLY,
            Feature.REBOOT,
            Feature.SHUTDOWN,
            Feature.SUSPEND,
        }
    )
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

    @classmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Self:
        """Connect; with nobody to sign in to."""
        if not uri.is_local or uri.path != "/session":
            raise InvalidURIError(f"The URI {uri} cannot be used.", hint=f"Write {uri.scheme}:///session", uri=uri)
        opened = super().open(uri)  # libvirt refuses to translate on a connection that is read-only for it
        opened._readonly = readonly
        if uri.scheme == "vmwareplayer":
            opened.features -= {Feature.SUSPEND}
        return opened

    @classmethod
    def _diagnose_connection(cls, uri: URI) -> Iterable[Check]:
        missing = [program for program in ("vmrun", PRODUCTS[uri.scheme][1]) if shutil.which(program) is None]
        if missing:
            advice = "Install VMware, and put the folder of its programs on the PATH."
            yield Check("VMware", "fail", f"Not found on the PATH: {', '.join(missing)}.", advice)
        else:
            yield Check("VMware", "ok", f"Installed: {shutil.which('vmrun')}.")
            yield from _check_running(uri)

    def _machines(self) -> Iterable[tuple[VmxFile, State]]:
        """All that is known, and what it is doing. One that was seen running once is remembered."""
        now, registry = self.connection.call("list the VMs", running, self.uri), Registry()
        known = registry.paths()
        if new := sorted(now.difference(known)):
            self.connection.call("remember what runs", registry.add, new)
        machines = []
        for path in [*known, *new]:
            with suppress(VirtuosoError):  # it went while we looked, or is not ours to read
                machines.append(VmxFile(path))
        return [(vmx, vmx.state(now)) for vmx in machines]

    def _list_vms(self) -> Iterable[VM]:
        return [WorkstationVM(self, domain=vmx.path, name=vmx.name, uuid=vmx.uuid) for vmx, _ in self._machines()]

    def _find_vm(self, key: str) -> VM:
        return Hypervisor._find_vm(self, key)

    def _summaries(self) -> Iterable[VMSummary]:
        for vmx, state in self._machines():
            memory, cpus = vmx.number("memsize", 32) * 1024, vmx.number("numvcpus", 1)
            yield VMSummary(vmx.name, vmx.uuid, state, memory, cpus)

    def _check_image(self, path: str) -> None:
        super()._check_image(path)
        with open(path, "rb") as file:
            start = file.read(21)
        if not start.startswith((b"KDMV", b"COWD", b"# Disk DescriptorFile")):
            raise foreign_image(path, "whatever its name says", f"{path.removesuffix('.vmdk')}-converted.vmdk")

    def _check_there(self, path: str) -> None:
        check_image(path)
        if not os.access(path, os.R_OK):
            raise ImageUnreadableError(f"You may not read the disk image {path}.", hint=f"See: ls -l '{path}'")

    def recognise(self, card: Interface) -> tuple[str, Wiring | None]:
        """The target tells a virtual switch from the bridge to the host's network."""
        if card.type != "bridge":
            return super().recognise(card)
        usual = {None: "bridged", self.ways["host_only"][0].default: "host_only"}
        type = usual.get(card.target, "internal")
        return type, self.ways[type][0]


def _check_running(uri: URI) -> Iterable[Check]:
    """libvirt reads the files of the machines that run, or it does not connect."""
    try:
        paths = sorted(running(uri))
        problems = [problem for path in paths for problem in VmxFile(path).problems()]
    except VirtuosoError as error:
        paths, problems = [], [error.message.rstrip(".")]
    if problems:
        explanation = f"libvirt cannot read what runs: {'; '.join(problems)}."
        yield Check("Running machines", "fail", explanation, "Stop it, or mend its file.")
    elif paths:
        yield Check("Running machines", "ok", f"libvirt must be able to read what runs: {', '.join(paths)}.")
