"""Document and View: parsing without entities or network, and the few ways in which a tree is ever changed."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import TYPE_CHECKING, Self

from ..errors import VirtuosoError


class XMLParseError(VirtuosoError):
    """XML that is not well formed, or holds what could read files, reach the network or fill the memory."""


if TYPE_CHECKING:
    # lxml is imported where a document is made, so that drivers load fast, and without it
    from lxml.etree import _Element


class Document:
    """An XML document that is changed in place.

    Comments, foreign namespaces, CDATA, white space and the order of attributes survive; an element that was added
    and taken away again leaves no trace.

    Raises:
        XMLParseError: when parsing.

    Example:
        >>> document = Document("<a>\\n  <b/>\\n</a>")
        >>> document.remove(document.ensure(document.root, ("c", "d")))
        >>> document.text
        '<a>\\n  <b/>\\n</a>'
    """

    def __init__(self, text: str | bytes) -> None:
        from lxml import etree

        parser = etree.XMLParser(
            encoding="utf-8" if isinstance(text, str) else None,  # whatever the str declares, it is decoded already
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            dtd_validation=False,
            huge_tree=False,
            remove_blank_text=False,
            strip_cdata=False,
        )
        try:
            data = text.encode() if isinstance(text, str) else text
            self.root: _Element = etree.fromstring(data, parser)
        except (etree.XMLSyntaxError, UnicodeEncodeError) as error:
            said = " ".join(str(error).split())
            raise XMLParseError(f"This is not well-formed XML: {said}.") from error
        if self.root.getroottree().docinfo.doctype:
            raise XMLParseError("XML with a DOCTYPE is refused: it could read files or fill the memory.")
        self._made: set[_Element] = set()
        self._empty_before: set[_Element] = set()

    @property
    def text(self) -> str:
        """The whole document as text."""
        from lxml import etree

        return etree.tostring(self.root.getroottree(), encoding="unicode")

    def canonical(self) -> bytes:
        """The document in canonical form (C14N, with comments), for comparing."""
        from lxml import etree

        return etree.tostring(self.root.getroottree(), method="c14n", with_comments=True)

    def copy(self) -> Self:
        """An independent copy."""
        twin = copy.copy(self)
        twin.root = copy.deepcopy(self.root.getroottree()).getroot()
        twin._made, twin._empty_before = set(), set()
        return twin

    def find(self, parent: _Element, path: tuple[str, ...]) -> _Element | None:
        """The first element at the path of tags below the parent, or None."""
        found: _Element | None = parent
        for tag in path:
            if found is None:
                return None
            found = next(children(found, tag), None)
        return found

    def ensure(self, parent: _Element, path: tuple[str, ...]) -> _Element:
        """The first element at the path, made where it is missing."""
        for tag in path:
            found = next(children(parent, tag), None)
            parent = self.add(parent, tag) if found is None else found
        return parent

    def add(self, parent: _Element, tag: str, *, after: _Element | None = None, **attributes: str) -> _Element:
        """A new last child, or one right after a given sibling, indented like its siblings."""
        from lxml import etree

        element = etree.Element(tag, attributes)
        return self.insert(parent, element, after=after)

    def insert(self, parent: _Element, element: _Element, *, after: _Element | None = None) -> _Element:
        """The same for an element made elsewhere."""
        self._made.add(element)
        if len(parent) == 0:
            self._note_empty(parent)
            element.tail = None
            parent.append(element)
            return element
        before = parent[-1] if after is None else after
        element.tail = before.tail
        if before.getnext() is None:
            before.tail = parent.text if _is_blank(parent.text) else None
        elif not _is_blank(before.tail):
            before.tail = None
        parent.insert(parent.index(before) + 1, element)
        return element

    def remove(self, element: _Element) -> None:
        """Take an element away, and the ancestors that became empty by it; those that were empty before stay."""
        parent = element.getparent()
        if parent is None:
            return
        before, tail = element.getprevious(), element.tail or ""
        if before is not None:
            if element.getnext() is None:
                before.tail = (before.tail or "").strip() + tail or None
            else:
                before.tail = (before.tail or "") + (tail if tail.strip() else "") or None
        elif tail.strip():
            parent.text = (parent.text or "") + tail
        parent.remove(element)
        if not len(parent) and element not in self._made and _is_blank(parent.text):
            parent.text = None  # the indent of what is gone
        self._prune(parent)

    def set_attribute(self, element: _Element, name: str, value: str | None) -> None:
        """Write an attribute; None takes it away, and its element too when that became empty by it."""
        if value is not None:
            self._note_empty(element)
            element.set(name, value)
        elif element.attrib.pop(name, None) is not None:
            self._prune(element)

    def set_text(self, element: _Element, value: str) -> None:
        """Write an element's text; comments in it stay."""
        element.text = value or None
        for comment in _comments(element):
            comment.tail = None

    def _note_empty(self, element: _Element) -> None:
        if _is_empty(element) and element not in self._made:
            self._empty_before.add(element)

    def _prune(self, element: _Element) -> None:
        if _is_empty(element) and element not in self._empty_before and element.getparent() is not None:
            self.remove(element)


def _is_empty(element: _Element) -> bool:
    return not len(element) and not element.attrib and _is_blank(element.text)


def _is_blank(text: str | None) -> bool:
    return not (text or "").strip()


def _comments(element: _Element) -> list[_Element]:
    """The comments and processing instructions in an element."""
    return [child for child in element if not isinstance(child.tag, str)]


def text_of(element: _Element) -> str:
    """An element's text, also where a comment stands in it."""
    return (element.text or "") + "".join(comment.tail or "" for comment in _comments(element))


class View:
    """A typed view of one element of a document; its fields are descriptors of ``fields``."""

    def __init__(self, document: Document, element: _Element) -> None:
        self._document = document
        self._element = element

    @property
    def document(self) -> Document:
        """The document that the element belongs to."""
        return self._document

    @property
    def element(self) -> _Element:
        """The element that is viewed."""
        return self._element

    def __eq__(self, other: object) -> bool:
        return isinstance(other, View) and self.element is other.element

    def __hash__(self) -> int:
        return hash(self.element)

    def remove(self) -> None:
        """Take the element out of its document."""
        self.document.remove(self.element)


def children(parent: _Element, tag: str) -> Iterator[_Element]:
    """The child elements with that tag, in order; comments are skipped."""
    return parent.iterchildren(tag)
