"""A look ahead: what a definition would make of the first rows of its source, without a ledger.

Belongs here: reading some rows and taking them through mapping and validation exactly as a run would; what a source's
files lack.
Does not: posting, anything that needs the ledger (unknown accounts, duplicates), showing it.
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
import pyarrow.compute as pc

from backfill_pipeline.definition.accounts import AccountMap
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.problems import CheckedFile, Problem, closest
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.mapping.accounts import read_accounts
from backfill_pipeline.mapping.references import OccurrenceIndex, read_occurrences
from backfill_pipeline.mapping.transform import compile_mapping, generated_reference_columns
from backfill_pipeline.money import round_half_even
from backfill_pipeline.schemas.extracted import (
    RESERVED_NAMES,
    SOURCE_LINE,
    SOURCE_ROW,
    extracted_schema,
    to_arrow,
    to_pandas,
)
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA, FAILURES_SCHEMA, VALIDATED_SCHEMA
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline.schemas.rejects import build_rejects
from backfill_pipeline.sources.headers import listed
from backfill_pipeline.sources.open import open_source
from backfill_pipeline.sources.protocol import SourceReader

Outcome = Literal["good", "filtered", "rejected"]

SAMPLE_PER_CODE: Final = 3
"""Rejected rows that a check shows of each code."""

_SKIPPING_ROWS: Final = 20_000
"""Rows read at once while looking for the line to begin with."""


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
        columns: of the source, in its order.
        reached_end: no rows follow those that were looked at.
    """

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
        rows: at most so many.
        from_line: physical line of the source to begin with.

    Raises:
        SourceFileError: the source or a file that its mapping needs cannot be used, or a column is missing.
    """
    with tempfile.TemporaryDirectory(prefix="backfill-preview-") as scratch:
        read = _read_rows(definition, rows, from_line, Path(scratch))
        if missing := _missing_columns(definition, read.columns):
            raise SourceFileError(f"{definition.path}: {missing[0].text}.")
        return _previewed(definition, read)


def check_files(checked: CheckedFile, *, rows: int) -> tuple[list[Problem], Preview | None]:
    """What is wrong with the files of a definition that reads well, and a preview of the first rows.

    Returns:
        All problems; the preview when there is none.
    """
    definition = checked.definition
    assert definition is not None
    problems: list[Problem] = []

    def note(key: str, file: object, error: SourceFileError) -> None:
        words = str(error).removesuffix(".").removeprefix(f"{file}: ")
        text = f"{key} is {file}: {words}"
        if all(one.text != text for one in problems):
            problems.append(Problem(definition.path, checked.line_of(key), key, text))

    with tempfile.TemporaryDirectory(prefix="backfill-check-") as scratch:
        read: _Read | None = None
        try:
            read = _read_rows(definition, rows, 1, Path(scratch))
        except SourceFileError as error:
            note(definition.place_key, definition.place, error)
        if read is not None:
            for problem in _missing_columns(definition, read.columns):
                line = checked.line_of(problem.key)
                problems.append(
                    Problem(definition.path, line, problem.key, problem.text, suggestion=problem.suggestion)
                )
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
        return [], _previewed(definition, read)


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


# --- reading ----------------------------------------------------------------------------------------------------


class _EnoughError(Exception):
    """Ends a survey early: as many rows are read as were asked for."""


@dataclass(frozen=True, slots=True)
class _Read:
    """Rows of a source, with what a mapping needs to know about the rows before them."""

    columns: tuple[str, ...]
    extracted: pa.Table
    occurrences: pa.Table | None
    reached_end: bool
    reader: SourceReader


def _read_rows(definition: SourceDefinition, rows: int, from_line: int, scratch: Path) -> _Read:
    """The first rows from a line on. Only what comes before them is read, and the chunk that they lie in."""
    generated, columns = generated_reference_columns(definition)
    reader = open_source(definition, scratch)
    kept: list[pa.Table] = []
    held = 0
    with OccurrenceIndex(scratch, columns) as index:
        # Generated references number equal rows from the first row of the source on; columns that are missing are
        # told by the caller, with the others.
        known: bool | None = None if generated else False

        def visit(table: pa.Table) -> None:
            nonlocal held, known
            if known is None:
                known = columns is None or set(columns) <= set(table.column_names)
            if known:
                index.add(table)
            wanted = table.filter(pc.greater_equal(table[SOURCE_LINE], from_line)).slice(0, rows + 1 - held)
            if wanted.num_rows or not kept:
                kept[:] = [one for one in kept if one.num_rows] + [wanted]
                held += wanted.num_rows
            if held > rows:  # one more than asked for tells that the end is not reached
                raise _EnoughError

        try:
            chunk_rows = rows + 1 if from_line == 1 else max(rows + 1, _SKIPPING_ROWS)
            header = reader.survey(chunk_rows, visit=visit).header
        except _EnoughError:
            header = _columns_of(kept[0])
        extracted = pa.concat_tables(kept).slice(0, rows).combine_chunks() if kept else None
        occurrences = None
        if known and extracted is not None and extracted.num_rows:
            target = scratch / "occurrences.parquet"
            index.finish(target)
            occurrences = read_occurrences(target, extracted[SOURCE_ROW][0].as_py(), extracted.num_rows)
    if extracted is None:
        extracted = _no_rows(header)
    return _Read(header, extracted, occurrences, held <= rows, reader)


def _columns_of(table: pa.Table) -> tuple[str, ...]:
    return tuple(name for name in table.column_names if name not in RESERVED_NAMES)


def _no_rows(header: Sequence[str]) -> pa.Table:
    return extracted_schema(header).empty_table()


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


def _previewed(definition: SourceDefinition, read: _Read) -> Preview:
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
