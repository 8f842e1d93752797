"""SnapshotCalls: ways back and copies: snapshots and clones of a VM."""

from __future__ import annotations

from typing import Self

from ..facts import Progress, Snapshot
from .base import VMBase


class SnapshotCalls(VMBase):
    """Keeping a VM's state, going back to it, copying the VM."""

    @property
    def snapshots(self) -> tuple[Snapshot, ...]:
        """The VM's snapshots, the oldest first.

        Raises:
            UnsupportedError
        """
        raise NotImplementedError

    def snapshot(self, name: str, description: str = "") -> Snapshot:
        """Keep the VM's state under a name: its disks, and its memory while it runs.

        Args:
            name: unique in this VM.
            description: for people.

        Raises:
            SnapshotExistsError: the name is taken.
            UnsupportedError: not this hypervisor, or not this VM's disks; the message says what stands in the way.
                Nothing was changed.
            NoSpaceError, InvalidValueError
        """
        raise NotImplementedError

    def revert(self, name: str) -> None:
        """Put the VM back into the state of a snapshot: what was written since is lost. It runs if it ran then.

        Raises:
            SnapshotNotFoundError: those that there are are listed.
            UnsupportedError: this hypervisor cannot go back to that one; nothing was changed.
        """
        raise NotImplementedError

    def delete_snapshot(self, name: str) -> None:
        """Drop a snapshot; the VM stays as it is now, and its other snapshots stay.

        Raises:
            SnapshotNotFoundError, UnsupportedError
        """
        raise NotImplementedError

    def clone(self, name: str, *, linked: bool = True, progress: Progress | None = None) -> Self:
        """A copy of this VM under another name, off, with network cards of its own.

        Args:
            name: of the copy.
            linked: its disks are thin overlays of this VM's, made in an instant; this VM must not be started as long
                as the copy is there. False copies them whole.
            progress: called with the bytes copied and the bytes in all.

        Raises:
            VMExistsError: the name is taken.
            InvalidStateError: this VM runs.
            ImageExistsError: a file stands where a disk of the copy would be.
            NoSpaceError, UnsupportedError
        """
        raise NotImplementedError
