"""Every example in a docstring of the core does what it shows."""

from __future__ import annotations

import doctest
import importlib
import io
import pkgutil
from types import ModuleType

import pytest

import virtuoso_core
from virtuoso_core.testing.memory import MemoryHypervisor

OPTIONAL = {"libvirt", "libvirt_qemu", "lxml", "PIL", "pytest", "hypothesis"}
"""What the core's extras bring; everything else must be there."""

MODULES = ["virtuoso_core"] + [
    module.name
    for module in pkgutil.walk_packages(virtuoso_core.__path__, "virtuoso_core.", onerror=lambda name: None)
    if not module.name.endswith("__main__")
]


def load(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in OPTIONAL:
            raise
        pytest.skip(f"{missing} is not installed")


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.IGNORE_EXCEPTION_DETAIL)
    for case in doctest.DocTestFinder(exclude_empty=True).find(load(name), name):
        monkeypatch.setattr(MemoryHypervisor, "_hosts", {})  # each example starts with empty hosts
        report = io.StringIO()
        result = runner.run(case, out=report.write)
        assert result.failed == 0, report.getvalue()


def test_there_are_examples() -> None:
    names = ["virtuoso_core.vm", "virtuoso_core.hypervisor", "virtuoso_core.connect", "virtuoso_core.spec"]
    finder = doctest.DocTestFinder()
    counts = {name: sum(len(case.examples) for case in finder.find(load(name), name)) for name in names}
    assert min(counts.values()) > 0
    assert sum(counts.values()) > 20
