"""Virtuoso's plugin for VirtualBox: the hooks. The driver itself is in ``driver``."""

from collections.abc import Iterable

from virtuoso_core import Hypervisor
from virtuoso_core.plugins import hookimpl

api_version = 1


@hookimpl
def virtuoso_hypervisors() -> Iterable[type[Hypervisor]]:
    """The one driver of this plugin, whichever way it goes in."""
    from .driver import VBoxHypervisor

    return [VBoxHypervisor]


@hookimpl
def virtuoso_default_uris() -> Iterable[str]:
    """Where VBoxManage is installed."""
    from .runner import find_program

    return ["vbox:///session"] if find_program() else []
