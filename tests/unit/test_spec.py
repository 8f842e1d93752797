"""Plain data: memory, names, CPUs, MAC addresses, options, and how VMSpecs differ."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from virtuoso_core import (
    GiB,
    InvalidNetworkError,
    InvalidOptionError,
    InvalidValueError,
    MiB,
    Network,
    Option,
    VMSpec,
    format_memory,
    parse_memory,
)
from virtuoso_core.spec import MAX_CPUS, MAX_MEMORY, MAX_NAME_BYTES, check_cpus, check_mac, check_name, option_table


class Unprintable:
    def __repr__(self) -> str:
        raise RuntimeError("no repr")


# Memory.

AMOUNTS = {
    1: 1,
    512000: 512000,
    MAX_MEMORY: MAX_MEMORY,
    4 * GiB: 4194304,
    512 * MiB: 524288,
    "512 MiB": 524288,
    "512MiB": 524288,
    " 512  mib\n": 524288,
    "1.5 GiB": 1572864,
    "4G": 4 * GiB,
    "4g": 4 * GiB,
    "512 M": 512 * MiB,
    "1 K": 1,
    "1 TiB": 1024 * GiB,
    "0.5 MiB": 512,
    "1024 KB": 1000,
    "1.024 MB": 1000,
    "4096 TiB": MAX_MEMORY,
    "4 PiB": MAX_MEMORY,
}


@pytest.mark.parametrize(("value", "kib"), AMOUNTS.items())
def test_amounts_of_memory(value: object, kib: int) -> None:
    assert parse_memory(value) == kib


@pytest.mark.parametrize(
    ("value", "why"),
    [
        (0, "out of range"),
        (-1, "out of range"),
        (2**63, "out of range"),
        (MAX_MEMORY + 1, "out of range"),
        pytest.param(10**5000, "That int is out of range", id="5000 digits"),
        ("0 MiB", "out of range"),
        ("5 PiB", "out of range"),
        ("1 EiB", "not an amount"),
        ("99999 TiB", "out of range"),
        ("12 bananas", "'12 bananas' is not an amount"),
        ("", "not an amount"),
        ("512", "not an amount"),
        ("MiB", "not an amount"),
        ("-1 MiB", "not an amount"),
        ("1e3 MiB", "not an amount"),
        ("1,5 GiB", "not an amount"),
        ("٣ MiB", "not an amount"),
        ("1 MiB 2 KiB", "not an amount"),
        ("9" * 5000 + " MiB", "not an amount"),
        ("1.3 KiB", "not a whole number of KiB"),
        ("1 KB", "not a whole number of KiB"),
        (True, "not an amount"),
        (1.5, "not an amount"),
        (1024.0, "not an amount"),
        (None, "not an amount"),
        (b"1 MiB", "not an amount"),
        (Unprintable(), "That Unprintable is not an amount"),
    ],
)
def test_what_is_no_amount_of_memory(value: object, why: str) -> None:
    with pytest.raises(InvalidValueError, match=why) as caught:
        parse_memory(value)
    assert isinstance(caught.value, ValueError)
    assert "KiB" in caught.value.hint
    assert len(str(caught.value)) < 250


@given(st.integers(1, MAX_MEMORY) | st.integers(1, 4).map(lambda count: count * 1024**4))
def test_memory_is_written_exactly(kib: int) -> None:
    assert parse_memory(format_memory(kib)) == kib


@pytest.mark.parametrize(
    ("kib", "text"), [(0, "0 KiB"), (1, "1 KiB"), (1024, "1 MiB"), (1536, "1536 KiB"), (3 * GiB, "3 GiB")]
)
def test_memory_for_people(kib: int, text: str) -> None:
    assert format_memory(kib) == text


# Names.


@pytest.mark.parametrize(
    "name",
    ["web", "My new VM", "<&\"'>", "ü日本🔑", "--help", "a.b", "...", "%s", "x" * MAX_NAME_BYTES, "'; rm -rf", "\\"],
)
def test_names(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("  ", "empty"),
        ("\n", "empty"),
        ("x" * 5000, "5000 bytes long"),
        ("x" * (MAX_NAME_BYTES + 1), "bytes long"),
        ("ü" * MAX_NAME_BYTES, "400 bytes long"),
        ("a\nb", r"'\\n'"),
        ("a\tb", r"'\\t'"),
        ("a\x00b", r"'\\x00'"),
        ("a\x7fb", r"'\\x7f'"),
        ("a\u2028b", r"'\\u2028'"),
        ("a\ufffeb", r"'\\ufffe'"),
        ("a\udc80b", r"'\\udc80'"),
        ("a/b", "kept as a file"),
        ("../x", "kept as a file"),
        (".", "kept as a file"),
        ("..", "kept as a file"),
        (None, "not NoneType"),
        (7, "not int"),
        (b"web", "not bytes"),
    ],
)
def test_what_is_no_name(name: object, why: str) -> None:
    with pytest.raises(InvalidValueError, match=why) as caught:
        check_name(name)
    assert len(str(caught.value)) < 250
    str(caught.value).encode()  # can be printed


@given(st.text(max_size=300))
def test_any_text_is_a_name_or_refused(text: str) -> None:
    try:
        assert check_name(text) == text
    except InvalidValueError as error:
        str(error).encode()


# CPUs and MAC addresses.


@pytest.mark.parametrize("cpus", [1, 2, MAX_CPUS])
def test_numbers_of_cpus(cpus: int) -> None:
    assert check_cpus(cpus) == cpus


@pytest.mark.parametrize("cpus", [0, -1, MAX_CPUS + 1, True, 1.0, "2", None, pytest.param(10**5000, id="5000 digits")])
def test_what_is_no_number_of_cpus(cpus: object) -> None:
    with pytest.raises(InvalidValueError, match="not a number of CPUs"):
        check_cpus(cpus)


@pytest.mark.parametrize("text", ["52:54:00:45:67:ab", "52:54:00:45:67:AB", "52-54-00-45-67-AB", " 52:54:00:45:67:ab "])
def test_mac_addresses_get_one_spelling(text: str) -> None:
    assert check_mac(text) == "52:54:00:45:67:ab"


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "not a MAC address"),
        ("52:54:00:45:67", "not a MAC address"),
        ("52:54:00:45:67:89:01", "not a MAC address"),
        ("52:54:00:45:67:8g", "not a MAC address"),
        ("525400456789", "not a MAC address"),
        ("52:54:00:45:67:89\n52", "not a MAC address"),
        ("٥٢:54:00:45:67:89", "not a MAC address"),
        (525400456789, "not a MAC address"),
        (None, "not a MAC address"),
        ("53:54:00:45:67:89", "multicast"),
        ("ff:ff:ff:ff:ff:ff", "multicast"),
        ("00:00:00:00:00:00", "all zeros"),
    ],
)
def test_what_is_no_mac_address(value: object, why: str) -> None:
    with pytest.raises(InvalidNetworkError, match=why) as caught:
        check_mac(value)
    assert caught.value.hint


def test_a_multicast_address_is_answered_with_one_that_would_do() -> None:
    with pytest.raises(InvalidNetworkError, match="52:54:00:45:67:89 would do"):
        check_mac("53:54:00:45:67:89")


# Options.


def odd(value: int) -> int:
    if value % 2 == 0:
        raise InvalidOptionError(f"{value} is even.", hint="It takes odd ones.")
    return value


FLAG = Option("flag", "bool", "A flag.")
PORT = Option("port", "int", "A port.", minimum=1, maximum=65535)
FREE = Option("free", "int", "Any number.")
ODD = Option("odd", "int", "An odd number.", check=odd)
TITLE = Option("title", "str", "A title.", maximum=10)
BUS = Option("bus", "str", "A bus.", choices=("sata", "virtio"))
BOOT = Option("boot", "list", "Boot order.", choices=("disk", "cdrom", "network"))
TAGS = Option("tags", "list", "Tags.")
PASSWORD = Option("password", "str", "A password.", minimum=1, maximum=8, secret=True)


@pytest.mark.parametrize(
    ("option", "value", "parsed"),
    [
        *[(FLAG, text, True) for text in (True, "true", "Yes", " ON ", "1")],
        *[(FLAG, text, False) for text in (False, "false", "no", "off", "0")],
        (PORT, 1, 1),
        (PORT, " 5900 ", 5900),
        (FREE, "-5", -5),
        (ODD, "7", 7),
        (TITLE, "", ""),
        (TITLE, "<&\"'>\n\t", "<&\"'>\n\t"),
        (BUS, "sata", "sata"),
        (BOOT, "disk, network", ("disk", "network")),
        (BOOT, ["network", "disk"], ("network", "disk")),
        (BOOT, ("cdrom",), ("cdrom",)),
        (TAGS, "b,a", ("b", "a")),
        (PASSWORD, "12345678", "12345678"),
    ],
)
def test_values_of_options(option: Option, value: object, parsed: object) -> None:
    result = option.parse(value)
    assert (result, type(result)) == (parsed, type(parsed))
    assert option.parse(result) == result


@pytest.mark.parametrize(
    ("option", "values", "takes"),
    [
        (FLAG, ["", "maybe", 1, 0, None, 1.0, "trueish", ["true"]], "True or False"),
        (PORT, [0, 65536, -1, "x", "", True, 1.5, None, "1" * 30, 10**5000], "a whole number of 1 to 65535"),
        (FREE, ["x", True], "a whole number"),
        (TITLE, ["x" * 11, 7, None, "a\x00", "\udc80", b"x"], "a text of 0 to 10 characters"),
        (BUS, ["SATA", "", "ide", None, ["sata"]], "'sata' or 'virtio'"),
        (
            BOOT,
            ["", "disk,", "disk,disk", "floppy", [], [1], {"disk": 1}, None, 7],
            "a list of 'disk' or 'cdrom' or 'network', in order",
        ),
        (TAGS, ["", ["a\x00"], ["a", "a"], ["\ud800"]], "a list of texts"),
    ],
)
def test_what_an_option_does_not_take(option: Option, values: list[Any], takes: str) -> None:
    for value in values:
        with pytest.raises(InvalidOptionError) as caught:
            option.parse(value)
        assert isinstance(caught.value, ValueError)
        assert repr(option.name) in caught.value.message
        assert caught.value.hint == f"It takes {takes}."
        assert len(caught.value.message) < 150


def test_an_options_own_check_has_the_last_word() -> None:
    with pytest.raises(InvalidOptionError, match="8 is even"):
        ODD.parse(8)


@pytest.mark.parametrize("value", ["hunter2hunter2", "", 12345, "hunter\x00", ["hunter2"]])
def test_a_refused_secret_is_not_shown(value: object) -> None:
    with pytest.raises(InvalidOptionError, match="That value is not a value of the option 'password'") as caught:
        PASSWORD.parse(value)
    assert "hunter" not in str(caught.value)
    assert "12345" not in str(caught.value)


@given(st.sampled_from([FLAG, PORT, FREE, TITLE, BUS, BOOT, TAGS]), st.text() | st.integers() | st.lists(st.text()))
def test_any_value_is_taken_or_refused_in_words(option: Option, value: object) -> None:
    try:
        parsed = option.parse(value)
    except InvalidOptionError as error:
        str(error).encode()
    else:
        assert option.parse(parsed) == parsed


def test_option_table() -> None:
    assert dict(option_table(FLAG, PORT)) == {"flag": FLAG, "port": PORT}
    with pytest.raises(ValueError, match="one name"):
        option_table(FLAG, FLAG)
    with pytest.raises(TypeError):
        option_table(FLAG)["other"] = PORT  # type: ignore[index]


# VMSpec.

NETWORKS = st.lists(
    st.builds(
        Network, st.sampled_from(["nat", "bridged"]), st.sampled_from(["52:54:00:00:00:01", "52:54:00:00:00:02"])
    ),
    max_size=2,
).map(tuple)
OPTIONS = st.dictionaries(
    st.sampled_from(["headless", "name", "a.b"]), st.booleans() | st.integers(0, 2) | st.just("x")
).map(MappingProxyType)
SPECS = st.builds(
    VMSpec,
    name=st.sampled_from(["a", "b"]),
    memory=st.integers(1, 3),
    cpus=st.integers(1, 2),
    disk_image=st.none() | st.just("/x"),
    networks=NETWORKS,
    options=OPTIONS,
)


@given(SPECS, SPECS)
def test_taking_what_differs_makes_them_equal(mine: VMSpec, theirs: VMSpec) -> None:
    assert mine.with_values_of(theirs, mine.changed_from(theirs)) == theirs


@given(SPECS, SPECS, st.data())
def test_only_the_named_values_are_taken(mine: VMSpec, theirs: VMSpec, data: st.DataObject) -> None:
    names = frozenset(data.draw(st.sets(st.sampled_from(sorted({*mine.values(), *theirs.values()})))))
    made = mine.with_values_of(theirs, names)
    for name in mine.values().keys() | theirs.values().keys():
        assert made.values().get(name) == (theirs if name in names else mine).values().get(name)
    assert made.changed_from(mine) == names & theirs.changed_from(mine)


@given(SPECS, SPECS)
def test_changes_are_symmetric_and_empty_for_equals(mine: VMSpec, theirs: VMSpec) -> None:
    assert mine.changed_from(theirs) == theirs.changed_from(mine)
    assert (mine.changed_from(theirs) == frozenset()) == (mine == theirs)
    assert mine.changed_from(mine) == frozenset()


@given(SPECS, SPECS)
def test_nothing_is_edited_in_place(mine: VMSpec, theirs: VMSpec) -> None:
    before = repr(mine), repr(theirs)
    mine.with_values_of(theirs, mine.changed_from(theirs))
    assert (repr(mine), repr(theirs)) == before


def test_options_are_counted_one_by_one() -> None:
    mine = VMSpec("a", 1, 1, options=MappingProxyType({"x": 1, "y": 1}))
    theirs = VMSpec("a", 1, 1, options=MappingProxyType({"x": 2, "z": 1}))
    assert mine.changed_from(theirs) == {"options.x", "options.y", "options.z"}
    assert dict(mine.with_values_of(theirs, frozenset({"options.y"})).options) == {"x": 1}


def test_a_network_for_people() -> None:
    assert str(Network("nat", "52:54:00:00:00:01")) == "nat 52:54:00:00:00:01"
    card = Network("bridged", "52:54:00:00:00:01", source="br0", model="virtio")
    assert str(card) == "bridged 52:54:00:00:00:01 source=br0 model=virtio"
