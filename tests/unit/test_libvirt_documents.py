"""Drivers on libvirt: from spec to domain document and back, and what libvirt's own schema says to it."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lxml import etree

from virtuoso_core import URI
from virtuoso_core.errors import ImageNotFoundError, InvalidValueError, UnsupportedError
from virtuoso_core.libvirt_base import LibvirtHypervisor
from virtuoso_core.spec import MAX_CPUS, MAX_MEMORY, MAX_NAME_BYTES, Network, VMSpec
from virtuoso_core.testdriver.driver import TestHypervisor
from virtuoso_core.xml import DomainDocument
from virtuoso_kvm.driver import KvmHypervisor

pytest.importorskip("libvirt", reason="libvirt-python is not installed")

SAMPLES = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "domains").glob("*.xml"))}
KVM_SAMPLES = [name for name in SAMPLES if DomainDocument(SAMPLES[name]).type in ("kvm", "qemu")]

NODE = """<node>
  <network><name>default</name><forward mode='nat'/><ip address='192.168.150.1' netmask='255.255.255.0'/></network>
  <network><name>routed</name><forward mode='route'/><ip address='192.168.151.1' netmask='255.255.255.0'/></network>
  <network><name>lab</name><ip address='192.168.152.1' netmask='255.255.255.0'/></network>
  <network><name>quiet</name></network>
</node>"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A place for this module's files."""
    return tmp_path_factory.mktemp("host")


@pytest.fixture(scope="module")
def drivers(folder: Path) -> Iterator[dict[str, LibvirtHypervisor]]:
    """Both drivers, each on a mock host of its own with the networks above."""
    (folder / "node.xml").write_text(NODE)
    uri = URI.parse(f"test://{folder}/node.xml")
    opened: dict[str, LibvirtHypervisor] = {"test": TestHypervisor.open(uri), "kvm": KvmHypervisor.open(uri)}
    yield opened
    for hypervisor in opened.values():
        hypervisor.close()


@pytest.fixture(scope="module")
def kvm(drivers: dict[str, LibvirtHypervisor]) -> LibvirtHypervisor:
    """The one of the two that knows more."""
    return drivers["kvm"]


@pytest.fixture(scope="module")
def image(folder: Path) -> Path:
    """A real image, whose suffix lies."""
    path = folder / "disk <1> & 'two'.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", path, "1M"], check=True)
    return path


# What specs may hold.

CHARS = st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]).filter(lambda c: ord(c) not in (0xFFFE, 0xFFFF))
PRINTABLE = st.text(CHARS.filter(lambda c: c not in "/\u2028\u2029"), min_size=1, max_size=40)
NAMES = PRINTABLE.filter(lambda name: name.strip() and name not in (".", "..") and len(name.encode()) <= MAX_NAME_BYTES)
MACS = st.lists(st.integers(0, 255), min_size=5, max_size=5).map(
    lambda numbers: ":".join(f"{number:02x}" for number in [0x52, *numbers])
)
SOURCES = {
    "nat": st.sampled_from(["default", "routed"]),
    "bridged": st.sampled_from(["br-none", "br0:x", "lo"]),  # "lo" is there and no bridge: macvtap
    "host_only": st.sampled_from(["virtuoso-host-only", "lab"]),
    "internal": st.sampled_from(["virtuoso-internal", "quiet"]),
}
MODELS = st.sampled_from(["virtio", "e1000e", None])


@st.composite
def networks(draw: st.DrawFn) -> tuple[Network, ...]:
    """Some cards with addresses of their own."""
    macs = draw(st.lists(MACS, max_size=4, unique=True))
    types = [draw(st.sampled_from(sorted(SOURCES))) for _ in macs]
    return tuple(Network(type, mac, draw(SOURCES[type]), draw(MODELS)) for type, mac in zip(types, macs, strict=True))


@st.composite
def options(draw: st.DrawFn, driver: str) -> dict[str, Any]:
    """Options that go together."""
    found: dict[str, Any] = {"headless": draw(st.booleans())}
    if not found["headless"] and draw(st.booleans()):
        found["vnc_password"] = draw(st.text(CHARS, min_size=1, max_size=8))
    kinds = st.sampled_from(["hd", "cdrom", "network", "fd"])
    found["boot"] = tuple(draw(st.lists(kinds, unique=True, min_size=1)))
    if driver == "kvm":
        found["accel"] = draw(st.sampled_from(["kvm", "tcg"]))
        modes = ["maximum"] if found["accel"] == "tcg" else ["maximum", "host-model", "host-passthrough"]
        found["cpu"] = draw(st.sampled_from([*modes, "Nehalem", "custom"]) | PRINTABLE)
        assume(found["accel"] == "kvm" or not found["cpu"].startswith("host-"))
        found["machine"] = draw(PRINTABLE)
        found["firmware"] = draw(st.sampled_from(["bios", "uefi"]))
        if draw(st.booleans()):
            found["serial_log"] = "/" + draw(PRINTABLE)
    return found


@pytest.mark.parametrize("driver", ["test", "kvm"])
@settings(deadline=None)
@given(data=st.data())
def test_a_new_vm_reads_back_as_it_was_written(
    driver: str, data: st.DataObject, drivers: dict[str, LibvirtHypervisor], image: Path
) -> None:
    hypervisor = drivers[driver]
    document = hypervisor.new_document()
    base = hypervisor.read_spec(document)
    chosen = data.draw(options(driver))
    # only the driver that looks at images wants them to exist
    disk = data.draw(st.none() | (st.just(str(image)) if driver == "kvm" else PRINTABLE.map("/{}".format)))
    if driver == "kvm" and disk:
        chosen["disk_format"] = data.draw(st.sampled_from(["qcow2", "raw", "vdi"]))
    spec = VMSpec(
        data.draw(NAMES),
        data.draw(st.integers(1, MAX_MEMORY)),
        data.draw(st.integers(1, MAX_CPUS)),
        disk,
        data.draw(networks()),
        {**base.options, **chosen},
    )
    hypervisor.patch(document, spec, spec.changed_from(base))
    assert hypervisor.read_spec(DomainDocument(document.text)) == spec
    assert [disk.device for disk in document.disks] == ["disk"] * bool(disk)


@settings(deadline=None)
@given(data=st.data(), name=st.sampled_from(KVM_SAMPLES))
def test_a_vm_of_others_reads_back_as_it_was_changed(
    data: st.DataObject, name: str, kvm: LibvirtHypervisor, image: Path
) -> None:
    document = DomainDocument(SAMPLES[name])
    base = kvm.read_spec(document)
    mine = {network.mac_address for network in base.networks}
    # where the main disk goes, the next one is the main disk
    without = [None] if sum(disk.device == "disk" for disk in document.disks) < 2 else []
    spec = replace(
        base,
        name=data.draw(NAMES),
        memory=data.draw(st.integers(1, MAX_MEMORY)),
        cpus=data.draw(st.integers(1, 32)),
        disk_image=data.draw(st.sampled_from([base.disk_image, str(image), *without])),
        networks=data.draw(st.permutations(base.networks).map(lambda cards: tuple(cards[:1])))
        + tuple(network for network in data.draw(networks()) if network.mac_address not in mine),
    )
    chosen = data.draw(options("kvm"))
    new_screen = not chosen["headless"] and base.options["headless"]
    if "vnc_password" not in base.options and not new_screen:
        chosen.pop("vnc_password", None)
    keep = set(data.draw(st.lists(st.sampled_from(sorted(chosen)))))
    if keep & {"accel", "cpu", "headless", "vnc_password"}:
        keep |= {"accel", "cpu", "headless", "vnc_password"}
    spec = replace(spec, options={**base.options, **{key: chosen[key] for key in keep & chosen.keys()}})
    if spec.options["headless"]:
        spec.options.pop("vnc_password", None)  # type: ignore[attr-defined]
    if spec.disk_image is None:
        spec.options.pop("disk_format", None)  # type: ignore[attr-defined]
    elif spec.disk_image != base.disk_image:
        spec.options["disk_format"] = "vdi"  # type: ignore[index]
    try:
        kvm.patch(document, spec, spec.changed_from(base))
    except InvalidValueError:  # memory or processors that this document fixes
        return
    found, wanted = kvm.read_spec(DomainDocument(document.text)).values(), spec.values()
    if "boot" not in keep:  # a device that goes takes its number in the order along
        found.pop("options.boot", None)
        wanted.pop("options.boot", None)
    if spec.cpus > base.options.get("max_cpus", spec.cpus):
        found.pop("options.max_cpus", None)  # more than there was room for: that grows along
        wanted.pop("options.max_cpus", None)
    assert found == wanted


def test_the_format_is_the_images_own_unless_it_is_said(kvm: LibvirtHypervisor, image: Path) -> None:
    document = kvm.new_document()
    spec = replace(kvm.read_spec(document), name="a", disk_image=str(image))
    kvm.patch(document, spec, frozenset({"disk_image"}))
    assert kvm.read_spec(document).options["disk_format"] == "qcow2"
    kvm.patch(document, replace(spec, options={"disk_format": "raw"}), frozenset({"options.disk_format"}))
    assert kvm.read_spec(document).options["disk_format"] == "raw"


def test_an_image_that_is_not_there_is_named(kvm: LibvirtHypervisor, folder: Path) -> None:
    document = kvm.new_document()
    spec = replace(kvm.read_spec(document), disk_image=str(folder / "nothing.qcow2"))
    with pytest.raises(ImageNotFoundError, match=r"nothing\.qcow2"):
        kvm.patch(document, spec, frozenset({"disk_image"}))


def test_a_new_vm_has_the_features_of_the_template_and_neither_disk_nor_card(
    drivers: dict[str, LibvirtHypervisor],
) -> None:
    for hypervisor in drivers.values():
        template, document = hypervisor.template(), hypervisor.new_document()
        assert (template.disks, template.interfaces) != ([], [])
        assert (document.disks, document.interfaces, document.main_disk) == ([], [], None)
        assert document.memory == template.memory


# A save that is refused half way.


def test_a_refused_change_leaves_the_vm_and_its_next_save_as_they_were(drivers: dict[str, LibvirtHypervisor]) -> None:
    hypervisor: Any = drivers["test"]
    text = (
        "<domain type='test'><name>topology</name><memory>65536</memory><vcpu>4</vcpu><os><type>hvm</type></os>"
        "<cpu mode='custom' match='exact'><model>Nehalem</model>"
        "<topology sockets='1' dies='1' cores='2' threads='2'/></cpu></domain>"
    )
    domain = hypervisor.connection.native.defineXML(text)
    before = domain.XMLDesc()
    vm = hypervisor.get("topology")
    vm.memory, vm.cpus = 131072, 6
    for _ in range(2):
        with pytest.raises(InvalidValueError, match="multiple"):
            vm.save()
        assert domain.XMLDesc() == before
    vm.cpus = 8
    vm.save()
    found = hypervisor.get("topology")
    assert (found.memory, found.cpus) == (131072, 8)


# libvirt's schema.

SCHEMAS = ("/usr/share/libvirt/schemas", "/usr/local/share/libvirt/schemas", "/opt/homebrew/share/libvirt/schemas")


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    """libvirt's own description of domain XML."""
    place = next((Path(path) for path in SCHEMAS if (Path(path) / "domain.rng").exists()), None)
    if place is None:
        pytest.skip("libvirt's schemas are not installed (Debian: libvirt0)")
    return etree.RelaxNG(etree.parse(place / "domain.rng"))


OPTIONS: dict[str, tuple[Any, ...]] = {
    "accel": ("kvm", "tcg"),
    "machine": ("q35", "pc", "pc-q35-7.2"),
    "cpu": ("maximum", "host-passthrough", "host-model", "Nehalem"),
    "firmware": ("uefi", "bios"),
    "headless": (True, False),
    "vnc_password": ("a<b",),
    "boot": (("hd",), ("network", "cdrom", "hd", "fd")),
    "serial_log": ("/var/log/a b.log",),
    "disk_format": ("raw", "qcow2", "vmdk", "vdi", "vpc", "qed"),
    "max_cpus": (48,),
    "max_memory": (128 * 1024 * 1024,),
    "kernel": ("/boot/a b",),
    "initrd": ("/boot/initrd.img",),
    "cmdline": ("console=ttyS0 a=<&>",),
}
VALUES = [(name, value) for name, values in OPTIONS.items() for value in values]


def test_every_option_of_kvm_and_every_choice_is_tried() -> None:
    assert OPTIONS.keys() == KvmHypervisor.options.keys()
    for name, option in KvmHypervisor.options.items():
        if option.choices and option.kind != "list":
            assert set(option.choices) == set(OPTIONS[name])


@pytest.mark.parametrize("name", SAMPLES)
def test_the_samples_follow_the_schema(name: str, schema: etree.RelaxNG) -> None:
    schema.assertValid(DomainDocument(SAMPLES[name]).root.getroottree())


@pytest.mark.parametrize(("option", "value"), VALUES)
@pytest.mark.parametrize("name", ["new", *KVM_SAMPLES])
def test_every_option_makes_documents_that_follow_the_schema(
    name: str, option: str, value: object, kvm: LibvirtHypervisor, image: Path, schema: etree.RelaxNG
) -> None:
    document = kvm.new_document() if name == "new" else DomainDocument(SAMPLES[name])
    base = kvm.read_spec(document)
    spec = replace(base, name="new <name>", disk_image=str(image), options={**base.options, option: value})
    changed = spec.changed_from(base) | {f"options.{option}"}
    refused = (option == "vnc_password" and not any(screen.type == "vnc" for screen in document.graphics)) or (
        str(value).startswith("host-") and document.type == "qemu"
    )
    if refused:
        with pytest.raises(InvalidValueError):
            kvm.patch(document, spec, changed)
        return
    kvm.patch(document, spec, changed)
    schema.assertValid(etree.fromstring(document.text))
    kvm.patch(document, replace(spec, options=base.options), frozenset({f"options.{option}"}))
    schema.assertValid(etree.fromstring(document.text))


@pytest.mark.parametrize("type", sorted(SOURCES))
@pytest.mark.parametrize("name", ["new", *KVM_SAMPLES])
def test_every_network_makes_documents_that_follow_the_schema(
    name: str, type: str, kvm: LibvirtHypervisor, schema: etree.RelaxNG
) -> None:
    for source in ["lo", "br0"] if type == "bridged" else [None]:
        document = kvm.new_document() if name == "new" else DomainDocument(SAMPLES[name])
        document.name = "a"
        base = kvm.read_spec(document)
        network = kvm._network_defaults(Network(type, "52:54:00:00:00:99", source))
        for cards in ((*base.networks, network), (network,), ()):
            kvm.patch(document, replace(base, networks=cards), frozenset({"networks"}))
            schema.assertValid(etree.fromstring(document.text))
            assert kvm.read_spec(document).networks == cards


@pytest.mark.parametrize("name", KVM_SAMPLES)
def test_other_sizes_follow_the_schema(name: str, kvm: LibvirtHypervisor, schema: etree.RelaxNG) -> None:
    base = kvm.read_spec(DomainDocument(SAMPLES[name]))
    for spec in (replace(base, memory=base.memory * 2 + 1), replace(base, cpus=12), replace(base, disk_image=None)):
        document = DomainDocument(SAMPLES[name])
        try:
            kvm.patch(document, spec, spec.changed_from(base))
        except InvalidValueError:
            assert "growing" in base.name or spec.cpus != base.cpus
            continue
        except UnsupportedError:
            assert sum(disk.device == "disk" for disk in DomainDocument(SAMPLES[name]).disks) > 1
            assert spec.disk_image is None
            continue
        schema.assertValid(etree.fromstring(document.text))
