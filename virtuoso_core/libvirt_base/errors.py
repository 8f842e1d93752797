"""From libvirt's error codes to this library's exceptions. Codes and states decide, never the text of a message."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import Any

from ..errors import (
    AuthenticationError,
    ConnectionLostError,
    HypervisorError,
    InvalidStateError,
    InvalidValueError,
    NetworkNotFoundError,
    NoSpaceError,
    ReadOnlyError,
    UnsupportedError,
    VirtuosoError,
    VMNotFoundError,
)
from .binding import libvirt

_AUTH = ("AUTH_FAILED", "AUTH_CANCELLED", "AUTH_UNAVAILABLE", "ACCESS_DENIED")
_UNSUPPORTED = ("NO_SUPPORT", "ARGUMENT_UNSUPPORTED", "OPERATION_UNSUPPORTED")
_PROGRAM = re.compile(r"(\d{4}-\d\d-\d\dT[\d:.]+Z )?[^\s:]*qemu-[^\s:]+: ")
"""How QEMU begins a message."""
_OPTION = re.compile(r"^-\S+ \{.*\}: ")
"""The option that a message is about, where that is the long JSON that libvirt wrote."""
_BAD_XML = ("XML_ERROR", "XML_DETAIL", "XML_INVALID_SCHEMA", "CONFIG_UNSUPPORTED", "INVALID_ARG")


def codes(*names: str) -> set[int]:
    """libvirt's numbers of the VIR_ERR_* names, of those that this version has."""
    return {number for name in names if (number := getattr(libvirt(), f"VIR_ERR_{name}", None)) is not None}


def is_code(error: BaseException | None, *names: str) -> bool:
    """Whether one of this library's errors came from one of those libvirt errors."""
    cause = error.__cause__ if isinstance(error, VirtuosoError) else error
    return isinstance(cause, libvirt().libvirtError) and cause.get_error_code() in codes(*names)


def words_of(error: VirtuosoError) -> str:
    """libvirt's own words for it alone, without a full stop, for a list of several."""
    cause = error.__cause__
    return _sentence(cause).rstrip(".") if isinstance(cause, libvirt().libvirtError) else error.message.rstrip(".")


def translate(
    error: Any, *, doing: str, uri: object, alive: Callable[[], bool], lost_hint: str, vm: str | None = None
) -> VirtuosoError:
    """The exception to raise for a libvirtError.

    Args:
        error: the libvirtError.
        doing: what was tried, after "could not", such as "start the VM 'web'".
        uri: where, without a password.
        alive: tells whether the connection still works; asked only where the answer matters.
        lost_hint: what to do where it does not.
        vm: the VM concerned.
    """
    code = error.get_error_code()
    said = _sentence(error)
    where: dict[str, Any] = {"vm": vm, "uri": uri}
    if code in codes("NO_DOMAIN"):
        return VMNotFoundError(f"Could not {doing}: it does not exist on {uri}.", **where)
    if code in codes("NO_NETWORK"):
        return NetworkNotFoundError(f"Could not {doing} on {uri}: {said}", **where)
    if not alive():
        return ConnectionLostError(
            f"The connection to {uri} broke: {said}",
            hint=f"{lost_hint} Then call connect() again.",
            **where,
        )
    if code in codes("OPERATION_DENIED"):
        return ReadOnlyError(
            f"Could not {doing}: the connection to {uri} is read-only.", hint="Connect without readonly=True.", **where
        )
    if code in codes(*_AUTH):
        return AuthenticationError(f"Could not {doing} on {uri}: {said}", **where)
    if code in codes(*_UNSUPPORTED):
        return UnsupportedError(f"Could not {doing}: {uri} does not support it: {said}", **where)
    if code in codes("OPERATION_INVALID"):
        return InvalidStateError(f"Could not {doing} on {uri}: {said}", **where)
    if code in codes(*_BAD_XML):
        return InvalidValueError(f"Could not {doing} on {uri}: it refused the configuration: {said}", **where)
    if code in codes("SYSTEM_ERROR") and error.get_int1() in (errno.ENOSPC, errno.EDQUOT):
        return NoSpaceError(f"Could not {doing} on {uri}: {said}", hint="Make room there. See: df -h", **where)
    return HypervisorError(f"Could not {doing} on {uri}: {said}", code=code, **where)


def last_words(error: VirtuosoError) -> str:
    """What the hypervisor's program itself said last, without libvirt's frame around it: for people only."""
    text = _sentence(error.__cause__)
    own = list(_PROGRAM.finditer(text))
    return _OPTION.sub("", text[own[-1].end() :]) if own else text


def _sentence(error: Any) -> str:
    """libvirt's message on one line, ended like a sentence."""
    text = "; ".join(line.strip() for line in str(error).splitlines() if line.strip())
    return text if text.endswith((".", "?", "!")) else f"{text}."
