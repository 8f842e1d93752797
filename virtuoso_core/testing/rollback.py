"""Rollback: each call to the hypervisor is made to fail in turn, and every time the VM is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest

from ..errors import HypervisorError, VirtuosoError
from ..hypervisor import Hypervisor
from ..spec import Feature, State
from .base import MakeVM, SuiteBase


class RollbackGroup(SuiteBase):
    """Needs the one place through which a driver does all its work.

    Attributes:
        choke_point: the way to it from the connection, such as "connection.call"; a method that is replaced by one
            that raises HypervisorError. Drivers on libvirt need not give it. Without one the group is skipped.
    """

    choke_point: ClassVar[str] = ""

    @pytest.fixture
    def break_call(self, connection: Any) -> Iterator[Callable[[int], list[str]]]:
        """Makes the n-th call fail, once, from now on; 0 for none. Returns the list of the calls that are made."""
        path = self.choke_point or ("connection.call" if self.on_libvirt() else "")
        if not path:
            pytest.skip(f"the suite of {self.hypervisor.name} gives no choke_point")
        *way, name = path.split(".")
        holder: Any = connection
        for step in way:
            holder = getattr(holder, step)
        real = getattr(holder, name)

        def arm(at: int) -> list[str]:
            made: list[str] = []

            def call(*args: Any, **named: Any) -> Any:
                made.append(str(args[0]))
                if len(made) != at:
                    return real(*args, **named)
                if self.on_libvirt() and not self.choke_point:
                    return real(args[0], _fail, **named)
                raise HypervisorError("broken on purpose")

            setattr(holder, name, call)
            return made

        yield arm
        setattr(holder, name, real)

    def test_each_call_of_a_create_may_fail(
        self, connection: Hypervisor, make: MakeVM, disk_image: str, break_call: Callable[[int], list[str]]
    ) -> None:
        """Either the VM is there whole, or nothing is left of it."""
        for at in range(1, 20):
            vm = make(save=False, disk_image=disk_image)
            made = break_call(at)
            try:
                vm.save()
            except VirtuosoError:
                break_call(0)
                assert connection.find(vm.name) is None, made
                vm.save()
            break_call(0)
            assert connection.get(vm.name).disk_image == disk_image
            if len(made) < at:
                return
        pytest.fail("a create takes more than 20 calls")

    def test_each_call_of_a_save_may_fail(
        self, connection: Hypervisor, make: MakeVM, disk_image: str, break_call: Callable[[int], list[str]]
    ) -> None:
        """Either the change is there, or the VM is as it was."""
        self.need(connection, "memory")
        for at in range(1, 30):
            vm = make(disk_image=disk_image)
            name, before = vm.name, vm.spec
            vm.memory += 64 * 1024
            if Feature.RENAME in connection.features:
                vm.name = f"{name}-renamed"
            made = break_call(at)
            try:
                vm.save()
            except VirtuosoError:
                break_call(0)
                assert connection.get(vm.uuid).spec == before, made
                vm.save(force=True)
            break_call(0)
            assert (connection.get(vm.uuid).memory, connection.get(vm.uuid).name) == (vm.memory, vm.name)
            vm.destroy()
            if len(made) < at:
                return
        pytest.fail("a save takes more than 30 calls")

    def test_each_call_of_a_destroy_may_fail(
        self, connection: Hypervisor, make: MakeVM, break_call: Callable[[int], list[str]]
    ) -> None:
        """Either it is gone, or it is as it was and can be destroyed again."""
        for at in range(1, 20):
            vm = make()
            before = vm.spec
            made = break_call(at)
            try:
                vm.destroy()
            except VirtuosoError:
                break_call(0)
                found = connection.get(vm.uuid)
                assert (found.spec, found.state) == (before, State.STOPPED)
                vm.destroy()
            break_call(0)
            assert connection.find(vm.name) is None
            if len(made) < at:
                return
        pytest.fail("a destroy takes more than 20 calls")


def _fail() -> None:
    """What libvirt raises, as a driver would meet it."""
    from ..libvirt_base.binding import libvirt as binding

    libvirt = binding()
    error = libvirt.libvirtError("broken on purpose")
    error.err = (libvirt.VIR_ERR_OPERATION_FAILED, libvirt.VIR_FROM_NONE, "broken on purpose", 2, "", "", "", -1, -1)
    raise error
