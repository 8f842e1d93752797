"""Where VMs are written down: one folder each, named by its UUID, with a vm.json in it."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from virtuoso_core import VMSpec

Document = dict[str, Any]
"""What is in vm.json: a VMSpec, "disk_format", and what other versions may have added."""


def load(folder: Path) -> Document | None:
    """What is written down of a VM; None when there is no such VM."""
    try:
        document: Document = json.loads((folder / "vm.json").read_text("utf-8"))
        VMSpec.from_dict(document)
        return document
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{folder / 'vm.json'} is damaged ({error!r})") from error


def load_all(folder: Path) -> dict[str, Document]:
    """All VMs by UUID."""
    return {name: found for name in os.listdir(folder) if (found := load(folder / name)) is not None}


def write(folder: Path, document: Document) -> None:
    """Replace vm.json whole or not at all, even where the power fails meanwhile."""
    new = folder / "vm.json.new"
    with open(new, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2, ensure_ascii=False)
        file.flush()
        os.fsync(file.fileno())
    os.replace(new, folder / "vm.json")
    for place in (folder, folder.parent):
        handle = os.open(place, os.O_RDONLY)
        with suppress(OSError):  # it is written; some file systems cannot sync folders
            os.fsync(handle)
        os.close(handle)
