"""The commands that look and change nothing: list, show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from ..errors import InvalidStateError
from ..spec import Feature, Network, State, format_memory
from . import parameters
from .app import Command, settings
from .output import note, say, say_json, say_table

if TYPE_CHECKING:
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
