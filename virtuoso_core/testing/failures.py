"""Errors and rollback: what goes wrong is said in the right class, and leaves the VM as it was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ..errors import (
    ConflictError,
    ConnectionClosedError,
    InvalidValueError,
    ReadOnlyError,
    VirtuosoError,
    VMExistsError,
    VMNotFoundError,
)
from ..hypervisor import Hypervisor
from ..spec import Feature, SaveResult
from .base import MakeVM, Proved, SuiteBase


class FailuresGroup(SuiteBase):
    """What happens when something is wrong."""

    def test_missing_vm(self, connection: Hypervisor) -> None:
        """find() gives None, get() raises; names that look like UUIDs are names too."""
        for key in ("virtuoso-suite-none", "8dd4a5a1-3c41-4d53-9d2c-0ef9c9e5d5a1", "<&\"'>"):
            assert connection.find(key) is None
            with pytest.raises(VMNotFoundError) as caught:
                connection.get(key)
            assert str(connection.uri) in str(caught.value)

    def test_name_that_looks_like_a_uuid(self, connection: Hypervisor, make: MakeVM) -> None:
        """It is found by its name."""
        name = "8dd4a5a1-3c41-4d53-9d2c-0ef9c9e5d5a1"
        assert make(name=name).uuid != name
        assert connection.get(name).name == name

    def test_name_taken(self, connection: Hypervisor, make: MakeVM) -> None:
        """Neither a new VM nor a renamed one takes another's name."""
        first = make()
        second = make(save=False, name=first.name)
        with pytest.raises(VMExistsError, match=first.name):
            second.save()
        assert [vm.name for vm in connection.vms()].count(first.name) == 1
        second.name = f"{first.name}-2"
        second.save()
        if Feature.RENAME in connection.features:
            before = connection.get(second.uuid).spec
            second.name, second.memory = first.name, second.memory + 1024
            with pytest.raises(VMExistsError, match=first.name):
                second.save()
            assert connection.get(second.uuid).spec == before

    def test_bad_values(self, make: MakeVM) -> None:
        """Each is refused when it is given, and the VM stays as it was."""
        vm = make()
        bad: list[tuple[str, Any]] = [
            *(("name", value) for value in ("", "  ", "x" * 5000, "a/b", "a\nb", "\0", None, 1)),
            *(("memory", value) for value in (0, -1, "12 bananas", 2**63, True, 1.5, None, "")),
            *(("cpus", value) for value in (0, -1, True, "two", 10**9, None)),
            *(("disk_image", value) for value in ("", " ", 1, b"x")),
        ]
        for field, value in bad:
            with pytest.raises(InvalidValueError):
                setattr(vm, field, value)
        assert vm.diff() == ""
        assert vm.save() is SaveResult.UNCHANGED

    def test_no_name(self, connection: Hypervisor) -> None:
        """A VM without a name is not saved."""
        with pytest.raises(InvalidValueError, match="name"):
            connection.new_vm().save()

    def test_deleted_behind_our_back(self, connection: Hypervisor, make: MakeVM) -> None:
        """Every call says so; destroy() has what it wants."""
        vm = make()
        connection.get(vm.uuid).destroy()
        vm_calls: list[Callable[[], Any]] = [lambda: vm.state, vm.start, vm.stop, vm.reload]
        for call in vm_calls:
            with pytest.raises(VMNotFoundError):
                call()
        vm.destroy()
        with pytest.raises(VMNotFoundError, match="destroyed"):
            vm.start()

    def test_deleted_before_a_save(self, connection: Hypervisor, make: MakeVM) -> None:
        """A save does not bring it back."""
        self.need(connection, "memory")
        vm = make()
        vm.memory += 1024
        connection.get(vm.uuid).destroy()
        with pytest.raises(VMNotFoundError):
            vm.save()
        assert connection.find(vm.name) is None

    def test_conflict(self, connection: Hypervisor, make: MakeVM, proved: Proved) -> None:
        """Different fields both survive; the same field is refused, unless forced."""
        self.need(connection, "memory")
        vm = make(cpus=1)
        other = connection.get(vm.uuid)
        vm.memory += 1024
        other.cpus = 2
        other.save()
        vm.save()
        both = connection.get(vm.uuid)
        assert (both.memory, both.cpus) == (vm.memory, 2)
        mine, theirs = connection.get(vm.uuid), connection.get(vm.uuid)
        mine.memory += 64 * 1024
        theirs.memory += 128 * 1024
        theirs.save()
        with pytest.raises(ConflictError, match="memory") as caught:
            mine.save()
        assert caught.value.fields == ("memory",)
        assert connection.get(vm.uuid).memory == theirs.memory
        mine.save(force=True)
        assert connection.get(vm.uuid).memory == mine.memory
        proved("feature:modify")

    def test_readonly(self, connection: Hypervisor, make: MakeVM, uri: str, proved: Proved) -> None:
        """Looking works, changing does not."""
        if Feature.READONLY not in connection.features:
            pytest.skip(f"{connection.name} declares no read-only connections")
        vm = make()
        with self.connect(uri, readonly=True) as readonly:
            seen = readonly.get(vm.uuid)
            assert (seen.memory, seen.state) == (vm.memory, vm.state)
            calls: list[Callable[[], Any]] = [seen.start, seen.stop, seen.destroy]
            calls += [seen.pause] if Feature.PAUSE in connection.features else []
            calls += [seen.reboot] if Feature.REBOOT in connection.features else []
            for call in calls:
                with pytest.raises(ReadOnlyError):
                    call()
            seen.memory += 1024
            with pytest.raises(ReadOnlyError):
                seen.save()
            new = readonly.new_vm()
            new.name = "virtuoso-suite-readonly"
            with pytest.raises(ReadOnlyError):
                new.save()
        assert connection.get(vm.uuid).memory == vm.memory
        proved("feature:readonly")

    def test_closed(self, uri: str, make: MakeVM) -> None:
        """A closed connection says so; closing twice does nothing."""
        saved = make()
        hypervisor = self.connect(uri)
        vm = hypervisor.get(saved.uuid)
        hypervisor.close()
        hypervisor.close()
        closed_calls: list[Callable[[], Any]] = [
            hypervisor.vms,
            hypervisor.summaries,
            hypervisor.new_vm,
            lambda: hypervisor.version,
            lambda: hypervisor.find("x"),
            lambda: vm.state,
            lambda: vm.memory,
            vm.start,
            vm.destroy,
        ]
        for call in closed_calls:
            with pytest.raises(ConnectionClosedError):
                call()

    def test_failed_save_leaves_everything(self, connection: Hypervisor, make: MakeVM, disk_image: str) -> None:
        """A disk that does not exist, where that matters; the VM and the draft stay as they were."""
        self.need(connection, "memory")
        vm = make(disk_image=disk_image)
        before = connection.get(vm.uuid).spec
        vm.disk_image, vm.memory = f"{disk_image}.missing", vm.memory + 1024
        try:
            vm.save()
        except VirtuosoError:
            assert connection.get(vm.uuid).spec == before
            assert "memory" in vm.diff()
            vm.disk_image = disk_image
        vm.save()
        assert connection.get(vm.uuid).memory == vm.memory
