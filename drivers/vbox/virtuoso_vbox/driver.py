"""VBoxHypervisor: the one face of VirtualBox, which chooses the way in."""

from __future__ import annotations

from collections.abc import Iterable

from virtuoso_core import URI, Hypervisor
from virtuoso_core.diagnosis import Check
from virtuoso_core.errors import ConnectError, DriverError, InvalidURIError
from virtuoso_core.hypervisor import Credentials
from virtuoso_core.programs import HostShell

from .manage import VBoxManageHypervisor, check_module
from .runner import ADVICE, find_program


def _backend(uri: URI) -> str:
    """Which way in: as asked for; else VBoxManage, which speaks to every VirtualBox, where it can be reached."""
    asked = uri.query.get("backend")
    if asked not in (None, "libvirt", "vboxmanage"):
        raise InvalidURIError(f"{uri} asks for the backend {asked!r}.", hint="There are vboxmanage and libvirt.")
    reachable = uri.transport == "ssh" or (uri.is_local and ("vboxmanage" in uri.query or find_program() is not None))
    return asked or ("vboxmanage" if reachable else "libvirt")


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
            why = error.message if isinstance(error, (ConnectError, DriverError)) else f"{error}."
            message = f"Cannot connect to {uri}: there is no VBoxManage, and libvirt gives no way either: {why}"
            raise ConnectError(message, hint=ADVICE, uri=uri) from error

    @classmethod
    def _diagnose(cls, uri: URI) -> Iterable[Check]:
        if _backend(uri) == "libvirt":
            yield Check("VBoxManage", "warn", "It was not found, or libvirt was asked for; libvirt is used.", ADVICE)
            from .libvirt import LibvirtVBoxHypervisor

            yield from LibvirtVBoxHypervisor._diagnose(uri)
        elif uri.is_local:
            program = uri.query.get("vboxmanage") or find_program()
            yield Check("VBoxManage", "ok", f"{program} is used.")
            yield check_module(HostShell(uri))
