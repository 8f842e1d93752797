"""RunningCalls: what goes on around a VM's running: statistics, suspending, starting with the host, migration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import InvalidStateError, InvalidValueError, UnsupportedError
from ..events import EventType
from ..facts import Progress, Stats
from ..spec import Feature, State
from ..uri import URI
from .base import VMBase

if TYPE_CHECKING:
    from ..hypervisor import Credentials
    from ..vm import VM


class RunningCalls(VMBase):
    """Calls about a VM as a whole that runs, ran or will run."""

    @property
    def autostart(self) -> bool:
        """Whether the VM starts with its host: asked at each look, and set at once.

        Raises:
            UnsupportedError
            InvalidStateError: the VM was never saved.

        Example:
            >>> from virtuoso_core import connect
            >>> vm = connect("memory:///example").new_vm()
            >>> vm.name = "always-there"
            >>> vm.save()
            <SaveResult.APPLIED: 'applied'>
            >>> vm.autostart = True
            >>> vm.autostart
            True
        """
        self._hypervisor._require(Feature.AUTOSTART, "start VMs with their host")
        self._require_saved("does not start with its host")
        return self._get_autostart()

    @autostart.setter
    def autostart(self, on: bool) -> None:
        if not isinstance(on, bool):
            raise InvalidValueError(f"{on!r} does not say whether to start.", hint="It is True or False.")
        self._hypervisor._require(Feature.AUTOSTART, "start VMs with their host")
        self._require_saved("cannot start with its host", writing="set the autostart of")
        self._set_autostart(on)

    def stats(self) -> Stats:
        """What the VM uses: processor time, memory, disk and network.

        Raises:
            InvalidStateError: it is not running.
            UnsupportedError

        Example:
            >>> from virtuoso_core import connect
            >>> vm = connect("memory:///example").new_vm()
            >>> vm.name = "busy"
            >>> vm.save()
            <SaveResult.APPLIED: 'applied'>
            >>> vm.start()
            >>> vm.stats().cpus
            1
        """
        self._hypervisor._require(Feature.STATS, "tell what VMs use")
        self._require_saved("uses nothing")
        self._require_state(f"Cannot tell what it uses: the VM {self._title}", State.RUNNING, State.PAUSED)
        return self._get_stats()

    def suspend(self) -> None:
        """Keep the VM's memory on disk and end it; ``start()`` goes on from there. A suspended one stays so.

        Ctrl-C lets it run on, where the hypervisor can still be stopped.

        Raises:
            InvalidStateError: it is off.
            NoSpaceError, UnsupportedError
        """
        self._hypervisor._require(Feature.SUSPEND, "suspend VMs")
        self._require_saved("cannot be suspended", writing="suspend")
        problem = f"Cannot suspend: the VM {self._title}"
        if self._require_state(problem, State.RUNNING, State.PAUSED, State.SUSPENDED) is State.SUSPENDED:
            return
        self._suspend()
        self._emit(EventType.SUSPENDED)

    def migrate(
        self,
        target: str | URI,
        *,
        copy_disks: bool = False,
        credentials: Credentials | None = None,
        progress: Progress | None = None,
    ) -> VM:
        """Move the running VM to another host, while its guest goes on.

        A move that fails, or that Ctrl-C ends, leaves the VM running where it was. After one that was made, this
        object's VM is gone: use the one that is returned.

        Args:
            target: the other hypervisor's URI, as this machine and the VM's host both reach it.
            copy_disks: send the disks along, each with all that is below it in one image; those here stay where they
                are. Without it, both hosts must see the same images at the same paths.
            credentials: for the target, as ``connect()`` takes them.
            progress: called with the bytes sent and the bytes in all, which grow as long as the guest writes.

        Returns:
            The VM on the other hypervisor. Its connection is open; close ``vm.hypervisor`` after use.

        Raises:
            InvalidStateError: it is not running, or something of it cannot move; the message says what.
            VMExistsError: the target has a VM of that name.
            ImageExistsError: with copy_disks, there is something at a disk's path.
            NetworkNotFoundError, NetworkInactiveError: the target lacks a network that the VM is on.
            ConnectError, UnsupportedError
        """
        from ..connect import connect

        hypervisor = self._hypervisor
        hypervisor._require(Feature.MIGRATE, "move running VMs to another host")
        self._require_saved("cannot be moved", writing="move")
        where = URI.parse(target)
        if where.scheme not in hypervisor.schemes:
            raise UnsupportedError(
                f"The VM {self._title} cannot move to {where}: it is on {hypervisor.uri}, and a VM stays on its kind "
                "of hypervisor.",
                hint=f"The target's URI starts with {' or '.join(hypervisor.schemes)}.",
                **self._where,
            )
        if self._draft != self._baseline:
            raise InvalidStateError(
                f"The VM {self._title} has edits that are not saved: it was not moved.",
                hint="Call vm.save() or vm.reload() first.",
                **self._where,
            )
        self._require_state(f"Cannot move: the VM {self._title}", State.RUNNING)
        other = connect(where, driver=hypervisor.name, credentials=credentials)
        try:
            other._require(Feature.MIGRATE, "take running VMs")
            self._migrate(other, copy_disks, progress)
            moved = other._find_vm(self._uuid)
        except BaseException:
            other.close()
            raise
        self._gone_to = str(other.uri)
        self._gone = True
        self._emit(EventType.MIGRATED)
        return moved
