"""SnapshotActs: snapshots of a VM through libvirt, and which kind of them this libvirt can go back to."""

from __future__ import annotations

import posixpath
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from .. import images
from ..errors import (
    ImageFormatError,
    InvalidStateError,
    InvalidValueError,
    SnapshotExistsError,
    SnapshotNotFoundError,
    UnsupportedError,
    VirtuosoError,
)
from ..facts import Snapshot
from ..spec import State
from ..xml import Disk, Document, DomainDocument
from .binding import libvirt
from .domain import LibvirtDomain
from .errors import is_code

# libvirt's versions, as it numbers them, since which its QEMU driver can do something. What is inside the images was
# tried with 9.0 and 12.8, what is beside them with 12.8.
_BACK_TO_EXTERNAL = 9_009_000
"""Go back to snapshots beside the images."""
_OFF_WITH_UEFI_REFUSED = 9_002_000
"""Refuse snapshots inside the images of a VM with UEFI that is off, until the next; then take them, again without the
firmware's variables, and refuse them while it runs: as the two kinds do not mix, those are kept beside."""
_WITH_QCOW2_NVRAM = 10_010_000
"""Keep the firmware's variables in the snapshot, in qcow2; plug processors in before it goes back."""

_STATES = {"running": State.RUNNING, "blocked": State.RUNNING, "paused": State.PAUSED, "pmsuspended": State.PAUSED}


@dataclass(frozen=True)
class _Obstacle:
    """What keeps a VM from having one kind of snapshot, and what to do about it."""

    reason: str
    advice: str


class SnapshotActs(LibvirtDomain):
    """What is done to a VM's snapshots through libvirt."""

    def _snapshots(self) -> Iterable[Snapshot]:
        current = self._current_snapshot()
        found = []
        for native in self._native_snapshots():
            try:
                found.append(_read(self._snapshot_document(native), current))
            except SnapshotNotFoundError:
                continue  # dropped while we looked
        # libvirt lists them in no order; parents first, for those of one second
        order = {each.name: each for each in found}
        return sorted(found, key=lambda each: (each.created or datetime.min.replace(tzinfo=UTC), _depth(each, order)))

    def _native_snapshots(self) -> list[Any]:
        doing = "list the snapshots of"
        try:
            return list(self._call(doing, self._domain.listAllSnapshots, 0))
        except UnsupportedError:  # a driver that knows names only
            names = self._call(doing, self._domain.snapshotListNames, 0)
            return [self._native_snapshot(name) for name in names]

    def _current_snapshot(self) -> str | None:
        doing = "look at the snapshots of"
        if not self._call(doing, self._domain.hasCurrentSnapshot, 0):
            return None
        try:
            return str(self._call(doing, self._domain.snapshotCurrent, 0).getName())
        except VirtuosoError as error:
            if is_code(error, "NO_DOMAIN_SNAPSHOT"):
                return None  # dropped while we looked
            raise

    def _native_snapshot(self, name: str) -> Any:
        return self._about(name, f"find the snapshot {name!r} of", self._domain.snapshotLookupByName, name, 0)

    def _snapshot_document(self, native: Any) -> Document:
        name = native.getName()
        return Document(self._about(name, f"read the snapshot {name!r} of", native.getXMLDesc, 0))

    def _about(self, name: str, doing: str, function: Callable[..., Any], *args: Any) -> Any:
        """A call about one snapshot: what libvirt tells of it in codes of its own."""
        try:
            return self._call(doing, function, *args)
        except VirtuosoError as error:
            if is_code(error, "NO_DOMAIN_SNAPSHOT"):
                raise SnapshotNotFoundError(
                    f"Could not {doing} the VM {self._known_name!r}: it is gone.", **self._where
                ) from error
            if isinstance(error, InvalidValueError) and is_code(error, "CONFIG_UNSUPPORTED"):
                raise UnsupportedError(error.message, **self._where) from error
            raise

    # Taking one.

    def _take_snapshot(self, name: str, description: str) -> None:
        document = Document("<domainsnapshot/>")
        document.set_text(document.add(document.root, "name"), name)
        if description:
            document.set_text(document.add(document.root, "description"), description)
        flags = 0
        if self._hypervisor.snapshots_in_images and self._beside_images(name):
            flags = self._describe_external(document, name)
        self._about(name, "take a snapshot of", self._domain.snapshotCreateXML, document.text, flags)

    def _domain_now(self) -> tuple[DomainDocument, bool]:
        """What it runs with, or would start with, and whether it runs."""
        running = bool(self._call("look at", self._domain.isActive))
        flags = 0 if running else libvirt().VIR_DOMAIN_XML_INACTIVE
        return DomainDocument(self._call("read", self._domain.XMLDesc, flags)), running

    def _beside_images(self, name: str) -> bool:
        """Whether a snapshot must lie beside the images, not in them; raises where neither can be gone back to."""
        version = self._call("look at", self._hypervisor.connection.native.getLibVersion)
        domain, running = self._domain_now()
        disks = [disk for disk in domain.disks if _is_kept(disk)]
        kinds = {_kind(self._snapshot_document(native)) for native in self._native_snapshots()}
        common = list(_obstacles_to_memory(domain, version)) if running else []
        inside = [*common, *_obstacles_inside(domain, disks, running, version)]
        if "external" in kinds:
            inside.append(_Obstacle("it has snapshots beside its images, which do not mix", "Drop those first."))
        if not inside:
            self._check_left_over(disks, name)
            return False
        if version < _BACK_TO_EXTERNAL:
            said = f"libvirt {_version(version)} goes back to no other kind of snapshot, 9.9 does"
            raise self._cannot([*inside, _Obstacle(said, "")])
        beside = [*common, *_obstacles_beside(disks)]
        if "internal" in kinds:
            beside.append(_Obstacle("it has snapshots inside its images, which do not mix", "Drop those first."))
        if beside:
            raise self._cannot(list(dict.fromkeys([*inside, *beside])))
        return True

    def _cannot(self, obstacles: list[_Obstacle]) -> UnsupportedError:
        return UnsupportedError(
            f"No snapshot can be taken of the VM {self._known_name!r}: "
            f"{'; '.join(each.reason for each in obstacles)}. Nothing was changed.",
            hint=next((each.advice for each in obstacles if each.advice), ""),
            **self._where,
        )

    def _check_left_over(self, disks: list[Disk], name: str) -> None:
        """A snapshot of that name which another VM left in an image: QEMU would go back to that one."""
        if not self._hypervisor.local:
            return
        for disk in disks:
            try:
                found = images.probe(disk.path or "").get("snapshots", [])
            except ImageFormatError:
                continue  # this user may not read it
            if any(each.get("name") == name for each in found):
                raise SnapshotExistsError(
                    f"The disk image {disk.path} holds a snapshot {name!r} already, which the VM {self._known_name!r} "
                    "knows nothing of.",
                    hint=f"Choose another name, or drop it while the VM is off: qemu-img snapshot -d NAME {disk.path}",
                    **self._where,
                )

    def _describe_external(self, document: Document, name: str) -> int:
        """New overlays, which libvirt names after the snapshot, and a file for the memory. Returns the flags."""
        binding = libvirt()
        domain, running = self._domain_now()
        disks = document.add(document.root, "disks")
        first = ""
        for disk in domain.disks:
            kept = _is_kept(disk)
            first = first or (kept and disk.path) or ""
            document.add(disks, "disk", name=disk.target or "", snapshot="external" if kept else "no")
        flags = int(binding.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC)
        if not running:
            return flags | int(binding.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
        file = posixpath.join(posixpath.dirname(first), f"{self._known_name}.{name}.memory")
        document.add(document.root, "memory", snapshot="external", file=file)
        return flags

    # Going back, dropping.

    def _revert(self, name: str) -> None:
        binding, native = libvirt(), self._native_snapshot(name)
        if self._hypervisor.snapshots_in_images and _kind(self._snapshot_document(native)) == "external":
            version = self._call("look at", self._hypervisor.connection.native.getLibVersion)
            if version < _BACK_TO_EXTERNAL:
                raise UnsupportedError(
                    f"The VM {self._known_name!r} cannot go back to {name!r}: that snapshot lies beside its disk "
                    f"images, and libvirt {_version(version)} cannot go back to such. Nothing was changed.",
                    hint="libvirt 9.9 can.",
                    **self._where,
                )
        doing = f"go back to the snapshot {name!r} of"
        try:
            self._about(name, doing, self._domain.revertToSnapshot, native, 0)
        except VirtuosoError as error:
            if not is_code(error, "SNAPSHOT_REVERT_RISKY"):
                raise
            # what is at risk is the QEMU process, which a new one replaces, or the saved memory, which goes next
            force = binding.VIR_DOMAIN_SNAPSHOT_REVERT_FORCE
            self._about(name, doing, self._domain.revertToSnapshot, native, force)
        if self._hypervisor.managed_save and self._call("look at", self._domain.hasManagedSaveImage, 0):
            # a later start would go on from memory that does not fit the disks any more
            self._call("drop the saved memory of", self._domain.managedSaveRemove, 0)

    def _delete_snapshot(self, name: str) -> None:
        native = self._native_snapshot(name)
        if self._hypervisor.snapshots_in_images and self._call("look at", self._domain.isActive):
            self._check_disks_of(name, self._snapshot_document(native))
        self._about(name, f"drop the snapshot {name!r} of", native.delete, 0)

    def _check_disks_of(self, name: str, snapshot: Document) -> None:
        """libvirt up to 9.0 crashes, and later ones fail, over a disk that the running VM has not."""
        kept = {disk.get("name") for disk in snapshot.root.iterfind("disks/disk") if disk.get("snapshot") != "no"}
        for flags in (0, libvirt().VIR_DOMAIN_XML_INACTIVE):
            document = DomainDocument(self._call("read", self._domain.XMLDesc, flags))
            gone = kept - {disk.target for disk in document.disks}
            if gone:
                raise InvalidStateError(
                    f"The snapshot {name!r} of the VM {self._known_name!r} cannot be dropped while it runs: it holds "
                    f"the disk {min(map(str, gone))}, which the VM does not have for good.",
                    hint="Stop it first.",
                    **self._where,
                )


def _obstacles_to_memory(domain: DomainDocument, version: int) -> Iterator[_Obstacle]:
    """What keeps the memory of a running VM from being kept."""
    off = "Stop it first: the disks of a VM that is off can be kept."
    if domain.root.find("devices/hostdev") is not None:
        yield _Obstacle("it runs with a device of the host's, whose state cannot be kept", off)
    if domain.root.find("devices/filesystem") is not None:
        yield _Obstacle("it runs with a folder of the host's, whose state cannot be kept", off)
    cpus = domain.root.iterfind("vcpus/vcpu")
    plugged = [cpu for cpu in cpus if cpu.get("enabled") == cpu.get("hotpluggable") == "yes"]
    if plugged and version < _WITH_QCOW2_NVRAM:
        yield _Obstacle(
            f"processors were plugged in while it ran, and libvirt {_version(version)} could not go back to that",
            "Stop and start it first: it starts with all of them.",
        )


def _obstacles_inside(domain: DomainDocument, disks: list[Disk], running: bool, version: int) -> Iterator[_Obstacle]:
    if not disks:
        yield _Obstacle("it has no disk of its own to keep it in", "")
    for disk in disks:
        if disk.format != "qcow2":
            path = disk.path or ""
            advice = f"Convert it: qemu-img convert -O qcow2 {path} {path}.qcow2, and set disk_image to that."
            yield _Obstacle(f"its disk {path} is {disk.format or 'raw'}, and only qcow2 keeps snapshots", advice)
    if domain.firmware != "efi" and domain.loader_type != "pflash":
        return
    nvram = domain.find(domain.root, ("os", "nvram"))
    in_qcow2 = nvram is not None and nvram.get("format") == "qcow2"
    if version >= _WITH_QCOW2_NVRAM and in_qcow2:
        return
    if version >= _OFF_WITH_UEFI_REFUSED:
        bios = "Give it another firmware: vm.set('firmware', 'bios')."
        yield _Obstacle(f"it has UEFI firmware, which libvirt {_version(version)} keeps nothing of there", bios)
    elif running:
        stop = "Stop it first: the disks of a VM that is off can be kept."
        yield _Obstacle(f"it runs with UEFI firmware, whose state libvirt {_version(version)} cannot keep", stop)


def _obstacles_beside(disks: list[Disk]) -> Iterator[_Obstacle]:
    if not disks:
        yield _Obstacle("it has no disk of its own to keep it beside", "")
    for disk in disks:
        if disk.type != "file":
            yield _Obstacle(f"its disk {disk.path} is no image file, beside which a snapshot could lie", "")


def _is_kept(disk: Disk) -> bool:
    return disk.device in ("disk", "lun") and not disk.readonly and bool(disk.path)


def _kind(snapshot: Document) -> str:
    """Whether it lies in the disk images, "internal", or beside them, "external"."""
    places = [*snapshot.root.iterfind("disks/disk"), *snapshot.root.iterfind("memory")]
    return "external" if any(place.get("snapshot") == "external" for place in places) else "internal"


def _read(document: Document, current: str | None) -> Snapshot:
    root = document.root
    name, created = root.findtext("name") or "", root.findtext("creationTime")
    return Snapshot(
        name=name,
        created=datetime.fromtimestamp(int(created), UTC) if created and created.isdecimal() else None,
        state=_STATES.get(root.findtext("state") or "", State.STOPPED),
        current=name == current,
        parent=root.findtext("parent/name") or None,
        description=root.findtext("description") or "",
    )


def _depth(snapshot: Snapshot, known: dict[str, Snapshot]) -> int:
    """How many come before it."""
    depth, parent = 0, snapshot.parent
    while parent is not None and parent in known and depth < len(known):
        depth, parent = depth + 1, known[parent].parent
    return depth


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}"
