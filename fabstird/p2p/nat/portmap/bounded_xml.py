"""XML of a stranger, as its texts: no document type, so that no entity can grow; bounded in depth, number and length.

Expat reads bytes as they come and builds no tree. What it is given is bounded in length by the caller, which bounds its
time.
"""

from __future__ import annotations

from dataclasses import dataclass
from xml.parsers import expat

MAX_DEPTH = 24  # elements inside each other; a description of a router has 9
MAX_ELEMENTS = 4096
MAX_TEXT = 1024  # characters of one text


class XmlError(ValueError):
    """It is no such XML; the message says why."""


@dataclass(frozen=True, slots=True)
class Leaf:
    """An element's text. ``parent`` numbers the element around it, so that those of one can be told from another's."""

    parent: int
    name: str  # without its prefix
    text: str


def leaves(data: bytes) -> list[Leaf]:
    """The texts of all elements that have one, in the order of their ends. Raises `XmlError`."""
    reader = _Reader()
    # Whatever encoding the document claims. Namespaces are left alone: each name would come with all of its own
    parser = expat.ParserCreate("utf-8")
    parser.buffer_text = True
    parser.StartDoctypeDeclHandler = reader.refuse
    parser.StartElementHandler = reader.start
    parser.EndElementHandler = reader.end
    parser.CharacterDataHandler = reader.characters
    try:
        parser.Parse(data.decode("utf-8", "replace").encode(), True)
    except expat.ExpatError as error:
        raise XmlError(f"not well-formed: {expat.ErrorString(error.code)}") from error
    return reader.found


class _Reader:
    def __init__(self) -> None:
        self.found: list[Leaf] = []
        self._open: list[tuple[int, str, list[str]]] = []  # number, name and texts of each element around
        self._count = 0

    def refuse(self, *_: object) -> None:
        raise XmlError("it has a document type")

    def start(self, name: str, _: object) -> None:
        self._count += 1
        if self._count > MAX_ELEMENTS or len(self._open) >= MAX_DEPTH:
            raise XmlError("it has too many elements, or too many inside each other")
        self._open.append((self._count, name.rpartition(":")[2], []))

    def characters(self, text: str) -> None:
        if text.isspace():
            return  # how it is laid out
        texts = self._open[-1][2]
        if sum(map(len, texts)) + len(text) > MAX_TEXT:
            raise XmlError("a text in it is too long")
        texts.append(text)

    def end(self, _: object) -> None:
        _, name, texts = self._open.pop()
        text = "".join(texts).strip()
        if text:
            self.found.append(Leaf(self._open[-1][0] if self._open else 0, name, text))
