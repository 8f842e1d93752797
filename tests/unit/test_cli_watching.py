"""`virtuoso top` and `events`: what is looked at again and again."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from typing import Any

import pytest

from tests.unit.shell import Shell, Terminal
from virtuoso_core import Stats
from virtuoso_core.cli import watching
from virtuoso_core.cli.watching import _rows
from virtuoso_core.errors import ConnectionLostError
from virtuoso_core.testing.memory import MemoryHypervisor

MIB = 1024**2


def stats(name: str, time: float, cpu_time: float | None = 0, **more: Any) -> Stats:
    return Stats(name, f"uuid-{name}", time, 2, cpu_time, 1024**2, **more)


def test_rates_come_from_two_looks() -> None:
    before = [
        stats("idle", 10, 5, disk_read=7, net_sent=None),
        stats("busy", 10, 5, disk_read=0, disk_written=MIB, net_received=100, net_sent=0),
    ]
    now = [
        stats("idle", 12, 5, disk_read=7, net_sent=None),
        stats("busy", 12, 8, disk_read=4 * MIB, disk_written=MIB, net_received=300, net_sent=3 * 1024, memory_used=512),
        stats("new", 12, 1, disk_read=5),
    ]
    assert _rows(before, now) == [
        ("busy", "2", "150", "1.0 GiB", "512.0 KiB", "2.0 MiB", "0 bytes", "100 bytes", "1.5 KiB"),
        ("idle", "2", "0", "1.0 GiB", "", "0 bytes", "", "", ""),
        ("new", "2", "", "1.0 GiB", "", "", "", "", ""),
    ]


def test_a_vm_that_was_started_again_has_no_negative_rates() -> None:
    (row,) = _rows([stats("a", 10, 50, disk_read=MIB)], [stats("a", 11, 1, disk_read=0)])
    assert (row[2], row[5]) == ("0", "0 bytes")
    (row,) = _rows([stats("a", 10, 5)], [stats("a", 10, 6)])  # the same moment
    assert row[2] == ""


def test_top_in_a_pipe(web: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(watching.time, "sleep", slept.append)
    result = web("top")
    assert (result.stdout, result.stderr) == ("", f"No VM runs on {web.uri}.\n")
    web("start", "web")
    lines = web("top", "--interval", "7").stdout.splitlines()
    assert lines[0].split() == list(watching._COLUMNS)
    assert lines[1].split()[:4] == ["web", "1", "2.0", "GiB"]
    assert slept == [7]
    (counted,) = web.json("top")
    assert (counted["name"], counted["cpus"], counted["memory"]) == ("web", 1, 2 * 1024**2)
    assert slept == [7]


@pytest.mark.parametrize("interval", ["0", "-1", "soon", "inf"])
def test_an_interval_that_is_none(web: Shell, interval: str) -> None:
    assert web.error("top", "--interval", interval, code=2)["type"] == "UsageError"


TOP = """
import sys, time
from virtuoso_core import ConnectionLostError, Stats, connect
from virtuoso_core.cli import main
from virtuoso_core.testing.memory import MemoryHypervisor
looks = []
def stats(hypervisor):
    looks.append(1)
    if len(looks) > {lost}:
        raise ConnectionLostError("The host went away.")
    return [Stats("[b]web", "u", time.time(), 2, len(looks) * 0.2, 1024**2)] if len(looks) != {none} else []
MemoryHypervisor._all_stats = stats
main(["-c", "memory:///x", "top", "--interval", "0.2", *{words}])
"""


def test_the_live_table() -> None:
    with Terminal(TOP.format(lost=10**6, none=0, words=[])) as terminal:
        shown = terminal.wait_for("[b]web")
        assert "1 VM running on memory:///x, every 0.2 s. Ctrl-C ends." in shown
        assert "\x1b[?1049h" in shown  # a screen of its own
        terminal.wait_for("[b]web")
        row = terminal.wait_for("1.0 GiB")
        assert 50 < int(row.split()[1]) < 150, row
        terminal.type("\x03")
        assert terminal.wait() == 130
        assert "\x1b[?1049l" in terminal.text  # and the one before is back
        assert "Traceback" not in terminal.text
        assert terminal.restored


def test_the_live_table_where_there_is_little_room() -> None:
    program = TOP.format(lost=10**6, none=0, words=[]).replace("[b]web", "[b]web" + "x" * 50)
    with Terminal(program, columns=62) as terminal:
        shown = terminal.wait_for("1.0 GiB")
        assert [word for word in watching._COLUMNS if word in shown] == [
            "NAME",
            "CPUS",
            "CPU%",
            "MEMORY",
            "USED",
            "READ/s",
        ]
        assert "[b]webxxxxxxxxxxxxx…" in shown


def test_the_live_table_without_vms() -> None:
    with Terminal(TOP.format(lost=10**6, none=2, words=[])) as terminal:
        terminal.wait_for("No VM running on memory:///x")
        terminal.wait_for("[b]web")
        terminal.signal(signal.SIGTERM)
        assert terminal.wait() == 143
        assert "\x1b[?1049l" in terminal.text


def test_the_live_table_of_a_host_that_goes_away() -> None:
    with Terminal(TOP.format(lost=2, none=0, words=[])) as terminal:
        assert terminal.wait() == 5
        assert terminal.text.splitlines()[-1].endswith("\x1b[?1049lvirtuoso: The host went away.")


@pytest.mark.parametrize(("words", "environ"), [(["--once"], {}), ([], {"TERM": "dumb"})])
def test_one_look_on_a_terminal(words: list[str], environ: dict[str, str]) -> None:
    with Terminal(TOP.format(lost=10**6, none=0, words=words), **environ) as terminal:
        assert terminal.wait() == 0
        assert [line.split()[0] for line in terminal.text.splitlines()] == ["NAME", "[b]web"]
        assert "\x1b" not in terminal.text


# events.

EVENTS = """
import sys, threading
from virtuoso_core import connect
from virtuoso_core.cli import main
def work():
    with connect("memory:///x") as host:
        while not host.host.watchers:
            pass
        vm = host.new_vm()
        vm.name = "web"
        vm.save()
        vm.start()
        sys.stdin.readline()
        vm.stop(timeout=0)
threading.Thread(target=work, daemon=True).start()
main(["-c", "memory:///x", "events", *sys.argv[1:]])
"""


def test_each_event_is_printed_at_once() -> None:
    command = [sys.executable, "-c", EVENTS, "--json", "--timeout", "1"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        first, second = (json.loads(process.stdout.readline()) for _ in range(2))
        process.stdin.write("\n")
        rest, errors = process.communicate(timeout=30)
    assert set(first) == {"time", "type", "vm", "uuid", "uri", "detail"}
    assert (first["type"], first["vm"], first["uri"]) == ("saved", "web", "memory:///x")
    assert (second["type"], json.loads(rest)["type"]) == ("started", "stopped")
    assert 0 <= second["time"] - first["time"] < 60
    assert (process.returncode, errors) == (0, "")


def test_events_for_people() -> None:
    with Terminal(EVENTS.replace("*sys.argv[1:]", "")) as terminal:
        terminal.wait_for("Watching memory:///x. Ctrl-C ends.")
        terminal.wait_for("saved")
        terminal.wait_for("started          web  booted")
        terminal.type("\n")
        terminal.wait_for("stopped          web  its plug was pulled")
        terminal.type("\x03")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.text


def test_events_whose_reader_goes_away() -> None:
    command = [sys.executable, "-c", EVENTS]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        process.stdin.write("\n")
        process.stdin.flush()
        assert (process.wait(30), process.stderr.read()) == (141, "")


def test_events_end(web: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    result = web("events", "--timeout", "0.1")
    assert (result.stdout, result.stderr) == ("", "")
    for wrong in ("-1", "nan", "inf", "soon"):
        assert web("events", "--timeout", wrong, code=2).stderr

    def lost(hypervisor: MemoryHypervisor, tell: Any) -> Any:
        tell(ConnectionLostError("The host went away."))
        return lambda: None

    monkeypatch.setattr(MemoryHypervisor, "_watch", lost)
    assert web.error("events", code=5)["message"] == "The host went away."
    assert os.environ.get("VIRTUOSO_DEFAULT_URI") is None
