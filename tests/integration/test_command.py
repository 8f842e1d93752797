"""The `virtuoso` command on a real host, from an image to a machine and away again, typed there line by line."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import qemu_img, until
from tests.labs.hosts import REPOSITORY, PrivateHost, guest_image

URI = "qemu:///system"
SIT = Path(__file__).with_name("scripts") / "sit.py"
MIB = 1024**2


class Shell:
    """Types `virtuoso ...` on the host."""

    def __init__(self, host: PrivateHost, folder: Path) -> None:
        self.host = host
        self.folder = folder
        self.ended: int | None = None

    def __call__(self, *words: str, code: int = 0, timeout: float = 200, input: str | None = None) -> str:
        done = self.run(*words, timeout=timeout, input=input)
        assert done.returncode == code, (words, done)
        assert "Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    def json(self, *words: str) -> Any:
        return json.loads(self(*words, "--json"))

    def listen(self) -> None:
        """Until it is told to stop, write the events into the file "events"."""
        command = [Path(sys.executable).with_name("virtuoso"), "-c", URI, "events", "--json"]
        line = 'cd "$0" || exit; "$@" >events & echo $! >pid; wait $!'
        self.ended = self.host.run(["sh", "-c", line, self.folder, *command], timeout=500).returncode

    def stop_listening(self) -> None:
        self.host.run(["kill", (self.folder / "pid").read_text().strip()])

    def run(self, *words: str, timeout: float, input: str | None = None) -> subprocess.CompletedProcess[str]:
        command = [Path(sys.executable).with_name("virtuoso"), *words]
        environ = {"VIRTUOSO_DEFAULT_URI": URI, "XDG_STATE_HOME": str(self.folder / "state")}
        return self.host.run(
            ["sh", "-c", 'cd "$0" && exec "$@"', self.folder, *command], timeout=timeout, input=input, env=environ
        )


@pytest.fixture
def virtuoso(host: PrivateHost) -> Iterator[Shell]:
    """The command, in an empty folder for images, which is to be empty again but for the base image."""
    folder = host.images / "command"
    folder.mkdir(mode=0o755)
    (folder / "state").mkdir()
    qemu_img("convert", "-O", "qcow2", guest_image(), folder / "base.qcow2")
    shell = Shell(host, folder)
    yield shell
    for vm in shell.json("list"):
        shell.run("destroy", vm["name"], "--force", "--yes", timeout=100)
    for path in sorted(folder.rglob("*"), reverse=True):
        path.rmdir() if path.is_dir() else path.unlink()
    folder.rmdir()


def test_from_an_image_to_a_machine_and_away(host: PrivateHost, virtuoso: Shell) -> None:
    folder, base = virtuoso.folder, str(virtuoso.folder / "base.qcow2")
    listener = threading.Thread(target=virtuoso.listen, daemon=True)
    listener.start()
    until((folder / "pid").exists, "command that listens")

    # made, and up
    line = ["create", "web", "--image", base, "--disk-size", "2GiB", "--memory", "256MiB", "--cpus", "1"]
    assert "an overlay of" in virtuoso(*line, "--dry-run")
    assert not (folder / "web.qcow2").exists()
    made = virtuoso(*line, "--wait").splitlines()
    assert made[0].startswith("Created web (")
    address = made[1].removeprefix("web: running at ")
    assert virtuoso("ip", "web", "--wait").split() == [address]
    assert virtuoso("create", "web", "--image", base, code=1).startswith("virtuoso: There is already a VM 'web'")

    # inside
    assert virtuoso("run", "--timeout", "120", "web", "cat", "/proc/sys/kernel/ostype") == "Linux\n"
    assert virtuoso("run", "--input", "-", "web", "sh", "-c", "wc -c; exit 3", input="piped", code=3) == ""
    assert virtuoso("run", "--json", "web", "--", "sh", "-c", "echo no >&2; exit 9", code=9) == ""
    seen = host.run(["env", f"PYTHONPATH={REPOSITORY}", sys.executable, SIT, URI, "web"], timeout=300)
    assert seen.returncode == 0, seen
    sat = json.loads(seen.stdout)
    assert (sat["code"], sat["raw"], sat["restored"]) == (0, True, True), sat
    assert "Left the console of web." in sat["last"]
    assert virtuoso("screenshot", "web") == "Wrote web.png.\n"
    assert (folder / "web.png").read_bytes().startswith(b"\x89PNG")
    assert virtuoso("display", "web").startswith("vnc://127.0.0.1:59")
    rows = virtuoso("top", "--once", "--interval", "1").splitlines()
    assert [row.split()[0] for row in rows] == ["NAME", "web"]
    refused = virtuoso("ssh", "--timeout", "3", "web", code=1)
    assert f"{address}:22 refused" in refused  # no ssh is in this guest

    # its disks
    more = str(folder / "data.qcow2")
    assert virtuoso("disk", "create", more, "64MiB").startswith("Made ")
    assert virtuoso.json("disk", "add", "web", more)["disks"] == [str(folder / "web.qcow2"), more]
    assert virtuoso.json("disk", "resize", "web", more, "+64MiB")["size"] == 128 * MIB
    for image in (base, more, str(folder / "web.qcow2")):
        assert virtuoso("disk", "delete", image, "--yes", code=1).startswith("virtuoso: The disk image ")

    # a way back
    virtuoso("run", "web", "sh", "-c", "echo good > /mark")
    assert virtuoso("snapshot", "web", "good") == "web: kept as good, running.\n"
    virtuoso("run", "web", "sh", "-c", "echo bad > /mark")
    assert virtuoso("revert", "web", "good", "--yes") == "web: back at good, running\n"
    assert virtuoso("run", "--timeout", "120", "web", "cat", "/mark") == "good\n"
    shown = virtuoso.json("show", "web")
    assert (shown["snapshots"], shown["untold"], shown["autostart"]) == (["good"], {}, False)
    assert [each["ip"] for each in shown["addresses"]] == [address]
    assert virtuoso("snapshots", "web").splitlines()[1].split()[0] == "good"
    assert virtuoso("delete-snapshot", "web", "good", "--yes") == "web: dropped good.\n"

    # asleep, off, copied, gone
    assert virtuoso("suspend", "web") == "web: suspended\n"
    assert virtuoso("start", "web") == "web: running\n"
    assert virtuoso("run", "--timeout", "120", "web", "cat", "/mark") == "good\n"
    assert "not running" not in virtuoso("clone", "web", "copy", code=1)
    assert virtuoso("stop", "web", "--timeout", "100", timeout=200) == "web: stopped\n"
    assert virtuoso("disk", "remove", "web", more)
    assert [vm["state"] for vm in virtuoso.json("clone", "web", "copy-1", "copy-2", "--start")] == ["running"] * 2
    assert virtuoso("ip", "copy-2", "--wait").strip() not in ("", address)
    assert "is based on it" in virtuoso("destroy", "web", "--delete-disk", "--yes", code=1)
    virtuoso("destroy", "copy-1", "copy-2", "--force", "--delete-disk", "--yes")
    virtuoso("destroy", "web", "--delete-disk", "--yes")
    virtuoso("disk", "delete", more, "--yes")
    assert virtuoso.json("list") == []
    left = {path.name for path in folder.rglob("*") if path.is_file()}
    assert left == {"base.qcow2", "web.png", "events", "pid"}

    # what was heard of it meanwhile
    virtuoso.stop_listening()
    listener.join(60)
    assert not listener.is_alive()
    heard = [json.loads(line) for line in (folder / "events").read_text().splitlines()]
    types = [event["type"] for event in heard if event["vm"] == "web"]
    for type in ("saved", "started", "suspended", "stopped", "destroyed"):
        assert type in types, heard
    assert {event["vm"] for event in heard} == {"web", "copy-1", "copy-2"}
    assert virtuoso.ended == 143
