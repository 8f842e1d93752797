"""Acting on VMs one after another: what to do when one fails, what to print of each, what to type next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import ConnectionLostError, VirtuosoError
from .app import settings
from .output import say_json

if TYPE_CHECKING:
    from ..vm import VM


def each(names: Sequence[str], act: Callable[[VM], dict[str, Any] | None]) -> int:
    """Do it to every VM, the others also when one fails; the first failure's exit code.

    With --json, what was done to each is printed as one list.
    """
    found = settings()
    codes: list[int] = []
    done: list[dict[str, Any]] = []
    with found.connect() as hypervisor:
        for name in dict.fromkeys(names):
            try:
                if (result := act(hypervisor.get(name))) is not None:
                    done.append(result)
            except VirtuosoError as error:
                codes.append(found.report(error))
                if isinstance(error, ConnectionLostError):
                    break
    if found.json and done:
        say_json(done)
    return next(iter(codes), 0)


def summary(vm: VM) -> dict[str, Any]:
    """What --json prints of a VM that was acted on."""
    return {"name": vm.name, "uuid": vm.uuid, "state": vm.state}


def again(command: str, name: str) -> str:
    """The line to type next, for the same hypervisor."""
    return f"{shlex.join(['virtuoso', *settings().again()])} {command} {shlex.quote(name)}"
