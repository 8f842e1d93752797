"""Runner: VBoxManage on its host, and what its result codes mean. Every call to VirtualBox goes through ``run``."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from typing import Any

from virtuoso_core import URI
from virtuoso_core.errors import (
    ConnectError,
    HypervisorError,
    ImageError,
    ImageFormatError,
    ImageNotFoundError,
    InvalidStateError,
    InvalidValueError,
    UnsupportedError,
    VirtuosoError,
    VMNotFoundError,
)
from virtuoso_core.programs import Program, ProgramError, find_here

from .settings import PROGRAMS

ADVICE = "Install VirtualBox, or say where it is: add ?vboxmanage=/path/to/VBoxManage to the URI."
_NOISE = ("Details: ", "Context: ", "Waiting for VM", "0%")
_CODE = re.compile(r"\bcode \w+ \(0x([0-9a-f]{8})\)")

_NOT_FOUND, _FILE_ERROR, _OBJECT_IN_USE = 0x80BB0001, 0x80BB0004, 0x80BB000C
_INVALID_ARGUMENT, FAILURE = 0x80070057, 0x80004005
_BUSY = (0x80BB0007, 0x80BB000B, 0x80070005, 0x8000FFFF)  # the object's state, the session's; not ready, not locked
_UNSUPPORTED = (0x80BB0009, 0x80004001)


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
    passing = _BUSY
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
        message, hint = f"Could not {doing} on {self.host.uri}: {said}", ""
        if code is None and not self.version:
            return ConnectError(f"Cannot connect to {self.host.uri}: {said}", **where)
        if words[0] == "storageattach" and words[-1] != "none" and code not in (None, *_BUSY):
            return self._image_error(words[-1], said, code, where)
        if code == _NOT_FOUND and where["vm"] is not None:
            return VMNotFoundError(f"Could not {doing}: it does not exist on {self.host.uri}.", **where)
        if code in (0x80BB0002, *_BUSY):
            hint = "Another program holds it, or it runs: close its settings, or stop it."
            return InvalidStateError(message, hint=hint, **where)
        if code in (_INVALID_ARGUMENT, *_UNSUPPORTED):
            return (InvalidValueError if code == _INVALID_ARGUMENT else UnsupportedError)(message, **where)
        if code == _FILE_ERROR and "--name" in words:
            hint = "VirtualBox keeps machines in folders named like them: choose another name."
        return HypervisorError(message, code=code, hint=hint, **where)

    def _image_error(self, image: str, said: str, code: int | None, where: dict[str, Any]) -> VirtuosoError:
        """What the code means where an image is plugged in."""
        quoted = shlex.quote(image)
        if not self.host.exists(image):
            hint = f"Make one: VBoxManage createmedium disk --filename {quoted} --size 20480"
            return ImageNotFoundError(f"There is no disk image {image} on {self.host.uri}.", hint=hint, **where)
        message = f"VirtualBox does not take the disk image {image}: {said}"
        if code in (_FILE_ERROR, _OBJECT_IN_USE):
            return ImageError(message, **where)
        if code == _INVALID_ARGUMENT:
            hint = "If it is a copy of another image, give it an identity of its own: VBoxManage internalcommands "
            return ImageError(message, hint=f"{hint}sethduuid {quoted}", **where)
        hint = "It takes vdi, vmdk, vhd and qcow2. If this one is raw, convert it: VBoxManage convertfromraw "
        return ImageFormatError(message, hint=f"{hint}{quoted} {shlex.quote(image + '.vdi')}", **where)
