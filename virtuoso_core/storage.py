"""Storage: the disk images on a hypervisor's host, and the checks before one of them is made, sent or deleted."""

from __future__ import annotations

import os
import shlex
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator
from types import TracebackType
from typing import TYPE_CHECKING, NamedTuple, Self, TypeGuard

from . import images
from .errors import (
    ConnectionLostError,
    ImageError,
    ImageExistsError,
    ImageInUseError,
    ImageNotFoundError,
    InvalidStateError,
    InvalidValueError,
    VirtuosoError,
    VMNotFoundError,
)
from .facts import DiskInfo, Progress
from .spec import Feature, State, VMSpec, format_size, parse_size
from .unfinished import Undertaking, undertaking

if TYPE_CHECKING:
    from .calls.base import VMBase
    from .hypervisor import Hypervisor

Path = str | os.PathLike[str]


class OpenImage(NamedTuple):
    """An image that a running VM has open: as a disk, or because one of its disks is based on it."""

    vm: str
    uuid: str
    path: str
    is_base: bool


class Storage(ABC):
    """Plain acts on the files of a hypervisor's host, without checks of arguments. Paths are its own, absolute.

    What makes a file never writes over one that is there, and leaves none behind when it fails. In a ``with`` block
    several acts may share what they need.
    """

    formats: tuple[str, ...] = ("qcow2", "raw")
    """What ``create`` makes, the best first."""
    overlay_formats: tuple[str, ...] = ("qcow2",)
    """Those of them that can be overlays."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let go of what the acts in the block shared."""

    @abstractmethod
    def exists(self, path: str) -> bool:
        """Whether there is anything at the path."""

    @abstractmethod
    def info(self, path: str) -> DiskInfo:
        """What the image is. Raises ImageNotFoundError, ImageFormatError."""

    @abstractmethod
    def create(self, path: str, size: int, format: str, backing: DiskInfo | None) -> None:
        """Make an image of that many bytes. Raises ImageExistsError, ImageNotFoundError, NoSpaceError."""

    @abstractmethod
    def resize(self, path: str, size: int) -> None:
        """Give the image, which no running VM has, that many bytes."""

    @abstractmethod
    def delete(self, path: str) -> None:
        """Delete the file; one that is already gone stays so."""

    @abstractmethod
    def write(self, path: str, data: bytes) -> None:
        """Make a small file that only its owner and the hypervisor can read."""

    @abstractmethod
    def copy(self, source: str, target: str, progress: Progress | None, *, format: str | None = None) -> None:
        """Make the target a full copy of the source with all that is below it, in the source's format.

        Name the format where it is known: a guest can write another one's header into its raw image.
        """

    @abstractmethod
    def upload(self, source: str, target: str, progress: Progress | None) -> None:
        """Bring a file of this machine there."""

    @abstractmethod
    def download(self, source: str, target: str, progress: Progress | None) -> None:
        """Fetch a file into one of this machine, which is not there yet."""

    # What a storage may supply.

    def partial(self, path: str) -> str:
        """A name beside the path for what is not complete yet; the path itself where nothing can be renamed."""
        return path

    def publish(self, part: str, path: str) -> None:
        """Give what is complete its name. Raises ImageExistsError. Only where ``partial`` gives another one."""
        raise NotImplementedError

    def identity(self, path: str) -> Hashable:
        """What is the same for two paths that lead to one file."""
        return os.path.normpath(path)

    def backing(self, path: str) -> str | None:
        """The image that this one is a thin overlay of; None where it is none, or that is not told."""
        try:
            return self.info(path).backing
        except ImageError:
            return None

    def overlays(self, path: str) -> Iterable[str]:
        """The images beside this one that are based on it, as far as that is cheap to tell."""
        return ()


def create(
    hypervisor: Hypervisor, path: Path, size: int | str | None, backing: Path | None, format: str | None
) -> DiskInfo:
    """What ``hypervisor.create_disk()`` promises."""
    where, bytes_ = _path(hypervisor, path), None if size is None else parse_size(size)
    if size is None and backing is None:
        raise InvalidValueError(f"The disk image {where} has no size.", hint='Give one, such as "20 GiB".')
    with hypervisor._storage() as store:
        kinds = store.formats if backing is None else store.overlay_formats
        kind = format or next(iter(kinds), "")
        if kind not in kinds:
            what = "a disk image" if backing is None else "an overlay"
            raise InvalidValueError(
                f"{format!r} is not a format of {what} on {hypervisor.uri}.",
                hint=f"It takes: {', '.join(kinds) or 'none'}.",
            )
        below = None if backing is None else store.info(_path(hypervisor, backing))
        if below is not None:
            bytes_ = parse_size(below.size) if bytes_ is None else bytes_
            if bytes_ < below.size:
                raise InvalidValueError(
                    f"An overlay of {format_size(bytes_)} would cut off what is in {below.path}, which has "
                    f"{format_size(below.size)}.",
                    hint="Leave the size out, or give a larger one.",
                )
        assert bytes_ is not None
        wanted = bytes_
        _check_free(store, where)
        with undertaking(hypervisor, f"make the disk image {where}") as step:
            make(store, step, where, lambda part: store.create(part, wanted, kind, below))
        return store.info(where)


def info(hypervisor: Hypervisor, path: Path) -> DiskInfo:
    """What ``hypervisor.disk_info()`` promises."""
    where = _path(hypervisor, path)
    return hypervisor._storage().info(where)


def delete(hypervisor: Hypervisor, path: Path) -> None:
    """What ``hypervisor.delete_disk()`` promises."""
    where = _path(hypervisor, path)
    with hypervisor._storage() as store:
        if store.exists(where):
            check_unused(hypervisor, where, f"The disk image {where} was not deleted")
            store.delete(where)


def upload(hypervisor: Hypervisor, source: Path, path: Path, progress: Progress | None) -> DiskInfo:
    """What ``hypervisor.upload()`` promises."""
    mine, where = _local(source), _path(hypervisor, path)
    images.check_image(mine)
    if not os.access(mine, os.R_OK):
        raise ImageError(f"You may not read {mine}.", hint=f"Look: ls -l {shlex.quote(mine)}")
    with hypervisor._storage() as store:
        _check_free(store, where)
        with undertaking(hypervisor, f"upload {mine} to {where}") as step:
            make(store, step, where, lambda part: store.upload(mine, part, progress))
        return store.info(where)


def download(hypervisor: Hypervisor, path: Path, target: Path, progress: Progress | None) -> None:
    """What ``hypervisor.download()`` promises."""
    where, mine = _path(hypervisor, path), _local(target)
    with hypervisor._storage() as store:
        if not store.exists(where):
            raise ImageNotFoundError(f"There is no disk image {where} on {hypervisor.uri}.", uri=hypervisor.uri)
        if os.path.lexists(mine):
            raise images.exists_error(mine)
        images.check_directory(mine)
        with undertaking(hypervisor, f"download {where} to {mine}") as step:
            part = images.partial(mine)
            step.local_file(part)
            try:
                store.download(where, part, progress)
                images.publish(part, mine)
            except VirtuosoError as error:
                error.message = error.message.replace(part, mine)
                raise


def resize(vm: VMBase, path: Path, size: int | str, shrink: bool) -> int:
    """What ``vm.resize_disk()`` promises."""
    hypervisor = vm._hypervisor
    where, spec = _path(hypervisor, path), vm._read()
    disks = [disk for disk in (spec.disk_image, *spec.more_disks) if disk is not None]
    if where not in disks:
        raise ImageNotFoundError(
            f"The VM {vm._title} has no disk {where}.", hint=f"It has: {', '.join(disks) or 'none'}.", **vm._where
        )
    with hypervisor._storage() as store:
        now = store.info(where)
        wanted = now.size + parse_size(size.strip()[1:]) if _adds(size) else parse_size(size)
        if wanted == now.size:
            return now.size
        if wanted < now.size and not shrink:
            raise InvalidValueError(
                f"{where} has {format_size(now.size)}: {format_size(wanted)} would cut off what the guest has there.",
                hint="Make the guest's file systems smaller first, then give shrink=True.",
            )
        state = vm._get_state()
        if state is State.SUSPENDED:
            raise InvalidStateError(
                f"The VM {vm._title} is suspended: its memory knows the disk as it is.",
                hint="Start it, or stop it for good, first.",
                **vm._where,
            )
        if wanted < now.size and state is not State.STOPPED:
            raise InvalidStateError(
                f"The VM {vm._title} is {state}: its disk {where} cannot become smaller now.",
                hint="Stop it first.",
                **vm._where,
            )
        check_unused(hypervisor, where, f"The disk image {where} was not resized", besides=[vm._uuid])
        vm._resize_disk(where, wanted)
        return store.info(where).size


def _adds(size: object) -> TypeGuard[str]:
    return isinstance(size, str) and size.strip().startswith("+")


# What other steps that make or delete images use.


def make(store: Storage, step: Undertaking, path: str, act: Callable[[str], None]) -> None:
    """Make a file by ``act``, which gets the path to make it at, and let it have its name when it is complete.

    Raises ImageExistsError when there is something at the path, which stays.
    """
    part = store.partial(path)
    if part == path:
        step.file(path)
    else:
        step.part(part)
    try:
        act(part)
        if part != path:
            step.file(path)
            _publish(store, step, part, path)
    except VirtuosoError as error:
        if part == path and not isinstance(error, ConnectionLostError):
            step.keep(path)  # the storage left nothing: what is there is somebody else's, who was faster
        error.message = error.message.replace(part, path)
        raise


def _publish(store: Storage, step: Undertaking, part: str, path: str) -> None:
    try:
        store.publish(part, path)
    except ImageExistsError:
        step.keep(path)
        raise
    except BaseException:
        if store.exists(part) and store.identity(part) != store.identity(path):
            step.keep(path)  # ours did not get there
        raise


def check_unused(
    hypervisor: Hypervisor, path: str, refused: str, *, besides: Collection[str] = (), hint: str = ""
) -> None:
    """Raise ImageInUseError when a VM has the image, or an image is based on it: such one is not written nor deleted.

    Args:
        hypervisor: where.
        path: of the image.
        refused: what is not done because of it, as the start of the message.
        besides: names or UUIDs of VMs that may have it.
        hint: what to do then, where there is something better than to delete what needs it.
    """
    if Feature.CREATE_DISK not in hypervisor.features:
        _check_vms(hypervisor, None, path, refused, besides, hint)
        return
    with hypervisor._storage() as store:
        own = _check_vms(hypervisor, store, path, refused, besides, hint)
        for overlay in store.overlays(path):
            if store.identity(overlay) not in own:
                raise ImageInUseError(
                    f"{refused}: the disk image {overlay} is an overlay of it.",
                    hint=hint or "Delete that first, if nobody needs it.",
                    uri=hypervisor.uri,
                )


def _check_vms(
    hypervisor: Hypervisor, store: Storage | None, path: str, refused: str, besides: Collection[str], hint: str
) -> set[Hashable]:
    """Return what the VMs that may have it have."""
    same: Callable[[str], Hashable] = str if store is None else store.identity
    wanted = same(path)
    own: set[Hashable] = set()
    chains: dict[str, list[str]] = {}
    for vm in hypervisor._list_vms():
        try:
            has = all_images(vm._read())
        except VMNotFoundError:
            continue  # deleted while we looked
        if vm._known_name in besides or vm._uuid in besides:
            own |= {same(image) for image in has}
            continue
        for image in has:
            if image not in chains:
                chains[image] = [] if store is None else list(chain(store, image))
            problem = ""
            if same(image) == wanted:
                problem = f"the VM {vm._known_name!r} has it"
            elif any(same(each) == wanted for each in chains[image]):
                problem = f"the disk {image} of the VM {vm._known_name!r} is based on it"
            if problem:
                raise ImageInUseError(
                    f"{refused}: {problem}.",
                    hint=hint or f"Remove {vm._known_name!r}, or give it another disk, first.",
                    vm=vm._known_name,
                    uri=hypervisor.uri,
                )
    for held in hypervisor._open_images():
        if held.vm in besides or held.uuid in besides:
            own.add(same(held.path))
        elif same(held.path) == wanted:
            raise ImageInUseError(
                f"{refused}: the running VM {held.vm!r} has it open.",
                hint=hint or f"Stop {held.vm!r}, or take it away from there, first.",
                vm=held.vm,
                uri=hypervisor.uri,
            )
    return own


def is_a_vms(hypervisor: Hypervisor, path: str, *, besides: Collection[str] = ()) -> bool:
    """Whether a VM has a file of just that path, besides those of these UUIDs."""
    for vm in hypervisor._list_vms():
        try:
            if vm._uuid not in besides and path in all_images(vm._read()):
                return True
        except VMNotFoundError:
            continue  # deleted while we looked
    return False


def delete_seed(hypervisor: Hypervisor, path: str, uuid: str) -> None:
    """Delete what cloud-init read in the VM of that UUID; where a copy that another program made has it, it stays."""
    if not is_a_vms(hypervisor, path, besides=[uuid]):
        with hypervisor._storage() as store:
            store.delete(path)


def chain(store: Storage, path: str) -> Iterator[str]:
    """The images that this one is based on, the nearest first."""
    seen = {store.identity(path)}
    here = store.backing(path)
    while here is not None and store.identity(here) not in seen:
        yield here
        seen.add(store.identity(here))
        here = store.backing(here)


def all_images(spec: VMSpec) -> list[str]:
    """Every file that the VM has: disks, CD-ROM, what cloud-init reads."""
    return [path for path in (spec.disk_image, *spec.more_disks, spec.cdrom, spec.seed) if path is not None]


def _path(hypervisor: Hypervisor, path: Path) -> str:
    text = os.fspath(path) if isinstance(path, (str, os.PathLike)) else path
    if not isinstance(text, str) or not text.strip() or not text.isprintable():
        raise InvalidValueError(f"{path!r} is not the path of a disk image.")
    return hypervisor._image_path(text)


def _local(path: Path) -> str:
    if not isinstance(path, (str, os.PathLike)) or not os.fspath(path):
        raise InvalidValueError(f"{path!r} is not the path of a file of this machine.")
    return os.path.abspath(os.path.expanduser(os.fspath(path)))


def _check_free(store: Storage, path: str) -> None:
    if store.exists(path):
        raise images.exists_error(path)
