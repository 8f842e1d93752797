"""The host's networks under a real libvirtd: absent, inactive, made by the library."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.labs.hosts import PrivateHost
from virtuoso_core import VM, Hypervisor, State, connect
from virtuoso_core.errors import InvalidNetworkError, NetworkInactiveError, NetworkNotFoundError


@pytest.fixture
def bare() -> Iterator[Hypervisor]:
    """A host without any network."""
    with PrivateHost("bare") as host, connect(host.uri) as hypervisor:
        yield hypervisor


def vm_on(hypervisor: Hypervisor, type: str, source: str | None = None) -> VM:
    """A saved VM with one card."""
    vm = hypervisor.new_vm()
    vm.name, vm.memory = f"on-{type}-{source}", "64 MiB"
    vm.network(type, source=source)
    vm.save()
    return vm


def test_default_network(bare: Hypervisor) -> None:
    """Absent or inactive, the error says what to type; start_networks does it."""
    vm = vm_on(bare, "nat")
    with pytest.raises(NetworkNotFoundError, match="--start-networks"):
        vm.start()
    vm.start(start_networks=True)
    assert vm.state is State.RUNNING
    vm.stop(timeout=0)
    network = vm.native.connect().networkLookupByName("default")
    network.destroy()
    with pytest.raises(NetworkInactiveError, match="net-start default"):
        vm.start()
    assert network.isActive() == 0
    vm.start(start_networks=True)
    assert network.isActive() == 1
    vm.destroy(force=True)


def test_own_networks(bare: Hypervisor) -> None:
    """host_only and internal are made when first needed; the host is in the first and not in the second."""
    vms = [vm_on(bare, "host_only"), vm_on(bare, "internal")]
    for vm in vms:
        vm.start()
        assert vm.state is State.RUNNING
    native = vms[0].native.connect()
    assert "<ip " in native.networkLookupByName("virtuoso-host-only").XMLDesc()
    assert "<ip " not in native.networkLookupByName("virtuoso-internal").XMLDesc()
    assert "<forward" not in native.networkLookupByName("virtuoso-host-only").XMLDesc()
    for vm in vms:
        vm.destroy(force=True)


def test_named_networks(bare: Hypervisor) -> None:
    """Another network by its name: read back as what it is."""
    native = vm_on(bare, "nat").native.connect()
    for name, xml in {
        "lab": "<network><name>lab</name><ip address='192.168.150.1' netmask='255.255.255.0'/></network>",
        "dark": "<network><name>dark</name></network>",
        "routed": "<network><name>routed</name><forward mode='route'/>"
        "<ip address='192.168.151.1' netmask='255.255.255.0'/></network>",
    }.items():
        native.networkDefineXML(xml).create()
        type = {"lab": "host_only", "dark": "internal", "routed": "nat"}[name]
        vm = vm_on(bare, type, name)
        found = bare.get(vm.name).networks[0]
        assert (found.type, found.source) == (type, name)
        vm.start()
        vm.destroy(force=True)


def test_no_such_network(bare: Hypervisor) -> None:
    """The error names it."""
    vm = vm_on(bare, "nat", "nowhere")
    with pytest.raises(NetworkNotFoundError, match="'nowhere'"):
        vm.start(start_networks=True)
    vm.destroy()


def test_bridged(bare: Hypervisor) -> None:
    """It needs a source: a bridge, or a card of the host's to share by macvtap."""
    vm = bare.new_vm()
    with pytest.raises(InvalidNetworkError, match="needs a source"):
        vm.network("bridged")
    vm.name = "bridged"
    vm.network("bridged", source="lo")
    vm.network("bridged", source="br-elsewhere")
    vm.save()
    kinds = [card.get("type") for card in _cards(vm)]
    assert kinds == ["direct", "bridge"]
    assert [(card.type, card.source) for card in bare.get("bridged").networks] == [
        ("bridged", "lo"),
        ("bridged", "br-elsewhere"),
    ]
    vm.destroy()


def _cards(vm: VM) -> list[dict[str, str]]:
    from virtuoso_core.xml import DomainDocument

    return [dict(card.element.attrib) for card in DomainDocument(vm.spec).interfaces]
