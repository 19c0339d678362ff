"""The picture of the flow: every number in words, every band to be seen."""

import re

import pytest

from backfill_pipeline.ledger.overview import Counts
from backfill_pipeline.pages.parts import document
from backfill_pipeline.reporting.report.flow import THINNEST_PX, flow_picture, share
from backfill_pipeline_tests.pages.reading import Page


def counts(rows: int, posted: int, *others: int) -> Counts:
    duplicates, conflicts, rejected, filtered = (*others, *([0] * (4 - len(others))))
    read = posted + sum(others)
    return Counts(rows, read, posted, duplicates, conflicts, rejected, filtered, 0, {"posted": 1})


def drawn(found: Counts) -> tuple[str, dict[str, float]]:
    """The wide picture, and the thickness of each of its bars."""
    whole = flow_picture(found)
    assert Page(document("x", f"<main><h1>x</h1>{whole}</main>")).wrong == []
    picture = whole[: whole.index("</svg>")]
    bars = re.findall(r'<rect class="(\w+)"[^>]* height="([\d.]+)"', picture)
    return picture, {name: float(height) for name, height in bars}


def test_one_row_in_ten_million_is_seen_and_none_is_not() -> None:
    picture, bars = drawn(counts(10_000_000, 9_999_998, 1, 0, 1))
    assert bars["duplicates"] == bars["rejected"] == THINNEST_PX
    assert "conflicts" not in bars
    assert "filtered" not in bars
    assert bars["posted"] > 100
    assert bars["read"] == pytest.approx(
        sum(height for name, height in bars.items() if name != "read"), abs=0.2
    )
    assert (
        'aria-label="Of 10,000,000 rows: posted 9,999,998, duplicates 1, conflicts 0, rejected 1, filtered 0."'
        in picture
    )
    assert {"10,000,000", "9,999,998", "1", "0"} <= set(re.findall(r'class="count">([\d,]+)<', picture))


def test_rows_that_are_not_posted_have_a_band_of_their_own() -> None:
    picture, bars = drawn(counts(100, 60))
    assert bars["not_posted"] == pytest.approx(bars["posted"] * 40 / 60, abs=0.1)
    assert "not posted 40" in picture
    assert "not_posted" not in drawn(counts(60, 60))[1]


def test_nothing_is_a_picture_too() -> None:
    picture, bars = drawn(counts(0, 0))
    assert set(bars) == {"read"}
    assert "Of 0 rows" in picture


@pytest.mark.parametrize(
    ("rows", "of", "said"),
    [
        (0, 10, "0 %"),
        (10, 10, "100 %"),
        (1, 10**7, "&lt; 0.1 %"),
        (10**7 - 1, 10**7, "&gt; 99.9 %"),
        (1, 3, "33.3 %"),
        (0, 0, "0 %"),
    ],
)
def test_a_share_is_never_rounded_to_nothing_or_to_all(rows: int, of: int, said: str) -> None:
    assert share(rows, of) == said.replace("&lt;", "<").replace("&gt;", ">")
