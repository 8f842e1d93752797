"""CloudInit: what a guest's cloud-init reads at its first start, checked, and written as an ISO file (NoCloud)."""

from __future__ import annotations

import io
import json
import os
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .errors import InvalidValueError

_LABEL = "cidata"
"""The volume's name by which cloud-init knows it."""
_USER = re.compile(r"[a-z_][a-z0-9_.-]{0,31}")
_HOST = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)(\.(?!-)[A-Za-z0-9-]{1,63}(?<!-))*")
_PACKAGE = re.compile(r"[A-Za-z0-9][A-Za-z0-9+._:/=~-]{0,199}")
_KEY = re.compile(r"(?:^|\s)((?:sk-)?(?:ssh|ecdsa)-[a-z0-9@.-]+)\s+([A-Za-z0-9+/]+={0,3})(?:\s|$)")
_ROUNDS = 100_000
"""A twentieth of a second here, about as much in the guest at each sign-in."""
_UNSAFE = re.compile("[\x7f-\x9f\u2028\u2029\ufeff\ufffe\uffff]")
"""What JSON takes as it is and YAML does not."""
_MERGE = "list(append)+dict(recurse_list)+str()"
"""How cloud-init joins our part to the user's own: lists become longer, what the user says stays."""


@dataclass(frozen=True)
class CloudInit:
    """What a guest is told.

    Attributes:
        config: the #cloud-config.
        hostname: the VM's name when left out.
        script: a #cloud-config or a script of the user's own, or None.
        identity: another one makes cloud-init do it all again.
    """

    config: Mapping[str, Any] = field(repr=False)
    hostname: str | None = None
    script: str | None = field(default=None, repr=False)
    identity: str = field(default_factory=lambda: str(uuid.uuid4()))

    @classmethod
    def make(
        cls,
        user: str | None,
        ssh_key: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None,
        password: str | None,
        hostname: str | None,
        packages: Iterable[str],
        user_data: str | Mapping[str, Any] | None,
    ) -> CloudInit:
        """From what ``vm.cloud_init()`` takes. Raises InvalidValueError."""
        if user is not None and (not isinstance(user, str) or not _USER.fullmatch(user)):
            raise InvalidValueError(
                f"{user!r} is not the name of a user.",
                hint="Small letters, digits, '-', '_' and '.', at most 32, and no digit first.",
            )
        if hostname is not None:
            check_hostname(hostname)
        keys, hashed = _keys(ssh_key), None if password is None else _hash(password)
        config: dict[str, Any] = {"manage_etc_hosts": "localhost"}  # or sudo waits for a name server that knows it
        if user is not None:
            account: dict[str, Any] = {"name": user, "shell": "/bin/bash", "sudo": "ALL=(ALL) NOPASSWD:ALL"}
            if keys:
                account["ssh_authorized_keys"] = keys
            if hashed is not None:
                # the first is for users that are made, the second for those that the image has
                account |= {"passwd": hashed, "hashed_passwd": hashed, "lock_passwd": False}
            config["users"] = [account]
        else:
            if keys:
                config["ssh_authorized_keys"] = keys
            if hashed is not None:
                config |= {"password": hashed, "chpasswd": {"expire": False}}
        if hashed is not None:
            config["ssh_pwauth"] = True
        if wanted := _packages(packages):
            config |= {"packages": wanted, "package_update": True}
        script = None
        if isinstance(user_data, Mapping):
            config = _merged(config, user_data)
            _json(config)
        elif user_data is not None:
            script = _checked_script(user_data)
        return cls(config, hostname, script)

    def seed(self, name: str) -> bytes:
        """The ISO file, for the VM of that name."""
        from pycdlib import PyCdlib

        meta = {"instance-id": self.identity, "local-hostname": self.hostname or hostname_of(name)}
        disc = PyCdlib()
        disc.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=_LABEL)
        for file, data in (("meta-data", _json(meta).encode()), ("user-data", self.user_data())):
            disc.add_fp(
                io.BytesIO(data),
                len(data),
                f"/{file.replace('-', '').upper()}.;1",
                rr_name=file,
                joliet_path=f"/{file}",
                file_mode=0o100400,
            )
        out = io.BytesIO()
        disc.write_fp(out)
        disc.close()
        return out.getvalue()

    def user_data(self) -> bytes:
        """The file of that name: our configuration, and the user's own text beside it."""
        ours = f"#cloud-config\n{_json(self.config)}\n"
        if self.script is None:
            return ours.encode()
        from email.mime.multipart import MIMEMultipart
        from email.mime.text import MIMEText

        both = MIMEMultipart()
        kind = "x-shellscript" if self.script.startswith("#!") else "cloud-config"
        both.attach(MIMEText(self.script, kind, "utf-8"))
        part = MIMEText(ours, "cloud-config", "utf-8")
        part["X-Merge-Type"] = _MERGE
        both.attach(part)
        return both.as_bytes()


def check_hostname(value: object) -> str:
    """A name that a guest can have in the network. Raises InvalidValueError."""
    if not isinstance(value, str) or len(value) > 253 or not _HOST.fullmatch(value):
        raise InvalidValueError(
            f"{value!r} is not the name of a host.",
            hint="Letters, digits and '-', at most 63; with dots where it has a domain.",
        )
    return value


def hostname_of(name: str) -> str:
    """The name in the network of a VM of that name.

    Example:
        >>> hostname_of("My new VM")
        'my-new-vm'
    """
    return re.sub(r"[^a-z0-9-]+", "-", name.lower()).strip("-")[:63].rstrip("-") or "localhost"


def _hash(password: object) -> str:
    """SHA-512 crypt, which every guest knows since 2008; newer hashes are unknown to some that are in use.

    libpass is passlib as it is maintained today; Python's own crypt module is gone from 3.13 on.
    """
    if not isinstance(password, str) or not password or not password.isprintable() or len(password) > 256:
        raise InvalidValueError("That is not a password.", hint="1 to 256 printable characters.")
    from passlib.hash import sha512_crypt

    return str(sha512_crypt.using(rounds=_ROUNDS).hash(password))


def _keys(given: str | os.PathLike[str] | Iterable[str | os.PathLike[str]] | None) -> list[str]:
    if given is None:
        return []
    several = list(given) if isinstance(given, Iterable) and not isinstance(given, str) else [given]
    found = [key for each in several for key in _read_keys(each)]
    return list(dict.fromkeys(found))


def _read_keys(given: str | os.PathLike[str]) -> list[str]:
    """The public keys in a text, or in the file that it names."""
    if not isinstance(given, (str, os.PathLike)):
        raise InvalidValueError(
            f"{given!r} is not an SSH key.", hint='Give the text of a public one, or the path of its file: "id.pub".'
        )
    text, place = os.fspath(given), ""
    if not _KEY.search(text) and "PRIVATE KEY" not in text:
        place = os.path.expanduser(text)
        try:
            text = Path(place).read_text(encoding="utf-8", errors="replace")
        except (OSError, ValueError) as error:
            said = os.strerror(error.errno or 0).lower() if isinstance(error, OSError) else "it cannot be a path"
            raise InvalidValueError(
                f"{_clip(given)} is neither a public SSH key nor a file that holds one: {said}.",
                hint='Such as ssh_key="~/.ssh/id_ed25519.pub", or the text in it.',
            ) from error
    if "PRIVATE KEY" in text or text.startswith("PuTTY-User-Key-File"):
        whose = f"{place} holds a private SSH key" if place else "That is a private SSH key"
        raise InvalidValueError(
            f"{whose}: it must not leave this machine. A guest needs the public one.",
            hint=f"ssh_key={place + '.pub'!r}" if place else "It is in the file beside it whose name ends with .pub.",
        )
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.strip().startswith("#")]
    for line in lines:
        match = _KEY.search(line)
        if match is None or not _is_key(match[1], match[2]):
            raise InvalidValueError(
                f"{_clip(line)} is not a public SSH key{f' (in {place})' if place else ''}.",
                hint="One looks like: ssh-ed25519 AAAAC3Nza... me@here",
            )
    if not lines:
        raise InvalidValueError(f"There is no SSH key in {place or _clip(given)}.", hint="Make one: ssh-keygen")
    return lines


def _is_key(kind: str, data: str) -> bool:
    """Whether the data is a key of that kind, which stands at its start too: a key that was cut off is none."""
    import base64
    import binascii

    try:
        raw = base64.b64decode(data, validate=True)
    except binascii.Error:
        return False
    at = 0
    while at + 4 <= len(raw):
        size = int.from_bytes(raw[at : at + 4], "big")
        if at == 0 and raw[4 : 4 + size] != kind.encode():
            return False
        at += 4 + size
    return at == len(raw) > 4


def _packages(given: Iterable[str]) -> list[str]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise InvalidValueError(f"{given!r} is not a list of packages.", hint=f'packages=["{given}"]')
    found = list(given)
    for package in found:
        if not isinstance(package, str) or not _PACKAGE.fullmatch(package):
            raise InvalidValueError(f"{_clip(package)} is not the name of a package.", hint='packages=["nginx", "git"]')
    return found


def _checked_script(text: object) -> str:
    if not isinstance(text, str) or not text.startswith(("#!", "#cloud-config")):
        raise InvalidValueError(
            "user_data is neither a #cloud-config nor a script.",
            hint='Its first line is "#cloud-config", or "#!" and an interpreter; or give a mapping.',
        )
    return text if text.endswith("\n") else f"{text}\n"


def _merged(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, Any]:
    """Both: lists one after the other, mappings joined; of single values theirs."""
    result = dict(ours)
    for key, value in theirs.items():
        mine = result.get(key)
        if isinstance(mine, Mapping) and isinstance(value, Mapping):
            result[key] = _merged(mine, value)
        elif isinstance(mine, list) and isinstance(value, (list, tuple)):
            result[key] = [*mine, *value]
        else:
            result[key] = value
    return result


def _json(data: Mapping[str, Any]) -> str:
    """JSON that is YAML too. No ``\\ud83d\\udc27`` for a character beyond 16 bits: YAML does not know such pairs."""
    try:
        text = json.dumps(data, ensure_ascii=False, indent=1, allow_nan=False)
        text.encode()
    except (TypeError, ValueError) as error:
        raise InvalidValueError(
            f"user_data holds what cannot be written down: {error}.", hint="It is made of texts, numbers, lists, dicts."
        ) from error
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _clip(value: object) -> str:
    text = repr(os.fspath(value) if isinstance(value, os.PathLike) else value)
    return text if len(text) <= 60 else f"{text[:57]}...'"
