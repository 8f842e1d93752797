"""The binding: imported late and in one place, silent, one event loop, and a good word when it is missing."""

from __future__ import annotations

import ast
import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import virtuoso_core

ROOT = Path(virtuoso_core.__file__).parents[1]
BINDING = ROOT / "virtuoso_core/libvirt_base/binding.py"

# looked for, not imported: who imports it first decides where its log goes
HAS_LIBVIRT = importlib.util.find_spec("libvirt") is not None
needs_libvirt = pytest.mark.skipif(not HAS_LIBVIRT, reason="libvirt-python is not installed")


def python(code: str, *path: Path, **environ: str) -> subprocess.CompletedProcess[str]:
    """Run code in a fresh interpreter whose warnings are errors."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("LIBVIRT", "VIRTUOSO"))}
    paths = [str(folder) for folder in (*path, ROOT, ROOT / "drivers/kvm")]
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**kept, "PYTHONPATH": os.pathsep.join(paths), **environ},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def answer(code: str, *path: Path, **environ: str) -> Any:
    """What the code prints as JSON; whatever else it says is a failure."""
    done = python(code, *path, **environ)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


# Imports.


def packages() -> Iterator[Path]:
    """Every module that is shipped, of the core and of the drivers."""
    for folder in (ROOT / "virtuoso_core", *(ROOT / "drivers").glob("*/virtuoso_*")):
        yield from folder.rglob("*.py")


def imported(path: Path) -> set[str]:
    """The top-level names of all modules that a file imports, anywhere in it, also by importlib."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name.partition(".")[0] for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            found.add(node.module.partition(".")[0])
        elif isinstance(node, ast.Call) and node.args and isinstance(node.args[0], ast.Constant):
            called = ast.unparse(node.func).rpartition(".")[2]
            if called in ("import_module", "__import__"):
                found.add(str(node.args[0].value).partition(".")[0])
    return found


def is_libvirt(name: str) -> bool:
    """Whether it is a module of libvirt-python."""
    return name == "libvirt" or name.startswith(("libvirt_", "libvirtmod", "libvirtaio"))


def test_one_module_imports_libvirt() -> None:
    importers = {str(path.relative_to(ROOT)) for path in packages() if any(is_libvirt(name) for name in imported(path))}
    # the conformance suite breaks calls on purpose, with errors of libvirt's own
    importers = {name for name in importers if not name.startswith("virtuoso_core/testing/")}
    assert importers == {"virtuoso_core/libvirt_base/binding.py"}


def test_lxml_is_for_the_xml_and_what_is_on_libvirt() -> None:
    importers = {path.relative_to(ROOT).parts[:2] for path in packages() if "lxml" in imported(path)}
    core = {parts for parts in importers if parts[0] == "virtuoso_core"}
    assert core <= {("virtuoso_core", "xml"), ("virtuoso_core", "libvirt_base"), ("virtuoso_core", "testing")}


def test_the_parts_below_do_not_import_those_above() -> None:
    for path in (ROOT / "virtuoso_core/xml").glob("*.py"):
        assert not {name for name in imported(path) if is_libvirt(name)}
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level == 2:
                assert node.module in ("errors", "spec"), path
    drivers = {path.name for path in (ROOT / "drivers").glob("*/virtuoso_*")}
    for path in (ROOT / "virtuoso_core").rglob("*.py"):
        assert not imported(path) & drivers, path


@pytest.mark.parametrize(
    "module",
    ["virtuoso_core", "virtuoso_core.libvirt_base", "virtuoso_core.testdriver", "virtuoso_kvm", "virtuoso_kvm.driver"],
)
def test_importing_does_not_load_libvirt(module: str) -> None:
    code = f"""
import json, sys, threading, os
before = dict(os.environ)
import {module}
print(json.dumps([[name for name in sys.modules if name.startswith("libvirt")], threading.active_count(),
                  dict(os.environ) == before]))
"""
    assert answer(code) == [[], 1, True]


def test_the_core_alone_does_not_even_load_lxml() -> None:
    code = "import json, sys, virtuoso_core; print(json.dumps([n for n in sys.modules if n.split('.')[0] == 'lxml']))"
    assert answer(code) == []


# Silence.

ERRORS = """
import json
from virtuoso_core import connect, errors
caught = []
with connect("test:///default") as hypervisor:
    for call in (lambda: hypervisor.get("no such VM"), lambda: connect("test:///no/such/file.xml"),
                 lambda: connect("qemu+unix:///system?socket=/no/such/socket")):
        try:
            call()
        except errors.VirtuosoError as error:
            caught.append(type(error).__name__)
    vm = hypervisor.get("test")
    native = hypervisor.connection.native
    for wrong in ("<domain/>", "no XML", "<domain type='test'><name>x</name><memory>1</memory></domain>"):
        try:
            hypervisor.connection.call("define it", native.defineXML, wrong)
        except errors.VirtuosoError as error:
            caught.append(type(error).__name__)
print(json.dumps(caught))
"""


@needs_libvirt
def test_libvirt_prints_nothing() -> None:
    caught = answer(ERRORS)
    assert caught[0] == "VMNotFoundError"
    assert set(caught[1:3]) == {"ConnectError"}
    assert len(caught) >= 5


@needs_libvirt
def test_what_libvirt_would_print_can_be_had_as_log_records() -> None:
    code = "import logging\nlogging.basicConfig(level=logging.DEBUG)\n" + ERRORS
    done = python(code)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.splitlines() if "virtuoso_core.libvirt" in line]
    assert any("Domain not found" in line for line in lines)


@needs_libvirt
def test_where_the_user_sends_libvirts_log_is_obeyed(tmp_path: Path) -> None:
    code = (
        ERRORS
        + """
import os, threading
assert os.environ["LIBVIRT_LOG_OUTPUTS"].startswith("3:file:")
assert "virtuoso-libvirt-log" not in [thread.name for thread in threading.enumerate()]
"""
    )
    target = tmp_path / "libvirt.log"
    answer(code, LIBVIRT_LOG_OUTPUTS=f"3:file:{target}")
    assert target.exists()


@needs_libvirt
def test_the_environment_is_left_as_it_was() -> None:
    code = """
import json, os
before = dict(os.environ)
from virtuoso_core import connect
connect("test:///default").close()
print(json.dumps(dict(os.environ) == before))
"""
    assert answer(code) is True


# libvirt-python is missing.

MISSING = """
import json
from virtuoso_core import connect, errors
try:
    connect("{uri}")
except errors.VirtuosoError as error:
    print(json.dumps([type(error).__name__, error.message, error.hint, repr(error.__cause__)]))
"""


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A folder with a libvirt.py that does not load, as when libvirt's own library is missing."""
    (tmp_path / "libvirt.py").write_text("raise ImportError('libvirt.so.0: cannot open shared object file')\n")
    return tmp_path


@pytest.mark.parametrize("uri", ["test:///default", "qemu:///system"])
def test_without_libvirt_the_error_says_what_to_type(uri: str, broken: Path) -> None:
    name, message, hint, cause = answer(MISSING.format(uri=uri), broken)
    assert name == "MissingLibvirtError"
    assert "libvirt.so.0" in message
    assert "ImportError" in cause
    assert "pip install 'virtuoso-core[libvirt]'" in hint
    assert "install" in hint.partition("pip")[0]


@pytest.mark.parametrize(
    ("there", "first"),
    [
        ("/etc/debian_version", "apt-get install libvirt-dev pkg-config gcc python3-dev"),
        ("/etc/redhat-release", "dnf install libvirt-devel"),
        ("/nothing", "install libvirt's development package"),
        ("darwin", "brew install libvirt"),
    ],
)
def test_what_to_type_depends_on_the_platform(there: str, first: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from virtuoso_core.libvirt_base import binding

    monkeypatch.setattr(sys, "platform", "darwin" if there == "darwin" else "linux")
    monkeypatch.setattr(os.path, "exists", lambda path: path == there)
    assert first in binding._install_lines()


def test_the_extra_that_is_named_is_there() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert any(line.startswith("libvirt-python") for line in project["optional-dependencies"]["libvirt"])


def test_it_can_be_tried_again_once_it_is_installed(broken: Path) -> None:
    code = f"""
import json, os
from virtuoso_core.errors import MissingLibvirtError
from virtuoso_core.libvirt_base.binding import libvirt
tries = []
try:
    libvirt()
except MissingLibvirtError as error:
    tries.append(type(error).__name__)
with open({str(broken / "libvirt.py")!r}, "w") as file:
    file.write("def registerErrorHandler(*_): pass")
import importlib
importlib.invalidate_caches()
tries.append(libvirt().__name__)
tries.append("LIBVIRT_LOG_OUTPUTS" in os.environ)
print(json.dumps(tries))
"""
    assert answer(code, broken, PYTHONDONTWRITEBYTECODE="1") == ["MissingLibvirtError", "libvirt", False]


# Threads.

THREADS = """
import json, threading
from virtuoso_core.libvirt_base import binding
barrier = threading.Barrier(8)
results, failures = [], []

def run():
    barrier.wait()
    try:
        {call}
    except BaseException as error:
        failures.append(repr(error))

threads = [threading.Thread(target=run) for _ in range(8)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
{call}
names = [thread.name for thread in threading.enumerate()]
daemons = [thread.daemon for thread in threading.enumerate() if thread.name.startswith("virtuoso")]
print(json.dumps([failures, names.count("virtuoso-libvirt-events"), names.count("virtuoso-libvirt-log"), all(daemons),
                  len(set(results))]))
"""


@needs_libvirt
def test_one_event_loop_for_all_threads() -> None:
    failures, loops, logs, daemons, _ = answer(THREADS.format(call="binding.ensure_event_loop()"))
    assert (failures, loops, daemons) == ([], 1, True)
    assert logs <= 1


@needs_libvirt
def test_one_binding_for_all_threads() -> None:
    failures, loops, logs, daemons, modules = answer(THREADS.format(call="results.append(id(binding.libvirt()))"))
    assert (failures, loops, daemons, modules) == ([], 0, True, 1)
    assert logs <= 1


@needs_libvirt
def test_an_event_loop_does_not_keep_the_process_alive() -> None:
    code = (
        "import json; from virtuoso_core.libvirt_base import binding; binding.ensure_event_loop(); print(json.dumps(1))"
    )
    assert answer(code) == 1
