"""What ``import virtuoso_core`` loads and offers."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys
from importlib.resources import files
from types import FunctionType
from typing import Any

import pytest

import virtuoso_core

PUBLIC = [
    "URI",
    "VM",
    "Address",
    "AddressReport",
    "AddressTimeoutError",
    "AmbiguousDriverError",
    "AuthenticationError",
    "ConflictError",
    "ConnectError",
    "ConnectionClosedError",
    "ConnectionLostError",
    "Console",
    "CredentialRequest",
    "Credentials",
    "DiskInfo",
    "Display",
    "DriverDisabledError",
    "DriverError",
    "DriverIncompatibleError",
    "DriverLoadError",
    "DriverNotInstalledError",
    "Event",
    "EventStream",
    "EventType",
    "Feature",
    "GiB",
    "GuestAgentError",
    "Hypervisor",
    "HypervisorError",
    "ImageError",
    "ImageExistsError",
    "ImageFormatError",
    "ImageInUseError",
    "ImageNotFoundError",
    "ImageUnreadableError",
    "InvalidNetworkError",
    "InvalidOptionError",
    "InvalidStateError",
    "InvalidURIError",
    "InvalidValueError",
    "MacAddressInUseError",
    "MiB",
    "MissingLibvirtError",
    "Network",
    "NetworkError",
    "NetworkInactiveError",
    "NetworkNotFoundError",
    "NoHypervisorError",
    "NoSpaceError",
    "NotAppliedError",
    "NotEnoughMemoryError",
    "Option",
    "PortInUseError",
    "Progress",
    "ReadOnlyError",
    "RunResult",
    "SaveResult",
    "SaveVetoedError",
    "Screenshot",
    "Snapshot",
    "SnapshotExistsError",
    "SnapshotNotFoundError",
    "State",
    "Stats",
    "StopTimeoutError",
    "UnknownOptionWarning",
    "UnsupportedError",
    "UnsupportedNetworkError",
    "VMExistsError",
    "VMNotFoundError",
    "VMSpec",
    "VMSummary",
    "VirtuosoError",
    "WaitTimeoutError",
    "connect",
    "format_memory",
    "parse_memory",
]
"""A change here is a change of the public API: say so in the changelog."""

OBJECTS = [
    (name, value)
    for name in PUBLIC
    if isinstance(value := getattr(virtuoso_core, name, None), (type, FunctionType))
]  # fmt: skip


def fresh_interpreter(code: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert done.stderr == ""
    return json.loads(done.stdout)


def test_importing_it_loads_no_plugin_and_nothing_heavy() -> None:
    loaded = fresh_interpreter("import json, sys, virtuoso_core; print(json.dumps(sorted(sys.modules)))")
    heavy = {"pluggy", "libvirt", "libvirtmod", "lxml", "click", "rich", "PIL", "pycdlib", "platformdirs", "asyncio"}
    heavy |= {"email", "http", "ssl", "socket"}
    assert heavy & {name.partition(".")[0] for name in loaded} == set()
    ours = {name for name in loaded if name.startswith("virtuoso")}
    assert not [name for name in ours if name.split(".")[1:2] in (["plugins"], ["testing"], ["xml"], ["libvirt_base"])]
    assert {name.partition(".")[0] for name in ours} == {"virtuoso_core"}


def test_importing_it_starts_no_thread_and_reads_no_stdin() -> None:
    code = "import json, threading, virtuoso_core; print(json.dumps(threading.active_count()))"
    assert fresh_interpreter(code) == 1


def test_the_public_names_are_these() -> None:
    assert sorted(virtuoso_core.__all__) == sorted(PUBLIC)
    assert len(virtuoso_core.__all__) == len(set(virtuoso_core.__all__))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_exists(name: str) -> None:
    assert getattr(virtuoso_core, name, None) is not None


@pytest.mark.parametrize(("name", "value"), OBJECTS, ids=[name for name, _ in OBJECTS])
def test_every_public_class_and_function_has_a_docstring(name: str, value: type) -> None:
    # A dataclass without a docstring gets its signature as one: that tells nobody anything.
    assert value.__doc__ is not None, f"{name} has no docstring"
    assert not value.__doc__.startswith(f"{name}("), f"{name} has no docstring"


@pytest.mark.parametrize("name", [name for name, value in OBJECTS if inspect.isclass(value)])
def test_every_public_method_has_a_docstring(name: str) -> None:
    members = vars(getattr(virtuoso_core, name)).items()
    public = {
        key: value
        for key, value in members
        if not key.startswith("_")
        and isinstance(value, (FunctionType, property, classmethod, staticmethod))
        and getattr(value, "__name__", "") != "<lambda>"  # the default of a dataclass's field
    }
    assert [key for key, value in public.items() if not value.__doc__] == []


def test_it_is_typed() -> None:
    assert files("virtuoso_core").joinpath("py.typed").is_file()
