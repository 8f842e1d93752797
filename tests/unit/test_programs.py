"""Programs on the hypervisor's host, here and at the far end of ssh, with scripts that stand in for both."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from virtuoso_core import URI
from virtuoso_core.errors import (
    ConnectError,
    ConnectionLostError,
    HypervisorError,
    InvalidStateError,
    InvalidURIError,
    InvalidValueError,
    VirtuosoError,
)
from virtuoso_core.programs import HostShell, Program, ProgramError, code_of, find_here, records

Script = Callable[..., Path]
ODD = ["a b", "$HOME", "`id`", "'\"\\", "ü漢", "*", "-x", ""]
HERE = URI.parse("memory:///here")
FAR = "memory+ssh://far/there"
# as sshd does: all words after the host are one text for a shell
SSH = 'while [ "$1" != -- ]; do shift; done; shift 2; exec sh -c "$*"'


@pytest.fixture
def script(tmp_path: Path) -> Script:
    """Makes a program of a shell script."""

    def make(text: str, name: str = "program") -> Path:
        path = tmp_path / name
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path

    return make


@pytest.fixture
def far(script: Script, monkeypatch: pytest.MonkeyPatch) -> HostShell:
    """The far end of an ssh that is a script."""
    monkeypatch.setenv("PATH", f"{script(SSH, 'ssh').parent}:{os.environ['PATH']}")
    return HostShell(URI.parse(FAR))


@pytest.fixture(params=["here", "far"])
def shell(request: pytest.FixtureRequest) -> HostShell:
    """Both ways."""
    return HostShell(HERE) if request.param == "here" else request.getfixturevalue("far")


def test_words_are_passed_as_they_are(shell: HostShell, script: Script) -> None:
    """Whatever shell is on the way; and answers are in English."""
    path = script('printf "%s\\n" "$LC_ALL" "$@"')
    done = shell.run([str(path), *ODD], doing="try")
    assert done.returncode == 0
    assert done.stdout.decode().split("\n")[:-1] == ["C.UTF-8", *ODD]


def test_failures_are_the_callers(shell: HostShell) -> None:
    """A program that runs and fails is no error yet."""
    assert shell.run(["sh", "-c", "echo no >&2; exit 3"], doing="try").returncode == 3


def test_no_answer(shell: HostShell) -> None:
    """Given up in time."""
    with pytest.raises(HypervisorError, match=r"Could not wait on .*: sleep gave no answer for 0\.2 s") as caught:
        shell.run(["sleep", "5"], doing="wait", vm="web", timeout=0.2)
    assert (caught.value.vm, caught.value.uri) == ("web", str(shell.uri))


def test_find(shell: HostShell, script: Script) -> None:
    """By its path or on PATH, the first one that is there."""
    path = str(script("", "there"))
    assert shell.find("/nowhere/there", path, "sh") == path
    assert os.path.basename(shell.find("/nowhere/there", "sh", path)) == "sh"
    with pytest.raises(ConnectError, match=r"it has no there\. Install it\."):
        shell.find("/nowhere/there", advice="Install it.")


def test_exists(shell: HostShell, tmp_path: Path) -> None:
    """Odd names too."""
    path = tmp_path / "a 'b' $c"
    assert not shell.exists(str(path))
    path.touch()
    assert shell.exists(str(path))


def test_reading(shell: HostShell, tmp_path: Path) -> None:
    """Byte for byte; what cannot be read is named."""
    path = tmp_path / "a 'b' $c"
    with pytest.raises(HypervisorError, match=r"Could not read .*a 'b' \$c on .*No such file") as caught:
        shell.read(str(path), vm="web")
    assert caught.value.vm == "web"
    path.write_bytes(b"\x00\xffx\r\n")
    assert shell.read(str(path)) == b"\x00\xffx\r\n"


def test_paths(far: HostShell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """At the far end there is no directory of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/me")
    assert [HostShell(HERE).absolute(path) for path in ("a", "~/b")] == [f"{tmp_path}/a", "/home/me/b"]
    assert [far.absolute(path) for path in ("/a", "C:\\b")] == ["/a", "C:\\b"]
    for path in ("a", "~/b"):
        with pytest.raises(InvalidValueError, match="on far"):
            far.absolute(path)


def test_a_screen(far: HostShell, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody sees a window at the far end."""
    monkeypatch.setenv("DISPLAY", ":0")
    assert (HostShell(HERE).has_screen, far.has_screen) == (True, False)
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    assert not HostShell(HERE).has_screen


# ssh.


def test_ssh_asks_nothing(far: HostShell, script: Script) -> None:
    """And takes from the URI what it needs to know."""
    script('printf "%s\\n" "$@"', "ssh")
    uri = URI.parse("memory+ssh://me@-far:2222/there?keyfile=/my%20key&no_verify=1")
    said = HostShell(uri).run(["x"], doing="try").stdout.decode().splitlines()
    assert said[-3:-1] == ["--", "-far"]
    assert {"BatchMode=yes", "/my key", "IdentitiesOnly=yes", "StrictHostKeyChecking=no", "2222", "me"} <= set(said)
    said = far.run(["x"], doing="try").stdout.decode().splitlines()
    assert not {"-i", "-p", "-l", "StrictHostKeyChecking=no"} & set(said)


def test_ssh_needs_a_host() -> None:
    """Else it would take the program's name for one."""
    with pytest.raises(InvalidURIError, match=r"memory\+ssh://user@host/there"):
        HostShell(URI.parse("memory+ssh:///there"))


def test_ssh_breaks(far: HostShell, script: Script) -> None:
    """Before and after it worked."""
    script("echo 'Connection refused' >&2; exit 255", "ssh")
    with pytest.raises(ConnectError, match=r"Cannot connect to .*: Connection refused Try it by hand: ssh .* far true"):
        far.run(["x"], doing="try")
    script(SSH, "ssh")
    far.run(["true"], doing="try")
    script("echo 'Connection reset' >&2; exit 255", "ssh")
    with pytest.raises(ConnectionLostError, match="broke: Connection reset"):
        far.run(["x"], doing="try")


def test_no_program(far: HostShell, script: Script) -> None:
    """There, and here."""
    with pytest.raises(ConnectError, match="it has no nothing"):
        far.run(["/nowhere/nothing"], doing="try")
    with pytest.raises(ConnectError, match="/nowhere/nothing does not run: no such file"):
        HostShell(HERE).run(["/nowhere/nothing"], doing="try")
    assert find_here("/nowhere/nothing") is None


# One program.


class Commander(Program):
    """Says its own codes as "E7"."""

    usual_words = ("-q",)
    passing = (7,)

    def _failure(self, words: Any, text: str, exit_code: int) -> ProgramError:
        return ProgramError(words, text.strip(), int(text.partition("E")[2] or exit_code))

    def _explain(self, failure: ProgramError, doing: str, where: dict[str, Any]) -> VirtuosoError:
        return InvalidStateError(f"Could not {doing}: {failure.said}.", **where)


def test_a_program(script: Script) -> None:
    """Its usual words come first."""
    program = Commander(HERE, "/nowhere/program", str(script('printf "%s\\n" "$@"')))
    assert program.run(["a", "b"], doing="try").splitlines() == ["-q", "a", "b"]


def test_a_programs_failure(script: Script) -> None:
    """Explained by the driver, with what was said as the cause."""
    program = Commander(HERE, str(script("echo no E3 >&2; exit 1")))
    with pytest.raises(InvalidStateError, match="Could not try: no E3") as caught:
        program.run(["a"], doing="try", vm="web")
    assert (caught.value.vm, caught.value.uri, code_of(caught.value)) == ("web", str(HERE), 3)
    assert str(caught.value.__cause__) == "a: no E3"
    assert code_of(ValueError()) is None


def test_failures_that_pass(script: Script, tmp_path: Path) -> None:
    """Such as another program's lock: the call is made again."""
    program = Commander(
        HERE, str(script(f"[ -e {tmp_path}/free ] || {{ touch {tmp_path}/free; echo E7 >&2; exit 1; }}"))
    )
    assert program.run(["a"], doing="try") == ""


@pytest.mark.parametrize("word", ["a\nb", "a\0b"])
def test_line_breaks_are_refused(script: Script, word: str) -> None:
    """Programs print names line by line."""
    with pytest.raises(InvalidValueError, match="line break"):
        Commander(HERE, str(script(""))).run([word], doing="try")


@pytest.mark.parametrize("uri", [str(HERE), FAR])
def test_a_file(far: HostShell, script: Script, uri: str) -> None:
    """What a program writes into a file comes back, its chatter does not, and its failure is one."""
    path = str(script('for last; do :; done; echo chatter; printf "\\0\\377" >"$last"; [ "$2" = good ] || exit 3'))
    program = Commander(URI.parse(uri), path)
    assert program.file(["good"], doing="draw") == b"\0\xff"
    with pytest.raises(InvalidStateError) as caught:
        program.file(["bad"], doing="draw")
    assert code_of(caught.value) == 3
    script("")
    with pytest.raises(HypervisorError, match=r"Could not draw on .*: program wrote nothing"):
        program.file(["good"], doing="draw")


def test_records() -> None:
    """One thing a block; a value may have a colon in it."""
    text = "UUID:           a\r\nParent UUID:    base\r\nLocation:       /vm/x: y.img\r\n\r\nUUID:           b\n"
    first, second = records(f"{text}\n\nnothing\n")
    assert first == {"UUID": "a", "Parent UUID": "base", "Location": "/vm/x: y.img"}
    assert second == {"UUID": "b"}
