"""Plain frozen data that hypervisors tell: of VMs (VMSummary, Stats), guests (Address), disks, screens, snapshots."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime

from .spec import State

Progress = Callable[[int, int], None]
"""Called during a long step with the bytes done and the bytes in all."""


@dataclass(frozen=True, slots=True)
class VMSummary:
    """One line of a list of VMs, as ``hypervisor.summaries()`` gives it: a snapshot, not live."""

    name: str
    uuid: str
    state: State
    memory: int
    cpus: int


@dataclass(frozen=True, slots=True)
class Address:
    """An IP address that a guest has.

    Attributes:
        ip: the address, such as "192.168.122.57" or "fe80::1".
        mac_address: of the card that has it, or None where the source does not tell.
        source: who says so, such as "lease", "agent" or "arp".
    """

    ip: str
    mac_address: str | None
    source: str


@dataclass(frozen=True, slots=True)
class AddressReport:
    """What one source answered when it was asked for a guest's addresses.

    Attributes:
        source: "lease", "agent", "arp" ...
        addresses: what it knows.
        said: why it knows none, in words; "" when there is no more to say.
        hint: what to do for it to know one, a sentence; "" when there is nothing to advise.
    """

    source: str
    addresses: tuple[Address, ...] = ()
    said: str = ""
    hint: str = ""


@dataclass(frozen=True, slots=True)
class DiskInfo:
    """What is known of a disk image.

    Attributes:
        path: on the hypervisor's host.
        format: such as "qcow2" or "raw".
        size: what the guest sees, in bytes.
        allocated: what it takes on the host, in bytes; None where that is not told.
        backing: the image that it is a thin overlay of, or None.
    """

    path: str
    format: str
    size: int
    allocated: int | None = None
    backing: str | None = None


@dataclass(frozen=True, slots=True)
class Display:
    """Where a VM's screen can be seen.

    Attributes:
        protocol: "vnc", "spice" or "rdp".
        host: the address that listens; on the hypervisor's host where it is a loopback address.
        port: None for a socket.
        socket: the path of a Unix socket, or None.
        password: whether it asks for one.
    """

    protocol: str
    host: str
    port: int | None
    socket: str | None = None
    password: bool = False

    def __str__(self) -> str:
        if self.socket is not None:
            return f"{self.protocol}+unix://{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.protocol}://{host}:{self.port}"


class Screenshot(bytes):
    """The bytes of a PNG file; Jupyter shows them as the picture."""

    def _repr_png_(self) -> bytes:
        return bytes(self)


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a command inside a guest did.

    Attributes:
        exit_code: 128 plus the signal's number, where a signal ended it.
        stdout, stderr: what it printed.
    """

    exit_code: int
    stdout: bytes
    stderr: bytes

    @property
    def text(self) -> str:
        """``stdout`` as text.

        Example:
            >>> RunResult(0, b"Linux\\n", b"").text
            'Linux\\n'
        """
        return self.stdout.decode(errors="replace")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state that a VM can go back to.

    Attributes:
        name: unique in its VM.
        created: when, in UTC; None where that is not told.
        state: the VM's state then; RUNNING or PAUSED where its memory was kept too.
        current: whether the VM goes on from it.
        parent: the name of the snapshot before, or None.
        description: what whoever took it wrote.
    """

    name: str
    created: datetime | None
    state: State
    current: bool = False
    parent: str | None = None
    description: str = ""


@dataclass(frozen=True, slots=True)
class Stats:
    """What a running VM uses. Counters count from its start; two looks and the time between them give rates.

    Attributes:
        name, uuid: the VM's.
        time: when this was so, in seconds since the epoch.
        cpus: how many virtual CPUs it has.
        cpu_time: seconds of processor time that it used; None where that is not told.
        memory: KiB that it has now.
        memory_used: KiB that its guest uses, or None where nobody in the guest tells.
        disk_read, disk_written, net_received, net_sent: bytes; None where that is not told.
    """

    name: str
    uuid: str
    time: float
    cpus: int
    cpu_time: float | None
    memory: int
    memory_used: int | None = None
    disk_read: int | None = None
    disk_written: int | None = None
    net_received: int | None = None
    net_sent: int | None = None
