"""RunningGroup: statistics, suspending, autostart, live changes, events."""

from __future__ import annotations

import time

import pytest

from ..errors import InvalidStateError, InvalidValueError, UnsupportedError, VMExistsError, VMNotFoundError
from ..events import EventStream, EventType
from ..hypervisor import Hypervisor
from ..spec import Feature, MiB, SaveResult, State
from .base import MakeVM, Proved, SuiteBase
from .lifecycle import assert_state


class RunningGroup(SuiteBase):
    """What those promise."""

    # Live changes.

    def test_live_cpus(self, connection: Hypervisor, make: MakeVM, disk_image: str, proved: Proved) -> None:
        """Where there is room they are in force at once; what has none, or is no part of it, waits for the next start.

        Without the feature everything waits.
        """
        self.need(connection, "cpus")
        vm = make(disk_image=disk_image, cpus=1)
        if "max_cpus" in connection.options:
            vm.set("max_cpus", 2)
            vm.save()
        self.start(vm)
        vm.cpus = 2
        if Feature.LIVE not in connection.features:
            try:
                assert vm.save() is SaveResult.NEXT_START
            except InvalidStateError:
                pass  # it changes only VMs that are off
            return
        result = vm.save()
        assert result is SaveResult.APPLIED or "max_cpus" not in connection.options
        assert connection.get(vm.uuid).cpus == 2
        vm.stop(timeout=0)
        vm.reload()
        assert vm.cpus == 2
        proved("feature:live")

    def test_live_memory(self, connection: Hypervisor, make: MakeVM, disk_image: str) -> None:
        """Less than it started with is in force at once."""
        self.need(connection, "memory")
        if Feature.LIVE not in connection.features:
            pytest.skip(f"{connection.name} declares that it changes no running VM")
        vm = make(disk_image=disk_image, memory=256 * MiB)
        self.start(vm)
        vm.memory = 192 * MiB
        assert vm.save() is SaveResult.APPLIED
        assert connection.get(vm.uuid).memory == 192 * MiB
        vm.memory = 256 * MiB
        assert vm.save() is SaveResult.APPLIED
        assert_state(vm, State.RUNNING)

    # Autostart.

    def test_autostart(self, connection: Hypervisor, make: MakeVM, proved: Proved) -> None:
        """Off at first, set at once, also twice; without the feature it is refused."""
        vm = make()
        if Feature.AUTOSTART not in connection.features:
            with pytest.raises(UnsupportedError, match="autostart"):
                assert vm.autostart
            with pytest.raises(UnsupportedError, match="autostart"):
                vm.autostart = True
            return
        assert vm.autostart is False
        for on in (True, True, False, False):
            vm.autostart = on
            assert connection.get(vm.uuid).autostart is on
        with pytest.raises(InvalidValueError):
            vm.autostart = "yes"  # type: ignore[assignment]
        vm.autostart = True
        with pytest.raises(InvalidStateError):
            make(save=False).autostart = True
        proved("feature:autostart")

    # Statistics.

    def test_stats(self, connection: Hypervisor, make: MakeVM, disk_image: str, proved: Proved) -> None:
        """Of each VM that runs, and of no other; without the feature they are refused."""
        vm, off = make(disk_image=disk_image, memory=256 * MiB, cpus=2), make()
        if Feature.STATS not in connection.features:
            with pytest.raises(UnsupportedError, match="stats"):
                connection.stats()
            with pytest.raises(UnsupportedError, match="stats"):
                vm.stats()
            return
        before = time.time()
        self.start(vm)
        lines = {line.uuid: line for line in connection.stats()}
        assert vm.uuid in lines
        assert off.uuid not in lines
        for line in (lines[vm.uuid], vm.stats()):
            assert (line.name, line.uuid, line.cpus, line.memory) == (vm.name, vm.uuid, 2, 256 * MiB)
            assert before <= line.time <= time.time()
            assert line.cpu_time is None or line.cpu_time >= 0
        for other in (off, make(save=False)):
            with pytest.raises(InvalidStateError):
                other.stats()
        proved("feature:stats")

    # Suspending.

    def test_suspend(self, connection: Hypervisor, make: MakeVM, disk_image: str, proved: Proved) -> None:
        """Its memory is kept, start() goes on; a suspended one stays so; without the feature it is refused."""
        vm = make(disk_image=disk_image, memory=128 * MiB)
        if Feature.SUSPEND not in connection.features:
            self.start(vm)
            with pytest.raises(UnsupportedError, match="suspend"):
                vm.suspend()
            return
        with pytest.raises(InvalidStateError, match="stopped"):
            vm.suspend()
        self.start(vm)
        vm.suspend()
        vm.suspend()
        assert_state(vm, State.SUSPENDED)
        assert next(line.state for line in connection.summaries() if line.uuid == vm.uuid) is State.SUSPENDED
        if Feature.MODIFY in connection.features and "memory" in connection.modifiable:
            vm.memory = 192 * MiB
            try:
                assert vm.save() is SaveResult.NEXT_START
            except InvalidStateError:
                vm.reload()  # it changes only VMs that are off
        self.start(vm)
        assert_state(vm, State.RUNNING)
        if Feature.PAUSE in connection.features:
            vm.pause()
        vm.suspend()
        assert_state(vm, State.SUSPENDED)
        vm.destroy()
        assert connection.find(vm.uuid) is None
        proved("feature:suspend")

    # Migration.

    @pytest.fixture
    def migration_target(self) -> str | None:
        """The URI of another host that VMs can move to, for drivers with that feature; None skips what needs one."""
        return None

    def test_migrate(
        self, connection: Hypervisor, make: MakeVM, disk_image: str, migration_target: str | None, proved: Proved
    ) -> None:
        """It goes on there and is gone here; a name that is taken there is refused; so is all without the feature."""
        if Feature.MIGRATE not in connection.features:
            with pytest.raises(UnsupportedError, match="migrate"):
                make().migrate("memory:///elsewhere")
            return
        with pytest.raises(InvalidStateError, match="stopped"):
            make().migrate(migration_target or f"{connection.schemes[0]}:///elsewhere")
        if migration_target is None:
            pytest.skip("no other host to move a VM to")
        vm = make(disk_image=disk_image)
        self.start(vm)
        with self.connect(migration_target) as target:
            other = target.new_vm()
            other.name = vm.name
            other.save()
            with pytest.raises(VMExistsError):
                vm.migrate(migration_target)
            assert_state(vm, State.RUNNING)
            other.destroy()
        moved = vm.migrate(migration_target)
        with moved.hypervisor:
            try:
                assert_state(moved, State.RUNNING)
                assert connection.find(vm.uuid) is None
                with pytest.raises(VMNotFoundError, match="moved"):
                    vm.start()
            finally:
                moved.destroy(force=True)
        proved("feature:migrate")

    # Events.

    def test_events(self, connection: Hypervisor, make: MakeVM, disk_image: str, proved: Proved) -> None:
        """What happens to a VM is told in its order, to all that listen, until they close."""
        if Feature.EVENTS not in connection.features:
            with pytest.raises(UnsupportedError):
                connection.events()
            return
        with connection.events(timeout=10) as events, connection.events(timeout=10) as others:
            vm = make(disk_image=disk_image)
            self.start(vm)
            expected = [EventType.SAVED, EventType.STARTED]
            if Feature.PAUSE in connection.features:
                vm.pause()
                vm.resume()
                expected += [EventType.PAUSED, EventType.RESUMED]
            vm.stop(timeout=0)
            vm.destroy()
            expected += [EventType.STOPPED, EventType.DESTROYED]
            uuid = vm.uuid
            for stream in (events, others):
                told = self.events_of(stream, uuid, EventType.DESTROYED)
                assert told == expected
        assert list(events) == []
        proved("feature:events")

    @staticmethod
    def events_of(stream: EventStream, uuid: str, last: EventType, timeout: float = 60) -> list[EventType]:
        """What is told of one VM, up to the last that is waited for; other tests may have VMs there."""
        told: list[EventType] = []
        end = time.monotonic() + timeout
        for event in stream:
            if event.uuid == uuid:
                told.append(event.type)
            if told[-1:] == [last] or time.monotonic() > end:
                break
        return told
