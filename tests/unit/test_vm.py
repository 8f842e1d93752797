"""Controlling a VM: idempotent, waiting, refused in words. On the hypervisor in memory and small variations of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from virtuoso_core import (
    URI,
    VM,
    EventType,
    Feature,
    HypervisorError,
    ImageInUseError,
    InvalidStateError,
    InvalidValueError,
    State,
    StopTimeoutError,
    UnsupportedError,
    VMNotFoundError,
    VMSpec,
)
from virtuoso_core.testing.memory import MemoryHypervisor, MemoryVM


class RecordingVM(MemoryVM):
    """Notes what its driver is asked to do to the guest."""

    def __init__(self, hypervisor: MemoryHypervisor, **keywords: Any) -> None:
        super().__init__(hypervisor, **keywords)
        self.calls: list[str] = []

    def _start(self) -> None:
        self.calls.append("start")
        super()._start()

    def _power_off(self) -> None:
        self.calls.append("power off")
        super()._power_off()

    def _request_stop(self) -> None:
        self.calls.append("request stop")
        super()._request_stop()

    def _reboot(self) -> None:
        self.calls.append("reboot")
        super()._reboot()

    def _pause(self) -> None:
        self.calls.append("pause")
        super()._pause()

    def _resume(self) -> None:
        self.calls.append("resume")
        super()._resume()

    def _undefine(self) -> None:
        self.calls.append("undefine")
        super()._undefine()


class SlowVM(RecordingVM):
    """Its guest goes off at the third look after it was asked to."""

    looks = 0

    def _request_stop(self) -> None:
        self.calls.append("request stop")
        self.looks = 3

    def _get_state(self) -> State:
        if self.looks:
            self.looks -= 1
            if not self.looks:
                self._set_state(State.STOPPED, EventType.STOPPED)
        return super()._get_state()


class DeletingVM(RecordingVM):
    """Can delete disk images."""

    def _delete_image(self, path: str) -> None:
        self.calls.append(f"delete {path}")


Make = Callable[..., Any]


@pytest.fixture
def make(hypervisor: MemoryHypervisor) -> Make:
    """Makes a saved VM, in a state, of a class."""

    def made(state: State = State.STOPPED, kind: type[RecordingVM] = RecordingVM, **options: object) -> RecordingVM:
        vm = kind(hypervisor, defaults=VMSpec("", 1024, 1))
        vm.name = f"web-{len(hypervisor.vms())}"
        vm.disk_image = "/images/web.qcow2"
        for key, value in options.items():
            vm.set(key, value)
        vm.save()
        hypervisor.host.states[vm.uuid] = state
        return vm

    return made


@pytest.fixture
def poor(uri: URI, make: Make) -> MemoryHypervisor:
    """A connection to the same host by a driver that can do the bare minimum."""

    class Poor(MemoryHypervisor):
        name = "poor"
        features = frozenset()

    return Poor.open(uri)


# Start.


def test_a_life(make: Make) -> None:
    vm = make()
    states = [vm.state]
    for step in (vm.start, vm.pause, vm.resume, vm.reboot, vm.stop, vm.start, vm.stop):
        step()
        states.append(vm.state)
    running, stopped = State.RUNNING, State.STOPPED
    assert states == [stopped, running, State.PAUSED, running, running, stopped, running, stopped]


@pytest.mark.parametrize(
    ("state", "action", "calls", "after"),
    [
        (State.STOPPED, "start", ["start"], State.RUNNING),
        (State.RUNNING, "start", [], State.RUNNING),
        (State.PAUSED, "start", ["resume"], State.RUNNING),
        (State.SUSPENDED, "start", ["start"], State.RUNNING),
        (State.CRASHED, "start", ["power off", "start"], State.RUNNING),
        (State.STOPPED, "stop", [], State.STOPPED),
        (State.SUSPENDED, "stop", [], State.SUSPENDED),
        (State.CRASHED, "stop", ["power off"], State.STOPPED),
        (State.RUNNING, "stop", ["request stop"], State.STOPPED),
        (State.PAUSED, "stop", ["resume", "request stop"], State.STOPPED),
        (State.RUNNING, "pause", ["pause"], State.PAUSED),
        (State.PAUSED, "pause", [], State.PAUSED),
        (State.PAUSED, "resume", ["resume"], State.RUNNING),
        (State.RUNNING, "resume", [], State.RUNNING),
        (State.RUNNING, "reboot", ["reboot"], State.RUNNING),
    ],
)
def test_only_what_is_needed_is_done(make: Make, state: State, action: str, calls: list[str], after: State) -> None:
    vm = make(state)
    getattr(vm, action)()
    assert (vm.calls, vm.state) == (calls, after)


@pytest.mark.parametrize(
    ("state", "action"),
    [
        (State.STOPPED, "pause"),
        (State.STOPPED, "resume"),
        (State.STOPPED, "reboot"),
        (State.PAUSED, "reboot"),
        (State.SUSPENDED, "pause"),
        (State.CRASHED, "resume"),
    ],
)
def test_what_the_state_does_not_allow(make: Make, state: State, action: str) -> None:
    vm = make(state)
    with pytest.raises(InvalidStateError, match=f"Cannot {action} the VM 'web-0': it is {state}, not") as caught:
        getattr(vm, action)()
    assert ("Start it first" in caught.value.hint) == (state is not State.PAUSED)
    assert (vm.calls, vm.state) == ([], state)


@pytest.mark.parametrize("action", ["start", "stop", "pause", "resume", "reboot", "reload"])
def test_what_was_never_saved_cannot_be_controlled(hypervisor: MemoryHypervisor, action: str) -> None:
    vm = hypervisor.new_vm()
    vm.name = "web"
    with pytest.raises(InvalidStateError, match=r"never saved.*vm\.save\(\)"):
        getattr(vm, action)()
    assert vm.state is State.NEW


# Stop.


def test_a_slow_guest_is_waited_for(make: Make) -> None:
    vm = make(State.RUNNING, SlowVM)
    vm.stop(timeout=60)
    assert (vm.calls, vm.state) == (["request stop"], State.STOPPED)


def test_a_stubborn_guest_loses_its_plug(make: Make) -> None:
    vm = make(State.RUNNING, stubborn=True)
    vm.stop(timeout=0.01)
    assert (vm.calls, vm.state) == (["request stop", "power off"], State.STOPPED)


@pytest.mark.parametrize("state", [State.RUNNING, State.PAUSED, State.UNKNOWN])
def test_timeout_zero_pulls_the_plug_at_once(make: Make, state: State) -> None:
    vm = make(state)
    vm.stop(timeout=0)
    assert (vm.calls, vm.state) == (["power off"], State.STOPPED)


@pytest.mark.parametrize("timeout", [0, 0.01])
def test_without_force_the_plug_is_never_pulled(make: Make, timeout: float) -> None:
    vm = make(State.RUNNING, stubborn=True)
    with pytest.raises(StopTimeoutError) as caught:
        vm.stop(timeout=timeout, force=False)
    assert f"The guest of 'web-0' did not stop within {timeout:g} s; it is running." in caught.value.message
    assert "pulls the plug" in caught.value.hint
    assert (caught.value.vm, caught.value.uri) == ("web-0", str(vm.hypervisor.uri))
    assert (vm.calls, vm.state) == (["request stop"], State.RUNNING)


@pytest.mark.parametrize("timeout", [0, 60])
def test_without_force_a_willing_guest_stops(make: Make, timeout: float) -> None:
    vm = make(State.RUNNING)
    vm.stop(timeout=timeout, force=False)
    assert (vm.calls, vm.state) == (["request stop"], State.STOPPED)


@pytest.mark.parametrize("timeout", [-1, float("nan"), float("inf"), "60", None, True])
def test_what_is_no_timeout(make: Make, timeout: Any) -> None:
    vm = make(State.RUNNING)
    with pytest.raises(InvalidValueError, match="not a time to wait"):
        vm.stop(timeout=timeout)
    assert vm.state is State.RUNNING


# What a poor hypervisor cannot do.


def test_a_driver_that_cannot_ask_pulls_the_plug(make: Make, poor: MemoryHypervisor) -> None:
    vm = RecordingVM(poor, name="web-0", uuid=make(State.RUNNING).uuid)
    with pytest.raises(UnsupportedError, match=r"poor driver cannot ask the guest.*'shutdown'.*pulls the plug"):
        vm.stop(force=False)
    assert vm.state is State.RUNNING
    vm.stop(timeout=3600)
    assert (vm.calls, vm.state) == (["power off"], State.STOPPED)
    vm.stop(force=False)  # it is off: there is nobody to ask


@pytest.mark.parametrize("action", ["pause", "resume", "reboot", "addresses", "screenshot"])
def test_what_is_no_feature_is_refused_in_words(make: Make, poor: MemoryHypervisor, action: str) -> None:
    vm = RecordingVM(poor, name="web-0", uuid=make(State.RUNNING).uuid)
    with pytest.raises(UnsupportedError, match=f"The poor driver cannot .*: {poor.uri} has no feature"):
        getattr(vm, action)()
    assert vm.calls == []


def test_a_vm_that_somebody_paused_where_nobody_can_resume(make: Make, poor: MemoryHypervisor) -> None:
    vm = RecordingVM(poor, name="web-0", uuid=make(State.PAUSED).uuid)
    with pytest.raises(UnsupportedError, match="cannot resume"):
        vm.start()
    poor.features = frozenset({Feature.SHUTDOWN})
    vm.stop(timeout=0.01)
    assert vm.state is State.STOPPED
    assert "resume" not in vm.calls


# Destroy.


@pytest.mark.parametrize("state", [State.STOPPED, State.SUSPENDED])
def test_destroying_what_is_off(make: Make, hypervisor: MemoryHypervisor, state: State) -> None:
    vm = make(state)
    vm.destroy()
    assert vm.calls == ["undefine"]
    assert hypervisor.vms() == []


@pytest.mark.parametrize("state", [State.RUNNING, State.PAUSED, State.UNKNOWN])
def test_what_may_run_is_destroyed_by_force_only(make: Make, hypervisor: MemoryHypervisor, state: State) -> None:
    vm = make(state)
    with pytest.raises(InvalidStateError, match=rf"'web-0' is {state}; it was not removed.*destroy\(force=True\)"):
        vm.destroy()
    assert (vm.calls, vm.state) == ([], state)
    vm.destroy(force=True)
    assert vm.calls == ["power off", "undefine"]
    assert hypervisor.find("web-0") is None


def test_destroying_twice_or_what_somebody_deleted(make: Make, hypervisor: MemoryHypervisor) -> None:
    vm, same = make(), hypervisor.get("web-0")
    vm.destroy()
    vm.destroy()
    same.destroy(delete_disk=True)
    same.destroy(force=True)
    assert vm.calls == ["undefine"]


def test_destroying_what_was_never_saved(hypervisor: MemoryHypervisor) -> None:
    vm = hypervisor.new_vm()
    vm.name = "web"
    vm.destroy()
    with pytest.raises(VMNotFoundError, match="was destroyed"):
        vm.save()
    assert hypervisor.vms() == []


def edit_and_save(vm: VM) -> None:
    vm.memory += 1
    vm.save()


AFTERWARDS: dict[str, Callable[[VM], object]] = {
    "state": lambda vm: vm.state,
    "start": lambda vm: vm.start(),
    "stop": lambda vm: vm.stop(),
    "pause": lambda vm: vm.pause(),
    "resume": lambda vm: vm.resume(),
    "reboot": lambda vm: vm.reboot(),
    "reload": lambda vm: vm.reload(),
    "save": edit_and_save,
    "spec": lambda vm: vm.spec,
}


@pytest.mark.parametrize("action", AFTERWARDS)
def test_a_destroyed_vm_says_so(make: Make, action: str) -> None:
    vm = make()
    vm.destroy()
    with pytest.raises(VMNotFoundError, match=r"'web-0' was destroyed.*new_vm\(\)"):
        AFTERWARDS[action](vm)


@pytest.mark.parametrize("action", [name for name in AFTERWARDS if name != "spec"])
def test_a_vm_deleted_behind_our_back_is_missed(make: Make, hypervisor: MemoryHypervisor, action: str) -> None:
    vm = make()
    hypervisor.get("web-0").destroy()
    make()  # another one with its name: it is not the one that we hold
    with pytest.raises(VMNotFoundError, match="'web-0' is gone"):
        AFTERWARDS[action](vm)
    assert len(hypervisor.vms()) == 1


def test_the_disk_is_kept_unless_asked_for(make: Make) -> None:
    keeping, deleting = make(kind=DeletingVM), make(kind=DeletingVM)
    keeping.destroy()
    deleting.destroy(delete_disk=True)
    assert keeping.calls == ["undefine"]
    assert deleting.calls == ["undefine", "delete /images/web.qcow2"]


def test_a_disk_that_another_vm_has_is_not_deleted(make: Make, hypervisor: MemoryHypervisor) -> None:
    vm = make(State.RUNNING, DeletingVM)
    make()
    with pytest.raises(ImageInUseError, match=r"'web-0' and its disk .* were not removed: the VM 'web-1' has it"):
        vm.destroy(force=True, delete_disk=True)
    assert (vm.calls, vm.state) == ([], State.RUNNING)
    assert len(hypervisor.vms()) == 2


def test_a_driver_that_cannot_delete_disks_refuses_before_it_touches_anything(
    make: Make, hypervisor: MemoryHypervisor
) -> None:
    vm = make(State.RUNNING)
    hypervisor.features = hypervisor.features - {Feature.DELETE_DISK}
    with pytest.raises(UnsupportedError, match="cannot delete disk images"):
        vm.destroy(force=True, delete_disk=True)
    assert (vm.calls, vm.state) == ([], State.RUNNING)


def test_the_title_of_a_vm_is_cut(make: Make) -> None:
    vm = make()
    vm.name = "x" * 200
    vm.save()
    with pytest.raises(InvalidStateError) as caught:
        vm.pause()
    assert len(str(caught.value)) < 200


def test_a_crashed_vm_is_removed_with_what_is_left_of_its_process(make: Make, hypervisor: MemoryHypervisor) -> None:
    vm = make(State.CRASHED)
    vm.destroy()
    assert vm.calls == ["power off", "undefine"]
    assert hypervisor.vms() == []


class DeafVM(RecordingVM):
    """Its hypervisor cannot pass the request on."""

    def _request_stop(self) -> None:
        raise HypervisorError("nobody answers")


def test_a_request_that_fails_ends_with_the_plug(make: Make) -> None:
    vm = make(State.RUNNING, DeafVM)
    with pytest.raises(HypervisorError, match="nobody answers"):
        vm.stop(timeout=0.1, force=False)
    vm.stop(timeout=0.1)
    assert vm.state is State.STOPPED
