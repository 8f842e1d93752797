"""Disk images on this machine: do they exist, what is their format, can the hypervisor's user reach them."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import shutil
import stat
import struct
import subprocess
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from .errors import ImageError, ImageFormatError, ImageNotFoundError

_ACL = "system.posix_acl_access"
_ACL_USER, _ACL_GROUP_OBJ, _ACL_GROUP, _ACL_MASK = 0x02, 0x04, 0x08, 0x10
_SEARCH = 1
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
            hint=near or f"Make one: qemu-img create -f qcow2 {shlex.quote(path)} 20G",
        ) from error
    if not stat.S_ISREG(mode) and not stat.S_ISBLK(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "neither a file nor a block device"
        raise ImageNotFoundError(f"{path} is {kind}, not a disk image.", hint="Name the image file itself.")


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
    if shutil.which("qemu-img") is None:
        raise ImageFormatError(
            f"The format of {path} cannot be told: qemu-img is not installed.",
            hint='Install it (apt-get install qemu-utils), or say it: vm.set("disk_format", "qcow2")',
        )
    command = ["qemu-img", "info", "--force-share", "--output=json", path]
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, timeout=60, check=True, stdin=subprocess.DEVNULL
        )
        return str(json.loads(found.stdout)["format"])
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise ImageFormatError(f"The format of {path} cannot be told: {said[0]}", hint="Is it a disk image?") from error
    except (subprocess.TimeoutExpired, ValueError, KeyError) as error:
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
            if not _may_search(place, uid, gids):
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


def _may_search(directory: str, uid: int, gids: Collection[int]) -> bool:
    found = os.stat(directory)
    if found.st_uid == uid:
        return bool(found.st_mode & stat.S_IXUSR)
    entries = _acl(directory)
    if entries is None or not found.st_mode & stat.S_IRWXG:  # Linux skips an ACL whose mask lets nobody through
        if found.st_gid in gids:
            return bool(found.st_mode & stat.S_IXGRP)
        return bool(found.st_mode & stat.S_IXOTH)
    mask = next((bits for tag, bits, _ in entries if tag == _ACL_MASK), 7)
    for tag, bits, who in entries:
        if tag == _ACL_USER and who == uid:
            return bool(bits & mask & _SEARCH)
    groups = [
        bits
        for tag, bits, who in entries
        if (tag == _ACL_GROUP and who in gids) or (tag == _ACL_GROUP_OBJ and found.st_gid in gids)
    ]
    if groups:
        return any(bits & mask & _SEARCH for bits in groups)
    return bool(found.st_mode & stat.S_IXOTH)


def _acl(path: str) -> list[tuple[int, int, int]] | None:
    """The entries (tag, bits, id) of the kernel's own representation, or None where there is no ACL."""
    try:
        raw = os.getxattr(path, _ACL)
    except (OSError, AttributeError):
        return None
    return [struct.unpack_from("<HHI", raw, at) for at in range(4, len(raw) - 7, 8)]


def delete_image(path: str) -> None:
    """Delete the file. Raises ImageError when that fails; one that is already gone stays so."""
    if is_block_device(path):
        raise ImageError(f"{path} is a block device; it was not deleted.", hint="Wipe or remove it by hand.")
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError as error:
        raise ImageError(
            f"The disk image {path} could not be deleted: {os.strerror(error.errno or 0).lower()}.",
            hint=f"Delete it by hand: sudo rm {shlex.quote(path)}",
        ) from error


def _nearest(path: str) -> str:
    import difflib

    try:
        names = os.listdir(os.path.dirname(path) or ".")
    except OSError:
        return ""
    near = difflib.get_close_matches(os.path.basename(path), names, n=1)
    return f"Did you mean {os.path.join(os.path.dirname(path), near[0])}?" if near else ""
