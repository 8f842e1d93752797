"""The documents tell what is so: their examples run, their tables are the code's, their links lead somewhere."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import virtuoso_core
from virtuoso_core import URI, VM, Hypervisor, State, errors
from virtuoso_core.backend import VMBackend
from virtuoso_core.cli import app
from virtuoso_core.cli.commands import cli
from virtuoso_core.libvirt_base.networks import Wirings
from virtuoso_core.plugins import default_registry, hookspecs
from virtuoso_core.plugins.packages import SCHEME_PACKAGES
from virtuoso_core.spec import Feature, Option
from virtuoso_core.testdriver.driver import TestHypervisor
from virtuoso_core.testing.memory import MemoryHypervisor
from virtuoso_kvm.driver import KvmHypervisor

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted(ROOT.glob("docs/*.md"))]
DOCUMENTS += [*sorted(ROOT.glob("drivers/*/README.md")), ROOT / "tests/labs/README.md"]
GUIDE, DRIVERS, ARCHITECTURE = (ROOT / "docs" / f"{name}.md" for name in ("guide", "drivers", "architecture"))

SUBSTITUTED = {"qemu:///session": "test:///default", "qemu:///system": "test:///default"}
"""What examples say and what they run with: the one difference between what is printed and what is run."""

NOT_RUN = {("docs/guide.md", f"needs {what}") for what in ("that host", "a guest")}
NOT_RUN |= {("drivers/vbox/README.md", "needs VirtualBox"), ("README.md", "needs a guest")}
"""Each block that is not run stands behind ``<!-- not run: REASON -->``."""

STATE = """<node>
  <cpu><mhz>2000</mhz><model>x86_64</model><active>4</active><nodes>1</nodes>
    <sockets>1</sockets><cores>4</cores><threads>1</threads></cpu>
  <memory>16777216</memory>
  <domain type='test' xmlns:test='http://libvirt.org/schemas/domain/test/1.0'>
    <name>web</name><uuid>7c2c3a5e-6a77-4b53-9d8b-0d4ad1e5c0a1</uuid>
    <memory>1048576</memory><vcpu>1</vcpu><os><type>hvm</type></os>
    <test:runstate>5</test:runstate>
  </domain>
</node>
"""
"""Of libvirt's mock, for the commands: the VM "web" is there, and off."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a document, and what the comment right before it says."""

    document: Path
    line: int
    language: str
    text: str
    file: str | None = None
    not_run: str | None = None

    @property
    def place(self) -> str:
        return f"{self.document.relative_to(ROOT)}:{self.line}"


def blocks_of(document: Path) -> Iterator[Block]:
    pattern = r"^(?:<!-- (file|not run): (.+?) -->\n)?```(\w*)\n(.*?)^```$"
    text = document.read_text(encoding="utf-8")
    for found in re.finditer(pattern, text, re.MULTILINE | re.DOTALL):
        what, value, language, body = found.groups()
        line = text[: found.start(4)].count("\n")
        said = {"file": {"file": value}, "not run": {"not_run": value}, None: {}}[what]
        yield Block(document, line, language, body, **said)


BLOCKS = [block for document in DOCUMENTS for block in blocks_of(document)]
FILES = [block for block in BLOCKS if block.file]


def substituted(text: str) -> str:
    for said, run in SUBSTITUTED.items():
        text = text.replace(said, run)
    return text


def run(
    command: list[str], *, path: Path | None = None, input: str | None = None, **environ: str
) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not re.match("VIRTUOSO_|LIBVIRT_|PYTEST_", name)}
    kept["PATH"] = f"{Path(sys.executable).parent}:{kept['PATH']}"
    if path is not None:
        environ["PYTHONPATH"] = str(path)
    return subprocess.run(
        command, env=kept | environ, cwd=path, input=input, capture_output=True, text=True, timeout=250, check=False
    )


# What is run.

RUNNER = """
import json, sys
def expect(found, wanted):
    assert repr(found) == wanted, f"it is {found!r}"
names = {"__name__": "example", "expect": expect}
for document, line, code in json.load(sys.stdin):
    exec(compile("\\n" * line + code, document, "exec"), names)
"""


def checked(code: str) -> str:
    """The block's text; ``EXPRESSION  # -> VALUE`` made a check."""
    return re.sub(
        r"^( *)(\S.*?) +# -> (.+)$", lambda m: f"{m[1]}expect({m[2]}, {m[3]!r})", substituted(code), flags=re.M
    )


def python_blocks(document: Path) -> list[Block]:
    return [
        block for block in BLOCKS if block.document == document and (block.language, block.file) == ("python", None)
    ]


@pytest.mark.parametrize("document", [d for d in DOCUMENTS if python_blocks(d)], ids=lambda d: d.name)
def test_python_examples(document: Path) -> None:
    """One after the other, as a reader would type them."""
    blocks = [block for block in python_blocks(document) if block.not_run is None]
    given = json.dumps([(str(document), block.line, checked(block.text)) for block in blocks])
    done = run([sys.executable, "-W", "error", "-c", RUNNER], input=given)
    assert done.returncode == 0, done.stderr


def test_blocks_that_are_not_run() -> None:
    assert {(str(b.document.relative_to(ROOT)), b.not_run) for b in BLOCKS if b.not_run} == NOT_RUN


def test_languages() -> None:
    """A block in another language would not be looked at."""
    assert {block.language for block in BLOCKS} <= {"python", "sh", "toml", "xml"}


COMMANDS = [
    (block.place, line)
    for block in BLOCKS
    if block.language == "sh" and block.not_run is None
    for line in block.text.splitlines()
    if line.startswith("virtuoso ")
]


@pytest.mark.parametrize(("place", "line"), [(place, line) for place, line in COMMANDS if "shelf:" not in line])
def test_commands(place: str, line: str, tmp_path: Path) -> None:
    """Each alone, on libvirt's mock, where "web" is there unless it is made."""
    state = tmp_path / "state.xml"
    state.write_text(STATE)
    uri = "test:///default" if " create " in line else f"test://{state}"
    done = run(["sh", "-c", substituted(line)], VIRTUOSO_DEFAULT_URI=uri)
    assert done.returncode == 0, f"{place}: {line}\n{done.stdout}{done.stderr}"


# The driver guide's packages.


@pytest.fixture
def site(tmp_path: Path) -> Path:
    """The files of docs/drivers.md, and its three distributions as pip leaves them."""
    for block in FILES:
        assert block.file is not None
        place = tmp_path / block.file
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(block.text)
    project = tomllib.loads((tmp_path / "pyproject.toml").read_text())["project"]
    (group,) = project["entry-points"]
    (shelf,) = project["entry-points"][group].items()
    assert group == hookspecs.ENTRY_POINT_GROUP
    for name, (point, module) in {
        project["name"]: shelf,
        "virtuoso-bhyve": ("bhyve", "virtuoso_bhyve"),
        "house-rules": ("house_rules", "house_rules"),
    }.items():
        info = tmp_path / f"{name.replace('-', '_')}-0.1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1.0\n")
        (info / "entry_points.txt").write_text(f"[{group}]\n{point} = {module}\n")
    (tmp_path / "pyproject.toml").unlink()  # or pytest would take it for its own
    return tmp_path


@pytest.mark.parametrize("name", ["shelf", "bhyve"])
def test_the_driver_guides_drivers_pass_the_suite(site: Path, name: str) -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-W", "error", "-p", "no:cacheprovider", f"tests/test_{name}.py"]
    done = run(command, path=site, VIRTUOSO_TEST_EXAMPLES="10")
    assert done.returncode == 0, done.stdout
    assert int(re.findall(r"(\d+) passed", done.stdout)[0]) > 30, done.stdout


def test_the_driver_guides_commands(site: Path) -> None:
    shelf = site / "shelf"
    shelf.mkdir()
    lines = [line.replace("/tmp/shelf", str(shelf)) for _, line in COMMANDS if "shelf:" in line]  # noqa: S108
    assert len(lines) > 2
    for line in lines:
        done = run(["sh", "-c", line], path=site)
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"
    assert {vm["name"]: vm["state"] for vm in json.loads((shelf / "vms.json").read_text()).values()} == {
        "web": "stopped"
    }


def test_the_driver_guides_house_rules(site: Path) -> None:
    script = """
import logging, sys
from virtuoso_core import SaveVetoedError, connect
from virtuoso_core.plugins import default_registry
logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(message)s")
print([str(plugin.status) for plugin in default_registry().plugins if plugin.distribution == "house-rules"])
assert "qemu+ssh://vmhost/system" in default_registry().default_uris()
vm = connect("memory:///house").new_vm()
vm.name, vm.memory = "web", "65 GiB"
try:
    vm.save()
except SaveVetoedError as error:
    print(error.__cause__)
vm.memory = "1 GiB"
vm.save()
"""
    done = run([sys.executable, "-W", "error", "-c", script], path=site)
    assert done.stdout.splitlines() == [
        "['ok']",
        "no VM here gets more than 64 GiB",
        "saved web on memory:///house",
    ], done.stderr


def test_the_driver_guides_drivers_have_types(site: Path) -> None:
    pytest.importorskip("mypy")
    command = [sys.executable, "-m", "mypy", "--strict", "--no-incremental", "virtuoso_shelf", "virtuoso_bhyve"]
    done = run([*command, "house_rules.py"], path=site, MYPYPATH=f"{site}")
    assert done.returncode == 0, done.stdout


# Links.


def slugs(document: Path) -> set[str]:
    titles = re.findall(r"^#+ (.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_links(document: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", document.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match("[a-z]+:", target):
            continue
        path, _, anchor = target.partition("#")
        there = document.parent / path if path else document
        assert there.exists(), target
        assert not anchor or anchor in slugs(there), target


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda d: str(d.relative_to(ROOT)))
def test_tools_that_are_named_exist(document: Path) -> None:
    for name in re.findall(r"\btools/[a-z][\w.-]*", document.read_text(encoding="utf-8")):
        assert (ROOT / name.rstrip(".")).is_file(), name


# Tables.


def tables(document: Path, *header: str) -> list[list[list[str]]]:
    """The rows of every table whose header begins with these words; the cells without backquotes."""
    found: list[list[list[str]]] = []
    inside = False
    for line in document.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip().replace("`", "") for cell in line.strip("|").split("|")] if line.startswith("|") else []
        if not cells:
            inside = False
        elif cells[: len(header)] == list(header):
            inside = True
            found.append([])
        elif inside and not set("".join(cells)) <= set("-"):
            found[-1].append(cells)
    assert found, f"{document.name} has no table {header}"
    return found


def names(cell: str) -> list[str]:
    """A, B() -> A, B"""
    return [re.split(r"[(\s]", part.strip())[0] for part in re.sub(r"\([^)]*\)", "", cell).split(",")]


DRIVER_CLASSES: list[type[Hypervisor]] = [KvmHypervisor, TestHypervisor, MemoryHypervisor]


@pytest.mark.parametrize("driver", DRIVER_CLASSES, ids=lambda cls: cls.name)
def test_options_table(driver: type[Hypervisor]) -> None:
    (rows,) = tables(GUIDE, "key", "on", "takes")
    told = {key: takes for key, on, takes, _ in rows if driver.name in on.split(", ")}
    assert set(told) == set(driver.options)
    for key, option in driver.options.items():
        assert isinstance(option, Option)
        assert all(re.search(rf"\b{choice}\b", told[key]) for choice in option.choices), key


def test_options_of_the_kvm_readme() -> None:
    text = " ".join((ROOT / "drivers/kvm/README.md").read_text(encoding="utf-8").split())
    assert f": {', '.join(KvmHypervisor.options)}." in text


@pytest.mark.parametrize(("number", "uri"), [(0, "qemu:///system"), (1, "qemu:///session"), (1, "qemu:///embed")])
def test_network_tables(number: int, uri: str) -> None:
    rows = tables(GUIDE, "type", "joins", "source")[number]
    wirings: Wirings = KvmHypervisor.wirings_at(URI.parse(uri))
    assert [row[0] for row in rows] == list(wirings)
    for type, _, source in rows:
        usual = wirings[type][0]
        assert (usual.default or ("required" if usual.source else "none")) in source, type


def test_features_table() -> None:
    (rows,) = tables(GUIDE, "feature")
    assert [row[0] for row in rows] == [feature.value for feature in Feature]
    for feature, *told, _ in rows:
        assert told == ["yes" if Feature(feature) in driver.features else "no" for driver in DRIVER_CLASSES], feature


def test_states_table() -> None:
    (rows,) = tables(GUIDE, "state")
    assert [row[0] for row in rows] == [state.value for state in State]


def test_errors_table() -> None:
    (rows,) = tables(GUIDE, "error")
    told = set(re.findall(r"\w+Error", " ".join(row[0] for row in rows)))
    builtin = {"ValueError", "ConnectionError", "LookupError", "TimeoutError"}
    assert told - builtin == {name for name in errors.__all__ if name.endswith("Error")} - {"VirtuosoError"}


def test_exit_codes_table() -> None:
    (rows,) = tables(GUIDE, "exit code")
    told = {int(code) for row in rows for code in row[0].split(", ")}
    codes = {app.FAILED, app.USAGE, app.NOT_FOUND, app.DRIVER, app.CONNECTION, app.INTERRUPTED, app.PIPE_CLOSED}
    codes |= {app.HUNG_UP, app.TERMINATED}
    assert told == {0} | codes


def test_commands_table() -> None:
    (rows,) = tables(GUIDE, "command")
    assert [name for row in rows for name in names(row[0])] == list(cli.commands)


def test_readme_drivers_table() -> None:
    (rows,) = tables(ROOT / "README.md", "package", "schemes")
    told = {package: schemes.split(", ") for package, schemes, _ in rows}
    core = told.pop("virtuoso-core")
    assert core == [scheme for driver in (TestHypervisor, MemoryHypervisor) for scheme in driver.schemes]
    expected: dict[str, list[str]] = {}
    for scheme, package in SCHEME_PACKAGES.items():
        expected.setdefault(package, []).append(scheme)
    assert told == expected
    installed = {plugin.distribution for plugin in default_registry().plugins}
    for package, _, state in rows:
        folder = ROOT if package == "virtuoso-core" else ROOT / "drivers" / package.removeprefix("virtuoso-")
        assert state.startswith("ready") or package not in installed, package
        assert state == "not yet" or (folder / "README.md").is_file(), package


def test_tables_of_what_a_driver_supplies() -> None:
    hypervisor, vm = ([name for row in rows for name in names(row[0])] for rows in tables(DRIVERS, "method", "must do"))
    assert set(hypervisor) >= Hypervisor.__abstractmethods__
    assert all(hasattr(Hypervisor, name) for name in hypervisor)
    assert set(vm) >= VM.__abstractmethods__
    supplied = {name for name, value in vars(VMBackend).items() if callable(value) and re.match("_[a-z]", name)}
    assert set(vm) == supplied
    (attributes,) = tables(DRIVERS, "attribute")
    assert {row[0] for row in attributes} == set(inspect.get_annotations(Hypervisor))


@pytest.mark.parametrize("name", [name for name in vars(hookspecs) if name.startswith("virtuoso_")])
def test_hooks_table(name: str) -> None:
    (rows,) = tables(DRIVERS, "hook")
    signature = str(inspect.signature(getattr(hookspecs, name))).replace("'", "")
    assert f"{name}{signature}" in [row[0] for row in rows]


# Names.


def mentions(text: str, name: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(name)}(?!\w)", text) is not None


@pytest.mark.parametrize("name", virtuoso_core.__all__)
def test_every_public_name_is_told_about(name: str) -> None:
    assert mentions(GUIDE.read_text(encoding="utf-8") + DRIVERS.read_text(encoding="utf-8"), name)


@pytest.mark.parametrize("cls", [Hypervisor, VM], ids=lambda cls: cls.__name__)
def test_every_public_call_is_in_the_guide(cls: type) -> None:
    text = GUIDE.read_text(encoding="utf-8")
    public = {name for name in dir(cls) if not name.startswith("_")} | set(
        inspect.get_annotations(Hypervisor) if cls is Hypervisor else ()
    )
    drivers_only = {"open", "name", "schemes", "mac_prefix"} if cls is Hypervisor else set[str]()
    missing = {name for name in public - drivers_only if not re.search(rf"(?<![\w])(\w+\.)?{name}\b", text)}
    assert missing == set()


def test_every_environment_variable_is_in_the_guide() -> None:
    sources = [path for folder in ("virtuoso_core", "drivers") for path in ROOT.glob(f"{folder}/**/*.py")]
    sources += [path for path in [*ROOT.glob("tools/*"), *ROOT.glob("tests/labs/*")] if path.is_file()]
    used = {
        name
        for path in sources
        for name in re.findall(r"(?<![A-Z_])VIRTUOSO_[A-Z][A-Z_]*[A-Z]\b", path.read_text(encoding="utf-8"))
    }
    assert "VIRTUOSO_DEFAULT_URI" in used
    (rows,) = tables(GUIDE, "variable")
    told = {name for row in rows for name in row[0].split(", ")}
    # the guide has one row for the suites of all drivers
    used = {name for name in used if not name.startswith("VIRTUOSO_TEST_URI")}
    assert used - told == set()


def test_architecture_names_every_module() -> None:
    text = ARCHITECTURE.read_text(encoding="utf-8")
    places = [
        path for path in ROOT.glob("virtuoso_core/*") if not path.name.startswith("__") and path.suffix != ".typed"
    ]
    missing = [path.name for path in places if f"`{path.name}{'/' if path.is_dir() else ''}`" not in text]
    assert missing == []


def test_the_changelog_tells_about_this_version() -> None:
    assert f"## [{virtuoso_core.__version__}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
