"""Numbers of things are said in the singular where there is one."""

import pytest

from backfill_pipeline.wording import are, counted


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 rows"), (1, "1 row"), (2, "2 rows"), (1_234, "1,234 rows")],
)
def test_one_thing_and_several(number: int, words: str) -> None:
    assert counted(number, "row") == words
    assert counted(number, "entry", "entries") == words.replace("rows", "entries").replace("row", "entry")


def test_the_verb_that_follows() -> None:
    assert [are(number) for number in (0, 1, 2)] == ["are", "is", "are"]
