"""EsxHypervisor: VMware's servers, single hosts and those of a vCenter, through libvirt's esx driver."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Self
from xml.sax.saxutils import escape

from virtuoso_core import URI
from virtuoso_core.errors import (
    AuthenticationError,
    ConnectError,
    HypervisorError,
    ImageNotFoundError,
    InvalidURIError,
    InvalidValueError,
    VirtuosoError,
)
from virtuoso_core.facts import Display
from virtuoso_core.hypervisor import Credentials
from virtuoso_core.libvirt_base import LibvirtVM, Wiring, XmlOption
from virtuoso_core.libvirt_base.connection import Connection
from virtuoso_core.libvirt_base.errors import is_code
from virtuoso_core.spec import BASIC, Feature, SaveResult, VMSpec, option_table
from virtuoso_core.xml import DomainDocument

from .base import VmwareHypervisor, VmwareVM
from .probe import auth_file, server_kind

_PARAMETERS = {
    "transport": "https?",
    "no_verify": "[01]",
    "auto_answer": "[01]",
    "proxy": r"((http|socks|socks4|socks4a|socks5)://)?[^:/\s]+(:\d{1,5})?",
}
_SIGN_IN = (
    "Give credentials=(user, password), or put both into libvirt's auth file: ~/.config/libvirt/auth.conf, "
    "the URI's ?authfile=FILE, or the environment's LIBVIRT_AUTH_FILE=FILE."
)
_VCENTER = "vpx://vcenter/DATACENTER/HOST"


def _uri_problems(uri: URI) -> Iterator[tuple[str, str]]:
    """What is wrong and what to do. Over a bad value in the query libvirt (9.0) crashes the whole process."""
    if uri.transport is not None:
        yield f"{uri.scheme} has no transport {uri.transport!r}", "It speaks HTTPS: leave the '+...' out."
    if uri.host is None:
        yield "it names no host", f"Such as {uri.scheme}://host/"
    if uri.scheme == "vpx" and len(uri.path.strip("/").split("/")) < 2:
        yield "vpx needs the way to a host", f"Such as {_VCENTER}, or vpx://vcenter/DATACENTER/CLUSTER/HOST"
    for name, pattern in _PARAMETERS.items():
        if name in uri.query and not re.fullmatch(pattern, uri.query[name]):
            yield f"{uri.query[name]!r} is no value of {name}", f"It matches {pattern}"


class EsxConnection(Connection):
    """Signed in once, libvirt's driver says that it is alive for ever."""

    lost_hint = "Is the host up, and the way to it open?"

    def is_alive(self) -> bool:
        """Whether the host still answers; asked after errors only."""
        try:
            return super().is_alive() and ("proxy" in self.uri.query or bool(server_kind(self.uri)))
        except ConnectError:
            return False


class EsxVM(VmwareVM):
    """A VM of a host, which libvirt cannot redefine: what can change does so by calls of its own."""

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        document, domain = self._document, self._domain
        assert document is not None
        self._require_off("libvirt changes machines that are off")
        self._undo: list[tuple[Callable[[int], Any], int]] = []
        try:
            if "memory" in changed:
                old = document.memory or 0
                self._step(domain.setMaxMemory, spec.memory, old)
                if document.current_memory == old and (self._limit() or 0) < spec.memory:
                    # a limit of all that it had would hold back the rest
                    self._step(domain.setMemory, spec.memory, old)
            if "cpus" in changed:
                self._step(domain.setVcpus, spec.cpus, document.cpus or 1)
        except VirtuosoError:
            self._undo_update()
            raise
        return SaveResult.APPLIED

    def _step(self, function: Callable[[int], Any], new: int, old: int) -> None:
        self._call("change", function, new)
        self._undo.append((function, old))

    def _limit(self) -> int | None:
        return DomainDocument(self._call("read", self._domain.XMLDesc, 0)).current_memory

    def _undo_update(self) -> None:
        while self._undo:
            self._call("put back the settings of", *self._undo.pop())

    def _take_snapshot(self, name: str, description: str) -> None:
        """libvirt puts texts into its request as they are."""
        super()._take_snapshot(escape(name), escape(description))

    def _displays(self) -> Iterator[Display]:
        """A screen listens on the host that runs the machine, where its file names no other address."""
        uri = self._hypervisor.uri
        host = uri.path.rstrip("/").rpartition("/")[2] if uri.scheme == "vpx" else uri.host
        for display in super()._displays():
            yield replace(display, host=host or "") if display.host == "127.0.0.1" else display


class EsxHypervisor(VmwareHypervisor):
    """ESX(i) and GSX hosts, alone or by their vCenter: ``esx://host/``, ``vpx://vcenter/DATACENTER/HOST``."""

    name = "vmware-esx"
    schemes = ("esx", "vpx", "gsx")
    vm_class: ClassVar[type[LibvirtVM]] = EsxVM
    connection_class: ClassVar[type[Connection]] = EsxConnection
    features = BASIC - {Feature.RENAME} | {
        Feature.AUTOSTART,
        Feature.CDROM,
        Feature.DISKS,
        Feature.DISPLAY,
        Feature.SNAPSHOT,
    }
    modifiable = frozenset({"memory", "cpus"})
    undefine_flags = ("SNAPSHOTS_METADATA",)
    address_sources = ("AGENT",)
    agent = "open-vm-tools"
    wirings = MappingProxyType(
        {"bridged": (Wiring("On a port group of the host, which source names.", "bridge", "bridge", "VM Network"),)}
    )
    options = option_table(
        XmlOption(
            "firmware",
            "str",
            "What starts the machine.",
            choices=("bios", "uefi"),
            read=lambda document: "uefi" if document.firmware == "efi" else "bios",
            write=lambda document, value: setattr(document, "firmware", "efi" if value == "uefi" else None),
        ),
    )

    @classmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Self:
        """Connect, after a look of our own at what is there."""
        for problem, hint in _uri_problems(uri):
            raise InvalidURIError(f"The URI {uri} cannot be used: {problem}.", hint=hint, uri=uri)
        seen = "proxy" not in uri.query  # only libvirt knows the way through one
        if seen and (server_kind(uri) == "VirtualCenter") != (uri.scheme == "vpx"):
            other = "a single host: esx://host/" if uri.scheme == "vpx" else f"a vCenter: {_VCENTER}"
            raise ConnectError(f"Cannot connect to {uri}: that is {other}", uri=uri)
        given: Any = credentials or (uri.username, uri.password)  # without any, libvirt would not even ask
        try:
            return super().open(uri, readonly=readonly, credentials=given)
        except ConnectError as error:
            if isinstance(error, AuthenticationError):
                error.hint = _SIGN_IN
            elif seen and is_code(error, "INTERNAL_ERROR"):
                raise _refusal(uri, str(error.__cause__)) from error
            raise

    def _image_path(self, text: str) -> str:
        if not re.fullmatch(r"\[[^\]]+\] ?[^/\s].*", text):
            upload = "Bring it there first, such as with: govc import.vmdk guest.vmdk guest"
            hint = f'{upload}; then: vm.disk_image = "[datastore1] guest/guest.vmdk"'
            raise InvalidValueError(f"{text!r} is not on a datastore of {self.uri}.", hint=hint, uri=self.uri)
        return text

    def _check_there(self, path: str) -> None:
        try:
            self.connection.call(f"look at {path}", self.connection.native.storageVolLookupByPath, path)
        except HypervisorError as error:
            raise ImageNotFoundError(f"{path} is not there: {error.message}", uri=self.uri) from error


def _refusal(uri: URI, said: str) -> AuthenticationError:
    """What it is when the server was there, its certificate trusted, and libvirt's catch-all code all it had to say."""
    path = f", or it knows no {uri.path}" if uri.scheme == "vpx" else ""
    file = auth_file(uri)
    hint = f"{_SIGN_IN} Where {file} knows the host, it is believed before credentials=." if file else _SIGN_IN
    return AuthenticationError(
        f"{uri} refused the sign-in{path}: {said.splitlines()[0].rstrip('.')}.", hint=hint, uri=uri
    )
