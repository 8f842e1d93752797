"""The commands that look and change nothing: list, show."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..errors import ConnectionLostError, VirtuosoError, VMNotFoundError
from ..spec import Feature, Network, State, format_memory
from . import parameters
from .app import Command, settings
from .output import note, say, say_json, say_table

if TYPE_CHECKING:
    from ..facts import Display
    from ..vm import VM


@click.command("list", cls=Command)
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


@click.command(cls=Command)
@parameters.one
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
    state = vm.state
    document: dict[str, Any] = {
        "name": vm.name,
        "uuid": vm.uuid,
        "state": state,
        "memory": vm.memory,
        "cpus": vm.cpus,
        "disk_image": vm.disk_image,
        "disks": list(vm.disks),
        "cdrom": vm.cdrom,
        "networks": [asdict(card) for card in vm.networks],
        "options": {key: "***" if key in hidden else value for key, value in vm.options.items()},
        "autostart": None,
        "addresses": [],
        "display": None,
        "snapshots": [],
        "uri": str(hypervisor.uri),
        "version": hypervisor.version,
        "untold": {},
    }
    looks: list[tuple[Feature, bool, str, Callable[[], object]]] = [
        (Feature.AUTOSTART, True, "autostart", lambda: vm.autostart),
        (Feature.ADDRESSES, state is State.RUNNING, "addresses", lambda: [asdict(each) for each in vm.addresses()]),
        (Feature.DISPLAY, state is State.RUNNING, "display", lambda: _url(vm.display)),
        (Feature.SNAPSHOT, True, "snapshots", lambda: [each.name for each in vm.snapshots]),
    ]
    for feature, sensible, key, look in looks:
        if sensible and feature in hypervisor.features:
            try:
                document[key] = look()
            except (ConnectionLostError, VMNotFoundError):
                raise
            except VirtuosoError as error:
                if vm.state is state:  # else it stopped meanwhile
                    document["untold"][key] = error.message
    return document


def _url(display: Display | None) -> str | None:
    return None if display is None else str(display)


def _described_rows(document: dict[str, Any]) -> list[tuple[object, object]]:
    def several(title: str, items: Sequence[object], key: str = "") -> list[tuple[object, object]]:
        if key in document["untold"]:
            items = [f"cannot be told: {document['untold'][key]}"]
        return [(title if number == 0 else "", item) for number, item in enumerate(items)]

    return [
        ("Name", document["name"]),
        ("UUID", document["uuid"]),
        ("State", document["state"]),
        ("Memory", format_memory(document["memory"])),
        ("CPUs", document["cpus"]),
        *several("Disks" if len(document["disks"]) > 1 else "Disk", document["disks"] or ["none"]),
        *several("CD-ROM", [document["cdrom"]] if document["cdrom"] else []),
        *several("Networks", [str(Network(**card)) for card in document["networks"]] or ["none"]),
        *several("Options", [f"{key}={_option_text(value)}" for key, value in document["options"].items()]),
        *several("Autostart", ["with its host"] if document["autostart"] else [], "autostart"),
        *several("Addresses", [address["ip"] for address in document["addresses"]], "addresses"),
        *several("Display", [document["display"]] if document["display"] else [], "display"),
        *several("Snapshots", document["snapshots"], "snapshots"),
        ("Hypervisor", f"{document['uri']}, {document['version']}"),
    ]


def _option_text(value: object) -> str:
    """The value as `set` takes it."""
    if isinstance(value, bool):
        return str(value).lower()
    return ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
