"""Plain frozen data that every driver shares: memory units, State, Feature, Network, Option, VMSpec."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from decimal import Decimal
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

from .errors import InvalidNetworkError, InvalidOptionError, InvalidValueError

MiB = 1024
"""One mebibyte in KiB, the unit of ``vm.memory``: ``vm.memory = 512 * MiB``."""

GiB = 1024 * MiB
"""One gibibyte in KiB, the unit of ``vm.memory``: ``vm.memory = 4 * GiB``."""

MAX_MEMORY = 4 * 1024 * 1024 * GiB
"""4 PiB in KiB: what today's processors can address at all."""

MAX_DISK = 1024**6
"""1 EiB in bytes: no storage holds more in one file."""

SEED_SUFFIX = ".cloud-init.iso"
"""How the files are named that cloud-init reads, and known by: nobody else's disc is deleted with a VM."""

MAX_CPUS = 4096
MAX_NAME_BYTES = 200
"""Hypervisors keep a VM in files named after it; 255 bytes is a file name's limit, suffixes included."""

_BYTES = {
    "kib": 1024, "mib": 1024**2, "gib": 1024**3, "tib": 1024**4, "pib": 1024**5,
    "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4, "pb": 1000**5,
    "k": 1024, "m": 1024**2, "g": 1024**3, "t": 1024**4, "p": 1024**5,
}  # fmt: skip


def parse_memory(value: object) -> int:
    """An amount of memory in KiB.

    Args:
        value: an int counts KiB; a string needs a unit, KiB MiB GiB TiB PiB (or K M G T P, the same) or the
            decimal KB MB GB TB PB.

    Raises:
        InvalidValueError: it is no amount of memory, or not a whole number of KiB, or out of range.

    Example:
        >>> parse_memory("1.5 GiB"), parse_memory(512000)
        (1572864, 512000)
    """
    takes = 'Give a whole number of KiB, or a text with a unit such as "512 MiB" or "4GiB".'
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,20}(?:\.\d{1,9})?)\s*([a-zA-Z]+)\s*", value, re.ASCII)
        unit = _BYTES.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise InvalidValueError(f"{_short(value)} is not an amount of memory.", hint=takes)
        kib = Decimal(match[1]) * unit / 1024
        if kib != int(kib):
            raise InvalidValueError(f"{_short(value)} is not a whole number of KiB.", hint=takes)
        amount = int(kib)
    elif isinstance(value, int) and not isinstance(value, bool):
        amount = value
    else:
        raise InvalidValueError(f"{_short(value)} is not an amount of memory.", hint=takes)
    if not 1 <= amount <= MAX_MEMORY:
        raise InvalidValueError(
            f"{_short(value)} is out of range for memory.",
            hint=f"It must be from 1 KiB to {format_memory(MAX_MEMORY)}.",
        )
    return amount


def format_memory(kib: int) -> str:
    """KiB as people write it, exactly.

    Example:
        >>> format_memory(524288), format_memory(512001)
        ('512 MiB', '512001 KiB')
    """
    for unit, size in (("PiB", 1024**4), ("TiB", 1024**3), ("GiB", GiB), ("MiB", MiB)):
        if kib and kib % size == 0:
            return f"{kib // size} {unit}"
    return f"{kib} KiB"


def parse_size(value: object) -> int:
    """The size of a disk in bytes, whole sectors of 512 bytes: what lies between is rounded up.

    Args:
        value: an int counts bytes; a text needs a unit, as for ``parse_memory()``.

    Raises:
        InvalidValueError: it is no size, or one that no disk can have.

    Example:
        >>> parse_size("1.5 GiB"), parse_size(512000), parse_size("1 KB")
        (1610612736, 512000, 1024)
    """
    takes = 'Give a whole number of bytes, or a text with a unit such as "20 GiB".'
    if isinstance(value, str):
        match = re.fullmatch(r"\s*(\d{1,20}(?:\.\d{1,9})?)\s*([a-zA-Z]+)\s*", value, re.ASCII)
        unit = _BYTES.get(match[2].lower()) if match else None
        if match is None or unit is None:
            raise InvalidValueError(f"{_short(value)} is not the size of a disk.", hint=takes)
        amount = math.ceil(Decimal(match[1]) * unit)
    elif isinstance(value, int) and not isinstance(value, bool):
        amount = value
    else:
        raise InvalidValueError(f"{_short(value)} is not the size of a disk.", hint=takes)
    if not 1 <= amount <= MAX_DISK:
        raise InvalidValueError(
            f"{_short(value)} is out of range for a disk.", hint=f"It must be from 1 byte to {format_size(MAX_DISK)}."
        )
    return -(-amount // 512) * 512


def format_size(size: int) -> str:
    """Bytes as people write them, exactly.

    Example:
        >>> format_size(21474836480), format_size(1000)
        ('20 GiB', '1000 bytes')
    """
    return format_memory(size // 1024) if size and size % 1024 == 0 else f"{size} bytes"


def check_name(value: object, of: str = "VM") -> str:
    """A name, of a VM or of a snapshot, that every hypervisor can keep in a file and in XML.

    Raises:
        InvalidValueError: empty, too long, with a slash or a control character, or not a str.

    Example:
        >>> check_name("My new VM")
        'My new VM'
    """
    if not isinstance(value, str):
        raise InvalidValueError(f"A {of}'s name is a str, not {type(value).__name__}.")
    if not value.strip():
        raise InvalidValueError(f"The {of}'s name is empty.", hint='Give it one, such as "web-1".')
    if value in (".", "..") or "/" in value:
        raise InvalidValueError(
            f"{_short(value)} cannot be a {of}'s name: it is kept as a file.", hint="Leave out the slash."
        )
    bad = next((c for c in value if not _xml_char(c) or c in "\t\n\r\x7f\x85\u2028\u2029"), None)
    if bad is not None:
        raise InvalidValueError(f"A {of}'s name cannot hold the character {bad!r}.", hint="Use printable characters.")
    size = len(value.encode())
    if size > MAX_NAME_BYTES:
        raise InvalidValueError(
            f"The {of}'s name is {size} bytes long, {_short(value)}.", hint=f"{MAX_NAME_BYTES} bytes is the limit."
        )
    return value


def check_text(value: object, what: str) -> str:
    """A text for people, such as a description, that XML can hold.

    Raises:
        InvalidValueError: no str, or one with a control character. ``what`` is its subject.
    """
    if not isinstance(value, str) or not all(_xml_char(c) for c in value):
        raise InvalidValueError(f"{what} is not {_short(value)}.", hint="Give a text without control characters.")
    return value


def check_cpus(value: object) -> int:
    """A number of virtual CPUs.

    Raises:
        InvalidValueError: not an int from 1 to 4096.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= MAX_CPUS:
        raise InvalidValueError(
            f"{_short(value)} is not a number of CPUs.", hint=f"It must be an int from 1 to {MAX_CPUS}."
        )
    return value


def check_mac(value: object) -> str:
    """A MAC address in libvirt's spelling: lower case, colons.

    Raises:
        InvalidNetworkError: it is no MAC address, or one that no single card may have.

    Example:
        >>> check_mac("52-54-00-45-67-AB")
        '52:54:00:45:67:ab'
    """
    text = str(value).strip().lower().replace("-", ":")
    hint = 'Six pairs of hexadecimal digits, such as "52:54:00:45:67:89".'
    if not re.fullmatch(r"[0-9a-f]{2}(:[0-9a-f]{2}){5}", text, re.ASCII):
        raise InvalidNetworkError(f"{_short(value)} is not a MAC address.", hint=hint)
    if int(text[:2], 16) & 1:
        raise InvalidNetworkError(
            f"{text} is a multicast address, which no network card can have.",
            hint=f"The first pair must be even: {int(text[:2], 16) & 0xFE:02x}{text[2:]} would do.",
        )
    if text == "00:00:00:00:00:00":
        raise InvalidNetworkError("A network card cannot have the MAC address of all zeros.", hint=hint)
    return text


def _xml_char(c: str) -> bool:
    code = ord(c)
    return c in "\t\n\r" or 0x20 <= code <= 0xD7FF or 0xE000 <= code <= 0xFFFD or code >= 0x10000


def _short(value: object) -> str:
    try:
        text = repr(value)
    except Exception:  # an int of over 4,300 digits, an object whose repr() fails
        return f"That {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:40]}...{text[-1]}"


class State(StrEnum):
    """What a VM is doing, asked at each look."""

    NEW = "new"
    """Not saved yet: the hypervisor does not know it."""
    STOPPED = "stopped"
    RUNNING = "running"
    PAUSED = "paused"
    SUSPENDED = "suspended"
    """Off, with its memory kept on disk: start() goes on where it was."""
    CRASHED = "crashed"
    """The guest died: nothing is left that could be asked, though its process may still be there."""
    UNKNOWN = "unknown"


class Feature(StrEnum):
    """Something that one hypervisor can do and another cannot; ask with ``feature in hypervisor.features``."""

    MODIFY = "modify"
    """Change an existing VM."""
    RENAME = "rename"
    """Give an existing VM another name."""
    SHUTDOWN = "shutdown"
    """Ask the guest to stop, instead of pulling the plug."""
    REBOOT = "reboot"
    PAUSE = "pause"
    """pause() and resume()."""
    ADDRESSES = "addresses"
    """Tell the guest's IP addresses."""
    SCREENSHOT = "screenshot"
    DELETE_DISK = "delete-disk"
    """Delete a VM's disk image with it."""
    READONLY = "readonly"
    """Connections that cannot change anything."""
    CREATE_DISK = "create-disk"
    """Make, resize, look at and delete disk images on the hypervisor's host."""
    UPLOAD = "upload"
    """Bring disk images to the hypervisor's host and fetch them."""
    DISKS = "disks"
    """VMs with more disks than the main one."""
    CDROM = "cdrom"
    CLOUD_INIT = "cloud-init"
    """Give guests what cloud-init reads at their first start."""
    RUN = "run"
    """Run commands inside guests."""
    CONSOLE = "console"
    """Read and write a guest's serial console."""
    DISPLAY = "display"
    """Tell where a VM's screen can be seen."""
    SNAPSHOT = "snapshot"
    CLONE = "clone"
    LIVE = "live"
    """Change memory and CPUs of a running VM."""
    AUTOSTART = "autostart"
    """Start VMs with their host."""
    STATS = "stats"
    SUSPEND = "suspend"
    """Keep a VM's memory on disk, and go on from there."""
    MIGRATE = "migrate"
    """Move running VMs to another host."""
    EVENTS = "events"
    """Tell what happens to VMs, whoever did it."""


BASIC = frozenset(list(Feature)[:9])
"""The features, up to READONLY, that nearly every hypervisor has."""


class SaveResult(StrEnum):
    """What ``vm.save()`` did."""

    UNCHANGED = "unchanged"
    """Nothing differed: nothing was written."""
    APPLIED = "applied"
    """The change is in force."""
    NEXT_START = "next-start"
    """The VM is running: the change is written and waits for its next start."""


@dataclass(frozen=True, slots=True)
class Network:
    """One network card of a VM.

    Attributes:
        type: "nat", "bridged", "host_only", "internal", or "other" for what none of them describes.
        mac_address: in lower case with colons; what tells two cards apart.
        source: the host's side: a network's, bridge's or network card's name; None where there is none.
        model: the card that the guest sees, in the hypervisor's word, such as "virtio".
    """

    type: str
    mac_address: str
    source: str | None = None
    model: str | None = None

    def __str__(self) -> str:
        parts = [self.type, self.mac_address]
        parts += [f"source={self.source}"] if self.source else []
        parts += [f"model={self.model}"] if self.model else []
        return " ".join(parts)


OptionKind = Literal["bool", "int", "str", "list"]


@dataclass(frozen=True)
class Option:
    """A key that ``vm.set()`` takes on one kind of hypervisor.

    Attributes:
        name: the key.
        kind: "bool", "int", "str" or "list" (of str).
        doc: one sentence for people, shown by ``virtuoso drivers --options``.
        choices: the values taken, when they are few; for a list, of each item.
        minimum, maximum: bounds of an int, or of a str's length in characters.
        secret: never shown.
        example: a value that it takes, for documents and tests, where ``choices`` and ``kind`` do not give one.
        check: a further test of a value of the right kind, which raises InvalidOptionError or returns it.
        same: whether the hypervisor's own spelling means the value that was asked for.
    """

    name: str
    kind: OptionKind
    doc: str
    choices: tuple[str, ...] = ()
    minimum: int | None = None
    maximum: int | None = None
    secret: bool = False
    example: Any = None
    check: Callable[[Any], Any] | None = field(default=None, repr=False, compare=False)
    same: Callable[[Any, Any], bool] = field(
        default=lambda wanted, found: bool(wanted == found), repr=False, compare=False
    )

    def parse(self, value: object) -> Any:
        """The value in its own type; texts are taken too, so that a command line can pass them on.

        Raises:
            InvalidOptionError: listing what is taken.

        Example:
            >>> Option("headless", "bool", "No window").parse("yes")
            True
        """
        parsed: Any = getattr(self, f"_parse_{self.kind}")(value)
        bound = len(parsed) if self.kind == "str" else parsed if self.kind == "int" else None
        if bound is not None and (
            (self.minimum is not None and bound < self.minimum) or (self.maximum is not None and bound > self.maximum)
        ):
            raise self._bad(value)
        items = parsed if self.kind == "list" else [parsed]
        if self.choices and not all(item in self.choices for item in items):
            raise self._bad(value)
        return self.check(parsed) if self.check else parsed

    @property
    def takes(self) -> str:
        """What the option takes, in words.

        Example:
            >>> Option("accel", "str", "Acceleration", choices=("kvm", "tcg")).takes
            "'kvm' or 'tcg'"
        """
        if self.choices:
            values = " or ".join(repr(choice) for choice in self.choices)
            return f"a list of {values}, in order" if self.kind == "list" else values
        low, high = self.minimum, self.maximum
        span = (
            ""
            if low is None and high is None
            else f" of {low or 0} to {high}"
            if high is not None
            else f" of at least {low}"
        )
        return {
            "bool": "True or False",
            "int": f"a whole number{span}",
            "str": f"a text{span + ' characters' if span else ''}",
            "list": "a list of texts",
        }[self.kind]

    def _bad(self, value: object) -> InvalidOptionError:
        shown = "That value" if self.secret else _short(value)
        return InvalidOptionError(
            f"{shown} is not a value of the option {self.name!r}.", hint=f"It takes {self.takes}."
        )

    def _parse_bool(self, value: object) -> bool:
        if isinstance(value, bool):
            return value
        words = {
            "true": True,
            "yes": True,
            "on": True,
            "1": True,
            "false": False,
            "no": False,
            "off": False,
            "0": False,
        }
        if isinstance(value, str) and value.strip().lower() in words:
            return words[value.strip().lower()]
        raise self._bad(value)

    def _parse_int(self, value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
        if isinstance(value, str) and re.fullmatch(r"\s*-?\d{1,18}\s*", value, re.ASCII):
            return int(value)
        raise self._bad(value)

    def _parse_str(self, value: object) -> str:
        if isinstance(value, str) and all(_xml_char(c) for c in value):
            return value
        raise self._bad(value)

    def _parse_list(self, value: object) -> tuple[str, ...]:
        items = value.split(",") if isinstance(value, str) else value
        if not isinstance(items, (list, tuple)) or not all(isinstance(item, str) for item in items):
            raise self._bad(value)
        if not all(_xml_char(c) for item in items for c in item):
            raise self._bad(value)
        cleaned = tuple(item.strip() for item in items)
        if not cleaned or len(set(cleaned)) < len(cleaned) or not all(cleaned):
            raise self._bad(value)
        return cleaned


def option_table(*options: Option) -> Mapping[str, Option]:
    """The options of a driver by their names, as ``Hypervisor.options`` wants them.

    Example:
        >>> list(option_table(Option("headless", "bool", "No window")))
        ['headless']
    """
    table = {option.name: option for option in options}
    if len(table) < len(options):
        raise ValueError("two options have one name")
    return MappingProxyType(table)


@dataclass(frozen=True, slots=True)
class VMSpec:
    """A VM's configuration as far as Virtuoso maps it; what drivers read and write.

    Attributes:
        name: unique on its hypervisor; "" while a new VM has none.
        memory: KiB.
        cpus: number of virtual CPUs.
        disk_image: the main disk: a path on the hypervisor's host, or None.
        networks: the cards in their order.
        options: the ``set()`` keys that have a value.
        more_disks: the further disks in their order.
        cdrom: the image in the CD-ROM drive, or None.
        seed: the image that cloud-init reads, in a drive of its own, or None.
    """

    name: str
    memory: int
    cpus: int
    disk_image: str | None = None
    networks: tuple[Network, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    more_disks: tuple[str, ...] = ()
    cdrom: str | None = None
    seed: str | None = None

    def values(self) -> dict[str, Any]:
        """Each field by its name, each option as ``options.NAME``: the unit in which changes are counted."""
        plain = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "options"}
        return plain | {f"options.{key}": value for key, value in self.options.items()}

    def to_dict(self) -> dict[str, Any]:
        """Plain data that json takes, for drivers that write their VMs down themselves.

        Example:
            >>> VMSpec("web", 1024, 2).to_dict()
            {'name': 'web', 'memory': 1024, 'cpus': 2, 'disk_image': None, 'networks': [], 'options': {}, \
'more_disks': [], 'cdrom': None, 'seed': None}
        """
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        options = {key: list(value) if isinstance(value, tuple) else value for key, value in self.options.items()}
        networks = [asdict(card) for card in self.networks]
        return plain | {"networks": networks, "options": options, "more_disks": list(self.more_disks)}

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> VMSpec:
        """What ``to_dict()`` made, also after a way through json; keys of the driver's own are passed over.

        What an earlier version did not write has its default. Raises KeyError or TypeError when it is something else.
        """
        options = {key: tuple(value) if isinstance(value, list) else value for key, value in plain["options"].items()}
        plain = {"more_disks": (), "cdrom": None, "seed": None, **plain}
        known = {each.name: plain[each.name] for each in fields(cls)}
        networks = tuple(Network(**card) for card in plain["networks"])
        known |= {"networks": networks, "options": MappingProxyType(options), "more_disks": tuple(known["more_disks"])}
        return cls(**known)

    def changed_from(self, other: VMSpec) -> frozenset[str]:
        """The names, as in ``values()``, of what differs.

        Example:
            >>> VMSpec("a", 1024, 2).changed_from(VMSpec("a", 1024, 1))
            frozenset({'cpus'})
        """
        mine, theirs = self.values(), other.values()
        return frozenset(key for key in mine.keys() | theirs.keys() if mine.get(key) != theirs.get(key))

    def with_values_of(self, other: VMSpec, names: frozenset[str]) -> VMSpec:
        """This one with the named values, as in ``values()``, taken from the other."""
        fields = {name: getattr(other, name) for name in names if not name.startswith("options.")}
        options = dict(self.options)
        for key in (name.removeprefix("options.") for name in names if name.startswith("options.")):
            options.pop(key, None)
            if key in other.options:
                options[key] = other.options[key]
        return replace(self, **fields, options=MappingProxyType(options))
