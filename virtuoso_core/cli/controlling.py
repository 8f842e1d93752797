"""The commands that let VMs run or not: start, stop, reboot, pause, resume, suspend, autostart, migrate."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from . import parameters
from .acting import each, summary
from .app import Command, settings
from .completion import complete_uri
from .output import say, say_json
from .progress import counting, waiting

if TYPE_CHECKING:
    from ..vm import VM


@click.command(cls=Command)
@parameters.some
@click.option("--start-networks", is_flag=True, help="Start the host's networks that it needs, too.")
def start(names: Sequence[str], start_networks: bool) -> int:
    """Start VMs; a paused one goes on, a running one stays so.

    \b
    virtuoso start web
    virtuoso start web db --start-networks
    """
    return _control(names, lambda vm: vm.start(start_networks=start_networks))


@click.command(cls=Command)
@parameters.some
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


@click.command(cls=Command)
@parameters.some
def reboot(names: Sequence[str]) -> int:
    """Ask the guests to start anew.

    \b
    virtuoso reboot web
    """
    return _control(names, lambda vm: vm.reboot())


@click.command(cls=Command)
@parameters.some
def pause(names: Sequence[str]) -> int:
    """Let the guests stand still, in memory.

    \b
    virtuoso pause web
    """
    return _control(names, lambda vm: vm.pause())


@click.command(cls=Command)
@parameters.some
def resume(names: Sequence[str]) -> int:
    """Let paused guests go on.

    \b
    virtuoso resume web
    """
    return _control(names, lambda vm: vm.resume())


@click.command(cls=Command, short_help="Write their memory to disk and end them.")
@parameters.some
def suspend(names: Sequence[str]) -> int:
    """Keep the memory of VMs on disk and end them; start goes on from there.

    \b
    virtuoso suspend web
    """

    def act(vm: VM) -> None:
        with waiting(f"Writing the memory of {vm.name}"):
            vm.suspend()

    return _control(names, act)


@click.command(cls=Command)
@parameters.some
@click.option("--off", is_flag=True, help="No longer.")
def autostart(names: Sequence[str], off: bool) -> int:
    """Let VMs start with their host.

    \b
    virtuoso autostart web
    virtuoso autostart web --off
    """

    def act(vm: VM) -> dict[str, Any]:
        vm.autostart = not off
        if not settings().json:
            say(f"{vm.name}: {'starts no longer' if off else 'starts'} with its host")
        return summary(vm) | {"autostart": not off}

    return each(names, act)


@click.command(cls=Command, short_help="Move a running VM to another host.")
@parameters.one
@click.argument("target", metavar="URI", shell_complete=complete_uri)
@click.option("--copy-disks", is_flag=True, help="Send its disks along; else both hosts must see them.")
def migrate(name: str, target: str, copy_disks: bool) -> None:
    """Move a running VM to another host, while its guest goes on.

    \b
    virtuoso migrate web qemu+ssh://other/system
    virtuoso migrate web qemu+ssh://other/system --copy-disks
    """
    found = settings()
    with found.connect() as hypervisor:
        vm = hypervisor.get(name)
        with counting(f"Moving {vm.name}") as progress:
            moved = vm.migrate(target, copy_disks=copy_disks, credentials=found.credentials, progress=progress)
        with moved.hypervisor as there:
            now = summary(moved) | {"uri": str(there.uri)}
    if found.json:
        say_json(now)
    else:
        say(f"{now['name']}: {now['state']} on {now['uri']}")


def _control(names: Sequence[str], act: Callable[[VM], None]) -> int:
    """``each``, telling the state that each VM is in afterwards."""

    def control(vm: VM) -> dict[str, Any]:
        act(vm)
        found = summary(vm)
        if not settings().json:
            say(f"{vm.name}: {found['state']}")
        return found

    return each(names, control)
