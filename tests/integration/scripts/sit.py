"""sit.py URI VM: sit at a VM's console by `virtuoso console` on a terminal, type, leave, and print what was seen."""

from __future__ import annotations

import json
import sys
import time

from tests.unit.shell import Terminal

uri, name = sys.argv[1:]
program = f"from virtuoso_core.cli import main; main(['-c', {uri!r}, 'console', {name!r}])"
with Terminal(program) as terminal:
    terminal.wait_for("Ctrl-] leaves it.", 60)
    raw = False
    end = time.monotonic() + 90
    while "# " not in terminal.text and time.monotonic() < end:
        terminal.type("\r")
        terminal.look(2)
        raw = raw or not terminal.restored
    terminal.type("echo answer-$((20 + 22))\r")
    terminal.wait_for("answer-42", 60)
    terminal.type("sleep 600\r")
    time.sleep(1)
    terminal.type("\x03")  # for the guest
    terminal.type("echo again-$((20 + 22))\r")
    terminal.wait_for("again-42", 60)
    terminal.type("\x1d")
    code = terminal.wait(60)
    print(json.dumps({"code": code, "raw": raw, "restored": terminal.restored, "last": terminal.text[-100:]}))
