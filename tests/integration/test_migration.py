"""Running VMs move between two hosts, and their guests' clocks go on ticking."""

from __future__ import annotations

import json
import re
import secrets
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import qemu_img, until
from tests.labs.hosts import HOST_SCRIPT, PrivateHost, TwoHosts, guest_image
from virtuoso_core import VM, State, connect
from virtuoso_core.errors import (
    ImageExistsError,
    InvalidStateError,
    NetworkNotFoundError,
    UnsupportedError,
    VMExistsError,
    VMNotFoundError,
)
from virtuoso_core.testing.base import SuiteBase
from virtuoso_core.testing.running import RunningGroup
from virtuoso_core.xml import DomainDocument
from virtuoso_kvm.driver import KvmHypervisor

MOVE = Path(__file__).with_name("scripts") / "move.py"
PRIVATE = "/var/lib/libvirt/images"
"""A folder of the same name on both hosts, each with its own files in it."""


@pytest.fixture(autouse=True)
def tidy(two: TwoHosts) -> Iterator[None]:
    """Both hosts are left without VMs and files."""
    yield
    for host in (two.alpha, two.beta):
        with connect(host.uri) as hypervisor:
            for vm in hypervisor.vms():
                for name in vm.native.snapshotListNames():
                    vm.native.snapshotLookupByName(name).delete()
                vm.destroy(force=True)
        for image in host.images.iterdir():
            image.unlink()
        host.run(["sh", "-c", f"rm -f {PRIVATE}/*"])


class Ticks:
    """What a guest's clock printed, on one host after the other."""

    def __init__(self, two: TwoHosts, name: str) -> None:
        self.path_on_host = f"/var/log/libvirt/qemu/{name}-ticks.log"
        self._two, self._file = two, f"{name}-ticks.log"

    def on(self, host: PrivateHost) -> str:
        """The text of one host's console."""
        log = host.logs / "qemu" / self._file
        return log.read_text(errors="replace") if log.exists() else ""

    def wait_for_more(self, host: PrivateHost, number: int = 3) -> None:
        """Until it has ticked that often on the host."""
        until(lambda: len(self.numbers(self.on(host))) >= number, "ticks", 90, lambda: self.on(host)[-500:])

    @staticmethod
    def numbers(text: str) -> list[int]:
        """The clock's numbers."""
        return [int(number) for number in re.findall(r"GUEST-TICK (\d+)", text)]

    def assert_no_gap(self, *hosts: PrivateHost) -> None:
        """One second after the other, across the hosts; a line may be cut in two by a move."""
        numbers = self.numbers("".join(self.on(host) for host in hosts))[:-1]
        assert numbers == list(range(1, len(numbers) + 1)), numbers


NewGuest = Callable[..., tuple[VM, Ticks]]


@pytest.fixture
def guest(two: TwoHosts) -> Iterator[NewGuest]:
    """Makes VMs on alpha whose guests print a number each second, and waits until one does."""
    with connect(two.alpha.uri) as alpha:

        def make(folder: str | None = None, change: Callable[[DomainDocument], None] = lambda document: None) -> Any:
            name = f"mover-{secrets.token_hex(3)}"
            disk = f"{folder or two.alpha.images}/{name}.qcow2"
            create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(guest_image()), disk]
            assert two.alpha.run(create).returncode == 0
            ticks = Ticks(two, name)
            vm = alpha.new_vm()
            vm.name, vm.memory, vm.cpus = name, "192 MiB", 1
            vm.set("serial_log", ticks.path_on_host)
            document = DomainDocument(vm.spec)
            image = document.add_disk(alpha.template().disks[0].element)  # type: ignore[attr-defined]
            image.set_path(disk, block=False)
            image.format = "qcow2"
            document.kernel = str(guest_image().with_name("vmlinuz"))
            document.initrd = str(guest_image().with_name("initrd.img"))
            document.cmdline = "console=ttyS0 guest.tick"
            change(document)
            alpha.connection.native.defineXML(document.text)  # type: ignore[attr-defined]
            vm = alpha.get(name)
            vm.native.create()
            ticks.wait_for_more(two.alpha)
            return vm, ticks

        yield make


def moved_by_script(host: PrivateHost, *words: str) -> dict[str, Any]:
    """What move.py on the host saw."""
    done = host.run([sys.executable, str(MOVE), *words], timeout=120)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def names(host: PrivateHost) -> list[str]:
    """The VMs that are defined or run there."""
    with connect(host.uri) as hypervisor:
        return [vm.name for vm in hypervisor.vms()]


def test_there_and_back(two: TwoHosts, guest: NewGuest) -> None:
    """On storage that both see: the guest goes on, the definition and the autostart move with it."""
    vm, ticks = guest()
    vm.autostart = True
    told: list[tuple[int, int]] = []
    moved = vm.migrate(two.beta.uri, progress=lambda done, total: told.append((done, total)))
    with moved.hypervisor:
        assert (moved.state, moved.name, moved.uuid) == (State.RUNNING, vm.name, vm.uuid)
        assert moved.autostart
        assert moved.memory == 192 * 1024
        assert names(two.alpha) == []
        with pytest.raises(VMNotFoundError, match="was moved to"):
            assert vm.state
        assert all(0 <= done <= total for done, total in told)
        assert [done for done, _ in told] == sorted(done for done, _ in told)
        ticks.wait_for_more(two.beta)
        ticks.assert_no_gap(two.alpha, two.beta)
        assert Path(moved.disk_image or "").exists()
        back = moved.migrate(two.alpha.uri)
        with back.hypervisor:
            assert back.state is State.RUNNING
            assert names(two.beta) == []
    assert list(two.alpha.images.glob(".virtuoso-*")) == []


@pytest.mark.parametrize("way", ["tcp", "ssh"])
def test_over_the_network(two: TwoHosts, guest: NewGuest, way: str) -> None:
    """The target is reached by the name in its URI."""
    vm, ticks = guest()
    uri = two.tcp_uri if way == "tcp" else two.ssh_uri
    seen = moved_by_script(two.alpha, "qemu:///system", uri, vm.name)
    assert seen == {"state": "running", "uri": uri, "left": []}
    ticks.wait_for_more(two.beta)
    ticks.assert_no_gap(two.alpha, two.beta)


def test_with_its_disk(two: TwoHosts, guest: NewGuest) -> None:
    """Nothing shared: the disk is made there and filled while the guest writes to it; a seed goes along."""
    seed = f"{PRIVATE}/seed.iso"
    two.alpha.run(["sh", "-c", f"head -c 65536 /dev/urandom > {seed}; chmod 644 {seed}"])

    def with_seed(document: DomainDocument) -> None:
        drive = document.add_device("disk", type="file", device="cdrom")
        for tag, attributes in (
            ("driver", {"name": "qemu", "type": "raw"}),
            ("source", {"file": seed}),
            ("target", {"dev": "sda", "bus": "sata"}),
            ("readonly", {}),
        ):
            document.add(drive, tag, **attributes)

    vm, ticks = guest(PRIVATE, with_seed)
    refused = moved_by_script(two.alpha, "qemu:///system", two.tcp_uri, vm.name)
    assert refused["error"] == "InvalidStateError"
    assert f"there is no {PRIVATE}/{vm.name}.qcow2" in refused["message"]
    assert "copy_disks=True" in refused["message"]
    assert refused["left"] == [vm.name]

    seen = moved_by_script(two.alpha, "qemu:///system", two.tcp_uri, vm.name, "copy_disks")
    assert seen == {"state": "running", "uri": two.tcp_uri, "left": []}
    ticks.wait_for_more(two.beta)
    ticks.assert_no_gap(two.alpha, two.beta)
    sums = [host.run(["sha256sum", seed]).stdout for host in (two.alpha, two.beta)]
    assert sums[0] == sums[1] != ""
    with connect(two.beta.uri) as beta:
        beta.get(vm.name).stop(timeout=0)
    info = json.loads(two.beta.run(["qemu-img", "info", "--output=json", f"{PRIVATE}/{vm.name}.qcow2"]).stdout)
    assert (info["format"], info.get("backing-filename")) == ("qcow2", None)
    same = two.beta.run(["qemu-img", "compare", "-f", "qcow2", f"{PRIVATE}/{vm.name}.qcow2", str(guest_image())])
    assert same.returncode == 0, same.stdout


def test_another_disk_of_the_same_name(two: TwoHosts, guest: NewGuest) -> None:
    """A file there that is another one is noticed: the guest would go on with the wrong disk."""
    vm, ticks = guest(PRIVATE)
    two.beta.run(["qemu-img", "create", "-q", "-f", "qcow2", f"{PRIVATE}/{vm.name}.qcow2", "64M"])
    refused = moved_by_script(two.alpha, "qemu:///system", two.tcp_uri, vm.name)
    assert refused["error"] == "InvalidStateError"
    assert "another folder of the same name" in refused["message"]
    refused = moved_by_script(two.alpha, "qemu:///system", two.tcp_uri, vm.name, "copy_disks")
    assert refused["error"] == ImageExistsError.__name__
    assert refused["left"] == [vm.name]
    ticks.assert_no_gap(two.alpha)


def test_what_stands_in_the_way(two: TwoHosts, guest: NewGuest) -> None:
    """Each is said in words, and the VM runs on."""
    vm, _ = guest()
    with pytest.raises(InvalidStateError, match="is the host it is on"):
        vm.migrate(two.alpha.uri)
    with pytest.raises(UnsupportedError, match="stays on its kind"):
        vm.migrate("test:///default")
    vm.memory = "256 MiB"
    with pytest.raises(InvalidStateError, match="not saved"):
        vm.migrate(two.beta.uri)
    vm.reload()
    with connect(two.beta.uri) as beta:
        other = beta.new_vm()
        other.name = vm.name
        other.save()
        with pytest.raises(VMExistsError, match=re.escape(vm.name)):
            vm.migrate(two.beta.uri)
        other.destroy()
    vm.native.snapshotCreateXML("<domainsnapshot><name>one</name></domainsnapshot>")
    with pytest.raises(InvalidStateError, match="1 snapshot"):
        vm.migrate(two.beta.uri)
    vm.native.snapshotLookupByName("one").delete()
    vm.pause()
    with pytest.raises(InvalidStateError, match="paused"):
        vm.migrate(two.beta.uri)
    vm.resume()
    assert names(two.beta) == []
    assert vm.state is State.RUNNING


def test_network_missing_there(two: TwoHosts, guest: NewGuest) -> None:
    """The error names it."""
    network = "<network><name>here-only</name></network>"
    native = connect(two.alpha.uri).connection.native  # type: ignore[attr-defined]
    made = native.networkCreateXML(network)
    try:

        def with_card(document: DomainDocument) -> None:
            card = document.add_device("interface", type="network")
            document.add(card, "source", network="here-only")

        vm, _ = guest(change=with_card)
        with pytest.raises(NetworkNotFoundError, match="here-only"):
            vm.migrate(two.beta.uri)
        assert vm.state is State.RUNNING
        vm.destroy(force=True)
    finally:
        made.destroy()
        native.close()


def test_interrupted(two: TwoHosts, guest: NewGuest) -> None:
    """Ctrl-C leaves it running where it was, and nothing there."""
    vm, ticks = guest()
    vm.native.migrateSetMaxSpeed(1)

    def interrupt(done: int, total: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        vm.migrate(two.beta.uri, progress=interrupt)
    assert vm.state is State.RUNNING
    assert names(two.beta) == []
    before = len(ticks.numbers(ticks.on(two.alpha)))
    ticks.wait_for_more(two.alpha, before + 2)
    ticks.assert_no_gap(two.alpha)


def test_killed(two: TwoHosts, guest: NewGuest) -> None:
    """kill -9 while the disk is on its way: the VM runs on, and what was made there is known and can be cleaned."""
    vm, ticks = guest(PRIVATE)
    command = [HOST_SCRIPT, "exec", "alpha", sys.executable, MOVE, "qemu:///system", two.tcp_uri, vm.name]
    with subprocess.Popen([*map(str, command), "copy_disks", "slow"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        number = process.stdout.readline().strip()
        assert number.isdecimal(), number
        two.alpha.run(["kill", "-9", number])
        process.wait(30)
    until(lambda: names(two.beta) == [], "end of the move", 60)
    ticks.wait_for_more(two.alpha, len(ticks.numbers(ticks.on(two.alpha))) + 2)
    ticks.assert_no_gap(two.alpha)
    clean = (
        "from virtuoso_core import connect\nfrom virtuoso_core.unfinished import unfinished\n"
        "(left,) = unfinished()\nprint(left.doing, left.left)\n"
        "with connect(left.uri) as there: left.clean(there)\n"
        "assert unfinished() == []\n"
    )
    said = two.alpha.run([sys.executable, "-c", clean], timeout=60)
    assert said.returncode == 0, said.stderr
    assert f"{PRIVATE}/{vm.name}.qcow2" in said.stdout
    assert two.beta.run(["ls", PRIVATE]).stdout == ""
    assert two.alpha.run(["ls", PRIVATE]).stdout == f"{vm.name}.qcow2\n"


class TestConformance(SuiteBase):
    """The suite's own test of it, on both."""

    hypervisor = KvmHypervisor
    test_migrate = RunningGroup.test_migrate

    @pytest.fixture
    def real_uri(self, two: TwoHosts) -> str:
        return two.alpha.uri

    @pytest.fixture
    def migration_target(self, two: TwoHosts) -> str:
        return two.beta.uri

    @pytest.fixture
    def disk_image(self, two: TwoHosts) -> str:
        path = two.alpha.images / "suite.qcow2"
        qemu_img("create", "-f", "qcow2", path, "64M")
        path.chmod(0o666)
        return str(path)
