"""The whole command: every part of it, in the order in which --help lists them."""

from .app import cli
from .changing import create, destroy, set_values
from .controlling import pause, reboot, resume, start, stop
from .installation import completion, doctor, drivers
from .looking import list_vms, show

__all__ = ["cli"]

for command in (list_vms, show, create, set_values, start, stop, reboot, pause, resume, destroy):
    cli.add_command(command)
for command in (drivers, doctor, completion):
    cli.add_command(command)
