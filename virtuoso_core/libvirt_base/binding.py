"""The only importer of libvirt: loads the binding when it is first needed, and turns its printing into logging."""

from __future__ import annotations

import functools
import logging
import os
import sys
import threading
from typing import Any

from ..diagnosis import install, system
from ..errors import MissingLibvirtError

log = logging.getLogger("virtuoso_core.libvirt")

_OUTPUTS = "LIBVIRT_LOG_OUTPUTS"


_loading = threading.Lock()


def libvirt() -> Any:
    """The ``libvirt`` module.

    Raises:
        MissingLibvirtError: with the lines to type on this platform.
    """
    with _loading:
        return _load()


def libvirt_qemu() -> Any:
    """The ``libvirt_qemu`` module of the same binding: what is QEMU's alone.

    Raises:
        MissingLibvirtError
    """
    libvirt()
    import libvirt_qemu as module

    return module


@functools.cache
def _load() -> Any:
    undo = _redirect_log()
    try:
        import libvirt as module
        import lxml.etree  # noqa: F401 - the same extra brings it, and it is needed next
    except ImportError as error:
        raise MissingLibvirtError(
            f"libvirt's Python binding, or lxml, does not load: {error}.", hint=_install_lines()
        ) from error
    finally:
        undo()
    module.registerErrorHandler(_report, None)
    return module


def ensure_event_loop() -> None:
    """Run libvirt's event loop in a daemon thread; started once, needed by keepalive and by in-process drivers."""
    with _loop.lock:
        if _loop.thread is None:
            module = libvirt()
            module.virEventRegisterDefaultImpl()
            _loop.thread = threading.Thread(
                target=_run_events, args=(module,), name="virtuoso-libvirt-events", daemon=True
            )
            _loop.thread.start()


class _Loop:
    """What is known of the one event loop of this process."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.thread: threading.Thread | None = None


_loop = _Loop()


def _run_events(module: Any) -> None:
    while True:
        try:
            module.virEventRunDefaultImpl()
        except module.libvirtError as error:
            log.error("libvirt's event loop stopped: %s", error)
            return


def _report(context: object, error: tuple[Any, ...]) -> None:
    """libvirt would print each error on stderr besides raising it."""
    log.debug("libvirt error %s (domain %s): %s", error[0], error[1], error[2])


def _redirect_log() -> Any:
    """Let libvirt's own log, which goes to stderr, come through a pipe into ``logging``; returns how to unset it.

    libvirt reads the variable while it is imported, and not again. A user who set it is obeyed.
    """
    if _OUTPUTS in os.environ or not os.path.isdir("/dev/fd"):
        return lambda: None
    reader, writer = os.pipe()
    os.environ[_OUTPUTS] = f"3:file:/dev/fd/{writer}"
    threading.Thread(target=_forward, args=(reader,), name="virtuoso-libvirt-log", daemon=True).start()

    def undo() -> None:
        os.environ.pop(_OUTPUTS, None)
        os.close(writer)

    return undo


def _forward(reader: int) -> None:
    with os.fdopen(reader, errors="replace") as lines:
        for line in lines:
            log.info("%s", line.rstrip())


def build_commands() -> tuple[str, str]:
    """What to type on this platform to have libvirt's binding: first what it is built with, then itself."""
    if sys.platform == "darwin":
        first = "brew install libvirt pkg-config"
    elif system():
        first = install("libvirt-dev pkg-config gcc python3-dev", "libvirt-devel pkgconf gcc python3-devel")
    else:
        first = "install libvirt's development package, pkg-config and a C compiler"
    return first, "pip install 'virtuoso-core[libvirt]'"


def _install_lines() -> str:
    return f"It is built when it is installed. Type: {'; then: '.join(build_commands())}"
