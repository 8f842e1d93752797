"""Lifecycle and idempotency: from new_vm() to destroy(), each step once and twice."""

from __future__ import annotations

from pathlib import Path

import pytest

from ..errors import InvalidStateError, UnsupportedError
from ..hypervisor import Hypervisor
from ..spec import Feature, MiB, SaveResult, State
from ..vm import VM
from .base import MakeVM, Proved, SuiteBase


def assert_state(vm: VM, state: State) -> None:
    """A look at the live state, which type checkers take for a constant."""
    assert vm.state is state


class LifecycleGroup(SuiteBase):
    """What happens to a VM over its life."""

    @pytest.fixture
    def running(self, make: MakeVM, disk_image: str) -> VM:
        """A VM that was started, from a disk without a system on it."""
        vm = make(disk_image=disk_image)
        vm.start()
        return vm

    def test_the_same_program_everywhere(self, connection: Hypervisor, make: MakeVM, disk_image: str) -> None:
        """The guide's program from end to end; nothing in it but the URI and the image knows where it runs."""
        hypervisor = connection
        vm = make(save=False)
        name = vm.name
        vm.memory = 512 * MiB
        vm.disk_image = disk_image
        if "nat" in hypervisor.networks:
            vm.network("nat")
        vm.set("headless", True)
        vm.save()
        self.run_guest(vm)
        found = hypervisor.find(name)
        assert found is not None
        assert (found.memory, found.disk_image) == (512 * MiB, disk_image)
        if Feature.MODIFY in hypervisor.features:
            found.memory += 64 * MiB
            assert found.save() is SaveResult.APPLIED
            assert hypervisor.get(name).memory == 576 * MiB
        found.destroy()
        assert hypervisor.find(name) is None

    def run_guest(self, vm: VM) -> None:
        """Override it where no guest can be started."""
        vm.start()
        assert_state(vm, State.RUNNING)
        vm.stop(timeout=1)
        assert_state(vm, State.STOPPED)

    def test_new_vm_is_not_there_yet(self, connection: Hypervisor, make: MakeVM) -> None:
        """It is only yours until it is saved."""
        vm = make(save=False)
        assert (vm.state, vm.uuid) == (State.NEW, "")
        assert connection.find(vm.name) is None
        with pytest.raises(InvalidStateError):
            vm.start()

    def test_saved_vm_is_found(self, connection: Hypervisor, make: MakeVM) -> None:
        """By name and by UUID, alone and among all."""
        vm = make()
        assert_state(vm, State.STOPPED)
        for key in (vm.name, vm.uuid):
            found = connection.get(key)
            assert (found.name, found.uuid) == (vm.name, vm.uuid)
        assert vm.name in [each.name for each in connection.vms()]
        line = next(line for line in connection.summaries() if line.uuid == vm.uuid)
        assert (line.name, line.state, line.memory, line.cpus) == (vm.name, State.STOPPED, vm.memory, vm.cpus)

    def test_start_and_stop(self, connection: Hypervisor, running: VM) -> None:
        """Doing it twice is as good as once, through any object for the VM."""
        assert_state(running, State.RUNNING)
        assert next(line.state for line in connection.summaries() if line.uuid == running.uuid) is State.RUNNING
        running.start()
        other = connection.get(running.uuid)
        other.stop(timeout=0)
        assert_state(running, State.STOPPED)
        running.stop()
        running.stop(force=False)
        assert_state(other, State.STOPPED)

    def test_stop_asks_then_pulls(self, connection: Hypervisor, running: VM, proved: Proved) -> None:
        """Whatever the guest does, the VM is off in the end."""
        running.stop(timeout=1)
        assert_state(running, State.STOPPED)
        if Feature.SHUTDOWN in connection.features:
            proved("feature:shutdown")

    def test_pause_and_resume(self, connection: Hypervisor, running: VM, proved: Proved) -> None:
        """Twice is as good as once; without the feature it is refused."""
        if Feature.PAUSE not in connection.features:
            with pytest.raises(UnsupportedError, match="pause"):
                running.pause()
            return
        running.pause()
        running.pause()
        assert_state(running, State.PAUSED)
        running.resume()
        running.resume()
        assert_state(running, State.RUNNING)
        running.pause()
        running.start()
        assert_state(running, State.RUNNING)
        proved("feature:pause")

    def test_reboot(self, connection: Hypervisor, running: VM, proved: Proved) -> None:
        """It runs afterwards; without the feature it is refused."""
        if Feature.REBOOT not in connection.features:
            with pytest.raises(UnsupportedError, match="reboot"):
                running.reboot()
            return
        running.reboot()
        assert_state(running, State.RUNNING)
        proved("feature:reboot")

    def test_control_of_a_stopped_vm(self, connection: Hypervisor, make: MakeVM) -> None:
        """What needs a running guest says so."""
        vm = make()
        for feature, control in ((Feature.PAUSE, vm.pause), (Feature.PAUSE, vm.resume), (Feature.REBOOT, vm.reboot)):
            if feature in connection.features:
                with pytest.raises(InvalidStateError, match="stopped"):
                    control()

    def test_change_while_running(self, connection: Hypervisor, running: VM) -> None:
        """The change is kept, and save() says whether it is in force; or it is refused and can be made later."""
        self.need(connection, "memory")
        before = running.memory
        wanted = before + 64 * 1024
        running.memory = wanted
        try:
            assert running.save() in (SaveResult.APPLIED, SaveResult.NEXT_START)
        except InvalidStateError:  # it changes only VMs that are off
            assert connection.get(running.uuid).memory == before
            running.stop(timeout=0)
            assert running.save() is SaveResult.APPLIED
        assert connection.get(running.uuid).memory == wanted
        running.stop(timeout=0)
        running.reload()
        assert running.memory == wanted

    def test_screenshot(self, connection: Hypervisor, running: VM, proved: Proved) -> None:
        """A PNG file; without the feature it is refused."""
        if Feature.SCREENSHOT not in connection.features:
            with pytest.raises(UnsupportedError, match="screenshot"):
                running.screenshot()
            return
        assert running.screenshot().startswith(b"\x89PNG\r\n\x1a\n")
        proved("feature:screenshot")

    def test_addresses(self, connection: Hypervisor, running: VM, real_uri: str | None, proved: Proved) -> None:
        """None are known of a guest without a system; without the feature it is refused."""
        if Feature.ADDRESSES not in connection.features:
            with pytest.raises(UnsupportedError, match="addresses"):
                running.addresses()
        elif real_uri is None and self.on_libvirt():
            pytest.skip("libvirt's mock invents addresses")
        else:
            assert running.addresses() == ()
            proved("feature:addresses")

    def test_destroy(self, connection: Hypervisor, make: MakeVM, disk_image: str) -> None:
        """It is gone, its disk is not, and destroying it again does nothing."""
        vm = make(disk_image=disk_image)
        name, uuid = vm.name, vm.uuid
        other = connection.get(uuid)
        vm.destroy()
        assert connection.find(name) is None
        assert connection.find(uuid) is None
        vm.destroy()
        other.destroy()
        again = make(disk_image=disk_image)
        assert again.disk_image == disk_image

    def test_destroy_with_its_disk(self, connection: Hypervisor, make: MakeVM, disk_image: str, proved: Proved) -> None:
        """Only when asked to, and not while another VM has it; without the feature it is refused."""
        vm = make(disk_image=disk_image)
        if Feature.DELETE_DISK not in connection.features:
            with pytest.raises(UnsupportedError, match="disk"):
                vm.destroy(delete_disk=True)
            assert_state(vm, State.STOPPED)
            return
        vm.destroy(delete_disk=True)
        assert connection.find(vm.name) is None
        self.assert_deleted(disk_image)
        proved("feature:delete-disk")

    def assert_deleted(self, disk_image: str) -> None:
        """Override it where disk images are not files of this machine."""
        assert not Path(disk_image).exists()

    def test_destroy_of_a_running_vm(self, connection: Hypervisor, running: VM) -> None:
        """It is refused, unless forced."""
        with pytest.raises(InvalidStateError, match="force"):
            running.destroy()
        assert_state(running, State.RUNNING)
        running.destroy(force=True)
        assert connection.find(running.name) is None

    def test_name_is_free_again(self, make: MakeVM) -> None:
        """Nothing of a destroyed VM is left that takes its name."""
        first = make()
        first.destroy()
        second = make(name=first.name)
        assert second.uuid != first.uuid
