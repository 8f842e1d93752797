"""What happens around a VM's running, on real QEMU: live changes, statistics, suspending, autostart."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tests.integration.conftest import Console, NewVM, until
from tests.integration.test_calls import calls  # noqa: F401 - a fixture
from tests.labs.hosts import PrivateHost
from virtuoso_core import VM, Hypervisor, MiB, SaveResult, State
from virtuoso_core.errors import InvalidOptionError, InvalidValueError

Boot = Callable[..., VM]


@pytest.fixture
def boot(new_vm: NewVM, guest_disk: str, console: Console) -> Boot:
    """Makes a VM of 256 MiB and one processor whose guest is up."""

    def boot(**options: object) -> VM:
        vm = new_vm(disk_image=guest_disk)
        vm.set("serial_log", console.path_on_host)
        for key, value in options.items():
            vm.set(key, value)
        vm.save()
        vm.start()
        console.wait_for("GUEST-READY")
        return vm

    return boot


def now(vm: VM) -> tuple[int, int]:
    """Memory and processors that the hypervisor gives it, as dominfo shows them."""
    _, _, memory, cpus, _ = vm.native.info()
    return memory, cpus


def settled(vm: VM, memory: int) -> None:
    """Wait until the guest has given back or taken the memory."""
    until(lambda: now(vm)[0] == memory, f"memory of {memory}", 30, lambda: now(vm))


# Live changes.


def test_cpus(boot: Boot) -> None:
    """Within max_cpus at once; beyond it at the next start, and the definition is written in both cases."""
    vm = boot(max_cpus=3)
    vm.cpus = 2
    assert vm.save() is SaveResult.APPLIED
    assert now(vm)[1] == 2
    vm.cpus = 4
    assert vm.save() is SaveResult.NEXT_START
    assert now(vm)[1] == 2
    assert vm.cpus == 4
    vm.stop(timeout=0)
    vm.start()
    assert now(vm)[1] == 4


def test_without_room(boot: Boot) -> None:
    """As VMs are made without further ado: less memory now, more memory and CPUs at the next start."""
    vm = boot()
    vm.memory = 200 * MiB
    assert vm.save() is SaveResult.APPLIED
    settled(vm, 200 * MiB)
    vm.memory = 256 * MiB
    assert vm.save() is SaveResult.APPLIED
    settled(vm, 256 * MiB)
    vm.memory = 384 * MiB
    assert vm.save() is SaveResult.NEXT_START
    vm.cpus = 2
    assert vm.save() is SaveResult.NEXT_START
    assert now(vm) == (256 * MiB, 1)
    vm.stop(timeout=0)
    vm.start()
    assert now(vm) == (384 * MiB, 2)


def test_memory_grows(boot: Boot) -> None:
    """Plugged in by whole modules, of which the balloon takes what is too much; the next start has it as one."""
    vm = boot(max_memory="1 GiB")
    before = vm.stats().memory_used
    for wanted in (300 * MiB, 384 * MiB, 500 * MiB, 320 * MiB, 1024 * MiB):
        vm.memory = wanted
        assert vm.save() is SaveResult.APPLIED, wanted
        settled(vm, wanted)
        assert vm.memory == wanted
    assert before is not None
    vm.memory = 1025 * MiB
    with pytest.raises(InvalidValueError, match="max_memory"):
        vm.save()
    vm.reload()
    vm.suspend()
    vm.start()
    assert now(vm)[0] == 1024 * MiB
    vm.stop(timeout=0)
    vm.memory = 256 * MiB
    assert vm.save() is SaveResult.APPLIED
    vm.start()
    assert now(vm)[0] == 256 * MiB


def test_part_of_a_change(boot: Boot) -> None:
    """What can be done now is done, and what waits is told of."""
    vm = boot(max_cpus=2)
    vm.cpus, vm.memory = 2, 512 * MiB
    assert vm.save() is SaveResult.NEXT_START
    assert now(vm) == (256 * MiB, 2)
    assert (vm.cpus, vm.memory) == (2, 512 * MiB)


def test_room_of_a_vm_that_exists(new_vm: NewVM, blank_disk: str) -> None:
    """Given and taken away again, together with what it bounds."""
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    before = vm.spec
    vm.set("max_memory", "2 GiB")
    vm.set("max_cpus", 4)
    vm.save()
    assert (vm.options["max_memory"], vm.options["max_cpus"]) == (2048 * MiB, 4)
    vm.memory = 3072 * MiB
    vm.set("max_memory", "4 GiB")
    vm.save()
    vm.memory = 512 * MiB
    vm.set("max_memory", "1 GiB")
    vm.set("max_cpus", 2)
    vm.save()
    vm.set("max_memory", "256 MiB")
    with pytest.raises(InvalidOptionError, match="starts with 512 MiB"):
        vm.save()
    vm.reload()
    vm.set("max_cpus", 1)
    with pytest.raises(InvalidValueError, match="no room"):
        vm.save()
    vm.reload()
    vm.start()
    vm.stop(timeout=0)
    vm.memory = 256 * MiB
    vm.set("max_memory", None)
    vm.set("max_cpus", None)
    vm.save()
    assert vm.spec == before


# Statistics.


def test_stats(hypervisor: Hypervisor, boot: Boot) -> None:
    """What a guest that works has used."""
    vm = boot()
    until(lambda: vm.stats().memory_used is not None, "word from the guest", 30)
    first = vm.stats()
    assert (first.name, first.uuid, first.cpus, first.memory) == (vm.name, vm.uuid, 1, 256 * MiB)
    assert abs(first.time - time.time()) < 10
    assert first.memory_used is not None
    assert 10 * MiB < first.memory_used < 256 * MiB
    assert (first.cpu_time or 0) > 0.1
    assert (first.disk_read or 0) > MiB
    assert first.disk_written is not None
    assert first.net_received == first.net_sent == 0
    (again,) = hypervisor.stats()
    assert (again.cpu_time or 0) >= (first.cpu_time or 0)
    assert again.name == vm.name


@pytest.mark.parametrize("number", [1, 8])
def test_calls_of_stats(
    number: int,
    hypervisor: Hypervisor,
    new_vm: NewVM,
    blank_disk: str,
    calls: list[str],  # noqa: F811 - the fixture
) -> None:
    """One call for all, whatever their number, and two for one VM: its state too."""
    made = [new_vm(memory="64 MiB") for _ in range(number)]
    for vm in made:
        vm.set("headless", True)
        vm.save()
        vm.start()
    new_vm().save()
    calls.clear()
    assert [line.name for line in hypervisor.stats()] == sorted(vm.name for vm in made)
    assert calls == ["virConnectGetAllDomainStats"]
    calls.clear()
    assert made[0].stats().memory == 64 * MiB
    assert calls == ["virDomainGetState", "virDomainListGetStats"]


# Suspending.


def test_suspend(boot: Boot, console: Console, hypervisor: Hypervisor) -> None:
    """start() goes on where it was, without a boot; destroy() takes the memory along."""
    vm = boot()
    vm.suspend()
    assert vm.state is State.SUSPENDED
    vm.suspend()
    vm.start()
    assert vm.state is State.RUNNING
    assert "GUEST-READY" not in console.text  # the log starts anew with each QEMU
    vm.pause()
    vm.suspend()
    assert vm.state is State.SUSPENDED
    vm.destroy()
    assert hypervisor.vms() == []


def test_no_room_for_the_memory(host: PrivateHost, boot: Boot) -> None:
    """The VM runs on, and the error says where room is missing and how much."""
    vm = boot()
    folder = "/var/lib/libvirt/qemu/save"
    script = (
        "import sys; from virtuoso_core import connect\n"
        "vm = connect('qemu:///system').get(sys.argv[1])\n"
        "try: vm.suspend()\n"
        "except Exception as error: print(type(error).__name__, error, vm.state)\n"
    )
    assert host.run(["mount", "-t", "tmpfs", "-o", "size=1M", "tmpfs", folder]).returncode == 0
    try:
        done = host.run([sys.executable, "-c", script, vm.name], timeout=90)
    finally:
        host.run(["umount", folder])
    assert done.stdout.startswith("NoSpaceError The VM"), done
    assert f"256 MiB of memory, and in {folder} there is room for 1 MiB" in done.stdout
    assert done.stdout.endswith("running\n")


def test_interrupted_suspend(boot: Boot) -> None:
    """Ctrl-C is heard meanwhile; the VM is then as it was, or suspended where that was done already."""
    vm = boot()
    timer = threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):  # noqa: PT012 - a suspend that is done too soon must not end the tests
        vm.suspend()
        time.sleep(5)
    assert vm.state in (State.RUNNING, State.SUSPENDED)
    vm.start()
    assert vm.state is State.RUNNING


# Autostart.


def test_autostart(host: PrivateHost, new_vm: NewVM, blank_disk: str) -> None:
    """It is libvirt's own mark, which a daemon that starts with its host looks at."""
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    assert vm.autostart is False
    vm.autostart = True
    assert vm.autostart is True
    assert host.run(["ls", "/etc/libvirt/qemu/autostart"]).stdout == f"{vm.name}.xml\n"
    vm.autostart = False
    assert host.run(["ls", "/etc/libvirt/qemu/autostart"]).stdout == ""
