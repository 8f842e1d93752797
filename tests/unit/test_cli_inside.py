"""`virtuoso ip`, `ssh`, `run`, `console`, `screenshot`, `display`: what is asked of a running guest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.shell import Shell, Terminal
from virtuoso_core import Address, Display, Feature, RunResult, State
from virtuoso_core.cli.inside import _split
from virtuoso_core.errors import AddressTimeoutError, HypervisorError, InvalidStateError
from virtuoso_core.testing.memory import MemoryHypervisor, MemoryVM

ADDRESSES = (Address("192.0.2.7", "52:54:00:00:00:01", "lease"), Address("2001:db8::7", None, "agent"))
GUEST = {Feature.ADDRESSES, Feature.RUN, Feature.CONSOLE, Feature.DISPLAY, Feature.SCREENSHOT}


@pytest.fixture
def guest(web: Shell, monkeypatch: pytest.MonkeyPatch) -> Shell:
    """The VM "web" runs, on a hypervisor that can look inside."""
    monkeypatch.setattr(MemoryHypervisor, "features", MemoryHypervisor.features | GUEST)
    web("start", "web")
    return web


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[Any]]:
    """What a call of the VM gives or raises; returns the arguments that it gets."""

    def answers(name: str, value: Any) -> list[Any]:
        asked: list[Any] = []

        def call(vm: MemoryVM, *args: Any, **more: Any) -> Any:
            asked.append((*args, more) if more else args)
            if isinstance(value, BaseException):
                raise value
            return value

        monkeypatch.setattr(MemoryVM, name, call)
        return asked

    return answers


Answers = Callable[..., list[Any]]


@pytest.mark.parametrize("command", ["ip", "ssh", "console", "screenshot", "display", "run"])
def test_what_the_hypervisor_cannot(web: Shell, command: str) -> None:
    words = ["web", "ls"] if command == "run" else ["web"]
    assert web.error(command, *words, code=1)["type"] == "UnsupportedError"


@pytest.mark.parametrize("command", ["ip", "ssh", "console", "screenshot", "display", "run"])
def test_a_vm_that_is_off(guest: Shell, command: str) -> None:
    guest("stop", "web")
    words = ["web", "ls"] if command == "run" else ["web"]
    error = guest.error("-c", guest.uri, command, *words, code=1)
    assert error["type"] == "InvalidStateError"
    assert error["hint"].startswith(f"Start it first: virtuoso -c {guest.uri} start web")
    words[0] = "nobody"
    assert guest.error(command, *words, code=3)["type"] == "VMNotFoundError"


# ip.


def test_ip(guest: Shell, answers: Answers) -> None:
    answers("addresses", ADDRESSES)
    assert guest("ip", "web").stdout == "192.0.2.7\n2001:db8::7\n"
    assert guest.json("ip", "web")[0] == {"ip": "192.0.2.7", "mac_address": "52:54:00:00:00:01", "source": "lease"}
    answers("addresses", ())
    result = guest("ip", "web", "-c", guest.uri)
    assert result.stdout == ""
    assert result.stderr.strip().endswith(f"virtuoso -c {guest.uri} ip web --wait")
    assert guest.json("ip", "web") == []


def test_ip_waits(guest: Shell, answers: Answers) -> None:
    asked = answers("wait_for_address", ADDRESSES[0])
    answers("addresses", ADDRESSES)
    assert guest("ip", "web", "--wait", "--timeout", "7").stdout == "192.0.2.7\n2001:db8::7\n"
    assert asked == [(7.0,)]
    answers("addresses", ())  # it went away at once
    assert guest("ip", "web", "--wait").stdout == "192.0.2.7\n"
    answers("wait_for_address", AddressTimeoutError("No address within 7 s. lease: none.", hint="Look at it."))
    assert guest.error("ip", "web", "--wait", code=1)["message"] == "No address within 7 s. lease: none."


@pytest.mark.parametrize("timeout", ["-1", "soon", "nan"])
def test_a_timeout_that_is_none(guest: Shell, timeout: str) -> None:
    assert guest.error("ip", "web", "--wait", "--timeout", timeout, code=2)["hint"]


# ssh.


@pytest.mark.parametrize(
    ("words", "options", "command"),
    [
        ([], [], []),
        (["uname", "-a"], [], ["uname", "-a"]),
        (["-i", "key", "uname", "-a"], ["-i", "key"], ["uname", "-a"]),
        (["-ikey", "uname"], ["-ikey"], ["uname"]),
        (["-4A", "-tt", "top"], ["-4A", "-tt"], ["top"]),
        (["-vi", "key", "ls"], ["-vi", "key"], ["ls"]),
        (["-vikey", "ls"], ["-vikey"], ["ls"]),
        (["-o", "User=me", "-L", "8080:localhost:80", "-N"], ["-o", "User=me", "-L", "8080:localhost:80", "-N"], []),
        (["-q", "--", "-odd", "x"], ["-q"], ["-odd", "x"]),
        (["--", "ls"], [], ["ls"]),
        (["-", "x"], [], ["-", "x"]),
        (["-i"], ["-i"], []),
    ],
)
def test_words_for_ssh(words: list[str], options: list[str], command: list[str]) -> None:
    assert _split(words) == (options, command)


SSH = """
import sys
from virtuoso_core import Address, Feature, connect
from virtuoso_core.cli import main
from virtuoso_core.testing.memory import MemoryHypervisor, MemoryVM
def wait_for(vm, port, timeout):
    assert timeout == 9
    return Address("2001:db8::7", None, f"port {port}")
MemoryVM.wait_for = wait_for
vm = connect("memory:///x").new_vm()
vm.name = "web"
vm.save()
print("before")
main(["-c", "memory:///x", "ssh", "--timeout", "9", *sys.argv[1:]])
"""


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["web"], ["-p", "22", "2001:db8::7"]),
        (["-l", "me", "-p", "2222", "web"], ["-p", "2222", "-l", "me", "2001:db8::7"]),
        (
            ["web", "-i", "my key", "--", "echo", "a b", "--json"],
            ["-p", "22", "-i", "my key", "2001:db8::7", "echo", "a b", "--json"],
        ),
        (["web", "-l", "you", "uname", "-a"], ["-p", "22", "-l", "you", "2001:db8::7", "uname", "-a"]),
    ],
)
def test_ssh_becomes_the_ssh_of_this_machine(words: list[str], expected: list[str], tmp_path: Path) -> None:
    fake = tmp_path / "ssh"
    fake.write_text('#!/bin/sh\nprintf "%s\\n" "$0" "$@"\nexit 42\n')
    fake.chmod(0o755)
    environ = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = [sys.executable, "-c", SSH, *words]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (42, "")
    assert done.stdout.splitlines() == ["before", str(fake), *expected]


def test_without_ssh(guest: Shell) -> None:
    error = guest("ssh", "web", "--", code=1, env={"PATH": "/nowhere"}).stderr
    assert "There is no ssh" in error
    assert "openssh-client" in error


def test_options_before_the_name_are_checked(guest: Shell) -> None:
    for command in ("ssh", "run"):
        assert "--tiemout" in guest.error(command, "--tiemout", "5", "web", "ls", code=2)["message"]


# run.


def test_run(guest: Shell, answers: Answers) -> None:
    asked = answers("run", RunResult(7, b"out\xff\n", b"errors\n"))
    result = guest("run", "--timeout", "9", "web", "ls", "-l", "--", "--timeout", "a b", code=7)
    assert (result.stdout_bytes, result.stderr) == (b"out\xff\n", "errors\n")
    assert asked == [(["ls", "-l", "--", "--timeout", "a b"], {"input": b"", "timeout": 9.0})]


def test_run_with_json(guest: Shell, answers: Answers) -> None:
    answers("run", RunResult(1, b"out\xff", b""))
    found = json.loads(guest("run", "--json", "web", "ls", code=1).stdout)
    assert found == {"exit_code": 1, "stdout": "out\ufffd", "stderr": ""}


def test_the_guests_json_is_not_ours(guest: Shell, answers: Answers) -> None:
    asked = answers("run", RunResult(0, b"[]\n", b""))
    assert guest("run", "web", "podman", "ps", "--json").stdout == "[]\n"
    assert asked[0][0] == ["podman", "ps", "--json"]
    answers("run", HypervisorError("Gone."))
    assert guest("run", "web", "podman", "ps", "--json", code=1).stderr == "virtuoso: Gone.\n"


def test_two_dashes_may_stand_before_the_command(guest: Shell, answers: Answers) -> None:
    asked = answers("run", RunResult(0, b"", b""))
    guest("run", "web", "--", "ls", "--", "-l")
    guest("run", "--", "web", "ls")
    assert [args[0] for args in asked] == [["ls", "--", "-l"], ["ls"]]


def test_run_reads_what_it_is_told_to_only(guest: Shell, answers: Answers, tmp_path: Path) -> None:
    asked = answers("run", RunResult(0, b"", b""))
    guest("run", "web", "cat", input="a list for the loop around it")
    guest("run", "--input", "-", "web", "cat", input="piped")
    (tmp_path / "file").write_bytes(b"\0\xff")
    guest("run", "--input", str(tmp_path / "file"), "web", "cat")
    assert [args[1]["input"] for args in asked] == [b"", b"piped", b"\0\xff"]
    assert guest.error("run", "--input", str(tmp_path / "none"), "web", "cat", code=2)["type"] == "UsageError"
    assert guest.error("run", "web", code=2)["type"] == "UsageError"


# screenshot and display.


def test_screenshot(guest: Shell, answers: Answers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answers("screenshot", b"\x89PNG")
    assert guest("screenshot", "web").stdout == "Wrote web.png.\n"
    assert Path("web.png").read_bytes() == b"\x89PNG"
    assert guest.json("screenshot", "web", "other.png") == {"name": "web", "file": "other.png"}
    assert Path("other.png").read_bytes() == b"\x89PNG"
    assert guest("screenshot", "web", "-").stdout_bytes == b"\x89PNG"
    error = guest.error("screenshot", "web", "no/such/folder.png", code=1)
    assert error["message"] == "No such file or directory: no/such/folder.png"


def test_a_screenshot_is_not_for_a_terminal(guest: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    from virtuoso_core.cli import inside

    monkeypatch.setattr(inside, "is_terminal", lambda stream: True)
    assert "name a file" in guest("screenshot", "web", "-", code=2).stderr


def test_display(guest: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    found: list[Display] = [Display("vnc", "127.0.0.1", 5901, None, True)]
    monkeypatch.setattr(MemoryVM, "_displays", lambda vm: found, raising=False)
    assert guest("display", "web").stdout == "vnc://127.0.0.1:5901\n"
    assert guest.json("display", "web") == {
        "protocol": "vnc", "host": "127.0.0.1", "port": 5901, "socket": None, "password": True,
        "url": "vnc://127.0.0.1:5901",
    }  # fmt: skip
    found.clear()
    result = guest("display", "web")
    assert (result.stdout, result.stderr) == ("", "web has no screen.\n")
    assert guest.json("display", "web") is None


def test_show_tells_what_can_be_told(guest: Shell, answers: Answers, monkeypatch: pytest.MonkeyPatch) -> None:
    answers("addresses", ADDRESSES)
    monkeypatch.setattr(MemoryVM, "_displays", lambda vm: [Display("vnc", "127.0.0.1", 5901)], raising=False)
    guest("snapshot", "web", "first")
    guest("autostart", "web")
    shown = guest.json("show", "web")
    assert [address["ip"] for address in shown["addresses"]] == ["192.0.2.7", "2001:db8::7"]
    assert (shown["display"], shown["snapshots"]) == ("vnc://127.0.0.1:5901", ["first"])
    assert (shown["autostart"], shown["untold"]) == (True, {})
    answers("addresses", HypervisorError("The leases cannot be read."))
    answers("_snapshots", HypervisorError("Nor the snapshots."))
    shown = guest.json("show", "web")
    assert shown["untold"] == {"addresses": "The leases cannot be read.", "snapshots": "Nor the snapshots."}
    assert (shown["addresses"], shown["snapshots"]) == ([], [])
    lines = {line.split()[0]: line.split(None, 1)[1] for line in guest("show", "web").stdout.splitlines()}
    assert lines["Addresses"] == "cannot be told: The leases cannot be read."
    assert lines["Snapshots"] == "cannot be told: Nor the snapshots."
    assert lines["Display"] == "vnc://127.0.0.1:5901"
    assert lines["Autostart"] == "with its host"


def test_show_of_a_vm_that_stops_meanwhile(guest: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(vm: MemoryVM) -> None:
        vm.stop(timeout=0)
        raise InvalidStateError("It is off.")

    monkeypatch.setattr(MemoryVM, "addresses", stop)
    monkeypatch.setattr(MemoryVM, "_displays", lambda vm: [], raising=False)
    shown = guest.json("show", "web")
    assert (shown["state"], shown["untold"]) == (State.RUNNING, {})


# console.

CONSOLE = """
import os, sys, time
from queue import Empty, SimpleQueue
from virtuoso_core import Console, ConnectionLostError, Feature, InvalidStateError, connect
from virtuoso_core.cli import main
from virtuoso_core.testing.memory import MemoryHypervisor, MemoryVM

class Guest(Console):
    "Answers what is typed: q ends it, x breaks the connection, y breaks it at the write."
    def __init__(self):
        self.queue, self._over = SimpleQueue(), False
        self.queue.put(b"login: ")
    def write(self, data):
        if self._over:
            raise InvalidStateError("The console ended.")
        if data == b"y":
            raise ConnectionLostError("Gone while typing.")
        self.queue.put({b"q": b"", b"x": None}.get(data, b"<" + data.hex().encode() + b">"))
    def _receive(self, timeout):
        try:
            data = self.queue.get(timeout=timeout)
        except Empty:
            return b""
        if data is None:
            raise ConnectionLostError("Gone.")
        self._over = self._over or not data
        return data
    @property
    def ended(self):
        return self._over
    def close(self):
        self._over = True

def opened(vm, force):
    if not force and "--busy" in sys.argv:
        raise InvalidStateError("Somebody has it.", hint="Take it away: vm.console(force=True).", vm="web")
    return Guest()
MemoryVM._console = opened
MemoryHypervisor.features |= {Feature.CONSOLE}
vm = connect("memory:///x").new_vm()
vm.name = "web"
vm.save()
vm.start()
main(["-c", "memory:///x", "console", *[word for word in sys.argv[1:] if word != "--busy"], "web"])
"""


def console(*words: str) -> Terminal:
    return Terminal(CONSOLE.replace("sys.argv", repr(["x", *words])))


def test_console_until_it_is_left() -> None:
    with console() as terminal:
        terminal.wait_for("Ctrl-] leaves it.")
        terminal.wait_for("login: ")
        assert not terminal.restored
        terminal.type("a")
        terminal.wait_for("<61>")
        terminal.type("\x03")  # Ctrl-C is the guest's
        terminal.wait_for("<03>")
        terminal.type("\r")
        terminal.wait_for("<0d>")
        terminal.type("b\x1d")
        assert terminal.wait() == 0
        assert terminal.text.endswith("Left the console of web.\r\n")
        assert terminal.restored


def test_console_until_the_guest_ends() -> None:
    with console() as terminal:
        terminal.wait_for("login: ")
        terminal.type("q")
        assert terminal.wait() == 0
        assert terminal.text.endswith("The console of web ended.\r\n")
        assert terminal.restored


@pytest.mark.parametrize(("key", "message"), [("x", "Gone."), ("y", "Gone while typing.")])
def test_console_until_it_breaks(key: str, message: str) -> None:
    with console() as terminal:
        terminal.wait_for("login: ")
        terminal.type(key)
        assert terminal.wait() == 5
        assert terminal.text.splitlines()[-1] == f"virtuoso: {message}"
        assert "Traceback" not in terminal.text
        assert terminal.restored


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_console_until_it_is_ended_from_outside(number: signal.Signals) -> None:
    with console() as terminal:
        terminal.wait_for("login: ")
        terminal.signal(number)
        assert terminal.wait() == 128 + number
        assert terminal.restored


def test_a_console_that_somebody_has() -> None:
    with console("--busy") as terminal:
        assert terminal.wait() == 1
        assert "Take it away: virtuoso -c memory:///x console --force web" in terminal.text
        assert terminal.restored
    with console("--busy", "--force") as terminal:
        terminal.wait_for("login: ")
        terminal.type("\x1d")
        assert terminal.wait() == 0


def test_console_in_a_pipe() -> None:
    command = [sys.executable, "-c", CONSOLE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stdout.read(7) == b"login: "
        process.stdin.write(b"ab\x1d")  # no key here, but a byte
        process.stdin.flush()
        assert process.stdout.read(8) == b"<61621d>"
        process.stdin.write(b"q")
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (0, b"", b"")


def test_console_whose_reader_goes_away() -> None:
    command = [sys.executable, "-c", CONSOLE]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.read(7)
        process.stdout.close()
        process.stdin.write(b"a")
        process.stdin.flush()
        assert process.wait(30) == 141
        assert process.stderr is not None
        assert process.stderr.read() == b""


@pytest.mark.parametrize("closed", ["<&-", "</dev/null"])
def test_console_without_keys(closed: str) -> None:
    command = ["sh", "-c", f'exec "$0" -c "$1" {closed}', sys.executable, CONSOLE]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.read(7) == "login: "
        process.send_signal(signal.SIGTERM)
        out, errors = process.communicate(timeout=30)
    assert (process.returncode, out, errors) == (143, "", "")
