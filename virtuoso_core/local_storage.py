"""LocalStorage: disk images in this machine's files, by qemu-img."""

from __future__ import annotations

import errno
import os
import re
import shutil
import subprocess
from collections.abc import Hashable, Iterable

from . import images
from .diagnosis import install
from .errors import ImageError, ImageFormatError, ImageInUseError, VirtuosoError
from .facts import DiskInfo, Progress
from .storage import Storage

FORMATS = ("qcow2", "raw", "vmdk", "vdi", "vpc", "qed")
"""What qemu-img makes and QEMU runs from, the best first."""

_PERCENT = re.compile(r"\(\s*(\d+(?:\.\d+)?)/100%\)")


class LocalStorage(Storage):
    """Files of this machine, as this user.

    Args:
        formats: the formats that the hypervisor takes, the best first.
    """

    def __init__(self, formats: Iterable[str] = FORMATS) -> None:
        self.formats = tuple(name for name in FORMATS if name in set(formats))
        self.overlay_formats = tuple(name for name in self.formats if name in ("qcow2", "qed"))

    def exists(self, path: str) -> bool:
        """Whether there is anything at the path."""
        return os.path.lexists(path)

    def info(self, path: str) -> DiskInfo:
        """What qemu-img tells of it."""
        images.check_image(path)
        found = images.probe(path)
        size, allocated = int(found["virtual-size"]), found.get("actual-size")
        return DiskInfo(path, str(found["format"]), size, allocated, images.backing_of(path))

    def create(self, path: str, size: int, format: str, backing: DiskInfo | None) -> None:
        """By qemu-img create; an overlay names its backing image's format, which is never guessed again."""
        below = [] if backing is None else ["-b", backing.path, "-F", backing.format]
        words = ["create", "-q", "-f", format, *below, path, str(size)]
        self._make(f"make the disk image {path}", path, words)

    def resize(self, path: str, size: int) -> None:
        """By qemu-img resize."""
        now = self.info(path)
        if now.format not in ("raw", "qcow2", "qed"):
            raise ImageFormatError(
                f"The disk image {path} is in the format {now.format!r}, which cannot be resized.",
                hint=f"Convert it: qemu-img convert -O qcow2 {path} {path}.qcow2",
            )
        words = ["resize", "-q", "-f", now.format, *(["--shrink"] if size < now.size else []), path, str(size)]
        self._qemu_img(f"resize {path}", path, words)

    def delete(self, path: str) -> None:
        """Delete the file; one that is already gone stays so."""
        images.delete_image(path)

    def write(self, path: str, data: bytes) -> None:
        """Only its owner may read it; the system's libvirt gives it to the user who runs the guest."""
        images.check_directory(path)
        try:
            with images.new_file(path, 0o600) as file:
                file.write(data)
        except OSError as error:
            raise images.file_error(f"write {path}", path, error, needs=len(data)) from error

    def copy(self, source: str, target: str, progress: Progress | None, *, format: str | None = None) -> None:
        """By qemu-img convert, which reads through all that is below the source."""
        found = self.info(source)
        kind = format or found.format
        words = ["convert", "-p", "-f", kind, "-O", kind, source, target]
        self._make(f"copy {source} to {target}", target, words, progress, found.size)

    def upload(self, source: str, target: str, progress: Progress | None) -> None:
        """Copy it."""
        images.check_directory(target)
        images.copy_file(source, target, progress)

    def download(self, source: str, target: str, progress: Progress | None) -> None:
        """Copy it."""
        images.copy_file(source, target, progress)

    def partial(self, path: str) -> str:
        """A hidden name in the same directory."""
        return images.partial(path)

    def publish(self, part: str, path: str) -> None:
        """By a link, which replaces nothing."""
        images.publish(part, path)

    def identity(self, path: str) -> Hashable:
        """Two paths may lead to one file."""
        try:
            found = os.stat(path)
        except OSError:
            return os.path.abspath(path)
        return found.st_dev, found.st_ino

    def backing(self, path: str) -> str | None:
        """What its header says."""
        return images.backing_of(path)

    def overlays(self, path: str) -> Iterable[str]:
        """Those in the same directory."""
        return images.overlays_beside(path)

    def _make(self, doing: str, path: str, words: list[str], progress: Progress | None = None, total: int = 0) -> None:
        """Let qemu-img write over an empty file that is ours: so it never overwrites another's."""
        images.check_directory(path)
        try:
            with images.new_file(path):
                self._qemu_img(doing, path, words, progress, total)
                with open(path, "rb") as made:  # qemu-img may have put another file there
                    os.fsync(made.fileno())
        except OSError as error:
            raise images.file_error(doing, path, error) from error

    def _qemu_img(
        self, doing: str, path: str, words: list[str], progress: Progress | None = None, total: int = 0
    ) -> None:
        program = shutil.which("qemu-img")
        if program is None:
            raise ImageError(
                f"Could not {doing}: qemu-img is not installed.", hint=f"Type: {install('qemu-utils', 'qemu-img')}"
            )
        # it dies of its next word about its progress when this process was killed
        with subprocess.Popen(
            [program, *words],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "LC_ALL": "C"},
        ) as process:
            try:
                said = _listen(process, progress, total)
            except BaseException:
                process.kill()
                raise
        if process.returncode:
            raise self._failure(doing, path, said)
        if progress is not None:
            progress(total, total)

    def _failure(self, doing: str, path: str, said: str) -> VirtuosoError:
        free = images.free_space(os.path.dirname(path))
        # the file is still as large as it could become; a quota shows in the words only
        if free is not None and free < 65536:
            return images.file_error(doing, path, OSError(errno.ENOSPC, ""))
        for number in (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EROFS):
            if os.strerror(number) in said:
                return images.file_error(doing, path, OSError(number, ""))
        reason = (said.strip().splitlines() or ["qemu-img gave no reason"])[-1].rstrip(".")
        reason = reason.removeprefix("qemu-img: ").removeprefix(f"{path}: ")
        if "lock" in said:
            return ImageInUseError(
                f"Could not {doing}: it is in use by a running VM or another program.", hint="Stop the VM first."
            )
        return ImageError(f"Could not {doing}: {reason}.")


def _listen(process: subprocess.Popen[bytes], progress: Progress | None, total: int) -> str:
    """What the program says beside its progress, which is told on."""
    assert process.stdout is not None
    rest, said = "", ""
    while piece := os.read(process.stdout.fileno(), 4096):
        *lines, rest = re.split(r"[\r\n]", rest + piece.decode(errors="replace"))
        for line in lines:
            if (found := _PERCENT.search(line)) is None:
                said += f"{line}\n" if line.strip() else ""
            elif progress is not None:
                progress(min(total, int(float(found[1]) * total / 100)), total)
    return said + rest
