"""A look ahead: what a definition would make of the first rows of its source, without a ledger.

Belongs here: taking some rows through mapping and validation exactly as a run would; what a source's files lack.
Does not: which rows are read (`preview_rows.py`), posting, anything that needs the ledger (unknown accounts,
duplicates), showing it.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Final, Literal

import pyarrow as pa

from backfill_pipeline.definition.accounts import AccountMap
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.problems import CheckedFile, Problem, closest
from backfill_pipeline.errors import SettingsError, SourceFileError
from backfill_pipeline.mapping.accounts import read_accounts
from backfill_pipeline.mapping.transform import compile_mapping
from backfill_pipeline.money import round_half_even
from backfill_pipeline.schemas.extracted import (
    SOURCE_LINE,
    SOURCE_ROW,
    to_arrow,
    to_pandas,
)
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA, FAILURES_SCHEMA, VALIDATED_SCHEMA
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline.schemas.rejects import RejectCode, build_rejects
from backfill_pipeline.sources.headers import listed
from backfill_pipeline.sources.open import open_source
from backfill_pipeline.stages.preview_rows import RowsRead, read_rows
from backfill_pipeline.stages.taken_source import is_in_database, why_not_compiled

Outcome = Literal["good", "filtered", "rejected"]

SAMPLE_PER_CODE: Final = 3
"""Rejected rows that a check shows of each code."""

_SEEMS_CUT: Final = (RejectCode.TRANSACTION_UNBALANCED, RejectCode.TRANSACTION_INCOMPLETE)
"""What is found in a transaction of which some rows were not read."""


@dataclass(frozen=True, slots=True)
class PreviewRow:
    """One row before and after.

    Attributes:
        row: 1-based number of the record in the source.
        line: 1-based physical line on which it starts.
        before: column → text as it is written; empty when the record is malformed.
        after: field of the entry → text; what could be read when the row is rejected, nothing when it is filtered.
        code: of the reject, or None.
        reason: why it is rejected, or by which name it is filtered.
        raw: the record's own text, of rejected rows.
    """

    row: int
    line: int
    outcome: Outcome
    before: dict[str, str]
    after: dict[str, str]
    code: str | None = None
    field: str | None = None
    reason: str | None = None
    raw: str | None = None


@dataclass(frozen=True, slots=True)
class Preview:
    """What became of some rows: `good` + filtered + rejected = `len(rows)`.

    Attributes:
        source_id: whose rows they are.
        columns: of the source, in its order.
        reached_end: no rows follow those that were looked at.
    """

    source_id: str
    columns: tuple[str, ...]
    rows: tuple[PreviewRow, ...]
    good: int
    filtered: dict[str, int]
    rejected: dict[str, int]
    reached_end: bool


def preview(definition: SourceDefinition, *, rows: int, from_line: int = 1) -> Preview:
    """Maps and validates some rows of a source as a run would, with no ledger and nothing written.

    Args:
        definition: the source.
        rows: at most so many; a transaction that is begun is shown to its end.
        from_line: physical line of the source to begin with.

    Raises:
        SourceFileError: the source or a file that its mapping needs cannot be used, or a column is missing.
    """
    with tempfile.TemporaryDirectory(prefix="backfill-preview-") as scratch:
        read = read_rows(definition, rows, from_line, Path(scratch))
        if missing := _missing_columns(definition, read.columns):
            raise SourceFileError(f"{definition.path}: {missing[0].text}.")
        return _previewed_surely(definition, read, rows, from_line, Path(scratch))


def check_files(
    checked: CheckedFile, *, rows: int, day: SourceDefinition | None = None
) -> tuple[list[Problem], Preview | None]:
    """What is wrong with the files of a definition that reads well, and a preview of the first rows.

    Args:
        checked: what was read.
        rows: at most so many.
        day: of a bank, the day whose rows are looked at; accounts and tables are the bank's.

    Returns:
        All problems; the preview when there is none.
    """
    definition = checked.definition
    assert definition is not None
    source = definition if day is None else day
    problems: list[Problem] = []

    def note(key: str, file: object, error: SourceFileError | SettingsError) -> None:
        words = str(error).removesuffix(".").removeprefix(f"{file}: ")
        text = f"{key} is {file}: {words}"
        if all(one.text != text for one in problems):
            problems.append(Problem(definition.path, checked.line_of(key), key, text))

    with tempfile.TemporaryDirectory(prefix="backfill-check-") as scratch:
        read: RowsRead | None = None
        try:
            read = read_rows(source, rows, 1, Path(scratch))
        except (SourceFileError, SettingsError) as error:
            note(source.place_key, source.place, error)
        if read is not None:
            for problem in _missing_columns(source, read.columns):
                line = checked.line_of(problem.key)
                problems.append(
                    Problem(definition.path, line, problem.key, problem.text, suggestion=problem.suggestion)
                )
        is_readable = read is not None and not problems
        problems += _not_in_database(source, checked, Path(scratch), is_readable=is_readable)
        map_works = True
        try:
            compile_mapping(definition)
        except SourceFileError as error:
            map_works = False
            note(*_table_of(definition, error))
        if definition.accounts is not None and map_works:
            try:
                read_accounts(definition)
            except SourceFileError as error:
                note("accounts.file", definition.accounts.file, error)
        if problems or read is None:
            return problems, None
        return [], _previewed_surely(source, read, rows, 1, Path(scratch))


def _not_in_database(
    source: SourceDefinition, checked: CheckedFile, scratch: Path, *, is_readable: bool
) -> list[Problem]:
    """Why a source that asks for it cannot be posted inside the database, as far as its table tells."""
    if not (is_readable and is_in_database(source)):
        return []
    why = why_not_compiled(source, open_source(source, scratch))
    key = "database.in_database"
    return (
        []
        if why is None
        else [Problem(source.path, checked.line_of(key), key, f"{key} is not possible: {why}")]
    )


def _table_of(definition: SourceDefinition, error: SourceFileError) -> tuple[str, object, SourceFileError]:
    """The key and the file of the account map or lookup that an error is about."""
    tables: dict[str, AccountMap | None] = {"account_map": definition.account_map}
    tables |= {f"lookups.{name}": lookup for name, lookup in definition.lookups.items()}
    for key, table in tables.items():
        if table is not None and table.file is not None and str(error).startswith(f"{table.file}: "):
            return f"{key}.file", table.file, error
    return definition.place_key, definition.place, error


def sample_by_code(found: Preview) -> list[PreviewRow]:
    """The first rejected rows of each code, in source order."""
    shown: Counter[str] = Counter()
    chosen = []
    for row in found.rows:
        if row.code is not None and shown[row.code] < SAMPLE_PER_CODE:
            shown[row.code] += 1
            chosen.append(row)
    return chosen


def _missing_columns(definition: SourceDefinition, header: Sequence[str]) -> list[Problem]:
    found = []
    for column, key in definition.columns_read().items():
        if column not in header:
            meant = closest(column, list(header))
            hint = f"did you mean {meant}? " if meant else ""
            text = f"{key} reads the column {column!r}, which {definition.place} does not have: "
            found.append(
                Problem(definition.path, None, key, f"{text}{hint}its columns are {listed(header)}", meant)
            )
    return found


# --- mapping ----------------------------------------------------------------------------------------------------


def _previewed_surely(
    definition: SourceDefinition, read: RowsRead, rows: int, from_line: int, scratch: Path
) -> Preview:
    """The preview. Where rows of a transaction seem to be missing, they may lie far behind: then all is read."""
    found = _previewed(definition, read)
    if read.is_sure or not any(code in _SEEMS_CUT for code in found.rejected):
        return found
    return _previewed(definition, read_rows(definition, rows, from_line, scratch, surely=True))


def _previewed(definition: SourceDefinition, read: RowsRead) -> Preview:
    mapped = compile_mapping(definition).transform(to_pandas(read.extracted), read.occurrences)
    entries = to_arrow(mapped, ENTRY_SCHEMA)
    outcome = validate(mapped)
    failures = outcome.failures
    rejects = build_rejects(failures, read.extracted, read.reader)
    by_row = {
        one["source_row"]: one
        for one in to_arrow(rejects, pa.schema([*FAILURES_SCHEMA, ("raw", pa.string())])).to_pylist()
    }
    texts = read.extracted.select(list(read.columns)).to_pylist()
    positions = read.extracted.select([SOURCE_ROW, SOURCE_LINE]).to_pylist()
    shown = tuple(
        _row(place, text, entry, by_row.get(place[SOURCE_ROW]))
        for place, text, entry in zip(positions, texts, entries.to_pylist(), strict=True)
    )
    outcomes = Counter(row.outcome for row in shown)
    return Preview(
        source_id=definition.id,
        columns=read.columns,
        rows=shown,
        good=outcomes["good"],
        filtered=dict(Counter(str(row.reason) for row in shown if row.outcome == "filtered").most_common()),
        rejected=dict(Counter(str(row.code) for row in shown if row.outcome == "rejected").most_common()),
        reached_end=read.reached_end,
    )


def _row(
    place: Mapping[str, int],
    text: Mapping[str, str | None],
    entry: Mapping[str, object],
    reject: Mapping[str, object] | None,
) -> PreviewRow:
    before = {name: value for name, value in text.items() if value is not None}
    if entry["filter_reason"] is not None:
        return PreviewRow(
            place[SOURCE_ROW],
            place[SOURCE_LINE],
            "filtered",
            before,
            {},
            reason=str(entry["filter_reason"]),
        )
    after = _entry_texts(entry)
    if reject is None:
        return PreviewRow(place[SOURCE_ROW], place[SOURCE_LINE], "good", before, after)
    return PreviewRow(
        place[SOURCE_ROW],
        place[SOURCE_LINE],
        "rejected",
        before,
        after,
        code=str(reject["code"]),
        field=None if reject["field"] is None else str(reject["field"]),
        reason=str(reject["reason"]),
        raw=str(reject["raw"]),
    )


def _entry_texts(entry: Mapping[str, object]) -> dict[str, str]:
    """The fields of an entry that have a value, as the ledger would show them."""
    texts = {}
    for name in VALIDATED_SCHEMA.names:
        value = entry[name]
        if name == "source_row" or name.endswith("_scale") or value is None:
            continue
        if isinstance(value, Decimal):
            scale = entry[f"{name}_scale"]
            value = format(round_half_even(value, scale) if isinstance(scale, int) else value, "f")
        texts[name] = value.isoformat() if hasattr(value, "isoformat") else str(value)
    return texts
