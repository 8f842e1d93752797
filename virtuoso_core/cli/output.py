"""What the command prints: tables, JSON, errors, warnings, colours."""

from __future__ import annotations

import io
import json
import os
import shutil
import sys
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from typing import IO, Any

import click

from ..spec import State

STYLES: Mapping[object, str] = {
    State.RUNNING: "green",
    State.PAUSED: "yellow",
    State.SUSPENDED: "yellow",
    State.CRASHED: "red",
    "ok": "green",
    "warn": "yellow",
    "fail": "red",
    "broken": "red",
    "incompatible": "red",
    "disabled": "yellow",
    "duplicate": "yellow",
}
"""The colour of a word that tells a state."""


def is_terminal(stream: IO[Any] | None) -> bool:
    """Whether people read or type there; a closed stream is none."""
    return stream is not None and stream.isatty()


def has_colours(stream: IO[Any] | None) -> bool:
    """Whether the stream shows colours and the user wants them."""
    return is_terminal(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def coloured(text: str, colour: str | None, stream: IO[Any]) -> str:
    """The text in that colour, where there are colours."""
    return click.style(text, fg=colour) if colour and has_colours(stream) else text


def clean(text: str) -> str:
    """The text without what could steer a terminal: names and messages may come from a foreign host."""
    return "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in text)


def say(text: str) -> None:
    """A line for people on stdout."""
    click.echo(clean(text))


def note(text: str) -> None:
    """A remark for people on stderr, where it disturbs no program that reads stdout."""
    click.echo(clean(text), err=True)


def confirm(question: str) -> None:
    """Ask whether to go on with what cannot be undone; leave when that is not so."""
    if not is_terminal(sys.stdin):
        raise click.UsageError("Nobody can be asked here whether that is meant: add --yes.")
    click.confirm(clean(question), abort=True, err=True)


def say_json(document: object) -> None:
    """The one document of a command with --json."""
    click.echo(json.dumps(document, indent=2))


def say_table(columns: Sequence[str], rows: Iterable[Sequence[object]], *, wrap: Sequence[int] = (-1,)) -> None:
    """A table without lines around it; without a header when no column has a name. Cells that are states get colours.

    On a terminal that is too narrow the columns to ``wrap`` do; in a pipe each row stays on one line, whatever its
    length.
    """
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    terminal, colours = is_terminal(sys.stdout), has_colours(sys.stdout)
    table = Table(box=None, show_header=any(columns), pad_edge=False, padding=(0, 2, 0, 0), header_style="")
    wrapping = {columns[number] for number in wrap} if terminal else set()
    for column in columns:
        table.add_column(column, no_wrap=column not in wrapping, overflow="fold")
    for row in rows:
        texts = [clean(str(cell)) for cell in row]
        styles = [STYLES.get(cell, "") if isinstance(cell, Enum) else "" for cell in row]
        if not terminal:
            texts = [" ".join(text.split("\n")) for text in texts]
        table.add_row(*(Text().append(text, style) for text, style in zip(texts, styles, strict=True)))
    page = io.StringIO()
    width = max(shutil.get_terminal_size().columns, 80) if terminal else 100_000
    Console(
        file=page,
        width=width,
        force_terminal=colours,
        color_system="standard" if colours else None,
        legacy_windows=False,
    ).print(table)
    for line in page.getvalue().splitlines():
        click.echo(line.rstrip())


def say_labelled(label: str, text: str, below: str) -> None:
    """A finding: its status in colour, the text, and indented lines below it; wrapped on a terminal."""
    width = min(shutil.get_terminal_size().columns, 100) if is_terminal(sys.stdout) else 100_000
    lines = textwrap.wrap(clean(text), width - 6, break_long_words=False) or [""]
    lines += [f"  {line}" for line in clean(below).splitlines()]  # whole: they are to be copied
    click.echo(f"{coloured(f'{label:4}', STYLES.get(label), sys.stdout)}  {lines[0]}")
    for line in lines[1:]:
        click.echo(f"      {line}")


def say_error(type: str, message: str, hint: str, uri: str | None, vm: str | None, *, as_json: bool) -> None:
    """What went wrong and what to do about it, on stderr."""
    if as_json:
        error = {"type": type, "message": message, "hint": hint, "uri": uri, "vm": vm}
        click.echo(json.dumps({"error": error}), err=True)
        return
    click.echo(f"{coloured('virtuoso:', 'red', sys.stderr)} {coloured(clean(message), 'red', sys.stderr)}", err=True)
    for line in clean(hint).strip().splitlines():
        click.echo(f"  {line}", err=True)


def say_warning(message: str, *, as_json: bool) -> None:
    """What is probably a mistake and was done all the same, on stderr."""
    if as_json:
        click.echo(json.dumps({"warning": message}), err=True)
    else:
        click.echo(f"virtuoso: {coloured('warning:', 'yellow', sys.stderr)} {clean(message)}", err=True)
