"""`virtuoso disk ...`, and the disks that `create`, `set` and `destroy` make, seed and delete."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.unit.shell import Shell, Terminal
from virtuoso_core import ImageNotFoundError, connect
from virtuoso_core.cli import output
from virtuoso_core.errors import HypervisorError, VMExistsError
from virtuoso_core.spec import SaveResult
from virtuoso_core.testing.memory import MemoryHypervisor, MemoryVM
from virtuoso_core.uri import URI

GIB = 1024**3


def images(shell: Shell) -> list[str]:
    """Every image on the host."""
    with connect(shell.uri) as hypervisor:
        assert isinstance(hypervisor, MemoryHypervisor)
        return sorted(hypervisor.host.images._infos)


@pytest.fixture
def base(shell: Shell) -> Shell:
    """A host with the image /images/base.qcow2 of 10 GiB."""
    shell("disk", "create", "/images/base.qcow2", "10GiB")
    return shell


# disk.


def test_disk_without_a_command(shell: Shell) -> None:
    result = shell("disk", code=2)
    assert (result.stdout, "Commands:" in result.stderr) == ("", True)
    assert shell.error("disk", code=2)["message"] == "Missing command."
    assert shell.error("disk", "nonsense", code=2)["type"] == "UsageError"


@pytest.mark.parametrize(
    "command", ["create", "show", "delete", "upload", "download", "list", "add", "remove", "resize"]
)
def test_every_command_has_help_with_an_example(shell: Shell, command: str) -> None:
    text = shell("disk", command, "--help").stdout
    assert f" disk {command} " in text.split("\n", 1)[1]
    assert "Options of every command" in text


def test_create_and_show(base: Shell) -> None:
    assert base("disk", "create", "/images/a.qcow2", "20GiB").stdout == "Made /images/a.qcow2: qcow2, 20 GiB.\n"
    line = base("disk", "create", "/images/b.qcow2", "--backing", "/images/base.qcow2").stdout
    assert line == "Made /images/b.qcow2: qcow2, 10 GiB, based on /images/base.qcow2.\n"
    made = base.json("disk", "create", "/images/c.img", "1GiB", "--format", "raw")
    assert made == {"path": "/images/c.img", "format": "raw", "size": GIB, "allocated": 0, "backing": None}
    assert base.json("disk", "show", "/images/c.img") == made
    rows = dict(line.split(None, 1) for line in base("disk", "show", "/images/b.qcow2").stdout.splitlines())
    assert (rows["Size"], rows["Based"]) == ("10 GiB", "on   /images/base.qcow2")


@pytest.mark.parametrize(
    ("args", "code", "type"),
    [
        (["create", "/images/a.qcow2"], 2, "InvalidValueError"),
        (["create", "/images/a.qcow2", "20"], 2, "InvalidValueError"),
        (["create", "/images/a.qcow2", "lots"], 2, "InvalidValueError"),
        (["create", "/images/a.qcow2", "1GiB", "--format", "zip"], 2, "InvalidValueError"),
        (["create", "/images/a.qcow2", "1GiB", "--backing", "/images/base.qcow2"], 2, "InvalidValueError"),
        (["create", "/images/a.qcow2", "--backing", "/images/gone.qcow2"], 1, "ImageNotFoundError"),
        (["create", "/images/base.qcow2", "1GiB"], 1, "ImageExistsError"),
        (["--readonly", "create", "/images/a.qcow2", "1GiB"], 1, "ReadOnlyError"),
        (["show", "/images/gone.qcow2"], 1, "ImageNotFoundError"),
        (["delete", "/images/base.qcow2"], 2, "UsageError"),
        (["--readonly", "delete", "/images/base.qcow2", "--yes"], 1, "ReadOnlyError"),
        (["upload", "/nowhere/a.qcow2", "/images/a.qcow2"], 1, "ImageNotFoundError"),
        (["download", "/images/gone.qcow2", "a.qcow2"], 1, "ImageNotFoundError"),
        (["list", "nobody"], 3, "VMNotFoundError"),
        (["add", "nobody", "/images/a.qcow2"], 3, "VMNotFoundError"),
        (["resize", "web", "/images/gone.qcow2", "1GiB"], 1, "ImageNotFoundError"),
        (["remove", "web", "/images/gone.qcow2"], 1, "ImageNotFoundError"),
    ],
)
def test_errors(base: Shell, args: list[str], code: int, type: str) -> None:
    base("create", "web", "--disk", "/images/web.qcow2")
    before = images(base)
    assert base.error("disk", *args, code=code)["type"] == type
    assert images(base) == before


def test_delete(base: Shell) -> None:
    assert base.json("disk", "delete", "/images/base.qcow2", "--yes") == {
        "path": "/images/base.qcow2",
        "deleted": True,
    }
    assert images(base) == []


def test_delete_refuses_what_is_needed(base: Shell) -> None:
    base("create", "web", "--image", "/images/base.qcow2")
    for path in ("/images/base.qcow2", "/images/web.qcow2"):
        assert base.error("disk", "delete", path, "--yes", code=1)["type"] == "ImageInUseError"


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, 0), ("n\n", 1, 1), ("", 1, 1)])
def test_delete_asks_on_a_terminal(
    base: Shell, monkeypatch: pytest.MonkeyPatch, answer: str, code: int, left: int
) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda stream: True)
    result = base("disk", "delete", "/images/base.qcow2", input=answer, code=code)
    assert "Delete /images/base.qcow2 for good? [y/N]" in result.stderr
    assert len(images(base)) == left


def test_upload_and_download(shell: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("small.raw").write_bytes(b"data" * 1024)
    result = shell("disk", "upload", "small.raw", "/images/small.raw")
    assert (result.stdout, result.stderr) == ("Uploaded /images/small.raw: raw, 4 KiB.\n", "")
    assert shell.error("disk", "upload", "small.raw", "/images/small.raw", code=1)["type"] == "ImageExistsError"
    assert shell("disk", "download", "/images/small.raw", "back.raw").stderr == ""
    assert Path("back.raw").read_bytes() == b"data" * 1024
    assert shell.json("disk", "download", "/images/small.raw", "more.raw")["target"] == "more.raw"
    assert shell.error("disk", "download", "/images/small.raw", "back.raw", code=1)["type"] == "ImageExistsError"


def test_the_disks_of_a_vm(base: Shell) -> None:
    base("create", "web", "--disk", "/images/base.qcow2")
    assert base("disk", "add", "web", "/images/data.qcow2", "--size", "5GiB").stdout == "web has /images/data.qcow2.\n"
    assert base("disk", "list", "web").stdout == "/images/base.qcow2\n/images/data.qcow2\n"
    assert base.json("disk", "list", "web") == ["/images/base.qcow2", "/images/data.qcow2"]
    assert "has 8 GiB." in base("disk", "resize", "web", "/images/data.qcow2", "+3GiB").stdout
    assert "--shrink" in base.error("disk", "resize", "web", "/images/data.qcow2", "1GiB", code=2)["hint"]
    smaller = base.json("disk", "resize", "web", "/images/data.qcow2", "1GiB", "--shrink")
    assert smaller == {"path": "/images/data.qcow2", "size": GIB}
    added = base.json("disk", "add", "web", "/images/more.qcow2", "--size", "1GiB")
    assert (added["name"], added["result"], len(added["disks"])) == ("web", "applied", 3)
    assert "/images/more.qcow2" in base("disk", "remove", "web", "/images/more.qcow2").stdout
    assert base.json("disk", "remove", "web", "/images/data.qcow2")["disks"] == ["/images/base.qcow2"]
    assert "/images/data.qcow2" in images(base)


@pytest.mark.parametrize(
    "line",
    [
        "disk create /images/data.qcow2 5",
        "disk add web /images/data.qcow2 --size 5",
        "disk resize web /images/web.qcow2 +5",
        "create db --disk /images/data.qcow2 --disk-size 5",
    ],
)
def test_a_size_needs_a_unit(base: Shell, line: str) -> None:
    base("create", "web", "--image", "/images/base.qcow2")
    assert base.error(*line.split(), code=2)["hint"].endswith("5GiB, say.")
    assert images(base) == ["/images/base.qcow2", "/images/web.qcow2"]


def test_a_running_vm_that_gets_its_disk_later(base: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def save(vm: MemoryVM, *args: Any, **more: Any) -> SaveResult:
        now(vm, *args, **more)
        return SaveResult.NEXT_START

    base("create", "web", "--disk", "/images/base.qcow2", "--start")
    now = MemoryVM.save
    monkeypatch.setattr(MemoryVM, "save", save)
    assert "from its next start" in base("disk", "add", "web", "/images/data.qcow2", "--size", "5GiB").stdout
    removed = base("disk", "remove", "web", "/images/data.qcow2").stdout
    assert "from its next start" in removed
    assert "The image is still there." in removed


def test_a_disk_that_cannot_be_given_is_not_left_behind(base: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise HypervisorError("No room on the bus.")

    base("create", "web", "--disk", "/images/base.qcow2")
    monkeypatch.setattr(MemoryVM, "_update", fail)
    base("disk", "add", "web", "/images/data.qcow2", "--size", "5GiB", code=1)
    base("disk", "add", "web", "/images/base2.qcow2", code=1)
    assert images(base) == ["/images/base.qcow2"]


def test_a_disk_that_was_given_stays_also_when_interrupted(base: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(vm: MemoryVM, *args: Any) -> None:
        update(vm, *args)
        raise KeyboardInterrupt

    base("create", "web", "--disk", "/images/base.qcow2")
    update = MemoryVM._update
    monkeypatch.setattr(MemoryVM, "_update", interrupted)
    base("disk", "add", "web", "/images/data.qcow2", "--size", "5GiB", code=130)
    assert ("/images/data.qcow2" in images(base)) == ("/images/data.qcow2" in base.json("disk", "list", "web"))


# create --image, --disk-size, --cdrom.


def test_create_from_an_image(base: Shell) -> None:
    base("create", "web", "--image", "/images/base.qcow2")
    assert base.json("show", "web")["disks"] == ["/images/web.qcow2"]
    assert base.json("disk", "show", "/images/web.qcow2")["backing"] == "/images/base.qcow2"
    base("create", "db", "--image", "/images/base.qcow2", "--disk", "/fast/db.qcow2", "--disk-size", "20GiB")
    assert base.json("disk", "show", "/fast/db.qcow2")["size"] == 20 * GIB
    base("create", "empty", "--disk", "/images/empty.qcow2", "--disk-size", "1GiB", "--cdrom", "/images/debian.iso")
    shown = base.json("show", "empty")
    assert (shown["disks"], shown["cdrom"]) == (["/images/empty.qcow2"], "/images/debian.iso")
    assert base.json("disk", "show", "/images/empty.qcow2")["backing"] is None


@pytest.mark.parametrize(
    ("args", "type"),
    [
        (["web", "--disk-size", "1GiB"], "UsageError"),
        (["web", "--image", "/images/base.qcow2", "--disk-size", "1GiB"], "InvalidValueError"),
        (["web", "--image", "/images/base.qcow2", "--cloud-init", "usr=me"], "UsageError"),
        (["web", "--image", "/images/base.qcow2", "--cloud-init", "user"], "UsageError"),
        (["web", "--image", "/images/base.qcow2", "--cloud-init", "user=Not Me"], "InvalidValueError"),
        (["web", "--image", "/images/base.qcow2", "--cloud-init", "user-data=@/nowhere"], "UsageError"),
        (["web", "--image", "/images/base.qcow2", "--set", "headless=perhaps"], "InvalidOptionError"),
        (["web", "--cloud-init", "user=me"], "InvalidValueError"),
    ],
)
def test_wrong_usage_makes_nothing(base: Shell, args: list[str], type: str) -> None:
    error = base.error("create", *args, code=2)
    assert (error["type"], bool(error["hint"])) == (type, True)
    assert images(base) == ["/images/base.qcow2"]
    assert base.json("list") == []


def test_a_name_that_is_taken_makes_no_disk(base: Shell) -> None:
    base("create", "web")
    assert base.error("create", "web", "--image", "/images/base.qcow2", code=1)["type"] == "VMExistsError"
    assert images(base) == ["/images/base.qcow2"]


def test_a_disk_in_the_way_stays(base: Shell) -> None:
    base("disk", "create", "/images/web.qcow2", "1GiB")
    error = base.error("create", "web", "--image", "/images/base.qcow2", code=1)
    assert error["type"] == "ImageExistsError"
    assert "--disk PATH" in error["hint"]
    assert base.json("disk", "show", "/images/web.qcow2")["size"] == GIB
    assert base.json("list") == []


@pytest.mark.parametrize(
    ("error", "code"), [(HypervisorError("Full."), 1), (KeyboardInterrupt(), 130), (SystemExit(143), 143)]
)
@pytest.mark.parametrize("late", [False, True])
def test_a_failed_save_leaves_nothing(
    base: Shell, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int, late: bool
) -> None:
    def fail(vm: MemoryVM, spec: Any) -> str:
        if late:
            create(vm, spec)
        raise error

    create = MemoryVM._create
    monkeypatch.setattr(MemoryVM, "_create", fail)
    base("create", "web", "--image", "/images/base.qcow2", "--cloud-init", "user=me", code=code)
    assert images(base) == ["/images/base.qcow2"]
    assert base.json("list") == []


def test_somebody_faster_keeps_their_vm(base: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(vm: MemoryVM, spec: Any) -> str:
        create(vm, replace(spec, disk_image="/images/theirs.qcow2"))
        raise VMExistsError("Somebody was faster.")

    create = MemoryVM._create
    monkeypatch.setattr(MemoryVM, "_create", fail)
    base("create", "web", "--image", "/images/base.qcow2", code=1)
    assert [vm["name"] for vm in base.json("list")] == ["web"]
    assert images(base) == ["/images/base.qcow2"]


def test_dry_run_makes_no_disk(base: Shell) -> None:
    line = ["create", "web", "--image", "/images/base.qcow2", "--disk-size", "20GiB", "--cloud-init", "user=me"]
    lines = base(*line, "--dry-run").stdout.splitlines()
    assert lines[0] == "disk: + /images/web.qcow2, of 20GiB, an overlay of /images/base.qcow2"
    assert "cloud-init: what it reads at the next start" in lines
    assert base.json(*line, "--dry-run")["changes"][0] == lines[0]
    assert base.error(*line, "--dry-run", "--xml", code=2)["type"] == "UsageError"  # it is not there to be described
    base("create", "web", "--image", "/images/gone.qcow2", "--dry-run", code=1)
    assert images(base) == ["/images/base.qcow2"]
    assert base.json("list") == []


@pytest.mark.parametrize("option", ["--image", "--disk"])
def test_an_image_that_is_here_and_not_there(
    shell: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, option: str
) -> None:
    def fail(vm: Any, *_: object, **__: object) -> None:
        raise ImageNotFoundError(f"There is no disk image {image} on {shell.uri}.", hint="Look there.")

    image = tmp_path / "my base.qcow2"
    monkeypatch.setattr(MemoryHypervisor, "create_disk", fail)
    monkeypatch.setattr(MemoryVM, "_create", fail)
    assert shell.error("create", "web", option, str(image), code=1)["hint"] == "Look there."
    image.touch()
    assert shell.error("create", "web", option, str(image), code=1)["hint"] == "Look there."
    monkeypatch.setattr(URI, "is_local", property(lambda self: False))
    hint = shell.error("create", "web", option, str(image), "-c", shell.uri, code=1)["hint"]
    assert hint.endswith(f"virtuoso -c {shell.uri} disk upload '{image}' '{image}'")


# cloud-init.


def test_cloud_init_reads_files(base: Shell, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: dict[str, Any] = {}
    monkeypatch.setattr(MemoryVM, "cloud_init", lambda vm, **seed: given.update(seed))
    monkeypatch.chdir(tmp_path)
    Path("secret").write_text("hunter2\n")
    Path("more.yaml").write_text("#cloud-config\ntimezone: UTC\n")
    words = ["user=me", "password=@secret", "ssh-key=ssh-ed25519 AAAA a=b", "ssh-key=~/id.pub", "packages=nginx, git"]
    words += ["packages=vim", "user-data=@more.yaml", "hostname=www"]
    base("create", "web", "--disk", "/images/base.qcow2", *(part for word in words for part in ("--cloud-init", word)))
    assert given == {
        "user": "me",
        "password": "hunter2",
        "ssh_key": ["ssh-ed25519 AAAA a=b", os.path.expanduser("~/id.pub")],
        "packages": ["nginx", "git", "vim"],
        "user_data": "#cloud-config\ntimezone: UTC\n",
        "hostname": "www",
    }


def test_set_cloud_init(base: Shell) -> None:
    base("create", "web", "--disk", "/images/base.qcow2")
    assert base("set", "web", "--cloud-init", "user=me", "--dry-run").stdout.startswith("cloud-init: ")
    assert images(base) == ["/images/base.qcow2"]
    assert base("set", "web", "--cloud-init", "user=me").stdout.splitlines()[-1] == "Done."
    (seed,) = set(images(base)) - {"/images/base.qcow2"}
    assert seed.endswith(".cloud-init.iso")
    assert base.error("set", "web", "--cloud-init", "nobody=me", code=2)["hint"]
    base("destroy", "web", "--yes")
    assert images(base) == ["/images/base.qcow2"]


def test_destroy_with_several_disks(base: Shell) -> None:
    base("create", "web", "--image", "/images/base.qcow2")
    base("disk", "add", "web", "/images/data.qcow2", "--size", "1GiB")
    plan = base("destroy", "web", "--delete-disk", "--dry-run").stdout.splitlines()[1:]
    assert plan == ["disk: - /images/web.qcow2", "disk: - /images/data.qcow2"]
    gone = base.json("destroy", "web", "--delete-disk", "--yes")[0]["deleted_disks"]
    assert gone == ["/images/web.qcow2", "/images/data.qcow2"]
    assert images(base) == ["/images/base.qcow2"]


# On a terminal, and in a process.

SLOW = """
import os, sys, time
from virtuoso_core import connect
from virtuoso_core.cli import main
from virtuoso_core.testing.memory_images import MemoryStorage
def slow(self, source, target, progress):
    for done in range({steps}):
        progress and progress(done * 1024**2, {steps} * 1024**2)
        print("step" if done == 1 else "", end="", flush=True)
        time.sleep(0.05)
    upload(self, source, target, progress)
upload, MemoryStorage.upload = MemoryStorage.upload, slow
try:
    main(["-c", "memory:///x", "disk", "upload", {source!r}, "/images/[red]a.raw", *{more}])
finally:
    print("left:", [*connect("memory:///x").host.images._infos], file=sys.stderr)
"""


@pytest.fixture
def slow(tmp_path: Path) -> Any:
    source = tmp_path / "[red]a.raw"
    source.write_bytes(b"x" * 4096)
    return lambda steps=20, more=(): SLOW.format(steps=steps, source=str(source), more=list(more))


def test_a_bar_on_a_terminal(slow: Any) -> None:
    with Terminal(slow(), columns=200) as terminal:
        assert terminal.wait() == 0
        assert "[red]a.raw" in terminal.text
        assert "/20.0 MiB" in terminal.text
        assert terminal.restored


@pytest.mark.parametrize(("more", "environ"), [(["--json"], {}), ([], {"TERM": "dumb"})])
def test_no_bar_with_json_or_where_it_cannot_be_drawn(slow: Any, more: list[str], environ: dict[str, str]) -> None:
    with Terminal(slow(more=more), **environ) as terminal:
        assert terminal.wait() == 0
        assert "MiB" not in terminal.text
        assert "\x1b" not in terminal.text


def test_no_bar_in_a_pipe(slow: Any) -> None:
    done = subprocess.run([sys.executable, "-c", slow()], capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout == "stepUploaded /images/[red]a.raw: raw, 4 KiB.\n"
    assert done.stderr == "left: ['/images/[red]a.raw']\n"


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)], ids=lambda x: str(x)
)
def test_signals_undo(number: signal.Signals, code: int, tmp_path: Path) -> None:
    program = """
import sys, time
from virtuoso_core import connect
from virtuoso_core.cli import main
from virtuoso_core.testing.memory import MemoryVM
def slow(vm, spec):
    print("saving", [*host.host.images._infos], flush=True)
    time.sleep(30)
MemoryVM._create = slow
host = connect("memory:///x")
host.create_disk("/images/base.qcow2", "1 GiB")
try:
    main(["-c", "memory:///x", "create", "web", "--image", "/images/base.qcow2", "--cloud-init", "user=me"])
finally:
    print([*host.host.images._infos])
"""
    environ = os.environ | {"XDG_STATE_HOME": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        process.send_signal(number)
        out, errors = process.communicate(timeout=30)
    assert "/images/web.qcow2" in line
    assert (process.returncode, errors) == (code, "")
    assert out == "['/images/base.qcow2']\n"
    assert not [*tmp_path.rglob("*.json")]


def test_what_could_not_be_undone_is_told(base: Shell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from virtuoso_core.testing.memory_images import MemoryStorage

    def fail(*_: object) -> None:
        raise HypervisorError("The disk is stuck.")

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.setattr(MemoryStorage, "delete", fail)
    monkeypatch.setattr(MemoryVM, "_create", interrupted)
    result = base("create", "web", "--image", "/images/base.qcow2", code=130)
    assert "The disk is stuck." in result.stderr
    assert "virtuoso doctor" in result.stderr
    monkeypatch.setattr(MemoryVM, "_create", fail)
    result = base("create", "db", "--image", "/images/base.qcow2", "--json", code=1)
    assert [*map(list, map(json.loads, result.stderr.splitlines()))] == [["error"], ["warning"]]
