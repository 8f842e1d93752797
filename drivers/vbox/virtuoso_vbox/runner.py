"""Runner: VBoxManage, on this machine or at the far end of ssh. Every call to VirtualBox goes through ``run``."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Sequence
from typing import Any

from virtuoso_core import URI
from virtuoso_core.errors import (
    ConnectError,
    ConnectionLostError,
    HypervisorError,
    InvalidStateError,
    InvalidURIError,
    InvalidValueError,
    UnsupportedError,
    VirtuosoError,
    VMNotFoundError,
)

PLACES = (
    "/usr/lib/virtualbox/VBoxManage",  # Linux: the one on PATH is a wrapper, which prints warnings among the output
    "/opt/VirtualBox/VBoxManage",
    "/Applications/VirtualBox.app/Contents/MacOS/VBoxManage",
)
_LOCALE = "C.UTF-8"  # English, and file names as they are
_REMOTE = (
    f'p=$1; shift; for q in {" ".join(PLACES)}; do [ "$p" ] || {{ [ -x "$q" ] && p=$q; }}; done; '
    f'LC_ALL={_LOCALE} exec "${{p:-VBoxManage}}" "$@"'
)
_CODE = re.compile(r"\bcode \w+ \(0x([0-9a-f]{8})\)")
_SSH_BROKE, _NOT_THERE = 255, 127

NOT_FOUND, FILE_ERROR, OBJECT_IN_USE = 0x80BB0001, 0x80BB0004, 0x80BB000C
INVALID_ARGUMENT, FAILURE = 0x80070057, 0x80004005
_BUSY = (0x80BB0007, 0x80BB000B, 0x80070005, 0x8000FFFF)  # the object's state, the session's; not ready, not locked
_BY_CODE: dict[int, type[VirtuosoError]] = {
    NOT_FOUND: VMNotFoundError,
    0x80BB0002: InvalidStateError,
    **dict.fromkeys(_BUSY, InvalidStateError),
    0x80BB0009: UnsupportedError,
    0x80004001: UnsupportedError,
    INVALID_ARGUMENT: InvalidValueError,
}


class ManageError(Exception):
    """What VBoxManage said: the cause of this library's errors. ``code`` is VirtualBox's result code, or None."""

    def __init__(self, words: Sequence[str], said: str, code: int | None) -> None:
        super().__init__(f"VBoxManage {shlex.join(words)}: {said}")
        self.said, self.code = said, code


def code_of(error: BaseException) -> int | None:
    """The result code behind one of this library's errors."""
    return error.__cause__.code if isinstance(error.__cause__, ManageError) else None


def is_busy(error: BaseException) -> bool:
    """Whether another program held the machine at that moment."""
    return code_of(error) in _BUSY


def find_program() -> str | None:
    """This machine's VBoxManage."""
    return next((place for place in PLACES if os.access(place, os.X_OK)), None) or shutil.which("VBoxManage")


class Runner:
    """Runs VBoxManage.

    Args:
        uri: where; ``vboxmanage=PATH`` names the program, ``keyfile=`` and ``no_verify=1`` are for ssh.

    Raises:
        ConnectError: there is no VBoxManage, or no way to it.
    """

    def __init__(self, uri: URI) -> None:
        self.uri = uri
        self._reached = False
        program = uri.query.get("vboxmanage")
        if uri.transport == "ssh":
            self._shell: list[str] = _ssh(uri)
            self.program = program or ""
        else:
            self._shell = []
            self.program = program or find_program() or "VBoxManage"
        self.version = (self.run(["--version"], doing="ask VBoxManage for its version").split() or ["?"])[-1]

    def run(self, words: Sequence[str], *, doing: str, vm: str | None = None, timeout: float = 60) -> str:
        """What VBoxManage prints.

        Args:
            words: its arguments.
            doing: what they are for, after "could not".
            vm: the VM concerned.
            timeout: seconds after which it is given up.

        Raises:
            VirtuosoError: by VirtualBox's result code; the ManageError is its ``__cause__``.
        """
        if any("\n" in word or "\0" in word for word in words):
            raise InvalidValueError(f"Could not {doing}: there is a line break in {list(words)!r}.", vm=vm)
        done = self._execute(["-q", *words], doing, timeout)
        if done.returncode == 0:
            self._reached = True
            return done.stdout.decode(errors="replace")
        raise self._error(words, done, doing, vm)

    def picture(self, words: Sequence[str], *, doing: str, timeout: float = 60) -> bytes:
        """What VBoxManage writes into the file that is to be named after the words."""
        if self._shell:  # what ssh's far end gives for a standard output cannot be opened by name; a pipe can
            return self._execute(["-q", *words, "/dev/stdout"], doing, timeout, "| cat").stdout
        import tempfile

        with tempfile.TemporaryDirectory() as folder:
            self.run([*words, f"{folder}/screen.png"], doing=doing, timeout=timeout)
            with open(f"{folder}/screen.png", "rb") as file:
                return file.read()

    def exists(self, path: str) -> bool:
        """Whether the hypervisor's host has the file."""
        if not self._shell:
            return os.path.exists(path)
        done = self._process([*self._shell, shlex.join(["test", "-e", path])], f"look for {path}", 60)
        return done.returncode == 0

    def _execute(
        self, words: Sequence[str], doing: str, timeout: float, then: str = ""
    ) -> subprocess.CompletedProcess[bytes]:
        if not self._shell:
            return self._process([self.program, *words], doing, timeout)
        command = shlex.join(["sh", "-c", _REMOTE, "sh", self.program, *words])
        return self._process([*self._shell, f"{command} {then}".rstrip()], doing, timeout)

    def _process(self, argv: list[str], doing: str, timeout: float) -> subprocess.CompletedProcess[bytes]:
        environment = {**os.environ, "LC_ALL": _LOCALE}
        try:
            return subprocess.run(
                argv, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, env=environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise HypervisorError(
                f"Could not {doing} on {self.uri}: VBoxManage gave no answer for {timeout:g} s.",
                hint="Is a window of VirtualBox waiting for somebody?",
                uri=self.uri,
            ) from error
        except OSError as error:
            raise ConnectError(
                f"Cannot connect to {self.uri}: {argv[0]} does not run: {os.strerror(error.errno or 0).lower()}.",
                hint=""
                if self._shell
                else "Install VirtualBox, or say where it is: vbox:///session?vboxmanage=/path/to/VBoxManage",
                uri=self.uri,
            ) from error

    def _error(
        self, words: Sequence[str], done: subprocess.CompletedProcess[bytes], doing: str, vm: str | None
    ) -> VirtuosoError:
        said, code = _said(done.stderr.decode(errors="replace") or done.stdout.decode(errors="replace"))
        cause = ManageError(words, said, code)
        error: VirtuosoError
        where: dict[str, Any] = {"vm": vm, "uri": self.uri}
        if self._shell and done.returncode == _SSH_BROKE:
            by_hand = f"Try it by hand: {shlex.join([*self._shell, 'VBoxManage --version'])}"
            kind = ConnectionLostError if self._reached else ConnectError
            way = "The connection to {} broke" if self._reached else "Cannot connect to {}"
            error = kind(f"{way.format(self.uri)}: {said}", hint=by_hand, **where)
        elif self._shell and done.returncode == _NOT_THERE:
            hint = "Install VirtualBox there, or say where it is: ?vboxmanage=/path/to/VBoxManage"
            error = ConnectError(f"Cannot connect to {self.uri}: it has no VBoxManage.", hint=hint, **where)
        elif not self._reached and code is None:
            error = ConnectError(f"Cannot connect to {self.uri}: {said}", **where)
        elif code == NOT_FOUND and vm is not None:
            error = VMNotFoundError(f"Could not {doing}: it does not exist on {self.uri}.", **where)
        elif code in _BY_CODE:
            error = _BY_CODE[code](f"Could not {doing} on {self.uri}: {said}", **where)
        else:
            error = HypervisorError(f"Could not {doing} on {self.uri}: {said}", code=code, **where)
        error.__cause__ = cause
        return error


def _said(text: str) -> tuple[str, int | None]:
    """VirtualBox's own words on one line, and its result code."""
    found = _CODE.search(text)
    lines = [line.removeprefix("VBoxManage: error: ").strip() for line in text.splitlines()]
    words = [line for line in lines if line and not line.startswith(("Details: ", "Context: ", "Waiting for VM", "0%"))]
    said = "; ".join(dict.fromkeys(words)) or "it gave no reason"
    return said if said.endswith(".") else f"{said}.", int(found[1], 16) if found else None


def _ssh(uri: URI) -> list[str]:
    if uri.host is None:
        raise InvalidURIError(f"The URI {uri} names no host.", hint="It looks like vbox+ssh://user@host/session.")
    words = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]
    words += ["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]
    if "keyfile" in uri.query:
        words += ["-i", uri.query["keyfile"], "-o", "IdentitiesOnly=yes"]
    if uri.query.get("no_verify") == "1":
        words += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    words += [] if uri.port is None else ["-p", str(uri.port)]
    words += [] if uri.username is None else ["-l", uri.username]
    return [*words, "--", uri.host]
