"""VBoxHypervisor: the one face of VirtualBox, which chooses the way in."""

from __future__ import annotations

from collections.abc import Iterable

from virtuoso_core import URI, Hypervisor
from virtuoso_core.diagnosis import Check
from virtuoso_core.errors import ConnectError, DriverError, InvalidURIError
from virtuoso_core.hypervisor import Credentials

from .manage import LOAD_DRIVER, NO_DRIVER, VBoxManageHypervisor
from .runner import find_program

_ADVICE = "Install VirtualBox, or say where it is: vbox:///session?vboxmanage=/path/to/VBoxManage"


def _backend(uri: URI) -> str:
    """Which way in: as asked for; else VBoxManage, which speaks to every VirtualBox, where it can be reached."""
    asked = uri.query.get("backend")
    if asked not in (None, "libvirt", "vboxmanage"):
        raise InvalidURIError(f"{uri} asks for the backend {asked!r}.", hint="There are vboxmanage and libvirt.")
    if asked is not None:
        return asked
    reachable = uri.transport == "ssh" or (uri.is_local and ("vboxmanage" in uri.query or find_program() is not None))
    return "vboxmanage" if reachable else "libvirt"


class VBoxHypervisor(VBoxManageHypervisor):
    """VirtualBox: ``vbox:///session`` and ``vbox+ssh://user@host/session``.

    ``?backend=vboxmanage`` or ``?backend=libvirt`` decides how; ``version`` says what was chosen.
    """

    @classmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Hypervisor:
        """Connect, by VBoxManage where there is one, else through libvirt."""
        if _backend(uri) == "vboxmanage":
            return super().open(uri, readonly=readonly, credentials=credentials)
        try:
            from .libvirt import LibvirtVBoxHypervisor

            return LibvirtVBoxHypervisor.open(uri, readonly=readonly, credentials=credentials)
        except (ConnectError, DriverError, ImportError) as error:
            if "backend" in uri.query or not uri.is_local:
                raise
            message = error.message if isinstance(error, (ConnectError, DriverError)) else f"{error}."
            raise ConnectError(
                f"Cannot connect to {uri}: there is no VBoxManage, and libvirt gives no way either: {message}",
                hint=_ADVICE,
                uri=uri,
            ) from error

    @classmethod
    def _diagnose(cls, uri: URI) -> Iterable[Check]:
        if _backend(uri) == "libvirt":
            yield Check("VBoxManage", "warn", "It was not found, or libvirt was asked for; libvirt is used.", _ADVICE)
            from .libvirt import LibvirtVBoxHypervisor

            yield from LibvirtVBoxHypervisor._diagnose(uri)
        elif uri.is_local:
            program = uri.query.get("vboxmanage") or find_program()
            yield Check("VBoxManage", "ok", f"{program} is used.")
            yield _check_driver()


def _check_driver() -> Check:
    import os

    if not os.path.exists("/proc/version"):
        return Check("Kernel module", "skip", "This is no Linux.")
    if os.path.exists("/dev/vboxdrv"):
        return Check("Kernel module", "ok", "/dev/vboxdrv is there.")
    return Check("Kernel module", "fail", f"{NO_DRIVER}: no machine starts.", LOAD_DRIVER)
