"""Undertakings: undone when they fail, found and cleaned when they were killed for real."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import pytest
from click.testing import CliRunner

from virtuoso_core import URI
from virtuoso_core.cli import app
from virtuoso_core.cli.commands import cli
from virtuoso_core.errors import ImageInUseError, InvalidStateError, VirtuosoError
from virtuoso_core.testing.memory import MemoryHypervisor
from virtuoso_core.unfinished import undertaking, unfinished
from virtuoso_kvm.driver import KvmHypervisor

pytest.importorskip("libvirt")

STEP = """
import sys, time
from virtuoso_core import URI
from virtuoso_core.unfinished import undertaking
from virtuoso_kvm.driver import KvmHypervisor

hypervisor = KvmHypervisor.open(URI.parse("test:///default"))

def reach(point):
    print(point, flush=True)
    time.sleep(60)

"""


@pytest.fixture(autouse=True)
def notes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where this user's notes are, in the test."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "virtuoso" / "unfinished"


@pytest.fixture
def local() -> Iterator[KvmHypervisor]:
    """Files of this machine, VMs of libvirt's mock."""
    with KvmHypervisor.open(URI.parse("test:///default")) as hypervisor:
        yield hypervisor


def interrupted(code: str, number: signal.Signals) -> subprocess.CompletedProcess[str]:
    """Run code in a process of its own until it says where it is, then send it a signal."""
    with subprocess.Popen(
        [sys.executable, "-c", STEP + code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        if not line:
            pytest.fail(process.communicate(timeout=20)[1])
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    return subprocess.CompletedProcess([], process.returncode, out, err)


def upload_code(source: Path, target: Path) -> str:
    return f"hypervisor.upload({str(source)!r}, {str(target)!r}, progress=lambda done, total: reach(done))"


def step_code(step: Path, rest: str = "reach('there')") -> str:
    return (
        "with undertaking(hypervisor, 'make two files') as step:\n"
        f"    for name in ('a', 'b'):\n"
        f"        step.file({str(step)!r} + '/' + name)\n"
        f"        hypervisor._storage().write({str(step)!r} + '/' + name, b'x')\n"
        f"    {rest}\n"
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A file of more than one chunk."""
    path = tmp_path / "source.img"
    path.write_bytes(os.urandom(3 * 1024 * 1024))
    return path


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """An empty directory."""
    (tmp_path / "images").mkdir()
    return tmp_path / "images"


def test_ctrl_c_in_an_upload_leaves_nothing(source: Path, images: Path, notes: Path) -> None:
    done = interrupted(upload_code(source, images / "a.img"), signal.SIGINT)
    assert "KeyboardInterrupt" in done.stderr
    assert os.listdir(images) == []
    assert os.listdir(notes) == []


def test_killed_in_an_upload(source: Path, images: Path, local: KvmHypervisor) -> None:
    """What is half there has another name; it is found and removed."""
    interrupted(upload_code(source, images / "a.img"), signal.SIGKILL)
    (half,) = os.listdir(images)
    assert half.startswith(".a.img.")
    (found,) = unfinished()
    assert found.doing == f"upload {source} to {images / 'a.img'}"
    assert found.left == (f"the file {images / half}",)
    assert (found.uri, found.driver) == ("test:///default", "kvm")
    assert abs(found.since - time.time()) < 60
    found.clean(local)
    assert os.listdir(images) == []
    assert unfinished() == []
    with pytest.raises(InvalidStateError, match="Somebody else"):
        found.clean(local)


def test_killed_in_a_copy(source: Path, images: Path, local: KvmHypervisor) -> None:
    """qemu-img does not go on for long without us; what it made is found."""
    copy = (
        "with undertaking(hypervisor, 'copy') as step:\n"
        f"    step.file({str(images / 'b.img')!r})\n"
        f"    hypervisor._storage().copy({str(source)!r}, {str(images / 'b.img')!r}, lambda *done: reach(done))\n"
    )
    interrupted(copy, signal.SIGKILL)
    (found,) = unfinished()
    found.clean(local)
    assert os.listdir(images) == []
    done = interrupted(copy, signal.SIGINT)
    assert "KeyboardInterrupt" in done.stderr
    assert os.listdir(images) == []
    assert unfinished() == []


def test_killed_between_two_files(images: Path, local: KvmHypervisor) -> None:
    interrupted(step_code(images), signal.SIGKILL)
    (found,) = unfinished()
    assert found.left == (f"the file {images}/a", f"the file {images}/b")
    found.clean(local)
    assert os.listdir(images) == []


def test_a_step_that_goes_on_is_none(images: Path, local: KvmHypervisor, notes: Path) -> None:
    with undertaking(local, "make a file") as step:
        step.file(str(images / "a"))
        assert unfinished() == []
        assert len(os.listdir(notes)) == 1
    assert os.listdir(notes) == []


def test_a_step_that_makes_nothing_writes_nothing(local: KvmHypervisor, notes: Path) -> None:
    with undertaking(local, "think"):
        assert not notes.exists()


def test_the_last_made_goes_first_and_one_that_stays_does_not_keep_the_rest(images: Path) -> None:
    gone: list[str] = []

    class Stubborn(MemoryHypervisor):
        def _storage(self) -> MemoryStorage:
            return storage

    class MemoryStorage(type(MemoryHypervisor(URI.parse("memory:///stubborn"))._storage())):  # type: ignore[misc]
        def delete(self, path: str) -> None:
            gone.append(path)
            if path == "/b":
                raise VirtuosoError("It stays.")

    storage = MemoryStorage()
    with Stubborn(URI.parse("memory:///stubborn")) as hypervisor:
        vm = hypervisor.new_vm()
        vm.name, vm.disk_image = "half", "/a"

        def make_much() -> None:
            with undertaking(hypervisor, "make much") as step:
                for path in ("/a", "/b", "/c"):
                    step.file(path)
                step.vm("half")
                vm.save()
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError) as caught:
            make_much()
        assert hypervisor.find("half") is None
        assert gone == ["/c", "/b", "/a"]
        assert "It stays. See: virtuoso doctor" in caught.value.__notes__[0]
        assert [each.doing for each in unfinished()] == ["make much"]


def test_what_is_not_ours_stays(images: Path, local: KvmHypervisor) -> None:
    mine, theirs = images / "mine", images / "theirs"
    theirs.write_text("theirs")

    def make() -> None:
        with undertaking(local, "make") as step:
            for path in (mine, theirs):
                step.file(str(path))
            mine.write_text("mine")
            step.keep(str(theirs))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        make()
    assert os.listdir(images) == ["theirs"]


def test_what_a_vm_uses_by_now_is_not_cleaned(images: Path, local: KvmHypervisor) -> None:
    interrupted(step_code(images), signal.SIGKILL)
    (found,) = unfinished()
    vm = local.new_vm()
    vm.name, vm.disk_image = "user", str(images / "a")
    vm.set("disk_format", "raw")
    vm.save()
    with pytest.raises(ImageInUseError, match="'user' has it"):
        found.clean(local)
    assert sorted(os.listdir(images)) == ["a", "b"]
    assert len(unfinished()) == 1
    vm.destroy()
    found.clean(local)


def test_done_anew_it_is_no_longer_left(images: Path, local: KvmHypervisor) -> None:
    """What a later step made well must not be cleaned for an earlier one that was killed before it made it."""
    interrupted(step_code(images), signal.SIGKILL)
    for name in ("a", "b"):
        (images / name).unlink()
    with undertaking(local, "make it again") as step:
        step.file(str(images / "a"))
        (images / "a").write_text("well made")
    (found,) = unfinished()
    assert found.left == (f"the file {images}/b",)
    found.clean(local)
    assert os.listdir(images) == ["a"]


def test_a_vm_without_the_files_of_the_step_is_another_one(images: Path, local: KvmHypervisor) -> None:
    """Killed before it made the VM: one that somebody makes later under that name is theirs."""
    made = f"step.file({str(images / 'a')!r}); step.vm('web'); open({str(images / 'a')!r}, 'w'); reach('there')"
    interrupted(f"with undertaking(hypervisor, 'make a VM') as step:\n    {made}\n", signal.SIGKILL)
    vm = local.new_vm()
    vm.name = "web"
    vm.save()
    (found,) = unfinished()
    assert found.left == (f"the file {images}/a", "the VM 'web'")
    found.clean(local)
    assert vm.state == "stopped"
    assert os.listdir(images) == []
    vm.destroy()


def test_what_a_vm_got_before_the_failure_stays(images: Path, local: KvmHypervisor) -> None:
    def make() -> None:
        with undertaking(local, "make") as step:
            for name in ("a", "b"):
                step.file(str(images / name))
                (images / name).write_text("")
            vm.save()
            raise ZeroDivisionError

    vm = local.new_vm()
    vm.name, vm.disk_image = "user", str(images / "a")
    vm.set("disk_format", "raw")
    with pytest.raises(ZeroDivisionError):
        make()
    assert os.listdir(images) == ["a"]
    vm.destroy()


def test_another_machine_with_this_home(images: Path, notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths and VMs of the same names there are others."""
    interrupted(step_code(images), signal.SIGKILL)
    here = os.uname()
    assert len(unfinished()) == 1
    monkeypatch.setattr(os, "uname", lambda: os.uname_result(("Linux", "elsewhere", *here[2:])))
    assert unfinished() == []
    assert len(os.listdir(notes)) == 1


def test_a_home_that_is_full(images: Path, local: KvmHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps no step from being done."""
    with undertaking(local, "make") as step:
        monkeypatch.setattr(os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "full")))
        step.file(str(images / "a"))
        (images / "a").write_text("made")
    assert os.listdir(images) == ["a"]


def test_a_note_that_was_cut_off(images: Path, notes: Path, local: KvmHypervisor) -> None:
    """Its whole lines count."""
    interrupted(step_code(images), signal.SIGKILL)
    (note,) = notes.iterdir()
    note.write_text(note.read_text()[:-5])
    (found,) = unfinished()
    assert found.left == (f"the file {images}/a",)


def test_a_note_that_tells_nothing_goes_in_time(notes: Path) -> None:
    notes.mkdir(parents=True)
    (notes / "young.json").write_text("")
    (notes / "old.json").write_text('{"doing": "x"')
    (notes / "odd.json").write_text('[1]\n{"file": 5}\n')
    os.utime(notes / "old.json", (1, 1))
    assert unfinished() == []
    assert sorted(os.listdir(notes)) == ["odd.json", "young.json"]


def test_a_step_that_ends_while_it_is_looked_for(notes: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who opened its note before the end and locks it after must not take it for a killed one."""
    real = fcntl.flock

    def late(file: IO[str], how: int) -> None:
        if how & fcntl.LOCK_NB:
            for note in notes.iterdir():
                note.unlink()
        real(file, how)

    notes.mkdir(parents=True)
    lines = [{"doing": "x", "uri": "memory:///x", "driver": "memory", "since": 1.0}, {"file": "/a"}]
    (notes / "x.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert len(unfinished()) == 1
    monkeypatch.setattr(fcntl, "flock", late)
    assert unfinished() == []


def test_no_password_is_written_down(notes: Path) -> None:
    with (
        MemoryHypervisor(URI.parse("memory://me:secret@host/x")) as hypervisor,
        undertaking(hypervisor, "make") as step,
    ):
        step.file("/a")
        (note,) = notes.iterdir()
        assert "secret" not in note.read_text()
        assert "memory://me@host/x" in note.read_text()
        assert note.parent.stat().st_mode & 0o077 == 0


def test_doctor(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tells what was left, removes it, says so."""
    interrupted(step_code(images), signal.SIGKILL)
    said = CliRunner().invoke(cli, ["-c", "memory:///doctor", "doctor"])
    (line,) = [line for line in said.stdout.replace("\n        ", " ").splitlines() if "Unfinished" in line]
    assert "'make two files'" in line
    assert f"the file {images}/a and the file {images}/b" in line
    assert "virtuoso doctor --clean" in line
    asked: list[object] = []

    def connect(uri: str, **more: object) -> KvmHypervisor:
        asked.append((uri, more["driver"], more["readonly"]))
        return KvmHypervisor.open(URI.parse(uri))  # which would serve qemu:// only

    monkeypatch.setattr(app, "connect", connect)
    cleaned = CliRunner().invoke(cli, ["-c", "qemu:///elsewhere", "doctor", "--clean", "--json"])
    assert cleaned.exit_code == 0, cleaned.output
    assert asked == [("test:///default", "kvm", False)]
    (check,) = json.loads(cleaned.stdout)["checks"]
    assert check["status"] == "ok"
    assert f"the file {images}/a" in check["explanation"]
    assert os.listdir(images) == []
    assert "nothing to clean" in CliRunner().invoke(cli, ["doctor", "--clean"]).stdout


def test_doctor_tells_what_it_could_not_clean(notes: Path) -> None:
    notes.mkdir(parents=True)
    lines = [{"doing": "x", "uri": "nowhere:///x", "driver": "nowhere", "since": 1.0}, {"file": "/a"}]
    (notes / "x.json").write_text("".join(json.dumps(line) + "\n" for line in lines))
    cleaned = CliRunner().invoke(cli, ["doctor", "--clean", "--json"])
    assert cleaned.exit_code == 1
    (check,) = json.loads(cleaned.stdout)["checks"]
    assert check["status"] == "fail"
    assert len(unfinished()) == 1
