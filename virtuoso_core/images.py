"""Disk images on this machine: do they exist, what is their format, can the hypervisor's user reach them."""

from __future__ import annotations

import errno
import json
import os
import pwd
import shlex
import shutil
import stat
import struct
import subprocess
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Any

from .errors import (
    ImageError,
    ImageExistsError,
    ImageFormatError,
    ImageNotFoundError,
    NoSpaceError,
    VirtuosoError,
)
from .facts import Progress
from .spec import format_size

_ACL = "system.posix_acl_access"
_ACL_USER, _ACL_GROUP_OBJ, _ACL_GROUP, _ACL_MASK = 0x02, 0x04, 0x08, 0x10
_SEARCH, WRITE, READ = 1, 2, 4
_CHUNK = 1024 * 1024
_SIBLINGS = 1000
"""How many files of a directory are looked at for overlays."""
_MAX_LINKS = 40
"""As many as Linux follows on one way."""


@dataclass(frozen=True)
class HostUser:
    """A user of this machine: name (or number, where it has no name), uid, groups."""

    name: str
    uid: int
    gids: frozenset[int]

    @classmethod
    def of(cls, uid: int, gid: int) -> HostUser:
        """From its numbers."""
        try:
            name = pwd.getpwuid(uid).pw_name
        except KeyError:
            return cls(str(uid), uid, frozenset({gid}))
        return cls(name, uid, frozenset(os.getgrouplist(name, gid)))


def check_image(path: str) -> None:
    """Raise ImageNotFoundError when there is nothing at the path that can be a disk.

    A path that this user may not look at is passed: the hypervisor's user may.
    """
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return
    except OSError as error:
        near = _nearest(path)
        raise ImageNotFoundError(
            f"There is no disk image {path}: {os.strerror(error.errno or 0).lower()}.",
            hint=near or _where_to_look(path),
        ) from error
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "neither a file nor a block device"
        raise ImageNotFoundError(f"{path} is {kind}, not a disk image.", hint="Name the image file itself.")


def _where_to_look(path: str) -> str:
    look = f"See what is there: ls -l {shlex.quote(os.path.dirname(path) or '.')}"
    if path.lower().endswith(".iso"):
        return look  # an empty one would be of no use
    return f"{look}\nOr make an empty one: qemu-img create -f qcow2 {shlex.quote(path)} 20G"


def check_deletable(path: str) -> None:
    """Raise ImageError for what is no file of its own."""
    if is_block_device(path):
        raise ImageError(f"{path} is a block device; it was not deleted.", hint="Wipe or remove it by hand.")


def is_block_device(path: str) -> bool:
    """Whether the path is a block device of this machine."""
    try:
        return stat.S_ISBLK(os.stat(path).st_mode)
    except OSError:
        return False


def probe_format(path: str) -> str:
    """The image's real format, as qemu-img sees it in the file's contents, such as "qcow2" or "raw".

    Raises:
        ImageFormatError: qemu-img is missing or cannot tell.
    """
    return str(probe(path)["format"])


def probe(path: str) -> dict[str, Any]:
    """What qemu-img sees in the file's contents: "format", "virtual-size" and more. Raises ImageFormatError."""
    if shutil.which("qemu-img") is None:
        raise ImageFormatError(
            f"The format of {path} cannot be told: qemu-img is not installed.",
            hint='Install it (apt-get install qemu-utils), or say it: vm.set("disk_format", "qcow2")',
        )
    command = ["qemu-img", "info", "--force-share", "--output=json", path]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL)
        found: dict[str, Any] = json.loads(done.stdout)
        found["format"], found["virtual-size"]
        return found
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ImageFormatError(f"The format of {path} cannot be told: {said[0]}", hint="Is it a disk image?") from error
    except (subprocess.TimeoutExpired, ValueError, KeyError, TypeError) as error:
        raise ImageFormatError(
            f"The format of {path} cannot be told: qemu-img gave no answer.", hint="Is its storage reachable?"
        ) from error


def unreachable_parent(path: str, uid: int, gids: Collection[int]) -> str | None:
    """The first directory on the way to the path that the user cannot search, or None.

    Mode bits and POSIX ACLs are looked at; links are followed.
    """
    if uid == 0:
        return None
    for place in _way_to(path):
        try:
            if not _may(place, _SEARCH, uid, gids):
                return place
        except OSError:
            return None  # we cannot look: nothing can be said
    return None


def _way_to(path: str) -> Iterator[str]:
    """Every directory that the kernel searches on the way to the path, also on the way to a link's target."""
    rest = os.path.join(os.getcwd(), path).split("/")[::-1]
    here, links = "/", 0
    while rest:
        name = rest.pop()
        if name in ("", "."):
            continue
        yield here
        if name == "..":
            here = os.path.dirname(here)
            continue
        try:
            target = os.readlink(os.path.join(here, name))
        except OSError:  # no link
            here = os.path.join(here, name)
            continue
        links += 1
        if links > _MAX_LINKS:
            return
        rest += target.split("/")[::-1]
        if target.startswith("/"):
            here = "/"


def may_open(path: str, wanted: int, uid: int, gids: Collection[int]) -> bool | None:
    """Whether the user may READ, WRITE or both, by mode bits and POSIX ACLs; None where that cannot be seen."""
    try:
        return uid == 0 or _may(path, wanted, uid, gids)
    except OSError:
        return None


def is_locked(path: str) -> bool:
    """Whether another QEMU, which marks the images that it uses, has this one; False where that cannot be seen."""
    if shutil.which("qemu-img") is None:
        return False

    def opens(*words: str) -> bool:
        command = ["qemu-img", "info", *words, "--output=json", path]
        try:
            done = subprocess.run(command, capture_output=True, timeout=60, check=False, stdin=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0

    return not opens() and opens("--force-share")


def _may(path: str, wanted: int, uid: int, gids: Collection[int]) -> bool:
    found = os.stat(path)
    owner, group, others = (found.st_mode >> shift & wanted == wanted for shift in (6, 3, 0))
    if found.st_uid == uid:
        return owner
    entries = _acl(path)
    if entries is None or not found.st_mode & stat.S_IRWXG:  # Linux skips an ACL whose mask lets nobody through
        return group if found.st_gid in gids else others
    mask = next((bits for tag, bits, _ in entries if tag == _ACL_MASK), 7)
    for tag, bits, who in entries:
        if tag == _ACL_USER and who == uid:
            return bits & mask & wanted == wanted
    groups = [
        bits
        for tag, bits, who in entries
        if (tag == _ACL_GROUP and who in gids) or (tag == _ACL_GROUP_OBJ and found.st_gid in gids)
    ]
    if groups:
        return any(bits & mask & wanted == wanted for bits in groups)
    return others


def _acl(path: str) -> list[tuple[int, int, int]] | None:
    """The entries (tag, bits, id) of the kernel's own representation, or None where there is no ACL."""
    try:
        raw = os.getxattr(path, _ACL)
    except (OSError, AttributeError):
        return None
    return [struct.unpack_from("<HHI", raw, at) for at in range(4, len(raw) - 7, 8)]


def delete_image(path: str) -> None:
    """Delete the file. Raises ImageError when that fails; one that is already gone stays so."""
    check_deletable(path)
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ImageError(
            f"The disk image {path} could not be deleted: {os.strerror(error.errno or 0).lower()}.",
            hint=f"Delete it by hand: sudo rm {shlex.quote(path)}",
        ) from error


# What an image is based on.


def backing_of(path: str) -> str | None:
    """The image that this one is a thin overlay of; None where it is none, or cannot be read. Needs no other program.

    What is read was perhaps written by a guest: it is only a name to compare.
    """
    try:
        # a guest may name anything: nothing may hang on a pipe
        with open(path, "rb", opener=lambda name, flags: os.open(name, flags | os.O_NONBLOCK)) as file:
            mode = os.fstat(file.fileno()).st_mode
            if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
                return None
            header = file.read(104)
            if header[:4] == b"QFI\xfb" and len(header) >= 20:
                offset, size = struct.unpack_from(">QI", header, 8)
                if not offset or not 0 < size < 1024:
                    return None
                file.seek(offset)
                return _resolve(path, os.fsdecode(file.read(size)))
    except (OSError, ValueError, OverflowError):
        return None
    if header[:4] not in (b"QED\0", b"KDMV", b"COWD", b"# Di"):
        return None
    try:
        found = probe(path)
    except ImageFormatError:
        return None
    named = found.get("full-backing-filename") or found.get("backing-filename")
    return _resolve(path, named) if isinstance(named, str) else None


def _resolve(path: str, named: str) -> str:
    """The backing image's path: QEMU reads it from where the overlay is, and takes JSON too."""
    if named.startswith("json:"):
        try:
            found = json.loads(named[5:])
            while isinstance(found.get("file"), dict):
                found = found["file"]
            named = found.get("file.filename") or found["filename"]
        except (ValueError, KeyError, AttributeError):
            return named
    return os.path.normpath(os.path.join(os.path.dirname(path), named.removeprefix("file:")))


def overlays_beside(path: str) -> Iterator[str]:
    """The images in the same directory that are based on this one, as far as a quick look tells."""
    directory = os.path.dirname(path)
    try:
        mine = os.stat(path)
        names = os.listdir(directory)
    except OSError:
        return
    if len(names) > _SIBLINGS:
        return
    for name in names:
        overlay = os.path.join(directory, name)
        below = backing_of(overlay)
        with suppress(OSError):
            if below is not None and os.path.samestat(os.stat(below), mine):
                yield overlay


# Making files.


def file_error(doing: str, path: str, error: OSError, *, needs: int | None = None) -> VirtuosoError:
    """The error for a file that could not be made or read.

    Args:
        doing: what failed, after "Could not".
        path: of the file.
        error: what the system said.
        needs: the bytes that are needed, where that is known.
    """
    directory, why = os.path.dirname(path), os.strerror(error.errno or 0).lower()
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        free = free_space(directory)
        told = "" if free is None else f": {format_size(free)} free"
        told += "" if needs is None else f", {format_size(needs)} needed"
        return NoSpaceError(
            f"Could not {doing}: there is no space left in {directory}{told}.",
            hint=f"Make room, or choose another place. See: df -h {shlex.quote(directory)}",
        )
    if error.errno == errno.EEXIST:
        return exists_error(path)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return ImageError(
            f"Could not {doing}: {why}.",
            hint=f"Choose a place that you may write, or look: ls -ld {shlex.quote(directory)}",
        )
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return ImageNotFoundError(f"Could not {doing}: {why}.")
    return ImageError(f"Could not {doing}: {why}.")


def exists_error(path: str) -> ImageExistsError:
    """The error for a path where nothing may be."""
    return ImageExistsError(
        f"There is something at {path} already; it was not touched.", hint="Choose another path, or delete that first."
    )


def free_space(directory: str) -> int | None:
    """The bytes that this user may still write there; None where that is not told."""
    try:
        found = os.statvfs(directory)
    except OSError:
        return None
    return found.f_bavail * found.f_frsize


def check_directory(path: str) -> None:
    """Raise where no file can be made at the path: its directory is not there, or this user may not write in it."""
    directory = os.path.dirname(path)
    try:
        mode = os.stat(directory).st_mode
    except OSError as error:
        raise ImageNotFoundError(
            f"There is no directory {directory}: {os.strerror(error.errno or 0).lower()}.",
            hint=f"Make it: mkdir -p {shlex.quote(directory)}",
        ) from error
    if not stat.S_ISDIR(mode):
        raise ImageNotFoundError(f"{directory} is not a directory: nothing can be made in it.")
    if not os.access(directory, os.W_OK | os.X_OK):
        raise ImageError(
            f"Nothing can be made in {directory}: you may not write there.",
            hint=f"Choose another directory, or look: ls -ld {shlex.quote(directory)}",
        )


def partial(path: str) -> str:
    """A name beside the path for what is not complete yet."""
    # the path's own name may be as long as a name can be
    name = os.path.basename(path).encode()[:200].decode(errors="ignore")
    return os.path.join(os.path.dirname(path), f".{name}.{os.urandom(4).hex()}.part")


def publish(part: str, path: str) -> None:
    """Give a complete file its name. Raises ImageExistsError when something is there; that is never touched."""
    doing = f"give {part} the name {path}"
    try:
        with open(part, "rb") as file:
            os.fsync(file.fileno())
        try:
            os.link(part, path)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK, errno.EINVAL):
                raise
            # a file system without links: what is replaced is this empty file, which is ours
            os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))
            try:
                os.replace(part, path)
            except BaseException:
                os.unlink(path)
                raise
        else:
            os.unlink(part)
    except OSError as error:
        raise file_error(doing, path, error) from error


def copy_file(source: str, target: str, progress: Progress | None) -> None:
    """Copy a file's bytes; holes stay holes. The target must not be there; it is gone again when this fails."""
    doing = f"copy {source} to {target}"
    try:
        with open(source, "rb") as reader:
            size = os.lseek(reader.fileno(), 0, os.SEEK_END)  # of a block device too
            reader.seek(0)
            taken = min(size, os.fstat(reader.fileno()).st_blocks * 512) if not is_block_device(source) else 0
            free = free_space(os.path.dirname(target))
            if free is not None and taken > free:
                raise file_error(doing, target, OSError(errno.ENOSPC, ""), needs=taken)
            with new_file(target) as writer:
                _pump(reader, writer, size, progress)
    except OSError as error:
        raise file_error(doing, target, error) from error


def _pump(reader: IO[bytes], writer: IO[bytes], size: int, progress: Progress | None) -> None:
    done = 0
    while chunk := reader.read(_CHUNK):
        if chunk.count(0) == len(chunk):
            writer.seek(len(chunk), os.SEEK_CUR)
        else:
            writer.write(chunk)
        done += len(chunk)
        if progress is not None:
            progress(done, max(size, done))
    writer.truncate(done)


@contextmanager
def new_file(path: str, mode: int = 0o666) -> Iterator[IO[bytes]]:
    """A file that was not there, written to the disk at the end; when the block fails it is gone again.

    Raises OSError.
    """
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    try:
        with open(made, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        with suppress(OSError):
            os.unlink(path)
        raise


def _nearest(path: str) -> str:
    import difflib

    try:
        names = os.listdir(os.path.dirname(path) or ".")
    except OSError:
        return ""
    # by the stems: the same ending alone makes no likeness
    stems = {os.path.splitext(name)[0]: name for name in names}
    near = difflib.get_close_matches(os.path.splitext(os.path.basename(path))[0], stems, n=1)
    return f"Did you mean {os.path.join(os.path.dirname(path), stems[near[0]])}?" if near else ""
