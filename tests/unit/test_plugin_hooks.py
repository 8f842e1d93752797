"""What plugins can do by their hooks, seen with real distributions in a fresh interpreter; connect() without a URI."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from virtuoso_core.plugins import hookspecs

HOOKS = sorted(name for name in vars(hookspecs) if name.startswith("virtuoso_"))

HEAD = """
from virtuoso_core.plugins import hookimpl

api_version = 1
"""

PROPOSING = (
    HEAD
    + """
@hookimpl
def virtuoso_default_uris():
    return {proposed}
"""
)

CLOSED = (
    HEAD
    + """
from virtuoso_core import ConnectError
from virtuoso_core.testing.memory import MemoryHypervisor

class Closed(MemoryHypervisor):
    name = "closed"
    schemes = ("closed",)
    @classmethod
    def open(cls, uri, *, readonly=False, credentials=None):
        raise ConnectError(f"Nobody is at home at {uri}.", hint="Ring again.")

@hookimpl
def virtuoso_hypervisors():
    return [Closed]
"""
)

VETO = (
    HEAD
    + """
@hookimpl
def virtuoso_before_save(vm, changed):
    asked.append(sorted(changed))
    if "memory" in changed and vm.memory > 1024 * 1024:
        raise ValueError("no VM here gets that much")

asked = []
"""
)

OBSERVER = (
    HEAD
    + """
heard = []

@hookimpl
def virtuoso_event(event):
    heard.append([event.type, event.vm, event.uuid, event.uri])
    {then}
"""
)

EDIT = """
hypervisor = connect("memory:///x")
vm = hypervisor.new_vm()
vm.name = "web"
"""


def install(environment: Any, name: str, source: str) -> None:
    environment.install(f"virtuoso-{name}", {name: f"{name}_plugin"}, {f"{name}_plugin": source})


# Saving.


def test_a_veto_keeps_a_new_vm_from_being_made(environment: Any) -> None:
    install(environment, "quota", VETO)
    code = EDIT + 'vm.memory = "2 GiB"; answer([attempt(vm.save), vm.state, len(hypervisor.vms())])'
    error, state, count = environment.run(code)
    assert error["type"] == "SaveVetoedError"
    assert "virtuoso-quota:quota" in error["message"]
    assert "'web'" in error["message"]
    assert error["cause"] == {
        "type": "ValueError",
        "message": "no VM here gets that much",
        "hint": "",
        "cause": None,
    }
    assert (state, count) == ("new", 0)


def test_a_veto_keeps_a_change_from_being_written(environment: Any) -> None:
    install(environment, "quota", VETO)
    code = EDIT + (
        'vm.save(); vm.memory = "2 GiB"; vm.cpus = 2; veto = attempt(vm.save); kept = vm.memory; found = '
        'hypervisor.get("web"); import quota_plugin; asked = quota_plugin.asked; '
        "answer([veto, kept, found.memory, found.cpus, asked])"
    )
    error, kept, memory, cpus, asked = environment.run(code)
    assert error["type"] == "SaveVetoedError"
    assert kept == 2 * 1024 * 1024  # the edit is still there to be amended
    assert (memory, cpus) == (1024 * 1024, 1)
    assert asked == [["cpus", "memory", "name"], ["cpus", "memory"]]


def test_an_unchanged_save_asks_nobody(environment: Any) -> None:
    install(environment, "quota", VETO)
    code = EDIT + "vm.save(); vm.save(); import quota_plugin; answer(len(quota_plugin.asked))"
    assert environment.run(code) == 1


def test_a_hook_may_leave_its_arguments_out(environment: Any) -> None:
    install(environment, "never", HEAD + "@hookimpl\ndef virtuoso_before_save():\n    raise PermissionError('frozen')")
    error = environment.run(EDIT + "answer(attempt(vm.save))")
    assert (error["type"], error["cause"]["type"]) == ("SaveVetoedError", "PermissionError")


# Events.


def test_events_tell_what_was_done_to_which_vm(environment: Any) -> None:
    install(environment, "observer", OBSERVER.format(then="pass"))
    code = EDIT + (
        'vm.save(); vm.start(); vm.start(); vm.pause(); vm.resume(); vm.reboot(); vm.stop(); vm.stop(); vm.name = "www"'
        "; vm.start(); vm.stop(timeout=0); vm.save(); vm.save(); uuid = vm.uuid; same = hypervisor.get(uuid); "
        "vm.destroy(); vm.destroy(); same.destroy(); "
        "import observer_plugin; answer([uuid, observer_plugin.heard])"
    )
    uuid, heard = environment.run(code)
    assert [(kind, name) for kind, name, *_ in heard] == [
        ("saved", "web"),
        ("started", "web"),
        ("paused", "web"),
        ("resumed", "web"),
        ("rebooted", "web"),
        ("stopped", "web"),
        ("started", "web"),  # its new name is not saved yet
        ("stopped", "web"),
        ("saved", "www"),
        ("destroyed", "www"),
    ]
    assert {tuple(rest) for _, _, *rest in heard} == {(uuid, "memory:///x")}


def test_an_event_tells_no_password(environment: Any) -> None:
    install(environment, "observer", OBSERVER.format(then="pass"))
    code = EDIT.replace("memory:///x", "memory://root:hunter2@host/x") + (
        "vm.save(); import observer_plugin; answer(observer_plugin.heard)"
    )
    ((*_, uri),) = environment.run(code)
    assert uri == "memory://root:***@host/x"


def test_an_observers_error_is_logged_only(environment: Any) -> None:
    install(environment, "aaa", OBSERVER.format(then="1 / 0"))
    install(environment, "zzz", OBSERVER.format(then="1 / 0"))
    code = (
        EDIT + "result = vm.save(); import aaa_plugin, zzz_plugin; answer([result, aaa_plugin.heard, zzz_plugin.heard])"
    )
    result, first, second = environment.run(code)
    assert result == "applied"
    assert first == second
    assert len(first) == 1
    for name in ("aaa", "zzz"):
        assert f"virtuoso_event of virtuoso-{name}:{name} failed" in environment.log
    assert "ZeroDivisionError" in environment.log


# connect() without a URI.


@pytest.mark.parametrize(
    ("variables", "chosen"),
    [
        ({"VIRTUOSO_DEFAULT_URI": "memory:///v", "LIBVIRT_DEFAULT_URI": "memory:///l"}, "memory:///v"),
        ({"LIBVIRT_DEFAULT_URI": "memory:///l"}, "memory:///l"),
        ({"VIRTUOSO_DEFAULT_URI": "", "LIBVIRT_DEFAULT_URI": "memory:///l"}, "memory:///l"),
        ({"VIRTUOSO_DEFAULT_URI": "", "LIBVIRT_DEFAULT_URI": ""}, "memory:///proposed"),
        ({}, "memory:///proposed"),
    ],
)
def test_which_uri_is_used(environment: Any, variables: dict[str, str], chosen: str) -> None:
    install(environment, "local", PROPOSING.format(proposed=["memory:///proposed"]))
    assert environment.connect(**variables)["uri"] == chosen
    assert environment.connect("memory:///given", **variables)["uri"] == "memory:///given"


def test_a_variable_that_leads_nowhere_is_not_passed_over(environment: Any) -> None:
    install(environment, "local", PROPOSING.format(proposed=["memory:///proposed"]))
    assert environment.connect(VIRTUOSO_DEFAULT_URI="nosuch:///x")["type"] == "DriverNotInstalledError"
    assert environment.connect(LIBVIRT_DEFAULT_URI="nonsense")["type"] == "InvalidURIError"


def test_proposals_are_tried_in_turn(environment: Any) -> None:
    install(environment, "closed", CLOSED)
    proposed = ["nonsense", "closed:///a", "nosuch:///b", "memory:///works", "memory:///too"]
    install(environment, "local", PROPOSING.format(proposed=proposed))
    assert environment.connect()["uri"] == "memory:///works"


@pytest.mark.parametrize("failing", ["1 / 0", "None", "'memory:///x'", "[1]", "exit_by_name_error"])
def test_a_proposal_that_fails_stops_no_other(environment: Any, failing: str) -> None:
    install(environment, "aaa", PROPOSING.format(proposed=failing))
    install(environment, "mmm", PROPOSING.format(proposed=["memory:///works"]))
    install(environment, "zzz", PROPOSING.format(proposed=failing))
    assert environment.connect()["uri"] == "memory:///works"
    for name in ("aaa", "zzz"):
        assert f"virtuoso_default_uris of virtuoso-{name}:{name} failed" in environment.log


def test_when_none_works_each_is_listed_with_its_reason(environment: Any) -> None:
    install(environment, "closed", CLOSED)
    install(environment, "half", "import nosuchmodule")
    proposed = ["closed:///a", "closed://root:hunter2@host/b", "nosuch:///c", "nonsense"]
    install(environment, "local", PROPOSING.format(proposed=proposed))
    error = environment.connect()
    assert error["type"] == "NoHypervisorError"
    lines = [line.strip() for line in error["message"].splitlines()]
    assert "closed:///a: Nobody is at home at closed:///a. Ring again." in lines
    assert any(line.startswith("closed://root:***@host/b: Nobody") for line in lines)
    assert any(line.startswith("nosuch:///c: No driver serves the scheme 'nosuch'.") for line in lines)
    assert any(line.startswith("nonsense: 'nonsense' is not a hypervisor's URI") for line in lines)
    assert any("half of virtuoso-half 1.0 does not load" in line for line in lines)
    assert "hunter2" not in error["message"]
    assert "connect('qemu+ssh://host/system')" in error["hint"]


def test_the_attempts_are_kept_with_their_errors(environment: Any) -> None:
    install(environment, "closed", CLOSED)
    install(environment, "local", PROPOSING.format(proposed=["closed:///a", "nosuch:///c"]))
    code = """
try:
    connect()
except ConnectionError as error:
    answer([[uri, type(reason).__name__] for uri, reason in error.attempts])
"""
    assert environment.run(code) == [["closed:///a", "ConnectError"], ["nosuch:///c", "DriverNotInstalledError"]]


def test_when_nothing_is_proposed_it_says_what_to_install(environment: Any) -> None:
    error = environment.connect()
    assert error["type"] == "NoHypervisorError"
    assert "No installed driver proposes a hypervisor" in error["message"]
    assert "virtuoso-kvm" in error["hint"]


# Every hook is documented and tested.


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_has_an_example_in_its_docstring(hook: str) -> None:
    documentation = inspect.getdoc(getattr(hookspecs, hook)) or ""
    _, found, example = documentation.partition("Example::")
    assert found, f"{hook} has no Example"
    assert f"def {hook}(" in example


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_in_the_driver_guide(hook: str) -> None:
    guide = Path(__file__).parents[2] / "docs" / "drivers.md"
    assert guide.is_file(), "docs/drivers.md is missing"
    assert hook in guide.read_text(encoding="utf-8"), f"docs/drivers.md does not tell about {hook}"


@pytest.mark.parametrize("hook", HOOKS)
def test_every_hook_is_implemented_by_a_plugin_of_these_tests(hook: str) -> None:
    sources = [value for value in globals().values() if isinstance(value, str)]
    assert any(f"@hookimpl\ndef {hook}(" in source for source in sources), f"no plugin here implements {hook}"
