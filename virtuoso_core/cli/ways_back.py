"""The commands that keep a VM's state, go back to it and copy VMs: snapshot, snapshots, revert, clone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import click

from ..facts import Snapshot
from . import parameters
from .acting import summary
from .app import Command, settings
from .completion import complete_snapshot
from .output import confirm, note, say, say_json, say_table
from .progress import counting, waiting

_snapshot = click.argument("snapshot", metavar="SNAPSHOT", shell_complete=complete_snapshot)


def _plain(snapshot: Snapshot) -> dict[str, Any]:
    return asdict(snapshot) | {"created": snapshot.created and snapshot.created.isoformat()}


@click.command(cls=Command, short_help="Keep a VM's state under a name.")
@parameters.one
@click.argument("snapshot", metavar="SNAPSHOT")
@click.option("--description", metavar="TEXT", default="", help="For people.")
def snapshot(name: str, snapshot: str, description: str) -> None:
    """Keep a VM's state under a name: its disks, and its memory while it runs.

    \b
    virtuoso snapshot web before-upgrade
    """
    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        with waiting(f"Taking the snapshot {snapshot} of {vm.name}"):
            taken = vm.snapshot(snapshot, description)
    if settings().json:
        say_json(_plain(taken))
    else:
        say(f"{vm.name}: kept as {taken.name}, {taken.state}.")


@click.command(cls=Command)
@parameters.one
def snapshots(name: str) -> None:
    """List the snapshots of a VM, the oldest first.

    \b
    virtuoso snapshots web
    """
    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        found = vm.snapshots
    if settings().json:
        say_json([_plain(each) for each in found])
    elif not found:
        note(f"{vm.name} has no snapshot.")
    else:
        rows = [
            (
                each.name,
                "not told" if each.created is None else f"{each.created.astimezone():%Y-%m-%d %H:%M:%S}",
                each.state,
                "*" if each.current else "",
                each.parent or "",
                each.description,
            )
            for each in found
        ]
        say_table(("NAME", "TAKEN", "STATE", "CURRENT", "AFTER", "DESCRIPTION"), rows)


@click.command(cls=Command, short_help="Go back to a snapshot.")
@parameters.one
@_snapshot
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def revert(name: str, snapshot: str, yes: bool) -> None:
    """Put a VM back into the state of a snapshot: what was written since is lost.

    \b
    virtuoso revert web before-upgrade
    """
    if not yes:
        confirm(f"Put {name} back to {snapshot}, and lose what was written since?")
    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        with waiting(f"Putting {vm.name} back to {snapshot}"):
            vm.revert(snapshot)
        found = summary(vm)
    if settings().json:
        say_json(found)
    else:
        say(f"{vm.name}: back at {snapshot}, {found['state']}")


@click.command("delete-snapshot", cls=Command, short_help="Drop a snapshot.")
@parameters.one
@_snapshot
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def delete_snapshot(name: str, snapshot: str, yes: bool) -> None:
    """Drop a snapshot; the VM and its other snapshots stay as they are.

    \b
    virtuoso delete-snapshot web before-upgrade
    """
    if not yes:
        confirm(f"Drop the snapshot {snapshot} of {name}?")
    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        with waiting(f"Dropping {snapshot} of {vm.name}"):
            vm.delete_snapshot(snapshot)
    if settings().json:
        say_json({"name": vm.name, "snapshot": snapshot, "deleted": True})
    else:
        say(f"{vm.name}: dropped {snapshot}.")


@click.command(cls=Command, short_help="Copy a VM that is off.")
@parameters.one
@click.argument("copies", metavar="COPY...", nargs=-1, required=True)
@click.option("--full", is_flag=True, help="Copy the disks whole; else the copies need the original's.")
@click.option("--start", is_flag=True, help="Start the copies too.")
def clone(name: str, copies: Sequence[str], full: bool, start: bool) -> None:
    """Copy a VM that is off, under other names, with network cards of their own.

    The copies' disks are thin overlays of the original's, which must not be started as long as they are there.

    \b
    virtuoso clone base web-1 web-2 web-3
    virtuoso clone base standalone --full
    """
    made: list[dict[str, Any]] = []
    with settings().connect() as hypervisor:
        original = hypervisor.get(name)
        try:
            for copy in copies:
                with counting(f"Copying {original.name} as {copy}") as progress:
                    vm = original.clone(copy, linked=not full, progress=progress)
                made.append(summary(vm))
                if not settings().json:
                    say(f"Created {vm.name} ({vm.uuid}).")
                if start:
                    vm.start()
                    made[-1] = summary(vm)
                    if not settings().json:
                        say(f"{vm.name}: {made[-1]['state']}")
        finally:
            if made and settings().json:  # also those that were made before one failed
                say_json(made)
