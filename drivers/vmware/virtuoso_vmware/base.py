"""VmwareHypervisor: what VMware's servers and its desktop products have in common."""

from __future__ import annotations

import random
from typing import ClassVar

from virtuoso_core.errors import HypervisorError, ImageFormatError, InvalidValueError, UnsupportedError
from virtuoso_core.libvirt_base import LibvirtHypervisor, LibvirtVM
from virtuoso_core.spec import VMSpec
from virtuoso_core.xml import DomainDocument

_MEMORY_STEP = 4096
"""KiB: all of VMware's products count memory in steps of 4 MiB."""


class VmwareVM(LibvirtVM):
    """A machine that is kept beside its first disk, and whose guest is asked to stop by VMware Tools."""

    def _new_document(self, spec: VMSpec) -> DomainDocument:
        if spec.name and spec.disk_image is None:
            raise InvalidValueError(
                f"The VM {spec.name!r} has no disk_image; VMware keeps a machine beside its first disk.",
                hint="Set disk_image to a .vmdk file.",
                vm=spec.name,
            )
        return super()._new_document(spec)

    def _request_stop(self) -> None:
        try:
            self._ask_guest()
        except HypervisorError as error:
            raise UnsupportedError(
                f"The guest of {self.name!r} cannot be asked to stop: {error.message}",
                hint="It needs VMware Tools (open-vm-tools). stop() without force=False pulls the plug.",
                vm=self.name,
                uri=self._hypervisor.uri,
            ) from error

    def _ask_guest(self) -> None:
        super()._request_stop()


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
            raise ImageFormatError(
                f"{path} is no disk image for VMware, which takes .vmdk files only.",
                hint=f"Convert it: qemu-img convert -O vmdk '{path}' '{path}.vmdk'",
            )
