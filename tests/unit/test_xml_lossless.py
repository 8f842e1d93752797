"""Nothing is ever lost: every field and every change, on every sample document, touches its own place and no other."""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lxml import etree

from virtuoso_core import URI
from virtuoso_core.errors import InvalidOptionError, InvalidValueError
from virtuoso_core.libvirt_base import XmlOption
from virtuoso_core.libvirt_base.networks import Wiring
from virtuoso_core.spec import SEED_SUFFIX, Network, VMSpec
from virtuoso_core.xml import DomainDocument, domain
from virtuoso_core.xml.document import View, text_of
from virtuoso_core.xml.fields import Field, Flag, Integer, Memory, YesNo
from virtuoso_kvm.driver import KvmHypervisor

SAMPLES = {path.stem: path.read_bytes() for path in sorted((Path(__file__).parent / "domains").glob("*.xml"))}
every_sample = pytest.mark.parametrize("name", SAMPLES)

VALUES: dict[str, dict[str, Any]] = {
    "DomainDocument": {
        "type": "qemu",
        "name": "other <&\"'> name",
        "uuid": "00000000-1111-2222-3333-444444444444",
        "memory": 3 * 1024 * 1024,
        "current_memory": 1024 * 1024,
        "max_memory": 128 * 1024 * 1024,
        "memory_slots": 3,
        "vcpus_maximum": 16,
        "vcpus_current": 3,
        "arch": "riscv64",
        "machine": "microvm",
        "os_type": "exe",
        "firmware": "bios",
        "firmware_features": True,
        "secure_boot": None,
        "secure_boot_name": "x-feature",
        "kernel": "/opt/vmlinuz",
        "initrd": "/opt/initrd.img",
        "cmdline": "root=/dev/x quiet",
        "bootloader": "/opt/bootloader",
        "loader": "/opt/loader.fd",
        "loader_type": "rom",
        "nvram": "/opt/vars.fd",
        "cpu_mode": "maximum",
        "cpu_model": "Nehalem",
        "cpu_match": "minimum",
        "cpu_check": "full",
        "cpu_migratable": "off",
        "sockets": 7,
        "dies": 5,
        "clusters": 6,
        "cores": 9,
        "threads": 4,
        "emulator": "/opt/qemu",
        "serial_log": "/opt/serial.log",
        "serial_log_append": "maybe",
        "serial_type": "tcp",
    },
    "Disk": {
        "type": "dir",
        "device_attribute": "changer",
        "driver_name": "tap",
        "format": "vhdx",
        "source_file": "/opt/x.img",
        "source_dev": "/dev/x",
        "source_dir": "/opt/x",
        "source_pool": "x pool",
        "source_volume": "x volume",
        "source_protocol": "nbd",
        "source_name": "x name",
        "target": "sdx",
        "bus": "usb",
        "backing_store": True,
        "readonly": True,
        "shareable": True,
        "boot_order": 42,
    },
    "Interface": {
        "type": "udp",
        "mac_address": "52:54:00:00:00:01",
        "source_network": "x net",
        "source_bridge": "brx",
        "source_dev": "ethx",
        "source_name": "x name",
        "source_mode": "private",
        "model": "rtl8139",
        "target": "tapx",
        "boot_order": 42,
    },
    "Graphics": {
        "type": "sdl",
        "port": 5999,
        "autoport": None,
        "tls_port": 5998,
        "listen": "::",
        "socket_attribute": "/opt/x.sock",
        "listen_socket": "/opt/y.sock",
        "listen_address": "192.0.2.1",
        "password": "pa<ss",
    },
    "Terminal": {"type": "tcp"},
    "Channel": {"name": "x.channel", "state": "connected"},
    "Cell": {"memory": 7 * 1024, "cpus": "0-99"},
}
"""A value for every field: one that no sample has, or None for "the opposite of what is there"."""


def fields_of(view: type) -> dict[str, Field[Any]]:
    """The descriptors of a class."""
    return {name: value for name, value in vars(view).items() if isinstance(value, Field)}


VIEWS = {
    name: view
    for name, view in inspect.getmembers(domain, inspect.isclass)
    if issubclass(view, View | DomainDocument) and fields_of(view)
}
ALL_FIELDS = [(view, name) for view, there in VIEWS.items() for name in fields_of(VIEWS[view])]


def test_the_table_of_values_names_every_field_and_no_other() -> None:
    assert {view: set(values) for view, values in VALUES.items()} == {
        name: set(fields_of(view)) for name, view in VIEWS.items()
    }


def test_two_fields_of_a_view_have_two_places() -> None:
    for view in VIEWS.values():
        places = [(field.path, field.attribute, type(field) is Flag) for field in fields_of(view).values()]
        assert len(set(places)) == len(places)


Viewed = View | DomainDocument


def views(document: DomainDocument, kind: str) -> list[Viewed]:
    """The views of that class in a document."""
    found: dict[str, list[Any]] = {
        "DomainDocument": [document],
        "Disk": document.disks,
        "Interface": document.interfaces,
        "Graphics": document.graphics,
        "Terminal": document.terminals,
        "Channel": [domain.Channel(document, channel) for channel in document.root.findall("devices/channel")],
        "Cell": document._cells(),
    }
    return found[kind]


def every_field(document: DomainDocument) -> Iterator[tuple[Viewed, str, Any]]:
    """Each field of each view in a document, with another value than it has."""
    for kind, name in ALL_FIELDS:
        for view in views(document, kind):
            value = VALUES[kind][name]
            yield view, name, not getattr(view, name) if value is None else value


def places(document: DomainDocument) -> dict[str, int]:
    """For each field of each view, where it stands: its number in ``every_field``."""
    return {f"{number} {name}": number for number, (_, name, _) in enumerate(every_field(document))}


def absent(view: Viewed, name: str) -> bool:
    """Whether the field's place is not there."""
    field: Field[Any] = vars(type(view))[name]
    element = view.document.find(view.element, field.path)
    return element is None or (field.attribute is not None and field.attribute not in element.attrib)


# Single fields.


@every_sample
def test_every_field_is_written_read_back_and_taken_away(name: str) -> None:
    for number in places(DomainDocument(SAMPLES[name])).values():
        document = DomainDocument(SAMPLES[name])
        view, field, value = list(every_field(document))[number]
        if isinstance(vars(type(view))[field], Flag) and not absent(view, field):
            value = False
        setattr(view, field, value)
        again, _, _ = list(every_field(DomainDocument(document.text)))[number]
        assert getattr(again, field) == value
        setattr(view, field, None)
        assert absent(view, field)
        assert not getattr(view, field)


@every_sample
def test_taking_a_field_away_takes_only_what_became_empty(name: str) -> None:
    for number in places(DomainDocument(SAMPLES[name])).values():
        document = DomainDocument(SAMPLES[name])
        view, field, _ = list(every_field(document))[number]
        descriptor: Field[Any] = vars(type(view))[field]
        element = document.find(view.element, descriptor.path)
        if element is None:
            continue
        inside = list(element.iter())
        before = [(other, dict(other.attrib), text_of(other).strip()) for other in document.root.iter(etree.Element)]
        setattr(view, field, None)
        for other, attributes, text in before:
            if descriptor.attribute is not None and other is element:
                attributes.pop(descriptor.attribute, None)
            there = other.getroottree().getroot() is document.root
            if there:
                assert (dict(other.attrib), text_of(other).strip()) == (attributes, text)
            elif descriptor.attribute is not None or other not in inside:
                assert (len(other), dict(other.attrib), text) == (0, {}, "")


@every_sample
def test_the_value_that_is_there_changes_nothing(name: str) -> None:
    document = DomainDocument(SAMPLES[name])
    before = document.text
    for view, field, _ in every_field(document):
        if not absent(view, field) or isinstance(vars(type(view))[field], Flag):
            setattr(view, field, getattr(view, field))
        else:
            setattr(view, field, None)
        assert document.text == before, field


@every_sample
def test_every_field_that_was_not_there_leaves_no_trace(name: str) -> None:
    document = DomainDocument(SAMPLES[name])
    before, canonical = document.text, document.canonical()
    for view, field, value in every_field(document):
        if absent(view, field):
            setattr(view, field, value)
            assert document.text != before, field
            setattr(view, field, None)
            assert document.text == before, field
    assert document.canonical() == canonical


@settings(deadline=None)
@given(st.data())
def test_in_whatever_order_fields_come_and_go_no_trace_is_left(data: st.DataObject) -> None:
    document = DomainDocument(SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES)))])
    before, canonical = document.text, document.canonical()
    candidates = [place for place in every_field(document) if absent(*place[:2])]
    chosen = data.draw(st.lists(st.sampled_from(range(len(candidates))), max_size=30))
    for number in chosen:
        view, field, value = candidates[number]
        setattr(view, field, value if absent(view, field) else None)
    for number in data.draw(st.permutations(sorted(set(chosen)))):
        view, field, _ = candidates[number]
        setattr(view, field, None)
    assert document.text == before
    assert document.canonical() == canonical


@settings(deadline=None)
@given(st.data())
def test_the_way_to_other_values_and_back_is_byte_equal(data: st.DataObject) -> None:
    # without the one whose values stand among comments and in CDATA
    document = DomainDocument(SAMPLES[data.draw(st.sampled_from(sorted(SAMPLES.keys() - {"commented_values"})))])
    before = document.text
    there = [
        (view, field, getattr(view, field), value)
        for view, field, value in every_field(document)
        if not isinstance(vars(type(view))[field], Flag | Memory)  # a unit may become another
        and not absent(view, field)
    ]
    chosen = data.draw(st.lists(st.sampled_from(range(len(there))), unique=True))
    for number in chosen:
        view, field, _, value = there[number]
        setattr(view, field, value)
    for number in data.draw(st.permutations(chosen)):
        view, field, old, _ = there[number]
        setattr(view, field, old)
    assert document.text == before


@pytest.mark.parametrize("kind", [Integer, Memory, YesNo])
def test_a_value_that_is_not_understood_can_be_replaced_and_taken_away(kind: type[Field[Any]]) -> None:
    document = DomainDocument(
        "<domain><memory>much</memory><vcpu>many</vcpu>"
        "<devices><graphics type='vnc' autoport='perhaps'/></devices></domain>"
    )
    view: Any = document.graphics[0] if kind is YesNo else document
    name = {Integer: "vcpus_maximum", Memory: "memory", YesNo: "autoport"}[kind]
    assert getattr(view, name) is None
    setattr(view, name, 1)
    assert getattr(view, name) == 1
    setattr(view, name, None)
    assert absent(view, name)


# One change of a VM.


def subtrees(document: DomainDocument) -> dict[str, str]:
    """Each element and comment below the root and below ``<devices>`` in canonical form, by its place."""
    found: dict[str, str] = {}
    tree = document.root
    for parent in (tree, tree.find("devices")):
        for child in () if parent is None else parent:
            kind = child.tag if isinstance(child.tag, str) else "comment"
            key = f"{'' if parent is tree else 'devices/'}{kind}"
            number = sum(name.rpartition(" ")[0] == key for name in found)
            if key != "devices":
                text = etree.tostring(child, with_tail=False, encoding="unicode")
                # not method="c14n", which fails and even crashes on parts of a tree (lxml 6.1)
                found[f"{key} {number}"] = text if kind == "comment" else etree.canonicalize(text, with_comments=True)
    return found


def changed_places(before: DomainDocument, after: DomainDocument) -> set[str]:
    """The kinds of subtrees that differ."""
    old, new = subtrees(before), subtrees(after)
    return {key.rpartition(" ")[0] for key in old.keys() | new.keys() if old.get(key) != new.get(key)}


def lines_changed(before: str, after: str) -> tuple[list[str], list[str]]:
    """The lines that went and those that came."""
    diff = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [line[2:] for line in diff if line[0] == "-"], [line[2:] for line in diff if line[0] == "+"]


def _main_disk(document: DomainDocument) -> None:
    if document.main_disk is not None:
        document.main_disk.set_path("/srv/other <disk>.img", block=False)


def _network(document: DomainDocument) -> None:
    for card in document.interfaces[:1]:
        network = Network("bridged", card.mac_address or "", "br7", card.model)
        Wiring("", "bridge", "bridge").write(card, network)


def _option(name: str, value: object) -> Callable[[DomainDocument], None]:
    option = KvmHypervisor.options[name]
    assert isinstance(option, XmlOption)
    write = option.write
    return lambda document: write(document, value)


@functools.cache
def _hypervisor() -> KvmHypervisor:
    opened = KvmHypervisor.open(URI.parse("test:///default"))
    opened.probes_images = False  # type: ignore[misc]
    return opened


def _patch(field: str, value: object) -> Callable[[DomainDocument], None]:
    def act(document: DomainDocument) -> None:
        spec = VMSpec("", 0, 0, disk_image="/srv/main.img")
        if field == "more_disks" and document.main_disk is None:
            return
        more = [disk.path for disk in document.further_disks if disk.path]
        wanted = tuple(dict.fromkeys((*more, value))) if field == "more_disks" and value else value
        _hypervisor().patch(document, replace(spec, **{field: wanted}), frozenset({field}))  # type: ignore[arg-type]

    return act


CHANGES: dict[str, tuple[Callable[[DomainDocument], object], set[str]]] = {
    "name": (lambda document: setattr(document, "name", "new <name>"), {"name"}),
    "memory": (lambda document: document.set_memory(5 * 1024 * 1024), {"memory", "currentMemory", "cpu"}),
    "less memory": (lambda document: document.set_memory(5 * 1024), {"memory", "currentMemory", "cpu"}),
    "cpus": (lambda document: document.set_cpus(24), {"vcpu", "cpu"}),
    "disk_image": (_main_disk, {"devices/disk"}),
    "networks": (_network, {"devices/interface"}),
    "accel": (_option("accel", "tcg"), {"cpu"}),
    "machine": (_option("machine", "pc"), {"os"}),
    "cpu": (_option("cpu", "maximum"), {"cpu"}),
    "cpu model": (_option("cpu", "Nehalem"), {"cpu"}),
    "no cpu": (_option("cpu", None), {"cpu"}),
    "uefi": (_option("firmware", "uefi"), {"os"}),
    "bios": (_option("firmware", "bios"), {"os"}),
    "headless": (_option("headless", True), {"devices/graphics"}),
    "screen": (_option("headless", False), {"devices/graphics"}),
    "vnc_password": (_option("vnc_password", "pass<w"), {"devices/graphics"}),
    "boot": (_option("boot", ("network", "hd")), {"os", "devices/disk", "devices/interface", "devices/hostdev"}),
    "serial_log": (_option("serial_log", "/var/log/x.log"), {"devices/serial"}),
    "disk_format": (_option("disk_format", "vdi"), {"devices/disk"}),
    "max_cpus": (_option("max_cpus", 48), {"vcpu", "cpu"}),
    "no room for cpus": (_option("max_cpus", None), {"vcpu"}),
    "max_memory": (_option("max_memory", 128 * 1024 * 1024), {"maxMemory", "cpu"}),
    "no room for memory": (_option("max_memory", None), {"maxMemory", "cpu"}),
    "kernel": (_option("kernel", "/boot/other"), {"os"}),
    "initrd": (_option("initrd", "/boot/other.img"), {"os"}),
    "cmdline": (_option("cmdline", "root=/dev/vdb & more"), {"os"}),
    "no kernel": (_option("kernel", None), {"os"}),
    "more_disks": (_patch("more_disks", "/srv/more <disk>.img"), {"devices/disk"}),
    "fewer disks": (_patch("more_disks", ()), {"devices/disk"}),
    "cdrom": (_patch("cdrom", "/srv/other <disc>.iso"), {"devices/disk"}),
    "no disc": (_patch("cdrom", None), {"devices/disk"}),
    "seed": (_patch("seed", f"/srv/one{SEED_SUFFIX}"), {"devices/disk", "devices/controller"}),
    "no seed": (_patch("seed", None), set()),
}


def test_every_option_of_kvm_is_among_the_changes() -> None:
    named = {"uefi": "firmware"}
    assert set(KvmHypervisor.options) <= {named.get(change, change) for change in CHANGES}


@every_sample
@pytest.mark.parametrize("change", CHANGES)
def test_one_change_touches_its_own_elements_only(name: str, change: str) -> None:
    document = DomainDocument(SAMPLES[name])
    before = document.copy()
    act, allowed = CHANGES[change]
    try:
        act(document)
    except (InvalidValueError, InvalidOptionError):
        assert document.text == before.text  # refused as a whole
        return
    after = DomainDocument(document.text)
    assert changed_places(before, after) <= allowed
    assert {**before.root.attrib, "type": ""} == {**after.root.attrib, "type": ""}
    assert before.root.nsmap == after.root.nsmap


@every_sample
@pytest.mark.parametrize("change", [change for change in CHANGES if change not in ("networks", "boot", "no cpu")])
def test_the_same_change_twice_is_one(name: str, change: str) -> None:
    document = DomainDocument(SAMPLES[name])
    try:
        CHANGES[change][0](document)
        once = document.text
        CHANGES[change][0](document)
    except (InvalidValueError, InvalidOptionError):
        return
    assert document.text == once


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_changes_something_somewhere(change: str) -> None:
    found = set()
    for text in SAMPLES.values():
        document = DomainDocument(text)
        try:
            CHANGES[change][0](document)
        except (InvalidValueError, InvalidOptionError):
            continue
        found |= changed_places(DomainDocument(text), document)
        found |= {"type"} if document.type != DomainDocument(text).type else set()
    assert found - {"type"} == CHANGES[change][1]


@pytest.mark.parametrize("name", [name for name in SAMPLES if name != "one_line"])
def test_a_change_of_memory_changes_the_lines_of_memory_only(name: str) -> None:
    document = DomainDocument(SAMPLES[name])
    before, old = document.text, document.memory
    kib = (document.memory or 0) * 2
    if name == "memory_devices":
        document.root.remove(document.root.findall("maxMemory")[0])
        for device in document.root.findall("devices/memory"):
            document.remove(device)
        before = document.text
    document.set_memory(kib)
    gone, come = lines_changed(before, document.text)
    assert len(gone) == len(come)
    assert all(any(word in line for word in ("<memory", "<currentMemory", "<cell")) for line in gone + come)
    document.set_memory(old or 0)
    assert DomainDocument(document.text).memory == old


@pytest.mark.parametrize(
    "kept",
    [
        "<![CDATA[Nightly <builds> & tests;\n\tkeep   this   spacing.]]>",
        "<![CDATA[<memory>nor this one</memory>]]>",
        '<ours:note ours:by="zoë">a<ours:b/>b <memory>not this one</memory></ours:note>',
        '<qemu:arg value="device.virtio-disk0.physical_block_size=4096"/>',
        "  <!-- half of the host -->\n",
        "</memoryBacking>\n\n\n  <vcpu",
        "<features><acpi/><apic/><pae/></features>",
        "<!-- vim: set ts=2: -->",
        'Ask Zoë before changing anything below "pinned".',
        '<vcpupin cpuset="2" vcpu="0"/>',
    ],
)
def test_what_a_hand_tuned_document_holds_survives_all_changes(kept: str) -> None:
    document = DomainDocument(SAMPLES["hand_tuned"])
    assert kept in document.text
    for act, _ in CHANGES.values():
        try:
            act(document)
        except (InvalidValueError, InvalidOptionError):
            pass  # not possible here, or no longer after the changes before
    assert kept in document.text
    assert kept in document.copy().text
