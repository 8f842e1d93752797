"""Ways to run `virtuoso` in tests: Shell within their process, virtuoso() as one, Terminal on a terminal of its own."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import pty
import select
import struct
import subprocess
import sys
import termios
import time
from types import TracebackType
from typing import Any, Self

from click.testing import CliRunner, Result

from virtuoso_core.cli.commands import cli

_numbers = itertools.count()


class Shell:
    """Runs `virtuoso -c memory:///N ...` within this process, where the VMs are."""

    def __init__(self) -> None:
        self.uri = f"memory:///cli-{next(_numbers)}"
        self.env: dict[str, str] = {"VIRTUOSO_DEFAULT_URI": self.uri}

    def __call__(
        self, *args: str, input: str | None = None, code: int = 0, env: dict[str, str] | None = None
    ) -> Result:
        result = CliRunner().invoke(cli, list(args), input=input, env=self.env | (env or {}))
        assert result.exit_code == code, (result.exit_code, result.stdout, result.stderr, result.exception)
        assert "Traceback" not in result.output
        return result

    def json(self, *args: str, code: int = 0) -> Any:
        return json.loads(self(*args, "--json", code=code).stdout)

    def error(self, *args: str, code: int) -> dict[str, Any]:
        result = self("--json", *args, code=code)
        assert result.stdout == ""
        error: dict[str, Any] = json.loads(result.stderr)["error"]
        assert set(error) == {"type", "message", "hint", "uri", "vm"}
        return error


def virtuoso(*args: str, **kwargs: Any) -> subprocess.CompletedProcess[str]:
    """The command as a process of its own."""
    command = [sys.executable, "-c", "from virtuoso_core.cli import main; main()", *args]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **kwargs)


_TAKE = "import fcntl, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
"""Makes the terminal the program's own, so that Ctrl-C on it reaches the program."""


class Terminal:
    """A Python program on a terminal of its own: keys are typed, what it prints is read, Ctrl-C is a key."""

    def __init__(self, program: str, *, columns: int = 120, **environ: str) -> None:
        self._ours, self._its = pty.openpty()
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", 30, columns, 0, 0))
        self.settings = termios.tcgetattr(self._its)
        """How it was before."""
        self.text = ""
        self._process = subprocess.Popen(
            [sys.executable, "-c", f"{_TAKE}{program}"],
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            env={**os.environ, "TERM": "xterm", "NO_COLOR": "1", "COLUMNS": str(columns), **environ},
            start_new_session=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait(30)
        os.close(self._ours)
        os.close(self._its)

    def type(self, keys: str) -> None:
        os.write(self._ours, keys.encode())

    def wait_for(self, text: str, timeout: float = 30) -> str:
        """All that was printed up to the text, which is taken out of ``text``."""
        end = time.monotonic() + timeout
        while text not in self.text:
            assert time.monotonic() < end, f"no {text!r} in {self.text[-2000:]!r}"
            self.look(0.1)
        before, found, self.text = self.text.partition(text)
        return before + found

    def wait(self, timeout: float = 30) -> int:
        """The exit code."""
        end = time.monotonic() + timeout
        while self._process.poll() is None:
            assert time.monotonic() < end, f"it goes on: {self.text[-2000:]!r}"
            self.look(0.05)
        self.look(0)
        return self._process.returncode

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    @property
    def restored(self) -> bool:
        """Whether it is as it was before."""
        return termios.tcgetattr(self._its) == self.settings

    def look(self, patience: float) -> None:
        """Read what comes within so many seconds."""
        with contextlib.suppress(OSError):
            while select.select([self._ours], [], [], patience)[0]:
                self.text += os.read(self._ours, 65536).decode(errors="replace")
                patience = 0
