"""Long calls to libvirt: in a thread, so that Ctrl-C reaches this one, which tells the progress and can end them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import VirtuosoError
from ..facts import Progress

if TYPE_CHECKING:
    from .domain import LibvirtDomain

_LOOK = 0.25
"""Seconds between two looks at how far a job is."""
_PATIENCE = 60.0
"""Seconds that a job is given to end when it was told to."""


def run_job(
    vm: LibvirtDomain, doing: str, function: Callable[..., Any], *args: Any, progress: Progress | None = None
) -> BaseException | None:
    """Call a function of libvirt's that is a job of the VM's.

    Whatever is raised here meanwhile, by Ctrl-C or by ``progress``, ends the job and is raised again: the VM is then
    as it was.

    Returns:
        What was raised too late, when the job could not be ended any more and is done; to be raised by the caller,
        who first finishes what belongs to it. Else None.
    """
    failure: list[BaseException] = []
    done = threading.Event()

    def work() -> None:
        try:
            vm._call(doing, function, *args)
        except BaseException as error:
            failure.append(error)
        finally:
            done.set()

    threading.Thread(target=work, name=f"virtuoso {doing}", daemon=True).start()
    told = (0, 0)
    try:
        while not done.wait(_LOOK):
            if progress is not None and (now := _how_far(vm, told)) != told:
                told = now
                progress(*told)
    except BaseException as error:
        _end(vm, done)
        if failure or not done.is_set():
            raise
        return error
    if failure:
        raise failure[0]
    return None


def _how_far(vm: LibvirtDomain, before: tuple[int, int]) -> tuple[int, int]:
    """Bytes done, which never go back, and bytes in all."""
    try:
        found = vm._call("look at the progress of", vm._domain.jobStats, 0)
    except VirtuosoError:
        return before  # it ended just now
    total = found.get("data_total", 0)
    done = max(before[0], min(found.get("data_processed", 0), total))
    return (done, max(done, total)) if total else before


def _end(vm: LibvirtDomain, done: threading.Event) -> None:
    """Tell the job to end until it has ended, however often Ctrl-C is pressed."""
    give_up = time.monotonic() + _PATIENCE
    while not done.is_set() and time.monotonic() < give_up:
        try:
            vm._call("end the job of", vm._domain.abortJob)
        except (VirtuosoError, KeyboardInterrupt):
            pass  # it has not begun to move data, or ended just now
        try:
            done.wait(_LOOK)
        except KeyboardInterrupt:
            pass
