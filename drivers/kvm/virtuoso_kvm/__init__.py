"""Virtuoso's plugin for KVM and QEMU: the hooks. The driver itself is in ``driver``."""

import os
from collections.abc import Iterable

from virtuoso_core import Hypervisor
from virtuoso_core.plugins import hookimpl

api_version = 1


@hookimpl
def virtuoso_hypervisors() -> Iterable[type[Hypervisor]]:
    """The one driver of this plugin."""
    from .driver import KvmHypervisor

    return [KvmHypervisor]


@hookimpl
def virtuoso_default_uris() -> Iterable[str]:
    """As libvirt's own tools choose: the system's daemon for root, one's own for everybody else."""
    return ["qemu:///system"] if os.geteuid() == 0 else ["qemu:///session", "qemu:///system"]
