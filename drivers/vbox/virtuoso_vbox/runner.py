"""Runner: VBoxManage on its host, and what its result codes mean. Every call to VirtualBox goes through ``run``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from virtuoso_core import URI, errors
from virtuoso_core.errors import ConnectError, HypervisorError, VirtuosoError
from virtuoso_core.programs import Program, ProgramError, find_here

from .settings import FAILURES, PROGRAMS

ADVICE = "Install VirtualBox, or say where it is: add ?vboxmanage=/path/to/VBoxManage to the URI."
_NOISE = ("Details: ", "Context: ", "Waiting for VM", "0%", "-----")
_CODE = re.compile(r"\bcode \w+ \(0x([0-9a-f]{8})\)")

FAILURE = 0x80004005
_PASSING = tuple(code for told in FAILURES if "passing" in told for code in told["codes"])


def find_program() -> str | None:
    """This machine's VBoxManage."""
    return find_here(*PROGRAMS)


class Runner(Program):
    """Runs VBoxManage.

    Args:
        uri: where; ``vboxmanage=PATH`` names the program.

    Raises:
        ConnectError: there is no VBoxManage, or no way to it.
    """

    usual_words = ("-q",)
    passing = _PASSING
    version = ""

    def __init__(self, uri: URI) -> None:
        named = uri.query.get("vboxmanage")
        super().__init__(uri, *([named] if named else PROGRAMS), advice=ADVICE)
        self.version = (self.run(["--version"], doing="ask VBoxManage for its version").split() or ["?"])[-1]

    def _failure(self, words: Sequence[str], text: str, exit_code: int) -> ProgramError:
        """VirtualBox's own words, and its result code."""
        found = _CODE.search(text)
        lines = [line.removeprefix("VBoxManage: error: ").strip() for line in text.splitlines()]
        said = [line for line in lines if line and not line.startswith(_NOISE)]
        message = "; ".join(dict.fromkeys(said)) or "it gave no reason"
        return ProgramError(words, f"{message.removesuffix('.')}.", int(found[1], 16) if found else None)

    def _explain(self, failure: ProgramError, doing: str, where: dict[str, Any]) -> VirtuosoError:
        words, said, code = failure.words, failure.said, failure.code
        if code is None and not self.version:
            return ConnectError(f"Cannot connect to {self.host.uri}: {said}", **where)
        message, image = f"Could not {doing} on {self.host.uri}: {said}", words[-1]
        plugs = words[0] == "storageattach" and image not in ("none", "emptydrive") and code not in (None, *_PASSING)
        if plugs and not self.host.exists(image):
            hint = f"Make one: VBoxManage createmedium disk --filename {shlex.quote(image)} --size 20480"
            return errors.ImageNotFoundError(f"There is no disk image {image} on {self.host.uri}.", hint=hint, **where)
        fits = [each for each in FAILURES if each.get("image", False) is plugs and each.get("word", words[0]) in words]
        told = next((each for each in fits if code in each.get("codes", [code])), {})
        hint = told.get("hint", "").format(image=shlex.quote(image), copy=shlex.quote(f"{image}.vdi"))
        if "error" in told and (told["error"] != "VMNotFoundError" or where["vm"] is not None):
            error: type[VirtuosoError] = getattr(errors, told["error"])
            return error(message, hint=hint, **where)
        return HypervisorError(message, code=code, hint=hint, **where)
