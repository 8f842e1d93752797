"""The one way to VBoxManage, with programs that stand in for it and for ssh."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from virtuoso_core import URI, connect
from virtuoso_core.errors import (
    ConnectError,
    ConnectionLostError,
    HypervisorError,
    InvalidStateError,
    InvalidURIError,
    InvalidValueError,
    UnsupportedError,
    VirtuosoError,
    VMNotFoundError,
)
from virtuoso_vbox.driver import VBoxHypervisor
from virtuoso_vbox.runner import Runner, code_of, is_busy

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


def test_words_are_passed_as_they_are(program: Program) -> None:
    """No shell is between."""
    runner = _runner(program('printf "%s\\n" "$LC_ALL" "$@"'))
    odd = ["a b", "$HOME", "`id`", "'\"", "ü漢", "*"]
    assert runner.run(odd, doing="try").splitlines() == ["C.UTF-8", "-q", *odd]
    assert runner.version == "7.0.1r1"


@pytest.mark.parametrize("word", ["a\nb", "a\0b"])
def test_line_breaks_are_refused(program: Program, word: str) -> None:
    """VBoxManage prints names line by line."""
    with pytest.raises(InvalidValueError, match="line break"):
        _runner(program("")).run([word], doing="try")


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
    assert is_busy(caught.value) is ("OBJECT_STATE" in code)


def test_a_failure_without_a_code(program: Program) -> None:
    """A mistake in the words, for one."""
    runner = _runner(program("echo fine"))
    runner.run(["x"], doing="try")
    runner.program = str(program("echo 'VBoxManage: error: Unknown option' >&2; exit 2"))
    with pytest.raises(HypervisorError, match="Unknown option") as caught:
        runner.run(["x"], doing="try")
    assert caught.value.code is None


def test_no_answer(program: Program) -> None:
    """Given up in time."""
    with pytest.raises(HypervisorError, match="no answer"):
        _runner(program("sleep 5")).run(["x"], doing="wait", timeout=0.2)


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


def _far(program: Program, monkeypatch: pytest.MonkeyPatch, script: str, uri: str = "vbox+ssh://far/session") -> Runner:
    """A runner whose ssh is a script."""
    path = program(script, "ssh")
    monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")
    return Runner(URI.parse(uri))


def test_ssh_asks_nothing(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """And passes each word through the far shell as it is."""
    monkeypatch.setattr("virtuoso_vbox.runner._REMOTE", 'shift; printf "%s\\n" "$@"')
    uri = "vbox+ssh://me@-far:2222/session?keyfile=/my key&no_verify=1".replace(" ", "%20")
    show = 'for word; do case $word in sh*) eval "$word"; exit;; esac; done'
    runner = _far(program, monkeypatch, show, uri)
    odd = ["a b", "$HOME", "`id`", "'\"\\", "ü漢", "*", "-x", ""]
    assert runner.run(odd, doing="try").split("\n")[:-1] == ["-q", *odd]
    runner = _far(program, monkeypatch, 'printf "%s\\n" "$@"', uri)
    said = runner.run(["x"], doing="try").splitlines()
    assert said[-3:-1] == ["--", "-far"]
    assert {"BatchMode=yes", "/my key", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "2222", "me"} <= set(said)


def test_ssh_breaks(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before and after it worked."""
    runner = _far(program, monkeypatch, "echo 7.0.1r1")
    program("echo 'Connection reset' >&2; exit 255", "ssh")
    with pytest.raises(ConnectionLostError, match="Connection reset"):
        runner.run(["x"], doing="try")
    runner._reached = False
    runner._shell[0] = str(program("exit 255", "ssh"))
    with pytest.raises(ConnectError, match="Cannot connect"):
        runner.run(["x"], doing="try")
    runner._shell[0] = str(program("exit 127", "ssh"))
    with pytest.raises(ConnectError, match="has no VBoxManage"):
        runner.run(["x"], doing="try")


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
