"""The connection: finding, listing, networks and options of its VMs, read-only, closed, shared by threads."""

from __future__ import annotations

import uuid
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest

from virtuoso_core import (
    URI,
    VM,
    ConnectionClosedError,
    Feature,
    Hypervisor,
    InvalidNetworkError,
    InvalidOptionError,
    InvalidValueError,
    Network,
    ReadOnlyError,
    SaveResult,
    State,
    UnknownOptionWarning,
    UnsupportedError,
    UnsupportedNetworkError,
    VMExistsError,
    VMNotFoundError,
    connect,
)
from virtuoso_core.testing.memory import MemoryHypervisor

MAC = "52:54:00:45:67:89"


def make(hypervisor: Hypervisor, name: str) -> VM:
    vm = hypervisor.new_vm()
    vm.name = name
    vm.save()
    return vm


# Finding.


@pytest.mark.parametrize("name", ["web", "<&\"'>", "日本", " padded ", "--help", str(uuid.UUID(int=5)), "%s{0}"])
def test_finding_by_name_and_by_uuid(hypervisor: MemoryHypervisor, name: str) -> None:
    vm = make(hypervisor, name)
    for key in (name, vm.uuid):
        found = hypervisor.find(key)
        assert found is not None
        assert (found.name, found.uuid, hypervisor.get(key).uuid) == (name, vm.uuid, vm.uuid)


@pytest.mark.parametrize("first", [True, False])
def test_a_uuid_goes_before_a_name_that_looks_like_it(hypervisor: MemoryHypervisor, first: bool) -> None:
    vm = make(hypervisor, "web")
    impostor = make(hypervisor, vm.uuid) if first else make(hypervisor, "impostor")
    target = vm if first else impostor
    if not first:
        vm.name = impostor.uuid
        vm.save()
    assert hypervisor.get(target.uuid).uuid == target.uuid


@pytest.mark.parametrize("key", ["WEB", "we", "web ", str(uuid.UUID(int=5)), "a/b", "\udc80", "x" * 5000, "\n"])
def test_what_is_not_there(hypervisor: MemoryHypervisor, key: str) -> None:
    make(hypervisor, "web")
    assert hypervisor.find(key) is None
    with pytest.raises(VMNotFoundError, match="There is no VM ") as caught:
        hypervisor.get(key)
    assert (caught.value.vm, caught.value.uri) == (key, str(hypervisor.uri))
    assert len(str(caught.value)) < 300
    str(caught.value).encode()


def test_get_names_what_is_near(hypervisor: MemoryHypervisor) -> None:
    make(hypervisor, "webserver")
    make(hypervisor, "database")
    with pytest.raises(VMNotFoundError, match=r"Did you mean 'webserver'\?"):
        hypervisor.get("webservr")
    with pytest.raises(VMNotFoundError, match=f"virtuoso -c {hypervisor.uri} list"):
        hypervisor.get("zzz")


@pytest.mark.parametrize("key", ["", None, 7, b"web"])
def test_what_is_no_key(hypervisor: MemoryHypervisor, key: Any) -> None:
    for look in (hypervisor.find, hypervisor.get):
        with pytest.raises(InvalidValueError, match="neither a VM's name nor its UUID"):
            look(key)


def test_listing_is_by_name(hypervisor: MemoryHypervisor) -> None:
    assert (hypervisor.vms(), hypervisor.summaries()) == ([], [])
    for name in ("c", "a", "b"):
        make(hypervisor, name)
    hypervisor.get("b").start()
    assert [vm.name for vm in hypervisor.vms()] == ["a", "b", "c"]
    assert [(line.name, line.state) for line in hypervisor.summaries()] == [
        ("a", State.STOPPED),
        ("b", State.RUNNING),
        ("c", State.STOPPED),
    ]


def test_two_connections_see_one_host_and_other_uris_another(uri: URI) -> None:
    with connect(uri) as one, connect(str(uri)) as two, connect(f"{uri}-other") as three:
        vm = make(one, "web")
        assert two.get("web").uuid == vm.uuid
        assert three.find("web") is None
        vm.destroy()
        assert two.find("web") is None


# Networks.


def test_adding_and_removing_networks(hypervisor: MemoryHypervisor) -> None:
    vm = hypervisor.new_vm()
    vm.name = "web"
    card = vm.network("nat", mac_address="52-54-00-45-67-89", source="net0", model="virtio")
    assert card == Network("nat", MAC, "net0", "virtio")
    other = vm.network("host-only")
    assert other.type == "host_only"
    assert other.mac_address.startswith(hypervisor.mac_prefix)
    vm.save()
    found = hypervisor.get("web")
    assert list(found.networks) == [card, other]
    found.remove_network(card)
    found.remove_network(other.mac_address.upper().replace(":", "-"))
    assert not found.networks
    assert found.save() is SaveResult.APPLIED
    vm.reload()
    assert not vm.networks


def test_made_up_addresses_differ(hypervisor: MemoryHypervisor) -> None:
    vm = hypervisor.new_vm()
    assert len({vm.network().mac_address for _ in range(200)}) == 200


def test_a_repeated_mac_address(hypervisor: MemoryHypervisor) -> None:
    vm = hypervisor.new_vm()
    vm.network(mac_address=MAC)
    with pytest.raises(InvalidNetworkError, match=f"already has a network card with the MAC address {MAC}"):
        vm.network("bridged", mac_address=MAC.upper())
    assert len(vm.networks) == 1


@pytest.mark.parametrize("kind", ["wifi", "", "NAT ", None, 7])
def test_a_type_that_is_not_there_lists_those_that_are(hypervisor: MemoryHypervisor, kind: Any) -> None:
    vm = hypervisor.new_vm()
    with pytest.raises(UnsupportedNetworkError, match="no network of type") as caught:
        vm.network(kind)
    assert caught.value.hint == "It has: nat, bridged, host_only, internal."
    assert isinstance(caught.value, UnsupportedError)
    assert vm.networks == ()


@pytest.mark.parametrize("field", ["source", "model"])
@pytest.mark.parametrize("value", ["", "a\nb", 7, "x" * 201])
def test_a_bad_source_or_model(hypervisor: MemoryHypervisor, field: str, value: Any) -> None:
    vm = hypervisor.new_vm()
    with pytest.raises(InvalidNetworkError, match=f"is not a {field} of a network"):
        vm.network("nat", **{field: value})
    assert vm.networks == ()


@pytest.mark.parametrize("which", ["52:54:00:00:00:01", "nonsense", Network("nat", "52:54:00:00:00:01"), None])
def test_removing_a_card_that_is_not_there(hypervisor: MemoryHypervisor, which: Any) -> None:
    vm = hypervisor.new_vm()
    with pytest.raises(InvalidNetworkError, match="It has: none"):
        vm.remove_network(which)
    vm.network(mac_address=MAC)
    with pytest.raises(InvalidNetworkError, match=f"It has: {MAC}"):
        vm.remove_network(which)


# Options.


def test_a_known_option_is_kept(hypervisor: MemoryHypervisor) -> None:
    vm = hypervisor.new_vm()
    vm.set("headless", "yes")
    assert dict(vm.options) == {"headless": True}
    assert dict(vm.ignored_options) == {}
    with pytest.raises(InvalidOptionError, match=r"'headless'.*It takes True or False"):
        vm.set("headless", "maybe")
    assert dict(vm.options) == {"headless": True}
    with pytest.raises(TypeError):
        vm.options["headless"] = False  # type: ignore[index]


def test_none_takes_an_option_away(hypervisor: MemoryHypervisor) -> None:
    vm = make(hypervisor, "web")
    vm.set("headless", True)
    vm.save()
    vm.set("headless", None)
    vm.set("stubborn", None)  # was never set
    assert vm.diff() == "options.headless: True -> (not set)"
    assert vm.save() is SaveResult.APPLIED
    assert dict(hypervisor.get("web").options) == {}


def test_a_key_that_another_driver_knows_is_ignored_in_silence(uri: URI) -> None:
    class Plain(MemoryHypervisor):
        options = MappingProxyType({})

    vm = Plain.open(uri).new_vm()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        vm.set("headless", "any value")
    assert dict(vm.ignored_options) == {"headless": "any value"}
    assert (dict(vm.options), vm.diff()) == ({}, "")


def test_a_key_that_no_driver_knows_warns_with_the_nearest(hypervisor: MemoryHypervisor) -> None:
    vm = hypervisor.new_vm()
    with pytest.warns(UnknownOptionWarning, match=r"'headles'; it is ignored. Did you mean 'headless'\?") as caught:
        vm.set("headles", True)
    assert Path(caught[0].filename) == Path(__file__)  # it points to the caller's line
    with pytest.warns(UnknownOptionWarning, match="'zzzzzz'; it is ignored.$"):
        vm.set("zzzzzz", None)
    assert dict(vm.ignored_options) == {"headles": True, "zzzzzz": None}
    vm.name = "web"
    assert vm.save() is SaveResult.APPLIED


# Read-only and closed.


def edit_and_save(vm: VM) -> None:
    vm.memory += 1
    vm.save()


def save_new(vm: VM) -> None:
    new = vm.hypervisor.new_vm()
    new.name = "new"
    new.save()


CHANGING: dict[str, Callable[[VM], object]] = {
    "save": edit_and_save,
    "save new": save_new,
    "start": lambda vm: vm.start(),
    "stop": lambda vm: vm.stop(),
    "stop at once": lambda vm: vm.stop(timeout=0),
    "reboot": lambda vm: vm.reboot(),
    "pause": lambda vm: vm.pause(),
    "resume": lambda vm: vm.resume(),
    "destroy": lambda vm: vm.destroy(),
    "destroy by force": lambda vm: vm.destroy(force=True, delete_disk=True),
    "autostart": lambda vm: setattr(vm, "autostart", True),
    "suspend": lambda vm: vm.suspend(),
    "migrate": lambda vm: vm.migrate("memory:///elsewhere"),
    "snapshot": lambda vm: vm.snapshot("new"),
    "revert": lambda vm: vm.revert("none"),
    "delete snapshot": lambda vm: vm.delete_snapshot("none"),
    "clone": lambda vm: vm.clone("twin"),
    "run": lambda vm: vm.run(["true"]),
    "console": lambda vm: vm.console(),
    "resize disk": lambda vm: vm.resize_disk("/images/a", "2 GiB"),
    "add new disk": lambda vm: vm.add_disk("/images/b", "2 GiB"),
    "create disk": lambda vm: vm.hypervisor.create_disk("/images/b", "2 GiB"),
    "delete disk": lambda vm: vm.hypervisor.delete_disk("/images/a"),
    "upload": lambda vm: vm.hypervisor.upload(__file__, "/images/b"),
}


@pytest.mark.parametrize("action", CHANGING)
@pytest.mark.parametrize("state", [State.STOPPED, State.RUNNING, State.PAUSED])
def test_read_only_refuses_whatever_changes(
    hypervisor: MemoryHypervisor, monkeypatch: pytest.MonkeyPatch, action: str, state: State
) -> None:
    monkeypatch.setattr(MemoryHypervisor, "features", frozenset(Feature))
    uuid = make(hypervisor, "web").uuid
    hypervisor.host.states[uuid] = state
    before = dict(hypervisor.host.specs), dict(hypervisor.host.states)
    with MemoryHypervisor.open(hypervisor.uri, readonly=True) as looking:
        assert looking.readonly
        vm = looking.get("web")
        with pytest.raises(ReadOnlyError, match=f"Cannot .*{looking.uri} is read-only.*without readonly=True"):
            CHANGING[action](vm)
        assert (vm.state, vm.memory, looking.summaries()[0].name) == (state, 1024 * 1024 + (action == "save"), "web")
    assert (hypervisor.host.specs, hypervisor.host.states) == before


def test_connect_passes_read_only_on(uri: URI) -> None:
    with connect(uri, readonly=True) as hypervisor:
        assert hypervisor.readonly
    with connect(uri) as hypervisor:
        assert not hypervisor.readonly


LOOKING: dict[str, Callable[[VM], object]] = {
    "memory": lambda vm: vm.memory,
    "networks": lambda vm: vm.networks,
    "network": lambda vm: vm.network(),
    "state": lambda vm: vm.state,
    "spec": lambda vm: vm.spec,
    "native": lambda vm: vm.native,
    "reload": lambda vm: vm.reload(),
    "new_vm": lambda vm: vm.hypervisor.new_vm(),
    "find": lambda vm: vm.hypervisor.find("web"),
    "get": lambda vm: vm.hypervisor.get("web"),
    "vms": lambda vm: vm.hypervisor.vms(),
    "summaries": lambda vm: vm.hypervisor.summaries(),
    "version": lambda vm: vm.hypervisor.version,
}


@pytest.mark.parametrize("action", [*CHANGING, *LOOKING])
def test_a_closed_connection_says_so(
    hypervisor: MemoryHypervisor, monkeypatch: pytest.MonkeyPatch, action: str
) -> None:
    monkeypatch.setattr(MemoryHypervisor, "features", frozenset(Feature))
    make(hypervisor, "web")
    vm = hypervisor.get("web")
    hypervisor.close()
    with pytest.raises(ConnectionClosedError, match=r"was closed before.*connect\(\) again"):
        (CHANGING | LOOKING)[action](vm)
    hypervisor.close()  # twice does nothing
    assert "closed" in repr(hypervisor)
    assert (vm.name, repr(vm)) == ("web", f"<MemoryVM 'web' on {hypervisor.uri}>")


def test_leaving_the_with_block_closes(uri: URI) -> None:
    with pytest.raises(RuntimeError, match="boom"), connect(uri) as hypervisor:
        raise RuntimeError("boom")
    with pytest.raises(ConnectionClosedError):
        hypervisor.vms()


# Threads.

THREADS = 8


def at_once(work: Callable[[int], Any]) -> list[Any]:
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, range(THREADS)))


def test_threads_share_a_connection(hypervisor: MemoryHypervisor) -> None:
    def work(number: int) -> int:
        for turn in range(25):
            name = f"vm-{number}-{turn}"
            make(hypervisor, name)
            found = hypervisor.get(name)
            found.memory += number
            found.save()
            found.start()
            hypervisor.vms()
            hypervisor.summaries()
            assert hypervisor.get(found.uuid).memory == 1024 * 1024 + number
            if turn % 5:
                found.destroy(force=True)
                assert hypervisor.find(name) is None
        return number

    assert at_once(work) == list(range(THREADS))
    expected = sorted(f"vm-{number}-{turn}" for number in range(THREADS) for turn in range(0, 25, 5))
    assert [vm.name for vm in hypervisor.vms()] == expected


def test_one_of_many_gets_the_name(hypervisor: MemoryHypervisor) -> None:
    def work(number: int) -> bool:
        try:
            make(hypervisor, "web")
        except VMExistsError:
            return False
        return True

    assert sum(at_once(work)) == 1
    assert len(hypervisor.vms()) == 1


def test_many_destroy_one_while_others_look(hypervisor: MemoryHypervisor) -> None:
    for _ in range(50):
        make(hypervisor, "web").start()
        handles = [hypervisor.get("web") for _ in range(THREADS)]

        def work(number: int, handles: list[VM] = handles) -> None:
            try:
                if number % 2:
                    handles[number].destroy(force=True)
                else:
                    edit_and_save(handles[number])
                    assert handles[number].state in (State.RUNNING, State.STOPPED)
            except VMNotFoundError:
                pass  # another thread was faster

        at_once(work)
        assert hypervisor.vms() == []
        assert hypervisor.host.states == {}


def test_threads_changing_different_vms_fields_lose_nothing(hypervisor: MemoryHypervisor) -> None:
    make(hypervisor, "web")
    handles = [hypervisor.get("web") for _ in range(2)]
    assert [handle.memory for handle in handles] == [1024 * 1024] * 2
    handles[0].memory = 5
    handles[1].cpus = 7

    with ThreadPoolExecutor(2) as pool:
        assert list(pool.map(VM.save, handles)) == [SaveResult.APPLIED] * 2
    found = hypervisor.get("web")
    assert (found.memory, found.cpus) == (5, 7)
