"""What drivers and `virtuoso doctor` share: what a check found, and the words for what to type."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "warn", "fail", "skip"]


@dataclass(frozen=True)
class Check:
    """What one check found.

    Attributes:
        name: what was looked at.
        status: "fail" keeps VMs from working, "warn" makes them worse, "skip" could not be looked at.
        explanation: what is so, in a sentence or two.
        advice: lines to type or do; "" when there is nothing to advise.
    """

    name: str
    status: Status
    explanation: str
    advice: str = ""


def system() -> Literal["debian", "fedora", ""]:
    """Whose packages this machine has, derivatives included; "" for any other's."""
    if os.path.exists("/etc/debian_version"):
        return "debian"
    return "fedora" if os.path.exists("/etc/redhat-release") else ""


def install(debian: str, fedora: str) -> str:
    """What to type to install packages, by their names on Debian and on Fedora; both lines where it is neither."""
    lines = {"debian": f"sudo apt-get install {debian}", "fedora": f"sudo dnf install {fedora}"}
    return lines.get(system()) or "\n".join(lines.values())


def join_group(group: str) -> str:
    """What to type for this user to belong to a group."""
    return f"sudo usermod -aG {group} {user_name()}\nthen sign out and in again"


def user_name() -> str:
    """This user's name, or number where it has no name."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())
