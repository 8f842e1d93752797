"""Disk images on this machine and on another one, by TCP and SSH: made, sent, grown, refused, and cleaned up after."""

from __future__ import annotations

import json
import os
import secrets
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import NewVM, until
from tests.labs.hosts import PrivateHost, TwoHosts, guest_image
from virtuoso_core import Hypervisor, State, connect
from virtuoso_core.errors import ImageError, ImageInUseError, InvalidStateError
from virtuoso_core.libvirt_base.volumes import VolumeStorage

ACTS = Path(__file__).with_name("scripts") / "images.py"
GiB = 1024**3


@pytest.fixture(autouse=True)
def _notes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def place(host: PrivateHost) -> Iterator[Path]:
    """An empty directory for images, which must be empty again afterwards."""
    path = host.images / f"place-{secrets.token_hex(4)}"
    path.mkdir()
    yield path
    assert os.listdir(path) == []
    path.rmdir()


def test_local_life(hypervisor: Hypervisor, new_vm: NewVM, place: Path) -> None:
    """An overlay boots, grows while it runs, and all its files go with the VM."""
    base, overlay, data = place / "base.qcow2", place / "web.qcow2", place / "data.raw"
    hypervisor.upload(guest_image(), base)
    hypervisor.create_disk(overlay, backing=base)
    hypervisor.create_disk(data, "64 MiB", format="raw")
    vm, golden = new_vm(disk_image=overlay), new_vm(disk_image=base)
    vm.save()
    golden.save()
    vm.start()
    with pytest.raises(ImageInUseError, match=f"the base of a disk of the running VM '{vm.name}'"):
        golden.start()
    with pytest.raises(ImageInUseError, match=f"'{vm.name}'|'{golden.name}' has it"):
        hypervisor.delete_disk(base)
    size = hypervisor.disk_info(overlay).size
    assert vm.resize_disk(overlay, "+1 GiB") == size + GiB
    assert vm.native.blockInfo(str(overlay))[0] == size + GiB
    with pytest.raises(InvalidStateError, match="cannot become smaller"):
        vm.resize_disk(overlay, size, shrink=True)
    vm.stop(timeout=0)
    assert vm.resize_disk(overlay, size, shrink=True) == size
    vm.start()
    assert vm.state is State.RUNNING
    vm.destroy(force=True, delete_disk=True)
    golden.destroy(delete_disk=True)
    hypervisor.delete_disk(data)


def test_the_storage_of_remote_hosts_on_this_one(host: PrivateHost, place: Path) -> None:
    """Every format, and what both kinds of storage must agree on; no pool is left."""
    with connect(host.uri) as hypervisor:
        by_files = hypervisor._storage()
        by_volumes = VolumeStorage(hypervisor)  # type: ignore[arg-type]
        for format in by_volumes.formats:
            path = str(place / f"a.{format}")
            by_volumes.create(path, 16 << 20, format, None)
            assert by_volumes.info(path) == by_files.info(path)
            by_volumes.delete(path)
            by_volumes.delete(path)
            assert not by_files.exists(path)
        assert hypervisor.connection.native.listAllStoragePools(0) == []  # type: ignore[attr-defined]


def test_a_pool_that_is_there_is_used_and_stays(host: PrivateHost, place: Path) -> None:
    """Also one that is not started: it is not started afterwards."""
    pool = ["virsh", "-q", "-c", "qemu:///system"]
    host.run([*pool, "pool-define-as", "mine", "dir", "--target", str(place)])
    with connect(host.uri) as hypervisor:
        native = hypervisor.connection.native  # type: ignore[attr-defined]
        store = VolumeStorage(hypervisor)  # type: ignore[arg-type]
        for start in (False, True):
            if start:
                host.run([*pool, "pool-start", "mine"])
            with store:
                store.create(str(place / "a.qcow2"), 16 << 20, "qcow2", None)
                assert [each.name() for each in native.listAllStoragePools(0)] == ["mine"]
                store.delete(str(place / "a.qcow2"))
            assert bool(native.storagePoolLookupByName("mine").isActive()) is start
    host.run([*pool, "pool-destroy", "mine"])
    host.run([*pool, "pool-undefine", "mine"])


def test_many_at_once_without_a_pool(host: PrivateHost, place: Path) -> None:
    """Several programs make and end the pool of one directory beside each other."""

    def work(number: int) -> None:
        with connect(host.uri) as hypervisor:
            store = VolumeStorage(hypervisor)  # type: ignore[arg-type]
            for _ in range(8):
                path = str(place / f"{number}.img")
                store.create(path, 1 << 20, "raw", None)
                assert store.info(path).size == 1 << 20
                store.delete(path)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    with connect(host.uri) as hypervisor:
        assert hypervisor.connection.native.listAllStoragePools(0) == []  # type: ignore[attr-defined]


def test_no_pool_is_made_of_devices(host: PrivateHost) -> None:
    with connect(host.uri) as hypervisor, pytest.raises(ImageError, match=r"/dev on .* is in no storage pool"):
        VolumeStorage(hypervisor).info("/dev/null")  # type: ignore[arg-type]


def acts(host: PrivateHost, *words: object, user: bool = False) -> dict[str, Any]:
    """Run images.py on the host and return what it saw."""
    env = {"XDG_STATE_HOME": "/run/notes", "BACK": "/run"}
    done = host.run([sys.executable, str(ACTS), *map(str, words)], timeout=240, env=env, user=user)
    assert done.returncode == 0, done.stderr
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return seen


def check_full(host: PrivateHost, uri: str, place: Path, on: PrivateHost) -> None:
    """What a file system of 4 MiB says on each way to fill it, and that nothing half made is left there."""
    small = place / "small"
    source = host.images / "six.img"
    source.write_bytes(os.urandom(6 << 20))
    on.run(["mkdir", small])
    assert on.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", small]).returncode == 0
    try:
        seen = acts(host, "full", uri, small, source)
        left = on.run(["ls", "-A", small]).stdout.split()
    finally:
        on.run(["umount", small])
        small.rmdir()
        for path in (source, Path(f"{source}.raw")):
            path.unlink(missing_ok=True)
    assert all(said.startswith("NoSpaceError") for said in seen.values()), seen
    assert all(str(small) in said for said in seen.values()), seen
    assert "4 MiB free, 6 MiB needed" in seen["known"]
    assert left == ["first.img", "second.img"]


def test_no_space_here(host: PrivateHost, place: Path) -> None:
    """A real file system that is full, inside the host."""
    check_full(host, "qemu:///system", place, host)


@pytest.fixture(scope="module")
def two(two: TwoHosts) -> TwoHosts:
    """With a network for guests on the far one."""
    two.beta.start_default_network(quick=True)
    return two


def uri_of(two: TwoHosts, way: str) -> str:
    return two.tcp_uri if way == "tcp" else two.ssh_uri


@pytest.mark.parametrize("way", ["tcp", "ssh"])
def test_remote_life(two: TwoHosts, way: str) -> None:
    """A plain path on another machine, which has no pool."""
    there = two.beta.images / f"plain-{way}"
    there.mkdir()
    guest = guest_image()
    seen = acts(two.alpha, "life", uri_of(two, way), there, guest)
    base = there / "base.qcow2"
    steps, (done, total) = seen["told"]
    assert done == total == guest.stat().st_size
    assert steps == -(-total // 1024**2)
    assert seen["overlay"] == ["qcow2", 3 * GiB, str(base)]
    assert seen["again"].startswith("ImageExistsError")
    assert seen["format"] == "qcow2"
    assert seen["used"].startswith("ImageInUseError")
    assert "'web'" in seen["used"]
    assert seen["golden"].startswith("ImageInUseError")
    assert seen["booted"] is True
    assert seen["grown"] == [4 * GiB, 4 * GiB]
    assert seen["shrunk"].startswith("InvalidStateError")
    assert seen["off"] == [5 * GiB, 4 * GiB]
    assert seen["copy"] == [None, True]
    assert seen["back"] is True
    assert seen["left"] == [False, False, False]
    assert seen["missing"].startswith("ImageNotFoundError")
    assert f"There is no directory {there}/none on {uri_of(two, way)}"[:60] in seen["nowhere"]
    assert os.listdir(there) == []
    assert two.beta.run(["virsh", "-q", "-c", "qemu:///system", "pool-list", "--all", "--name"]).stdout.strip() == ""


def test_no_space_there(two: TwoHosts) -> None:
    check_full(two.alpha, two.tcp_uri, two.beta.images, two.beta)


@pytest.mark.parametrize("way", ["tcp", "ssh"])
@pytest.mark.parametrize("signal", ["INT", "KILL"])
def test_interrupted_upload(two: TwoHosts, way: str, signal: str, tmp_path: Path) -> None:
    """Ctrl-C leaves nothing, though it ends ssh too; what was killed is told and cleaned by the doctor."""
    there = two.beta.images / f"interrupted-{way}-{signal}"
    there.mkdir()
    source = two.alpha.images / "eight.img"
    source.write_bytes(os.urandom(8 << 20))
    uri, env = uri_of(two, way), {"XDG_STATE_HOME": f"/run/notes-{way}-{signal}"}
    words = ["timeout", "-s", signal, "4", sys.executable, str(ACTS), "slow", uri, str(there), str(source)]
    done = two.alpha.run(words, env=env, timeout=60)
    assert done.stdout.split()[:1] == [str(1 << 20)], done.stderr
    doctor = [str(Path(sys.executable).with_name("virtuoso")), "--json", "doctor", "--clean"]
    if signal == "INT":
        assert "KeyboardInterrupt" in done.stderr
        until(lambda: os.listdir(there) == [], "empty directory", 5)
        assert "nothing to clean" in two.alpha.run(doctor, env=env).stdout
    else:
        assert os.listdir(there) == ["slow.img"]
        cleaned = two.alpha.run(doctor, env=env, timeout=90)
        (check,) = json.loads(cleaned.stdout)["checks"]
        assert check["status"] == "ok", check
        assert f"the file {there}/slow.img" in check["explanation"]
        assert os.listdir(there) == []
    assert two.beta.run(["virsh", "-q", "-c", "qemu:///system", "pool-list", "--all", "--name"]).stdout.strip() == ""
    source.unlink()
