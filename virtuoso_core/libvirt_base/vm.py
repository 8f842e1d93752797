"""LibvirtVM: a VM behind libvirt, changed by patching its own XML in place."""

from __future__ import annotations

import os
import shlex
import stat
from collections.abc import Callable, Hashable, Mapping
from typing import Any

from .. import images
from ..backend import name_taken
from ..errors import (
    HypervisorError,
    ImageInUseError,
    ImageUnreadableError,
    InvalidStateError,
    InvalidValueError,
    UnsupportedError,
    VirtuosoError,
    VMNotFoundError,
)
from ..spec import Feature, SaveResult, State, VMSpec
from ..unfinished import Undertaking
from ..xml import DomainDocument
from .binding import libvirt
from .clones import CloneActs
from .domain import LibvirtDomain, state_of
from .errors import is_code
from .guest import GuestActs
from .live_disks import LiveDisks
from .running import RunningActs
from .snapshots import SnapshotActs
from .starting import StartActs, stopped_by_a_disk


class LibvirtVM(GuestActs, RunningActs, LiveDisks, SnapshotActs, CloneActs, StartActs, LibvirtDomain):
    """A VM whose configuration is a domain document."""

    _in_force: frozenset[str] = frozenset()
    """What of the last change was made to the running VM too."""
    _written: DomainDocument | None = None
    """What that change made of the definition."""

    # Configuration.

    def _read(self) -> VMSpec:
        binding = libvirt()
        # inactive: what the next start uses; secure: or saving would erase the passwords
        flags = binding.VIR_DOMAIN_XML_INACTIVE
        if not self._hypervisor.readonly:
            flags |= binding.VIR_DOMAIN_XML_SECURE
        self._document = DomainDocument(self._call("read", self._domain.XMLDesc, flags))
        return self._hypervisor.read_spec(self._document)

    def _create(self, spec: VMSpec) -> str:
        document = self._new_document(spec)
        try:
            self._domain = self._define(document, validate=True)
        except VirtuosoError as error:
            self._check_taken(spec.name, error)
            raise
        uuid: str = self._domain.UUIDString()
        return uuid

    def _new_document(self, spec: VMSpec) -> DomainDocument:
        document = self._hypervisor.new_document()
        self._hypervisor.patch(document, spec, spec.changed_from(self._hypervisor.read_spec(document)))
        return document

    def _check_taken(self, name: str, error: VirtuosoError) -> None:
        """libvirt has no code of its own for a name that is taken: look, and raise VMExistsError then."""
        try:
            other = self._hypervisor._find_vm(name)
        except VirtuosoError:
            return
        if other.name == name and other.uuid != self._uuid:
            raise name_taken(name, other) from error

    def _define(self, document: DomainDocument, *, validate: bool) -> Any:
        native = self._hypervisor.connection.native
        flags = libvirt().VIR_DOMAIN_DEFINE_VALIDATE if validate else 0
        return self._call("save", native.defineXMLFlags, document.text, flags)

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        assert self._document is not None
        self._before = patched = self._document
        self._in_force = frozenset()
        self._new_name = spec.name if "name" in changed else None
        rest = changed - {"name"}
        running = bool(self._call("look at", self._domain.isActive))
        # one that is suspended goes on as it was
        waits = not running and self._hypervisor.managed_save
        waits = waits and bool(self._call("look at", self._domain.hasManagedSaveImage))
        if self._new_name is not None and running:
            raise InvalidStateError(
                f"The VM {self._known_name!r} is running: it cannot be renamed now.",
                hint="Stop it first.",
                **self._where,
            )
        if rest:
            patched = patched.copy()
            self._hypervisor.patch(patched, spec, rest)
            self._redefine(patched)
        if self._new_name is not None:
            self._rename(self._new_name, undo=bool(rest))
        if not running:
            return SaveResult.NEXT_START if waits else SaveResult.APPLIED
        self._written = patched
        self._in_force = self._apply_live(patched, rest)
        self._in_force |= self._apply_live_disks(patched, rest, before=self._before)
        return SaveResult.APPLIED if self._in_force >= changed else SaveResult.NEXT_START

    def _redefine(self, document: DomainDocument) -> None:
        self._domain = self._define_as_taken(document)

    def _define_as_taken(self, document: DomainDocument) -> Any:
        try:
            return self._define(document, validate=True)
        except InvalidValueError as error:
            if not is_code(error, "XML_INVALID_SCHEMA"):
                raise
            # what somebody else put there may break the schema; libvirt took it then and takes it now
            return self._define(document, validate=False)

    def _clone(self, spec: VMSpec, step: Undertaking) -> str:
        document = self._clone_document(spec, step)
        try:
            return str(self._define_as_taken(document).UUIDString())
        except VirtuosoError as error:
            self._check_taken(spec.name, error)
            raise

    def _rename(self, name: str, *, undo: bool) -> None:
        try:
            self._call("rename", self._domain.rename, name, 0)
        except VirtuosoError as error:
            if undo:
                self._new_name = None
                self._undo_update()
            self._check_taken(name, error)
            raise
        self._known_name = name

    def _undo_update(self) -> None:
        assert self._before is not None
        if self._new_name is not None:
            old = self._before.name
            self._call("rename", self._domain.rename, old, 0)
            self._known_name = old or self._known_name
        self._domain = self._define(self._before, validate=False)
        if self._in_force:
            self._apply_live(self._before, self._in_force)
            self._apply_live_disks(self._before, self._in_force, before=self._written or self._before)

    def _render(self, spec: VMSpec, changed: frozenset[str]) -> str:
        if self._new:
            return self._new_document(spec).text
        if self._document is None:
            self._read()
        assert self._document is not None
        document = self._document.copy()
        self._hypervisor.patch(document, spec, changed)
        return document.text

    # Control.

    def _get_state(self) -> State:
        state = state_of(self._call("look at", self._domain.state)[0])
        if state is State.STOPPED and self._hypervisor.managed_save:
            kept = self._call("look at", self._domain.hasManagedSaveImage)
            return State.SUSPENDED if kept else state
        return state

    def _start(self) -> None:
        before = self._image_times()
        try:
            self._call("start", self._domain.create)
        except (InvalidStateError, HypervisorError) as error:
            if self._get_state() is not State.RUNNING:
                raise self._why_not_started(error, before) from error.__cause__
            return  # somebody else was faster
        state, reason = self._call("look at", self._domain.state)
        if state_of(state) is State.PAUSED and reason == libvirt().VIR_DOMAIN_PAUSED_UNKNOWN:
            raise HypervisorError(
                f"The VM {self.name!r} was started on {self._hypervisor.uri} and stands still, for no reason given: "
                "the processor cannot run it.",
                hint="Pull its plug, vm.stop(timeout=0); choose another acceleration where vm.set() takes one, such as "
                "vm.set('accel', 'tcg'). See: virtuoso doctor",
                **self._where,
            )

    def _request_stop(self) -> None:
        self._unless_off("stop", self._domain.shutdown)

    def _power_off(self) -> None:
        try:
            self._unless_off("pull the plug of", self._domain.destroy)
        except InvalidStateError:
            pass

    def _unless_off(self, doing: str, function: Callable[..., Any]) -> None:
        """Drivers word "it is off" in several codes: look at the state instead."""
        try:
            self._call(doing, function)
        except (InvalidStateError, HypervisorError) as error:
            if self._get_state() in (State.STOPPED, State.SUSPENDED, State.CRASHED):
                raise InvalidStateError(
                    f"The VM {self.name!r} is off.",
                    **self._where,
                ) from error
            raise

    def _reboot(self) -> None:
        self._call("reboot", self._domain.reboot, 0)

    def _pause(self) -> None:
        self._call("pause", self._domain.suspend)

    def _resume(self) -> None:
        found = self._call("look at", self._domain.state)
        if found[0] == libvirt().VIR_DOMAIN_PMSUSPENDED:
            self._call("wake", self._domain.pMWakeup, 0)
            return
        self._call("resume", self._domain.resume)
        if stopped_by_a_disk(found):
            self._check_goes_on()

    def _undefine(self) -> None:
        binding = libvirt()
        names = self._hypervisor.undefine_flags
        while True:
            flags = 0
            for name in names:
                flags |= getattr(binding, f"VIR_DOMAIN_UNDEFINE_{name}", 0)
            try:
                self._call("remove", self._domain.undefineFlags, flags)
                return
            except VMNotFoundError:
                return  # a transient one went when its plug was pulled
            except VirtuosoError as error:
                # an older libvirt, or its test driver, does not know the last flags
                if not names or not is_code(error, "INVALID_ARG", "NO_SUPPORT"):
                    raise
                names = names[:-1]

    # Before a start.

    def _prepare_start(self, start_networks: bool) -> None:
        self._read()
        assert self._document is not None
        if self._hypervisor.probes_images and self._hypervisor.local:
            paths = [disk.path for disk in self._document.disks if disk.type in ("file", "block") and disk.path]
            for path in paths:
                images.check_image(path)
                self._check_reachable(path)
        self._check_unused(
            {disk.path for disk in self._document.disks if disk.path and not disk.shareable and not disk.readonly}
        )
        self._check_macs(self._document)
        self._check_kernel(self._document)
        for card in self._document.interfaces:
            if card.type == "network" and card.source_network:
                wiring = self._hypervisor.recognise(card)[1]
                self._hypervisor.host_networks.require_active(
                    card.source_network, wiring, start=start_networks, vm=self.name
                )

    def _check_kernel(self, document: DomainDocument) -> None:
        for option, path in (("kernel", document.kernel), ("initrd", document.initrd)):
            if path is not None and self._hypervisor.probes_images and self._hypervisor.local:
                if _is_missing(path):
                    raise InvalidValueError(
                        f"The VM {self.name!r} cannot start: there is no {option} {path}.",
                        hint=f'Name another one, or None: vm.set("{option}", PATH)',
                        **self._where,
                    )
                self._check_reachable(path)
        if document.kernel is None and document.bootloader is None and (document.initrd or document.cmdline):
            surplus = "initrd" if document.initrd else "cmdline"
            raise InvalidValueError(
                f"The VM {self.name!r} cannot start: it has the option {surplus!r} and no kernel that could use it.",
                hint=f'vm.set("kernel", PATH), or vm.set("{surplus}", None).',
                **self._where,
            )

    def _check_reachable(self, path: str) -> None:
        who = self._hypervisor.image_user()
        blocked = images.unreachable_parent(path, who.uid, who.gids)
        if blocked is not None:
            raise ImageUnreadableError(
                f"The VM {self.name!r} cannot start: the hypervisor runs as the user {who.name}, which cannot enter "
                f"{blocked} on the way to {path}.",
                hint=f"Let it pass: sudo setfacl -m u:{who.name}:x {shlex.quote(blocked)}; "
                "or move the image to /var/lib/libvirt/images.",
                **self._where,
            )

    def _check_unused(self, paths: set[str]) -> None:
        """That nobody else runs on what this VM would write to, neither as a disk nor as what a disk is based on."""
        hypervisor = self._hypervisor
        store = hypervisor._storage() if Feature.CREATE_DISK in hypervisor.features else None
        same: Callable[[str], Hashable] = str if store is None else store.identity
        mine = {same(path): path for path in sorted(paths)}
        if mine:
            self._check_running(mine, same)
        if store is None or not hypervisor.local:
            return
        for path in mine.values():
            for overlay in store.overlays(path):
                if same(overlay) not in mine:
                    raise ImageInUseError(
                        f"The VM {self.name!r} cannot start: its disk {path} is what {overlay} is based on, which "
                        "would break.",
                        hint="Give this VM an overlay of its own, hypervisor.create_disk(PATH, backing="
                        f"{path!r}), or delete that one if nobody needs it.",
                        **self._where,
                    )

    def _check_running(self, mine: Mapping[Hashable, str], same: Callable[[str], Hashable]) -> None:
        for image in self._hypervisor._open_images():
            taken = mine.get(same(image.path))
            if taken is not None and image.uuid != self._uuid:
                use = "the base of a disk of" if image.is_base else "in use by"
                raise ImageInUseError(
                    f"The VM {self.name!r} cannot start: its disk {taken} is {use} the running VM {image.vm!r}.",
                    hint=f"Stop {image.vm!r} first, or give this VM a disk of its own.",
                    **self._where,
                )

    # Its disk images.

    def _resize_disk(self, path: str, size: int) -> None:
        if self._get_state() not in (State.RUNNING, State.PAUSED):
            super()._resize_disk(path, size)
            return
        try:
            in_bytes = libvirt().VIR_DOMAIN_BLOCK_RESIZE_BYTES
            self._call("resize a disk of", self._domain.blockResize, path, size, in_bytes)
        except UnsupportedError as error:
            raise InvalidStateError(
                f"The VM {self.name!r} is running, and {self._hypervisor.uri} cannot resize its disks then.",
                hint="Stop it first.",
                **self._where,
            ) from error

    def _delete_image(self, path: str) -> None:
        if Feature.CREATE_DISK in self._hypervisor.features:
            self._hypervisor._storage().delete(path)
            return
        if self._hypervisor.local and self._hypervisor.probes_images:
            images.delete_image(path)
            return
        native = self._hypervisor.connection.native
        volume = self._call("find the disk of", native.storageVolLookupByPath, path)
        self._call("delete the disk of", volume.delete, 0)


def _is_missing(path: str) -> bool:
    try:
        return not stat.S_ISREG(os.stat(path).st_mode)
    except OSError as error:
        return not isinstance(error, PermissionError)  # the hypervisor's user may look
