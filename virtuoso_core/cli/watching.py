"""The commands that watch: top, events."""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict
from typing import TYPE_CHECKING, Literal

import click

from ..spec import State, format_size
from .app import Command, settings
from .output import STYLES, clean, has_colours, is_terminal, note, say, say_json, say_table

if TYPE_CHECKING:
    from rich.table import Table

    from ..facts import Stats
    from ..hypervisor import Hypervisor

_COLUMNS = ("NAME", "CPUS", "CPU%", "MEMORY", "USED", "READ/s", "WRITTEN/s", "RECEIVED/s", "SENT/s")
_RATES = ("disk_read", "disk_written", "net_received", "net_sent")


@click.command(cls=Command)
@click.option(
    "--interval", metavar="SECONDS", type=click.FloatRange(0.2, 3600), default=2, help="How often to look. [default: 2]"
)
@click.option("--once", is_flag=True, help="Look for one interval, print, and end; so it does in a pipe.")
def top(interval: float, once: bool) -> None:
    """Show what the running VMs use, until Ctrl-C. 100 CPU% is one processor.

    --json prints what has been counted since each VM's start, at once.

    \b
    virtuoso top
    virtuoso top --once --interval 5
    """
    with settings().connect() as hypervisor:
        if settings().json:
            say_json([asdict(stats) for stats in hypervisor.stats()])
        elif once or not is_terminal(sys.stdout) or os.environ.get("TERM") == "dumb":
            before = hypervisor.stats()
            if before:
                time.sleep(interval)
            if rows := _rows(before, hypervisor.stats()):
                say_table(_COLUMNS, rows, wrap=(0,))
            else:
                note(f"No VM runs on {hypervisor.uri}.")
        else:
            _live(hypervisor, interval)


def _live(hypervisor: Hypervisor, interval: float) -> None:
    from rich.console import Console
    from rich.live import Live

    before = hypervisor.stats()
    title = f"{hypervisor.uri}, every {interval:g} s. Ctrl-C ends."
    page = Console(no_color=not has_colours(sys.stdout), legacy_windows=False, highlight=False)
    with Live(_table(title, _rows([], before), page.width), console=page, auto_refresh=False, screen=True) as screen:
        while True:
            time.sleep(interval)
            now = hypervisor.stats()
            screen.update(_table(title, _rows(before, now), page.width), refresh=True)
            before = now


def _table(title: str, rows: list[tuple[str, ...]], width: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    running = f"{len(rows) or 'No'} VM{'' if len(rows) < 2 else 's'} running on "
    table = Table(box=None, pad_edge=False, title=Text(clean(running + title)), title_justify="left", title_style="")
    widths = [max(map(len, column)) for column in zip(_COLUMNS, *rows, strict=True)]
    widths[0] = min(widths[0], max(12, width // 3))
    # the last ones are left out where there is no room, instead of all being cut
    shown = [number for number in range(len(widths)) if sum(widths[: number + 1]) + 2 * number <= width]
    for number in shown:
        justify: Literal["left", "right"] = "right" if number else "left"
        table.add_column(_COLUMNS[number], justify=justify, no_wrap=True, overflow="ellipsis", max_width=widths[number])
    for row in rows:
        # texts, not markup: brackets in a name are the name's
        style = STYLES[State.RUNNING] if row[2] not in ("", "0") else ""
        table.add_row(*(Text(clean(row[number]), style) for number in shown))
    return table


def _rows(before: list[Stats], now: list[Stats]) -> list[tuple[str, ...]]:
    """The busiest first; without an earlier look at a VM, its rates are left out."""
    earlier = {stats.uuid: stats for stats in before}
    rows = []
    for stats in now:
        last = earlier.get(stats.uuid)
        span = stats.time - last.time if last is not None else 0.0
        rates = ["" if last is None else _rate(getattr(last, each), getattr(stats, each), span) for each in _RATES]
        busy = None
        if last is not None and last.cpu_time is not None and stats.cpu_time is not None and span > 0:
            busy = max(0.0, 100 * (stats.cpu_time - last.cpu_time) / span)
        memory, used = (None if kib is None else kib * 1024 for kib in (stats.memory, stats.memory_used))
        cells = [_bytes(memory), _bytes(used), *rates]
        rows.append((busy or 0.0, (stats.name, str(stats.cpus), "" if busy is None else f"{busy:.0f}", *cells)))
    return [row for _, row in sorted(rows, key=lambda pair: (-pair[0], pair[1][0]))]


def _rate(before: int | None, now: int | None, span: float) -> str:
    if before is None or now is None or span <= 0:
        return ""
    return _bytes(int(max(0, now - before) / span))


def _bytes(count: int | None) -> str:
    """Rounded, since it is for the eye."""
    if count is None:
        return ""
    for unit, size in (("GiB", 1024**3), ("MiB", 1024**2), ("KiB", 1024)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return format_size(count)


@click.command(cls=Command, short_help="Print what happens to VMs.")
@click.option("--timeout", metavar="SECONDS", type=float, help="End after so long without an event; never, by itself.")
def events(timeout: float | None) -> None:
    """Print what happens to VMs, whoever does it, until Ctrl-C; with --json one document a line.

    Each has the time at which it was heard of, with --json in seconds since 1970.

    \b
    virtuoso events
    virtuoso events --json --timeout 60 | jq .type
    """
    with settings().connect() as hypervisor, hypervisor.events(timeout) as stream:
        if is_terminal(sys.stdout) and not settings().json:
            note(f"Watching {hypervisor.uri}. Ctrl-C ends.")
        for event in stream:
            if settings().json:
                click.echo(json.dumps({"time": time.time()} | asdict(event)))
            else:
                say(f"{time.strftime('%H:%M:%S')}  {event.type:15}  {event.vm}  {event.detail}".rstrip())
            sys.stdout.flush()
