"""The driver for VMware's servers on simulators of an ESX host and of a vCenter: the conformance suite, and its own."""

from __future__ import annotations

import base64
import http.client
import secrets
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote, urlencode

import pytest

from tests.labs.esx.simulator import Simulator, missing_reason
from virtuoso_core import VM, Hypervisor, State, connect
from virtuoso_core.errors import (
    AddressTimeoutError,
    AuthenticationError,
    ConnectError,
    ConnectionLostError,
    HypervisorError,
    ImageFormatError,
    ImageNotFoundError,
    InvalidStateError,
    InvalidURIError,
    InvalidValueError,
    UnsupportedError,
)
from virtuoso_core.facts import Display
from virtuoso_core.testing import HypervisorSuite
from virtuoso_core.xml import DomainDocument
from virtuoso_vmware import probe
from virtuoso_vmware.esx import EsxHypervisor

STORE = "LocalDS_0"
USER = ("user", "pass")


@pytest.fixture(autouse=True)
def no_auth_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """An auth file of the user's would be asked before any other credentials."""
    monkeypatch.delenv("LIBVIRT_AUTH_FILE", raising=False)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))


@pytest.fixture(scope="module", params=["esx", "vcenter"])
def simulator(request: pytest.FixtureRequest) -> Iterator[Simulator]:
    """Each of the two."""
    reason = missing_reason()
    if reason is not None:
        pytest.skip(reason)
    with Simulator(request.param) as running:
        yield running


def make_disk(hypervisor: Any, path: str) -> None:
    """A small disk on the datastore."""
    from lxml import etree

    volume = etree.Element("volume")
    etree.SubElement(volume, "name").text = path.removeprefix(f"[{STORE}] ")
    etree.SubElement(volume, "capacity", unit="MiB").text = "1"
    etree.SubElement(etree.SubElement(volume, "target"), "format", type="vmdk")
    native = hypervisor.connection.native
    native.storagePoolLookupByName(STORE).createXML(etree.tostring(volume, encoding="unicode"), 0)


def ask(simulator: Simulator, path: str, data: bytes | None = None, **query: str) -> None:
    """A request to the simulator itself; with data, the file that it puts on the datastore."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    connection = http.client.HTTPSConnection(simulator.address, timeout=30, context=context)
    sign_in = base64.b64encode(":".join(USER).encode()).decode()
    method, where = "GET" if data is None else "PUT", f"/{quote(path)}?{urlencode(query)}"
    connection.request(method, where, data, {"Authorization": f"Basic {sign_in}"})
    assert connection.getresponse().status == 200
    connection.close()


def put_disc(simulator: Simulator, path: str) -> None:
    """An ISO file on the datastore, as the host's web page puts it there."""
    datacenter = "ha-datacenter" if simulator.kind == "esx" else "DC0"
    name = path.removeprefix(f"[{STORE}] ")
    ask(simulator, f"folder/{name}", bytes(2048), dcPath=datacenter, dsName=STORE)


def show_screen(vm: VM, port: int, **more: str) -> None:
    """Give a VM a VNC screen, as an administrator does who edits its file, in place of the VM that was defined."""
    document = DomainDocument(vm.spec)
    document.uuid = None
    document.add_device("graphics", type="vnc", port=str(port), **more)
    domain = vm.native
    domain.undefine()
    domain.connect().defineXML(document.text)


@pytest.fixture
def hypervisor(simulator: Simulator) -> Iterator[Hypervisor]:
    """A connection to it."""
    with connect(simulator.uri, credentials=USER) as opened:
        yield opened


@pytest.fixture
def disk_image(simulator: Simulator) -> str:
    """A disk in a folder of its own."""
    path = f"[{STORE}] {secrets.token_hex(4)}/disk.vmdk"
    with connect(simulator.uri, credentials=USER) as opened:
        make_disk(opened, path)
    return path


@pytest.fixture
def vm(hypervisor: Hypervisor, disk_image: str) -> Iterator[VM]:
    """A saved VM."""
    made = hypervisor.new_vm()
    made.name, made.memory, made.cpus, made.disk_image = f"vm-{secrets.token_hex(4)}", "256 MiB", 1, disk_image
    made.save()
    yield made
    made.destroy(force=True)


class TestEsxSuite(HypervisorSuite):
    hypervisor = EsxHypervisor
    needs_disk = True
    proof: ClassVar[Any] = "simulated"

    @pytest.fixture
    def real_uri(self, simulator: Simulator) -> str:
        return simulator.uri

    @pytest.fixture
    def disk_image(self, disk_image: str) -> str:
        return disk_image

    @pytest.fixture
    def further_image(self, request: pytest.FixtureRequest, simulator: Simulator, disk_image: str) -> str:
        folder = disk_image.rpartition("/")[0]
        if request.function.__name__ == "test_cdrom":
            put_disc(simulator, f"{folder}/disc.iso")
            return f"{folder}/disc.iso"
        with connect(simulator.uri, credentials=USER) as opened:
            make_disk(opened, f"{folder}/further.vmdk")
        return f"{folder}/further.vmdk"

    @pytest.fixture
    def running(self, request: pytest.FixtureRequest, make: Callable[..., VM], disk_image: str) -> VM:
        """As in the suite; with a screen where that is what is tested."""
        vm = make(disk_image=disk_image)
        if request.function.__name__ == "test_display":
            show_screen(vm, 5901)
            vm = vm.hypervisor.get(vm.name)
        vm.start()
        return vm

    def connect(self, uri: str, **options: Any) -> Hypervisor:
        return super().connect(uri, credentials=USER, **options)

    def assert_deleted(self, disk_image: str) -> None:
        pass  # test_a_disk_is_deleted looks on the datastore

    def test_foreign_xml_survives(self) -> None:
        pytest.skip("libvirt cannot redefine a VM here: nothing is ever written over")


# Opening.


def test_wrong_password(simulator: Simulator) -> None:
    with pytest.raises(AuthenticationError, match="refused the sign-in") as caught:
        connect(simulator.uri, credentials=("user", "no"))
    assert "credentials=" in caught.value.hint
    with pytest.raises(AuthenticationError):
        connect(simulator.uri.replace("://", "://user:no@"))


def test_credentials_in_every_form(simulator: Simulator) -> None:
    asked = []

    def answer(request: Any) -> str:
        asked.append((request.kind, request.uri))
        return {"username": "user", "password": "pass"}[request.kind]

    with connect(simulator.uri, credentials=answer) as hypervisor:
        assert hypervisor.vms()
    assert [kind for kind, _ in asked] == ["username", "password"]
    with connect(simulator.uri.replace("://", "://user:pass@")) as hypervisor:
        assert hypervisor.vms()
        assert "pass" not in repr(hypervisor)
    asked.clear()
    with connect(simulator.uri.replace("://", "://user@"), credentials=answer):
        assert [kind for kind, _ in asked] == ["password"]


def test_no_credentials(simulator: Simulator) -> None:
    for credentials in (None, lambda request: None):
        with pytest.raises(AuthenticationError) as caught:
            connect(simulator.uri, credentials=credentials)
        assert all(way in caught.value.hint for way in ("credentials=", "auth.conf", "?authfile=", "LIBVIRT_AUTH_FILE"))


def test_auth_file(simulator: Simulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write(password: str) -> Path:
        file = tmp_path / f"{password}.conf"
        host = simulator.address.partition(":")[0]
        file.write_text(
            f"[credentials-lab]\nusername=user\npassword={password}\n"
            f"[auth-esx-{host}]\ncredentials=lab\n[auth-vpx-{host}]\ncredentials=lab\n"
        )
        return file

    with connect(f"{simulator.uri}&authfile={write('pass')}") as hypervisor:
        assert hypervisor.vms()
    monkeypatch.setenv("LIBVIRT_AUTH_FILE", str(write("pass")))
    with connect(simulator.uri) as hypervisor:
        assert hypervisor.vms()
    monkeypatch.setenv("LIBVIRT_AUTH_FILE", str(write("wrong")))
    with pytest.raises(AuthenticationError, match=r"wrong\.conf"):
        connect(simulator.uri, credentials=USER)


def test_bad_certificate(simulator: Simulator) -> None:
    with pytest.raises(ConnectError, match="certificate") as caught:
        connect(simulator.uri.replace("?no_verify=1", ""), credentials=USER)
    assert not isinstance(caught.value, AuthenticationError)
    assert simulator.uri in caught.value.hint


def test_the_other_kind_of_server(simulator: Simulator) -> None:
    other, told = {"esx": ("vpx://{}/DC0/DC0_H0", "esx://"), "vcenter": ("esx://{}/", "vpx://")}[simulator.kind]
    with pytest.raises(ConnectError, match=told):
        connect(f"{other.format(simulator.address)}?no_verify=1", credentials=USER)


def test_unknown_way_in_a_vcenter(simulator: Simulator) -> None:
    if simulator.kind == "esx":
        pytest.skip("a host has no way inside")
    with pytest.raises(ConnectError, match="/DC0/nowhere"):
        connect(simulator.uri.replace("DC0_H0", "nowhere"), credentials=USER)


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("esx+ssh://host/", "transport"),
        ("esx:///", "host"),
        ("vpx://host/", "DATACENTER"),
        ("vpx://host/DC0", "DATACENTER"),
        ("esx://host/?no_verify=2", "no_verify"),
        ("esx://host/?auto_answer=yes", "auto_answer"),
        ("esx://host/?transport=tcp", "transport"),
        ("esx://host/?proxy=ftp://x:1", "proxy"),
    ],
)
def test_uris_that_crash_or_puzzle_libvirt(uri: str, said: str) -> None:
    with pytest.raises(InvalidURIError, match=said):
        connect(uri, credentials=USER)


def test_nothing_listens() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        with pytest.raises(ConnectError, match="refused"):
            connect(f"esx://127.0.0.1:{taken.getsockname()[1]}/", credentials=USER)


def test_no_such_host() -> None:
    with pytest.raises(ConnectError, match="cannot be reached"):
        connect("esx://no-such-host.invalid/", credentials=USER)


@pytest.mark.parametrize("query", ["", "?no_verify=1", "?transport=http"])
def test_a_host_that_hangs(query: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "TIMEOUT", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        start = time.monotonic()
        with pytest.raises(ConnectError, match="did not answer"):
            connect(f"esx://127.0.0.1:{silent.getsockname()[1]}/{query}", credentials=USER)
        assert time.monotonic() - start < 5


def test_something_else_listens(simulator: Simulator) -> None:
    uri = simulator.uri.replace("no_verify=1", "transport=http")  # TLS is spoken there
    with pytest.raises(ConnectError, match="no VMware server"):
        connect(uri, credentials=USER)


def test_nothing_is_printed(simulator: Simulator) -> None:
    code = "import sys; from virtuoso_core import connect\n"
    code += "with connect(sys.argv[1], credentials=('user', 'pass')) as hypervisor: hypervisor.summaries()"
    done = subprocess.run([sys.executable, "-c", code, simulator.uri], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_command_asks_for_nothing_it_has(simulator: Simulator) -> None:
    uri = simulator.uri.replace("://", "://user:pass@")
    command = [str(Path(sys.executable).with_name("virtuoso")), "-c", uri, "list", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stderr
    assert "_VM0" in done.stdout


def test_a_server_that_goes_away() -> None:
    reason = missing_reason()
    if reason is not None:
        pytest.skip(reason)
    with Simulator("esx") as short:
        hypervisor = connect(short.uri, credentials=USER)
    with pytest.raises(ConnectionLostError):
        hypervisor.vms()
    hypervisor.close()


# Life.


def test_whole_life(hypervisor: Hypervisor, disk_image: str) -> None:
    vm = hypervisor.new_vm()
    vm.name, vm.memory, vm.disk_image = "whole life", "65 MiB", disk_image
    assert vm.memory == 68 * 1024
    card = vm.network("bridged")
    assert (card.source, card.model) == ("VM Network", "e1000")
    vm.set("headless", True)  # as all are here
    vm.save()
    vm.autostart = True
    vm.start()
    vm.pause()
    vm.resume()
    vm.reboot()
    assert vm.screenshot()
    assert vm.addresses() == ()
    vm.stop()
    found = hypervisor.find("whole life")
    assert found is not None
    found.memory, found.cpus = "1 GiB", 4
    found.save()
    vm.reload()
    assert (vm.memory, vm.cpus, vm.autostart, vm.networks) == (1024 * 1024, 4, True, (card,))
    vm.destroy()
    assert hypervisor.find("whole life") is None


def test_a_disk_is_deleted(hypervisor: Hypervisor, vm: VM, disk_image: str) -> None:
    vm.destroy(delete_disk=True)
    make_disk(hypervisor, disk_image)  # which fails where there is one


def test_disk_images(hypervisor: Hypervisor) -> None:
    vm = hypervisor.new_vm()
    vm.name = "no disk"
    with pytest.raises(InvalidValueError, match="disk_image"):
        vm.save()
    with pytest.raises(InvalidValueError, match="datastore"):
        vm.disk_image = "/images/disk.vmdk"
    vm.disk_image = f"[{STORE}] a/disk.qcow2"
    with pytest.raises(ImageFormatError, match="vmdk"):
        vm.save()
    assert hypervisor.find("no disk") is None


def test_a_disc_is_an_iso_file(simulator: Simulator, hypervisor: Hypervisor, disk_image: str) -> None:
    new = hypervisor.new_vm()
    new.name, new.disk_image, new.cdrom = "disc", disk_image, disk_image
    with pytest.raises(ImageFormatError, match=r"\.iso"):
        new.save()
    if simulator.kind == "esx":
        new.cdrom = f"[{STORE}] none/disc.iso"
        with pytest.raises(ImageNotFoundError):
            new.save()
    assert hypervisor.find("disc") is None


def test_snapshots_go_back_to_what_ran(hypervisor: Hypervisor, vm: VM) -> None:
    """With the sizes and the power of then; they show to another connection, and go with the VM."""
    vm.snapshot("small", "before the change")
    vm.memory, vm.cpus = "512 MiB", 2
    vm.save()
    vm.start()
    vm.snapshot("large & <running>")
    vm.revert("small")
    assert (vm.state, vm.memory, vm.cpus) == (State.STOPPED, 256 * 1024, 1)
    vm.revert("large & <running>")
    assert (vm.state, vm.memory, vm.cpus) == (State.RUNNING, 512 * 1024, 2)
    found = hypervisor.get(vm.name).snapshots
    assert [(each.name, each.parent, each.current, each.state) for each in found] == [
        ("small", None, False, State.STOPPED),
        ("large & <running>", "small", True, State.RUNNING),
    ]
    assert found[0].description == "before the change"


def test_addresses_are_what_tools_tell(simulator: Simulator, hypervisor: Hypervisor, disk_image: str) -> None:
    vm = hypervisor.new_vm()
    vm.name, vm.disk_image = f"tools-{secrets.token_hex(4)}", disk_image
    card = vm.network("bridged")
    vm.save()
    vm.start()
    with pytest.raises(AddressTimeoutError, match="agent") as caught:
        vm.wait_for_address(timeout=0.2)
    assert "open-vm-tools" in caught.value.hint
    ask(simulator, "lab/tools", machine=vm.name, mac=card.mac_address, ip="192.0.2.7")
    address = vm.wait_for_address(timeout=10)
    assert (address.ip, address.mac_address, address.source) == ("192.0.2.7", card.mac_address, "agent")
    vm.destroy(force=True)


def test_a_screen_is_on_the_host(simulator: Simulator, hypervisor: Hypervisor, vm: VM) -> None:
    """Not on this machine, and not on the vCenter."""
    show_screen(vm, 5903, passwd="secret")  # noqa: S106 - of nobody
    found = hypervisor.get(vm.name)
    found.start()
    host = "DC0_H0" if simulator.kind == "vcenter" else simulator.address.partition(":")[0]
    assert found.display == Display("vnc", host, 5903, password=True)
    found.destroy(force=True)


def test_missing_disk(simulator: Simulator, hypervisor: Hypervisor) -> None:
    if simulator.kind == "vcenter":
        pytest.skip("the simulated vCenter finds every disk")
    vm = hypervisor.new_vm()
    vm.name, vm.disk_image = "no disk", f"[{STORE}] none/disk.vmdk"
    with pytest.raises(ImageNotFoundError):
        vm.save()
    assert hypervisor.find("no disk") is None


def test_a_running_vm_is_not_changed(vm: VM) -> None:
    vm.start()
    vm.memory, vm.cpus = "1 GiB", 4
    with pytest.raises(InvalidStateError, match="running") as caught:
        vm.save()
    assert "Stop it" in caught.value.hint
    vm.reload()
    assert (vm.memory, vm.cpus) == (256 * 1024, 1)


def test_a_limit_grows_with_the_memory(hypervisor: Hypervisor, vm: VM) -> None:
    vm.native.setMemory(256 * 1024)  # all of it, as a limit
    vm.memory = "1 GiB"
    vm.save()
    assert '<currentMemory unit="KiB">1048576<' in hypervisor.get(vm.uuid).spec


def test_other_changes_are_refused(hypervisor: Hypervisor, vm: VM) -> None:
    changes: list[Callable[[VM], object]] = [
        lambda vm: setattr(vm, "disk_image", None),
        lambda vm: vm.network("bridged"),
        lambda vm: vm.add_disk(f"[{STORE}] a/other.vmdk"),
        lambda vm: setattr(vm, "cdrom", f"[{STORE}] a/disc.iso"),
        lambda vm: vm.set("firmware", "uefi"),
        lambda vm: setattr(vm, "name", "another"),
    ]
    for change in changes:
        edited = hypervisor.get(vm.uuid)
        edited.memory = "1 GiB"
        change(edited)
        with pytest.raises(UnsupportedError):
            edited.save()
        assert hypervisor.get(vm.uuid).memory == 256 * 1024


@pytest.mark.parametrize("failing", range(2))
def test_rollback_of_each_call(hypervisor: Any, vm: VM, failing: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two changes made by two calls, any one that fails takes the other back."""
    real, made = hypervisor.connection.call, []

    def call(doing: str, *arguments: Any, **named: Any) -> Any:
        if doing.startswith("change"):
            made.append(doing)
            if len(made) == failing + 1:
                raise HypervisorError("broken on purpose")
        return real(doing, *arguments, **named)

    before = vm.spec
    vm.memory, vm.cpus = "1 GiB", 4
    monkeypatch.setattr(hypervisor.connection, "call", call)
    with pytest.raises(HypervisorError, match="on purpose"):
        vm.save()
    again = hypervisor.get(vm.uuid)
    assert again.spec == before
    assert vm.memory == 1024 * 1024  # the edits are still the user's
    vm.save()
    assert (hypervisor.get(vm.uuid).memory, hypervisor.get(vm.uuid).cpus) == (1024 * 1024, 4)


def test_a_guest_without_tools(vm: VM, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be asked: that is said, or its plug is pulled at once."""

    def deaf() -> None:
        raise HypervisorError("no tools")

    vm.start()
    running: Any = vm
    monkeypatch.setattr(running, "_unless_off", lambda *_: deaf())
    with pytest.raises(UnsupportedError, match="VMware Tools"):
        vm.stop(force=False)
    assert vm.state is State.RUNNING
    monkeypatch.setattr(running, "_power_off", running._domain.destroy)
    start = time.monotonic()
    vm.stop(timeout=30)
    assert time.monotonic() - start < 10
