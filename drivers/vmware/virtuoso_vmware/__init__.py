"""Virtuoso's plugin for VMware: the hooks. The drivers themselves are in ``esx`` and ``workstation``."""

from collections.abc import Iterable

from virtuoso_core import Hypervisor
from virtuoso_core.plugins import hookimpl

api_version = 1


@hookimpl
def virtuoso_hypervisors() -> Iterable[type[Hypervisor]]:
    """Two drivers: one for servers, one for the products that run on one's own machine."""
    from .esx import EsxHypervisor
    from .workstation import WorkstationHypervisor

    return [EsxHypervisor, WorkstationHypervisor]
