"""RunningActs: a VM that runs, ran or will run: statistics, suspending, migration, live changes."""

from __future__ import annotations

from .domain import LibvirtDomain


class RunningActs(LibvirtDomain):
    """What is done to it through libvirt."""
