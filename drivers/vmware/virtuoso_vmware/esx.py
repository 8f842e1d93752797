"""EsxHypervisor: VMware's servers, single hosts and those of a vCenter, through libvirt's esx driver."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from types import MappingProxyType
from typing import Any, ClassVar, Self

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
from virtuoso_core.hypervisor import CredentialRequest, Credentials
from virtuoso_core.libvirt_base import LibvirtVM, Wiring, XmlOption
from virtuoso_core.libvirt_base.connection import Connection
from virtuoso_core.libvirt_base.errors import is_code
from virtuoso_core.spec import Feature, Option, SaveResult, VMSpec, option_table
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


def _check_uri(uri: URI) -> None:
    """libvirt (9.0) crashes the whole process over a bad value in the query: none may reach it."""
    if uri.transport is not None:
        problem, hint = f"{uri.scheme} has no transport {uri.transport!r}", "It speaks HTTPS: leave the '+...' out."
    elif uri.host is None:
        problem, hint = "it names no host", f"Such as {uri.scheme}://host/"
    elif uri.scheme == "vpx" and len(uri.path.strip("/").split("/")) < 2:
        problem = "vpx needs the way to a host"
        hint = "Such as vpx://vcenter/DATACENTER/HOST, or vpx://vcenter/DATACENTER/CLUSTER/HOST"
    else:
        for name, pattern in _PARAMETERS.items():
            if name in uri.query and not re.fullmatch(pattern, uri.query[name]):
                problem, hint = f"{uri.query[name]!r} is no value of {name}", f"It matches {pattern}"
                break
        else:
            return
    raise InvalidURIError(f"The URI {uri} cannot be used: {problem}.", hint=hint, uri=uri)


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

    def _read(self) -> VMSpec:
        spec = super()._read()
        autostart = bool(self._call("read", self._domain.autostart))
        return replace(spec, options=MappingProxyType({**spec.options, "autostart": autostart}))

    def _create(self, spec: VMSpec) -> str:
        uuid = super()._create(spec)
        if spec.options.get("autostart"):
            try:
                self._call("let the host start", self._domain.setAutostart, 1)
            except VirtuosoError:
                self._undefine()
                raise
        return uuid

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        document, domain = self._document, self._domain
        assert document is not None
        self._undo: list[tuple[Callable[[int], Any], int]] = []
        try:
            if "memory" in changed:  # first, for it is the one that a running VM refuses
                old = document.memory or 0
                self._step(domain.setMaxMemory, spec.memory, old)
                if document.current_memory == old and (self._limit() or 0) < spec.memory:
                    # a limit of all that it had would hold back the rest
                    self._step(domain.setMemory, spec.memory, old)
            if "cpus" in changed:
                self._step(domain.setVcpus, spec.cpus, document.cpus or 1)
            if "options.autostart" in changed:
                wanted = int(bool(spec.options.get("autostart")))
                self._step(domain.setAutostart, wanted, 1 - wanted)
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


class EsxHypervisor(VmwareHypervisor):
    """ESX(i) and GSX hosts, alone or by their vCenter: ``esx://host/``, ``vpx://vcenter/DATACENTER/HOST``."""

    name = "vmware-esx"
    schemes = ("esx", "vpx", "gsx")
    vm_class: ClassVar[type[LibvirtVM]] = EsxVM
    connection_class: ClassVar[type[Connection]] = EsxConnection
    features = frozenset(Feature) - {Feature.RENAME}
    modifiable = frozenset({"memory", "cpus", "options.autostart"})
    undefine_flags = ("SNAPSHOTS_METADATA",)
    address_sources = ("AGENT",)
    wirings = MappingProxyType(
        {"bridged": (Wiring("On a port group of the host, which source names.", "bridge", "bridge", "VM Network"),)}
    )
    options = option_table(
        Option("autostart", "bool", "Started together with its host."),
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
        _check_uri(uri)
        if "proxy" not in uri.query:  # only libvirt knows the way through it
            kind = server_kind(uri)
            if (kind == "VirtualCenter") != (uri.scheme == "vpx"):
                way = (
                    "a single host: esx://host/" if uri.scheme == "vpx" else "a vCenter: vpx://vcenter/DATACENTER/HOST"
                )
                raise ConnectError(f"Cannot connect to {uri}: that is {way}", uri=uri)
        asked: list[str] = []

        def answer(request: CredentialRequest) -> str | None:
            asked.append(request.kind)
            if callable(credentials):
                return credentials(request)
            user, password = credentials or (uri.username, uri.password)
            return password if request.kind == "password" else user

        try:
            name = credentials[0] if isinstance(credentials, tuple) else uri.username
            opened = super().open(uri.with_credentials(name, None), readonly=readonly, credentials=answer)
        except AuthenticationError as error:
            error.hint = _SIGN_IN
            raise
        except ConnectError as error:
            raise _sign_in_error(uri, error, answered="password" in asked) or error from error
        opened._uri = uri
        return opened

    def _image_path(self, text: str) -> str:
        if not re.fullmatch(r"\[[^\]]+\] ?[^/\s].*", text):
            raise InvalidValueError(
                f"{text!r} is not on a datastore of {self.uri}.",
                hint="Bring it there first, such as with: govc import.vmdk guest.vmdk guest; "
                'then: vm.disk_image = "[datastore1] guest/guest.vmdk"',
            )
        return text

    def _is_block(self, path: str) -> bool:
        return False

    def _check_image(self, path: str) -> None:
        super()._check_image(path)
        try:
            self.connection.call(f"look at {path}", self.connection.native.storageVolLookupByPath, path)
        except HypervisorError as error:
            raise ImageNotFoundError(f"{path} is not there: {error.message}", uri=self.uri) from error


def _sign_in_error(uri: URI, error: ConnectError, *, answered: bool) -> AuthenticationError | None:
    """What it is when the server was there, its certificate trusted, and libvirt's catch-all code all it had to say."""
    if not is_code(error, "INTERNAL_ERROR") or "proxy" in uri.query:
        return None
    said = str(error.__cause__).splitlines()[0].rstrip(".")
    path = f", or it knows no {uri.path}" if uri.scheme == "vpx" else ""
    hint = _SIGN_IN
    if not answered:
        hint = f"The password came from {auth_file(uri) or 'an auth file'}, which is asked before credentials=."
    return AuthenticationError(f"{uri} refused the sign-in{path}: {said}.", hint=hint, uri=uri)
