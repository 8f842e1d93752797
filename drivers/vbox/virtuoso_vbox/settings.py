"""A machine as VBoxManage prints it, as flags of its ``modifyvm``, and as plain data. Nothing is run here."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterable, Mapping
from importlib.resources import files
from types import MappingProxyType
from typing import Any

from virtuoso_core.facts import VMSummary
from virtuoso_core.spec import Network, State, VMSpec, option_table
from virtuoso_core.words import WordOption, arrange

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
OPTIONS = option_table(*(WordOption.from_dict({"name": name} | told) for name, told in _WORDS["options"].items()))
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


def read_spec(flags: Flags, disk_image: str | None = None) -> VMSpec:
    """A machine as plain data."""
    options = {each.name: value for each in _SETTINGS.values() if (value := each.read(flags)) is not None}
    networks = tuple(cards(flags).values())
    memory, cpus = int(flags["memory"]) * 1024, int(flags["cpus"])
    return VMSpec(flags["name"], memory, cpus, disk_image, networks, MappingProxyType(options))


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


# Disks. A place for one is called as in showvminfo: controller, port and device, such as "SATA-0-0".


def controllers(info: Info) -> dict[str, str]:
    """The types of the disk controllers by their names; a floppy's is none."""
    names = [key for key in info if key.startswith("storagecontrollername")]
    types = {info[key]: info.get(key.replace("name", "type"), "") for key in names}
    return {name: type for name, type in types.items() if type != "I82078"}


def _media(info: Info) -> dict[str, str]:
    """What is at each place for a disk or a CD."""
    found = {key: re.fullmatch(r"(.+)-\d+-\d+", key) for key in info}
    return {key: info[key] for key, match in found.items() if match and match[1] in controllers(info)}


def disks(info: Info) -> dict[str, str]:
    """The file of each hard disk by its place, the main one first; drives for CDs are something else."""
    found = {place: medium for place, medium in _media(info).items() if medium not in ("none", "emptydrive")}
    cds = {place for place in found if re.sub(r"(-\d+-\d+)$", r"-IsEjected\1", place) in info}
    return {place: medium for place, medium in found.items() if place not in cds}


def main_place(info: Info) -> str:
    """Where the main disk is, or goes: SATA before others; there may be no such controller yet."""
    free = [place for place, medium in _media(info).items() if medium == "none"]
    sata = [place for place in free if controllers(info)[place.rsplit("-", 2)[0]] == "IntelAhci"]
    return [*disks(info), *sata, *free, "SATA-0-0"][0]


def snapshots(info: Info) -> list[str]:
    """The UUIDs of the snapshots, the oldest first."""
    return [value for key, value in info.items() if re.fullmatch(r"SnapshotUUID(-\d+)*", key)]


def is_chain(info: Info) -> bool:
    """Whether each snapshot has one successor, and the machine is that of the last."""
    branched = any(re.fullmatch(r"SnapshotUUID.*-([2-9]|\d\d+).*", key) for key in info)
    return not branched and info.get("CurrentSnapshotUUID") == snapshots(info)[-1]


# Commands.


def plug(uuid: str, place: str, image: str | None) -> list[str]:
    """Plugs an image in; None plugs out what is there."""
    controller, port, device = place.rsplit("-", 2)
    words = ["storageattach", uuid, "--storagectl", controller, "--port", port, "--device", device]
    return [*words, *(["--type", "hdd"] if image else []), "--medium", image or "none"]


def commands(uuid: str, info: Info, flags: Flags, images: Mapping[str, str | None]) -> list[list[str]]:
    """What makes a machine one with those flags, and those images at those places; each command does all or nothing."""
    now, have = disks(info), flags_of(info)
    todo = [plug(uuid, place, None) for place in now if images.get(place) is None]
    for place, image in images.items():
        if image is not None and place.rsplit("-", 2)[0] not in controllers(info):
            todo.append(["storagectl", uuid, "--name", "SATA", "--add", "sata"])
        if image is not None and now.get(place) != image:
            todo.append(plug(uuid, place, image))
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
