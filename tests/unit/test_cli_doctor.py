"""`virtuoso doctor`: each check against a machine made for it."""

from __future__ import annotations

import json
import os
import pwd
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from virtuoso_core import ConnectError
from virtuoso_core.cli import commands, doctor, installation  # noqa: F401  registers the commands
from virtuoso_core.cli.app import cli
from virtuoso_core.cli.doctor import Check, check_driver
from virtuoso_core.errors import DriverDisabledError, DriverLoadError
from virtuoso_core.plugins import Plugin, Status
from virtuoso_core.plugins.registry import Registry
from virtuoso_core.testing.memory import MemoryHypervisor
from virtuoso_core.uri import URI


def run(*args: str, code: int = 0) -> dict[str, Any]:
    result = CliRunner().invoke(cli, [*args, "--json", "doctor"])
    assert result.exit_code == code, (result.output, result.exception)
    document: dict[str, Any] = json.loads(result.stdout)
    assert document["ok"] is (code == 0)
    assert all(set(check) == {"name", "status", "explanation", "advice"} for check in document["checks"])
    return {check["name"]: check for check in document["checks"]}


@pytest.fixture(autouse=True)
def _drivers_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is installed beside the core."""
    monkeypatch.setattr(doctor, "check_driver", lambda plugin: Check(plugin.name, "ok", ""))


def test_only_what_matters_for_the_uri_is_looked_at() -> None:
    checks = run("-c", "memory:///doctor")
    assert checks["Connection to memory:///doctor"]["status"] == "ok"
    assert not {"KVM", "Processor", "QEMU"} & set(checks)


def test_for_people(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [Check("A", "ok", "Fine."), Check("B", "fail", "Bad.", "do this\nthen that")]
    monkeypatch.setattr(doctor, "examine", lambda *_: iter(found))
    result = CliRunner().invoke(cli, ["doctor"])
    assert result.exit_code == 1
    assert result.stdout == "ok    A: Fine.\nfail  B: Bad.\n        do this\n        then that\n"


def test_warnings_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "examine", lambda *_: iter([Check("A", "warn", "Slow."), Check("B", "skip", "")]))
    assert CliRunner().invoke(cli, ["doctor"]).exit_code == 0


def test_a_wrong_uri_is_wrong_usage() -> None:
    assert CliRunner().invoke(cli, ["-c", "nonsense", "doctor"]).exit_code == 2


def test_nothing_to_connect_to(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VIRTUOSO_DEFAULT_URI", "LIBVIRT_DEFAULT_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Registry, "default_uris", lambda self: [])
    assert "pip install" in run(code=1)["Connection"]["advice"]


def test_one_working_default_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    original = MemoryHypervisor.open.__func__  # type: ignore[attr-defined]

    def open_some(cls: Any, uri: URI, /, **options: Any) -> MemoryHypervisor:
        if uri.path == "/bad":
            raise ConnectError("It does not answer.", hint="Start it.")
        found: MemoryHypervisor = original(cls, uri, **options)
        return found

    for name in ("VIRTUOSO_DEFAULT_URI", "LIBVIRT_DEFAULT_URI"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(MemoryHypervisor, "open", classmethod(open_some))
    monkeypatch.setattr(Registry, "default_uris", lambda self: ["memory:///bad", "memory:///good"])
    checks = run()
    assert checks["Connection to memory:///bad"]["status"] == "warn"
    assert checks["Connection to memory:///good"]["status"] == "ok"
    monkeypatch.setattr(Registry, "default_uris", lambda self: ["memory:///bad"])
    check = run(code=1)["Connection to memory:///bad"]
    assert (check["explanation"], check["advice"]) == ("It does not answer.", "Start it.")


def test_the_driver_adds_its_own_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    found = [("Network default", "warn", "It is not started.", "virsh net-start default")]
    monkeypatch.setattr(MemoryHypervisor, "_doctor", lambda self: found, raising=False)
    assert run("-c", "memory:///doctor")["Network default"]["advice"] == "virsh net-start default"


@pytest.mark.parametrize(
    ("status", "error", "expected"),
    [
        (Status.OK, None, "ok"),
        (Status.BROKEN, DriverLoadError("It does not load.", hint="Reinstall it."), "fail"),
        (Status.DISABLED, DriverDisabledError("It is blocked."), "warn"),
    ],
)
def test_drivers(status: Status, error: Any, expected: str) -> None:
    assert check_driver(Plugin("x", "virtuoso-x", "1", status, error)).status == expected


def test_libvirt_matters_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert doctor.check_libvirt(needed=False).status == "skip"
    check = doctor.check_libvirt(needed=True)
    assert check.status == "fail"
    assert "pip install 'virtuoso-core[libvirt]'" in check.advice
    assert doctor._need_libvirt([URI.parse("memory:///x"), URI.parse("nobody:///x")], None) is False


# This machine.


def test_kvm_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = tmp_path / "kvm"
    missing = doctor.check_kvm_device(str(device))
    assert missing.status == "warn"
    assert "does not exist" in missing.explanation
    device.touch()
    assert doctor.check_kvm_device(str(device)).status == "ok"

    def deny(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    denied = doctor.check_kvm_device(str(device))
    assert denied.status == "warn"
    assert "adduser" in denied.advice

    def no_answer(path: str, flags: int) -> int:
        raise OSError(19, "No such device")

    monkeypatch.setattr(os, "open", no_answer)
    assert "No such device" in doctor.check_kvm_device(str(device)).explanation


@pytest.mark.parametrize(
    ("flags", "machine", "status"),
    [
        ("fpu vmx sse", "x86_64", "ok"),
        ("fpu svm", "x86_64", "ok"),
        ("fpu sse", "x86_64", "warn"),
        ("", "aarch64", "skip"),
    ],
)
def test_processor(tmp_path: Path, flags: str, machine: str, status: str) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nflags\t\t: {flags}\nbugs : svm_like\n")
    assert doctor.check_cpu(str(info), machine).status == status


def test_the_trap_of_nested_virtualization_is_named(tmp_path: Path) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text("flags : fpu\n")
    device = tmp_path / "kvm"
    assert "of no use" not in doctor.check_cpu(str(info), "x86_64", str(device)).explanation
    device.touch()
    assert "of no use" in doctor.check_cpu(str(info), "x86_64", str(device)).explanation
    assert doctor.check_cpu(str(tmp_path / "nothing"), "x86_64").status == "skip"


def test_qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "ubuntu", "ID_LIKE": "debian"})
    check = doctor.check_qemu("amd64")
    assert check.status == "fail"
    assert check.advice.startswith("sudo apt install ")
    monkeypatch.setattr("platform.freedesktop_os_release", lambda: {"ID": "fedora"})
    assert doctor.check_qemu("x86_64").advice == "sudo dnf install qemu-kvm qemu-img"
    for program in ("qemu-img", "qemu-system-x86_64"):
        (tmp_path / program).touch(0o755)
    assert doctor.check_qemu("amd64").status == "ok"


def test_both_package_managers_where_the_system_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown() -> dict[str, str]:
        raise OSError

    monkeypatch.setattr("platform.freedesktop_os_release", unknown)
    assert doctor._install("a", "b") == "sudo apt install a\nsudo dnf install b"


# The daemon.

SYSTEM = URI.parse("qemu:///system")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A folder for sockets, whose paths must be short, with libvirtd installed."""
    import shutil
    import tempfile

    monkeypatch.setattr("shutil.which", lambda program, path=None: f"/usr/sbin/{program}")
    path = tempfile.mkdtemp(dir="/tmp" if os.path.isdir("/tmp") else None)  # noqa: S108
    yield path
    shutil.rmtree(path)


def test_daemon_listens(folder: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/libvirt-sock")
        server.listen()
        assert doctor.check_daemon(SYSTEM, folder).status == "ok"


def test_daemon_left_a_stale_socket(folder: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/virtqemud-sock")
    check = doctor.check_daemon(SYSTEM, folder)
    assert check.status == "fail"
    assert "left over" in check.explanation
    assert "virtqemud" in check.advice


def test_daemon_is_not_for_this_user(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_socket_problem", lambda path: "denied")
    assert "adduser" in doctor.check_daemon(SYSTEM, folder).advice


def test_daemon_does_not_run(folder: str) -> None:
    check = doctor.check_daemon(SYSTEM, folder)
    assert (check.status, "does not run" in check.explanation) == ("fail", True)


def test_daemon_of_a_session_is_started_when_needed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert doctor.check_daemon(URI.parse("qemu:///session"), folder).status == "ok"


def test_daemon_is_not_installed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program, path=None: None)
    assert "install" in doctor.check_daemon(URI.parse("xen:///system"), folder).advice


# Images.


def test_image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = tmp_path / "web.qcow2"
    assert "No such file" in doctor.check_image(str(image)).explanation
    assert doctor.check_image(str(tmp_path)).status == "fail"
    image.touch()
    assert doctor.check_image(str(image)).status == "ok"
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "setfacl" in doctor.check_image(str(image)).advice


def test_image_behind_a_closed_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("virtuoso_core.libvirt_base.images")
    closed = tmp_path / "closed"
    closed.mkdir()
    image = closed / "web.qcow2"
    image.touch()
    stranger = ("libvirt-qemu", "x", 64055, 64055, "", "/", "/bin/false")
    monkeypatch.setattr(doctor, "_account", lambda user: pwd.struct_passwd(stranger))
    monkeypatch.setattr(os, "getgrouplist", lambda name, gid: [gid])
    closed.chmod(0o700)
    check = doctor.check_image(str(image), ("libvirt-qemu",))
    assert check.status == "fail"
    assert check.advice.startswith("sudo setfacl -m u:libvirt-qemu:x ")
    monkeypatch.setattr("virtuoso_core.libvirt_base.images.unreachable_parent", lambda *_: None)
    assert doctor.check_image(str(image), ("libvirt-qemu",)).status == "ok"


def test_the_image_is_part_of_the_examination(tmp_path: Path) -> None:
    image = tmp_path / "web.raw"
    image.touch()
    result = CliRunner().invoke(cli, ["-c", "memory:///doctor", "doctor", "--image", str(image)])
    assert f"Image {image}" in result.stdout
