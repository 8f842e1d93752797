"""The commands that let VMs run or not: start, stop, reboot, pause, resume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from . import parameters
from .acting import each, summary
from .app import Command, settings
from .output import say

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


def _control(names: Sequence[str], act: Callable[[VM], None]) -> int:
    """``each``, telling the state that each VM is in afterwards."""

    def control(vm: VM) -> dict[str, Any]:
        act(vm)
        found = summary(vm)
        if not settings().json:
            say(f"{vm.name}: {found['state']}")
        return found

    return each(names, control)
