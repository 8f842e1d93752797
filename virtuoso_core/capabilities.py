"""Capabilities: what each driver declares, beside what its tests proved of it.

A driver's package holds ``proof.toml``: tables ``[[proof]]`` with ``driver``, ``kind`` ("verified", "simulated" or
"not verifiable here"), ``on``, ``by`` and ``proves``, a list of items such as "feature:pause", "network:nat" and
"option:accel".
"""

from __future__ import annotations

import importlib.resources
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from .hypervisor import Hypervisor

UNPROVED = "unproved"


@dataclass(frozen=True, slots=True)
class Capability:
    """One thing that a driver declares.

    Attributes:
        driver: the driver's name.
        kind: "feature", "network" or "option".
        name: the feature's, network's or option's.
        doc: what it is, for networks and options.
        status: "verified", "simulated", "not verifiable here" or "unproved".
        on: what answered when it was tried, such as "QEMU 7.2.22, libvirt 9.0.0".
        by: which tests tried it.
    """

    driver: str
    kind: str
    name: str
    doc: str
    status: str
    on: str
    by: str


def capabilities(drivers: Iterable[type[Hypervisor]]) -> list[Capability]:
    """What the drivers declare, each with the best proof there is."""
    return [capability for driver in drivers for capability in _of(driver)]


def _of(driver: type[Hypervisor]) -> Iterator[Capability]:
    proofs = [proof for proof in _proofs(driver) if proof.get("driver") == driver.name]
    declared = [("feature", feature.value, "") for feature in sorted(driver.features)]
    declared += [("network", name, doc) for name, doc in driver.networks.items()]
    declared += [("option", option.name, option.doc) for option in driver.options.values()]
    for kind, name, doc in declared:
        found = [proof for proof in proofs if f"{kind}:{name}" in proof.get("proves", ())]
        best = min(found, key=_rank, default={})
        yield Capability(
            driver.name, kind, name, doc, best.get("kind", UNPROVED), best.get("on", ""), best.get("by", "")
        )


def _rank(proof: dict[str, Any]) -> int:
    kinds = ("verified", "simulated", "not verifiable here")
    return kinds.index(proof["kind"]) if proof.get("kind") in kinds else len(kinds)


def _proofs(driver: type[Hypervisor]) -> list[dict[str, Any]]:
    package = sys.modules[driver.__module__].__package__ or ""
    file = importlib.resources.files(package).joinpath("proof.toml")
    if not file.is_file():
        return []
    found: list[dict[str, Any]] = tomllib.loads(file.read_text(encoding="utf-8")).get("proof", [])
    return found
