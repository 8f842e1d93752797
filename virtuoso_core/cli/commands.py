"""The whole command: every part of it, in the order in which --help lists them."""

from collections.abc import Iterable

import click

from .app import cli
from .changing import create, destroy, set_values
from .controlling import autostart, migrate, pause, reboot, resume, start, stop, suspend
from .disks import disk
from .inside import console, display, ip, run, screenshot, ssh
from .installation import completion, doctor, drivers
from .looking import list_vms, show
from .watching import events, top
from .ways_back import clone, delete_snapshot, revert, snapshot, snapshots

__all__ = ["cli"]


def _add(commands: Iterable[click.Command]) -> None:
    for command in commands:
        cli.add_command(command)


_add((list_vms, show, create, set_values, start, stop, reboot, pause, resume, suspend, destroy))
_add((ip, ssh, run, console, screenshot, display))
_add((disk, clone, snapshot, snapshots, revert, delete_snapshot, autostart, migrate, top, events))
_add((drivers, doctor, completion))
