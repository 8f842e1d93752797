"""Attempts: calls that are tried again while somebody is in the way, explained when they fail, or undone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, TypeVar

from .errors import HypervisorError, InvalidStateError, VirtuosoError, VMNotFoundError
from .spec import State
from .waiting import Wait

if TYPE_CHECKING:
    from .vm import VM

Result = TypeVar("Result")


def patiently(act: Callable[[], Result], passes: Callable[[VirtuosoError], bool]) -> Result:
    """What ``act`` returns; it is tried again, for 3 seconds, while its error is one that passes by itself.

    Raises:
        VirtuosoError: the last one.
    """
    wait = Wait(3, first=0.1)
    while True:
        try:
            return act()
        except VirtuosoError as error:
            if not passes(error) or not wait.pause():
                raise


@contextmanager
def telling_off(vm: VM, doing: str) -> Iterator[None]:
    """What fails in the block because the VM is off raises InvalidStateError, which says so.

    For hypervisors that have no code for that: the state is looked at. ``doing`` comes after "could not".
    """
    try:
        yield
    except (HypervisorError, InvalidStateError) as error:
        state = vm._get_state()
        if state not in (State.STOPPED, State.SUSPENDED, State.CRASHED):
            raise
        raise InvalidStateError(f"Could not {doing} the VM {vm._title}: it is {state}.", **vm._where) from error


@contextmanager
def undoing(undo: Callable[[], object], what: str) -> Iterator[None]:
    """Call ``undo`` when the block fails with an error of this library; the error goes on.

    Args:
        undo: puts back what was. That the VM does not exist is none of its failures: there is nothing to put back.
        what: what it does, after "nor could"; when it fails in its turn, a note of the error says so.
    """
    try:
        yield
    except VirtuosoError as error:
        try:
            undo()
        except VMNotFoundError:
            pass
        except VirtuosoError as another:
            error.add_note(f"Nor could {what}: {another}")
        raise
