"""URI: what it takes, what it refuses, and that no password ever shows."""

from __future__ import annotations

import string
import traceback
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from virtuoso_core import URI, InvalidURIError, connect
from virtuoso_core.uri import masked

GOOD = {
    "qemu:///system": {"scheme": "qemu", "path": "/system", "is_local": True},
    "qemu:///session": {"scheme": "qemu", "path": "/session"},
    "QEMU+SSH://Host/system": {"scheme": "qemu", "transport": "ssh", "host": "host", "is_local": False},
    "qemu+ssh://root@host:2222/system?no_tty=1&keyfile=/k": {
        "username": "root",
        "port": 2222,
        "query": {"no_tty": "1", "keyfile": "/k"},
    },
    "qemu+unix:///system?socket=/run/x": {"transport": "unix", "is_local": True},
    "qemu+libssh2://host/system": {"transport": "libssh2"},
    "vbox+ssh://10.0.0.1/session": {"host": "10.0.0.1"},
    "vpx://DOM%5Cuser@vcenter/dc/cluster/host": {"username": "DOM\\user", "path": "/dc/cluster/host"},
    "vpx://user@vcenter/d@c/host": {"path": "/d@c/host"},
    "esx://root:p%40ss%2Fw%3Ard@host/?no_verify=1": {"username": "root", "password": "p@ss/w:rd"},
    "esx://host": {"host": "host", "path": "", "username": None, "password": None, "port": None},
    "qemu+tcp://[fe80::1]:16509/system": {"host": "fe80::1", "port": 16509},
    "test:///default": {"scheme": "test"},
    "memory://h/x?flag=&a=%26": {"query": {"flag": "", "a": "&"}},
}


@pytest.mark.parametrize(("text", "parts"), GOOD.items())
def test_parts(text: str, parts: dict[str, Any]) -> None:
    uri = URI.parse(text)
    assert {name: getattr(uri, name) for name in parts} == parts


@pytest.mark.parametrize("text", GOOD)
def test_what_it_prints_means_the_same(text: str) -> None:
    uri = URI.parse(text)
    assert URI.parse(uri.full) == uri
    assert URI.parse(str(uri)) == replace(uri, password=uri.password and "***")
    assert URI.parse(uri) is uri


BAD = {
    "": "no '://'",
    "qemu": "no '://'",
    "qemu:/system": "no '://'",
    "://host/": "no proper scheme",
    "1qemu:///x": "no proper scheme",
    "qe mu:///x": "space",
    "qemu:///my vm": "space",
    "qemu:///x\n": "space, control",
    "qemu:///x\x00": "control",
    "qemu://\udc80/x": "undecodable",
    "qemu+:///x": "no proper scheme",
    "+ssh:///x": "no proper scheme",
    "a+b+c:///x": "no proper scheme",
    "qému:///x": "no proper scheme",
    "qemu://host:port/x": "host or port",
    "qemu://host:99999/x": "host or port",
    "qemu://[::1/x": "host or port",
    "qemu:///x#y": "'#'",
    "qemu:///x#": "'#'",
    "qemu://root:12/34@host/x": "'@' after its host",
}


@pytest.mark.parametrize(("text", "why"), BAD.items())
def test_what_is_no_uri_says_why(text: str, why: str) -> None:
    with pytest.raises(InvalidURIError, match="URI") as caught:
        URI.parse(text)
    assert why in caught.value.message
    assert caught.value.hint
    str(caught.value).encode()  # can be printed


@pytest.mark.parametrize("value", [None, 1, b"qemu:///x", ["qemu:///x"]])
def test_what_is_no_text(value: object) -> None:
    with pytest.raises(InvalidURIError, match="is a str, not"):
        URI.parse(value)


def test_a_long_one_is_cut_in_the_message() -> None:
    with pytest.raises(InvalidURIError) as caught:
        URI.parse("x" * 5000)
    assert len(str(caught.value)) < 250


def test_without_and_with_credentials() -> None:
    uri = URI.parse("esx://host/?a=1&b=2")
    assert str(uri.without("a", "c")) == "esx://host/?b=2"
    assert uri.with_credentials("u", "p:w").full == "esx://u:p%3Aw@host/?a=1&b=2"
    assert str(uri) == "esx://host/?a=1&b=2"


# Passwords.

ODD = string.ascii_letters + string.digits + "@:/?#[]!$&'()*+,;=%\\\"<> \t\n\x00é\u2028ß\U0001f511"
# What follows makes a password that no other part of a URI or a message can hold by chance.
PASSWORDS = st.text(ODD, min_size=0, max_size=20).map(lambda text: f"Zq{text}qZ")


def pieces(password: str) -> list[str]:
    """What of a password must not show: the whole, and the marks at its ends."""
    return [password, repr(password)[1:-1], "Zq", "qZ"]


def assert_hidden(password: str, *shown: str) -> None:
    for text in shown:
        assert not [piece for piece in pieces(password) if piece in text]


@given(PASSWORDS)
def test_a_password_shows_nowhere_but_in_full(password: str) -> None:
    uri = URI("esx", "/x", host="host").with_credentials("root", password)
    assert_hidden(password, str(uri), repr(uri), f"{uri}", repr([uri]), repr({"uri": uri}))
    again = URI.parse(uri.full)
    assert again.password == password
    assert_hidden(password, str(again), repr(again))


@given(PASSWORDS, st.sampled_from(["esx://root:{}@host/x", "esx://:{}@host", "esx+ssh://u:{}@[::1]:22/x?a=b"]))
@example("Zq12/34qZ", "esx://root:1{}@host/x")
@example("Zq/qZ", "esx://root:12/{}@host/x")
@example("Zq/qZ", "esx://root:12?{}@host/x")
@example("Zq@a/qZ", "esx://root:{}@host/x")
@example("Zq@a?qZ", "esx://root:{}@host/x")
@example("Zq://qZ", "esx:root:{}@host/x")
@example("ZqqZ", "esx:root:{}@host/x")
@example("ZqqZ", "root:{}@host")
@example("ZqqZ", "esx://a@b:{}@host:port/x")
@example("ZqqZ", "esx://root:{}@host:port/x")
@example("ZqqZ", "esx://root:{}@host/x#y")
@example("ZqqZ", "esx://root:{}@ho st/x")
@example("ZqqZ", "1esx://root:{}@host/x")
@example("ZqqZ", "esx://root:{}@\u2100/x")
@example("Zq[qZ", "esx://root:{}@host/x")
def test_a_password_that_was_not_encoded_shows_nowhere(password: str, form: str) -> None:
    text = form.format(password)
    assert_hidden(password, masked(text))
    try:
        uri = URI.parse(text)
    except InvalidURIError as error:
        assert_hidden(password, str(error), repr(error), error.hint, "".join(traceback.format_exception(error)))
    else:
        assert_hidden(password, str(uri), repr(uri))


def test_connect_shows_no_password() -> None:
    with pytest.raises(Exception, match="nosuch") as caught:
        connect("nosuch://root:hunter2@host/")
    assert "hunter2" not in str(caught.value)
    with connect("memory://root:hunter2@host/x") as hypervisor:
        vm = hypervisor.new_vm()
        assert "hunter2" not in f"{hypervisor!r} {vm!r} {hypervisor.uri}"
        with pytest.raises(LookupError) as missing:
            hypervisor.get("web")
        assert "hunter2" not in str(missing.value)


@given(st.text(max_size=60))
def test_any_text_is_a_uri_or_refused(text: str) -> None:
    try:
        uri = URI.parse(text)
    except InvalidURIError:
        return
    str(uri).encode()


SAFE = st.text(string.ascii_letters + string.digits + "-._~", min_size=1, max_size=10)
ANY = st.text(min_size=1, max_size=10).filter(lambda text: text.isprintable())


@given(
    st.builds(
        URI,
        scheme=st.sampled_from(["qemu", "vbox", "x-y"]),
        transport=st.none() | st.sampled_from(["ssh", "libssh2"]),
        host=SAFE.map(str.lower) | st.just("fe80::1"),
        port=st.none() | st.integers(0, 65535),
        username=st.none() | ANY,
        path=st.just("") | SAFE.map("/".__add__),
        query=st.dictionaries(ANY, ANY, max_size=3),
    )
)
def test_writing_and_reading_are_inverse(uri: URI) -> None:
    assert URI.parse(str(uri)) == uri
