"""Storage: the disk images on a hypervisor's host, and the checks before one of them is made, sent or deleted."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from .facts import DiskInfo, Progress

if TYPE_CHECKING:
    from .hypervisor import Hypervisor

Path = str | os.PathLike[str]


class Storage(ABC):
    """Plain acts on the files of a hypervisor's host, without checks of arguments. Paths are its own, absolute."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is anything at the path."""

    @abstractmethod
    def info(self, path: str) -> DiskInfo:
        """What the image is. Raises ImageNotFoundError, ImageFormatError."""

    @abstractmethod
    def create(self, path: str, size: int, format: str, backing: DiskInfo | None) -> None:
        """Make an image of that many bytes. Raises NoSpaceError; leaves nothing behind when it fails."""

    @abstractmethod
    def resize(self, path: str, size: int) -> None:
        """Give the image, which no running VM has, that many bytes."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete the file; one that is already gone stays so."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Make a small file that only its owner and the hypervisor can read."""

    @abstractmethod
    def copy(self, source: str, target: str, progress: Progress | None) -> None:
        """Make the target a full copy of the source with all that is below it, in the source's format."""

    @abstractmethod
    def upload(self, source: str, target: str, progress: Progress | None) -> None:
        """Bring a file of this machine there. Nothing is at the target before all has arrived."""

    @abstractmethod
    def download(self, source: str, target: str, progress: Progress | None) -> None:
        """Fetch a file into one of this machine."""


def create(
    hypervisor: Hypervisor, path: Path, size: int | str | None, backing: Path | None, format: str | None
) -> DiskInfo:
    """What ``hypervisor.create_disk()`` promises."""
    raise NotImplementedError


def delete(hypervisor: Hypervisor, path: Path) -> None:
    """What ``hypervisor.delete_disk()`` promises."""
    raise NotImplementedError


def upload(hypervisor: Hypervisor, source: Path, path: Path, progress: Progress | None) -> DiskInfo:
    """What ``hypervisor.upload()`` promises."""
    raise NotImplementedError


def download(hypervisor: Hypervisor, path: Path, target: Path, progress: Progress | None) -> None:
    """What ``hypervisor.download()`` promises."""
    raise NotImplementedError
