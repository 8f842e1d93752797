"""vbox+ssh:// for real: an sshd in the lab, reached from the lab's own network."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from virtuoso_core import Hypervisor, connect
from virtuoso_core.errors import (
    ConnectError,
    ConnectionLostError,
    HypervisorError,
    ImageNotFoundError,
    InvalidURIError,
    InvalidValueError,
    UnsupportedError,
)

ODD_NAMES = ["with 'single' and \"double\"", "$HOME `id` \\ ; | & <x> *", "-dash", "漢字 🐧 é", "  spaces  "]


@pytest.fixture
def far(far_uri: str) -> Iterator[Hypervisor]:
    """An open connection; what a test leaves behind is removed."""
    with connect(far_uri) as opened:
        before = {vm.uuid for vm in opened.vms()}
        yield opened
        for vm in opened.vms():
            if vm.uuid not in before:
                vm.destroy(force=True)


def test_a_whole_life(far: Hypervisor, disk_image: str) -> None:
    """As on this machine."""
    assert far.version.endswith("by VBoxManage")
    vm = far.new_vm()
    vm.name, vm.memory, vm.disk_image = "far away", "700 MiB", disk_image
    vm.network("nat")
    vm.save()
    vm.memory += 1024
    vm.save()
    found = far.get("far away")
    assert (found.memory, found.disk_image, len(found.networks)) == (vm.memory, disk_image, 1)
    with pytest.raises(HypervisorError, match="kernel module is not loaded"):
        vm.start()
    vm.disk_image = f"{disk_image}.missing"
    with pytest.raises(ImageNotFoundError, match="missing"):
        vm.save()
    vm.destroy(delete_disk=True)
    assert not Path(disk_image).exists()


def test_ways_back(far: Hypervisor, disk_image: str, further_image: str, discs: tuple[str, str]) -> None:
    """As on this machine; what needs the host's files is refused."""
    vm = far.new_vm()
    vm.name, vm.disk_image, vm.cdrom = "far back", disk_image, discs[0]
    vm.add_disk(further_image)
    vm.save()
    vm.snapshot("first", 'it\'s "quoted" & <odd>')
    vm.cdrom = None
    vm.save()
    vm.revert("first")
    assert (vm.cdrom, vm.disks) == (discs[0], (disk_image, further_image))
    assert [(each.description, each.current) for each in vm.snapshots] == [('it\'s "quoted" & <odd>', True)]
    for refused in (vm.cloud_init, lambda: far.create_disk(f"{disk_image}.vdi", "1 MiB")):
        with pytest.raises(UnsupportedError):
            refused()
    vm.delete_snapshot("first")


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(far: Hypervisor, hypervisor: Hypervisor, name: str) -> None:
    """Two shells on the way change nothing, and both ways see the same."""
    vm = far.new_vm()
    vm.name = name
    vm.save()
    assert far.get(name).uuid == hypervisor.get(name).uuid == vm.uuid


def test_paths_are_the_far_hosts(far: Hypervisor) -> None:
    """There is no directory of one's own there."""
    with pytest.raises(InvalidValueError, match="absolute"):
        far.new_vm().disk_image = "disk.vdi"


def test_a_picture_comes_through_a_pipe(far: Hypervisor, lab: Path) -> None:
    """Nothing runs here to take a picture of; the way is the same."""
    program = lab / "tree" / "usr" / "local" / "bin" / "picture"
    program.write_text('#!/bin/sh\nfor last; do :; done\nprintf "\\211PNG\\r\\n" >"$last"\n')
    program.chmod(0o755)
    uri = str(far.uri).partition("?")
    with connect(f"{uri[0]}?{uri[2]}&vboxmanage=/usr/local/bin/picture") as other:
        assert other.runner.file(["x"], doing="look") == b"\x89PNG\r\n"  # type: ignore[attr-defined]


def test_refused(far_uri: str, tmp_path: Path) -> None:
    """No key, nobody there, no VBoxManage: each is said at once, with what to try."""
    key = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True, timeout=60)
    base = far_uri.partition("?")[0]
    with pytest.raises(ConnectError, match="Try it by hand: ssh"):
        connect(f"{base}?keyfile={key}&no_verify=1")
    with pytest.raises(ConnectError, match="refused"):
        connect(far_uri.replace("127.0.0.1/", "127.0.0.1:9/"))
    with pytest.raises(ConnectError, match="it has no VBoxManage"):
        connect(f"{far_uri}&vboxmanage=/nowhere/VBoxManage")
    with pytest.raises(InvalidURIError, match="host/session"):
        connect("vbox+ssh:///session")


def test_the_hosts_key_is_checked(far_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless asked not to; a host that is not known is refused, for nobody can be asked."""
    with pytest.raises(ConnectError, match="ssh"):
        connect(far_uri.replace("127.0.0.1/", "127.0.0.2/").replace("&no_verify=1", ""))


def test_the_connection_breaks(far: Hypervisor, inside: Callable[..., str]) -> None:
    """It was there, and then it was not."""
    vm = far.new_vm()
    vm.name = "left alone"
    vm.save()
    inside("sh", "-c", "kill $(cat /run/sshd.pid); while [ -e /run/sshd.pid ]; do sleep 0.05; done")
    try:
        with pytest.raises(ConnectionLostError, match="broke"):
            assert vm.state
    finally:
        inside("/usr/sbin/sshd", "-o", "UsePAM=no", "-o", "ListenAddress=127.0.0.1")
    assert far.get("left alone").uuid == vm.uuid
