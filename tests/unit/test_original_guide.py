"""The guide that Virtuoso set out from, snippet by snippet in its order, in Python."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from virtuoso_core import (
    VM,
    DriverNotInstalledError,
    Hypervisor,
    InvalidNetworkError,
    Network,
    SaveResult,
    State,
    connect,
)
from virtuoso_core.plugins import default_registry
from virtuoso_core.xml import DomainDocument


def vbox_is_installed() -> bool:
    return any("vbox" in plugin.schemes for plugin in default_registry().plugins)


@pytest.fixture
def hypervisor(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hypervisor]:
    """connect() that finds a hypervisor by itself, on libvirt's mock; what the snippets make is removed."""
    monkeypatch.setenv("VIRTUOSO_DEFAULT_URI", "test:///default")
    with connect() as found:
        yield found
        for vm in found.vms():
            if vm.name.startswith("My new VM"):
                vm.destroy(force=True)


@pytest.fixture
def vm(hypervisor: Hypervisor) -> VM:
    """The guide's VM, saved."""
    made = hypervisor.new_vm()
    made.name = "My new VM"
    made.memory = 512000
    made.disk_image = "/path/to/hard_drive.vmdk"
    made.save()
    return made


# Connecting.


def test_connect_detects_a_hypervisor(hypervisor: Hypervisor) -> None:
    """Virtuoso.connect"""
    assert isinstance(hypervisor, Hypervisor)
    assert type(hypervisor) is not Hypervisor
    assert str(hypervisor.uri) == "test:///default"


@pytest.mark.parametrize("uri", ["vbox:///session", "vbox+ssh://10.0.0.1/session"])
def test_connect_to_virtualbox(uri: str) -> None:
    """Virtuoso.connect("vbox:///session"), here and on another machine."""
    if vbox_is_installed():
        pytest.skip("virtuoso-vbox is installed: its own tests connect")
    with pytest.raises(DriverNotInstalledError) as caught:
        connect(uri)
    assert "virtuoso-vbox" in caught.value.hint


# Creating.


def test_create(hypervisor: Hypervisor, vm: VM) -> None:
    """hypervisor.new_vm, name, memory, disk_image, save"""
    found = hypervisor.get("My new VM")
    assert found.uuid == vm.uuid
    assert (found.memory, found.disk_image) == (512000, "/path/to/hard_drive.vmdk")
    assert found.state is State.STOPPED


def test_the_guides_mac_address_is_multicast(vm: VM) -> None:
    """vm.network(:nat, :mac_address => "01:23:45:67:89:ab"): no network card can have that one."""
    with pytest.raises(InvalidNetworkError, match="multicast") as caught:
        vm.network("nat", mac_address="01:23:45:67:89:ab")
    assert "00:23:45:67:89:ab" in caught.value.hint
    assert vm.networks == ()


def test_network(hypervisor: Hypervisor, vm: VM) -> None:
    """The same with an address that can be."""
    made = vm.network("nat", mac_address="52:54:00:45:67:89")
    vm.save()
    assert isinstance(made, Network)
    assert hypervisor.get("My new VM").networks == (made,)
    assert (made.type, made.mac_address) == ("nat", "52:54:00:45:67:89")


def test_set(hypervisor: Hypervisor, vm: VM) -> None:
    """vm.set(:headless, true): for those hypervisors to which it means something."""
    vm.set("headless", True)
    vm.save()
    assert hypervisor.get("My new VM").options["headless"] is True


def test_set_is_ignored_where_it_means_nothing(vm: VM) -> None:
    """Another driver's option does not break the program."""
    vm.set("stubborn", True)
    assert vm.ignored_options == {"stubborn": True}
    assert vm.save() is SaveResult.UNCHANGED


# Controlling.


def test_start_stop_destroy(hypervisor: Hypervisor, vm: VM) -> None:
    """vm.start, vm.stop, vm.destroy"""
    states = []
    vm.start()
    states.append(vm.state)
    vm.stop()
    states.append(vm.state)
    vm.destroy()
    assert states == [State.RUNNING, State.STOPPED]
    assert hypervisor.find("My new VM") is None


# Modifying.


def test_find_and_change(hypervisor: Hypervisor, vm: VM) -> None:
    """hypervisor.find("My new VM"), vm.memory += 100000, vm.save: nothing else changes."""
    vm.network("nat", mac_address="52:54:00:45:67:89")
    vm.set("headless", True)
    vm.save()
    before = hypervisor.get("My new VM")
    document = DomainDocument(before.spec)

    found = hypervisor.find("My new VM")
    assert found is not None
    found.memory += 100000
    assert found.save() is SaveResult.APPLIED

    after = hypervisor.get("My new VM")
    assert after.memory == 612000
    assert (after.uuid, after.cpus, after.disk_image) == (vm.uuid, before.cpus, before.disk_image)
    assert (after.networks, after.options) == (before.networks, before.options)
    document.set_memory(612000)
    assert DomainDocument(after.spec).canonical() == document.canonical()


def test_find_finds_nobody(hypervisor: Hypervisor) -> None:
    """nil, in the guide's language."""
    assert hypervisor.find("Nobody's VM") is None
