"""Options as words, networks in slots: what drivers share that do not go through libvirt."""

from __future__ import annotations

from typing import Any

import pytest

from virtuoso_core.errors import InvalidNetworkError, InvalidOptionError, UnsupportedError
from virtuoso_core.spec import Network, VMSpec
from virtuoso_core.words import DISK, DRIVE, WordOption, arrange, arrange_media, check_listed, complete, read_media

# Options.

BOOT = WordOption("boot", "list", "", keys=("b1", "b2", "b3"), words={"hd": "disk", "cd": "dvd"}, nothing="none")
FIRMWARE = WordOption("firmware", "str", "", keys=("fw",), words={"uefi": "efi", "bios": "bios"})
SCREEN = WordOption("screen", "bool", "", keys=("ui",), words={True: "window", False: "none"}, nothing="default")
PORT = WordOption("port", "int", "", keys=("port",), switch="rdp")
SYSTEM = WordOption("system", "str", "", keys=("os",))
CHIPSET = WordOption("chipset", "str", "", choices=("q35", "i440"), keys=("chips",))


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        (BOOT, ("cd", "hd"), {"b1": "dvd", "b2": "disk", "b3": "none"}),
        (BOOT, None, {"b1": "none", "b2": "none", "b3": "none"}),
        (FIRMWARE, "uefi", {"fw": "efi"}),
        (SCREEN, False, {"ui": "none"}),
        (SCREEN, None, {"ui": "default"}),
        (PORT, 3389, {"port": "3389", "rdp": "on"}),
        (PORT, None, {"rdp": "off"}),
        (SYSTEM, "Debian_64", {"os": "Debian_64"}),
        (SYSTEM, None, {"os": ""}),
        (CHIPSET, "q35", {"chips": "q35"}),
    ],
)
def test_options_there_and_back(option: WordOption, value: Any, words: dict[str, str]) -> None:
    """What is written is read."""
    assert option.write(value) == words
    assert option.read(words) == value


@pytest.mark.parametrize(
    ("option", "words", "value"),
    [
        (BOOT, {"b1": "net", "b3": "dvd"}, ("cd",)),
        (BOOT, {}, None),
        (FIRMWARE, {"fw": "EFI64"}, "uefi"),
        (FIRMWARE, {"fw": "something new"}, "bios"),
        (FIRMWARE, {}, None),
        (PORT, {"rdp": "on", "port": "1-5"}, None),
        (CHIPSET, {"chips": "Q35"}, "q35"),
    ],
)
def test_options_in_foreign_words(option: WordOption, words: dict[str, str], value: Any) -> None:
    """What somebody else wrote."""
    assert option.read(words) == value


def test_options_from_a_file() -> None:
    """TOML has no tuples, and keys that are texts only."""
    plain = {"name": "screen", "kind": "bool", "doc": "", "keys": ["ui"], "nothing": "default"}
    assert WordOption.from_dict({**plain, "words": {"true": "window", "false": "none"}}) == SCREEN
    plain = {"name": "boot", "kind": "list", "doc": "", "keys": ["b1", "b2", "b3"], "nothing": "none"}
    assert WordOption.from_dict({**plain, "words": {"hd": "disk", "cd": "dvd"}}) == BOOT


def test_values_that_the_hypervisor_lists() -> None:
    """The nearest ones are named; a hypervisor that lists none takes any."""
    check_listed("Debian_64", ["Debian_64"], "the systems")
    check_listed("anything", [], "the systems")
    with pytest.raises(InvalidOptionError, match=r"'Debain_64' is none of the systems\. Did you mean Debian_64\?"):
        check_listed("Debain_64", ["Debian_64", "Windows"], "the systems")
    with pytest.raises(InvalidOptionError, match="There are: Debian_64, Windows"):
        check_listed("x", ["Debian_64", "Windows"], "the systems")


# Networks.


def _net(number: int, type: str = "nat") -> Network:
    return Network(type, f"52:54:00:00:00:{number:02x}", None, "e1000")


@pytest.mark.parametrize(
    ("given", "filled"),
    [
        ((None, None, False, None), (None, "e1000")),
        ((None, "virtio", True, "net0"), ("net0", "virtio")),
        (("net1", None, True, "net0"), ("net1", "e1000")),
        (("net1", None, True, None), ("net1", "e1000")),
    ],
)
def test_completing_networks(given: Any, filled: Any) -> None:
    """With the usual source and model."""
    source, model, has_source, usual = given
    network = Network("nat", "52:54:00:00:00:01", source, model)
    found = complete(network, has_source=has_source, usual=usual, models=("e1000", "virtio"))
    assert (found.source, found.model) == filled


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("net1", None, False), "'nat' has no source to choose. Leave source out."),
        ((None, None, True), "'nat' needs a source. Name one."),
        ((None, "ne2000", False), "'ne2000'. There are: e1000, virtio."),
    ],
)
def test_networks_that_are_refused(given: Any, message: str) -> None:
    """With what to do."""
    source, model, has_source = given
    with pytest.raises(InvalidNetworkError) as caught:
        complete(
            Network("nat", "52:54:00:00:00:01", source, model),
            has_source=has_source,
            usual=None,
            models=("e1000", "virtio"),
            advice="Name one.",
        )
    assert str(caught.value).endswith(message)


def _slots(*numbers: int) -> dict[int, Network]:
    """Cards by their numbers, 0 for an empty slot, from slot 1 on."""
    return {slot: _net(number) for slot, number in enumerate(numbers, 1) if number}


@pytest.mark.parametrize(
    ("before", "wanted", "changed"),
    [
        ((1, 2, 3), (1, 3), {2: 0}),
        ((1, 2, 3), (1, 3, 4), {2: 0, 4: 4}),
        ((1, 2, 3), (1, 4), {2: 0, 3: 0, 4: 4}),
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
    found = arrange(_slots(*before), [_net(number) for number in wanted], range(1, 9))
    assert found == {slot: _net(number) if number else None for slot, number in changed.items()}


def test_a_card_that_changes() -> None:
    """It may have its own slot again."""
    full = _slots(1, 2)
    changed = _net(2, "bridged")
    assert arrange(full, [_net(1), changed], range(1, 3)) == {2: changed}


def test_slots_that_go() -> None:
    """Their cards move to those that are left."""
    assert arrange({1: _net(1), 9: _net(2)}, [_net(1), _net(2)], range(1, 9)) == {2: _net(2), 9: None}


def test_no_slot_is_left() -> None:
    """Said before anything is done."""
    with pytest.raises(UnsupportedError, match=r"there are 8\. Take another card away first, or buy slots\."):
        arrange(
            _slots(1, 2, 3, 4, 5, 6, 7, 8), [_net(number) for number in range(1, 10)], range(1, 9), ", or buy slots"
        )


# Disks.

A, B, C = (DISK, "/a"), (DISK, "/b"), (DISK, "/c")
CD, SEED, NONE = (DRIVE, "/x.iso"), (DRIVE, "/s.cloud-init.iso"), (DRIVE, "")


def _media(there: dict[str, tuple[str, str]], changed: str = "", free: str = "789", **fields: Any) -> dict[str, Any]:
    spec = VMSpec("a", 1024, 1, **(read_media(there) | fields))
    return arrange_media(there, spec, {*fields, changed}, free)


@pytest.mark.parametrize(
    ("there", "fields", "after"),
    [
        ({}, {"disk_image": "/a"}, {"7": A}),
        ({}, {"disk_image": "/a", "more_disks": ("/b",), "cdrom": "/x.iso"}, {"7": A, "8": B, "9": CD}),
        ({"1": A, "2": B, "3": CD}, {"disk_image": "/c"}, {"1": C, "2": B, "3": CD}),
        ({"1": A, "2": B}, {"disk_image": None, "more_disks": ()}, {}),
        ({"1": A, "2": B, "3": C}, {"more_disks": ("/c",)}, {"1": A, "3": C}),
        ({"1": A, "2": B}, {"more_disks": ("/c", "/b")}, {"1": A, "7": C, "2": B}),
        ({"1": A, "2": CD}, {"cdrom": None}, {"1": A, "2": NONE}),
        ({"1": NONE, "2": SEED}, {"cdrom": "/x.iso"}, {"1": CD, "2": SEED}),
        ({"1": NONE, "2": CD}, {"cdrom": None}, {"1": NONE, "2": NONE}),
        ({"1": CD}, {"seed": SEED[1]}, {"1": CD, "7": SEED}),
        ({"1": SEED}, {"seed": "/t.cloud-init.iso", "cdrom": "/x.iso"}, {"1": (DRIVE, "/t.cloud-init.iso"), "7": CD}),
        ({}, {"cdrom": None, "seed": None}, {}),
        ({"1": A, "2": CD}, {}, {"1": A, "2": CD}),
    ],
)
def test_arranging_disks(there: dict[str, Any], fields: dict[str, Any], after: dict[str, Any]) -> None:
    """What stays keeps its place; what is read back is what was wanted."""
    before = dict(there)
    arranged = _media(there, **fields)
    assert arranged == after
    assert there == before
    ordered = dict(sorted(arranged.items()))
    assert {name: read_media(ordered)[name] for name in fields} == {
        name: tuple(sorted(value)) if name == "more_disks" else value for name, value in fields.items()
    }


def test_no_place_is_left() -> None:
    """It is said, for which file."""
    with pytest.raises(UnsupportedError, match="no place left to plug in /c"):
        _media({"1": A}, more_disks=("/b", "/c"), free="7")
