"""The `virtuoso` command. This file holds only its entry point; the commands are imported when it runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence


def main(args: Sequence[str] | None = None) -> None:
    """Run the command with these arguments, by default the process's own, and exit."""
    try:
        if "_VIRTUOSO_COMPLETE" in os.environ:
            # what is written while a shell completes lands in the line being typed, also what C libraries write
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")  # names of VMs that the terminal's encoding lacks
        from .commands import cli
    except KeyboardInterrupt:
        sys.exit(130)
    cli.main(args=args)
