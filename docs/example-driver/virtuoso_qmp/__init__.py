"""Virtuoso's plugin for plain QEMU processes: the hook. The driver itself is in ``driver``."""

from collections.abc import Iterable

from virtuoso_core import Hypervisor
from virtuoso_core.plugins import hookimpl

api_version = 1


@hookimpl
def virtuoso_hypervisors() -> Iterable[type[Hypervisor]]:
    """The one driver of this plugin."""
    from .driver import QmpHypervisor

    return [QmpHypervisor]
