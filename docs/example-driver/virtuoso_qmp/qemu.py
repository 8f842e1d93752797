"""QEMU itself: its command line, its process, its monitor. Trouble is an OSError here, or an ImageError."""

from __future__ import annotations

import asyncio
import json
import os
import re
import select
import signal
import socket
import struct
import subprocess
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

from virtuoso_core import State
from virtuoso_core.errors import ImageUnreadableError
from virtuoso_core.images import check_image, probe_format

from .store import Document

QEMU = "qemu-system-x86_64"
ANSWER, ENDING = 5, 10
"""Seconds that QEMU has to answer, and to end before it is killed."""


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


def command(document: Document, folder: Path) -> list[str]:
    """The words that start a VM. No name is among them; what holds a path is JSON, or has its commas doubled."""
    options, image = document["options"], document["disk_image"]
    accel = options.get("accel") or ("kvm" if kvm_is_usable() else "tcg")
    if accel == "kvm" and not kvm_is_usable():
        raise OSError("it wants KVM, which this machine, or this user, has not")
    words = [QEMU, "-nodefaults", "-no-user-config", "-daemonize", "-pidfile", str(folder / "pid")]
    words += ["-uuid", folder.name, "-machine", "q35", "-accel", accel, "-cpu", "host" if accel == "kvm" else "max"]
    words += ["-smp", str(document["cpus"]), "-m", f"size={document['memory']}k"]
    words += ["-qmp", "unix:qmp.sock,server=on,wait=off"]
    words += ["-vga", "std", "-display", "none" if options.get("headless") else "vnc=unix:vnc.sock"]
    if log := options.get("serial_log"):
        words += ["-chardev", f"file,id=serial,path={log.replace(',', ',,')}", "-serial", "chardev:serial"]
    if image:
        file = {"driver": "host_device" if Path(image).is_block_device() else "file", "filename": image}
        words += ["-blockdev", json.dumps({"driver": document["disk_format"], "node-name": "disk", "file": file})]
        words += ["-device", "virtio-blk-pci,drive=disk"]
    for card in document["networks"]:
        words += ["-nic", f"user,model=virtio-net-pci,mac={card['mac_address']}"]
    return words


def start(folder: Path, document: Document) -> None:
    """Return when the guest runs, in a process that survives this one and makes its sockets in the folder."""
    words, nothing = command(document, folder), subprocess.DEVNULL
    done = subprocess.run(words, cwd=folder, stdin=nothing, capture_output=True, timeout=60, check=False)
    if done.returncode:
        raise OSError(" ".join(done.stderr.decode(errors="replace").split()) or f"{QEMU} ended: {done.returncode}")


def state(folder: Path) -> State:
    """What the process tells. QEMU removes its pid file when it ends in order; while it starts the file is empty."""
    if _pid(folder) is not None:
        return State.RUNNING
    with suppress(FileNotFoundError):
        return State.CRASHED if (folder / "pid").read_text() else State.STOPPED
    return State.STOPPED


def kill(folder: Path) -> None:
    """End the process: QEMU writes its disks out on SIGTERM; one that hangs is killed."""
    if (pid := _pid(folder)) is not None:
        with suppress(ProcessLookupError), open(os.pidfd_open(pid), "rb", buffering=0) as process:
            if _pid(folder) == pid:  # still: so this handle is QEMU's, and unlike the number stays so
                end = select.poll()
                end.register(process)
                for number in (signal.SIGTERM, signal.SIGKILL):
                    signal.pidfd_send_signal(process.fileno(), number)
                    end.poll(ENDING * 1000)
    if _pid(folder) is not None:
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
    with ExitStack() as stack:
        here = os.open(folder, os.O_RDONLY)  # the path of a socket has 107 bytes at most, the folder's may have more
        stack.callback(os.close, here)
        monitor = stack.enter_context(socket.socket(socket.AF_UNIX))
        # QEMU serves one client at a time: this waits for its turn, within bounds, as asyncio's connecting cannot
        monitor.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", ANSWER, 0))
        monitor.connect(f"/proc/self/fd/{here}/qmp.sock")
        try:
            async with asyncio.timeout(ANSWER):
                await client.connect(monitor)
                return await client.execute(command, arguments)
        except (QMPError, EOFError) as error:
            raise OSError(f"QEMU answers: {error}") from error
        finally:
            with suppress(QMPError, EOFError, OSError):  # QEMU may be gone
                await client.disconnect()
