"""HostShell, Program: programs on the hypervisor's host, run here or at the far end of ssh, as lists of arguments."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import Container, Iterator, Sequence
from typing import Any

from .attempts import patiently
from .errors import (
    ConnectError,
    ConnectionLostError,
    HypervisorError,
    InvalidURIError,
    InvalidValueError,
    VirtuosoError,
)
from .uri import URI

_LOCALE = "C.UTF-8"  # English, and file names as they are
_SSH_BROKE, _NOT_THERE = 255, 127  # exit codes


class HostShell:
    """Runs programs where the hypervisor is: at the far end of ssh where the URI says ``+ssh``, else here.

    A program gets its arguments as they are, whatever shell is on the way, and prints English. ssh never asks for
    anything: it needs a key or an agent. The far end needs a POSIX shell.

    Args:
        uri: where. ``keyfile=PATH`` in its query names the private key; with ``no_verify=1`` the host's key is not
            checked.

    Raises:
        InvalidURIError: it says ssh, and names no host.
    """

    def __init__(self, uri: URI) -> None:
        self.uri = uri
        self._ssh = _ssh(uri) if uri.transport == "ssh" else []
        self._reached = False

    def find(self, *names: str, advice: str = "") -> str:
        """The first of those programs, each a path or to be looked for on PATH, that the host has.

        Raises:
            ConnectError: it has none of them; ``advice`` is the hint.
        """
        if self._ssh:
            look = ["sh", "-c", 'for name; do command -v "$name" && exit; done; exit 1', "sh", *names]
            found = self.run(look, doing=f"look for {names[-1]}").stdout.decode(errors="replace").strip()
        else:
            found = find_here(*names) or ""
        if not found:
            name = os.path.basename(names[-1])
            raise ConnectError(f"Cannot connect to {self.uri}: it has no {name}.", hint=advice, uri=self.uri)
        return found

    def run(
        self, argv: Sequence[str], *, doing: str, vm: str | None = None, timeout: float = 60
    ) -> subprocess.CompletedProcess[bytes]:
        """Run a program to its end; what its exit code means is up to the caller.

        Args:
            argv: the program and its arguments.
            doing: what for, after "could not".
            vm: the VM concerned.
            timeout: seconds after which it is given up.

        Raises:
            ConnectError: there is no way to the host, or no such program there.
            ConnectionLostError: ssh broke, and there was a way before.
            HypervisorError: no answer in time.
        """
        program = os.path.basename(argv[0])
        where: dict[str, Any] = {"vm": vm, "uri": self.uri}
        command = [*self._ssh, shlex.join(["env", f"LC_ALL={_LOCALE}", *argv])] if self._ssh else list(argv)
        environment = {**os.environ, "LC_ALL": _LOCALE}
        try:
            done = subprocess.run(
                command, capture_output=True, stdin=subprocess.DEVNULL, timeout=timeout, env=environment, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise HypervisorError(
                f"Could not {doing} on {self.uri}: {program} gave no answer for {timeout:g} s.",
                hint="Is it waiting for somebody, in a window of its own?",
                **where,
            ) from error
        except OSError as error:
            why = os.strerror(error.errno or 0).lower()
            raise ConnectError(f"Cannot connect to {self.uri}: {command[0]} does not run: {why}.", **where) from error
        if self._ssh and done.returncode == _SSH_BROKE:
            said = " ".join(done.stderr.decode(errors="replace").split()) or "ssh gave no reason."
            hint = f"Try it by hand: {shlex.join([*self._ssh, 'true'])}"
            if self._reached:
                raise ConnectionLostError(f"The connection to {self.uri} broke: {said}", hint=hint, **where)
            raise ConnectError(f"Cannot connect to {self.uri}: {said}", hint=hint, **where)
        if self._ssh and done.returncode == _NOT_THERE:
            raise ConnectError(f"Cannot connect to {self.uri}: it has no {program}.", **where)
        self._reached = True
        return done

    @property
    def has_screen(self) -> bool:
        """Whether somebody would see the window of a program that is run there: here, in a graphical session."""
        if self._ssh:
            return False
        return sys.platform == "darwin" or any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))

    def exists(self, path: str) -> bool:
        """Whether the host has the file. Raises as ``run`` does."""
        if not self._ssh:
            return os.path.exists(path)
        return self.run(["test", "-e", path], doing=f"look for {path}").returncode == 0

    def read(self, path: str, *, vm: str | None = None) -> bytes:
        """What is in one of the host's files. Raises as ``run`` does, and HypervisorError when it cannot be read."""
        done = self.run(["cat", path], doing=f"read {path}", vm=vm)
        if done.returncode:
            said = " ".join(done.stderr.decode(errors="replace").split())
            raise HypervisorError(f"Could not read {path} on {self.uri}: {said}.", vm=vm, uri=self.uri)
        return done.stdout

    def absolute(self, path: str) -> str:
        """The path as the host has it; a relative one counts from this program's directory, where that is the host's.

        Raises:
            InvalidValueError: it is relative, and the host another machine.
        """
        if not self._ssh:
            return os.path.abspath(os.path.expanduser(path))
        if not re.match(r"/|[A-Za-z]:\\", path):
            raise InvalidValueError(f"{path!r} is not an absolute path.", hint=f"It is a path on {self.uri.host}.")
        return path


class ProgramError(Exception):
    """What a program said when it failed: the cause of this library's errors.

    Attributes:
        words: its arguments.
        said: its own words, on one line.
        code: the hypervisor's own number for the failure, or None.
    """

    def __init__(self, words: Sequence[str], said: str, code: int | None) -> None:
        super().__init__(f"{shlex.join(words)}: {said}")
        self.words, self.said, self.code = words, said, code


def code_of(error: BaseException) -> int | None:
    """The hypervisor's own number behind one of this library's errors."""
    return error.__cause__.code if isinstance(error.__cause__, ProgramError) else None


class Program(ABC):
    """The program that commands a hypervisor; a driver's subclass says what its failures mean.

    Args:
        uri: where it is, as for ``HostShell``.
        names: paths, or names to be looked for on PATH; the first that is there is taken.
        advice: what to do where there is none.

    Raises:
        ConnectError: the host has no such program, or there is no way to it.
    """

    usual_words: Sequence[str] = ()
    """The first arguments of every call."""
    passing: Container[int | None] = ()
    """The codes of failures that pass by themselves, such as another program's lock: those calls are made again."""

    def __init__(self, uri: URI, *names: str, advice: str = "") -> None:
        self.host = HostShell(uri)
        self.path = self.host.find(*names, advice=advice)

    @abstractmethod
    def _explain(self, failure: ProgramError, doing: str, where: dict[str, Any]) -> VirtuosoError:
        """The error for a failure.

        Args:
            failure: what the program said.
            doing: what it was to do, after "could not".
            where: for the error: vm, uri.
        """

    def _failure(self, words: Sequence[str], text: str, exit_code: int) -> ProgramError:
        """What the program said, from its standard error, or its standard output where that is empty."""
        return ProgramError(words, " ".join(text.split()), exit_code)

    def run(self, words: Sequence[str], *, doing: str, vm: str | None = None, timeout: float = 60) -> str:
        """What the program prints.

        Args:
            words: its arguments.
            doing: what they are for, after "could not".
            vm: the VM concerned.
            timeout: seconds after which it is given up.

        Raises:
            VirtuosoError: as the driver explains it; the ProgramError is its ``__cause__``.
            ConnectError, ConnectionLostError: there is no way to the program.
            InvalidValueError: a line break in an argument; programs print names line by line.
        """
        if any("\n" in word or "\0" in word for word in words):
            raise InvalidValueError(f"Could not {doing}: there is a line break in {list(words)!r}.", vm=vm)
        return self._answer([], words, doing, vm, timeout).decode(errors="replace")

    def file(self, words: Sequence[str], *, doing: str, vm: str | None = None, timeout: float = 60) -> bytes:
        """What the program writes into the file that is to be named after its arguments. Raises as ``run`` does."""
        script = 'file=$(mktemp) && "$@" "$file" >&2 && cat "$file"; code=$?; rm -f "$file"; exit $code'
        written = self._answer(["sh", "-c", script, "sh"], words, doing, vm, timeout)
        if not written:
            message = f"Could not {doing} on {self.host.uri}: {os.path.basename(self.path)} wrote nothing."
            raise HypervisorError(message, vm=vm, uri=self.host.uri)
        return written

    def _answer(self, before: list[str], words: Sequence[str], doing: str, vm: str | None, timeout: float) -> bytes:
        def once() -> bytes:
            argv = [*before, self.path, *self.usual_words, *words]
            done = self.host.run(argv, doing=doing, vm=vm, timeout=timeout)
            if done.returncode == 0:
                return done.stdout
            failure = self._failure(words, (done.stderr or done.stdout).decode(errors="replace"), done.returncode)
            raise self._explain(failure, doing, {"vm": vm, "uri": self.host.uri}) from failure

        return patiently(once, lambda error: code_of(error) in self.passing)


def find_here(*names: str) -> str | None:
    """The first of those programs, each a path or to be looked for on PATH, that this machine has."""
    return next(filter(None, map(shutil.which, names)), None)


def records(text: str) -> Iterator[dict[str, str]]:
    """What programs print as lines of "Key: value", with an empty line between two things; of all things one dict.

    Example:
        >>> list(records("Name: a\\nSize:  1\\n\\nName: b: c\\n"))
        [{'Name': 'a', 'Size': '1'}, {'Name': 'b: c'}]
    """
    for block in re.split(r"\n\s*\n", text):
        if found := dict(re.findall(r"^([^:\n]+):[ \t]*(.*?)\r?$", block, re.MULTILINE)):
            yield found


def _ssh(uri: URI) -> list[str]:
    if uri.host is None:
        example = f"It looks like {uri.scheme}+ssh://user@host{uri.path}."
        raise InvalidURIError(f"The URI {uri} names no host.", hint=example)
    words = ["ssh", "-T", "-o", "BatchMode=yes", "-o", "ConnectTimeout=15"]
    words += ["-o", "ServerAliveInterval=10", "-o", "ServerAliveCountMax=3"]
    if "keyfile" in uri.query:
        words += ["-i", uri.query["keyfile"], "-o", "IdentitiesOnly=yes"]
    if uri.query.get("no_verify") == "1":
        words += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "LogLevel=ERROR"]
    words += [] if uri.port is None else ["-p", str(uri.port)]
    words += [] if uri.username is None else ["-l", uri.username]
    return [*words, "--", uri.host]
