"""Sources that are posted inside the database: whether one can be, and what its rows become there.

Belongs here: holding a definition against the table and the ledger, before anything is posted.
Does not: posting (`in_database.py`).
"""

from __future__ import annotations

from typing import Final

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.ledger import taken_rows
from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.taken_rows import TakenFrom
from backfill_pipeline.mapping.sql import NotInSqlError, compile_sql
from backfill_pipeline.sources.database.in_place import ALIAS, InPlaceReader

_UTF8: Final = "UTF8"


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
