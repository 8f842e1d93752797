"""The Xen driver without a Xen: what it writes, what it refuses before libxl would, what libvirt's mock can show."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from virtuoso_core import URI, VM, State
from virtuoso_core.errors import (
    ConnectError,
    HypervisorError,
    ImageFormatError,
    InvalidNetworkError,
    InvalidOptionError,
    InvalidValueError,
    UnsupportedError,
    VMNotFoundError,
)
from virtuoso_core.spec import BASIC, Feature
from virtuoso_core.xml import DomainDocument

pytest.importorskip("libvirt", reason="libvirt-python is not installed")

from virtuoso_xen import diagnosis, driver, machines, virtuoso_default_uris
from virtuoso_xen.driver import XenHypervisor

DOMAINS = Path(__file__).parent / "domains"
SCHEMA = Path("/usr/share/libvirt/schemas/domain.rng")

FOREIGN_HVM = """<domain type='xen'>
  <name>old</name>
  <memory unit='MiB'>512</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='xenfv'>hvm</type>
    <loader type='rom'>/usr/lib/xen-4.17/boot/hvmloader</loader>
    <boot dev='hd'/>
  </os>
  <devices>
    <emulator>/usr/libexec/xen-qemu-system-i386</emulator>
    <disk type='block' device='disk'>
      <driver name='phy'/>
      <source dev='/dev/vg0/a'/>
      <target dev='hda' bus='ide'/>
      <address type='drive' controller='0' bus='0' target='0' unit='0'/>
    </disk>
    <disk type='file' device='disk'>
      <source file='/b.img'/>
      <target dev='xvdb' bus='xen'/>
    </disk>
    <disk type='file' device='disk'>
      <source file='/c.img'/>
      <target dev='sda' bus='scsi'/>
    </disk>
    <controller type='ide' index='0'/>
    <input type='mouse' bus='ps2'/>
    <serial type='pty'/>
    <console type='pty'>
      <target type='serial' port='0'/>
    </console>
    <video>
      <model type='cirrus'/>
    </video>
    <sound model='es1370'/>
  </devices>
</domain>"""


@pytest.fixture
def hypervisor(tmp_path: Path) -> Iterator[XenHypervisor]:
    """The driver on a mock host of its own."""
    node = tmp_path / "node.xml"
    network = "<name>default</name><forward/><ip address='192.168.9.1' netmask='255.255.255.0'/>"
    node.write_text(f"<node><network>{network}</network></node>")
    with XenHypervisor.open(URI.parse(f"test://{node}")) as opened:
        yield opened


@pytest.fixture
def disk(tmp_path: Path) -> str:
    """An empty disk image."""
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(1024 * 1024))
    return str(path)


@pytest.fixture
def kernel(tmp_path: Path) -> str:
    """A file that stands for a kernel."""
    path = tmp_path / "vmlinuz"
    path.write_bytes(b"kernel")
    return str(path)


def new(hypervisor: XenHypervisor, **options: object) -> VM:
    """A VM that is not saved yet."""
    vm = hypervisor.new_vm()
    vm.name = "guest"
    for key, value in options.items():
        vm.set(key, value)
    return vm


def document(vm: VM) -> DomainDocument:
    """What save() writes, or wrote."""
    return DomainDocument(vm.spec)


def device(tag: str, child: str = "", **attributes: str) -> str:
    """A document with one device in it."""
    words = "".join(f" {name}='{value}'" for name, value in attributes.items())
    kind = "<os><type machine='xenfv'>hvm</type></os>"
    return f"<domain type='xen'><name>a</name>{kind}<devices><{tag}{words}>{child}</{tag}></devices></domain>"


# What it declares.


def test_declarations(hypervisor: XenHypervisor) -> None:
    assert BASIC - hypervisor.features == {Feature.RENAME, Feature.SCREENSHOT}
    assert list(hypervisor.networks) == ["nat", "bridged", "host_only", "internal"]
    assert hypervisor.undefine_flags == ("MANAGED_SAVE",)
    assert hypervisor.address_sources == ("LEASE",)
    assert not hypervisor.bulk_stats


def test_new_vm(hypervisor: XenHypervisor, disk: str) -> None:
    vm = new(hypervisor)
    vm.disk_image = disk
    card = vm.network("nat")
    assert card.mac_address.startswith("00:16:3e:")
    assert card.model is None
    found = document(vm)
    assert (found.os_type, found.machine, found.boot) == ("hvm", "xenfv", ("hd",))
    assert (found.disks[0].target, found.disks[0].bus, found.disks[0].format) == ("xvda", "xen", "raw")
    assert vm.options["virtualization"] == "hvm"


def test_bridged_is_a_bridge(hypervisor: XenHypervisor) -> None:
    vm = new(hypervisor)
    vm.network("bridged", source="eth0")
    assert document(vm).interfaces[0].type == "bridge"
    with pytest.raises(InvalidNetworkError, match="needs a source"):
        vm.network("bridged")


def test_unsuitable_disk_formats(hypervisor: XenHypervisor, tmp_path: Path) -> None:
    vm = new(hypervisor)
    with pytest.raises(InvalidOptionError, match="qcow2"):
        vm.set("disk_format", "vmdk")
    path = tmp_path / "disk.vmdk"
    header = b'# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\ncreateType="monolithicFlat"\n'
    path.write_bytes(header + b'\nRW 2048 FLAT "flat.vmdk" 0\n')
    (tmp_path / "flat.vmdk").write_bytes(bytes(1024 * 1024))
    vm.disk_image = str(path)
    with pytest.raises(ImageFormatError, match=r"'vmdk', which the xen driver does not take.*qemu-img convert"):
        vm.save()


# One kind of VM and another.


@pytest.mark.parametrize("kind", ["hvm", "pv", "pvh"])
def test_kinds_follow_the_schema(hypervisor: XenHypervisor, disk: str, kind: str) -> None:
    if not SCHEMA.exists():
        pytest.skip("libvirt's schemas are not installed")
    schema = etree.RelaxNG(etree.parse(SCHEMA))
    for options in ({}, {"kernel": "/boot/vmlinuz"}, {"headless": True, "cmdline": "a=b"}, {"bootloader": "pygrub"}):
        vm = new(hypervisor, virtualization=kind, **options)
        vm.disk_image = disk
        vm.network("nat")
        schema.assertValid(etree.fromstring(vm.spec))
        assert machines.virtualization(document(vm)) == kind


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_pv_has_nothing_of_hvm(hypervisor: XenHypervisor, disk: str, kind: str) -> None:
    vm = new(hypervisor, virtualization=kind)
    vm.disk_image = disk
    vm.network("nat")
    vm.save()
    found = document(vm)
    assert found.boot == ()
    assert found.root.find("devices/video/model[@type='vga']") is None
    assert found.root.find("devices/input[@type='tablet']") is None
    assert [(each.target, each.bus) for each in found.disks] == [("xvda", "xen")]
    assert hypervisor.get("guest").options["virtualization"] == kind


def test_all_ways_round(hypervisor: XenHypervisor, disk: str) -> None:
    vm = new(hypervisor)
    vm.disk_image = disk
    vm.save()
    before = document(vm)
    kept = (vm.memory, vm.cpus, vm.disk_image, vm.networks)
    for kind in ("pv", "pvh", "pv", "hvm", "pvh", "hvm"):
        vm.set("virtualization", kind)
        vm.save()
        again = hypervisor.get("guest")
        assert again.options["virtualization"] == kind
        assert (again.memory, again.cpus, again.disk_image, again.networks) == kept
    after = document(vm)
    assert after.boot == before.boot
    assert len(after.root.findall("devices/console")) == len(before.root.findall("devices/console"))
    vm.set("virtualization", None)
    vm.save()
    assert hypervisor.get("guest").options["virtualization"] == "hvm"


def test_foreign_hvm_becomes_pv() -> None:
    found = DomainDocument(FOREIGN_HVM)
    machines.write_virtualization(found, "pv")
    assert (found.os_type, found.machine, found.bootloader) == ("linux", "xenpv", "pygrub")
    assert (found.loader, found.boot, found.emulator) == (None, (), None)
    disks = [(disk.target, disk.bus, disk.element.find("address")) for disk in found.disks]
    assert disks == [("xvda", "xen", None), ("xvdb", "xen", None), ("xvdc", "xen", None)]
    for tag in ("controller", "input", "serial", "video"):
        assert found.root.find(f"devices/{tag}") is None
    assert found.root.find("devices/console/target") is None
    assert found.root.find("devices/sound") is not None, "what the kind does not imply stays"
    machines.check(found, machines.device_problems(found))


def test_foreign_pv_becomes_hvm() -> None:
    found = DomainDocument((DOMAINS / "xen_pv.xml").read_text())
    assert machines.virtualization(found) == "pv"
    machines.write_virtualization(found, "hvm")
    assert (found.os_type, found.machine, found.bootloader, found.boot) == ("hvm", "xenfv", None, ("hd",))
    assert found.root.find("features/acpi") is not None
    assert found.disks[0].target == "xvda"
    machines.check(found, machines.device_problems(found))


def test_foreign_kinds_are_recognised() -> None:
    assert machines.virtualization(DomainDocument((DOMAINS / "xen_pvh.xml").read_text())) == "pvh"
    for os_type, kind in {"xen": "pv", "linux": "pv", "xenpvh": "pvh", "hvm": "hvm"}.items():
        assert machines.virtualization(DomainDocument(f"<domain><os><type>{os_type}</type></os></domain>")) == kind


def test_same_kind_changes_nothing() -> None:
    for name, kind in (("xen_pv", "pv"), ("xen_pvh", "pvh")):
        found = DomainDocument((DOMAINS / f"{name}.xml").read_text())
        before = found.text
        machines.write_virtualization(found, kind)
        assert found.text == before


# Kernel and bootloader.


def test_pygrub_is_implied(hypervisor: XenHypervisor, kernel: str) -> None:
    vm = new(hypervisor, virtualization="pv")
    vm.save()
    assert vm.options["bootloader"] == "pygrub"
    vm.set("kernel", kernel)
    vm.save()
    assert "bootloader" not in vm.options
    vm.set("kernel", None)
    vm.save()
    assert vm.options["bootloader"] == "pygrub"
    vm.set("bootloader", "/usr/lib/xen/bin/pygrub")
    vm.save()
    vm.set("bootloader", None)
    vm.save()
    assert vm.options["bootloader"] == "pygrub"
    vm.set("virtualization", "pvh")
    vm.save()
    assert "bootloader" not in vm.options


def test_kernel_and_bootloader(hypervisor: XenHypervisor, kernel: str) -> None:
    vm = new(hypervisor, virtualization="pv", kernel=kernel, bootloader="pygrub")
    with pytest.raises(InvalidValueError, match=r"both a kernel and a bootloader.*vm\.set\(\"bootloader\", None\)"):
        vm.save()
    assert hypervisor.vms() == []


@pytest.mark.parametrize("key", ["kernel", "initrd"])
def test_paths_are_absolute(hypervisor: XenHypervisor, key: str) -> None:
    with pytest.raises(InvalidOptionError, match="absolute"):
        new(hypervisor, **{key: "vmlinuz"})


def test_boot_settings_round_trip(hypervisor: XenHypervisor) -> None:
    given = {"kernel": "/boot/k", "initrd": "/boot/i", "cmdline": "root=/dev/xvda1 a='b & c'"}
    vm = new(hypervisor, virtualization="pvh", **given)
    vm.save()
    found = hypervisor.get("guest")
    assert {key: found.options[key] for key in given} == given
    for key in given:
        found.set(key, None)
    found.save()
    assert not set(given) & set(hypervisor.get("guest").options)


# What is refused when it is saved.


@pytest.mark.parametrize(("key", "value"), [("boot", ["cdrom"]), ("vnc_password", "secret")])
@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_options_of_hvm(hypervisor: XenHypervisor, kind: str, key: str, value: object) -> None:
    vm = new(hypervisor, virtualization=kind, **{key: value})
    with pytest.raises(InvalidValueError, match=rf"PV or PVH.*vm\.set\(\"{key}\", None\)") as caught:
        vm.save()
    assert "secret" not in str(caught.value)
    vm.set(key, None)
    vm.save()


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_models_of_network_cards(hypervisor: XenHypervisor, kind: str) -> None:
    vm = new(hypervisor, virtualization=kind)
    card = vm.network("nat", model="e1000")
    with pytest.raises(InvalidValueError, match=f"e1000.*netfront.*{card.mac_address}"):
        vm.save()
    vm.remove_network(card)
    vm.network("nat", model="netfront")
    vm.network("nat")
    vm.save()
    assert [each.model for each in hypervisor.get("guest").networks] == ["netfront", None]


def test_models_when_the_kind_changes(hypervisor: XenHypervisor) -> None:
    vm = new(hypervisor)
    vm.network("nat", model="e1000")
    vm.save()
    before = vm.spec
    vm.set("virtualization", "pv")
    with pytest.raises(InvalidValueError, match="e1000"):
        vm.save()
    assert hypervisor.get("guest").spec == before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (device("channel", "<target type='virtio' name='org.qemu.guest_agent.0'/>", type="unix"), "virtio channel"),
        (device("video", "<model type='virtio'/>"), "virtio screen"),
        (device("disk", "<target dev='vda' bus='virtio'/>", device="disk"), "'vda', which Xen does not know"),
        (device("disk", device="disk"), "None, which Xen does not know"),
        (device("interface", "<mac address='00:16:3e:00:00:01'/>", type="user"), "'user', which Xen has not"),
        (device("interface", "<mac address='00:16:3e:00:00:01'/>", type="direct"), "'direct', which Xen has not"),
    ],
)
def test_refused_devices(text: str, said: str) -> None:
    found = DomainDocument(text)
    with pytest.raises(InvalidValueError, match=said) as caught:
        machines.check(found, machines.device_problems(found))
    assert caught.value.hint
    assert caught.value.vm == "a"


@pytest.mark.parametrize("kind", ["pv", "pvh"])
@pytest.mark.parametrize("drive", ["cdrom", "floppy", "lun"])
def test_only_hvm_has_drives(kind: str, drive: str) -> None:
    found = DomainDocument(device("disk", "<target dev='hdc' bus='ide'/>", device=drive))
    machines.check(found, machines.device_problems(found))
    machines.write_virtualization(found, kind)
    with pytest.raises(InvalidValueError, match=f"a {drive} drive, which only HVM"):
        machines.check(found, machines.device_problems(found))


@pytest.mark.parametrize(("other", "fits"), [("hda", False), ("hdb", True), ("sda", True), ("xvda", False)])
def test_two_disks_in_one_place(other: str, fits: bool) -> None:
    text = device("disk", "<target dev='xvda'/>", device="disk")
    found = DomainDocument(text.replace("</devices>", f"<disk device='disk'><target dev='{other}'/></disk></devices>"))
    problems = list(machines.device_problems(found))
    assert (problems == []) is fits
    assert fits or "another disk has already" in problems[0][0]


def test_what_others_made_can_be_changed(hypervisor: XenHypervisor) -> None:
    """A field that has nothing to do with it is no reason to refuse."""
    text = device("channel", "<target type='virtio' name='org.qemu.guest_agent.0'/>", type="unix")
    native(hypervisor).defineXML(text.replace("<os>", "<memory unit='MiB'>64</memory><os>"))
    vm = hypervisor.get("a")
    vm.memory = "128 MiB"
    vm.save()
    with pytest.raises(InvalidValueError, match="virtio channel"):
        vm.start()
    assert vm.state is State.STOPPED


# What is refused before a start.


@pytest.mark.parametrize("kind", ["pv", "pvh"])
def test_nothing_to_boot(hypervisor: XenHypervisor, kernel: str, kind: str) -> None:
    vm = new(hypervisor, virtualization=kind)
    vm.save()
    with pytest.raises(InvalidValueError, match="neither a kernel nor a disk" if kind == "pv" else "no kernel to boot"):
        vm.start()
    assert [line.state for line in hypervisor.summaries()] == [State.STOPPED]
    vm.set("kernel", kernel)
    vm.save()
    vm.start()
    assert vm.state is State.RUNNING


def test_pv_boots_its_disk(hypervisor: XenHypervisor, disk: str) -> None:
    vm = new(hypervisor, virtualization="pv")
    vm.disk_image = disk
    vm.save()
    vm.start()
    assert vm.state is State.RUNNING


@pytest.mark.parametrize("key", ["kernel", "initrd"])
def test_missing_files(hypervisor: XenHypervisor, kernel: str, key: str) -> None:
    files = {"kernel": kernel, "initrd": kernel} | {key: f"{kernel}.missing"}
    vm = new(hypervisor, virtualization="pv", **files)
    vm.save()
    with pytest.raises(InvalidValueError, match=rf"no {key} .*vmlinuz\.missing"):
        vm.start()


def test_files_of_another_machine_are_not_looked_for() -> None:
    found = DomainDocument((DOMAINS / "xen_pvh.xml").read_text())
    assert list(machines.boot_problems(found)) == []


def test_a_failed_start_names_the_log(hypervisor: XenHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = new(hypervisor)
    vm.save()
    monkeypatch.setattr(vm.native, "create", failing)
    with pytest.raises(HypervisorError, match=r"libxl-driver\.log"):
        vm.start()


# libxl's ways.


def test_the_host_is_hidden(hypervisor: XenHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = new(hypervisor)
    vm.save()
    vm.start()
    number = native(hypervisor).lookupByName("guest").ID()
    monkeypatch.setattr(XenHypervisor, "_is_host", lambda self, domain: domain.ID() == number)
    assert hypervisor.vms() == []
    assert hypervisor.summaries() == []
    assert hypervisor.find("guest") is None
    assert hypervisor.find(vm.uuid) is None
    with pytest.raises(VMNotFoundError):
        hypervisor.get("guest")


@pytest.mark.parametrize(("number", "host"), [(0, True), (-1, False), (7, False)])
def test_the_host_is_number_0(hypervisor: XenHypervisor, number: int, host: bool) -> None:
    class Domain:
        def ID(self) -> int:  # noqa: N802 - libvirt's name
            return number

    assert hypervisor._is_host(Domain()) is host


def test_off_when_it_was_taken_apart(hypervisor: XenHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = new(hypervisor)
    vm.save()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    answers = [1, 1, 0]
    monkeypatch.setattr(vm.native, "isActive", lambda: answers.pop(0))
    assert vm.state is State.STOPPED
    assert answers == []
    monkeypatch.setattr(driver, "_PATIENCE", 0.0)
    monkeypatch.setattr(vm.native, "isActive", lambda: 1)
    assert vm.state is State.STOPPED, "it waits within bounds"


def test_pulled_plug_waits(hypervisor: XenHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = new(hypervisor)
    vm.save()
    vm.start()
    answers = iter([1, 0])
    monkeypatch.setattr(vm.native, "isActive", lambda: next(answers))
    vm.stop(timeout=0)
    assert list(answers) == []


def test_reboot_waits_for_the_new_number(hypervisor: XenHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    vm: Any = new(hypervisor)
    vm.save()
    vm.start()
    numbers = [3, 3, -1, 4]
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    monkeypatch.setattr(vm, "_number", lambda: numbers.pop(0))
    vm.reboot()
    assert numbers == []


def test_reboot_of_a_guest_without_drivers(hypervisor: XenHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    vm = new(hypervisor)
    vm.save()
    vm.start()
    monkeypatch.setattr(vm.native, "reboot", failing)
    with pytest.raises(UnsupportedError, match=r"drivers for Xen.*vm\.stop\(\)"):
        vm.reboot()


def test_images_are_opened_by_root(hypervisor: XenHypervisor) -> None:
    assert hypervisor.image_user().uid == 0


# This machine.


@pytest.mark.parametrize(
    ("text", "status", "uris"),
    [
        ("control_d\n", "ok", ["xen:///system"]),
        ("", "fail", []),
        (None, "fail", []),
    ],
)
def test_is_this_a_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, status: str, uris: list[str]
) -> None:
    path = tmp_path / "capabilities"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(diagnosis, "CAPABILITIES", str(path))
    found = diagnosis.check_host()
    assert found.status == status
    assert bool(found.advice) is (status == "fail")
    assert list(virtuoso_default_uris()) == uris
    checks = list(XenHypervisor._diagnose_connection(URI.parse("xen:///system")))
    assert [check.name for check in checks] == ["Xen", "Daemon for xen:///system"]
    assert list(XenHypervisor._diagnose_connection(URI.parse("xen+ssh://host/system"))) == []


def test_no_xen_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "CAPABILITIES", str(tmp_path / "none"))
    with pytest.raises(ConnectError, match="does not run under Xen"):
        XenHypervisor.open(URI.parse(f"xen:///system?socket={tmp_path}/none"))


def native(hypervisor: XenHypervisor) -> Any:
    """libvirt's own connection."""
    return hypervisor.connection.native


def failing(*arguments: object) -> None:
    """What libvirt raises when libxl fails."""
    import libvirt

    error = libvirt.libvirtError("broken on purpose")
    error.err = (libvirt.VIR_ERR_INTERNAL_ERROR, libvirt.VIR_FROM_LIBXL, "libxenlight failed", 2, "", "", "", -1, -1)
    raise error
