"""Typed descriptors: each maps one attribute of a View to one place in its element, reading and writing in place.

Setting a value that means the same changes nothing; setting None removes the place and what became empty by it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar, overload

from .document import Document, text_of

if TYPE_CHECKING:
    from lxml.etree import _Element

T = TypeVar("T")
Path = tuple[str, ...]


class Viewed(Protocol):
    """What has fields: a View, or a document that is a view of its own root."""

    @property
    def document(self) -> Document: ...
    @property
    def element(self) -> _Element: ...


class Field(Generic[T]):
    """The common part: where it is, and get and set in terms of ``decode`` and ``encode``."""

    def __init__(self, *path: str, attribute: str | None = None) -> None:
        self.path: Path = path
        self.attribute = attribute

    def __set_name__(self, owner: type[Viewed], name: str) -> None:
        self.name = name

    @overload
    def __get__(self, view: None, owner: type[Viewed]) -> Field[T]: ...
    @overload
    def __get__(self, view: Viewed, owner: type[Viewed]) -> T | None: ...
    def __get__(self, view: Viewed | None, owner: type[Viewed]) -> Field[T] | T | None:
        if view is None:
            return self
        element = view.document.find(view.element, self.path)
        if element is None:
            return None
        raw = text_of(element) if self.attribute is None else element.get(self.attribute)
        return None if raw is None else self.decode(raw, element)

    def __set__(self, view: Viewed, value: T | None) -> None:
        if value is None:
            self._clear(view.document, view.document.find(view.element, self.path))
            return
        if self.__get__(view, type(view)) == value:
            return
        element = view.document.ensure(view.element, self.path)
        raw = self.encode(value, element)
        if self.attribute is None:
            view.document.set_text(element, raw)
        else:
            view.document.set_attribute(element, self.attribute, raw)

    def _clear(self, document: Document, element: _Element | None) -> None:
        if element is None:
            return
        if self.attribute is None:
            document.remove(element)
        else:
            document.set_attribute(element, self.attribute, None)

    def decode(self, raw: str, element: _Element) -> T | None:
        """The value of a text found; None when it is none that we understand."""
        raise NotImplementedError

    def encode(self, value: T, element: _Element) -> str:
        """The text of a value."""
        return str(value)


class Text(Field[str]):
    """A text."""

    def decode(self, raw: str, element: _Element) -> str:
        return raw


class Integer(Field[int]):
    """A whole number."""

    def decode(self, raw: str, element: _Element) -> int | None:
        try:
            return int(raw)
        except ValueError:
            return None


class YesNo(Field[bool]):
    """libvirt's 'yes' and 'no'."""

    def decode(self, raw: str, element: _Element) -> bool | None:
        return {"yes": True, "no": False}.get(raw)

    def encode(self, value: bool, element: _Element) -> str:
        return "yes" if value else "no"


_UNITS = {
    "b": 1, "byte": 1, "bytes": 1, "": 1024,
    "k": 1024, "kib": 1024, "m": 1024**2, "mib": 1024**2, "g": 1024**3, "gib": 1024**3,
    "t": 1024**4, "tib": 1024**4, "p": 1024**5, "pib": 1024**5, "e": 1024**6, "eib": 1024**6,
    "kb": 1000, "mb": 1000**2, "gb": 1000**3, "tb": 1000**4, "pb": 1000**5, "eb": 1000**6,
}  # fmt: skip
"""Bytes in each of libvirt's units, whose case does not matter."""


def _size(element: _Element) -> int | None:
    return _UNITS.get(element.get("unit", "").lower())


class Memory(Field[int]):
    """An amount in KiB, whatever the element's ``unit``, which is kept where the new amount is whole in it.

    The amount is the element's text, or its attribute ``memory`` where that is named.
    """

    def decode(self, raw: str, element: _Element) -> int | None:
        unit = _size(element)
        try:
            return None if unit is None else -(-int(raw) * unit // 1024)  # libvirt rounds up too
        except ValueError:
            return None

    def encode(self, value: int, element: _Element) -> str:
        size = _size(element)
        if size is None or value * 1024 % size:
            element.set("unit", "KiB")
            return str(value)
        return str(value * 1024 // size)


class Flag(Field[bool]):
    """Whether an element is there; False when it is not."""

    def __get__(self, view: Viewed | None, owner: type[Viewed]) -> Any:
        return self if view is None else view.document.find(view.element, self.path) is not None

    def __set__(self, view: Viewed, value: bool | None) -> None:
        element = view.document.find(view.element, self.path)
        if value and element is None:
            view.document.ensure(view.element, self.path)
        elif not value and element is not None:
            view.document.remove(element)
