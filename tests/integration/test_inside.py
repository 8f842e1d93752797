"""Inside a real guest: its addresses and ports, commands by its agent, its serial console, its screen."""

from __future__ import annotations

import json
import secrets
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import NewVM, qemu_img, until
from tests.labs.hosts import PrivateHost, guest_image
from virtuoso_core import VM, Console, Hypervisor, State, connect
from virtuoso_core.errors import (
    AddressTimeoutError,
    ConnectionLostError,
    GuestAgentError,
    InvalidStateError,
    InvalidValueError,
    ReadOnlyError,
    WaitTimeoutError,
)
from virtuoso_core.xml import DomainDocument

REACH, TALK = (Path(__file__).with_name("scripts") / f"{name}.py" for name in ("reach", "talk"))


@pytest.fixture(scope="module")
def shared(host: PrivateHost) -> Iterator[VM]:
    """A guest that is up, with a network card and its agent, for the tests that leave it as it is."""
    disk = host.images / f"inside-{secrets.token_hex(4)}.qcow2"
    qemu_img("create", "-f", "qcow2", "-F", "qcow2", "-b", guest_image(), disk)
    with connect(host.uri) as hypervisor:
        vm = hypervisor.new_vm()
        vm.name, vm.memory, vm.cpus, vm.disk_image = "inside", "256 MiB", 1, str(disk)
        vm.network("nat")
        vm.save()
        vm.start()
        vm.run(["true"], timeout=120)
        yield vm
        vm.destroy(force=True)
    disk.unlink()


@pytest.fixture
def hypervisor(host: PrivateHost) -> Iterator[Hypervisor]:
    """A connection to the host, which is left without VMs but the shared one."""
    with connect(host.uri) as hypervisor:
        yield hypervisor
        for vm in hypervisor.vms():
            if vm.name != "inside":
                vm.destroy(force=True)


@pytest.fixture
def boot(new_vm: NewVM, guest_disk: str) -> Callable[..., VM]:
    """Starts a guest of a test's own; it has the networks that are named."""

    def boot(*networks: str, change: Callable[[DomainDocument], None] | None = None, **options: Any) -> VM:
        vm = new_vm(disk_image=guest_disk)
        for type in networks:
            vm.network(type)
        for key, value in options.items():
            vm.set(key, value)
        vm.save()
        if change is not None:
            document = DomainDocument(vm.spec)
            change(document)
            vm.native.connect().defineXML(document.text)
            vm.reload()
        vm.start()
        return vm

    return boot


def without_agent(document: DomainDocument) -> None:
    for channel in document.root.findall("devices/channel"):
        document.remove(channel)


def without_console(document: DomainDocument) -> None:
    for device in document.root.xpath("devices/serial | devices/console"):  # type: ignore[union-attr]
        document.remove(device)  # type: ignore[arg-type]


def prompt(console: Console) -> None:
    """Wait until a shell sits at the console."""
    console.read_until(b"GUEST-READY", timeout=90)
    console.read_until(b"# ", timeout=30)


# Addresses.


def test_address(shared: VM) -> None:
    address = shared.wait_for_address(timeout=60)
    card = shared.networks[0]
    assert (address.mac_address, address.source) == (card.mac_address, "lease")
    assert address in shared.addresses()
    assert address.ip in shared.run(["ip", "-4", "addr", "show", "eth0"]).text


def test_address_right_after_the_start(boot: Callable[..., VM]) -> None:
    vm = boot("nat")
    assert vm.wait_for_address(timeout=90).ip.startswith("192.168.122.")


def test_ports(host: PrivateHost, shared: VM) -> None:
    """From the host, which reaches the guest: one where something listens, one where nothing does; and its screen."""
    assert shared.run(["httpd", "-p", "7000"]).exit_code == 0
    ip = shared.wait_for_address(60).ip
    done = host.run([sys.executable, str(REACH), "qemu:///system", shared.name, "7000", "7001"], timeout=60)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["7000"] == ip
    kind, message, hint = seen["7001"]
    assert kind == "WaitTimeoutError"
    assert f"{ip}:7001 refused, last after" in message
    assert "does the service run" in hint
    assert seen["screen"] == "RFB "


def test_an_address_that_never_comes(boot: Callable[..., VM], hypervisor: Hypervisor) -> None:
    """On a network without DHCP: each source says so. Then somebody gives it one by hand, which its agent tells."""
    vm = boot("internal")
    with vm.console() as console:
        prompt(console)
        vm.run(["true"], timeout=60)
        mac = vm.networks[0].mac_address
        with pytest.raises(AddressTimeoutError) as caught:
            vm.wait_for_address(timeout=2)
        error = caught.value
        assert f"lease: the network 'virtuoso-internal' has no DHCP server of libvirt's for {mac}" in error.message
        assert "; agent: " in error.message
        assert "; arp: " in error.message
        assert (error.phase, error.vm, error.evidence in error.message) == ("address", vm.name, True)
        assert 2 <= error.elapsed < 30
        assert "DHCP" in error.hint
        console.write(b"ip addr add 10.9.8.7/24 dev eth0\n")
        address = vm.wait_for_address(timeout=30)
    assert (address.ip, address.source, address.mac_address) == ("10.9.8.7", "agent", mac)


def test_no_address_without_a_system(new_vm: NewVM, blank_disk: str) -> None:
    """What the network, the agent and the host know of a guest that never asked for anything."""
    vm = new_vm(disk_image=blank_disk)
    vm.network("nat")
    vm.save()
    vm.start()
    mac = vm.networks[0].mac_address
    with pytest.raises(AddressTimeoutError) as caught:
        vm.wait_for_address(timeout=1)
    assert f"lease: the network 'default' has no lease for {mac}; agent: none runs in the guest; arp: " in str(
        caught.value
    )
    assert "Install qemu-guest-agent in the guest" in caught.value.hint
    assert vm.addresses() == ()


def test_no_address_without_a_card(shared: VM, new_vm: NewVM, blank_disk: str) -> None:
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    vm.start()
    start = time.monotonic()
    with pytest.raises(InvalidStateError, match="no network card"):
        vm.wait_for_address(timeout=60)
    assert time.monotonic() - start < 10


def test_a_vm_that_stops_is_not_waited_for(new_vm: NewVM, blank_disk: str, host: PrivateHost) -> None:
    vm = new_vm(disk_image=blank_disk)
    vm.network("nat")
    vm.save()
    vm.start()

    def pull() -> None:
        with connect(host.uri) as other:
            other.get(vm.name).stop(timeout=0)

    threading.Timer(1, pull).start()
    with pytest.raises(InvalidStateError, match="stopped while waiting for an address"):
        vm.wait_for_address(timeout=60)


def test_the_latest_lease_comes_first(shared: VM) -> None:
    """A guest that calls itself something else has two leases for one network card."""
    first = shared.wait_for_address(60)
    time.sleep(1.1)  # leases are counted in seconds
    script = (
        "printf '#!/bin/sh\\necho got $ip\\n' >/tmp/tell; chmod +x /tmp/tell; "
        "exec udhcpc -n -q -f -t 5 -i eth0 -x 0x3d:ff0102030405 -s /tmp/tell"
    )
    got = shared.run(["sh", "-c", script], timeout=60)
    assert got.exit_code == 0, got
    offered = next(line for line in reversed(got.text.splitlines()) if line.startswith("got 192"))[4:]
    assert offered != first.ip
    until(lambda: len(shared.addresses()) == 2, "second lease", 20, shared.addresses)  # written down after it is given
    assert [address.ip for address in shared.addresses()] == [offered, first.ip]


# Commands.


def test_run(shared: VM) -> None:
    """Exit code, both outputs, input; a signal; what a shell would have changed."""
    assert shared.run(["uname", "-s"]).text == "Linux\n"
    mixed = shared.run(["sh", "-c", "echo out; echo err >&2; exit 3"])
    assert (mixed.exit_code, mixed.stdout, mixed.stderr) == (3, b"out\n", b"err\n")
    assert shared.run(["sh", "-c", "kill -9 $$"]).exit_code == 128 + 9
    every = bytes(range(256)) * 300
    assert shared.run(["cat"], input=every).stdout == every
    assert shared.run(["echo", "$HOME", "*", "a b", "grün"]).text == "$HOME * a b grün\n"
    assert shared.run(["cat"]).stdout == b""


def test_run_waits_for_a_guest_that_boots(boot: Callable[..., VM]) -> None:
    assert boot().run(["cat", "/etc/os-release"], timeout=120).text.startswith("ID=virtuoso-demo")


def test_run_too_long(shared: VM) -> None:
    """It is killed, and its last words are told."""
    with pytest.raises(WaitTimeoutError) as caught:
        shared.run(["sh", "-c", "echo still here; exec sleep 1234"], timeout=2)
    error = caught.value
    assert (error.phase, error.evidence) == ("command", "still here\n")
    assert "within 2 s; it was killed" in error.message
    assert 2 <= error.elapsed < 30
    assert "sleep 1234" not in shared.run(["ps"]).text


def test_run_what_is_not_there(shared: VM) -> None:
    with pytest.raises(GuestAgentError, match="could not start 'no-such-program'") as caught:
        shared.run(["no-such-program"])
    assert "whole path" in caught.value.hint


def test_run_with_too_much_input(shared: VM) -> None:
    assert shared.run(["wc", "-c"], input=b"a" * 96_000).text == "96000\n"
    with pytest.raises(InvalidValueError, match="96 KiB"):
        shared.run(["wc", "-c"], input=b"a" * 120_000)


def test_run_with_too_much_output(shared: VM) -> None:
    """The most that libvirt carries; the agent answers afterwards."""
    assert len(shared.run(["head", "-c", "2000000", "/dev/zero"]).stdout) == 2_000_000
    with pytest.raises(GuestAgentError, match="more than its agent can hand out") as caught:
        shared.run(["head", "-c", "5000000", "/dev/zero"])
    assert "a file in the guest" in caught.value.hint
    assert shared.run(["true"], timeout=30).exit_code == 0


def test_run_without_an_agent(boot: Callable[..., VM]) -> None:
    """No channel to one: refused at once. The sources of addresses say so, too."""
    vm = boot("nat", change=without_agent)
    start = time.monotonic()
    with pytest.raises(GuestAgentError, match="no channel to a guest agent") as caught:
        vm.run(["true"], timeout=60)
    assert time.monotonic() - start < 10
    assert "org.qemu.guest_agent.0" in caught.value.hint


def test_run_while_the_agent_is_in_trouble(boot: Callable[..., VM]) -> None:
    """Stuck, gone, started anew without the right to run commands; then the VM itself goes."""
    vm = boot()
    with vm.console() as console:
        prompt(console)
        vm.run(["true"], timeout=60)
        console.write(b"kill -STOP $(cat /run/qga.pid); echo stop''ped\n")
        console.read_until(b"stopped", timeout=30)
        with pytest.raises(GuestAgentError, match="its agent does not answer"):
            vm.run(["true"], timeout=1)
        console.write(b"kill -9 $(cat /run/qga.pid); echo kil''led\n")
        console.read_until(b"killed", timeout=30)
        with pytest.raises(GuestAgentError, match="no agent runs in it") as caught:
            vm.run(["true"], timeout=1)
        assert "Install qemu-guest-agent" in caught.value.hint
        console.write(
            b"qemu-ga -d -b guest-exec -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run "
            b"-f /run/qga2.pid; echo star''ted\n"
        )
        console.read_until(b"started", timeout=30)
        with pytest.raises(GuestAgentError, match="guest-exec is switched off") as caught:
            vm.run(["true"], timeout=60)
        assert "block-rpcs" in caught.value.hint


def test_run_what_stops_the_vm(boot: Callable[..., VM]) -> None:
    vm = boot()
    vm.run(["true"], timeout=120)
    with pytest.raises(InvalidStateError, match="stopped while its agent was asked"):
        vm.run(["poweroff", "-f"], timeout=60)
    vm.wait_until("stopped", timeout=30)


def test_a_read_only_connection(shared: VM, host: PrivateHost) -> None:
    """It may look, and neither type nor run."""
    known = shared.wait_for_address(60)
    with connect(host.uri, readonly=True) as hypervisor:
        vm = hypervisor.get(shared.name)
        assert known in vm.addresses()
        reports = {report.source: report.said for report in vm._address_reports()}
        assert "read-only" in reports["agent"]
        assert vm.display is not None
        for call in (lambda: vm.run(["true"]), vm.console):
            with pytest.raises(ReadOnlyError):
                call()


# The console.


def test_console(boot: Callable[..., VM]) -> None:
    """What the guest prints from its start, a talk with its shell, and the end when the VM stops."""
    vm = boot()
    with vm.console() as console:
        prompt(console)
        console.write(b"echo answer-$((20 + 22))\n")
        console.read_until(b"answer-42", timeout=30)
        long = b"x" * 3000
        console.write(b"cat > /tmp/typed\n" + (long + b"\n") * 10 + b"\x04wc -c < /tmp/typed\n")
        console.read_until(b"30010", timeout=60)
        assert not console.ended
        console.write(b"poweroff -f\n")
        end = time.monotonic() + 60
        while not console.ended and time.monotonic() < end:
            console.read(timeout=1)
        assert console.ended
        assert console.read() == b""
        with pytest.raises(InvalidStateError, match="ended"):
            console.write(b"x")
    vm.wait_until("stopped", timeout=30)


def test_console_of_two(shared: VM, host: PrivateHost) -> None:
    """One has it; the other is refused, or takes it away."""
    with shared.console() as console, connect(host.uri) as hypervisor:
        other = hypervisor.get(shared.name)
        with pytest.raises(InvalidStateError, match="Another program has the console") as caught:
            other.console()
        assert "force=True" in caught.value.hint
        with other.console(force=True) as taken:
            until(lambda: console.read(0.1) == b"" and console.ended, "end of the first", 20)
            taken.write(b"\n")
            taken.read_until(b"# ", timeout=30)
    with shared.console() as console:
        console.write(b"\n")
        console.read_until(b"# ", timeout=30)


def test_console_is_let_go(shared: VM) -> None:
    """Again and again, and by a reader that waits in another thread."""
    for _ in range(5):
        console = shared.console()
        reader = threading.Thread(target=drain, args=(console,), daemon=True)
        reader.start()
        console.close()
        reader.join(10)
        assert not reader.is_alive()
    assert shared.hypervisor.version


def drain(console: Console) -> None:
    while console.read():
        pass


def test_no_console(boot: Callable[..., VM]) -> None:
    vm = boot(change=without_console)
    with pytest.raises(InvalidStateError, match="no serial console") as caught:
        vm.console()
    assert "<console type='pty'/>" in caught.value.hint


def test_console_when_the_daemon_dies(lab: None) -> None:
    """A reader that waits for ever is told."""
    with PrivateHost("talker") as host:
        disk = host.images / "guest.qcow2"
        qemu_img("create", "-f", "qcow2", disk, "64M")
        with connect(host.uri) as hypervisor:
            vm = hypervisor.new_vm()
            vm.name, vm.memory, vm.disk_image = "talker", "128 MiB", str(disk)
            vm.save()
            vm.start()
            console = vm.console()
            threading.Timer(0.5, host.kill_libvirtd).start()
            with pytest.raises(ConnectionLostError):
                drain(console)
            console.close()


# The screen.


def test_display(new_vm: NewVM, blank_disk: str) -> None:
    """With and without a password, and without a screen."""
    vm = new_vm(disk_image=blank_disk)
    vm.set("vnc_password", "secret")
    vm.save()
    vm.start()
    found = vm.display
    assert found is not None
    assert (found.protocol, found.host, found.password) == ("vnc", "127.0.0.1", True)
    assert str(found) == f"vnc://127.0.0.1:{found.port}"
    assert "secret" not in repr(found)
    vm.stop(timeout=0)
    vm.set("headless", True)
    vm.save()
    vm.start()
    assert vm.display is None
    assert vm.state is State.RUNNING
    assert vm.screenshot().startswith(b"\x89PNG"), "it has a card, and nobody to show it to"


def test_display_on_a_socket(new_vm: NewVM, blank_disk: str, host: PrivateHost) -> None:
    vm = new_vm(disk_image=blank_disk)
    vm.save()
    document = DomainDocument(vm.spec)
    (screen,) = document.root.findall("devices/graphics")
    for name in set(screen.attrib) - {"type"}:
        del screen.attrib[name]
    for child in list(screen):
        screen.remove(child)
    document.add(screen, "listen", type="socket")
    vm.native.connect().defineXML(document.text)
    vm.start()
    found = vm.display
    assert found is not None
    assert (found.port, found.socket is not None) == (None, True)
    assert host.run(["test", "-S", found.socket or ""]).returncode == 0
    assert str(found) == f"vnc+unix://{found.socket}"


# Other ways in.


@pytest.mark.parametrize("way", ["session", "embedded"])
def test_talk_without_the_systems_daemon(way: str, host: PrivateHost, guest_disk: str) -> None:
    """With a user's own daemon, and with the driver in the process: user networking, where only the agent can tell."""
    Path(guest_disk).chmod(0o666)
    uri, user = "qemu:///session", way == "session"
    if way == "embedded":
        root = host.directory / "talking"
        (root / "etc").mkdir(parents=True)
        (root / "etc" / "qemu.conf").write_text('stdio_handler = "file"\nuser = "root"\ngroup = "root"\n')
        uri = f"qemu:///embed?root={root}"
    done = host.run([sys.executable, str(TALK), uri, guest_disk], user=user, timeout=180)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    kind, message = seen["too early"]
    assert kind == "AddressTimeoutError"
    assert "lease: none of its network cards is on a network of libvirt's" in message
    assert "On user networking only an agent can tell. Install qemu-guest-agent" in message
    assert (seen["address"], seen["ran"], seen["ended"]) == ("agent", "Linux\n", True)
    assert seen["display"].startswith("vnc://127.0.0.1:59")
