"""`virtuoso snapshot`, `snapshots`, `revert`, `delete-snapshot`, `clone`, and `suspend`, `autostart`, `migrate`."""

from __future__ import annotations

import itertools
import json
from typing import Any

import pytest

from tests.unit.shell import Shell, Terminal
from virtuoso_core import connect
from virtuoso_core.cli import app, output
from virtuoso_core.errors import HypervisorError
from virtuoso_core.testing.memory import MemoryHypervisor, MemoryVM

_numbers = itertools.count()


@pytest.fixture
def kept(web: Shell) -> Shell:
    """The VM "web" runs, and has the snapshot "first", when it was off and had one CPU."""
    web("snapshot", "web", "first", "--description", "as it was installed")
    web("set", "web", "cpus=2")
    web("start", "web")
    return web


# Snapshots.


def test_snapshot(kept: Shell) -> None:
    assert kept("snapshot", "web", "second").stdout == "web: kept as second, running.\n"
    taken = kept.json("snapshot", "web", "third", "--description", "for people")
    assert set(taken) == {"name", "created", "state", "current", "parent", "description"}
    assert (taken["name"], taken["state"], taken["parent"], taken["current"]) == ("third", "running", "second", True)
    assert taken["created"].endswith("+00:00")
    lines = kept("snapshots", "web").stdout.splitlines()
    assert lines[0].split() == ["NAME", "TAKEN", "STATE", "CURRENT", "AFTER", "DESCRIPTION"]
    assert [line.split()[0] for line in lines[1:]] == ["first", "second", "third"]
    assert lines[1].endswith("as it was installed")
    assert lines[3].split()[4:6] == ["*", "second"]
    assert [each["name"] for each in kept.json("snapshots", "web")] == ["first", "second", "third"]


def test_no_snapshots(web: Shell) -> None:
    result = web("snapshots", "web")
    assert (result.stdout, result.stderr) == ("", "web has no snapshot.\n")
    assert web.json("snapshots", "web") == []


@pytest.mark.parametrize(
    ("args", "code", "type"),
    [
        (["snapshot", "web"], 2, "UsageError"),
        (["snapshot", "web", "first"], 1, "SnapshotExistsError"),
        (["snapshot", "web", "7"], 2, "InvalidValueError"),
        (["snapshot", "nobody", "second"], 3, "VMNotFoundError"),
        (["--readonly", "snapshot", "web", "second"], 1, "ReadOnlyError"),
        (["snapshots", "nobody"], 3, "VMNotFoundError"),
        (["revert", "web", "first"], 2, "UsageError"),
        (["revert", "web", "frist", "--yes"], 3, "SnapshotNotFoundError"),
        (["revert", "nobody", "first", "--yes"], 3, "VMNotFoundError"),
        (["--readonly", "revert", "web", "first", "--yes"], 1, "ReadOnlyError"),
        (["delete-snapshot", "web", "first"], 2, "UsageError"),
        (["delete-snapshot", "web", "frist", "--yes"], 3, "SnapshotNotFoundError"),
        (["--readonly", "delete-snapshot", "web", "first", "--yes"], 1, "ReadOnlyError"),
        (["clone", "web"], 2, "UsageError"),
        (["clone", "web", "copy"], 1, "InvalidStateError"),
        (["clone", "nobody", "copy"], 3, "VMNotFoundError"),
        (["--readonly", "clone", "web", "copy"], 1, "ReadOnlyError"),
        (["--readonly", "suspend", "web"], 1, "ReadOnlyError"),
        (["--readonly", "autostart", "web"], 1, "ReadOnlyError"),
        (["migrate", "web"], 2, "UsageError"),
        (["migrate", "web", "nonsense"], 2, "InvalidURIError"),
        (["migrate", "web", "test:///default"], 1, "UnsupportedError"),
        (["--readonly", "migrate", "web", "memory:///there"], 1, "ReadOnlyError"),
    ],
)
def test_errors(kept: Shell, args: list[str], code: int, type: str) -> None:
    before = kept("show", "web").stdout, kept("snapshots", "web").stdout
    error = kept.error(*args, code=code)
    assert (error["type"], bool(error["message"])) == (type, True)
    assert (kept("show", "web").stdout, kept("snapshots", "web").stdout) == before


def test_near_names_and_lines_to_type(kept: Shell) -> None:
    assert "Did you mean 'first'?" in kept("revert", "web", "frist", "--yes", code=3).stderr
    hint = kept.error("-c", kept.uri, "snapshot", "web", "first", code=1)["hint"]
    assert f"virtuoso -c {kept.uri} delete-snapshot web first" in hint


def test_revert(kept: Shell) -> None:
    assert kept("revert", "web", "first", "--yes").stdout == "web: back at first, stopped\n"
    assert kept.json("show", "web")["cpus"] == 1
    kept("start", "web")
    assert kept.json("revert", "web", "first", "--yes")["state"] == "stopped"


def test_delete_snapshot(kept: Shell) -> None:
    kept("snapshot", "web", "second")
    assert kept("delete-snapshot", "web", "first", "--yes").stdout == "web: dropped first.\n"
    assert kept.json("delete-snapshot", "web", "second", "--yes") == {
        "name": "web",
        "snapshot": "second",
        "deleted": True,
    }
    assert kept.json("snapshots", "web") == []


@pytest.mark.parametrize(
    ("command", "question"),
    [("revert", "Put web back to first, and lose what was written since?"), ("delete-snapshot", "Drop the snapshot")],
)
@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_what_loses_something_asks(
    kept: Shell, monkeypatch: pytest.MonkeyPatch, command: str, question: str, answer: str, code: int
) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda stream: True)
    assert question in kept(command, "web", "first", input=answer, code=code).stderr
    happened = kept.json("show", "web")["cpus"] == 1 or not kept.json("snapshots", "web")
    assert happened == (code == 0)


# clone.


@pytest.fixture
def base(shell: Shell) -> Shell:
    shell("create", "base", "--disk", "/images/base.qcow2", "--disk-size", "1GiB")
    return shell


def test_clone(base: Shell) -> None:
    lines = base("clone", "base", "a", "b").stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == ["Created a", "Created b"]
    assert base.json("disk", "show", "/images/a.qcow2")["backing"] == "/images/base.qcow2"
    made = base.json("clone", "base", "c", "--full")
    assert [(vm["name"], vm["state"]) for vm in made] == [("c", "stopped")]
    assert base.json("disk", "show", "/images/c.qcow2")["backing"] is None
    assert base("clone", "base", "d", "--start").stdout.splitlines()[-1] == "d: running"
    assert base.json("clone", "base", "e", "--start")[0]["state"] == "running"


def test_clones_that_were_made_before_one_failed_are_told(base: Shell) -> None:
    base("create", "b")
    result = base("clone", "base", "a", "b", "c", "--json", code=1)
    assert [vm["name"] for vm in json.loads(result.stdout)] == ["a"]
    assert json.loads(result.stderr)["error"]["type"] == "VMExistsError"
    assert base.error("clone", "base", "b", code=1)["vm"] == "b"


def test_a_clone_whose_start_failed_is_told(base: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(vm: MemoryVM) -> None:
        raise HypervisorError("No power.")

    monkeypatch.setattr(MemoryVM, "_start", fail)
    assert base("clone", "base", "a", "--start", code=1).stdout.startswith("Created a (")
    assert json.loads(base("clone", "base", "b", "--start", "--json", code=1).stdout)[0]["state"] == "stopped"


# suspend, autostart, migrate.


def test_suspend(web: Shell) -> None:
    assert web("suspend", "web", code=1).stderr.startswith("virtuoso: Cannot suspend: the VM 'web' is stopped")
    web("start", "web")
    assert web("suspend", "web").stdout == "web: suspended\n"
    assert web.json("suspend", "web")[0]["state"] == "suspended"
    assert web("start", "web").stdout == "web: running\n"
    result = web("suspend", "nobody", "web", code=3)
    assert result.stdout == "web: suspended\n"


def test_autostart(web: Shell) -> None:
    web("create", "db")
    assert web("autostart", "web", "db").stdout == "web: starts with its host\ndb: starts with its host\n"
    assert web.json("show", "db")["autostart"] is True
    assert web.json("autostart", "web", "db", "--off")[1]["autostart"] is False
    assert web("autostart", "web", "--off").stdout == "web: starts no longer with its host\n"
    assert web.json("show", "db")["autostart"] is False


def test_migrate(web: Shell) -> None:
    there = f"memory:///there-{next(_numbers)}"
    assert web("migrate", "web", there, code=1).stderr.startswith("virtuoso: Cannot move: the VM 'web' is stopped")
    web("start", "web")
    assert web("migrate", "web", there).stdout == f"web: running on {there}\n"
    assert web.json("list") == []
    back = json.loads(web("-c", there, "migrate", "web", web.uri, "--json").stdout)
    assert (back["name"], back["state"], back["uri"]) == ("web", "running", web.uri)
    assert web("migrate", "web", web.uri, code=1).stderr.count("that is the host it is on") == 1


def test_migrate_asks_for_the_other_hosts_password(web: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[Any] = []

    def migrate(vm: MemoryVM, target: str, **more: Any) -> Any:
        given.append(more["credentials"])
        return connect(web.uri).get("web")

    monkeypatch.setattr(MemoryVM, "migrate", migrate)
    web("migrate", "web", "memory:///there")
    monkeypatch.setattr(output, "is_terminal", lambda stream: True)
    web("migrate", "web", "memory:///there")
    assert given == [None, app._ask]


# On a terminal.

SLOW = """
import time
from virtuoso_core import connect
from virtuoso_core.cli import main
from virtuoso_core.testing.memory import MemoryVM
def slow(vm, *rest):
    time.sleep(1.5)
MemoryVM.{hook} = slow
with connect("memory:///x") as host:
    host.create_disk("/images/web.qcow2", "1 GiB")
    vm = host.new_vm()
    vm.name, vm.disk_image = "[b]web", "/images/web.qcow2"
    vm.save()
    vm.start()
    vm.snapshot("first")
main(["-c", "memory:///x", *{words}])
"""


@pytest.mark.parametrize(
    ("hook", "words", "title"),
    [
        ("_revert", ["revert", "[b]web", "first", "--yes"], "Putting [b]web back to first"),
        ("_delete_snapshot", ["delete-snapshot", "[b]web", "first", "--yes"], "Dropping first of [b]web"),
        ("_suspend", ["suspend", "[b]web"], "Writing the memory of [b]web"),
    ],
)
def test_a_clock_on_a_terminal(hook: str, words: list[str], title: str) -> None:
    with Terminal(SLOW.format(hook=hook, words=words)) as terminal:
        assert terminal.wait() == 0
        assert title in terminal.text
        assert "0:00:01" in terminal.text
        assert terminal.restored
    with Terminal(SLOW.format(hook=hook, words=["--json", *words])) as terminal:
        assert terminal.wait() == 0
        assert title not in terminal.text
        assert "\x1b" not in terminal.text


def test_ctrl_c_gives_the_terminal_back() -> None:
    with Terminal(SLOW.format(hook="_revert", words=["revert", "[b]web", "first", "--yes"])) as terminal:
        terminal.wait_for("Putting")
        terminal.type("\x03")
        assert terminal.wait() == 130
        assert "Traceback" not in terminal.text
        assert "\x1b[?25h" in terminal.text  # the cursor is shown again
        assert terminal.restored


def test_features_that_are_missing(web: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MemoryHypervisor, "features", frozenset())
    for words in (
        ["snapshot", "web", "a"], ["snapshots", "web"], ["revert", "web", "a", "--yes"], ["clone", "web", "a"],
        ["delete-snapshot", "web", "a", "--yes"], ["suspend", "web"], ["autostart", "web"], ["top"], ["events"],
        ["migrate", "web", "memory:///y"], ["disk", "create", "/a", "1GiB"], ["disk", "add", "web", "/a"],
        ["create", "db", "--image", "/a"], ["create", "db", "--disk", "/a", "--cloud-init", "user=me"],
        ["create", "db", "--cdrom", "/a.iso"],
    ):  # fmt: skip
        assert web.error(*words, code=1)["type"] == "UnsupportedError", words
    assert web.json("show", "web")["untold"] == {}
