"""QmpHypervisor: what plain QEMU can do, as declarations, and the folder that holds its VMs."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self, TypeVar
from urllib.parse import unquote

from platformdirs import user_state_path

from virtuoso_core import URI, VM, ConnectError, Credentials, Feature, Hypervisor, Network, Option
from virtuoso_core.diagnosis import Check, install
from virtuoso_core.errors import HypervisorError, InvalidNetworkError
from virtuoso_core.hypervisor import default_spec
from virtuoso_core.spec import BASIC, option_table

from . import qemu, store
from .vm import QmpVM

T = TypeVar("T")


class QmpHypervisor(Hypervisor):
    """QEMU processes of this user: ``qmp:///session``, or ``qmp:///PATH`` with a folder of one's own."""

    name = "qmp"
    schemes = ("qmp",)
    networks: Mapping[str, str] = MappingProxyType({"nat": "Behind the host's address, by QEMU itself."})
    options = option_table(
        Option("headless", "bool", "No screen to connect to; else VNC listens on vnc.sock in the VM's folder."),
        Option("accel", "str", "KVM or emulation; chosen by what the host can do.", choices=("kvm", "tcg")),
        Option("serial_log", "str", "A file that gets what the guest writes to its serial console.",
               check=os.path.abspath, example="/var/log/serial.log"),
    )  # fmt: skip

    def __init__(self, uri: URI, folder: Path, version: tuple[int, ...], *, readonly: bool = False) -> None:
        super().__init__(uri, readonly=readonly)
        self.folder, self.qemu_version = folder, version
        too_old = {Feature.SCREENSHOT} if version < (7, 1) else set()  # it knew no PNG
        self.features = BASIC - {Feature.ADDRESSES} - too_old

    @classmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Self:
        """Make sure that QEMU is there, and the folder; credentials are not asked for."""
        if not uri.is_local or uri.query or not uri.path.strip("/"):
            raise ConnectError(f"{uri} is no place on this machine.", hint="Take qmp:///session or qmp:///PATH")
        for check in cls._diagnose(uri):
            if check.status == "fail":
                raise ConnectError(check.explanation, hint=check.advice, uri=uri)
        folder = user_state_path("virtuoso-qmp") if uri.path == "/session" else Path(unquote(uri.path))
        try:
            if not readonly:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.listdir(folder)
            return cls(uri, folder.resolve(), qemu.version(), readonly=readonly)
        except (OSError, subprocess.SubprocessError) as error:
            raise ConnectError(f"Cannot open {uri}: {error}.", uri=uri) from error

    @classmethod
    def _diagnose(cls, uri: URI) -> Iterable[Check]:
        if sys.platform != "linux":
            yield Check("system", "fail", "The qmp driver looks at processes as Linux shows them.")
        if missing := [program for program in (qemu.QEMU, "qemu-img") if shutil.which(program) is None]:
            advice = install("qemu-system-x86 qemu-utils", "qemu-system-x86 qemu-img")
            yield Check("QEMU", "fail", f"{' and '.join(missing)} cannot be found.", advice)
        elif not qemu.kvm_is_usable():
            yield Check("KVM", "warn", "VMs are emulated, slowly: this machine, or this user, has no KVM.")

    def _version(self) -> str:
        return f"QEMU {'.'.join(map(str, self.qemu_version))}"

    def _new_vm(self) -> VM:
        return QmpVM(self, defaults=default_spec())

    def _list_vms(self) -> list[QmpVM]:
        saved = self.call("list the VMs", store.load_all, self.folder)
        return [QmpVM(self, name=document["name"], uuid=uuid) for uuid, document in saved.items()]

    def _image_path(self, text: str) -> str:
        return os.path.abspath(text)

    def _memory_size(self, kib: int) -> int:
        return -(-kib // 8) * 8  # QEMU rounds up to 8 KiB

    def _network_defaults(self, network: Network) -> Network:
        if network.source is not None or network.model not in (None, "virtio"):
            raise InvalidNetworkError("Networks here have no source, and the model 'virtio'.", hint="Leave them out.")
        return replace(network, model="virtio")

    # What QmpVM uses.

    def call(self, what: str, function: Callable[..., T], *args: Any) -> T:
        """Do it, and turn its errors into ours: files, processes and QMP are reached through here only."""
        try:
            return function(*args)
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            reason = str(error) or type(error).__name__
            raise HypervisorError(f"Cannot {what} on {self.uri}: {reason}.", uri=self.uri) from error

    @contextmanager
    def locked(self) -> Iterator[None]:
        """One at a time changes anything here, of all threads and programs."""
        with ExitStack() as stack:
            folder = self.call("open the folder", os.open, self.folder, os.O_RDONLY)
            stack.callback(os.close, folder)
            self.call("lock the folder", fcntl.flock, folder, fcntl.LOCK_EX)
            yield
