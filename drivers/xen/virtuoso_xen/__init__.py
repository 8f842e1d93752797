"""Virtuoso's plugin for Xen: the hooks. The driver itself is in ``driver``."""

from collections.abc import Iterable

from virtuoso_core import Hypervisor
from virtuoso_core.plugins import hookimpl

api_version = 1


@hookimpl
def virtuoso_hypervisors() -> Iterable[type[Hypervisor]]:
    """The one driver of this plugin."""
    from .driver import XenHypervisor

    return [XenHypervisor]


@hookimpl
def virtuoso_default_uris() -> Iterable[str]:
    """This machine's Xen, where it is a host of one."""
    from .diagnosis import is_host

    return ["xen:///system"] if is_host() else []
