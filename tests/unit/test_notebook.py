"""VMs and hypervisors in a notebook: tables that always come about."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest

from virtuoso_core import ConnectionLostError, VMSummary
from virtuoso_core.testing.memory import MemoryHypervisor, MemoryVM


def table(html: str) -> ElementTree.Element:
    return ElementTree.fromstring(html)  # noqa: S314 - our own


def cells(html: str) -> list[list[str]]:
    """The rows of a table, which must be well formed."""
    return [["".join(cell.itertext()) for cell in row] for row in table(html).iter("tr")]


def test_a_vm(hypervisor: MemoryHypervisor) -> None:
    vm = hypervisor.new_vm()
    assert ["name", "(none yet)"] in cells(vm._repr_html_())
    vm.name, vm.memory, vm.cpus = "<b>web & co", "2 GiB", 3
    card = vm.network("nat")
    assert cells(vm._repr_html_()) == [
        ["name", "<b>web & co"],
        ["state", "new"],
        ["memory", "2 GiB"],
        ["cpus", "3"],
        ["disk", "none"],
        ["networks", f"nat {card.mac_address}"],
    ]
    assert "<b>" not in vm._repr_html_()


def test_a_vm_that_is_gone(hypervisor: MemoryHypervisor) -> None:
    """Its error is shown, once."""
    vm = hypervisor.new_vm()
    vm.name = "web"
    vm.save()
    other = hypervisor.get("web")
    vm.destroy()
    shown = cells(other._repr_html_())
    assert shown[0] == ["name", "web"]
    assert "gone" in shown[1][1]
    assert [row[0] for row in shown] == ["name", "state", "memory"]


def test_a_hypervisor(hypervisor: MemoryHypervisor) -> None:
    for name in ("b", "<a>"):
        vm = hypervisor.new_vm()
        vm.name = name
        vm.save()
    vm.start()
    html = hypervisor._repr_html_()
    assert cells(html) == [
        ["name", "state", "memory", "cpus"],
        ["<a>", "running", "1 GiB", "1"],
        ["b", "stopped", "1 GiB", "1"],
    ]
    caption = table(html).findtext("caption")
    assert caption == f"{hypervisor.uri}: in memory; 2 VMs, 1 running."


def test_very_many_vms(hypervisor: MemoryHypervisor, monkeypatch: pytest.MonkeyPatch) -> None:
    from virtuoso_core import State

    lines = [VMSummary(f"vm-{number:04}", "", State.STOPPED, 1024, 1) for number in range(1000)]
    monkeypatch.setattr(MemoryHypervisor, "_summaries", lambda self: lines)
    html = hypervisor._repr_html_()
    assert len(cells(html)) == 201
    assert "1000 VMs, 0 running. The first 200 are shown." in html


@pytest.mark.parametrize("error", [ConnectionLostError("It <broke>."), ZeroDivisionError("1/0")])
def test_a_broken_connection(hypervisor: MemoryHypervisor, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    def fail(*_: object) -> None:
        raise error

    vm = hypervisor.new_vm()
    vm.name = "web"
    vm.save()
    monkeypatch.setattr(MemoryHypervisor, "_version", fail)
    for hook in ("_get_state", "_read"):
        monkeypatch.setattr(MemoryVM, hook, fail)
    for html in (hypervisor._repr_html_(), hypervisor.get("web")._repr_html_()):
        assert any(str(error) in cell for row in cells(html) for cell in row)


def test_a_closed_connection(hypervisor: MemoryHypervisor) -> None:
    hypervisor.close()
    ((uri, trouble),) = cells(hypervisor._repr_html_())
    assert uri == str(hypervisor.uri)
    assert "closed" in trouble
