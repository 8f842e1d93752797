"""Hints in the command's words: what an error says to call in Python, as a line to type."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence

from ..errors import (
    AmbiguousDriverError,
    ConflictError,
    NetworkInactiveError,
    NoHypervisorError,
    NotAppliedError,
    ReadOnlyError,
    StopTimeoutError,
    VirtuosoError,
)

_WHOLE: dict[type[VirtuosoError], str] = {
    AmbiguousDriverError: "Choose one with --driver NAME, or block the other: VIRTUOSO_DISABLE_DRIVERS=NAME",
    ConflictError: "Run it again, or with --force to have your way.",
    NetworkInactiveError: "Start it too: virtuoso start NAME --start-networks",
    NoHypervisorError: "What is wrong here: virtuoso doctor. Or name another one: virtuoso -c qemu+ssh://host/system",
    NotAppliedError: "Its configuration fixes that elsewhere: virtuoso show NAME --xml",
    ReadOnlyError: "Leave out --readonly.",
    StopTimeoutError: "It may ignore the power button. Without --no-force the plug is pulled after --timeout.",
}

_FIRST: Mapping[str, str] = {
    "Start it first.": "Start it first: vm.start()",
    "Stop it first.": "Stop it first: vm.stop()",
}
"""Hints that need no line in Python, where the variable is at hand."""

_COMMANDS: tuple[tuple[str, str], ...] = (
    (r"vm\.start\(\)", "start NAME"),
    (r"vm\.start\(start_networks=True\)", "start NAME --start-networks"),
    (r"vm\.stop\(\)", "stop NAME"),
    (r"vm\.stop\(timeout=0\)", "stop NAME --now"),
    (r"vm\.resume\(\)", "resume NAME"),
    (r"vm\.destroy\(force=True\)", "destroy NAME --force"),
    (r"vm\.console\(\)", "console NAME"),
    (r"vm\.console\(force=True\)", "console --force NAME"),
    (r"vm\.screenshot\(\)", "screenshot NAME"),
    (r"vm\.run\(\.\.\., timeout=(\d+)\)", r"run --timeout \1 NAME ..."),
    (r"vm\.delete_snapshot\((['\"])([\w.-]+)\1\)", r"delete-snapshot NAME \2"),
    (r"vm\.delete_snapshot\(.+?\)", "delete-snapshot NAME SNAPSHOT"),
    (r"vm\.remove_disk\(path\)", "disk remove NAME PATH"),
    (r"vm\.add_disk\(path\)", "disk add NAME PATH"),
    (r"hypervisor\.get\(name\)", "show NAME"),
    (r"vm\.set\(\)", "set"),
    (r"hypervisor\.create_disk\(PATH, backing=(.+?)\)", r"disk create PATH --backing \1"),
    (r"hypervisor\.upload\(\)", "disk upload FILE PATH"),
    (r"vm\.set\((['\"])(\w+)\1, None\)", r"set NAME \2="),
    (r"vm\.set\((['\"])(\w+)\1, (['\"]?)([^'\")]+)\3\)", r"set NAME \2=\4"),
    (r"vm\.network\((['\"])(\w+)\1\); vm\.save\(\)", r"set NAME --add-network \2"),
    (r"vm\.network\((['\"])(\w+)\1, source=(['\"])(.+?)\3\)", r"set NAME --add-network \2,source=\4"),
    (
        r"vm\.remove_network\((['\"])(.+?)\1\), vm\.network\(\.\.\.\), vm\.save\(\)",
        r"set NAME --remove-network \2 --add-network ...",
    ),
    (r"vm\.remove_network\((['\"])(.+?)\1\)", r"set NAME --remove-network \2"),
)
"""Python's calls, and what comes after `virtuoso` for the same."""

_OPTIONS: tuple[tuple[str, str], ...] = (
    (r"\bfirst, then give shrink=True", "first, then give --shrink"),
    (r"\blinked=False\b", "--full"),
    (r"\bdelete_disk\b", "--delete-disk"),
    (r"\bcopy_disks=True\b", "--copy-disks"),
    (r"\breadonly=True\b", "--readonly"),
    (r"\bdisk_image = None\b", "disk="),
    (r"\bdisk_image\b", "disk"),
    (r"\bssh_key=", "--cloud-init ssh-key="),
    (r"\bcreate_disk\(\) makes one", "virtuoso disk create makes one"),
    (
        r"^Give a whole number of bytes, or a text with a unit such as \"20 GiB\"\.$",
        "Give it with a unit, such as 20GiB.",
    ),
    (r'\["sh", "-c", "\.\.\."\]\.?', "sh -c '...'"),
    (r"\bcall connect\(\)(?: and events\(\))? again\b", "run it again"),
    (r"\bCall connect\(\) again\b", "Run it again"),
    (r"\ban int from\b", "a whole number from"),
)
"""Python's arguments, and the command's options."""


def typed(error: VirtuosoError, command: str, before: Sequence[str]) -> str:
    """What to do about the error, for somebody who typed ``command``; ``before`` are the options to type again."""
    if type(error) in _WHOLE:
        return re.sub(r"virtuoso (.+ NAME.*)", _line(r"\1", error.vm or "NAME", command, before), _WHOLE[type(error)])
    hint = _FIRST.get(error.hint, error.hint) if error.vm else error.hint
    for pattern, words in _COMMANDS:
        # without the full stop at the end: it would be copied along
        hint = re.sub(pattern + r"(?:\.$)?", _line(words, error.vm or "NAME", command, before), hint)
    for pattern, words in _OPTIONS:
        hint = re.sub(pattern, words, hint)
    return hint


def _line(words: str, name: str, command: str, before: Sequence[str]) -> Callable[[re.Match[str]], str]:
    def line(found: re.Match[str]) -> str:
        filled = found.expand(words)
        if command == "create" and filled.startswith("set NAME "):  # there is no such VM yet
            rest = filled.removeprefix("set NAME ")
            return rest.replace("--add-network", "--network") if rest.startswith("--") else f"--set {rest}"
        return f"{shlex.join(['virtuoso', *before])} {filled.replace('NAME', shlex.quote(name), 1)}"

    return line
