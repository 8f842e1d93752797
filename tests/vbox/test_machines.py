"""A machine's life on a real VirtualBox, with what other programs do to it meanwhile."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from virtuoso_core import Hypervisor, State, connect
from virtuoso_core.errors import (
    HypervisorError,
    ImageError,
    ImageFormatError,
    ImageNotFoundError,
    InvalidNetworkError,
    InvalidOptionError,
    InvalidStateError,
    InvalidValueError,
    NetworkNotFoundError,
    NotAppliedError,
    UnsupportedError,
    VirtuosoError,
    VMExistsError,
    VMNotFoundError,
)
from virtuoso_core.vm import VM
from virtuoso_vbox.settings import parse_info

Manage = Callable[..., str]
ODD_NAMES = [
    "with 'single' and \"double\"",
    "$HOME `id` \\ ; | & <x> %PATH% *",
    "-dash",
    "--help",
    "漢字 🐧 é",
    "  spaces  ",
    'name="x"',
]


def _saved(hypervisor: Hypervisor, name: str, **fields: Any) -> VM:
    vm = hypervisor.new_vm()
    vm.name = name
    for field, value in fields.items():
        setattr(vm, field, value)
    vm.save()
    return vm


def _info(manage: Manage, vm: VM) -> dict[str, str]:
    return parse_info(manage("showvminfo", vm.uuid, "--machinereadable"))


def test_who_answers(hypervisor: Hypervisor) -> None:
    """The version and the way."""
    assert hypervisor.version.startswith("VirtualBox 7.")
    assert hypervisor.version.endswith("by VBoxManage")


def test_nothing_there(hypervisor: Hypervisor, manage: Manage) -> None:
    """An empty list is one."""
    if manage("list", "vms"):
        pytest.skip("there are machines")
    assert (hypervisor.vms(), hypervisor.summaries()) == ([], [])


def test_a_whole_life(hypervisor: Hypervisor, manage: Manage, inside: Callable[..., str], disk_image: str) -> None:
    """From nothing to nothing, with the image left behind and nothing else."""
    vm = hypervisor.new_vm()
    vm.name, vm.memory, vm.cpus, vm.disk_image = "a whole life", "768 MiB", 2, disk_image
    card = vm.network("nat", mac_address="08:00:27:0a:0b:0c")
    vm.set("ostype", "Debian_64")
    vm.save()
    info = _info(manage, vm)
    wanted = {"memory": "768", "cpus": "2", "nic1": "nat", "macaddress1": "0800270A0B0C", "nictype1": "82540EM"}
    wanted |= {"SATA-0-0": disk_image, "acpi": "on", "ioapic": "on", "graphicscontroller": "vmsvga", "nic2": "none"}
    assert {key: info[key] for key in wanted} == wanted
    vm.memory, vm.name = "1 GiB", "another life"
    vm.remove_network(card)
    vm.set("firmware", "uefi")
    vm.save()
    info = _info(manage, vm)
    assert (info["memory"], info["name"], info["nic1"], info["firmware"]) == ("1024", "another life", "none", "EFI")
    folder = info["CfgFile"].rpartition("/")[0]
    vm.destroy()
    assert manage("list", "vms").find("life") == -1
    assert Path(disk_image).stat().st_size > 0
    assert inside("sh", "-c", 'test ! -e "$1" || find "$1" -type f', "sh", folder) == ""
    again = _saved(hypervisor, "a whole life", disk_image=disk_image)
    again.destroy(delete_disk=True)
    assert not Path(disk_image).exists()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names(hypervisor: Hypervisor, manage: Manage, name: str) -> None:
    """Kept to the letter, through making, finding, changing and renaming; VirtualBox itself says so too."""
    vm = _saved(hypervisor, name)
    assert hypervisor.get(name).uuid == vm.uuid
    assert name in [line.name for line in hypervisor.summaries()]
    assert _info(manage, vm)["name"] == name
    vm.name = f"{name} renamed"
    vm.save()
    vm.name = name
    vm.save()
    assert hypervisor.get(name).uuid == vm.uuid
    vm.destroy()
    assert hypervisor.find(name) is None


def test_a_name_whose_folder_is_taken(hypervisor: Hypervisor) -> None:
    """VirtualBox keeps both "a?" and "a*" in the folder "a_"."""
    _saved(hypervisor, "folder?")
    with pytest.raises(HypervisorError, match="choose another name"):
        _saved(hypervisor, "folder*")
    assert hypervisor.find("folder*") is None


def test_names_stay_unique(hypervisor: Hypervisor) -> None:
    """VirtualBox itself lets a machine take another's name."""
    first, second = _saved(hypervisor, "first"), _saved(hypervisor, "second")
    second.name, second.memory = "first", "2 GiB"
    with pytest.raises(VMExistsError, match=first.uuid):
        second.save()
    assert hypervisor.get("second").memory != 2 * 1024 * 1024


# Network cards.


def test_removing_a_card_in_the_middle(hypervisor: Hypervisor, manage: Manage) -> None:
    """The other cards keep their slots, and all that is set there which this library does not know."""
    vm = hypervisor.new_vm()
    vm.name = "cards"
    cards = [vm.network("nat"), vm.network("internal", source="my net"), vm.network("nat", model="virtio")]
    vm.save()
    manage("modifyvm", vm.uuid, "--natpf3", "ssh,tcp,,2222,,22", "--cableconnected1", "off")
    vm.remove_network(cards[1])
    vm.save()
    info = _info(manage, vm)
    assert (info["nic1"], info["nic2"], info["nic3"]) == ("nat", "none", "nat")
    assert (info["cableconnected1"], info["Forwarding(0)"]) == ("off", "ssh,tcp,,2222,,22")
    assert vm.networks == (cards[0], cards[2])
    new = vm.network("host_only")
    vm.save()
    assert vm.networks == (cards[0], cards[2], new)
    assert _info(manage, vm)["nic4"] == "hostonly"


def test_foreign_cards_are_kept(hypervisor: Hypervisor, manage: Manage) -> None:
    """What none of our types describes is "other", and put back by a rollback."""
    vm = _saved(hypervisor, "foreign")
    manage("modifyvm", vm.uuid, "--nic1", "natnetwork", "--nat-network1", "office", "--nic2", "null")
    vm.reload()
    assert [(card.type, card.source) for card in vm.networks] == [("other", "office"), ("other", None)]
    before = vm.spec
    vm.network("nat")
    vm.save()
    assert [card.type for card in vm.networks] == ["other", "other", "nat"]
    vm._undo_update()
    assert hypervisor.get(vm.uuid).spec.splitlines()[:80] == before.splitlines()[:80]
    for card in hypervisor.get(vm.uuid).networks:
        assert card.type == "other"


def test_nine_cards(hypervisor: Hypervisor) -> None:
    """Eight are the limit, except on the other chipset; nothing is left of what was refused."""
    vm = hypervisor.new_vm()
    vm.name = "nine"
    added = [vm.network("nat") for _ in range(9)]
    with pytest.raises(UnsupportedError, match="ich9"):
        vm.save()
    assert hypervisor.find("nine") is None
    vm.set("chipset", "ich9")
    vm.save()
    assert hypervisor.get("nine").networks == tuple(added)


def test_networks_that_are_refused(hypervisor: Hypervisor) -> None:
    """Before anything is made."""
    vm = hypervisor.new_vm()
    with pytest.raises(InvalidNetworkError, match="bridgedifs"):
        vm.network("bridged")
    with pytest.raises(InvalidNetworkError, match="82540EM"):
        vm.network("nat", model="ne2000")


def test_a_start_needs_its_network(hypervisor: Hypervisor) -> None:
    """Named, with what makes it."""
    vm = hypervisor.new_vm()
    vm.name = "needs a network"
    vm.network("host_only")
    vm.save()
    with pytest.raises(NetworkNotFoundError, match="hostonlyif create"):
        vm.start()


# Options.


def test_guest_systems(hypervisor: Hypervisor) -> None:
    """VirtualBox would take any text."""
    vm = _saved(hypervisor, "system")
    assert vm.options["ostype"] == "Linux_64"
    vm.set("ostype", "Debain_64")
    with pytest.raises(InvalidOptionError, match="Debian_64"):
        vm.save()
    vm.set("ostype", "Windows11_64")
    vm.save()
    assert hypervisor.get("system").options["ostype"] == "Windows11_64"


def test_every_field_alone(hypervisor: Hypervisor, manage: Manage) -> None:
    """Changing one leaves every other line as it was."""
    vm = _saved(hypervisor, "alone")
    changes: dict[str, Callable[[], object]] = {
        "memory": lambda: setattr(vm, "memory", "1234 MiB"),
        "cpus": lambda: setattr(vm, "cpus", 3),
        "vram": lambda: vm.set("vram", 33),
        "defaultfrontend": lambda: vm.set("headless", True),
        "chipset": lambda: vm.set("chipset", "ich9"),
    }
    for key, change in changes.items():
        before = _info(manage, vm)
        change()
        vm.save()
        after = _info(manage, vm)
        differing = {name for name in before if before[name] != after.get(name)} - {"VMStateChangeTime"}
        assert differing == {key}


def test_a_description_cannot_pretend(hypervisor: Hypervisor, manage: Manage) -> None:
    """Its lines look like VBoxManage's own."""
    vm = _saved(hypervisor, "described")
    lie = 'x\nmemory=1\nname="liar"\n\nName:            liar\nGroups:          /\nUUID:            x\n"q" \\'
    manage("modifyvm", vm.uuid, "--description", lie)
    found = hypervisor.get("described")
    assert (found.memory, found.name) == (vm.memory, "described")
    assert parse_info(found.spec)["description"] == lie
    line = next(line for line in hypervisor.summaries() if line.uuid == vm.uuid)
    assert (line.name, line.memory) == ("described", vm.memory)


def test_values_that_virtualbox_refuses(hypervisor: Hypervisor) -> None:
    """In its own words, and the machine stays as it was."""
    vm = _saved(hypervisor, "refused")
    before = vm.spec
    vm.cpus, vm.memory, vm.name = 99, "2 GiB", "renamed"
    with pytest.raises(InvalidValueError, match="range"):
        vm.save()
    assert hypervisor.get("refused").spec == before


# Disks.


@pytest.mark.parametrize(("suffix", "format"), [("vdi", "VDI"), ("vmdk", "VMDK"), ("vhd", "VHD")])
def test_formats(hypervisor: Hypervisor, manage: Manage, images: Path, suffix: str, format: str) -> None:
    """Each is taken, exchanged for another, and forgotten afterwards."""
    first, second = images / f"first.{suffix}", images / f"second one.{suffix}"
    for path in (first, second):
        manage("createmedium", "disk", "--filename", str(path), "--format", format, "--size", "8")
        manage("closemedium", "disk", str(path))
    vm = _saved(hypervisor, f"format {suffix}", disk_image=first)
    assert hypervisor.get(vm.uuid).disk_image == str(first)
    vm.disk_image = second
    vm.save()
    assert hypervisor.get(vm.uuid).disk_image == str(second)
    assert str(first) not in manage("list", "hdds")
    vm.destroy()
    assert first.exists()
    assert second.exists()
    assert str(second) not in manage("list", "hdds")


def test_qcow2(hypervisor: Hypervisor, images: Path) -> None:
    """VirtualBox reads it where it holds anything; an empty one of qemu-img's is shorter than it expects."""
    if shutil.which("qemu-img") is None:
        pytest.skip("qemu-img is not installed (Debian: qemu-utils)")
    path = images / "disk.qcow2"
    command = ["qemu-img", "create", "-q", "-f", "qcow2", "-o", "preallocation=metadata", str(path), "16M"]
    subprocess.run(command, check=True, timeout=60)
    assert _saved(hypervisor, "qcow2", disk_image=path).disk_image == str(path)


def test_images_that_are_refused(hypervisor: Hypervisor, images: Path, disk_image: str) -> None:
    """Each in its class, with what to do; nothing is left of the new VM, and an old one stays as it was."""
    raw, junk, copy = images / "raw.img", images / "junk.vdi", images / "copy.vdi"
    raw.write_bytes(bytes(1 << 20))
    junk.write_text("junk")
    shutil.copy(disk_image, copy)
    old = _saved(hypervisor, "old", disk_image=disk_image)
    before = old.spec
    cases: list[tuple[Path, type[VirtuosoError], str]] = [
        (raw, ImageFormatError, "convertfromraw"),
        (junk, ImageFormatError, "vdi, vmdk, vhd and qcow2"),
        (images / "missing.vdi", ImageNotFoundError, "createmedium"),
        (copy, ImageError, "sethduuid"),
    ]
    for path, kind, advice in cases:
        with pytest.raises(kind, match=advice):
            _saved(hypervisor, "new", disk_image=path)
        assert hypervisor.find("new") is None
        old.disk_image, old.memory = path, old.memory + 1024
        with pytest.raises(kind, match=advice):
            old.save()
        assert hypervisor.get("old").spec == before
        old.reload()


def test_the_main_disk_is_no_cd(hypervisor: Hypervisor, manage: Manage, images: Path, disk_image: str) -> None:
    """Drives and other controllers stay where they are; the disk goes to a free place."""
    vm = _saved(hypervisor, "drives")
    cd = images / "a cd.iso"
    cd.write_bytes(bytes(1 << 20))
    odd = 'My "IDE"-0-0'
    manage("storagectl", vm.uuid, "--name", odd, "--add", "ide")
    manage("storageattach", vm.uuid, "--storagectl", odd, "--port", "0", "--device", "0", "--type", "dvddrive",
           "--medium", str(cd))  # fmt: skip
    vm.reload()
    assert vm.disk_image is None
    vm.disk_image = disk_image
    vm.save()
    info = _info(manage, vm)
    assert (info[f"{odd}-0-0"], info[f"{odd}-0-1"]) == (str(cd), disk_image)
    vm.destroy()
    assert cd.exists()


def test_a_second_disk_survives(hypervisor: Hypervisor, manage: Manage, images: Path, disk_image: str) -> None:
    """Destroying deletes neither, whatever VirtualBox would do."""
    vm = _saved(hypervisor, "two disks", disk_image=disk_image)
    second = images / "second.vdi"
    manage("createmedium", "disk", "--filename", str(second), "--size", "8")
    manage("storageattach", vm.uuid, "--storagectl", "SATA", "--port", "1", "--device", "0", "--type", "hdd",
           "--medium", str(second))  # fmt: skip
    vm.reload()
    assert vm.disk_image == disk_image
    vm.destroy()
    assert second.exists()
    assert Path(disk_image).exists()


def test_a_machine_of_virtualboxs_own_windows(
    hypervisor: Hypervisor, manage: Manage, disk_image: str, further_image: str, discs: tuple[str, str]
) -> None:
    """Its controller has two ports, for the disk and a drive; more are opened, and the drive is used."""
    vm = _saved(hypervisor, "by its windows")
    manage("storagectl", vm.uuid, "--name", "SATA", "--add", "sata", "--portcount", "2")
    manage("storageattach", vm.uuid, "--storagectl", "SATA", "--port", "0", "--type", "hdd", "--medium", disk_image)
    manage(
        "storageattach", vm.uuid, "--storagectl", "SATA", "--port", "1", "--type", "dvddrive", "--medium", "emptydrive"
    )
    vm.reload()
    assert (vm.disks, vm.cdrom) == ((disk_image,), None)
    vm.add_disk(further_image)
    vm.cdrom = discs[0]
    vm.save()
    info = _info(manage, vm)
    assert [info[f"SATA-{port}-0"] for port in range(3)] == [disk_image, discs[0], further_image]
    vm.cdrom = None
    vm.save()
    assert _info(manage, vm)["SATA-1-0"] == "emptydrive"
    assert discs[0] not in manage("list", "dvds")
    vm.destroy()
    assert Path(further_image).exists()


def test_discs_that_are_refused(hypervisor: Hypervisor, disk_image: str, images: Path) -> None:
    """The machine stays as it was."""
    vm = _saved(hypervisor, "no disc")
    before = vm.spec
    for path, kind in ((str(images / "missing.iso"), ImageNotFoundError), (disk_image, ImageFormatError)):
        vm.cdrom, vm.memory = path, "2 GiB"
        with pytest.raises(kind, match=path):
            vm.save()
        vm.reload()
        assert vm.spec == before


@pytest.mark.parametrize("at", range(1, 8))
def test_a_destroy_that_fails(hypervisor: Any, disk_image: str, at: int) -> None:
    """The disk is plugged in again, or all is gone."""
    vm = _saved(hypervisor, "fails", disk_image=disk_image)
    before, real, calls = vm.spec, hypervisor.runner.run, 0

    def run(*args: Any, **named: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == at:
            raise HypervisorError("broken on purpose")
        return real(*args, **named)

    hypervisor.runner.run = run
    try:
        vm.destroy()
    except VirtuosoError:
        hypervisor.runner.run = real
        assert hypervisor.get("fails").spec == before
    hypervisor.runner.run = real
    assert Path(disk_image).exists()


# Snapshots and clones.


def test_snapshots(hypervisor: Hypervisor, manage: Manage, disk_image: str) -> None:
    """Memory changes; the disk does not; destroying merges what was written into the image."""
    vm = _saved(hypervisor, "snapshots", disk_image=disk_image)
    for name in ("s1", "s2"):
        manage("snapshot", vm.uuid, "take", name)
    vm.reload()
    assert vm.disk_image == disk_image
    vm.memory += 1024
    vm.save()
    vm.disk_image = None
    with pytest.raises(InvalidStateError, match="snapshots"):
        vm.save()
    vm.reload()
    assert [name for key, name in _info(manage, vm).items() if key.startswith("SnapshotName")] == ["s1", "s2"]
    vm.destroy()
    assert Path(disk_image).exists()
    assert "Snapshots" not in manage("list", "hdds")


def test_snapshots_that_branch(hypervisor: Hypervisor, manage: Manage, disk_image: str) -> None:
    """One from which two go on stays, and says why; destroying keeps the image as the machine has it now."""
    vm = _saved(hypervisor, "branches", disk_image=disk_image)
    for name in ("s1", "s2"):
        vm.snapshot(name)
    vm.revert("s1")
    with pytest.raises(UnsupportedError, match=r"'s1' .* stays: 's2' and the VM go on from it"):
        vm.delete_snapshot("s1")
    vm.snapshot("s3")
    with pytest.raises(UnsupportedError, match=r"'s1' .* stays: 's2' and 's3' go on from it"):
        vm.delete_snapshot("s1")
    assert [(each.name, each.parent, each.current) for each in vm.snapshots] == [
        ("s1", None, False),
        ("s2", "s1", False),
        ("s3", "s1", True),
    ]
    vm.revert("s2")
    vm.destroy()
    assert Path(disk_image).exists()
    assert "Snapshots" not in manage("list", "hdds")
    assert _saved(hypervisor, "branches", disk_image=disk_image).disk_image == disk_image


def test_odd_snapshots(hypervisor: Hypervisor, manage: Manage) -> None:
    """Names and descriptions that look like options or VBoxManage's lines; a name that another program gave twice."""
    vm = _saved(hypervisor, "odd snapshots")
    lie = 'x"; CurrentSnapshotUUID="y'
    for name in ("-dash", "--description=x", 'q"uo\\te', "漢字 &amp; <x>"):
        assert vm.snapshot(name, lie).description == lie
    manage("snapshot", vm.uuid, "take", "-dash", "--description", "two\nlines")
    *others, last = vm.snapshots
    assert [each.name for each in others] == ["-dash", "--description=x", 'q"uo\\te', "漢字 &amp; <x>"]
    assert (last.description, last.current, last.state) == ("two\nlines", True, State.STOPPED)
    assert (last.parent, others[0].created is None) == ("漢字 &amp; <x>", False)
    vm.delete_snapshot(last.name)
    for each in reversed(others):
        vm.revert(each.name)
        vm.delete_snapshot(each.name)
    assert vm.snapshots == ()


def test_snapshots_of_two_disks(hypervisor: Hypervisor, disk_image: str, further_image: str) -> None:
    """Both are told by the images below, whatever was written since; neither can be exchanged."""
    vm = _saved(hypervisor, "two disks", disk_image=disk_image)
    vm.add_disk(further_image)
    vm.save()
    for name in ("s1", "s2"):
        vm.snapshot(name)
    assert hypervisor.get(vm.uuid).disks == (disk_image, further_image)
    vm.remove_disk(further_image)
    for change in (vm.save, lambda: vm.resize_disk(disk_image, "+16 MiB")):
        with pytest.raises(InvalidStateError, match="delete_snapshot"):
            change()
    vm.reload()
    vm.destroy(delete_disk=True)
    assert not Path(disk_image).exists()
    assert not Path(further_image).exists()


def test_a_clone_made_elsewhere(hypervisor: Hypervisor, manage: Manage, disk_image: str) -> None:
    """It is a VM like others, with a disk of its own."""
    vm = _saved(hypervisor, "original", disk_image=disk_image, memory="600 MiB")
    manage("clonevm", vm.uuid, "--name", "the clone", "--register")
    clone = hypervisor.get("the clone")
    assert clone.uuid != vm.uuid
    assert clone.memory == vm.memory
    assert clone.disk_image not in (None, disk_image)
    clone.memory += 1024
    clone.save()
    clone.destroy(delete_disk=True)
    assert vm.state is State.STOPPED


# What others do meanwhile.


def test_changed_by_many_at_once(hypervisor: Hypervisor, uri: str) -> None:
    """VirtualBox lets one program at a time hold a machine: the others wait their turn, and none is lost."""
    _saved(hypervisor, "busy")
    errors: list[BaseException] = []

    def change(field: str, value: object) -> None:
        try:
            with connect(uri) as mine:
                vm = mine.get("busy")
                vm.set(field, value) if field in vm.options else setattr(vm, field, value)
                vm.save()
        except BaseException as error:
            errors.append(error)

    changes: dict[str, object] = {"memory": "900 MiB", "cpus": 4, "vram": 44, "firmware": "uefi"}
    threads = [threading.Thread(target=change, args=item) for item in changes.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    vm = hypervisor.get("busy")
    assert (vm.memory, vm.cpus, vm.options["vram"], vm.options["firmware"]) == (900 * 1024, 4, 44, "uefi")


def test_unregistered_by_others(hypervisor: Hypervisor, manage: Manage) -> None:
    """It is gone, and its settings stay where VirtualBox leaves them."""
    vm = _saved(hypervisor, "unregistered")
    settings = _info(manage, vm)["CfgFile"]
    manage("unregistervm", vm.uuid)
    with pytest.raises(VMNotFoundError):
        assert vm.state
    manage("registervm", settings)
    assert hypervisor.get("unregistered").uuid == vm.uuid


def test_an_inaccessible_machine(hypervisor: Hypervisor, manage: Manage, inside: Callable[..., str]) -> None:
    """The others are listed all the same; the doctor names it."""
    lost, other = _saved(hypervisor, "lost"), _saved(hypervisor, "other")
    settings = _info(manage, lost)["CfgFile"]
    inside("mv", settings, f"{settings}.away")
    try:
        inside("sh", "-c", "while pgrep -x VBoxSVC >/dev/null; do sleep 0.2; done")  # it has the settings in memory
    except subprocess.CalledProcessError:
        pytest.skip("there is no pgrep in the lab")
    try:
        assert "<inaccessible>" in manage("list", "vms")
        assert [vm.name for vm in hypervisor.vms()] == ["other"]
        assert [line.name for line in hypervisor.summaries()] == ["other"]
        assert hypervisor.get("other").uuid == other.uuid
        assert any(lost.uuid in check.advice for check in hypervisor._examine())
    finally:
        inside("mv", f"{settings}.away", settings)
        inside("sh", "-c", "while pgrep -x VBoxSVC >/dev/null; do sleep 0.2; done")
    assert hypervisor.get("lost").uuid == lost.uuid


def test_a_change_that_virtualbox_does_not_make(hypervisor: Any) -> None:
    """It is noticed, and all is put back."""
    vm = _saved(hypervisor, "not made")
    before, real = vm.spec, hypervisor.runner.run

    def run(words: Any, **named: Any) -> Any:
        if "--vram" in words and "33" in words:
            words = [word if word != "33" else "34" for word in words]
        return real(words, **named)

    hypervisor.runner.run = run
    vm.set("vram", 33)
    vm.memory += 1024
    vm.network("nat")
    with pytest.raises(NotAppliedError, match="vram"):
        vm.save()
    hypervisor.runner.run = real
    after = hypervisor.get("not made").spec
    kept = [line for line in after.splitlines() if line in before.splitlines()]
    assert {"memory", "vram", "nic1"} <= {line.partition("=")[0] for line in kept}


# Starting.


def test_start_says_what_is_missing(hypervisor: Hypervisor, disk_image: str) -> None:
    """The module, and what loads it."""
    vm = _saved(hypervisor, "start", disk_image=disk_image)
    with pytest.raises(HypervisorError) as caught:
        vm.start()
    said = str(caught.value)
    assert "VirtualBox's kernel module is not loaded" in said
    assert "sudo /sbin/vboxconfig" in said
    assert (caught.value.code, vm.state) == (0x80004005, State.STOPPED)


def test_the_command(uri: str, hypervisor: Hypervisor) -> None:
    """`virtuoso` on a VirtualBox."""
    _saved(hypervisor, "by command", memory="640 MiB")
    command = [str(Path(sys.executable).with_name("virtuoso")), "--json", "-c", uri, "list"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert [line["memory"] for line in json.loads(done.stdout) if line["name"] == "by command"] == [640 * 1024]
