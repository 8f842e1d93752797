"""Typed descriptors: each maps one attribute of a View to one place in its element, reading and writing in place.

Setting a value that means the same changes nothing; setting None removes the place and what became empty by it.
"""

from __future__ import annotations

from typing import Any, Generic, Protocol, TypeVar, overload

from lxml import etree

from .document import Document

T = TypeVar("T")
Path = tuple[str, ...]


class Viewed(Protocol):
    """What has fields: a View, or a document that is a view of its own root."""

    @property
    def document(self) -> Document: ...
    @property
    def element(self) -> etree._Element: ...


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
        raw = element.text if self.attribute is None else element.get(self.attribute)
        if raw is None and self.attribute is None:
            raw = ""
        return None if raw is None else self.decode(raw, element)

    def __set__(self, view: Viewed, value: T | None) -> None:
        if self.__get__(view, type(view)) == value:
            return
        if value is None:
            self._clear(view.document, view.document.find(view.element, self.path))
            return
        element = view.document.ensure(view.element, self.path)
        raw = self.encode(value, element)
        if self.attribute is None:
            element.text = raw
        else:
            view.document.set_attribute(element, self.attribute, raw)

    def _clear(self, document: Document, element: etree._Element | None) -> None:
        if element is None:
            return
        if self.attribute is None:
            document.remove(element)
        else:
            document.set_attribute(element, self.attribute, None)

    def decode(self, raw: str, element: etree._Element) -> T | None:
        """The value of a text found; None when it is none that we understand."""
        raise NotImplementedError

    def encode(self, value: T, element: etree._Element) -> str:
        """The text of a value."""
        return str(value)


class Text(Field[str]):
    """A text."""

    def decode(self, raw: str, element: etree._Element) -> str:
        return raw


class Integer(Field[int]):
    """A whole number."""

    def decode(self, raw: str, element: etree._Element) -> int | None:
        try:
            return int(raw)
        except ValueError:
            return None


class YesNo(Field[bool]):
    """libvirt's 'yes' and 'no'."""

    def decode(self, raw: str, element: etree._Element) -> bool | None:
        return {"yes": True, "no": False}.get(raw)

    def encode(self, value: bool, element: etree._Element) -> str:
        return "yes" if value else "no"


_UNITS = {
    "b": 1, "bytes": 1,
    "k": 1024, "KiB": 1024, "M": 1024**2, "MiB": 1024**2, "G": 1024**3, "GiB": 1024**3,
    "T": 1024**4, "TiB": 1024**4, "P": 1024**5, "PiB": 1024**5, "E": 1024**6, "EiB": 1024**6,
    "KB": 1000, "MB": 1000**2, "GB": 1000**3, "TB": 1000**4, "PB": 1000**5, "EB": 1000**6,
}  # fmt: skip


class Memory(Field[int]):
    """An amount in KiB, whatever the element's ``unit``, which is kept where the new amount is whole in it.

    The amount is the element's text, or its attribute ``memory`` where that is named.
    """

    def decode(self, raw: str, element: etree._Element) -> int | None:
        unit = _UNITS.get(element.get("unit", "KiB"))
        try:
            return None if unit is None else -(-int(raw) * unit // 1024)  # libvirt rounds up too
        except ValueError:
            return None

    def encode(self, value: int, element: etree._Element) -> str:
        size = _UNITS.get(element.get("unit", "KiB"), 1024)
        if value * 1024 % size:
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
