"""move.py URI TARGET NAME [copy_disks|slow]: moves a VM that runs, for hosts whose files only a process on them sees.

Prints one JSON document of what was seen. With "slow" it crawls, and its process id is printed once data moves.
"""

import json
import os
import sys

from virtuoso_core import VirtuosoError, connect

uri, target, name, *words = sys.argv[1:]
seen: dict[str, object] = {}


def progress(done: int, total: int) -> None:
    """Wait for a first sign."""
    if "slow" in words:
        print(os.getpid(), flush=True)


with connect(uri) as hypervisor:
    vm = hypervisor.get(name)
    if "slow" in words:
        vm.native.migrateSetMaxSpeed(1)
    try:
        moved = vm.migrate(target, copy_disks="copy_disks" in words, progress=progress)
    except VirtuosoError as error:
        seen["error"], seen["message"] = type(error).__name__, str(error)
    else:
        seen["state"], seen["uri"] = moved.state, str(moved.hypervisor.uri)
        moved.hypervisor.close()
    seen["left"] = [each.name for each in hypervisor.vms()]
print(json.dumps(seen))
