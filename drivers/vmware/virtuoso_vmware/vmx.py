"""VmxFile: a .vmx file, read as far as needed and changed in place; all that is not named stays byte for byte."""

from __future__ import annotations

import codecs
import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Mapping
from pathlib import Path

from virtuoso_core.errors import HypervisorError, VMNotFoundError

_LINE = re.compile(r'\s*([^\s=#]+)\s*=\s*"?(.*?)"?\s*')
_ENCODING = re.compile(rb'^\s*\.encoding\s*=\s*"([\w-]+)"', re.IGNORECASE | re.MULTILINE)


class VmxFile:
    """The settings of one machine.

    Args:
        path: of the file.
        data: its contents, where they are not those on disk.

    Raises:
        VMNotFoundError: there is no such file.
        HypervisorError: it cannot be read.
    """

    def __init__(self, path: str, data: bytes | None = None) -> None:
        self.path = path
        self.data = _read(path) if data is None else data
        found = _ENCODING.search(self.data)
        try:
            encoding = codecs.lookup(found[1].decode()).name if found else "utf-8"
        except LookupError:
            encoding = "utf-8"
        self.text = self.data.decode(encoding, errors="replace")
        lines = (_LINE.fullmatch(line) for line in re.split("\r?\n", self.text))
        self.settings = {match[1].lower(): _unescaped(match[2]) for match in lines if match}

    @property
    def name(self) -> str:
        """The machine's name for people; libvirt writes %, / and \\ in it as vCenter does."""
        name = self.settings.get("displayname") or Path(self.path).stem
        return re.sub("%(25|2f|5c)", lambda match: chr(int(match[1], 16)), name, flags=re.IGNORECASE)

    @property
    def uuid(self) -> str:
        """The machine's own, or one made of its path until VMware gives it one."""
        digits = re.sub(r"[^0-9a-f]", "", self.settings.get("uuid.bios", "").lower())
        return str(uuid.UUID(digits) if len(digits) == 32 else uuid.uuid5(uuid.NAMESPACE_URL, f"file://{self.path}"))

    def number(self, key: str, default: int) -> int:
        """A setting that is a whole number."""
        text = self.settings.get(key, "")
        return int(text) if text.isdecimal() else default

    def changed(self, values: Mapping[str, str | None]) -> VmxFile:
        """The same with other values; None takes a line away. Values are plain ASCII without quotes."""
        data = self.data
        for key, value in values.items():
            line = re.compile(
                rb'^([ \t]*%s[ \t]*=[ \t]*)("[^"\r\n]*"|[^\r\n]*)([^\r\n]*)(\r?\n|\Z)' % re.escape(key.encode()),
                re.IGNORECASE | re.MULTILINE,
            )
            if value is None:
                data = line.sub(b"", data)
                continue
            new = b'"%s"' % value.encode()
            data, count = line.subn(rb"\g<1>" + new + rb"\g<3>\g<4>", data)
            if not count:
                end = b"\r\n" if b"\r\n" in data else b"\n"
                data += (b"" if not data or data.endswith(b"\n") else end) + key.encode() + b" = " + new + end
        return VmxFile(self.path, data)

    def write(self) -> None:
        """Put the contents in the file's place, whole or not at all."""
        try:
            write_whole(self.path, self.data)
        except OSError as error:
            raise HypervisorError(f"{self.path} cannot be written: {error.strerror}.") from error

    def for_libvirt(self) -> str:
        """The text as libvirt takes it: in UTF-8 whatever the file is in, and a BIOS by not saying so."""
        vmx = self.changed({"firmware": None}) if self.settings.get("firmware", "").lower() == "bios" else self
        return re.sub(r'(?im)^(\s*\.encoding\s*=\s*)"[\w-]+"', r'\1"UTF-8"', vmx.text)


def write_whole(path: str, data: bytes) -> None:
    """Put data in a file's place at once; a reader sees the old or the new."""
    target = os.path.realpath(path)
    handle, made = tempfile.mkstemp(dir=os.path.dirname(target), prefix=".virtuoso-")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        if os.path.exists(target):
            shutil.copymode(target, made)
        os.replace(made, target)
    except BaseException:
        os.unlink(made)
        raise


def remove_machine(path: str) -> None:
    """Remove the .vmx file and what VMware keeps of the machine beside it; disks stay, and so do logs."""
    vmx = VmxFile(path)
    folder, stem = os.path.split(path)[0], path.removesuffix(".vmx")
    companions = [f"{stem}{suffix}" for suffix in (".vmxf", ".nvram", ".vmsd")]
    saved = vmx.settings.get("checkpoint.vmstate", "")
    if saved.endswith(".vmss") and os.path.basename(saved) == saved:
        companions += [os.path.join(folder, saved), os.path.join(folder, f"{saved.removesuffix('.vmss')}.vmem")]
    os.unlink(path)  # the machine is gone with it
    for companion in companions:
        try:
            os.unlink(companion)
        except OSError:
            pass  # it was not there, or is of no use any more


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except FileNotFoundError as error:
        raise VMNotFoundError(f"There is no {path} any more.") from error
    except OSError as error:
        raise HypervisorError(f"{path} cannot be read: {error.strerror}.") from error


def _unescaped(value: str) -> str:
    return re.sub(r"\|([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), value)
