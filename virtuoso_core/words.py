"""What drivers share whose hypervisor is told in words by keys, ``--firmware efi``: options, sources, card slots."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from .errors import InvalidNetworkError, InvalidOptionError, UnsupportedError
from .spec import SEED_SUFFIX, Network, Option, VMSpec

Media = Mapping[str, tuple[str, str]]
"""What is plugged in at each place that a hypervisor names: DISK or DRIVE, and the file, "" in an empty drive."""
DISK, DRIVE = "disk", "drive"


@dataclass(frozen=True)
class WordOption(Option):
    """An option that the hypervisor keeps as words by keys, such as the flags of a program.

    Attributes:
        keys: where its words are; several for a list.
        words: the hypervisor's for our values, where they are others. One may stand for all that begin like it, and
            what begins like none of them means the last value.
        nothing: the word that stands for no value.
        switch: a key whose word is "on" where there is a value, else "off".

    Example:
        >>> firmware = WordOption("firmware", "str", "", keys=("fw",), words={"uefi": "efi", "bios": "bios"})
        >>> firmware.read({"fw": "EFI64"}), firmware.write("uefi")
        ('uefi', {'fw': 'efi'})
    """

    keys: tuple[str, ...] = ()
    words: Mapping[Any, str] = field(default_factory=dict)
    nothing: str = ""
    switch: str = ""

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> WordOption:
        """One that is written down, in a TOML file for one: lists for tuples, and our values in ``words`` as texts."""
        fields: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in plain.items()
        }
        option = cls(**fields)
        words = {text if option.kind == "list" else option.parse(text): word for text, word in option.words.items()}
        return replace(option, words=words)

    def read(self, kept: Mapping[str, str]) -> Any:
        """The value, None where there is none, from the words by their keys."""
        said = [word for key in self.keys if (word := kept.get(key, self.nothing)) != self.nothing]
        if self.kind == "list":
            ours = {word: value for value, word in self.words.items()}
            return tuple(ours[word] for word in said if word in ours) or None
        if not said:
            return None
        word = said[0].lower() if self.words or self.choices else said[0]
        if self.words:
            return next((ours for ours, theirs in self.words.items() if word.startswith(theirs)), list(self.words)[-1])
        if self.kind == "int":
            return int(word) if word.isdecimal() else None
        return word

    def write(self, value: Any) -> dict[str, str]:
        """The words by their keys for a value; None is no value."""
        if value is None and self.switch:
            return {self.switch: "off"}
        values = value if isinstance(value, tuple) else () if value is None else (value,)
        words = [self.words.get(each, str(each)) for each in values] + [self.nothing] * len(self.keys)
        return dict(zip(self.keys, words, strict=False)) | ({self.switch: "on"} if self.switch else {})


def complete(
    network: Network, *, has_source: bool, usual: str | None, models: Sequence[str], advice: str = ""
) -> Network:
    """The network with the source and model that it gets when none was given, for ``Hypervisor._network_defaults``.

    Args:
        network: as it was asked for.
        has_source: whether a network of its type has a source.
        usual: the source when none was given; None where it must be named.
        models: the cards that there are, the usual one first.
        advice: how to name a source, where one must be named.

    Raises:
        InvalidNetworkError: a source that the type does not have, or needs; a model that is none of those.
    """
    source = network.source or usual
    if not has_source and source is not None:
        message = f"A network of type {network.type!r} has no source to choose."
        raise InvalidNetworkError(message, hint="Leave source out.")
    if has_source and source is None:
        raise InvalidNetworkError(f"A network of type {network.type!r} needs a source.", hint=advice)
    if network.model not in (None, *models):
        hint = f"There are: {', '.join(models)}."
        raise InvalidNetworkError(f"There is no network card of the model {network.model!r}.", hint=hint)
    return replace(network, source=source, model=network.model or models[0])


def check_listed(value: str, listed: Collection[str], what: str) -> None:
    """Raise InvalidOptionError, with those most like it, when a value is none of those that the hypervisor lists.

    Args:
        value: what was asked for.
        listed: what there is; where it is empty, any value passes.
        what: what they are, such as "the host's machine types".
    """
    if listed and value not in listed:
        near = difflib.get_close_matches(value, listed, n=3)
        hint = f"Did you mean {' or '.join(near)}?" if near else f"There are: {', '.join(listed)}."
        raise InvalidOptionError(f"{value!r} is none of {what}.", hint=hint)


def arrange(
    there: Mapping[int, Network], wanted: Iterable[Network], slots: Sequence[int], advice: str = ""
) -> dict[int, Network | None]:
    """Which slots to change so that a VM has the networks that are wanted, in their order.

    Args:
        there: the card in each slot that has one. Cards that are wanted stay, with all that is set there.
        wanted: in the order that the guest shall see.
        slots: their numbers, rising; an empty one is preferred to one whose card goes.
        advice: the hint when they are too few, after "take another card away first".

    Returns:
        the new card of each slot to change, None for none.

    Raises:
        UnsupportedError: there are not as many slots.
    """
    wanted = list(wanted)
    after: dict[int, Network] = {}
    free = list(slots)
    for network in wanted:
        stays = [slot for slot in free if there.get(slot) == network]
        fitting = stays or sorted((slot for slot in free if there.get(slot) not in wanted), key=there.__contains__)
        if not fitting:
            raise UnsupportedError(
                f"There is no slot left for the network card {network.mac_address}: there are {len(slots)}.",
                hint=f"Take another card away first{advice}.",
            )
        after[fitting[0]] = network
        free = [slot for slot in free if slot > fitting[0]]
    return {slot: after.get(slot) for slot in sorted({*there, *after}) if there.get(slot) != after.get(slot)}


def read_media(media: Media) -> dict[str, Any]:
    """The disks, CD-ROM and seed of a VMSpec, by field: the first disk is the main one.

    Example:
        >>> read_media({"0": (DRIVE, ""), "1": (DISK, "/a.img"), "2": (DISK, "/b.img")})
        {'disk_image': '/a.img', 'more_disks': ('/b.img',), 'cdrom': None, 'seed': None}
    """
    disks = tuple(file for kind, file in media.values() if kind == DISK)
    discs = [file for kind, file in media.values() if kind == DRIVE and file]
    cdrom, seed = (
        next((disc for disc in discs if disc.endswith(SEED_SUFFIX) is is_seed), None) for is_seed in (False, True)
    )
    return {"disk_image": (*disks, None)[0], "more_disks": disks[1:], "cdrom": cdrom, "seed": seed}


def arrange_media(
    there: Media, spec: VMSpec, changed: Collection[str], free: Iterable[str]
) -> dict[str, tuple[str, str]]:
    """What to plug in where. What stays keeps its place, and an emptied drive stays, too.

    Args:
        there: what is plugged in.
        spec: what is wanted.
        changed: the fields of it to look at, as in ``VMSpec.values``.
        free: places for more, all after the main disk's.

    Raises:
        UnsupportedError: there are not as many places.
    """
    media, places = dict(there), iter(free)

    def put(place: str | None, kind: str, file: str) -> None:
        place = place or next(places, None)
        if place is None:
            raise UnsupportedError(f"There is no place left to plug in {file}.", hint="Take another disk away first.")
        media[place] = (kind, file)

    if "disk_image" in changed or "more_disks" in changed:
        images = {place: file for place, (kind, file) in there.items() if kind == DISK}
        main = next(iter(images), None)
        stay = {file: place for place, file in images.items() if place != main}
        media = {place: medium for place, medium in there.items() if place not in images}
        if spec.disk_image is not None:
            put(main, DISK, spec.disk_image)
        for file in spec.more_disks:
            put(stay.get(file), DISK, file)
    for name, disc in (("cdrom", spec.cdrom), ("seed", spec.seed)):
        drives = {place: file for place, (kind, file) in media.items() if kind == DRIVE}
        own = [place for place, file in drives.items() if file.endswith(SEED_SUFFIX) is (name == "seed")]
        own.sort(key=lambda place: not drives[place])
        if name in changed and (disc or own):
            put(next(iter(own), None), DRIVE, disc or "")
    return media
