"""VMware's .vmx files: whatever is in them, a change touches the lines of its keys and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtuoso_core.errors import HypervisorError, VMNotFoundError
from virtuoso_vmware.vmx import VmxFile

KEYS = ("memsize", "numvcpus", "guestinfo.virtuoso.headless")
LINES = st.one_of(
    st.binary(max_size=40).map(lambda line: line.replace(b"\n", b"").replace(b"\r", b"")),
    st.sampled_from([b'scsi0.present = "TRUE"', b"# memsize", b'annotation = "memsize = 1"', b"", b'xmemsize = "5"']),
)


def is_ours(line: bytes) -> bool:
    return line.partition(b"=")[0].strip(b" \t").lower().decode(errors="replace") in KEYS


@settings(deadline=None)
@given(st.lists(LINES), st.sampled_from([b"\n", b"\r\n"]), st.integers(1, 10**6), st.booleans())
def test_only_the_keys_lines_change(lines: list[bytes], end: bytes, memory: int, ended: bool) -> None:
    lines = [line for line in lines if not is_ours(line)]
    at = len(lines) // 2
    lines[at:at] = [b'MemSize = "256"']
    data = end.join(lines) + (end if ended else b"")
    changed = VmxFile("x.vmx", data).changed({"memsize": str(memory)})
    assert changed.number("memsize", 0) == memory
    lines[at] = b'MemSize = "%d"' % memory
    assert changed.data == end.join(lines) + (end if ended else b"")
    assert changed.changed({"memsize": "256"}).data == data


@settings(deadline=None)
@given(st.lists(LINES), st.sampled_from([b"\n", b"\r\n"]))
def test_a_new_line_goes_to_the_end_and_leaves_no_trace(lines: list[bytes], end: bytes) -> None:
    data = b"".join(line + end for line in lines if not is_ours(line))
    changed = VmxFile("x.vmx", data).changed({"numvcpus": "4"})
    assert changed.data.startswith(data)
    assert changed.number("numvcpus", 1) == 4
    assert changed.changed({"numvcpus": None}).data == data


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'displayName = "a|22b|7cc"', 'a"b|c'),
        (b'displayName = "50%25 %2f %5c % 5%"', "50% / \\ % 5%"),
        (b'.encoding = "windows-1252"\ndisplayName = "B\xe4r"', "Bär"),
        (b'.encoding = "GBK"\ndisplayName = "\xba\xba"', "汉"),
        (b'.encoding = "base64"\ndisplayName = "plain"', "plain"),
        (b'.encoding = "no-such-thing"\ndisplayName = "\xc3\xa4"', "ä"),
        (b"memsize = 1", "guest"),
        (b"DISPLAYNAME=plain", "plain"),
        (b"", "guest"),
    ],
)
def test_names(data: bytes, name: str) -> None:
    assert VmxFile("/vms/guest.vmx", data).name == name


def test_uuid() -> None:
    found = VmxFile("/a.vmx", b'uuid.bios = "56 4d 11 22 33 44 55 66-77 88 99 aa bb cc dd ee"').uuid
    assert found == "564d1122-3344-5566-7788-99aabbccddee"
    made = VmxFile("/a.vmx", b"").uuid
    assert made == VmxFile("/a.vmx", b'memsize = "1"').uuid != VmxFile("/b.vmx", b"").uuid


def test_what_libvirt_gets() -> None:
    vmx = VmxFile("/a.vmx", b'.encoding = "windows-1252"\nfirmware = "bios"\ndisplayName = "B\xe4r"\n')
    assert vmx.for_libvirt() == '.encoding = "UTF-8"\ndisplayName = "Bär"\n'


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(VMNotFoundError):
        VmxFile(str(tmp_path / "none.vmx"))
    with pytest.raises(HypervisorError, match="directory"):
        VmxFile(str(tmp_path))
