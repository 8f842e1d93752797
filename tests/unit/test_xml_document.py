"""Document: what is refused as text, and that each way of changing a tree leaves the rest as it was."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from virtuoso_core.errors import VirtuosoError
from virtuoso_core.xml import Document, DomainDocument, XMLParseError
from virtuoso_core.xml.document import text_of

XML_TEXT = st.text(
    st.characters(codec="utf-8", exclude_categories=["Cs"]).filter(
        lambda c: c in "\t\n\r" or (ord(c) >= 0x20 and ord(c) not in (0xFFFE, 0xFFFF))
    )
)
"""Texts of all characters that XML can hold."""


# Parsing.


@pytest.mark.parametrize(
    "text",
    [
        "",
        b"",
        "   \n",
        "no markup",
        "<a>",
        "<a></b>",
        "<a/><b/>",
        "<a b='1' b='2'/>",
        "<a b=1/>",
        "<x:a/>",
        "<a>&undefined;</a>",
        "<a>&#0;</a>",
        "<a>&#xFFFE;</a>",
        "<a>\0</a>",
        b"<a>\0</a>",
        b"\0",
        "<a>\x08</a>",
        "<a>\ud800</a>",
        b"<a>\xff</a>",
        b"<?xml version='1.0' encoding='nonsense'?><a/>",
        b"<?xml version='1.0' encoding='UTF-16'?><a/>",
        b"<?xml version='1.0' encoding='ASCII'?><a>\xc3\xa9</a>",
        " <?xml version='1.0'?><a/>",
        "<a><!-- -- --></a>",
        "<a><![CDATA[</a>",
    ],
)
def test_what_is_not_well_formed_is_refused(text: str | bytes) -> None:
    with pytest.raises(XMLParseError) as caught:
        Document(text)
    assert isinstance(caught.value, VirtuosoError)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("<a>é</a>", "é"),
        ("<?xml version='1.0' encoding='ISO-8859-1'?><a>é</a>", "é"),
        ("<?xml version='1.0' encoding='UTF-16'?><a>é</a>", "é"),
        ("\ufeff<a>é</a>", "é"),
        ("<?xml version='1.0' encoding='ISO-8859-1'?><a>é</a>".encode("latin-1"), "é"),
        ("<?xml version='1.0' encoding='UTF-16'?><a>é</a>".encode("utf-16"), "é"),
        ("<a>é</a>".encode(), "é"),
        (b"\xef\xbb\xbf<a>\xc3\xa9</a>", "é"),
        ("<a>😀</a>", "😀"),
    ],
)
def test_a_str_is_decoded_already_and_bytes_are_as_they_declare(text: str | bytes, content: str) -> None:
    assert Document(text).root.text == content


# What foreign XML could do to this machine.

LAUGHS = "<!DOCTYPE a [<!ENTITY l0 'ha'>" + "".join(f"<!ENTITY l{n} '{f'&l{n - 1};' * 10}'>" for n in range(1, 12))


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """A file that no document may bring in."""
    path = tmp_path / "secret"
    path.write_text("top secret")
    return path


@pytest.mark.parametrize(
    "text",
    [
        "<!DOCTYPE a><a/>",
        "<!DOCTYPE a []><a/>",
        "<!DOCTYPE a SYSTEM 'a.dtd'><a/>",
        "<!DOCTYPE a PUBLIC '-//X//Y' 'http://127.0.0.1:9/a.dtd'><a/>",
        "<!DOCTYPE a [<!ENTITY x 'harmless'>]><a>&x;</a>",
        "<!DOCTYPE a [<!ELEMENT a ANY>]><a/>",
        LAUGHS + "]><a>&l11;</a>",
        LAUGHS + "]><a b='&l11;'/>",
        "<!DOCTYPE a [<!ENTITY a '&b;'><!ENTITY b '&a;'>]><a>&a;</a>",
        f"<!DOCTYPE a [<!ENTITY q '{'q' * 50_000}'>]><a>{'&q;' * 50_000}</a>",
    ],
    ids=range(10),
)
def test_a_doctype_is_refused(text: str) -> None:
    with pytest.raises(XMLParseError) as caught:
        Document(text)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE a [<!ENTITY x SYSTEM "file://{path}">]><a>&x;</a>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "{path}">]><a b="&x;"/>',
        '<!DOCTYPE a [<!ENTITY % p SYSTEM "file://{path}"> %p;]><a/>',
        '<!DOCTYPE a SYSTEM "file://{path}"><a/>',
    ],
)
def test_no_file_is_read(doctype: str, secret: Path) -> None:
    secret.write_text("<!ENTITY x 'top secret'>")
    with pytest.raises(XMLParseError) as caught:
        Document(doctype.format(path=secret))
    assert "top secret" not in str(caught.value)


def test_xinclude_is_plain_markup(secret: Path) -> None:
    text = f'<a xmlns:xi="http://www.w3.org/2001/XInclude"><xi:include href="{secret}" parse="text"/></a>'
    assert Document(text).text == text


@pytest.fixture
def web() -> Iterator[tuple[str, list[str]]]:
    """A web server on this machine: its address, and the paths that were asked of it."""
    asked: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    "text",
    [
        '<!DOCTYPE a SYSTEM "{web}/dtd"><a/>',
        '<!DOCTYPE a [<!ENTITY % p SYSTEM "{web}/parameter"> %p;]><a/>',
        '<!DOCTYPE a [<!ENTITY x SYSTEM "{web}/entity">]><a>&x;</a>',
        '<a xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" xsi:noNamespaceSchemaLocation="{web}/schema"/>',
        '<?xml-stylesheet href="{web}/style" type="text/xsl"?><a/>',
    ],
)
def test_the_network_is_not_reached(text: str, web: tuple[str, list[str]]) -> None:
    address, asked = web
    try:
        Document(text.format(web=address))
    except XMLParseError:
        pass  # those with a DOCTYPE
    assert asked == []


@pytest.mark.parametrize(
    "text",
    ["<a>" * 100_000, "<a>" * 5000 + "</a>" * 5000, f"<a>{'x' * 10_500_000}</a>", f"<a b='{'x' * 10_500_000}'/>"],
    ids=["unclosed", "deep", "long text", "long attribute"],
)
def test_trees_beyond_all_reason_are_refused(text: str) -> None:
    with pytest.raises(XMLParseError):
        Document(text)


# Changing.


@settings(deadline=None)
@given(XML_TEXT)
def test_any_text_that_xml_can_hold_is_written_and_read_back(name: str) -> None:
    domain = DomainDocument("<domain><name>old</name></domain>")
    domain.name = name
    domain.uuid = name
    domain.emulator = name
    domain.serial_log = name
    again = DomainDocument(domain.text)
    assert (again.name, again.uuid, again.emulator, again.serial_log) == (name, name, name, name)
    assert [child.tag for child in again.root] == ["name", "uuid", "devices"]


@pytest.mark.parametrize("name", ["<b/>", "</name><evil/>", "a & b", "&amp;", "\"'", "]]>", "<!--", "<![CDATA[x]]>"])
def test_markup_in_a_value_stays_text(name: str) -> None:
    domain = DomainDocument("<domain/>")
    domain.name = domain.machine = name
    again = DomainDocument(domain.text.encode())
    assert (again.name, again.machine) == (name, name)
    assert len(again.root) == 2


@pytest.mark.parametrize(
    "text",
    [
        "<a/>",
        "<a>\n</a>",
        "<a>text</a>",
        "<a><b/></a>",
        "<a>\n  <b/>\n</a>",
        "<a>\n\t<b/>\n\n</a>",
        "<a><b/>\n</a>",
        "<a>\n  <b/></a>",
        "<a>one<b/>two</a>",
        "<a>one<b/>two<d/>three</a>",
        "<a>\n  <b/> two \n  <d/> three \n</a>",
        "<a>\n  <!-- x --></a>",
        "<a>\n  <b/><!-- x -->\n</a>",
        "<a>\n  <?x y?>\n  <b/>\n  <!-- x -->\n\n</a>",
        "<a>\n  <b/>\n\n\n  <b/>\n  <d/>\n</a>",
        "<a><![CDATA[x < y]]><b/></a>",
    ],
)
def test_what_was_added_and_taken_away_leaves_no_trace(text: str) -> None:
    document = Document(text)
    before = document.text
    for after in [None, *document.root]:
        document.remove(document.add(document.root, "c", after=after, x="1"))
        assert document.text == before
    first, second = document.add(document.root, "c"), document.add(document.root, "c")
    document.remove(first)
    document.remove(second)
    assert document.text == before


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 7), max_size=12), st.sampled_from(["<a/>", "<a>\n  <b/>\n</a>", "<a>\n\n<!-- x --> t</a>"])
)
def test_in_whatever_order_elements_go_again(order: list[int], text: str) -> None:
    document = Document(text)
    before = document.text
    added = []
    for number in order:
        places = [None, *document.root]
        added.append(document.add(document.root, "c", after=places[number % len(places)]))
    for number in order:
        document.remove(added.pop(number % len(added)))
    assert document.text == before


def test_a_new_element_is_indented_like_its_siblings() -> None:
    document = Document("<a>\n  <b/>\n  <d/>\n</a>")
    document.add(document.root, "c", after=document.root[0])
    document.add(document.root, "e")
    assert document.text == "<a>\n  <b/>\n  <c/>\n  <d/>\n  <e/>\n</a>"


def test_removing_takes_what_became_empty_and_no_more() -> None:
    document = Document("<a>\n  <b>\n    <c>\n      <d/>\n    </c>\n  </b>\n  <e/>\n</a>")
    document.remove(document.root[0][0][0])
    assert document.text == "<a>\n  <e/>\n</a>"


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("<a><b x='1'><c/></b></a>", '<a><b x="1"/></a>'),
        ("<a><b x='1'>\n  <c/>\n</b></a>", '<a><b x="1"/></a>'),
        ("<a><b>text<c/></b></a>", "<a><b>text</b></a>"),
        ("<a><b><c/>text</b></a>", "<a><b>text</b></a>"),
        ("<a><b><!-- why --><c/></b></a>", "<a><b><!-- why --></b></a>"),
        ("<a><b><?why?><c/></b></a>", "<a><b><?why?></b></a>"),
        ("<a><b><c/></b></a>", "<a/>"),
    ],
)
def test_ancestors_that_hold_something_stay(text: str, left: str) -> None:
    document = Document(text)
    found = document.find(document.root, ("b", "c"))
    assert found is not None
    document.remove(found)
    assert document.text == left


def test_the_root_is_never_removed() -> None:
    document = Document("<a x='1'/>")
    document.set_attribute(document.root, "x", None)
    document.remove(document.root)
    assert document.text == "<a/>"


def test_an_element_that_was_empty_before_stays() -> None:
    document = Document("<a>\n  <b/>\n  <c>\n  </c>\n</a>")
    before = document.text
    for tag in ("b", "c"):
        document.remove(document.ensure(document.root, (tag, "d", "e")))
        element = document.ensure(document.root, (tag,))
        document.set_attribute(element, "x", "1")
        document.set_attribute(element, "x", None)
        document.set_attribute(element, "never", None)
    assert document.text == before


def test_comments_are_no_elements_and_do_not_hide_them() -> None:
    document = Document("<a><!-- <b/> --><?b?><b/></a>")
    assert document.find(document.root, ("b",)) is document.root[2]
    assert document.find(document.root, ("b", "c", "d")) is None


@pytest.mark.parametrize(
    ("inner", "text", "after"),
    [
        ("<!-- was 1 -->2", "2", "3<!-- was 1 -->"),
        ("1<!-- x -->2", "12", "3<!-- x -->"),
        ("1<?x?>2<!-- y -->", "12", "3<?x?><!-- y -->"),
        ("<![CDATA[2]]>", "2", "3"),
        ("", "", "3"),
    ],
)
def test_the_text_of_an_element_with_comments(inner: str, text: str, after: str) -> None:
    document = Document(f"<a>{inner}</a>")
    assert text_of(document.root) == text
    document.set_text(document.root, "3")
    assert document.text == f"<a>{after}</a>"


def test_a_copy_is_whole_and_independent() -> None:
    document = DomainDocument("<!-- before --><?pi?><domain><name>a</name></domain><!-- after -->")
    twin = document.copy()
    assert isinstance(twin, DomainDocument)
    assert (twin.text, twin.canonical()) == (document.text, document.canonical())
    twin.name = "b"
    assert (document.name, twin.name) == ("a", "b")
    document.remove(document.root[0])
    assert twin.text == "<!-- before --><?pi?><domain><name>b</name></domain><!-- after -->"


def test_views_of_one_element_are_equal() -> None:
    domain = DomainDocument("<domain><devices><disk/><disk/></devices></domain>")
    first, second = domain.disks
    assert first == domain.disks[0]
    assert first != second
    assert first != "disk"
    assert len({first, second, *domain.disks}) == 2
    first.remove()
    assert domain.disks == [second]
