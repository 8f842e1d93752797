"""connect(): from a URI to the driver that serves it, to an open Hypervisor."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from .errors import NoHypervisorError, VirtuosoError
from .uri import URI, masked

if TYPE_CHECKING:
    from .hypervisor import Credentials, Hypervisor

_VARIABLES = ("VIRTUOSO_DEFAULT_URI", "LIBVIRT_DEFAULT_URI")


def connect(
    uri: str | URI | None = None,
    *,
    driver: str | None = None,
    readonly: bool = False,
    credentials: Credentials | None = None,
) -> Hypervisor:
    """Connect to a hypervisor.

    Args:
        uri: where it is, such as ``"qemu:///system"`` or ``"qemu+ssh://host/system"``. Without one, the environment's
            VIRTUOSO_DEFAULT_URI or LIBVIRT_DEFAULT_URI is used; without those, what the installed drivers propose is
            tried in turn.
        driver: the name of the driver or of its distribution, where two serve the scheme.
        readonly: refuse everything that would change something.
        credentials: a pair of user name and password, or a function that is asked for each.

    Returns:
        A subclass of Hypervisor. Use it in a ``with`` block, or ``close()`` it.

    Raises:
        InvalidURIError: the URI does not parse.
        DriverError and its subclasses: no driver for it; the message says what to install.
        AuthenticationError, ConnectError: it cannot be reached; the message says why and what to type.
        NoHypervisorError: without a URI, when nothing works; each URI tried is listed with its reason.

    Example:
        >>> with connect("memory:///example") as hypervisor:
        ...     print(hypervisor.uri)
        memory:///example
    """
    from .plugins import default_registry

    uri = uri if uri is not None else uri_from_environment()
    if uri is None:
        return _first_that_works(driver, readonly, credentials)
    where = URI.parse(uri)
    found = default_registry().driver_for(where.scheme, driver)
    return found.open(where, readonly=readonly, credentials=credentials)


def uri_from_environment() -> str | None:
    """What VIRTUOSO_DEFAULT_URI or, without it, LIBVIRT_DEFAULT_URI says; None when neither is set."""
    return next((value for name in _VARIABLES if (value := os.environ.get(name))), None)


def _first_that_works(driver: str | None, readonly: bool, credentials: Credentials | None) -> Hypervisor:
    from .plugins import Status, default_registry
    from .plugins.packages import EXAMPLE_PACKAGE

    attempts: list[tuple[str, VirtuosoError]] = []
    for uri in default_registry().default_uris():
        try:
            return connect(uri, driver=driver, readonly=readonly, credentials=credentials)
        except VirtuosoError as error:
            attempts.append((masked(uri), error))
    broken = [str(plugin.error) for plugin in default_registry().plugins if plugin.status is not Status.OK]
    if not attempts:
        message = "No installed driver proposes a hypervisor to connect to."
        hint = f"Install one, such as {EXAMPLE_PACKAGE}, or name a URI: connect('qemu:///system')."
    else:
        message = "No hypervisor works here." + "".join(f"\n  {uri}: {error}" for uri, error in attempts)
        hint = "Name another one: connect('qemu+ssh://host/system'). More: virtuoso doctor"
    message += "".join(f"\n  {line}" for line in broken)
    message += "\n" if attempts or broken else ""
    raise NoHypervisorError(message, attempts=attempts, hint=hint)
