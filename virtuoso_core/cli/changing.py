"""The commands that change what VMs there are and what they are made of: create, set, destroy."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ..errors import ImageInUseError, InvalidOptionError, InvalidStateError, InvalidValueError, VMExistsError
from ..spec import SaveResult, State
from . import parameters
from .acting import again, each, summary
from .app import Command, settings
from .completion import CORE_KEYS, complete_assignment
from .output import clean, is_terminal, say, say_json
from .parameters import Card

if TYPE_CHECKING:
    from ..vm import VM

_OFF = (State.STOPPED, State.SUSPENDED, State.CRASHED)


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
@click.option("--start", is_flag=True, help="Start it too.")
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
    start: bool,
    start_networks: bool,
    dry_run: bool,
    xml: bool,
) -> None:
    """Make a VM; what is left out is up to the hypervisor.

    \b
    virtuoso create web --memory 2GiB --cpus 2 --disk /images/web.qcow2
    virtuoso create db --network bridged,source=br0 --set headless=true --start
    virtuoso create web --memory 2GiB --dry-run
    """
    parameters.check_xml(xml, dry_run)
    if start_networks and not start:
        raise click.UsageError("--start-networks goes with --start.")
    found = settings()
    with found.connect() as hypervisor:
        vm = hypervisor.new_vm()
        vm.name = name
        if memory is not None:
            vm.memory = _memory(memory)
        if cpus is not None:
            vm.cpus = _cpus(cpus)
        if disk is not None:
            vm.disk_image = disk
        for card in _cards_wanted(vm, cards):
            _add_card(vm, card)
        for key, text in assignments:
            _assign(vm, key, text)
        if dry_run:
            if hypervisor.find(vm.name) is not None:
                raise VMExistsError(
                    f"There is already a VM {vm.name!r} on {hypervisor.uri}.",
                    hint="Choose another name.",
                    vm=vm.name,
                    uri=hypervisor.uri,
                )
            _say_plan(vm, xml, "It would be as the hypervisor makes it.")
            return
        vm.save()
        if not found.json:
            say(f"Created {vm.name} ({vm.uuid}).")
            _say_ignored(vm)
        try:
            if start:
                vm.start(start_networks=start_networks)
        finally:
            if found.json:  # also when the start failed: the VM is there
                say_json(summary(vm) | {"ignored_options": dict(vm.ignored_options)})
        if not found.json:
            say(f"{vm.name}: {vm.state}" if start else f"Start it: {again(hypervisor, 'start', vm.name)}")


@click.command("set", cls=Command)
@parameters.one
@click.argument(
    "assignments", metavar="[KEY=VALUE]...", nargs=-1, type=parameters.assignment, shell_complete=complete_assignment
)
@parameters.cards("--add-network", "Add a network card.")
@click.option("--remove-network", "gone", metavar="MAC", multiple=True, help="Remove the card with that MAC address.")
@click.option("--force", is_flag=True, help="Write even what somebody else changed at the same moment.")
@parameters.dry_run
@parameters.xml
def set_values(
    name: str,
    assignments: Sequence[tuple[str, str]],
    cards: Sequence[Card],
    gone: Sequence[str],
    force: bool,
    dry_run: bool,
    xml: bool,
) -> None:
    """Change a VM: memory, cpus, disk, name, options.

    Nothing else of its configuration changes. KEY= takes an option or the disk away; options.KEY= is an option even
    where the key is one of the four. The keys: virtuoso drivers --options.

    \b
    virtuoso set web memory=4GiB cpus=2
    virtuoso set web name=www headless=true --dry-run
    virtuoso set web --add-network bridged,source=br0 --remove-network 52:54:00:45:67:89
    """
    parameters.check_xml(xml, dry_run)
    if not (assignments or cards or gone):
        raise click.UsageError("Nothing to set: give KEY=VALUE, --add-network or --remove-network.")
    found = settings()
    with found.connect() as hypervisor:
        vm = hypervisor.get(name)
        for key, text in assignments:
            _assign(vm, key, text)
        for mac in gone:
            vm.remove_network(mac)
        for card in cards:
            _add_card(vm, card)
        if dry_run:
            _say_plan(vm, xml, "Nothing would change.")
            return
        changes = vm.diff().splitlines()
        result = vm.save(force=force)
        if found.json:
            ignored = dict(vm.ignored_options)
            say_json(summary(vm) | {"result": result, "changes": changes, "ignored_options": ignored})
            return
        _say_ignored(vm)
        say("\n".join([*changes, _RESULTS[result]]))


_RESULTS = {
    SaveResult.UNCHANGED: "Nothing changed.",
    SaveResult.APPLIED: "Done.",
    SaveResult.NEXT_START: "Written; in force from the next start, since the VM is running.",
}


@click.command(cls=Command)
@parameters.some
@click.option("--force", is_flag=True, help="Also remove a VM that is running, by pulling its plug.")
@click.option("--delete-disk", is_flag=True, help="Delete its disk image too, unless another VM has it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@parameters.dry_run
def destroy(names: Sequence[str], force: bool, delete_disk: bool, yes: bool, dry_run: bool) -> int:
    """Remove VMs; their disk images stay.

    All else that the hypervisor keeps of them goes: NVRAM, saved memory, snapshots' records.

    \b
    virtuoso destroy web
    virtuoso destroy web db --force --delete-disk --yes
    """
    if not (yes or dry_run):
        if not is_terminal(sys.stdin):
            raise click.UsageError("Nobody can be asked here whether to remove VMs: add --yes.")
        disks = ", and delete their disk images" if delete_disk else ""
        click.confirm(clean(f"Remove {', '.join(names)}{disks}?"), abort=True, err=True)
    if dry_run:
        return _plan_destroy(names, force, delete_disk)

    def remove(vm: VM) -> dict[str, Any]:
        removed, disk = {"name": vm.name, "uuid": vm.uuid, "removed": True}, vm.disk_image
        try:
            vm.destroy(force=force, delete_disk=delete_disk)
        except InvalidStateError as error:
            error.hint = f"Stop it first: {again(vm.hypervisor, 'stop', vm.name)}. Or pull its plug: --force"
            raise
        except ImageInUseError as error:
            error.hint = "Leave out --delete-disk."
            raise
        deleted = disk if delete_disk else None
        if not settings().json:
            fate = "" if disk is None else f"; its disk {disk} is {'deleted' if deleted else 'still there'}"
            say(f"{vm.name}: removed{fate}")
        return removed | {"deleted_disk": deleted}

    return each(names, remove)


def _plan_destroy(names: Sequence[str], force: bool, delete_disk: bool) -> int:
    found, changes = settings(), list[str]()

    def plan(vm: VM) -> None:
        state = vm.state
        if state not in _OFF and not force:
            raise InvalidStateError(
                f"The VM {vm.name!r} is {state}; it would not be removed.",
                hint=f"Stop it first: {again(vm.hypervisor, 'stop', vm.name)}. Or pull its plug: --force",
                vm=vm.name,
                uri=vm.hypervisor.uri,
            )
        changes.append(f"VM: - {vm.name} ({vm.uuid})")
        if delete_disk and vm.disk_image:
            changes.append(f"disk: - {vm.disk_image}")

    code = each(names, plan)
    if found.json:
        say_json({"changes": changes})
    elif changes:
        say("\n".join(changes))
    return code


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
    if near := difflib.get_close_matches(key, CORE_KEYS, n=1, cutoff=0.75):
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


def _say_plan(vm: VM, xml: bool, nothing: str) -> None:
    """What --dry-run prints for an edited VM."""
    changes = vm.diff().splitlines()
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
