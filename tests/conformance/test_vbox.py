"""The VirtualBox driver's half on libvirt keeps the promises, on libvirt's mock; the other half: tests/vbox."""

from __future__ import annotations

from typing import Any, ClassVar

import pytest

from virtuoso_core import URI, State, connect
from virtuoso_core.errors import ConnectError, HypervisorError, InvalidStateError, VirtuosoError, VMNotFoundError
from virtuoso_core.libvirt_base import connection as connections
from virtuoso_core.testing import HypervisorSuite
from virtuoso_vbox import runner
from virtuoso_vbox.libvirt import LibvirtVBoxHypervisor


class TestVBoxByLibvirt(HypervisorSuite):
    hypervisor = LibvirtVBoxHypervisor
    network_sources: ClassVar[dict[str, str]] = {"bridged": "eth0"}

    @pytest.fixture
    def real_uri(self) -> None:
        """A real VirtualBox in the environment is for VBoxManage: libvirt opens none of today's."""


@pytest.fixture
def by_libvirt() -> Any:
    """An open connection to libvirt's mock."""
    with LibvirtVBoxHypervisor.open(URI.parse("test:///default")) as hypervisor:
        yield hypervisor


def _saved(hypervisor: Any, **fields: Any) -> Any:
    vm = hypervisor.new_vm()
    vm.name = "replaced"
    for name, value in fields.items():
        setattr(vm, name, value)
    vm.save()
    return vm


def test_a_replaced_vm_is_the_same_one(by_libvirt: Any) -> None:
    """The UUID and all that was not changed stay."""
    vm = _saved(by_libvirt, memory="1 GiB", cpus=2)
    try:
        uuid, vm.memory = vm.uuid, "2 GiB"
        vm.save()
        found = by_libvirt.get("replaced")
        assert (found.uuid, found.memory, found.cpus) == (uuid, 2 * 1024 * 1024, 2)
    finally:
        vm.destroy(force=True)


def test_a_vm_with_snapshots_is_not_replaced(by_libvirt: Any) -> None:
    """They would be lost."""
    vm = _saved(by_libvirt)
    try:
        vm.native.snapshotCreateXML("<domainsnapshot><name>s1</name></domainsnapshot>", 0)
        before = vm.memory
        vm.memory = before * 2
        with pytest.raises(InvalidStateError, match="snapshots"):
            vm.save()
        assert by_libvirt.get("replaced").memory == before
        assert vm.native.snapshotNum(0) == 1
    finally:
        vm.destroy(force=True)


def test_a_running_vm_is_not_replaced(by_libvirt: Any) -> None:
    """It is told so, and goes on."""
    vm = _saved(by_libvirt)
    try:
        vm.start()
        vm.memory *= 2
        with pytest.raises(InvalidStateError, match="Stop it first"):
            vm.save()
        assert vm.state is State.RUNNING
    finally:
        vm.destroy(force=True)


def test_the_old_vm_comes_back_when_the_new_one_fails(by_libvirt: Any) -> None:
    """Between the two there is none, and a failure there must not be the end of it."""
    vm = _saved(by_libvirt)
    try:
        before, wanted, real = vm.spec, vm.memory * 2, by_libvirt.connection.native
        refused: list[str] = []

        class Native:
            def __getattr__(self, name: str) -> Any:
                return getattr(real, name)

            def defineXMLFlags(self, text: str, flags: int) -> Any:  # noqa: N802
                if str(wanted) in text:
                    refused.append(text)
                    return real.defineXMLFlags("<domain type='none'/>", 0)
                return real.defineXMLFlags(text, flags)

        by_libvirt.connection.native = Native()
        vm.memory = wanted
        with pytest.raises(VirtuosoError, match="replaced"):
            vm.save()
        by_libvirt.connection.native = real
        assert refused
        assert by_libvirt.get("replaced").spec == before
    finally:
        vm.destroy(force=True)


def test_a_vm_that_is_gone_without_a_code(by_libvirt: Any) -> None:
    """libvirt's VirtualBox driver says "cause is unknown", code 1, where others say NO_DOMAIN."""
    import libvirt

    def unknown(*_: Any) -> None:
        error = libvirt.libvirtError("An error occurred, but the cause is unknown")
        error.err = (libvirt.VIR_ERR_INTERNAL_ERROR, 0, "the cause is unknown", 2, "", "", "", -1, -1)
        raise error

    vm = _saved(by_libvirt)
    same = by_libvirt.get("replaced")
    with pytest.raises(HypervisorError, match="unknown"):
        same._call("look at", unknown)
    vm.destroy()
    with pytest.raises(VMNotFoundError, match="does not exist"):
        same._call("look at", unknown)


# What libvirt says where it cannot open VirtualBox, recorded: code and text.
REFUSALS = [
    (1, "internal error: unable to initialize VirtualBox driver API"),
    (38, "Failed to connect socket to '/var/run/libvirt/virtvboxd-sock': No such file or directory"),
    (5, "no connection driver available for vbox:///session"),
]


@pytest.mark.parametrize(("code", "said"), REFUSALS, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("asked", ["", "?backend=libvirt"])
def test_refusals_say_what_works(monkeypatch: pytest.MonkeyPatch, code: int, said: str, asked: str) -> None:
    """Each names VBoxManage, which speaks to every version."""
    import libvirt

    def refuse(self: object, *_: Any) -> None:
        error = libvirt.libvirtError(said)
        error.err = (code, 0, said, 2, "", "", "", -1, -1)
        raise error

    monkeypatch.setattr(connections.Connection, "_open", refuse)
    monkeypatch.setattr("virtuoso_vbox.driver.find_program", lambda: None)
    with pytest.raises(ConnectError, match="VBoxManage") as caught:
        connect(f"vbox:///session{asked}")
    assert said in str(caught.value)


def test_our_own_parameters_are_not_libvirts(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would warn about them, or refuse."""
    seen: list[URI] = []

    def refuse(self: Any, *_: Any) -> None:
        seen.append(self.uri)
        raise ConnectError("enough seen")

    monkeypatch.setattr(connections.Connection, "_open", refuse)
    with pytest.raises(ConnectError):
        connect("vbox:///session?backend=libvirt&vboxmanage=/x&socket=/y")
    assert [str(uri) for uri in seen] == ["vbox:///session?socket=/y"]


def test_vboxmanage_is_preferred(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it is found libvirt is not even asked."""
    monkeypatch.setattr(connections.Connection, "_open", lambda *_: pytest.fail("libvirt was asked"))
    monkeypatch.setattr("virtuoso_vbox.driver.find_program", lambda: "/bin/false")
    monkeypatch.setattr(runner, "find_program", lambda: "/bin/false")
    with pytest.raises(ConnectError):
        connect("vbox:///session")
