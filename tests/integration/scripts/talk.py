"""talk.py URI IMAGE: a guest at a URI that only this host reaches, talked to in every way.

Prints one JSON document of what was seen.
"""

import json
import sys

from virtuoso_core import VirtuosoError, connect


def main() -> None:
    uri, image = sys.argv[1:]
    seen: dict[str, object] = {}
    with connect(uri) as hypervisor:
        vm = hypervisor.new_vm()
        vm.name, vm.memory, vm.cpus, vm.disk_image = "talk", "256 MiB", 1, image
        vm.network("nat")
        vm.save()
        vm.start()
        try:
            with vm.console() as console:
                try:
                    vm.wait_for_address(timeout=0.1)
                except VirtuosoError as error:
                    seen["too early"] = [type(error).__name__, str(error)]
                console.read_until(b"GUEST-READY", timeout=90)
                console.read_until(b"# ", timeout=30)
                console.write(b"echo answer-$((20 + 22))\n")
                console.read_until(b"answer-42", timeout=30)
                seen["address"] = vm.wait_for_address(timeout=60).source
                seen["ran"] = vm.run(["uname", "-s"]).text
                seen["display"] = str(vm.display)
                vm.stop(timeout=0)
                while console.read(timeout=10):
                    pass
                seen["ended"] = console.ended
        finally:
            vm.destroy(force=True)
    print(json.dumps(seen))


main()
