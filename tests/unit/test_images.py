"""Disk images: real files, real qemu-img, and real directories whose answer is compared with the kernel's own."""

from __future__ import annotations

import itertools
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from virtuoso_core import images
from virtuoso_core.errors import ImageError, ImageFormatError, ImageNotFoundError

needs_qemu_img = pytest.mark.skipif(shutil.which("qemu-img") is None, reason="qemu-img is not installed")
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can ask the kernel on behalf of other users")
needs_acl = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("setfacl") is None, reason="needs root and setfacl (Debian: acl)"
)


# Is it there?


def test_files_are_images_and_so_are_links_to_them(tmp_path: Path) -> None:
    path, link = tmp_path / "a b.img", tmp_path / "link"
    path.write_bytes(b"")
    link.symlink_to(path)
    images.check_image(str(path))
    images.check_image(str(link))


@pytest.mark.parametrize(
    ("there", "asked", "near"),
    [
        (["debian.qcow2", "other.iso"], "debain.qcow2", "debian.qcow2"),
        (["debian.qcow2"], "debian.qcow", "debian.qcow2"),
        (["Debian-12.qcow2"], "debian-12.qcow2", "Debian-12.qcow2"),
        (["other.iso"], "debian.qcow2", None),
        ([], "debian.qcow2", None),
        ([], "debian.iso", None),
    ],
)
def test_a_missing_image_is_named_with_the_nearest(
    there: list[str], asked: str, near: str | None, tmp_path: Path
) -> None:
    for name in there:
        (tmp_path / name).touch()
    with pytest.raises(ImageNotFoundError) as caught:
        images.check_image(str(tmp_path / asked))
    assert str(tmp_path / asked) in caught.value.message
    assert "no such file" in caught.value.message
    if near is None:
        assert f"ls -l {tmp_path}" in caught.value.hint
        assert ("qemu-img create -f qcow2" in caught.value.hint) != asked.endswith(".iso")
    else:
        assert f"Did you mean {tmp_path / near}?" in caught.value.hint


def test_a_missing_folder_a_dangling_link_and_a_loop(tmp_path: Path) -> None:
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "file").touch()
    for name in ("none/disk.img", "dangling", "loop", "file/disk.img", "x" * 300):
        with pytest.raises(ImageNotFoundError, match="There is no disk image"):
            images.check_image(str(tmp_path / name))


def test_what_is_no_file_is_no_image(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ImageNotFoundError, match="is a directory"):
        images.check_image(str(tmp_path))
    for path in (tmp_path / "fifo", Path("/dev/null")):
        with pytest.raises(ImageNotFoundError, match="neither a file nor a block device"):
            images.check_image(str(path))
        assert not images.is_block_device(str(path))
    assert not images.is_block_device(str(tmp_path / "nothing"))


@pytest.fixture
def block_device(tmp_path: Path) -> str:
    """A node of a block device, or a skip where none can be made."""
    path = str(tmp_path / "block")
    try:
        os.mknod(path, 0o600 | stat.S_IFBLK, os.makedev(7, 200))
    except OSError as error:
        pytest.skip(f"no block device can be made here: {error.strerror}")
    return path


def test_a_block_device_is_an_image_that_is_never_deleted(block_device: str) -> None:
    images.check_image(block_device)
    assert images.is_block_device(block_device)
    with pytest.raises(ImageError, match="block device"):
        images.delete_image(block_device)
    assert os.path.exists(block_device)


# What is its format?


@needs_qemu_img
@pytest.mark.parametrize("format", ["qcow2", "raw", "vmdk", "vdi", "vhdx", "vpc", "qed"])
@pytest.mark.parametrize("suffix", [".qcow2", ".img", ""])
def test_the_contents_tell_the_format_and_the_suffix_does_not(format: str, suffix: str, tmp_path: Path) -> None:
    path = str(tmp_path / f"misleading <&'\"> name{suffix}")
    command = ["qemu-img", "create", "-q", "-f", format, path, "1M"]
    if subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip(f"this qemu-img makes no {format}")
    assert images.probe_format(path) == format


@needs_qemu_img
@pytest.mark.parametrize("contents", [b"", b"#!/bin/sh\n", b"\0" * 5000, b"QF", b"KDM"])
def test_what_is_no_image_format_is_raw(contents: bytes, tmp_path: Path) -> None:
    path = tmp_path / "disk.qcow2"
    path.write_bytes(contents)
    assert images.probe_format(str(path)) == "raw"


@needs_qemu_img
def test_an_image_with_a_lost_backing_file_has_its_format(tmp_path: Path) -> None:
    base, top = tmp_path / "base.qcow2", tmp_path / "top.raw"
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", base, "1M"], check=True)
    subprocess.run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", base, top], check=True)
    base.unlink()
    assert images.probe_format(str(top)) == "qcow2"


@needs_qemu_img
def test_a_truncated_image_is_refused_with_what_qemu_img_says(tmp_path: Path) -> None:
    path = tmp_path / "broken.qcow2"
    path.write_bytes(b"QFI\xfb\0\0\0\x03" + b"\xff" * 100)
    with pytest.raises(ImageFormatError, match="cannot be told") as caught:
        images.probe_format(str(path))
    assert str(path) in caught.value.message


@needs_qemu_img
def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ImageFormatError, match="No such file"):
        images.probe_format(str(tmp_path / "nothing.qcow2"))


def test_without_qemu_img_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageFormatError, match="qemu-img is not installed") as caught:
        images.probe_format("/srv/disk.qcow2")
    assert "qemu-utils" in caught.value.hint
    assert "disk_format" in caught.value.hint


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("echo no json", "gave no answer"),
        ("echo '{}'", "gave no answer"),
        ("exit 1", "no reason given"),
        ("echo one >&2; echo 'two: three' >&2; exit 1", "two: three"),
    ],
)
def test_what_a_strange_qemu_img_may_do(
    script: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "qemu-img"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ImageFormatError, match=said):
        images.probe_format("/srv/disk.qcow2")


# Can another user get there? The kernel is asked the same.

USER, GROUP, OTHER_GROUP = 54321, 54322, 54323


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that every user of this machine can reach, unlike pytest's own."""
    base = Path(tempfile.mkdtemp(dir="/var/tmp" if os.path.isdir("/var/tmp") else None))  # noqa: S108
    base.chmod(0o755)
    yield base
    shutil.rmtree(base)


def kernel_lets_through(path: str, uid: int = USER, gids: tuple[int, ...] = (GROUP,)) -> bool:
    """Whether that user may look at the path, by trying it as that user."""
    done = subprocess.run(
        ["stat", "-L", "--", path],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "LC_ALL": "C"},
        user=uid,
        group=gids[0],
        extra_groups=gids[1:],
    )
    assert done.returncode == 0 or "Permission denied" in done.stderr
    return done.returncode == 0


def agrees(path: Path, uid: int = USER, gids: tuple[int, ...] = (GROUP,)) -> str | None:
    """What the library says, after seeing that the kernel says the same."""
    blocked = images.unreachable_parent(str(path), uid, frozenset(gids))
    assert (blocked is None) == kernel_lets_through(str(path), uid, gids), blocked
    if blocked is not None:
        assert kernel_lets_through(blocked, uid, gids)  # the first on the way
    return blocked


def make_image(folder: Path) -> Path:
    """A file in a chain of two new folders."""
    inner = folder / "outer" / "inner"
    inner.mkdir(parents=True, mode=0o755)
    for part in (inner.parent, inner):
        part.chmod(0o755)
    image = inner / "disk.img"
    image.touch()
    return image


@needs_root
@pytest.mark.parametrize("mode", [0o000, 0o700, 0o710, 0o711, 0o701, 0o070, 0o007, 0o766, 0o755, 0o100, 0o010, 0o001])
@pytest.mark.parametrize("owner", [0, USER])
@pytest.mark.parametrize("group", [0, GROUP, OTHER_GROUP])
def test_mode_bits(mode: int, owner: int, group: int, place: Path) -> None:
    image = make_image(place)
    for folder in (image.parent, image.parent.parent):
        os.chown(folder, owner, group)
        folder.chmod(mode)
        blocked = agrees(image)
        assert blocked in (None, str(folder))
        agrees(image, USER, (GROUP, OTHER_GROUP))
        agrees(image, USER + 1, (GROUP,))
        folder.chmod(0o755)


@needs_root
def test_the_outermost_folder_is_named(place: Path) -> None:
    image = make_image(place)
    image.parent.chmod(0o700)
    assert agrees(image) == str(image.parent)
    image.parent.parent.chmod(0o700)
    assert agrees(image) == str(image.parent.parent)


def test_root_gets_everywhere(tmp_path: Path) -> None:
    image = make_image(tmp_path)
    image.parent.chmod(0o000)
    assert images.unreachable_parent(str(image), 0, frozenset()) is None


def test_where_nothing_can_be_seen_nothing_is_said(tmp_path: Path) -> None:
    assert images.unreachable_parent(str(tmp_path / "no" / "such" / "disk.img"), os.geteuid() or 1, [os.getegid()]) in (
        None,
        *map(str, tmp_path.parents),
        str(tmp_path),
    )


@needs_acl
@pytest.mark.parametrize(
    "entries",
    [
        f"u:{USER}:x",
        f"u:{USER}:-",
        f"u:{USER}:rw",
        f"g:{GROUP}:x",
        f"g:{GROUP}:-",
        f"g:{GROUP}:-,g:{OTHER_GROUP}:x",
        f"u:{USER + 1}:x",
        f"u:{USER}:x,m::r",
        f"g:{GROUP}:x,m::-",
        f"u:{USER}:-,g:{GROUP}:x",
        f"u:{USER + 1}:rwx,g::x,o::-",
        f"u:{USER + 1}:rwx,g::x,o::x,m::r",
        "o::x",
        "u::-,g::-,o::x",
        f"d:u:{USER}:x",
    ],
)
@pytest.mark.parametrize("group", [0, GROUP])
def test_access_control_lists(entries: str, group: int, place: Path) -> None:
    image = make_image(place)
    folder = image.parent
    for mode in (0o700, 0o750, 0o705, 0o777):
        subprocess.run(["setfacl", "-b", folder], check=True)
        os.chown(folder, 0, group)
        folder.chmod(mode)
        done = subprocess.run(["setfacl", "-m", entries, folder], capture_output=True, text=True, check=False)
        if "not supported" in done.stderr:
            pytest.skip("this file system has no ACLs")
        assert done.returncode == 0, done.stderr
        for gids in ((GROUP,), (OTHER_GROUP,), (GROUP, OTHER_GROUP), (OTHER_GROUP + 1,)):
            agrees(image, USER, gids)
            agrees(image, USER + 1, gids)


@needs_acl
def test_the_owner_of_a_folder_with_an_acl(place: Path) -> None:
    image = make_image(place)
    subprocess.run(["setfacl", "-m", f"u:{USER}:-,u::x", image.parent], check=True)
    os.chown(image.parent, USER, 0)
    assert agrees(image) is None
    image.parent.chmod(0o077)
    assert agrees(image) == str(image.parent)


@needs_root
@pytest.mark.parametrize("relative", [False, True])
@pytest.mark.parametrize(("link_mode", "target_mode"), [*itertools.product([0o755, 0o700], repeat=2)])
def test_the_way_to_a_link_and_the_way_to_its_target(
    relative: bool, link_mode: int, target_mode: int, place: Path
) -> None:
    image = make_image(place)
    links = place / "links"
    links.mkdir(mode=0o755)
    to_file, to_folder = links / "file", links / "folder"
    to_file.symlink_to(Path("../outer/inner/disk.img") if relative else image)
    to_folder.symlink_to(Path("../outer/./inner/../inner") if relative else image.parent)
    image.parent.chmod(target_mode)
    links.chmod(link_mode)
    expected = str(links) if link_mode == 0o700 else str(image.parent) if target_mode == 0o700 else None
    for path in (to_file, to_folder / "disk.img", links / ".." / "links" / "folder" / "." / "disk.img"):
        assert agrees(path) == expected


@needs_root
def test_the_folder_before_a_dot_dot_must_be_passed_too(place: Path) -> None:
    image = make_image(place)
    (place / "closed").mkdir(mode=0o700)
    assert agrees(Path(f"{place}/closed/../outer/inner/disk.img")) == str(place / "closed")
    assert agrees(image) is None


def test_a_loop_of_links_ends(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    images.unreachable_parent(str(tmp_path / "a" / "disk.img"), 54321, [])


@needs_root
def test_a_relative_path_starts_here(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = make_image(place)
    monkeypatch.chdir(image.parent.parent)
    image.parent.chmod(0o700)
    assert agrees(Path("inner/disk.img")) == str(image.parent)


def test_a_host_user_has_a_name_and_all_its_groups_or_a_number() -> None:
    root = images.HostUser.of(0, 0)
    assert (root.name, root.uid) == ("root", 0)
    assert 0 in root.gids
    nobody = images.HostUser.of(4_000_123, 77)
    assert (nobody.name, nobody.uid, nobody.gids) == ("4000123", 4_000_123, frozenset({77}))


# Deleting.


def test_deleting_takes_the_file_or_the_link_only(tmp_path: Path) -> None:
    path, link = tmp_path / "disk.img", tmp_path / "link"
    path.touch()
    link.symlink_to(path)
    images.delete_image(str(link))
    assert path.exists()
    images.delete_image(str(path))
    assert list(tmp_path.iterdir()) == []


def test_what_is_gone_already_stays_so(tmp_path: Path) -> None:
    images.delete_image(str(tmp_path / "nothing"))


def test_what_cannot_be_deleted_is_named_with_the_reason(tmp_path: Path) -> None:
    with pytest.raises(ImageError, match="could not be deleted") as caught:
        images.delete_image(str(tmp_path))
    assert str(tmp_path) in caught.value.message
    assert "sudo rm" in caught.value.hint
    assert tmp_path.exists()
