"""What the conformance suite cannot know: processes, files, other programs, and a guest that boots."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from virtuoso_core import VM, Hypervisor, SaveResult, State, connect
from virtuoso_core.errors import (
    ConnectError,
    HypervisorError,
    ImageNotFoundError,
    InvalidNetworkError,
)
from virtuoso_qmp import qemu
from virtuoso_qmp.driver import QmpHypervisor

GUEST = os.environ.get("VIRTUOSO_QMP_GUEST", "")
"""A bootable image whose guest writes GUEST-READY to its serial console and heeds the power button."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A name that must be quoted everywhere, and too long for the path of a socket."""
    return tmp_path / "a, b" / ("long" * 40)


@pytest.fixture
def hypervisor(folder: Path) -> Iterator[Hypervisor]:
    """Through the plugin, as programs get it; nothing is left behind."""
    with connect(f"qmp://{str(folder).replace(' ', '%20')}") as hypervisor:
        assert isinstance(hypervisor, QmpHypervisor)
        yield hypervisor
        for vm in hypervisor.vms():
            vm.destroy(force=True)
    assert os.listdir(folder) == []
    assert processes(folder) == []


@pytest.fixture
def vm(hypervisor: Hypervisor) -> VM:
    """A small one, saved."""
    return make(hypervisor, "one")


def make(hypervisor: Hypervisor, name: str, disk_image: Path | None = None, **options: object) -> VM:
    vm = hypervisor.new_vm()
    vm.name, vm.memory, vm.disk_image = name, "64 MiB", disk_image
    for key, value in options.items():
        vm.set(key, value)
    vm.save()
    return vm


def processes(folder: Path) -> list[int]:
    """The QEMUs of the folder's VMs, by another way than the driver's."""
    found = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in found.splitlines() if f"{folder}/" in line and qemu.QEMU in line]


def until(done: Callable[[], object], timeout: float = 90) -> None:
    end = time.monotonic() + timeout
    while not done():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.05)


def now(vm: VM) -> State:
    """The live state, which type checkers take for a constant."""
    return vm.state


def program(text: str) -> str:
    """What another program prints."""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    return done.stdout.strip()


@pytest.mark.skipif(not GUEST, reason="VIRTUOSO_QMP_GUEST names no bootable image")
def test_a_guest_boots_and_stops(hypervisor: Hypervisor, tmp_path: Path) -> None:
    """From an overlay whose name says nothing of its format, with a log of its serial console."""
    disk, log = tmp_path / "disk,1.img", tmp_path / "serial,1.log"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", GUEST, disk], check=True)
    vm = make(hypervisor, "guest, really", disk, serial_log=str(log), headless=True)
    vm.memory = "256 MiB"
    vm.network("nat", mac_address="52:54:00:45:67:89")
    assert vm.save() is SaveResult.APPLIED
    vm.start()
    until(lambda: log.exists() and b"GUEST-READY" in log.read_bytes())
    vm.memory = "384 MiB"
    assert vm.save() is SaveResult.NEXT_START
    vm.name = "renamed"
    assert vm.save() is SaveResult.APPLIED
    vm.stop(force=False, timeout=60)
    assert b"GUEST-ACPI-POWEROFF" in log.read_bytes()
    assert now(vm) is State.STOPPED
    vm.destroy(delete_disk=True)
    assert not disk.exists()


def test_vms_outlive_the_program(hypervisor: Hypervisor) -> None:
    """One program starts it, another sees it and pulls its plug."""
    use = f"from virtuoso_core import connect; h = connect({str(hypervisor.uri)!r}); "
    program(use + "vm = h.new_vm(); vm.name = 'left'; vm.save(); vm.start()")
    assert program(use + "print(h.get('left').state)") == "running"
    vm = hypervisor.get("left")
    vm.pause()
    assert program(use + "print(h.summaries()[0].state)") == "paused"
    program(use + "h.get('left').stop(timeout=0)")
    assert now(vm) is State.STOPPED


def test_killed_qemu_is_noticed(vm: VM, folder: Path) -> None:
    """It crashed, and starts again."""
    vm.start()
    (pid,) = processes(folder)
    os.kill(pid, signal.SIGKILL)
    until(lambda: now(vm) is State.CRASHED)
    vm.stop()
    vm.start()
    assert now(vm) is State.RUNNING
    vm.stop(timeout=0)
    assert now(vm) is State.STOPPED


def test_a_hanging_qemu_is_off_in_the_end(vm: VM, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its state is unknown, and no request reaches it; the plug does."""
    vm.start()
    (pid,) = processes(folder)
    os.kill(pid, signal.SIGSTOP)
    monkeypatch.setattr(qemu, "ANSWER", 1)
    monkeypatch.setattr(qemu, "ENDING", 1)
    assert now(vm) is State.UNKNOWN
    with pytest.raises(HypervisorError, match=r"stop\(timeout=0\)"):
        vm.screenshot()
    vm.stop(timeout=0)
    assert now(vm) is State.STOPPED


def test_another_process_is_never_killed(vm: VM, folder: Path) -> None:
    """The number in a left pid file may be another process's by now."""
    with subprocess.Popen(["sleep", "60"]) as stranger:
        (folder / vm.uuid / "pid").write_text(str(stranger.pid))
        assert vm.state is State.CRASHED
        vm.destroy(force=True)
        assert stranger.poll() is None
        stranger.kill()


def test_threads(hypervisor: Hypervisor) -> None:
    """Eight threads with a VM each, and all looking at one."""
    shared = make(hypervisor, "shared")
    shared.start()

    def life(number: int) -> list[State]:
        vm = make(hypervisor, f"vm-{number}")
        vm.start()
        seen = [now(vm), *(now(hypervisor.get("shared")) for _ in range(5))]
        vm.destroy(force=True)
        return seen

    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(life, range(8))) == [[State.RUNNING] * 6] * 8


def test_one_name_for_one_vm(hypervisor: Hypervisor) -> None:
    """However many ask for it at the same time."""

    def ask(_: int) -> bool:
        try:
            make(hypervisor, "wanted")
        except Exception as error:
            return type(error).__name__ != "VMExistsError"
        return True

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(ask, range(8))) == 1


def test_in_a_program_with_an_event_loop(vm: VM) -> None:
    """qemu.qmp has one of its own."""

    async def main() -> State:
        vm.start()
        return now(vm)

    assert asyncio.run(main()) is State.RUNNING


def test_a_guest_cannot_forge_the_format(hypervisor: Hypervisor, tmp_path: Path) -> None:
    """A raw disk that the guest writes a qcow2 header on stays raw: its backing file would be any file of the host."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    vm = make(hypervisor, "raw", disk)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", disk, "1M"], check=True)
    vm.cpus = 2
    vm.save()
    vm.start()
    (drive,) = vm.native("query-block")
    assert drive["inserted"]["drv"] == "raw"


def test_a_disk_has_one_user(hypervisor: Hypervisor, tmp_path: Path) -> None:
    """The second VM does not start, and QEMU's reason is told."""
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 20))
    first, second = make(hypervisor, "first", disk), make(hypervisor, "second", disk)
    first.start()
    with pytest.raises(HypervisorError, match="lock"):
        second.start()
    assert now(second) is State.STOPPED


def test_what_is_refused(vm: VM, tmp_path: Path) -> None:
    """Before anything is touched."""
    with pytest.raises(InvalidNetworkError):
        vm.network("nat", source="br0")
    vm.disk_image = tmp_path / "missing"
    with pytest.raises(ImageNotFoundError, match="missing"):
        vm.save()
    vm.disk_image = tmp_path
    with pytest.raises(ImageNotFoundError, match="directory"):
        vm.save()
    vm.reload()
    assert vm.disk_image is None


@pytest.mark.skipif(qemu.kvm_is_usable(), reason="KVM is usable")
def test_no_kvm(vm: VM) -> None:
    """The VM is emulated, unless it insists."""
    vm.start()
    assert vm.native("query-kvm")["enabled"] is False
    vm.stop(timeout=0)
    vm.set("accel", "kvm")
    vm.save()
    with pytest.raises(HypervisorError, match="wants KVM"):
        vm.start()
    assert now(vm) is State.STOPPED


def test_foreign_keys_survive(vm: VM, folder: Path) -> None:
    """What another version wrote stays; a file that is none is named."""
    file = folder / vm.uuid / "vm.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"later": [1]}))
    vm.memory = "128 MiB"
    vm.save()
    assert json.loads(file.read_text())["later"] == [1]
    whole = file.read_text()
    file.write_text("{")
    with pytest.raises(HypervisorError, match=r"vm\.json is damaged"):
        vm.reload()
    file.write_text(whole)


def test_what_cannot_be_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With words that help; nothing is made by a read-only connection."""
    for uri in ("qmp:///", "qmp://host/x", "qmp+ssh://host/x", "qmp:///x?y=z"):
        with pytest.raises(ConnectError, match="session"):
            connect(uri)
    with pytest.raises(ConnectError):
        connect(f"qmp://{tmp_path}/none", readonly=True)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    connect("qmp:///session").close()
    assert os.listdir(tmp_path) == ["virtuoso-qmp"]
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ConnectError, match="install qemu-system-x86"):
        connect("qmp:///session")
