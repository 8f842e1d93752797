"""VmwareHypervisor: what VMware's servers and its desktop products have in common."""

from __future__ import annotations

import random
from typing import ClassVar

from virtuoso_core.errors import (
    HypervisorError,
    ImageFormatError,
    InvalidStateError,
    InvalidValueError,
    UnsupportedError,
)
from virtuoso_core.libvirt_base import LibvirtHypervisor, LibvirtVM
from virtuoso_core.spec import State, VMSpec
from virtuoso_core.xml import DomainDocument

NO_TOOLS = "It needs VMware Tools (open-vm-tools)."
_MEMORY_STEP = 4096
"""KiB: all of VMware's products count memory in steps of 4 MiB."""


class VmwareVM(LibvirtVM):
    """A machine that is kept beside its first disk, and whose guest is asked to stop by VMware Tools."""

    def _new_document(self, spec: VMSpec) -> DomainDocument:
        if spec.name and spec.disk_image is None:
            problem = f"The VM {spec.name!r} has no disk_image; VMware keeps a machine beside its first disk."
            raise InvalidValueError(problem, hint="Set disk_image to a .vmdk file.", **self._where)
        return super()._new_document(spec)

    def _request_stop(self) -> None:
        try:
            self._ask_guest()
        except HypervisorError as error:
            problem = f"The guest of {self.name!r} cannot be asked to stop: {error.message}"
            hint = f"{NO_TOOLS} stop() without force=False pulls the plug."
            raise UnsupportedError(problem, hint=hint, **self._where) from error

    def _ask_guest(self) -> None:
        super()._request_stop()

    def _require_off(self, why: str) -> None:
        if (state := self._get_state()) is not State.STOPPED:
            problem = f"The VM {self._known_name!r} is {state}: {why}."
            raise InvalidStateError(problem, hint="Stop it first.", **self._where)


class VmwareHypervisor(LibvirtHypervisor):
    """libvirt's drivers for VMware run inside this process, and keep neither events nor saved memory."""

    daemon = ""
    managed_save = False
    probes_images = False
    mac_prefix: ClassVar[str] = "00:50:56"

    def _memory_size(self, kib: int) -> int:
        return -(-kib // _MEMORY_STEP) * _MEMORY_STEP

    def _random_mac(self) -> str:
        """VMware lets people choose 00:50:56:00:00:00 to 00:50:56:3f:ff:ff; all else it gives away itself."""
        return f"{self.mac_prefix}:{random.randrange(0x40):02x}:{random.randrange(256):02x}:{random.randrange(256):02x}"

    def _check_image(self, path: str) -> None:
        if not path.endswith(".vmdk"):
            raise foreign_image(path, "which takes .vmdk files only", f"{path}.vmdk")
        self._check_there(path)

    def _check_disc(self, path: str) -> None:
        if not path.endswith(".iso"):
            problem = f"{path} is no disc for VMware, which takes .iso files only."
            raise ImageFormatError(problem, hint="Give the file a name that ends so.")
        self._check_there(path)

    def _check_there(self, path: str) -> None:
        """Raise ImageNotFoundError where there is no such file."""


def foreign_image(path: str, why: str, other: str) -> ImageFormatError:
    """The error for a disk image of another format, with the line that makes one of VMware's of it."""
    hint = f"Convert it: qemu-img convert -O vmdk '{path}' '{other}'"
    return ImageFormatError(f"{path} is no disk image for VMware, {why}.", hint=hint)
