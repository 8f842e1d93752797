"""DiskCalls: a VM's further disks, its CD-ROM, and what cloud-init reads."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ..errors import ImageNotFoundError, InvalidStateError, InvalidValueError
from ..spec import SEED_SUFFIX, Feature, State, VMSpec
from .base import VMBase

if TYPE_CHECKING:
    from ..cloud_init import CloudInit

Path = str | os.PathLike[str]


@dataclass(frozen=True)
class _Seed:
    """A seed that is not written yet."""

    content: CloudInit
    path: str
    """As the draft calls it. Where it really goes depends on the VM's name and disk at the time of the save."""


class DiskCalls(VMBase):
    """The disks beside ``disk_image``."""

    _seed: _Seed | None = None

    @property
    def disks(self) -> tuple[str, ...]:
        """Every disk image of the VM, the main one first. CD-ROMs are none."""
        current = self._current()
        return (*((current.disk_image,) if current.disk_image else ()), *current.more_disks)

    def add_disk(self, path: Path, size: int | str | None = None) -> str:
        """Give the VM a further disk, at the next ``save()``. Of a VM without a disk it is the main one.

        Args:
            path: the disk image, on the hypervisor's host.
            size: makes the image first, now, with that many bytes or a text such as "20 GiB"; left out, it is there.

        Returns:
            The path as the hypervisor calls it, which ``remove_disk()`` takes.

        Raises:
            ImageExistsError: with a size, and there is something at the path.
            InvalidValueError: the VM has that disk already.
            UnsupportedError

        Example:
            >>> from virtuoso_core import connect
            >>> vm = connect("memory:///example").new_vm()
            >>> vm.disk_image = "/images/web.qcow2"
            >>> vm.add_disk("/images/data.qcow2")
            '/images/data.qcow2'
            >>> vm.disks
            ('/images/web.qcow2', '/images/data.qcow2')
        """
        self._hypervisor._require(Feature.DISKS, "give VMs further disks", "Set disk_image: one disk it can have.")
        added = self._image(path, "the path of a disk image")
        if added in self.disks:
            raise InvalidValueError(f"The VM {self._title} has the disk {added} already.", hint="One time is enough.")
        if size is not None:
            added = self._hypervisor.create_disk(path, size).path
        current = self._current()
        if current.disk_image is None:
            self._edit(disk_image=added)
        else:
            self._edit(more_disks=(*current.more_disks, added))
        return added

    def remove_disk(self, path: Path) -> None:
        """Take a disk away from the VM, at the next ``save()``. The image stays.

        Raises:
            ImageNotFoundError: the VM has no such disk; those it has are listed.
            InvalidValueError: it is the main one, and there are others.
            UnsupportedError
        """
        self._hypervisor._require(Feature.DISKS, "take single disks from VMs", "disk_image = None takes the only one.")
        gone = self._image(path, "the path of a disk image")
        current = self._current()
        if gone in current.more_disks:
            self._edit(more_disks=tuple(disk for disk in current.more_disks if disk != gone))
        elif gone != current.disk_image:
            raise ImageNotFoundError(
                f"The VM {self._title} has no disk {gone}.",
                hint=f"It has: {', '.join(self.disks) or 'none'}.",
                **self._where,
            )
        elif current.more_disks:
            raise InvalidValueError(
                f"{gone} is the main disk of the VM {self._title}: without it, {current.more_disks[0]} would be.",
                hint="Set disk_image to another image, or take the other disks away first.",
            )
        else:
            self._edit(disk_image=None)

    def resize_disk(self, path: Path, size: int | str, *, shrink: bool = False) -> int:
        """Make a disk of the VM larger, now; a running guest sees it at once where the hypervisor can.

        Args:
            path: one of ``disks``.
            size: bytes, or a text such as "40 GiB"; "+10 GiB" adds.
            shrink: allow a smaller size, which cuts off what the guest has there. Only of a VM that is off.

        Returns:
            The new size in bytes.

        Raises:
            ImageNotFoundError: the VM has no such disk.
            ImageInUseError: an overlay is based on it.
            InvalidValueError: no size; it would be smaller, and ``shrink`` is False.
            InvalidStateError: the VM runs, and the hypervisor cannot do it then.
            NoSpaceError, UnsupportedError
        """
        self._hypervisor._require(Feature.CREATE_DISK, "resize disk images")
        self._require_saved("has no disk to resize", writing="resize a disk of")
        from .. import storage

        return storage.resize(self, path, size, shrink)

    @property
    def cdrom(self) -> str | None:
        """The image in the CD-ROM drive, on the hypervisor's host; None for none. Written by ``save()``.

        To install from it, let the VM boot from it: ``vm.set("boot", ["cdrom", "hd"])``.

        Raises:
            InvalidValueError: set to what is no path.
            UnsupportedError: set, and this hypervisor's VMs have no CD-ROM.
        """
        return self._current().cdrom

    @cdrom.setter
    def cdrom(self, value: Path | None) -> None:
        self._hypervisor._require(Feature.CDROM, "give VMs a CD-ROM")
        path = None if value is None else self._image(value, "the path of an ISO file")
        if path is not None and path.endswith(SEED_SUFFIX):
            raise InvalidValueError(
                f"{path} has the name of a disc that vm.cloud_init() makes, which is deleted with its VM.",
                hint="Give the file another name.",
            )
        self._edit(cdrom=path)

    def cloud_init(
        self,
        user: str | None = None,
        *,
        ssh_key: Path | Iterable[Path] | None = None,
        password: str | None = None,
        hostname: str | None = None,
        packages: Iterable[str] = (),
        user_data: str | Mapping[str, Any] | None = None,
    ) -> None:
        """Give the guest what cloud-init reads at its next start, written by the next ``save()``.

        It is a small disc image beside the VM's own disk, which only its owner and the hypervisor can read;
        ``destroy()`` deletes it. cloud-init does what it finds in a new one once; so another call, later, adds to
        what the guest has.

        Args:
            user: made in the guest, with sudo; the image's own default user when left out.
            ssh_key: public keys that may sign in: their text, or the path of a .pub file.
            password: of the user; sign-in by password is allowed then. A hash of it is written down.
            hostname: made of the VM's name when left out.
            packages: to install.
            user_data: a #cloud-config of one's own, as text or as a mapping, or a script that starts with "#!".
                Lists in it are added to those that the other arguments make; single values come before theirs.

        Raises:
            InvalidValueError: a bad user name, key, password, host name or package. At ``save()``: a VM without a
                disk that is a file.
            UnsupportedError

        Example:
            >>> from virtuoso_core import connect
            >>> vm = connect("memory:///example").new_vm()
            >>> vm.name, vm.disk_image = "web", "/images/web.qcow2"
            >>> vm.cloud_init(user="me", password="secret", packages=["nginx"], user_data={"timezone": "UTC"})
        """
        from ..cloud_init import CloudInit

        self._hypervisor._require(Feature.CLOUD_INIT, "give guests what cloud-init reads")
        content = CloudInit.make(user, ssh_key, password, hostname, packages, user_data)
        name = f"{os.urandom(4).hex()}{SEED_SUFFIX}"
        self._edit(seed=name)
        self._seed = _Seed(content, name)

    def _image(self, value: object, what: str) -> str:
        """A path as the hypervisor calls it."""
        path = os.fspath(value) if isinstance(value, (str, os.PathLike)) else value
        if not isinstance(path, str) or not path.strip() or not path.isprintable():
            raise InvalidValueError(f"{value!r} is not {what}.", hint="It is on the hypervisor's host.")
        return self._hypervisor._image_path(path)

    @contextmanager
    def _seed_written(self, draft: VMSpec) -> Iterator[VMSpec]:
        """The draft with the seed that it asks for, which is there while the block saves, and stays if it does."""
        seed = self._seed
        if seed is None or draft.seed != seed.path:  # a reload() dropped it
            yield draft
            return
        from .. import storage
        from ..unfinished import undertaking

        old = None if self._new or self._baseline is None else self._baseline.seed
        if old is not None and self._get_state() is State.SUSPENDED:
            raise InvalidStateError(
                f"The VM {self._title} is suspended: its saved memory needs what cloud-init read before, in {old}.",
                hint="Start it and stop it first.",
                **self._where,
            )
        if not draft.name:
            yield draft  # the save says what is wrong
            return
        if old is not None and Feature.SNAPSHOT in self._hypervisor.features and any(True for _ in self._snapshots()):
            raise InvalidStateError(
                f"The VM {self._title} has snapshots: to go back to them takes what cloud-init read before, in {old}.",
                hint="Drop them first: vm.delete_snapshot(name).",
                **self._where,
            )
        path = self._seed_path(draft, seed.path)
        self._edit(seed=path)
        data = seed.content.seed(draft.name)
        try:
            with undertaking(self._hypervisor, f"give the VM {self._title} what cloud-init reads") as step:
                step.file(path)
                with self._hypervisor._storage() as store:
                    store.write(path, data)
                yield self._current()
                step.keep(path)
        except BaseException:
            if self._draft is not None and self._draft.seed == path:
                self._edit(seed=seed.path)  # the edits stay, for another try
            raise
        self._seed = None
        if old is not None:
            storage.delete_seed(self._hypervisor, old, self._uuid)

    def _seed_path(self, draft: VMSpec, name: str) -> str:
        disk = draft.disk_image
        if disk is None or disk.startswith("/dev/") or not disk.startswith(("/", "[")):
            raise InvalidValueError(
                f"The VM {self._title} has no disk image that is a file, beside which what cloud-init reads could be.",
                hint="Set disk_image to one.",
            )
        folder = posixpath.dirname(disk)
        if not folder:  # a datastore's own: "[one] web.vmdk"
            return f"{disk[: disk.index(']') + 1]} {draft.name}-{name}"
        return posixpath.join(folder, f"{draft.name}-{name}")
