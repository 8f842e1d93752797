"""life.py URI IMAGE FOLDER [KEY=VALUE ...]: one VM's whole life at a URI, for hosts reached by a command only.

Prints one JSON document of what was seen.
"""

import json
import sys
import time

from virtuoso_core import State, connect


def main() -> None:
    uri, image, folder, *options = sys.argv[1:]
    seen: dict[str, object] = {}
    with connect(uri) as hypervisor:
        seen["networks"] = sorted(hypervisor.networks)
        seen["version"] = hypervisor.version
        vm = hypervisor.new_vm()
        vm.name, vm.memory, vm.cpus, vm.disk_image = "life", "256 MiB", 1, image
        if "nat" in hypervisor.networks and "network=none" not in options:
            vm.network("nat")
        for option in options:
            key, _, value = option.partition("=")
            if key != "network":
                vm.set(key, value)
        if folder:
            vm.set("serial_log", f"{folder}/life.log")
        seen["saved"] = vm.save()
        seen["options"] = dict(vm.options)
        vm.start()
        end = time.monotonic() + 60
        while not (addresses := vm.addresses()) and time.monotonic() < end and "network=none" not in options:
            time.sleep(0.2)
        seen["addresses"] = [[address.ip, address.source] for address in addresses]
        seen["picture"] = vm.screenshot()[:8].hex()
        found = hypervisor.get("life")
        found.memory = "320 MiB"
        seen["changed"] = found.save()
        if addresses:
            vm.stop(force=False, timeout=60)
        else:
            vm.stop(timeout=0)
        seen["stopped"] = vm.state is State.STOPPED
        seen["memory"] = hypervisor.get("life").memory
        vm.destroy()
        seen["left"] = [each.name for each in hypervisor.vms()]
    print(json.dumps(seen))


main()
