"""From EXTRACTED to ENTRY: a definition compiled once into vectorised Arrow operations.

Belongs here: applying the rules of a definition to columns, and what is an error while doing so.
Does not: what an entry must be to be posted (`schemas/ledger_entry.py`).

Each kind of rule has one compiler: rule → function from a chunk of columns to one column. There is no loop over rows.
"""

from collections.abc import Callable

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.fields import (
    AccountRule,
    ColumnRule,
    ConstantRule,
    GeneratedReferenceRule,
    NumberRule,
    TextRule,
)
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.mapping.account_map import AccountLookup, read_account_map
from backfill_pipeline.mapping.amounts import Numbers, parse_numbers
from backfill_pipeline.mapping.metadata import json_objects
from backfill_pipeline.mapping.references import content_hashes, render_references, spread_occurrences
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.mapping.times import parse_times
from backfill_pipeline.money import AMOUNT_TYPE
from backfill_pipeline.schemas.extracted import ERROR_CODE, ERROR_REASON, SOURCE_ROW, to_pandas
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.schemas.row_errors import positions_of

TextCompiled = Callable[[Rows], pa.Array]


# --- compilers of rules -----------------------------------------------------------------------------------------


def compile_text(
    rule: ConstantRule | ColumnRule, field: str, lookup: AccountLookup | None, missing: str | None
) -> TextCompiled:
    """A rule for text → one string column.

    Args:
        rule: constant, column, or column through the account map.
        field: for errors.
        lookup: the account map, for rules that use it.
        missing: the code of rows without a value; None when that is no error.
    """
    if isinstance(rule, ConstantRule):
        constant = pa.scalar(rule.constant.strip(), pa.string())
        return lambda rows: pa.repeat(constant, len(rows))
    default = rule.default if isinstance(rule, TextRule) else None
    use_map = isinstance(rule, AccountRule) and rule.map is not None

    def text(rows: Rows) -> pa.Array:
        values = rows.trimmed(rule.column)
        empty = pc.fill_null(pc.equal(values, ""), False)
        if pc.any(empty).as_py():
            if default is not None:
                values = pc.if_else(empty, default, values)
            elif missing is not None:
                rows.errors.add(
                    positions_of(empty), missing, field, f"{field} is missing: column {rule.column} is empty"
                )
        return _mapped(rows, values, field, lookup) if use_map and lookup is not None else values

    return text


def _mapped(rows: Rows, values: pa.Array, field: str, lookup: AccountLookup) -> pa.Array:
    """Through the account map."""
    targets = lookup.targets.take(pc.index_in(values, value_set=lookup.sources))
    unmapped = pc.and_(pc.is_null(targets), pc.fill_null(pc.not_equal(values, ""), False))
    if lookup.keep_missing:
        return pc.coalesce(targets, values)
    words = "is not in the account map"
    rows.errors.add_where(
        unmapped, RejectCode.ACCOUNT_UNMAPPED, field, field.removesuffix("_id"), values, words
    )
    return targets


def compile_number(rule: NumberRule, field: str, missing: str | None) -> Callable[[Rows], Numbers]:
    """A rule for a number → decimals and their scales. `missing` as in `compile_text`."""

    def numbers(rows: Rows) -> Numbers:
        text = rows.trimmed(rule.column)
        if missing is not None:
            empty = positions_of(pc.equal(text, ""))
            rows.errors.add(empty, missing, field, f"{field} is missing: column {rule.column} is empty")
        return parse_numbers(text, rule, field, rows.errors)

    return numbers


class Mapping:
    """A definition, compiled: maps any chunk of its source."""

    def __init__(self, definition: SourceDefinition, lookup: AccountLookup | None) -> None:
        fields = definition.fields
        self._source_id = definition.id
        self._metadata = dict(definition.metadata)
        self._texts = {
            name: compile_text(rule, name, lookup, RejectCode(f"{name}_missing"))
            for name, rule in fields.rules().items()
            if isinstance(rule, ConstantRule | ColumnRule)
        }
        self._amount = compile_number(fields.amount, "amount", RejectCode.AMOUNT_MISSING)
        self._fx_rate = None if fields.fx_rate is None else compile_number(fields.fx_rate, "fx_rate", None)
        self._time = fields.timestamp_utc
        self._reference = fields.reference_id

    def transform(
        self, extracted: pd.DataFrame | pa.Table, occurrences: pa.Table | None = None
    ) -> pd.DataFrame:
        """Maps a chunk. Every row comes out, good or with its errors.

        Args:
            extracted: EXTRACTED, ordered by source row.
            occurrences: OCCURRENCE_SCHEMA, at least the repeats of this chunk; None when references are not generated.

        Returns:
            ENTRY_SCHEMA, Arrow-backed. Rows with an error in EXTRACTED keep it.
        """
        if isinstance(extracted, pd.DataFrame):
            extracted = pa.Table.from_pandas(extracted, preserve_index=False)
        rows = Rows(extracted)
        columns: dict[str, pa.Array] = {"source_row": rows.raw(SOURCE_ROW)}
        for (
            name
        ) in ENTRY_SCHEMA.names:  # in the order of the fields, so that the first failing one gives the code
            if name in self._texts:
                columns[name] = self._texts[name](rows)
            elif name == "amount":
                self._put_numbers(columns, name, self._amount(rows))
            elif name == "fx_rate":
                self._put_numbers(columns, name, self._rates(rows))
            elif name == "timestamp_utc":
                columns[name] = self._times(rows)
            elif name == "reference_id":
                columns[name] = self._references(rows, occurrences)
        columns["metadata"] = json_objects(
            {key: rows.raw(column) for key, column in self._metadata.items()}, len(rows)
        )
        columns |= self._errors(rows)
        return to_pandas(pa.table([columns[name] for name in ENTRY_SCHEMA.names], schema=ENTRY_SCHEMA))

    @staticmethod
    def _put_numbers(columns: dict[str, pa.Array], name: str, numbers: Numbers) -> None:
        columns[name], columns[f"{name}_scale"] = numbers.values, numbers.scales

    def _rates(self, rows: Rows) -> Numbers:
        if self._fx_rate is None:
            return Numbers(pa.nulls(len(rows), AMOUNT_TYPE), pa.nulls(len(rows), pa.int8()))
        return self._fx_rate(rows)

    def _times(self, rows: Rows) -> pa.Array:
        text = rows.trimmed(self._time.column)
        empty = positions_of(pc.equal(text, ""))
        reason = f"timestamp_utc is missing: column {self._time.column} is empty"
        rows.errors.add(empty, RejectCode.TIME_MISSING, "timestamp_utc", reason)
        return parse_times(text, self._time, rows.errors)

    def _references(self, rows: Rows, occurrences: pa.Table | None) -> pa.Array:
        assert isinstance(self._reference, GeneratedReferenceRule)
        spread = spread_occurrences(occurrences, rows.raw(SOURCE_ROW).to_numpy())
        return render_references(self._source_id, content_hashes(rows.table, self._reference.columns), spread)

    @staticmethod
    def _errors(rows: Rows) -> dict[str, pa.Array]:
        code, field, reason = rows.errors.columns(len(rows))
        malformed = rows.raw(ERROR_CODE)
        if malformed.null_count < len(rows):
            bad = pc.is_valid(malformed)
            code = pc.if_else(bad, malformed, code)
            field = pc.if_else(bad, pa.scalar(None, pa.string()), field)
            reason = pc.if_else(bad, rows.raw(ERROR_REASON), reason)
        return {"error_code": code, "error_field": field, "error_reason": reason}


def compile_mapping(definition: SourceDefinition) -> Mapping:
    """Compiles a definition; reads its account map.

    Raises:
        SourceFileError: the account map's file is missing or malformed.
    """
    return Mapping(definition, read_account_map(definition.account_map))


def generated_reference_columns(definition: SourceDefinition) -> tuple[bool, tuple[str, ...] | None]:
    """Whether references are generated, and from which columns (None: all): what `OccurrenceIndex` needs to know."""
    rule = definition.fields.reference_id
    return (True, rule.columns) if isinstance(rule, GeneratedReferenceRule) else (False, None)
