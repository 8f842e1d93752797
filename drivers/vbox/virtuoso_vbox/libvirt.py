"""VirtualBox through libvirt, whose driver opens versions up to 7.0 and cannot change a machine: it is replaced."""

from __future__ import annotations

from collections.abc import Callable
from types import MappingProxyType
from typing import Any, ClassVar, Self

from virtuoso_core import URI, Hypervisor
from virtuoso_core.errors import ConnectError, HypervisorError, InvalidStateError, VirtuosoError, VMNotFoundError
from virtuoso_core.hypervisor import Credentials
from virtuoso_core.libvirt_base import LibvirtHypervisor, LibvirtVM, Wiring, XmlOption
from virtuoso_core.libvirt_base.connection import Connection
from virtuoso_core.libvirt_base.networks import Wirings
from virtuoso_core.libvirt_base.options import BOOT
from virtuoso_core.spec import BASIC, Feature, State, option_table
from virtuoso_core.vm import VM
from virtuoso_core.xml import DomainDocument

OWN_PARAMETERS = ("backend", "vboxmanage")
_TOO_NEW = "libvirt opens VirtualBox up to 7.0 only. For others leave out backend=libvirt, so that VBoxManage is used."


def _write_headless(document: DomainDocument, value: bool | None) -> None:
    for screen in document.graphics:
        screen.remove()
    document.add_device("graphics", type="rdp" if value else "desktop")


class LibvirtVBoxVM(LibvirtVM):
    """A machine that is changed by being removed and made again, from its whole definition."""

    def _call(self, doing: str, function: Callable[..., Any], *args: Any) -> Any:
        """For a VM that is gone, libvirt's driver has no code: look."""
        try:
            return super()._call(doing, function, *args)
        except HypervisorError as error:
            if self._domain is None or any(vm.uuid == self._uuid for vm in self._hypervisor._list_vms()):
                raise
            raise VMNotFoundError(
                f"Could not {doing} the VM {self._known_name!r}: it does not exist on {self._hypervisor.uri}.",
                **self._where,
            ) from error.__cause__

    def _define(self, document: DomainDocument, *, validate: bool) -> Any:
        if self._domain is None:
            return super()._define(document, validate=validate)
        self._require_replaceable()
        old = DomainDocument(self._call("read", self._domain.XMLDesc, 0))
        self._call("take away", self._domain.undefine)
        try:
            return super()._define(document, validate=validate)
        except VirtuosoError as error:
            try:
                self._domain = super()._define(old, validate=False)
            except VirtuosoError:
                error.add_note(f"Nor could the VM be made again as it was, which is:\n{old.text}")
            raise

    def _require_replaceable(self) -> None:
        problem = ""
        if self._call("look for snapshots of", self._domain.snapshotNum, 0):
            problem, hint = "has snapshots, which would be lost", "Delete them first, or use VBoxManage."
        elif self._get_state() not in (State.STOPPED, State.CRASHED):
            problem, hint = "is not off", "Stop it first."
        if problem:
            raise InvalidStateError(
                f"The VM {self._known_name!r} {problem}: libvirt can only replace it. Nothing was changed.",
                hint=hint,
                **self._where,
            )


class LibvirtVBoxHypervisor(LibvirtHypervisor):
    """VirtualBox up to 7.0 behind libvirt's daemon."""

    name = "vbox"
    schemes = ("vbox",)
    features = BASIC - {Feature.RENAME, Feature.ADDRESSES}
    mac_prefix = "08:00:27"
    vm_class = LibvirtVBoxVM
    daemon = "virtvboxd"
    daemon_packages = ("libvirt-daemon libvirt-daemon-driver-vbox", "libvirt-daemon-driver-vbox")
    managed_save = False
    undefine_flags = ("SNAPSHOTS_METADATA",)
    options = option_table(
        XmlOption(
            "headless",
            "bool",
            "Started without a window, with a remote screen (RDP) instead.",
            read=lambda document: not any(screen.type in ("desktop", "sdl") for screen in document.graphics),
            write=_write_headless,
        ),
        BOOT,
    )
    wirings: ClassVar[Wirings] = MappingProxyType(
        {
            "nat": (Wiring("Behind the host's address, by VirtualBox itself.", "user"),),
            "bridged": (Wiring("On the host's own network: source is one of its network cards.", "bridge", "bridge"),),
            "host_only": (
                Wiring("The host and its guests among themselves.", "network", "network", default="vboxnet0"),
            ),
            "internal": (Wiring("Guests among themselves, without the host.", "internal", "name", default="intnet"),),
        }
    )

    @classmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Self:
        """Connect through libvirt, which knows nothing of our own parameters."""
        try:
            connection = Connection(
                uri.without(*OWN_PARAMETERS),
                readonly=readonly,
                credentials=credentials,
                checks=lambda: cls._diagnose_connection(uri),
            )
        except ConnectError as error:
            error.hint = f"{error.hint} {_TOO_NEW}".strip()
            raise
        return cls(uri, connection, readonly=readonly)

    def _version(self) -> str:
        return f"VirtualBox by libvirt: {super()._version()}"

    def _find_vm(self, key: str) -> VM:
        return Hypervisor._find_vm(self, key)  # for a VM that is not there, libvirt's driver has no code
