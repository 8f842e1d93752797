"""VirtualBox through VBoxManage: every version, here and over ssh. Machines are changed in place."""

from __future__ import annotations

import difflib
import os
import re
import shlex
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any
from uuid import uuid4

from virtuoso_core import URI, Hypervisor
from virtuoso_core.diagnosis import Check
from virtuoso_core.errors import (
    HypervisorError,
    ImageError,
    ImageFormatError,
    ImageNotFoundError,
    InvalidNetworkError,
    InvalidOptionError,
    InvalidStateError,
    InvalidURIError,
    InvalidValueError,
    NetworkNotFoundError,
    VirtuosoError,
    VMExistsError,
    VMNotFoundError,
)
from virtuoso_core.hypervisor import Credentials
from virtuoso_core.spec import Address, Feature, Network, SaveResult, State, VMSpec, VMSummary
from virtuoso_core.vm import VM

from .runner import FAILURE, FILE_ERROR, INVALID_ARGUMENT, OBJECT_IN_USE, ManageError, Runner, code_of, is_busy
from .settings import (
    MODELS,
    OPTIONS,
    Card,
    Info,
    Place,
    arrange,
    blocks,
    cards,
    configuration,
    disks,
    free_place,
    inaccessible,
    is_chain,
    listed,
    machines,
    parse_info,
    settings,
    snapshots,
    state_of,
)

_PATIENCE = (0.1, 0.2, 0.4, 0.8, 1.5)
"""Seconds to wait before each further try, while another program holds the machine."""
_OFF = (State.STOPPED, State.SUSPENDED, State.CRASHED)
DRIVER = "/dev/vboxdrv"
NO_DRIVER = "VirtualBox's kernel module is not loaded"
LOAD_DRIVER = "Load it: sudo modprobe vboxdrv. Build it where there is none: sudo /sbin/vboxconfig"


class VBoxManageHypervisor(Hypervisor):
    """VirtualBox behind VBoxManage."""

    name = "vbox"
    schemes = ("vbox",)
    features = frozenset(Feature)
    mac_prefix = "08:00:27"
    options = OPTIONS
    networks: Mapping[str, str] = MappingProxyType(
        {
            "nat": "Behind the host's address, by VirtualBox itself.",
            "bridged": "On the host's own network: source is one of its network cards.",
            "host_only": "The host and its guests among themselves; source is the host's side, by default vboxnet0.",
            "internal": "Guests among themselves, without the host; source is any name, by default intnet.",
        }
    )

    def __init__(self, uri: URI, runner: Runner, *, readonly: bool = False) -> None:
        super().__init__(uri, readonly=readonly)
        self.runner = runner
        self._ostypes: dict[str, str] | None = None
        # macOS has networks where the others have adapters
        apple = uri.is_local and sys.platform == "darwin"
        self.sources = {"host_only": "HostNetwork" if apple else "vboxnet0", "internal": "intnet"}
        self.kinds = {"nat": "nat", "bridged": "bridged", "internal": "intnet"}
        self.kinds["host_only"] = "hostonlynet" if apple else "hostonly"

    @classmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Hypervisor:
        """See that VBoxManage runs. Signing in is ssh's affair; it never asks."""
        if uri.path not in ("", "/", "/session", "/system") or (uri.host is None) != (uri.transport is None):
            raise InvalidURIError(
                f"{uri} is no address of VirtualBox.", hint="It looks like vbox:///session or vbox+ssh://host/session."
            )
        return cls(uri, Runner(uri), readonly=readonly)

    def _version(self) -> str:
        return f"VirtualBox {self.runner.version.partition('_')[0].partition('r')[0]} by VBoxManage"

    def _new_vm(self) -> VM:
        options = {"ostype": "Linux_64", "chipset": "piix3", "firmware": "bios", "graphics": "vmsvga", "vram": 16}
        options["boot"] = ("hd", "cdrom")
        return VBoxManageVM(self, defaults=VMSpec("", 1024 * 1024, 1, options=MappingProxyType(options)))

    def _machines(self) -> dict[str, str]:
        return listed(self.runner.run(["list", "vms"], doing="list the VMs"))

    def _find_vm(self, key: str) -> VM:
        found = self._machines()
        uuid = key.lower() if key.lower() in found else next((u for u, name in found.items() if name == key), None)
        if uuid is None:
            raise VMNotFoundError(f"There is no VM {key!r} on {self.uri}.", vm=key, uri=self.uri)
        return VBoxManageVM(self, name=found[uuid], uuid=uuid)

    def _list_vms(self) -> Iterable[VM]:
        return [VBoxManageVM(self, name=name, uuid=uuid) for uuid, name in self._machines().items()]

    def _summaries(self) -> Iterable[VMSummary]:
        for line in machines(self.runner.run(["list", "--long", "vms"], doing="list the VMs")):
            state = state_of(line.get("State", "").partition(" (")[0])
            memory, cpus = re.match(r"\d+", line.get("Memory size", "")), line.get("Number of CPUs", "")
            if memory and cpus.isdecimal():
                yield VMSummary(line["Name"], line["UUID"], state, int(memory[0]) * 1024, int(cpus))

    def _close(self) -> None:
        pass  # each call is a program of its own

    def _image_path(self, text: str) -> str:
        if self.uri.is_local:
            return os.path.abspath(os.path.expanduser(text))
        if not re.match(r"/|[A-Za-z]:\\", text):
            raise InvalidValueError(f"{text!r} is not an absolute path.", hint=f"It is a path on {self.uri.host}.")
        return text

    def _memory_size(self, kib: int) -> int:
        return max(4, -(-kib // 1024)) * 1024

    def _network_defaults(self, network: Network) -> Network:
        source = network.source or self.sources.get(network.type)
        if network.type == "nat" and source is not None:
            raise InvalidNetworkError("A network of type 'nat' has no source to choose.", hint="Leave source out.")
        if network.type == "bridged" and source is None:
            raise InvalidNetworkError(
                "A network of type 'bridged' needs a source, one of the host's network cards.",
                hint="`VBoxManage list bridgedifs` lists them: vm.network('bridged', source='eth0')",
            )
        if network.model not in (None, *MODELS):
            raise InvalidNetworkError(
                f"VirtualBox has no network card {network.model!r}.", hint=f"It has: {', '.join(MODELS)}."
            )
        return replace(network, source=source, model=network.model or MODELS[0])

    def ostypes(self) -> dict[str, str]:
        """The descriptions of the guest systems by their names, asked once a connection."""
        if self._ostypes is None:
            text = self.runner.run(["list", "ostypes"], doing="list the systems of guests")
            new = re.findall(r"^ID / Description: *(\S+) -- (.*?)\r?$", text, re.MULTILINE)
            old = re.findall(r"^ID: *(\S+)\r?\nDescription: *(.*?)\r?$", text, re.MULTILINE)  # before 7.1
            self._ostypes = dict(new or old)
        return self._ostypes

    def read_spec(self, info: Info) -> VMSpec:
        """What VBoxManage says of a machine, as plain data."""
        options = {option.name: value for option in settings() if (value := option.read(info)) is not None}
        described = options.get("ostype")
        options["ostype"] = next((name for name, text in self.ostypes().items() if text == described), described)
        image = next(iter(disks(info).values()), None)
        return VMSpec(
            name=info["name"],
            memory=int(info["memory"]) * 1024,
            cpus=int(info["cpus"]),
            disk_image=self.base_image(image) if image and snapshots(info) else image,
            networks=tuple(card.network() for card in cards(info).values() if card.kind != "none"),
            options=MappingProxyType(options),
        )

    def base_image(self, path: str) -> str:
        """The image below the files that hold what was written since each snapshot."""
        text = self.runner.run(["list", "hdds"], doing="list the disk images")
        media = {block["UUID"]: block for block in blocks(text) if {"UUID", "Parent UUID", "Location"} <= block.keys()}
        medium = next((block for block in media.values() if block["Location"] == path), None)
        while medium is not None and medium["Parent UUID"] in media:
            medium = media[medium["Parent UUID"]]
        return path if medium is None else medium["Location"]

    def _examine(self) -> Iterable[Check]:
        lost = inaccessible(self.runner.run(["list", "vms"], doing="list the VMs"))
        if lost:
            advice = "\n".join(f"VBoxManage showvminfo {uuid}" for uuid in lost)
            yield Check("Machines", "warn", "VirtualBox cannot read the settings of some, which are left out.", advice)
        if not self.uri.is_local and self.driver_missing():  # this machine's own was looked for before
            yield Check("Kernel module", "fail", f"{NO_DRIVER}: machines cannot be started.", LOAD_DRIVER)

    def driver_missing(self) -> bool:
        """Whether the host is a Linux without VirtualBox's kernel module."""
        return self.runner.exists("/proc/version") and not self.runner.exists(DRIVER)


class VBoxManageVM(VM):
    """A machine that VBoxManage changes in place."""

    _hypervisor: VBoxManageHypervisor
    _text = ""
    _info: Info = MappingProxyType({})

    def _run(self, doing: str, *words: str, timeout: float = 60) -> str:
        name = self._known_name or self.name
        for pause in (*_PATIENCE, None):
            try:
                return self._hypervisor.runner.run(words, doing=f"{doing} the VM {name!r}", vm=name, timeout=timeout)
            except InvalidStateError as error:
                if pause is None or not is_busy(error):
                    error.hint = error.hint or "Another program holds it, or it runs: close its settings, or stop it."
                    raise
                time.sleep(pause)
        raise AssertionError

    def _look(self) -> Info:
        self._text = self._run("look at", "showvminfo", self._uuid, "--machinereadable")
        self._info = parse_info(self._text)
        return self._info

    # Configuration.

    def _read(self) -> VMSpec:
        return self._hypervisor.read_spec(self._look())

    def _render(self, spec: VMSpec, changed: frozenset[str]) -> str:
        if self._new:
            return "".join(f"VBoxManage {shlex.join(words)}\n" for words in self._creation(spec, "NEW"))
        if not self._text:
            self._read()
        words = self._words(spec, changed - {"disk_image"})
        todo = f"# to do: VBoxManage modifyvm {self._uuid} {shlex.join(words)}\n" if words else ""
        if "disk_image" in changed:
            todo += f"# to do: disk image {spec.disk_image}\n"
        return configuration(self._text) + todo

    def _words(self, spec: VMSpec, changed: frozenset[str]) -> list[str]:
        """For ``modifyvm``, which makes all of the changes or none."""
        words: list[str] = []
        for option in settings():
            if f"options.{option.name}" in changed:
                words += option.write(self._checked(option.name, spec.options.get(option.name)))
        if "name" in changed:
            words += ["--name", spec.name]
        if "memory" in changed:
            words += ["--memory", str(spec.memory // 1024)]
        if "cpus" in changed:
            words += ["--cpus", str(spec.cpus)]
        if "networks" in changed:
            for slot, card in arrange(cards(self._info), spec.networks, self._hypervisor.kinds).items():
                words += card.words(slot)
        return words

    def _checked(self, name: str, value: object) -> object:
        """VirtualBox takes any text for a guest system."""
        known = self._hypervisor.ostypes() if name == "ostype" and value is not None else {}
        if known and value not in known:
            near = difflib.get_close_matches(str(value), known, n=3)
            raise InvalidOptionError(
                f"VirtualBox knows no guest system {value!r}.",
                hint=f"Did you mean {' or '.join(near)}?" if near else "See: VBoxManage list ostypes",
            )
        return value

    def _creation(self, spec: VMSpec, uuid: str) -> list[list[str]]:
        slots = range(1, 37 if spec.options.get("chipset") == "ich9" else 9)
        self._info = {f"nic{slot}": "none" for slot in slots}
        ostype = str(self._checked("ostype", spec.options.get("ostype") or "Linux_64"))
        wanted = frozenset(spec.values()) - {"name", "disk_image", "options.ostype"}
        chipset = wanted & {"options.chipset"}  # by itself: only the next call sees how many cards there can be
        usual = ["--acpi", "on", "--ioapic", "on", "--rtcuseutc", "off" if ostype.startswith("Windows") else "on"]
        usual += ["--nic1", "none"]  # createvm gives every machine one
        return [
            ["createvm", "--name", spec.name, "--ostype", ostype, "--uuid", uuid, "--register"],
            *([["modifyvm", uuid, *self._words(spec, chipset)]] if slots.stop > 9 else []),
            ["modifyvm", uuid, *usual, *self._words(spec, wanted)],
        ]

    def _create(self, spec: VMSpec) -> str:
        self._check_name_free(spec.name)
        uuid = str(uuid4())
        creation = self._creation(spec, uuid)
        self._known_name = spec.name
        plugged = False
        try:
            for words in creation:
                self._run("make", *words)
            if spec.disk_image is not None:
                plugged = True
                self._uuid, self._info = uuid, {}
                self._plug(self._place(), spec.disk_image)
        except VirtuosoError as error:
            self._uuid = ""
            self._discard(uuid, error)
            if code_of(error) == FILE_ERROR and not plugged:
                error.hint = "VirtualBox keeps machines in folders named like them: choose another name."
            raise
        return uuid

    def _discard(self, uuid: str, error: VirtuosoError) -> None:
        """Remove a machine that was half made."""
        try:
            VBoxManageVM(self._hypervisor, name=self._known_name, uuid=uuid)._undefine()
        except VMNotFoundError:
            pass  # it was not even begun
        except VirtuosoError as another:
            error.add_note(f"Nor could the half made machine {uuid} be removed: {another}")

    def _check_name_free(self, name: str) -> None:
        """VirtualBox itself lets a machine take another's name."""
        for uuid, other in self._hypervisor._machines().items():
            if other == name and uuid != self._uuid:
                raise VMExistsError(
                    f"There is already a VM {name!r} on {self._hypervisor.uri}, with the UUID {uuid}.",
                    hint="Choose another name, or change that one: hypervisor.get(name).",
                    vm=name,
                    uri=self._hypervisor.uri,
                )

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        self._before = self._info
        words = self._words(spec, changed)
        self._require_off()
        if "name" in changed:
            self._check_name_free(spec.name)
        try:
            if "disk_image" in changed:
                self._change_disk(spec.disk_image)
            if words:
                self._run("change", "modifyvm", self._uuid, *words)
        except VirtuosoError as error:
            if "disk_image" in changed:
                self._try_to_put_disk_back(error)
            raise
        self._known_name = spec.name
        for medium in set(disks(self._before).values()) if "disk_image" in changed else ():
            self._forget(medium)
        return SaveResult.APPLIED

    def _require_off(self) -> None:
        state = state_of(self._info.get("VMState", ""))
        if state not in (State.STOPPED, State.CRASHED):
            hint = "Start it and let it stop first." if state is State.SUSPENDED else "Stop it first."
            raise InvalidStateError(
                f"The VM {self._known_name!r} is {state}: VirtualBox changes only machines that are off. "
                "Nothing was changed.",
                hint=hint,
                vm=self._known_name,
                uri=self._hypervisor.uri,
            )

    def _undo_update(self) -> None:
        before = self._before
        self._look()
        words = []
        for option in settings():
            if option.read(before) != option.read(self._info):
                words += option.write(self._hypervisor.read_spec(before).options.get(option.name))
        for name in ("name", "memory", "cpus"):
            words += [f"--{name}", before[name]] if before[name] != self._info[name] else []
        now = cards(self._info)
        for slot, card in cards(before).items():
            words += card.words(slot) if card != now.get(slot) else []
        if words:
            self._run("put back", "modifyvm", self._uuid, *words)
        self._put_disk_back()
        self._known_name = before["name"]

    # Disks.

    def _place(self) -> Place:
        """Where the main disk goes; a controller is made where there is none."""
        place = next(iter(disks(self._info)), None) or free_place(self._info)
        if place is None:
            self._run("make a disk controller of", "storagectl", self._uuid, "--name", "SATA", "--add", "sata")
            place = Place("SATA", 0, 0)
        return place

    def _change_disk(self, image: str | None) -> None:
        if snapshots(self._info):
            raise InvalidStateError(
                f"The VM {self._known_name!r} has snapshots, and what was written since belongs to its disk image: "
                "the image cannot be changed. Nothing was changed.",
                hint=f"Delete the snapshots first: VBoxManage snapshot {shlex.quote(self._known_name)} list",
                vm=self._known_name,
                uri=self._hypervisor.uri,
            )
        self._plug(self._place(), image)

    def _plug(self, place: Place, image: str | None) -> None:
        words = ["storageattach", self._uuid, *place.words(), "--medium", image or "none"]
        try:
            self._run("change the disk of", *words, *(["--type", "hdd"] if image else []))
        except VirtuosoError as error:
            raise self._image_error(error, image) from error.__cause__

    def _image_error(self, error: VirtuosoError, image: str | None) -> VirtuosoError:
        """What the result code means where a disk is plugged in."""
        cause, runner = error.__cause__, self._hypervisor.runner
        if image is None or not isinstance(cause, ManageError) or cause.code is None or is_busy(error):
            return error
        where: dict[str, Any] = {"vm": self._known_name, "uri": self._hypervisor.uri}
        quoted = shlex.quote(image)
        if not runner.exists(image):
            hint = f"Make one: VBoxManage createmedium disk --filename {quoted} --size 20480"
            return ImageNotFoundError(f"There is no disk image {image} on {where['uri']}.", hint=hint, **where)
        message = f"VirtualBox does not take the disk image {image}: {cause.said}"
        if cause.code == INVALID_ARGUMENT:
            hint = "If it is a copy of another image, give it an identity of its own: VBoxManage internalcommands "
            return ImageError(message, hint=f"{hint}sethduuid {quoted}", **where)
        if cause.code in (FILE_ERROR, OBJECT_IN_USE):
            return ImageError(message, **where)
        hint = "It takes vdi, vmdk, vhd and qcow2. If this one is raw, convert it: VBoxManage convertfromraw "
        return ImageFormatError(message, hint=f"{hint}{quoted} {shlex.quote(image + '.vdi')}", **where)

    def _try_to_put_disk_back(self, error: VirtuosoError) -> None:
        try:
            self._put_disk_back()
        except VirtuosoError as another:
            error.add_note(f"Nor could its disks be put back, which are {disks(self._before)}: {another}")

    def _put_disk_back(self) -> None:
        """Plug in again what was there before the last change."""
        before, now = disks(self._before), disks(self._look())
        for place in now.keys() - before.keys():
            self._plug(place, None)
        for place, image in before.items():
            if now.get(place) != image:
                self._plug(place, image)
        there = {key for key in self._before if key.startswith("storagecontrollername")}
        for key in self._info.keys() - there:
            if key.startswith("storagecontrollername"):
                self._run("put back", "storagectl", self._uuid, "--name", self._info[key], "--remove")

    def _forget(self, medium: str) -> None:
        """Let VirtualBox's list of media lose an image; one that another machine has stays there."""
        try:
            self._hypervisor.runner.run(["closemedium", "disk", medium], doing=f"forget {medium}")
        except VirtuosoError:
            pass  # it is in use, or it stays in a list where it does no harm

    def _delete_image(self, path: str) -> None:
        try:
            self._hypervisor.runner.run(["closemedium", "disk", path, "--delete"], doing=f"delete {path}", timeout=600)
        except VirtuosoError as error:
            if not self._hypervisor.runner.exists(path):
                return
            raise ImageError(error.message, hint="Delete it by hand.", uri=self._hypervisor.uri) from error

    # Control.

    def _get_state(self) -> State:
        return state_of(self._look().get("VMState", ""))

    def _start(self) -> None:
        frontend = self._info.get("defaultfrontend") or ""
        if not frontend:
            screen = (
                sys.platform in ("darwin", "win32") or os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
            )
            frontend = "gui" if screen and self._hypervisor.uri.is_local else "headless"
        try:
            self._run("start", "startvm", self._uuid, "--type", frontend, timeout=180)
        except (HypervisorError, InvalidStateError) as error:
            if self._get_state() is State.RUNNING:
                return  # somebody else was faster
            if code_of(error) == FAILURE and self._hypervisor.driver_missing():
                raise HypervisorError(
                    f"The VM {self.name!r} cannot start: {NO_DRIVER} on {self._hypervisor.uri} (there is no {DRIVER}).",
                    code=FAILURE,
                    hint=f"{LOAD_DRIVER}.",
                    vm=self.name,
                    uri=self._hypervisor.uri,
                ) from error
            raise

    def _prepare_start(self, start_networks: bool) -> None:
        runner, plugged = self._hypervisor.runner, cards(self._look()).values()
        for kind, list_ in (("hostonly", "hostonlyifs"), ("bridged", "bridgedifs")):
            named = {card.source for card in plugged if card.kind == kind and card.source}
            if not named:
                continue
            there = {block.get("Name") for block in blocks(runner.run(["list", list_], doing=f"list the {list_}"))}
            for source in sorted(named - there):
                usual = kind == "hostonly" and source == self._hypervisor.sources["host_only"]
                if usual and start_networks:
                    self._run("make the host's network of", "hostonlyif", "create")
                    continue
                raise NetworkNotFoundError(
                    f"The VM {self.name!r} needs the host's network {source!r}, which {self._hypervisor.uri} "
                    f"does not have.",
                    hint="Make it: VBoxManage hostonlyif create; or start with start_networks=True."
                    if usual
                    else f"See what is there: VBoxManage list {list_}",
                    vm=self.name,
                    uri=self._hypervisor.uri,
                )

    def _control_vm(self, doing: str, *words: str) -> None:
        """VBoxManage gives no code for "it does not run": look at the state instead."""
        try:
            self._run(doing, "controlvm", self._uuid, *words)
        except (HypervisorError, InvalidStateError) as error:
            state = self._get_state()
            if state in _OFF:
                raise InvalidStateError(
                    f"Could not {doing} the VM {self.name!r}: it is {state}.", vm=self.name, uri=self._hypervisor.uri
                ) from error
            raise

    def _power_off(self) -> None:
        try:
            self._control_vm("pull the plug of", "poweroff")
        except InvalidStateError:
            pass
        for pause in (*_PATIENCE, *_PATIENCE):
            if self._get_state() in _OFF:
                return
            time.sleep(pause)

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
        if self._get_state() not in (State.RUNNING, State.PAUSED):
            raise InvalidStateError(f"The VM {self.name!r} is not running: it has no screen.", hint="Start it first.")
        words = ["controlvm", self._uuid, "screenshotpng"]
        picture = self._hypervisor.runner.picture(words, doing=f"take a screenshot of the VM {self.name!r}")
        if not picture.startswith(b"\x89PNG\r\n"):
            raise HypervisorError(f"VirtualBox gave no screenshot of the VM {self.name!r}.", vm=self.name)
        return picture

    def _addresses(self) -> tuple[Address, ...]:
        if self._get_state() not in (State.RUNNING, State.PAUSED):
            raise InvalidStateError(f"The VM {self.name!r} is not running: it has no address.", hint="Start it first.")
        text = self._run("ask for the addresses of", "guestproperty", "enumerate", self._uuid)
        found = re.findall(
            r"(?:^|Name: )/VirtualBox/GuestInfo/Net/(\d+)/(\S+?)\s*(?:= '|, value: )([^',]*)", text, re.M
        )
        known = {(number, key): value for number, key, value in found}
        return tuple(
            Address(
                value, Card("", mac=known.get((number, "MAC"), "")).network().mac_address.strip(":") or None, "agent"
            )
            for (number, key), value in known.items()
            if key in ("V4/IP", "V6/IP") and value
        )

    def _undefine(self) -> None:
        info = self._look()
        if snapshots(info) and not is_chain(info):
            raise InvalidStateError(
                f"The VM {self._known_name!r} was not removed: its snapshots branch, and so does its disk image.",
                hint=f"Delete those you do not need first: VBoxManage snapshot {shlex.quote(self._known_name)} list",
                vm=self._known_name,
                uri=self._hypervisor.uri,
            )
        if state_of(info.get("VMState", "")) is State.SUSPENDED:
            self._run("drop the saved memory of", "discardstate", self._uuid)
        for uuid in snapshots(info):  # what was written since goes into the disk image
            self._run("delete a snapshot of", "snapshot", self._uuid, "delete", uuid, timeout=24 * 3600)
        self._before = self._look() if snapshots(info) else info
        images = disks(self._before)
        try:
            for place in images:  # what is plugged in would be deleted
                self._plug(place, None)
            self._run("remove", "unregistervm", self._uuid, "--delete")
        except VirtuosoError as error:
            self._try_to_put_disk_back(error)
            raise
        for image in images.values():
            self._forget(image)
