"""The checks that drivers on libvirt share, and KVM's own, each against a machine made for it."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("lxml")
pytest.importorskip("libvirt")
pytest.importorskip("virtuoso_kvm")

import virtuoso_kvm.diagnosis as kvm
from virtuoso_core import URI, ConnectError, connect, images
from virtuoso_core import diagnosis as words
from virtuoso_core.libvirt_base import LibvirtHypervisor, diagnosis
from virtuoso_core.testdriver.driver import TestHypervisor
from virtuoso_kvm.driver import KvmHypervisor

SYSTEM, SESSION = URI.parse("qemu:///system"), URI.parse("qemu:///session")
EMBEDDED = URI.parse("qemu:///embed?root=/nowhere")
PACKAGES = ("debs", "rpms")


@pytest.fixture
def debian(monkeypatch: pytest.MonkeyPatch) -> None:
    """This machine is a Debian."""
    for module in (words, kvm):
        monkeypatch.setattr(module, "system", lambda: "debian")


# Words.


@pytest.mark.parametrize(
    ("there", "lines"),
    [
        ("/etc/debian_version", "sudo apt-get install a"),
        ("/etc/redhat-release", "sudo dnf install b"),
        ("", "sudo apt-get install a\nsudo dnf install b"),
    ],
)
def test_what_to_install(there: str, lines: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os.path, "exists", lambda path: path == there)
    assert words.install("a", "b") == lines


def test_a_user_without_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("no such uid")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert str(os.getuid()) in words.join_group("kvm")


# The binding.


def test_binding(monkeypatch: pytest.MonkeyPatch) -> None:
    assert diagnosis.check_binding().status == "ok"
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    check = diagnosis.check_binding()
    assert check.status == "fail"
    assert check.advice.splitlines()[1] == "pip install 'virtuoso-core[libvirt]'"


# The daemon.


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder for sockets, whose paths must be short, with every daemon installed."""
    monkeypatch.setattr("shutil.which", lambda program, path=None: f"/usr/sbin/{program}")
    path = tempfile.mkdtemp(dir="/tmp" if os.path.isdir("/tmp") else None)  # noqa: S108
    yield path
    shutil.rmtree(path)


def daemon(uri: URI, folder: str, name: str = "virtqemud") -> words.Check:
    return diagnosis.check_daemon(uri, name, PACKAGES, folder)


def test_daemon_listens(folder: str) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/libvirt-sock")
        server.listen()
        assert daemon(SYSTEM, folder).status == "ok"
        assert daemon(SYSTEM, folder, "libvirtd").status == "ok"
        elsewhere = replace(SYSTEM, query={"socket": f"{folder}/libvirt-sock"})
        assert daemon(elsewhere, "/nowhere").status == "ok"


def test_daemon_left_a_stale_socket(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(f"{folder}/virtqemud-sock")
    check = daemon(SYSTEM, folder)
    assert check.status == "fail"
    assert "left over" in check.explanation
    assert "virtqemud" in check.advice
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert daemon(SESSION, folder).status == "ok"  # the next connection starts one


def test_daemon_is_not_for_this_user(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(diagnosis, "_socket_problem", lambda path: "denied")
    assert "usermod -aG libvirt" in daemon(SYSTEM, folder).advice
    assert "qemu:///session" in daemon(SYSTEM, folder).advice


def test_daemon_does_not_run(folder: str) -> None:
    check = daemon(SYSTEM, folder)
    assert (check.status, "does not run" in check.explanation) == ("fail", True)
    assert f"{folder}/virtqemud-sock nor {folder}/libvirt-sock" in check.explanation
    assert f"there is no {folder}/libvirt-sock" in daemon(SYSTEM, folder, "libvirtd").explanation


def test_daemon_of_a_session_is_started_when_needed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert daemon(SESSION, folder).status == "ok"


@pytest.mark.usefixtures("debian")
def test_daemon_is_not_installed(folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda program, path=None: None)
    check = daemon(SYSTEM, folder)
    assert (check.status, check.advice) == ("fail", "sudo apt-get install debs")
    assert "No libvirtd is installed" in daemon(SYSTEM, folder, "libvirtd").explanation


@pytest.mark.parametrize(
    ("driver", "uri", "asked"),
    [
        (KvmHypervisor, "qemu:///system", True),
        (KvmHypervisor, "qemu+ssh://host/system", False),
        (KvmHypervisor, "qemu:///embed?root=/nowhere", False),
        (TestHypervisor, "test:///default", False),
    ],
)
def test_which_uris_have_a_daemon(driver: type[LibvirtHypervisor], uri: str, asked: bool) -> None:
    names = [check.name for check in driver._diagnose(URI.parse(uri))]
    assert names[0] == "libvirt binding"
    assert (f"Daemon for {uri}" in names) is asked


def test_the_error_says_what_the_doctor_would(monkeypatch: pytest.MonkeyPatch) -> None:
    uri = "qemu:///system?socket=/nowhere/libvirt-sock"
    monkeypatch.setattr(pwd, "getpwnam", lambda name: None)
    [check] = [check for check in KvmHypervisor._diagnose_connection(URI.parse(uri)) if check.status == "fail"]
    with pytest.raises(ConnectError) as caught:
        connect(uri)
    assert check.explanation in caught.value.hint
    assert check.advice.splitlines()[0] in caught.value.hint


# This machine.


def device(path: Path, shared: bool = False) -> words.Check:
    return diagnosis.check_device("KVM", str(path), group="kvm", shared=shared, absent="modprobe", without="Slow.")


def test_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "kvm"
    missing = device(path)
    assert (missing.status, missing.advice) == ("warn", "modprobe")
    assert missing.explanation.endswith("does not exist. Slow.")
    path.touch()
    assert device(path).status == "ok"

    def deny(path: str, flags: int) -> int:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", deny)
    denied = device(path)
    assert denied.status == "warn"
    assert "usermod -aG kvm" in denied.advice

    def no_answer(path: str, flags: int) -> int:
        raise OSError(19, "No such device")

    monkeypatch.setattr(os, "open", no_answer)
    assert "No such device" in device(path).explanation


@pytest.mark.parametrize(
    ("mode", "status"), [(0o600, "warn"), (0o640, "warn"), (0o660, "ok"), (0o666, "ok"), (0o606, "ok")]
)
def test_a_device_for_guests_of_another_user(mode: int, status: str, tmp_path: Path) -> None:
    """root opens whatever it likes; the user who runs the guests does not."""
    path = tmp_path / "kvm"
    path.touch()
    path.chmod(mode)
    assert device(path, shared=True).status == status
    assert device(path, shared=False).status == "ok"


@pytest.mark.parametrize(
    ("flags", "machine", "status"),
    [
        ("fpu vmx sse", "x86_64", "ok"),
        ("fpu svm", "AMD64", "ok"),
        ("fpu sse", "x86_64", "warn"),
        ("", "aarch64", "skip"),
    ],
)
def test_processor(tmp_path: Path, flags: str, machine: str, status: str) -> None:
    info = tmp_path / "cpuinfo"
    info.write_text(f"processor : 0\nflags\t\t: {flags}\nbugs : svm_like\n")
    assert diagnosis.check_processor("/dev/kvm", "Slow.", path=str(info), machine=machine).status == status


def test_the_trap_of_nested_virtualization_is_named(tmp_path: Path) -> None:
    info, path = tmp_path / "cpuinfo", tmp_path / "kvm"
    info.write_text("flags : fpu\n")

    def explanation() -> str:
        return diagnosis.check_processor(str(path), "Slow.", path=str(info), machine="x86_64").explanation

    assert "of no use" not in explanation()
    path.touch()
    assert "of no use. Slow." in explanation()
    nothing = diagnosis.check_processor("", "", path=str(tmp_path / "nothing"), machine="x86_64")
    assert nothing.status == "skip"


def test_emulator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(words, "system", lambda: "debian")
    check = kvm.check_emulator("s390x")
    assert (check.status, check.advice) == ("fail", "sudo apt-get install qemu-system qemu-utils")
    monkeypatch.setattr(words, "system", lambda: "fedora")
    assert kvm.check_emulator("amd64").advice == "sudo dnf install qemu-kvm qemu-img"
    for program in ("qemu-img", "qemu-system-x86_64"):
        (tmp_path / program).touch(0o755)
    assert kvm.check_emulator("amd64").status == "ok"


def test_nothing_here_matters_for_a_remote_host() -> None:
    remote = URI.parse("qemu+ssh://host/system")
    assert [check.name for check in KvmHypervisor._diagnose(remote)] == ["libvirt binding"]


def test_the_device_is_of_no_interest_where_the_processor_lacks_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for status, more in (("warn", False), ("ok", True), ("skip", True)):
        monkeypatch.setattr(kvm, "check_processor", lambda *_, s=status: words.Check("Processor", s, ""))
        assert ("KVM" in [check.name for check in kvm.check_machine(SYSTEM)]) is more


# The user who runs the guests.


@pytest.fixture
def no_user(monkeypatch: pytest.MonkeyPatch, debian: None) -> None:
    """A Debian without libvirt-daemon-system, as root."""

    def missing(name: str) -> pwd.struct_passwd:
        raise KeyError(name)

    monkeypatch.setattr(pwd, "getpwnam", missing)
    monkeypatch.setattr(os, "geteuid", lambda: 0)


def account(uri: URI) -> list[words.Check]:
    return list(kvm.check_account(uri, ("libvirt-daemon-system", "libvirt-daemon-kvm")))


@pytest.mark.usefixtures("no_user")
def test_the_user_who_runs_the_guests_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    [check] = account(EMBEDDED)
    assert (check.status, check.advice) == ("fail", "sudo apt-get install libvirt-daemon-system")
    assert "libvirt-qemu" in check.explanation
    assert not account(URI.parse("qemu+ssh://host/system"))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert not account(EMBEDDED)  # guests are one's own then
    monkeypatch.setattr(kvm, "system", lambda: "")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert not account(EMBEDDED)  # who knows what libvirt was built for


@pytest.mark.usefixtures("no_user")
@pytest.mark.parametrize(
    ("text", "missing"),
    [
        ('user = "somebody"\n', "somebody"),
        ('#user = "somebody"\n', "libvirt-qemu"),
        ('user = "+0"\n', None),
        ('  user="64055"\n', None),
    ],
)
def test_the_user_who_is_configured(text: str, missing: str | None, tmp_path: Path) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc" / "qemu.conf").write_text(text)
    found = account(replace(EMBEDDED, query={"root": str(tmp_path)}))
    assert [missing in check.explanation for check in found if missing] == ([True] if missing else [])
    assert bool(found) is bool(missing)


@pytest.mark.usefixtures("no_user")
def test_a_configuration_that_cannot_be_read_says_nothing(tmp_path: Path) -> None:
    (tmp_path / "etc" / "qemu.conf").mkdir(parents=True)
    assert not account(replace(EMBEDDED, query={"root": str(tmp_path)}))


# With an open connection: libvirt's mock, which takes a network as a host does.


@pytest.fixture
def hypervisor(tmp_path: Path) -> Iterator[TestHypervisor]:
    """A private mock with no network."""
    path = tmp_path / "host.xml"
    path.write_text("<node><cpu><mhz>1</mhz><model>x</model><active>1</active></cpu><memory>100000</memory></node>")
    with TestHypervisor.open(URI.parse(f"test://{path}")) as hypervisor:
        yield hypervisor


def test_networks(hypervisor: TestHypervisor) -> None:
    [absent] = hypervisor._examine()
    assert (absent.name, absent.status) == ("Network default", "warn")
    assert absent.advice == f"virtuoso -c {hypervisor.uri} start NAME --start-networks"
    text = "<network><name>default</name><forward mode='nat'/><ip address='10.9.8.1'/></network>"
    network = hypervisor.connection.native.networkDefineXML(text)
    [stopped] = hypervisor._examine()
    assert stopped.status == "warn"
    assert stopped.advice.startswith(f"virsh -c {hypervisor.uri} net-start default\n")
    network.create()
    assert [check.status for check in hypervisor._examine()] == ["ok"]


def test_networks_that_cannot_be_looked_at(hypervisor: TestHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> bool:
        raise diagnosis.UnsupportedError("This host has no networks.")

    monkeypatch.setattr(hypervisor.host_networks, "is_active", refuse)
    assert [check.status for check in hypervisor._examine()] == ["skip"]


@pytest.fixture
def opener(hypervisor: TestHypervisor, monkeypatch: pytest.MonkeyPatch) -> TestHypervisor:
    """The mock as one that opens images, as a user who is nobody."""
    monkeypatch.setattr(TestHypervisor, "probes_images", True)
    monkeypatch.setattr(hypervisor, "image_user", lambda: images.HostUser("stranger", 64055, frozenset({64055})))
    return hypervisor


def image(hypervisor: LibvirtHypervisor, path: Path | str) -> words.Check:
    [check] = hypervisor._examine_image(str(path))
    return check


def test_a_hypervisor_that_opens_no_images(hypervisor: TestHypervisor) -> None:
    assert image(hypervisor, "/nowhere").status == "skip"


def test_an_image_elsewhere(opener: TestHypervisor) -> None:
    opener._uri = URI.parse("test+ssh://host/default")
    assert "on its host" in image(opener, "/nowhere").explanation


def test_no_image(opener: TestHypervisor, tmp_path: Path) -> None:
    assert (image(opener, tmp_path / "x.qcow2").status, image(opener, tmp_path).status) == ("fail", "fail")


def test_an_image_behind_a_closed_directory(opener: TestHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp" if os.path.isdir("/tmp") else None) as folder:  # noqa: S108
        path = Path(folder) / "web.raw"
        path.write_bytes(bytes(1024))
        closed = image(opener, path)
        assert closed.status == "fail"
        assert closed.advice == f"sudo setfacl -m u:stranger:x {folder}"
        Path(folder).chmod(0o711)
        monkeypatch.setattr(opener, "image_format", lambda path: "raw")
        found = image(opener, path)
        assert (found.status, "its format is raw" in found.explanation) == ("ok", True)


def test_an_image_of_ones_own(opener: TestHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "web.qcow2"
    path.touch()
    monkeypatch.setattr(opener, "image_user", lambda: images.HostUser.of(os.geteuid(), os.getegid()))
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    assert "setfacl" in image(opener, path).advice


@pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
def test_the_format_of_an_image(opener: TestHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opener, "image_user", lambda: images.HostUser.of(os.geteuid(), os.getegid()))
    for format, status in (("qcow2", "ok"), ("parallels", "warn")):
        path = tmp_path / f"web.{format}"
        subprocess.run(["qemu-img", "create", "-q", "-f", format, path, "1M"], check=True)
        check = image(opener, path)
        assert (check.status, format in check.explanation) == (status, True)


def test_an_image_that_may_not_be_looked_at(opener: TestHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.stat

    def deny(path: Any, **more: Any) -> os.stat_result:
        if str(path) == "/secret/x":
            raise PermissionError(13, "Permission denied")
        return real(path, **more)

    monkeypatch.setattr(os, "stat", deny)
    check = image(opener, "/secret/x")
    assert (check.status, check.advice.startswith("sudo virtuoso -c ")) == ("skip", True)
