"""wheels.py PACKAGE=BIN ...: what environments made from wheels alone must do: the core, and it with one driver."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

PACKAGES = {"qemu": "virtuoso-kvm", "xen": "virtuoso-xen", "vbox": "virtuoso-vbox", "esx": "virtuoso-vmware"}

WITHOUT_LIBVIRT = {"virtuoso-vbox"}


def run(folder: str, *words: str) -> tuple[int, Any, str]:
    """A `virtuoso --json` command: its exit code, its document, its standard error."""
    done = subprocess.run(
        [f"{folder}/virtuoso", "--json", *words], capture_output=True, text=True, timeout=60, cwd="/", check=False
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def check_core(folder: str) -> None:
    """The core alone: no driver but its own, no libvirt."""
    code, listed, said = run(folder, "-c", "memory:///wheels", "list")
    assert (code, listed) == (0, []), said
    code, _, said = run(folder, "-c", "test:///default", "list")
    assert code == 4, said
    assert "virtuoso-core[libvirt]" in said, said


def check_driver(package: str, folder: str) -> None:
    """A driver beside the core: it loads, and libvirt came with it where it needs that."""
    code, plugins, said = run(folder, "drivers")
    assert code == 0, said
    assert {plugin["status"] for plugin in plugins} == {"ok"}, plugins
    assert {plugin["distribution"] for plugin in plugins} == {"virtuoso-core", package}, plugins
    if package in WITHOUT_LIBVIRT:
        return
    code, listed, said = run(folder, "-c", "test:///default", "list")
    assert code == 0, said
    assert [vm["name"] for vm in listed] == ["test"], listed


def main() -> None:
    """Fail with the first thing that does not hold."""
    for word in sys.argv[1:]:
        package, _, folder = word.partition("=")
        if package == "virtuoso-core":
            check_core(folder)
        else:
            check_driver(package, folder)
        for scheme, wanted in PACKAGES.items():
            if wanted != package:
                code, _, said = run(folder, "-c", f"{scheme}:///system", "list")
                assert code == 4, (code, said)
                assert f"pip install {wanted}" in said, said
        print(f"{package} works from wheels")


main()
