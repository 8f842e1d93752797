"""Lossless typed views over XML: what a view does not name is never touched."""

from .document import Document, XMLParseError
from .domain import Disk, DomainDocument, Graphics, Interface

__all__ = ["Disk", "Document", "DomainDocument", "Graphics", "Interface", "XMLParseError"]
