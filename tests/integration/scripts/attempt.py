"""attempt.py URI VM CALL: call a method of a VM and print, as JSON, which error came of it."""

from __future__ import annotations

import json
import sys

from virtuoso_core import VirtuosoError, connect

uri, name, call = sys.argv[1:]
with connect(uri) as hypervisor:
    try:
        getattr(hypervisor.get(name), call)()
    except VirtuosoError as error:
        print(json.dumps({"type": type(error).__name__, "message": error.message, "hint": error.hint}))
    else:
        print(json.dumps({"type": None, "message": "", "hint": ""}))
