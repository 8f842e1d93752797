"""The simulator as a process: built where need be, started on a free port, ended by its process id."""

from __future__ import annotations

import select
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Literal, Self

HERE = Path(__file__).resolve().parent
BUILD_LIMIT = 550


def missing_reason() -> str | None:
    """Say why there is no simulator, which the first call builds, or return None."""
    try:
        done = subprocess.run([HERE / "build.sh"], capture_output=True, text=True, timeout=BUILD_LIMIT)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"the ESX simulator cannot be built: {error}"
    return f"the ESX simulator cannot be built: {done.stderr.strip()}" if done.returncode else None


class Simulator:
    """An ESX host or a vCenter on this machine, with the user "user" and the password "pass"."""

    def __init__(self, kind: Literal["esx", "vcenter"]) -> None:
        self.kind = kind
        self.address = ""

    @property
    def uri(self) -> str:
        """Where it is, for a client that does not check its certificate."""
        scheme, path = ("esx", "/") if self.kind == "esx" else ("vpx", "/DC0/DC0_H0")
        return f"{scheme}://{self.address}{path}?no_verify=1"

    def __enter__(self) -> Self:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(
            [HERE / "run.sh", self.kind], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True
        )
        assert self._process.stdout is not None
        ready = select.select([self._process.stdout], [], [], BUILD_LIMIT)[0]
        word, _, self.address = (self._process.stdout.readline() if ready else "").strip().partition(" ")
        if word != "READY":
            self.stop()
            raise RuntimeError(f"the {self.kind} simulator did not start")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End it."""
        self.stop()

    def stop(self) -> None:
        """End it; it takes its files with it."""
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()
