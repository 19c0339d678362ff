"""Wording: numbers of things in sentences.

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
