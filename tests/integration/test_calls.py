"""How many calls to libvirt the common things take, counted where the binding enters libvirt's C library."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.conftest import NewVM
from virtuoso_core import Hypervisor, SaveResult
from virtuoso_core.libvirt_base.binding import libvirt

_LOCAL = {"virDomainGetName", "virDomainGetUUIDString", "virDomainFree", "virDomainGetID", "virGetLastError"}
_LOCAL |= {"virEventRunDefaultImpl"}
"""Answered from the handle itself, without asking anybody; and the event loop's turns, if another test started it."""


class _Counter:
    """Stands before libvirt's C library and writes down what is called."""

    def __init__(self, library: Any) -> None:
        self._library = library
        self.made: list[str] = []

    def __getattr__(self, name: str) -> Any:
        function = getattr(self._library, name)
        if not callable(function) or name in _LOCAL:
            return function

        def counted(*args: Any) -> Any:
            self.made.append(name)
            return function(*args)

        return counted


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The calls made since the list was last cleared."""
    counter = _Counter(libvirt().libvirtmod)
    monkeypatch.setattr(libvirt(), "libvirtmod", counter)
    yield counter.made
    monkeypatch.undo()


@pytest.mark.parametrize("number", [1, 30])
def test_listing(number: int, hypervisor: Hypervisor, new_vm: NewVM, calls: list[str]) -> None:
    """Two calls, whatever the number of VMs."""
    made = [new_vm() for _ in range(number)]
    for vm in made:
        vm.save()
    calls.clear()
    lines = hypervisor.summaries()
    assert len(calls) <= 2, calls
    assert [(line.name, line.uuid, line.memory, line.cpus) for line in lines] == sorted(
        (vm.name, vm.uuid, 256 * 1024, 1) for vm in made
    )


def test_names(hypervisor: Hypervisor, new_vm: NewVM, calls: list[str]) -> None:
    """All VMs with their names and UUIDs: one call."""
    for _ in range(5):
        new_vm().save()
    calls.clear()
    assert len([(vm.name, vm.uuid) for vm in hypervisor.vms()]) == 5
    assert len(calls) == 1, calls


def test_find(hypervisor: Hypervisor, new_vm: NewVM, calls: list[str]) -> None:
    """One call, and one more for all the fields together."""
    vm = new_vm()
    vm.save()
    for key in (vm.name, vm.uuid):
        calls.clear()
        found = hypervisor.find(key)
        assert found is not None
        assert len(calls) == 1, calls
        assert (found.memory, found.cpus, found.disk_image) == (256 * 1024, 1, None)
        assert len(calls) == 2, calls
    calls.clear()
    assert hypervisor.find("nobody") is None
    assert len(calls) == 1, calls


def test_unchanged_save(hypervisor: Hypervisor, new_vm: NewVM, calls: list[str]) -> None:
    """No call at all."""
    vm = new_vm()
    vm.save()
    found = hypervisor.get(vm.name)
    found.memory = found.memory + 1024
    found.memory = found.memory - 1024
    calls.clear()
    assert found.save() is SaveResult.UNCHANGED
    assert calls == []


def test_saves(hypervisor: Hypervisor, new_vm: NewVM, calls: list[str]) -> None:
    """A new VM: one call. A change: read, look whether it runs or is suspended, define, read back."""
    vm = new_vm()
    calls.clear()
    vm.save()
    assert calls == ["virDomainDefineXMLFlags"]
    vm.memory = "300 MiB"
    calls.clear()
    vm.save()
    looks = ["virDomainIsActive", "virDomainHasManagedSaveImage"]
    assert calls == ["virDomainGetXMLDesc", *looks, "virDomainDefineXMLFlags", "virDomainGetXMLDesc"]


def test_starts(hypervisor: Hypervisor, new_vm: NewVM, calls: list[str]) -> None:
    """Each VM that runs beside is read once for its MAC addresses, not at every start."""
    vms = [new_vm() for _ in range(4)]
    for vm in vms:
        vm.network("internal")
        vm.save()
    for vm in vms[1:]:
        vm.start()
    hypervisor.running_cards.clear()  # type: ignore[attr-defined]
    counts = []
    for _ in range(2):
        calls.clear()
        vms[0].start()
        counts.append(calls.count("virDomainGetXMLDesc"))
        vms[0].stop(timeout=0)
    assert counts[0] - counts[1] == 3, counts
