"""From EXTRACTED to ENTRY: a definition compiled once into vectorised Arrow operations.

Belongs here: applying the rules of a definition to columns, and what is an error while doing so.
Does not: what an entry must be to be posted (`schemas/ledger_entry.py`).

Each kind of rule has one compiler: rule → function from a chunk of columns to one column. There is no loop over rows.
"""

import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.definition.fields import GeneratedReferenceRule
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.names import text_fields
from backfill_pipeline.mapping.amounts import Numbers, read_numbers
from backfill_pipeline.mapping.legs import ACCOUNT, CompiledLegs
from backfill_pipeline.mapping.lookups import Lookups, read_lookups
from backfill_pipeline.mapping.metadata import json_objects
from backfill_pipeline.mapping.references import content_hashes, render_references, spread_occurrences
from backfill_pipeline.mapping.rows import Rows
from backfill_pipeline.mapping.rules import CompiledRules, Decision, derive_columns
from backfill_pipeline.mapping.stated import CompiledStatedBalances
from backfill_pipeline.mapping.text import compile_text
from backfill_pipeline.mapping.times import read_times
from backfill_pipeline.money import AMOUNT_TYPE
from backfill_pipeline.schemas.extracted import ERROR_CODE, ERROR_REASON, SOURCE_ROW, to_pandas
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA
from backfill_pipeline.schemas.rejects import RejectCode


class Mapping:
    """A definition, compiled: maps any chunk of its source."""

    def __init__(self, definition: SourceDefinition, lookups: Lookups) -> None:
        fields = definition.fields
        self._source_id = definition.id
        self._metadata = dict(definition.metadata)
        self._columns = {
            name: compile_text(value, name, lookups, None) for name, value in definition.columns.items()
        }
        self._rules = CompiledRules(definition, lookups)
        self._texts = {
            name: compile_text(rule, name, lookups, RejectCode(f"{name}_missing"))
            for name, rule in text_fields(fields).items()
        }
        self._amount = fields.amount
        self._fx_rate = fields.fx_rate
        self._time = fields.timestamp_utc
        self._reference = fields.reference_id
        generated = isinstance(fields.reference_id, GeneratedReferenceRule)
        section = definition.transactions
        self._legs = None if section is None else CompiledLegs(section, generated=generated)
        self._stated = CompiledStatedBalances(definition.stated_balances, lookups)

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
        derive_columns(rows, self._columns)
        decision = self._rules.decide(rows)
        columns: dict[str, pa.Array] = {"source_row": rows.raw(SOURCE_ROW)}
        for (
            name
        ) in ENTRY_SCHEMA.names:  # in the order of the fields, so that the first failing one gives the code
            if name in self._texts:
                columns[name] = decision.value(name, self._texts[name])
            elif name == "debit_account_id":  # the row is a leg, with one account
                columns[ACCOUNT] = decision.value(ACCOUNT, self._texts[ACCOUNT])
            elif name == "amount":
                self._put_numbers(columns, name, self._amounts(decision))
            elif name == "fx_rate":
                self._put_numbers(columns, name, self._rates(rows))
            elif name == "timestamp_utc":
                columns[name] = self._times(rows)
            elif name == "reference_id":
                columns[name] = self._references(rows, occurrences)
        columns["metadata"] = json_objects(
            {key: rows.raw(column) for key, column in self._metadata.items()}, len(rows)
        )
        if self._legs is None:
            return to_pandas(self._entries(rows, columns))
        entries, transacted = self._legs.paired(rows, columns)
        return to_pandas(self._legs.whole(self._entries(rows, columns | entries), transacted))

    def _entries(self, rows: Rows, columns: dict[str, pa.Array]) -> pa.Table:
        columns = columns | self._findings(rows)
        return pa.table([columns[name] for name in ENTRY_SCHEMA.names], schema=ENTRY_SCHEMA)

    def stated_balances(self, extracted: pa.Table) -> pa.Table:
        """The balances that the rows of a chunk state (STATED_SCHEMA), whatever becomes of the rows themselves.

        Args:
            extracted: EXTRACTED, ordered by source row.
        """
        rows = Rows(extracted)
        derive_columns(rows, self._columns)
        decision = self._rules.decide(rows)
        currency = self._texts["currency_code"]
        return self._stated.read(rows, lambda: decision.value("currency_code", currency))

    @staticmethod
    def _put_numbers(columns: dict[str, pa.Array], name: str, numbers: Numbers) -> None:
        columns[name], columns[f"{name}_scale"] = numbers.values, numbers.scales

    def _amounts(self, decision: Decision) -> Numbers:
        def currency() -> pa.Array:
            return decision.value("currency_code", self._texts["currency_code"])

        return decision.amounts(self._amount, RejectCode.AMOUNT_MISSING, currency)

    def _rates(self, rows: Rows) -> Numbers:
        if self._fx_rate is None:
            return Numbers(pa.nulls(len(rows), AMOUNT_TYPE), pa.nulls(len(rows), pa.int8()))
        return read_numbers(rows, self._fx_rate, "fx_rate", None)

    def _times(self, rows: Rows) -> pa.Array:
        return read_times(rows, self._time)

    def _references(self, rows: Rows, occurrences: pa.Table | None) -> pa.Array:
        assert isinstance(self._reference, GeneratedReferenceRule)
        spread = spread_occurrences(occurrences, rows.raw(SOURCE_ROW).to_numpy())
        return render_references(self._source_id, content_hashes(rows.table, self._reference.columns), spread)

    @staticmethod
    def _findings(rows: Rows) -> dict[str, pa.Array]:
        """What is wrong with rows, and which of them are left out: a row that is left out has no error."""
        code, field, reason = rows.errors.columns(len(rows))
        filtered = rows.filter_reasons
        if filtered.null_count < len(rows):
            left_out, nothing = pc.is_valid(filtered), pa.scalar(None, pa.string())
            code, field, reason = (pc.if_else(left_out, nothing, one) for one in (code, field, reason))
        malformed = rows.raw(ERROR_CODE)
        if malformed.null_count < len(rows):
            bad = pc.is_valid(malformed)
            code = pc.if_else(bad, malformed, code)
            field = pc.if_else(bad, pa.scalar(None, pa.string()), field)
            reason = pc.if_else(bad, rows.raw(ERROR_REASON), reason)
        found = {"error_code": code, "error_field": field, "error_reason": reason}
        return found | {"filter_reason": filtered}


def compile_mapping(definition: SourceDefinition) -> Mapping:
    """Compiles a definition; reads its account map and lookups.

    Raises:
        SourceFileError: the file of the account map or of a lookup is missing or malformed.
    """
    return Mapping(definition, read_lookups(definition))


def generated_reference_columns(definition: SourceDefinition) -> tuple[bool, tuple[str, ...] | None]:
    """Whether references are generated, and from which columns (None: all): what `OccurrenceIndex` needs to know."""
    rule = definition.fields.reference_id
    return (True, rule.columns) if isinstance(rule, GeneratedReferenceRule) else (False, None)
