"""MemoryStorage: the disk images of MemoryHypervisor, of which format and size are remembered, and what was sent."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from .. import images
from ..errors import ImageNotFoundError
from ..facts import DiskInfo, Progress
from ..storage import Storage


class MemoryStorage(Storage):
    """Every directory is there, and there is room for everything."""

    def __init__(self) -> None:
        self._infos: dict[str, DiskInfo] = {}
        self._data: dict[str, bytes] = {}

    def exists(self, path: str) -> bool:
        """Whether it was made here."""
        return path in self._infos

    def info(self, path: str) -> DiskInfo:
        """What was remembered."""
        found = self._infos.get(path)
        if found is None:
            raise ImageNotFoundError(f"There is no disk image {path} in memory.", hint="create_disk() makes one.")
        return found

    def create(self, path: str, size: int, format: str, backing: DiskInfo | None) -> None:
        """Remember it."""
        self._add(DiskInfo(path, format, size, 0, None if backing is None else backing.path), b"")

    def resize(self, path: str, size: int) -> None:
        """Remember the size."""
        self._infos[path] = replace(self.info(path), size=size)

    def delete(self, path: str) -> None:
        """Forget it."""
        self._infos.pop(path, None)
        self._data.pop(path, None)

    def write(self, path: str, data: bytes) -> None:
        """Remember all of it."""
        self._add(DiskInfo(path, "raw", len(data), len(data)), data)

    def copy(self, source: str, target: str, progress: Progress | None, *, format: str | None = None) -> None:
        """Remember the same for another path."""
        found = self.info(source)
        self._add(replace(found, path=target, backing=None, format=format or found.format), self._data[source])
        if progress is not None:
            progress(found.size, found.size)

    def upload(self, source: str, target: str, progress: Progress | None) -> None:
        """Remember what is in the file; it is small, in tests."""
        try:
            data = Path(source).read_bytes()
        except OSError as error:
            raise images.file_error(f"read {source}", source, error) from error
        kind = "qcow2" if data.startswith(b"QFI\xfb") else "raw"
        size = int.from_bytes(data[24:32], "big") if kind == "qcow2" else len(data)
        self._add(DiskInfo(target, kind, size, len(data)), data)
        if progress is not None:
            progress(len(data), len(data))

    def download(self, source: str, target: str, progress: Progress | None) -> None:
        """What was sent; an image that was made here is all zeros."""
        data, size = self._data[source], self.info(source).size
        try:
            with images.new_file(target) as file:
                file.write(data)
                if not data:
                    file.truncate(size)
        except OSError as error:
            raise images.file_error(f"download {source}", target, error) from error
        if progress is not None:
            progress(len(data) or size, len(data) or size)

    def overlays(self, path: str) -> Iterable[str]:
        """Those beside it."""
        return [each.path for each in list(self._infos.values()) if each.backing == path]

    def _add(self, info: DiskInfo, data: bytes) -> None:
        if info.path in self._infos:
            raise images.exists_error(os.fspath(info.path))
        self._infos[info.path], self._data[info.path] = info, data
