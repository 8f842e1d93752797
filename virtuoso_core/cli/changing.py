"""The commands that change what VMs there are and what they are made of: create, set, destroy."""

from __future__ import annotations

import difflib
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..errors import (
    ImageExistsError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidOptionError,
    InvalidStateError,
    InvalidValueError,
    VMExistsError,
)
from ..facts import Address
from ..spec import SaveResult, State
from ..unfinished import undertaking
from . import parameters
from .acting import again, each, summary
from .app import Command, settings
from .completion import CORE_KEYS, SEED_KEYS, complete_assignment, complete_seed
from .output import confirm, say, say_json
from .parameters import Card
from .progress import waiting

if TYPE_CHECKING:
    from ..hypervisor import Hypervisor
    from ..vm import VM

_OFF = (State.STOPPED, State.SUSPENDED, State.CRASHED)


_cloud_init = click.option(
    "--cloud-init",
    "seeds",
    multiple=True,
    type=parameters.assignment,
    metavar="KEY=VALUE",
    shell_complete=complete_seed,
    help="For the guest's cloud-init: user, ssh-key, password, hostname, packages, user-data. @FILE reads the value.",
)


# The commands.


@click.command(cls=Command)
@click.argument("name")
@click.option("--memory", metavar="AMOUNT", help="With its unit, such as 2GiB or 512MiB.")
@click.option("--cpus", metavar="N", help="Number of virtual CPUs.")
@click.option("--disk", metavar="IMAGE", type=click.Path(), help="The disk image, on the hypervisor's host.")
@parameters.cards(
    "--network",
    "A network card, repeatable: nat, bridged, host_only, internal. One on nat when left out; none for none.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    type=parameters.assignment,
    metavar="KEY=VALUE",
    shell_complete=complete_assignment,
    help="An option, repeatable; see: virtuoso drivers --options.",
)
@click.option("--image", metavar="BASE", type=click.Path(), help="Make its disk: a thin overlay of this image.")
@click.option("--disk-size", metavar="SIZE", help="Make its disk, or the overlay, that large, such as 20GiB.")
@click.option("--cdrom", metavar="ISO", type=click.Path(), help="The image in its CD-ROM drive.")
@_cloud_init
@click.option("--start", is_flag=True, help="Start it too.")
@click.option("--wait", is_flag=True, help="Start it, wait until it has an address, and print that.")
@click.option("--timeout", metavar="SECONDS", type=float, default=300, show_default=True, help="With --wait: how long.")
@click.option("--start-networks", is_flag=True, help="With --start: start the host's networks that it needs, too.")
@parameters.dry_run
@parameters.xml
def create(
    name: str,
    memory: str | None,
    cpus: str | None,
    disk: str | None,
    cards: Sequence[Card],
    assignments: Sequence[tuple[str, str]],
    image: str | None,
    disk_size: str | None,
    cdrom: str | None,
    seeds: Sequence[tuple[str, str]],
    start: bool,
    wait: bool,
    timeout: float,
    start_networks: bool,
    dry_run: bool,
    xml: bool,
) -> None:
    """Make a VM; what is left out is up to the hypervisor.

    \b
    virtuoso create web --memory 2GiB --cpus 2 --disk /images/web.qcow2
    virtuoso create db --network bridged,source=br0 --set headless=true --start
    virtuoso create web --image /images/debian.qcow2 --cloud-init user=me --cloud-init ssh-key=~/.ssh/id.pub --wait
    virtuoso create db --disk /images/db.qcow2 --disk-size 20GiB --cdrom /images/debian.iso --set boot=hd,cdrom
    virtuoso create web --memory 2GiB --dry-run
    """
    parameters.check_xml(xml, dry_run)
    start = start or wait
    if start_networks and not start:
        raise click.UsageError("--start-networks goes with --start.")
    if disk_size is not None and disk is None and image is None:
        raise click.UsageError("--disk-size needs --disk, where the disk is to be made, or --image.")
    disk_size = parameters.disk_size(disk_size)
    makes_disk = image is not None or disk_size is not None
    if xml and makes_disk:
        raise click.UsageError("--xml tells of a disk that is there: without --image and --disk-size.")
    found, seed = settings(), _seed(seeds)
    with found.connect() as hypervisor, _uploads_advised(hypervisor, disk, image, cdrom):
        vm = hypervisor.new_vm()
        vm.name = name
        if memory is not None:
            vm.memory = _memory(memory)
        if cpus is not None:
            vm.cpus = _cpus(cpus)
        if cdrom is not None:
            vm.cdrom = cdrom
        if disk is not None:
            vm.disk_image = disk
        for card in _cards_wanted(vm, cards):
            _add_card(vm, card)
        for key, text in assignments:
            _assign(vm, key, text)
        if seed:
            vm.cloud_init(**seed)
        if (dry_run or makes_disk) and hypervisor.find(vm.name) is not None:  # before a disk is made in vain
            raise VMExistsError(
                f"There is already a VM {vm.name!r} on {hypervisor.uri}.",
                hint="Choose another name.",
                vm=vm.name,
                uri=hypervisor.uri,
            )
        if dry_run:
            if image is not None:
                hypervisor.disk_info(image)  # is it there?
                vm.disk_image = disk or _beside(image, vm.name)
            made = [f"disk: + {vm.disk_image}{_described_disk(image, disk_size)}"] if makes_disk else []
            _say_plan(vm, xml, "It would be as the hypervisor makes it.", made)
            return
        with _new_disk(vm, disk, image, disk_size) if makes_disk else nullcontext():
            vm.save()
        if not found.json:
            say(f"Created {vm.name} ({vm.uuid}).")
            _say_ignored(vm)
        addresses: list[Address] = []
        try:
            if start:
                vm.start(start_networks=start_networks)
            if wait:
                with waiting(f"Waiting for an address of {vm.name}"):
                    addresses.append(vm.wait_for_address(timeout))
        finally:
            if found.json:  # also when the start failed: the VM is there
                more = {"addresses": [asdict(address) for address in addresses]} if wait else {}
                say_json(summary(vm) | {"ignored_options": dict(vm.ignored_options)} | more)
        if addresses and not found.json:
            say(f"{vm.name}: {vm.state} at {addresses[0].ip}")
        elif not found.json:
            say(f"{vm.name}: {vm.state}" if start else f"Start it: {again('start', vm.name)}")


@click.command("set", cls=Command)
@parameters.one
@click.argument(
    "assignments", metavar="[KEY=VALUE]...", nargs=-1, type=parameters.assignment, shell_complete=complete_assignment
)
@parameters.cards("--add-network", "Add a network card.")
@click.option("--remove-network", "gone", metavar="MAC", multiple=True, help="Remove the card with that MAC address.")
@_cloud_init
@click.option("--force", is_flag=True, help="Write even what somebody else changed at the same moment.")
@parameters.dry_run
@parameters.xml
def set_values(
    name: str,
    assignments: Sequence[tuple[str, str]],
    cards: Sequence[Card],
    gone: Sequence[str],
    seeds: Sequence[tuple[str, str]],
    force: bool,
    dry_run: bool,
    xml: bool,
) -> None:
    """Change a VM: memory, cpus, disk, cdrom, name, options.

    Nothing else of its configuration changes. KEY= takes an option or the disk away; options.KEY= is an option even
    where the key is one of the five. The keys: virtuoso drivers --options.

    \b
    virtuoso set web memory=4GiB cpus=2
    virtuoso set web name=www headless=true --dry-run
    virtuoso set web --add-network bridged,source=br0 --remove-network 52:54:00:45:67:89
    virtuoso set web --cloud-init user=me --cloud-init password=@secret
    """
    parameters.check_xml(xml, dry_run)
    if not (assignments or cards or gone or seeds):
        raise click.UsageError("Nothing to set: give KEY=VALUE, --add-network, --remove-network or --cloud-init.")
    found, seed = settings(), _seed(seeds)
    with found.connect() as hypervisor, _uploads_advised(hypervisor, *(text for _, text in assignments)):
        vm = hypervisor.get(name)
        for key, text in assignments:
            _assign(vm, key, text)
        for mac in gone:
            vm.remove_network(mac)
        for card in cards:
            _add_card(vm, card)
        if seed:
            vm.cloud_init(**seed)
        if dry_run:
            _say_plan(vm, xml, "Nothing would change.")
            return
        changes = _changes(vm)
        result = vm.save(force=force)
        if found.json:
            ignored = dict(vm.ignored_options)
            say_json(summary(vm) | {"result": result, "changes": changes, "ignored_options": ignored})
            return
        _say_ignored(vm)
        say("\n".join([*changes, RESULTS[result]]))


RESULTS = {
    SaveResult.UNCHANGED: "Nothing changed.",
    SaveResult.APPLIED: "Done.",
    SaveResult.NEXT_START: "Written; in force from the next start, since the VM is running.",
}


@click.command(cls=Command)
@parameters.some
@click.option("--force", is_flag=True, help="Also remove a VM that is running, by pulling its plug.")
@click.option("--delete-disk", is_flag=True, help="Delete its disk images too, unless another VM needs one.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@parameters.dry_run
def destroy(names: Sequence[str], force: bool, delete_disk: bool, yes: bool, dry_run: bool) -> int:
    """Remove VMs; their disk images stay.

    All else that the hypervisor keeps of them goes: NVRAM, saved memory, snapshots' records, what cloud-init reads.

    \b
    virtuoso destroy web
    virtuoso destroy web db --force --delete-disk --yes
    """
    if not (yes or dry_run):
        disks = ", and delete their disk images" if delete_disk else ""
        confirm(f"Remove {', '.join(names)}{disks}?")
    if dry_run:
        return _plan_destroy(names, force, delete_disk)

    def remove(vm: VM) -> dict[str, Any]:
        removed, disks = {"name": vm.name, "uuid": vm.uuid, "removed": True}, list(vm.disks)
        try:
            vm.destroy(force=force, delete_disk=delete_disk)
        except InvalidStateError as error:
            error.hint = f"Stop it first: {again('stop', vm.name)}. Or pull its plug: --force"
            raise
        except ImageInUseError as error:
            error.hint = "Leave out --delete-disk."
            raise
        if not settings().json:
            fate = "deleted" if delete_disk else "still there"
            several = ("its disk", "is") if len(disks) == 1 else ("its disks", "are")
            say(f"{vm.name}: removed" + (f"; {several[0]} {', '.join(disks)} {several[1]} {fate}" if disks else ""))
        return removed | {"deleted_disks": disks if delete_disk else []}

    return each(names, remove)


def _plan_destroy(names: Sequence[str], force: bool, delete_disk: bool) -> int:
    found, changes = settings(), list[str]()

    def plan(vm: VM) -> None:
        state = vm.state
        if state not in _OFF and not force:
            raise InvalidStateError(
                f"The VM {vm.name!r} is {state}; it would not be removed.",
                hint=f"Stop it first: {again('stop', vm.name)}. Or pull its plug: --force",
                vm=vm.name,
                uri=vm.hypervisor.uri,
            )
        changes.append(f"VM: - {vm.name} ({vm.uuid})")
        if delete_disk:
            changes.extend(f"disk: - {path}" for path in vm.disks)

    code = each(names, plan)
    if found.json:
        say_json({"changes": changes})
    elif changes:
        say("\n".join(changes))
    return code


# What create makes.


@contextmanager
def _new_disk(vm: VM, disk: str | None, image: str | None, size: str | None) -> Iterator[None]:
    """The VM's disk, made for it; it is deleted again, with the VM, when the block that saves that fails."""
    path = disk or _beside(image or "", vm.name)
    with undertaking(vm.hypervisor, f"create the VM {vm.name!r}") as step:
        try:
            vm.disk_image = vm.hypervisor.create_disk(path, size, backing=image).path
        except ImageExistsError as error:
            error.hint = "Say where else to make it: --disk PATH. Or use it: --disk, without --image and --disk-size."
            raise
        step.file(vm.disk_image)
        step.vm(vm.name)
        try:
            yield
        except VMExistsError:
            step.keep(vm.name)  # somebody else was faster
            raise


def _described_disk(image: str | None, size: str | None) -> str:
    return (f", of {size}" if size else "") + (f", an overlay of {image}" if image else "")


def _beside(image: str, name: str) -> str:
    return os.path.join(os.path.dirname(image), f"{name}.qcow2")


@contextmanager
def _uploads_advised(hypervisor: Hypervisor, *paths: str | None) -> Iterator[None]:
    """Where an image is missing on the hypervisor's host and is on this one, say how to bring it there."""
    try:
        yield
    except ImageNotFoundError as error:
        missing = next((path for path in paths if path and path in error.message), None)
        if missing is not None and not hypervisor.uri.is_local and os.path.isfile(os.path.expanduser(missing)):
            words = shlex.join(["virtuoso", *settings().again(), "disk", "upload", missing, os.path.abspath(missing)])
            error.hint = f"It is on this machine, not on that one. Bring it there: {words}"
        raise


def _seed(given: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """What ``vm.cloud_init()`` takes."""
    found: dict[str, Any] = {}
    for key, text in given:
        if key not in SEED_KEYS:
            near = difflib.get_close_matches(key, SEED_KEYS, n=1)
            advice = f" Did you mean {near[0]}?" if near else f" It takes {', '.join(SEED_KEYS)}."
            raise click.UsageError(f"--cloud-init knows no {key!r}.{advice}")
        name, value = key.replace("-", "_"), _content(key, text[1:]) if text.startswith("@") else text
        if name == "ssh_key":
            found.setdefault(name, []).append(os.path.expanduser(value))
        elif name == "packages":
            found.setdefault(name, []).extend(word for word in re.split(r"[\s,]+", value) if word)
        else:
            found[name] = value if name == "user_data" else value.rstrip("\n")  # of a file's last line
    return found


def _content(key: str, path: str) -> str:
    try:
        with open(os.path.expanduser(path), encoding="utf-8") as file:
            return file.read()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no text"
        raise click.UsageError(f"--cloud-init {key}=@{path} cannot be read: {why}.") from error


# What create and set share.


def _cards_wanted(vm: VM, given: Sequence[Card]) -> list[Card]:
    if not given:
        return [Card("nat")] if not vm.networks and "nat" in vm.hypervisor.networks else []
    for card in vm.networks:
        vm.remove_network(card)
    cards = [card for card in given if card.type != "none"]
    if cards and len(cards) < len(given):
        raise click.UsageError("--network none stands alone.")
    return cards


def _assign(vm: VM, key: str, text: str) -> None:
    """The core's fields come first; ``options.KEY`` reaches an option of the same name."""
    if key == "name":
        vm.name = text
    elif key == "memory":
        vm.memory = _memory(text)
    elif key == "cpus":
        vm.cpus = _cpus(text)
    elif key in ("disk", "disk_image"):
        vm.disk_image = text or None
    elif key == "cdrom":
        vm.cdrom = text or None
    else:
        explicit = key.startswith("options.")
        name = key.removeprefix("options.")
        if not explicit:
            _refuse_slip(vm, name)
        vm.set(name, text or None)


def _refuse_slip(vm: VM, key: str) -> None:
    """A portable option may be ignored with a warning; a misspelt core field was certainly meant to be set."""
    from ..plugins import default_registry

    if key in vm.hypervisor.options or key in default_registry().option_names():
        return
    if key in ("network", "networks"):
        raise InvalidOptionError("Networks are not set by KEY=VALUE.", hint="Use --add-network and --remove-network.")
    begun = [each for each in CORE_KEYS if key and each.startswith(key)]
    if near := begun or difflib.get_close_matches(key, CORE_KEYS, n=1, cutoff=0.75):
        raise InvalidOptionError(f"There is no {key!r} to set.", hint=f"Did you mean {near[0]}=...?")


def _add_card(vm: VM, card: Card) -> None:
    vm.network(card.type, mac_address=card.mac_address, source=card.source, model=card.model)


def _memory(text: str) -> str:
    if text.strip().isdecimal():
        raise InvalidValueError(f"{text!r} is not an amount of memory: it has no unit.", hint=f"Write {text}MiB, say.")
    return text


def _cpus(text: str) -> Any:
    # what is no number is passed on, for the library to say what it takes
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text


def _changes(vm: VM) -> list[str]:
    """What a save would write. The file for cloud-init has its name by then only."""
    lines = vm.diff().splitlines()
    return ["cloud-init: what it reads at the next start" if line.startswith("seed: ") else line for line in lines]


def _say_plan(vm: VM, xml: bool, nothing: str, made: Sequence[str] = ()) -> None:
    """What --dry-run prints for an edited VM, and what would be made for it."""
    changes = [*made, *_changes(vm)]
    if settings().json:
        say_json({"changes": changes} | ({"spec": vm.spec} if xml else {}))
    elif xml:
        say(vm.spec)
    else:
        say("\n".join(changes) or nothing)


def _say_ignored(vm: VM) -> None:
    """Those that other drivers know: of the rest a warning told already."""
    from ..plugins import default_registry

    known = default_registry().option_names()
    if ignored := [key for key in vm.ignored_options if key in known]:
        say(f"Ignored, since this hypervisor has no such option: {', '.join(ignored)}")
