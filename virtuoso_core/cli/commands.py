"""The commands that work on VMs: list, show, create, set, start, stop, reboot, pause, resume, destroy."""

from __future__ import annotations

import difflib
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from ..errors import (
    ConnectionLostError,
    ImageInUseError,
    InvalidOptionError,
    InvalidStateError,
    InvalidValueError,
    VirtuosoError,
    VMExistsError,
)
from ..spec import Feature, Network, SaveResult, State, format_memory
from .app import cli, settings
from .completion import CORE_KEYS, complete_assignment, complete_network, complete_vm
from .output import clean, is_terminal, note, say, say_json, say_table

if TYPE_CHECKING:
    from ..hypervisor import Hypervisor
    from ..vm import VM

_OFF = (State.STOPPED, State.SUSPENDED, State.CRASHED)

_one = click.argument("name", shell_complete=complete_vm)
_some = click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_vm)
_dry = click.option("--dry-run", is_flag=True, help="Print what would change; change nothing.")
_xml = click.option("--xml", is_flag=True, help="With --dry-run: print what would be written. It may hold passwords.")


# What the arguments hold.


@dataclass(frozen=True)
class _Card:
    """A network card to add."""

    type: str
    mac_address: str | None = None
    source: str | None = None
    model: str | None = None


def _card(text: str) -> _Card:
    """TYPE[,mac=..][,source=..][,model=..]"""
    parts = {"mac": "mac_address", "source": "source", "model": "model"}
    type, *rest = text.split(",")
    given: dict[str, str] = {}
    for part in rest:
        key, _, value = part.partition("=")
        if key not in parts or not value:
            raise click.BadParameter(f"{part!r} is none of mac=ADDRESS, source=NAME, model=NAME.")
        given[parts[key]] = value
    return _Card(type, **given)


def _assignment(text: str) -> tuple[str, str]:
    """KEY=VALUE"""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise click.BadParameter(f"{text!r} is not KEY=VALUE.")
    return key.strip(), value


_CARD = "TYPE[,mac=..][,source=..][,model=..]"


def _memory(text: str) -> str:
    if text.strip().isdecimal():
        raise InvalidValueError(f"{text!r} is not an amount of memory: it has no unit.", hint=f"Write {text}MiB, say.")
    return text


def _cpus(text: str) -> Any:
    # what is no number is passed on, for the library to say what it takes
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 10 else text


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


def _add_card(vm: VM, card: _Card) -> None:
    vm.network(card.type, mac_address=card.mac_address, source=card.source, model=card.model)


# What more than one command does.


def _again(hypervisor: Hypervisor, command: str, name: str) -> str:
    """The line to type next, for the same hypervisor."""
    found = settings()
    words = ["virtuoso"]
    words += ["-c", str(hypervisor.uri)] if found.uri else []
    words += ["--driver", found.driver] if found.driver else []
    return f"{shlex.join(words)} {command} {shlex.quote(name)}"


def _summary(vm: VM) -> dict[str, Any]:
    return {"name": vm.name, "uuid": vm.uuid, "state": vm.state}


def _each(names: Sequence[str], act: Callable[[VM], dict[str, Any] | None]) -> int:
    """Do it to every VM, the others also when one fails; the first failure's exit code.

    With --json, what was done to each is printed as one list.
    """
    found = settings()
    codes: list[int] = []
    done: list[dict[str, Any]] = []
    with found.connect() as hypervisor:
        for name in dict.fromkeys(names):
            try:
                if (result := act(hypervisor.get(name))) is not None:
                    done.append(result)
            except VirtuosoError as error:
                codes.append(found.report(error))
                if isinstance(error, ConnectionLostError):
                    break
    if found.json and done:
        say_json(done)
    return next(iter(codes), 0)


def _control(names: Sequence[str], act: Callable[[VM], None]) -> int:
    """``_each``, telling the state that each VM is in afterwards."""

    def control(vm: VM) -> dict[str, Any]:
        act(vm)
        summary = _summary(vm)
        if not settings().json:
            say(f"{vm.name}: {summary['state']}")
        return summary

    return _each(names, control)


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


def _check_xml_option(xml: bool, dry_run: bool) -> None:
    if xml and not dry_run:
        raise click.UsageError("--xml goes with --dry-run; what is there now: virtuoso show NAME --xml")


# The commands.


@cli.command("list")
def list_vms() -> None:
    """List the VMs: name, state, memory, CPUs, UUID.

    \b
    virtuoso list
    virtuoso -c qemu+ssh://host/system list
    virtuoso list --json | jq -r '.[] | select(.state == "running").name'
    """
    found = settings()
    with found.connect() as hypervisor:
        summaries, uri = hypervisor.summaries(), hypervisor.uri
    if found.json:
        say_json([asdict(summary) for summary in summaries])
        return
    if not summaries:
        note(f"There is no VM on {uri}.")
        return
    say_table(
        ("NAME", "STATE", "MEMORY", "CPUS", "UUID"),
        [(vm.name, vm.state, format_memory(vm.memory), vm.cpus, vm.uuid) for vm in summaries],
        wrap=(0,),
    )


@cli.command()
@_one
@click.option("--xml", is_flag=True, help="Print the whole configuration as the hypervisor has it, passwords included.")
@click.option("--secrets", is_flag=True, help="Show passwords.")
def show(name: str, xml: bool, secrets: bool) -> None:
    """Show all about a VM, named by its name or UUID.

    \b
    virtuoso show web
    virtuoso show web --xml
    virtuoso show web --json | jq -r '.addresses[].ip'
    """
    found = settings()
    with found.connect() as hypervisor:
        vm = hypervisor.get(name)
        document = {"spec": vm.spec} if xml else _described(vm, secrets)
    if found.json:
        say_json(document)
    elif xml:
        say(document["spec"].rstrip("\n"))
    else:
        say_table(("", ""), _described_rows(document))


def _described(vm: VM, secrets: bool) -> dict[str, Any]:
    hypervisor = vm.hypervisor
    hidden = set() if secrets else {key for key, option in hypervisor.options.items() if option.secret}
    document = {
        "name": vm.name,
        "uuid": vm.uuid,
        "state": vm.state,
        "memory": vm.memory,
        "cpus": vm.cpus,
        "disk_image": vm.disk_image,
        "networks": [asdict(card) for card in vm.networks],
        "options": {key: "***" if key in hidden else value for key, value in vm.options.items()},
        "addresses": [],
        "uri": str(hypervisor.uri),
        "version": hypervisor.version,
    }
    if document["state"] is State.RUNNING and Feature.ADDRESSES in hypervisor.features:
        try:
            document["addresses"] = [asdict(address) for address in vm.addresses()]
        except InvalidStateError:
            pass  # it stopped meanwhile
    return document


def _described_rows(document: dict[str, Any]) -> list[tuple[object, object]]:
    def several(title: str, items: Sequence[str]) -> list[tuple[object, object]]:
        return [(title if number == 0 else "", item) for number, item in enumerate(items)]

    return [
        ("Name", document["name"]),
        ("UUID", document["uuid"]),
        ("State", document["state"]),
        ("Memory", format_memory(document["memory"])),
        ("CPUs", document["cpus"]),
        ("Disk", document["disk_image"] or "none"),
        *several("Networks", [str(Network(**card)) for card in document["networks"]] or ["none"]),
        *several("Options", [f"{key}={_option_text(value)}" for key, value in document["options"].items()]),
        *several("Addresses", [address["ip"] for address in document["addresses"]]),
        ("Hypervisor", f"{document['uri']}, {document['version']}"),
    ]


def _option_text(value: object) -> str:
    """The value as `set` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)


@cli.command()
@click.argument("name")
@click.option("--memory", metavar="AMOUNT", help="With its unit, such as 2GiB or 512MiB.")
@click.option("--cpus", metavar="N", help="Number of virtual CPUs.")
@click.option("--disk", metavar="IMAGE", type=click.Path(), help="The disk image, on the hypervisor's host.")
@click.option(
    "--network",
    "cards",
    multiple=True,
    type=_card,
    metavar=_CARD,
    shell_complete=complete_network,
    help="A network card, repeatable: nat, bridged, host_only, internal. One on nat when left out; none for none.",
)
@click.option(
    "--set",
    "assignments",
    multiple=True,
    type=_assignment,
    metavar="KEY=VALUE",
    shell_complete=complete_assignment,
    help="An option, repeatable; see: virtuoso drivers --options.",
)
@click.option("--start", is_flag=True, help="Start it too.")
@click.option("--start-networks", is_flag=True, help="With --start: start the host's networks that it needs, too.")
@_dry
@_xml
def create(
    name: str,
    memory: str | None,
    cpus: str | None,
    disk: str | None,
    cards: Sequence[_Card],
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
    _check_xml_option(xml, dry_run)
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
                say_json(_summary(vm) | {"ignored_options": dict(vm.ignored_options)})
        if not found.json:
            say(f"{vm.name}: {vm.state}" if start else f"Start it: {_again(hypervisor, 'start', vm.name)}")


def _cards_wanted(vm: VM, given: Sequence[_Card]) -> list[_Card]:
    if not given:
        return [_Card("nat")] if not vm.networks and "nat" in vm.hypervisor.networks else []
    for card in vm.networks:
        vm.remove_network(card)
    cards = [card for card in given if card.type != "none"]
    if cards and len(cards) < len(given):
        raise click.UsageError("--network none stands alone.")
    return cards


@cli.command("set")
@_one
@click.argument("assignments", metavar="[KEY=VALUE]...", nargs=-1, type=_assignment, shell_complete=complete_assignment)
@click.option(
    "--add-network",
    "cards",
    multiple=True,
    type=_card,
    metavar=_CARD,
    shell_complete=complete_network,
    help="Add a network card.",
)
@click.option("--remove-network", "gone", metavar="MAC", multiple=True, help="Remove the card with that MAC address.")
@click.option("--force", is_flag=True, help="Write even what somebody else changed at the same moment.")
@_dry
@_xml
def set_values(
    name: str,
    assignments: Sequence[tuple[str, str]],
    cards: Sequence[_Card],
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
    _check_xml_option(xml, dry_run)
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
            say_json(_summary(vm) | {"result": result, "changes": changes, "ignored_options": ignored})
            return
        _say_ignored(vm)
        say("\n".join([*changes, _RESULTS[result]]))


_RESULTS = {
    SaveResult.UNCHANGED: "Nothing changed.",
    SaveResult.APPLIED: "Done.",
    SaveResult.NEXT_START: "Written; in force from the next start, since the VM is running.",
}


@cli.command()
@_some
@click.option("--start-networks", is_flag=True, help="Start the host's networks that it needs, too.")
def start(names: Sequence[str], start_networks: bool) -> int:
    """Start VMs; a paused one goes on, a running one stays so.

    \b
    virtuoso start web
    virtuoso start web db --start-networks
    """
    return _control(names, lambda vm: vm.start(start_networks=start_networks))


@cli.command()
@_some
@click.option("--timeout", metavar="SECONDS", type=float, default=60, show_default=True, help="How long to wait.")
@click.option("--now", is_flag=True, help="Pull the plug at once.")
@click.option("--no-force", is_flag=True, help="Never pull the plug; fail when the guest does not stop in time.")
def stop(names: Sequence[str], timeout: float, now: bool, no_force: bool) -> int:
    """Ask the guests to stop, wait, then pull the plug.

    \b
    virtuoso stop web
    virtuoso stop web db --timeout 300 --no-force
    virtuoso stop web --now
    """
    if now and no_force:
        raise click.UsageError("--now and --no-force exclude each other.")
    return _control(names, lambda vm: vm.stop(0 if now else timeout, force=not no_force))


@cli.command()
@_some
def reboot(names: Sequence[str]) -> int:
    """Ask the guests to start anew.

    \b
    virtuoso reboot web
    """
    return _control(names, lambda vm: vm.reboot())


@cli.command()
@_some
def pause(names: Sequence[str]) -> int:
    """Let the guests stand still, in memory.

    \b
    virtuoso pause web
    """
    return _control(names, lambda vm: vm.pause())


@cli.command()
@_some
def resume(names: Sequence[str]) -> int:
    """Let paused guests go on.

    \b
    virtuoso resume web
    """
    return _control(names, lambda vm: vm.resume())


@cli.command()
@_some
@click.option("--force", is_flag=True, help="Also remove a VM that is running, by pulling its plug.")
@click.option("--delete-disk", is_flag=True, help="Delete its disk image too, unless another VM has it.")
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
@_dry
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
        summary, disk = _summary(vm), vm.disk_image
        try:
            vm.destroy(force=force, delete_disk=delete_disk)
        except InvalidStateError as error:
            error.hint = f"Stop it first: {_again(vm.hypervisor, 'stop', vm.name)}. Or pull its plug: --force"
            raise
        except ImageInUseError as error:
            error.hint = "Leave out --delete-disk."
            raise
        deleted = disk if delete_disk else None
        if not settings().json:
            fate = "" if disk is None else f"; its disk {disk} is {'deleted' if deleted else 'still there'}"
            say(f"{vm.name}: removed{fate}")
        return {"name": summary["name"], "uuid": summary["uuid"], "removed": True, "deleted_disk": deleted}

    return _each(names, remove)


def _plan_destroy(names: Sequence[str], force: bool, delete_disk: bool) -> int:
    found, changes = settings(), list[str]()

    def plan(vm: VM) -> None:
        state = vm.state
        if state not in _OFF and not force:
            raise InvalidStateError(
                f"The VM {vm.name!r} is {state}; it would not be removed.",
                hint=f"Stop it first: {_again(vm.hypervisor, 'stop', vm.name)}. Or pull its plug: --force",
                vm=vm.name,
                uri=vm.hypervisor.uri,
            )
        changes.append(f"VM: - {vm.name} ({vm.uuid})")
        if delete_disk and vm.disk_image:
            changes.append(f"disk: - {vm.disk_image}")

    code = _each(names, plan)
    if found.json:
        say_json({"changes": changes})
    elif changes:
        say("\n".join(changes))
    return code
