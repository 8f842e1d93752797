"""Hypervisor: the abstract spec of a connection to one hypervisor. Drivers subclass it."""

from __future__ import annotations

import inspect
import os
import random
import shlex
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, fields
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self
from weakref import WeakSet

from .errors import (
    ConnectionClosedError,
    InvalidNetworkError,
    InvalidValueError,
    ReadOnlyError,
    UnsupportedError,
    UnsupportedNetworkError,
    VMNotFoundError,
)
from .events import Event, EventStream
from .facts import DiskInfo, Progress, Stats, VMSummary
from .spec import Feature, Network, Option, VMSpec, check_mac

if TYPE_CHECKING:
    from .diagnosis import Check
    from .storage import OpenImage, Storage
    from .uri import URI
    from .vm import VM


@dataclass(frozen=True, slots=True)
class CredentialRequest:
    """What a hypervisor asks at sign-in.

    Attributes:
        kind: "username" or "password".
        prompt: its own words, for people.
        uri: who asks, without a password.
    """

    kind: Literal["username", "password"]
    prompt: str
    uri: str


Credentials = tuple[str, str] | Callable[[CredentialRequest], str | None]
"""A pair of user name and password, or a function that is asked for each; None from it means "give up"."""


class Hypervisor(ABC):
    """A connection to one hypervisor, as ``connect()`` returns it.

    One Hypervisor may be used by several threads at a time; a VM object by one thread at a time.

    A driver's subclass declares the class attributes below and supplies the methods that start with an
    underscore; the public methods are the same on every hypervisor and are not overridden.

    Example:
        >>> from virtuoso_core import connect
        >>> with connect("memory:///example") as hypervisor:
        ...     [vm.name for vm in hypervisor.vms()]
        []
    """

    name: ClassVar[str]
    """The driver's short name, such as "kvm"; ``connect(uri, driver=name)`` chooses by it."""
    schemes: ClassVar[tuple[str, ...]]
    """The URI schemes that the driver serves."""
    features: frozenset[Feature] = frozenset()
    """What this hypervisor can do beyond the calls that every one answers."""
    networks: Mapping[str, str] = MappingProxyType({})
    """The types of network that it has, each with a sentence for people."""
    options: Mapping[str, Option] = MappingProxyType({})
    """The keys that ``vm.set()`` takes here."""
    modifiable: frozenset[str] = frozenset(each.name for each in fields(VMSpec))
    """What of an existing VM can be changed here, where the feature "modify" is: names of fields, or "options.KEY"."""
    mac_prefix: ClassVar[str] = "52:54:00"
    """How the MAC addresses start that are made up for new network cards."""

    def __init__(self, uri: URI, *, readonly: bool = False) -> None:
        self._uri = uri
        self._readonly = readonly
        self._closed = False
        self._streams: WeakSet[EventStream] = WeakSet()
        self._streams_lock = threading.Lock()

    # What people call.

    @property
    def uri(self) -> URI:
        """Where this hypervisor is; ``str()`` of it hides the password."""
        return self._uri

    @property
    def readonly(self) -> bool:
        """Whether calls that change something are refused."""
        return self._readonly

    @property
    def version(self) -> str:
        """What answers, for people, such as "QEMU 7.2.9, libvirt 9.0.0".

        Raises:
            ConnectionLostError, ConnectionClosedError
        """
        self._ready()
        return self._version()

    def new_vm(self) -> VM:
        """A VM with this hypervisor's defaults, which exists once ``save()`` was called on it.

        Example:
            >>> from virtuoso_core import connect
            >>> with connect("memory:///example") as hypervisor:
            ...     vm = hypervisor.new_vm()
            ...     vm.name = "web"
            ...     vm.save()
            <SaveResult.APPLIED: 'applied'>
        """
        self._ready()
        return self._new_vm()

    def find(self, key: str) -> VM | None:
        """The VM with that name or UUID, or None when there is none.

        Only "no such VM" gives None: every other trouble raises.

        Raises:
            ConnectionLostError, ConnectionClosedError, HypervisorError
        """
        self._ready()
        if not isinstance(key, str) or not key:
            raise InvalidValueError(f"{key!r} is neither a VM's name nor its UUID.")
        try:
            return self._find_vm(key)
        except VMNotFoundError:
            return None

    def get(self, key: str) -> VM:
        """The VM with that name or UUID.

        Raises:
            VMNotFoundError: there is none; the names nearest to it are listed.
        """
        vm = self.find(key)
        if vm is not None:
            return vm
        import difflib

        near = difflib.get_close_matches(key, [vm.name for vm in self._list_vms()], n=3)
        hint = (
            f"Did you mean {' or '.join(map(repr, near))}?"
            if near
            else f"See what is there: virtuoso -c {shlex.quote(str(self.uri))} list"
        )
        raise VMNotFoundError(f"There is no VM {_clip(key)} on {self.uri}.", hint=hint, vm=key, uri=self.uri)

    def vms(self) -> list[VM]:
        """Every VM of this hypervisor, by name.

        A fixed number of calls whatever the number of VMs; each one's settings are read when first looked at.
        """
        self._ready()
        return sorted(self._list_vms(), key=lambda vm: vm.name)

    def summaries(self) -> list[VMSummary]:
        """Name, UUID, state, memory (KiB) and CPUs of every VM, by name, in as few calls as the hypervisor allows."""
        self._ready()
        return sorted(self._summaries(), key=lambda summary: summary.name)

    # Disk images on its host.

    def create_disk(
        self,
        path: str | os.PathLike[str],
        size: int | str | None = None,
        *,
        backing: str | os.PathLike[str] | None = None,
        format: str | None = None,
    ) -> DiskInfo:
        """Make a disk image on the hypervisor's host: an empty one, or a thin overlay of another.

        Args:
            path: where; its directory must be there.
            size: bytes, or a text such as "20 GiB"; the backing image's when left out.
            backing: the image that holds what is not written to the new one. It is never changed.
            format: such as "qcow2", "raw", "vmdk"; what suits the hypervisor when left out.

        Raises:
            ImageExistsError: there is something at the path.
            ImageNotFoundError: there is no backing image, or no directory.
            InvalidValueError: no size that makes sense; an overlay in a format that cannot be one.
            NoSpaceError, UnsupportedError

        Example:
            >>> from virtuoso_core import connect
            >>> with connect("memory:///images") as hypervisor:
            ...     base = hypervisor.create_disk("/images/base.qcow2", "20 GiB")
            ...     hypervisor.create_disk("/images/web.qcow2", backing=base.path).backing
            '/images/base.qcow2'
        """
        self._require(Feature.CREATE_DISK, "make disk images")
        self._ready(writing=f"make the disk image {path}")
        from . import storage

        return storage.create(self, path, size, backing, format)

    def disk_info(self, path: str | os.PathLike[str]) -> DiskInfo:
        """What a disk image on the hypervisor's host is: format, size, backing image.

        Raises:
            ImageNotFoundError, ImageFormatError, UnsupportedError
        """
        self._require(Feature.CREATE_DISK, "look at disk images")
        self._ready()
        from . import storage

        return storage.info(self, path)

    def delete_disk(self, path: str | os.PathLike[str]) -> None:
        """Delete a disk image that no VM has and no overlay is based on; one that is already gone stays so.

        Raises:
            ImageInUseError: a VM has it, or an overlay is based on it that a VM has or that lies beside it; the message
                names which.
            UnsupportedError
        """
        self._require(Feature.CREATE_DISK, "delete disk images")
        self._ready(writing=f"delete the disk image {path}")
        from . import storage

        storage.delete(self, path)

    def upload(
        self, source: str | os.PathLike[str], path: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> DiskInfo:
        """Bring a disk image or ISO file from this machine to the hypervisor's host.

        Nothing is written over, and nothing is left when it fails. On this machine nothing is at the path until all of
        it has arrived.

        Args:
            source: the file here.
            path: on the hypervisor's host.
            progress: called with the bytes sent and the bytes in all; what it raises ends the upload.

        Raises:
            ImageNotFoundError: there is no such file here, or no such directory there.
            ImageExistsError: there is something at the path.
            NoSpaceError, UnsupportedError
        """
        self._require(Feature.UPLOAD, "take disk images")
        self._ready(writing=f"bring {source} to its host")
        from . import storage

        return storage.upload(self, source, path, progress)

    def download(
        self, path: str | os.PathLike[str], target: str | os.PathLike[str], *, progress: Progress | None = None
    ) -> None:
        """Fetch a disk image from the hypervisor's host into a file of this machine, as it is.

        Raises:
            ImageNotFoundError: there is no such image there.
            ImageExistsError: there is something at the target.
            NoSpaceError, UnsupportedError
        """
        self._require(Feature.UPLOAD, "give disk images")
        self._ready()
        from . import storage

        storage.download(self, path, target, progress)

    # Watching.

    def stats(self) -> list[Stats]:
        """What each running VM uses, by name, in a fixed number of calls whatever the number of VMs.

        Raises:
            UnsupportedError
        """
        self._require(Feature.STATS, "tell what VMs use")
        self._ready()
        return sorted(self._all_stats(), key=lambda stats: stats.name)

    def events(self, timeout: float | None = None) -> EventStream:
        """What happens to VMs from now on, whoever does it: iterate over it, also with ``async for``.

        Args:
            timeout: seconds without an event after which the iteration ends; None never ends it.

        Raises:
            UnsupportedError
            InvalidValueError: a timeout that is none.
            ConnectError: the hypervisor takes no connection to listen on.
            ConnectionLostError: while iterating, when the hypervisor went away. Nothing reconnects by itself.

        Example:
            >>> from virtuoso_core import connect
            >>> with connect("memory:///watched") as hypervisor:
            ...     with hypervisor.events(timeout=1) as events:
            ...         vm = hypervisor.new_vm()
            ...         vm.name = "web"
            ...         vm.save()
            ...         print(next(events).type)
            <SaveResult.APPLIED: 'applied'>
            saved
        """
        self._require(Feature.EVENTS, "tell what happens to VMs")
        self._ready()
        stream = EventStream(self, timeout)
        with self._streams_lock:
            self._streams.add(stream)
        if self._closed:  # meanwhile, by another thread
            stream.close()
        return stream

    def close(self) -> None:
        """End the connection; later calls raise ConnectionClosedError. Closing twice does nothing.

        Who iterates over ``events()``, in this thread or another, comes to the end.
        """
        if not self._closed:
            self._closed = True
            with self._streams_lock:
                streams = list(self._streams)
            for stream in streams:
                stream.close()
            self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.uri}{' closed' if self._closed else ''}>"

    def _repr_html_(self) -> str:
        """How a notebook shows it."""
        from .notebook import hypervisor_table

        return hypervisor_table(self)

    # What a driver supplies.

    @classmethod
    @abstractmethod
    def open(cls, uri: URI, *, readonly: bool = False, credentials: Credentials | None = None) -> Hypervisor:
        """Connect, by this class or, where there are several ways in, by another one for the same hypervisor.

        Raises ConnectError or AuthenticationError; never prompts.
        """

    @abstractmethod
    def _version(self) -> str:
        """The public ``version``."""

    @abstractmethod
    def _new_vm(self) -> VM:
        """A VM that is not saved yet, with this hypervisor's defaults."""

    @abstractmethod
    def _list_vms(self) -> Iterable[VM]:
        """Every VM, in any order, in a fixed number of calls."""

    # What a driver may supply.

    def _close(self) -> None:
        """Let go of the connection, where one is held. Never raises because it is already broken."""

    def _find_vm(self, key: str) -> VM:
        """The VM with that UUID or name. Override where that takes fewer calls than a list.

        Raises VMNotFoundError, and only then, when there is none.
        """
        found = list(self._list_vms())
        for vm in (*(vm for vm in found if vm.uuid == key.lower()), *(vm for vm in found if vm.name == key)):
            return vm
        raise VMNotFoundError(f"There is no VM {_clip(key)} on {self.uri}.", vm=key, uri=self.uri)

    def _summaries(self) -> Iterable[VMSummary]:
        """Override where one call tells about many VMs."""
        for vm in self._list_vms():
            try:
                yield VMSummary(vm.name, vm.uuid, vm.state, vm.memory, vm.cpus)
            except VMNotFoundError:
                continue  # deleted while we looked

    def _storage(self) -> Storage:
        """With the features create-disk and upload: the disk images on the hypervisor's host."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.CREATE_DISK!r}")

    def _open_images(self) -> Iterable[OpenImage]:
        """The images that running VMs have open, where a call tells all: of what runs, configurations tell a part."""
        return ()

    def _all_stats(self) -> Iterable[Stats]:
        """With the feature stats: what each running VM uses, in a fixed number of calls."""
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.STATS!r}")

    def _watch(self, tell: Callable[[Event | Exception], None]) -> Callable[[], None]:
        """With the feature events: call ``tell`` for each event from now on, in any thread, and return what ends that.

        An exception told ends the iteration with it: ConnectionLostError.
        """
        raise NotImplementedError(f"{type(self).__name__} declares {Feature.EVENTS!r}")

    def _image_path(self, text: str) -> str:
        """The disk image as the hypervisor calls it; local hypervisors make it absolute."""
        return text

    def _memory_size(self, kib: int) -> int:
        """The amount of memory that the hypervisor makes of that one, where it rounds up."""
        return kib

    def _network_defaults(self, network: Network) -> Network:
        """The network with the source and model that it gets when none was given."""
        return network

    @classmethod
    def _diagnose(cls, uri: URI) -> Iterable[Check]:
        """For `virtuoso doctor`: what a connection to the URI and its VMs need here. Connects to nothing."""
        return ()

    def _examine(self) -> Iterable[Check]:
        """For `virtuoso doctor`: what the hypervisor itself can tell."""
        return ()

    def _examine_image(self, path: str) -> Iterable[Check]:
        """For `virtuoso doctor --image`: whether VMs could use this disk image."""
        return ()

    # What the core and the drivers share.

    def _ready(self, *, writing: str = "") -> None:
        """Refuse when closed, or when about to do what ``writing`` says on a read-only connection."""
        if self._closed:
            raise ConnectionClosedError(
                f"The connection to {self.uri} was closed before.", hint="Call connect() again.", uri=self.uri
            )
        if writing and self._readonly:
            raise ReadOnlyError(
                f"Cannot {writing}: the connection to {self.uri} is read-only.",
                hint="Connect without readonly=True.",
                uri=self.uri,
            )

    def _require(self, feature: Feature, doing: str, hint: str = "") -> None:
        """Refuse in words what this hypervisor did not declare."""
        if feature not in self.features:
            raise UnsupportedError(
                f"The {self.name} driver cannot {doing}: {self.uri} has no feature {feature.value!r}.",
                hint=hint,
                uri=self.uri,
            )

    def _make_network(
        self, type: str, *, mac_address: str | None, source: str | None, model: str | None, taken: Iterable[str]
    ) -> Network:
        """A checked network with every default filled in."""
        key = type.replace("-", "_").lower() if isinstance(type, str) else ""
        if key not in self.networks:
            raise UnsupportedNetworkError(
                f"The {self.name} driver has no network of type {type!r} on {self.uri}.",
                hint=f"It has: {', '.join(self.networks) or 'none'}.",
                uri=self.uri,
            )
        for what, value in (("source", source), ("model", model)):
            if value is not None and (
                not isinstance(value, str) or not value or not value.isprintable() or len(value) > 200
            ):
                raise InvalidNetworkError(
                    f"{value!r} is not a {what} of a network.", hint="It is the name of one, a str."
                )
        if mac_address is None:
            while (mac := self._random_mac()) in taken:
                pass
        elif (mac := check_mac(mac_address)) in taken:
            raise InvalidNetworkError(
                f"The VM already has a network card with the MAC address {mac}.", hint="Leave it out to get a new one."
            )
        return self._network_defaults(Network(key, mac, source, model))

    def _random_mac(self) -> str:
        """The vendor's prefix and chance: nothing else makes an address unique among hosts that do not talk."""
        given = self.mac_prefix.split(":")
        return ":".join(given + [f"{random.randrange(256):02x}" for _ in range(6 - len(given))])

    @classmethod
    def _faults(cls) -> list[str]:
        """What keeps this class from being a driver, in words; empty when nothing does."""
        found = (
            [f"it lacks the method {name}()" for name in sorted(cls.__abstractmethods__)]
            if inspect.isabstract(cls)
            else []
        )
        if not isinstance(getattr(cls, "name", None), str) or not cls.name:
            found.append("it declares no name")
        schemes: Any = getattr(cls, "schemes", None)
        if not isinstance(schemes, tuple) or not schemes or not all(isinstance(s, str) and s for s in schemes):
            found.append("it declares no schemes (a tuple of str)")
        return found


def default_spec(memory: int = 1024 * 1024, cpus: int = 1) -> VMSpec:
    """The VMSpec of a VM that has no name yet, for drivers without a template."""
    return VMSpec(name="", memory=memory, cpus=cpus)


def _clip(key: str) -> str:
    return repr(key if len(key) <= 60 else key[:57] + "...")
