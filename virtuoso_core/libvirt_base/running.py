"""RunningActs: a VM that runs, ran or will run: statistics, suspending, migration, live changes."""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from ..errors import HypervisorError, NoSpaceError, VirtuosoError
from ..facts import Progress, Stats
from ..spec import Feature, MiB, format_memory
from ..xml import Document, DomainDocument
from . import migration, stats
from .binding import libvirt
from .domain import LibvirtDomain
from .jobs import run_job

if TYPE_CHECKING:
    from ..hypervisor import Hypervisor

_MODULE = 128 * MiB
"""Memory is plugged in at multiples of that: Linux takes no smaller pieces."""

_log = logging.getLogger(__name__)


class RunningActs(LibvirtDomain):
    """What is done to it through libvirt."""

    # Statistics, autostart.

    def _get_stats(self) -> Stats:
        return stats.stats_of(self._hypervisor, self._domain, self._known_name)

    def _get_autostart(self) -> bool:
        return bool(self._call("look at", self._domain.autostart))

    def _set_autostart(self, on: bool) -> None:
        self._call("set the autostart of", self._domain.setAutostart, int(on))

    # Suspending.

    def _suspend(self) -> None:
        try:
            late = run_job(self, "suspend", self._domain.managedSave, 0)
        except HypervisorError as error:
            folder = self._hypervisor.saved_memory_folder()
            if folder is None or (free := _free_space(folder)) is None:
                raise
            needed = self._call("look at", self._domain.info)[2]
            if free >= needed:
                raise
            raise NoSpaceError(
                f"The VM {self.name!r} on {self._hypervisor.uri} was not suspended: it has {format_memory(needed)} of "
                f"memory, and in {folder} there is room for {format_memory(free // MiB * MiB)}.",
                hint=f"Make room in {folder}.",
                **self._where,
            ) from error
        if late is not None:
            raise late

    # Migration.

    def _migrate(self, target: Hypervisor, copy_disks: bool, progress: Progress | None) -> None:
        migration.migrate(self, target, copy_disks, progress)

    # Changes while it runs.

    def _apply_live(self, document: DomainDocument, changed: frozenset[str]) -> frozenset[str]:
        """Make the running VM what its definition, written just now, says; return which changes are in force.

        What cannot be done now waits for the next start, whatever the reason: the definition is written.
        """
        if Feature.LIVE not in self._hypervisor.features:
            return frozenset()
        applied = set()
        for name, apply in (("memory", self._apply_memory), ("cpus", self._apply_cpus)):
            if name in changed:
                try:
                    if apply(document):
                        applied.add(name)
                except VirtuosoError as error:
                    _log.debug("the %s of the VM %r waits for its next start: %s", name, self._known_name, error)
        return frozenset(applied)

    def _apply_cpus(self, document: DomainDocument) -> bool:
        wanted, live = document.cpus, libvirt().VIR_DOMAIN_AFFECT_LIVE
        self._call("give other CPUs to", self._domain.setVcpusFlags, wanted, live)
        return bool(self._call("look at the CPUs of", self._domain.vcpusFlags, live) == wanted)

    def _apply_memory(self, document: DomainDocument) -> bool:
        total = document.memory or 0
        wanted = total if document.current_memory is None else document.current_memory
        running = DomainDocument(self._call("look at", self._domain.XMLDesc, 0))
        if total > (running.memory or 0) and not self._plug_memory(running, total):
            return False
        live = libvirt().VIR_DOMAIN_AFFECT_LIVE
        self._call("give other memory to", self._domain.setMemoryFlags, wanted, live)
        return True

    def _plug_memory(self, running: DomainDocument, total: int) -> bool:
        """Let the most that it can have be the total or a little more; the balloon takes what is too much."""
        there = running.memory or 0
        size = -(-(total - there) // _MODULE) * _MODULE
        if running.max_memory is None or there + size > running.max_memory:
            return False
        module = Document("<memory model='dimm'><target><size unit='KiB'/><node>0</node></target></memory>")
        module.set_text(module.ensure(module.root, ("target", "size")), str(size))
        live = libvirt().VIR_DOMAIN_AFFECT_LIVE
        self._call("plug memory into", self._domain.attachDeviceFlags, module.text, live)
        return True


def _free_space(folder: str) -> int | None:
    """KiB; None where that cannot be seen."""
    try:
        found = os.statvfs(folder)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize // 1024
