"""VolumeStorage: disk images on a remote libvirt host, by storage volumes. Pools are found, or made for the while."""

from __future__ import annotations

import contextlib
import errno
import functools
import hashlib
import os
import posixpath
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import IO, TYPE_CHECKING, Any, ParamSpec, TypeVar

from .. import images
from ..errors import (
    ConnectionLostError,
    HypervisorError,
    ImageError,
    ImageExistsError,
    ImageFormatError,
    ImageNotFoundError,
    InvalidStateError,
    InvalidValueError,
    NoSpaceError,
    UnsupportedError,
    VirtuosoError,
)
from ..facts import DiskInfo, Progress
from ..spec import format_size
from ..storage import Storage
from ..waiting import Wait
from ..xml import Document
from .binding import libvirt
from .errors import is_code

if TYPE_CHECKING:
    from .hypervisor import LibvirtHypervisor

Given = ParamSpec("Given")
Result = TypeVar("Result")

FORMATS = ("qcow2", "raw", "vmdk", "vdi", "vpc", "qed")
"""What libvirt's pools of directories make, the best first."""

_CHUNK = 1024 * 1024
_PATIENCE = 60.0
"""Seconds that a pool is given to finish what others do in it."""
_TRIES = 20
_SIBLINGS = 200
"""How many volumes of a pool are asked what they are based on; each takes a call."""


_NOT_THERE = ("/dev", "/proc", "/sys")
"""Where no pool is made: libvirt would open all that is there."""


def _again(act: Callable[Given, Result]) -> Callable[Given, Result]:
    """Let an act begin anew when another program ended the pool that both used."""

    @functools.wraps(act)
    def tried(*args: Given.args, **named: Given.kwargs) -> Result:
        for _ in range(_TRIES):
            try:
                return act(*args, **named)
            except (HypervisorError, InvalidStateError) as error:
                if not is_code(error, "NO_STORAGE_POOL", "OPERATION_INVALID"):
                    raise
                args[0]._forget()  # type: ignore[attr-defined]
                time.sleep(random.uniform(0.01, 0.1))
        return act(*args, **named)

    return tried


class VolumeStorage(Storage):
    """Files of another machine, through libvirt. A directory's pool is used, or made and ended with the last act.

    Args:
        formats: the formats that the hypervisor takes, the best first.
    """

    def __init__(self, hypervisor: LibvirtHypervisor, formats: Iterable[str] = FORMATS) -> None:
        self._hypervisor = hypervisor
        self.formats = tuple(name for name in FORMATS if name in set(formats))
        self.overlay_formats = tuple(name for name in self.formats if name == "qcow2")
        self._lock = threading.RLock()
        self._pools: dict[str, _Pool] = {}
        self._blocks = 0

    def __enter__(self) -> VolumeStorage:
        with self._lock:
            self._blocks += 1
        return self

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._blocks -= 1
        self._release()

    # Looking.

    @_again
    def exists(self, path: str) -> bool:
        """Whether the pool lists it, once refreshed."""
        with self._pool(path) as pool:
            return pool is not None and self._find(pool, path) is not None

    @_again
    def info(self, path: str) -> DiskInfo:
        """From the volume's XML."""
        with self._volume(path) as volume:
            return self._describe(volume, path)

    def backing(self, path: str) -> str | None:
        """From the volume's XML."""
        try:
            return self.info(path).backing
        except (ImageError, HypervisorError, UnsupportedError, InvalidValueError):
            return None

    def overlays(self, path: str) -> Iterable[str]:
        """The pool's volumes that are based on it."""
        with self._pool(path) as pool:
            if pool is None:
                return
            names = self._call("list disk images", pool.listVolumes)
            if len(names) > _SIBLINGS:
                return
            for name in names:
                try:
                    volume = self._call("look at a disk image", pool.storageVolLookupByName, name)
                    found = self._describe(volume, "")
                except (HypervisorError, ImageError):
                    continue  # deleted while we looked
                if found.backing is not None and posixpath.normpath(found.backing) == posixpath.normpath(path):
                    yield found.path

    # Making.

    @_again
    def create(self, path: str, size: int, format: str, backing: DiskInfo | None) -> None:
        """A volume that takes no more than it needs."""
        with self._directory(path) as pool:
            self._create(pool, f"make the disk image {path}", path, size, format, backing)

    @_again
    def resize(self, path: str, size: int) -> None:
        """By the pool."""
        with self._volume(path) as volume:
            now = self._describe(volume, path)
            flags = libvirt().VIR_STORAGE_VOL_RESIZE_SHRINK if size < now.size else 0
            self._call(f"resize {path}", volume.resize, size, flags)

    @_again
    def delete(self, path: str) -> None:
        """Delete the file; one that is already gone stays so."""
        with self._pool(path) as pool:
            volume = None if pool is None else self._find(pool, path)
            if volume is not None:
                self._delete(pool, volume, path)

    @_again
    def write(self, path: str, data: bytes) -> None:
        """A raw volume of mode 0600."""
        with self._directory(path) as pool:
            volume = self._create(pool, f"write {path}", path, len(data), "raw", None)
            with self._undone(pool, volume, path):
                self._send(f"write {path}", volume, iter([data]), len(data), None)

    @_again
    def copy(self, source: str, target: str, progress: Progress | None, *, format: str | None = None) -> None:
        """By the host itself. It does not tell how far it is: what the target takes on its disk does."""
        with self._volume(source) as volume, self._directory(target) as pool:
            found = self._describe(volume, source)
            if format is not None and format != found.format:
                raise ImageFormatError(
                    f"{source} is to be copied as {format!r}; {self._hypervisor.uri} takes it for {found.format!r}.",
                    hint="Its guest may have written what looks like another format.",
                    uri=self._hypervisor.uri,
                )
            xml = _volume_xml(posixpath.basename(target), found.size, found.format, None)
            doing = f"copy {source} to {target}"
            work = _Work(lambda: self._call(doing, pool.createXMLFrom, xml, volume, 0, path=target))
            total = found.allocated or found.size
            try:
                while not work.wait(0.5):
                    if progress is not None:
                        progress(min(total, self._allocated(pool, target)), total)
            except BaseException:
                work.wait(None)  # the host cannot be told to stop: what it makes is deleted when it has ended
                if work.error is None:
                    self.delete(target)
                elif isinstance(work.error, ImageExistsError):
                    raise work.error from None  # what is there is not ours
                raise
            if work.error is not None:
                raise work.error
            if progress is not None:
                progress(total, total)

    @_again
    def upload(self, source: str, target: str, progress: Progress | None) -> None:
        """By a stream, in chunks; holes stay holes."""
        with self._directory(target) as pool, _opened(source) as file:
            size = os.lseek(file.fileno(), 0, os.SEEK_END)
            file.seek(0)
            doing = f"upload {source} to {target}"
            self._check_space(pool, doing, target, size, file)
            volume = self._create(pool, doing, target, size, "raw", None)
            with self._undone(pool, volume, target):
                self._send(doing, volume, iter(lambda: file.read(_CHUNK), b""), size, progress)
            with contextlib.suppress(HypervisorError):  # another program ended the pool: the next one reads it anew
                self._refresh(pool)  # what was sent tells its format

    @_again
    def download(self, source: str, target: str, progress: Progress | None) -> None:
        """By a stream, in chunks; holes stay holes."""
        binding, doing = libvirt(), f"download {source}"
        with self._volume(source) as volume:
            try:
                size = int(self._call(doing, volume.infoFlags, binding.VIR_STORAGE_VOL_GET_PHYSICAL)[2])
                with images.new_file(target) as file, self._stream(doing) as stream:
                    sparse = binding.VIR_STORAGE_VOL_DOWNLOAD_SPARSE_STREAM
                    self._call(doing, volume.download, stream, 0, 0, sparse)
                    done = 0
                    while piece := self._receive(doing, stream):
                        if isinstance(piece, int):
                            file.seek(piece, os.SEEK_CUR)
                        else:
                            file.write(piece)
                        done += piece if isinstance(piece, int) else len(piece)
                        if progress is not None:
                            progress(done, max(size, done))
                    file.truncate(done)
            except OSError as error:
                if isinstance(error, VirtuosoError):
                    raise
                raise images.file_error(doing, target, error) from error

    # Volumes.

    def _describe(self, volume: Any, path: str) -> DiskInfo:
        info = self._call(f"look at {path or 'a disk image'}", volume.info)
        described = Document(self._call(f"look at {path or 'a disk image'}", volume.XMLDesc, 0))
        root = described.root
        kind = root.find("target/format")
        backing = root.findtext("backingStore/path")
        where = path or root.findtext("target/path") or ""
        format = "" if kind is None else kind.get("type", "")
        if format in ("", "unknown"):
            format = "raw"
        # an ISO file is a raw image to every hypervisor
        format = "raw" if format == "iso" else format
        return DiskInfo(where, format, int(info[1]), int(info[2]), backing or None)

    def _allocated(self, pool: Any, path: str) -> int:
        """While it is being made."""
        try:
            return int(pool.storageVolLookupByName(posixpath.basename(path)).info()[2])
        except libvirt().libvirtError:
            return 0

    @contextlib.contextmanager
    def _volume(self, path: str) -> Iterator[Any]:
        with self._pool(path) as pool:
            volume = None if pool is None else self._find(pool, path)
            if volume is None:
                raise ImageNotFoundError(
                    f"There is no disk image {path} on {self._hypervisor.uri}.",
                    hint=self._nearest(pool, path),
                    uri=self._hypervisor.uri,
                )
            yield volume

    def _nearest(self, pool: Any, path: str) -> str:
        import difflib

        directory, name = posixpath.split(path)
        if pool is None:
            return f"There is no directory {directory}."
        near = difflib.get_close_matches(name, self._call("list disk images", pool.listVolumes), n=1)
        return f"Did you mean {posixpath.join(directory, near[0])}?" if near else ""

    def _find(self, pool: Any, path: str) -> Any:
        """The volume, also one that the pool does not know yet; None where there is none."""
        name = posixpath.basename(path)
        try:
            return self._call(f"look at {path}", pool.storageVolLookupByName, name)
        except HypervisorError as error:
            if not is_code(error, "NO_STORAGE_VOL"):
                raise
        self._refresh(pool)
        try:
            return self._call(f"look at {path}", pool.storageVolLookupByName, name)
        except HypervisorError as error:
            if not is_code(error, "NO_STORAGE_VOL"):
                raise
            return None

    def _create(self, pool: Any, doing: str, path: str, size: int, format: str, backing: DiskInfo | None) -> Any:
        if self._find(pool, path) is not None:
            raise images.exists_error(path)
        xml = _volume_xml(posixpath.basename(path), size, format, backing)
        try:
            return self._call(doing, pool.createXML, xml, 0, path=path)
        except HypervisorError as error:
            # qemu-img's failure on the host has no number
            self._refresh(pool)
            if is_code(error, "INTERNAL_ERROR") and int(self._call(doing, pool.info)[3]) < 1024 * 1024:
                raise self._no_space(doing, path) from error
            raise

    def _delete(self, pool: Any, volume: Any, path: str) -> None:
        try:
            self._patiently(pool, "OPERATION_INVALID", lambda: self._call(f"delete {path}", volume.delete, 0))
        except HypervisorError as error:
            if not is_code(error, "NO_STORAGE_VOL"):
                raise

    @contextlib.contextmanager
    def _undone(self, pool: Any, volume: Any, path: str) -> Iterator[None]:
        """The volume is deleted again when the block fails."""
        try:
            yield
        except BaseException as error:
            try:
                self._delete(pool, volume, path)
            except ConnectionLostError:
                pass  # the step undoes it by another connection
            except VirtuosoError as another:
                error.add_note(f"Nor could what was half made be removed: {another}")
            raise

    def _check_space(self, pool: Any, doing: str, path: str, size: int, file: IO[bytes]) -> None:
        status = os.fstat(file.fileno())
        needs = min(size, status.st_blocks * 512) if status.st_blocks else 0
        free = int(self._call(doing, pool.info)[3])
        if needs > free:
            raise self._no_space(doing, path, f": {format_size(free)} free, {format_size(needs)} needed")

    def _no_space(self, doing: str, path: str, numbers: str = "") -> NoSpaceError:
        return NoSpaceError(
            f"Could not {doing}: there is no space left in {posixpath.dirname(path)} on {self._hypervisor.uri}"
            f"{numbers}.",
            hint="Make room there, or choose another place.",
            uri=self._hypervisor.uri,
        )

    # Streams.

    @contextlib.contextmanager
    def _stream(self, doing: str) -> Iterator[Any]:
        stream = self._call(doing, self._hypervisor.connection.native.newStream, 0)
        try:
            yield stream
            self._call(doing, stream.finish)
        except BaseException:
            with contextlib.suppress(libvirt().libvirtError):
                stream.abort()
            raise

    def _send(self, doing: str, volume: Any, chunks: Iterator[bytes], size: int, progress: Progress | None) -> None:
        binding, path = libvirt(), self._call(doing, volume.path)
        try:
            with self._stream(doing) as stream:
                self._call(doing, volume.upload, stream, 0, size, binding.VIR_STORAGE_VOL_UPLOAD_SPARSE_STREAM)
                done, last, tail = 0, 0, b""
                for chunk in chunks:
                    if chunk.count(0) == len(chunk):
                        self._call(doing, stream.sendHole, len(chunk), 0)
                    else:
                        last, tail = done, chunk
                        view = chunk
                        while view:
                            view = view[self._call(doing, stream.send, view) :]
                    done += len(chunk)
                    if progress is not None:
                        progress(done, max(size, done))
            # libvirt writes while it takes more, and does not tell when the last of it could not be written
            if tail and self._fetch(doing, volume, last, len(tail)) != tail:
                raise self._no_space(doing, path)
        except HypervisorError as error:
            if (full := self._full(error, doing, path)) is not None:
                raise full from error
            raise

    def _fetch(self, doing: str, volume: Any, offset: int, length: int) -> bytes:
        with self._stream(doing) as stream:
            self._call(doing, volume.download, stream, offset, length, 0)
            pieces: list[bytes] = []
            while piece := self._call(doing, stream.recv, _CHUNK):
                pieces.append(piece)
            return b"".join(pieces)

    def _receive(self, doing: str, stream: Any) -> bytes | int:
        """The next bytes, or the length of a hole; nothing at the end."""
        binding = libvirt()
        found = self._call(doing, stream.recvFlags, _CHUNK, binding.VIR_STREAM_RECV_STOP_AT_HOLE)
        if isinstance(found, int):
            return int(self._call(doing, stream.recvHole, 0))
        return bytes(found)

    # Pools.

    @contextlib.contextmanager
    def _directory(self, path: str) -> Iterator[Any]:
        """The pool for a file that is made."""
        with self._pool(path) as pool:
            if pool is None:
                directory = posixpath.dirname(path)
                raise ImageNotFoundError(
                    f"There is no directory {directory} on {self._hypervisor.uri}.",
                    hint="Make it there, or choose another place.",
                    uri=self._hypervisor.uri,
                )
            yield pool

    @contextlib.contextmanager
    def _pool(self, path: str) -> Iterator[Any]:
        """The pool of the path's directory; None where there is no such directory."""
        if not path.startswith("/"):
            raise InvalidValueError(
                f"{path!r} is no path on the host of {self._hypervisor.uri}.", hint="Give it from the root: /images/x."
            )
        directory = posixpath.dirname(posixpath.normpath(path))
        with self._lock:
            pool = self._pools.get(directory)
            if pool is None:
                pool = self._acquire(directory)
                if pool is None:
                    found = None
                else:
                    self._pools[directory] = pool
            if pool is not None:
                found = pool.native
                pool.users += 1
        try:
            yield found
        finally:
            if pool is not None:
                with self._lock:
                    pool.users -= 1
                self._release()

    def _release(self) -> None:
        """End the pools that nobody uses any more."""
        with self._lock:
            if self._blocks:
                return
            for directory, pool in list(self._pools.items()):
                if not pool.users:
                    del self._pools[directory]
                    if pool.ours:
                        with contextlib.suppress(VirtuosoError):  # another program uses it: that one ends it
                            self._end(pool.native)

    def _end(self, native: Any) -> None:
        wait = Wait(5, first=0.1, longest=0.1)
        while True:
            try:
                self._call("end a storage pool", native.destroy)
                return
            except (HypervisorError, InvalidStateError):
                if not self._call("end a storage pool", native.isActive) or not wait.pause():
                    return  # another program ended it, or has work in it and will

    def _acquire(self, directory: str) -> _Pool | None:
        """Find the directory's pool, start it, or make one."""
        native, uri = self._hypervisor.connection.native, self._hypervisor.uri
        name = f"virtuoso-{hashlib.sha256(directory.encode()).hexdigest()[:12]}"
        for last in (False, False, True):
            for pool in self._all_pools():
                try:
                    found = Document(self._call("look at a storage pool", pool.XMLDesc, 0)).root
                except HypervisorError:
                    continue  # ended while we looked
                target = found.findtext("target/path")
                if target is None or posixpath.normpath(target) != directory:
                    continue
                mine = found.findtext("name") == name
                if not self._call("look at a storage pool", pool.isActive):
                    if self._start(directory, pool.create, 0) is None:
                        return None
                    mine = True
                return _Pool(pool, mine)
            if f"{directory}/".startswith(tuple(f"{place}/" for place in _NOT_THERE)):
                raise ImageError(f"{directory} on {uri} is in no storage pool, and none is made there.", uri=uri)
            try:
                made = self._start(directory, native.storagePoolCreateXML, _pool_xml(name, directory), 0)
            except (HypervisorError, InvalidStateError):
                if last:
                    raise
                continue  # another program was faster: it is found now
            return None if made is None else _Pool(made, True)
        raise AssertionError("unreachable")

    def _forget(self) -> None:
        """Look for the pools anew."""
        with self._lock:
            self._pools.clear()

    def _all_pools(self) -> list[Any]:
        native = self._hypervisor.connection.native
        found: list[Any] = self._call("list the storage pools", native.listAllStoragePools, 0)
        return found

    def _start(self, directory: str, act: Callable[..., Any], *args: Any) -> Any:
        """What ``act`` gives; None where there is no such directory."""
        try:
            return self._call(f"look into {directory}", act, *args)
        except HypervisorError as error:
            if _number(error) in (errno.ENOENT, errno.ENOTDIR):
                return None
            raise

    def _refresh(self, pool: Any) -> None:
        self._patiently(pool, "INTERNAL_ERROR", lambda: self._call("look for disk images", pool.refresh, 0))

    def _patiently(self, pool: Any, code: str, act: Callable[[], object]) -> None:
        """A pool or volume in which another thing is going on refuses, with that code, for a while."""
        wait = Wait(_PATIENCE, first=0.1, longest=0.1)
        while True:
            try:
                act()
                return
            except (HypervisorError, InvalidStateError) as error:
                if not is_code(error, code) or not self._call("look at a pool", pool.isActive) or not wait.pause():
                    raise

    def _call(self, doing: str, function: Callable[..., Any], *args: Any, path: str = "") -> Any:
        try:
            return self._hypervisor.connection.call(doing, function, *args)
        except ConnectionLostError:
            raise
        except (HypervisorError, InvalidStateError) as error:
            if path and is_code(error, "STORAGE_VOL_EXIST"):
                raise images.exists_error(path) from error
            if path and (full := self._full(error, doing, path)) is not None:
                raise full from error
            raise

    def _full(self, error: VirtuosoError, doing: str, path: str) -> NoSpaceError | None:
        """The error for storage that is full, by libvirt's number or by what the pool has left."""
        if _number(error) in (errno.ENOSPC, errno.EDQUOT):
            return self._no_space(doing, path)
        return None


class _Pool:
    """A pool, how many acts use it, and whether it ends with the last."""

    def __init__(self, native: Any, ours: bool) -> None:
        self.native, self.ours, self.users = native, ours, 0


class _Work:
    """A call in a thread of its own, so that Ctrl-C is heard meanwhile."""

    def __init__(self, act: Callable[[], object]) -> None:
        self.error: BaseException | None = None

        def run() -> None:
            try:
                act()
            except BaseException as error:
                self.error = error

        self._thread = threading.Thread(target=run, name="virtuoso-copy", daemon=True)
        self._thread.start()

    def wait(self, seconds: float | None) -> bool:
        """Whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()


def _number(error: VirtuosoError) -> int | None:
    """The host's own errno behind a libvirtError, where it has one."""
    cause = error.__cause__
    if not is_code(error, "SYSTEM_ERROR") or cause is None:
        return None
    found = cause.get_int1()  # type: ignore[attr-defined]
    return found if isinstance(found, int) and found > 0 else None


@contextlib.contextmanager
def _opened(path: str) -> Iterator[IO[bytes]]:
    try:
        file = open(path, "rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise images.file_error(f"read {path}", path, error) from error
    with file:
        yield file


def _pool_xml(name: str, directory: str) -> str:
    document = Document("<pool type='dir'/>")
    document.set_text(document.ensure(document.root, ("name",)), name)
    document.set_text(document.ensure(document.root, ("target", "path")), directory)
    return document.text


def _volume_xml(name: str, size: int, format: str, backing: DiskInfo | None) -> str:
    document = Document("<volume type='file'><allocation>0</allocation></volume>")
    document.set_text(document.ensure(document.root, ("name",)), name)
    capacity = document.add(document.root, "capacity", unit="bytes")
    document.set_text(capacity, str(size))
    target = document.add(document.root, "target")
    document.add(target, "format", type=format)
    if format == "qcow2":
        document.set_text(document.add(target, "compat"), "1.1")
    mode = document.ensure(target, ("permissions", "mode"))
    document.set_text(mode, "0600")
    if backing is not None:
        below = document.add(document.root, "backingStore")
        document.set_text(document.add(below, "path"), backing.path)
        document.add(below, "format", type=backing.format)
    return document.text
