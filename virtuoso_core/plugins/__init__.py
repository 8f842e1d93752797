"""What a driver or plugin author imports: the ``hookimpl`` marker, the hookspecs, the driver interface's version."""

from .hookspecs import API_VERSION, ENTRY_POINT_GROUP, PROJECT, hookimpl
from .registry import Plugin, Registry, Status, default_registry

__all__ = [
    "API_VERSION",
    "ENTRY_POINT_GROUP",
    "PROJECT",
    "Plugin",
    "Registry",
    "Status",
    "default_registry",
    "hookimpl",
]
