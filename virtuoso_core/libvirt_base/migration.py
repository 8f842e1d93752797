"""Moving a running VM to another host: what would stand in the way, its disks, and the move itself."""

from __future__ import annotations

import logging
import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

from .. import storage
from ..backend import name_taken
from ..errors import HypervisorError, ImageExistsError, InvalidStateError, VirtuosoError, VMNotFoundError
from ..facts import Progress
from ..unfinished import undertaking
from ..xml import Disk, DomainDocument
from .binding import libvirt
from .errors import is_code
from .jobs import run_job

if TYPE_CHECKING:
    from ..hypervisor import Hypervisor
    from ..storage import Storage
    from .domain import LibvirtDomain
    from .hypervisor import LibvirtHypervisor

_FLAGS = ("LIVE", "AUTO_CONVERGE", "ABORT_ON_ERROR")
"""A guest that writes faster than the network carries is slowed down until it can be moved at all."""
_PERSISTENT = ("PERSIST_DEST", "UNDEFINE_SOURCE")

_log = logging.getLogger(__name__)


def migrate(vm: LibvirtDomain, target: Hypervisor, copy_disks: bool, progress: Progress | None) -> None:
    """What ``VMBackend._migrate`` promises: look for what stands in the way, make the disks there, move."""
    from .hypervisor import LibvirtHypervisor

    assert isinstance(target, LibvirtHypervisor)
    running = DomainDocument(vm._call("look at", vm._domain.XMLDesc, 0))
    _check_hosts(vm, target)
    _check_free(vm, target)
    _check_machine(vm, target, running)
    _check_ties(vm, target, running)
    autostart = bool(vm._call("look at", vm._domain.autostart))
    written = [disk for disk in _with_files(running) if not disk.readonly and not disk.shareable]
    read = sorted(_files(running) - {disk.path or "" for disk in written})
    if copy_disks:
        late = _move_with_disks(vm, target, written, read, progress)
    else:
        late = _move(vm, target, shared=_check_seen(vm, target, written, read), progress=progress)
    if autostart:
        _let_autostart(vm, target)
    if late is not None:
        raise late


# What would stand in the way.


def _refuse(vm: LibvirtDomain, target: LibvirtHypervisor, why: str, hint: str = "") -> InvalidStateError:
    return InvalidStateError(
        f"The VM {vm.name!r} on {vm.hypervisor.uri} cannot move to {target.uri}: {why}. It runs on where it is.",
        hint=hint,
        **vm._where,
    )


def _check_hosts(vm: LibvirtDomain, target: LibvirtHypervisor) -> None:
    here, there = (each.capabilities().root.findtext("host/uuid") for each in (vm._hypervisor, target))
    if here and here == there:
        raise _refuse(
            vm,
            target,
            "that is the host it is on",
            "Two hosts that say they are one have the same host_uuid in /etc/libvirt/libvirtd.conf.",
        )


def _check_free(vm: LibvirtDomain, target: LibvirtHypervisor) -> None:
    for key in (vm._known_name, vm.uuid):
        try:
            other = target._find_vm(key)
        except VMNotFoundError:
            continue
        raise (
            name_taken(vm._known_name, other)
            if other.name == vm._known_name
            else _refuse(
                vm,
                target,
                f"the VM {other.name!r} there has its UUID",
                f"Remove one of them: {vm.uuid} is to be unique.",
            )
        )


def _check_machine(vm: LibvirtDomain, target: LibvirtHypervisor, running: DomainDocument) -> None:
    kinds = {
        (guest.findtext("os_type"), arch.get("name"), kind.get("type"))
        for guest in target.capabilities().root.iterfind("guest")
        for arch in guest.iterfind("arch")
        for kind in arch.iterfind("domain")
    }
    wanted = (running.os_type, running.arch, running.type)
    if kinds and wanted not in kinds:
        raise _refuse(vm, target, f"there are no VMs of its kind there ({running.type}, {running.arch})")
    if running.cpu_mode == "host-passthrough" and running.type != "qemu":
        own = vm._hypervisor.capabilities()
        cpu = own.root.find("host/cpu")
        if cpu is not None and not _can_compute(target, cpu):
            raise _refuse(
                vm,
                target,
                "its processor is its host's own, and that one has another",
                'Stop it and give it one that both have, vm.set("cpu", "host-model") or a model\'s name.',
            )


def _can_compute(target: LibvirtHypervisor, cpu: Any) -> bool:
    from lxml import etree

    binding = libvirt()
    text = etree.tostring(cpu, encoding="unicode")
    try:
        found = target.connection.call("compare the processors", target.connection.native.compareCPU, text, 0)
    except VirtuosoError:
        return True  # it does not tell: the move itself will
    return bool(found != binding.VIR_CPU_COMPARE_INCOMPATIBLE)


def _check_ties(vm: LibvirtDomain, target: LibvirtHypervisor, running: DomainDocument) -> None:
    """Whatever of the VM belongs to its host, or lacks something there."""
    devices = sorted({element.get("type", "") for element in running.root.iterfind("devices/hostdev")})
    if devices:
        raise _refuse(vm, target, f"it has devices of its host ({', '.join(devices)})", "Take them away first.")
    if running.root.find("devices/filesystem") is not None:
        raise _refuse(vm, target, "it shares folders with its host", "Take them away first.")
    snapshots = vm._call("look at the snapshots of", vm._domain.snapshotNum, 0)
    if snapshots:
        raise _refuse(
            vm,
            target,
            f"it has {snapshots} snapshot{'s' if snapshots > 1 else ''}, which would stay behind",
            "Drop them first: vm.delete_snapshot(name).",
        )
    for card in running.interfaces:
        if card.type == "network" and card.source_network:
            target.host_networks.require_active(card.source_network, None, start=False, vm=vm.name)


# Its files.


def _with_files(running: DomainDocument) -> list[Disk]:
    """The disks that are files or devices of a host: what is on the network both hosts reach."""
    return [disk for disk in running.disks if disk.type in ("file", "block") and disk.path]


def _files(running: DomainDocument) -> set[str]:
    """Every file that QEMU has open or opens there: disks with what is below them, CD-ROMs, a kernel."""
    found = {disk.path or "" for disk in _with_files(running)}
    for disk in _with_files(running):
        if disk.readonly or disk.shareable:
            found |= _below(disk)
    return found | {path for path in (running.kernel, running.initrd) if path}


def _below(disk: Disk) -> set[str]:
    """The images that an overlay is based on, as QEMU has opened them."""
    return {
        path
        for source in disk.element.iterfind(".//backingStore/source")
        if (path := source.get("file") or source.get("dev"))
    }


def _check_seen(vm: LibvirtDomain, target: LibvirtHypervisor, written: list[Disk], read: list[str]) -> bool:
    """See that the target has every file; return whether those that are written to are proven to be the same files."""
    wanted = {disk.path or "" for disk in written} | set(read)
    for disk in written:
        wanted |= _below(disk)
    with target._storage() as there:
        missing = [path for path in sorted(wanted) if not there.exists(path)]
    if missing:
        raise _refuse(
            vm,
            target,
            f"there is no {', no '.join(missing)} there",
            "Both hosts must see its files at the same paths; or send them along: vm.migrate(target, copy_disks=True).",
        )
    folders = sorted({os.path.dirname(disk.path or "") for disk in written if disk.type == "file"})
    seen = [_is_same_folder(vm._hypervisor, target, folder) for folder in folders]
    for folder, same in zip(folders, seen, strict=True):
        if same is False:
            raise _refuse(
                vm,
                target,
                f"{folder} there is another folder of the same name, with other files",
                "Mount the same storage on both hosts, or remove those files there and use copy_disks=True.",
            )
    return all(seen)


def _is_same_folder(source: LibvirtHypervisor, target: LibvirtHypervisor, folder: str) -> bool | None:
    """Whether what is written here is seen there; None where nothing may be written."""
    marker = os.path.join(folder, f".virtuoso-{os.urandom(8).hex()}")
    try:
        with (
            undertaking(source, f"look whether {folder} is the same on {target.uri}") as step,
            source._storage() as here,
            target._storage() as there,
        ):
            step.part(marker)
            here.write(marker, b"")
            try:
                return there.exists(marker)
            finally:
                here.delete(marker)
    except VirtuosoError as error:
        _log.debug("whether %s is one folder on both hosts cannot be told: %s", folder, error)
        return None


def _move_with_disks(
    vm: LibvirtDomain, target: LibvirtHypervisor, written: list[Disk], read: list[str], progress: Progress | None
) -> BaseException | None:
    for disk in written:
        if disk.type == "block":
            raise _refuse(vm, target, f"its disk {disk.path} is a device, which cannot be made there")
    with target._storage() as there:
        for disk in written:
            if there.exists(disk.path or ""):
                raise ImageExistsError(
                    f"The VM {vm.name!r} was not moved: there is already a file {disk.path} on {target.uri}.",
                    hint="Without copy_disks that file would be used, if both hosts see the same; else remove it.",
                    **vm._where,
                )
        with undertaking(target, f"move the VM {vm.name!r} from {vm.hypervisor.uri}") as step:
            for path in read:
                if not there.exists(path):
                    storage.make(there, step, path, partial(_send, vm, there, path))
            for disk in written:
                path = disk.path or ""
                size, _, _ = vm._call("look at the disks of", vm._domain.blockInfo, disk.target)
                make = partial(_create, there, size, disk.format or "raw")
                storage.make(there, step, path, make)
            return _move(vm, target, copy=True, progress=progress)


def _create(there: Storage, size: int, format: str, path: str) -> None:
    there.create(path, size, format, None)


def _send(vm: LibvirtDomain, there: Storage, path: str, target: str) -> None:
    """A file that is only read, by way of this machine."""
    with tempfile.TemporaryDirectory(prefix="virtuoso-") as folder, vm._hypervisor._storage() as here:
        file = os.path.join(folder, "file")
        here.download(path, file, None)
        there.upload(file, target, None)


# The move.


def _move(
    vm: LibvirtDomain,
    target: LibvirtHypervisor,
    *,
    shared: bool = False,
    copy: bool = False,
    progress: Progress | None,
) -> BaseException | None:
    names = (*_FLAGS, *(_PERSISTENT if vm._call("look at", vm._domain.isPersistent) else ()))
    names += ("NON_SHARED_DISK",) if copy else ()
    params = {}
    if (reached := _reached_as(target)) is not None:
        params[libvirt().VIR_MIGRATE_PARAM_URI] = reached
    with _in_words(vm, target):
        try:
            return _run(vm, target, params, names, progress)
        except VirtuosoError as error:
            # libvirt knows few kinds of shared storage; that this one is, was tried
            if not shared or not is_code(error, "MIGRATE_UNSAFE"):
                raise
        return _run(vm, target, params, (*names, "UNSAFE"), progress)


def _run(
    vm: LibvirtDomain,
    target: LibvirtHypervisor,
    params: dict[str, Any],
    names: tuple[str, ...],
    progress: Progress | None,
) -> BaseException | None:
    flags = 0
    for name in names:
        flags |= getattr(libvirt(), f"VIR_MIGRATE_{name}")
    return run_job(vm, "move", vm._domain.migrate3, target.connection.native, params, flags, progress=progress)


def _reached_as(target: LibvirtHypervisor) -> str | None:
    """Where the VM's host sends it: the name in the target's URI, unless only ssh knows that one."""
    host = target.uri.host
    if host is None:
        return None
    try:
        socket.getaddrinfo(host, None)
    except OSError:
        return None
    return f"tcp://[{host}]" if ":" in host else f"tcp://{host}"


@contextmanager
def _in_words(vm: LibvirtDomain, target: LibvirtHypervisor) -> Iterator[None]:
    try:
        yield
    except VirtuosoError as error:
        said = str(error.__cause__ or error).strip().rstrip(".")
        if is_code(error, "MIGRATE_UNSAFE"):
            raise _refuse(
                vm,
                target,
                f"nothing tells that both hosts see the same disks ({said})",
                "Send them along: vm.migrate(target, copy_disks=True).",
            ) from error
        if is_code(error, "CPU_INCOMPATIBLE"):
            raise _refuse(
                vm,
                target,
                f"that host cannot be its processor ({said})",
                'Stop it and give it one that both have: vm.set("cpu", "Nehalem") or another model.',
            ) from error
        if type(error) is HypervisorError:
            error.hint = error.hint or (
                f"Its host must reach {_name(target)}, on TCP ports from 49152 on. "
                "QEMU's own words are in /var/log/libvirt/qemu of both hosts."
            )
        raise


def _name(target: LibvirtHypervisor) -> str:
    if target.uri.host is not None:
        return repr(target.uri.host)
    try:
        name: str = target.connection.call("ask for the host's name", target.connection.native.getHostname)
    except VirtuosoError:
        return "the other one"
    return repr(name)


def _let_autostart(vm: LibvirtDomain, target: LibvirtHypervisor) -> None:
    """libvirt leaves that behind."""
    try:
        target._find_vm(vm.uuid)._set_autostart(True)
    except VirtuosoError as error:
        _log.warning("The VM %r was moved, and does not start with its new host: %s", vm.name, error)
