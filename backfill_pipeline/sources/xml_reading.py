"""Reading XML as a stream of events, in bounded memory, from files that nobody vouches for.

Belongs here: the parser and what it refuses.
Does not: what elements mean (the streams).

A document type declaration is refused, and with it every entity that a file could define: neither workbooks nor bank
statements have any. So nothing is expanded, and nothing outside the file is read.
"""

from collections.abc import Iterable, Iterator
from typing import Final, Protocol
from xml.parsers import expat

from backfill_pipeline.errors import SourceFileError

TOKEN_BYTES_MAX: Final = 16 << 20
"""Longest tag, comment or attribute; the parser holds one in memory as a whole."""

_SEPARATOR: Final = " "


class XmlHandler(Protocol):
    """Takes the events of a document. All names are without their namespaces."""

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        """An element begins, in this line of the file."""
        ...

    def end(self, name: str) -> None:
        """An element ends."""
        ...

    def text(self, text: str) -> None:
        """Text between two tags, perhaps in several parts."""
        ...


def read_xml(blocks: Iterable[bytes], handler: XmlHandler, place: str) -> Iterator[None]:
    """Feeds a document to a handler; comes back after every block, when its events are handled.

    Args:
        blocks: the document.
        handler: takes its events.
        place: what is read, for messages.

    Raises:
        SourceFileError: it is no well-formed XML to its end, or declares a document type.
    """
    parser = expat.ParserCreate(namespace_separator=_SEPARATOR)
    parser.buffer_text = True
    names: dict[str, str] = {}

    def local(name: str) -> str:
        return names.setdefault(name, name.rpartition(_SEPARATOR)[2])

    def start(name: str, attributes: dict[str, str]) -> None:
        handler.start(
            names.get(name) or local(name),
            {names.get(key) or local(key): value for key, value in attributes.items()},
            parser.CurrentLineNumber,
        )

    def end(name: str) -> None:
        handler.end(names[name])

    def refuse(*_: object) -> None:
        raise SourceFileError(
            f"{place}: declares a document type (DOCTYPE), as no bank's file does: it is not read."
        )

    parser.StartElementHandler = start
    parser.EndElementHandler = end
    parser.CharacterDataHandler = handler.text
    parser.StartDoctypeDeclHandler = refuse
    fed = 0
    try:
        for block in blocks:
            parser.Parse(block, False)
            fed += len(block)
            if fed - parser.CurrentByteIndex > TOKEN_BYTES_MAX:
                raise SourceFileError(f"{place}: holds a tag of more than {TOKEN_BYTES_MAX >> 20} MiB.")
            yield
        parser.Parse(b"", True)
    except expat.ExpatError as error:
        reason = expat.ErrorString(error.code)
        raise SourceFileError(
            f"{place}: is not a whole XML file (line {error.lineno}: {reason}): was it cut short or damaged?"
        ) from None
    except (LookupError, ValueError) as error:  # an encoding that is none, or that XML cannot be read in
        raise SourceFileError(f"{place}: cannot be read as XML: {' '.join(str(error).split())}.") from None
    yield
