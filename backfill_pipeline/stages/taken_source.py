"""Sources that are posted inside the database: whether one can be, and what its rows become.

Belongs here: holding a definition against the table and the ledger, before anything is posted; mapping single rows by
the pipeline, which those need that the database does not serve.
Does not: posting (`in_database.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import pyarrow as pa

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.ledger import taken_rows
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.taken_rows import TakenFrom
from backfill_pipeline.mapping.sql import NotInSqlError, compile_sql
from backfill_pipeline.schemas.extracted import to_arrow, to_pandas
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA, REJECTS_SCHEMA, VALIDATED_SCHEMA
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline.schemas.rejects import build_rejects
from backfill_pipeline.sources.database.in_place import InPlaceReader
from backfill_pipeline.sources.database.in_place_statements import ALIAS
from backfill_pipeline.stages.work import SourceWork

_UTF8: Final = "UTF8"
_ROWS_AT_ONCE: Final = 20_000


@dataclass(frozen=True, slots=True)
class MappedRows:
    """Rows that went through the pipeline's own mapping.

    Attributes:
        valid: VALIDATED_SCHEMA.
        rejected: REJECTS_SCHEMA.
        filtered: how many are left out, by reason.
    """

    valid: pa.Table
    rejected: pa.Table
    filtered: Mapping[str, int]


def map_rows(work: SourceWork, key: str, source_rows: Sequence[int]) -> MappedRows:
    """Maps some rows of a partition, by their numbers, ascending."""
    reader = work.reader
    assert isinstance(reader, InPlaceReader)
    valid, rejected = [VALIDATED_SCHEMA.empty_table()], [REJECTS_SCHEMA.empty_table()]
    filtered: dict[str, int] = {}
    for start in range(0, len(source_rows), _ROWS_AT_ONCE):
        extracted = reader.rows_at(work.chunk(key), source_rows[start : start + _ROWS_AT_ONCE])
        entries = to_arrow(work.mapping.transform(to_pandas(extracted)), ENTRY_SCHEMA)
        outcome = validate(to_pandas(entries))
        valid.append(to_arrow(outcome.valid, VALIDATED_SCHEMA))
        rejected.append(to_arrow(build_rejects(outcome.failures, extracted, reader), REJECTS_SCHEMA))
        for reason, count in outcome.filtered.items():
            filtered[reason] = filtered.get(reason, 0) + count
    return MappedRows(pa.concat_tables(valid), pa.concat_tables(rejected), filtered)


def is_in_database(definition: SourceDefinition) -> bool:
    """Whether the definition asks for posting inside the database."""
    return definition.database is not None and definition.database.in_database


def taken_from(definition: SourceDefinition, reader: InPlaceReader, connection: Connection) -> TakenFrom:
    """What a source is taken from.

    Args:
        definition: asks for posting inside the database.
        reader: of the source.
        connection: to the ledger.

    Raises:
        SourceDefinitionError: it cannot be posted so, and why.
    """
    section = definition.database
    assert section is not None
    shape = reader.shape()
    schema, table = section.table_path()
    name = f'"{schema}"."{table}"' if schema else f'"{table}"'

    def refuse(why: str) -> SourceDefinitionError:
        return SourceDefinitionError(
            f"{definition.path}: database.in_database: true is not possible: {why}. Remove it to post the ordinary way."
        )

    with ledger_errors("look for the source's table in"):
        if taken_rows.identity(connection, name) != shape.identity:
            raise refuse(f"{reader.place} is not the table {section.table} of the ledger's own database")
        if shape.identity[-1] != _UTF8:
            raise refuse(f"the database is encoded in {shape.identity[-1]}, not {_UTF8}")
        if not taken_rows.can_be_read(connection, name):
            raise refuse(f"the ledger's user may not read table {section.table}: GRANT SELECT to it")
    try:
        compiled = compile_sql(definition, shape.types, ALIAS)
    except NotInSqlError as error:
        raise refuse(str(error)) from None
    return TakenFrom(shape.rows, shape.key, shape.row_text, compiled.columns, compiled.plain, compiled.checks)


def why_not_compiled(definition: SourceDefinition, reader: object) -> str | None:
    """Why a definition that asks for posting inside the database cannot be compiled; None when it can, or does not ask.

    Looks at the table's columns, and not at the ledger.
    """
    if not is_in_database(definition):
        return None
    assert isinstance(reader, InPlaceReader)
    try:
        compile_sql(definition, reader.shape().types, ALIAS)
    except NotInSqlError as error:
        return str(error)
    return None


def check_in_database(definition: SourceDefinition, reader: object, connection: Connection) -> None:
    """Raises SourceDefinitionError when the definition asks for posting inside the database and that cannot be."""
    if is_in_database(definition):
        assert isinstance(reader, InPlaceReader)
        taken_from(definition, reader, connection)
