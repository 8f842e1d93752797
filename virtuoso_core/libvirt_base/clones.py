"""CloneActs: a copy of a VM's domain document, with all in it made its own that no two VMs may share."""

from __future__ import annotations

import posixpath
from typing import TYPE_CHECKING

from .. import storage
from ..errors import ImageError, UnsupportedError
from ..spec import Feature, VMSpec
from ..unfinished import Undertaking
from ..xml import DomainDocument
from .domain import LibvirtDomain

if TYPE_CHECKING:
    from lxml.etree import _Element

    from ..xml import Disk

_TERMINALS = ("serial", "parallel", "console", "channel")


class CloneActs(LibvirtDomain):
    """How a clone comes about through libvirt."""

    def _own_disks(self, spec: VMSpec) -> dict[str, str | None]:
        assert self._document is not None
        own: dict[str, str | None] = {}
        for disk in self._document.disks:
            if not _is_own(disk) or disk.path not in (spec.disk_image, *spec.more_disks):
                continue
            if disk.element.find("source/encryption") is not None or disk.element.find("encryption") is not None:
                raise UnsupportedError(
                    f"The VM {self._known_name!r} was not copied: its disk {disk.path} is encrypted.", **self._where
                )
            own[disk.path or ""] = disk.format or "raw"  # libvirt's meaning of none
        return own

    def _clone_document(self, spec: VMSpec, step: Undertaking) -> DomainDocument:
        """The document of a clone whose disks are there."""
        assert self._document is not None
        before = self._hypervisor.read_spec(self._document)
        old = (before.disk_image, *before.more_disks, before.seed)
        new = (spec.disk_image, *spec.more_disks, spec.seed)
        images = {was: now for was, now in zip(old, new, strict=True) if was is not None and now is not None}
        document = self._document.copy()
        document.name = spec.name
        _take_identity(document)
        for disk in document.disks:
            path = images.get(disk.path or "")
            if path is not None and path != disk.path:
                disk.set_path(path, block=False)
                if disk.device == "disk":
                    disk.format = self._hypervisor._storage().info(path).format
        for card, network in zip(document.interfaces, spec.networks, strict=True):
            card.mac_address, card.target = network.mac_address, None
            for parameters in card.element.iterfind("virtualport/parameters"):
                for attribute in ("interfaceid", "instanceid"):
                    parameters.attrib.pop(attribute, None)
        _own_terminals(document, spec.name)
        _own_screens(document)
        self._own_nvram(document, spec.name, step)
        return document

    def _own_nvram(self, document: DomainDocument, name: str, step: Undertaking) -> None:
        """The firmware's variables, among them what to boot. Without a copy libvirt makes new ones at the start."""
        old = (document.nvram or "").strip()
        if not old:
            return
        element = document.ensure(document.root, ("os", "nvram"))
        new = posixpath.join(posixpath.dirname(old), f"{name}_VARS{posixpath.splitext(old)[1]}")
        store = self._hypervisor._storage() if Feature.CREATE_DISK in self._hypervisor.features else None
        if store is not None and store.exists(old) and not store.exists(new):
            try:
                kind = element.get("format", "raw")
                storage.make(store, step, new, lambda path: store.copy(old, path, None, format=kind))
                document.set_text(element, new)
                return
            except ImageError:
                pass  # nothing was made: only the hypervisor may read them, and they start anew
        document.set_text(element, "")
        if not element.attrib:
            document.remove(element)


def _is_own(disk: Disk) -> bool:
    return disk.device == "disk" and not disk.readonly and not disk.shareable


def _take_identity(document: DomainDocument) -> None:
    """Take away what names this one VM; libvirt makes another where one is needed."""
    document.uuid = None
    root = document.root
    for entry in root.findall("sysinfo/system/entry"):
        if entry.get("name") == "uuid":  # it must be the VM's
            document.remove(entry)
    genid = root.find("genid")
    if genid is not None:
        document.set_text(genid, "")
    for cid in root.iterfind("devices/vsock/cid"):
        cid.set("auto", "yes")
        cid.attrib.pop("address", None)


def _own_terminals(document: DomainDocument, name: str) -> None:
    """Files and sockets of the host's that a terminal writes or listens on."""
    terminals = [one for tag in _TERMINALS for one in document.root.iterfind(f"devices/{tag}")]
    for terminal in terminals:
        for log in terminal.findall("log"):
            _rename(log, "file", name)
        for source in terminal.findall("source"):
            if terminal.get("type") == "file":
                _rename(source, "path", name)
            elif terminal.get("type") == "unix" and source.get("mode") == "bind":
                if terminal.tag == "channel":
                    document.remove(source)  # libvirt puts it among its own
                else:
                    _rename(source, "path", name)


def _rename(element: _Element, attribute: str, name: str) -> None:
    path = element.get(attribute)
    if path is None:
        return
    folder, old = posixpath.split(path)
    # not NAME.log, which libvirt itself writes for a VM of that name
    element.set(attribute, posixpath.join(folder, f"{name}-{old}"))


def _own_screens(document: DomainDocument) -> None:
    """Ports and sockets: those that the host gives out."""
    for screen in document.graphics:
        if screen.port is not None or screen.element.get("tlsPort") is not None:
            screen.port, screen.autoport = -1, True
            screen.element.attrib.pop("tlsPort", None)
        if screen.element.get("websocket") is not None:
            screen.element.set("websocket", "-1")
        screen.element.attrib.pop("socket", None)
        for listen in screen.element.iterfind("listen"):
            listen.attrib.pop("socket", None)
