"""What the ledger's schema consists of, as its database says: tables, views, their columns and rules, and functions.

Belongs here: asking the catalogue, once for everything.
Does not: making the schema (`migrations/`), holding it against what it should be (`auditing/`).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from backfill_pipeline.ledger.connection import Connection


@dataclass(frozen=True, slots=True)
class CatalogueColumn:
    """A column as the database keeps it.

    Attributes:
        default: an SQL expression, `identity`, `generated: …`, or empty.
        comment: what its migration says about it, or empty.
    """

    name: str
    type: str
    is_required: bool
    default: str
    comment: str


@dataclass(frozen=True, slots=True)
class CatalogueRelation:
    """A table or a view.

    Attributes:
        rules: primary key, unique and foreign keys, checks, and unique indexes, as SQL.
    """

    name: str
    is_view: bool
    comment: str
    columns: tuple[CatalogueColumn, ...]
    rules: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class CatalogueFunction:
    """A function that its migration explains, with its parameters as SQL."""

    name: str
    parameters: str
    result: str
    comment: str


def relations(connection: Connection) -> tuple[CatalogueRelation, ...]:
    """Every table and view of the ledger's schema, by name."""
    columns: dict[str, list[CatalogueColumn]] = defaultdict(list)
    for relation, *column in connection.execute(_COLUMNS):
        columns[relation].append(CatalogueColumn(*column))
    rules = _grouped(connection.execute(_RULES))
    return tuple(
        CatalogueRelation(name, is_view, comment, tuple(columns[name]), tuple(rules[name]))
        for name, is_view, comment in connection.execute(_RELATIONS)
    )


def functions(connection: Connection) -> tuple[CatalogueFunction, ...]:
    """Every function that has a comment, by name: the others serve triggers and each other."""
    return tuple(CatalogueFunction(*row) for row in connection.execute(_FUNCTIONS))


def _grouped(rows: Iterable[tuple[str, str]]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, text in rows:
        found[name].append(text)
    return found


_RELATIONS = """\
SELECT c.relname, c.relkind = 'v', coalesce(obj_description(c.oid, 'pg_class'), '')
FROM pg_class c
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v')
ORDER BY c.relname COLLATE "C"
"""

_COLUMNS = """\
SELECT c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
       CASE WHEN a.attidentity <> '' THEN 'identity'
            WHEN a.attgenerated <> '' THEN 'generated: ' || pg_get_expr(d.adbin, d.adrelid)
            ELSE coalesce(pg_get_expr(d.adbin, d.adrelid), '') END,
       coalesce(col_description(c.oid, a.attnum), '')
FROM pg_class c
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'v')
ORDER BY c.relname COLLATE "C", a.attnum
"""

# NOT NULL is told by the columns; PostgreSQL 18 keeps it as a constraint too. Indexes without uniqueness are no rule.
_RULES = """\
SELECT relation, text FROM (
    SELECT c.relname AS relation, pg_get_constraintdef(o.oid) AS text, position(o.contype IN 'pufxc') AS place
    FROM pg_constraint o JOIN pg_class c ON c.oid = o.conrelid
    WHERE c.relnamespace = current_schema()::regnamespace AND o.contype IN ('p', 'u', 'f', 'x', 'c')
    UNION ALL
    SELECT c.relname, 'UNIQUE ' || substring(pg_get_indexdef(i.indexrelid) FROM ' USING btree (.*)$'), 2
    FROM pg_index i JOIN pg_class c ON c.oid = i.indrelid
    WHERE c.relnamespace = current_schema()::regnamespace AND i.indisunique
      AND NOT EXISTS (SELECT FROM pg_constraint o WHERE o.conindid = i.indexrelid AND o.conrelid = i.indrelid)
) rules
ORDER BY relation COLLATE "C", place, text COLLATE "C"
"""

_FUNCTIONS = """\
SELECT p.proname, pg_get_function_arguments(p.oid), coalesce(pg_get_function_result(p.oid), ''),
       obj_description(p.oid, 'pg_proc')
FROM pg_proc p
WHERE p.pronamespace = current_schema()::regnamespace AND obj_description(p.oid, 'pg_proc') IS NOT NULL
ORDER BY p.proname COLLATE "C", pg_get_function_arguments(p.oid) COLLATE "C"
"""
