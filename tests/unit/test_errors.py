"""The exception tree: as its module's docstring draws it, with hints, and fit to cross a process boundary."""

from __future__ import annotations

import pickle
import re

import pytest

from virtuoso_core import URI, errors
from virtuoso_core.errors import (
    ConflictError,
    ConnectError,
    HypervisorError,
    NoHypervisorError,
    StopTimeoutError,
    UnknownOptionWarning,
    VirtuosoError,
    VMNotFoundError,
)

ERRORS: list[type[VirtuosoError]] = [
    value for name in errors.__all__ if issubclass(value := getattr(errors, name), VirtuosoError)
]


def drawn_tree() -> dict[str, tuple[str | None, str | None]]:
    """Each class that the docstring draws: the class above it, and the second base in parentheses."""
    tree: dict[str, tuple[str | None, str | None]] = {}
    above: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        match = re.match(r"    ((?:[│ ]   )*(?:[├└]── )?)([A-Z]\w+)(?: \((\w+)\))?(?:  |$)", line)
        if match:
            depth = len(match[1]) // 4
            del above[depth:]
            tree[match[2]] = (above[-1] if above else None, match[3])
            above.append(match[2])
    return tree


def test_the_docstring_draws_every_error() -> None:
    assert set(drawn_tree()) == {error.__name__ for error in ERRORS}


@pytest.mark.parametrize("error", ERRORS)
def test_the_docstring_draws_it_where_it_is(error: type[VirtuosoError]) -> None:
    parent, second = drawn_tree()[error.__name__]
    bases = [base.__name__ for base in error.__bases__]
    assert bases == [name for name in (parent or "Exception", second) if name]


def test_only_the_warning_is_no_virtuoso_error() -> None:
    others = [name for name in errors.__all__ if not issubclass(getattr(errors, name), VirtuosoError)]
    assert others == ["UnknownOptionWarning"]
    assert issubclass(UnknownOptionWarning, UserWarning)


def test_every_error_class_of_the_module_is_public() -> None:
    there = {name for name, value in vars(errors).items() if isinstance(value, type) and issubclass(value, Exception)}
    assert there == set(errors.__all__)


@pytest.mark.parametrize("error", ERRORS)
def test_every_error_survives_a_pickle(error: type[VirtuosoError]) -> None:
    about = {} if error is NoHypervisorError else {"vm": "web", "uri": "test:///default"}
    original = error("It broke.", hint="Mend it.", **about)
    copy = pickle.loads(pickle.dumps(original))  # noqa: S301
    assert type(copy) is error
    assert str(copy) == str(original) == "It broke. Mend it."
    assert (copy.vm, copy.uri) == (original.vm, original.uri)


def test_what_an_error_carries_survives_a_pickle_too() -> None:
    conflict = pickle.loads(pickle.dumps(ConflictError("x", fields=["memory", "cpus"])))  # noqa: S301
    assert conflict.fields == ("cpus", "memory")
    reason = ConnectError("closed")
    nobody = pickle.loads(pickle.dumps(NoHypervisorError("x", attempts=[("a:///", reason)])))  # noqa: S301
    assert [(uri, str(error)) for uri, error in nobody.attempts] == [("a:///", "closed")]
    assert pickle.loads(pickle.dumps(HypervisorError("x", code=38))).code == 38  # noqa: S301


def test_an_error_prints_its_message_and_its_hint() -> None:
    error = VirtuosoError("The VM web is gone.", hint="Make another one.", vm="web")
    assert (str(error), error.message, error.hint) == (
        "The VM web is gone. Make another one.",
        "The VM web is gone.",
        "Make another one.",
    )
    assert str(VirtuosoError("The VM web is gone.")) == "The VM web is gone."


def test_the_builtin_families_catch_them() -> None:
    with pytest.raises(TimeoutError, match="slow"):
        raise StopTimeoutError("slow")
    with pytest.raises(ConnectionError, match="closed"):
        raise ConnectError("closed")
    with pytest.raises(LookupError, match="gone"):
        raise VMNotFoundError("gone")


def test_an_errors_uri_has_no_password() -> None:
    error = VirtuosoError("It broke.", uri=URI.parse("esx://root:hunter2@host/"))
    assert error.uri == "esx://root:***@host/"
