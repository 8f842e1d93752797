"""Undertakings: long steps that undo themselves when they fail, and that `virtuoso doctor` finds when killed."""

from __future__ import annotations

import fcntl
import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import VirtuosoError

if TYPE_CHECKING:
    from .hypervisor import Hypervisor


class Undertaking:
    """A step that makes things one after another. Each is written down before it is made."""

    def __init__(self, hypervisor: Hypervisor, doing: str) -> None:
        self._hypervisor = hypervisor
        self._note: dict[str, Any] = {"doing": doing, "uri": str(hypervisor.uri), "driver": hypervisor.name}
        self._note |= {"since": time.time(), "files": [], "local_files": [], "vms": []}
        self._file: IO[str] | None = None

    def file(self, path: str) -> None:
        """A file on the hypervisor's host is about to be made; when the step fails it is deleted."""
        self._write("files", path)

    def local_file(self, path: str) -> None:
        """A file on this machine is about to be made; when the step fails it is deleted."""
        self._write("local_files", path)

    def vm(self, name: str) -> None:
        """A VM is about to be made, off; when the step fails it is removed, without its disks."""
        self._write("vms", name)

    def _write(self, kind: str, item: str) -> None:
        self._note[kind].append(item)
        if self._file is None:
            self._file = _new_note()
        if self._file is not None:
            self._file.seek(0)
            self._file.truncate()
            json.dump(self._note, self._file)
            self._file.flush()
            os.fsync(self._file.fileno())

    def _finish(self) -> None:
        if self._file is not None:
            os.unlink(self._file.name)
            self._file.close()


def _folder() -> Path:
    from platformdirs import user_state_path

    return user_state_path("virtuoso") / "unfinished"


def _new_note() -> IO[str] | None:
    """A file that is locked as long as this process lives; None where the home cannot be written."""
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = open(folder / f"{secrets.token_hex(8)}.json", "x+", encoding="utf-8")  # noqa: SIM115 - open as long as the step lasts
        fcntl.flock(file, fcntl.LOCK_EX)
        return file
    except OSError:
        return None


@contextmanager
def undertaking(hypervisor: Hypervisor, doing: str) -> Iterator[Undertaking]:
    """What is made in the block is undone when it fails, also by Ctrl-C; killed, it is left for `virtuoso doctor`.

    Args:
        hypervisor: where.
        doing: what, such as "clone the VM 'a' as 'b'".
    """
    step = Undertaking(hypervisor, doing)
    try:
        yield step
    except BaseException as error:
        try:
            _undo(hypervisor, step._note)
        except VirtuosoError as another:
            error.add_note(f"Nor could what was half made be removed: {another} See: virtuoso doctor")
            if step._file is not None:
                step._file.close()
        else:
            step._finish()
        raise
    step._finish()


def _undo(hypervisor: Hypervisor, note: dict[str, Any]) -> None:
    for name in reversed(note["vms"]):
        if (vm := hypervisor.find(name)) is not None:
            vm.destroy()
    for path in reversed(note["files"]):
        hypervisor._storage().delete(path)
    for path in reversed(note["local_files"]):
        Path(path).unlink(missing_ok=True)


@dataclass(frozen=True)
class Unfinished:
    """A step that was killed and left things behind.

    Attributes:
        doing: what it was.
        uri: on which hypervisor.
        since: when it began, in seconds since the epoch.
        left: what it made, in words, such as "the file /images/b.qcow2".
    """

    doing: str
    uri: str
    since: float
    left: tuple[str, ...]
    _path: Path = field(repr=False)
    _note: dict[str, Any] = field(repr=False, hash=False)

    def clean(self, hypervisor: Hypervisor) -> None:
        """Remove what it left; ``hypervisor`` is a connection to its ``uri``.

        Raises:
            VirtuosoError: something could not be removed; what is left is still written down.
        """
        _undo(hypervisor, self._note)
        self._path.unlink(missing_ok=True)


def unfinished() -> list[Unfinished]:
    """Every step of this user's that was killed, the oldest first."""
    found = []
    for path in _folder().glob("*.json"):
        try:
            with open(path, encoding="utf-8") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                note = json.load(file)
                left = [f"the VM {name!r}" for name in note["vms"]]
                left += [f"the file {name}" for name in (*note["files"], *note["local_files"])]
                found.append(Unfinished(note["doing"], note["uri"], note["since"], tuple(left), path, note))
        except (OSError, ValueError, KeyError):
            continue  # it goes on, or ended just now, or was killed before it had made anything
    return sorted(found, key=lambda each: each.since)
