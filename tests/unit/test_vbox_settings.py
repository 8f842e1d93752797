"""What VBoxManage prints, read; what it is told, written. Texts are those of real versions."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from virtuoso_core.errors import UnsupportedError
from virtuoso_core.facts import VMSummary
from virtuoso_core.spec import Network, State, VMSpec
from virtuoso_core.words import DISK, DRIVE, WordOption
from virtuoso_vbox.settings import (
    INACCESSIBLE,
    KINDS,
    NEW,
    OPTIONS,
    cards,
    commands,
    configuration,
    flags_of,
    free_places,
    kept,
    listed,
    ostypes,
    parse_info,
    plugged,
    read_spec,
    state_of,
    summaries,
    to_merge,
    write_spec,
)

INFO = """name="a \\"b\\" \\\\ c"
ostype="Debian (64-bit)"
memory=1024
 rec_screen0
vrdeport=-1
vrdeproperty[TCP/Ports]="3390"
defaultfrontend=""
storagecontrollername0="IDE"
storagecontrollertype0="PIIX4"
storagecontrollermaxportcount0="2"
storagecontrollername1="SATA"
storagecontrollertype1="IntelAhci"
storagecontrollermaxportcount1="30"
storagecontrollername2="Floppy"
storagecontrollertype2="I82078"
storagecontrollermaxportcount2="1"
"IDE-0-0"="/vm/cd.iso"
"IDE-IsEjected-0-0"="off"
"IDE-0-1"="none"
"SATA-0-0"="none"
"SATA-1-0"="C:\\vm\\disk.vdi"
"Floppy-0-0"="/vm/floppy.img"
bridgeadapter2="en0: Wi-Fi (Wireless)"
macaddress1="080027529D3B"
nic1="nat"
nictype1="82540EM"
nic2="bridged"
macaddress2="0800270A0B0C"
nictype2="virtio"
nic3="none"
VMState="poweroff"
description="x
memory=1
name=\\"liar\\""
memory=7
"""


def test_pairs() -> None:
    """Quotes, backslashes, values of several lines that look like others, and old versions' bare backslashes."""
    info = parse_info(INFO)
    assert info["name"] == 'a "b" \\ c'
    assert (info["memory"], info["vrdeport"], info["defaultfrontend"]) == ("1024", "-1", "")
    assert info["SATA-1-0"] == "C:\\vm\\disk.vdi"
    assert info["description"] == 'x\nmemory=1\nname="liar"'
    assert parse_info(INFO.replace("\n", "\r\n"))["memory"] == "1024"


def test_what_changes_by_itself_is_no_configuration() -> None:
    """Else each look would differ from the last."""
    assert "VMState" not in configuration(INFO)
    assert "memory=1024" in configuration(INFO)


def test_what_is_plugged_in() -> None:
    """A floppy is neither a disk nor a CD; a drive may be empty."""
    info = parse_info(INFO)
    assert plugged(info) == {"IDE-0-0": (DRIVE, "/vm/cd.iso"), "SATA-1-0": (DISK, "C:\\vm\\disk.vdi")}
    assert plugged(info | {"IDE-0-0": "emptydrive"})["IDE-0-0"] == (DRIVE, "")


def test_free_places() -> None:
    """SATA first, and after the main disk; ports that are not open yet count, and the controller that is not there."""
    info = parse_info(INFO)
    assert free_places(info)[:2] == ["SATA-2-0", "SATA-3-0"]
    assert "SATA-0-0" not in free_places(info)
    assert free_places(info | {"SATA-1-0": "none"})[:2] == ["SATA-0-0", "SATA-1-0"]
    assert "IDE-0-1" in free_places(info | {"SATA-1-0": "none"})
    ide = {key: word for key, word in info.items() if "SATA" not in (word, key[:4])}
    assert free_places(ide)[:2] == ["IDE-0-1", "SATA-0-0"]
    assert free_places({})[0] == "SATA-0-0"


def test_cards() -> None:
    """By their slots, with what this library makes of them."""
    found = cards(flags_of(parse_info(INFO)))
    assert found == {
        1: Network("nat", "08:00:27:52:9d:3b", None, "82540EM"),
        2: Network("bridged", "08:00:27:0a:0b:0c", "en0: Wi-Fi (Wireless)", "virtio"),
    }


@pytest.mark.parametrize("kind", KINDS)
def test_kinds_of_networks(kind: str) -> None:
    """What showvminfo calls the source of each is known."""
    told = KINDS[kind]
    keys = {"hostonlynet": "hostonly-network", "natnetwork": "nat-network", "generic": "generic"}
    info = {"nic3": kind, "nictype3": "virtio", "macaddress3": "0800270A0B0C"}
    info |= {f"{keys.get(kind, told['flag'])}3": "x"} if "flag" in told else {}
    source = "x" if "flag" in told else None
    assert cards(flags_of(info)) == {3: Network(told["type"], "08:00:27:0a:0b:0c", source, "virtio")}


def _card(number: int) -> Network:
    return Network("nat", f"08:00:27:00:00:{number:02x}", None, "82540EM")


def _wanted(have: dict[str, str], **fields: object) -> dict[str, str]:
    spec = VMSpec("web", 1024 * 1024, 1, **fields)  # type: ignore[arg-type]
    return write_spec(have, spec, frozenset(fields), {"nat": "nat"})


def test_writing_cards() -> None:
    """Only what changes is said, and a slot that loses its card keeps the rest for a later one."""
    one = _wanted({}, networks=(_card(1),))
    assert one == {"nic1": "nat", "nictype1": "82540EM", "macaddress1": "080027000001"}
    assert _wanted(one, networks=(_card(1), _card(2))).keys() == {"nic2", "nictype2", "macaddress2"}
    assert _wanted(one, networks=()) == {"nic1": "none"}


def test_how_many_cards() -> None:
    """The chipset that a machine has, or gets with them, decides."""
    nine = tuple(_card(number) for number in range(1, 10))
    with pytest.raises(UnsupportedError, match=r"there are 8\..*ich9"):
        _wanted({}, networks=nine)
    assert "nic9" in _wanted({"chipset": "ich9"}, networks=nine)
    spec = VMSpec("web", 1024, 1, networks=nine, options={"chipset": "ich9"})
    flags = write_spec({"chipset": "piix3"}, spec, frozenset({"networks", "options.chipset"}), {"nat": "nat"})
    first, second = commands("UUID", {"chipset": "piix3"}, flags, {})
    assert first == ["modifyvm", "UUID", "--chipset", "ich9"]
    assert "--nic9" in second


def test_commands_say_only_what_differs() -> None:
    """And so the same function puts back what was."""
    before = parse_info(INFO)
    after = before | {"memory": "2048", "nic1": "none", "defaultfrontend": "headless"}
    after |= {"SATA-1-0": "none", "SATA-0-0": "/vm/new.vdi"}
    assert commands("UUID", before, flags_of(before), plugged(before)) == []
    out, back, words = commands("UUID", after, flags_of(before), plugged(before))
    assert out[5:] == ["0", "--device", "0", "--medium", "none"]
    assert back[5:] == ["1", "--device", "0", "--type", "hdd", "--medium", "C:\\vm\\disk.vdi"]
    assert words[2:] == ["--defaultfrontend", "default", "--memory", "1024", "--nic1", "nat"]


def test_a_controller_is_made_where_there_is_none() -> None:
    """For the first disk."""
    controller, disk = commands("UUID", {}, {}, {"SATA-0-0": (DISK, "/vm/new.vdi")})
    assert controller == ["storagectl", "UUID", "--name", "SATA", "--add", "sata"]
    assert disk[:4] == ["storageattach", "UUID", "--storagectl", "SATA"]


def test_a_port_is_opened_where_there_is_none() -> None:
    """VirtualBox's own windows make controllers with as many as they need."""
    ports, drive = commands("UUID", info := parse_info(INFO), {}, {**plugged(info), "SATA-2-0": (DRIVE, "")})
    assert ports == ["storagectl", "UUID", "--name", "SATA", "--portcount", "30"]
    assert drive[4:] == ["--port", "2", "--device", "0", "--type", "dvddrive", "--medium", "emptydrive"]


def test_the_order_in_which_all_snapshots_can_be_dropped() -> None:
    """What the machine does not go on from, leaves first; then the others, of which each has one successor."""
    chain = {"SnapshotUUID": "a", "SnapshotUUID-1": "b", "CurrentSnapshotNode": "SnapshotName-1"}
    assert to_merge(chain) == ["a", "b"]
    assert to_merge(chain | {"CurrentSnapshotNode": "SnapshotName"}) == ["b", "a"]
    forked = chain | {"SnapshotUUID-2": "c", "SnapshotUUID-2-1": "d", "SnapshotUUID-12": "e"}
    assert to_merge(forked) == ["e", "d", "c", "a", "b"]
    assert to_merge({"CurrentSnapshotUUID": "a"}) == []


SETTINGS = b"""<?xml version="1.0"?>
<!-- a comment -->
<VirtualBox xmlns="http://www.virtualbox.org/" version="1.19-linux">
  <Machine uuid="{m}" name="x" currentSnapshot="{b}">
    <Snapshot uuid="{a}" name="&quot;a&quot;" timeStamp="2026-11-22T21:46:21Z" stateFile="Snapshots/x.sav">
      <Description>two
lines</Description>
      <Snapshots>
        <Snapshot uuid="{b}" name="b" timeStamp="2026-11-22T21:46:25Z"/>
        <Snapshot uuid="{c}" name="b" timeStamp="2026-11-22T21:46:23Z"/>
      </Snapshots>
    </Snapshot>
  </Machine>
</VirtualBox>
"""


def test_snapshots() -> None:
    """The oldest first; a name that was there already is told apart by the UUID."""
    found = kept(SETTINGS)
    assert {name: uuid for name, (uuid, _) in found.items()} == {'"a"': "a", "c": "c", "b": "b"}
    a, c, b = (snapshot for _, snapshot in found.values())
    assert (a.state, a.description, a.parent, a.current) == (State.RUNNING, "two\nlines", None, False)
    assert (b.state, b.parent, b.current, c.parent, c.current) == (State.STOPPED, '"a"', True, '"a"', False)
    assert a.created == datetime(2026, 11, 22, 21, 46, 21, tzinfo=UTC)
    assert kept(b"<VirtualBox><Machine/></VirtualBox>") == {}


def test_states() -> None:
    """By the short and the long names."""
    words = {"poweroff": State.STOPPED, "powered off": State.STOPPED, "saved": State.SUSPENDED}
    words |= {"aborted": State.CRASHED, "aborted-saved": State.SUSPENDED, "gurumeditation": State.UNKNOWN}
    assert {word: state_of(word) for word in words} == words


LONG = """Name:                          two  spaces
Encryption:                  disabled
Groups:                      /
UUID:                        413ea4b0-c0a2-4688-a464-10811430a6b8
Memory size:                 1024MB
Number of CPUs:              2
State:                       powered off (since 2026-11-22T18:25:12.647000000)
Shared folders:
Name: 'x', Host path: '/x' (machine mapping), writable

Description:
Name:                        liar
UUID:                        413ea4b0-c0a2-4688-a464-10811430a6b8
Memory size:                 1MB

Name:                        old
Groups:          /
UUID:                        51111111-c0a2-4688-a464-10811430a6b8
Memory size                  512MB
Number of CPUs:              1
State:                       running (since 2020-01-01T00:00:00.000000000)
"""


def test_long_list() -> None:
    """One machine a record, whatever their descriptions say."""
    names = {"413ea4b0-c0a2-4688-a464-10811430a6b8": "  two  spaces", "51111111-c0a2-4688-a464-10811430a6b8": "old"}
    assert list(summaries("", names)) == []
    for text in (LONG, LONG.replace("\n", "\r\n")):
        assert list(summaries(text, names)) == [
            VMSummary("  two  spaces", "413ea4b0-c0a2-4688-a464-10811430a6b8", State.STOPPED, 1024 * 1024, 2),
            VMSummary("old", "51111111-c0a2-4688-a464-10811430a6b8", State.RUNNING, 512 * 1024, 1),
        ]


def test_list() -> None:
    """Names are not escaped there."""
    text = (
        '"a "b" {c}" {413ea4b0-c0a2-4688-a464-10811430a6b8}\n"<inaccessible>" {51111111-c0a2-4688-a464-10811430a6b8}\n'
    )
    assert listed(text) == {
        "413ea4b0-c0a2-4688-a464-10811430a6b8": 'a "b" {c}',
        "51111111-c0a2-4688-a464-10811430a6b8": INACCESSIBLE,
    }


def test_guest_systems() -> None:
    """As 7.1 lists them, and as versions before it did."""
    new = "ID / Description:       Debian_64 -- Debian (64-bit)\nFamily: Linux -- Linux\n"
    old = "ID:          Debian_64\r\nDescription: Debian (64-bit)\r\nFamily ID:   Linux\r\n"
    assert ostypes(new) == ostypes(old) == {"Debian (64-bit)": "Debian_64"}


@pytest.mark.parametrize("option", [each for each in OPTIONS.values() if isinstance(each, WordOption)], ids=str)
def test_options_that_are_taken_away(option: WordOption) -> None:
    """They get what a new machine has."""
    name = f"options.{option.name}"
    words = write_spec({}, VMSpec("web", 1024, 1), frozenset({name}), {})
    assert words
    assert option.read(words) == read_spec(NEW).options.get(option.name)
    assert option.read({}) is None


@pytest.mark.parametrize(
    ("name", "info", "value"),
    [
        ("ostype", {"ostype": "Debian_64"}, "Debian_64"),
        ("chipset", {"chipset": "ICH9"}, "ich9"),
        ("firmware", {"firmware": "BIOS"}, "bios"),
        ("firmware", {"firmware": "EFI64"}, "uefi"),
        ("headless", {"defaultfrontend": "headless"}, True),
        ("headless", {"defaultfrontend": "sdl"}, False),
        ("headless", {"defaultfrontend": ""}, None),
        ("graphics", {"graphicscontroller": "VBoxSVGA"}, "vboxsvga"),
        ("vram", {"vram": "33"}, 33),
        ("vrde_port", {"vrde": "on", "vrdeport": "-1", "vrdeports": "3389"}, 3389),
        ("vrde_port", {"vrde": "off", "vrdeport": "-1"}, None),
        ("boot", {"boot1": "net", "boot2": "none", "boot3": "floppy"}, ("network", "fd")),
    ],
)
def test_options_are_read(name: str, info: dict[str, str], value: object) -> None:
    """In the words of several versions."""
    option = OPTIONS[name]
    assert isinstance(option, WordOption)
    assert option.read(flags_of(info)) == value


def test_options_are_written() -> None:
    """All of them at once."""
    values = {"ostype": "Debian_64", "firmware": "uefi", "headless": False, "vram": 33, "vrde_port": 3389}
    spec = VMSpec("web", 1024, 1, options=values | {"boot": ("cdrom", "hd")})
    assert write_spec({}, spec, frozenset(spec.values()) - {"name", "memory", "cpus"}, {}) == {
        "ostype": "Debian_64",
        "firmware": "efi",
        "defaultfrontend": "gui",
        "vram": "33",
        "vrdeport": "3389",
        "vrde": "on",
        "boot1": "dvd",
        "boot2": "disk",
        "boot3": "none",
        "boot4": "none",
    }
