"""images.py ACT URI DIRECTORY [FILE]: acts on disk images, for hosts reached by a command only.

Prints one JSON document of what was seen. Acts: life, full, slow.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from virtuoso_core import Hypervisor, VirtuosoError, connect


def error_of(act: Callable[[], object]) -> str:
    """What kind of error it is, and what it says."""
    try:
        act()
    except VirtuosoError as error:
        return f"{type(error).__name__}: {error}"
    return ""


def life(hypervisor: Hypervisor, there: str, guest: str) -> dict[str, object]:
    """A guest's image goes there, an overlay of it boots, grows while it runs, comes back, and all is deleted."""
    told: list[tuple[int, int]] = []
    base, overlay, copy, back = (f"{there}/{name}" for name in ("base.qcow2", "web.qcow2", "copy.qcow2", "back.qcow2"))
    back = f"{os.environ['BACK']}/back.qcow2"
    hypervisor.upload(guest, base, progress=lambda done, total: told.append((done, total)))
    info = hypervisor.create_disk(overlay, "3 GiB", backing=base)
    seen: dict[str, object] = {"told": [len(told), told[-1]], "overlay": [info.format, info.size, info.backing]}
    seen["again"] = error_of(lambda: hypervisor.upload(guest, base))
    vm = hypervisor.new_vm()
    vm.name, vm.memory, vm.disk_image = "web", "256 MiB", overlay
    vm.network("nat")
    vm.save()
    seen["format"] = vm.options["disk_format"]
    vm.start()
    seen["used"] = error_of(lambda: hypervisor.delete_disk(base))
    golden = hypervisor.new_vm()
    golden.name, golden.disk_image = "golden", base
    golden.save()
    seen["golden"] = error_of(golden.start)
    end = time.monotonic() + 90
    while not (addresses := vm.addresses()) and time.monotonic() < end:
        time.sleep(0.2)
    seen["booted"] = bool(addresses)
    seen["grown"] = [vm.resize_disk(overlay, "+1 GiB"), vm.native.blockInfo(overlay)[0]]
    seen["shrunk"] = error_of(lambda: vm.resize_disk(overlay, "3 GiB", shrink=True))
    vm.stop(timeout=0)
    seen["off"] = [vm.resize_disk(overlay, "5 GiB"), vm.resize_disk(overlay, "4 GiB", shrink=True)]
    hypervisor._storage().copy(overlay, copy, lambda done, total: told.append((done, total)))
    seen["copy"] = [hypervisor.disk_info(copy).backing, told[-1][0] == told[-1][1]]
    hypervisor.download(base, back)
    seen["back"] = Path(back).read_bytes() == Path(guest).read_bytes()
    Path(back).unlink()
    hypervisor._storage().write(f"{there}/seed.iso", b"secret")
    hypervisor.delete_disk(f"{there}/seed.iso")
    hypervisor.delete_disk(copy)
    vm.destroy(delete_disk=True)
    golden.destroy(delete_disk=True)
    seen["left"] = [hypervisor._storage().exists(path) for path in (base, overlay, copy)]
    seen["missing"] = error_of(lambda: hypervisor.disk_info(base))
    seen["nowhere"] = error_of(lambda: hypervisor.create_disk(f"{there}/none/a.qcow2", "1 GiB"))
    return seen


def full(hypervisor: Hypervisor, there: str, source: str) -> dict[str, object]:
    """A file system with 4 MiB, and a source of 6: each way to fill it."""
    store = hypervisor._storage()
    seen: dict[str, object] = {"known": error_of(lambda: hypervisor.upload(source, f"{there}/a.img"))}
    Path(f"{source}.raw").write_bytes(os.urandom(3 * 1024 * 1024))
    hypervisor.upload(f"{source}.raw", f"{there}/first.img")
    if not hypervisor.uri.host:
        store.create(f"{os.path.dirname(source)}/full-source.img", 8 << 20, "raw", None)
        seen["copied"] = error_of(lambda: store.copy(source, f"{there}/copy.img", None))
        hypervisor.delete_disk(f"{os.path.dirname(source)}/full-source.img")
    Path(f"{source}.raw").write_bytes(os.urandom(1024 * 1024 - 8192))
    hypervisor.upload(f"{source}.raw", f"{there}/second.img")
    seen["made"] = error_of(lambda: hypervisor.create_disk(f"{there}/b.qcow2", "1 GiB"))
    seen["written"] = error_of(lambda: store.write(f"{there}/seed", os.urandom(65536)))
    return seen


def slow(hypervisor: Hypervisor, there: str, source: str) -> dict[str, object]:
    """An upload that lasts until it is interrupted."""

    def wait(done: int, total: int) -> None:
        print(done, flush=True)
        time.sleep(30)

    hypervisor.upload(source, f"{there}/slow.img", progress=wait)
    return {}


def main() -> None:
    act, uri, *words = sys.argv[1:]
    with connect(uri) as hypervisor:
        print(json.dumps({"life": life, "full": full, "slow": slow}[act](hypervisor, *words)))


main()
