"""VMware's own program ``vmrun``: what runs, and what is done to it."""

from __future__ import annotations

import os
import subprocess

from virtuoso_core import URI
from virtuoso_core.errors import HypervisorError

PRODUCTS = {
    "vmwarews": ("ws", "vmware"),
    "vmwareplayer": ("player", "vmplayer"),
    "vmwarefusion": ("fusion", "vmware-vmx"),
}
"""What vmrun calls each, and the program beside vmrun that libvirt asks for the version."""
_TIMEOUT = 120.0
"""Seconds for one call; a start returns when the machine is powered on."""
ASKING = 5.0
"""Seconds given to it for asking a guest to stop; the guest may take longer to do so."""


def vmrun(uri: URI, *words: str, timeout: float = _TIMEOUT) -> str:
    """What it prints. Raises HypervisorError."""
    command = ["vmrun", "-T", PRODUCTS[uri.scheme][0], *words]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, stdin=subprocess.DEVNULL)
    except subprocess.TimeoutExpired as error:
        if timeout == ASKING:
            return ""  # the guest was asked, which is all that was wanted
        raise HypervisorError(f"vmrun {words[0]} did not end within {timeout:g} s.", uri=uri) from error
    except OSError as error:
        raise HypervisorError(f"vmrun does not run: {error.strerror}.", uri=uri) from error
    if done.returncode:
        said = " ".join((done.stdout + done.stderr).split())
        raise HypervisorError(f"vmrun {words[0]} failed on {uri}: {said or done.returncode}.", uri=uri)
    return done.stdout


def running(uri: URI) -> set[str]:
    """The .vmx files of the machines that run, or stand still in memory; links are followed."""
    return {os.path.realpath(line) for line in vmrun(uri, "list").splitlines() if os.path.isabs(line)}
