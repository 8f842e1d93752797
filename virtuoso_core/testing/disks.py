"""DisksGroup: disk images, further disks, CD-ROMs and what cloud-init reads."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from ..errors import ImageExistsError, ImageInUseError, ImageNotFoundError, InvalidValueError, UnsupportedError
from ..hypervisor import Hypervisor
from ..spec import Feature, SaveResult
from .base import MakeVM, Proved, SuiteBase


class DisksGroup(SuiteBase):
    """What those promise."""

    # Images.

    @pytest.fixture
    def image_paths(self, disk_image: str, connection: Hypervisor) -> Iterator[tuple[str, str]]:
        """Two paths beside that image where there is nothing; what is made there is deleted, the last first."""
        before, _, _ = disk_image.rpartition("/")
        made = [f"{before}/virtuoso-suite-{secrets.token_hex(4)}.img" for _ in range(2)]
        yield made[0], made[1]
        if Feature.CREATE_DISK in connection.features:
            for path in reversed(made):
                connection.delete_disk(path)

    def test_create_disk(
        self, connection: Hypervisor, image_paths: tuple[str, str], make: MakeVM, proved: Proved
    ) -> None:
        """Empty and as an overlay; never over what is there; deleted only when nobody needs it; resized."""
        base, overlay = image_paths
        if Feature.CREATE_DISK not in connection.features:
            calls: list[Callable[[], object]] = [
                lambda: connection.create_disk(base, "16 MiB"),
                lambda: connection.disk_info(base),
                lambda: connection.delete_disk(base),
                lambda: make().resize_disk(base, "16 MiB"),
            ]
            for call in calls:
                with pytest.raises(UnsupportedError):
                    call()
            return
        made = connection.create_disk(base, "16 MiB")
        assert (made.size, made.backing) == (16 << 20, None)
        assert made.format == connection._storage().formats[0]
        assert connection.disk_info(base).size == made.size
        with pytest.raises(ImageExistsError):
            connection.create_disk(base, "16 MiB")
        if not connection._storage().overlay_formats:
            overlay = base
        else:
            over = connection.create_disk(overlay, backing=base)
            assert (over.size, over.backing) == (made.size, base)
        vm = make(disk_image=overlay)
        for needed in {base, overlay}:
            with pytest.raises(ImageInUseError, match=vm.name):
                connection.delete_disk(needed)
        with pytest.raises(InvalidValueError):
            vm.resize_disk(overlay, "8 MiB")
        assert vm.resize_disk(overlay, "+16 MiB") == 32 << 20
        assert connection.disk_info(overlay).size == 32 << 20
        vm.destroy()
        for gone in (overlay, base, base):
            connection.delete_disk(gone)
        with pytest.raises(ImageNotFoundError):
            connection.disk_info(base)
        proved("feature:create-disk")

    def test_upload(self, connection: Hypervisor, image_paths: tuple[str, str], tmp_path: Path, proved: Proved) -> None:
        """There and back, byte for byte; nothing is written over."""
        source, back, there = tmp_path / "source.img", tmp_path / "back.img", image_paths[0]
        data = os.urandom(1536 * 1024) + bytes(1024 * 1024) + b"end".ljust(512)
        source.write_bytes(data)
        if Feature.UPLOAD not in connection.features:
            with pytest.raises(UnsupportedError):
                connection.upload(source, there)
            with pytest.raises(UnsupportedError):
                connection.download(there, back)
            return
        told: list[tuple[int, int]] = []
        info = connection.upload(source, there, progress=lambda done, total: told.append((done, total)))
        assert (info.path, info.format, info.size) == (there, "raw", len(data))
        assert told[-1] == (len(data), len(data))
        with pytest.raises(ImageExistsError):
            connection.upload(source, there)
        connection.download(there, back)
        assert back.read_bytes() == data
        with pytest.raises(ImageExistsError):
            connection.download(there, back)
        proved("feature:upload")

    # Further disks, CD-ROMs and what cloud-init reads.

    @pytest.fixture
    def further_image(self, disk_image: str) -> str:
        """Another image beside that one. Override it with ``disk_image``."""
        image = Path(disk_image).parent / "further.img"
        if image.parent.is_dir():
            image.write_bytes(bytes(1024 * 1024))
        return str(image)

    def test_further_disks(
        self, connection: Hypervisor, make: MakeVM, disk_image: str, further_image: str, proved: Proved
    ) -> None:
        """Added to a new VM and to one that exists, taken away again; the main disk stays what it is."""
        vm = make(save=False, disk_image=disk_image)
        if Feature.DISKS not in connection.features:
            for call in (vm.add_disk, vm.remove_disk):
                with pytest.raises(UnsupportedError):
                    call(further_image)
            return
        added = vm.add_disk(further_image)
        with pytest.raises(InvalidValueError):
            vm.add_disk(further_image)
        vm.save()
        assert connection.get(vm.uuid).disks == (disk_image, added)
        proved("feature:disks")
        self.need(connection, "more_disks")
        before = connection.get(vm.uuid).spec
        vm.remove_disk(added)
        assert vm.save() is SaveResult.APPLIED
        assert connection.get(vm.uuid).disks == (disk_image,)
        with pytest.raises(ImageNotFoundError):
            vm.remove_disk(added)
        vm.add_disk(further_image)
        vm.save()
        assert connection.get(vm.uuid).spec == before

    @pytest.fixture
    def discs(self, disk_image: str, further_image: str) -> tuple[str, str]:
        """Two images for a CD-ROM drive. Override it where a drive does not take any file."""
        return further_image, disk_image

    def test_cdrom(
        self, connection: Hypervisor, make: MakeVM, disk_image: str, discs: tuple[str, str], proved: Proved
    ) -> None:
        """In a new VM; taken out, and another put in."""
        vm = make(save=False, disk_image=disk_image)
        if Feature.CDROM not in connection.features:
            with pytest.raises(UnsupportedError):
                vm.cdrom = discs[0]
            return
        vm.cdrom = discs[0]
        vm.save()
        found = connection.get(vm.uuid)
        assert (found.cdrom, found.disks) == (vm.cdrom, (disk_image,))
        proved("feature:cdrom")
        self.need(connection, "cdrom")
        for disc in (None, *discs):
            vm.cdrom = disc
            vm.save()
            assert connection.get(vm.uuid).cdrom == disc

    def test_cloud_init(self, connection: Hypervisor, make: MakeVM, disk_image: str, proved: Proved) -> None:
        """What it reads is beside the disk, holds no secret where others can read it, and goes with the VM."""
        vm = make(save=False, disk_image=disk_image)
        if Feature.CLOUD_INIT not in connection.features:
            with pytest.raises(UnsupportedError):
                vm.cloud_init()
            return
        vm.cloud_init(user="me", password="correct horse", hostname="guest")  # noqa: S106 - of nobody
        assert "seed" in vm.diff()
        vm.save()
        found = connection.get(vm.uuid)
        assert (found.disks, found.cdrom) == ((disk_image,), None)
        assert "correct horse" not in found.spec
        first = found._read().seed
        assert first is not None
        with connection._storage() as store:
            assert store.exists(first)
        proved("feature:cloud-init")
        if Feature.MODIFY in connection.features and "seed" in connection.modifiable:
            vm.cloud_init(user="me")
            vm.save()
            last = connection.get(vm.uuid)._read().seed
            assert last not in (None, first)
        else:
            last = first
        vm.destroy()
        with connection._storage() as store:
            assert not store.exists(first)
            assert not store.exists(last or "")
