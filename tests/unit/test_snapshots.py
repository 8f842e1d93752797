"""Which snapshots are taken: what of a VM and of libvirt's version stands in the way, and how that is said."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from virtuoso_core import URI, VM, Hypervisor, State, connect
from virtuoso_core.errors import HypervisorError, InvalidStateError, SnapshotNotFoundError, UnsupportedError
from virtuoso_core.images import probe_format
from virtuoso_core.libvirt_base import snapshots
from virtuoso_core.libvirt_base.vm import LibvirtVM
from virtuoso_core.plugins import default_registry
from virtuoso_core.testing.memory import MemoryVM
from virtuoso_core.xml import Document, DomainDocument
from virtuoso_kvm.driver import KvmHypervisor

DEBIAN_12, BEFORE_10_10, NEW = 9_000_000, 9_010_000, 12_008_000


@pytest.fixture
def hypervisor() -> Iterator[KvmHypervisor]:
    with KvmHypervisor.open(URI.parse("test:///default")) as hypervisor:
        yield hypervisor
        for vm in hypervisor.vms():
            if vm.name != "test":
                vm.destroy(force=True)


class Told:
    """What libvirt would be told, with a domain and a version of one's own."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, vm: LibvirtVM) -> None:
        self.version, self.running, self.others = DEBIAN_12, False, [""]
        self.domain = "<domain><os/><devices/></domain>"
        self.sent: list[tuple[str, int]] = []
        self._vm, self._call = vm, vm._call
        monkeypatch.setattr(vm, "_call", self.call)
        monkeypatch.setattr(vm, "_domain_now", lambda: (DomainDocument(self.domain), self.running))
        monkeypatch.setattr(vm, "_check_left_over", lambda disks, name: None)

    def call(self, doing: str, function: Any, *args: Any) -> Any:
        name = getattr(function, "__name__", "")
        if name == "getLibVersion":
            return self.version
        if name == "snapshotCreateXML":
            self.sent.append(args)
            return None
        return self._call(doing, function, *args)

    def take(self) -> Document:
        self._vm._take_snapshot("good", "")
        ((text, _),) = self.sent
        return Document(text)


@pytest.fixture
def told(hypervisor: KvmHypervisor, monkeypatch: pytest.MonkeyPatch) -> Told:
    vm = hypervisor.new_vm()
    vm.name = "web"
    vm.save()
    assert isinstance(vm, LibvirtVM)
    return Told(monkeypatch, vm)


def domain(*devices: str, os: str = "<os/>", cpus: str = "") -> str:
    return f"<domain>{os}{cpus}<devices>{''.join(devices)}</devices></domain>"


def disk(format: str = "qcow2", *, type: str = "file", extra: str = "", device: str = "disk", dev: str = "vda") -> str:
    source = "file='/i/a.img'" if type == "file" else "protocol='rbd' name='pool/a'"
    return (
        f"<disk type='{type}' device='{device}'><driver name='qemu' type='{format}'/><source {source}/>"
        f"<target dev='{dev}'/>{extra}</disk>"
    )


UEFI = "<os firmware='efi'><loader type='pflash'>/x</loader><nvram>/y</nvram></os>"
UEFI_QCOW2 = UEFI.replace("<nvram>", "<nvram format='qcow2'>")
PLUGGED = "<vcpus><vcpu id='0' enabled='yes' hotpluggable='no'/><vcpu id='1' enabled='yes' hotpluggable='yes'/></vcpus>"


@pytest.mark.parametrize(
    ("running", "version", "text", "kind"),
    [
        (False, DEBIAN_12, domain(disk()), "inside"),
        (True, DEBIAN_12, domain(disk()), "inside"),
        (True, NEW, domain(disk()), "inside"),
        (True, DEBIAN_12, domain(disk(), disk("raw", extra="<readonly/>"), disk("raw", device="cdrom")), "inside"),
        (False, DEBIAN_12, domain(disk(), os=UEFI), "inside"),
        (False, BEFORE_10_10, domain(disk(), os=UEFI), "beside"),
        (False, NEW, domain(disk(), os=UEFI), "beside"),
        (False, NEW, domain(disk(), os=UEFI_QCOW2), "inside"),
        (True, DEBIAN_12, domain(disk(), os=UEFI), "runs with UEFI firmware, whose state libvirt 9.0 cannot keep"),
        (True, BEFORE_10_10, domain(disk(), os=UEFI_QCOW2), "beside"),
        (True, NEW, domain(disk(), os=UEFI), "beside"),
        (True, NEW, domain(disk(), os=UEFI_QCOW2), "inside"),
        (False, DEBIAN_12, domain(disk("raw")), "its disk /i/a.img is raw, and only qcow2 keeps snapshots"),
        (False, DEBIAN_12, domain(disk("raw")), "libvirt 9.0 goes back to no other kind of snapshot"),
        (False, NEW, domain(disk("raw")), "beside"),
        (True, NEW, domain(disk("raw")), "beside"),
        (True, NEW, domain(disk("raw", type="network")), "its disk rbd:pool/a is no image file"),
        (False, DEBIAN_12, domain(), "it has no disk of its own"),
        (True, DEBIAN_12, domain(disk(), cpus=PLUGGED), "processors were plugged in while it ran"),
        (True, BEFORE_10_10, domain(disk(), cpus=PLUGGED), "processors were plugged in while it ran"),
        (True, NEW, domain(disk(), cpus=PLUGGED), "inside"),
        (True, NEW, domain(disk(), "<hostdev/>"), "a device of the host's"),
        (False, NEW, domain(disk(), "<hostdev/>"), "inside"),
        (True, NEW, domain(disk(), "<filesystem/>"), "a folder of the host's"),
    ],
)
def test_what_this_libvirt_can_go_back_to(told: Told, running: bool, version: int, text: str, kind: str) -> None:
    told.running, told.version, told.domain = running, version, text
    if kind not in ("inside", "beside"):
        with pytest.raises(UnsupportedError, match=kind) as caught:
            told.take()
        assert "Nothing was changed." in str(caught.value)
        assert told.sent == []
        return
    document = told.take()
    places = {place.get("snapshot") for place in document.root.iterfind("disks/disk")}
    assert places == ({"external"} if kind == "beside" else set())
    memory = document.root.find("memory")
    assert (memory is not None) == (kind == "beside" and running)
    if memory is not None:
        assert memory.get("file") == "/i/web.good.memory"


def test_advice(told: Told) -> None:
    """What to type next: the way round that this libvirt has."""
    told.running, told.domain = True, domain(disk(), os=UEFI)
    with pytest.raises(UnsupportedError, match="Stop it first: the disks of a VM that is off can be kept"):
        told.take()
    told.domain = domain(disk("raw"))
    with pytest.raises(UnsupportedError, match=r"qemu-img convert -O qcow2 /i/a\.img /i/a\.img\.qcow2"):
        told.take()


def test_both_kinds_do_not_mix(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    told.domain = domain(disk())
    kinds = iter(["external", "internal"])
    monkeypatch.setattr(told._vm, "_native_snapshots", lambda: [object()])
    monkeypatch.setattr(told._vm, "_snapshot_document", lambda native: Document("<domainsnapshot/>"))
    monkeypatch.setattr(snapshots, "_kind", lambda document: next(kinds))
    with pytest.raises(UnsupportedError, match="it has snapshots beside its images, which do not mix"):
        told.take()
    told.version, told.domain = NEW, domain(disk("raw"))
    with pytest.raises(UnsupportedError, match="it has snapshots inside its images, which do not mix"):
        told.take()


def test_a_driver_that_lists_names_only(hypervisor: KvmHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """ESX has no listAllSnapshots."""
    with connect("test:///default") as mock:
        vm = mock.new_vm()
        vm.name = "names-only"
        vm.save()
        assert isinstance(vm, LibvirtVM)
        before = datetime.now(UTC).replace(microsecond=0)
        for name in ("zebra", "apple", "mole"):
            vm.snapshot(name, f"about {name}")
        real = vm._call

        def call(doing: str, function: Any, *args: Any) -> Any:
            if function.__name__ == "listAllSnapshots":
                raise UnsupportedError("no")
            return real(doing, function, *args)

        monkeypatch.setattr(vm, "_call", call)
        found = vm.snapshots
        assert [(each.name, each.parent) for each in found] == [("zebra", None), ("apple", "zebra"), ("mole", "apple")]
        assert [each.current for each in found] == [False, False, True]
        assert found[0].description == "about zebra"
        assert all(before <= (each.created or before) <= datetime.now(UTC) for each in found)
        vm.destroy()


def test_a_snapshot_that_vanishes_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    with connect("test:///default") as mock:
        vm = mock.new_vm()
        vm.name = "vanishing"
        vm.save()
        assert isinstance(vm, LibvirtVM)
        vm.snapshot("a")
        vm.native.snapshotLookupByName("a").delete(0)
        with pytest.raises(SnapshotNotFoundError, match="it is gone"):
            vm._delete_snapshot("a")
        vm.destroy()


@pytest.fixture
def remembered() -> Iterator[Hypervisor]:
    with connect("memory:///snapshots") as remembered:
        yield remembered
        for vm in remembered.vms():
            vm.destroy(force=True)


@pytest.fixture
def vm(remembered: Hypervisor) -> VM:
    vm = remembered.new_vm()
    vm.name = "web"
    vm.save()
    return vm


def test_a_revert_that_does_not_keep_its_promise(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    """libvirt may say that all went well, and the VM is off."""
    vm.start()
    vm.snapshot("works")
    monkeypatch.setattr(MemoryVM, "_revert", lambda vm, name: vm._power_off())
    with pytest.raises(
        HypervisorError, match=r"went back to the snapshot 'works', and is stopped, not running"
    ) as caught:
        vm.revert("works")
    assert "vm.start()" in caught.value.hint


def test_a_revert_that_fails_halfway(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    vm.start()
    vm.snapshot("works")

    def fail(self: MemoryVM, name: str) -> None:
        self._power_off()
        raise HypervisorError("QEMU died.")

    monkeypatch.setattr(MemoryVM, "_revert", fail)
    with pytest.raises(HypervisorError, match=r"QEMU died\. The VM was running before, and is stopped now\."):
        vm.revert("works")


def test_a_revert_that_fails_before_anything(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    vm.snapshot("works")

    def fail(self: MemoryVM, name: str) -> None:
        raise UnsupportedError("Not this one.")

    monkeypatch.setattr(MemoryVM, "_revert", fail)
    with pytest.raises(UnsupportedError, match=r"^Not this one\.$"):
        vm.revert("works")


def test_plugins_are_told(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[str] = []
    monkeypatch.setattr(default_registry(), "notify", lambda event: told.append(event.type))
    vm.snapshot("works")
    vm.revert("works")
    assert told == ["snapshot-taken", "reverted"]


def test_a_crashed_vm(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    vm.snapshot("works")
    host: Any = vm.hypervisor
    host.host.states[vm.uuid] = State.CRASHED
    with pytest.raises(InvalidStateError, match="crashed") as caught:
        vm.snapshot("not-now")
    assert "vm.stop()" in caught.value.hint
    vm.revert("works")
    assert vm.state is State.STOPPED


def test_kept_edits(vm: VM) -> None:
    """Taking and dropping a snapshot leaves unsaved edits alone; going back drops them."""
    vm.memory = "3 GiB"
    vm.snapshot("works")
    assert "memory" in vm.diff()
    vm.snapshot("again")
    vm.delete_snapshot("again")
    assert "memory" in vm.diff()
    vm.revert("works")
    assert vm.diff() == ""


def test_qemu_img_sees_the_snapshots_of_an_image(tmp_path: Path) -> None:
    """What the look for left-over snapshots rests on."""
    import subprocess

    from virtuoso_core.images import probe

    path = tmp_path / "a.qcow2"
    for words in (["create", "-q", "-f", "qcow2", path, "1M"], ["snapshot", "-c", "left", path]):
        subprocess.run(["qemu-img", *map(str, words)], check=True, timeout=60)
    assert probe_format(str(path)) == "qcow2"
    assert [each["name"] for each in probe(str(path))["snapshots"]] == ["left"]
