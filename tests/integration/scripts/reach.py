"""reach.py URI VM PORT...: whether TCP ports of a running guest, and its screen, can be reached from this host.

Prints one JSON document of what was seen.
"""

import json
import socket
import sys

from virtuoso_core import VirtuosoError, connect


def main() -> None:
    uri, name, *ports = sys.argv[1:]
    seen: dict[str, object] = {}
    with connect(uri) as hypervisor:
        vm = hypervisor.get(name)
        for port in ports:
            try:
                seen[port] = vm.wait_for(int(port), timeout=3).ip
            except VirtuosoError as error:
                seen[port] = [type(error).__name__, error.message, error.hint]
        if (screen := vm.display) is not None and screen.port is not None:
            with socket.create_connection((screen.host, screen.port), 10) as server:
                seen["screen"] = server.recv(4).decode()
    print(json.dumps(seen))


main()
