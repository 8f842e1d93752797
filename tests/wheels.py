"""wheels.py CORE-BIN KVM-BIN: what two environments made from wheels alone must do; run by .ci/run."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any


def run(folder: str, *words: str) -> tuple[int, Any, str]:
    """A `virtuoso --json` command: its exit code, its document, its standard error."""
    done = subprocess.run(
        [f"{folder}/virtuoso", "--json", *words], capture_output=True, text=True, timeout=60, cwd="/", check=False
    )
    return done.returncode, json.loads(done.stdout) if done.stdout else None, done.stderr


def main() -> None:
    """Fail with the first thing that does not hold."""
    core, kvm = sys.argv[1:]
    code, _, said = run(core, "-c", "qemu:///system", "list")
    assert code == 4, (code, said)
    assert "pip install virtuoso-kvm" in said, said
    code, listed, said = run(core, "-c", "memory:///wheels", "list")
    assert (code, listed) == (0, []), said
    code, _, said = run(core, "-c", "test:///default", "list")
    assert code == 4, said  # the core alone has no libvirt
    assert "virtuoso-core[libvirt]" in said, said
    code, listed, said = run(kvm, "-c", "test:///default", "list")
    assert code == 0, said
    assert [vm["name"] for vm in listed] == ["test"], listed
    code, drivers, said = run(kvm, "drivers")
    assert code == 0, said
    assert {driver["name"]: driver["status"] for driver in drivers} == {"kvm": "ok", "memory": "ok", "test": "ok"}, (
        drivers
    )
    code, _, said = run(kvm, "-c", "vbox:///session", "list")
    assert code == 4, said
    assert "pip install virtuoso-vbox" in said, said
    print("core alone and core with kvm work from wheels")


main()
