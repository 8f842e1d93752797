"""DiskCalls: a VM's further disks, its CD-ROM, and what cloud-init reads."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any

from ..spec import Feature
from .base import VMBase

Path = str | os.PathLike[str]


class DiskCalls(VMBase):
    """The disks beside ``disk_image``."""

    @property
    def disks(self) -> tuple[str, ...]:
        """Every disk image of the VM, the main one first. CD-ROMs are none."""
        current = self._current()
        return (*((current.disk_image,) if current.disk_image else ()), *current.more_disks)

    def add_disk(self, path: Path, size: int | str | None = None) -> str:
        """Give the VM a further disk, at the next ``save()``.

        Args:
            path: the disk image, on the hypervisor's host.
            size: makes the image first, now, with that many bytes or a text such as "20 GiB"; left out, it is there.

        Returns:
            The path as the hypervisor calls it, which ``remove_disk()`` takes.

        Raises:
            ImageExistsError: with a size, and there is something at the path.
            InvalidValueError: the VM has that disk already.
            UnsupportedError
        """
        raise NotImplementedError

    def remove_disk(self, path: Path) -> None:
        """Take a disk away from the VM, at the next ``save()``. The image stays.

        Raises:
            ImageNotFoundError: the VM has no such disk; those it has are listed.
            UnsupportedError
        """
        raise NotImplementedError

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
            InvalidValueError: it would be smaller, and ``shrink`` is False.
            InvalidStateError: the VM runs, and the hypervisor cannot do it then.
            NoSpaceError, UnsupportedError
        """
        raise NotImplementedError

    @property
    def cdrom(self) -> str | None:
        """The image in the CD-ROM drive, on the hypervisor's host; None for none. Written by ``save()``.

        To install from it, let the VM boot from it: ``vm.set("boot", ["cdrom", "hd"])``.
        """
        return self._current().cdrom

    @cdrom.setter
    def cdrom(self, value: Path | None) -> None:
        self._hypervisor._require(Feature.CDROM, "give VMs a CD-ROM")
        raise NotImplementedError

    def cloud_init(
        self,
        user: str | None = None,
        *,
        ssh_key: str | Iterable[str] | None = None,
        password: str | None = None,
        hostname: str | None = None,
        packages: Iterable[str] = (),
        user_data: str | Mapping[str, Any] | None = None,
    ) -> None:
        """Give the guest what cloud-init reads at its first start, at the next ``save()``.

        It is a small disk image beside the VM's own, which only the hypervisor can read; ``destroy()`` deletes it.

        Args:
            user: made in the guest, with sudo; the image's own default user when left out.
            ssh_key: public keys that may sign in: their text, or the path of a .pub file.
            password: of the user; sign-in by password is allowed then.
            hostname: the VM's name when left out.
            packages: to install.
            user_data: a #cloud-config of one's own, as text or as a mapping, or a script that starts with "#!".

        Raises:
            InvalidValueError: a bad user name or key; a VM without a disk.
            UnsupportedError
        """
        raise NotImplementedError
