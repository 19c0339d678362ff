"""Parts of pages: nothing that came from outside is more than text."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest

from backfill_pipeline.pages.parts import Code, Link, Safe, amount, cell, document, section, table, text
from backfill_pipeline_tests.pages.reading import Page

HOSTILE = (
    '<script>alert(1)</script>', '"><img src=x onerror=alert(1)>', "</td></table></main>", "&lt;b&gt;", "' onclick='",
    "\u202egnp.exe", "\u2066\u2069", "a\x00b\x1b[31m", "\ud800", "]]>", "<!--", "</style><style>*{display:none}",
)  # fmt: skip


@pytest.mark.parametrize("value", HOSTILE)
@pytest.mark.parametrize("kind", [str, Code, Link], ids=["text", "code", "link"])
def test_a_hostile_value_stays_a_value(value: str, kind: type[str]) -> None:
    shown = table((value,), [(kind(value),)], caption=value) + section(value, text(value), name="hostile")
    page = Page(document(value, f"<main><h1>{text(value)}</h1>{shown}</main>"))
    assert page.wrong == []
    page.source.encode("utf-8")
    assert not set(page.text) & set("\u202e\u2066\u2069\x00\x1b")


def test_only_what_was_made_here_is_markup() -> None:
    assert cell(Safe("<b>1</b>")) == "<b>1</b>"
    assert cell("<b>1</b>") == "&lt;b&gt;1&lt;/b&gt;"
    assert cell(None) == cell(Code(None)) == ""


def test_numbers_keep_every_digit() -> None:
    assert cell(1234567) == "1,234,567"
    assert (
        amount(Decimal("12345678901234567890.123456789012345678"))
        == "12,345,678,901,234,567,890.123456789012345678"
    )
    assert cell(datetime(2024, 3, 1, 12, 0, 5, tzinfo=UTC)) == "2024-03-01 12:00:05 UTC"


def test_a_long_value_is_cut_where_it_is_asked_for() -> None:
    assert text("x" * 500, 300) == "x" * 299 + "…"
    assert len(text("x" * 500)) == 500


def test_rows_that_are_not_as_long_as_the_header_are_a_mistake() -> None:
    with pytest.raises(ValueError, match="zip"):
        table(("one", "two"), [("a",)], caption="odd")


def test_a_table_says_what_it_holds_and_a_list_has_no_column_of_numbers() -> None:
    page = Page(
        document(
            "x", f"<main><h1>x</h1>{table(('Name', 'Count'), [('a', 5), ('b', 1200)], caption='Two')}</main>"
        )
    )
    assert page.wrong == []
    assert page.tables == {"Two": [["Name", "Count"], ["a", "5"], ["b", "1,200"]]}
    assert "class=number" not in table((), [("a", 5)], caption="A list")
    assert table(("Name",), [], caption="Nothing") == "<p>None.</p>"
