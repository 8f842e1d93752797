"""Further disks and CD-ROMs: the public calls, and what becomes of them in a domain document."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from virtuoso_core import URI, VM, SaveResult
from virtuoso_core.changes import diff_text, not_applied
from virtuoso_core.errors import (
    ImageExistsError,
    ImageNotFoundError,
    InvalidValueError,
    UnsupportedError,
)
from virtuoso_core.libvirt_base import LibvirtHypervisor
from virtuoso_core.spec import VMSpec
from virtuoso_core.testdriver.driver import TestHypervisor as MockHypervisor
from virtuoso_core.testing.memory import MemoryHypervisor
from virtuoso_core.xml import DomainDocument
from virtuoso_kvm.driver import KvmHypervisor
from virtuoso_xen.driver import XenHypervisor

MAIN, DATA, DISC = "/images/main.qcow2", "/images/data.qcow2", "/images/x.iso"
SEED = "/images/web-0.cloud-init.iso"
DOMAINS = Path(__file__).parent / "domains"
Patch = Callable[..., DomainDocument]


def new(hypervisor: Any, **fields: Any) -> VM:
    vm: VM = hypervisor.new_vm()
    vm.name, vm.disk_image = "web", MAIN
    for field, value in fields.items():
        setattr(vm, field, value)
    return vm


# The calls.


def test_the_first_disk_is_the_main_one(hypervisor: MemoryHypervisor) -> None:
    vm = new(hypervisor, disk_image=None)
    assert vm.disks == ()
    vm.add_disk(MAIN)
    vm.add_disk(DATA)
    assert [vm.disk_image, *vm.disks] == [MAIN, MAIN, DATA]
    vm.remove_disk(DATA)
    vm.remove_disk(MAIN)
    assert [vm.disk_image, *vm.disks] == [None]


def test_what_is_no_disk_of_the_vm(hypervisor: MemoryHypervisor) -> None:
    vm = new(hypervisor)
    with pytest.raises(ImageNotFoundError, match=f"It has: {MAIN}"):
        vm.remove_disk(DATA)
    vm.add_disk(DATA)
    for path in (MAIN, DATA):
        with pytest.raises(InvalidValueError, match="already"):
            vm.add_disk(path)
    with pytest.raises(InvalidValueError, match="is the main disk"):
        vm.remove_disk(MAIN)
    assert vm.disks == (MAIN, DATA)


@pytest.mark.parametrize("bad", ["", " ", 7, "two\nlines", None])
def test_what_is_no_path(hypervisor: MemoryHypervisor, bad: Any) -> None:
    vm = new(hypervisor)
    for call in (vm.add_disk, vm.remove_disk):
        with pytest.raises(InvalidValueError, match="path of a disk image"):
            call(bad)
    if bad is not None:
        with pytest.raises(InvalidValueError, match="path of an ISO"):
            vm.cdrom = bad


def test_with_a_size_it_is_made(hypervisor: MemoryHypervisor) -> None:
    vm = new(hypervisor)
    assert vm.add_disk(DATA, "1 GiB") == DATA
    assert hypervisor.disk_info(DATA).size == 1024**3
    with pytest.raises(ImageExistsError):
        new(hypervisor).add_disk(DATA, "1 GiB")
    with pytest.raises(InvalidValueError, match="already"):
        vm.add_disk(DATA, "1 GiB")


def test_in_words() -> None:
    before = VMSpec("web", 1024, 1, disk_image=MAIN, more_disks=("/a", "/b"))
    after = replace(before, more_disks=("/b", "/c"), cdrom=DISC)
    assert diff_text(before, after, {}) == f"cdrom: (not set) -> {DISC!r}\nmore_disks: - /a\nmore_disks: + /c"
    assert diff_text(before, replace(before, more_disks=("/b", "/a")), {}) == "more_disks: in another order"


def test_the_order_of_disks_is_the_hypervisor_s() -> None:
    """libvirt sorts them by where they are plugged in."""
    wanted, found = VMSpec("", 0, 0, more_disks=("/a", "/b")), VMSpec("", 0, 0, more_disks=("/b", "/a"))
    assert not_applied(wanted, found, ["more_disks"], {}) == []
    assert not_applied(wanted, replace(found, more_disks=("/a",)), ["more_disks"], {}) == ["more_disks"]


def test_on_libvirts_mock() -> None:
    """Where a running VM's devices cannot be changed, the change waits."""
    with MockHypervisor.open(URI.parse("test:///default")) as mock:
        vm = new(mock, name="disks")
        vm.add_disk(DATA)
        vm.cdrom = DISC
        vm.save()
        vm.start()
        vm.remove_disk(DATA)
        vm.cdrom = None
        assert vm.save() is SaveResult.NEXT_START
        found = mock.get("disks")
        assert (found.disks, found.cdrom) == ((MAIN,), None)
        assert found._read() == vm._read()
        document = DomainDocument(found.spec)
        assert document.cdrom is not None, "an empty drive stays"
        vm.destroy(force=True)


# In the document.


@pytest.fixture(params=[KvmHypervisor, XenHypervisor])
def libvirt(request: pytest.FixtureRequest) -> Iterator[LibvirtHypervisor]:
    with request.param.open(URI.parse("test:///default")) as opened:
        opened.probes_images = False
        yield opened


@pytest.fixture
def kvm() -> Iterator[LibvirtHypervisor]:
    with KvmHypervisor.open(URI.parse("test:///default")) as opened:
        opened.probes_images = False  # type: ignore[misc]
        yield opened


def patched(hypervisor: LibvirtHypervisor, document: DomainDocument | None = None, **fields: Any) -> DomainDocument:
    """A document, a new VM's when none is given, with these fields of its spec changed."""
    document = hypervisor.new_document() if document is None else document
    before = hypervisor.read_spec(document)
    after = replace(before, **fields)
    hypervisor.patch(document, after, after.changed_from(before))
    found = hypervisor.read_spec(document)
    assert replace(found, options=after.options) == after  # a disk brings the option disk_format with it
    return DomainDocument(document.text)


def test_what_is_read_is_what_was_written(libvirt: LibvirtHypervisor) -> None:
    document = patched(libvirt, disk_image=MAIN, more_disks=(DATA, "/images/c.img"), cdrom=DISC, seed=SEED)
    assert len({disk.target for disk in document.disks}) == 5
    document = patched(libvirt, document, more_disks=("/images/c.img",), cdrom=None, seed=None)
    assert [disk.path for disk in document.disks] == [MAIN, "/images/c.img", None]
    document = patched(libvirt, document, more_disks=("/images/c.img", DATA), cdrom="/images/y.iso")
    assert [disk.path for disk in document.disks] == [MAIN, "/images/c.img", "/images/y.iso", DATA]
    patched(libvirt, document, disk_image=None, more_disks=(), cdrom=None)


def test_the_main_disk_goes_last(libvirt: LibvirtHypervisor) -> None:
    document = patched(libvirt, disk_image=MAIN, more_disks=(DATA,))
    spec = libvirt.read_spec(document)
    with pytest.raises(UnsupportedError, match=f"{DATA} would be its main disk.*remove_disk"):
        libvirt.patch(document, replace(spec, disk_image=None), frozenset({"disk_image"}))
    fresh = libvirt.new_document()
    with pytest.raises(UnsupportedError, match=f"{DATA} would be its main disk"):
        libvirt.patch(fresh, replace(spec, disk_image=None, more_disks=(DATA,)), frozenset({"more_disks"}))


def test_a_disk_becomes_the_main_one(libvirt: LibvirtHypervisor) -> None:
    document = patched(libvirt, disk_image=MAIN, more_disks=(DATA,))
    document = patched(libvirt, document, disk_image=DATA, more_disks=())
    assert [disk.path for disk in document.disks] == [DATA]


def test_a_further_disk_comes_after_the_others(kvm: LibvirtHypervisor) -> None:
    """libvirt would put one with a lower name before them."""
    document = patched(kvm, disk_image=MAIN, more_disks=(DATA, "/b", "/c"))
    document = patched(kvm, document, more_disks=("/c",))
    document = patched(kvm, document, more_disks=("/c", "/d"))
    assert [(disk.path, disk.target) for disk in document.further_disks] == [("/c", "vdd"), ("/d", "vde")]


@pytest.mark.parametrize(
    ("machine", "bus", "target"), [("q35", "sata", "sda"), ("pc-q35-7.2", "sata", "sda"), ("pc", "ide", "hda")]
)
def test_the_drive_fits_the_machine(kvm: LibvirtHypervisor, machine: str, bus: str, target: str) -> None:
    document = kvm.new_document()
    spec = replace(kvm.read_spec(document), cdrom=DISC, options={"machine": machine})
    kvm.patch(document, spec, frozenset({"cdrom", "options.machine"}))  # the machine is another one only now
    drive = document.cdrom
    assert drive is not None
    assert (drive.bus, drive.target, drive.driver_name, drive.format) == (bus, target, "qemu", "raw")
    assert drive.readonly


def test_machines_of_other_processors_have_neither(kvm: LibvirtHypervisor) -> None:
    document = DomainDocument((DOMAINS / "commented_values.xml").read_bytes())
    assert document.arch == "aarch64"
    kvm.patch(document, replace(kvm.read_spec(document), cdrom=DISC), frozenset({"cdrom"}))
    assert document.cdrom is not None
    assert document.cdrom.bus == "scsi"


def test_what_cloud_init_reads_is_found_by_every_cloud_kernel(kvm: LibvirtHypervisor) -> None:
    """Some have no driver for SATA. With another controller there, it is not plugged into that."""
    document = patched(kvm, disk_image=MAIN, seed=SEED)
    assert document.seed is not None
    assert document.seed.bus == "scsi"
    (controller,) = document.root.findall("devices/controller[@type='scsi']")
    assert controller.get("model") == "virtio-scsi"
    patched(kvm, document, seed=None)
    document = patched(kvm, document, seed=SEED)
    assert len(document.root.findall("devices/controller[@type='scsi']")) == 1
    controller = document.root.find("devices/controller[@type='scsi']")  # type: ignore[assignment]
    controller.set("model", "lsilogic")
    document = patched(kvm, patched(kvm, document, seed=None), seed=SEED)
    assert document.seed is not None
    assert document.seed.bus == "sata"


def test_xens_disks_have_one_name_under_two() -> None:
    """xvdb is hdb to a guest that does not know Xen."""
    with XenHypervisor.open(URI.parse("test:///default")) as xen:
        xen.probes_images = False  # type: ignore[misc]
        document = patched(xen, disk_image=MAIN, cdrom=DISC)
        document = patched(xen, document, more_disks=(DATA,))
        assert [disk.target for disk in document.disks] == ["xvda", "hdb", "xvdc"]


@pytest.mark.parametrize("field", ["cdrom", "seed"])
def test_xens_own_guests_have_no_cdrom(field: str) -> None:
    with XenHypervisor.open(URI.parse("test:///default")) as xen:
        xen.probes_images = False  # type: ignore[misc]
        vm = new(xen)
        vm.set("virtualization", "pvh")
        document = xen.new_document()
        spec = replace(vm._current(), **{field: SEED})  # type: ignore[arg-type]
        with pytest.raises(InvalidValueError, match="which only HVM VMs can have"):
            xen.patch(document, spec, spec.changed_from(xen.read_spec(document)))


def test_a_foreign_drive_stays(kvm: LibvirtHypervisor) -> None:
    document = DomainDocument((DOMAINS / "hand_tuned.xml").read_bytes())
    before = document.text
    spec = kvm.read_spec(document)
    assert spec.cdrom == '/srv/iso/it\'s "debian".iso'
    assert spec.more_disks == ("/srv/vm/scratch.img",)
    kvm.patch(document, replace(spec, cdrom=None), frozenset({"cdrom"}))
    drive = document.cdrom
    assert drive is not None
    assert (drive.path, drive.target, drive.boot_order) == (None, "sda", 2)
    kvm.patch(document, spec, frozenset({"cdrom"}))
    assert kvm.read_spec(document) == spec
    assert len(DomainDocument(before).disks) == len(document.disks)


def test_a_disc_from_the_network_is_taken_out(kvm: LibvirtHypervisor) -> None:
    document = DomainDocument((DOMAINS / "network_disks.xml").read_bytes())
    drive = document.cdrom
    assert drive is not None
    assert drive.type == "network"
    kvm.patch(document, replace(kvm.read_spec(document), cdrom=None), frozenset({"cdrom"}))
    assert (drive.type, drive.path) == ("file", None)
    kvm.patch(document, replace(kvm.read_spec(document), cdrom=DISC), frozenset({"cdrom"}))
    assert (drive.type, drive.path, drive.target) == ("file", DISC, "hdc")


def test_a_disc_is_never_taken_for_another_format(kvm: LibvirtHypervisor) -> None:
    """A disc that says it is a qcow2 image could name files of the host."""
    document = patched(kvm, cdrom=DISC)
    drive = document.cdrom
    assert drive is not None
    drive.format = "qcow2"
    document = patched(kvm, document, cdrom="/images/y.iso")
    assert document.cdrom is not None
    assert document.cdrom.format == "raw"


def test_missing_images_are_named(tmp_path: Path) -> None:
    with KvmHypervisor.open(URI.parse("test:///default")) as kvm:
        main = tmp_path / "main.img"
        main.write_bytes(bytes(1024))
        for field in ("more", "disc"):
            vm = new(kvm, disk_image=str(main))
            missing = str(tmp_path / f"{field}.img")
            if field == "more":
                vm.add_disk(missing)
            else:
                vm.cdrom = missing
            with pytest.raises(ImageNotFoundError, match=missing):
                vm.save()


def test_formats_are_looked_up(tmp_path: Path) -> None:
    """Of a further disk as of the main one; the name's suffix proves nothing."""
    from virtuoso_core.images import probe_format

    with KvmHypervisor.open(URI.parse("test:///default")) as kvm:
        for name in ("main.qcow2", "more.qcow2"):
            (tmp_path / name).write_bytes(bytes(1024))
        assert probe_format(str(tmp_path / "more.qcow2")) == "raw"
        vm = new(kvm, disk_image=str(tmp_path / "main.qcow2"))
        vm.add_disk(tmp_path / "more.qcow2")
        assert [disk.format for disk in DomainDocument(vm.spec).disks] == ["raw", "raw"]


# Kernels.


def test_a_missing_kernel_is_named_before_the_start(tmp_path: Path) -> None:
    with KvmHypervisor.open(URI.parse("test:///default")) as kvm:
        vm = new(kvm, disk_image=None, name="direct")
        vm.set("kernel", str(tmp_path / "vmlinuz"))
        vm.set("cmdline", "console=ttyS0 a='b & c'")
        vm.save()
        try:
            assert kvm.get("direct").options["cmdline"] == "console=ttyS0 a='b & c'"
            with pytest.raises(InvalidValueError, match=r"no kernel .*vmlinuz"):
                vm.start()
            (tmp_path / "vmlinuz").touch()
            vm.start()
            vm.stop(timeout=0)
            vm.set("kernel", None)
            vm.save()
            with pytest.raises(InvalidValueError, match="'cmdline' and no kernel"):
                vm.start()
        finally:
            vm.destroy(force=True)
