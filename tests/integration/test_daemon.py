"""libvirtd dies between any two calls: one clear error, no hang, no lost VM."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.integration.conftest import qemu_img
from tests.labs.hosts import PrivateHost
from virtuoso_core import VM, Hypervisor, State, connect
from virtuoso_core.errors import ConnectError, ConnectionLostError

CALLS: dict[str, Callable[[Hypervisor, VM], object]] = {
    "version": lambda hypervisor, vm: hypervisor.version,
    "find": lambda hypervisor, vm: hypervisor.find("nobody"),
    "get": lambda hypervisor, vm: hypervisor.get(vm.name),
    "vms": lambda hypervisor, vm: hypervisor.vms(),
    "summaries": lambda hypervisor, vm: hypervisor.summaries(),
    "state": lambda hypervisor, vm: vm.state,
    "memory": lambda hypervisor, vm: vm.memory,
    "reload": lambda hypervisor, vm: vm.reload(),
    "start": lambda hypervisor, vm: vm.start(),
    "stop": lambda hypervisor, vm: vm.stop(),
    "pause": lambda hypervisor, vm: vm.pause(),
    "reboot": lambda hypervisor, vm: vm.reboot(),
    "addresses": lambda hypervisor, vm: vm.addresses(),
    "screenshot": lambda hypervisor, vm: vm.screenshot(),
    "destroy": lambda hypervisor, vm: vm.destroy(force=True),
}


@pytest.fixture(scope="module")
def host(lab: None) -> Iterator[PrivateHost]:
    """A host of these tests' own, for its daemon is not to be relied on."""
    with PrivateHost("mortal") as host:
        yield host


@pytest.fixture(scope="module")
def running(host: PrivateHost) -> str:
    """The name of a VM that runs there."""
    disk = host.images / "mortal.qcow2"
    qemu_img("create", "-f", "qcow2", disk, "64M")
    with connect(host.uri) as hypervisor:
        vm = hypervisor.new_vm()
        vm.name, vm.memory, vm.disk_image = "mortal", "128 MiB", disk
        vm.save()
        vm.start()
        return vm.name


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
def test_daemon_killed(host: PrivateHost, running: str, call: Callable[[Hypervisor, VM], object]) -> None:
    """The call says what happened, so does the next one; a new connection works and the VM runs on."""
    hypervisor = connect(host.uri)
    vm = hypervisor.get(running)
    host.kill_libvirtd()
    try:
        for _ in range(2):
            with pytest.raises(ConnectionLostError) as caught:
                call(hypervisor, vm)
            assert caught.value.uri == str(hypervisor.uri)
            assert "connect() again" in caught.value.hint
        hypervisor.close()
        with pytest.raises(ConnectError, match=r"does not run any more\. Type: sudo "):
            connect(host.uri)
    finally:
        host.start_libvirtd()
    with connect(host.uri) as again:
        assert again.get(running).state is State.RUNNING


def test_daemon_killed_before_a_save(host: PrivateHost, running: str) -> None:
    """Nothing is written; the same edit works on a new connection."""
    hypervisor = connect(host.uri)
    vm = hypervisor.get(running)
    before = vm.memory
    vm.memory = before * 2
    host.kill_libvirtd()
    try:
        with pytest.raises(ConnectionLostError):
            vm.save()
    finally:
        host.start_libvirtd()
    hypervisor.close()
    with connect(host.uri) as again:
        vm = again.get(running)
        assert vm.memory == before
        vm.memory = before * 2
        vm.save()
        assert again.get(running).memory == before * 2


def test_daemon_killed_while_stopping(host: PrivateHost, running: str) -> None:
    """A wait that is under way ends with the error, not with the wait's own end."""
    import threading

    hypervisor = connect(host.uri)
    vm = hypervisor.get(running)
    killer = threading.Timer(1, host.kill_libvirtd)
    killer.start()
    try:
        with pytest.raises(ConnectionLostError):
            vm.stop(timeout=60)
    finally:
        killer.join()
        host.start_libvirtd()
    hypervisor.close()
