"""From what VBoxManage prints of a machine to plain data, and from that to VBoxManage's words. Nothing is run here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from virtuoso_core.errors import UnsupportedError
from virtuoso_core.spec import Network, Option, State, option_table

Info = Mapping[str, str]
"""A machine as ``showvminfo --machinereadable`` tells it."""

# a key, and a value that is quoted (then it may have lines) or not
_PAIR = re.compile(
    r'^(?:"((?:[^"\\\n]|\\.)+)"|([^"=\n]+))=(?:"((?:[^"\\]|\\.)*)"|([^\r\n]*))\r?$', re.MULTILINE | re.DOTALL
)
_VOLATILE = re.compile(r"^(?:VMState|VMStateChangeTime|VideoMode)=.*\n", re.MULTILINE)


def parse_info(text: str) -> dict[str, str]:
    """The pairs; of a key that comes twice, the first."""
    found: dict[str, str] = {}
    for quoted, plain, value, bare in _PAIR.findall(text):
        found.setdefault(_unescaped(quoted) or plain, _unescaped(value) or bare)
    return found


def _unescaped(text: str) -> str:
    return re.sub(r'\\(["\\])', r"\1", text)


def configuration(text: str) -> str:
    """The text without what changes by itself."""
    return _VOLATILE.sub("", text)


_STATES = {
    "poweroff": State.STOPPED,
    "powered off": State.STOPPED,
    "teleported": State.STOPPED,
    "saved": State.SUSPENDED,
    "aborted-saved": State.SUSPENDED,
    "aborted": State.CRASHED,
    "paused": State.PAUSED,
    **dict.fromkeys(("running", "starting", "stopping", "saving", "restoring", "livesnapshotting"), State.RUNNING),
    **dict.fromkeys(("live snapshotting", "onlinesnapshotting", "online snapshotting"), State.RUNNING),
    **dict.fromkeys(("deletingsnapshot", "deleting snapshot", "settingup", "setting up"), State.STOPPED),
    **dict.fromkeys(("offlinesnapshotting", "offline snapshotting", "restoringsnapshot"), State.STOPPED),
}


def state_of(word: str) -> State:
    """Our state for VirtualBox's short or long name of one. A "guru meditation" is none that can be named."""
    return _STATES.get(word, State.UNKNOWN)


# Options.


@dataclass(frozen=True)
class Setting(Option):
    """An option with its place among VBoxManage's.

    Attributes:
        key: what it is called in ``showvminfo``.
        read: from the text there; None where it says nothing.
        write: to the words for ``modifyvm``; for None those that make it what VirtualBox has by itself.
    """

    key: str = ""
    read: Callable[[Info], Any] = field(default=lambda info: None, repr=False, compare=False)
    write: Callable[[Any], list[str]] = field(default=lambda value: [], repr=False, compare=False)


_DEVICES = {"hd": "disk", "cdrom": "dvd", "network": "net", "fd": "floppy"}


def _read_boot(info: Info) -> tuple[str, ...] | None:
    ours = {theirs: name for name, theirs in _DEVICES.items()}
    return tuple(ours[word] for at in "1234" if (word := info.get(f"boot{at}", "")) in ours) or None


def _write_boot(value: tuple[str, ...] | None) -> list[str]:
    order = [_DEVICES[name] for name in value or ("fd", "cdrom", "hd")] + ["none"] * 4
    return [word for at in range(4) for word in (f"--boot{at + 1}", order[at])]


def _read_headless(info: Info) -> bool | None:
    return info["defaultfrontend"] == "headless" if info.get("defaultfrontend") else None


def _choice(name: str, doc: str, key: str, default: str, choices: tuple[str, ...]) -> Setting:
    """A setting that is one word, the same in ``modifyvm`` and in ``showvminfo``."""
    return Setting(
        name,
        "str",
        doc,
        choices=choices,
        read=lambda info: info[key].lower() if key in info else None,
        write=lambda value: [f"--{key}", value or default],
    )


OPTIONS = option_table(
    Setting(
        "ostype",
        "str",
        "VirtualBox's name of the guest's system, such as Debian_64; `VBoxManage list ostypes` lists them.",
        minimum=1,
        maximum=64,
        example="Debian_64",
        read=lambda info: info.get("ostype"),
        write=lambda value: ["--ostype", value or "Linux_64"],
    ),
    _choice("chipset", "The machine's chipset; ich9 has 36 network cards.", "chipset", "piix3", ("piix3", "ich9")),
    Setting(
        "firmware",
        "str",
        "What starts the machine.",
        choices=("bios", "uefi"),
        read=lambda info: "uefi" if info.get("firmware", "").lower().startswith("efi") else "bios",
        write=lambda value: ["--firmware", "efi" if value == "uefi" else "bios"],
    ),
    Setting(
        "headless",
        "bool",
        "Started without a window; set to False with one. Unset: with one where there is a screen.",
        read=_read_headless,
        write=lambda value: ["--defaultfrontend", {True: "headless", False: "gui"}.get(value, "default")],
    ),
    _choice("graphics", "The graphics card.", "graphicscontroller", "vmsvga", ("vmsvga", "vboxsvga", "vboxvga")),
    Setting(
        "vram",
        "int",
        "The graphics card's memory in MiB.",
        minimum=2,
        maximum=256,
        read=lambda info: int(info["vram"]) if info.get("vram", "").isdecimal() else None,
        write=lambda value: ["--vram", str(value or 16)],
    ),
    Setting(
        "vrde_port",
        "int",
        "The port of the remote screen (RDP, with VirtualBox's extension pack); without one there is no such screen.",
        minimum=1,
        maximum=65535,
        read=lambda info: int(info["vrdeports"]) if info.get("vrdeports", "").isdecimal() else None,
        write=lambda value: ["--vrde", "on", "--vrdeport", str(value)] if value else ["--vrde", "off"],
    ),
    Setting(
        "boot",
        "list",
        "What to boot from.",
        choices=tuple(_DEVICES),
        read=_read_boot,
        write=_write_boot,
    ),
)


def settings() -> list[Setting]:
    """The options in the order in which they are written: the chipset decides how many network cards there are."""
    return [option for option in OPTIONS.values() if isinstance(option, Setting)]


# Network cards.

_SOURCES = {  # VirtualBox's kinds of connection that name something: the flag, and the key in showvminfo
    "bridged": ("bridgeadapter", "bridgeadapter"),
    "hostonly": ("hostonlyadapter", "hostonlyadapter"),
    "hostonlynet": ("host-only-net", "hostonly-network"),
    "intnet": ("intnet", "intnet"),
    "natnetwork": ("nat-network", "nat-network"),
    "generic": ("nicgenericdrv", "generic"),
}
_OURS = {"nat": "nat", "bridged": "bridged", "hostonly": "host_only", "hostonlynet": "host_only", "intnet": "internal"}
MODELS = ("82540EM", "82543GC", "82545EM", "Am79C970A", "Am79C973", "virtio", "usbnet")


@dataclass(frozen=True)
class Card:
    """A network card as VirtualBox has it. ``kind`` is its word for the connection, "none" for no card."""

    kind: str
    source: str | None = None
    model: str | None = None
    mac: str = ""

    def network(self) -> Network:
        """As this library has it."""
        mac = ":".join(self.mac[at : at + 2] for at in range(0, 12, 2)).lower()
        return Network(_OURS.get(self.kind, "other"), mac, self.source, self.model)

    def words(self, slot: int) -> list[str]:
        """What makes the card in the slot this one; without one, the slot keeps the rest for a later one."""
        words = [f"--nic{slot}", self.kind]
        if self.kind == "none":
            return words
        words += [f"--nictype{slot}", self.model] if self.model else []
        words += [f"--macaddress{slot}", self.mac] if self.mac else []
        if self.kind in _SOURCES and self.source:
            words += [f"--{_SOURCES[self.kind][0]}{slot}", self.source]
        return words


def cards(info: Info) -> dict[int, Card]:
    """The card in each slot, empty ones too."""
    slots = sorted(int(key[3:]) for key in info if re.fullmatch(r"nic\d+", key))
    return {slot: _card(info, slot) for slot in slots}


def _card(info: Info, slot: int) -> Card:
    kind = info[f"nic{slot}"]
    source = info.get(f"{_SOURCES[kind][1]}{slot}") if kind in _SOURCES else None
    return Card(kind, source or None, info.get(f"nictype{slot}"), info.get(f"macaddress{slot}", ""))


def arrange(before: Mapping[int, Card], networks: Iterable[Network], kinds: Mapping[str, str]) -> dict[int, Card]:
    """Which slots to change to what, so that the machine has those networks in that order.

    Args:
        before: the card in each slot.
        networks: wanted; cards that are there already stay in their slots, with all their settings.
        kinds: VirtualBox's word for each of our types.

    Raises:
        UnsupportedError: there are not as many slots.
    """
    at = {card.network().mac_address: slot for slot, card in before.items() if card.kind != "none"}
    after = dict.fromkeys((slot for slot, card in before.items() if card.kind != "none"), Card("none"))
    last = 0
    for network in networks:
        slot = at.get(network.mac_address, 0)
        if slot > last and before[slot].network() == network:
            after.pop(slot)
            last = slot
            continue
        taken = {at[other.mac_address] for other in networks if other.mac_address in at} - {slot}
        free = [other for other in before if other > last and other not in taken]
        last = next((other for other in free if before[other].kind == "none"), free[0] if free else 0)
        if not last:
            raise UnsupportedError(
                f"There is no slot left for the network card {network.mac_address}: VirtualBox has {len(before)}.",
                hint="Take another card away first, or set the option chipset to 'ich9', which has 36, and save first.",
            )
        mac = network.mac_address.replace(":", "").upper()
        after[last] = Card(kinds[network.type], network.source, network.model, mac)
    return after


# Disks.


@dataclass(frozen=True)
class Place:
    """Where a disk is plugged in."""

    controller: str
    port: int
    device: int

    def words(self) -> list[str]:
        """For ``storageattach``."""
        return ["--storagectl", self.controller, "--port", str(self.port), "--device", str(self.device)]


def _controllers(info: Info) -> list[tuple[str, str, int]]:
    """Name, type and number of ports of each but the floppy's."""
    numbers = sorted(int(key[21:]) for key in info if re.fullmatch(r"storagecontrollername\d+", key))
    found = [(info[f"storagecontrollername{n}"], info.get(f"storagecontrollertype{n}", ""), n) for n in numbers]
    return [
        (name, type, int(info.get(f"storagecontrollermaxportcount{n}", "1")))
        for name, type, n in found
        if type != "I82078"
    ]


def _places(info: Info) -> Iterable[Place]:
    for name, type, ports in _controllers(info):
        for port in range(ports):
            for device in range(2 if type in ("PIIX3", "PIIX4", "ICH6") else 1):
                yield Place(name, port, device)


def _medium(info: Info, place: Place) -> str:
    return info.get(f"{place.controller}-{place.port}-{place.device}", "none")


def disks(info: Info) -> dict[Place, str]:
    """The hard disks, the main one first, each with the file of its medium; drives for CDs are something else."""
    return {
        place: medium
        for place in _places(info)
        if (medium := _medium(info, place)) not in ("none", "emptydrive")
        and f"{place.controller}-IsEjected-{place.port}-{place.device}" not in info
    }


def free_place(info: Info) -> Place | None:
    """Where a first hard disk can be plugged in: SATA before others."""
    free = [place for place in _places(info) if _medium(info, place) == "none"]
    types = {name: type for name, type, _ in _controllers(info)}
    return min(free, key=lambda place: types[place.controller] != "IntelAhci", default=None)


def snapshots(info: Info) -> list[str]:
    """The UUIDs of the snapshots, the oldest first."""
    return [value for key, value in info.items() if re.fullmatch(r"SnapshotUUID(-\d+)*", key)]


def is_chain(info: Info) -> bool:
    """Whether each snapshot has one successor, and the machine is that of the last."""
    branched = any(re.fullmatch(r"SnapshotUUID.*-([2-9]|\d\d+).*", key) for key in info)
    return not branched and info.get("CurrentSnapshotUUID") == snapshots(info)[-1]


# Lists.

_BLOCK = re.compile(r"\n\s*\n")
_MACHINE = re.compile(r"^Name: +(.*)\n(?:Encryption: .*\n)?Groups: ", re.MULTILINE)
_LISTED = re.compile(r'^"(.*)" \{([0-9a-f-]{36})\}\r?$', re.MULTILINE)


def listed(text: str) -> dict[str, str]:
    """The names by the UUIDs, of ``list vms``; those of machines whose settings cannot be read are left out."""
    return {uuid: name for name, uuid in _LISTED.findall(text) if name != "<inaccessible>"}


def inaccessible(text: str) -> list[str]:
    """The UUIDs of machines whose settings cannot be read."""
    return [uuid for name, uuid in _LISTED.findall(text) if name == "<inaccessible>"]


def machines(text: str) -> Iterable[dict[str, str]]:
    """The lines of each machine, of ``list --long vms``; a description cannot pass for one of them."""
    starts = [match.start() for match in _MACHINE.finditer(text)]
    for start, end in zip(starts, [*starts[1:], len(text)], strict=False):
        pairs = re.findall(r"^([A-Z][\w .]*?: +)(.*?)\r?$", text[start:end], re.MULTILINE)
        width = next((len(key) for key, _ in pairs if key.startswith("UUID:")), 0)  # a name may start with spaces
        found = {(key + value)[:width].rstrip(" :"): (key + value)[width:] for key, value in reversed(pairs)}
        yield found  # of a key that comes twice, the first


def blocks(text: str) -> Iterable[dict[str, str]]:
    """What VBoxManage lists as lines of "Key: value" with an empty line between two things."""
    for block in _BLOCK.split(text):
        if found := dict(re.findall(r"^([^:\n]+):[ \t]*(.*?)\r?$", block, re.MULTILINE)):
            yield found
