"""The commands about disk images and the disks of VMs: `virtuoso disk ...`."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..facts import DiskInfo
from ..spec import SaveResult, format_size
from ..unfinished import undertaking
from . import parameters
from .acting import summary
from .app import Command, Group, settings, show_commands
from .completion import complete_disk, complete_vm
from .output import confirm, say, say_json, say_table
from .progress import counting, waiting

if TYPE_CHECKING:
    from ..vm import VM

_vm = click.argument("name", metavar="VM", shell_complete=complete_vm)
_disk = click.argument("path", shell_complete=complete_disk)


@click.group(cls=Group, invoke_without_command=True)
@click.pass_context
def disk(context: click.Context) -> None:
    """Make disk images, and give them to VMs.

    Paths are those of the hypervisor's host, also where it is another machine. Sizes have a unit, such as 20GiB.

    \b
    virtuoso disk create /images/data.qcow2 20GiB
    virtuoso disk add web /images/data.qcow2
    """
    show_commands(context)


@disk.command(cls=Command)
@click.argument("path", type=click.Path())
@click.argument("size", required=False)
@click.option("--backing", metavar="IMAGE", type=click.Path(), help="Make it a thin overlay of this image.")
@click.option("--format", "format_", metavar="FORMAT", help="Such as qcow2 or raw; what suits the hypervisor.")
def create(path: str, size: str | None, backing: str | None, format_: str | None) -> None:
    """Make a disk image: an empty one, or a thin overlay of another.

    \b
    virtuoso disk create /images/data.qcow2 20GiB
    virtuoso disk create /images/web.qcow2 --backing /images/debian.qcow2
    """
    size = parameters.disk_size(size)
    with settings().connect() as hypervisor, waiting(f"Making {path}"):
        info = hypervisor.create_disk(path, size, backing=backing, format=format_)
    _say_info("Made", info)


@disk.command("show", cls=Command)
@click.argument("path", type=click.Path())
def show_disk(path: str) -> None:
    """Show a disk image's format, size and backing image.

    \b
    virtuoso disk show /images/web.qcow2
    """
    with settings().connect() as hypervisor:
        info = hypervisor.disk_info(path)
    if settings().json:
        say_json(asdict(info))
        return
    rows: list[tuple[object, object]] = [
        ("Path", info.path),
        ("Format", info.format),
        ("Size", format_size(info.size)),
        ("Allocated", "not told" if info.allocated is None else format_size(info.allocated)),
        ("Based on", info.backing or "nothing"),
    ]
    say_table(("", ""), rows)


@disk.command(cls=Command)
@click.argument("path", type=click.Path())
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def delete(path: str, yes: bool) -> None:
    """Delete a disk image that no VM has and no overlay is based on.

    \b
    virtuoso disk delete /images/data.qcow2
    """
    if not yes:
        confirm(f"Delete {path} for good?")
    with settings().connect() as hypervisor:
        hypervisor.delete_disk(path)
    if settings().json:
        say_json({"path": path, "deleted": True})
    else:
        say(f"Deleted {path}.")


@disk.command(cls=Command, short_help="Bring an image from here to the host.")
@click.argument("source", type=click.Path())
@click.argument("path", type=click.Path())
def upload(source: str, path: str) -> None:
    """Bring a disk image or ISO file from this machine to the hypervisor's host.

    \b
    virtuoso -c qemu+ssh://host/system disk upload debian.qcow2 /images/debian.qcow2
    """
    with settings().connect() as hypervisor, counting(f"Uploading {source}") as progress:
        info = hypervisor.upload(source, path, progress=progress)
    _say_info("Uploaded", info)


@disk.command(cls=Command, short_help="Fetch an image from the host.")
@click.argument("path", type=click.Path())
@click.argument("target", type=click.Path())
def download(path: str, target: str) -> None:
    """Fetch a disk image from the hypervisor's host to this machine.

    \b
    virtuoso -c qemu+ssh://host/system disk download /images/web.qcow2 web.qcow2
    """
    with settings().connect() as hypervisor, counting(f"Downloading {path}") as progress:
        hypervisor.download(path, target, progress=progress)
    if settings().json:
        say_json({"path": path, "target": target})
    else:
        say(f"Downloaded {path} to {target}.")


@disk.command("list", cls=Command)
@_vm
def list_disks(name: str) -> None:
    """List the disks of a VM, the main one first.

    \b
    virtuoso disk list web
    """
    with settings().connect() as hypervisor:
        disks = hypervisor.get(name).disks
    if settings().json:
        say_json(list(disks))
    else:
        for path in disks:
            say(path)


@disk.command(cls=Command)
@_vm
@click.argument("path", type=click.Path())
@click.option("--size", metavar="SIZE", help="Make the image first, that large.")
def add(name: str, path: str, size: str | None) -> None:
    """Give a VM a further disk.

    \b
    virtuoso disk add web /images/data.qcow2 --size 20GiB
    """
    size = parameters.disk_size(size)
    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        with (
            waiting(f"Giving {vm.name} the disk {path}"),
            undertaking(hypervisor, f"give the VM {vm.name!r} the disk {path}") as step,
        ):
            added = vm.add_disk(path, size)
            if size is not None:
                step.file(added)
            result = vm.save()
        later = f"{vm.name} has {added} from its next start: it runs, and was not given it now."
        _say_saved(vm, result, f"{vm.name} has {added}.", later)


@disk.command(cls=Command)
@_vm
@_disk
def remove(name: str, path: str) -> None:
    """Take a disk away from a VM; the image stays.

    \b
    virtuoso disk remove web /images/data.qcow2
    """
    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        vm.remove_disk(path)
        with waiting(f"Taking {path} away from {vm.name}"):
            result = vm.save()
        later = f"{vm.name} is without {path} from its next start: it runs, and did not let go of it now."
        _say_saved(vm, result, f"{vm.name} is without {path}.", later, " The image is still there.")


@disk.command(cls=Command)
@_vm
@_disk
@click.argument("size")
@click.option("--shrink", is_flag=True, help="Allow a smaller size: what the guest has beyond it is cut off.")
def resize(name: str, path: str, size: str, shrink: bool) -> None:
    """Make a disk of a VM larger, now; +10GiB adds.

    \b
    virtuoso disk resize web /images/web.qcow2 40GiB
    virtuoso disk resize web /images/web.qcow2 +10GiB
    """
    wanted = parameters.disk_size(size)
    with settings().connect() as hypervisor:
        vm = hypervisor.get(name)
        now = vm.resize_disk(path, wanted, shrink=shrink)
    if settings().json:
        say_json({"path": path, "size": now})
    else:
        say(f"{path} has {format_size(now)}. The guest's own partitions and file systems are as they were.")


def _say_saved(vm: VM, result: SaveResult, now: str, later: str, more: str = "") -> None:
    if settings().json:
        say_json(summary(vm) | {"result": result, "disks": list(vm.disks)})
    else:
        say((later if result is SaveResult.NEXT_START else now) + more)


def _say_info(done: str, info: DiskInfo) -> None:
    if settings().json:
        say_json(asdict(info))
    else:
        based = f", based on {info.backing}" if info.backing else ""
        say(f"{done} {info.path}: {info.format}, {format_size(info.size)}{based}.")
