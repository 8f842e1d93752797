"""How a VM and a hypervisor look in a notebook: small HTML tables, which show what went wrong where something did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from html import escape
from typing import TYPE_CHECKING

from .errors import VirtuosoError
from .spec import State, format_memory

if TYPE_CHECKING:
    from .hypervisor import Hypervisor
    from .vm import VM

_MOST = 200
"""VMs in one table: a notebook with thousands of rows is no help."""


def vm_table(vm: VM) -> str:
    """One row a field, with unsaved edits; the state as it is now."""
    fields: dict[str, Callable[[], object]] = {
        "name": lambda: vm.name or "(none yet)",
        "state": lambda: vm.state,
        "memory": lambda: format_memory(vm.memory),
        "cpus": lambda: vm.cpus,
        "disk": lambda: vm.disk_image or "none",
        "networks": lambda: ", ".join(f"{card.type} {card.mac_address}" for card in vm.networks) or "none",
    }
    rows: list[Sequence[object]] = []
    for label, look in fields.items():
        try:
            rows.append((label, look()))
        except Exception as error:
            rows.append((label, _trouble(error)))
            if label != "state":
                break  # the rest would say the same
    return _table((), rows)


def hypervisor_table(hypervisor: Hypervisor) -> str:
    """Where and what it is, and one row a VM."""
    try:
        title = f"{hypervisor.uri}: {hypervisor.version}"
        found = hypervisor.summaries()
    except Exception as error:
        return _table((), [(str(hypervisor.uri), _trouble(error))])
    rows: list[Sequence[object]] = [
        (line.name, line.state, format_memory(line.memory), line.cpus) for line in found[:_MOST]
    ]
    running = sum(line.state is State.RUNNING for line in found)
    more = f" The first {_MOST} are shown." if len(found) > _MOST else ""
    caption = f"{title}; {len(found)} VMs, {running} running.{more}"
    return _table(("name", "state", "memory", "cpus"), rows, caption)


def _trouble(error: Exception) -> str:
    return str(error) if isinstance(error, VirtuosoError) else f"{type(error).__name__}: {error}"


def _table(head: Sequence[str], rows: Iterable[Sequence[object]], caption: str = "") -> str:
    lines = ["<table>"]
    if caption:
        lines.append(f"<caption>{escape(caption)}</caption>")
    if head:
        lines.append(f"<tr>{''.join(f'<th>{escape(word)}</th>' for word in head)}</tr>")
    for first, *rest in rows:
        start = f"<td>{escape(str(first))}</td>" if head else f"<th>{escape(str(first))}</th>"
        lines.append(f"<tr>{start}{''.join(f'<td>{escape(str(cell))}</td>' for cell in rest)}</tr>")
    return "\n".join([*lines, "</table>"])
