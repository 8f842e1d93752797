"""What goes wrong in the field, each done for real: one readable error that says what, of which VM, and what to do."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from signal import SIGTERM
from typing import Any

import pytest

from tests.integration.conftest import NewVM, qemu_img, until
from tests.labs.hosts import PrivateHost, guest_image
from virtuoso_core import VM, Hypervisor, State, connect
from virtuoso_core.errors import (
    AddressTimeoutError,
    GuestAgentError,
    HypervisorError,
    ImageInUseError,
    ImageUnreadableError,
    MacAddressInUseError,
    NetworkInactiveError,
    NetworkNotFoundError,
    NoSpaceError,
    NotEnoughMemoryError,
    StopTimeoutError,
    VirtuosoError,
    VMExistsError,
)
from virtuoso_core.spec import GiB

ATTEMPT = Path(__file__).with_name("scripts") / "attempt.py"
MAC = "52:54:00:11:22:33"


def attempt(host: PrivateHost, vm: VM, call: str) -> dict[str, str]:
    """Which error a call gives to a program on the host itself, which sees its ports and mounts."""
    done = host.run([sys.executable, str(ATTEMPT), "qemu:///system", vm.name, call], timeout=120)
    assert done.returncode == 0, done.stderr
    found: dict[str, str] = json.loads(done.stdout)
    return found


def redefine(vm: VM, old: str, new: str) -> None:
    """Change a VM's XML as virsh edit would."""
    text = vm.spec
    assert old in text, text
    vm.native.connect().defineXML(text.replace(old, new, 1))
    vm.reload()


def break_command_line(vm: VM) -> None:
    """Give QEMU an option that it does not know."""
    space = "http://libvirt.org/schemas/domain/qemu/1.0"
    option = f"<commandline xmlns='{space}'><arg value='-nonsense'/></commandline>"
    redefine(vm, "</domain>", f"{option}</domain>")


def readable(error: VirtuosoError, vm: VM) -> None:
    """What holds of every error about a VM: it names it and its hypervisor, on one line, without libvirt's frame."""
    assert repr(vm.name) in error.message
    assert (error.vm, error.uri) == (vm.name, str(vm.hypervisor.uri))
    assert "\n" not in error.message
    for frame in ("internal error", "connecting to monitor", "-blockdev", "libvirtError"):
        assert frame not in error.message, error.message


# Disk images.


@pytest.fixture
def strict(lab: None) -> Iterator[PrivateHost]:
    """A host whose libvirt never gives images to the user that runs guests, as where storage does not let it."""
    with PrivateHost("strict") as host:
        with open(host.directory / "etc/libvirt/qemu.conf", "a") as file:
            file.write("dynamic_ownership = 0\n")
        host.kill_libvirtd(SIGTERM)
        host.start_libvirtd()
        yield host


@pytest.mark.parametrize(("mode", "verb"), [(0o600, "read and write"), (0o644, "read and write")])
def test_image_that_the_hypervisors_user_may_not_open(strict: PrivateHost, mode: int, verb: str) -> None:
    disk = strict.images / "closed.qcow2"
    qemu_img("create", "-f", "qcow2", disk, "64M")
    disk.chmod(mode)
    with connect(strict.uri) as hypervisor:
        vm = hypervisor.new_vm()
        vm.name, vm.memory, vm.disk_image = "closed", "128 MiB", disk
        vm.save()
        with pytest.raises(ImageUnreadableError) as caught:
            vm.start()
        readable(caught.value, vm)
        assert f"libvirt-qemu, which may not {verb} {disk}" in caught.value.message
        assert f"setfacl -m u:libvirt-qemu:rw {disk}" in caught.value.hint
        disk.chmod(0o666)
        vm.start()
        assert vm.state is State.RUNNING


def test_image_that_libvirt_lends(new_vm: NewVM, blank_disk: str) -> None:
    """A closed file is no trouble there, and not blamed for another one."""
    Path(blank_disk).chmod(0o600)
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    break_command_line(vm)
    with pytest.raises(HypervisorError, match="invalid option"):
        vm.start()


def test_image_that_another_program_uses(new_vm: NewVM, blank_disk: str) -> None:
    """One that libvirt does not know: QEMU, started by hand."""
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    drive = f"file={blank_disk},if=none,id=a,format=qcow2"
    words = ["qemu-system-x86_64", "-S", "-machine", "none", "-nodefaults", "-display", "none", "-monitor", "stdio"]
    with subprocess.Popen([*words, "-drive", drive], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline()  # its monitor greets when the disk is open
            with pytest.raises(ImageInUseError) as caught:
                vm.start()
        finally:
            other.kill()
    readable(caught.value, vm)
    assert f"another program uses its disk {blank_disk}" in caught.value.message
    assert f"lsof {blank_disk}" in caught.value.hint
    vm.start()
    assert vm.state is State.RUNNING


# Networks and names.


def test_networks(hypervisor: Hypervisor, new_vm: NewVM) -> None:
    vm = new_vm()
    vm.network("nat", source="nowhere")
    vm.save()
    with pytest.raises(NetworkNotFoundError, match="'nowhere'") as missing:
        vm.start()
    readable(missing.value, vm)
    assert "net-list --all" in missing.value.hint
    native = vm.native.connect()
    made = native.networkDefineXML("<network><name>idle</name><bridge name='idle0'/></network>")
    try:
        vm.remove_network(vm.networks[0])
        vm.network("internal", source="idle")
        vm.save()
        with pytest.raises(NetworkInactiveError, match="'idle'") as inactive:
            vm.start()
        readable(inactive.value, vm)
        assert "net-start idle" in inactive.value.hint
    finally:
        made.undefine()


def test_mac_address_of_a_running_vm(hypervisor: Hypervisor, new_vm: NewVM) -> None:
    """Only where both are on one network, and only while the other runs."""
    first, second, apart = new_vm(), new_vm(), new_vm()
    for vm, type in ((first, "nat"), (second, "nat"), (apart, "internal")):
        vm.network(type, mac_address=MAC)
        vm.save()
    first.start()
    with pytest.raises(MacAddressInUseError) as caught:
        second.start()
    readable(caught.value, second)
    for words in (MAC, repr(first.name), "'default'"):
        assert words in caught.value.message
    assert f"remove_network({MAC!r})" in caught.value.hint
    apart.start()
    first.stop(timeout=0)
    second.start()
    assert second.state is State.RUNNING


def test_mac_address_of_a_card_that_was_plugged_in_and_out(hypervisor: Hypervisor, new_vm: NewVM) -> None:
    """What was read of a running VM before does not stop another one for ever."""
    first, second, third = new_vm(), new_vm(), new_vm()
    for vm in (first, second):
        vm.network("nat", mac_address=MAC)
        vm.save()
    third.save()
    first.start()
    third.start()
    with pytest.raises(MacAddressInUseError):
        second.start()
    card = next(line for line in first.spec.split("<interface")[1:])
    first.native.detachDeviceFlags(f"<interface{card.partition('</interface>')[0]}</interface>", 2)
    first.reload()
    first.stop(timeout=0)
    first.start()
    second.start()
    assert second.state is State.RUNNING


def test_name_taken(new_vm: NewVM) -> None:
    vm = new_vm()
    vm.save()
    with pytest.raises(VMExistsError) as caught:
        new_vm(name=vm.name).save()
    assert repr(vm.name) in caught.value.message
    assert vm.uuid in caught.value.message


# Ports, memory, and what nobody thought of.


def test_port_of_the_screen(host: PrivateHost, new_vm: NewVM) -> None:
    vm = new_vm()
    vm.save()
    redefine(vm, 'port="-1" autoport="yes"', 'port="5977" autoport="no"')
    code = "import socket, sys; s = socket.create_server(('127.0.0.1', 5977)); print(flush=True); sys.stdin.read()"
    script = [str(Path(__file__).parents[1] / "labs" / "host.sh"), "exec", host.name, sys.executable, "-c", code]
    with subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        try:
            assert other.stdout is not None
            assert other.stdout.readline()
            found = attempt(host, vm, "start")
        finally:
            assert other.stdin is not None
            other.stdin.close()
            other.wait(20)
    assert found["type"] == "PortInUseError", found
    assert repr(vm.name) in found["message"]
    assert "port 5977" in found["message"]
    assert "VNC" in found["message"]
    assert "autoport" in found["hint"]
    assert attempt(host, vm, "start")["type"] is None


def test_more_memory_than_the_host_has(new_vm: NewVM) -> None:
    with open("/proc/meminfo") as file:
        total = int(next(file).split()[1])
    vm = new_vm()
    vm.memory = (total // GiB * 8 + 8) * GiB
    vm.save()
    with pytest.raises(NotEnoughMemoryError) as caught:
        vm.start()
    readable(caught.value, vm)
    assert f"{vm.memory // GiB} GiB of memory" in caught.value.message
    assert "vm.memory" in caught.value.hint
    vm.memory = "128 MiB"
    vm.save()
    vm.start()


def test_anything_else_is_told_in_qemus_own_words(new_vm: NewVM) -> None:
    vm = new_vm()
    vm.save()
    break_command_line(vm)
    with pytest.raises(HypervisorError) as caught:
        vm.start()
    readable(caught.value, vm)
    assert caught.value.message.endswith(": -nonsense: invalid option.")
    assert f"/var/log/libvirt/qemu/{vm.name}.log" in caught.value.hint
    assert caught.value.code is not None


# A full file system.


@pytest.fixture
def small(host: PrivateHost) -> Iterator[str]:
    """A directory on the host with room for 3 MiB, which a guest's overlay fits in at first."""
    place = str(host.images / "small")
    made = host.run(["sh", "-c", f"mkdir -p {place} && mount -t tmpfs -o size=3m,mode=777 tmpfs {place}"])
    assert made.returncode == 0, made.stderr
    yield place
    host.run(["umount", "-l", place])


def virsh(host: PrivateHost, *words: str) -> str:
    """What virsh on the host prints; empty when it fails."""
    done = host.run(["virsh", "-q", "-c", "qemu:///system", *words])
    return done.stdout if done.returncode == 0 else ""


def agent(host: PrivateHost, vm: VM, execute: str, **arguments: Any) -> str:
    """Ask the guest's agent."""
    return virsh(host, "qemu-agent-command", vm.name, json.dumps({"execute": execute, "arguments": arguments}))


def test_no_space_for_a_guests_disk(host: PrivateHost, hypervisor: Hypervisor, new_vm: NewVM, small: str) -> None:
    """QEMU lets the guest stand still; resuming says why, and works once there is room."""
    disk, vm = f"{small}/disk.qcow2", new_vm()
    overlay = ["qemu-img", "create", "-f", "qcow2", "-F", "qcow2", "-b", guest_image(), disk]
    assert host.run(overlay).returncode == 0
    vm.save()
    other = "<devices>"
    drive = f"<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{disk}'/>"
    redefine(vm, other, f"{other}{drive}<target dev='vda' bus='virtio'/></disk>")
    if "org.qemu.guest_agent.0" not in vm.spec:
        channel = "<channel type='unix'><target type='virtio' name='org.qemu.guest_agent.0'/></channel>"
        redefine(vm, "</devices>", f"{channel}</devices>")
    assert attempt(host, vm, "start")["type"] is None
    until(lambda: agent(host, vm, "guest-ping"), "agent", 90)
    fill = ["-c", "dd if=/dev/urandom of=/dev/vda bs=1M seek=10 count=8 conv=fsync"]
    with hypervisor.events(timeout=30) as events:
        assert agent(host, vm, "guest-exec", path="/bin/sh", arg=fill)
        event = next(events)
    assert (event.vm, event.type, event.detail) == (vm.name, "paused", "input/output error of a disk")
    checks = {check.name: check for check in hypervisor._examine()}
    assert "no space left" in checks[f"VM {vm.name}"].explanation
    assert f"resume {vm.name}" in checks[f"VM {vm.name}"].advice
    found = attempt(host, vm, "resume")
    assert found["type"] == "NoSpaceError", found
    for words in (repr(vm.name), "no space left", disk):
        assert words in found["message"]
    assert "Make room" in found["hint"]
    assert vm.state is State.PAUSED
    assert host.run(["mount", "-o", "remount,size=60m", small]).returncode == 0
    assert attempt(host, vm, "resume")["type"] is None
    assert vm.state is State.RUNNING
    vm.destroy(force=True)


def test_no_space_for_a_definition(host: PrivateHost, hypervisor: Hypervisor, new_vm: NewVM) -> None:
    """Nothing is left of a VM whose definition could not be written."""
    folder, vm = "/etc/libvirt/qemu", new_vm()
    fill = f"mount -t tmpfs -o size=8k,mode=700 tmpfs {folder} && ! head -c 99999 /dev/zero 2>/dev/null >{folder}/fill"
    made = host.run(["sh", "-c", fill])
    try:
        assert made.returncode == 0, made.stderr
        with pytest.raises(NoSpaceError) as caught:
            vm.save()
    finally:
        host.run(["umount", "-l", folder])
    readable(caught.value, vm)
    assert folder in caught.value.message
    assert "Make room" in caught.value.hint
    assert hypervisor.find(vm.name) is None
    vm.save()


def test_no_space_for_a_suspended_vms_memory(host: PrivateHost, new_vm: NewVM) -> None:
    """The VM runs on."""
    folder = "/var/lib/libvirt/qemu/save"
    vm = new_vm()
    vm.save()
    vm.start()
    time.sleep(1)  # so that there is something in its memory
    made = host.run(["sh", "-c", f"mkdir -p {folder} && mount -t tmpfs -o size=64k,mode=777 tmpfs {folder}"])
    assert made.returncode == 0, made.stderr
    try:
        found = attempt(host, vm, "suspend")
    finally:
        host.run(["umount", "-l", folder])
    assert found["type"] == "NoSpaceError", found
    assert repr(vm.name) in found["message"]
    assert folder in found["message"]
    assert vm.state is State.RUNNING


# Removing.


def left_of(host: PrivateHost, name: str) -> list[str]:
    """The files that libvirt has for a VM of that name."""
    found = host.run(["find", "/etc/libvirt/qemu", "/var/lib/libvirt/qemu", "-name", f"*{name}*"])
    return found.stdout.split()


def test_removing_a_uefi_vm(host: PrivateHost, new_vm: NewVM) -> None:
    vm = new_vm()
    vm.set("firmware", "uefi")
    vm.save()
    vm.start()
    vm.stop(timeout=0)
    assert any("nvram" in path for path in left_of(host, vm.name))
    vm.destroy()
    assert left_of(host, vm.name) == []


def test_removing_one_with_snapshots_and_saved_memory(host: PrivateHost, new_vm: NewVM, blank_disk: str) -> None:
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    for name in ("one", "two"):
        vm.native.snapshotCreateXML(f"<domainsnapshot><name>{name}</name></domainsnapshot>")
    vm.start()
    vm.native.managedSave()
    assert vm.state is State.SUSPENDED
    kept = left_of(host, vm.name)
    assert any("snapshot" in path for path in kept)
    assert any("/save/" in path for path in kept)
    vm.destroy()
    # the directory of the snapshots stays, empty
    assert [path for path in left_of(host, vm.name) if "/snapshot/" not in path] == []
    assert host.run(["find", f"/var/lib/libvirt/qemu/snapshot/{vm.name}", "-type", "f"]).stdout == ""
    again = new_vm(name=vm.name)
    again.save()
    again.destroy()


# Guests.


def test_guest_that_ignores_the_power_button(new_vm: NewVM, blank_disk: str) -> None:
    """One that has no system: asked, waited for, then its plug is pulled."""
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    vm.start()
    with pytest.raises(StopTimeoutError) as caught:
        vm.stop(timeout=2, force=False)
    readable(caught.value, vm)
    assert "within 2 s" in caught.value.message
    assert "pulls the plug" in caught.value.hint
    assert vm.state is State.RUNNING
    vm.stop(timeout=1)
    assert vm.state is State.STOPPED


def test_guest_without_an_agent_and_without_an_address(new_vm: NewVM, blank_disk: str) -> None:
    vm = new_vm(disk_image=blank_disk)
    vm.network("nat")
    vm.save()
    vm.start()
    with pytest.raises(GuestAgentError) as silent:
        vm.run(["true"], timeout=5)
    readable(silent.value, vm)
    assert "qemu-guest-agent" in silent.value.hint
    with pytest.raises(AddressTimeoutError) as caught:
        vm.wait_for_address(timeout=2)
    assert repr(vm.name) in caught.value.message
    assert (caught.value.phase, caught.value.elapsed >= 2) == ("address", True)
    assert f"no lease for {vm.networks[0].mac_address}" in caught.value.message
