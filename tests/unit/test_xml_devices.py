"""The devices in the domain document: disks and their sources, boot order, screens, serial ports, network cards."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from lxml import etree

from virtuoso_core.errors import InvalidOptionError
from virtuoso_core.libvirt_base.networks import Wiring
from virtuoso_core.libvirt_base.options import BOOT, DISK_FORMAT, HEADLESS, SERIAL_LOG, VNC_PASSWORD
from virtuoso_core.spec import Network
from virtuoso_core.xml import Disk, DomainDocument

SAMPLES = Path(__file__).parent / "domains"


def sample(name: str) -> DomainDocument:
    """A fresh document of one of the files."""
    return DomainDocument((SAMPLES / f"{name}.xml").read_bytes())


def domain(inner: str) -> DomainDocument:
    """A document of that inside ``<domain>``."""
    return DomainDocument(f"<domain>{inner}</domain>")


# Disks.


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("hand_tuned", "/srv/vm/build.qcow2"),  # after a CD-ROM
        ("numa", "/dev/vg0/database"),  # after a LUN
        ("vbox", "/home/user/VirtualBox VMs/office/office.vdi"),  # after a CD-ROM and a floppy
        ("tabs", "/srv/vm/windows server.qcow2"),  # after a floppy
        ("network_disks", "rbd:pool/image"),
        ("one_line", "/srv/one.img"),  # which does not say that it is one
        ("vmware", "[datastore1] guest/guest.vmdk"),
        ("mock", None),
    ],
)
def test_the_main_disk_is_the_first_that_is_a_disk(name: str, path: str | None) -> None:
    disk = sample(name).main_disk
    assert (None if disk is None else disk.path) == path
    assert disk is None or disk.device == "disk"


@pytest.mark.parametrize(
    ("source", "path"),
    [
        ("<source file='/a b'/>", "/a b"),
        ("<source dev='/dev/sda'/>", "/dev/sda"),
        ("<source dir='/srv'/>", "/srv"),
        ("<source pool='default' volume='a.img'/>", "default/a.img"),
        ("<source protocol='nbd'/>", "nbd:"),
        ("<source protocol='iscsi' name='iqn.2013-07/1'/>", "iscsi:iqn.2013-07/1"),
        ("<source/>", None),
        ("", None),
    ],
)
def test_a_source_as_one_text(source: str, path: str | None) -> None:
    assert domain(f"<devices><disk>{source}</disk></devices>").disks[0].path == path


def main_disk(document: DomainDocument) -> Disk:
    """The main disk, which the document has."""
    found = document.main_disk
    assert found is not None
    return found


SOURCES = [
    "<disk type='file'><source file='/old' startupPolicy='optional'/></disk>",
    "<disk type='file'><source startupPolicy='optional' file='/old'><seclabel relabel='no'/></source></disk>",
    "<disk type='block'><source dev='/dev/old'/></disk>",
    "<disk type='volume'><source pool='p' volume='v' mode='host'/></disk>",
    "<disk type='dir'><source dir='/old'/></disk>",
    "<disk type='network'><source protocol='nbd'><host name='h'/></source></disk>",
    "<disk type='network'>\n  <auth username='u'><secret type='ceph' usage='x'/></auth>\n  "
    "<source protocol='rbd' name='n' query='q' tls='no'>\n    <host name='h1'/>\n    <host name='h2'/>\n"
    "    <snapshot name='s'/>\n    <auth username='u'/>\n  </source>\n</disk>",
    "<disk type='vhostuser'><source type='unix' path='/run/x.sock'><reconnect enabled='yes'/></source></disk>",
    "<disk type='nvme'><source type='pci' namespace='1'><address type='pci' bus='1'/></source></disk>",
    "<disk><source file='/old'/></disk>",
    "<disk/>",
    "<disk type='file'><source/></disk>",
]


@pytest.mark.parametrize("text", SOURCES)
@pytest.mark.parametrize(("path", "block"), [("/new <image>", False), ("/dev/new", True)])
def test_another_source_leaves_nothing_of_the_old_one(text: str, path: str, block: bool) -> None:
    document = domain(f"<devices>{text}</devices>")
    main_disk(document).set_path(path, block=block)
    disk = main_disk(DomainDocument(document.text))
    assert disk.path == path
    assert (disk.type or "file") == ("block" if block else "file")
    source = disk.element.find("source")
    assert source is not None
    left = {child.tag for child in source} | set(source.attrib) - {"dev" if block else "file"}
    assert left <= {"startupPolicy", "seclabel"}
    assert disk.element.find("auth") is None


def test_the_way_from_file_to_block_and_back_is_byte_equal() -> None:
    document = domain("<devices><disk type='file'><source file='/a'/><target dev='vda'/></disk></devices>")
    before = document.text
    main_disk(document).set_path("/dev/b", block=True)
    assert '<disk type="block"><source dev="/dev/b"/>' in document.text
    main_disk(document).set_path("/a", block=False)
    assert document.text == before


def test_another_file_changes_one_attribute_where_it_stands_and_drops_the_old_chain() -> None:
    document = sample("hand_tuned")
    lines = document.text.splitlines()
    main_disk(document).set_path("/srv/vm/new.qcow2", block=False)
    start = next(n for n, line in enumerate(lines) if "<backingStore" in line)
    expected = [line.replace("/srv/vm/build.qcow2", "/srv/vm/new.qcow2") for line in lines]
    assert document.text.splitlines() == expected[:start] + expected[start + 5 :]


@pytest.mark.parametrize("text", SOURCES[:3])
def test_the_same_source_changes_nothing(text: str) -> None:
    document = domain(f"<devices>{text.replace('</disk>', '<backingStore/></disk>')}</devices>")
    before, disk = document.text, main_disk(document)
    disk.set_path(disk.path or "", block=disk.type == "block")
    assert document.text == before


@pytest.mark.parametrize(
    ("taken", "target", "expected"),
    [
        ([], "vda", "vda"),
        (["vda"], "vda", "vdb"),
        (["vdb"], "vda", "vda"),
        (["sda", "hda"], "vda", "vda"),
        (["vda", "vdb", "vdd"], "vda", "vdc"),
        (["xvda"], "xvda", "xvdb"),
        ([f"vd{chr(97 + n)}" for n in range(26)], "vda", "vdaa"),
        ([f"vd{chr(97 + n)}" for n in range(26)] + ["vdaa"], "vda", "vdab"),
    ],
)
def test_a_new_disk_gets_the_first_free_target(taken: list[str], target: str, expected: str) -> None:
    disks = "".join(f"<disk device='cdrom'><target dev='{name}'/></disk>" for name in taken)
    document = domain(f"<devices>{disks}<input/></devices>")
    disk = document.add_disk(etree.fromstring(f"<disk><source/><target dev='{target}'/></disk>"))
    assert disk.target == expected
    assert [child.tag for child in document.root[0]] == (
        ["disk"] * (len(taken) + 1) + ["input"] if taken else ["input", "disk"]
    )


# Boot order.

BOOTABLE = """<os><type>hvm</type>{}</os><devices>
<disk device='cdrom'><target dev='sda'/>{}</disk><disk><target dev='vda'/>{}</disk>
<disk device='floppy'><target dev='fda'/>{}</disk><interface type='user'>{}</interface>
<hostdev mode='subsystem'>{}</hostdev>
</devices>"""


@pytest.mark.parametrize(
    ("places", "order"),
    [
        (("", "", "", "", "", ""), ()),
        (("<boot dev='network'/><boot dev='hd'/>", "", "", "", "", ""), ("network", "hd")),
        (("", "<boot order='2'/>", "<boot order='1'/>", "", "", ""), ("hd", "cdrom")),
        (("", "", "<boot order='10'/>", "<boot order='9'/>", "<boot order='1'/>", ""), ("network", "fd", "hd")),
        (("", "", "<boot order='2'/>", "", "", "<boot order='1'/>"), ("hd",)),
    ],
)
@pytest.mark.parametrize("new", [(), ("hd",), ("cdrom", "hd", "network", "fd")])
def test_the_boot_order_both_ways(places: tuple[str, ...], order: tuple[str, ...], new: tuple[str, ...]) -> None:
    document = domain(BOOTABLE.format(*places))
    assert document.boot == order
    before = document.text
    document.set_boot(order)
    assert document.text == before
    document.set_boot(new)
    again = DomainDocument(document.text)
    assert again.boot == new
    if new != order:
        assert again.root.findall("devices/*/boot") == []
        assert again.text == domain(BOOTABLE.format("".join(f"<boot dev='{k}'/>" for k in new), *[""] * 5)).text


def test_a_device_of_each_kind_has_its_word() -> None:
    document = sample("hand_tuned")
    assert document.boot == ("hd", "cdrom", "network")


def test_no_boot_list_is_made_where_none_is_wanted() -> None:
    document = domain("<devices><disk><target dev='vda'/><boot order='1'/></disk></devices>")
    document.set_boot(())
    assert document.text == '<domain><devices><disk><target dev="vda"/></disk></devices></domain>'


# Options and networks in the XML.


def test_a_serial_log_needs_a_serial_port_and_goes_without_a_trace() -> None:
    document = domain("<devices>\n  <serial type='pty'/>\n</devices>")
    before = document.text
    SERIAL_LOG.write(document, "/var/log/a.log")
    assert SERIAL_LOG.read(DomainDocument(document.text)) == "/var/log/a.log"
    SERIAL_LOG.write(document, None)
    assert document.text == before
    bare = domain("")
    SERIAL_LOG.write(bare, "/var/log/a.log")
    assert bare.serial_type == "pty"


def test_the_user_decides_whether_a_log_is_appended_to() -> None:
    document = sample("hand_tuned")
    SERIAL_LOG.write(document, "/var/log/other.log")
    assert (document.serial_log, document.serial_log_append) == ("/var/log/other.log", "on")
    assert document.serial_type == "file"


@pytest.mark.parametrize("name", ["xen_pv", "passthrough"])
def test_a_password_needs_a_vnc_screen(name: str) -> None:
    document = sample(name)
    before = document.text
    with pytest.raises(InvalidOptionError, match="VNC"):
        VNC_PASSWORD.write(document, "secret")
    VNC_PASSWORD.write(document, None)
    assert document.text == before


def test_a_format_needs_a_disk() -> None:
    with pytest.raises(InvalidOptionError, match="disk_image"):
        DISK_FORMAT.write(sample("mock"), "raw")


@pytest.mark.parametrize("name", ["hand_tuned", "tabs", "mock", "one_line"])
def test_headless_means_no_screen(name: str) -> None:
    document = sample(name)
    HEADLESS.write(document, True)
    assert (HEADLESS.read(document), document.graphics) == (True, [])
    HEADLESS.write(document, False)
    assert HEADLESS.read(document) is False
    before = document.text
    HEADLESS.write(document, False)
    assert document.text == before


def test_no_boot_order_is_no_value() -> None:
    assert BOOT.read(sample("mock")) is None


def test_a_network_card_keeps_what_its_change_does_not_concern() -> None:
    document = sample("hand_tuned")
    wiring = Wiring("", "network", "network", default="default", forward="nat")
    (card,) = document.interfaces
    before = document.text
    wiring.write(card, Network("nat", "52:54:00:0a:0b:0c", "default", "virtio"))
    assert document.text == before
    wiring.write(card, Network("nat", "52:54:00:0a:0b:0c", "default", "e1000"))
    assert document.text == before.replace(
        '<model type="virtio"/>\n      <driver name="vhost"', '<model type="e1000"/>\n      <driver name="vhost"'
    )


def test_another_kind_of_network_leaves_nothing_of_the_old_source() -> None:
    document = sample("numa")
    card = document.interfaces[1]
    Wiring("", "user").write(card, Network("nat", "52:54:00:11:22:34", None, "virtio"))
    assert (card.type, card.source_dev, card.source_mode) == ("user", None, None)
    Wiring("", "direct", "dev", mode="bridge").write(card, Network("bridged", "52:54:00:11:22:34", "eth7", None))
    assert (card.type, card.source_dev, card.source_mode, card.model) == ("direct", "eth7", "bridge", None)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from(["hd", "cdrom", "network", "fd"]), unique=True), st.sampled_from(sorted(SAMPLES.glob("*")))
)
def test_any_boot_order_on_any_sample(order: list[str], path: Path) -> None:
    document = DomainDocument(path.read_bytes())
    assume(tuple(order) != document.boot)
    document.set_boot(order)
    assert DomainDocument(document.text).boot == tuple(order)
