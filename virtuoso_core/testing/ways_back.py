"""WaysBackGroup: snapshots and clones."""

from __future__ import annotations

import posixpath
import secrets
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from ..errors import (
    ImageExistsError,
    InvalidStateError,
    InvalidValueError,
    ReadOnlyError,
    SnapshotExistsError,
    SnapshotNotFoundError,
    UnsupportedError,
    VirtuosoError,
    VMExistsError,
)
from ..facts import Snapshot
from ..hypervisor import Hypervisor
from ..spec import Feature, MiB, State
from ..vm import VM
from .base import EXAMPLES, MakeVM, Proved, SuiteBase
from .lifecycle import assert_state


def kept(vm: VM) -> list[Snapshot]:
    """A look at the snapshots, which type checkers take for a constant."""
    return list(vm.snapshots)


class WaysBackGroup(SuiteBase):
    """What those promise."""

    @pytest.fixture
    def own_disk(self, connection: Hypervisor, disk_image: str) -> Iterator[str]:
        """A disk that snapshots and clones can be made of. Override it where that is another one than a new one."""
        if Feature.CREATE_DISK not in connection.features:
            yield disk_image
            return
        storage = connection._storage()
        path = f"{posixpath.dirname(disk_image)}/suite-{secrets.token_hex(4)}.{storage.formats[0]}"
        connection.create_disk(path, "1 MiB")
        yield path
        storage.delete(path)

    @pytest.fixture
    def removed(self, connection: Hypervisor) -> Iterator[list[VM]]:
        """Clones that a test made: they are removed with their disks."""
        made: list[VM] = []
        yield made
        for vm in made:
            disks = vm.disks
            vm.destroy(force=True)
            for disk in disks:
                connection._storage().delete(disk)

    def test_ways_back_where_there_are_none(self, connection: Hypervisor, make: MakeVM) -> None:
        """They are refused in words, before anything is touched."""
        calls: dict[Feature, list[Callable[[VM], Any]]] = {
            Feature.SNAPSHOT: [
                lambda vm: vm.snapshots,
                lambda vm: vm.snapshot("a"),
                lambda vm: vm.revert("a"),
                lambda vm: vm.delete_snapshot("a"),
            ],
            Feature.CLONE: [lambda vm: vm.clone("virtuoso-suite-clone")],
        }
        missing = [call for feature, of in calls.items() if feature not in connection.features for call in of]
        if not missing:
            pytest.skip(f"{connection.name} has snapshots and clones")
        vm = make()
        for call in missing:
            with pytest.raises(UnsupportedError, match=connection.name):
                call(vm)

    def _need(self, connection: Hypervisor, feature: Feature) -> None:
        if feature not in connection.features:
            pytest.skip(f"{connection.name} declares no {feature}")

    def test_snapshots(self, connection: Hypervisor, make: MakeVM, own_disk: str, proved: Proved) -> None:
        """Taken, listed in their order, gone back to, dropped: the others stay, and so does the VM."""
        self._need(connection, Feature.SNAPSHOT)
        vm = make(disk_image=own_disk, memory=512 * MiB)
        assert kept(vm) == []
        first = vm.snapshot("first", "before <all> & everything")
        assert (first.name, first.description, first.state) == ("first", "before <all> & everything", State.STOPPED)
        assert (first.parent, first.current) == (None, True)
        changes = {"memory"} <= connection.modifiable and Feature.MODIFY in connection.features
        if changes:
            vm.memory = 576 * MiB
            vm.save()
        vm.snapshot("second")
        assert [(each.name, each.parent, each.current) for each in kept(vm)] == [
            ("first", None, False),
            ("second", "first", True),
        ]
        vm.memory += 64 * MiB
        vm.revert("first")
        assert vm.diff() == ""
        assert vm.memory == 512 * MiB
        assert [each.current for each in kept(vm)] == [True, False]
        parent = None
        try:
            vm.delete_snapshot("first")
        except UnsupportedError:  # both the VM and the second go on from it
            parent = "first"
            assert len(kept(vm)) == 2
        assert [(each.name, each.parent) for each in kept(vm)][-1] == ("second", parent)
        assert connection.get(vm.uuid).memory == 512 * MiB
        if changes:
            vm.revert("second")
            assert vm.memory == 576 * MiB
        for name in ("second", parent):
            if name is not None:
                vm.delete_snapshot(name)
        assert kept(vm) == []
        assert_state(vm, State.STOPPED)
        proved("feature:snapshot")

    def test_snapshots_that_are_not_there(self, connection: Hypervisor, make: MakeVM, own_disk: str) -> None:
        """What there is is told; nothing changes."""
        self._need(connection, Feature.SNAPSHOT)
        new = make(save=False)
        for call in (lambda: new.snapshots, lambda: new.snapshot("a"), lambda: new.revert("a")):
            with pytest.raises(InvalidStateError, match="never saved"):
                call()
        vm = make(disk_image=own_disk)
        vm.snapshot("before-upgrade")
        for act in (vm.revert, vm.delete_snapshot):
            with pytest.raises(SnapshotNotFoundError, match=r"Did you mean 'before-upgrade'\? It has: 'b"):
                act("before-upgrad")
        with pytest.raises(SnapshotExistsError, match="'before-upgrade'"):
            vm.snapshot("before-upgrade")
        for name in ("", "a/b", ".hidden", "7", "a\nb", None):
            with pytest.raises(InvalidValueError, match="snapshot"):
                vm.snapshot(name)  # type: ignore[arg-type]
        with pytest.raises(InvalidValueError, match="description"):
            vm.snapshot("good", "\0")
        assert [each.name for each in kept(vm)] == ["before-upgrade"]

    def test_snapshot_with_memory(self, connection: Hypervisor, make: MakeVM, own_disk: str) -> None:
        """The VM runs again if it ran then, and is off if it was off."""
        self._need(connection, Feature.SNAPSHOT)
        vm = make(disk_image=own_disk)
        vm.snapshot("off")
        self.start(vm)
        assert vm.snapshot("on").state is State.RUNNING
        assert_state(vm, State.RUNNING)
        vm.stop(timeout=0)
        vm.revert("on")
        assert_state(vm, State.RUNNING)
        vm.revert("off")
        assert_state(vm, State.STOPPED)
        for name in ("on", "off"):
            vm.delete_snapshot(name)
        if Feature.SUSPEND in connection.features:
            self.start(vm)
            vm.suspend()
            with pytest.raises(InvalidStateError, match="suspended"):
                vm.snapshot("suspended")

    def test_ways_back_readonly(self, connection: Hypervisor, make: MakeVM, own_disk: str, uri: str) -> None:
        """Looking works, changing does not."""
        if Feature.READONLY not in connection.features:
            pytest.skip(f"{connection.name} declares no read-only connections")
        vm = make(disk_image=own_disk)
        with self.connect(uri, readonly=True) as readonly:
            seen = readonly.get(vm.uuid)
            if Feature.SNAPSHOT in connection.features:
                assert seen.snapshots == ()
                for call in (seen.snapshot, seen.revert, seen.delete_snapshot):
                    with pytest.raises(ReadOnlyError):
                        call("a")
            if Feature.CLONE in connection.features:
                with pytest.raises(ReadOnlyError):
                    seen.clone("virtuoso-suite-clone")

    @pytest.mark.parametrize("linked", [True, False])
    def test_clone(
        self,
        connection: Hypervisor,
        make: MakeVM,
        own_disk: str,
        linked: bool,
        removed: list[VM],
        proved: Proved,
    ) -> None:
        """A copy with a name, disks and cards of its own, and nothing else that differs."""
        self._need(connection, Feature.CLONE)
        vm = make(save=False, disk_image=own_disk, memory=320 * MiB)
        for type in list(connection.networks)[:1] * 2:
            self.add_network(vm, type)
        vm.set("headless", True)
        vm.save()
        vm.reload()
        before = vm._current()
        told: list[tuple[int, int]] = []
        twin = vm.clone(f"{vm.name}-2", linked=linked, progress=lambda done, total: told.append((done, total)))
        removed.append(twin)
        found = connection.get(twin.name)
        assert (found.uuid, found.state) == (twin.uuid, State.STOPPED)
        assert found.uuid != vm.uuid
        as_before = replace(found._current(), name=vm.name, disk_image=own_disk, networks=before.networks)
        assert as_before == before
        assert not {card.mac_address for card in found.networks} & {card.mac_address for card in vm.networks}
        cards = [replace(card, mac_address="") for card in found.networks]
        assert cards == [replace(card, mac_address="") for card in vm.networks]
        assert found.disk_image == connection.disk_info(found.disk_image or "").path
        assert posixpath.dirname(found.disk_image) == posixpath.dirname(own_disk)
        assert connection.disk_info(found.disk_image).backing == (own_disk if linked else None)
        assert linked or told[-1] == (1024 * 1024, 1024 * 1024)
        vm.reload()
        assert vm._current() == before
        proved("feature:clone")

    def test_clones_that_cannot_be(self, connection: Hypervisor, make: MakeVM, own_disk: str) -> None:
        """They are refused, and nothing is left of them."""
        self._need(connection, Feature.CLONE)
        vm, other = make(disk_image=own_disk), make()
        for taken in (vm.name, other.name):
            with pytest.raises(VMExistsError, match=taken):
                vm.clone(taken)
        with pytest.raises(InvalidValueError):
            vm.clone("a/b")
        with pytest.raises(InvalidStateError, match="never saved"):
            make(save=False).clone(f"{vm.name}-2")
        twin = vm.clone(f"{vm.name}-2")
        image = twin.disk_image or ""
        twin.destroy()
        with pytest.raises(ImageExistsError):
            vm.clone(f"{vm.name}-2")
        connection.delete_disk(image)
        self.start(vm)
        with pytest.raises(InvalidStateError, match="running"):
            vm.clone(f"{vm.name}-2")
        assert connection.find(f"{vm.name}-2") is None
        assert not connection._storage().exists(image)

    @pytest.mark.parametrize("linked", [True, False])
    def test_each_call_of_a_clone_may_fail(
        self,
        connection: Hypervisor,
        make: MakeVM,
        own_disk: str,
        linked: bool,
        break_call: Callable[[int], list[str]],
    ) -> None:
        """Either the clone is there whole, or nothing is left of it."""
        self._need(connection, Feature.CLONE)
        vm = make(disk_image=own_disk)
        before, name, storage = vm.spec, f"{vm.name}-2", connection._storage()
        image = posixpath.join(posixpath.dirname(own_disk), f"{name}.{storage.formats[0]}")
        for at in range(1, 200, 1 if EXAMPLES.max_examples > 10 else 7):  # each one, or some on a slow hypervisor
            made = break_call(at)
            try:
                vm.clone(name, linked=linked)
            except VirtuosoError:
                break_call(0)
                assert connection.find(name) is None, made
                assert not storage.exists(image), made
            else:
                break_call(0)
                connection.get(name).destroy()
                connection.delete_disk(image)
            assert connection.get(vm.uuid).spec == before
            if len(made) < at:
                return
        pytest.fail("a clone takes more than 200 calls")
