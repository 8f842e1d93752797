"""The scheme ``test``: libvirt's own mock inside this process, for trying programs with no hypervisor at all."""

from collections.abc import Iterable

from ..hypervisor import Hypervisor
from ..plugins import hookimpl

api_version = 1


@hookimpl
def virtuoso_hypervisors() -> Iterable[type[Hypervisor]]:
    """The plugin's one driver."""
    from .driver import TestHypervisor

    return [TestHypervisor]
