"""SnapshotActs: snapshots and clones of a VM through libvirt."""

from __future__ import annotations

from .domain import LibvirtDomain


class SnapshotActs(LibvirtDomain):
    """What is done to it through libvirt."""
