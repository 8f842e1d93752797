"""What `virtuoso doctor` looks at for Xen on this machine."""

from __future__ import annotations

from virtuoso_core.diagnosis import Check, install

CAPABILITIES = "/proc/xen/capabilities"
"""Where the kernel tells dom0 from guests; empty in a guest, and not there without Xen."""


def is_host() -> bool:
    """Whether this machine is dom0 of a Xen host."""
    return "control_d" in (_capabilities() or "")


def check_host() -> Check:
    """Whether Xen runs here, and this is its dom0."""
    found = _capabilities()
    if found is None:
        packages = install("xen-system-amd64", "xen")
        return Check("Xen", "fail", "This machine does not run under Xen.", f"{packages}\nthen restart it, with Xen")
    if not is_host():
        advice = "Connect to its host: virtuoso -c xen+ssh://root@HOST/system doctor"
        return Check("Xen", "fail", "This machine is a guest of Xen, not its host.", advice)
    return Check("Xen", "ok", "This machine is a Xen host (dom0).")


def _capabilities() -> str | None:
    try:
        with open(CAPABILITIES, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return None
