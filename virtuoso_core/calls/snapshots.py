"""SnapshotCalls: ways back and copies: snapshots and clones of a VM."""

from __future__ import annotations

from typing import Self

from ..backend import name_taken
from ..errors import (
    HypervisorError,
    InvalidStateError,
    InvalidValueError,
    SnapshotExistsError,
    SnapshotNotFoundError,
    VirtuosoError,
)
from ..events import EventType
from ..facts import Progress, Snapshot
from ..spec import Feature, State, check_name, check_text
from .base import VMBase

_KEPT = (State.RUNNING, State.PAUSED)
"""The states in which a snapshot holds the memory too."""


class SnapshotCalls(VMBase):
    """Keeping a VM's state, going back to it, copying the VM."""

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """The VM's snapshots, the oldest first.

        Raises:
            InvalidStateError: the VM was never saved.
            UnsupportedError

        Example:
            >>> from virtuoso_core import connect
            >>> vm = connect("memory:///example").new_vm()
            >>> vm.name = "web"
            >>> vm.save()
            <SaveResult.APPLIED: 'applied'>
            >>> first, second = vm.snapshot("installed"), vm.snapshot("configured")
            >>> vm.snapshots == (first, second)
            False
            >>> [(each.name, each.parent, each.current) for each in vm.snapshots]
            [('installed', None, False), ('configured', 'installed', True)]
        """
        self._hypervisor._require(Feature.SNAPSHOT, "take snapshots")
        self._require_saved("has no snapshots")
        return tuple(self._snapshots())

    def snapshot(self, name: str, description: str = "") -> Snapshot:
        """Keep the VM's state under a name: its disks and its configuration, and its memory while it runs.

        What the guest cannot write is not kept: read-only disks, CD-ROMs.

        Args:
            name: unique in this VM; not a number, for disk images number their snapshots.
            description: for people.

        Raises:
            SnapshotExistsError: the name is taken.
            InvalidStateError: the VM is suspended or crashed, or was never saved.
            UnsupportedError: not this hypervisor, or not this VM's disks; the message says what stands in the way.
                Nothing was changed.
            NoSpaceError, InvalidValueError

        Example:
            >>> from virtuoso_core import connect
            >>> vm = connect("memory:///example").new_vm()
            >>> vm.name, vm.memory = "web", "1 GiB"
            >>> vm.save()
            <SaveResult.APPLIED: 'applied'>
            >>> vm.snapshot("small").state
            <State.STOPPED: 'stopped'>
            >>> vm.memory = "2 GiB"
            >>> vm.save()
            <SaveResult.APPLIED: 'applied'>
            >>> vm.revert("small")
            >>> vm.memory == 1024 * 1024
            True
        """
        self._hypervisor._require(Feature.SNAPSHOT, "take snapshots")
        check_name(name, "snapshot")
        if name.startswith(".") or name.isdecimal():
            raise InvalidValueError(
                f"{name!r} cannot be the name of a snapshot: it is a number, or starts with a dot.",
                hint='Choose another one, such as "before-upgrade".',
            )
        check_text(description, "The description of a snapshot")
        self._require_saved("has no state to keep", writing="take a snapshot of")
        state = self._get_state()
        if state not in (*_KEPT, State.STOPPED):
            hints = {
                State.SUSPENDED: "Start it first: its saved memory and its disks belong together.",
                State.CRASHED: "Stop it first: vm.stop()",
            }
            raise InvalidStateError(
                f"No snapshot can be taken of the VM {self._title}: it is {state}.",
                hint=hints.get(state, ""),
                **self._where,
            )
        if any(each.name == name for each in self._snapshots()):
            raise SnapshotExistsError(
                f"The VM {self._title} has a snapshot {name!r} already.",
                hint=f"Choose another name, or drop that one: vm.delete_snapshot({name!r})",
                **self._where,
            )
        self._take_snapshot(name, description)
        self._forget_unedited()
        self._emit(EventType.SNAPSHOT_TAKEN)
        return self._find_snapshot(name)

    def revert(self, name: str) -> None:
        """Put the VM back into the state of a snapshot, whatever it does now. It runs if it ran then.

        What its guest wrote since is lost, and so are changes of its configuration, unsaved edits and saved memory.

        Raises:
            SnapshotNotFoundError: those that there are are listed.
            UnsupportedError: this hypervisor cannot go back to that one; nothing was changed.
            HypervisorError: it failed, or the VM is in another state than the snapshot; the message says in which.
        """
        self._hypervisor._require(Feature.SNAPSHOT, "go back to snapshots")
        self._require_saved("has no snapshot to go back to", writing="go back to a snapshot of")
        wanted = self._find_snapshot(name)
        before = self._get_state()
        if before is State.CRASHED:
            self._power_off()
        try:
            self._revert(name)
        except VirtuosoError as error:
            now = self._get_state()
            if now is before:
                raise
            raise self._not_back(name, f"{error.message} The VM was {before} before, and is {now} now.") from error
        finally:
            self._baseline = self._draft = None  # the configuration may be another one
        now, expected = self._get_state(), wanted.state if wanted.state in _KEPT else State.STOPPED
        if now is not expected:
            raise self._not_back(
                name, f"The VM {self._title} went back to the snapshot {name!r}, and is {now}, not {expected}."
            )
        self._emit(EventType.REVERTED)

    def _not_back(self, name: str, message: str) -> HypervisorError:
        return HypervisorError(
            message,
            hint="Look at what its disks hold now: start it, vm.start(); or go back to another snapshot.",
            **self._where,
        )

    def delete_snapshot(self, name: str) -> None:
        """Drop a snapshot; the VM stays as it is now, and its other snapshots stay.

        Raises:
            SnapshotNotFoundError: those that there are are listed.
            UnsupportedError: this hypervisor cannot drop that one; the message says why. It stays.
            InvalidStateError: not while the VM runs.
        """
        self._hypervisor._require(Feature.SNAPSHOT, "drop snapshots")
        self._require_saved("has no snapshot to drop", writing="drop a snapshot of")
        self._find_snapshot(name)
        self._delete_snapshot(name)
        self._forget_unedited()

    def _forget_unedited(self) -> None:
        """Where snapshots lie beside the images, the VM has other disks from then on."""
        if self._draft == self._baseline:
            self._baseline = self._draft = None

    def _find_snapshot(self, name: str) -> Snapshot:
        found = tuple(self._snapshots())
        for each in found:
            if each.name == name:
                return each
        import difflib

        names = [each.name for each in found]
        near = difflib.get_close_matches(str(name), names, n=1)
        hint = f"Did you mean {near[0]!r}? " if near else ""
        shown = ", ".join(map(repr, names[-20:])) or "none"
        raise SnapshotNotFoundError(
            f"The VM {self._title} has no snapshot {name!r}.", hint=f"{hint}It has: {shown}.", **self._where
        )

    def clone(self, name: str, *, linked: bool = True, progress: Progress | None = None) -> Self:
        """A copy of this VM as it was saved, under another name, off, with network cards of its own.

        Each of its disks, and what cloud-init reads, is a new image beside this VM's one, named after the copy. Shared
        and read-only disks and the CD-ROM are the same. Snapshots and autostart are not copied. The guest is a twin:
        host name and keys are the same until something in it changes them.

        Args:
            name: of the copy.
            linked: its disks are thin overlays of this VM's, made in an instant; this VM must not be started as long
                as the copy is there. False copies them whole.
            progress: called with the bytes copied and the bytes in all.

        Raises:
            VMExistsError: the name is taken.
            InvalidStateError: this VM is not off.
            ImageExistsError: a file stands where a disk of the copy would be.
            ImageFormatError: a disk is not what this VM's configuration says; a guest may have written that.
            NoSpaceError, UnsupportedError

        Example:
            >>> from virtuoso_core import connect
            >>> vm = connect("memory:///example").new_vm()
            >>> vm.name, vm.memory = "web", "1 GiB"
            >>> vm.save()
            <SaveResult.APPLIED: 'applied'>
            >>> twin = vm.clone("web-2")
            >>> twin.name, twin.memory, twin.state
            ('web-2', 1048576, <State.STOPPED: 'stopped'>)
        """
        self._hypervisor._require(Feature.CLONE, "copy VMs")
        check_name(name)
        self._require_saved("cannot be copied", writing="copy")
        if (state := self._get_state()) is not State.STOPPED:
            hint = "Stop it first." if state is not State.SUSPENDED else "Start and stop it first: it has saved memory."
            raise InvalidStateError(f"Cannot copy the VM {self._title}: it is {state}.", hint=hint, **self._where)
        if name == self._known_name:
            raise name_taken(name, self)
        self._check_name_free(name)
        from ..clones import make_clone

        return make_clone(self, name, linked=linked, progress=progress)
