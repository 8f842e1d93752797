"""Changes between two VMSpecs: in words, and whether a hypervisor made them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .spec import Option, VMSpec, format_memory

Options = Mapping[str, Option]


def diff_text(before: VMSpec, after: VMSpec, options: Options) -> str:
    """One line a changed field, or one for each card or disk that comes or goes; secrets hidden."""
    names = sorted(after.changed_from(before))
    return "\n".join(line for name in names for line in _lines(name, before, after, options))


def listing(names: Iterable[str], spec: VMSpec, options: Options) -> str:
    """The named values, for a sentence; secrets hidden."""
    values = spec.values()
    return ", ".join(f"{name} {'***' if _secret(name, options) else _shown(name, values.get(name))}" for name in names)


def not_applied(wanted: VMSpec, found: VMSpec, names: Iterable[str], options: Options) -> list[str]:
    """Which of the named values the hypervisor did not take, whatever it said."""
    mine, theirs = wanted.values(), found.values()

    def differs(name: str) -> bool:
        option = _option(name, options)
        a, b = mine.get(name), theirs.get(name)
        if name == "more_disks":
            return sorted(a or ()) != sorted(b or ())  # hypervisors order them by where they are plugged in
        if option is None:
            return bool(a != b)
        # None asks for the hypervisor's own default, which it may well spell out
        return a is not None and a != b and (b is None or not option.same(a, b))

    return sorted(name for name in names if differs(name))


def _lines(name: str, before: VMSpec, after: VMSpec, options: Options) -> list[str]:
    if name == "networks":
        gone = [f"networks: - {card}" for card in before.networks if card not in after.networks]
        come = [f"networks: + {card}" for card in after.networks if card not in before.networks]
        return gone + come or ["networks: in another order"]
    if name == "more_disks":
        gone = [f"more_disks: - {disk}" for disk in before.more_disks if disk not in after.more_disks]
        come = [f"more_disks: + {disk}" for disk in after.more_disks if disk not in before.more_disks]
        return gone + come or ["more_disks: in another order"]
    old, new = before.values().get(name), after.values().get(name)
    if _secret(name, options):
        return [f"{name}: {'***' if old else '(not set)'} -> {'*** (another)' if new else '(not set)'}"]
    return [f"{name}: {_shown(name, old)} -> {_shown(name, new)}"]


def _option(name: str, options: Options) -> Option | None:
    return options.get(name.removeprefix("options.")) if name.startswith("options.") else None


def _secret(name: str, options: Options) -> bool:
    option = _option(name, options)
    return option is not None and option.secret


def _shown(name: str, value: Any) -> str:
    if name == "memory":
        return format_memory(value)
    if value is None or value == "":
        return "(not set)"
    return repr(value) if isinstance(value, str) else str(value)
