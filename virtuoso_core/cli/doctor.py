"""What `virtuoso doctor` does: Python, the plugins, then what each driver knows to look at, connected or not."""

from __future__ import annotations

import os
import platform
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from shlex import quote
from typing import TYPE_CHECKING

from ..diagnosis import Check, Status, user_name
from ..errors import DriverError, VirtuosoError
from ..uri import URI

if TYPE_CHECKING:
    from ..plugins import Plugin
    from ..unfinished import Unfinished
    from .app import Settings


def examine(settings: Settings, image: str | None = None) -> Iterator[Check]:
    """Every check that matters for the hypervisor named, or for those that ``connect()`` would try."""
    from ..plugins import default_registry

    wanted = settings.wanted
    targets = [URI.parse(uri) for uri in ([wanted] if wanted is not None else default_registry().default_uris())]
    yield check_python()
    for plugin in default_registry().plugins:
        yield check_driver(plugin)
    yield from check_unfinished()
    attempts = [_attempt(target, settings, image) for target in targets]
    yield from _judge_needs(attempts)
    yield from _judge(attempts)
    if image is not None:
        told = dict.fromkeys(check for attempt in attempts for check in attempt.image_checks)
        yield from told or [check_image(image, attempts)]


def check_python() -> Check:
    """Which Python and which Virtuoso this is; that it runs at all means that they fit."""
    from .. import __version__

    return Check("Python", "ok", f"Python {platform.python_version()} in {sys.prefix}, virtuoso-core {__version__}.")


def check_driver(plugin: Plugin) -> Check:
    """A driver that was blocked on purpose is not amiss; one that does not load is."""
    name = f"Driver {plugin.name}"
    if plugin.error is None:
        schemes = ", ".join(f"{scheme}://" for scheme in plugin.schemes)
        return Check(name, "ok", f"{plugin.distribution} {plugin.version}{' serves ' + schemes if schemes else ''}.")
    status: Status = "warn" if plugin.status in ("disabled", "duplicate") else "fail"
    return Check(name, status, plugin.error.message, plugin.error.hint)


# What killed programs left.


def check_unfinished() -> Iterator[Check]:
    """Long steps of this user's that were killed. Nothing is said when there are none."""
    from ..unfinished import unfinished

    for step in unfinished():
        yield Check(
            "Unfinished",
            "warn",
            f"{_told(step)} was cut off. It may have left {' and '.join(step.left)}.",
            "virtuoso doctor --clean",
        )


def clean(settings: Settings) -> Iterator[Check]:
    """Remove what those left, each on its own hypervisor."""
    from ..unfinished import unfinished

    steps = unfinished()
    if not steps:
        yield Check("Unfinished", "ok", "No step was cut off: there is nothing to clean.")
    for step in steps:
        try:
            with replace(settings, uri=step.uri, driver=step.driver, readonly=False).connect() as hypervisor:
                step.clean(hypervisor)
        except VirtuosoError as error:
            yield Check("Unfinished", "fail", f"What is left of {_told(step)} stays: {error.message}", error.hint)
        else:
            yield Check("Unfinished", "ok", f"Removed what {_told(step)} left: {', '.join(step.left)}.")


def _told(step: Unfinished) -> str:
    since = time.strftime("%Y-%m-%d %H:%M", time.localtime(step.since))
    return f"{step.doing!r} of {since} on {step.uri}"


# What the drivers know.


def _diagnose(target: URI, driver: str | None) -> Iterator[Check]:
    from ..plugins import default_registry

    try:
        found = default_registry().driver_for(target.scheme, driver)
    except DriverError:
        return  # connecting tells it
    yield from _guarded(f"What {target} needs", lambda: found._diagnose(target))


def _guarded(name: str, checks: Callable[[], Iterable[Check]]) -> Iterator[Check]:
    """A driver's checks; one that breaks off does not take the others with it."""
    try:
        yield from checks()
    except VirtuosoError as error:
        yield Check(name, "fail", error.message, error.hint)
    except Exception as error:
        yield Check(name, "fail", f"The driver's checks broke off: {type(error).__name__}: {error}")


@dataclass
class _Attempt:
    """What came of connecting to one target."""

    target: URI
    needs: list[Check]
    checks: list[Check] = field(default_factory=list)
    image_checks: list[Check] = field(default_factory=list)
    error: VirtuosoError | None = None


def _attempt(target: URI, settings: Settings, image: str | None) -> _Attempt:
    done, name = _Attempt(target, list(_diagnose(target, settings.driver))), f"Connection to {target}"
    try:
        with replace(settings, uri=target.full).connect() as hypervisor:
            count = len(hypervisor.summaries())
            done.checks = [Check(name, "ok", f"{hypervisor.version}; {count} VM{'s' * (count != 1)}.")]
            done.checks += _guarded(f"Examination of {target}", hypervisor._examine)
            if image is not None:
                done.image_checks += _guarded(f"Image {image}", lambda: hypervisor._examine_image(image))
    except VirtuosoError as error:
        done.error = error
    return done


def _judge_needs(attempts: Sequence[_Attempt]) -> Iterator[Check]:
    """What several need is told once; what only those need that another one stands in for is no failure."""
    works = [attempt for attempt in attempts if attempt.error is None]
    needed = {check for attempt in works or attempts for check in attempt.needs}
    for check in dict.fromkeys(check for attempt in attempts for check in attempt.needs):
        yield check if check in needed or check.status != "fail" else replace(check, status="warn")


def _judge(attempts: Sequence[_Attempt]) -> Iterator[Check]:
    """Of those that ``connect()`` would try by itself, one that works is enough."""
    if not attempts:
        from ..plugins.packages import EXAMPLE_PACKAGE

        yield Check(
            "Connection",
            "fail",
            "No installed driver proposes a hypervisor to connect to.",
            f"Install one: pip install {EXAMPLE_PACKAGE}\nor name one: virtuoso -c qemu+ssh://host/system doctor",
        )
    works = any(attempt.error is None for attempt in attempts)
    for attempt in attempts:
        name, error = f"Connection to {attempt.target}", attempt.error
        if error is None:
            yield from attempt.checks
            continue
        told = any(need.status == "fail" and need.explanation in error.hint for need in attempt.needs)
        hint = "" if told else error.hint
        if works:
            yield Check(name, "warn", f"{error.message} (Another one works.)", hint)
        else:
            yield Check(name, "fail", error.message, hint)


# A disk image.


def check_image(path: str, attempts: Sequence[_Attempt] = ()) -> Check:
    """What can be said of an image without a hypervisor that tells more."""
    name, path, me = f"Image {path}", os.path.abspath(path), user_name()
    if attempts and not any(attempt.target.is_local for attempt in attempts):
        return Check(name, "skip", "It is on the hypervisor's host: look there.")
    try:
        mode = os.stat(path).st_mode
    except PermissionError:
        return Check(name, "skip", f"{me} may not look at it.", f"sudo virtuoso doctor --image {quote(path)}")
    except OSError as error:
        return Check(name, "fail", f"{error.strerror}.", f"ls -l {quote(os.path.dirname(path))}")
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        return Check(name, "fail", "It is neither a file nor a disk.")
    if not os.access(path, os.R_OK | os.W_OK):
        return Check(name, "fail", f"{me} may not read and write it.", f"sudo setfacl -m u:{me}:rw {quote(path)}")
    if any(attempt.error for attempt in attempts):
        return Check(name, "skip", f"{me} may read and write it; whether VMs may shows only once a connection works.")
    return Check(name, "ok", f"{me} may read and write it.")
