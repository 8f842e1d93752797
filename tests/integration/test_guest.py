"""A real Linux guest under QEMU, through the public API."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from PIL import Image

from tests.integration.conftest import Console, NewVM, until
from tests.labs.hosts import PrivateHost
from virtuoso_core import Hypervisor, SaveResult, State
from virtuoso_core.errors import InvalidStateError, StopTimeoutError


def test_whole_life(hypervisor: Hypervisor, new_vm: NewVM, guest_disk: str, console: Console) -> None:
    """Created, booted, given an address, looked at, changed across a restart, stopped by ACPI, removed."""
    vm = new_vm(disk_image=guest_disk)
    card = vm.network("nat")
    vm.set("serial_log", console.path_on_host)
    assert vm.save() is SaveResult.APPLIED

    vm.start()
    first = _memory_inside(console.wait_for("GUEST-READY"))
    until(vm.addresses, "address")
    address = vm.addresses()[0]
    assert (address.mac_address, address.source) == (card.mac_address, "lease")
    assert address.ip in console.wait_for("GUEST-DHCP")
    picture = Image.open(io.BytesIO(vm.screenshot()))
    assert picture.format == "PNG"
    assert len(set(picture.convert("L").tobytes())) > 1, "the screen is blank"

    vm.memory = "384 MiB"
    assert "256 MiB -> 384 MiB" in vm.diff()
    assert vm.save() is SaveResult.NEXT_START
    assert vm.state is State.RUNNING

    vm.stop(force=False, timeout=60)
    assert re.search("GUEST-(ACPI|AGENT)-POWEROFF", console.text)
    vm.start()
    second = _memory_inside(console.wait_for("GUEST-READY"))
    assert second - first == pytest.approx(128 * 1024, rel=0.05)

    vm.destroy(force=True)
    assert hypervisor.vms() == []
    assert Path(guest_disk).exists()


def test_acpi_without_an_agent(hypervisor: Hypervisor, new_vm: NewVM, guest_disk: str, console: Console) -> None:
    """A guest asked while it is still booting is asked again."""
    from virtuoso_core.xml import DomainDocument

    vm = new_vm(disk_image=guest_disk)
    vm.set("serial_log", console.path_on_host)
    vm.save()
    document = DomainDocument(vm.spec)
    for channel in document.root.findall("devices/channel"):
        document.remove(channel)
    vm.native.connect().defineXML(document.text)
    vm.start()
    vm.stop(force=False, timeout=90)
    assert "GUEST-ACPI-POWEROFF" in console.text


def test_plug_is_pulled_without_an_os(new_vm: NewVM, blank_disk: str) -> None:
    """A guest that cannot answer is off after the timeout; without force it stays on and the error says so."""
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    vm.start()
    with pytest.raises(StopTimeoutError, match="it is running"):
        vm.stop(timeout=1, force=False)
    assert vm.state is State.RUNNING
    vm.stop(timeout=1)
    assert vm.state is State.STOPPED


def test_destroy_takes_everything(host: PrivateHost, hypervisor: Hypervisor, new_vm: NewVM, blank_disk: str) -> None:
    """NVRAM, saved memory and snapshots' records go with the VM; its disk stays."""
    vm = new_vm(disk_image=blank_disk)
    vm.set("firmware", "uefi")
    vm.save()
    vm.start()
    vm.native.managedSave()
    assert vm.state is State.SUSPENDED
    assert [line.state for line in hypervisor.summaries()] == [State.SUSPENDED]
    vm.stop()
    kept = host.run(["find", "/var/lib/libvirt/qemu", "-name", f"*{vm.name}*"]).stdout
    assert "nvram" in kept
    assert "save" in kept
    vm.destroy()
    assert host.run(["find", "/var/lib/libvirt/qemu", "/etc/libvirt", "-name", f"*{vm.name}*"]).stdout == ""
    assert Path(blank_disk).exists()


def test_start_resumes_saved_memory(new_vm: NewVM, guest_disk: str, console: Console) -> None:
    """start() of a suspended VM goes on where it was: it does not boot."""
    vm = new_vm(disk_image=guest_disk)
    vm.set("serial_log", console.path_on_host)
    vm.save()
    vm.start()
    console.wait_for("GUEST-READY")
    vm.native.managedSave()
    vm.start()
    assert vm.state is State.RUNNING
    assert "GUEST-READY" not in console.text  # the log starts anew with each QEMU
    vm.stop(timeout=0)


def test_destroy_with_snapshots(new_vm: NewVM, blank_disk: str) -> None:
    """Their records are no obstacle."""
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    vm.native.snapshotCreateXML("<domainsnapshot><name>one</name></domainsnapshot>")
    vm.destroy()


def test_delete_disk(new_vm: NewVM, blank_disk: str) -> None:
    """Only when asked to."""
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    vm.destroy(delete_disk=True)
    assert not Path(blank_disk).exists()


def test_rename_of_a_running_vm(new_vm: NewVM, blank_disk: str) -> None:
    """It is refused before anything else is changed."""
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    vm.start()
    before, name = vm.memory, vm.name
    vm.name, vm.memory = f"{name}-2", before * 2
    with pytest.raises(InvalidStateError, match="Stop it first"):
        vm.save()
    vm.reload()
    assert (vm.name, vm.memory) == (name, before)


def test_boots_by_uefi(new_vm: NewVM, guest_disk: str, console: Console) -> None:
    """set("firmware", "uefi") starts an unsigned system too."""
    vm = new_vm(disk_image=guest_disk)
    vm.set("firmware", "uefi")
    vm.set("serial_log", console.path_on_host)
    vm.save()
    vm.start()
    console.wait_for("GUEST-READY")


def _memory_inside(line: str) -> int:
    found = re.search(r"mem=(\d+)", line)
    assert found, line
    return int(found[1])
