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
    ├── StopTimeoutError (TimeoutError)    the guest did not stop in time
    ├── ConflictError                      somebody else changed the same field
    ├── NotAppliedError                    the hypervisor took the change and did not make it
    ├── SaveVetoedError                    a plugin refused the save
    ├── ImageError                         about a disk image
    │   ├── ImageNotFoundError             it does not exist or is no file
    │   ├── ImageUnreadableError           the hypervisor's user cannot read it
    │   ├── ImageFormatError               its format cannot be told or is not taken
    │   └── ImageInUseError                another running VM uses it
    ├── NetworkError                       about a network of the host
    │   ├── NetworkNotFoundError           no such network
    │   └── NetworkInactiveError           it exists but is not started
    └── HypervisorError                    anything else that the hypervisor reports
"""

from __future__ import annotations

from collections.abc import Iterable

__all__ = [
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
    "HypervisorError",
    "ImageError",
    "ImageFormatError",
    "ImageInUseError",
    "ImageNotFoundError",
    "ImageUnreadableError",
    "InvalidNetworkError",
    "InvalidOptionError",
    "InvalidStateError",
    "InvalidURIError",
    "InvalidValueError",
    "MissingLibvirtError",
    "NetworkError",
    "NetworkInactiveError",
    "NetworkNotFoundError",
    "NoHypervisorError",
    "NotAppliedError",
    "ReadOnlyError",
    "SaveVetoedError",
    "StopTimeoutError",
    "UnknownOptionWarning",
    "UnsupportedError",
    "UnsupportedNetworkError",
    "VMExistsError",
    "VMNotFoundError",
    "VirtuosoError",
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


class StopTimeoutError(VirtuosoError, TimeoutError):
    """The guest did not stop in the time given."""


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


class ImageInUseError(ImageError):
    """Another running VM uses the disk image."""


class NetworkError(VirtuosoError):
    """Something about a network of the host."""


class NetworkNotFoundError(NetworkError):
    """The host has no such network."""


class NetworkInactiveError(NetworkError):
    """The network exists and is not started."""


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
