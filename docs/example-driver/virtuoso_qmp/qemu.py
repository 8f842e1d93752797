"""QEMU itself: its command line, its process, its monitor. Trouble is an OSError here, or an ImageError."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from virtuoso_core.errors import ImageUnreadableError
from virtuoso_core.images import check_image, probe_format

from .store import Document

QEMU = "qemu-system-x86_64"
QEMU_IMG = "qemu-img"
ANSWER = 5
"""Seconds that QEMU has to answer."""
ENDING = 10
"""Seconds that QEMU has to end, before it is killed."""


def version() -> tuple[int, ...]:
    """QEMU's, such as (7, 2, 9)."""
    said = subprocess.run([QEMU, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
    return tuple(map(int, re.findall(r"\d+", said)[:3]))


def kvm_is_usable() -> bool:
    """Whether the processor can virtualize and this user may let it: QEMU does not look, it crashes."""
    flags = Path("/proc/cpuinfo").read_text().partition("\nflags")[2].partition("\n")[0].split()
    return not {"vmx", "svm"}.isdisjoint(flags) and os.access("/dev/kvm", os.R_OK | os.W_OK)


def image_format(path: str) -> str:
    """What the image's content says; the ending of its name proves nothing."""
    check_image(path)
    if not os.access(path, os.R_OK | os.W_OK):
        raise ImageUnreadableError(f"You may not read and write the disk image {path}.", hint=f"See: ls -l '{path}'")
    return probe_format(path)


def command(document: Document, folder: Path, here: str) -> list[str]:
    """The words that start a VM. No name is among them; what holds a path is JSON, or has its commas doubled."""
    options, image = document["options"], document["disk_image"]
    accel = options.get("accel") or ("kvm" if kvm_is_usable() else "tcg")
    if accel == "kvm" and not kvm_is_usable():
        raise OSError("it wants KVM, which this machine, or this user, has not")
    words = [QEMU, "-nodefaults", "-no-user-config", "-daemonize", "-pidfile", str(folder / "pid")]
    words += ["-uuid", folder.name, "-machine", "q35", "-accel", accel, "-cpu", "host" if accel == "kvm" else "max"]
    words += ["-smp", str(document["cpus"]), "-m", f"size={document['memory']}k"]
    words += ["-qmp", f"unix:{here}/qmp.sock,server=on,wait=off", "-vga", "std"]
    words += ["-display", "none" if options.get("headless") else f"vnc=unix:{here}/vnc.sock"]
    if log := options.get("serial_log"):
        words += ["-chardev", f"file,id=serial,path={log.replace(',', ',,')}", "-serial", "chardev:serial"]
    if image:
        file = {"driver": "host_device" if Path(image).is_block_device() else "file", "filename": image}
        words += ["-blockdev", json.dumps({"driver": document["disk_format"], "node-name": "disk", "file": file})]
        words += ["-device", "virtio-blk-pci,drive=disk"]
    for number, card in enumerate(document["networks"]):
        words += ["-netdev", f"user,id=net{number}"]
        words += ["-device", f"virtio-net-pci,netdev=net{number},mac={card['mac_address']}"]
    return words


def start(folder: Path, document: Document) -> None:
    """Return when the guest runs, in a process that survives this one."""
    with _short(folder) as (here, handle):
        words, nothing = command(document, folder, here), subprocess.DEVNULL
        done = subprocess.run(words, pass_fds=[handle], stdin=nothing, capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise OSError(" ".join(done.stderr.decode(errors="replace").split()) or f"{QEMU} ended: {done.returncode}")


@contextmanager
def _short(folder: Path) -> Iterator[tuple[str, int]]:
    """The folder as /proc/self/fd/N: the path of a socket has 107 bytes at most, the folder's own may have more."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield f"/proc/self/fd/{handle}", handle
    finally:
        os.close(handle)


def left_pid(folder: Path) -> bool:
    """Whether QEMU did not remove its pid file, as it does when it ends in order; a moment ago it was yet empty."""
    with suppress(FileNotFoundError):
        return bool((folder / "pid").read_text())
    return False


def is_running(folder: Path) -> bool:
    """Whether the VM's process is there."""
    return _pid(folder) is not None


def kill(folder: Path) -> None:
    """End the process: QEMU writes its disks out on SIGTERM; one that hangs is killed."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            if (pid := _pid(folder)) is None:
                break
            process = os.pidfd_open(pid)
            try:
                if _pid(folder) == pid:  # still: so this handle is QEMU's, and unlike the number stays so
                    signal.pidfd_send_signal(process, number)
            finally:
                os.close(process)
        end = time.monotonic() + ENDING
        while is_running(folder) and time.monotonic() < end:
            time.sleep(0.02)
    if is_running(folder):
        raise TimeoutError("its process does not end")
    (folder / "pid").unlink(missing_ok=True)


def _pid(folder: Path) -> int | None:
    """The number in the pid file, if that process is this VM's: numbers are used again."""
    with suppress(FileNotFoundError, ProcessLookupError, ValueError):
        pid = int((folder / "pid").read_text())
        if os.fsencode(folder / "pid") in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"):
            return pid
    return None


def execute(folder: Path, command: str, arguments: dict[str, Any]) -> Any:
    """Ask QEMU's monitor, in a thread of its own: the program may have an event loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(_execute(folder, command, arguments))).result()


async def _execute(folder: Path, command: str, arguments: dict[str, Any]) -> Any:
    from qemu.qmp import QMPClient, QMPError

    client = QMPClient()
    with _short(folder) as (here, _), socket.socket(socket.AF_UNIX) as monitor:
        # QEMU serves one client at a time: this waits for its turn, within bounds, as asyncio's connecting cannot
        monitor.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", ANSWER, 0))
        monitor.connect(f"{here}/qmp.sock")
        try:
            async with asyncio.timeout(ANSWER):
                await client.connect(monitor)
                return await client.execute(command, arguments)
        except (QMPError, EOFError) as error:
            raise OSError(f"QEMU answers: {error}") from error
        finally:
            with suppress(QMPError, EOFError, OSError):  # QEMU may be gone
                await client.disconnect()
