"""VirtualBox through VBoxManage: every version, here and over ssh. Machines are changed in place."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from uuid import uuid4

from virtuoso_core import URI, Hypervisor
from virtuoso_core.attempts import telling_off, undoing
from virtuoso_core.diagnosis import Check
from virtuoso_core.errors import (
    HypervisorError,
    ImageError,
    InvalidStateError,
    InvalidURIError,
    NetworkNotFoundError,
    VirtuosoError,
)
from virtuoso_core.facts import Address, AddressReport, VMSummary
from virtuoso_core.hypervisor import Credentials
from virtuoso_core.programs import HostShell, code_of, records
from virtuoso_core.spec import BASIC, Network, SaveResult, State, VMSpec
from virtuoso_core.vm import VM
from virtuoso_core.waiting import Wait
from virtuoso_core.words import check_listed, complete

from .runner import FAILURE, Runner
from .settings import (
    INACCESSIBLE,
    KINDS,
    MODELS,
    NETWORKS,
    NEW,
    OPTIONS,
    Flags,
    commands,
    configuration,
    controllers,
    disks,
    flags_of,
    is_chain,
    listed,
    mac_address,
    main_place,
    ostypes,
    parse_info,
    plug,
    read_spec,
    snapshots,
    state_of,
    summaries,
    write_spec,
)

_OFF = (State.STOPPED, State.SUSPENDED, State.CRASHED)
DRIVER = "/dev/vboxdrv"


def check_module(host: HostShell) -> Check:
    """Whether the host has VirtualBox's kernel module."""
    if not host.exists("/proc/version"):
        return Check("Kernel module", "skip", "This is no Linux.")
    if host.exists(DRIVER):
        return Check("Kernel module", "ok", f"{DRIVER} is there.")
    explanation = f"VirtualBox's kernel module is not loaded: there is no {DRIVER}, and no machine starts."
    advice = "Load it: sudo modprobe vboxdrv. Build it where there is none: sudo /sbin/vboxconfig"
    return Check("Kernel module", "fail", explanation, advice)


class VBoxManageHypervisor(Hypervisor):
    """VirtualBox behind VBoxManage."""

    name = "vbox"
    schemes = ("vbox",)
    features = BASIC
    mac_prefix = "08:00:27"
    options = OPTIONS
    networks = NETWORKS

    def __init__(self, uri: URI, runner: Runner, *, readonly: bool = False) -> None:
        super().__init__(uri, readonly=readonly)
        self.runner = runner
        self._ostypes: dict[str, str] = {}
        # macOS has networks where the others have adapters
        other = "hostonly" if uri.is_local and sys.platform == "darwin" else "hostonlynet"
        self.kinds = {told["type"]: kind for kind, told in KINDS.items() if kind != other}

    @classmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Hypervisor:
        """See that VBoxManage runs. Signing in is ssh's affair; it never asks."""
        if uri.path not in ("", "/", "/session", "/system") or (uri.host is None) != (uri.transport is None):
            hint = "It looks like vbox:///session or vbox+ssh://host/session."
            raise InvalidURIError(f"{uri} is no address of VirtualBox.", hint=hint)
        return cls(uri, Runner(uri), readonly=readonly)

    def _version(self) -> str:
        return f"VirtualBox {self.runner.version.partition('_')[0].partition('r')[0]} by VBoxManage"

    def _new_vm(self) -> VM:
        return VBoxManageVM(self, defaults=read_spec(NEW))

    def machines(self) -> dict[str, str]:
        """The names by the UUIDs; that of a machine whose settings cannot be read is INACCESSIBLE."""
        return listed(self.runner.run(["list", "vms"], doing="list the VMs"))

    def _list_vms(self) -> Iterable[VM]:
        names = self.machines()
        return [VBoxManageVM(self, name=names[uuid], uuid=uuid) for uuid in names if names[uuid] != INACCESSIBLE]

    def _summaries(self) -> Iterable[VMSummary]:
        return summaries(self.runner.run(["list", "--long", "vms"], doing="list the VMs"), self.machines())

    def _image_path(self, text: str) -> str:
        return self.runner.host.absolute(text)

    def _memory_size(self, kib: int) -> int:
        return max(4, -(-kib // 1024)) * 1024

    def _network_defaults(self, network: Network) -> Network:
        told = KINDS[self.kinds[network.type]]
        advice = "`VBoxManage list bridgedifs` lists the host's network cards: vm.network('bridged', source='eth0')"
        return complete(network, has_source="flag" in told, usual=told.get("usual"), models=MODELS, advice=advice)

    def ostypes(self) -> dict[str, str]:
        """VirtualBox's names of guest systems by its descriptions of them, asked once a connection."""
        if not self._ostypes:
            self._ostypes = ostypes(self.runner.run(["list", "ostypes"], doing="list the systems of guests"))
        return self._ostypes

    def base_image(self, path: str) -> str:
        """The image below the files that hold what was written since each snapshot."""
        text = self.runner.run(["list", "hdds"], doing="list the disk images")
        media = {record["UUID"]: record for record in records(text) if "UUID" in record}
        medium = next((record for record in media.values() if record.get("Location") == path), {})
        while medium.get("Parent UUID") in media:
            medium = media[medium["Parent UUID"]]
        return medium.get("Location", path)

    def _examine(self) -> Iterable[Check]:
        if lost := [uuid for uuid, name in self.machines().items() if name == INACCESSIBLE]:
            advice = "\n".join(f"VBoxManage showvminfo {uuid}" for uuid in lost)
            yield Check("Machines", "warn", "VirtualBox cannot read the settings of some, which are left out.", advice)
        if not self.uri.is_local:  # this machine's own was looked for before
            yield check_module(self.runner.host)


class VBoxManageVM(VM):
    """A machine that VBoxManage changes in place."""

    _hypervisor: VBoxManageHypervisor
    _text = ""
    _info: dict[str, str]

    def _manage(self, doing: str, *words: str, timeout: float = 60) -> str:
        name = self._where["vm"]
        return self._hypervisor.runner.run(words, doing=f"{doing} the VM {name!r}", vm=name, timeout=timeout)

    def _look(self) -> dict[str, str]:
        self._text = self._manage("look at", "showvminfo", self._uuid, "--machinereadable")
        self._info = parse_info(self._text)
        return self._info

    # Configuration.

    def _read(self) -> VMSpec:
        info = self._look()
        info["ostype"] = self._hypervisor.ostypes().get(info["ostype"], info["ostype"])
        image = next(iter(disks(info).values()), None)
        return read_spec(flags_of(info), self._hypervisor.base_image(image) if image and snapshots(info) else image)

    def _render(self, spec: VMSpec, changed: frozenset[str]) -> str:
        if not self._new and not self._text:
            self._read()
        todo = self._creation(spec, "NEW") if self._new else self._changes(self._uuid, spec, changed, {})
        prefix = "VBoxManage" if self._new else "# to do: VBoxManage"
        return configuration(self._text) + "".join(f"{prefix} {shlex.join(words)}\n" for words in todo)

    def _changes(self, uuid: str, spec: VMSpec, changed: frozenset[str], base: Flags) -> list[list[str]]:
        """What makes the machine, as it was last read, what is wanted."""
        images: dict[str, str | None] = {**disks(self._info)}
        flags = {**base, **write_spec(flags_of(self._info), spec, changed, self._hypervisor.kinds)}
        if "ostype" in flags:  # VirtualBox takes any text
            check_listed(flags["ostype"], self._hypervisor.ostypes().values(), "VirtualBox's guest systems")
        if "disk_image" in changed:
            images[main_place(self._info)] = spec.disk_image
        return commands(uuid, self._info, flags, images)

    def _creation(self, spec: VMSpec, uuid: str) -> list[list[str]]:
        ostype: str = spec.options.get("ostype", NEW["ostype"])
        self._info = {"name": spec.name, "ostype": ostype}
        base = {**NEW, "rtcuseutc": "off" if ostype.startswith("Windows") else "on"}
        first = ["createvm", "--name", spec.name, "--ostype", ostype, "--uuid", uuid, "--register"]
        return [first, *self._changes(uuid, spec, frozenset(spec.values()), base)]

    def _create(self, spec: VMSpec) -> str:
        self._check_name_free(spec.name)
        self._known_name, uuid = spec.name, str(uuid4())
        half = VBoxManageVM(self._hypervisor, name=spec.name, uuid=uuid)
        todo = self._creation(spec, uuid)
        with undoing(half._undefine, f"the half made machine {uuid} be removed"):
            self._carry_out("make", todo)
        return uuid

    def _carry_out(self, doing: str, todo: Iterable[list[str]]) -> None:
        for words in todo:
            self._manage(doing, *words)

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        state = state_of(self._info.get("VMState", ""))
        if state not in (State.STOPPED, State.CRASHED):
            message = f"The VM {self._known_name!r} is {state}: VirtualBox changes only machines that are off."
            hint = "Start it and let it stop first." if state is State.SUSPENDED else "Stop it first."
            raise InvalidStateError(f"{message} Nothing was changed.", hint=hint, **self._where)
        if "disk_image" in changed and snapshots(self._info):
            raise self._has_snapshots("and what was written since belongs to its disk image: that cannot be changed.")
        if "name" in changed:
            self._check_name_free(spec.name)
        todo = self._changes(self._uuid, spec, changed, {})
        with self._all_or_nothing():
            self._carry_out("change", todo)
        self._known_name = spec.name
        self._forget(disks(self._before).values() if "disk_image" in changed else ())
        return SaveResult.APPLIED

    def _has_snapshots(self, problem: str) -> InvalidStateError:
        """The error for what cannot be done because of them."""
        message = f"The VM {self._known_name!r} has snapshots, {problem} Nothing was changed."
        hint = f"Delete those you do not need first: VBoxManage snapshot {shlex.quote(self._known_name)} list"
        return InvalidStateError(message, hint=hint, **self._where)

    def _all_or_nothing(self) -> AbstractContextManager[None]:
        """What fails in the block is put back as it was last read."""
        self._before = self._info
        return undoing(self._undo_update, f"it be put back as it was, with the disks {disks(self._info)}")

    def _undo_update(self) -> None:
        before = self._before
        self._read()
        added = controllers(self._info).keys() - controllers(before).keys()
        self._carry_out("put back", commands(self._uuid, self._info, flags_of(before), disks(before)))
        for name in added:
            self._manage("put back", "storagectl", self._uuid, "--name", name, "--remove")
        self._known_name = before["name"]

    # Disk images.

    def _forget(self, images: Iterable[str]) -> None:
        """Let VirtualBox's list of media lose images; one that another machine has stays there."""
        for image in images:
            with suppress(VirtuosoError):  # it is in use, or it stays in a list where it does no harm
                self._hypervisor.runner.run(["closemedium", "disk", image], doing=f"forget {image}")

    def _delete_image(self, path: str) -> None:
        runner = self._hypervisor.runner
        try:
            runner.run(["closemedium", "disk", path, "--delete"], doing=f"delete {path}", timeout=600)
        except VirtuosoError as error:
            if runner.host.exists(path):
                raise ImageError(error.message, hint="Delete it by hand.", **self._where) from error

    # Control.

    def _get_state(self) -> State:
        return state_of(self._look().get("VMState", ""))

    def _start(self) -> None:
        host = self._hypervisor.runner.host
        frontend = self._info.get("defaultfrontend") or ("gui" if host.has_screen else "headless")
        try:
            self._manage("start", "startvm", self._uuid, "--type", frontend, timeout=180)
        except (HypervisorError, InvalidStateError) as error:
            if self._get_state() is State.RUNNING:
                return  # somebody else was faster
            module = check_module(host)
            if code_of(error) != FAILURE or module.status != "fail":
                raise
            message = f"The VM {self.name!r} cannot start on {host.uri}. {module.explanation}"
            raise HypervisorError(message, code=FAILURE, hint=f"{module.advice}.", **self._where) from error

    def _prepare_start(self, start_networks: bool) -> None:
        info, runner = self._look(), self._hypervisor.runner
        for key, adapters in (("hostonlyadapter", "hostonlyifs"), ("bridgeadapter", "bridgedifs")):
            named = {source for each, source in info.items() if re.fullmatch(rf"{key}\d+", each) and source}
            text = runner.run(["list", adapters], doing=f"list the {adapters}") if named else ""
            for source in sorted(named - {adapter.get("Name") for adapter in records(text)}):
                usual = source == KINDS["hostonly"]["usual"]
                if usual and start_networks:
                    self._manage("make the host's network of", "hostonlyif", "create")
                    continue
                make = "Make it: VBoxManage hostonlyif create; or start with start_networks=True."
                hint = make if usual else f"See what is there: VBoxManage list {adapters}"
                message = (
                    f"The VM {self.name!r} needs the host's network {source!r}, which is not on {runner.host.uri}."
                )
                raise NetworkNotFoundError(message, hint=hint, **self._where)

    def _control_vm(self, doing: str, *words: str) -> None:
        with telling_off(self, doing):
            self._manage(doing, "controlvm", self._uuid, *words)

    def _power_off(self) -> None:
        with suppress(InvalidStateError):  # it is off
            self._control_vm("pull the plug of", "poweroff")
        wait = Wait(6)
        while self._get_state() not in _OFF and wait.pause():
            pass

    def _request_stop(self) -> None:
        self._control_vm("stop", "acpipowerbutton")

    def _reboot(self) -> None:
        try:
            self._control_vm("reboot", "reboot")  # by the Guest Additions, from version 7 on
        except VirtuosoError:
            self._control_vm("reboot", "reset")

    def _pause(self) -> None:
        self._control_vm("pause", "pause")

    def _resume(self) -> None:
        self._control_vm("resume", "resume")

    def _screenshot(self) -> bytes:
        words, doing = ["controlvm", self._uuid, "screenshotpng"], f"take a screenshot of the VM {self.name!r}"
        return self._hypervisor.runner.file(words, doing=doing, vm=self.name)

    def _address_reports(self) -> Iterable[AddressReport]:
        text = self._manage("ask for the addresses of", "guestproperty", "enumerate", self._uuid)
        pattern = r"(?:^|Name: )/VirtualBox/GuestInfo/Net/(\d+)/(\S+?)\s*(?:= '|, value: )([^',]*)"
        found = re.findall(pattern, text, re.MULTILINE)
        macs = {number: mac_address(value) for number, key, value in found if key == "MAC" and value}
        ips = [Address(ip, macs.get(number), "agent") for number, key, ip in found if key in ("V4/IP", "V6/IP") and ip]
        unknown = AddressReport("agent", (), "the Guest Additions tell none", "Install the Guest Additions in it.")
        yield AddressReport("agent", tuple(ips)) if ips else unknown

    def _undefine(self) -> None:
        info = self._look()
        if snapshots(info) and not is_chain(info):
            raise self._has_snapshots("which branch, and so does its disk image: it was not removed.")
        if state_of(info.get("VMState", "")) is State.SUSPENDED:
            self._manage("drop the saved memory of", "discardstate", self._uuid)
        for uuid in snapshots(info):  # what was written since goes into the disk image
            self._manage("delete a snapshot of", "snapshot", self._uuid, "delete", uuid, timeout=24 * 3600)
        self._read()
        with self._all_or_nothing():  # what is plugged in would be deleted
            self._carry_out("remove", (plug(self._uuid, place, None) for place in disks(self._info)))
            self._manage("remove", "unregistervm", self._uuid, "--delete")
        self._forget(disks(self._before).values())
