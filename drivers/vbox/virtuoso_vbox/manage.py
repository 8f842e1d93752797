"""VirtualBox through VBoxManage: every version, here and over ssh. Machines are changed in place."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Iterable
from contextlib import AbstractContextManager, suppress
from functools import cached_property
from uuid import uuid4

from virtuoso_core import URI, Hypervisor
from virtuoso_core.attempts import telling_off, undoing
from virtuoso_core.calls.base import OFF
from virtuoso_core.diagnosis import Check
from virtuoso_core.errors import (
    HypervisorError,
    ImageError,
    InvalidStateError,
    InvalidURIError,
    NetworkNotFoundError,
    UnsupportedError,
    VirtuosoError,
)
from virtuoso_core.facts import Address, AddressReport, Display, Snapshot, VMSummary
from virtuoso_core.hypervisor import Credentials
from virtuoso_core.local_storage import LocalStorage
from virtuoso_core.programs import HostShell, code_of, records
from virtuoso_core.spec import BASIC, Feature, Network, SaveResult, State, VMSpec
from virtuoso_core.storage import Storage
from virtuoso_core.vm import VM
from virtuoso_core.waiting import Wait
from virtuoso_core.words import DISK, DRIVE, Media, arrange_media, check_listed, complete

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
    flags_of,
    free_places,
    kept,
    listed,
    mac_address,
    ostypes,
    parse_info,
    plugged,
    read_spec,
    state_of,
    summaries,
    to_merge,
    write_spec,
)

_ON_FILES = {Feature.CREATE_DISK, Feature.UPLOAD, Feature.CLOUD_INIT}
_LONG = 24 * 3600
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
    features = BASIC | _ON_FILES | {Feature.DISKS, Feature.CDROM, Feature.SNAPSHOT, Feature.SUSPEND, Feature.DISPLAY}
    mac_prefix = "08:00:27"
    options = OPTIONS
    networks = NETWORKS

    def __init__(self, uri: URI, runner: Runner, *, readonly: bool = False) -> None:
        super().__init__(uri, readonly=readonly)
        self.runner = runner
        if not uri.is_local:
            self.features -= _ON_FILES
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
        seen = ((name, uuid) for uuid, name in self.machines().items() if name != INACCESSIBLE)
        return [VBoxManageVM(self, name=name, uuid=uuid) for name, uuid in seen]

    def _summaries(self) -> Iterable[VMSummary]:
        return summaries(self.runner.run(["list", "--long", "vms"], doing="list the VMs"), self.machines())

    def _storage(self) -> Storage:
        return LocalStorage(("vdi",))

    def _image_path(self, text: str) -> str:
        return self.runner.host.absolute(text)

    def _memory_size(self, kib: int) -> int:
        return max(4, -(-kib // 1024)) * 1024

    def _network_defaults(self, network: Network) -> Network:
        told = KINDS[self.kinds[network.type]]
        advice = "`VBoxManage list bridgedifs` lists the host's network cards: vm.network('bridged', source='eth0')"
        return complete(network, has_source="flag" in told, usual=told.get("usual"), models=MODELS, advice=advice)

    @cached_property
    def ostypes(self) -> dict[str, str]:
        """VirtualBox's names of guest systems by its descriptions of them."""
        return ostypes(self.runner.run(["list", "ostypes"], doing="list the systems of guests"))

    def base_images(self) -> dict[str, str]:
        """By each image the one below all files that hold what was written since a snapshot. Those are listed later."""
        found: dict[str, str] = {}
        for image in records(self.runner.run(["list", "hdds"], doing="list the disk images")):
            file, parent = image.get("Location", ""), image.get("Parent UUID", "base")
            found[image.get("UUID", "")] = found[file] = found.get(parent, file)
        return found

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
        info["ostype"] = self._hypervisor.ostypes.get(info["ostype"], info["ostype"])
        bases = self._hypervisor.base_images() if to_merge(info) else {}
        media = plugged(info).items()
        return read_spec(flags_of(info), {place: (kind, bases.get(file, file)) for place, (kind, file) in media})

    def _render(self, spec: VMSpec, changed: frozenset[str]) -> str:
        if not self._new and not self._text:
            self._read()
        todo = self._creation(spec, "NEW") if self._new else self._changes(self._uuid, spec, changed, {})
        prefix = "VBoxManage" if self._new else "# to do: VBoxManage"
        return configuration(self._text) + "".join(f"{prefix} {shlex.join(words)}\n" for words in todo)

    def _changes(self, uuid: str, spec: VMSpec, changed: frozenset[str], base: Flags) -> list[list[str]]:
        """What makes the machine, as it was last read, what is wanted."""
        flags = {**base, **write_spec(flags_of(self._info), spec, changed, self._hypervisor.kinds)}
        if "ostype" in flags:  # VirtualBox takes any text
            check_listed(flags["ostype"], self._hypervisor.ostypes.values(), "VirtualBox's guest systems")
        return commands(uuid, self._info, flags, self._media(spec, changed))

    def _media(self, spec: VMSpec, changed: frozenset[str]) -> Media:
        return arrange_media(plugged(self._info), spec, changed, free_places(self._info))

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
        with undoing(half._undefine, f"the half made machine {uuid} be removed"):
            self._carry_out("make", self._creation(spec, uuid))
        return uuid

    def _carry_out(self, doing: str, todo: Iterable[list[str]]) -> None:
        for words in todo:
            self._manage(doing, *words)

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        self._check_changeable(changed & {"disk_image", "more_disks"})
        if "name" in changed:
            self._check_name_free(spec.name)
        todo = self._changes(self._uuid, spec, changed, {})
        with self._all_or_nothing():
            self._carry_out("change", todo)
        self._known_name = spec.name
        self._forget({*plugged(self._info).values()} - {*self._media(spec, changed).values()})
        return SaveResult.APPLIED

    def _check_changeable(self, disks: object) -> None:
        """Raise InvalidStateError when it is on, or when its disks are to be changed and it has snapshots."""
        why, hint = "", "Stop it first; one that is suspended must be started for that."
        if (state := state_of(self._info.get("VMState", ""))) not in (State.STOPPED, State.CRASHED):
            why = f"is {state}: VirtualBox changes only machines that are off."
        elif disks and to_merge(self._info):
            why = "has snapshots, and what was written since belongs to its disks: those cannot be changed."
            hint = "Drop them first: vm.delete_snapshot(name)"
        if why:
            raise InvalidStateError(f"The VM {self._known_name!r} {why} Nothing was changed.", hint=hint, **self._where)

    def _all_or_nothing(self) -> AbstractContextManager[None]:
        """What fails in the block is put back as it was last read."""
        self._before = self._info
        return undoing(self._undo_update, f"it be put back as it was, with {plugged(self._info)}")

    def _undo_update(self) -> None:
        self._read()
        added = controllers(self._info).keys() - controllers(self._before).keys()
        self._carry_out("put back", commands(self._uuid, self._info, flags_of(self._before), plugged(self._before)))
        for name in added:
            self._manage("put back", "storagectl", self._uuid, "--name", name, "--remove")
        self._known_name = self._before["name"]

    # Disk images.

    def _forget(self, media: Iterable[tuple[str, str]]) -> None:
        """Let VirtualBox's list of media lose images; one that another machine has stays there."""
        for kind, file in (medium for medium in media if medium[1]):
            words = ["closemedium", "disk" if kind == DISK else "dvd", file]
            with suppress(VirtuosoError):  # it is in use, or it stays in a list where it does no harm
                self._hypervisor.runner.run(words, doing=f"forget {file}")

    def _delete_image(self, path: str) -> None:
        runner = self._hypervisor.runner
        try:
            runner.run(["closemedium", "disk", path, "--delete"], doing=f"delete {path}", timeout=600)
        except VirtuosoError as error:
            if runner.host.exists(path):
                raise ImageError(error.message, hint="Delete it by hand.", **self._where) from error

    def _resize_disk(self, path: str, size: int) -> None:
        self._check_changeable(path)
        self._manage("resize a disk of", "modifymedium", "disk", path, "--resizebyte", str(size), timeout=_LONG)

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
                hint = f"See what is there: VBoxManage list {adapters}"
                if source == KINDS["hostonly"]["usual"]:
                    if start_networks:
                        self._manage("make the host's network of", "hostonlyif", "create")
                        continue
                    hint = "Make it: VBoxManage hostonlyif create; or start with start_networks=True."
                problem = f"needs the host's network {source!r}, which is not on {runner.host.uri}."
                raise NetworkNotFoundError(f"The VM {self.name!r} {problem}", hint=hint, **self._where)

    def _control_vm(self, doing: str, *words: str) -> None:
        with telling_off(self, doing):
            self._manage(doing, "controlvm", self._uuid, *words)

    def _power_off(self) -> None:
        with suppress(InvalidStateError):  # it is off
            self._control_vm("pull the plug of", "poweroff")
        wait = Wait(6)
        while self._get_state() not in (*OFF, State.CRASHED) and wait.pause():
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

    def _suspend(self) -> None:
        self._manage("suspend", "controlvm", self._uuid, "savestate", timeout=_LONG)

    def _displays(self) -> Iterable[Display]:
        info = self._look()
        port, password = info.get("vrdeport", ""), info.get("vrdeauthtype") != "null"
        host = info.get("vrdeaddress") or "0.0.0.0"  # noqa: S104 - VirtualBox's meaning of none
        return [Display("rdp", host, int(port), password=password)] if port.isdecimal() else []

    # Ways back.

    def _kept(self) -> dict[str, tuple[str, Snapshot]]:
        return kept(self._hypervisor.runner.host.read(self._look()["CfgFile"], vm=self._known_name))

    def _snapshots(self) -> Iterable[Snapshot]:
        return [snapshot for _, snapshot in self._kept().values()]

    def _take_snapshot(self, name: str, description: str) -> None:
        words = ("snapshot", self._uuid, "take", name, f"--description={description}")
        self._manage("snapshot", *words, timeout=_LONG)

    def _revert(self, name: str) -> None:
        uuid, snapshot = self._kept()[name]
        self._power_off()
        self._manage("go back to a snapshot of", "snapshot", self._uuid, "restore", uuid, timeout=_LONG)
        if snapshot.state is State.RUNNING:
            self._start()

    def _delete_snapshot(self, name: str) -> None:
        uuid, gone = (found := self._kept())[name]
        after = [repr(each.name) for _, each in found.values() if each.parent == name] + ["the VM"] * gone.current
        if len(after) > 1:
            message = f"The snapshot {name!r} of the VM {self._title} stays: {' and '.join(after)} go on from it."
            raise UnsupportedError(message, hint="VirtualBox drops those from which one goes on.", **self._where)
        self._manage("drop a snapshot of", "snapshot", self._uuid, "delete", uuid, timeout=_LONG)

    def _undefine(self) -> None:
        info = self._look()
        if state_of(info.get("VMState", "")) is State.SUSPENDED:
            self._manage("drop the saved memory of", "discardstate", self._uuid)
        for uuid in to_merge(info):  # what was written since goes into the disk images
            self._manage("drop a snapshot of", "snapshot", self._uuid, "delete", uuid, timeout=_LONG)
        self._read()
        with self._all_or_nothing():  # what is plugged in would be deleted
            drives = {place: medium for place, medium in plugged(self._info).items() if medium[0] == DRIVE}
            self._carry_out("remove", commands(self._uuid, self._info, {}, drives))
            self._manage("remove", "unregistervm", self._uuid, "--delete")
        self._forget(plugged(self._before).values())
