"""A look at a server before libvirt connects to it, for libvirt waits without a limit and tells no two errors apart."""

from __future__ import annotations

import http.client
import os
import ssl

from virtuoso_core import URI
from virtuoso_core.errors import ConnectError
from virtuoso_core.xml import Document, XMLParseError

TIMEOUT = 10.0
"""Seconds for each step: connecting, the TLS handshake, the answer."""

_PORTS = {"esx": 443, "vpx": 443, "gsx": 8333}
_HTTP_PORTS = {"esx": 80, "vpx": 80, "gsx": 8222}
_QUESTION = (
    '<?xml version="1.0"?><Envelope xmlns="http://schemas.xmlsoap.org/soap/envelope/"><Body>'
    '<RetrieveServiceContent xmlns="urn:vim25"><_this type="ServiceInstance">ServiceInstance</_this>'
    "</RetrieveServiceContent></Body></Envelope>"
)
"""What anybody may ask before signing in."""


def server_kind(uri: URI) -> str:
    """What answers: "VirtualCenter", or "HostAgent" for a single host.

    Raises:
        ConnectError: nothing listens, nobody answers in time, the certificate is not trusted, it is something else.
    """
    connection = _connection(uri)
    where = f"{connection.host} port {connection.port}"
    problem, hint = f"what answers on {where} is no VMware server", "Is the port right?"
    try:
        connection.request("POST", "/sdk", _QUESTION, {"Content-Type": "text/xml; charset=utf-8"})
        answer = connection.getresponse().read(65536)
        for kind in Document(answer).root.iter("{*}apiType"):
            return kind.text or ""
    except ssl.SSLCertVerificationError as error:
        problem = f"the certificate of {where} is not trusted: {error.verify_message}"
        hint = f"Install the authority that signed it, or do without the check: {_unverified(uri)}"
    except ssl.SSLError as error:
        problem = f"{where} does not speak TLS: {error.reason}"
    except TimeoutError:
        problem, hint = f"{where} did not answer within {TIMEOUT:g} s", "Is the host up, and no firewall between?"
    except (http.client.HTTPException, XMLParseError, ConnectionResetError, BrokenPipeError):
        pass  # a reset is how some servers answer what they do not understand
    except OSError as error:
        problem, hint = f"{where} cannot be reached: {error.strerror or error}", "Is the host up, and the port right?"
    finally:
        connection.close()
    raise ConnectError(f"Cannot connect to {uri}: {problem}.", hint=hint, uri=uri)


def _connection(uri: URI) -> http.client.HTTPConnection:
    host = uri.host or ""
    if uri.query.get("transport") == "http":
        return http.client.HTTPConnection(host, uri.port or _HTTP_PORTS[uri.scheme], timeout=TIMEOUT)
    context = ssl.create_default_context(cafile=uri.query.get("cacert"))
    if uri.query.get("no_verify") == "1":
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    return http.client.HTTPSConnection(host, uri.port or _PORTS[uri.scheme], timeout=TIMEOUT, context=context)


def _unverified(uri: URI) -> str:
    text = str(uri.without("no_verify"))
    return f"{text}{'&' if '?' in text else '?'}no_verify=1"


def auth_file(uri: URI) -> str:
    """The file with user names and passwords that libvirt would look into; "" for none."""
    home = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    named = (uri.query.get("authfile"), os.environ.get("LIBVIRT_AUTH_FILE"))
    places = (*named, f"{home}/libvirt/auth.conf", "/etc/libvirt/auth.conf")
    return next((place for place in places if place and os.path.exists(place)), "")
