"""No driver has more than about 400 lines: what is of use to several is the core's."""

from __future__ import annotations

import ast
import io
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DRIVERS = ROOT / "drivers"
EXAMPLE = ROOT / "docs" / "example-driver" / "virtuoso_qmp"
ABOUT_400 = 430
LARGER = {"vbox-manage": 460}
"""Ways in that do by themselves what libvirt does for the others: every disk, disc and snapshot, in words."""

WAYS_IN = {
    "kvm": ("kvm", ["__init__.py", "diagnosis.py", "driver.py"]),
    "xen": ("xen", ["__init__.py", "diagnosis.py", "driver.py", "machines.py"]),
    "vmware-esx": ("vmware", ["__init__.py", "base.py", "esx.py", "probe.py"]),
    "vmware-workstation": (
        "vmware",
        ["__init__.py", "base.py", "registry.py", "vmrun.py", "vmx.py", "workstation.py"],
    ),
    "vbox-manage": ("vbox", ["__init__.py", "driver.py", "manage.py", "runner.py", "settings.py"]),
    "vbox-libvirt": ("vbox", ["libvirt.py"]),
}
"""Each way into a hypervisor: the distribution and its files; what two ways share counts for both."""

_NO_CODE = {
    tokenize.COMMENT,
    tokenize.DEDENT,
    tokenize.ENCODING,
    tokenize.ENDMARKER,
    tokenize.INDENT,
    tokenize.NEWLINE,
    tokenize.NL,
}


def code_lines(text: str) -> int:
    """The lines that are not blank, comment, docstring or import."""
    found: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type not in _NO_CODE:
            found.update(range(token.start[0], token.end[0] + 1))
    for node in ast.walk(ast.parse(text)):
        docstring = (
            isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        )
        if docstring or isinstance(node, (ast.Import, ast.ImportFrom)):
            found.difference_update(range(node.lineno, (node.end_lineno or node.lineno) + 1))
    return len(found)


def sources(distribution: str) -> dict[str, Path]:
    """The modules of a driver's distribution, by their names within its package."""
    package = DRIVERS / distribution / f"virtuoso_{distribution}"
    return {path.relative_to(package).as_posix(): path for path in package.rglob("*.py")}


def test_what_is_counted() -> None:
    """Code, and nothing else; a string of several lines counts with each."""
    lines = [
        '"""Doc."""',
        "",
        "import os",
        "from a import (",
        "    b,",
        ")",
        "",
        'X = """a',
        'b"""  # why',
        '"""Doc',
        'of X."""',
    ]
    lines += ["", "def f():", '    """Doc."""', "    # why", "    return [", "        1,", "    ]", ""]
    assert code_lines("\n".join(lines)) == 6


@pytest.mark.parametrize("way", WAYS_IN)
def test_drivers_are_small(way: str) -> None:
    """Each way into a hypervisor for itself."""
    distribution, names = WAYS_IN[way]
    counts = {name: code_lines(sources(distribution)[name].read_text(encoding="utf-8")) for name in names}
    assert sum(counts.values()) <= LARGER.get(way, ABOUT_400), counts


@pytest.mark.parametrize("distribution", sorted(path.name for path in DRIVERS.iterdir() if path.is_dir()))
def test_every_file_is_counted(distribution: str) -> None:
    """A new one must be in the table."""
    assert set(sources(distribution)) == {
        name for of, names in WAYS_IN.values() if of == distribution for name in names
    }


def test_the_example_is_smaller() -> None:
    """It is read to the end."""
    counts = {path.name: code_lines(path.read_text(encoding="utf-8")) for path in EXAMPLE.rglob("*.py")}
    assert sum(counts.values()) <= 300, counts
