"""What is said when a start fails: QEMU's own words, files that a user may not open, ports, the cards that collide."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import Any

import pytest

from virtuoso_core import URI, VM, connect, images
from virtuoso_core.errors import (
    HypervisorError,
    MacAddressInUseError,
    NotEnoughMemoryError,
    VirtuosoError,
    VMExistsError,
)
from virtuoso_core.libvirt_base import starting
from virtuoso_core.libvirt_base.errors import last_words
from virtuoso_core.xml import DomainDocument

# libvirt's texts, as its version 9.0 gave them.
LOCK = """internal error: process exited while connecting to monitor: 2026-01-22T20:54:25.255643Z qemu-system-x86_64: \
-blockdev {"node-name":"libvirt-1-format","read-only":false,"file":"libvirt-1-storage","backing":null}: Failed to get \
"write" lock
Is another process using the image [/images/a.qcow2]?"""
PORT = """internal error: process exited while connecting to monitor: 2026-01-22T20:54:26.190323Z qemu-system-x86_64: \
-vnc 127.0.0.1:7,audiodev=audio1: Failed to find an available port: Address already in use"""
WARNED = """internal error: qemu unexpectedly closed the monitor: 2026-01-22T20:54:26Z qemu-system-x86_64: warning: \
host does not support it
2026-01-22T20:54:26Z qemu-system-x86_64: cannot set up guest memory 'pc.ram': Cannot allocate memory"""
OTHER = "unable to stat: /nonexist: No such file or directory"


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        (LOCK, 'Failed to get "write" lock; Is another process using the image [/images/a.qcow2]?'),
        (PORT, "-vnc 127.0.0.1:7,audiodev=audio1: Failed to find an available port: Address already in use."),
        (WARNED, "cannot set up guest memory 'pc.ram': Cannot allocate memory."),
        (OTHER, f"{OTHER}."),
    ],
)
def test_last_words(said: str, kept: str) -> None:
    error = VirtuosoError("")
    error.__cause__ = Exception(said)
    assert last_words(error) == kept


@pytest.mark.parametrize(
    ("mode", "uid", "gids", "wanted", "may"),
    [
        (0o600, 7, set(), images.READ, False),
        (0o644, 7, set(), images.READ, True),
        (0o644, 7, set(), images.READ | images.WRITE, False),
        (0o666, 7, set(), images.READ | images.WRITE, True),
        (0o660, 7, {os.getgid()}, images.READ | images.WRITE, True),
        (0o606, 7, {os.getgid()}, images.READ, False),
        (0o000, 0, set(), images.READ | images.WRITE, True),
        (0o400, os.getuid() or 0, set(), images.READ, True),
    ],
)
def test_may_open(tmp_path: Path, mode: int, uid: int, gids: set[int], wanted: int, may: bool) -> None:
    file = tmp_path / "disk"
    file.touch()
    file.chmod(mode)
    assert images.may_open(str(file), wanted, uid, gids) is may


def test_may_open_what_is_gone(tmp_path: Path) -> None:
    assert images.may_open(str(tmp_path / "none"), images.READ, 7, set()) is None


def test_locks(tmp_path: Path) -> None:
    """A broken image is none that is locked, nor is one that is not there; the integration tests have a locked one."""
    broken = tmp_path / "broken.qcow2"
    broken.write_bytes(b"QFI\xfb" + bytes(200))
    assert not images.is_locked(str(broken))
    assert not images.is_locked(str(tmp_path / "none"))


def test_ports() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert starting._is_taken("127.0.0.1", port)
    assert not starting._is_taken("127.0.0.1", port)
    assert not starting._is_taken("192.0.2.1", port)  # no address of this machine: nothing is known


def test_what_a_card_joins() -> None:
    document = DomainDocument(
        "<domain><devices>"
        "<interface type='user'><mac address='52:54:00:00:00:01'/></interface>"
        "<interface type='network'><mac address='52:54:00:00:00:0A'/><source network='n' bridge='virbr0'/></interface>"
        "<interface type='direct'><mac address='52:54:00:00:00:03'/><source dev='eth0' mode='bridge'/></interface>"
        "</devices></domain>"
    )
    assert [set(starting._places(card)) for card in document.interfaces] == [
        set(),
        {("52:54:00:00:00:0a", "network", "n"), ("52:54:00:00:00:0a", "bridge", "virbr0")},
        {("52:54:00:00:00:03", "card", "eth0")},
    ]


@pytest.fixture
def vm(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A VM of the KVM driver's on libvirt's mock."""
    pytest.importorskip("libvirt")
    kvm = pytest.importorskip("virtuoso_kvm.driver").KvmHypervisor
    from virtuoso_core import URI

    monkeypatch.setattr(kvm, "probes_images", False)
    with kvm.open(URI.parse("test:///default")) as hypervisor:
        vm = hypervisor.new_vm()
        vm.name = "virtuoso-field"
        vm.network("nat", mac_address="52:54:00:aa:bb:cc")
        yield vm
        vm.destroy(force=True)


def failing(vm: VM, monkeypatch: pytest.MonkeyPatch, said: str) -> VirtuosoError:
    """The error that comes of a start where libvirt says that."""
    import libvirt

    def create(_: object) -> None:
        error = libvirt.libvirtError("")
        error.err = (libvirt.VIR_ERR_INTERNAL_ERROR, 10, said, 2, None, None, None, -1, -1)
        error.args = (said,)
        raise error

    monkeypatch.setattr(libvirt.virDomain, "create", create)
    with pytest.raises(VirtuosoError) as caught:
        vm.start()
    monkeypatch.undo()
    return caught.value


def test_a_failed_start_has_qemus_words_and_the_log(vm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vm.memory = "1 MiB"
    vm.save()
    error = failing(vm, monkeypatch, "internal error: process exited: qemu-system-x86_64: -nonsense: invalid option")
    assert type(error) is HypervisorError
    assert (
        error.message == f"Could not start the VM 'virtuoso-field' on {vm.hypervisor.uri}: -nonsense: invalid option."
    )
    assert error.hint == "Its host keeps all that was said in /var/log/libvirt/qemu/virtuoso-field.log"
    assert error.code == 1


def test_a_failed_start_of_a_vm_that_is_too_large(vm: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    vm.memory = "1 MiB"
    vm.save()
    host = {"total": 4 * 1024, "free": 512, "buffers": 0, "cached": 0}
    import libvirt

    monkeypatch.setattr(libvirt.virConnect, "getMemoryStats", lambda *_: host)
    error = failing(vm, monkeypatch, WARNED)
    assert type(error) is NotEnoughMemoryError
    assert "wants 1 MiB of memory" in error.message
    assert "Cannot allocate memory" in error.message


def test_a_card_that_collides(vm: Any) -> None:
    """libvirt's mock starts both; the check does not let it."""
    vm.save()
    vm.start()
    hypervisor = vm.hypervisor
    other = hypervisor.new_vm()
    other.name = "virtuoso-field-2"
    other.network("nat", mac_address="52:54:00:aa:bb:cc")
    other.save()
    try:
        with pytest.raises(MacAddressInUseError, match="'virtuoso-field' has its MAC address 52:54:00:aa:bb:cc"):
            other.start()
        # what was read is kept for the VMs that run, and no longer
        vm.stop(timeout=0)
        other.start()
        assert vm.uuid not in {key[0] for key in hypervisor.running_cards}
    finally:
        other.destroy(force=True)


def test_a_hypervisor_without_a_daemon_is_not_asked_for_cards() -> None:
    with connect("test:///default") as hypervisor:
        vm = hypervisor.new_vm()
        vm.name = "virtuoso-field-3"
        vm.network("nat")
        vm.save()
        vm.start(start_networks=True)
        assert hypervisor.running_cards == {}  # type: ignore[attr-defined]
        vm.destroy(force=True)


def test_an_error_is_not_its_own_cause(monkeypatch: pytest.MonkeyPatch) -> None:
    """What libvirt said is behind it, also where it was looked whether the name was taken."""
    pytest.importorskip("libvirt")
    from virtuoso_core.libvirt_base.vm import LibvirtVM
    from virtuoso_core.testdriver.driver import TestHypervisor as MockHypervisor

    said = ValueError("what libvirt said")

    def fail(*_: object, **__: object) -> None:
        raise HypervisorError("It failed.") from said

    monkeypatch.setattr(LibvirtVM, "_define", fail)
    with MockHypervisor.open(URI.parse("test:///default")) as hypervisor:
        vm = hypervisor.new_vm()
        vm.name = "new"
        with pytest.raises(HypervisorError) as caught:
            vm.save()
        assert caught.value.__cause__ is said
        vm.name = "test"
        with pytest.raises(VMExistsError) as taken:
            vm.save()
        assert isinstance(taken.value.__cause__, HypervisorError)
