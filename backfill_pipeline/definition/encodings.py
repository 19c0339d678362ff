"""Which text encodings a delimited file may have.

Belongs here: the test that record and field boundaries can be found in the undecoded bytes.
Does not: decoding (`sources/files/csv_reader.py`).
"""

import codecs
from functools import cache


def is_utf8(encoding: str) -> bool:
    """Whether the encoding is UTF-8 (ASCII is a part of it), which needs no transcoding."""
    return codecs.lookup(encoding).name in ("utf-8", "ascii", "utf-8-sig")


def check_encoding(encoding: str, delimiter: str, quote: str | None) -> str | None:
    """Why an encoding cannot be read, as the end of a sentence; None when it can.

    Boundaries are searched in bytes, which is right when every ASCII character is its own single byte, and when the
    bytes of delimiter, quote and line breaks never occur inside another character (they do in UTF-16 and ISO-2022).
    """
    try:
        codecs.lookup(encoding)
    except (LookupError, ValueError):
        return "is not a known encoding: allowed are utf-8, latin-1, cp1252 and other ASCII-compatible ones"
    inside = _bytes_inside_characters(encoding)
    if inside is None or inside & {*(delimiter + (quote or "") + "\r\n").encode()}:
        return "is not ASCII-compatible: convert the file to utf-8, or name an encoding such as latin-1 or cp1252"
    return None


@cache
def _bytes_inside_characters(encoding: str) -> frozenset[int] | None:
    """ASCII bytes that occur inside non-ASCII characters; None when ASCII text is not encoded as itself."""
    ascii_text = "".join(map(chr, range(128)))
    try:
        if ascii_text.encode(encoding) not in (ascii_text.encode(), codecs.BOM_UTF8 + ascii_text.encode()):
            return None
    except (LookupError, ValueError, TypeError):  # LookupError: a codec that is not for text, such as rot13
        return None
    if is_utf8(encoding):
        return frozenset()
    return frozenset(
        byte
        for code in (*range(0x80, 0xD800), *range(0xE000, 0x10000))
        for byte in chr(code).encode(encoding, errors="ignore")
        if byte < 0x80
    )
