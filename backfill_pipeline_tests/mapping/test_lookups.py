"""Lookups: inline or from a file, and what becomes of texts that are not in them."""

from pathlib import Path

import pytest

from backfill_pipeline.errors import SourceFileError
from backfill_pipeline_tests.mapping.chunks import define_in, entries_of

FIELDS = "fields: {transaction_type: {column: kind, lookup: kinds, default: EMPTY}}\n"


@pytest.mark.parametrize(
    ("more", "expected"),
    [("", None), ("missing: reject,", None), ("missing: keep,", "zz"), ("default: OTHER,", "OTHER")],
)
def test_a_text_that_is_not_in_it_is_rejected_kept_or_the_default(
    tmp_path: Path, more: str, expected: str | None
) -> None:
    definition = define_in(tmp_path, f"{FIELDS}lookups: {{kinds: {{{more} inline: {{T: TRANSFER}}}}}}\n")
    known, unknown, empty = entries_of(definition, [{"kind": "T"}, {"kind": "zz"}, {"kind": ""}])
    assert known["transaction_type"] == "TRANSFER"
    assert unknown["transaction_type"] == expected
    assert unknown["error_code"] == (None if expected else "lookup_missing")
    assert empty["transaction_type"] == "EMPTY"  # an empty text is not looked up
    assert empty["error_code"] is None


def test_a_lookup_is_read_from_two_columns_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "kinds.csv").write_text("old;new;x\n T ;TRANSFER;1\nF;FEE;2\nT;TRANSFER;3\n")
    more = "lookups: {kinds: {file: kinds.csv, from: old, to: new, csv: {delimiter: ';'}}}\n"
    entries = entries_of(define_in(tmp_path, FIELDS + more), [{"kind": "T"}, {"kind": "F"}])
    assert [entry["transaction_type"] for entry in entries] == ["TRANSFER", "FEE"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("old,new\nT,1\nT,2\n", "maps the text 'T' to two different texts"),
        ("old,new\nT,\n", "line 2 has no new"),
        ("x,new\n", "no column 'old', which lookups.kinds reads"),
        (None, "kinds.csv"),
    ],
)
def test_a_wrong_file_is_one_sentence(tmp_path: Path, content: str | None, words: str) -> None:
    if content is not None:
        (tmp_path / "kinds.csv").write_text(content)
    definition = define_in(tmp_path, f"{FIELDS}lookups: {{kinds: {{file: kinds.csv, from: old, to: new}}}}\n")
    with pytest.raises(SourceFileError, match=words):
        entries_of(definition, [{"kind": "T"}])
