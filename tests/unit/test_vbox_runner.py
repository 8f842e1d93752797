"""The one way to VBoxManage, with programs that stand in for it and for ssh."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from virtuoso_core import URI, connect
from virtuoso_core.errors import (
    ConnectError,
    HypervisorError,
    ImageError,
    ImageFormatError,
    ImageNotFoundError,
    InvalidStateError,
    InvalidURIError,
    InvalidValueError,
    UnsupportedError,
    VirtuosoError,
    VMNotFoundError,
)
from virtuoso_core.programs import code_of
from virtuoso_vbox.driver import VBoxHypervisor
from virtuoso_vbox.runner import Runner

Program = Callable[..., Path]


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Makes a program that does what a shell script says, and prints a version when asked for one."""

    def make(script: str, name: str = "VBoxManage") -> Path:
        path = tmp_path / name
        version = 'for word; do [ "$word" != --version ] || { echo WARNING; echo 7.0.1r1; exit 0; }; done\n'
        path.write_text(f"#!/bin/sh\n{version}{script}\n")
        path.chmod(0o755)
        return path

    return make


def _runner(path: Path) -> Runner:
    return Runner(URI.parse(f"vbox:///session?vboxmanage={path}"))


def test_the_version(program: Program) -> None:
    """The last word of what is printed: a wrapper may warn before."""
    assert _runner(program("")).version == "7.0.1r1"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("VBOX_E_OBJECT_NOT_FOUND (0x80bb0001)", VMNotFoundError),
        ("VBOX_E_INVALID_VM_STATE (0x80bb0002)", InvalidStateError),
        ("VBOX_E_INVALID_OBJECT_STATE (0x80bb0007)", InvalidStateError),
        ("VBOX_E_NOT_SUPPORTED (0x80bb0009)", UnsupportedError),
        ("NS_ERROR_INVALID_ARG (0x80070057)", InvalidValueError),
        ("E_INVALIDARG (0x80070057)", InvalidValueError),
        ("NS_ERROR_FAILURE (0x80004005)", HypervisorError),
        ("VBOX_E_FILE_ERROR (0x80bb0004)", HypervisorError),
    ],
)
def test_codes_decide(program: Program, code: str, kind: type[VirtuosoError]) -> None:
    """Not the words, which are passed on, nor the operating system's name for the code."""
    details = f"VBoxManage: error: Details: code {code}, component X, interface Y"
    runner = _runner(program(f"echo 'VBoxManage: error: Something is wrong' >&2; echo '{details}' >&2; exit 1"))
    with pytest.raises(kind) as caught:
        runner.run(["x"], doing="do it", vm="web")
    assert type(caught.value) is kind
    assert code_of(caught.value) == int(code.partition("0x")[2][:8], 16)
    assert kind is VMNotFoundError or "Something is wrong." in str(caught.value)
    assert (code_of(caught.value) in runner.passing) is ("OBJECT_STATE" in code)


def test_a_failure_without_a_code(program: Program) -> None:
    """A mistake in the words, for one."""
    runner = _runner(program("echo fine"))
    runner.run(["x"], doing="try")
    runner.path = str(program("echo 'VBoxManage: error: Unknown option' >&2; exit 2"))
    with pytest.raises(HypervisorError, match="Unknown option") as caught:
        runner.run(["x"], doing="try")
    assert caught.value.code is None


def test_no_program(tmp_path: Path) -> None:
    """Said with where to name it."""
    with pytest.raises(ConnectError, match=r"\?vboxmanage="):
        connect(f"vbox:///session?vboxmanage={tmp_path}/none")


@pytest.mark.parametrize(
    "uri",
    ["vbox:///elsewhere?backend=vboxmanage", "vbox://host/session?backend=vboxmanage", "vbox:///session?backend=x"],
)
def test_addresses_that_make_no_sense(uri: str) -> None:
    """Refused before anything is run."""
    with pytest.raises(InvalidURIError):
        connect(uri)


def test_a_name_whose_folder_is_taken(program: Program) -> None:
    """Whether a machine is made or renamed."""
    runner = _runner(program("echo 'VBoxManage: error: Details: code VBOX_E_FILE_ERROR (0x80bb0004), x' >&2; exit 1"))
    with pytest.raises(HypervisorError, match="choose another name"):
        runner.run(["modifyvm", "uuid", "--name", "x"], doing="rename it")
    with pytest.raises(HypervisorError, match="no reason") as caught:
        runner.run(["modifyvm", "uuid", "--memory", "4"], doing="change it")
    assert caught.value.hint == ""


@pytest.mark.parametrize(
    ("code", "kind", "advice"),
    [
        ("VBOX_E_FILE_ERROR (0x80bb0004)", ImageError, ""),
        ("VBOX_E_OBJECT_IN_USE (0x80bb000c)", ImageError, ""),
        ("E_INVALIDARG (0x80070057)", ImageError, "sethduuid '{}'"),
        ("NS_ERROR_FAILURE (0x80004005)", ImageFormatError, "convertfromraw '{0}' '{0}.vdi'"),
        ("VBOX_E_INVALID_OBJECT_STATE (0x80bb0007)", InvalidStateError, "close its settings"),
    ],
)
def test_images_that_are_refused(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, kind: type[VirtuosoError], advice: str
) -> None:
    """The code means something else where an image is plugged in."""
    monkeypatch.setattr(Runner, "passing", ())
    runner = _runner(program(f"echo 'VBoxManage: error: No.' >&2; echo 'Details: code {code}, x' >&2; exit 1"))
    image = tmp_path / "my disk"
    words = ["storageattach", "uuid", "--medium", str(image)]
    if "OBJECT_STATE" not in code:
        with pytest.raises(
            ImageNotFoundError, match=r"no disk image .*my disk on vbox:.* createmedium disk --filename '"
        ):
            runner.run(words, doing="plug it in", vm="web")
    image.touch()
    with pytest.raises(kind, match="No") as caught:
        runner.run(words, doing="plug it in", vm="web")
    assert type(caught.value) is kind
    assert advice.format(image) in caught.value.hint
    assert caught.value.vm == "web"


def test_ssh(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """VBoxManage is looked for there, in its usual places."""
    seen = program('printf \'%s\\n\' "$*" >>"$0.log"; echo VBoxManage 7.0.1r1', "ssh")
    seen.write_text(seen.read_text().replace("--version", "---"))
    monkeypatch.setenv("PATH", f"{seen.parent}:{os.environ['PATH']}")
    assert Runner(URI.parse("vbox+ssh://far/session")).version == "7.0.1r1"
    find, version = seen.with_name("ssh.log").read_text().splitlines()
    assert "/usr/lib/virtualbox/VBoxManage /opt/VirtualBox/VBoxManage" in find
    assert version.endswith("-q --version")
    program("exit 0", "ssh")
    with pytest.raises(ConnectError, match=r"it has no VBoxManage\. Install VirtualBox"):
        Runner(URI.parse("vbox+ssh://far/session"))


INFO = """name="web"
ostype="Debian (64-bit)"
memory=512
cpus=1
nic1="none"
VMState="running"
"""


def test_addresses_of_a_guest(program: Program) -> None:
    """In the words of versions 6 and 7, with the card that has each."""
    uuid = "413ea4b0-c0a2-4688-a464-10811430a6b8"
    new = """/VirtualBox/GuestInfo/Net/0/MAC   = '080027112233' @ 2026-11-22T18:30:00.390Z
/VirtualBox/GuestInfo/Net/0/V4/IP = '10.0.2.15'    @ 2026-11-22T18:30:00.266Z"""
    old = """Name: /VirtualBox/GuestInfo/Net/0/MAC, value: 080027112233, timestamp: 1, flags: TRANSIENT
Name: /VirtualBox/GuestInfo/Net/0/V4/IP, value: 10.0.2.15, timestamp: 1, flags: TRANSIENT"""
    for text in (new, old):
        script = f"""case $2 in
list) echo '"web" {{{uuid}}}';;
showvminfo) cat <<'END'\n{INFO}END\n;;
guestproperty) cat <<'END'\n{text}\nEND\n;;
esac"""
        with VBoxHypervisor.open(URI.parse(f"vbox:///session?vboxmanage={program(script)}")) as hypervisor:
            (address,) = hypervisor.get("web").addresses()
        assert (address.ip, address.mac_address, address.source) == ("10.0.2.15", "08:00:27:11:22:33", "agent")
