"""The loader: finds plugins by entry point, loads each on its own, survives the broken ones, knows who serves what.

pluggy's bulk loader is not used: it stops at the first import that fails, skips duplicates silently, and does not
check what hooks return. Here each plugin is tried in a plugin manager of its own before it joins the others.
"""

from __future__ import annotations

import difflib
import functools
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from importlib.metadata import Distribution, EntryPoint, distributions
from typing import TYPE_CHECKING, Any

import pluggy

from ..errors import (
    AmbiguousDriverError,
    DriverDisabledError,
    DriverError,
    DriverIncompatibleError,
    DriverLoadError,
    DriverNotInstalledError,
    SaveVetoedError,
)
from . import hookspecs
from .hookspecs import API_VERSION, ENTRY_POINT_GROUP, PROJECT
from .packages import SCHEME_PACKAGES

if TYPE_CHECKING:
    from ..events import Event
    from ..hypervisor import Hypervisor
    from ..vm import VM

log = logging.getLogger(__name__)

_GUIDE = "To write one, see docs/drivers.md."


class Status(StrEnum):
    """What became of a plugin."""

    OK = "ok"
    BROKEN = "broken"
    INCOMPATIBLE = "incompatible"
    DISABLED = "disabled"
    DUPLICATE = "duplicate"


@dataclass(frozen=True)
class Plugin:
    """A plugin that was found, and what became of it.

    Attributes:
        name: its entry point's name.
        distribution, version: of the package that brings it.
        status: whether it is in use.
        error: why not.
        hypervisors: the Hypervisor classes that it brings.
    """

    name: str
    distribution: str
    version: str
    status: Status
    error: DriverError | None = None
    hypervisors: tuple[type[Hypervisor], ...] = ()

    @property
    def schemes(self) -> tuple[str, ...]:
        """The URI schemes that it serves."""
        return tuple(scheme for hypervisor in self.hypervisors for scheme in hypervisor.schemes)


class Registry:
    """All plugins of one Python environment. ``default_registry()`` is the one that ``connect()`` uses."""

    def __init__(self, plugins: Iterable[tuple[Plugin, object | None]] = ()) -> None:
        """From plugins and the loaded objects of those in use."""
        self.plugins: tuple[Plugin, ...] = ()
        self._manager = _manager()
        for plugin, loaded in plugins:
            self.plugins += (plugin,)
            if plugin.status is Status.OK:
                self._manager.register(loaded, name=f"{plugin.distribution}:{plugin.name}")

    @classmethod
    def discover(cls, environ: Mapping[str, str] = os.environ) -> Registry:
        """Load every installed plugin, each on its own.

        Environment:
            VIRTUOSO_DISABLE_DRIVERS: names of entry points or distributions, with commas, that are not imported.
            VIRTUOSO_STRICT_PLUGINS: "1" lets the first failure raise.

        Raises:
            DriverError: only when strict.
        """
        disabled = {_normal(name) for name in environ.get("VIRTUOSO_DISABLE_DRIVERS", "").split(",") if name.strip()}
        strict = environ.get("VIRTUOSO_STRICT_PLUGINS", "") == "1"
        found: list[tuple[Plugin, object | None]] = []
        for plugin, loaded in (_examine(*place, disabled) for place in _entry_points()):
            if plugin.error is not None and plugin.status is not Status.DISABLED:
                log.warning("%s", plugin.error)
                if strict:
                    raise plugin.error
            found.append((plugin, loaded))
        return cls(found)

    def driver_for(self, scheme: str, driver: str | None = None) -> type[Hypervisor]:
        """The Hypervisor class that serves the scheme, or the named one of them.

        Raises:
            DriverNotInstalledError, DriverDisabledError, DriverLoadError, DriverIncompatibleError,
            AmbiguousDriverError: each says what to type.
        """
        serving = [(plugin, cls) for plugin in self._working for cls in plugin.hypervisors if scheme in cls.schemes]
        chosen = [
            (plugin, cls)
            for plugin, cls in serving
            if driver is None or _normal(driver) in map(_normal, (cls.name, plugin.name, plugin.distribution))
        ]
        if len(chosen) == 1:
            return chosen[0][1]
        if chosen:
            who = " and ".join(f"{cls.name} of {plugin.distribution} {plugin.version}" for plugin, cls in chosen)
            raise AmbiguousDriverError(
                f"Two drivers serve the scheme {scheme!r}: {who}.",
                hint=f"Choose one, connect(uri, driver={chosen[0][0].distribution!r}), or uninstall the other, "
                f"or block it: VIRTUOSO_DISABLE_DRIVERS={chosen[1][0].distribution}",
            )
        raise self._missing(scheme, driver, [cls.name for _, cls in serving])

    def default_uris(self) -> list[str]:
        """What the plugins propose for ``connect()`` without a URI; a proposal that fails is logged and left out."""
        found: list[str] = []
        for implementation in _in_order(self._manager.hook.virtuoso_default_uris):
            try:
                given: Any = implementation.function()
                proposed = list(given)
                if isinstance(given, str) or not all(isinstance(uri, str) for uri in proposed):
                    raise TypeError("it did not return a list of str")
                found += [uri for uri in dict.fromkeys(proposed) if uri not in found]
            except Exception as error:
                log.warning("virtuoso_default_uris of %s failed: %r", implementation.plugin_name, error)
        return found

    def before_save(self, vm: VM, changed: frozenset[str]) -> None:
        """Ask every plugin; raises SaveVetoedError when one refuses."""
        for implementation in _in_order(self._manager.hook.virtuoso_before_save):
            try:
                implementation.function(**_arguments(implementation, vm=vm, changed=changed))
            except Exception as error:
                raise SaveVetoedError(
                    f"The plugin {implementation.plugin_name} refused to save the VM {vm.name!r}: {error}",
                    vm=vm.name,
                    uri=vm.hypervisor.uri,
                ) from error

    def notify(self, event: Event) -> None:
        """Tell every plugin; their errors are logged only."""
        for implementation in _in_order(self._manager.hook.virtuoso_event):
            try:
                implementation.function(**_arguments(implementation, event=event))
            except Exception:
                log.exception("virtuoso_event of %s failed", implementation.plugin_name)

    def option_names(self) -> set[str]:
        """The ``set()`` keys that any driver in use declares."""
        return {
            name
            for plugin in self._working
            for cls in plugin.hypervisors
            if isinstance(cls.options, Mapping)  # or a property, of a class whose connections differ
            for name in cls.options
        }

    @property
    def _working(self) -> list[Plugin]:
        return [plugin for plugin in self.plugins if plugin.status is Status.OK]

    def _missing(self, scheme: str, driver: str | None, others: list[str]) -> DriverError:
        if driver is not None and others:
            return DriverNotInstalledError(
                f"No installed driver named {driver!r} serves the scheme {scheme!r}.",
                hint=f"These do: {', '.join(others)}.",
            )
        package = SCHEME_PACKAGES.get(scheme)
        short = package.removeprefix(f"{PROJECT}-") if package else scheme
        for plugin in self.plugins:
            if plugin.status is not Status.OK and ({plugin.name, plugin.distribution} & {short, package, scheme}):
                assert plugin.error is not None
                return plugin.error.with_traceback(None)  # raised again at each connect()
        installed = sorted({s for plugin in self._working for s in plugin.schemes})
        there = f"Installed drivers serve: {', '.join(installed) or 'nothing'}."
        others_bad = [plugin for plugin in self.plugins if plugin.status is not Status.OK]
        if others_bad:
            there += " Not in use: " + ", ".join(f"{plugin.name} ({plugin.status})" for plugin in others_bad)
            there += "; see: virtuoso drivers."
        if package:
            return DriverNotInstalledError(
                f"No driver for {scheme}:// is installed. {there}", hint=f"Install it: pip install {package}"
            )
        near = difflib.get_close_matches(scheme, {*installed, *SCHEME_PACKAGES}, n=1)
        guess = f" Did you mean {near[0]}://?" if near else ""
        return DriverNotInstalledError(f"No driver serves the scheme {scheme!r}.{guess} {there}", hint=_GUIDE)


@functools.cache
def default_registry() -> Registry:
    """The registry of this process, filled at first use. ``default_registry.cache_clear()`` makes it look again."""
    return Registry.discover()


def _manager() -> pluggy.PluginManager:
    manager = pluggy.PluginManager(PROJECT)
    manager.add_hookspecs(hookspecs)
    return manager


def _in_order(hook: pluggy.HookCaller) -> list[pluggy.HookImpl]:
    """pluggy lists the one to call first at the end."""
    return hook.get_hookimpls()[::-1]


def _arguments(implementation: pluggy.HookImpl, **given: object) -> dict[str, object]:
    """A hook's implementation may leave arguments out."""
    return {name: given[name] for name in implementation.argnames}


def _entry_points() -> Iterable[tuple[EntryPoint, Distribution, bool]]:
    """Each entry point of our group, and whether the same distribution was met before, further up on the path."""
    seen: dict[str, str] = {}
    for distribution in distributions():
        try:
            name = distribution.metadata["Name"] if distribution.metadata else None
            points = [point for point in distribution.entry_points if point.group == ENTRY_POINT_GROUP]
        except Exception as error:  # whatever a damaged file on the path makes its parser raise
            log.warning("A package in %s was passed over, its metadata does not parse: %r", _place(distribution), error)
            continue
        if not name:
            continue
        key, place = _normal(name), _place(distribution)
        again = bool(points) and key in seen and seen[key] != place
        if points and key in seen and not again:
            continue  # the same folder listed twice on the path
        if points:
            seen.setdefault(key, place)
        yield from ((point, distribution, again) for point in sorted(points, key=lambda point: point.name))


def _normal(name: str) -> str:
    """Package names are the same whatever their case and their separators."""
    return re.sub(r"[-_.]+", "-", name.strip()).lower()


def _place(distribution: Distribution) -> str:
    """Its folder, the same for lib and a lib64 that links to it."""
    return os.path.realpath(str(distribution.locate_file("")))


def _examine(
    point: EntryPoint, distribution: Distribution, again: bool, disabled: set[str]
) -> tuple[Plugin, object | None]:
    who = Plugin(point.name, distribution.metadata["Name"], distribution.version, Status.OK)
    if {_normal(point.name), _normal(who.distribution)} & disabled:
        return _rejected(
            who,
            Status.DISABLED,
            DriverDisabledError(
                f"The driver {_title(who)} is blocked by VIRTUOSO_DISABLE_DRIVERS.", hint="Unset it to use the driver."
            ),
        )
    if again:
        return _rejected(
            who,
            Status.DUPLICATE,
            DriverLoadError(
                f"The driver {_title(who)} was found a second time, in {_place(distribution)}; the first is used.",
                hint=f"Remove one: pip uninstall {who.distribution}",
            ),
        )
    try:
        loaded = point.load()
    except (Exception, SystemExit) as error:
        return _rejected(who, Status.BROKEN, _load_error(who, f"does not load: {type(error).__name__}: {error}", error))
    try:
        return _check(who, loaded)
    except DriverIncompatibleError as error:
        return _rejected(who, Status.INCOMPATIBLE, error)
    except DriverLoadError as error:
        return _rejected(who, Status.BROKEN, error)
    except Exception as error:  # an attribute of the plugin that cannot even be looked at
        return _rejected(who, Status.BROKEN, _load_error(who, f"does not load: {type(error).__name__}: {error}", error))


def _check(who: Plugin, loaded: Any) -> tuple[Plugin, object]:
    wanted = getattr(loaded, "api_version", None)
    if not isinstance(wanted, int) or isinstance(wanted, bool) or wanted != API_VERSION:
        newer = isinstance(wanted, int) and wanted > API_VERSION
        stated = f"was written for driver interface {wanted}" if wanted is not None else "states no api_version"
        raise DriverIncompatibleError(
            f"The driver {_title(who)} {stated}; this Virtuoso has interface {API_VERSION}.",
            hint=f"Upgrade {'virtuoso-core' if newer else who.distribution}: "
            f"pip install --upgrade {'virtuoso-core' if newer else who.distribution}",
        )
    trial = _manager()
    try:
        trial.register(loaded, name=who.name)
        trial.check_pending()
    except pluggy.PluginValidationError as error:
        raise _load_error(
            who, f"has a hook that does not fit: {_hook_advice(trial, loaded) or error}", error
        ) from error
    hooks = trial.get_hookcallers(loaded) or []
    if any(
        implementation.wrapper or implementation.hookwrapper
        for hook in hooks
        for implementation in hook.get_hookimpls()
    ):
        raise _load_error(who, "implements a hook as a wrapper, which is not called: leave out wrapper=True")
    if not hooks:
        raise _load_error(who, "implements no hook: mark its functions with virtuoso_core.plugins.hookimpl")
    try:
        results = trial.hook.virtuoso_hypervisors()
        brought = [item for result in results for item in result]
    except (Exception, SystemExit) as error:
        raise _load_error(who, f"failed in virtuoso_hypervisors: {type(error).__name__}: {error}", error) from error
    if trial.hook.virtuoso_hypervisors.get_hookimpls() and not results:
        raise _load_error(who, "returned None from virtuoso_hypervisors, not a list of Hypervisor classes")
    from ..hypervisor import Hypervisor

    for item in brought:
        if not isinstance(item, type) or not issubclass(item, Hypervisor):
            raise _load_error(who, f"returned {item!r} from virtuoso_hypervisors, which is no subclass of Hypervisor")
        if faults := item._faults():
            raise _load_error(who, f"brings {item.__name__}, which is unfinished: {'; '.join(faults)}")
    return Plugin(who.name, who.distribution, who.version, Status.OK, None, tuple(brought)), loaded


def _hook_advice(manager: pluggy.PluginManager, loaded: object) -> str:
    """Which hook was meant, when the name is wrong; what it takes, when the arguments are."""
    specs = {name: getattr(hookspecs, name) for name in vars(hookspecs) if name.startswith(f"{PROJECT}_")}
    for name in dir(loaded):
        if getattr(getattr(loaded, name, None), f"{PROJECT}_impl", None) is None:
            continue
        if name not in specs:
            near = difflib.get_close_matches(name, specs, n=1)
            return f"there is no hook {name}" + (f" (did you mean {near[0]}?)" if near else "")
        takes = list(pluggy._hooks.varnames(specs[name])[0])
        has = pluggy._hooks.varnames(getattr(loaded, name))[0]
        if extra := [argument for argument in has if argument not in takes]:
            return f"{name} takes ({', '.join(takes)}), not {', '.join(extra)}"
    return ""


def _load_error(who: Plugin, problem: str, cause: BaseException | None = None) -> DriverLoadError:
    error = DriverLoadError(
        f"The driver {_title(who)} {problem}.",
        hint=f"Reinstall or upgrade it: pip install --upgrade --force-reinstall {who.distribution}",
    )
    error.__cause__ = cause
    return error


def _rejected(who: Plugin, status: Status, error: DriverError) -> tuple[Plugin, None]:
    return Plugin(who.name, who.distribution, who.version, status, error), None


def _title(who: Plugin) -> str:
    return f"{who.name} of {who.distribution} {who.version}"
