"""Connection: one virConnect, through which every call to libvirt goes."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from shlex import quote
from typing import Any, ClassVar

from ..diagnosis import Check, join_group
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
        checks: to make when no connection comes about: the first that fails is the error's hint.

    Raises:
        MissingLibvirtError, AuthenticationError, ConnectError
    """

    lost_hint: ClassVar[str] = "Start its daemon again if it stopped: sudo systemctl start libvirtd."
    """What to do when the connection broke."""

    def __init__(
        self,
        uri: URI,
        *,
        readonly: bool = False,
        credentials: Credentials | None = None,
        event_loop: bool = False,
        checks: Callable[[], Iterable[Check]] = tuple,
    ) -> None:
        binding = libvirt()
        self.uri = uri
        self._readonly, self._credentials = readonly, credentials
        remote = uri.host is not None
        self._hears = remote or event_loop
        if self._hears:
            ensure_event_loop()
        try:
            self.native = self._open(binding, credentials, readonly)
        except binding.libvirtError as error:
            raise _connect_error(error, uri, checks) from error
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
            raise translate(
                error, doing=doing, uri=self.uri, alive=self.is_alive, lost_hint=self.lost_hint, vm=vm
            ) from error

    def listening(self, *, in_process: bool) -> Connection:
        """A connection on which libvirt tells events: this one, or another one like it for the caller to close.

        A driver in this process tells them on any. A daemon does so only on connections that were opened with libvirt's
        event loop; that makes every call a third dearer, so local connections have it only where somebody listens.
        """
        if in_process:
            ensure_event_loop()
        if in_process or self._hears:
            return self
        return type(self)(self.uri, readonly=self._readonly, credentials=self._credentials, event_loop=True)

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


def _connect_error(error: Any, uri: URI, checks: Callable[[], Iterable[Check]]) -> VirtuosoError:
    said = str(error).splitlines()[0].rstrip(".")
    code = error.get_error_code()
    if code in codes("AUTH_FAILED", "AUTH_CANCELLED", "AUTH_UNAVAILABLE", "ACCESS_DENIED"):
        hint = "Give credentials=(user, password)."
        if uri.is_local:
            hint = f"Join the group that may use it: {_on_one_line(join_group('libvirt'))}."
        return AuthenticationError(f"{uri} refused the sign-in: {said}.", hint=hint, uri=uri)
    return ConnectError(f"Cannot connect to {uri}: {said}.", hint=_advice(uri, checks), uri=uri)


def _advice(uri: URI, checks: Callable[[], Iterable[Check]]) -> str:
    """What to type, from what can be seen of this machine."""
    if uri.host is not None:
        via = "ssh" if uri.transport == "ssh" else uri.transport or "tls"
        tried = (
            f"Try it by hand: ssh {uri.host} virsh list."
            if via == "ssh"
            else "Is the host up and its daemon listening?"
        )
        return f"The way there is {via}. {tried}"
    for check in checks():
        if check.status == "fail":
            return f"{check.explanation} Type: {_on_one_line(check.advice)}"
    return f"More: virtuoso -c {quote(str(uri))} doctor"


def _on_one_line(advice: str) -> str:
    return "; ".join(advice.splitlines())
