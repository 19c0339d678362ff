"""Wording: numbers of things in sentences, and texts of others made harmless.

Belongs here: what every part of the product says in the same way, in the singular where there is one.
Does not: the sentences.
"""


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """A number of things: "1 row", "1,234 rows", "0 entries".

    Args:
        number: how many.
        noun: what they are; of one.
        plural: of several; None adds an s.
    """
    return f"{number:,} {noun if number == 1 else plural or f'{noun}s'}"


def are(number: int) -> str:
    """The verb after a number of things."""
    return "is" if number == 1 else "are"


def printable(text: str, limit: int | None = None) -> str:
    """Text of others as it can be shown: no character of it can move the cursor, colour or turn what is around it.

    Args:
        text: any.
        limit: characters at most, the last one of a text that was cut being "…"; None for all.
    """
    cut = text if limit is None or len(text) <= limit else text[: limit - 1] + "…"
    if cut.isprintable():
        return cut
    return "".join(
        one if one.isprintable() else "⏎" if one == "\n" else one.encode("unicode_escape").decode()
        for one in cut
    )
