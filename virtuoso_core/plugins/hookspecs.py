"""The hooks that a plugin may implement, and the version of this interface.

A plugin is a module or object named by an entry point of the group ``virtuoso.drivers``. It states the interface
that it was written for as a literal, and marks its functions with ``hookimpl``::

    from virtuoso_core.plugins import hookimpl

    api_version = 1

    @hookimpl
    def virtuoso_hypervisors():
        return [MyHypervisor]
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    from ..events import Event
    from ..hypervisor import Hypervisor
    from ..vm import VM

PROJECT = "virtuoso"
ENTRY_POINT_GROUP = "virtuoso.drivers"

API_VERSION = 1
"""The driver interface of this core. It goes up when drivers must change."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a function of a plugin as the implementation of the hook of its name."""


@hookspec
def virtuoso_hypervisors() -> Iterable[type[Hypervisor]]:
    """The Hypervisor classes that this plugin brings: all that a driver needs.

    Called once, when the plugin is loaded.

    Returns:
        Subclasses of ``virtuoso_core.Hypervisor`` with a name, schemes, and no abstract method left.

    Example::

        @hookimpl
        def virtuoso_hypervisors():
            return [KvmHypervisor]
    """
    raise NotImplementedError


@hookspec
def virtuoso_default_uris() -> Iterable[str]:
    """The URIs that ``connect()`` without one should try, best first.

    Called at each such ``connect()``; it must be quick and open nothing.

    Returns:
        URIs as text.

    Example::

        @hookimpl
        def virtuoso_default_uris():
            return ["qemu:///system"]
    """
    raise NotImplementedError


@hookspec
def virtuoso_before_save(vm: VM, changed: frozenset[str]) -> None:
    """Look at a VM before ``save()`` writes it; raise anything to veto.

    Args:
        vm: with its unsaved edits. Do not edit or save it here.
        changed: the names of the fields that will be written; options as ``options.NAME``.

    Raises:
        Exception: the save becomes a SaveVetoedError with this one as its cause, and nothing is written.

    Example::

        @hookimpl
        def virtuoso_before_save(vm, changed):
            if "memory" in changed and vm.memory > 64 * GiB:
                raise ValueError("no VM here gets more than 64 GiB")
    """


@hookspec
def virtuoso_event(event: Event) -> None:
    """Hear of what this program did to a VM: saved, started, stopped ... Errors are logged only.

    Args:
        event: what happened, to which VM, on which hypervisor.

    Example::

        @hookimpl
        def virtuoso_event(event):
            print(event.vm, event.type)
    """
