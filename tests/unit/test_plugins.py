"""What becomes of good, broken, outdated, blocked and duplicate drivers: real distributions in a fresh interpreter."""

from __future__ import annotations

from typing import Any

import pytest

from virtuoso_core.plugins import API_VERSION, Status, default_registry
from virtuoso_core.plugins.packages import SCHEME_PACKAGES

DRIVER = """
from virtuoso_core.plugins import hookimpl
from virtuoso_core.testing.memory import MemoryHypervisor

api_version = 1

class {name}(MemoryHypervisor):
    name = "{name}"
    schemes = ("{scheme}",)

@hookimpl
def virtuoso_hypervisors():
    return [{name}]
"""

HEAD = """
from virtuoso_core import Hypervisor
from virtuoso_core.plugins import hookimpl

api_version = 1
"""

UNFINISHED = """
class Half(Hypervisor):
    name = "half"
    schemes = ("half",)
    @classmethod
    def open(cls, uri, *, readonly=False, credentials=None):
        return cls(uri)
    def _version(self):
        return "1"
"""


def driver(name: str, scheme: str) -> str:
    return DRIVER.format(name=name, scheme=scheme)


def returning(value: str, before: str = "") -> str:
    return f"{HEAD}\n{before}\n@hookimpl\ndef virtuoso_hypervisors():\n    return {value}\n"


def test_the_memory_driver_is_an_ordinary_plugin_of_this_environment() -> None:
    (memory,) = [plugin for plugin in default_registry().plugins if plugin.name == "memory"]
    assert (memory.distribution, memory.status, memory.schemes) == ("virtuoso-core", Status.OK, ("memory",))


def test_a_good_driver_serves_its_scheme(environment: Any) -> None:
    environment.install("virtuoso-cloud", {"cloud": "cloud_plugin"}, {"cloud_plugin": driver("Cloud", "cloud")})
    assert environment.plugin() == {
        "name": "cloud",
        "distribution": "virtuoso-cloud",
        "version": "1.0",
        "status": "ok",
        "schemes": ["cloud"],
        "error": None,
    }
    assert environment.connect("cloud://host/x") == {"type": None, "driver": "Cloud", "uri": "cloud://host/x"}
    assert environment.connect("cloud+ssh://host/x")["driver"] == "Cloud"
    assert environment.log == ""


# No driver.


@pytest.mark.parametrize(("scheme", "package"), SCHEME_PACKAGES.items())
def test_a_known_scheme_without_driver_names_the_package(environment: Any, scheme: str, package: str) -> None:
    error = environment.connect(f"{scheme}:///x")
    assert error["type"] == "DriverNotInstalledError"
    assert error["hint"] == f"Install it: pip install {package}"
    assert "Installed drivers serve: memory." in error["message"]


@pytest.mark.parametrize(
    ("uri", "nearest"), [("qmeu:///system", "qemu"), ("memry:///x", "memory"), ("zzzzz:///x", None)]
)
def test_an_unknown_scheme_names_the_nearest_and_the_guide(environment: Any, uri: str, nearest: str | None) -> None:
    error = environment.connect(uri)
    assert error["type"] == "DriverNotInstalledError"
    assert "Installed drivers serve: memory." in error["message"]
    assert "docs/drivers.md" in error["hint"]
    assert (f"Did you mean {nearest}://?" in error["message"]) == (nearest is not None)
    assert nearest is not None or "Did you mean" not in error["message"]


def test_a_named_driver_that_is_not_there(environment: Any) -> None:
    error = environment.connect("memory:///x", driver="nosuch")
    assert error["type"] == "DriverNotInstalledError"
    assert "'nosuch'" in error["message"]
    assert "These do: memory." in error["message"]


# A driver that is installed and does not load.

BROKEN = {
    "ImportError": ("import nosuchmodule", "ModuleNotFoundError"),
    "SyntaxError": ("def (", "SyntaxError"),
    "SystemExit": ("import sys; sys.exit('bye')", "SystemExit"),
    "Exception": ("raise RuntimeError('no licence') from KeyError('licence')", "RuntimeError"),
    "SystemExit in the hook": (returning("exit()", "import sys; exit = sys.exit"), "SystemExit"),
    "Exception in the hook": (returning("1 / 0"), "ZeroDivisionError"),
    "Exception in a look": ("def __getattr__(name): return 1 / 0", "ZeroDivisionError"),
}


@pytest.mark.parametrize(("source", "cause"), BROKEN.values(), ids=BROKEN)
def test_a_driver_that_fails_to_load_harms_no_other(environment: Any, source: str, cause: str) -> None:
    environment.install("virtuoso-vbox", {"vbox": "vbox_plugin"}, {"vbox_plugin": source}, version="3.4")
    environment.install("virtuoso-zcloud", {"zcloud": "zcloud_plugin"}, {"zcloud_plugin": driver("Cloud", "zcloud")})
    broken, good = sorted(environment.plugins(), key=lambda plugin: str(plugin["name"]))
    assert good["status"] == "ok"
    assert broken["status"] == "broken"
    assert broken["schemes"] == []
    assert environment.connect("zcloud:///x")["driver"] == "Cloud"
    error = environment.connect("vbox:///session")
    assert error["type"] == "DriverLoadError"
    assert "vbox of virtuoso-vbox 3.4" in error["message"]
    assert cause in error["message"]
    assert "virtuoso-vbox" in error["hint"]
    assert error["cause"]["type"] == cause
    assert "vbox of virtuoso-vbox 3.4" in environment.log  # and a log line says so


def test_the_whole_chain_of_causes_is_kept(environment: Any) -> None:
    environment.install("virtuoso-vbox", {"vbox": "vbox_plugin"}, {"vbox_plugin": BROKEN["Exception"][0]})
    cause = environment.connect("vbox:///session")["cause"]
    assert (cause["type"], cause["message"]) == ("RuntimeError", "no licence")
    assert cause["cause"]["type"] == "KeyError"


def test_a_broken_driver_of_an_unknown_scheme_is_mentioned(environment: Any) -> None:
    environment.install("acme-vm", {"acme": "acme_plugin"}, {"acme_plugin": "import nosuchmodule"})
    error = environment.connect("roadrunner:///x")
    assert error["type"] == "DriverNotInstalledError"
    assert "Not in use: acme (broken); see: virtuoso drivers." in error["message"]


REJECTED = {
    "unknown hook, a near one": (
        HEAD + "@hookimpl\ndef virtuoso_hypervisers():\n    return []",
        ["there is no hook virtuoso_hypervisers", "did you mean virtuoso_hypervisors?"],
    ),
    "unknown hook, none near": (HEAD + "@hookimpl\ndef xyzzy():\n    return []", ["there is no hook xyzzy"]),
    "wrong arguments": (
        HEAD + "@hookimpl\ndef virtuoso_before_save(vm, fields):\n    pass",
        ["virtuoso_before_save takes (vm, changed), not fields"],
    ),
    "an argument of a hook that has none": (
        HEAD + "@hookimpl\ndef virtuoso_hypervisors(uri):\n    return []",
        ["virtuoso_hypervisors takes (), not uri"],
    ),
    "an object": (returning("[42]"), ["42", "no subclass of Hypervisor"]),
    "another class": (returning("[dict]"), ["dict", "no subclass of Hypervisor"]),
    "a text": (returning("'memory'"), ["no subclass of Hypervisor"]),
    "no list": (returning("Hypervisor"), ["virtuoso_hypervisors", "not iterable"]),
    "None": (returning("None"), ["returned None from virtuoso_hypervisors"]),
    "unfinished": (
        returning("[Half]", UNFINISHED),
        ["Half", "unfinished"] + [f"it lacks the method {name}()" for name in ("_list_vms", "_new_vm")],
    ),
    "no name": (
        returning("[Half]", UNFINISHED.replace('name = "half"', "pass")),
        ["it declares no name", "it lacks the method _list_vms()"],
    ),
    "schemes is a text": (
        returning("[Half]", UNFINISHED.replace('("half",)', '"half"')),
        ["it declares no schemes (a tuple of str)"],
    ),
    "no hook": (HEAD, ["implements no hook", "virtuoso_core.plugins.hookimpl"]),
    "hook not marked": (HEAD + "def virtuoso_hypervisors():\n    return []", ["implements no hook"]),
}


@pytest.mark.parametrize(("source", "fragments"), REJECTED.values(), ids=REJECTED)
def test_a_driver_that_does_not_fit_is_rejected(environment: Any, source: str, fragments: list[str]) -> None:
    environment.install("virtuoso-half", {"half": "half_plugin"}, {"half_plugin": source})
    found = environment.plugin()
    assert (found["status"], found["error"]["type"]) == ("broken", "DriverLoadError")
    for fragment in ["half of virtuoso-half 1.0", *fragments]:
        assert fragment in found["error"]["message"]
    assert environment.connect("half:///x")["message"] == found["error"]["message"]
    assert environment.connect("memory:///x")["driver"] == "MemoryHypervisor"


@pytest.mark.parametrize("target", ["half_plugin:nosuch", "nosuchmodule", "half_plugin:", "one two", "os:path.nosuch"])
def test_an_entry_point_that_leads_nowhere(environment: Any, target: str) -> None:
    environment.install("virtuoso-half", {"half": target}, {"half_plugin": ""})
    assert environment.plugin()["status"] in ("broken", "incompatible")
    assert environment.connect("memory:///x")["driver"] == "MemoryHypervisor"


INCOMPATIBLE = {
    "missing": ("", "states no api_version", "virtuoso-cloud"),
    "None": ("api_version = None", "states no api_version", "virtuoso-cloud"),
    "older": (f"api_version = {API_VERSION - 1}", f"interface {API_VERSION - 1}", "virtuoso-cloud"),
    "newer": (f"api_version = {API_VERSION + 1}", f"interface {API_VERSION + 1}", "virtuoso-core"),
    "text": (f"api_version = '{API_VERSION}'", "interface", "virtuoso-cloud"),
    "bool": ("api_version = True", "interface True", "virtuoso-cloud"),
}


@pytest.mark.parametrize(("statement", "said", "upgrade"), INCOMPATIBLE.values(), ids=INCOMPATIBLE)
def test_another_api_version_says_which_to_upgrade(environment: Any, statement: str, said: str, upgrade: str) -> None:
    source = driver("Cloud", "cloud").replace("api_version = 1", statement)
    environment.install("virtuoso-cloud", {"cloud": "cloud_plugin"}, {"cloud_plugin": source})
    found = environment.plugin()
    assert (found["status"], found["error"]["type"]) == ("incompatible", "DriverIncompatibleError")
    assert said in found["error"]["message"]
    assert f"this Virtuoso has interface {API_VERSION}" in found["error"]["message"]
    assert found["error"]["hint"] == f"Upgrade {upgrade}: pip install --upgrade {upgrade}"
    assert environment.connect("cloud:///x")["type"] == "DriverIncompatibleError"


# Two for one scheme.


@pytest.fixture
def rivals(environment: Any) -> Any:
    environment.install("virtuoso-one", {"one": "plugin_one"}, {"plugin_one": driver("One", "cloud")})
    environment.install("acme-two", {"two": "plugin_two"}, {"plugin_two": driver("Two", "cloud")}, version="2.0")
    return environment


def test_two_drivers_for_one_scheme_are_both_listed(rivals: Any) -> None:
    error = rivals.connect("cloud:///x")
    assert error["type"] == "AmbiguousDriverError"
    for fragment in ("One of virtuoso-one 1.0", "Two of acme-two 2.0", "driver=", "VIRTUOSO_DISABLE_DRIVERS="):
        assert fragment in error["message"]


@pytest.mark.parametrize(
    ("name", "chosen"), [("One", "One"), ("one", "One"), ("virtuoso-one", "One"), ("Two", "Two"), ("acme-two", "Two")]
)
def test_the_driver_argument_decides(rivals: Any, name: str, chosen: str) -> None:
    assert rivals.connect("cloud:///x", driver=name)["driver"] == chosen


def test_a_third_name_lists_the_two(rivals: Any) -> None:
    error = rivals.connect("cloud:///x", driver="three")
    assert error["type"] == "DriverNotInstalledError"
    assert "One" in error["hint"]
    assert "Two" in error["hint"]


@pytest.mark.parametrize(("blocked", "chosen"), [("acme-two", "One"), ("two", "One"), ("one", "Two")])
def test_blocking_decides(rivals: Any, blocked: str, chosen: str) -> None:
    assert rivals.connect("cloud:///x", VIRTUOSO_DISABLE_DRIVERS=blocked)["driver"] == chosen


# The environment's variables.


@pytest.mark.parametrize("value", ["vbox", "virtuoso-vbox", "other, vbox ,", "other,virtuoso-vbox"])
def test_a_blocked_driver_is_not_even_imported(environment: Any, value: str) -> None:
    source = "import pathlib\npathlib.Path(__file__ + '.imported').touch()\n" + driver("Vbox", "vbox")
    info = environment.install("virtuoso-vbox", {"vbox": "vbox_plugin"}, {"vbox_plugin": source})
    trace = info.parent / "vbox_plugin.py.imported"
    error = environment.connect("vbox:///session", VIRTUOSO_DISABLE_DRIVERS=value)
    assert error["type"] == "DriverDisabledError"
    assert "blocked by VIRTUOSO_DISABLE_DRIVERS" in error["message"]
    assert not trace.exists()
    assert environment.plugin(VIRTUOSO_DISABLE_DRIVERS=value)["status"] == "disabled"
    assert environment.connect("vbox:///session")["driver"] == "Vbox"
    assert trace.exists()


STRICT = "answer(attempt(default_registry))"


def test_strict_lets_the_first_failure_raise(environment: Any) -> None:
    environment.install("virtuoso-half", {"half": "half_plugin"}, {"half_plugin": "import nosuchmodule"})
    assert environment.run(STRICT, VIRTUOSO_STRICT_PLUGINS="0")["driver"] == "Registry"
    error = environment.run(STRICT, VIRTUOSO_STRICT_PLUGINS="1")
    assert (error["type"], error["cause"]["type"]) == ("DriverLoadError", "ModuleNotFoundError")
    assert environment.connect("memory:///x", VIRTUOSO_STRICT_PLUGINS="1")["type"] == "DriverLoadError"


def test_strict_minds_neither_good_nor_blocked_drivers(environment: Any) -> None:
    environment.install("virtuoso-half", {"half": "half_plugin"}, {"half_plugin": "import nosuchmodule"})
    environment.install("virtuoso-one", {"one": "plugin_one"}, {"plugin_one": driver("One", "one")})
    answer = environment.run(STRICT, VIRTUOSO_STRICT_PLUGINS="1", VIRTUOSO_DISABLE_DRIVERS="half")
    assert answer["driver"] == "Registry"


# What lies about on a path.


def test_a_distribution_found_twice_is_recorded_and_the_first_used(environment: Any) -> None:
    environment.path.append(environment.root / "more")
    for folder, name, version in (("site", "First", "2.0"), ("more", "Second", "1.0")):
        environment.install(
            "virtuoso-cloud", {"cloud": "cloud_plugin"}, {"cloud_plugin": driver(name, "cloud")}, version=version,
            folder=folder,
        )  # fmt: skip
    used, spare = environment.plugins()
    assert (used["status"], used["version"]) == ("ok", "2.0")
    assert (spare["status"], spare["version"]) == ("duplicate", "1.0")
    assert str(environment.root / "more") in spare["error"]["message"]
    assert "pip uninstall virtuoso-cloud" in spare["error"]["hint"]
    assert environment.connect("cloud:///x")["driver"] == "First"


@pytest.mark.parametrize("spelling", ["site", "site/", "lib64"])
def test_the_same_folder_met_twice_is_no_duplicate(environment: Any, spelling: str) -> None:
    environment.install("virtuoso-cloud", {"cloud": "cloud_plugin"}, {"cloud_plugin": driver("Cloud", "cloud")})
    (environment.root / "lib64").symlink_to(environment.root / "site", target_is_directory=True)
    environment.path.append(f"{environment.root}/{spelling}")
    assert environment.plugin()["status"] == "ok"


def test_damaged_metadata_on_the_path_harms_nobody(environment: Any) -> None:
    bare = environment.install("bare", {"bare": "bare"}) / "METADATA"
    bare.unlink()
    (environment.install("damaged", {}) / "entry_points.txt").write_text("[virtuoso.drivers]\nno equals sign\n")
    environment.install("virtuoso-cloud", {"cloud": "cloud_plugin"}, {"cloud_plugin": driver("Cloud", "cloud")})
    assert environment.connect("cloud:///x")["driver"] == "Cloud"
    assert "its metadata does not parse" in environment.log


def test_one_distribution_may_bring_several_drivers(environment: Any) -> None:
    modules = {"plugin_a": driver("A", "aaa"), "plugin_b": "raise ValueError"}
    environment.install("virtuoso-many", {"a": "plugin_a", "b": "plugin_b"}, modules)
    assert [plugin["status"] for plugin in environment.plugins()] == ["ok", "broken"]
    assert environment.connect("aaa:///x")["driver"] == "A"
