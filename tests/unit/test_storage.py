"""Disk images: made, sent, resized and deleted, and what refuses it. Real files, VMs of libvirt's mock."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from virtuoso_core import URI, Feature, Hypervisor, State, images, storage
from virtuoso_core.errors import (
    ImageError,
    ImageExistsError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidStateError,
    InvalidValueError,
    NoSpaceError,
    ReadOnlyError,
    UnsupportedError,
)
from virtuoso_core.local_storage import LocalStorage
from virtuoso_core.spec import MAX_DISK, format_size, parse_size
from virtuoso_core.testdriver.driver import TestHypervisor
from virtuoso_core.testing.memory import MemoryHypervisor
from virtuoso_core.vm import VM
from virtuoso_kvm.driver import KvmHypervisor

MiB = 1024 * 1024
Make = Callable[..., VM]


@pytest.fixture(autouse=True)
def _notes(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path_factory.mktemp("state")))


@pytest.fixture
def local() -> Iterator[KvmHypervisor]:
    """Files of this machine, VMs of libvirt's mock."""
    with KvmHypervisor.open(URI.parse("test:///default")) as hypervisor:
        yield hypervisor


@pytest.fixture
def make(local: KvmHypervisor) -> Iterator[Make]:
    """Saved VMs with disks."""
    made: list[VM] = []

    def new(name: str, *disks: Path) -> VM:
        vm = local.new_vm()
        vm.name, vm.disk_image = name, disks[0]
        for disk in disks[1:]:
            vm.add_disk(disk)
        vm.save()
        made.append(vm)
        return vm

    yield new
    for vm in made:
        vm.destroy(force=True)


def qemu_img(*words: object) -> str:
    done = subprocess.run(["qemu-img", *map(str, words)], check=True, capture_output=True, text=True, timeout=60)
    return done.stdout


# Sizes.


@pytest.mark.parametrize(
    ("given", "size"),
    [(512, 512), (1, 512), ("20 GiB", 20 << 30), ("20G", 20 << 30), ("1.5GB", 1_500_000_256), (" 1 MiB ", MiB)],
)
def test_sizes(given: int | str, size: int) -> None:
    assert parse_size(given) == size


@pytest.mark.parametrize(
    "given", ["", "20", "GiB", "-1 GiB", "+1 GiB", 0, -5, MAX_DISK + 1, True, None, 1.5, "9999 PiB"]
)
def test_no_sizes(given: object) -> None:
    with pytest.raises(InvalidValueError):
        parse_size(given)


def test_sizes_for_people() -> None:
    assert format_size(MAX_DISK) == "1024 PiB"
    assert format_size(1536) == "1536 bytes"


# Making.


@pytest.mark.parametrize("format", ["qcow2", "raw", "vmdk", "vdi", "vpc", "qed"])
def test_create(local: KvmHypervisor, tmp_path: Path, format: str) -> None:
    info = local.create_disk(tmp_path / "a.img", "16 MiB", format=format)
    assert (info.path, info.format, info.backing) == (str(tmp_path / "a.img"), format, None)
    assert 16 * MiB <= info.size < 17 * MiB  # one of them counts in cylinders
    assert info.allocated is not None
    assert info.allocated < MiB
    assert os.listdir(tmp_path) == ["a.img"]
    assert local.disk_info(info.path) == info


def test_qcow2_unless_asked(local: KvmHypervisor, tmp_path: Path) -> None:
    assert local.create_disk(tmp_path / "a.img", 16 * MiB).format == "qcow2"


def test_overlay(local: KvmHypervisor, tmp_path: Path) -> None:
    """Of an image in any format; the format of what is below is written down."""
    for format in ("raw", "qcow2"):
        base, overlay = tmp_path / f"base.{format}", tmp_path / f"over-{format}"
        local.create_disk(base, "16 MiB", format=format)
        info = local.create_disk(overlay, backing=base)
        assert (info.format, info.size, info.backing) == ("qcow2", 16 * MiB, str(base))
        assert f"backing file format: {format}" in qemu_img("info", overlay)
        assert local.create_disk(f"{overlay}-large", "32 MiB", backing=base).size == 32 * MiB
        with pytest.raises(InvalidValueError, match="cut off"):
            local.create_disk(f"{overlay}-small", "8 MiB", backing=base)
        with pytest.raises(InvalidValueError, match="not a format of an overlay"):
            local.create_disk(f"{overlay}-raw", backing=base, format="raw")


def test_relative_paths(local: KvmHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    local.create_disk("base.img", "16 MiB")
    assert local.create_disk("over.img", backing="base.img").backing == str(tmp_path / "base.img")


@pytest.mark.parametrize("path", ["", "  ", "a\nb", None, 5])
def test_what_is_no_path(local: KvmHypervisor, path: object) -> None:
    calls: dict[str, Callable[[Any], object]] = {
        "create": lambda path: local.create_disk(path, "1 MiB"),
        "info": local.disk_info,
        "delete": local.delete_disk,
        "upload": lambda path: local.upload(__file__, path),
        "download": lambda path: local.download(path, "here"),
    }
    for call in calls.values():
        with pytest.raises(InvalidValueError):
            call(path)


def test_nothing_is_overwritten(local: KvmHypervisor, tmp_path: Path) -> None:
    there = tmp_path / "there.img"
    there.write_text("mine")
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nowhere")
    for path in (there, dangling, tmp_path):
        with pytest.raises(ImageExistsError):
            local.create_disk(path, "16 MiB")
        with pytest.raises(ImageExistsError):
            local.upload(there, path)
        with pytest.raises(ImageExistsError):
            local.download(there, path)
    assert there.read_text() == "mine"


@pytest.mark.parametrize("what", ["create", "upload"])
def test_who_is_faster_keeps_the_path(
    local: KvmHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Somebody else makes a file there between the look and the end."""
    target, source = tmp_path / "a.img", tmp_path / "source"
    source.write_bytes(b"x" * MiB)
    monkeypatch.setattr(LocalStorage, "exists", lambda self, path: target.write_text("theirs") == 0)
    acts = {"create": lambda: local.create_disk(target, "16 MiB"), "upload": lambda: local.upload(source, target)}
    with pytest.raises(ImageExistsError):
        acts[what]()
    assert target.read_text() == "theirs"
    assert sorted(os.listdir(tmp_path)) == ["a.img", "source"]


@pytest.mark.parametrize("error", [NoSpaceError("full"), ImageError("x")], ids=["full", "other"])
def test_what_failed_before_it_made_anything_deletes_nothing(
    local: KvmHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Where nothing can be renamed, the file at the path is that of another program, which is sending it."""

    class Direct(LocalStorage):
        def partial(self, path: str) -> str:
            return path

        def upload(self, source: str, target: str, progress: object) -> None:
            Path(target).write_text("theirs")
            raise error

    monkeypatch.setattr(local, "_storage", Direct)
    with pytest.raises(type(error)):
        local.upload(__file__, tmp_path / "a.img")
    assert (tmp_path / "a.img").read_text() == "theirs"


def test_a_name_that_could_not_be_given(local: KvmHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What somebody else put there meanwhile stays, whatever it failed of."""
    target = tmp_path / "a.img"

    def fail(part: str, path: str) -> None:
        target.write_text("theirs")
        raise KeyboardInterrupt

    monkeypatch.setattr(images, "publish", fail)
    with pytest.raises(KeyboardInterrupt):
        local.create_disk(target, "1 MiB")
    assert target.read_text() == "theirs"
    assert os.listdir(tmp_path) == ["a.img"]


def test_what_a_running_vm_has_open_is_not_deleted(
    local: KvmHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that was plugged in for this run only stands in no configuration."""
    path = local.create_disk(tmp_path / "a.img", "1 MiB").path
    monkeypatch.setattr(local, "_open_images", lambda: [storage.OpenImage("web", "u-1", path, False)])
    with pytest.raises(ImageInUseError, match="the running VM 'web' has it open"):
        local.delete_disk(path)
    assert os.path.exists(path)


def test_a_block_device_is_refused_before_its_vm_goes(
    local: KvmHypervisor, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = local.create_disk(tmp_path / "a.img", "1 MiB").path
    vm = make("web", Path(path))
    monkeypatch.setattr(images, "is_block_device", lambda _: True)
    with pytest.raises(ImageError, match="is a block device"):
        vm.destroy(delete_disk=True)
    assert local.find("web") is not None


def test_one_file_that_stays_does_not_keep_the_others(
    local: KvmHypervisor, make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (Path(local.create_disk(tmp_path / name, "1 MiB").path) for name in ("a.img", "b.img"))
    vm, real = make("web", first, second), os.unlink

    def unlink(path: str) -> None:
        if path == str(first):
            raise PermissionError(errno.EACCES, "no")
        real(path)

    monkeypatch.setattr(os, "unlink", unlink)
    with pytest.raises(ImageError, match=r"The VM 'web' was removed, and not all of its files: .*a\.img"):
        vm.destroy(delete_disk=True)
    assert os.listdir(tmp_path) == ["a.img"]
    assert local.find("web") is None


def test_no_directory(local: KvmHypervisor, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "none" / "a.img", tmp_path / "file" / "a.img"):
        with pytest.raises(ImageNotFoundError, match="directory"):
            local.create_disk(path, "16 MiB")
        with pytest.raises(ImageNotFoundError, match="directory"):
            local.upload(tmp_path / "file", path)
        with pytest.raises(ImageNotFoundError, match="directory"):
            local.download(tmp_path / "file", path)


def test_no_backing_image(local: KvmHypervisor, tmp_path: Path) -> None:
    local.create_disk(tmp_path / "base.img", "16 MiB")
    with pytest.raises(ImageNotFoundError, match=r"Did you mean .*base\.img"):
        local.create_disk(tmp_path / "a.img", backing=tmp_path / "bose.img")
    with pytest.raises(InvalidValueError, match="has no size"):
        local.create_disk(tmp_path / "a.img")


def test_without_qemu_img(local: KvmHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageError, match="qemu-img is not installed") as caught:
        local.create_disk(tmp_path / "a.img", "16 MiB")
    assert "qemu-utils" in caught.value.hint or "qemu-img" in caught.value.hint
    assert os.listdir(tmp_path) == []


def test_a_failure_leaves_nothing(local: KvmHypervisor, tmp_path: Path) -> None:
    with pytest.raises(ImageError, match=r"/a\.img: QED image size"):
        local.create_disk(tmp_path / "a.img", MAX_DISK, format="qed")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_the_system_says_that_it_is_full(
    local: KvmHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """A disk that is really full: tests/integration."""
    source = tmp_path / "source"
    source.write_bytes(b"x" * MiB)

    def full(*_: object) -> None:
        raise OSError(number, "full")

    monkeypatch.setattr(images, "_pump", full)
    with pytest.raises(NoSpaceError, match=f"no space left in {tmp_path}"):
        local.upload(source, tmp_path / "a.img")
    assert os.listdir(tmp_path) == ["source"]


def test_too_large_is_known_before(local: KvmHypervisor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * MiB)
    monkeypatch.setattr(images, "free_space", lambda directory: 1000 * 1024)
    with pytest.raises(NoSpaceError, match="1000 KiB free, 1 MiB needed"):
        local.upload(source, tmp_path / "a.img")


# Sending.


def test_upload_and_download(local: KvmHypervisor, tmp_path: Path) -> None:
    """Byte for byte, with holes for zeros, in steps that are told."""
    source, there, back = (tmp_path / name for name in ("source", "there", "back"))
    data = os.urandom(2 * MiB) + bytes(6 * MiB) + b"end" + bytes(1000)
    source.write_bytes(data)
    told: list[tuple[int, int]] = []
    info = local.upload(source, there, progress=lambda done, total: told.append((done, total)))
    assert (info.path, info.format) == (str(there), "raw")
    assert there.read_bytes() == data
    assert there.stat().st_blocks * 512 < 4 * MiB
    assert told[-1] == (len(data), len(data))
    assert [done for done, _ in told[:-1]] == [MiB * n for n in range(1, 9)]
    local.download(there, back)
    assert back.read_bytes() == data
    assert sorted(os.listdir(tmp_path)) == ["back", "source", "there"]


def test_upload_tells_what_it_is(local: KvmHypervisor, tmp_path: Path) -> None:
    local.create_disk(tmp_path / "a.img", "16 MiB")
    info = local.upload(tmp_path / "a.img", tmp_path / "b.img")
    assert (info.format, info.size) == ("qcow2", 16 * MiB)


def test_no_source(local: KvmHypervisor, tmp_path: Path) -> None:
    with pytest.raises(ImageNotFoundError):
        local.upload(tmp_path / "none", tmp_path / "a.img")
    with pytest.raises(ImageNotFoundError):
        local.upload(tmp_path, tmp_path / "a.img")
    with pytest.raises(ImageNotFoundError):
        local.download(tmp_path / "none", tmp_path / "a.img")


def test_interrupted_by_its_progress(local: KvmHypervisor, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"x" * MiB)

    def stop(done: int, total: int) -> None:
        raise KeyboardInterrupt

    for act in (local.upload, local.download):
        with pytest.raises(KeyboardInterrupt):
            act(source, tmp_path / "a.img", progress=stop)
        assert os.listdir(tmp_path) == ["source"]


def test_secrets_are_for_their_owner(local: KvmHypervisor, tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        local._storage().write(str(tmp_path / "seed"), b"secret")
        assert (tmp_path / "seed").stat().st_mode & 0o777 == 0o600
        assert os.umask(0) == 0
    finally:
        os.umask(before)
    with pytest.raises(ImageExistsError):
        local._storage().write(str(tmp_path / "seed"), b"another")
    assert (tmp_path / "seed").read_bytes() == b"secret"


def test_copy(local: KvmHypervisor, tmp_path: Path) -> None:
    """With all that is below; the copy stands alone."""
    base, overlay, copy = (str(tmp_path / name) for name in ("base", "overlay", "copy"))
    local.create_disk(base, "16 MiB")
    subprocess.run(["qemu-io", "-c", "write -P 7 0 1M", base], check=True, capture_output=True)
    local.create_disk(overlay, backing=base)
    told: list[tuple[int, int]] = []
    local._storage().copy(overlay, copy, lambda done, total: told.append((done, total)))
    assert local.disk_info(copy).backing is None
    assert "Images are identical" in qemu_img("compare", overlay, copy)
    assert told[-1] == (16 * MiB, 16 * MiB)
    with pytest.raises(ImageExistsError):
        local._storage().copy(overlay, base, None)


def test_a_guest_cannot_name_files_of_its_host_by_a_header(local: KvmHypervisor, tmp_path: Path) -> None:
    """A raw image that looks like qcow2 is copied as raw where its format is known."""
    secret, raw, copy = (str(tmp_path / name) for name in ("secret", "raw", "copy"))
    Path(secret).write_bytes(b"secret" * 1000)
    qemu_img("create", "-f", "qcow2", "-b", secret, "-F", "raw", raw)
    local._storage().copy(raw, copy, None, format="raw")
    assert Path(copy).read_bytes()[:100_000] == Path(raw).read_bytes()[:100_000]


# What is needed stays.


def test_delete(local: KvmHypervisor, tmp_path: Path) -> None:
    local.create_disk(tmp_path / "a.img", "16 MiB")
    local.delete_disk(tmp_path / "a.img")
    local.delete_disk(tmp_path / "a.img")
    assert os.listdir(tmp_path) == []


def test_what_a_vm_has_is_not_deleted(local: KvmHypervisor, make: Make, tmp_path: Path) -> None:
    """Nor what its disks are based on, however far below, under whatever name."""
    base, middle = tmp_path / "base", tmp_path / "middle"
    local.create_disk(base, "16 MiB")
    local.create_disk(middle, backing=base)
    (tmp_path / "far").mkdir()
    far = tmp_path / "far" / "top"
    local.create_disk(far, backing=middle)
    vm = make("web", far)
    (tmp_path / "link").symlink_to(base)
    for path, why in ((far, "'web' has it"), (middle, "based on it"), (base, "based on it"), (tmp_path / "link", "")):
        with pytest.raises(ImageInUseError, match=f"web.*{why}|{why}.*web"):
            local.delete_disk(path)
    vm.destroy()
    with pytest.raises(ImageInUseError, match=f"{middle} is an overlay of it"):
        local.delete_disk(base)
    local.delete_disk(far)
    local.delete_disk(middle)
    local.delete_disk(base)


@pytest.mark.parametrize("format", ["qcow2", "qed", "vmdk"])
def test_overlays_in_each_format(local: KvmHypervisor, tmp_path: Path, format: str) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    qemu_img("create", "-f", format, base, "16M")
    qemu_img("create", "-f", format, "-b", "base", "-F", format, overlay)  # relative to where the overlay is
    assert images.backing_of(str(overlay)) == str(base)
    assert list(images.overlays_beside(str(base))) == [str(overlay)]


def test_json_names(tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    qemu_img("create", "-f", "raw", base, "16M")
    named = f'json:{{"driver":"raw","file":{{"driver":"file","filename":"{base}"}}}}'
    qemu_img("create", "-f", "qcow2", "-b", named, "-F", "raw", overlay)
    assert images.backing_of(str(overlay)) == str(base)


def test_headers_that_lie(tmp_path: Path) -> None:
    """Whatever a guest wrote there: no hang, no crash."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "short").write_bytes(b"QFI\xfb\0\0")
    (tmp_path / "far").write_bytes(b"QFI\xfb" + bytes(4) + (2**63).to_bytes(8, "big") + b"\0\0\0\x10" + bytes(90))
    (tmp_path / "plain").write_bytes(bytes(1000))
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for name in os.listdir(tmp_path):
        assert images.backing_of(str(tmp_path / name)) is None
    assert list(images.overlays_beside(str(tmp_path / "plain"))) == []


def test_an_image_based_on_itself(local: KvmHypervisor, tmp_path: Path) -> None:
    image = tmp_path / "a"
    qemu_img("create", "-f", "qcow2", image, "16M")
    qemu_img("rebase", "-u", "-b", image, "-F", "qcow2", image)
    assert list(storage.chain(local._storage(), str(image))) == []


def test_destroy_deletes_all_its_disks(local: KvmHypervisor, make: Make, tmp_path: Path) -> None:
    """But not what they are based on."""
    base, first, second = (tmp_path / name for name in ("base", "first", "second"))
    local.create_disk(base, "16 MiB")
    local.create_disk(first, backing=base)
    local.create_disk(second, "16 MiB")
    disks = (first, second) if Feature.DISKS in local.features else (first,)
    make("web", *disks).destroy(delete_disk=True)
    assert not any(path.exists() for path in disks)
    assert base.exists()


def test_destroy_keeps_what_others_need(local: KvmHypervisor, make: Make, tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    local.create_disk(base, "16 MiB")
    local.create_disk(overlay, backing=base)
    golden, web = make("golden", base), make("web", overlay)
    with pytest.raises(ImageInUseError, match=r"'golden' and its disk .* were not removed.*Leave out delete_disk"):
        golden.destroy(delete_disk=True)
    assert local.find("golden") is not None
    web.destroy(delete_disk=True)
    golden.destroy(delete_disk=True)
    assert os.listdir(tmp_path) == []


def test_what_an_overlay_is_based_on_is_not_run(local: KvmHypervisor, make: Make, tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    local.create_disk(base, "16 MiB")
    golden = make("golden", base)
    golden.start()
    golden.stop(timeout=0)
    local.create_disk(overlay, backing=base)
    with pytest.raises(ImageInUseError, match=f"its disk {base} is what {overlay} is based on"):
        golden.start()
    make("web", overlay).start()


# Resizing.


def test_resize(local: KvmHypervisor, make: Make, tmp_path: Path) -> None:
    disk = tmp_path / "a.img"
    local.create_disk(disk, "16 MiB")
    vm = make("web", disk)
    assert vm.resize_disk(disk, "32 MiB") == 32 * MiB
    assert vm.resize_disk(disk, "+16 MiB") == 48 * MiB
    assert vm.resize_disk(disk, 48 * MiB) == 48 * MiB
    with pytest.raises(InvalidValueError, match="48 MiB: 16 MiB would cut off"):
        vm.resize_disk(disk, "16 MiB")
    assert vm.resize_disk(disk, "16 MiB", shrink=True) == 16 * MiB
    with pytest.raises(InvalidValueError):
        vm.resize_disk(disk, "-16 MiB")
    with pytest.raises(ImageNotFoundError, match=f"It has: {disk}"):
        vm.resize_disk(tmp_path / "b.img", "16 MiB")


def test_resize_a_raw_one(local: KvmHypervisor, make: Make, tmp_path: Path) -> None:
    local.create_disk(tmp_path / "a.img", "16 MiB", format="raw")
    assert make("web", tmp_path / "a.img").resize_disk(tmp_path / "a.img", "32 MiB") == 32 * MiB


def test_what_an_overlay_is_based_on_is_not_resized(local: KvmHypervisor, make: Make, tmp_path: Path) -> None:
    base, overlay = tmp_path / "base", tmp_path / "overlay"
    local.create_disk(base, "16 MiB")
    local.create_disk(overlay, backing=base)
    golden = make("golden", base)
    with pytest.raises(ImageInUseError, match="not resized"):
        golden.resize_disk(base, "32 MiB")
    assert make("web", overlay).resize_disk(overlay, "32 MiB") == 32 * MiB
    assert local.disk_info(base).size == 16 * MiB


def test_a_format_that_cannot_be_resized(local: KvmHypervisor, make: Make, tmp_path: Path) -> None:
    local.create_disk(tmp_path / "a.vmdk", "16 MiB", format="vmdk")
    with pytest.raises(ImageError, match="'vmdk', which cannot be resized"):
        make("web", tmp_path / "a.vmdk").resize_disk(tmp_path / "a.vmdk", "32 MiB")


def test_resize_only_when_off(hypervisor: MemoryHypervisor) -> None:
    """Where the hypervisor has no way to do it while the VM runs."""
    hypervisor.create_disk("/a", "16 MiB")
    vm = hypervisor.new_vm()
    vm.name, vm.disk_image = "web", "/a"
    with pytest.raises(InvalidStateError, match="never saved"):
        vm.resize_disk("/a", "32 MiB")
    vm.save()
    vm.start()
    for size, shrink in (("32 MiB", False), ("8 MiB", True)):
        with pytest.raises(InvalidStateError, match="running"):
            vm.resize_disk("/a", size, shrink=shrink)
    hypervisor.host.states[vm.uuid] = State.SUSPENDED
    with pytest.raises(InvalidStateError, match="suspended"):
        vm.resize_disk("/a", "32 MiB")
    hypervisor.host.states[vm.uuid] = State.STOPPED
    assert vm.resize_disk("/a", "32 MiB") == 32 * MiB


# Everywhere the same.


def test_in_memory(hypervisor: MemoryHypervisor, tmp_path: Path) -> None:
    base = hypervisor.create_disk("/base", "1 GiB")
    assert hypervisor.create_disk("/over", backing="/base").size == base.size
    with pytest.raises(ImageInUseError):
        hypervisor.delete_disk("/base")
    (tmp_path / "source").write_bytes(b"data")
    hypervisor.upload(tmp_path / "source", "/sent")
    hypervisor.download("/sent", tmp_path / "back")
    assert (tmp_path / "back").read_bytes() == b"data"
    hypervisor.delete_disk("/over")
    hypervisor.delete_disk("/base")
    with pytest.raises(ImageNotFoundError):
        hypervisor.disk_info("/base")


def all_calls(hypervisor: Hypervisor) -> list[Callable[[], object]]:
    return [
        lambda: hypervisor.create_disk("/a", "1 MiB"),
        lambda: hypervisor.delete_disk("/a"),
        lambda: hypervisor.upload("/dev/null", "/a"),
    ]


def test_a_hypervisor_that_cannot() -> None:
    with TestHypervisor.open(URI.parse("test:///default")) as hypervisor:
        vm = hypervisor.get("test")
        calls = [*all_calls(hypervisor), lambda: hypervisor.disk_info("/a"), lambda: hypervisor.download("/a", "/b")]
        for call in [*calls, lambda: vm.resize_disk("/a", "1 MiB")]:
            with pytest.raises(UnsupportedError):
                call()


def test_a_read_only_connection(uri: URI) -> None:
    with MemoryHypervisor.open(uri, readonly=True) as hypervisor:
        for call in all_calls(hypervisor):
            with pytest.raises(ReadOnlyError):
                call()
