"""URI: where a hypervisor is. Parsed once, printed without its password."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit

from .errors import InvalidURIError

_SCHEME = re.compile(r"[a-z][a-z0-9-]*(\+[a-z][a-z0-9]*)?", re.ASCII)
_EXAMPLES = "It looks like qemu:///system, qemu+ssh://host/system or test:///default."


@dataclass(frozen=True, slots=True)
class URI:
    """A hypervisor's address, in libvirt's form: ``scheme[+transport]://[user[:password]@][host[:port]]/path[?query]``.

    Attributes:
        scheme: which driver, such as "qemu".
        transport: how to get there, such as "ssh", or None.
        username, password, host, port: None where the URI has none. ``str()`` and ``repr()`` hide the password.
        path: with its leading slash, such as "/system".
        query: the parameters.

    Example:
        >>> uri = URI.parse("qemu+ssh://root:secret@host/system?no_tty=1")
        >>> uri.scheme, uri.transport, uri.host, uri.path, uri.query["no_tty"]
        ('qemu', 'ssh', 'host', '/system', '1')
        >>> str(uri)
        'qemu+ssh://root:***@host/system?no_tty=1'
    """

    scheme: str
    path: str = ""
    transport: str | None = None
    host: str | None = None
    port: int | None = None
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    query: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}), hash=False)

    @classmethod
    def parse(cls, text: object) -> URI:
        """Raises InvalidURIError when it is no URI of a hypervisor."""
        if isinstance(text, URI):
            return text
        if not isinstance(text, str):
            raise InvalidURIError(f"A hypervisor's URI is a str, not {type(text).__name__}.", hint=_EXAMPLES)
        shown = masked(text)
        if re.search(r"[\x00-\x20\x7f\ud800-\udfff]", text):
            raise InvalidURIError(
                f"The URI {shown!r} has a space, control or undecodable character in it.", hint=_EXAMPLES
            )
        scheme, separator, _ = text.partition("://")
        if not separator:
            raise InvalidURIError(f"{shown!r} is not a hypervisor's URI: it has no '://'.", hint=_EXAMPLES)
        if not _SCHEME.fullmatch(scheme.lower()):
            raise InvalidURIError(f"The URI {shown!r} has no proper scheme before its '://'.", hint=_EXAMPLES)
        if "#" in text:
            raise InvalidURIError(f"The URI {shown!r} has a '#' in it.", hint="Write it as %23.")
        try:
            parts = urlsplit(text)
            host, port = parts.hostname, parts.port
        except ValueError:
            parts = None  # raised below: urlsplit's own error may quote the password
        if parts is None:
            raise InvalidURIError(f"The URI {shown!r} does not parse: its host or port is wrong.", hint=_EXAMPLES)
        if "@" in parts.path + parts.query and ":" in re.sub(r"\[.*\]", "", parts.netloc):
            raise InvalidURIError(  # it may be the rest of a password that would be shown
                f"The URI {shown!r} has an '@' after its host.", hint="Write '@' as %40, and in a password '/' as %2F."
            )
        name, _, transport = scheme.lower().partition("+")
        return cls(
            scheme=name,
            transport=transport or None,
            host=host or None,
            port=port,
            username=None if parts.username is None else unquote(parts.username),
            password=None if parts.password is None else unquote(parts.password),
            path=parts.path,
            query=MappingProxyType(dict(parse_qsl(parts.query, keep_blank_values=True))),
        )

    @property
    def is_local(self) -> bool:
        """Whether the hypervisor's files are this machine's files."""
        return self.host is None and self.transport in (None, "unix")

    def without(self, *names: str) -> URI:
        """The same URI without those query parameters."""
        kept = {key: value for key, value in self.query.items() if key not in names}
        return replace(self, query=MappingProxyType(kept))

    def with_credentials(self, username: str | None, password: str | None) -> URI:
        """The same URI for another user."""
        return replace(self, username=username, password=password)

    @property
    def full(self) -> str:
        """The URI with its password: for the hypervisor only, never for people."""
        return self._text(None if self.password is None else quote(self.password, safe=""))

    def __str__(self) -> str:
        return self._text(None if self.password is None else "***")

    def _text(self, password: str | None) -> str:
        user = "" if self.username is None else quote(self.username, safe="\\")
        login = user + ("" if password is None else f":{password}")
        host = self.host or ""
        host = f"[{host}]" if ":" in host else host
        transport = f"+{self.transport}" if self.transport else ""
        port = f":{self.port}" if self.port is not None else ""
        query = f"?{urlencode(self.query, safe='/:', quote_via=quote)}" if self.query else ""
        return f"{self.scheme}{transport}://{login + '@' if login else ''}{host}{port}{self.path}{query}"


def masked(text: str) -> str:
    """A URI for people, also one that does not parse: what may be a password is hidden, even one with odd characters.

    Example:
        >>> masked("qemu://root:se/cr@t@host:port/system")
        'qemu://root:***@host:port/system'
    """
    before, at, after = text.rpartition("@")
    start = re.match(r"[^:/@]*://", before)
    scheme = start[0] if start else ""
    user, colon, _ = before[len(scheme) :].partition(":")
    text = f"{scheme}{user}:***@{after}" if at and colon else text
    return text if len(text) <= 80 else text[:77] + "..."
