"""Fixtures for tests against real libvirt and QEMU, in private hosts of the labs."""

from __future__ import annotations

import os
import secrets
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.labs.hosts import PrivateHost, TwoHosts, guest_image, missing_reason
from virtuoso_core import VM, Hypervisor, connect

# the user that QEMU runs as must get there: a home directory is often closed to others
os.environ.setdefault("VIRTUOSO_LAB_DIR", f"/var/tmp/virtuoso-labs-{os.getuid()}")  # noqa: S108 - no secret in it

NewVM = Callable[..., VM]


@pytest.fixture(scope="session", autouse=True)
def lab() -> None:
    """Skips where no private host can be made, saying why."""
    reason = missing_reason()
    if reason is not None:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def host(lab: None) -> Iterator[PrivateHost]:
    """A host with libvirtd and the network "default"."""
    with PrivateHost("system") as host:
        host.start_default_network(quick=True)
        yield host


@pytest.fixture(scope="module")
def two() -> Iterator[TwoHosts]:
    """Two hosts that reach each other."""
    reason = TwoHosts.missing_reason()
    if reason is not None:
        pytest.skip(reason)
    with TwoHosts() as two:
        yield two


@pytest.fixture
def hypervisor(host: PrivateHost) -> Iterator[Hypervisor]:
    """A connection to the host, which is left without VMs."""
    with connect(host.uri) as hypervisor:
        yield hypervisor
        for vm in hypervisor.vms():
            vm.destroy(force=True)


@pytest.fixture
def blank_disk(host: PrivateHost) -> Iterator[str]:
    """A disk with nothing on it."""
    path = host.images / f"blank-{secrets.token_hex(4)}.qcow2"
    qemu_img("create", "-f", "qcow2", path, "64M")
    yield str(path)
    path.unlink(missing_ok=True)


@pytest.fixture
def guest_disk(host: PrivateHost) -> Iterator[str]:
    """A disk with the small Linux guest on it."""
    path = host.images / f"guest-{secrets.token_hex(4)}.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", guest_image(), path)
    yield str(path)
    path.unlink(missing_ok=True)


@pytest.fixture
def new_vm(hypervisor: Hypervisor) -> NewVM:
    """Makes VMs of 256 MiB and one processor that are not saved yet."""

    def new(**fields: object) -> VM:
        vm = hypervisor.new_vm()
        vm.name, vm.memory, vm.cpus = f"vm-{secrets.token_hex(4)}", "256 MiB", 1
        for field, value in fields.items():
            setattr(vm, field, value)
        return vm

    return new


class Console:
    """What a guest writes to its serial console, which the host keeps in a file."""

    def __init__(self, host: PrivateHost) -> None:
        name = f"console-{secrets.token_hex(4)}.log"
        self.path_on_host = f"/var/log/libvirt/qemu/{name}"
        self._path: Path = host.logs / "qemu" / name

    @property
    def text(self) -> str:
        """All of it since the last start."""
        return self._path.read_text(errors="replace") if self._path.exists() else ""

    def wait_for(self, word: str, timeout: float = 90) -> str:
        """The line with the word, once it is there."""
        until(lambda: word in self.text, f"{word} on the console", timeout, lambda: self.text[-2000:])
        return next(line for line in self.text.splitlines() if word in line)


@pytest.fixture
def console(host: PrivateHost) -> Console:
    """The serial console of one VM: set("serial_log", console.path_on_host)."""
    return Console(host)


def qemu_img(*words: object) -> None:
    """Run qemu-img."""
    subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True, timeout=60)


def until(
    done: Callable[[], object], what: str, timeout: float = 60, evidence: Callable[[], object] = lambda: ""
) -> None:
    """Wait for something, within bounds; fail with the evidence."""
    end = time.monotonic() + timeout
    while not done():
        if time.monotonic() > end:
            pytest.fail(f"no {what} within {timeout} s; {evidence()}")
        time.sleep(0.05)
