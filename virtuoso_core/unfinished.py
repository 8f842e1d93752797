"""Undertakings: long steps that undo themselves when they fail, and that `virtuoso doctor` finds when killed."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from .errors import ConnectionLostError, InvalidStateError, VirtuosoError, VMNotFoundError

if TYPE_CHECKING:
    from .hypervisor import Hypervisor

_log = logging.getLogger(__name__)

_Made = list[tuple[str, str]]
"""What a step made, in order: a kind, "vm", "file", "part" or "local_file", and a name or path."""


class Undertaking:
    """A step that makes things one after another. Each is written down before it is made.

    A note is a file of lines of JSON, in the user's own state directory: the first says what is done and where, each
    further one what is about to be made, or kept. It is locked by its process: the lock ends with that, however it
    ends.
    """

    def __init__(self, hypervisor: Hypervisor, doing: str) -> None:
        uri = hypervisor.uri
        self._hypervisor = hypervisor
        # no password is written down
        where = str(uri if uri.password is None else uri.with_credentials(uri.username, None))
        self._head = {
            "doing": doing,
            "uri": where,
            "driver": hypervisor.name,
            "since": time.time(),
            "host": os.uname().nodename,
        }
        self._made: _Made = []
        self._file: IO[str] | None = None

    def file(self, path: str) -> None:
        """A file on the hypervisor's host is about to be made; when the step fails it is deleted, if no VM has it."""
        self._add("file", path)

    def part(self, path: str) -> None:
        """The same under a name made up by chance, which nobody else can have put there."""
        self._add("part", path)

    def local_file(self, path: str) -> None:
        """A file on this machine is about to be made; when the step fails it is deleted."""
        self._add("local_file", path)

    def vm(self, name: str) -> None:
        """A VM is about to be made, off, on files of this step's; when the step fails it is removed.

        One of that name without any of these files is another one, and stays.
        """
        self._add("vm", name)

    def keep(self, path: str) -> None:
        """What is at the path is not this step's after all: it stays."""
        self._made = [made for made in self._made if made[1] != path]
        self._write({"keep": path})

    def _add(self, kind: str, item: str) -> None:
        self._made.append((kind, item))
        if self._file is None:
            self._file = _new_note()
            self._write(self._head)
        self._write({kind: item})

    def _write(self, line: dict[str, Any]) -> None:
        if self._file is None:
            return
        try:
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:  # the home is full: the step is not for that
            _log.warning("what %r makes could not be written down: %s", self._head["doing"], error.strerror)

    def _supersede(self) -> None:
        """What an earlier step was killed over and this one has made is this one's: nobody shall clean it."""
        if self._file is None:
            return
        for one in unfinished():
            with _locked(one._path) as file:
                if file is None or one.uri != self._head["uri"]:
                    continue
                with suppress(OSError, ValueError):
                    for _, item in {*_parse(file.read())[1]} & {*self._made}:
                        file.write(json.dumps({"keep": item}) + "\n")

    def _finish(self) -> None:
        if self._file is not None:
            Path(self._file.name).unlink(missing_ok=True)
            self._file.close()


def _folder() -> Path:
    from platformdirs import user_state_path

    return user_state_path("virtuoso") / "unfinished"


def _new_note() -> IO[str] | None:
    """A file that is locked as long as this process lives; None where the home takes none."""
    try:
        folder = _folder()
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        file = open(folder / f"{os.urandom(8).hex()}.json", "x", encoding="utf-8")  # noqa: SIM115 - open as long as the step lasts
    except OSError:
        return None
    try:
        # who looks before it is locked finds it empty, and passes it over
        fcntl.flock(file, fcntl.LOCK_EX)
    except OSError:  # a file system without locks: unlocked, the step would look killed
        os.unlink(file.name)
        file.close()
        return None
    return file


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
            _undo_anew(hypervisor, step._made)
        except VirtuosoError as another:
            error.add_note(f"Nor could what was half made be removed: {another} See: virtuoso doctor")
            if step._file is not None:
                step._file.close()
        else:
            step._finish()
        raise
    step._supersede()
    step._finish()


def _undo_anew(hypervisor: Hypervisor, made: _Made) -> None:
    """Ctrl-C in a terminal ends the ssh that carries the connection, too: this needs another one."""
    try:
        _undo(hypervisor, made)
    except ConnectionLostError:
        with type(hypervisor).open(hypervisor.uri) as another:
            _undo(another, made)


def _undo(hypervisor: Hypervisor, made: _Made) -> None:
    """Take away what is there of it, the last first. One that cannot be removed does not keep the others."""
    from .storage import all_images, is_a_vms

    files = {item for kind, item in made if kind == "file"}
    failed: VirtuosoError | None = None
    for kind, item in reversed(made):
        try:
            if kind == "vm":
                vm = hypervisor.find(item)
                if vm is not None and not files.isdisjoint(all_images(vm._read())):
                    vm.destroy()
            elif kind == "part":
                hypervisor._storage().delete(item)
            elif kind == "file":
                if not is_a_vms(hypervisor, item):  # it got there before the end, or somebody put it to use
                    hypervisor._storage().delete(item)
            else:
                Path(item).unlink(missing_ok=True)
        except VMNotFoundError:
            continue  # gone just now
        except VirtuosoError as error:
            failed = failed or error
        except OSError as error:
            failed = failed or VirtuosoError(f"The file {item} could not be deleted: {error.strerror}.")
    if failed is not None:
        raise failed


@dataclass(frozen=True)
class Unfinished:
    """A step that was killed and may have left things behind.

    Attributes:
        doing: what it was.
        uri: on which hypervisor.
        driver: that hypervisor's driver.
        since: when it began, in seconds since the epoch.
        left: what it was making, in words, such as "the file /images/b.qcow2".
    """

    doing: str
    uri: str
    driver: str
    since: float
    left: tuple[str, ...]
    _path: Path = field(repr=False)

    def clean(self, hypervisor: Hypervisor) -> None:
        """Remove what it left; ``hypervisor`` is a connection to its ``uri``.

        Raises:
            InvalidStateError: it is cleaned already, or by somebody else right now; a VM that it left runs.
            ImageInUseError: a VM uses a file that it left.
            VirtuosoError: something else could not be removed. What is left is still written down.
        """
        from .storage import check_unused

        with _locked(self._path) as file:
            if file is None:
                raise InvalidStateError(f"Somebody else has dealt with this: {self.doing}.", uri=self.uri)
            made = _parse(file.read())[1]
            vms = [item for kind, item in made if kind == "vm"]
            # somebody may have put the file to use meanwhile
            for kind, item in made:
                if kind == "file":
                    check_unused(hypervisor, item, f"The file {item} was not deleted", besides=vms)
            _undo(hypervisor, made)
            self._path.unlink(missing_ok=True)


@contextmanager
def _locked(path: Path) -> Iterator[IO[str] | None]:
    """The note, locked; None while its process lives, or when it is gone."""
    try:
        file = open(path, "r+", encoding="utf-8")  # noqa: SIM115 - closed below
    except OSError:
        yield None
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield None
            return
        # a step that ended just now took its name away first
        yield file if os.fstat(file.fileno()).st_nlink else None


def _parse(text: str) -> tuple[dict[str, Any], _Made]:
    """A note's head, and what was made. Its last line may have been cut off. Raises ValueError."""
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    if not lines:
        raise ValueError("nothing was made yet")
    made: _Made = []
    for line in lines[1:]:
        (kind, item), *_ = line.items()
        made = [each for each in made if each[1] != item] if kind == "keep" else [*made, (kind, item)]
    return lines[0], made


_WORDS = {
    "vm": "the VM {!r}",
    "file": "the file {}",
    "part": "the file {}",
    "local_file": "the file {} on this machine",
}


def unfinished() -> list[Unfinished]:
    """Every step of this user's on this machine that was killed, the oldest first. One that goes on is none."""
    found, here = [], os.uname().nodename
    for path in _folder().glob("*.json"):
        with _locked(path) as file:
            if file is None:
                continue
            try:
                head, made = _parse(file.read())
                if head.get("host", here) != here:
                    continue  # several machines have this home: what is local to that one is not here
                left = tuple(_WORDS[kind].format(item) for kind, item in made)
                one = Unfinished(head["doing"], head["uri"], head["driver"], float(head["since"]), left, path)
            except (ValueError, KeyError, AttributeError, TypeError):
                left = ()
            if left:
                found.append(one)
            elif time.time() - os.fstat(file.fileno()).st_mtime > _EMPTY:
                path.unlink(missing_ok=True)  # killed before anything was made
    return sorted(found, key=lambda each: each.since)


_EMPTY = 3600.0
"""Seconds after which a note that tells of nothing is no longer one that is being begun."""
