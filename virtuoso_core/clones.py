"""Clones: how a VM is copied with its disks: what is made, in which order, and undone when it fails."""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Literal, TypeVar

from . import images, storage
from .errors import ImageFormatError, UnsupportedError, VMExistsError
from .events import EventType
from .facts import DiskInfo, Progress
from .spec import SEED_SUFFIX, Feature, Network, VMSpec
from .unfinished import Undertaking, undertaking

if TYPE_CHECKING:
    from .calls.base import VMBase
    from .storage import Storage

_Kind = Literal["overlay", "copy", "seed"]

AnyVM = TypeVar("AnyVM", bound="VMBase")


@dataclass(frozen=True)
class _Image:
    """One file to make: of what, and where."""

    source: DiskInfo
    path: str
    kind: _Kind


def make_clone(vm: AnyVM, name: str, *, linked: bool, progress: Progress | None) -> AnyVM:
    """What ``vm.clone()`` promises; the name is free, and the VM off."""
    hypervisor, spec = vm._hypervisor, vm._read()
    own = vm._own_disks(spec)
    if (own or spec.seed) and Feature.CREATE_DISK not in hypervisor.features:
        hypervisor._require(Feature.CREATE_DISK, f"copy the disks of the VM {vm._title}")
    planned = list(_plan(vm, spec, own, name, linked)) if own or spec.seed else []
    target = _spec_of_clone(vm, spec, name, {image.source.path: image.path for image in planned})
    draft = hypervisor._new_vm()
    draft._remember(target)
    draft._ask_plugins(target.changed_from(VMSpec("", 0, 0)))
    with undertaking(hypervisor, f"copy the VM {vm._title} as {name!r}") as step:
        if planned:
            with hypervisor._storage() as store:
                _make(store, step, planned, progress)
        step.vm(name)
        try:
            uuid = vm._clone(target, step)
        except VMExistsError:
            step.keep(name)  # somebody else was faster
            raise
        made = hypervisor._find_vm(uuid)
    made._emit(EventType.SAVED)
    assert isinstance(made, type(vm))
    return made


def _plan(vm: VMBase, spec: VMSpec, own: dict[str, str | None], name: str, linked: bool) -> Iterator[_Image]:
    """Every file to make; raises what would keep it from being made."""
    with vm._hypervisor._storage() as store:
        if linked and own and not store.overlay_formats:
            raise UnsupportedError(
                f"No thin copies of disks can be made on {vm._hypervisor.uri}.",
                hint="Copy them: linked=False",
                **vm._where,
            )
        for number, (path, format) in enumerate(own.items()):
            source = store.info(path)
            if format is not None and source.format != format:
                raise ImageFormatError(
                    f"The VM {vm._title} was not copied: its configuration says that {path} is {format}, and the image "
                    f"looks like {source.format}, which its guest may have written.",
                    hint=f"See: qemu-img info {path}",
                    **vm._where,
                )
            stem = name if number == 0 else f"{name}-{number}"
            suffix = f".{store.overlay_formats[0]}" if linked else posixpath.splitext(path)[1]
            yield _planned(vm, store, source, f"{stem}{suffix}", "overlay" if linked else "copy")
        if spec.seed is not None:
            seed = f"{name}-{os.urandom(4).hex()}{SEED_SUFFIX}"
            yield _planned(vm, store, store.info(spec.seed), seed, "seed")


def _planned(vm: VMBase, store: Storage, source: DiskInfo, file_name: str, kind: _Kind) -> _Image:
    path = _beside(source.path, file_name)
    if path is None:
        raise UnsupportedError(
            f"The VM {vm._title} was not copied: beside its disk {source.path}, which is not an image file, no other "
            "can be made.",
            hint="Move it into an image file first.",
            **vm._where,
        )
    if store.exists(path):
        raise images.exists_error(path)
    return _Image(source, path, kind)


def _beside(path: str, file_name: str) -> str | None:
    if path.startswith("["):  # a datastore's, "[one] web/web.vmdk"
        store, _, rest = path.partition("] ")
        return f"{store}] {posixpath.join(posixpath.dirname(rest), file_name)}"
    if not path.startswith("/") or path.startswith("/dev/"):
        return None
    return posixpath.join(posixpath.dirname(path), file_name)


def _spec_of_clone(vm: VMBase, spec: VMSpec, name: str, made: dict[str, str]) -> VMSpec:
    cards: list[Network] = []
    taken = {card.mac_address for card in spec.networks}
    for card in spec.networks:
        while (mac := vm._hypervisor._random_mac()) in taken:
            pass
        taken.add(mac)
        cards.append(replace(card, mac_address=mac))
    return replace(
        spec,
        name=name,
        disk_image=spec.disk_image and made.get(spec.disk_image, spec.disk_image),
        more_disks=tuple(made.get(disk, disk) for disk in spec.more_disks),
        seed=spec.seed and made[spec.seed],
        networks=tuple(cards),
    )


def _make(store: Storage, step: Undertaking, planned: list[_Image], progress: Progress | None) -> None:
    total = sum(image.source.size for image in planned if image.kind == "copy")
    before = 0
    for image in planned:
        source = image.source
        if image.kind == "overlay":
            storage.make(store, step, image.path, partial(_overlay, store, source))
        elif image.kind == "seed":
            storage.make(store, step, image.path, partial(_write_as, store, source))
        else:
            tell = None if progress is None else _part_of(progress, before, source.size, total)
            storage.make(store, step, image.path, partial(_copy, store, source, tell))
            before += source.size


def _overlay(store: Storage, source: DiskInfo, path: str) -> None:
    store.create(path, source.size, store.overlay_formats[0], source)


def _copy(store: Storage, source: DiskInfo, progress: Progress | None, path: str) -> None:
    store.copy(source.path, path, progress, format=source.format)


def _write_as(store: Storage, source: DiskInfo, path: str) -> None:
    """Copy a small file that holds secrets: only its owner and the hypervisor may read the new one too."""
    with TemporaryDirectory(prefix="virtuoso-") as folder:
        here = Path(folder) / "seed"
        store.download(source.path, str(here), None)
        store.write(path, here.read_bytes())


def _part_of(progress: Progress, before: int, size: int, total: int) -> Progress:
    """The progress of one copy among several; a store may count the bytes that it really copies, without holes."""

    def tell(done: int, of: int) -> None:
        progress(before + (size * done // of if of else size), total)

    return tell
