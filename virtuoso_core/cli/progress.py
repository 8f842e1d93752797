"""Progress on a terminal: a bar for bytes, a clock for waiting. Elsewhere nothing is shown."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .app import settings
from .output import clean, has_colours, is_terminal

if TYPE_CHECKING:
    from rich.console import Console

    from ..facts import Progress


def _shown() -> bool:
    return is_terminal(sys.stderr) and not settings().json and os.environ.get("TERM") != "dumb"


def _console() -> Console:
    from rich.console import Console

    return Console(stderr=True, no_color=not has_colours(sys.stderr), legacy_windows=False, highlight=False)


@contextmanager
def counting(title: str) -> Iterator[Progress | None]:
    """A bar for the block, and what to call with the bytes done and in all; None where nobody would see it."""
    if not _shown():
        yield None
        return
    from rich.markup import escape
    from rich.progress import BarColumn, DownloadColumn, TextColumn, TimeRemainingColumn, TransferSpeedColumn
    from rich.progress import Progress as Bar

    columns = (BarColumn(), DownloadColumn(binary_units=True), TransferSpeedColumn(), TimeRemainingColumn())
    words = TextColumn("{task.description}")
    with Bar(words, *columns, console=_console(), transient=True, redirect_stdout=False) as bar:
        task = bar.add_task(escape(clean(title)), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


@contextmanager
def waiting(title: str) -> Iterator[None]:
    """A clock that goes on during the block."""
    if not _shown():
        yield
        return
    from rich.markup import escape
    from rich.progress import Progress as Bar
    from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Bar(*columns, console=_console(), transient=True, redirect_stdout=False) as bar:
        bar.add_task(escape(clean(title)), total=None)
        yield
