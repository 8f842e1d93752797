"""Connection: one virConnect, through which every call to libvirt goes."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from ..errors import AuthenticationError, ConnectError, VirtuosoError
from ..hypervisor import CredentialRequest, Credentials
from ..uri import URI
from .binding import ensure_event_loop, libvirt
from .errors import codes, translate

_KEEPALIVE = (10, 3)
"""Seconds between two signs of life asked of a remote daemon, and how many may stay unanswered."""


class Connection:
    """A connection to libvirt whose errors are this library's.

    Args:
        uri: as libvirt takes it.
        readonly: refuse changes, by libvirt itself.
        credentials: for the sign-in, if any; nobody is prompted.
        event_loop: whether the driver behind the URI needs libvirt's event loop.
        daemon: the name of the modular daemon that would serve the URI, for the advice when none answers.

    Raises:
        MissingLibvirtError, AuthenticationError, ConnectError
    """

    def __init__(
        self,
        uri: URI,
        *,
        readonly: bool = False,
        credentials: Credentials | None = None,
        event_loop: bool = False,
        daemon: str = "libvirtd",
    ) -> None:
        binding = libvirt()
        self.uri = uri
        remote = uri.host is not None
        if remote or event_loop:
            ensure_event_loop()
        try:
            self.native = self._open(binding, credentials, readonly)
        except binding.libvirtError as error:
            raise _connect_error(error, uri, daemon) from error
        if remote:
            try:
                self.native.setKeepAlive(*_KEEPALIVE)
            except binding.libvirtError:
                pass  # drivers without a daemon have none

    def _open(self, binding: Any, credentials: Credentials | None, readonly: bool) -> Any:
        # a user name goes into the URI, a password never does: libvirt asks for it
        pair = credentials if isinstance(credentials, tuple) else (self.uri.username, self.uri.password)
        name = pair[0] if self.uri.host is not None else self.uri.username
        text = self.uri.with_credentials(name, None).full
        if credentials is None and self.uri.password is None:
            return binding.openReadOnly(text) if readonly else binding.open(text)

        def answer(requests: list[list[Any]], _: object) -> int:
            for request in requests:
                value = self._answer(binding, request, pair, credentials)
                if value is None:
                    return -1
                request[4] = value
            return 0

        kinds = [binding.VIR_CRED_AUTHNAME, binding.VIR_CRED_USERNAME, binding.VIR_CRED_PASSPHRASE]
        kinds += [binding.VIR_CRED_NOECHOPROMPT, binding.VIR_CRED_ECHOPROMPT]
        return binding.openAuth(text, [kinds, answer, None], binding.VIR_CONNECT_RO if readonly else 0)

    def _answer(
        self, binding: Any, request: list[Any], pair: tuple[str | None, str | None], credentials: Credentials | None
    ) -> str | None:
        secret = request[0] in (binding.VIR_CRED_PASSPHRASE, binding.VIR_CRED_NOECHOPROMPT)
        if callable(credentials):
            kind: Any = "password" if secret else "username"
            return credentials(CredentialRequest(kind, str(request[1]), str(self.uri)))
        return pair[1] if secret else pair[0]

    def call(self, doing: str, function: Callable[..., Any], *args: Any, vm: str | None = None) -> Any:
        """Call a function of libvirt.

        Args:
            doing: what it is for, after "could not".
            function: a bound method of a libvirt object.
            vm: the VM concerned.

        Raises:
            VirtuosoError: what ``translate`` makes of the libvirtError, which is its ``__cause__``.
        """
        try:
            return function(*args)
        except libvirt().libvirtError as error:
            raise translate(error, doing=doing, uri=self.uri, alive=self.is_alive, vm=vm) from error

    def is_alive(self) -> bool:
        """Whether the connection still works, as far as this end knows."""
        try:
            return bool(self.native.isAlive())
        except libvirt().libvirtError:
            return False

    def close(self) -> None:
        """Let go; a connection that broke before is let go of too."""
        try:
            self.native.close()
        except libvirt().libvirtError:
            pass  # it was broken: nothing is left to close


def _connect_error(error: Any, uri: URI, daemon: str) -> VirtuosoError:
    said = str(error).splitlines()[0].rstrip(".")
    code = error.get_error_code()
    if code in codes("AUTH_FAILED", "AUTH_CANCELLED", "AUTH_UNAVAILABLE", "ACCESS_DENIED"):
        hint = "Give credentials=(user, password)."
        if uri.is_local:
            hint = f"Join the group that may use it: sudo adduser {_user()} libvirt; then sign in again."
        return AuthenticationError(f"{uri} refused the sign-in: {said}.", hint=hint, uri=uri)
    return ConnectError(f"Cannot connect to {uri}: {said}.", hint=_advice(uri, daemon), uri=uri)


def _advice(uri: URI, daemon: str) -> str:
    """What to type, from what can be seen of this machine."""
    if uri.host is not None:
        via = "ssh" if uri.transport == "ssh" else uri.transport or "tls"
        tried = (
            f"Try it by hand: ssh {uri.host} virsh list."
            if via == "ssh"
            else "Is the host up and its daemon listening?"
        )
        return f"The way there is {via}. {tried}"
    if not uri.is_local or uri.path != "/system":
        return "More: virtuoso doctor"
    sockets = (
        [uri.query["socket"]] if "socket" in uri.query else [f"/run/libvirt/{n}-sock" for n in ("libvirt", daemon)]
    )
    there = [path for path in sockets if os.path.exists(path)]
    if not there:
        return (
            f"No libvirt daemon runs here. Start it: sudo systemctl start libvirtd (or {daemon}.socket); "
            "on Debian, sudo apt-get install libvirt-daemon-system installs it."
        )
    if not any(os.access(path, os.W_OK) for path in there):
        return f"You may not use {there[0]}. Join its group: sudo adduser {_user()} libvirt; then sign in again."
    return "The daemon's socket is there and nobody answers. Restart it: sudo systemctl restart libvirtd"


def _user() -> str:
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
