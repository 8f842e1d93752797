"""What VBoxManage prints, read; what it is told, written. Texts are those of real versions."""

from __future__ import annotations

import pytest

from virtuoso_core.errors import UnsupportedError
from virtuoso_core.spec import Network, State
from virtuoso_vbox.settings import (
    OPTIONS,
    Card,
    Place,
    Setting,
    arrange,
    blocks,
    cards,
    configuration,
    disks,
    free_place,
    inaccessible,
    is_chain,
    listed,
    machines,
    parse_info,
    snapshots,
    state_of,
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


def test_disks_and_places() -> None:
    """A CD and a floppy are no disks; the free place is on SATA."""
    info = parse_info(INFO)
    assert disks(info) == {Place("SATA", 1, 0): "C:\\vm\\disk.vdi"}
    assert free_place(info) == Place("SATA", 0, 0)
    assert free_place({}) is None


def test_cards() -> None:
    """Each slot, with what this library makes of it."""
    found = cards(parse_info(INFO))
    assert found[1].network() == Network("nat", "08:00:27:52:9d:3b", None, "82540EM")
    assert found[2].network() == Network("bridged", "08:00:27:0a:0b:0c", "en0: Wi-Fi (Wireless)", "virtio")
    assert found[3].kind == "none"
    assert found[3].words(3) == ["--nic3", "none"]
    assert found[2].words(5)[-2:] == ["--bridgeadapter5", "en0: Wi-Fi (Wireless)"]


def _net(number: int, type: str = "nat") -> Network:
    return Network(type, f"08:00:27:00:00:{number:02x}", None, "82540EM")


def _slots(*numbers: int) -> dict[int, Card]:
    """Cards by their numbers, 0 for an empty slot, as in eight slots."""
    there = {slot: Card("nat", None, "82540EM", f"0800270000{number:02X}") for slot, number in enumerate(numbers, 1)}
    return {slot: there[slot] if numbers[slot - 1 : slot] > (0,) else Card("none") for slot in range(1, 9)}


@pytest.mark.parametrize(
    ("before", "wanted", "changed"),
    [
        ((1, 2, 3), (1, 3), {2: 0}),
        ((1, 2, 3), (1, 3, 4), {2: 0, 4: 4}),
        ((1, 0, 3), (1, 3), {}),
        ((1, 0, 3), (1, 3, 4), {4: 4}),
        ((), (1, 2), {1: 1, 2: 2}),
        ((1, 2), (), {1: 0, 2: 0}),
        ((1, 2), (2, 1), {1: 0, 3: 1}),
        ((1, 2, 3, 4, 5, 6, 7, 8), (2, 3, 4, 5, 6, 7, 9), {1: 0, 8: 9}),
    ],
)
def test_arranging(before: tuple[int, ...], wanted: tuple[int, ...], changed: dict[int, int]) -> None:
    """Cards that stay are not touched, and the order is the one asked for."""
    words = arrange(_slots(*before), [_net(number) for number in wanted], {"nat": "nat"})
    assert {slot: int(card.mac or "0", 16) & 0xFF for slot, card in words.items()} == changed


def test_no_slot_is_left() -> None:
    """Said before anything is done."""
    with pytest.raises(UnsupportedError, match="VirtualBox has 8"):
        arrange(_slots(1, 2, 3, 4, 5, 6, 7, 8), [_net(number) for number in range(1, 10)], {"nat": "nat"})


def test_snapshots() -> None:
    """A chain, a branch, and a machine that was put back to an older one."""
    chain = {"SnapshotUUID": "a", "SnapshotUUID-1": "b", "CurrentSnapshotUUID": "b"}
    assert snapshots(chain) == ["a", "b"]
    assert is_chain(chain)
    assert not is_chain(chain | {"SnapshotUUID-2": "c"})
    assert not is_chain(chain | {"CurrentSnapshotUUID": "a"})
    assert snapshots({"CurrentSnapshotUUID": "a"}) == []


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
Memory size:                 1MB

Name:                        old
Groups:          /
UUID:                        51111111-c0a2-4688-a464-10811430a6b8
Memory size                  512MB
State:                       running (since 2020-01-01T00:00:00.000000000)
"""


def test_long_list() -> None:
    """One machine a record, whatever their descriptions say."""
    assert list(machines("")) == []
    first, second = machines(LONG)
    assert (first["Name"], first["Memory size"], first["Number of CPUs"]) == ("  two  spaces", "1024MB", "2")
    assert first["State"].startswith("powered off (")
    assert (second["Name"], second["State"].partition(" (")[0]) == ("old", "running")


def test_list() -> None:
    """Names are not escaped there."""
    text = (
        '"a "b" {c}" {413ea4b0-c0a2-4688-a464-10811430a6b8}\n"<inaccessible>" {51111111-c0a2-4688-a464-10811430a6b8}\n'
    )
    assert listed(text) == {"413ea4b0-c0a2-4688-a464-10811430a6b8": 'a "b" {c}'}
    assert inaccessible(text) == ["51111111-c0a2-4688-a464-10811430a6b8"]


def test_blocks() -> None:
    """Media, adapters: one thing a block."""
    text = "UUID:           a\nParent UUID:    base\nLocation:       /vm/x: y.vdi\n\nUUID:           b\n\n"
    first, second = blocks(text)
    assert (first["Parent UUID"], first["Location"], second) == ("base", "/vm/x: y.vdi", {"UUID": "b"})


@pytest.mark.parametrize("option", [option for option in OPTIONS.values() if isinstance(option, Setting)], ids=str)
def test_options_have_a_default(option: Setting) -> None:
    """What VirtualBox is told when an option is taken away."""
    words = option.write(None)
    assert words[0].startswith("--")
    assert len(words) % 2 == 0
    assert option.read({}) in (None, "bios")


def test_boot_order() -> None:
    """Four places, filled up with nothing."""
    boot = OPTIONS["boot"]
    assert isinstance(boot, Setting)
    assert boot.write(("cdrom", "hd")) == ["--boot1", "dvd", "--boot2", "disk", "--boot3", "none", "--boot4", "none"]
    assert boot.read({"boot1": "net", "boot2": "none", "boot3": "floppy"}) == ("network", "fd")
