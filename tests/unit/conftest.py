"""What the unit tests share: a fresh host in memory, and a Python of its own with chosen distributions on its path."""

from __future__ import annotations

import json
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pluggy
import pytest

import virtuoso_core
from tests.unit.shell import Shell
from virtuoso_core import URI
from virtuoso_core.testing.memory import MemoryHypervisor

PRELUDE = """
import json
from virtuoso_core import connect, errors
from virtuoso_core.plugins import default_registry

def described(error):
    if error is None:
        return None
    return {"type": type(error).__name__, "message": str(error), "hint": getattr(error, "hint", ""),
            "cause": described(error.__cause__)}

def attempt(call, *arguments, **keywords):
    try:
        result = call(*arguments, **keywords)
    except errors.VirtuosoError as error:
        return described(error)
    return {"type": None, "driver": type(result).__name__, "uri": str(getattr(result, "uri", ""))}

def answer(value):
    print("ANSWER" + json.dumps(value))

"""


class Environment:
    """A Python environment with virtuoso-core (its memory driver only), pluggy and what a test installs."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.log = ""
        self.path = [root / "site", root / "core"]
        core = root / "core"
        self.install("virtuoso-core", {"memory": "virtuoso_core.testing.memory"}, version="0.1.0", folder="core")
        for package in (virtuoso_core, pluggy):
            assert package.__file__ is not None
            source = Path(package.__file__).parent
            (core / source.name).symlink_to(source, target_is_directory=True)

    def install(
        self,
        distribution: str,
        entry_points: Mapping[str, str],
        modules: Mapping[str, str] | None = None,
        *,
        version: str = "1.0",
        folder: str = "site",
    ) -> Path:
        """Put a distribution on the path as pip leaves it; return its dist-info folder."""
        place = self.root / folder
        info = place / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir(parents=True)
        files = {f"{name}.py": source for name, source in (modules or {}).items()}
        files |= {
            f"{info.name}/METADATA": f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n",
            f"{info.name}/entry_points.txt": "[virtuoso.drivers]\n"
            + "".join(f"{name} = {target}\n" for name, target in entry_points.items()),
        }
        files[f"{info.name}/RECORD"] = "".join(f"{name},,\n" for name in [*files, f"{info.name}/RECORD"])
        for name, text in files.items():
            (place / name).write_text(text)
        return info

    def run(self, code: str, **environ: str) -> Any:
        """What the code gives to ``answer()`` in a fresh interpreter that sees this environment only."""
        done = subprocess.run(
            [sys.executable, "-S", "-W", "error", "-c", PRELUDE + code],
            env={"PYTHONPATH": ":".join(map(str, self.path)), "PYTHONDONTWRITEBYTECODE": "1", **environ},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.log = done.stderr
        assert done.returncode == 0, done.stderr
        answers = [line for line in done.stdout.splitlines() if line.startswith("ANSWER")]
        assert len(answers) == 1, done.stdout
        return json.loads(answers[0].removeprefix("ANSWER"))

    def plugins(self, **environ: str) -> list[dict[str, Any]]:
        """Every plugin that is found but the core's own, and what became of it."""
        code = """answer([
            {"name": p.name, "distribution": p.distribution, "version": p.version, "status": p.status,
             "schemes": p.schemes, "error": described(p.error)}
            for p in default_registry().plugins if p.distribution != "virtuoso-core"])"""
        found: list[dict[str, Any]] = self.run(code, **environ)
        return found

    def plugin(self, **environ: str) -> dict[str, Any]:
        """The only plugin but the core's own."""
        (only,) = self.plugins(**environ)
        return only

    def connect(self, *arguments: str, driver: str | None = None, **environ: str) -> dict[str, Any]:
        """What ``connect()`` comes to: the class of the driver, or the error."""
        result: dict[str, Any] = self.run(f"answer(attempt(connect, *{arguments!r}, driver={driver!r}))", **environ)
        return result


@pytest.fixture
def environment(tmp_path: Path) -> Environment:
    """A Python environment to install plugins in."""
    return Environment(tmp_path)


@pytest.fixture
def uri() -> URI:
    """A host in memory that no other test knows."""
    return URI.parse(f"memory:///{uuid.uuid4()}")


@pytest.fixture
def hypervisor(uri: URI) -> Iterator[MemoryHypervisor]:
    """An open connection to an empty host in memory."""
    with MemoryHypervisor.open(uri) as opened:
        yield opened


@pytest.fixture
def shell() -> Shell:
    """The command, for a host in memory that no other test knows."""
    return Shell()


@pytest.fixture
def web(shell: Shell) -> Shell:
    """The same, with the VM "web", which is off."""
    shell("create", "web", "--memory", "2GiB")
    return shell
