"""Snapshots and clones of real guests."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Console, NewVM, qemu_img, until
from tests.labs.hosts import PrivateHost
from virtuoso_core import VM, Hypervisor, State, unfinished
from virtuoso_core.errors import (
    HypervisorError,
    ImageInUseError,
    InvalidStateError,
    SnapshotExistsError,
    UnsupportedError,
)
from virtuoso_core.xml import DomainDocument


@pytest.fixture
def guest(new_vm: NewVM, guest_disk: str, console: Console) -> VM:
    """A VM with the small Linux guest, off."""
    vm = new_vm(disk_image=guest_disk)
    vm.set("serial_log", console.path_on_host)
    vm.save()
    return vm


@pytest.fixture
def images(host: PrivateHost) -> Iterator[Path]:
    """The folder of images; what a test made in it is deleted."""
    before = set(host.images.iterdir())
    yield host.images
    for path in set(host.images.iterdir()) - before:
        path.unlink()


def shell(vm: VM, words: str) -> str:
    done = vm.run(["/bin/sh", "-c", words], timeout=60)
    assert done.exit_code == 0, done
    return done.text.strip()


def uptime(vm: VM) -> float:
    return float(shell(vm, "cat /proc/uptime").split()[0])


def state(vm: VM) -> State:
    return vm.state


def start(vm: VM, console: Console) -> None:
    vm.start()
    console.wait_for("GUEST-READY")


def test_a_running_guest_goes_on_where_it_was(guest: VM, console: Console) -> None:
    start(guest, console)
    shell(guest, "echo good > /tmp/state; sleep 1000 >/dev/null 2>&1 & echo $! > /tmp/pid")
    taken = guest.snapshot("works", "before it was broken")
    at = uptime(guest)
    assert (taken.state, taken.current, state(guest)) == (State.RUNNING, True, State.RUNNING)
    shell(guest, "echo bad > /tmp/state; kill $(cat /tmp/pid); sleep 3")
    broken = uptime(guest)
    guest.revert("works")
    assert shell(guest, "cat /tmp/state; kill -0 $(cat /tmp/pid) && echo alive") == "good\nalive"
    assert at - 1 < uptime(guest) < broken
    guest.stop(timeout=0)
    guest.revert("works")
    assert state(guest) is State.RUNNING
    assert shell(guest, "cat /tmp/state") == "good"
    guest.pause()
    assert guest.snapshot("paused").state is State.PAUSED
    guest.resume()
    guest.revert("paused")
    assert state(guest) is State.PAUSED
    guest.resume()
    guest.delete_snapshot("works")
    assert [(each.name, each.parent) for each in guest.snapshots] == [("paused", None)]
    assert shell(guest, "cat /tmp/state") == "good"


def test_disks_of_a_vm_that_is_off(guest: VM, console: Console, images: Path) -> None:
    guest.add_disk(images / "data.qcow2", "16 MiB")
    guest.save()
    start(guest, console)
    shell(guest, "echo good > /dev/vdb; sync")
    guest.stop(timeout=0)
    guest.snapshot("good")
    guest.memory = "320 MiB"
    guest.save()
    start(guest, console)
    shell(guest, "echo bad. > /dev/vdb; sync")
    guest.revert("good")
    assert state(guest) is State.STOPPED
    assert guest.memory == 256 * 1024
    start(guest, console)
    assert shell(guest, "head -c 4 /dev/vdb") == "good"


def test_a_suspended_vm_does_not_go_on_from_memory_that_fits_no_more(guest: VM, console: Console) -> None:
    guest.snapshot("fresh")
    start(guest, console)
    shell(guest, "echo here > /tmp/state")
    guest.suspend()
    with pytest.raises(InvalidStateError, match="suspended"):
        guest.snapshot("suspended")
    guest.revert("fresh")
    assert state(guest) is State.STOPPED
    start(guest, console)
    assert shell(guest, "cat /tmp/state || echo gone") == "gone"


def test_uefi(guest: VM, console: Console, hypervisor: Hypervisor) -> None:
    guest.set("firmware", "uefi")
    guest.save()
    version = guest.native.connect().getLibVersion()
    start(guest, console)
    if version < 9_009_000:
        with pytest.raises(UnsupportedError, match=r"runs with UEFI firmware.*Nothing was changed\.") as caught:
            guest.snapshot("running")
        assert "Stop it first" in caught.value.hint
        assert guest.snapshots == ()
    else:
        guest.snapshot("running")
        guest.revert("running")
        assert state(guest) is State.RUNNING
        guest.delete_snapshot("running")
    guest.stop(timeout=0)
    if not 9_002_000 <= version < 10_010_000:
        guest.snapshot("off")
        guest.revert("off")
        start(guest, console)


def test_raw_disks(guest: VM, images: Path) -> None:
    raw = images / "data.raw"
    qemu_img("create", "-f", "raw", raw, "16M")
    guest.add_disk(raw)
    guest.save()
    if guest.native.connect().getLibVersion() < 9_009_000:
        with pytest.raises(UnsupportedError, match=rf"its disk {raw} is raw.*libvirt 9\.0") as caught:
            guest.snapshot("no")
        assert f"qemu-img convert -O qcow2 {raw}" in caught.value.hint
        assert guest.snapshots == ()
    else:
        guest.snapshot("off")
        guest.revert("off")
        guest.delete_snapshot("off")


def test_snapshots_beside_the_images_that_others_took(guest: VM, images: Path) -> None:
    import libvirt

    if guest.native.connect().getLibVersion() >= 9_009_000:
        pytest.skip("this libvirt can go back to them")
    xml = f"""<domainsnapshot><name>outside</name><disks><disk name='vda' snapshot='external'>
        <source file='{images}/outside.ovl'/></disk></disks></domainsnapshot>"""
    guest.native.snapshotCreateXML(xml, libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY)
    guest.reload()
    before = guest.spec
    with pytest.raises(UnsupportedError, match=r"lies beside its disk images, and libvirt 9\.0 cannot"):
        guest.revert("outside")
    with pytest.raises(UnsupportedError, match="do not mix"):
        guest.snapshot("inside")
    guest.reload()
    assert guest.spec == before


def plug_a_processor(guest: VM) -> None:
    document = DomainDocument(guest.spec)
    document.set_cpus(2)
    document.vcpus_current = 1
    guest.native.connect().defineXML(document.text)
    guest.reload()


def test_after_cpus_were_plugged_in(guest: VM, console: Console) -> None:
    plug_a_processor(guest)
    start(guest, console)
    guest.snapshot("one")
    guest.native.setVcpusFlags(2, 1)
    if guest.native.connect().getLibVersion() < 10_010_000:
        with pytest.raises(UnsupportedError, match="processors were plugged in while it ran"):
            guest.snapshot("two")
    else:
        guest.snapshot("two")
        guest.revert("two")
    guest.revert("one")
    assert state(guest) is State.RUNNING
    assert uptime(guest) > 0


def test_a_revert_that_leaves_the_vm_off_says_so(guest: VM, console: Console) -> None:
    if guest.native.connect().getLibVersion() >= 10_010_000:
        pytest.skip("this libvirt can go back to it")
    plug_a_processor(guest)
    start(guest, console)
    guest.native.setVcpusFlags(2, 1)
    guest.native.snapshotCreateXML("<domainsnapshot><name>two</name></domainsnapshot>", 0)
    with pytest.raises(HypervisorError, match="was running before, and is stopped now") as caught:
        guest.revert("two")
    assert "vm.start()" in caught.value.hint
    start(guest, console)


def test_disks_that_were_plugged_in(guest: VM, console: Console, images: Path) -> None:
    """libvirt 9.0 crashes when such a snapshot is dropped while the VM runs without the disk."""
    data = images / "data.qcow2"
    qemu_img("create", "-f", "qcow2", data, "16M")
    data.chmod(0o666)
    guest.add_disk(data)
    guest.save()
    guest.snapshot("with")
    guest.remove_disk(data)
    guest.save()
    start(guest, console)
    with pytest.raises(InvalidStateError, match="holds the disk vdb"):
        guest.delete_snapshot("with")
    assert [each.name for each in guest.snapshots] == ["with"]
    guest.revert("with")
    assert str(data) in guest.disks
    guest.delete_snapshot("with")
    assert guest.snapshots == ()


def test_a_snapshot_that_another_vm_left_in_the_image(guest: VM, new_vm: NewVM, guest_disk: str) -> None:
    """QEMU would go back to the other one."""
    guest.snapshot("left")
    guest.destroy()
    vm = new_vm(disk_image=guest_disk)
    vm.save()
    with pytest.raises(SnapshotExistsError, match="knows nothing of"):
        vm.snapshot("left")
    vm.snapshot("another")


def digest(path: str | Path) -> str:
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def test_linked_clone(guest: VM, console: Console, guest_disk: str, images: Path, hypervisor: Hypervisor) -> None:
    guest.network("nat")
    guest.add_disk(images / "data.qcow2", "16 MiB")
    guest.save()
    guest.snapshot("inside")
    before = digest(guest_disk)
    twins = [guest.clone(f"{guest.name}-{number}") for number in (2, 3)]
    assert [twin.disk_image for twin in twins] == [f"{images}/{twin.name}.qcow2" for twin in twins]
    assert twins[0].disks[1] == f"{images}/{twins[0].name}-1.qcow2"
    assert twins[0].snapshots == ()
    for twin in twins:
        twin.start()
    for twin in twins:
        shell(twin, f"echo {twin.name} > /dev/vdb; sync")
    assert [shell(twin, "head -1 /dev/vdb") for twin in twins] == [twin.name for twin in twins]
    assert len({shell(twin, "cat /sys/class/net/eth0/address") for twin in twins}) == 2
    twins[0].snapshot("of the twin")
    assert digest(guest_disk) == before
    with pytest.raises(ImageInUseError, match="is the base of a disk of the running VM"):
        guest.start()
    for twin in twins:
        twin.stop(timeout=0)
    with pytest.raises(ImageInUseError, match="based on"):
        guest.start()
    for twin in twins:
        overlays = twin.disks
        twin.destroy()
        for overlay in overlays:
            hypervisor.delete_disk(overlay)
    start(guest, console)


def test_full_clone(guest: VM, images: Path, guest_disk: str, hypervisor: Hypervisor) -> None:
    told: list[tuple[int, int]] = []
    twin = guest.clone(f"{guest.name}-2", linked=False, progress=lambda done, total: told.append((done, total)))
    assert told[-1][0] == told[-1][1] > 0
    assert hypervisor.disk_info(twin.disk_image or "").backing is None
    Path(guest_disk).rename(f"{guest_disk}.away")  # nothing of it is needed
    try:
        twin.start()
        assert uptime(twin) > 0
    finally:
        Path(f"{guest_disk}.away").rename(guest_disk)


def test_clone_with_uefi(guest: VM, console: Console, images: Path) -> None:
    """It boots, with a copy of the firmware's variables where the configuration says where they are."""
    guest.set("firmware", "uefi")
    guest.save()
    document = DomainDocument(guest.spec)
    document.nvram = str(images / "own_VARS.fd")
    guest.native.connect().defineXML(document.text)
    start(guest, console)
    guest.stop(timeout=0)
    twin = guest.clone(f"{guest.name}-2")
    assert digest(images / f"{twin.name}_VARS.fd") == digest(images / "own_VARS.fd")
    twin.start()
    assert uptime(twin) > 0
    twin.destroy(force=True)
    assert not (images / f"{twin.name}_VARS.fd").exists()
    assert (images / "own_VARS.fd").exists()


KILLED = """
import os, signal, sys
from virtuoso_core import connect
connect(sys.argv[1]).get(sys.argv[2]).clone(
    "virtuoso-killed", linked=False, progress=lambda done, total: os.kill(os.getpid(), signal.SIGKILL)
)
"""


def test_a_clone_that_is_killed_is_found_and_cleaned(
    guest: VM, images: Path, hypervisor: Hypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = set(images.iterdir())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    command = [sys.executable, "-c", KILLED, str(hypervisor.uri), guest.name]
    assert subprocess.run(command, timeout=60, check=False, env=dict(os.environ)).returncode == -9
    (left,) = unfinished.unfinished()
    assert left.doing == f"copy the VM '{guest.name}' as 'virtuoso-killed'"
    assert any(str(images) in item for item in left.left)
    assert set(images.iterdir()) > before
    assert hypervisor.find("virtuoso-killed") is None
    left.clean(hypervisor)
    until(lambda: set(images.iterdir()) == before, "clean folder", 10, lambda: set(images.iterdir()) - before)
    assert unfinished.unfinished() == []
    guest.clone("virtuoso-killed").start()
    assert uptime(hypervisor.get("virtuoso-killed")) > 0


AT_WORK = """
import sys
import time
from virtuoso_core import connect
vm = connect(sys.argv[1]).get(sys.argv[2])
print("at work", flush=True)
vm.snapshot("second") if sys.argv[3] == "snapshot" else vm.revert("first")
"""


@pytest.mark.parametrize("doing", ["snapshot", "revert"])
@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT], ids=lambda end: end.name)
def test_interrupted(guest: VM, hypervisor: Hypervisor, console: Console, doing: str, end: signal.Signals) -> None:
    """The guest goes on, and each snapshot that is told of is whole."""
    start(guest, console)
    shell(guest, "echo good > /tmp/state")
    guest.snapshot("first")
    words = [sys.executable, "-c", AT_WORK, str(hypervisor.uri), guest.name, doing]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as program:
        assert program.stdout is not None
        program.stdout.readline()
        time.sleep(0.3)  # it is in the middle; wherever it is, the same must hold
        program.send_signal(end)
        program.wait(60)
    until(lambda: not guest.native.jobInfo()[0], "the end of the host's work", 60)
    guest.wait_until(State.RUNNING, timeout=30)
    assert shell(guest, "cat /tmp/state") == "good"
    known = [snapshot.name for snapshot in guest.snapshots]
    assert known in (["first"], ["first", "second"])
    for name in known:
        guest.revert(name)
        assert shell(guest, "cat /tmp/state") == "good"
        guest.delete_snapshot(name)
    assert guest.snapshots == ()
