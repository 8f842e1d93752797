"""demo.py IMAGE: runs demo_program.py statement by statement, printing each before what it does.

QEMU's driver of libvirt runs inside this process, with all its files in a folder that goes at the end; the image is
only read: the VM writes to an overlay.
"""

from __future__ import annotations

import ast
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

PROGRAM = Path(__file__).with_name("demo_program.py")
PICTURE = Path(tempfile.gettempdir()) / f"virtuoso-demo-{os.getuid()}.png"


def main() -> int:
    """Run the program on an overlay of the image; the exit code."""
    image = Path(sys.argv[1])
    home = Path(tempfile.mkdtemp(prefix="virtuoso-"))
    try:
        _configure(home)
        names = {
            "URI": f"qemu:///embed?root={home}",
            "IMAGE": _overlay(image, home),
            "PICTURE": PICTURE,
        }
        for name, value in names.items():
            show(f"{name} = {str(value)!r}")
        return _run(names)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _run(names: dict[str, Any]) -> int:
    text = PROGRAM.read_text()
    start, lines = time.monotonic(), text.splitlines()
    for statement in ast.parse(text).body:
        show("\n".join(lines[statement.lineno - 1 : statement.end_lineno]), time.monotonic() - start)
        code = compile(ast.Module([statement], []), str(PROGRAM), "exec")
        try:
            exec(code, names)  # noqa: S102 - our own program, beside this file
        except Exception as error:
            print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
            _clean_up(names.get("hypervisor"))
            return 1
    print(f"\nThe guest's screen is in {PICTURE}; nothing else is left.")
    print(f"These {len([line for line in lines if line])} lines of code did it: {os.path.relpath(PROGRAM)}")
    return 0


def _clean_up(hypervisor: Any) -> None:
    for vm in hypervisor.vms() if hypervisor is not None else []:
        vm.destroy(force=True)


def _configure(home: Path) -> None:
    settings = ['stdio_handler = "file"', "remember_owner = 0"]  # the overlay goes: nobody gets it back
    if os.getuid() == 0:
        settings += ['user = "root"', 'group = "root"']  # the overlay's folder is closed to others
        settings += ["namespaces = []"]  # a container may not let QEMU have a mount namespace of its own
    (home / "etc").mkdir()
    (home / "etc" / "qemu.conf").write_text("\n".join(settings) + "\n")


def _overlay(image: Path, home: Path) -> str:
    from virtuoso_core.images import probe_format

    path = home / "disk.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", probe_format(str(image)), "-b", str(image), str(path)]
    subprocess.run(command, check=True)
    return str(path)


def show(code: str, seconds: float | None = None) -> None:
    """A line of the program, in bold on a terminal, with the time since the start."""
    bold, plain = ("\033[1m", "\033[0m") if sys.stdout.isatty() and "NO_COLOR" not in os.environ else ("", "")
    clock = "         " if seconds is None else f"{seconds:6.1f} s "
    print(f"{clock} {bold}>>> {code}{plain}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
