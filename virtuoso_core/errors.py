"""Every exception that Virtuoso raises, each with a ``hint`` that says what to do next.

::

    VirtuosoError
    ├── InvalidValueError (ValueError)     a value that cannot be meant: memory, name, MAC address ...
    │   ├── InvalidURIError                a URI that does not parse
    │   ├── InvalidOptionError             a known set() key with a value that it does not take
    │   └── InvalidNetworkError            a network with a bad MAC address or source
    ├── DriverError                        about the plugins themselves
    │   ├── DriverNotInstalledError        no driver serves the scheme
    │   ├── DriverDisabledError            VIRTUOSO_DISABLE_DRIVERS names it
    │   ├── DriverLoadError                installed, but it does not load
    │   │   └── DriverIncompatibleError    written for another Virtuoso
    │   ├── AmbiguousDriverError           two drivers serve the scheme
    │   └── MissingLibvirtError            libvirt or its Python binding is not installed
    ├── ConnectError (ConnectionError)     the hypervisor cannot be reached
    │   ├── AuthenticationError            it refused the sign-in
    │   └── NoHypervisorError              connect() without a URI found none
    ├── ConnectionLostError (ConnectionError)    it was reached, then went away
    ├── ConnectionClosedError              close() was called before
    ├── ReadOnlyError                      the connection was opened with readonly=True
    ├── UnsupportedError                   this hypervisor cannot do that
    │   └── UnsupportedNetworkError        it has no such type of network
    ├── VMNotFoundError (LookupError)      no such VM, or it was deleted meanwhile
    ├── VMExistsError                      the name is taken
    ├── InvalidStateError                  the VM's state does not allow it
    ├── WaitTimeoutError (TimeoutError)    what was waited for did not happen in time
    │   ├── StopTimeoutError               the guest did not stop
    │   └── AddressTimeoutError            the guest got no address
    ├── GuestAgentError                    no agent answers inside the guest
    ├── SnapshotNotFoundError (LookupError)    the VM has no such snapshot
    ├── SnapshotExistsError                the name of the snapshot is taken
    ├── ConflictError                      somebody else changed the same field
    ├── NotAppliedError                    the hypervisor took the change and did not make it
    ├── SaveVetoedError                    a plugin refused the save
    ├── ImageError                         about a disk image
    │   ├── ImageNotFoundError             it does not exist or is no file
    │   ├── ImageUnreadableError           the hypervisor's user cannot read it
    │   ├── ImageFormatError               its format cannot be told or is not taken
    │   ├── ImageExistsError               there is one at that path already
    │   └── ImageInUseError                another VM uses it, or an overlay is based on it
    ├── NetworkError                       about a network of the host
    │   ├── NetworkNotFoundError           no such network
    │   ├── NetworkInactiveError           it exists but is not started
    │   └── MacAddressInUseError           another running VM has the MAC address
    ├── NoSpaceError                       the host's storage is full
    ├── NotEnoughMemoryError               the host has not as much memory
    ├── PortInUseError                     another program listens where the VM's screen would
    └── HypervisorError                    anything else that the hypervisor reports
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
    "AddressTimeoutError",
    "AmbiguousDriverError",
    "AuthenticationError",
    "ConflictError",
    "ConnectError",
    "ConnectionClosedError",
    "ConnectionLostError",
    "DriverDisabledError",
    "DriverError",
    "DriverIncompatibleError",
    "DriverLoadError",
    "DriverNotInstalledError",
    "GuestAgentError",
    "HypervisorError",
    "ImageError",
    "ImageExistsError",
    "ImageFormatError",
    "ImageInUseError",
    "ImageNotFoundError",
    "ImageUnreadableError",
    "InvalidNetworkError",
    "InvalidOptionError",
    "InvalidStateError",
    "InvalidURIError",
    "InvalidValueError",
    "MacAddressInUseError",
    "MissingLibvirtError",
    "NetworkError",
    "NetworkInactiveError",
    "NetworkNotFoundError",
    "NoHypervisorError",
    "NoSpaceError",
    "NotAppliedError",
    "NotEnoughMemoryError",
    "PortInUseError",
    "ReadOnlyError",
    "SaveVetoedError",
    "SnapshotExistsError",
    "SnapshotNotFoundError",
    "StopTimeoutError",
    "UnknownOptionWarning",
    "UnsupportedError",
    "UnsupportedNetworkError",
    "VMExistsError",
    "VMNotFoundError",
    "VirtuosoError",
    "WaitTimeoutError",
]


class VirtuosoError(Exception):
    """What went wrong, and in ``hint`` what to do about it. The base of every error of this library.

    Args:
        message: what happened, to which VM, on which URI, and why; one sentence or two.
        hint: what to type or change; "" when there is nothing to advise.
        vm: the name of the VM concerned, if any.
        uri: the hypervisor's URI without its password, if any.

    Example:
        >>> error = VirtuosoError("The VM web is gone.", hint="List what is there: virtuoso list", vm="web")
        >>> str(error)
        'The VM web is gone. List what is there: virtuoso list'
    """

    def __init__(self, message: str, *, hint: str = "", vm: str | None = None, uri: object | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.vm = vm
        self.uri = None if uri is None else str(uri)

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class InvalidValueError(VirtuosoError, ValueError):
    """A value that cannot be meant, refused before anything was touched."""


class InvalidURIError(InvalidValueError):
    """A URI that does not parse."""


class InvalidOptionError(InvalidValueError):
    """A known ``set()`` key with a value that it does not take; the message lists what it takes."""


class InvalidNetworkError(InvalidValueError):
    """A network with a bad MAC address, model or source."""


class DriverError(VirtuosoError):
    """Something about the plugins, not about a hypervisor."""


class DriverNotInstalledError(DriverError):
    """No installed driver serves the URI's scheme."""


class DriverDisabledError(DriverError):
    """The driver is installed, and VIRTUOSO_DISABLE_DRIVERS names it."""


class DriverLoadError(DriverError):
    """The driver is installed and does not load; its own error is chained as ``__cause__``."""


class DriverIncompatibleError(DriverLoadError):
    """The driver was written for another version of Virtuoso's driver interface."""


class AmbiguousDriverError(DriverError):
    """Two installed distributions serve the same scheme."""


class MissingLibvirtError(DriverError):
    """libvirt or its Python binding is not installed."""


class ConnectError(VirtuosoError, ConnectionError):
    """The hypervisor cannot be reached."""


class AuthenticationError(ConnectError):
    """The hypervisor refused the sign-in, or nobody gave it credentials."""


class NoHypervisorError(ConnectError):
    """``connect()`` without a URI found no hypervisor that works.

    ``attempts`` holds a pair of the URI tried and the error for each attempt.
    """

    def __init__(self, message: str, *, attempts: Iterable[tuple[str, VirtuosoError]] = (), hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.attempts = tuple(attempts)


class ConnectionLostError(VirtuosoError, ConnectionError):
    """The connection worked and then broke. Nothing reconnects by itself: call ``connect()`` again."""


class ConnectionClosedError(VirtuosoError):
    """The connection was closed by ``close()`` or by leaving its ``with`` block."""


class ReadOnlyError(VirtuosoError):
    """The connection was opened with ``readonly=True`` and the call would change something."""


class UnsupportedError(VirtuosoError):
    """This hypervisor cannot do that."""


class UnsupportedNetworkError(UnsupportedError):
    """This hypervisor has no such type of network; the message lists the types that it has."""


class VMNotFoundError(VirtuosoError, LookupError):
    """There is no such VM, or somebody deleted it meanwhile."""


class VMExistsError(VirtuosoError):
    """Another VM has that name."""


class InvalidStateError(VirtuosoError):
    """The VM's state, running or stopped, does not allow the call."""


class WaitTimeoutError(VirtuosoError, TimeoutError):
    """What was waited for did not happen in the time given.

    ``phase`` says what was waited for, such as "stop", "address" or "port 22"; ``elapsed`` for how many seconds;
    ``evidence`` what was last seen, in words.
    """

    def __init__(
        self,
        message: str,
        *,
        phase: str = "",
        elapsed: float = 0.0,
        evidence: str = "",
        hint: str = "",
        vm: str | None = None,
        uri: object | None = None,
    ) -> None:
        super().__init__(message, hint=hint, vm=vm, uri=uri)
        self.phase, self.elapsed, self.evidence = phase, elapsed, evidence


class StopTimeoutError(WaitTimeoutError):
    """The guest did not stop in the time given."""


class AddressTimeoutError(WaitTimeoutError):
    """The guest got no address in the time given; the message tells what each source said."""


class GuestAgentError(VirtuosoError):
    """No guest agent answers inside the VM, or it refused."""


class SnapshotNotFoundError(VirtuosoError, LookupError):
    """The VM has no such snapshot; the message lists those it has."""


class SnapshotExistsError(VirtuosoError):
    """The VM has a snapshot of that name already."""


class ConflictError(VirtuosoError):
    """You and somebody else changed the same field; nothing was written.

    ``fields`` names them.
    """

    def __init__(
        self, message: str, *, fields: Iterable[str] = (), hint: str = "", vm: str | None = None, uri: object = None
    ) -> None:
        super().__init__(message, hint=hint, vm=vm, uri=uri)
        self.fields = tuple(sorted(fields))


class NotAppliedError(VirtuosoError):
    """The hypervisor accepted a change and did not make it; the VM is as it was."""


class SaveVetoedError(VirtuosoError):
    """A plugin's ``virtuoso_before_save`` refused; nothing was written."""


class ImageError(VirtuosoError):
    """Something about a disk image."""


class ImageNotFoundError(ImageError):
    """The disk image does not exist, or is not something that can be a disk."""


class ImageUnreadableError(ImageError):
    """The user that the hypervisor runs as cannot read the disk image."""


class ImageFormatError(ImageError):
    """The format of the disk image cannot be told, or the hypervisor does not take it."""


class ImageExistsError(ImageError):
    """There is something at the path already; it was not touched."""


class ImageInUseError(ImageError):
    """Another VM uses the disk image, or an overlay is based on it."""


class NetworkError(VirtuosoError):
    """Something about a network of the host."""


class NetworkNotFoundError(NetworkError):
    """The host has no such network."""


class NetworkInactiveError(NetworkError):
    """The network exists and is not started."""


class MacAddressInUseError(NetworkError):
    """Another running VM has a network card with the same MAC address."""


class NoSpaceError(VirtuosoError):
    """The storage of the hypervisor's host is full."""


class NotEnoughMemoryError(VirtuosoError):
    """The hypervisor's host has not as much memory as the VM wants."""


class PortInUseError(VirtuosoError):
    """Another program listens on the port that the VM's screen wants."""


class HypervisorError(VirtuosoError):
    """What the hypervisor reported, where no more precise class fits.

    ``code`` is the hypervisor's own number for it (libvirt's VIR_ERR_*), or None.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int | None = None,
        hint: str = "",
        vm: str | None = None,
        uri: object | None = None,
    ) -> None:
        super().__init__(message, hint=hint, vm=vm, uri=uri)
        self.code = code


class UnknownOptionWarning(UserWarning):
    """A ``set()`` key that no installed driver knows: probably a typing mistake."""
