"""Waiting for a guest, its addresses, screens and commands: what the core makes of what drivers tell."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, ClassVar

import pytest

from virtuoso_core import (
    URI,
    VM,
    Address,
    AddressReport,
    AddressTimeoutError,
    Display,
    Feature,
    InvalidStateError,
    InvalidValueError,
    RunResult,
    Screenshot,
    State,
    UnsupportedError,
    VMNotFoundError,
    WaitTimeoutError,
)
from virtuoso_core.testing.memory import MemoryHypervisor, MemoryVM
from virtuoso_core.waiting import Wait

REFUSED_PORT = 1


class TalkingVM(MemoryVM):
    """A VM that tells what a test put on its class."""

    reports: ClassVar[list[AddressReport]] = []
    asked: ClassVar[list[str]] = []
    ran: ClassVar[list[tuple[list[str], bytes, float]]] = []
    screens: ClassVar[list[Display]] = []

    def _address_reports(self) -> Iterable[AddressReport]:
        for report in self.reports:
            self.asked.append(report.source)
            yield report

    def _run_in_guest(self, words: Sequence[str], stdin: bytes, timeout: float) -> RunResult:
        self.ran.append((list(words), stdin, timeout))
        return RunResult(0, b"", b"")

    def _screenshot(self) -> bytes:
        return b"\x89PNG"

    def _displays(self) -> Iterable[Display]:
        return self.screens


class TalkingHypervisor(MemoryHypervisor):
    """One whose guests can be talked to."""

    features = MemoryHypervisor.features | {Feature.ADDRESSES, Feature.RUN, Feature.SCREENSHOT, Feature.DISPLAY}

    def _new_vm(self) -> VM:
        plain = super()._new_vm()
        return TalkingVM(self, defaults=plain._current())


@pytest.fixture
def vm(uri: URI, monkeypatch: pytest.MonkeyPatch) -> Iterator[TalkingVM]:
    """A running VM with a network card, of which nothing is known yet."""
    for name in ("reports", "asked", "ran", "screens"):
        monkeypatch.setattr(TalkingVM, name, [])
    with TalkingHypervisor.open(uri) as hypervisor:
        vm = hypervisor.new_vm()
        assert isinstance(vm, TalkingVM)
        vm.name = "web"
        vm.network("nat")
        vm.save()
        vm.start()
        yield vm


def told(source: str, *ips: str, said: str = "", hint: str = "") -> AddressReport:
    return AddressReport(source, tuple(Address(ip, None, source) for ip in ips), said, hint)


def later(seconds: float, do: Callable[[], object]) -> threading.Timer:
    timer = threading.Timer(seconds, do)
    timer.daemon = True
    timer.start()
    return timer


# Addresses.


def test_addresses_of_the_first_source_that_knows_any(vm: TalkingVM) -> None:
    vm.reports[:] = [told("lease"), told("agent", "fd00::5", "10.0.0.5"), told("arp", "10.0.0.6")]
    assert [address.ip for address in vm.addresses()] == ["10.0.0.5", "fd00::5"]
    assert vm.asked == ["lease", "agent"], "arp was asked in vain"


@pytest.mark.parametrize("ip", ["fe80::1", "fe80::1%eth0", "169.254.3.4", "127.0.0.1", "::1", "0.0.0.0"])  # noqa: S104
def test_addresses_that_lead_nowhere_are_skipped(vm: TalkingVM, ip: str) -> None:
    vm.reports[:] = [told("agent", ip)]
    assert vm.addresses() == ()
    vm.reports[:] = [told("agent", ip), told("arp", "10.0.0.6")]
    assert vm.wait_for_address(0).ip == "10.0.0.6"


def test_ipv4_before_ipv6(vm: TalkingVM) -> None:
    vm.reports[:] = [told("agent", "fd00::5", "10.0.0.5", "10.0.0.4")]
    assert vm.wait_for_address(0).ip == "10.0.0.5"


def test_an_address_that_comes(vm: TalkingVM) -> None:
    vm.reports[:] = [told("lease")]
    later(0.3, lambda: vm.reports.__setitem__(slice(None), [told("lease", "10.0.0.5")]))
    start = time.monotonic()
    assert vm.wait_for_address(10).ip == "10.0.0.5"
    assert time.monotonic() - start < 5


def test_an_address_that_never_comes(vm: TalkingVM) -> None:
    """What each source said last, in words, and what to do."""
    vm.reports[:] = [
        told("lease", said="the network 'default' has no lease for 52:54:00:00:00:01", hint="DHCP?"),
        told("agent", "fe80::1"),
        told("arp"),
        told("tools", said="are silent", hint="DHCP?"),
    ]
    with pytest.raises(AddressTimeoutError) as caught:
        vm.wait_for_address(0.5)
    error = caught.value
    assert error.evidence == (
        "lease: the network 'default' has no lease for 52:54:00:00:00:01; agent: knows only fe80::1, which leads "
        "nowhere; arp: knows none; tools: are silent"
    )
    assert error.evidence in error.message
    assert (error.phase, error.vm) == ("address", "web")
    assert error.hint.endswith("wait longer. DHCP?")
    assert 0.5 <= error.elapsed < 3
    assert "within 0.5 s" in error.message
    assert str(vm.hypervisor.uri) in error.message


def test_a_vm_that_stops_while_it_is_waited_for(vm: TalkingVM) -> None:
    vm.reports[:] = [told("lease")]
    later(0.3, vm._power_off)
    with pytest.raises(InvalidStateError, match="stopped while waiting for an address"):
        vm.wait_for_address(20)
    vm.start()
    later(0.3, vm._power_off)
    with pytest.raises(InvalidStateError, match="stopped while waiting for port 22"):
        vm.wait_for(22, timeout=20)


def test_a_vm_without_a_network_card_is_not_waited_for(vm: TalkingVM) -> None:
    vm.stop(timeout=0)
    vm.remove_network(vm.networks[0])
    vm.save()
    vm.start()
    for wait in (vm.wait_for_address, lambda: vm.wait_for(22)):
        start = time.monotonic()
        with pytest.raises(InvalidStateError, match="no network card") as caught:
            wait()
        assert time.monotonic() - start < 1
        assert "vm.network" in caught.value.hint
    vm.reports[:] = [told("lease", "10.0.0.5")]  # plugged in, and not saved
    assert vm.wait_for_address(0).ip == "10.0.0.5"


def test_a_paused_vm_may_be_waited_for(vm: TalkingVM) -> None:
    vm.reports[:] = [told("lease")]
    vm.pause()
    with pytest.raises(AddressTimeoutError, match="it is paused"):
        vm.wait_for_address(0)


# Ports.


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server


@pytest.fixture
def loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let 127.0.0.1 be as good as any address."""
    monkeypatch.setattr("virtuoso_core.calls.guest._link_local", lambda ip: False)


@pytest.mark.usefixtures("loopback")
def test_a_port_that_answers(vm: TalkingVM, listener: socket.socket) -> None:
    """At whichever of the addresses does."""
    vm.reports[:] = [told("lease", "127.0.0.2", "127.0.0.1")]
    port = listener.getsockname()[1]
    assert vm.wait_for(port, timeout=5).ip == "127.0.0.1"
    assert vm.wait_for(port, timeout=0).ip == "127.0.0.1"


@pytest.mark.usefixtures("loopback")
def test_a_port_that_answers_later(vm: TalkingVM) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    opened: list[socket.socket] = []
    later(0.4, lambda: opened.append(socket.create_server(("127.0.0.1", port))))
    vm.reports[:] = [told("lease", "127.0.0.1")]
    assert vm.wait_for(port, timeout=20).ip == "127.0.0.1"
    opened[0].close()


@pytest.mark.usefixtures("loopback")
def test_a_port_that_never_answers(vm: TalkingVM) -> None:
    vm.reports[:] = [told("lease", "127.0.0.1")]
    with pytest.raises(WaitTimeoutError, match=r"127\.0\.0\.1:1 refused, last after \d s") as caught:
        vm.wait_for(REFUSED_PORT, timeout=0.5)
    error = caught.value
    assert (error.phase, error.vm) == ("port 1", "web")
    assert error.evidence.startswith("127.0.0.1:1 refused")
    assert not isinstance(error, AddressTimeoutError)
    assert "this machine" in error.hint


def test_a_port_of_a_guest_without_an_address(vm: TalkingVM) -> None:
    vm.reports[:] = [told("lease", said="has none")]
    with pytest.raises(AddressTimeoutError, match="lease: has none"):
        vm.wait_for(22, timeout=0.1)


@pytest.mark.parametrize("port", [0, 65536, -1, "22", True, 22.0])
def test_what_is_no_port(vm: TalkingVM, port: int) -> None:
    with pytest.raises(InvalidValueError, match="TCP port"):
        vm.wait_for(port)


def test_ipv6_is_shown_in_brackets(vm: TalkingVM) -> None:
    vm.reports[:] = [told("agent", "fd00::5")]
    with pytest.raises(WaitTimeoutError, match=r"\[fd00::5\]:1 "):
        vm.wait_for(REFUSED_PORT, timeout=0)


# States.


def test_wait_until(vm: TalkingVM) -> None:
    vm.wait_until("running", timeout=0)
    vm.wait_until(State.RUNNING, timeout=0)
    later(0.2, vm._power_off)
    vm.wait_until("stopped", timeout=10)
    with pytest.raises(WaitTimeoutError) as caught:
        vm.wait_until(State.RUNNING, timeout=0.2)
    error = caught.value
    assert error.message == f"The VM 'web' on {vm.hypervisor.uri} was not running within 0.2 s; it is stopped."
    assert (error.phase, error.evidence) == ("state running", "it is stopped")
    vm.destroy()
    with pytest.raises(VMNotFoundError):
        vm.wait_until("stopped", timeout=0)


@pytest.mark.parametrize("state", ["new", "off", "", None, State.NEW])
def test_states_that_cannot_be_waited_for(vm: TalkingVM, state: str) -> None:
    with pytest.raises(InvalidValueError, match="no state to wait for") as caught:
        vm.wait_until(state)
    assert "stopped, running" in caught.value.hint


def test_a_vm_that_was_never_saved_is_not_waited_for(hypervisor: MemoryHypervisor) -> None:
    with pytest.raises(InvalidStateError, match="never saved"):
        hypervisor.new_vm().wait_until("running")


@pytest.mark.parametrize("timeout", [-1, float("inf"), float("nan"), "5", None, True])
def test_what_is_no_time_to_wait(vm: TalkingVM, timeout: float) -> None:
    calls: list[Callable[[], object]] = [
        lambda: vm.wait_until("stopped", timeout),
        lambda: vm.wait_for_address(timeout),
        lambda: vm.wait_for(22, timeout),
        lambda: vm.run(["true"], timeout=timeout),
    ]
    for call in calls:
        with pytest.raises(InvalidValueError, match="not a time to wait"):
            call()


def test_pauses_grow_and_end_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    monkeypatch.setattr(time, "sleep", sleep)
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    wait = Wait(10)
    while wait.pause():
        pass
    assert slept[0] == 0.2
    assert max(slept) == 2.0
    assert slept[:-1] == sorted(slept[:-1])
    assert sum(slept) == pytest.approx(10)
    assert (wait.elapsed, wait.left) == (pytest.approx(10), 0)


# Commands.


def test_run_passes_what_was_given(vm: TalkingVM) -> None:
    assert vm.run(["uname", "-a"]).exit_code == 0
    vm.run(("cat",), input="grün", timeout=5)
    vm.run(["cat"], input=bytearray(b"\0"))
    assert vm.ran == [(["uname", "-a"], b"", 60), (["cat"], "grün".encode(), 5), (["cat"], b"\0", 60)]


@pytest.mark.parametrize("command", ["uname -a", b"uname", [], [""], ["a", 1], ["a\0"], ["\ud800"], None, {"a"}])
def test_what_is_no_command(vm: TalkingVM, command: Sequence[str]) -> None:
    with pytest.raises(InvalidValueError) as caught:
        vm.run(command)
    assert '["sh", "-c"' in caught.value.hint
    assert vm.ran == []


@pytest.mark.parametrize("given", [1, None, ["a"], "\ud800"])
def test_what_no_command_reads(vm: TalkingVM, given: str) -> None:
    with pytest.raises(InvalidValueError, match="bytes or text"):
        vm.run(["cat"], input=given)


# States that do not allow it, and hypervisors that cannot.


CALLS: dict[Feature, list[Callable[[VM], object]]] = {
    Feature.ADDRESSES: [VM.addresses, VM.wait_for_address, VM.wait_for],
    Feature.RUN: [lambda vm: vm.run(["true"])],
    Feature.SCREENSHOT: [VM.screenshot],
    Feature.CONSOLE: [VM.console],
    Feature.DISPLAY: [lambda vm: vm.display],
}


@pytest.mark.parametrize("feature", [feature for feature in CALLS if feature is not Feature.CONSOLE])
def test_a_vm_that_is_off(vm: TalkingVM, feature: Feature) -> None:
    vm.stop(timeout=0)
    for call in CALLS[feature]:
        with pytest.raises(InvalidStateError, match="it is stopped, not running") as caught:
            call(vm)
        assert "vm.start()" in caught.value.hint
        assert caught.value.vm == "web"


def test_a_paused_vm(vm: TalkingVM) -> None:
    vm.pause()
    assert vm.screenshot() == b"\x89PNG"
    assert vm.display is None
    assert vm.addresses() == ()
    with pytest.raises(InvalidStateError, match="it is paused") as caught:
        vm.run(["true"])
    assert "vm.resume()" in caught.value.hint


@pytest.mark.parametrize("feature", CALLS)
def test_hypervisors_that_cannot(hypervisor: MemoryHypervisor, feature: Feature) -> None:
    vm = hypervisor.new_vm()
    vm.name = "web"
    vm.save()
    vm.start()
    for call in CALLS[feature]:
        with pytest.raises(UnsupportedError, match=feature.value):
            call(vm)


# Screens.


def test_display_is_the_first(vm: TalkingVM) -> None:
    assert vm.display is None
    vm.screens[:] = [Display("vnc", "127.0.0.1", 5900), Display("spice", "::1", 5901)]
    assert vm.display == vm.screens[0]
    assert [str(screen) for screen in vm.screens] == ["vnc://127.0.0.1:5900", "spice://[::1]:5901"]
    assert str(Display("vnc", "", None, "/run/vm.sock")) == "vnc+unix:///run/vm.sock"


def test_screenshot_is_a_picture_in_notebooks(vm: TalkingVM) -> None:
    shot = vm.screenshot()
    assert isinstance(shot, Screenshot)
    assert shot._repr_png_() == b"\x89PNG"


# On libvirt, without a hypervisor.


@pytest.fixture
def kvm() -> Iterator[Any]:
    """The KVM driver on libvirt's mock."""
    pytest.importorskip("libvirt")
    from virtuoso_kvm.driver import KvmHypervisor

    with KvmHypervisor.open(URI.parse("test:///default")) as hypervisor:
        yield hypervisor
        for vm in hypervisor.vms():
            if vm.name == "talker":
                vm.destroy(force=True)


def defined(kvm: Any, change: Callable[[Any], None]) -> VM:
    """A running VM whose document was changed by hand."""
    from virtuoso_core.xml import DomainDocument

    vm: VM = kvm.new_vm()
    vm.name = "talker"
    vm.save()
    document = DomainDocument(vm.spec)
    change(document)
    vm.native.connect().defineXML(document.text)
    vm.reload()
    vm.start()
    return vm


@pytest.mark.parametrize(
    ("graphics", "shown"),
    [
        ("<graphics type='vnc' port='5905' listen='0.0.0.0'/>", "vnc://0.0.0.0:5905"),
        ("<graphics type='vnc' port='5905' passwd='hunter2'/>", "vnc://127.0.0.1:5905 with a password"),
        ("<graphics type='vnc' port='5905'><listen type='address' address='::1'/></graphics>", "vnc://[::1]:5905"),
        ("<graphics type='spice' tlsPort='5906' autoport='no' listen='10.0.0.1'/>", "spice://10.0.0.1:5906"),
        ("<graphics type='vnc'><listen type='socket' socket='/run/a.sock'/></graphics>", "vnc+unix:///run/a.sock"),
        ("<graphics type='rdp' port='3389' autoport='no'/>", "rdp://127.0.0.1:3389"),
        ("<graphics type='sdl'/>", None),
        ("<graphics type='spice'><listen type='none'/></graphics>", None),
        ("<graphics type='egl-headless'/><graphics type='vnc' port='5907'/>", "vnc://127.0.0.1:5907"),
        ("", None),
    ],
)
def test_displays_of_libvirt(kvm: Any, graphics: str, shown: str | None) -> None:
    from lxml import etree

    def change(document: Any) -> None:
        for screen in document.graphics:
            screen.remove()
        document.root.find("devices").extend(etree.fromstring(f"<devices>{graphics}</devices>"))

    found = defined(kvm, change).display
    assert (None if found is None else str(found) + " with a password" * found.password) == shown
    assert "hunter2" not in repr(found)


def test_user_networking_has_nothing_but_the_agent(kvm: Any) -> None:
    from virtuoso_core.libvirt_base.connection import libvirt
    from virtuoso_core.libvirt_base.errors import translate

    def change(document: Any) -> None:
        document.add_device("interface", type="user")

    vm: Any = defined(kvm, change)
    document = vm._running_document()
    assert vm._no_lease(document, None) == ("none of its network cards is on a network of libvirt's", "")
    silent = libvirt().libvirtError("silent")
    silent.err = (libvirt().VIR_ERR_AGENT_UNRESPONSIVE, 0, "silent", 2, None, None, None, 0, 0)
    error = translate(silent, doing="ask", uri=kvm.uri, alive=lambda: True, lost_hint="")
    error.__cause__ = silent
    said, hint = vm._no_agent(document, error)
    assert said == "none runs in the guest"
    assert hint.startswith("On user networking only an agent can tell. Install qemu-guest-agent")


def test_a_connection_without_qemu_behind_it(kvm: Any) -> None:
    """What QEMU's driver alone can do is said to be missing, in words."""
    vm = defined(kvm, lambda document: None)
    with pytest.raises(UnsupportedError):
        vm.run(["true"], timeout=5)
    with pytest.raises(UnsupportedError):
        vm.console()
