"""Saving: only what changed is written, what others changed survives, and a failure leaves the VM as it was."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import pytest

from virtuoso_core import (
    URI,
    VM,
    ConflictError,
    Feature,
    GiB,
    InvalidOptionError,
    InvalidStateError,
    InvalidValueError,
    NotAppliedError,
    Option,
    SaveResult,
    State,
    UnsupportedError,
    VMExistsError,
    VMSpec,
)
from virtuoso_core.spec import option_table
from virtuoso_core.testing.memory import MemoryHypervisor, MemoryVM

MAC = "52:54:00:00:00:01"


class WatchedVM(MemoryVM):
    """Notes each call to its driver; a test may say what the hypervisor makes of a change."""

    _hypervisor: Watched

    def _read(self) -> VMSpec:
        self._hypervisor.calls.append("read")
        return super()._read()

    def _create(self, spec: VMSpec) -> str:
        self._hypervisor.calls.append("create")
        return super()._create(spec)

    def _update(self, spec: VMSpec, changed: frozenset[str]) -> SaveResult:
        self._hypervisor.calls.append("update " + " ".join(sorted(changed)))
        self._hypervisor.meanwhile()
        specs = self._hypervisor.host.specs
        before = specs[self._uuid]
        result = super()._update(spec, changed)
        specs[self._uuid] = self._hypervisor.makes_of_it(before, specs[self._uuid])
        return result

    def _undo_update(self) -> None:
        self._hypervisor.calls.append("undo")
        super()._undo_update()


class Watched(MemoryHypervisor):
    """The hypervisor in memory, with some options more, whose driver's calls are noted."""

    options: Mapping[str, Option] = MappingProxyType(
        {
            **MemoryHypervisor.options,
            **option_table(
                Option("password", "str", "Never shown.", secret=True),
                Option("title", "str", "A title.", same=lambda wanted, found: wanted.lower() == found.lower()),
            ),
        }
    )

    def __init__(self, uri: URI, *, readonly: bool = False) -> None:
        super().__init__(uri, readonly=readonly)
        self.calls: list[str] = []
        self.meanwhile: Callable[[], object] = lambda: None
        self.makes_of_it: Callable[[VMSpec, VMSpec], VMSpec] = lambda before, wanted: wanted

    def _new_vm(self) -> VM:
        return WatchedVM(self, defaults=VMSpec("", GiB, 1))

    def _find_vm(self, key: str) -> VM:
        found = super()._find_vm(key)
        self.calls.append("find")
        return WatchedVM(self, name=found.name, uuid=found.uuid)


@pytest.fixture
def watched(uri: URI) -> Watched:
    return Watched.open(uri)


@pytest.fixture
def vm(watched: Watched) -> VM:
    made = watched.new_vm()
    made.name = "web"
    made.save()
    assert made.memory == GiB
    watched.calls.clear()
    return made


def saved(vm: VM) -> VMSpec:
    """What the host has of it."""
    assert isinstance(vm.hypervisor, Watched)
    return vm.hypervisor.host.specs[vm.uuid]


# What is written.


def test_a_new_vm_is_made_once(watched: Watched) -> None:
    vm = watched.new_vm()
    vm.name = "<&\"'>"
    assert (vm.uuid, vm.state) == ("", State.NEW)
    assert vm.save() is SaveResult.APPLIED
    assert vm.save() is SaveResult.UNCHANGED
    assert watched.calls == ["create"]
    assert vm.state is State.STOPPED
    assert watched.get("<&\"'>").uuid == vm.uuid


def test_a_name_is_needed(watched: Watched) -> None:
    vm = watched.new_vm()
    with pytest.raises(InvalidValueError, match=r"has no name.*vm\.name ="):
        vm.save()
    assert watched.calls == []


def test_a_taken_name_leaves_the_vm_new(watched: Watched, vm: VM) -> None:
    other = watched.new_vm()
    other.name = "web"
    with pytest.raises(VMExistsError, match="already a VM 'web'"):
        other.save()
    assert (other.state, len(watched.vms())) == (State.NEW, 1)
    other.name = "www"
    assert other.save() is SaveResult.APPLIED


def test_saving_what_nobody_edited_makes_no_call(watched: Watched, vm: VM) -> None:
    found = watched.get("web")
    watched.calls.clear()
    assert found.save() is SaveResult.UNCHANGED  # not even looked at
    assert watched.calls == []
    assert (found.memory, found.cpus) == (GiB, 1)
    assert found.save() is SaveResult.UNCHANGED
    assert watched.calls == ["read"]  # by the look


def test_an_edit_taken_back_is_no_edit(watched: Watched, vm: VM) -> None:
    vm.memory += 1
    vm.memory -= 1
    vm.name = "other"
    vm.name = "web"
    vm.remove_network(vm.network())
    vm.set("headless", True)
    vm.set("headless", None)
    assert vm.diff() == ""
    assert vm.save() is SaveResult.UNCHANGED
    assert watched.calls == []


def test_only_the_changed_fields_are_written(watched: Watched, vm: VM) -> None:
    vm.memory, vm.cpus = "2 GiB", 1
    vm.set("headless", "yes")
    assert vm.save() is SaveResult.APPLIED
    assert watched.calls == ["read", "update memory options.headless", "read"]
    assert saved(vm) == VMSpec("web", 2 * GiB, 1, options=MappingProxyType({"headless": True}))


def test_a_running_vm_gets_it_at_its_next_start(vm: VM) -> None:
    vm.start()
    vm.cpus = 4
    vm.set("headless", True)
    assert vm.save() is SaveResult.NEXT_START
    assert vm.save() is SaveResult.UNCHANGED
    assert saved(vm).cpus == 4


def test_renaming(watched: Watched, vm: VM) -> None:
    uuid = vm.uuid
    vm.name = "www"
    assert watched.find("www") is None
    assert vm.save() is SaveResult.APPLIED
    assert (vm.name, vm.uuid, watched.get("www").uuid) == ("www", uuid, uuid)
    assert watched.find("web") is None


def test_renaming_to_a_taken_name_writes_nothing(watched: Watched, vm: VM) -> None:
    other = watched.new_vm()
    other.name = "www"
    other.save()
    vm.name, vm.cpus = "www", 2
    with pytest.raises(VMExistsError, match="already a VM 'www'"):
        vm.save()
    assert saved(vm) == VMSpec("web", GiB, 1)


@pytest.mark.parametrize(("missing", "doing"), [(Feature.RENAME, "rename"), (Feature.MODIFY, "change")])
def test_what_the_hypervisor_cannot_change_is_refused_first(
    watched: Watched, vm: VM, missing: Feature, doing: str
) -> None:
    watched.features = watched.features - {missing}
    vm.name, vm.cpus = "www", 2
    with pytest.raises(UnsupportedError, match=f"The memory driver cannot {doing}.*no feature '{missing}'"):
        vm.save()
    assert watched.calls == []


def test_a_bad_value_leaves_the_field_as_it_was(vm: VM) -> None:
    for field, value in [("name", "a/b"), ("memory", "12 bananas"), ("cpus", 0), ("disk_image", ""), ("disk_image", 7)]:
        with pytest.raises(InvalidValueError):
            setattr(vm, field, value)
    with pytest.raises(InvalidOptionError, match="True or False"):
        vm.set("headless", "maybe")
    assert vm.diff() == ""


# Two at one VM.


@pytest.fixture
def both(watched: Watched, vm: VM) -> tuple[VM, VM]:
    mine, theirs = watched.get("web"), watched.get("web")
    assert mine.memory == theirs.memory
    return mine, theirs


def test_different_fields_both_survive(both: tuple[VM, VM]) -> None:
    mine, theirs = both
    theirs.memory = "2 GiB"
    theirs.set("headless", True)
    theirs.save()
    mine.cpus = 4
    mine.set("stubborn", True)
    assert mine.save() is SaveResult.APPLIED
    options = MappingProxyType({"headless": True, "stubborn": True})
    assert saved(mine) == VMSpec("web", 2 * GiB, 4, options=options)
    assert (mine.memory, mine.options["headless"]) == (2 * GiB, True)


def edit_memory(vm: VM, turn: int) -> None:
    vm.memory = turn * GiB


def edit_networks(vm: VM, turn: int) -> None:
    vm.network(mac_address=f"52:54:00:00:00:0{turn}")


def edit_option(vm: VM, turn: int) -> None:
    vm.set("title", f"title {turn}")


def edit_name(vm: VM, turn: int) -> None:
    vm.name = f"web-{turn}"


EDITS = {"memory": edit_memory, "networks": edit_networks, "options.title": edit_option, "name": edit_name}


@pytest.mark.parametrize("field", EDITS)
def test_the_same_field_is_a_conflict_and_nothing_is_written(both: tuple[VM, VM], field: str) -> None:
    mine, theirs = both
    EDITS[field](theirs, 2)
    theirs.save()
    before = saved(mine)
    EDITS[field](mine, 3)
    mine.cpus = 4
    with pytest.raises(ConflictError, match=r"Nothing was written.*reload\(\).*force=True") as caught:
        mine.save()
    assert caught.value.fields == (field,)
    assert saved(mine) == before
    assert "update" not in " ".join(mine.hypervisor.calls[-2:])  # type: ignore[attr-defined]
    with pytest.raises(ConflictError):
        mine.save()  # still: nothing was forgotten by the first try
    assert mine.save(force=True) is SaveResult.APPLIED
    assert saved(mine).cpus == 4
    assert saved(mine).changed_from(before) == {field, "cpus"}


def test_a_conflict_tells_both_values(both: tuple[VM, VM]) -> None:
    mine, theirs = both
    theirs.memory, mine.memory = "2 GiB", "3 GiB"
    theirs.save()
    with pytest.raises(ConflictError, match="'web' meanwhile: now memory 2 GiB, and you want memory 3 GiB"):
        mine.save()


def test_the_same_new_value_is_no_conflict(watched: Watched, both: tuple[VM, VM]) -> None:
    mine, theirs = both
    theirs.memory = mine.memory = "2 GiB"
    theirs.cpus = 2
    theirs.save()
    watched.calls.clear()
    assert mine.save() is SaveResult.UNCHANGED
    assert watched.calls == ["read"]
    assert (mine.memory, mine.cpus, mine.diff()) == (2 * GiB, 2, "")


def test_what_changes_between_the_look_and_the_write_survives(watched: Watched, both: tuple[VM, VM]) -> None:
    mine, theirs = both

    def meanwhile() -> None:
        watched.meanwhile = lambda: None
        theirs.memory = "2 GiB"
        theirs.save()

    watched.meanwhile = meanwhile
    mine.cpus = 4
    assert mine.save() is SaveResult.APPLIED
    assert saved(mine) == VMSpec("web", 2 * GiB, 4)


def test_reload_drops_the_edits(both: tuple[VM, VM]) -> None:
    mine, theirs = both
    theirs.memory, theirs.name = "2 GiB", "www"
    theirs.save()
    mine.memory, mine.cpus = "3 GiB", 4
    mine.reload()
    assert (mine.name, mine.memory, mine.cpus, mine.diff()) == ("www", 2 * GiB, 1, "")
    mine.memory += GiB
    assert mine.save() is SaveResult.APPLIED
    assert saved(mine).memory == 3 * GiB


# What the hypervisor makes of it.


def test_what_was_not_applied_leaves_the_vm_as_it_was(watched: Watched, vm: VM) -> None:
    watched.makes_of_it = lambda before, wanted: replace(wanted, cpus=before.cpus)
    before = saved(vm)
    vm.cpus, vm.memory, vm.name = 4, "2 GiB", "www"
    with pytest.raises(NotAppliedError, match=r"kept cpus 1 instead of cpus 4\. The VM is as it was") as caught:
        vm.save()
    assert saved(vm) == before
    assert watched.calls[-1] == "undo"
    assert vm.cpus == 4  # the edits are still there
    assert caught.value.uri == str(watched.uri)
    watched.makes_of_it = lambda before, wanted: wanted
    assert vm.save() is SaveResult.APPLIED
    assert saved(vm) == VMSpec("www", 2 * GiB, 4)


def test_another_spelling_of_an_option_is_applied(watched: Watched, vm: VM) -> None:
    watched.makes_of_it = lambda before, wanted: replace(wanted, options=MappingProxyType({"title": "WEB"}))
    vm.set("title", "Web")
    assert vm.save() is SaveResult.APPLIED
    assert vm.options == {"title": "WEB"}


def test_a_default_that_the_hypervisor_spells_out_is_applied(watched: Watched, vm: VM) -> None:
    vm.set("title", "Web")
    vm.save()
    watched.makes_of_it = lambda before, wanted: replace(wanted, options=MappingProxyType({"title": "default"}))
    vm.set("title", None)
    assert vm.save() is SaveResult.APPLIED
    assert vm.options == {"title": "default"}


# What is shown.


def test_diff_and_spec_tell_what_save_would_change(vm: VM) -> None:
    card = vm.network("nat", mac_address=MAC, model="virtio")
    vm.disk_image = "/images/web.qcow2"
    vm.save()
    assert vm.diff() == ""
    vm.remove_network(card)
    vm.network("bridged", mac_address="52:54:00:00:00:02", source="br0")
    vm.name, vm.memory, vm.cpus, vm.disk_image = "www", "1.5 GiB", 2, None
    vm.set("headless", True)
    assert vm.diff().splitlines() == [
        "cpus: 1 -> 2",
        "disk_image: '/images/web.qcow2' -> (not set)",
        "memory: 1 GiB -> 1536 MiB",
        "name: 'web' -> 'www'",
        f"networks: - nat {MAC} model=virtio",
        "networks: + bridged 52:54:00:00:00:02 source=br0",
        "options.headless: (not set) -> True",
    ]
    assert '"name": "www"' in vm.spec
    assert saved(vm).name == "web"


def test_another_order_of_networks_is_a_change(watched: Watched, vm: VM) -> None:
    first, second = vm.network(mac_address=MAC), vm.network(mac_address="52:54:00:00:00:02")
    vm.save()
    vm.remove_network(first)
    vm.network(mac_address=MAC)
    assert vm.diff() == "networks: in another order"
    vm.save()
    assert saved(vm).networks == (second, first)


def refusing(before: VMSpec, wanted: VMSpec) -> VMSpec:
    return before


def test_a_secret_is_shown_nowhere(watched: Watched, vm: VM) -> None:
    other = watched.get("web")
    other.set("password", "hunter2")
    shown = [other.diff(), repr(other)]
    other.save()
    other.set("password", "hunter3")
    shown.append(other.diff())
    vm.set("password", "hunter4")
    with pytest.raises(ConflictError) as conflict:
        vm.save()
    watched.makes_of_it = refusing
    with pytest.raises(NotAppliedError) as refused:
        other.save()
    other.set("password", None)
    shown += [other.diff(), str(conflict.value), str(refused.value)]
    assert not [text for text in shown if "hunter" in text]
    assert shown[0] == "options.password: (not set) -> *** (another)"
    assert shown[3] == "options.password: *** -> (not set)"


def test_reading_makes_one_call_and_new_vms_need_none(watched: Watched, vm: VM) -> None:
    found: Any = watched.get("web")
    watched.calls.clear()
    assert (found.name, found.uuid) == ("web", vm.uuid)
    assert watched.calls == []
    assert (found.memory, found.cpus, found.disk_image, found.networks, dict(found.options)) == (GiB, 1, None, (), {})
    assert watched.calls == ["read"]


def test_a_new_vm_has_nothing_to_reload(watched: Watched) -> None:
    with pytest.raises(InvalidStateError, match="nothing to reload"):
        watched.new_vm().reload()
