"""The host's networks, on libvirt's mock: what a VM needs before it starts, and which of our types a card is of."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lxml import etree

from virtuoso_core import URI
from virtuoso_core.errors import InvalidNetworkError, NetworkInactiveError, NetworkNotFoundError
from virtuoso_core.libvirt_base import LibvirtHypervisor, Wiring
from virtuoso_core.libvirt_base.networks import network_xml
from virtuoso_core.spec import Network
from virtuoso_core.testdriver.driver import TestHypervisor
from virtuoso_core.xml import DomainDocument
from virtuoso_kvm.driver import KvmHypervisor

pytest.importorskip("libvirt", reason="libvirt-python is not installed")

SCHEMAS = ("/usr/share/libvirt/schemas", "/usr/local/share/libvirt/schemas", "/opt/homebrew/share/libvirt/schemas")

NODE = """<node>
  <network><name>default</name><forward mode='nat'/><ip address='192.168.150.1' netmask='255.255.255.0'/></network>
  <network><name>implied</name><forward/><ip address='192.168.151.1' netmask='255.255.255.0'/></network>
  <network><name>routed</name><forward mode='route'/><ip address='192.168.152.1' netmask='255.255.255.0'/></network>
  <network><name>open</name><forward mode='open'/><ip address='192.168.153.1' netmask='255.255.255.0'/></network>
  <network><name>lab &amp; desk</name><ip address='192.168.154.1' netmask='255.255.255.0'/></network>
  <network><name>quiet</name></network>
  <network><name>lan</name><forward mode='bridge'/><bridge name='br0'/></network>
</node>"""


@pytest.fixture(params=[TestHypervisor, KvmHypervisor])
def hypervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LibvirtHypervisor]:
    """A driver on a mock host of its own that has the networks above."""
    node = tmp_path / "node.xml"
    node.write_text(NODE)
    with request.param.open(URI.parse(f"test://{node}")) as opened:
        yield opened


@pytest.fixture
def bare(tmp_path: Path) -> Iterator[LibvirtHypervisor]:
    """A mock host without any network."""
    node = tmp_path / "bare.xml"
    node.write_text("<node/>")
    with TestHypervisor.open(URI.parse(f"test://{node}")) as opened:
        yield opened


def native(hypervisor: LibvirtHypervisor) -> Any:
    """libvirt's own connection."""
    return hypervisor.connection.native


def names(hypervisor: LibvirtHypervisor) -> set[str]:
    """The host's networks."""
    return {network.name() for network in native(hypervisor).listAllNetworks()}


def commands(hint: str) -> list[list[str]]:
    """The commands that a hint names, in words."""
    return [shlex.split(command) for command in hint.partition(": ")[2].split("; or: ")]


# Before a start.


@pytest.mark.parametrize("start", [False, True])
def test_an_active_network_is_left_alone(hypervisor: LibvirtHypervisor, start: bool) -> None:
    before = {network.name(): network.XMLDesc() for network in native(hypervisor).listAllNetworks()}
    for name in before:
        hypervisor.host_networks.require_active(name, None, start=start, vm="web")
    assert {network.name(): network.XMLDesc() for network in native(hypervisor).listAllNetworks()} == before


@pytest.mark.parametrize("name", ["default", "lab & desk"])
def test_an_inactive_network_is_named_with_the_command(hypervisor: LibvirtHypervisor, name: str) -> None:
    native(hypervisor).networkLookupByName(name).destroy()
    vm = "Bob's; rm -rf ~"
    with pytest.raises(NetworkInactiveError) as caught:
        hypervisor.host_networks.require_active(name, hypervisor.ways["nat"][0], start=False, vm=vm)
    assert (caught.value.vm, caught.value.uri) == (vm, str(hypervisor.uri))
    assert repr(name) in caught.value.message
    uri = str(hypervisor.uri)
    assert commands(caught.value.hint) == [
        ["virsh", "-c", uri, "net-start", name],
        ["virtuoso", "-c", uri, "start", vm, "--start-networks"],
    ]
    assert not native(hypervisor).networkLookupByName(name).isActive()


@pytest.mark.parametrize("name", ["default", "lab & desk"])
def test_an_inactive_network_is_started_when_asked(hypervisor: LibvirtHypervisor, name: str) -> None:
    network = native(hypervisor).networkLookupByName(name)
    network.destroy()
    hypervisor.host_networks.require_active(name, None, start=True, vm="web")
    assert network.isActive()


def test_a_missing_network_of_the_users_is_not_made(hypervisor: LibvirtHypervisor) -> None:
    before = names(hypervisor)
    for start in (False, True):
        for wiring in (None, hypervisor.ways["nat"][0], hypervisor.ways["host_only"][0]):
            with pytest.raises(NetworkNotFoundError) as caught:
                hypervisor.host_networks.require_active("nowhere", wiring, start=start, vm="web")
            assert "'web'" in caught.value.message
            assert "'nowhere'" in caught.value.message
            assert commands(caught.value.hint) == [["virsh", "-c", str(hypervisor.uri), "net-list", "--all"]]
    assert names(hypervisor) == before


def test_the_usual_network_is_made_when_asked(bare: LibvirtHypervisor) -> None:
    nat = bare.ways["nat"][0]
    with pytest.raises(NetworkNotFoundError) as caught:
        bare.host_networks.require_active("default", nat, start=False, vm="web")
    assert commands(caught.value.hint) == [["virtuoso", "-c", str(bare.uri), "start", "web", "--start-networks"]]
    assert names(bare) == set()
    bare.host_networks.require_active("default", nat, start=True, vm="web")
    network = native(bare).networkLookupByName("default")
    assert (network.isActive(), network.isPersistent(), network.autostart()) == (1, 1, 1)
    assert bare.host_networks.matches("default", nat)
    assert not bare.host_networks.matches("default", bare.ways["host_only"][0])


@pytest.mark.parametrize("type", ["host_only", "internal"])
@pytest.mark.parametrize("start", [False, True])
def test_the_librarys_own_networks_are_made_and_started_without_asking(
    bare: LibvirtHypervisor, type: str, start: bool
) -> None:
    wiring = bare.ways[type][0]
    name = wiring.default
    assert name is not None
    bare.host_networks.require_active(name, wiring, start=start, vm="web")
    network = native(bare).networkLookupByName(name)
    assert (network.isActive(), network.isPersistent(), network.autostart()) == (1, 1, 1)
    assert bare.host_networks.matches(name, wiring)
    network.destroy()
    bare.host_networks.require_active(name, wiring, start=start, vm="web")
    assert network.isActive()
    assert names(bare) == {name}


def test_a_vm_that_starts_gets_its_networks(bare: LibvirtHypervisor) -> None:
    vm = bare.new_vm()
    vm.name = "web"
    vm.network("internal")
    vm.save()
    assert names(bare) == set()
    vm.start()
    assert names(bare) == {"virtuoso-internal"}
    vm.stop(timeout=0)
    vm.network("nat")
    vm.save()
    with pytest.raises(NetworkNotFoundError, match="'default'"):
        vm.start()
    vm.start(start_networks=True)
    assert names(bare) == {"virtuoso-internal", "default"}


def test_a_subnet_in_use_is_passed_over(bare: LibvirtHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    import libvirt

    tried: list[str] = []
    create = libvirt.virNetwork.create

    def busy(self: Any) -> int:
        tried.append(self.XMLDesc())
        if len(tried) < 3:
            raise libvirt.libvirtError("Network is already in use by interface eth0")
        return int(create(self))

    monkeypatch.setattr(libvirt.virNetwork, "create", busy)
    bare.host_networks.require_active("default", bare.ways["nat"][0], start=True, vm="web")
    addresses = [etree.fromstring(text).find("ip") for text in tried]
    assert [None if ip is None else ip.get("address") for ip in addresses] == [
        "192.168.122.1",
        "192.168.123.1",
        "192.168.124.1",
    ]
    assert names(bare) == {"default"}


def test_when_every_subnet_is_in_use_nothing_is_left_behind(
    bare: LibvirtHypervisor, monkeypatch: pytest.MonkeyPatch
) -> None:
    import libvirt

    from virtuoso_core.errors import HypervisorError

    def busy(_: Any) -> int:
        raise libvirt.libvirtError("Network is already in use")

    monkeypatch.setattr(libvirt.virNetwork, "create", busy)
    with pytest.raises(HypervisorError, match="start the network 'default'"):
        bare.host_networks.require_active("default", bare.ways["nat"][0], start=True, vm="web")
    assert names(bare) == set()


# What the library writes.


@pytest.fixture(scope="module")
def schema() -> etree.RelaxNG:
    """libvirt's own description of network XML."""
    place = next((Path(path) for path in SCHEMAS if (Path(path) / "network.rng").exists()), None)
    if place is None:
        pytest.skip("libvirt's schemas are not installed (Debian: libvirt0)")
    return etree.RelaxNG(etree.parse(place / "network.rng"))


WIRINGS = [wiring for ways in KvmHypervisor.wirings.values() for wiring in ways if wiring.source == "network"]


@pytest.mark.parametrize("wiring", WIRINGS, ids=[str(wiring.default) for wiring in WIRINGS])
@pytest.mark.parametrize("name", ["default", "odd <&\"'> name"])
def test_the_networks_that_are_made_follow_the_schema(wiring: Wiring, name: str, schema: etree.RelaxNG) -> None:
    root = etree.fromstring(network_xml(name, wiring, 130))
    schema.assertValid(root.getroottree())
    assert root.findtext("name") == name
    forward = root.find("forward")
    assert (None if forward is None else forward.get("mode")) == (wiring.forward or None)
    assert [ip.get("address") for ip in root.findall("ip")] == (["192.168.130.1"] if wiring.addressed else [])


def test_a_network_with_addresses_answers_its_first_client_at_once() -> None:
    text = network_xml("default", WIRINGS[0], 122)
    assert '<dnsmasq:option value="no-ping"/>' in text


# Which of our types?


def card(text: str) -> DomainDocument:
    """A VM with that one card."""
    return DomainDocument(f"<domain><devices>{text}</devices></domain>")


@pytest.mark.parametrize(
    ("source", "type"),
    [
        ("default", "nat"),
        ("implied", "nat"),
        ("routed", "nat"),
        ("open", "nat"),
        ("lab &amp; desk", "host_only"),
        ("virtuoso-host-only", "host_only"),  # by its name, though it is not there yet
        ("quiet", "internal"),
        ("virtuoso-internal", "internal"),
        ("lan", "other"),
        ("nowhere", "other"),
    ],
)
def test_a_card_on_a_network_is_of_the_networks_kind(hypervisor: LibvirtHypervisor, source: str, type: str) -> None:
    document = card(f"<interface type='network'><source network='{source}'/></interface>")
    found, wiring = hypervisor.recognise(document.interfaces[0])
    assert found == type
    assert (wiring is None) == (type == "other")
    assert hypervisor.read_spec(document).networks[0].source == source.replace("&amp;", "&")


@pytest.mark.parametrize(
    ("text", "type"),
    [
        ("<interface type='bridge'><source bridge='br7'/></interface>", "bridged"),
        ("<interface type='direct'><source dev='eth0' mode='vepa'/></interface>", "bridged"),
        ("<interface type='user'/>", "other"),
        ("<interface type='hostdev'><source/></interface>", "other"),
        ("<interface type='bridge'/>", "other"),
        ("<interface type='network'/>", "other"),
        ("<interface/>", "other"),
    ],
)
def test_cards_of_other_kinds_on_kvm(text: str, type: str, hypervisor: LibvirtHypervisor) -> None:
    expected = "other" if isinstance(hypervisor, TestHypervisor) and "direct" in text else type
    assert hypervisor.recognise(card(text).interfaces[0])[0] == expected


def test_a_session_has_networks_of_its_own() -> None:
    session = KvmHypervisor.wirings_at(URI.parse("qemu:///session"))
    system = KvmHypervisor.wirings_at(URI.parse("qemu:///system"))
    assert set(session) == {"nat", "bridged"}
    assert set(system) == {"nat", "bridged", "host_only", "internal"}
    assert session["nat"][0].source is None


def test_a_source_that_is_needed_or_not_possible_is_told(hypervisor: LibvirtHypervisor) -> None:
    mac = "52:54:00:00:00:01"
    assert hypervisor._network_defaults(Network("nat", mac)) == Network("nat", mac, "default", "virtio")
    assert hypervisor._network_defaults(Network("nat", mac, "lab", "e1000")) == Network("nat", mac, "lab", "e1000")
    if isinstance(hypervisor, KvmHypervisor):
        with pytest.raises(InvalidNetworkError, match="needs a source"):
            hypervisor._network_defaults(Network("bridged", mac))
