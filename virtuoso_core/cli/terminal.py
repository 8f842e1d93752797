"""A guest's serial console on the terminal: raw keys go in, bytes come out, Ctrl-] leaves."""

from __future__ import annotations

import os
import select
import sys
import termios
import threading
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ..errors import InvalidStateError
from .output import is_terminal

if TYPE_CHECKING:
    from ..console import Console

LEAVE = b"\x1d"
"""Ctrl-]"""

_LOOK = 0.2
"""Seconds after which each side looks whether the other has ended."""


def attend(console: Console) -> bool:
    """Until the console ends or Ctrl-] is typed; the terminal is afterwards as it was. Whether it was left."""
    printer = _Printer(console)
    keys = None if sys.stdin is None else sys.stdin.fileno()
    terminal = is_terminal(sys.stdin)
    with _raw(keys if terminal else None):
        printer.start()
        try:
            left = keys is not None and _type(console, keys, printer.done, terminal)
            if not left:
                printer.done.wait()  # all was typed that there is: what the guest answers is yet to come
        finally:
            printer.done.set()
            printer.join(5 * _LOOK)
    if printer.error is not None:
        raise printer.error
    return left


class _Printer(threading.Thread):
    """Prints what comes, until the console ends, nobody reads any more, or ``done`` is set."""

    def __init__(self, console: Console) -> None:
        super().__init__(daemon=True)
        self.console = console
        self.done = threading.Event()
        self.error: Exception | None = None

    def run(self) -> None:
        """In its own thread; what goes wrong is kept for the other one."""
        try:
            while not self.done.is_set():
                data = self.console.read(timeout=_LOOK)
                if data:
                    if sys.stdout is not None:
                        sys.stdout.buffer.write(data)
                        sys.stdout.buffer.flush()
                elif self.console.ended:
                    return
        except Exception as error:
            self.error = error
        finally:
            self.done.set()


@contextmanager
def _raw(terminal: int | None) -> Iterator[None]:
    """Let each key through as it is; None for what is no terminal."""
    if terminal is None:
        yield
        return
    before = termios.tcgetattr(terminal)
    try:
        tty.setraw(terminal)
        yield
    finally:
        termios.tcsetattr(terminal, termios.TCSADRAIN, before)


def _type(console: Console, keys: int, done: threading.Event, terminal: bool) -> bool:
    """Type what comes from there, until all was typed or ``done`` is set. Whether Ctrl-] was."""
    while not done.is_set():
        if not select.select([keys], [], [], _LOOK)[0]:
            continue
        data = os.read(keys, 1024)
        if not data:
            return False
        before, found, _ = data.partition(LEAVE) if terminal else (data, b"", b"")
        try:
            if before:
                console.write(before)
        except InvalidStateError:
            if not console.ended:
                raise
            return False  # the printer tells the rest
        if found:
            return True
    return False
