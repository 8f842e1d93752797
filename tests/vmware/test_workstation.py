"""The driver for Workstation, Player and Fusion over a stand-in for vmrun: the conformance suite, and its own tests."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

import virtuoso_core
from tests.labs.hosts import LabError, guest_image
from virtuoso_core import VM, Hypervisor, SaveResult, State, connect
from virtuoso_core.errors import (
    AddressTimeoutError,
    ConnectError,
    HypervisorError,
    ImageFormatError,
    ImageNotFoundError,
    InvalidStateError,
    InvalidURIError,
    InvalidValueError,
    UnsupportedError,
    VMExistsError,
    VMNotFoundError,
)
from virtuoso_core.testing import HypervisorSuite
from virtuoso_vmware.workstation import WorkstationHypervisor

STAND_IN = Path(__file__).resolve().parents[1] / "labs" / "vmrun" / "bin"
URI = "vmwarews:///session"

# As VMware writes it, with what libvirt would drop: comments, unknown keys, odd spacing, an old encoding, CRLF.
FOREIGN = """\
#!/usr/bin/vmware
.encoding = "windows-1252"
config.version = "8"
virtualHW.version = "19"
displayName = "Bär 64-bit"
guestOS = "ubuntu-64"
memsize="4096"
  numvcpus  =  "2"
scsi0.present = "TRUE"
scsi0.virtualDev = "lsilogic"
scsi0:0.present = "TRUE"
scsi0:0.fileName = "the disk.vmdk"
ethernet0.present = "TRUE"
ethernet0.connectionType = "nat"
ethernet0.virtualDev = "e1000"
ethernet0.addressType = "generated"
ethernet0.generatedAddress = "00:0C:29:AA:BB:CC"
uuid.bios = "56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee"
mks.enable3d = "TRUE"
tools.syncTime = "FALSE"
annotation = "memsize = |22512|22"
""".replace("\n", "\r\n").encode("windows-1252")


@pytest.fixture(autouse=True)
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """VMware's programs on the PATH, and a user's folders of our own; what runs is ended afterwards."""
    state = tmp_path / "vmrun"
    monkeypatch.setenv("PATH", f"{STAND_IN}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("VMRUN_STATE", str(state))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield state
    with contextlib.suppress(FileNotFoundError):
        for line in (state / "running").read_text().splitlines():
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(line.rpartition("\t")[2]), signal.SIGKILL)


def make_disk(path: Path) -> str:
    """What begins like a disk of VMware's."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"KDMV" + bytes(508))
    return str(path)


@pytest.fixture
def disk_image(tmp_path: Path) -> str:
    """In a folder of its own."""
    return make_disk(tmp_path / secrets.token_hex(4) / "disk.vmdk")


@pytest.fixture
def hypervisor() -> Iterator[Hypervisor]:
    """A connection."""
    with connect(URI) as opened:
        yield opened


@pytest.fixture
def vm(hypervisor: Hypervisor, disk_image: str) -> VM:
    """A saved VM."""
    made = hypervisor.new_vm()
    made.name, made.memory, made.cpus, made.disk_image = "web", "256 MiB", 1, disk_image
    made.set("headless", True)
    made.save()
    return made


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A machine made by hand, which runs, so that VMware tells of it."""
    folder = tmp_path / "by hand"
    make_disk(folder / "the disk.vmdk")
    file = folder / "machine.vmx"
    file.write_bytes(FOREIGN)
    vmrun("start", file, "nogui")
    return file


def vmrun(*words: object) -> None:
    """What another program does."""
    subprocess.run(["vmrun", "-T", "ws", *map(str, words)], check=True, capture_output=True, timeout=30)


def calls(state: Path) -> list[str]:
    """Each call of vmrun but those that only look."""
    return [line for line in (state / "calls.log").read_text().splitlines() if not line.endswith(" list")]


class TestWorkstationSuite(HypervisorSuite):
    hypervisor = WorkstationHypervisor
    needs_disk = True
    proof: ClassVar[Any] = "simulated"
    network_sources: ClassVar[dict[str, str]] = {"internal": "vmnet5"}

    @pytest.fixture
    def real_uri(self) -> str:
        return URI

    @pytest.fixture
    def disk_image(self, disk_image: str) -> str:
        return disk_image

    @pytest.fixture
    def further_image(self, request: pytest.FixtureRequest, disk_image: str) -> str:
        folder = Path(disk_image).parent
        if request.function.__name__ == "test_cdrom":
            (folder / "disc.iso").write_bytes(bytes(2048))
            return str(folder / "disc.iso")
        return make_disk(folder / "further.vmdk")

    def test_foreign_xml_survives(self) -> None:
        pytest.skip("there is no domain XML to lose: see test_only_the_changed_lines_change")


# Opening.


def test_without_vmware(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(ConnectError, match="vmrun") as caught:
        connect(URI)
    assert "PATH" in caught.value.hint


@pytest.mark.parametrize("uri", ["vmwarews://host/session", "vmwarews+ssh://host/session", "vmwarews:///system"])
def test_bad_uris(uri: str) -> None:
    with pytest.raises(InvalidURIError, match="vmwarews:///session"):
        connect(uri)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda data: data + b"# " + bytes(10_000).replace(b"\0", b"x"), "10000"),
        (lambda data: data.replace(b'"nat"', b'"hostonly"'), "hostonly"),
    ],
)
def test_a_running_machine_that_libvirt_cannot_read(foreign: Path, spoil: Callable[[bytes], bytes], said: str) -> None:
    foreign.write_bytes(spoil(FOREIGN))
    with pytest.raises(ConnectError) as caught:
        connect(URI)
    assert str(foreign) in caught.value.hint
    assert said in caught.value.hint


def test_doctor_tells_what_libvirt_must_read(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def look() -> tuple[str, str]:
        checks = list(WorkstationHypervisor._diagnose(virtuoso_core.URI.parse(URI)))
        return next((check.status, check.explanation) for check in checks if check.name == "Running machines")

    status, explanation = look()
    assert (status, str(foreign) in explanation) == ("ok", True)
    foreign.write_bytes(FOREIGN.replace(b'"nat"', b'"hostonly"'))
    status, explanation = look()
    assert (status, "hostonly" in explanation) == ("fail", True)
    monkeypatch.setenv("VMRUN_STATE", str(foreign))  # where vmrun itself fails
    status, explanation = look()
    assert (status, "vmrun list failed" in explanation) == ("fail", True)


# Life.


@pytest.mark.parametrize("scheme", WorkstationHypervisor.schemes)
def test_whole_life(scheme: str, disk_image: str, bench: Path) -> None:
    uri = f"{scheme}:///session"
    with connect(uri) as hypervisor:
        assert "VMware" in hypervisor.version
        vm = hypervisor.new_vm()
        vm.name, vm.memory, vm.disk_image = "My new VM", "65 MiB", disk_image
        vm.network("nat", mac_address="00:50:56:00:00:01")
        vm.network("host_only")
        vm.set("headless", True)
        vm.save()
        vm.start()
    with connect(uri) as hypervisor:
        found = hypervisor.get("My new VM")
        assert (found.state, found.memory) == (State.RUNNING, 68 * 1024)
        assert [(card.type, card.source) for card in found.networks] == [("nat", None), ("host_only", "vmnet1")]
        found.reboot()
        found.stop()
    with connect(uri) as hypervisor:
        found = hypervisor.get("My new VM")
        assert found.state is State.STOPPED
        found.memory, found.cpus = "512 MiB", 4
        assert found.save() is SaveResult.APPLIED
    with connect(uri) as hypervisor:
        (line,) = hypervisor.summaries()
        assert (line.name, line.state, line.memory, line.cpus) == ("My new VM", State.STOPPED, 512 * 1024, 4)
        hypervisor.get(line.uuid).destroy()
        assert hypervisor.vms() == []
    assert sorted(os.listdir(Path(disk_image).parent)) == ["disk.vmdk", "vmware.log"]
    product = {"vmwarews": "ws", "vmwareplayer": "player", "vmwarefusion": "fusion"}[scheme]
    vmx = Path(disk_image).with_name("My new VM.vmx")
    assert calls(bench) == [
        f"-T {product} start {vmx} nogui",
        f"-T {product} reset {vmx} soft",
        f"-T {product} stop {vmx} soft",
    ]


def test_the_plug_is_really_pulled(vm: VM, bench: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt would only ask again; a guest without VMware Tools is not waited for."""
    monkeypatch.setenv("VMRUN_TOOLS", "no")
    vm.start()
    with pytest.raises(UnsupportedError, match="VMware Tools"):
        vm.stop(force=False)
    assert vm.state is State.RUNNING
    start = time.monotonic()
    vm.stop(timeout=60)
    assert time.monotonic() - start < 10
    assert calls(bench)[-1].endswith(" hard")
    assert vm.state is State.STOPPED


def test_a_window_unless_headless(vm: VM, bench: Path) -> None:
    vm.set("headless", False)
    vm.save()
    vm.start()
    assert calls(bench)[-1].endswith(" gui")


def test_suspended(vm: VM) -> None:
    """By VMware's own window: its memory is in a file, and goes with the machine."""
    vmx = Path(vm.native)
    saved = vmx.with_name("web-1.vmss")
    saved.write_bytes(b"memory")
    for suffix in (".nvram", ".vmxf", ".vmsd"):
        vmx.with_suffix(suffix).write_bytes(b"x")
    vmx.write_bytes(vmx.read_bytes() + b'checkpoint.vmState = "web-1.vmss"\n')
    assert vm.state is State.SUSPENDED
    vm.memory = "1 GiB"
    with pytest.raises(InvalidStateError, match="suspended"):
        vm.save()
    vm.destroy()
    assert os.listdir(vmx.parent) == ["disk.vmdk"]


def test_suspend_and_go_on(vm: VM, bench: Path) -> None:
    """By vmrun: the .vmx says where the memory is, for any program, until it runs again."""
    vmx = Path(vm.native)
    vm.start()
    vm.suspend()
    assert vm.state is State.SUSPENDED
    with connect(URI) as other:
        assert other.summaries()[0].state is State.SUSPENDED
    assert len(list(vmx.parent.glob("*.vmss"))) == 1
    vm.start()
    assert vm.state is State.RUNNING
    assert list(vmx.parent.glob("*.vmss")) == []
    vm.stop(timeout=0)
    assert vm.state is State.STOPPED
    assert f"-T ws suspend {vmx} hard" in calls(bench)


def test_player_cannot_suspend(disk_image: str) -> None:
    with connect("vmwareplayer:///session") as hypervisor:
        vm = hypervisor.new_vm()
        vm.name, vm.disk_image = "web", disk_image
        vm.save()
        vm.start()
        with pytest.raises(UnsupportedError, match="suspend"):
            vm.suspend()


def test_the_address_that_tools_tell(hypervisor: Hypervisor, disk_image: str, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = hypervisor.new_vm()
    vm.name, vm.disk_image = "web", disk_image
    vm.network("nat")
    vm.save()
    vm.start()
    with pytest.raises(AddressTimeoutError, match=r"tools: .*VMware Tools are not running") as caught:
        vm.wait_for_address(timeout=0.2)
    assert "open-vm-tools" in caught.value.hint
    monkeypatch.setenv("VMRUN_ADDRESS", "unknown")
    assert vm.addresses() == ()
    monkeypatch.setenv("VMRUN_ADDRESS", "192.0.2.7")
    assert (vm.wait_for_address(timeout=10).ip, vm.addresses()[0].source) == ("192.0.2.7", "tools")


def test_disks_and_discs(hypervisor: Hypervisor, disk_image: str, tmp_path: Path) -> None:
    """All are in the .vmx, as VMware names them; one that is gone is noticed before the start."""
    more, disc = make_disk(tmp_path / "more" / "data.vmdk"), tmp_path / "install.iso"
    disc.write_bytes(bytes(2048))
    vm = hypervisor.new_vm()
    vm.name, vm.disk_image, vm.cdrom = "web", disk_image, more
    with pytest.raises(ImageFormatError, match=r"\.iso"):
        vm.save()
    vm.cdrom = disc
    vm.add_disk(more)
    vm.cloud_init(user="me")
    vm.save()
    text = Path(vm.native).read_text()
    seed = next(Path(disk_image).parent.glob("web-*.cloud-init.iso"))
    assert seed.stat().st_mode & 0o777 == 0o600
    for name in (str(disc), more, str(seed)):
        assert f'fileName = "{name}"' in text
    assert text.count('deviceType = "cdrom-image"') == 2
    disc.unlink()
    with pytest.raises(ImageNotFoundError, match=r"install\.iso"):
        vm.start()
    vm.destroy()
    assert not seed.exists()
    assert os.path.exists(more)


def test_a_running_vm_is_not_changed(vm: VM) -> None:
    vm.start()
    before = Path(vm.native).read_bytes()
    vm.memory = "1 GiB"
    with pytest.raises(InvalidStateError, match="running"):
        vm.save()
    assert Path(vm.native).read_bytes() == before


def test_disk_images(hypervisor: Hypervisor, tmp_path: Path) -> None:
    vm = hypervisor.new_vm()
    vm.name = "web"
    with pytest.raises(InvalidValueError, match="disk_image"):
        vm.save()
    for name, content, error in (
        ("none.vmdk", None, ImageNotFoundError),
        ("disk.qcow2", b"QFI\xfb", ImageFormatError),
        ("disk.vmdk", b"QFI\xfb", ImageFormatError),
    ):
        if content is not None:
            (tmp_path / name).write_bytes(content)
        vm.disk_image = tmp_path / name
        with pytest.raises(error):
            vm.save()
    assert hypervisor.vms() == []


def test_other_changes_are_refused(hypervisor: Hypervisor, vm: VM) -> None:
    before = Path(vm.native).read_bytes()
    changes: list[Callable[[VM], object]] = [
        lambda vm: setattr(vm, "disk_image", None),
        lambda vm: setattr(vm, "cdrom", "/images/disc.iso"),
        lambda vm: vm.add_disk("/images/data.vmdk"),
        lambda vm: vm.cloud_init(user="me"),
        lambda vm: vm.network("nat"),
        lambda vm: setattr(vm, "name", "another"),
    ]
    for change in changes:
        edited = hypervisor.get("web")
        edited.memory = "1 GiB"
        change(edited)
        with pytest.raises(UnsupportedError):
            edited.save()
    assert Path(vm.native).read_bytes() == before


def test_a_file_in_the_way(hypervisor: Hypervisor, disk_image: str) -> None:
    """Somebody else's machine of that name is never written over."""
    there = Path(disk_image).with_name("web.vmx")
    there.write_bytes(FOREIGN)
    vm = hypervisor.new_vm()
    vm.name, vm.disk_image = "web", disk_image
    with pytest.raises(VMExistsError, match=r"web\.vmx"):
        vm.save()
    assert there.read_bytes() == FOREIGN


def test_a_real_guest_gets_what_the_file_says(
    hypervisor: Hypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With QEMU behind the stand-in: the disk boots, with the memory and processors that were saved."""
    if not (shutil.which("qemu-system-x86_64") and shutil.which("qemu-img")):
        pytest.skip("QEMU is not installed")
    monkeypatch.setenv("VMRUN_QEMU", "yes")
    try:
        image = guest_image()
    except LabError as error:
        pytest.skip(str(error))
    disk, log = tmp_path / "guest.vmdk", tmp_path / "serial.log"
    subprocess.run(["qemu-img", "convert", "-O", "vmdk", image, disk], check=True, timeout=120)
    vm = hypervisor.new_vm()
    vm.name, vm.memory, vm.cpus, vm.disk_image = "guest", "256 MiB", 1, disk
    vm.save()
    vm.memory, vm.cpus = "192 MiB", 2
    vm.save()
    vm.start()
    end = time.monotonic() + 120
    while "GUEST-READY" not in (text := log.read_text(errors="replace") if log.exists() else ""):
        assert time.monotonic() < end, text[-2000:]
        time.sleep(0.1)
    ready = next(line for line in text.splitlines() if "GUEST-READY" in line)
    assert "cpus=2" in ready
    assert 128 * 1024 < int(ready.partition("mem=")[2].split()[0]) < 192 * 1024
    vm.destroy(force=True)


# Machines made by others.


def test_a_machine_that_was_seen_running_is_remembered(foreign: Path) -> None:
    with connect(URI, readonly=True) as hypervisor:
        found = hypervisor.get("Bär 64-bit")
        assert found.uuid == "564d1122-3344-5566-7788-99aabbccddee"
        assert (found.state, found.memory, found.cpus) == (State.RUNNING, 4 * 1024 * 1024, 2)
        assert found.disk_image == str(foreign.parent / "the disk.vmdk")
        assert [card.mac_address for card in found.networks] == ["00:0c:29:aa:bb:cc"]
    vmrun("stop", foreign)
    with connect(URI) as hypervisor:
        assert hypervisor.get("Bär 64-bit").state is State.STOPPED
        hypervisor.get("Bär 64-bit").start()
    assert foreign.read_bytes() == FOREIGN
    assert os.listdir(foreign.parent).count("machine.vmx") == 1


def test_only_the_changed_lines_change(foreign: Path) -> None:
    with connect(URI) as hypervisor:
        vm = hypervisor.get("Bär 64-bit")
        vm.stop(timeout=0)
        foreign.chmod(0o640)
        vm.memory, vm.cpus = "1 GiB", 4
        vm.set("headless", True)
        vm.save()
        assert (
            foreign.read_bytes()
            == FOREIGN.replace(b'"4096"', b'"1024"').replace(b'"2"\r\nscsi0.present', b'"4"\r\nscsi0.present')
            + b'guestinfo.virtuoso.headless = "TRUE"\r\n'
        )
        assert foreign.stat().st_mode & 0o777 == 0o640
        vm.memory, vm.cpus = "4 GiB", 2
        vm.set("headless", None)
        vm.save()
        assert foreign.read_bytes() == FOREIGN


def test_cores_that_do_not_fit(foreign: Path) -> None:
    data = FOREIGN + b'cpuid.coresPerSocket = "2"\r\n'
    foreign.write_bytes(data)
    with connect(URI) as hypervisor:
        vm = hypervisor.get("Bär 64-bit")
        vm.stop(timeout=0)
        vm.cpus = 3
        with pytest.raises(InvalidValueError, match="multiple"):
            vm.save()
        assert foreign.read_bytes() == data


def test_a_link_to_the_file_stays_one(foreign: Path, tmp_path: Path) -> None:
    with connect(URI) as hypervisor:
        vm = hypervisor.get("Bär 64-bit")
        vm.stop(timeout=0)
        moved = tmp_path / "moved.vmx"
        foreign.rename(moved)
        foreign.symlink_to(moved)
        vm.memory = "1 GiB"
        vm.save()
        assert foreign.is_symlink()
        assert b'memsize="1024"' in moved.read_bytes()


def test_an_unwritable_folder(foreign: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with connect(URI) as hypervisor:
        vm = hypervisor.get("Bär 64-bit")
        vm.stop(timeout=0)
        vm.memory = "1 GiB"
        monkeypatch.setattr(os, "replace", refuse)
        with pytest.raises(HypervisorError, match="cannot be written"):
            vm.save()
    assert foreign.read_bytes() == FOREIGN
    assert sorted(os.listdir(foreign.parent)) == ["machine.vmx", "the disk.vmdk", "vmware.log"]


# The registry.

PROGRAM = """
import sys
from virtuoso_core import connect
with connect("vmwarews:///session") as hypervisor:
    for number in range(3):
        vm = hypervisor.new_vm()
        vm.name, vm.disk_image = f"{sys.argv[1]}-{number}", sys.argv[2]
        vm.save()
        vm.memory = "512 MiB"
        vm.save()
    hypervisor.get(f"{sys.argv[1]}-0").destroy()
"""


def test_eight_programs_at_once(disk_image: str, hypervisor: Hypervisor) -> None:
    programs = [
        subprocess.Popen([sys.executable, "-c", PROGRAM, f"p{number}", disk_image], stderr=subprocess.PIPE, text=True)
        for number in range(8)
    ]
    for program in programs:
        assert (program.communicate(timeout=120)[1], program.returncode) == ("", 0)
    wanted = [f"p{program}-{number}" for program in range(8) for number in (1, 2)]
    assert [line.name for line in hypervisor.summaries()] == wanted
    assert {line.memory for line in hypervisor.summaries()} == {512 * 1024}


def test_two_programs_want_one_name(disk_image: str, hypervisor: Hypervisor) -> None:
    code = "import sys; from virtuoso_core import connect; h = connect('vmwarews:///session'); vm = h.new_vm()\n"
    code += "vm.name, vm.disk_image = 'one', sys.argv[1]\nvm.save()"
    programs = [
        subprocess.Popen([sys.executable, "-c", code, disk_image], stderr=subprocess.PIPE, text=True) for _ in range(4)
    ]
    said = [program.communicate(timeout=60)[1] for program in programs]
    assert sorted(program.returncode for program in programs) == [0, 1, 1, 1]
    assert all("VMExistsError" in text for text in said if text)
    assert [vm.name for vm in hypervisor.vms()] == ["one"]


def test_registry_of_what_is_gone_or_damaged(vm: VM, hypervisor: Hypervisor, tmp_path: Path) -> None:
    registry = tmp_path / "state" / "virtuoso" / "vmware-machines.json"
    assert json.loads(registry.read_bytes()) == [vm.native]
    shutil.rmtree(Path(vm.native).parent)
    assert hypervisor.vms() == []
    with pytest.raises(VMNotFoundError):
        vm.state  # noqa: B018 - looking is the test
    for damaged in (b"", b"{", b"{}", b"[1, null]", b"\xff"):
        registry.write_bytes(damaged)
        assert hypervisor.vms() == []


def test_unreadable_machines_do_not_hide_the_others(vm: VM, hypervisor: Hypervisor, tmp_path: Path) -> None:
    registry = tmp_path / "state" / "virtuoso" / "vmware-machines.json"
    registry.write_text(json.dumps([str(tmp_path), vm.native]))  # a folder, which cannot be read as a file
    assert [each.name for each in hypervisor.vms()] == ["web"]


def test_a_registry_that_cannot_be_written(disk_image: str, hypervisor: Hypervisor, tmp_path: Path) -> None:
    """Nothing is left of the new machine."""
    (tmp_path / "state").write_text("in the way")
    vm = hypervisor.new_vm()
    vm.name, vm.disk_image = "web", disk_image
    with pytest.raises(HypervisorError, match=r"vmware-machines\.json"):
        vm.save()
    assert os.listdir(Path(disk_image).parent) == ["disk.vmdk"]
