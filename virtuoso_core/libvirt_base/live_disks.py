"""LiveDisks: discs changed, disks plugged in and out while the VM runs, as its definition says."""

from __future__ import annotations

import copy
import logging
from typing import TYPE_CHECKING

from ..errors import VirtuosoError
from ..waiting import Wait
from ..xml import Disk, DomainDocument
from .binding import libvirt
from .domain import LibvirtDomain

if TYPE_CHECKING:
    from lxml.etree import _Element

_PATIENCE = 10.0
"""Seconds that a guest is given to let go of a disk; one that does so later loses it then."""

_log = logging.getLogger(__name__)


class LiveDisks(LibvirtDomain):
    """What a change of disks means to a VM that runs."""

    def _apply_live_disks(
        self, document: DomainDocument, changed: frozenset[str], *, before: DomainDocument
    ) -> frozenset[str]:
        """Give the running VM the disks that its definition, written just now, says; return what is in force.

        What the definition did not have before either, somebody plugged in for this run only: that stays.
        What cannot be done now waits for the next start, whatever the reason: the definition is written.
        """
        applied = set()
        for name in changed & {"cdrom", "seed", "more_disks"}:
            try:
                if name == "more_disks":
                    done = self._plug(document, before)
                else:
                    done = self._change_disc(getattr(document, name), getattr(self._live(), name))
            except VirtuosoError as error:
                _log.debug("the change of %s of the VM %r waits for its next start: %s", name, self.name, error)
                continue
            if done:
                applied.add(name)
        return frozenset(applied)

    def _live(self) -> DomainDocument:
        """What runs, which may be another VM than the definition makes at the next start."""
        return DomainDocument(self._call("read", self._domain.XMLDesc, libvirt().VIR_DOMAIN_XML_SECURE))

    def _change_disc(self, wanted: Disk | None, live: Disk | None) -> bool:
        """Another disc, or none, in a drive that is there. A drive itself is not plugged in or out."""
        if wanted is None or live is None or wanted.target != live.target:
            return False
        if wanted.path != live.path:
            drive = Disk(live.document, live.element)
            if wanted.path is None:
                drive.empty()
            else:
                drive.set_path(wanted.path, block=wanted.type == "block")
            self._call("change the disc of", self._domain.updateDeviceFlags, _text(live.element), _live_only())
        return True

    def _plug(self, document: DomainDocument, before: DomainDocument) -> bool:
        """Plug in and out what makes the difference; whether none is left."""
        wanted = {disk.path for disk in document.further_disks}
        unwanted = {disk.path for disk in before.further_disks} - wanted
        surplus = [disk for disk in self._live().further_disks if disk.path in unwanted]
        for disk in surplus:
            self._call("unplug a disk of", self._domain.detachDeviceFlags, _text(disk.element), _live_only())
        self._wait_until_gone({disk.path for disk in surplus})
        there = {disk.path for disk in self._live().disks}
        for disk in document.further_disks:
            if disk.path not in there:
                element = copy.deepcopy(disk.element)
                for place in [*element.findall("address"), *element.findall("alias")]:
                    element.remove(place)  # the running VM may have something else there
                self._call("plug a disk into", self._domain.attachDeviceFlags, _text(element), _live_only())
        now = {disk.path for disk in self._live().further_disks}
        return wanted <= now and now.isdisjoint(unwanted)

    def _wait_until_gone(self, paths: set[str | None]) -> None:
        wait = Wait(_PATIENCE, longest=0.2)
        while paths & {disk.path for disk in self._live().disks} and wait.pause():
            pass


def _live_only() -> int:
    return int(libvirt().VIR_DOMAIN_AFFECT_LIVE)


def _text(element: _Element) -> str:
    from lxml import etree

    return etree.tostring(element, encoding="unicode", with_tail=False)
