"""The Xen driver on real Xen, with real guests. tests/labs/xen/README.md says how to start the lab."""

from __future__ import annotations

import os
import re
import secrets
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from tests.xen.conftest import BOOT_DISK, Console, NewVM, Shell, Volumes, lab_uri, on_host
from virtuoso_core import VM, Feature, Hypervisor, SaveResult, State, connect
from virtuoso_core.errors import HypervisorError, InvalidValueError, UnsupportedError
from virtuoso_core.testing import HypervisorSuite
from virtuoso_xen.driver import XenHypervisor

if "VIRTUOSO_TEST_URI_XEN" not in os.environ:
    pytest.skip(
        "needs a Xen host: tests/labs/xen/run.sh start; "
        'export VIRTUOSO_TEST_URI_XEN="$(tests/labs/xen/run.sh uri)"; then run this again',
        allow_module_level=True,
    )


Image = Callable[[str], str]


@pytest.fixture
def image(hypervisor: Hypervisor) -> Iterator[Image]:
    """Paths among the host's images where there is nothing; what is made there is deleted, the last first."""
    made: list[str] = []

    def path(name: str) -> str:
        made.append(f"/var/lib/libvirt/images/{secrets.token_hex(4)}-{name}")
        return made[-1]

    yield path
    for vm in hypervisor.vms():
        vm.destroy(force=True)
    for each in reversed(made):
        hypervisor.delete_disk(each)


class TestXenOnXen(HypervisorSuite):
    hypervisor = XenHypervisor

    @pytest.fixture
    def disk_image(self, disk: str) -> str:
        return disk

    def assert_deleted(self, disk_image: str) -> None:
        with connect(os.environ["VIRTUOSO_TEST_URI_XEN"]) as hypervisor:
            assert Volumes(hypervisor).find(disk_image) is None

    @pytest.fixture
    def further_image(self, connection: Hypervisor) -> Iterator[str]:
        volumes = Volumes(connection)
        path = volumes.make()
        yield path
        volumes.remove(path)

    @pytest.fixture(autouse=True)
    def network(self) -> None:
        """The lab's host does not start its network."""
        on_host("virsh -c xen:///system net-start default")

    @pytest.fixture
    def running(self, request: pytest.FixtureRequest, make: NewVM, disk_image: str, new_guest: NewVM) -> Iterator[VM]:
        """As in the suite; Xen can only ask a guest to reboot that has drivers for Xen."""
        if request.function.__name__ == "test_reboot":
            vm = new_guest("pv")
            vm.save()
            vm.start()
            Console(vm).wait_for("GUEST-READY")
        else:
            vm = make(disk_image=disk_image)
            vm.start()
        yield vm
        vm.destroy(force=True)


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_whole_life(hypervisor: Hypervisor, new_guest: NewVM, disk: str, kind: str) -> None:
    """Booted with disk and network, given an address, changed across a restart, asked to stop, removed."""
    on_host("virsh -c xen:///system net-destroy default")
    vm = new_guest(kind, disk_image=disk)
    card = vm.network("nat")
    assert vm.save() is SaveResult.APPLIED
    vm.autostart = True
    assert on_host("ls /etc/libvirt/libxl/autostart").split() == [f"{vm.name}.xml"]
    console = Console(vm)

    vm.start(start_networks=True)
    ready = console.wait_for("GUEST-READY")
    assert f"xen={kind.upper()}" in ready
    assert "disks=xvda," in ready
    first = _memory_inside(ready)
    lease = console.wait_for("GUEST-DHCP")
    (address,) = vm.addresses()
    assert (address.mac_address, address.source) == (card.mac_address, "lease")
    assert address.ip in lease
    vm.pause()
    assert vm.state is State.PAUSED
    vm.resume()

    vm.memory, vm.cpus = "192 MiB", 2
    assert vm.save() is SaveResult.NEXT_START
    vm.stop(force=False, timeout=90)
    console.wait_for("GUEST-POWEROFF")
    vm.start()
    ready = console.wait_for("GUEST-READY", 2)
    assert _memory_inside(ready) - first == pytest.approx(64 * 1024, rel=0.1)
    assert "cpus=2" in ready

    vm.destroy(force=True)
    assert hypervisor.vms() == []
    assert on_host("ls /etc/libvirt/libxl/autostart") == ""
    assert Volumes(hypervisor).find(disk) is not None


def test_changed_while_it_runs(hypervisor: Hypervisor, new_guest: NewVM, disk: str, image: Image) -> None:
    """CPUs, memory and disks, as the guest itself sees them; then suspended, from where it goes on."""
    vm = new_guest("pv", disk_image=disk, memory="256 MiB")
    vm.set("max_cpus", 2)
    vm.save()
    vm.start()
    Console(vm).wait_for("GUEST-READY")
    with Shell(vm) as shell:
        before = int(shell.run("awk '/^MemTotal/ { print $2 }' /proc/meminfo"))
        vm.cpus, vm.memory = 2, "192 MiB"
        assert vm.save() is SaveResult.APPLIED
        shell.wait_for("ls -d /sys/devices/system/cpu/cpu1", "/sys/devices/system/cpu/cpu1")
        shell.run("echo 1 >/sys/devices/system/cpu/cpu1/online")  # as udev does in a real system
        shell.wait_for("grep -c ^processor /proc/cpuinfo", "2")
        shell.wait_for(f"awk '/^MemTotal/ {{ print ($2 < {before - 60 * 1024}) }}' /proc/meminfo", "1")

        added = vm.add_disk(image("data.qcow2"), size="32 MiB")
        assert vm.save() is SaveResult.APPLIED
        shell.wait_for("cat /sys/block/xvdb/size", str((32 << 20) // 512))
        shell.run("echo MARK >/dev/xvdb; sync")
        vm.remove_disk(added)
        assert vm.save() is SaveResult.APPLIED
        shell.wait_for("ls /sys/block", "xvda")
        shell.run("kept=what-was-in-memory")

    vm.suspend()
    assert vm.state is State.SUSPENDED
    assert vm.name not in on_host("xl list")
    vm.start()
    with Shell(vm) as shell:
        assert shell.run("echo $kept") == "what-was-in-memory"
        assert shell.run("grep -c ^processor /proc/cpuinfo") == "2"
    assert Console(vm).text.count("GUEST-READY") == 1
    vm.stop(timeout=0)


def test_overlays_and_clones(hypervisor: Hypervisor, new_guest: NewVM, image: Image, tmp_path: Path) -> None:
    """An image that was sent, a thin overlay of it, and a clone's overlay of that: guests read and write through."""
    source, back = tmp_path / "base.img", tmp_path / "back.img"
    source.write_bytes(b"FIRST\n".ljust(1 << 20, b"\0"))
    base = hypervisor.upload(source, image("base.img")).path
    overlay = hypervisor.create_disk(image("over.qcow2"), backing=base).path
    vm = new_guest("pv", disk_image=overlay)
    vm.save()
    vm.start()
    Console(vm).wait_for("GUEST-READY")
    with Shell(vm) as shell:
        assert shell.run("head -n 1 /dev/xvda") == "FIRST"
        shell.run("echo SECOND | dd of=/dev/xvda conv=notrunc; sync")
    vm.stop(timeout=0)
    hypervisor.download(base, back)
    assert back.read_bytes() == source.read_bytes()

    twin = vm.clone(f"{vm.name}-2")
    try:
        assert hypervisor.disk_info(twin.disk_image or "").backing == overlay
        twin.start()
        Console(twin).wait_for("GUEST-READY")
        with Shell(twin) as shell:
            assert shell.run("head -n 1 /dev/xvda") == "SECOND"
        twin.stop(timeout=0)
    finally:
        twin.destroy(force=True, delete_disk=True)
    assert vm.resize_disk(overlay, "+1 MiB") == 2 << 20


def test_off_is_off(new_guest: NewVM) -> None:
    """Xen takes a guest apart after its end; what comes next need not wait for it."""
    vm = new_guest("pv")
    vm.save()
    console = Console(vm)
    for count in (1, 2):
        vm.start()
        console.wait_for("GUEST-READY", count)
        vm.native.shutdown()
        while vm.native.state()[0] != 5:
            time.sleep(0.01)
        if count == 1:
            vm.start()  # at once: libvirt itself would say that it is already active
            console.wait_for("GUEST-READY", 2)
            vm.stop(timeout=0)
            assert vm.native.isActive() == 0
    vm.destroy()
    assert vm.name not in on_host("xl list")


def test_reboot(new_guest: NewVM) -> None:
    """It is running when the call returns, and can be stopped at once."""
    vm = new_guest("pv")
    vm.save()
    vm.start()
    console = Console(vm)
    console.wait_for("GUEST-READY")
    vm.reboot()
    assert vm.state is State.RUNNING
    assert "reboot: Restarting system" in console.text
    vm.stop(timeout=0)
    assert vm.name not in on_host("xl list")


def test_hvm_boots_its_disk(hypervisor: Hypervisor, image: Image, tmp_path: Path) -> None:
    """What a BIOS finds on the first disk, beside two discs; a guest without an operating system cannot be asked."""
    disc = tmp_path / "disc.iso"
    disc.write_bytes(bytes(1 << 20))
    vm = hypervisor.new_vm()
    vm.name, vm.memory, vm.disk_image = "hvm", "128 MiB", BOOT_DISK  # a folder that no storage pool is of
    vm.cdrom = hypervisor.upload(disc, image("disc.iso")).path
    vm.cloud_init(user="me")
    vm.network("nat")
    vm.save()
    assert on_host("stat -c %a /var/lib/lab/*.cloud-init.iso").strip() == "600"
    vm.start(start_networks=True)
    seen = on_host("timeout 60 head -c 200 $(virsh -c xen:///system ttyconsole hvm)")
    assert "GUEST-BOOT-SECTOR" in seen
    screen = vm.display
    assert screen is not None
    assert f"{screen.host}:{screen.port} " in on_host("ss -Htln")
    with pytest.raises(UnsupportedError, match="drivers for Xen"):
        vm.reboot()
    vm.cdrom = None
    assert vm.save() is SaveResult.APPLIED
    assert "disc.iso" not in on_host("virsh -c xen:///system dumpxml hvm")
    vm.stop(timeout=1)
    assert vm.state is State.STOPPED
    vm.destroy()
    assert on_host("ls /var/lib/lab/*.cloud-init.iso") == ""


def test_changed_kind(new_guest: NewVM, disk: str) -> None:
    """One VM as HVM, PV and PVH: each starts."""
    vm = new_guest("pv", disk_image=disk)
    given = {key: vm.options[key] for key in ("kernel", "initrd", "cmdline")}
    none = dict.fromkeys(given)
    _set(vm, {"virtualization": "hvm"} | none)
    card = vm.network("nat", model="e1000")
    vm.save()
    vm.start(start_networks=True)
    vm.stop(timeout=0)
    _set(vm, {"virtualization": "pv"} | given)
    with pytest.raises(InvalidValueError, match="e1000"):
        vm.save()
    vm.remove_network(card)
    vm.network("nat", mac_address=card.mac_address)
    for kind in ("pv", "pvh", "hvm"):
        _set(vm, {"virtualization": kind} | (none if kind == "hvm" else given))
        vm.save()
        vm.start()
        if kind != "hvm":
            assert "disks=xvda," in Console(vm).wait_for(f"xen={kind.upper()}")
        vm.stop(timeout=0)
    assert [each.mac_address for each in vm.networks] == [card.mac_address]


def test_the_host_is_no_vm(hypervisor: Hypervisor) -> None:
    """Domain-0 is in no list and cannot be found."""
    native = [line.split()[0] for line in on_host("xl list").splitlines()[1:]]
    assert "Domain-0" in native
    assert "Domain-0" not in [vm.name for vm in hypervisor.vms()]
    assert "Domain-0" not in [line.name for line in hypervisor.summaries()]
    assert hypervisor.find("Domain-0") is None
    assert hypervisor.find("00000000-0000-0000-0000-000000000000") is None


def test_refused_before_the_start(new_guest: NewVM, disk: str) -> None:
    """What is missing is said, instead of a failed start."""
    vm = new_guest("pvh", disk_image=disk)
    vm.set("kernel", None)
    vm.save()
    with pytest.raises(InvalidValueError, match="no kernel"):
        vm.start()
    vm.set("kernel", "/nowhere/vmlinux")
    vm.save()
    with pytest.raises(HypervisorError, match=r"libxl-driver\.log"):  # the files of another machine cannot be looked at
        vm.start()


def test_pygrub_is_asked(new_guest: NewVM, disk: str) -> None:
    """A PV VM without a kernel looks for one on its disk; on this one there is none."""
    vm = new_guest("pv", disk_image=disk)
    vm.set("kernel", None)
    vm.set("initrd", None)
    vm.save()
    assert vm.options["bootloader"] == "pygrub"
    with pytest.raises(HypervisorError):
        vm.start()
    assert "pygrub" in on_host(
        f"cat /var/log/xen/bootloader.*.log; grep -h pygrub /var/log/libvirt/libxl/*{vm.name}* "
        "/var/log/libvirt/libxl/libxl-driver.log"
    )


def test_over_ssh(new_guest: NewVM) -> None:
    """The same host by another way."""
    vm = new_guest("pv")
    vm.save()
    with connect(lab_uri("ssh")) as other:
        assert other.version.startswith("Xen 4.")
        found = other.get(vm.name)
        assert (found.memory, found.options["virtualization"]) == (vm.memory, "pv")
        states = [vm.state]
        found.start()
        states.append(vm.state)
        found.stop(timeout=0)
        assert [*states, vm.state] == [State.STOPPED, State.RUNNING, State.STOPPED]


def test_features(hypervisor: Hypervisor) -> None:
    """What Xen lacks is declared."""
    assert not {Feature.RENAME, Feature.SCREENSHOT} & hypervisor.features


def _set(vm: VM, options: Mapping[str, object]) -> None:
    for key, value in options.items():
        vm.set(key, value)


def _memory_inside(line: str) -> int:
    found = re.search(r"mem=(\d+)", line)
    assert found, line
    return int(found[1])
