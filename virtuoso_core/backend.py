"""VMBackend: the driver's half of a VM. People call the other half, VM, which is written once."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .errors import InvalidStateError, UnsupportedError, VMExistsError
from .facts import AddressReport, Display, Progress, RunResult, Snapshot, Stats
from .spec import Feature, SaveResult, State, VMSpec

if TYPE_CHECKING:
    from .console import Console
    from .hypervisor import Hypervisor
    from .unfinished import Undertaking


def name_taken(name: str, other: VMBackend) -> VMExistsError:
    """The error for a name that another VM has."""
    uri = other._hypervisor.uri
    return VMExistsError(
        f"There is already a VM {name!r} on {uri}, with the UUID {other._uuid}.",
        hint="Choose another name, or look at that one: hypervisor.get(name).",
        vm=name,
        uri=uri,
    )


class VMBackend(ABC):
    """What a driver supplies for a VM: plain acts, without checks of arguments or state, which VM makes before.

    Each may raise any error of this library; VMNotFoundError when the VM is gone. A driver subclasses VM.
    """

    def __init__(self, hypervisor: Hypervisor, *, name: str, uuid: str, new: bool) -> None:
        self._hypervisor = hypervisor
        self._known_name = name
        """The name that the hypervisor has, whatever was edited since."""
        self._uuid = uuid
        self._new = new
        """Whether it was never saved."""

    # What every driver supplies.

    @abstractmethod
    def _read(self) -> VMSpec:
        """The saved configuration, asked now."""

    @abstractmethod
    def _create(self, spec: VMSpec) -> str:
        """Make the VM, off; return its UUID. Raises VMExistsError; leaves nothing behind when it fails."""

    @abstractmethod
    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        """Write the changed values, named as in ``VMSpec.values()``, over what the last ``_read`` found.

        A failure must leave the VM as it was.
        """

    @abstractmethod
    def _undo_update(self) -> None:
        """Put back what the last ``_update`` changed: the hypervisor took it and did not do it."""

    @abstractmethod
    def _render(self, spec: VMSpec, changed: frozenset[str]) -> str:
        """The public ``spec``: the saved configuration with the changed values of this one."""

    @abstractmethod
    def _get_state(self) -> State:
        """The state, asked now."""

    @abstractmethod
    def _start(self) -> None:
        """Start it; it is off."""

    @abstractmethod
    def _power_off(self) -> None:
        """Pull the plug; return when it is off. No error when it is off already."""

    @abstractmethod
    def _undefine(self) -> None:
        """Remove it and all that hangs on it but disk images; it is off."""

    # What a driver supplies for the features that it declares.

    def _request_stop(self) -> None:
        """Ask the guest to stop; return at once. InvalidStateError when it is off already.

        UnsupportedError when this guest cannot be asked, for lack of something in it.
        """
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.SHUTDOWN!r}")

    def _reboot(self) -> None:
        """Ask the guest to start anew; it is running."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.REBOOT!r}")

    def _pause(self) -> None:
        """Let it stand still; it is running."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.PAUSE!r}")

    def _resume(self) -> None:
        """Let it go on; it is paused."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.PAUSE!r}")

    def _address_reports(self) -> Iterable[AddressReport]:
        """What each source answers, the best first. Give them one by one: a later one is not asked in vain."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.ADDRESSES!r}")

    def _screenshot(self) -> bytes:
        """The screen as a PNG file."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.SCREENSHOT!r}")

    def _delete_image(self, path: str) -> None:
        """Delete the file of a disk image; its VM is gone already."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.DELETE_DISK!r}")

    def _resize_disk(self, path: str, size: int) -> None:
        """Give a disk that many bytes. Override it where a running VM's can grow; here it must be off."""
        state = self._get_state()
        if state is not State.STOPPED:
            raise InvalidStateError(
                f"The VM {self._known_name!r} is {state}: its disk {path} cannot be resized now.",
                hint="Stop it first.",
                vm=self._known_name,
                uri=self._hypervisor.uri,
            )
        self._hypervisor._storage().resize(path, size)

    def _run_in_guest(self, words: Sequence[str], stdin: bytes, timeout: float) -> RunResult:
        """Run a command in the guest; it is running. Wait for an agent that is not up yet, within the timeout.

        GuestAgentError when nobody in it answers, WaitTimeoutError when the command does not end in time,
        InvalidStateError when the VM stops meanwhile.
        """
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.RUN!r}")

    def _console(self, force: bool) -> Console:
        """The serial console, opened, taken away from another program where ``force`` says so; it is running.

        InvalidStateError when the VM has none, or another program has it.
        """
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.CONSOLE!r}")

    def _displays(self) -> Iterable[Display]:
        """Where its screens can be seen; it is running."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.DISPLAY!r}")

    def _snapshots(self) -> Iterable[Snapshot]:
        """Its snapshots, the oldest first, in one call each at most and a few for all."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.SNAPSHOT!r}")

    def _take_snapshot(self, name: str, description: str) -> None:
        """Keep its state under a name that is free: disks, and memory where it runs. Raise before any harm is done."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.SNAPSHOT!r}")

    def _revert(self, name: str) -> None:
        """Put back the state of a snapshot that exists. Raise before any harm is done."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.SNAPSHOT!r}")

    def _delete_snapshot(self, name: str) -> None:
        """Drop a snapshot that exists; the VM stays as it is now, and so do the other snapshots."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.SNAPSHOT!r}")

    def _clone(self, spec: VMSpec, step: Undertaking) -> str:
        """Make a VM like what the last ``_read`` found but for what the spec says otherwise; return its UUID.

        Disks and cards are in the same order; the disks are there already. It is off, and leaves nothing behind when it
        fails; ``step.file(path)`` before it makes a file of its own. Raises VMExistsError.
        """
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.CLONE!r}")

    def _get_autostart(self) -> bool:
        """Whether it starts with its host."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.AUTOSTART!r}")

    def _set_autostart(self, on: bool) -> None:
        """Let it start with its host, or not."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.AUTOSTART!r}")

    def _get_stats(self) -> Stats:
        """What it uses; it is on. Override where that takes less than asking for all."""
        for stats in self._hypervisor._all_stats():
            if stats.uuid == self._uuid:
                return stats
        raise InvalidStateError(
            f"The VM {self._known_name!r} on {self._hypervisor.uri} went off just now.",
            vm=self._known_name,
            uri=self._hypervisor.uri,
        )

    def _suspend(self) -> None:
        """Keep its memory on disk and end it; it is running or paused. ``_start`` goes on from there."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.SUSPEND!r}")

    def _migrate(self, target: Hypervisor, copy_disks: bool, progress: Progress | None) -> None:
        """Move it to the target, another connection of this driver, running all the while; it is running.

        A failure leaves it running where it was.
        """
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.MIGRATE!r}")

    # What a driver may supply.

    def _own_disks(self, spec: VMSpec) -> dict[str, str | None]:
        """The disk images of the spec, just read, that no other VM may have, of which a clone gets copies.

        Each with the format that the configuration says, or None where it says none.
        """
        return dict.fromkeys(path for path in (spec.disk_image, *spec.more_disks) if path is not None)

    def _prepare_start(self, start_networks: bool) -> None:
        """Look for what would make the start fail, and raise the error that names it."""

    def _native(self) -> Any:
        """The library's own object for the saved VM."""
        raise UnsupportedError(f"The {self._hypervisor.name} driver has no native object behind a VM.")
