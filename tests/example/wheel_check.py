"""wheel_check.py: the example driver, as a reader would publish it, beside nothing but the core; run by .ci/run.

Builds both wheels, installs them in an empty environment without libvirt and lxml, and runs the example's tests there.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
EXAMPLE = REPOSITORY / "docs" / "example-driver"
NO_LIBVIRT = """
import importlib.util, sys, virtuoso_qmp.driver
assert virtuoso_qmp.__file__.startswith(sys.prefix), virtuoso_qmp.__file__
there = [name for name in ("libvirt", "lxml") if importlib.util.find_spec(name)]
assert not there, there
"""


def run(*words: object, **options: object) -> None:
    """Fail with its output when it fails."""
    done = subprocess.run(  # type: ignore[call-overload]
        [str(word) for word in words], timeout=500, capture_output=True, text=True, check=False, **options
    )
    if done.returncode:
        sys.exit(f"{words[0]} failed:\n{done.stdout}{done.stderr}")
    if words[-1] == EXAMPLE / "tests":
        print(done.stdout, end="")


def main() -> None:
    """In a folder that is gone afterwards."""
    guest = subprocess.run([REPOSITORY / "tools" / "guest-image"], stdout=subprocess.PIPE, text=True, check=True)
    environ = {**os.environ, "VIRTUOSO_QMP_GUEST": guest.stdout.strip(), "VIRTUOSO_STRICT_PLUGINS": "1"}
    environ["VIRTUOSO_DISABLE_DRIVERS"] = "test"  # the core's own, which is on libvirt
    environ.pop("PYTHONPATH", None)
    with tempfile.TemporaryDirectory() as work:
        for distribution in (REPOSITORY, EXAMPLE):
            run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", f"{work}/dist", distribution)
        venv.create(f"{work}/venv", with_pip=True)
        wheels = sorted(Path(work, "dist").glob("*.whl"))
        install = (f"{work}/venv/bin/pip", "install", "-q", "--disable-pip-version-check")
        run(*install, *wheels, "pytest>=8", "hypothesis>=6.100")
        run(f"{work}/venv/bin/python", "-c", NO_LIBVIRT, cwd=work, env=environ)
        pytest = (f"{work}/venv/bin/pytest", "-q", "-p", "no:cacheprovider", "-c", EXAMPLE / "pyproject.toml")
        run(*pytest, EXAMPLE / "tests", cwd=work, env=environ)


main()
