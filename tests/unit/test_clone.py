"""Clones: what of a domain document becomes the copy's own, and what stays to the letter."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from virtuoso_core import URI, VM, Hypervisor, connect, unfinished
from virtuoso_core.clones import _beside
from virtuoso_core.errors import (
    ImageError,
    ImageFormatError,
    NoSpaceError,
    SaveVetoedError,
    UnsupportedError,
    VMExistsError,
)
from virtuoso_core.libvirt_base.vm import LibvirtVM
from virtuoso_core.local_storage import LocalStorage
from virtuoso_core.plugins import default_registry
from virtuoso_core.unfinished import Undertaking, undertaking
from virtuoso_core.xml import DomainDocument
from virtuoso_kvm.driver import KvmHypervisor

TWO_DISKS = """
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <!-- by hand -->
  <name>web</name>
  <uuid>7c2c3a5e-6a77-4b53-9d8b-0d4ad1e5c0a1</uuid>
  <genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>
  <title>kept</title>
  <metadata><mine:own xmlns:mine="urn:mine">kept &amp; loved</mine:own></metadata>
  <memory unit='KiB'>262144</memory>
  <vcpu>1</vcpu>
  <sysinfo type='smbios'>
    <system><entry name='serial'>42</entry><entry name='uuid'>7c2c3a5e-6a77-4b53-9d8b-0d4ad1e5c0a1</entry></system>
  </sysinfo>
  <os>
    <type>hvm</type>
    <nvram template='/t.fd'>{folder}/web_VARS.fd</nvram>
  </os>
  <devices>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw' cache='none'/>
      <source file='{folder}/web.img'/>
      <target dev='vda' bus='virtio'/>
      <serial>kept</serial>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='qcow2'/>
      <source file='{folder}/data.qcow2'/>
      <backingStore/>
      <target dev='vdb' bus='virtio'/>
    </disk>
    <disk type='file' device='disk'>
      <driver name='qemu' type='raw'/>
      <source file='{folder}/shared.img'/>
      <target dev='vdc' bus='virtio'/>
      <shareable/>
    </disk>
    <interface type='network'>
      <mac address='52:54:00:00:00:01'/>
      <source network='default'/>
      <bandwidth><inbound average='1000'/></bandwidth>
      <virtualport type='openvswitch'><parameters interfaceid='7c2c3a5e-6a77-4b53-9d8b-0d4ad1e5c0a2'/></virtualport>
      <target dev='tap-web'/>
      <model type='e1000'/>
    </interface>
    <serial type='file'>
      <source path='/var/log/web.log'/>
      <log file='/var/log/web.copy.log' append='on'/>
    </serial>
    <channel type='unix'>
      <source mode='bind' path='/run/web.sock'/>
      <target type='virtio' name='org.qemu.guest_agent.0'/>
    </channel>
    <channel type='unix'>
      <source mode='connect' path='/run/host.sock'/>
      <target type='virtio' name='mine'/>
    </channel>
    <graphics type='vnc' port='5907' autoport='no' websocket='5707' passwd='secret'/>
    <vsock model='virtio'><cid auto='no' address='3'/></vsock>
  </devices>
  <qemu:commandline><qemu:arg value='-nodefaults'/></qemu:commandline>
</domain>
"""


def image(path: Path, format: str = "raw", size: str = "1M") -> Path:
    subprocess.run(["qemu-img", "create", "-q", "-f", format, str(path), size], check=True, timeout=60)
    return path


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where steps that go on are written down."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))


@pytest.fixture
def hypervisor() -> Iterator[KvmHypervisor]:
    """KVM's driver on libvirt's mock, with real image files."""
    with KvmHypervisor.open(URI.parse("test:///default")) as hypervisor:
        yield hypervisor
        for vm in hypervisor.vms():
            if vm.name != "test":
                vm.destroy(force=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    folder.mkdir()
    image(folder / "web.img")
    image(folder / "data.qcow2", "qcow2")
    image(folder / "shared.img")
    (folder / "web_VARS.fd").write_bytes(b"the firmware's".ljust(1024))
    return folder


@pytest.fixture
def web(hypervisor: KvmHypervisor, folder: Path) -> LibvirtVM:
    vm = hypervisor.new_vm()
    vm.name, vm.disk_image = "web", folder / "web.img"
    vm.save()
    assert isinstance(vm, LibvirtVM)
    return vm


def test_what_becomes_its_own_and_what_stays(
    hypervisor: KvmHypervisor, folder: Path, web: LibvirtVM, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(web), "_read", lambda vm: read(vm))

    def read(vm: LibvirtVM) -> Any:
        vm._document = DomainDocument(TWO_DISKS.format(folder=folder))
        return hypervisor.read_spec(vm._document)

    before = web._read()
    assert web._own_disks(before) == {f"{folder}/web.img": "raw", f"{folder}/data.qcow2": "qcow2"}
    image(folder / "two.qcow2", "qcow2")
    image(folder / "two-1.qcow2", "qcow2")
    card = replace(before.networks[0], mac_address="52:54:00:00:00:02")
    more = (f"{folder}/two-1.qcow2", f"{folder}/shared.img")
    spec = replace(before, name="two", disk_image=f"{folder}/two.qcow2", more_disks=more, networks=(card,))
    with undertaking(hypervisor, "a test") as step:
        document = web._clone_document(spec, step)
    wanted = TWO_DISKS.format(folder=folder)
    for old, new in [
        ("<name>web<", "<name>two<"),
        ("  <uuid>7c2c3a5e-6a77-4b53-9d8b-0d4ad1e5c0a1</uuid>\n", ""),
        ("<genid>43dc0cf8-809b-4adb-9bea-a9abb5f3d90e</genid>", "<genid></genid>"),
        ("<entry name='uuid'>7c2c3a5e-6a77-4b53-9d8b-0d4ad1e5c0a1</entry>", ""),
        ("web_VARS.fd", "two_VARS.fd"),
        (f"{folder}/web.img", f"{folder}/two.qcow2"),
        ("type='raw' cache", "type='qcow2' cache"),
        ("data.qcow2", "two-1.qcow2"),
        ("      <backingStore/>\n", ""),
        ("00:00:01", "00:00:02"),
        ("<parameters interfaceid='7c2c3a5e-6a77-4b53-9d8b-0d4ad1e5c0a2'/>", "<parameters/>"),
        ("      <target dev='tap-web'/>\n", ""),
        ("/var/log/web.log", "/var/log/two-web.log"),
        ("/var/log/web.copy.log", "/var/log/two-web.copy.log"),
        ("      <source mode='bind' path='/run/web.sock'/>\n", ""),
        ("port='5907' autoport='no' websocket='5707'", "port='-1' autoport='yes' websocket='-1'"),
        ("<cid auto='no' address='3'/>", "<cid auto='yes'/>"),
    ]:
        assert old in wanted, old
        wanted = wanted.replace(old, new)
    assert document.canonical() == DomainDocument(wanted).canonical()
    assert (folder / "two_VARS.fd").read_bytes() == (folder / "web_VARS.fd").read_bytes()


def test_nvram_that_only_the_hypervisor_may_read(
    web: LibvirtVM, hypervisor: KvmHypervisor, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The clone's starts anew, from the template."""

    def refuse(*args: Any, **named: Any) -> None:
        raise ImageError("no")

    monkeypatch.setattr(LocalStorage, "copy", refuse)
    document = DomainDocument(TWO_DISKS.format(folder=folder))
    with undertaking(hypervisor, "a test") as step:
        web._own_nvram(document, "two", step)
    assert not document.nvram
    assert document.root.find("os/nvram") is not None
    document = DomainDocument(f"<domain><os><nvram>{folder}/gone.fd</nvram></os></domain>")
    web._own_nvram(document, "two", Undertaking(hypervisor, "a test"))
    assert document.root.find("os/nvram") is None


def test_encrypted_disks(web: LibvirtVM, folder: Path) -> None:
    spec = web._read()
    assert web._document is not None
    disk = web._document.disks[0]
    web._document.ensure(disk.element, ("source", "encryption"))
    with pytest.raises(UnsupportedError, match=r"web\.img is encrypted"):
        web._own_disks(spec)


def test_a_header_that_a_guest_wrote(web: LibvirtVM, folder: Path, tmp_path: Path) -> None:
    """A raw disk that looks like an overlay of a file of the host's would give its guest that file."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"s" * 65536)
    forged = ["create", "-q", "-f", "qcow2", "-F", "raw", "-b", str(secret), str(folder / "web.img")]
    subprocess.run(["qemu-img", *forged], check=True, timeout=60)
    before = set(folder.iterdir())
    for linked in (True, False):
        with pytest.raises(ImageFormatError, match="which its guest may have written"):
            web.clone("two", linked=linked)
    assert set(folder.iterdir()) == before


def test_a_linked_clone_says_the_format_of_its_base(web: LibvirtVM, folder: Path, hypervisor: KvmHypervisor) -> None:
    twin = web.clone("two")
    assert twin.disk_image == f"{folder}/two.qcow2"
    said = subprocess.run(["qemu-img", "info", twin.disk_image], check=True, capture_output=True, text=True, timeout=60)
    assert "backing file format: raw" in said.stdout
    assert DomainDocument(twin.spec).disks[0].format == "qcow2"
    full = web.clone("three", linked=False)
    assert full.disk_image == f"{folder}/three.img"
    assert DomainDocument(full.spec).disks[0].format == "raw"


def test_progress_of_several_disks(web: LibvirtVM, folder: Path) -> None:
    web.add_disk(folder / "data.qcow2")
    web.save()
    told: list[tuple[int, int]] = []
    twin = web.clone("two", linked=False, progress=lambda done, total: told.append((done, total)))
    assert twin.disks == (f"{folder}/two.img", f"{folder}/two-1.qcow2")
    assert {total for _, total in told} == {2 * 1024 * 1024}
    assert told == sorted(told)
    assert told[-1][0] == 2 * 1024 * 1024


def test_what_cloud_init_reads_is_copied(web: LibvirtVM, folder: Path) -> None:
    web.cloud_init(user="me", password="secret")  # noqa: S106 - nobody's
    web.save()
    mine = web._read().seed
    twin = web.clone("two")
    other = twin._read().seed
    assert mine is not None
    assert other is not None
    assert mine != other
    assert Path(other).read_bytes() == Path(mine).read_bytes()
    assert Path(other).stat().st_mode & 0o077 == 0
    twin.destroy()
    assert not Path(other).exists()
    assert Path(mine).exists()


@contextmanager
def nothing_left(folder: Path, hypervisor: Hypervisor) -> Iterator[None]:
    files, names = set(folder.iterdir()), [vm.name for vm in hypervisor.vms()]
    yield
    assert set(folder.iterdir()) == files
    assert [vm.name for vm in hypervisor.vms()] == names
    assert unfinished.unfinished() == []


@pytest.mark.parametrize("failing", ["publish", "create", "copy"])
@pytest.mark.parametrize("error", [NoSpaceError("full"), KeyboardInterrupt()])
def test_files_that_cannot_be_made(
    web: LibvirtVM,
    folder: Path,
    failing: str,
    error: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The second disk: the first one, which was made, goes again."""
    web.add_disk(folder / "data.qcow2")
    web.save()
    real, calls = getattr(LocalStorage, failing), []

    def fail(self: LocalStorage, *args: Any, **named: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise error
        return real(self, *args, **named)

    monkeypatch.setattr(LocalStorage, failing, fail)
    with nothing_left(folder, web.hypervisor), pytest.raises(type(error)):
        web.clone("two", linked=failing != "copy")
    assert len(calls) == 2


def test_somebody_else_takes_the_name_meanwhile(
    web: LibvirtVM, folder: Path, hypervisor: KvmHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their VM stays; what was made for the clone goes."""
    real = LibvirtVM._clone

    def late(self: LibvirtVM, spec: Any, step: Any) -> str:
        other = hypervisor.new_vm()
        other.name = spec.name
        other.save()
        return real(self, spec, step)

    monkeypatch.setattr(LibvirtVM, "_clone", late)
    files = set(folder.iterdir())
    with pytest.raises(VMExistsError, match="'two'"):
        web.clone("two")
    assert set(folder.iterdir()) == files
    assert hypervisor.get("two").disk_image is None


def test_plugins_may_refuse(web: LibvirtVM, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(vm: VM, changed: frozenset[str]) -> None:
        assert (vm.name, "memory" in changed) == ("two", True)
        raise SaveVetoedError("not today")

    monkeypatch.setattr(default_registry(), "before_save", refuse)
    with nothing_left(folder, web.hypervisor), pytest.raises(SaveVetoedError, match="not today"):
        web.clone("two")


def test_unsaved_edits_are_not_copied(web: LibvirtVM) -> None:
    saved = web.memory
    web.memory = "3 GiB"
    assert web.clone("two").memory == saved
    assert "memory" in web.diff()


@pytest.mark.parametrize(
    ("path", "beside"),
    [
        ("/images/web.qcow2", "/images/two.qcow2"),
        ("[one] web/web.vmdk", "[one] web/two.qcow2"),
        ("[one] web.vmdk", "[one] two.qcow2"),
        ("/dev/sdb", None),
        ("rbd:pool/web", None),
        ("default/web", None),
    ],
)
def test_where_the_new_images_lie(path: str, beside: str | None) -> None:
    assert _beside(path, "two.qcow2") == beside


def test_disks_that_are_no_files() -> None:
    with connect("memory:///clones") as remembered:
        vm = remembered.new_vm()
        vm.name = "web"
        remembered.create_disk("/dev/sdb", "1 MiB")
        vm.disk_image = "/dev/sdb"
        vm.save()
        with pytest.raises(UnsupportedError, match="/dev/sdb, which is not an image file"):
            vm.clone("two")
        assert remembered.find("two") is None
