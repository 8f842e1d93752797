"""What happens around a VM's running, without a hypervisor: jobs, statistics, live changes, what hinders a move."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from virtuoso_core import GiB, Hypervisor, MiB, SaveResult, State, connect
from virtuoso_core.errors import (
    HypervisorError,
    InvalidOptionError,
    InvalidStateError,
    InvalidValueError,
    UnsupportedError,
    VMExistsError,
    VMNotFoundError,
)
from virtuoso_core.libvirt_base import jobs, migration, stats
from virtuoso_core.libvirt_base.binding import libvirt
from virtuoso_core.libvirt_base.jobs import run_job
from virtuoso_core.libvirt_base.options import MAX_CPUS, MAX_MEMORY
from virtuoso_core.libvirt_base.vm import LibvirtVM
from virtuoso_core.uri import URI
from virtuoso_core.xml import Document, DomainDocument
from virtuoso_kvm.driver import KvmHypervisor


@pytest.fixture
def mock() -> Iterator[KvmHypervisor]:
    """The KVM driver on libvirt's mock, left as it was found."""
    with KvmHypervisor.open(URI.parse("test:///default")) as hypervisor:
        before = {vm.uuid for vm in hypervisor.vms()}
        yield hypervisor
        for vm in hypervisor.vms():
            if vm.uuid not in before:
                vm.destroy(force=True)


@pytest.fixture
def vm(mock: KvmHypervisor) -> LibvirtVM:
    """A VM with room to grow, which is off."""
    made = mock.new_vm()
    made.name, made.memory, made.cpus = "grows", 512 * MiB, 1
    made.set("max_cpus", 4)
    made.save()
    assert isinstance(made, LibvirtVM)
    return made


# Live changes.


def test_live_failure_fails_no_save(vm: LibvirtVM, monkeypatch: pytest.MonkeyPatch) -> None:
    vm.start()

    def refuse(*_: object) -> None:
        raise HypervisorError("not now")

    monkeypatch.setattr(vm, "_apply_cpus", refuse)
    vm.cpus, vm.memory = 2, 256 * MiB
    assert vm.save() is SaveResult.NEXT_START
    assert vm.native.info()[2:4] == [256 * MiB, 1]
    assert (vm.cpus, vm.memory) == (2, 256 * MiB)


def test_options_wait_for_the_next_start(vm: LibvirtVM) -> None:
    vm.start()
    vm.cpus = 2
    vm.set("max_cpus", 8)
    assert vm.save() is SaveResult.NEXT_START
    assert vm.native.info()[3] == 2


def test_undone_changes_are_undone_live(vm: LibvirtVM) -> None:
    """What the hypervisor did not take is not in force either."""
    vm.start()
    before = vm._read()
    vm.cpus = 3
    assert vm._update(vm._current(), frozenset({"cpus"})) is SaveResult.APPLIED
    assert vm.native.info()[3] == 3
    vm._undo_update()
    assert vm.native.info()[3] == 1
    assert vm._read() == before


def test_a_balloon_that_was_set_apart_stays(mock: KvmHypervisor) -> None:
    made = mock.new_vm()
    made.name, made.memory = "apart", 512 * MiB
    document = DomainDocument(made.spec)
    document.current_memory = 128 * MiB
    mock.connection.native.defineXML(document.text)
    found = mock.get("apart")
    found.start()
    found.memory = 256 * MiB
    assert found.save() is SaveResult.APPLIED
    assert found.native.info()[2] == 128 * MiB


def test_no_live_changes_without_the_feature(vm: LibvirtVM, mock: KvmHypervisor) -> None:
    from virtuoso_core import Feature

    mock.features = mock.features - {Feature.LIVE}
    vm.start()
    vm.cpus = 2
    assert vm.save() is SaveResult.NEXT_START
    assert vm.native.info()[3] == 1


# Room to grow, in the document.

PLAIN = "<domain><name>a</name><memory unit='MiB'>512</memory><vcpu>2</vcpu>{}</domain>"


@pytest.mark.parametrize(
    "more", ["", "<cpu mode='maximum'/>", "<cpu><topology sockets='2' cores='1' threads='1'/></cpu>"]
)
def test_room_leaves_no_trace(more: str) -> None:
    document = DomainDocument(PLAIN.format(more))
    before = document.canonical()
    document.set_max_memory(8 * GiB)
    document.set_max_cpus(6)
    assert (document.max_memory, document.memory_slots, document.vcpus_maximum) == (8 * GiB, 16, 6)
    assert (document.cpus, document.memory) == (2, 512 * MiB)
    assert [cell.memory for cell in document._cells()] == [512 * MiB]
    document.set_memory(1 * GiB)
    assert [cell.memory for cell in document._cells()] == [1 * GiB]
    document.set_memory(512 * MiB)
    document.set_max_cpus(None)
    document.set_max_memory(None)
    assert document.canonical() == before


def test_room_keeps_to_the_topology() -> None:
    document = DomainDocument(PLAIN.format("<cpu><topology sockets='1' cores='2' threads='1'/></cpu>"))
    with pytest.raises(InvalidValueError, match="no multiple"):
        document.set_max_cpus(5)
    document.set_max_cpus(6)
    assert (document.sockets, document.vcpus_maximum, document.vcpus_current) == (3, 6, 2)


def test_no_room_to_grow() -> None:
    document = DomainDocument(PLAIN.format(""))
    for count in (1, 2):
        with pytest.raises(InvalidValueError, match=f"{count} at most leaves no room"):
            document.set_max_cpus(count)


def test_the_cell_follows_the_processors() -> None:
    """libvirt writes into it which ones it holds, and refuses more than there are."""
    document = DomainDocument(PLAIN.format("<cpu><numa><cell id='0' cpus='0-1' memory='512' unit='MiB'/></numa></cpu>"))
    document.set_max_cpus(4)
    assert document._cells()[0].cpus == "0-3"
    document.set_max_cpus(None)
    document.set_cpus(1)
    assert document._cells()[0].cpus == "0"


def test_a_cell_of_somebody_elses_stays() -> None:
    """Taking the room away takes no cell that says more than the room needs."""
    cell = "<cell id='0' memory='512' unit='MiB' memAccess='shared'/>"
    document = DomainDocument(PLAIN.format(f"<cpu><numa>{cell}</numa></cpu>"))
    before = document.canonical()
    document.set_max_memory(GiB)
    document.set_max_memory(None)
    assert document.canonical() == before


def test_options_of_the_room() -> None:
    assert MAX_MEMORY.parse("8 GiB") == MAX_MEMORY.parse(8 * GiB) == 8 * GiB
    for bad in ("8", "plenty", 1, True, None, "1025 KiB", -1):
        with pytest.raises(InvalidOptionError, match="an amount of memory"):
            MAX_MEMORY.parse(bad)
    assert MAX_CPUS.parse("8") == 8
    for number in (0, 5000):
        with pytest.raises(InvalidOptionError, match="from 1 to 4096"):
            MAX_CPUS.parse(number)


# Statistics.

TOLD = {
    "state.state": 1,
    "cpu.time": 2_500_000_000,
    "balloon.current": 1024,
    "balloon.available": 1000,
    "balloon.unused": 100,
    "balloon.usable": 300,
    "balloon.last-update": 1,
    "vcpu.current": 2,
    "block.count": 2,
    "block.0.rd.bytes": 10,
    "block.1.rd.bytes": 5,
    "net.count": 0,
}


def line(**changed: Any) -> Any:
    domain = SimpleNamespace(name=lambda: "a", UUIDString=lambda: "u")
    given = TOLD | {name.replace("__", "."): value for name, value in changed.items()}
    values = {name: value for name, value in given.items() if value is not None}
    return stats._stats(None, domain, values, 7.0)  # type: ignore[arg-type]


def test_what_stats_say() -> None:
    found = line()
    assert (found.name, found.uuid, found.time, found.cpus, found.cpu_time) == ("a", "u", 7.0, 2, 2.5)
    assert (found.memory, found.memory_used) == (1024, 700)
    assert (found.disk_read, found.disk_written) == (15, None)
    assert (found.net_received, found.net_sent) == (0, 0)
    assert line(balloon__usable=None).memory_used == 900
    assert line(block__count=None).disk_read is None


@pytest.mark.parametrize("missing", ["balloon__available", "balloon__last-update"])
def test_a_guest_that_tells_nothing(missing: str) -> None:
    assert line(**{missing: None}).memory_used is None


def test_stats_on_the_mock(vm: LibvirtVM, mock: KvmHypervisor) -> None:
    """It tells states only: the rest is asked of each VM."""
    vm.start()
    (found,) = [each for each in mock.stats() if each.uuid == vm.uuid]
    assert (found.memory, found.cpus, found.memory_used, found.disk_read) == (512 * MiB, 1, None, None)
    assert (vm.stats().memory, vm.stats().cpus) == (512 * MiB, 1)


# Jobs.


class Job:
    """A VM whose job goes on until it is ended, or told to be done."""

    def __init__(self, *, can_end: bool = True, fails: Exception | None = None) -> None:
        self.over, self.ended, self.can_end, self.fails = threading.Event(), False, can_end, fails
        self.looks = iter([{}, *({"data_total": 100, "data_processed": done} for done in (10, 40, 30, 120))])
        self._domain = SimpleNamespace(jobStats=self.stats, abortJob=self.end)

    def _call(self, doing: str, function: Callable[..., Any], *args: Any) -> Any:
        return function(*args)

    def stats(self, flags: int) -> dict[str, int]:
        found = next(self.looks, None)
        if found is None:
            self.over.set()
            raise HypervisorError("it is over")
        return found

    def end(self) -> None:
        self.ended = True
        self.over.set()

    def work(self) -> None:
        assert self.over.wait(30)
        if self.fails is not None:
            raise self.fails
        if self.ended and self.can_end:
            raise HypervisorError("it was ended")


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_LOOK", 0.01)


def run(job: Job, progress: Callable[[int, int], None] | None = None) -> BaseException | None:
    return run_job(job, "move", job.work, progress=progress)  # type: ignore[arg-type]


def test_job_tells_how_far_it_is() -> None:
    """Never backwards, and never more than all."""
    told: list[tuple[int, int]] = []
    assert run(Job(), lambda *now: told.append(now)) is None
    assert told == [(10, 100), (40, 100), (100, 100)]


def test_job_that_fails() -> None:
    job = Job(fails=HypervisorError("no way"))
    job.over.set()
    with pytest.raises(HypervisorError, match="no way"):
        run(job)


def interrupt(done: int, total: int) -> None:
    raise KeyboardInterrupt


def test_interrupted_job() -> None:
    job = Job()
    with pytest.raises(KeyboardInterrupt):
        run(job, interrupt)
    assert job.ended


def test_interrupted_too_late() -> None:
    """What is done is done: the caller hears of both."""
    assert isinstance(run(Job(can_end=False), interrupt), KeyboardInterrupt)


# What hinders a move.


@pytest.fixture
def beyond() -> Callable[..., Any]:
    """Another host, with capabilities of one's own."""

    def make(text: str = "<capabilities><host><uuid>b</uuid></host></capabilities>", **more: Any) -> Any:
        return SimpleNamespace(uri=URI.parse("qemu+ssh://b/system"), capabilities=lambda: Document(text), **more)

    return make


def mover(text: str = "", host: str = "<host><uuid>a</uuid></host>", snapshots: int = 0) -> Any:
    """A running VM of which only what is asked for here is there."""
    own = SimpleNamespace(
        uri=URI.parse("qemu:///system"), capabilities=lambda: Document(f"<capabilities>{host}</capabilities>")
    )
    return SimpleNamespace(
        name="m",
        uuid="u",
        hypervisor=own,
        _hypervisor=own,
        _where={"vm": "m", "uri": own.uri},
        _known_name="m",
        _domain=SimpleNamespace(snapshotNum=lambda flags: snapshots),
        _call=lambda doing, function, *args: function(*args),
    )


def test_same_host(beyond: Callable[..., Any]) -> None:
    migration._check_hosts(mover(), beyond())
    with pytest.raises(InvalidStateError, match="host it is on") as caught:
        migration._check_hosts(mover(host="<host><uuid>b</uuid></host>"), beyond())
    assert "host_uuid" in caught.value.hint


KVM = "<domain type='kvm'><os><type arch='x86_64'>hvm</type></os><cpu mode='host-passthrough'/></domain>"
THERE = (
    "<capabilities><host/><guest><os_type>hvm</os_type>"
    "<arch name='x86_64'><domain type='qemu'/>{}</arch></guest></capabilities>"
)


def test_no_such_machines(beyond: Callable[..., Any]) -> None:
    with pytest.raises(InvalidStateError, match="no VMs of its kind"):
        migration._check_machine(mover(), beyond(THERE.format("")), DomainDocument(KVM))


@pytest.mark.parametrize(("name", "refused"), [("INCOMPATIBLE", True), ("IDENTICAL", False), ("SUPERSET", False)])
def test_another_processor(beyond: Callable[..., Any], name: str, refused: bool) -> None:
    answer = getattr(libvirt(), f"VIR_CPU_COMPARE_{name}")
    connection = SimpleNamespace(
        native=SimpleNamespace(compareCPU=lambda text, flags: answer), call=lambda doing, function, *a: function(*a)
    )
    target = beyond(THERE.format("<domain type='kvm'/>"), connection=connection)
    vm = mover(host="<host><cpu><arch>x86_64</arch><model>Zen</model></cpu></host>")
    if not refused:
        migration._check_machine(vm, target, DomainDocument(KVM))
        return
    with pytest.raises(InvalidStateError, match="its host's own") as caught:
        migration._check_machine(vm, target, DomainDocument(KVM))
    assert "host-model" in caught.value.hint


@pytest.mark.parametrize(
    ("devices", "snapshots", "said"),
    [
        ("<hostdev type='pci'/><hostdev type='usb'/>", 0, r"devices of its host \(pci, usb\)"),
        ("<filesystem/>", 0, "shares folders"),
        ("", 2, "2 snapshots"),
    ],
)
def test_ties(beyond: Callable[..., Any], devices: str, snapshots: int, said: str) -> None:
    running = DomainDocument(f"<domain><devices>{devices}</devices></domain>")
    with pytest.raises(InvalidStateError, match=said):
        migration._check_ties(mover(snapshots=snapshots), beyond(), running)


DISKS = """<domain><os><kernel>/k</kernel></os><devices>
  <disk type='file' device='disk'><source file='/i/a.qcow2'/><target dev='vda'/>
    <backingStore type='file'><source file='/i/base.qcow2'/><backingStore/></backingStore></disk>
  <disk type='file' device='cdrom'><source file='/i/seed.iso'/><target dev='sda'/><readonly/></disk>
  <disk type='file' device='cdrom'><target dev='sdb'/><readonly/></disk>
  <disk type='network' device='disk'><source protocol='rbd' name='pool/x'/><target dev='vdb'/></disk>
</devices></domain>"""


def test_files_of_a_vm() -> None:
    running = DomainDocument(DISKS)
    assert migration._files(running) == {"/i/a.qcow2", "/i/seed.iso", "/k"}
    assert [migration._below(disk) for disk in migration._with_files(running)] == [{"/i/base.qcow2"}, set()]


class Shelf:
    """A storage of names only; two may share theirs."""

    def __init__(self, names: set[str]) -> None:
        self.names = names

    def __enter__(self) -> Shelf:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def exists(self, path: str) -> bool:
        return path in self.names

    def write(self, path: str, data: bytes) -> None:
        self.names.add(path)

    def delete(self, path: str) -> None:
        self.names.discard(path)


@pytest.fixture
def seen(beyond: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Callable[..., bool]:
    """What a look at the files of two hosts comes to."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))

    def look(here: Any, there: Any) -> bool:
        vm, running = mover(), DomainDocument(DISKS)
        vm._hypervisor.name, vm._hypervisor._storage = "kvm", lambda: here
        written = [disk for disk in migration._with_files(running) if not disk.readonly]
        return migration._check_seen(vm, beyond(_storage=lambda: there), written, ["/i/seed.iso"])

    return look


FILES = {"/i/a.qcow2", "/i/base.qcow2", "/i/seed.iso"}


def test_shared_storage(seen: Callable[..., bool]) -> None:
    shelf = Shelf(set(FILES))
    assert seen(shelf, shelf)
    assert shelf.names == FILES


def test_missing_there(seen: Callable[..., bool]) -> None:
    with pytest.raises(InvalidStateError, match=r"no /i/base\.qcow2, no /i/seed\.iso there"):
        seen(Shelf(set(FILES)), Shelf({"/i/a.qcow2"}))


def test_other_files_of_the_same_names(seen: Callable[..., bool]) -> None:
    here, there = Shelf(set(FILES)), Shelf(set(FILES))
    with pytest.raises(InvalidStateError, match="/i there is another folder of the same name"):
        seen(here, there)
    assert here.names == there.names == FILES


def test_nothing_may_be_written(seen: Callable[..., bool], monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nothing is proven, and libvirt decides."""

    def refuse(self: Shelf, path: str, data: bytes) -> None:
        raise HypervisorError("read-only")

    monkeypatch.setattr(Shelf, "write", refuse)
    shelf = Shelf(set(FILES))
    assert seen(shelf, shelf) is False


@pytest.mark.parametrize(
    ("uri", "reached"),
    [
        ("qemu+tcp://127.0.0.1/system", "tcp://127.0.0.1"),
        ("qemu+tcp://[::1]/system", "tcp://[::1]"),
        ("qemu+ssh://only-ssh-knows.invalid/system", None),
        ("qemu:///system?socket=/x", None),
    ],
)
def test_where_it_is_sent(uri: str, reached: str | None) -> None:
    assert migration._reached_as(SimpleNamespace(uri=URI.parse(uri))) == reached  # type: ignore[arg-type]


# The public calls, in memory.


@pytest.fixture
def hypervisor(request: pytest.FixtureRequest) -> Iterator[Hypervisor]:
    with connect(f"memory:///{request.node.name}") as hypervisor:
        yield hypervisor


def named(hypervisor: Hypervisor, name: str = "web") -> Any:
    vm = hypervisor.new_vm()
    vm.name = name
    vm.save()
    return vm


def test_moved_in_memory(hypervisor: Hypervisor) -> None:
    vm = named(hypervisor)
    vm.autostart = True
    vm.start()
    with pytest.raises(InvalidStateError, match="the host it is on"):
        vm.migrate(hypervisor.uri)
    vm.memory = "2 GiB"
    with pytest.raises(InvalidStateError, match="not saved"):
        vm.migrate("memory:///there")
    assert vm.save() is SaveResult.APPLIED
    with pytest.raises(UnsupportedError, match="starts with memory"):
        vm.migrate("qemu+ssh://host/system")
    told: list[tuple[int, int]] = []
    moved = vm.migrate("memory:///there", progress=lambda *now: told.append(now))
    assert told == [(2 * GiB * 1024, 2 * GiB * 1024)]
    assert (moved.name, moved.uuid, moved.state, moved.memory) == ("web", vm.uuid, State.RUNNING, 2 * GiB)
    assert moved.autostart
    assert hypervisor.vms() == []
    with pytest.raises(VMNotFoundError, match="was moved to memory:///there"):
        vm.stop()
    again = named(hypervisor)
    again.start()
    with pytest.raises(VMExistsError):
        again.migrate("memory:///there")
    assert again.state is State.RUNNING
    moved.destroy(force=True)


def test_suspended_in_memory(hypervisor: Hypervisor) -> None:
    vm = named(hypervisor)
    vm.start()
    vm.suspend()
    assert hypervisor.stats() == []
    vm.memory = "3 GiB"
    assert vm.save() is SaveResult.NEXT_START
    vm.destroy()
    assert hypervisor.vms() == []


def test_live_in_memory(hypervisor: Hypervisor) -> None:
    vm = named(hypervisor)
    vm.start()
    vm.cpus = 4
    assert vm.save() is SaveResult.APPLIED
    vm.cpus = 2
    vm.set("headless", True)
    assert vm.save() is SaveResult.NEXT_START


@pytest.mark.parametrize(
    ("uri", "folder"),
    [
        ("qemu:///system", "/var/lib/libvirt/qemu/save"),
        ("qemu:///session", "/config/libvirt/qemu/save"),
        ("qemu:///system?socket=/x", None),
        ("qemu+ssh://b/system", None),
        ("qemu:///embed?root=/r", None),
    ],
)
def test_where_memory_is_kept(uri: str, folder: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", "/config")
    assert KvmHypervisor(URI.parse(uri), SimpleNamespace()).saved_memory_folder() == folder  # type: ignore[arg-type]
