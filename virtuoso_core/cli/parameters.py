"""The arguments and options that several commands take, and what they hold."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import click

from ..errors import InvalidValueError
from .completion import complete_network, complete_vm

if TYPE_CHECKING:
    from click.decorators import FC

one = click.argument("name", shell_complete=complete_vm)
some = click.argument("names", metavar="NAME...", nargs=-1, required=True, shell_complete=complete_vm)
dry_run = click.option("--dry-run", is_flag=True, help="Print what would change; change nothing.")
xml = click.option("--xml", is_flag=True, help="With --dry-run: print what would be written. It may hold passwords.")


def check_xml(xml: bool, dry_run: bool) -> None:
    """--xml prints what would be written, so nothing may be written."""
    if xml and not dry_run:
        raise click.UsageError("--xml goes with --dry-run; what is there now: virtuoso show NAME --xml")


@overload
def disk_size(text: str) -> str: ...
@overload
def disk_size(text: None) -> None: ...
@overload
def disk_size(text: str | None) -> str | None: ...
def disk_size(text: str | None) -> str | None:
    """The size as it is; one without a unit is refused in words that fit, for nobody counts a disk's bytes."""
    if text is not None and text.strip().removeprefix("+").isdecimal():
        raise InvalidValueError(f"{text!r} is not the size of a disk: it has no unit.", hint=f"Write {text}GiB, say.")
    return text


@dataclass(frozen=True)
class Card:
    """A network card to add."""

    type: str
    mac_address: str | None = None
    source: str | None = None
    model: str | None = None


def cards(name: str, help: str) -> Callable[[FC], FC]:
    """The repeatable option of that name, whose values are network cards."""
    return click.option(
        name,
        "cards",
        multiple=True,
        type=_card,
        metavar="TYPE[,mac=..][,source=..][,model=..]",
        shell_complete=complete_network,
        help=help,
    )


def _card(text: str) -> Card:
    """TYPE[,mac=..][,source=..][,model=..]"""
    parts = {"mac": "mac_address", "source": "source", "model": "model"}
    type, *rest = text.split(",")
    given: dict[str, str] = {}
    for part in rest:
        key, _, value = part.partition("=")
        if key not in parts or not value:
            raise click.BadParameter(f"{part!r} is none of mac=ADDRESS, source=NAME, model=NAME.")
        given[parts[key]] = value
    return Card(type, **given)


def assignment(text: str) -> tuple[str, str]:
    """KEY=VALUE"""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise click.BadParameter(f"{text!r} is not KEY=VALUE.")
    return key.strip(), value
