"""against_libvirt.py [VMS]: what the library costs over raw libvirt, as ratios of medians measured in the same run.

Needs root, for it makes a private host with libvirtd and defines VMS (300) on it.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
os.environ.setdefault("VIRTUOSO_LAB_DIR", f"/var/tmp/virtuoso-labs-{os.getuid()}")  # noqa: S108 - no secret in it

from tests.labs.hosts import PrivateHost, missing_reason
from virtuoso_core import Hypervisor, connect

ROUNDS = 7


def main() -> None:
    """Print one line a comparison."""
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    if reason := missing_reason():
        sys.exit(reason)
    with PrivateHost("bench") as host, connect(host.uri) as hypervisor:
        for number in range(count):
            vm = hypervisor.new_vm()
            vm.name = f"vm-{number:04}"
            vm.save()
        print(f"{hypervisor.version}, {count} VMs; medians of {ROUNDS} rounds, raw libvirt in the same rounds")
        compare(host, hypervisor)


def compare(host: PrivateHost, hypervisor: Hypervisor) -> None:
    """Every comparison on one host."""
    import libvirt

    vm = hypervisor.get("vm-0000")
    native: Any = vm.native.connect()
    wanted = libvirt.VIR_DOMAIN_STATS_STATE | libvirt.VIR_DOMAIN_STATS_BALLOON | libvirt.VIR_DOMAIN_STATS_VCPU
    inactive = libvirt.VIR_DOMAIN_XML_INACTIVE | libvirt.VIR_DOMAIN_XML_SECURE

    def one_by_one() -> list[Any]:
        return [(d.name(), d.UUIDString(), d.state(), d.info()) for d in native.listAllDomains()]

    def change() -> None:
        vm.memory = vm.memory + 1024
        vm.save()

    def raw_change() -> None:
        domain = native.lookupByUUIDString(vm.uuid)
        text = domain.XMLDesc(inactive)
        native.defineXMLFlags(text.replace("<on_crash>", " <on_crash>", 1), libvirt.VIR_DOMAIN_DEFINE_VALIDATE)

    say("list: name, uuid, state, memory, cpus", hypervisor.summaries, "one VM after the other", one_by_one)
    say("list: the same", hypervisor.summaries, "getAllDomainStats", lambda: native.getAllDomainStats(wanted))
    say("find", lambda: hypervisor.find("vm-0100"), "lookupByName", lambda: native.lookupByName("vm-0100"))
    say("read all fields of one", vm.reload, "XMLDesc", lambda: vm.native.XMLDesc(inactive))
    say("change and save one", change, "read and define its XML", raw_change)
    python = sys.executable
    say(
        "import virtuoso_core",
        process(python, "-c", "import virtuoso_core"),
        "import libvirt",
        process(python, "-c", "import libvirt"),
    )
    command = str(Path(python).with_name("virtuoso"))
    say("virtuoso --help", process(command, "--help"), "virsh help", process("virsh", "help"))
    say(
        "virtuoso list",
        process(command, "-c", host.uri, "list"),
        "virsh list --all",
        process("virsh", "-c", host.uri, "list", "--all"),
    )


def say(what: str, ours: Callable[[], object], other: str, theirs: Callable[[], object]) -> None:
    """One line: both medians, in turn A B A B so that a drift of the machine hits both, and their ratio."""
    pairs = [(clock(ours), clock(theirs)) for _ in range(ROUNDS)]
    mine, raw = (statistics.median(column) for column in zip(*pairs, strict=True))
    print(f"{mine / raw:7.2f} x  {what} {mine * 1000:.1f} ms / {other} {raw * 1000:.1f} ms", flush=True)


def clock(run: Callable[[], object]) -> float:
    """Seconds that it takes."""
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def process(*words: str) -> Callable[[], object]:
    """A command as a whole."""
    return lambda: subprocess.run(words, check=True, capture_output=True, timeout=60)


if __name__ == "__main__":
    main()
