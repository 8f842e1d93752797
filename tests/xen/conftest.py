"""What the tests on real Xen share: the lab's host, its guests' consoles, VMs that go away afterwards."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, cast

import pytest

from virtuoso_core import VM, Hypervisor, connect
from virtuoso_core.libvirt_base import LibvirtHypervisor

RUN = Path(__file__).resolve().parent.parent / "labs" / "xen" / "run.sh"
KERNEL, INITRD, BOOT_DISK = "/var/lib/lab/vmlinux", "/var/lib/lab/initrd.gz", "/var/lib/lab/boot.img"

# Each call crosses an emulated processor: fewer examples tell enough.
os.environ.setdefault("VIRTUOSO_TEST_EXAMPLES", "5")

NewVM = Callable[..., VM]


def on_host(command: str) -> str:
    """What a command prints on the host, as root."""
    return subprocess.run([RUN, "exec", command], capture_output=True, text=True, errors="replace", timeout=120).stdout


def lab_uri(transport: str) -> str:
    """The URI of the lab's host."""
    return subprocess.run(
        [RUN, "uri", transport], capture_output=True, text=True, check=True, timeout=10
    ).stdout.strip()


class Volumes:
    """Disk images in a storage pool of the host's."""

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._pool = cast(LibvirtHypervisor, hypervisor).connection.native.storagePoolLookupByName("images")
        self._pool.refresh()

    def make(self) -> str:
        """An empty one; its path."""
        name = f"{secrets.token_hex(4)}.img"
        size = "<capacity unit='MiB'>16</capacity><target><format type='raw'/></target>"
        path: str = self._pool.createXML(f"<volume><name>{name}</name>{size}</volume>").path()
        return path

    def find(self, path: str) -> Any:
        """libvirt's object for the image at the path; None when there is none."""
        self._pool.refresh()
        return next((volume for volume in self._pool.listAllVolumes() if volume.path() == path), None)

    def remove(self, path: str) -> None:
        """Delete it, if it is still there."""
        volume = self.find(path)
        if volume is not None:
            volume.delete()


@pytest.fixture
def hypervisor() -> Iterator[Hypervisor]:
    """A connection to the host, which is left without VMs."""
    with connect(os.environ["VIRTUOSO_TEST_URI_XEN"]) as hypervisor:
        yield hypervisor
        for vm in hypervisor.vms():
            vm.destroy(force=True)


@pytest.fixture
def disk(hypervisor: Hypervisor) -> Iterator[str]:
    """A disk with nothing on it."""
    volumes = Volumes(hypervisor)
    path = volumes.make()
    yield path
    volumes.remove(path)


@pytest.fixture
def new_guest(hypervisor: Hypervisor) -> NewVM:
    """Makes VMs that boot the lab's small Linux and are not saved yet."""

    def new(virtualization: str, **fields: object) -> VM:
        vm = hypervisor.new_vm()
        vm.name, vm.memory = f"{virtualization}-{secrets.token_hex(4)}", "128 MiB"
        options: dict[str, object] = {
            "virtualization": virtualization,
            "kernel": KERNEL,
            "initrd": INITRD,
            "cmdline": "console=hvc0",
        }
        for key, value in (options | {"headless": True}).items():
            vm.set(key, value)
        for field, value in fields.items():
            setattr(vm, field, value)
        return vm

    return new


class Shell:
    """The shell that a PV or PVH guest has on its console, through ``vm.console()``."""

    def __init__(self, vm: VM) -> None:
        self._console = vm.console()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._console.close()

    def run(self, command: str, timeout: float = 60) -> str:
        """What a command prints, without the echo of the command itself and the kernel's messages."""
        self._console.write(f"{command}; echo =$((40+2))=\n".encode())
        said = self._console.read_until(b"=42=", timeout).removesuffix(b"=42=")
        lines = said.decode(errors="replace").rpartition("40+2))=")[2].splitlines()
        return "\n".join(line for line in lines if not re.match(r"\[ *\d+\.\d+\]", line)).strip()

    def wait_for(self, command: str, wanted: str, timeout: float = 60) -> None:
        """Run it until it prints that: the guest follows what was done to it a little later."""
        end = time.monotonic() + timeout
        while (said := self.run(command)) != wanted:
            if time.monotonic() > end:
                pytest.fail(f"{command!r} printed {said!r}, not {wanted!r}")
            time.sleep(0.5)


class Console:
    """What a PV or PVH guest wrote on its console, over all its starts: Xen keeps it in a file."""

    def __init__(self, vm: VM) -> None:
        self._path = f"/var/log/xen/console/guest-{vm.name}.log"

    @property
    def text(self) -> str:
        """All of it."""
        return on_host(f"cat {self._path}")

    def wait_for(self, word: str, count: int = 1, timeout: float = 120) -> str:
        """The last line with the word, once it is there that often."""
        end = time.monotonic() + timeout
        while self.text.count(word) < count:
            if time.monotonic() > end:
                pytest.fail(f"no {word} ({count}) within {timeout} s; {self.text[-2000:]}")
            time.sleep(0.5)
        return [line for line in self.text.splitlines() if word in line][-1]
