"""qemu:///session as an ordinary user, qemu:///embed with no daemon, and a second host by TCP and SSH."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import qemu_img
from tests.labs.hosts import PrivateHost, TwoHosts, guest_image

LIFE = Path(__file__).with_name("scripts") / "life.py"
PNG = "89504e470d0a1a0a"


def live(host: PrivateHost, *words: object, user: bool = False) -> dict[str, Any]:
    """Run life.py on the host and return what it saw."""
    done = host.run([sys.executable, str(LIFE), *map(str, words)], user=user, timeout=180)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def check(seen: dict[str, Any], source: str | None) -> None:
    """What every life has in common."""
    assert seen["saved"] == "applied"
    assert seen["changed"] == "next-start"
    assert (seen["stopped"], seen["memory"], seen["left"]) == (True, 320 * 1024, [])
    assert seen["picture"] == PNG
    assert [each[1] for each in seen["addresses"][:1]] == ([source] if source else [])


@pytest.fixture
def overlay(host: PrivateHost) -> Iterator[Path]:
    """A guest's disk that anybody may write."""
    path = host.images / "other.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", guest_image(), path)
    path.chmod(0o666)
    yield path
    path.unlink(missing_ok=True)


def test_session(host: PrivateHost, overlay: Path) -> None:
    """As an ordinary user; libvirt starts a daemon of that user's. The address comes from the guest agent."""
    seen = live(host, "qemu:///session", overlay, "/var/lib/libvirt/labuser", user=True)
    check(seen, "agent")
    assert seen["networks"] == ["bridged", "nat"]


def test_embedded_as_root(host: PrivateHost, overlay: Path) -> None:
    """QEMU's driver inside the process: no daemon at all."""
    root = host.directory / "embedded"
    (root / "etc").mkdir(parents=True)
    (root / "etc" / "qemu.conf").write_text('stdio_handler = "file"\nuser = "root"\ngroup = "root"\n')
    check(live(host, f"qemu:///embed?root={root}", overlay, ""), "agent")


def test_embedded_as_a_user(host: PrivateHost, overlay: Path) -> None:
    """The same for an ordinary user."""
    root = "/var/lib/libvirt/labuser/embedded"
    host.run(["mkdir", "-p", f"{root}/etc"], user=True)
    host.run(["tee", f"{root}/etc/qemu.conf"], user=True, input='stdio_handler = "file"\n')
    check(live(host, f"qemu:///embed?root={root}", overlay, "", user=True), "agent")


@pytest.mark.parametrize("way", ["tcp", "ssh"])
def test_remote(two: TwoHosts, way: str) -> None:
    """On another machine; its disk is in a storage pool there, which tells its format."""
    uri = two.tcp_uri if way == "tcp" else two.ssh_uri
    disk = two.beta.images / "remote.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", guest_image(), disk)
    disk.chmod(0o666)
    two.beta.start_default_network(quick=True) if way == "tcp" else None
    # a path that this side does not have: nothing may be looked for here
    pool = ["virsh", "-q", "-c", "qemu:///system"]
    two.beta.run([*pool, "pool-define-as", "images", "dir", "--target", str(two.beta.images)])
    two.beta.run([*pool, "pool-start", "images"])
    two.beta.run([*pool, "pool-refresh", "images"])
    seen = live(two.alpha, uri, disk, "")
    check(seen, "lease")
    assert seen["options"]["disk_format"] == "qcow2"


def test_remote_without_a_pool(two: TwoHosts) -> None:
    """An image that is not there is found out all the same; a disk that only its host knows needs its format said."""
    script = (
        "import sys; from virtuoso_core import connect\n"
        "vm = connect(sys.argv[1]).new_vm(); vm.name = 'x'; vm.disk_image = sys.argv[2]\n"
        "try: vm.save()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    done = two.alpha.run([sys.executable, "-c", script, two.tcp_uri, "/nowhere/x.img"], timeout=60)
    assert done.stdout.startswith("ImageNotFoundError There is no disk image /nowhere/x.img"), done
    done = two.alpha.run([sys.executable, "-c", script, two.tcp_uri, "/dev/nothing"], timeout=60)
    assert done.stdout.startswith("ImageFormatError"), done
    assert 'vm.set("disk_format", "qcow2")' in done.stdout


def on_alpha(two: TwoHosts, script: str, interfere: Callable[[], None]) -> list[str]:
    """The lines that a script prints on alpha; it reads a line of its input, and before that ends something happens."""
    timer = threading.Timer(3, interfere)
    timer.start()
    command = f"sleep 5 | '{sys.executable}' -c \"$0\" '{two.tcp_uri}'"
    done = two.alpha.run(["sh", "-c", command, script], timeout=90)
    timer.join()
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


def test_remote_daemon_dies(two: TwoHosts) -> None:
    """A connection over the network that is lost says so."""
    script = (
        "import sys; from virtuoso_core import connect\n"
        "hypervisor = connect(sys.argv[1]); sys.stdin.readline()\n"
        "for call in (hypervisor.vms, hypervisor.vms, lambda: connect(sys.argv[1])):\n"
        "    try: call()\n"
        "    except Exception as error: print(type(error).__name__, error)\n"
    )
    lines = on_alpha(two, script, two.beta.kill_libvirtd)
    two.beta.start_libvirtd()
    assert [line.split()[0] for line in lines] == ["ConnectionLostError", "ConnectionLostError", "ConnectError"]
    assert all("qemu+tcp://beta/system" in line for line in lines)


def test_remote_daemon_hangs(two: TwoHosts) -> None:
    """A daemon that no longer answers ends the connection by keepalive, here after 2 seconds and not 30."""
    script = (
        "import sys; from virtuoso_core import connect\n"
        "from virtuoso_core.libvirt_base import connection; connection._KEEPALIVE = (1, 2)\n"
        "hypervisor = connect(sys.argv[1]); sys.stdin.readline()\n"
        "try: hypervisor.vms()\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )
    lines = on_alpha(two, script, two.beta.freeze_libvirtd)
    two.beta.thaw_libvirtd()
    assert [line.split()[0] for line in lines] == ["ConnectionLostError"]
