"""Trying again, telling why, putting back."""

from __future__ import annotations

from typing import Any, NoReturn

import pytest

from virtuoso_core import State, connect
from virtuoso_core.attempts import patiently, telling_off, undoing
from virtuoso_core.errors import (
    ConnectionLostError,
    HypervisorError,
    InvalidStateError,
    UnsupportedError,
    VirtuosoError,
    VMNotFoundError,
)


@pytest.fixture
def slept(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """How long was slept; no time passes."""
    now, slept = 0.0, []

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds
        slept.append(seconds)

    monkeypatch.setattr("time.sleep", sleep)
    monkeypatch.setattr("time.monotonic", lambda: now)
    return slept


def _busy(error: VirtuosoError) -> bool:
    return isinstance(error, InvalidStateError)


def _failing(error: VirtuosoError) -> NoReturn:
    raise error


def test_patience(slept: list[float]) -> None:
    """While the error passes, and no longer than 3 seconds."""
    left = [InvalidStateError("busy"), InvalidStateError("busy")]

    def act() -> str:
        if left:
            raise left.pop()
        return "done"

    assert patiently(act, _busy) == "done"
    assert len(slept) == 2
    with pytest.raises(InvalidStateError):
        patiently(lambda: _failing(InvalidStateError("busy")), _busy)
    assert sum(slept[2:]) == pytest.approx(3)


def test_no_patience_with_others(slept: list[float]) -> None:
    """They are raised at once."""
    with pytest.raises(UnsupportedError):
        patiently(lambda: _failing(UnsupportedError("never")), _busy)
    assert slept == []


@pytest.mark.parametrize(
    ("state", "error", "told"),
    [
        (State.STOPPED, HypervisorError("x"), InvalidStateError),
        (State.CRASHED, InvalidStateError("x"), InvalidStateError),
        (State.RUNNING, HypervisorError("x"), HypervisorError),
        (State.STOPPED, ConnectionLostError("x"), ConnectionLostError),
    ],
)
def test_telling_that_it_is_off(
    monkeypatch: pytest.MonkeyPatch, state: State, error: VirtuosoError, told: type[VirtuosoError]
) -> None:
    """By a look at the state; what else fails is another matter."""
    vm = connect("memory:///attempts").new_vm()
    vm.name = "web"
    monkeypatch.setattr(vm, "_get_state", lambda: state)
    with pytest.raises(told) as caught, telling_off(vm, "pause"):
        raise error
    if caught.value is not error:
        assert str(caught.value) == f"Could not pause the VM 'web': it is {state}."
        assert (caught.value.vm, caught.value.__cause__) == ("web", error)


def _undone(undo: Any) -> VirtuosoError:
    with pytest.raises(UnsupportedError) as caught, undoing(undo, "it be put back"):
        raise UnsupportedError("first")
    return caught.value


def test_undoing() -> None:
    """After a failure only; and of two failures the first is told, with a note of the second."""
    calls: list[str] = []
    with undoing(lambda: calls.append("undone"), "it be put back"):
        pass
    assert calls == []
    assert not hasattr(_undone(lambda: calls.append("undone")), "__notes__")
    assert calls == ["undone"]
    error = _undone(lambda: _failing(HypervisorError("second")))
    assert error.__notes__ == ["Nor could it be put back: second"]


def test_nothing_to_undo() -> None:
    """A VM that is gone needs no putting back."""
    assert not hasattr(_undone(lambda: _failing(VMNotFoundError("gone"))), "__notes__")
