"""A machine as VBoxManage prints it, as flags of its ``modifyvm``, and as plain data. Nothing is run here."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from datetime import datetime
from importlib.resources import files
from types import MappingProxyType
from typing import Any
from xml.etree import ElementTree

from virtuoso_core.facts import Snapshot, VMSummary
from virtuoso_core.spec import Network, State, VMSpec, option_table
from virtuoso_core.words import DISK, DRIVE, Media, WordOption, arrange, read_media

_WORDS: dict[str, Any] = tomllib.loads(files(__package__).joinpath("virtualbox.toml").read_text(encoding="utf-8"))

Info = Mapping[str, str]
"""A machine as ``showvminfo --machinereadable`` tells it."""
Flags = Mapping[str, str]
"""A machine as ``modifyvm`` is told to make it: each flag with its word."""
NEW: Flags = MappingProxyType(_WORDS["new"])
_FLAGS: Mapping[str, str] = _WORDS["flags"]
KINDS: Mapping[str, Mapping[str, str]] = MappingProxyType(_WORDS["kinds"])
NETWORKS: Mapping[str, str] = MappingProxyType(_WORDS["networks"])
MODELS: tuple[str, ...] = tuple(_WORDS["models"])
PROGRAMS: tuple[str, ...] = tuple(_WORDS["programs"])
FAILURES: tuple[Mapping[str, Any], ...] = tuple(_WORDS["failures"])
OPTIONS = option_table(*(WordOption.from_dict({"name": name} | told) for name, told in _WORDS["options"].items()))
_EMPTY = "emptydrive"
_SETTINGS = {f"options.{option.name}": option for option in OPTIONS.values() if isinstance(option, WordOption)}

# a key, and a value that is quoted (then it may have lines) or not
_PAIR = re.compile(r'^(?:"((?:[^"\\\n]|\\.)+)"|([^"=\n]+))=(?:"((?:[^"\\]|\\.)*)"|([^\r\n]*))\r?$', re.M | re.S)
_VOLATILE = re.compile(r"^(?:VMState|VMStateChangeTime|VideoMode)=.*\n", re.MULTILINE)


def parse_info(text: str) -> dict[str, str]:
    """The pairs; of a key that comes twice, the first."""
    found: dict[str, str] = {}
    for pair in _PAIR.findall(text):
        quoted, plain, value, bare = (re.sub(r'\\(["\\])', r"\1", part) for part in pair)
        found.setdefault(quoted or plain, value or bare)
    return found


def configuration(text: str) -> str:
    """The text without what changes by itself."""
    return _VOLATILE.sub("", text)


def state_of(word: str) -> State:
    """Our state for VirtualBox's short or long name of one. A "guru meditation" is none that can be named."""
    return State(next((state for state, words in _WORDS["states"].items() if word in words), "unknown"))


# Flags.


def flags_of(info: Info) -> dict[str, str]:
    """What would make the machine what it is."""
    names = {key: key.rstrip("0123456789") for key, word in info.items() if word}
    found = {_FLAGS[name] + key.removeprefix(name): info[key] for key, name in names.items() if name in _FLAGS}
    return {"defaultfrontend": "default"} | found


def read_spec(flags: Flags, media: Media = MappingProxyType({})) -> VMSpec:
    """A machine as plain data."""
    options = {each.name: value for each in _SETTINGS.values() if (value := each.read(flags)) is not None}
    fields = {"networks": tuple(cards(flags).values()), "options": MappingProxyType(options)} | read_media(media)
    return VMSpec(flags["name"], int(flags["memory"]) * 1024, int(flags["cpus"]), **fields)


def write_spec(have: Flags, spec: VMSpec, changed: frozenset[str], kinds: Mapping[str, str]) -> dict[str, str]:
    """The flags for the changed values.

    Args:
        have: the machine's own.
        spec: what is wanted; for an option without a value, what a new machine has.
        changed: the names of the values, as in ``VMSpec.values``.
        kinds: VirtualBox's word for each of our types of network.

    Raises:
        UnsupportedError: there are not as many slots for network cards.
    """
    fields = {"name": spec.name, "memory": str(spec.memory // 1024), "cpus": str(spec.cpus)}
    flags = {name: word for name, word in fields.items() if name in changed}
    values = read_spec(NEW).values() | spec.values()
    for name in [each for each in _SETTINGS if each in changed]:
        flags |= _SETTINGS[name].write(values.get(name))
    if "networks" in changed:
        slots = range(1, 37 if {**have, **flags}.get("chipset") == "ich9" else 9)
        advice = ", or set the option chipset to 'ich9', which has 36"
        for slot, network in arrange(cards(have), spec.networks, slots, advice).items():
            flags |= _card_flags(slot, network, kinds)
    return flags


def mac_address(digits: str) -> str:
    """Twelve digits as this library has them."""
    return ":".join(re.findall("..", digits)).lower()


def cards(flags: Flags) -> dict[int, Network]:
    """The network cards by their slots; of a kind that is none of ours, as "other"."""
    found = {}
    for slot in range(1, 37):
        if (kind := flags.get(f"nic{slot}", "none")) != "none":
            told = KINDS.get(kind, KINDS["null"])
            mac, source = mac_address(flags.get(f"macaddress{slot}", "")), flags.get(f"{told.get('flag')}{slot}")
            found[slot] = Network(told["type"], mac, source, flags.get(f"nictype{slot}"))
    return found


def _card_flags(slot: int, network: Network | None, kinds: Mapping[str, str]) -> dict[str, str]:
    """What puts a card into a slot; without one the slot keeps the rest for a later one."""
    if network is None:
        return {f"nic{slot}": "none"}
    kind = kinds[network.type]
    words = {"nic": kind, "nictype": network.model, "macaddress": network.mac_address.replace(":", "").upper()}
    words |= {KINDS[kind].get("flag", ""): network.source}
    return {f"{flag}{slot}": word for flag, word in words.items() if flag and word}


# Disks and drives. A place is called as in showvminfo: controller, port and device, such as "SATA-0-0".


def controllers(info: Info) -> dict[str, str]:
    """The types of the disk controllers by their names; a floppy's is none."""
    names = [key for key in info if key.startswith("storagecontrollername")]
    types = {info[key]: info.get(key.replace("name", "type"), "") for key in names}
    return {name: type for name, type in types.items() if type != "I82078"}


def _places(info: Info) -> dict[str, str]:
    """What is at each place for a disk or a CD, in words."""
    found = {key: re.fullmatch(r"(.+)-\d+-\d+", key) for key in info}
    return {key: info[key] for key, match in found.items() if match and match[1] in controllers(info)}


def plugged(info: Info) -> Media:
    """What is plugged in."""
    found = {place: medium for place, medium in _places(info).items() if medium != "none"}
    ejected = {place: re.sub(r"(-\d+-\d+)$", r"-IsEjected\1", place) for place in found}
    kinds = {place: DRIVE if key in info else DISK for place, key in ejected.items()}
    return {place: (kinds[place], medium.replace(_EMPTY, "")) for place, medium in found.items()}


def free_places(info: Info) -> list[str]:
    """The places for more, after the main disk: SATA before others. The controller, or the port, may not be yet."""
    there = _places(info)
    main = next((place for place, (kind, _) in plugged(info).items() if kind == DISK), "")
    early = [*there][: [*there].index(main)] if main else []
    sata = next((name for name, type in controllers(info).items() if type == "IntelAhci"), "SATA")
    ports = [f"{sata}-{port}-0" for port in range(30)]
    places = dict.fromkeys([*(ports if sata in controllers(info) else []), *there, *ports])
    return [place for place in places if place not in early and there.get(place, "none") == "none"]


# Snapshots.


def kept(settings: bytes) -> dict[str, tuple[str, Snapshot]]:
    """The snapshots with their UUIDs by their names, the oldest first, of a machine's settings file.

    VBoxManage does not tell which hold the memory, and when they were taken. Names may be there twice: then all but
    the first one's are the UUIDs.
    """
    machine = ElementTree.fromstring(settings)[0]  # noqa: S314 - VirtualBox wrote it
    found: dict[str, tuple[str, Snapshot]] = {}

    def walk(nodes: Iterable[ElementTree.Element], parent: str | None) -> None:
        for node in nodes:
            uuid, told = node.attrib["uuid"].strip("{}"), node.attrib
            name = uuid if told["name"] in found else told["name"]
            state = State.RUNNING if "stateFile" in told else State.STOPPED
            current, text = told["uuid"] == machine.get("currentSnapshot"), node.findtext("{*}Description", "")
            made = Snapshot(name, datetime.fromisoformat(told["timeStamp"]), state, current, parent, text)
            found[name] = (uuid, made)
            walk(node.iterfind("{*}Snapshots/{*}Snapshot"), name)

    walk(machine.iterfind("{*}Snapshot"), None)
    return dict(sorted(found.items(), key=lambda item: str(item[1][1].created)))


def to_merge(info: Info) -> list[str]:
    """The UUIDs of the snapshots, in an order in which VirtualBox deletes them all: the disks stay as they are now."""
    paths = {key.removeprefix("SnapshotUUID"): key for key in info if re.fullmatch(r"SnapshotUUID(-\d+)*", key)}
    current = info.get("CurrentSnapshotNode", "").removeprefix("SnapshotName") + "-"
    below = [path for path in paths if current.startswith(f"{path}-")]
    aside = [path for path in paths if path not in below]
    return [info[paths[path]] for path in (*reversed(aside), *below)]


# Commands.


def _plug(uuid: str, place: str, medium: tuple[str, str] | None) -> list[str]:
    """Plugs something in; None plugs out what is there."""
    controller, port, device = place.rsplit("-", 2)
    words = ["storageattach", uuid, "--storagectl", controller, "--port", port, "--device", device]
    type = [] if medium is None else ["--type", "hdd" if medium[0] == DISK else "dvddrive"]
    return [*words, *type, "--medium", "none" if medium is None else medium[1] or _EMPTY]


def commands(uuid: str, info: Info, flags: Flags, media: Media) -> list[list[str]]:
    """What makes a machine one with those flags and that plugged in; each command does all or nothing."""
    now, have = plugged(info), flags_of(info)
    todo = [_plug(uuid, place, None) for place in now if place not in media]
    for name in {place.rsplit("-", 2)[0] for place in media if place not in _places(info)}:
        make = ["--portcount", "30"] if name in controllers(info) else ["--add", "sata"]
        todo.append(["storagectl", uuid, "--name", name, *make])
    todo += [_plug(uuid, place, medium) for place, medium in media.items() if now.get(place) != medium]
    words = {flag: word for flag, word in flags.items() if have.get(flag) != word}
    first = {"chipset": words.pop("chipset")} if words.get("chipset") == "ich9" else {}
    for some in filter(None, (first, words)):  # only the next call sees how many cards that chipset has
        todo.append(["modifyvm", uuid, *(text for flag, word in some.items() for text in (f"--{flag}", word))])
    return todo


# Lists.

INACCESSIBLE = "<inaccessible>"
_LISTED = re.compile(r'^"(.*)" \{([0-9a-f-]{36})\}\r?$', re.MULTILINE)
_REST = r"\r?\n(?:(?!UUID:).*\n)*?"  # of a machine; a description comes after all that is looked for
_SUMMARY = rf"^UUID: +(\S+){_REST}Memory size:? +(\d+)MB{_REST}Number of CPUs: +(\d+){_REST}State: +(.+?) \("


def listed(text: str) -> dict[str, str]:
    """The names by the UUIDs, of ``list vms``; a machine whose settings cannot be read is INACCESSIBLE."""
    return {uuid: name for name, uuid in _LISTED.findall(text)}


def ostypes(text: str) -> dict[str, str]:
    """The names of guest systems by their descriptions, of ``list ostypes``; before 7.1 these were two lines."""
    pattern = r"^ID(?: / Description)?: *(\S+)(?: -- |\r?\nDescription: *)(.*?)\r?$"
    return {description: name for name, description in re.findall(pattern, text, re.MULTILINE)}


def summaries(text: str, names: Mapping[str, str]) -> Iterable[VMSummary]:
    """The machines with those names by their UUIDs, of ``list --long vms``."""
    for uuid, memory, cpus, state in re.findall(_SUMMARY, text, re.MULTILINE):
        if uuid in names:
            yield VMSummary(names[uuid], uuid, state_of(state), int(memory) * 1024, int(cpus))
