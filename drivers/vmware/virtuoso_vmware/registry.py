"""Registry: where the machines' .vmx files are. VMware tells of running ones only, and libvirt forgets the rest."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Self

from filelock import FileLock
from platformdirs import user_state_path

from virtuoso_core.errors import HypervisorError

from .vmx import write_whole

_WAIT = 60
"""Seconds after which another program that holds the lock is taken to be stuck."""


class Registry:
    """A list of paths in the user's state folder, shared by all programs of the user.

    Changes are made under a lock, which one program may take repeatedly, and replace the file as a whole.
    """

    def __init__(self) -> None:
        self._file = user_state_path("virtuoso") / "vmware-machines.json"
        self._lock = FileLock(self._file.with_suffix(".lock"), timeout=_WAIT)

    @contextmanager
    def locked(self) -> Iterator[Self]:
        """Keep the other programs out. Raises HypervisorError when that, or writing within, is impossible."""
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                yield self
        except OSError as error:
            said = error.strerror or error
            raise HypervisorError(f"The list of machines {self._file} cannot be written: {said}.") from error

    def paths(self) -> list[str]:
        """The files that are still there."""
        try:
            known = json.loads(self._file.read_bytes())
            return [path for path in known if isinstance(path, str) and os.path.exists(path)]
        except (OSError, ValueError, TypeError):  # there is none yet, or it is damaged
            return []

    def add(self, paths: Iterable[str]) -> None:
        """Remember these too, and forget those that are gone."""
        with self.locked():
            known = dict.fromkeys([*self.paths(), *paths])
            write_whole(str(self._file), json.dumps(list(known), indent=1).encode())
