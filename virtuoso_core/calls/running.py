"""RunningCalls: what goes on around a VM's running: statistics, suspending, starting with the host, migration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..facts import Progress, Stats
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
        """
        raise NotImplementedError

    @autostart.setter
    def autostart(self, on: bool) -> None:
        raise NotImplementedError

    def stats(self) -> Stats:
        """What the VM uses: processor time, memory, disk and network.

        Raises:
            InvalidStateError: it is not running.
            UnsupportedError
        """
        raise NotImplementedError

    def suspend(self) -> None:
        """Keep the VM's memory on disk and end it; ``start()`` goes on from there. A suspended one stays so.

        Raises:
            InvalidStateError: it is off.
            NoSpaceError, UnsupportedError
        """
        raise NotImplementedError

    def migrate(
        self,
        target: str | URI,
        *,
        copy_disks: bool = False,
        credentials: Credentials | None = None,
        progress: Progress | None = None,
    ) -> VM:
        """Move the running VM to another host, while its guest goes on.

        Args:
            target: the other hypervisor's URI, as this machine and the VM's host both reach it.
            copy_disks: send the disks along; without it, both hosts must see the same images at the same paths.
            credentials: for the target, as ``connect()`` takes them.
            progress: called with the bytes sent and the bytes in all.

        Returns:
            The VM on the other hypervisor. Its connection is open; close ``vm.hypervisor`` after use.

        Raises:
            InvalidStateError: it is not running, or something of it cannot move; the message says what.
            VMExistsError: the target has a VM of that name.
            ConnectError, UnsupportedError
        """
        raise NotImplementedError
