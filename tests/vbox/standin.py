#!/usr/bin/env python3
"""Stands before the real VBoxManage where there is no kernel module: machines are said to run. The rest is real.

Environment: STANDIN_VBOXMANAGE, the real one; STANDIN_STATE, a file for which machine is said to be what.
"""

from __future__ import annotations

import base64
import json
import os
import re
import subprocess
import sys
from pathlib import Path

STATE = Path(os.environ["STANDIN_STATE"])
PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
LOCKED = ("The machine '{}' is already locked for a session (or being unlocked)", "VBOX_E_INVALID_OBJECT_STATE", "7")
LONG = {"running": "running", "paused": "paused"}


def real(words: list[str]) -> tuple[int, str, str]:
    """What the real one answers."""
    done = subprocess.run(
        [os.environ["STANDIN_VBOXMANAGE"], *words], capture_output=True, text=True, check=False, timeout=100
    )
    return done.returncode, done.stdout, done.stderr


def fail(text: str, code: str = "", number: str = "") -> tuple[int, str, str]:
    """As VBoxManage fails."""
    details = f"VBoxManage: error: Details: code {code} (0x80bb000{number}), component X\n" if code else ""
    return 1, "", f"VBoxManage: error: {text}\n{details}"


def answer(words: list[str], states: dict[str, str]) -> tuple[int, str, str]:
    """The command's exit code and output; changes the states."""
    rest = words[1:] if words[0] == "-q" else words
    verb, uuid = rest[0], rest[1] if len(rest) > 1 else ""
    state = states.get(uuid)
    if verb == "showvminfo" and state:
        code, out, err = real(words)
        return code, re.sub(r'^VMState=".*"', f'VMState="{state}"', out, flags=re.M), err
    if verb == "list" and "--long" in rest:
        code, out, err = real(words)
        for each, now in states.items():
            out = re.sub(rf"(UUID: +{each}\n(?:.*\n)*?State: +).*", rf"\g<1>{LONG[now]} (since today)", out, count=1)
        return code, out, err
    if verb == "startvm":
        if state:
            return fail(LOCKED[0].format(uuid), *LOCKED[1:])
        code, out, err = real(["-q", "showvminfo", uuid, "--machinereadable"])
        if code == 0:
            states[uuid] = "running"
        return code, "", err
    if verb == "controlvm":
        return control(uuid, rest[2:], states)
    if verb in ("modifyvm", "storageattach", "unregistervm") and state:
        return fail(LOCKED[0].format(uuid), *LOCKED[1:])
    return real(words)


def control(uuid: str, words: list[str], states: dict[str, str]) -> tuple[int, str, str]:
    """The one that runs."""
    code, out, err = real(["-q", "showvminfo", uuid, "--machinereadable"])
    if code:
        return code, out, err
    state, action = states.get(uuid), words[0]
    if state is None:
        return fail(f"Machine '{uuid}' is not currently running.")
    if action == "screenshotpng":
        Path(words[1]).write_bytes(base64.b64decode(PICTURE))
    elif action == "poweroff" or (action == "acpipowerbutton" and state == "running"):
        del states[uuid]
    elif action == "pause" and state == "running":
        states[uuid] = "paused"
    elif action == "resume" and state == "paused":
        states[uuid] = "running"
    elif action == "reboot":
        return fail("Guest Additions are not available", "VBOX_E_NOT_SUPPORTED", "9")
    elif action != "reset":
        return fail(f"Invalid machine state: {state}", "VBOX_E_INVALID_VM_STATE", "2")
    return 0, "", ""


def main() -> None:
    """Answer one command."""
    states = json.loads(STATE.read_text()) if STATE.exists() else {}
    code, out, err = answer(sys.argv[1:], states)
    STATE.write_text(json.dumps(states))
    sys.stdout.write(out)
    sys.stderr.write(err)
    sys.exit(code)


main()
