"""Disk images under a real qemu:///system: found out before the start, named with what to type."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.integration.conftest import NewVM, qemu_img
from tests.labs.hosts import PrivateHost
from virtuoso_core import State
from virtuoso_core.errors import ImageInUseError, ImageNotFoundError, ImageUnreadableError


def test_closed_directory(host: PrivateHost, new_vm: NewVM) -> None:
    """The directory is named with the command that opens it, and the command works."""
    home = host.images / "closed home"
    home.mkdir(mode=0o700)
    disk = home / "disk.qcow2"
    qemu_img("create", "-f", "qcow2", disk, "64M")
    vm = new_vm(disk_image=disk)
    vm.save()
    with pytest.raises(ImageUnreadableError) as caught:
        vm.start()
    assert f"cannot enter {home}" in caught.value.message
    command = caught.value.hint.split("sudo ")[1].split(";")[0]
    assert command.startswith("setfacl")
    if shutil.which("setfacl"):
        subprocess.run(command, shell=True, check=True)  # noqa: S602 - as a person would paste it
    else:
        home.chmod(0o711)
    vm.start()
    assert vm.state is State.RUNNING
    vm.destroy(force=True)
    shutil.rmtree(home)


def test_image_in_use(new_vm: NewVM, blank_disk: str) -> None:
    """By another VM that runs; once that is off it may be used."""
    first, second = new_vm(disk_image=blank_disk), new_vm(disk_image=blank_disk)
    first.save()
    second.save()
    first.start()
    with pytest.raises(ImageInUseError, match=first.name):
        second.start()
    first.stop(timeout=0)
    second.start()
    with pytest.raises(ImageInUseError, match=second.name):
        first.destroy(delete_disk=True)
    assert Path(blank_disk).exists()


def test_image_gone_before_the_start(new_vm: NewVM, blank_disk: str) -> None:
    """Removed after the save."""
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    Path(blank_disk).unlink()
    with pytest.raises(ImageNotFoundError, match=blank_disk):
        vm.start()


def test_missing_image_and_directory(host: PrivateHost, new_vm: NewVM, blank_disk: str) -> None:
    """Found out at save(), with the name that was meant."""
    with pytest.raises(ImageNotFoundError, match=f"Did you mean {blank_disk}"):
        new_vm(disk_image=blank_disk[:-1]).save()
    with pytest.raises(ImageNotFoundError, match="a directory"):
        new_vm(disk_image=host.images).save()


def test_format_is_probed(host: PrivateHost, new_vm: NewVM) -> None:
    """By the contents, whatever the suffix: a raw disk called .qcow2 must not be read as one."""
    for format in ("raw", "qcow2", "vmdk"):
        disk = host.images / "liar.qcow2"
        qemu_img("create", "-f", format, disk, "64M")
        vm = new_vm(disk_image=disk)
        vm.save()
        assert vm.options["disk_format"] == format
        vm.start()
        vm.destroy(force=True)
        disk.unlink()
