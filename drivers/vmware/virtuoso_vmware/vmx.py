"""VmxFile: a .vmx file, read as far as needed and changed in place; all that is not named stays byte for byte."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import uuid
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from virtuoso_core.errors import HypervisorError, VMNotFoundError
from virtuoso_core.spec import State

_LINE = re.compile(r'\s*([^\s=#]+)\s*=\s*"?(.*?)"?\s*')
_ENCODING = re.compile(rb'^\s*\.encoding\s*=\s*"([\w-]+)"', re.IGNORECASE | re.MULTILINE)
_SETTING = rb'(?im)^([ \t]*%s[ \t]*=[ \t]*)("[^"\r\n]*"|[^\r\n]*)([^\r\n]*)(\r?\n|\Z)'
"""A line with the value of a key; what stands around the value stays."""
_LIBVIRT_READS = 10_000
"""Bytes of a running machine's file that libvirt is ready to read."""


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
        with _told(path, "read"):
            self.data = Path(path).read_bytes() if data is None else data
        found = _ENCODING.search(self.data)
        try:
            self.text = self.data.decode(found[1].decode() if found else "utf-8", errors="replace")
        except LookupError:
            self.text = self.data.decode("utf-8", errors="replace")
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

    def state(self, running: Collection[str]) -> State:
        """What it is doing, from the files of the machines that run, links followed, and from its own."""
        if os.path.realpath(self.path) in running:
            return State.RUNNING
        return State.SUSPENDED if self.settings.get("checkpoint.vmstate") else State.STOPPED

    def changed(self, values: Mapping[str, str | None]) -> VmxFile:
        """The same with other values; None takes a line away. Values are plain ASCII without quotes and backslashes."""
        data = self.data
        for key, value in values.items():
            new = b"" if value is None else rb'\g<1>"%s"\g<3>\g<4>' % value.encode()
            data, count = re.subn(_SETTING % re.escape(key.encode()), new, data)
            if value is not None and not count:
                end = b"\r\n" if b"\r\n" in data else b"\n"
                data += b"" if not data or data.endswith(b"\n") else end
                data += b'%s = "%s"%s' % (key.encode(), value.encode(), end)
        return VmxFile(self.path, data)

    def write(self) -> None:
        """Put the contents in the file's place, whole or not at all."""
        with _told(self.path, "written"):
            write_whole(self.path, self.data)

    def remove(self) -> None:
        """Remove the file, and what VMware keeps of the machine beside it; disks stay, and so do logs."""
        machine, saved = Path(self.path), Path(self.settings.get("checkpoint.vmstate", ""))
        companions = [machine.with_suffix(suffix) for suffix in (".vmxf", ".nvram", ".vmsd")]
        if saved.suffix == ".vmss" and saved.name == str(saved):
            companions += [machine.with_name(saved.name), machine.with_name(f"{saved.stem}.vmem")]
        with _told(self.path, "removed"):
            machine.unlink()  # the machine is gone with it
        for companion in companions:
            with suppress(OSError):  # it was not there, or is of no use any more
                companion.unlink()

    def problems(self) -> Iterator[str]:
        """What libvirt is known to stumble over while the machine runs, in words."""
        if len(self.data) > _LIBVIRT_READS:
            yield f"{self.path} has {len(self.data)} bytes, and libvirt reads {_LIBVIRT_READS}"
        for key, value in self.settings.items():
            if key.endswith(".connectiontype") and value == "hostonly":
                yield f'{self.path} has {key} = "hostonly": write "custom", and vnet = "vmnet1"'

    def for_libvirt(self) -> str:
        """The text as libvirt takes it: in UTF-8 whatever the file is in, and a BIOS by not saying so."""
        vmx = self.changed({"firmware": None}) if self.settings.get("firmware", "").lower() == "bios" else self
        return re.sub(r'(?im)^(\s*\.encoding\s*=\s*)"[\w-]+"', r'\1"UTF-8"', vmx.text)


def write_whole(path: str, data: bytes) -> None:
    """Put data in a file's place at once; a reader sees the old or the new."""
    target = os.path.realpath(path)
    made = tempfile.TemporaryDirectory(dir=os.path.dirname(target), prefix=".virtuoso-")
    with made as folder, tempfile.NamedTemporaryFile(dir=folder, delete=False) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
        if os.path.exists(target):
            shutil.copymode(target, file.name)
        os.replace(file.name, target)


@contextmanager
def _told(path: str, done: str) -> Iterator[None]:
    """The errors of files as this library's."""
    try:
        yield
    except FileNotFoundError as error:
        raise VMNotFoundError(f"There is no {path} any more.") from error
    except OSError as error:
        raise HypervisorError(f"{path} cannot be {done}: {error.strerror}.") from error


def _unescaped(value: str) -> str:
    return re.sub(r"\|([0-9A-Fa-f]{2})", lambda match: chr(int(match[1], 16)), value)
