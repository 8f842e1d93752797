"""Further disks, CD-ROMs and kernels that are started directly, on a real QEMU."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.conftest import Console, NewVM, until
from tests.labs.hosts import PrivateHost, guest_image
from virtuoso_core import VM, Hypervisor, SaveResult
from virtuoso_core.errors import ImageInUseError, ImageNotFoundError, InvalidValueError
from virtuoso_core.xml import DomainDocument

MiB = 1024 * 1024


@pytest.fixture
def disc(host: PrivateHost) -> Iterator[str]:
    """Something for a CD-ROM drive."""
    path = host.images / f"disc-{secrets.token_hex(4)}.iso"
    path.write_bytes(bytes(2 * MiB))
    yield str(path)
    path.unlink(missing_ok=True)


@pytest.fixture
def running(new_vm: NewVM, guest_disk: str, console: Console) -> VM:
    """A VM whose guest is up."""
    vm = new_vm(disk_image=guest_disk)
    vm.set("serial_log", console.path_on_host)
    vm.save()
    vm.start()
    console.wait_for("GUEST-READY")
    return vm


def live(vm: VM) -> DomainDocument:
    """What libvirt says of the VM as it runs."""
    return DomainDocument(vm.native.XMLDesc(0))


def sizes(vm: VM) -> list[int]:
    """How large the guest's virtio disks are, in bytes, by their names."""
    found = vm.run(["sh", "-c", "cat /sys/block/vd*/size"]).text.split()
    return [int(sectors) * 512 for sectors in found]


def test_from_the_start(hypervisor: Hypervisor, new_vm: NewVM, guest_disk: str, host: PrivateHost, disc: str) -> None:
    """A disk that is made on the way, and a disc, which the guest has from the first start on."""
    further = host.images / f"further-{secrets.token_hex(4)}.qcow2"
    vm = new_vm(disk_image=guest_disk)
    vm.add_disk(further, "32 MiB")
    vm.cdrom = disc
    vm.save()
    assert hypervisor.get(vm.name).disks == (guest_disk, str(further))
    vm.start()
    until(lambda: len(sizes_when_up(vm)) == 2, "two disks")
    assert sizes(vm)[1] == 32 * MiB
    document = live(vm)
    assert document.cdrom is not None
    assert (document.cdrom.path, document.cdrom.bus, document.cdrom.readonly) == (disc, "sata", True)
    assert [disk.format for disk in document.disks] == ["qcow2", "qcow2", "raw"]
    vm.destroy(force=True)
    further.unlink()


def sizes_when_up(vm: VM) -> list[int]:
    """The same, empty while the guest boots."""
    from virtuoso_core.errors import GuestAgentError

    try:
        return sizes(vm)
    except GuestAgentError:
        return []


def test_plugged_while_it_runs(running: VM, blank_disk: str) -> None:
    """The guest gets it at once and loses it at once, and the definition says the same."""
    assert len(sizes(running)) == 1
    running.add_disk(blank_disk)
    assert running.save() is SaveResult.APPLIED
    until(lambda: len(sizes(running)) == 2, "second disk in the guest")
    assert sizes(running)[1] == 64 * MiB
    assert running.disks[1:] == (blank_disk,)
    running.remove_disk(blank_disk)
    assert running.save() is SaveResult.APPLIED
    assert len(sizes(running)) == 1
    assert Path(blank_disk).exists()
    assert running.save() is SaveResult.UNCHANGED


def test_what_somebody_else_plugged_in_stays(
    hypervisor: Hypervisor, running: VM, blank_disk: str, host: PrivateHost
) -> None:
    """For this run only, so that the definition does not tell of it: it is neither unplugged nor deleted."""
    theirs = hypervisor.create_disk(host.images / f"theirs-{secrets.token_hex(4)}.qcow2", "32 MiB").path
    device = (
        f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{theirs}'/>"
        "<target dev='vdf' bus='virtio'/></disk>"
    )
    running.native.attachDevice(device)
    running.add_disk(blank_disk)
    assert running.save() is SaveResult.APPLIED
    running.remove_disk(blank_disk)
    assert running.save() is SaveResult.APPLIED
    assert [disk.path for disk in live(running).further_disks] == [theirs]
    with pytest.raises(ImageInUseError, match=f"the running VM '{running.name}' has it open"):
        hypervisor.delete_disk(theirs)
    running.stop(timeout=0)
    hypervisor.delete_disk(theirs)


def test_a_guest_that_does_not_let_go(
    new_vm: NewVM, guest_disk: str, blank_disk: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody in a VM that has just been started hears: the change waits for the next start, and is not lost."""
    from virtuoso_core.libvirt_base import live_disks

    monkeypatch.setattr(live_disks, "_PATIENCE", 1.0)
    vm = new_vm(disk_image=guest_disk)
    vm.add_disk(blank_disk)
    vm.save()
    vm.start()
    vm.pause()
    vm.remove_disk(blank_disk)
    assert vm.save() is SaveResult.NEXT_START
    assert [disk.path for disk in live(vm).further_disks] == [blank_disk]
    vm.stop(timeout=0)
    assert vm.disks == (guest_disk,)
    vm.start()
    assert live(vm).further_disks == []


def test_another_disc_while_it_runs(new_vm: NewVM, guest_disk: str, disc: str, blank_disk: str) -> None:
    """In a drive that is there; a drive itself waits for the next start."""
    vm = new_vm(disk_image=guest_disk)
    vm.save()
    vm.start()
    vm.cdrom = disc
    assert vm.save() is SaveResult.NEXT_START
    vm.stop(timeout=0)
    vm.start()
    for wanted in (None, blank_disk, disc, None):
        vm.cdrom = wanted
        assert vm.save() is SaveResult.APPLIED
        drive = live(vm).cdrom
        assert drive is not None
        assert drive.path == vm.cdrom == wanted


def test_a_missing_disc_is_refused(new_vm: NewVM, guest_disk: str) -> None:
    """When it is saved, not when the VM starts."""
    vm = new_vm(disk_image=guest_disk)
    vm.cdrom = "/nowhere/none.iso"
    with pytest.raises(ImageNotFoundError, match=r"none\.iso"):
        vm.save()


def test_a_kernel_is_started_directly(host: PrivateHost, new_vm: NewVM, console: Console) -> None:
    """With its first file system and its arguments; without a file, it is refused before the start."""
    files = guest_image().parent
    for name in ("vmlinuz", "initrd.img"):
        shutil.copy(files / name, host.images / name)
    vm = new_vm()
    vm.set("kernel", str(host.images / "vmlinuz"))
    vm.set("initrd", str(host.images / "initrd.img"))
    vm.set("cmdline", "console=ttyS0 quiet guest.tick")
    vm.set("serial_log", console.path_on_host)
    vm.save()
    vm.start()
    console.wait_for("GUEST-TICK 1")
    vm.stop(timeout=0)
    (host.images / "initrd.img").unlink()
    with pytest.raises(InvalidValueError, match=r"no initrd .*initrd\.img"):
        vm.start()
    vm.set("initrd", None)
    vm.set("kernel", None)
    vm.save()
    with pytest.raises(InvalidValueError, match="no kernel that could use it"):
        vm.start()
