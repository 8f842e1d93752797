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
ON = ("running", "paused")


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
        out = re.sub(r'^VMState=".*"', f'VMState="{state}"', out, flags=re.M)
        return code, re.sub(r"^vrdeport=-1", "vrdeport=3389", out, flags=re.M) if state in ON else out, err
    if verb == "list" and "--long" in rest:
        code, out, err = real(words)
        for each, now in states.items():
            out = re.sub(rf"(UUID: +{each}\n(?:.*\n)*?State: +).*", rf"\g<1>{now} (since today)", out, count=1)
        return code, out, err
    if verb == "startvm":
        if state in ON:
            return fail(LOCKED[0].format(uuid), *LOCKED[1:])
        code, out, err = real(["-q", "showvminfo", uuid, "--machinereadable"])
        if code == 0:
            states[uuid] = "running"
            if 'VMState="saved"' in out:
                real(["discardstate", uuid])
        return code, "", err
    if verb == "controlvm":
        return control(uuid, rest[2:], states)
    if verb == "discardstate" and state == "saved":
        del states[uuid]
        return 0, "", ""
    if verb in ("modifyvm", "storageattach", "unregistervm") and state:
        return fail(LOCKED[0].format(uuid), *LOCKED[1:])
    if verb == "snapshot" and rest[2] == "restore" and state in ON:
        return fail(LOCKED[0].format(uuid), *LOCKED[1:])
    code, out, err = real(words)
    if verb == "snapshot" and rest[2] == "take" and state in ON and code == 0:
        keep_memory(uuid, re.findall(r"UUID: (\S+)", out)[0])
    return code, out, err


def keep_memory(uuid: str, snapshot: str) -> None:
    """Let the real VirtualBox know that snapshot as one with memory, so that going back to it is really done."""
    settings = Path(re.findall(r'^CfgFile="(.*)"', real(["showvminfo", uuid, "--machinereadable"])[1], re.M)[0])
    real(["unregistervm", uuid])
    text, with_memory = settings.read_text(), f'<Snapshot uuid="{{{snapshot}}}" stateFile="Snapshots/memory.sav"'
    settings.write_text(text.replace(f'<Snapshot uuid="{{{snapshot}}}"', with_memory))
    real(["registervm", str(settings)])


def control(uuid: str, words: list[str], states: dict[str, str]) -> tuple[int, str, str]:
    """The one that runs."""
    code, out, err = real(["-q", "showvminfo", uuid, "--machinereadable"])
    if code:
        return code, out, err
    state, action = states.get(uuid), words[0]
    if state not in ON:
        return fail(f"Machine '{uuid}' is not currently running.")
    if action == "screenshotpng":
        Path(words[1]).write_bytes(base64.b64decode(PICTURE))
    elif action == "poweroff" or (action == "acpipowerbutton" and state == "running"):
        del states[uuid]
    elif action == "savestate":
        states[uuid] = "saved"
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
