"""capabilities.py [--check] [PROOF-FILE]: makes docs/capabilities.md from what drivers declare and tests proved.

A PROOF-FILE is what the conformance suites wrote where VIRTUOSO_PROOF_FILE said. With one, the drivers' proof.toml are
brought up to date first. With --check nothing is written: it fails when the page is stale, when something declared has
no proof, or when a test module that ran did not prove what proof.toml says of it.
"""

from __future__ import annotations

import json
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

from virtuoso_core.capabilities import UNPROVED, Capability, capabilities
from virtuoso_core.hypervisor import Hypervisor
from virtuoso_core.plugins import default_registry

REPOSITORY = Path(__file__).resolve().parent.parent
PAGE = REPOSITORY / "docs" / "capabilities.md"
SIGNS = {"verified": "yes", "simulated": "simulated", "not verifiable here": "not tried", UNPROVED: "UNPROVED"}

Proofs = dict[tuple[str, str, str], set[str]]
"""What is proved, by kind, on and by."""


def main() -> int:
    """The exit code."""
    check = "--check" in sys.argv
    files = [Path(word) for word in sys.argv[1:] if not word.startswith("-")]
    drivers = [cls for plugin in default_registry().plugins for cls in plugin.hypervisors]
    drivers.sort(key=lambda cls: cls.name)
    ran = _read(files)
    problems: list[str] = []
    for package, members in _packages(drivers).items():
        problems += _check(package, members, ran) if check else _merge(package, members, ran)
    found = capabilities(drivers)
    problems += [f"{each.driver} declares {each.kind} {each.name}, and no test proved it" for each in _unproved(found)]
    page = _page(found)
    if check and (not PAGE.exists() or PAGE.read_text() != page):
        problems.append(f"{PAGE.relative_to(REPOSITORY)} is stale: run tools/capabilities.py")
    if not check:
        PAGE.write_text(page)
    print("\n".join(problems) or "the capability table is true")
    return 1 if problems else 0


def _read(files: Iterable[Path]) -> dict[str, Proofs]:
    """By driver."""
    ran: dict[str, Proofs] = defaultdict(lambda: defaultdict(set))
    for file in files:
        for text in file.read_text().splitlines():
            line = json.loads(text)
            ran[line["driver"]][line["kind"], line["on"], line["by"]].add(line["item"])
    return ran


def _packages(drivers: Iterable[type[Hypervisor]]) -> dict[Path, list[type[Hypervisor]]]:
    found: dict[Path, list[type[Hypervisor]]] = defaultdict(list)
    for driver in drivers:
        folder = Path(sys.modules[driver.__module__].__file__ or "").parent
        found[folder].append(driver)
    return found


def _stated(package: Path) -> dict[str, Proofs]:
    import tomllib

    stated: dict[str, Proofs] = defaultdict(dict)
    file = package / "proof.toml"
    for proof in tomllib.loads(file.read_text()).get("proof", []) if file.exists() else []:
        stated[proof["driver"]][proof["kind"], proof["on"], proof["by"]] = set(proof["proves"])
    return stated


def _merge(package: Path, drivers: list[type[Hypervisor]], ran: dict[str, Proofs]) -> list[str]:
    stated = _stated(package)
    for driver in drivers:
        new = ran.get(driver.name, {})
        rerun = {by for _, _, by in new}
        kept = {key: items for key, items in stated[driver.name].items() if key[2] not in rerun}
        stated[driver.name] = {**kept, **new}
    blocks = ["# What the tests proved; made by tools/capabilities.py from their runs, but for what is not verifiable."]
    for name in sorted(stated):
        for (kind, on, by), items in sorted(stated[name].items()):
            proves = "".join(f"    {json.dumps(item)},\n" for item in sorted(items))
            head = "".join(
                f"{key} = {json.dumps(value)}\n"
                for key, value in {"driver": name, "kind": kind, "on": on, "by": by}.items()
            )
            blocks.append(f"[[proof]]\n{head}proves = [\n{proves}]")
    if any(stated.values()):
        (package / "proof.toml").write_text("\n\n".join(blocks) + "\n")
    return []


def _check(package: Path, drivers: list[type[Hypervisor]], ran: dict[str, Proofs]) -> list[str]:
    """What proof.toml says of a test module that ran, and that it did not prove this time."""
    stated, problems = _stated(package), []
    for driver in drivers:
        proved: dict[str, set[str]] = defaultdict(set)
        for (_, _, by), items in ran.get(driver.name, {}).items():
            proved[by] |= items
        for (_, _, by), items in stated[driver.name].items():
            if by in proved and (missing := items - proved[by]):
                problems.append(f"{by} no longer proves of {driver.name}: {', '.join(sorted(missing))}")
    return problems


def _unproved(found: Iterable[Capability]) -> list[Capability]:
    return [each for each in found if each.status == UNPROVED]


def _page(found: list[Capability]) -> str:
    drivers = sorted({each.driver for each in found})
    parts = [
        "# Capabilities",
        "Made by `tools/capabilities.py` from what the drivers declare and what the conformance suite proved. *yes*: "
        "tried on the real hypervisor; *simulated*: tried on a simulator of it; *not tried*: declared, and not "
        "verifiable where the tests run; empty: the hypervisor cannot, and says so. "
        "The same in a terminal: `virtuoso drivers --capabilities`.",
    ]
    for kind, title in (("feature", "Features"), ("network", "Networks"), ("option", "Options")):
        names = sorted({each.name for each in found if each.kind == kind})
        cells = {(each.driver, each.name): SIGNS[each.status] for each in found if each.kind == kind}
        rows = [[name, *(cells.get((driver, name), "") for driver in drivers)] for name in names]
        parts += [f"## {title}", _table([kind, *drivers], rows)]
    proofs = sorted({(each.driver, each.status, each.on, each.by) for each in found if each.on})
    parts += [
        "## By whom, and on what",
        _table(["driver", "proof", "on", "by the tests"], [list(proof) for proof in proofs]),
    ]
    return "\n\n".join(parts) + "\n"


def _table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
