"""The domain document: memory, processors, disks, boot order and what else has more than one place in the XML."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtuoso_core.errors import InvalidValueError
from virtuoso_core.xml import DomainDocument

SAMPLES = Path(__file__).parent / "domains"


def sample(name: str) -> DomainDocument:
    """A fresh document of one of the files."""
    return DomainDocument((SAMPLES / f"{name}.xml").read_bytes())


def domain(inner: str) -> DomainDocument:
    """A document of that inside ``<domain>``."""
    return DomainDocument(f"<domain>{inner}</domain>")


# Units.

M, G, T, P, E = (1024**n for n in range(1, 6))  # in KiB


@pytest.mark.parametrize(
    ("amount", "unit", "kib"),
    [
        ("2048", None, 2048),
        ("2048", "", 2048),
        ("4096", "b", 4),
        ("4096", "B", 4),
        ("4096", "byte", 4),
        ("4096", "bytes", 4),
        ("7", "k", 7),
        ("7", "K", 7),
        ("7", "KiB", 7),
        ("7", "kib", 7),
        ("7", "M", 7 * M),
        ("7", "m", 7 * M),
        ("7", "MiB", 7 * M),
        ("7", "MIB", 7 * M),
        ("7", "G", 7 * G),
        ("7", "GiB", 7 * G),
        ("7", "gib", 7 * G),
        ("7", "T", 7 * T),
        ("7", "TiB", 7 * T),
        ("7", "P", 7 * P),
        ("7", "PiB", 7 * P),
        ("7", "E", 7 * E),
        ("7", "EiB", 7 * E),
        ("1024", "KB", 1000),
        ("1024", "kB", 1000),
        ("1024", "MB", 10**6),
        ("1024", "GB", 10**9),
        ("1024", "TB", 10**12),
        ("1024", "PB", 10**15),
        ("1024", "EB", 10**18),
        # up, as libvirt does
        ("1", "b", 1),
        ("0", "b", 0),
        ("1025", "bytes", 2),
        ("1", "KB", 1),
        ("1000", "MB", 976563),
        (" 7\n", "KiB", 7),
        # no amount
        ("", None, None),
        ("seven", None, None),
        ("7.5", "GiB", None),
        ("7", "acres", None),
        ("7", "KiBs", None),
    ],
)
def test_units_are_read_as_libvirt_reads_them(amount: str, unit: str | None, kib: int | None) -> None:
    attribute = "" if unit is None else f" unit='{unit}'"
    document = domain(f"<memory{attribute}>{amount}</memory><currentMemory{attribute}>{amount}</currentMemory>")
    assert (document.memory, document.current_memory) == (kib, kib)


@pytest.mark.parametrize(
    ("old", "kib", "new"),
    [
        ('<memory unit="GiB">2</memory>', 4 * G, '<memory unit="GiB">4</memory>'),
        ('<memory unit="GiB">2</memory>', 1_500_000, '<memory unit="KiB">1500000</memory>'),
        ('<memory unit="g">2</memory>', 3 * G, '<memory unit="g">3</memory>'),
        ('<memory unit="MB">1024</memory>', 125, '<memory unit="KiB">125</memory>'),
        ('<memory unit="MB">1024</memory>', 15625, '<memory unit="MB">16</memory>'),
        ('<memory unit="b">1</memory>', 3, '<memory unit="b">3072</memory>'),
        ('<memory unit="acres">1</memory>', 3, '<memory unit="KiB">3</memory>'),
        ("<memory>1</memory>", 3, "<memory>3</memory>"),
        ("<memory/>", 3, "<memory>3</memory>"),
        ("", 3, "<memory>3</memory>"),
        ('<memory dumpCore="off" unit="GiB">2</memory>', 1, '<memory dumpCore="off" unit="KiB">1</memory>'),
        ("<memory><!-- was 1 -->2</memory>", 3, "<memory>3<!-- was 1 --></memory>"),
    ],
)
def test_the_unit_is_kept_where_the_amount_is_whole_in_it(old: str, kib: int, new: str) -> None:
    document = domain(old)
    document.set_memory(kib)
    assert document.text == f"<domain>{new}</domain>"
    assert DomainDocument(document.text).memory == kib


@settings(deadline=None)
@given(
    st.integers(1, 2**60),
    st.sampled_from(["b", "bytes", "KB", "k", "MB", "MiB", "GB", "G", "TB", "TiB", "PB", "PiB", "EB", "EiB"]),
)
def test_every_amount_is_written_exactly(kib: int, unit: str) -> None:
    document = domain(f"<memory unit='{unit}'>12345</memory>")
    document.set_memory(kib)
    assert DomainDocument(document.text).memory == kib


@pytest.mark.parametrize(("amount", "unit"), [("2", "GiB"), ("2048", "MiB"), ("2147483648", "bytes"), ("2097152", "")])
def test_the_same_amount_in_other_words_is_no_change(amount: str, unit: str) -> None:
    document = domain(f"<memory  unit='{unit}' >{amount}</memory><currentMemory unit='MiB'>5</currentMemory>")
    before = document.text
    document.set_memory(2097152)
    document.memory = 2097152
    assert document.text == before


# Memory in more than one place.


@pytest.mark.parametrize(
    ("balloon", "new", "expected"),
    [
        (1000, 2000, 2000),
        (1000, 500, 500),
        (600, 2000, 600),
        (600, 700, 600),
        (600, 600, 600),
        (600, 500, 500),
        (1500, 2000, 1500),  # above the old total, which libvirt would not have written
        (1500, 1200, 1200),
        (None, 2000, None),
    ],
)
def test_the_balloon_follows_is_kept_or_is_clamped(balloon: int | None, new: int, expected: int | None) -> None:
    current = "" if balloon is None else f"<currentMemory>{balloon}</currentMemory>"
    document = domain(f"<memory>1000</memory>{current}")
    document.set_memory(new)
    assert (document.memory, document.current_memory) == (new, expected)


def with_cells(sizes: list[str]) -> DomainDocument:
    """A document of NUMA cells of those sizes, each with its unit."""
    cells = [f"<cell id='{n}' memory='{size.split()[0]}' unit='{size.split()[1]}'/>" for n, size in enumerate(sizes)]
    return domain(f"<name>n</name><memory>1</memory><cpu><numa>{''.join(cells)}</numa></cpu>")


def cell_sizes(document: DomainDocument) -> list[int | None]:
    """The memory of each cell."""
    return [cell.memory for cell in document._cells()]


@settings(deadline=None)
@given(
    st.lists(
        st.builds("{} {}".format, st.integers(0, 10**7), st.sampled_from(["KiB", "MiB", "KB", "b"])),
        min_size=1,
        max_size=9,
    ),
    st.integers(2, 2**42),
)
def test_numa_cells_add_up_to_the_new_memory(sizes: list[str], kib: int) -> None:
    document = with_cells(sizes)
    before, old = document.text, cell_sizes(document)
    used = [size for size in old if size]
    try:
        document.set_memory(kib)
    except InvalidValueError:
        assert document.text == before
        return
    new = cell_sizes(DomainDocument(document.text))
    assert DomainDocument(document.text).memory == kib
    assert [bool(size) for size in new] == [bool(size) for size in old]  # a cell without memory stays one
    if used:
        assert sum(size or 0 for size in new) == kib
        rounding = (1024 if kib % 1024 == 0 else 1) * len(used)
        for share, size in zip(new, old, strict=True):
            assert abs((share or 0) - (size or 0) * kib / sum(used)) <= rounding


@settings(deadline=None)
@given(st.lists(st.integers(1, 64), min_size=1, max_size=8), st.integers(1, 64))
def test_cells_of_whole_mebibytes_stay_whole(sizes: list[int], factor: int) -> None:
    document = with_cells([f"{size} GiB" for size in sizes])
    document.set_memory(sum(sizes) * factor * 1024)
    assert all(size and size % 1024 == 0 for size in cell_sizes(document))


@pytest.mark.parametrize(
    ("sizes", "kib"), [(["1 GiB"] * 4, 3), (["1 GiB"] * 2, 1024), (["1 KiB", "1 GiB"], 65535), (["7 b", "7 TiB"], 99)]
)
def test_too_little_for_every_cell_is_refused(sizes: list[str], kib: int) -> None:
    document = with_cells(sizes)
    before = document.text
    with pytest.raises(InvalidValueError, match="NUMA cells"):
        document.set_memory(kib)
    assert document.text == before


def test_the_cells_of_a_real_document() -> None:
    document = sample("numa")
    document.set_memory(24 * G)
    assert cell_sizes(document) == [12 * G, 8 * G, 4 * G]
    assert [cell.element.get("unit") for cell in document._cells()] == ["GiB", "KiB", None]


@pytest.mark.parametrize(
    ("name", "change", "kib"),
    [
        ("memory_devices", "", G),
        ("memory_devices", "", 128 * G),
        ("memory_devices", "devices/memory", 64 * 1024 * 1024 + 1),
    ],
)
def test_memory_that_libvirt_would_not_change_is_refused(name: str, change: str, kib: int) -> None:
    document = sample(name)
    for gone in document.root.findall(change) if change else []:
        document.remove(gone)
    before = document.text
    with pytest.raises(InvalidValueError) as caught:
        document.set_memory(kib)
    assert document.text == before
    assert "'growing'" in caught.value.message
    assert "virsh edit" in caught.value.hint


def test_below_the_maximum_the_cells_change() -> None:
    document = sample("memory_devices")
    document.remove(document.root.findall("devices/memory")[0])
    document.set_memory(64 * G)
    assert (document.memory, cell_sizes(document), document.max_memory) == (64 * G, [64 * G], 64 * G)


# Processors.


@pytest.mark.parametrize(
    ("inner", "count", "expected"),
    [
        ("<vcpu>2</vcpu>", 4, "<vcpu>4</vcpu>"),
        ("<vcpu cpuset='1-3'>2</vcpu>", 1, "<vcpu cpuset='1-3'>1</vcpu>"),
        ("", 3, "<vcpu>3</vcpu>"),
        ("<vcpu current='2'>4</vcpu>", 3, "<vcpu current='3'>4</vcpu>"),
        ("<vcpu current='2'>4</vcpu>", 4, "<vcpu current='4'>4</vcpu>"),
        ("<vcpu current='2'>4</vcpu>", 6, "<vcpu current='6'>6</vcpu>"),
        ("<vcpu current='2'>4</vcpu>", 2, "<vcpu current='2'>4</vcpu>"),
    ],
)
def test_cpus_start_and_maximum(inner: str, count: int, expected: str) -> None:
    document = domain(inner)
    document.set_cpus(count)
    assert document.cpus == count
    assert document.text == domain(expected).text


TOPOLOGY = "<vcpu{0}>{1}</vcpu><cpu><topology sockets='{2}' {3} cores='2' threads='2'/></cpu>"


@pytest.mark.parametrize(
    ("inner", "count", "expected"),
    [
        (TOPOLOGY.format("", 8, 2, ""), 12, TOPOLOGY.format("", 12, 3, "")),
        (TOPOLOGY.format("", 8, 2, ""), 4, TOPOLOGY.format("", 4, 1, "")),
        (TOPOLOGY.format("", 8, 1, "dies='2'"), 16, TOPOLOGY.format("", 16, 2, "dies='2'")),
        (TOPOLOGY.format("", 16, 2, "dies='1' clusters='2'"), 8, TOPOLOGY.format("", 8, 1, "dies='1' clusters='2'")),
        (TOPOLOGY.format(" current='3'", 8, 2, ""), 5, TOPOLOGY.format(" current='5'", 8, 2, "")),
        (TOPOLOGY.format(" current='3'", 8, 2, ""), 12, TOPOLOGY.format(" current='12'", 12, 3, "")),
    ],
)
def test_a_topology_stays_consistent(inner: str, count: int, expected: str) -> None:
    document = domain(inner)
    document.set_cpus(count)
    assert document.text == domain(expected).text


@pytest.mark.parametrize(
    ("inner", "count"),
    [
        (TOPOLOGY.format("", 8, 2, ""), 6),
        (TOPOLOGY.format("", 8, 2, ""), 1),
        (TOPOLOGY.format("", 16, 2, "dies='2'"), 12),
        (TOPOLOGY.format(" current='3'", 8, 2, ""), 10),
    ],
)
def test_a_count_that_the_topology_does_not_allow_changes_nothing(inner: str, count: int) -> None:
    document = domain(inner)
    before = document.text
    with pytest.raises(InvalidValueError, match="multiple"):
        document.set_cpus(count)
    assert document.text == before
