"""The page of tables, from the catalogue of a migrated ledger.

Belongs here: tables and views with columns and rules, functions that are called by people or programs.
Does not: how balances are kept and why (`docs/ledger.md`, whose table says what each table holds).
"""

from __future__ import annotations

import re
from pathlib import Path

from backfill_pipeline.documentation.markdown import code, page, plain, table
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.catalogue import CatalogueFunction, CatalogueRelation, functions, relations
from backfill_pipeline.ledger.connection import Connection

_INTRODUCTION = """\
Every table and view as the migrations leave them, from the catalogue of the database. [The ledger](../ledger.md) says
how they work together. Reading them is safe at any time. Write through the commands or the functions below: triggers
keep balances, outbox and logs in step, and refuse what would rewrite history.

*Required* columns are NOT NULL. Times are `timestamp with time zone`, amounts `numeric`: exact."""

# A constant needs no cast to be understood.
_CAST = re.compile(r"(?<=['L])::[a-z ]+(?=,|$)")
# What it is that our own records of migrations hold, said where migrations are: no page has to.
_OWN = {"ledger_schema_migrations": "which migrations were applied, with their checksums"}


def tables_page(connection: Connection, docs: Path) -> str:
    """`docs/reference/tables.md`.

    Args:
        connection: to a ledger of this release.
        docs: the folder of the documentation, whose page on the ledger says what tables hold.

    Raises:
        UsageError: that page does not say it of some table.
    """
    found = relations(connection)
    holds = {**_held(docs), **_OWN}
    if missing := [one.name for one in found if not one.is_view and one.name not in holds]:
        raise UsageError(
            f"docs/ledger.md does not say what {', '.join(missing)} holds: add a row to its tables."
        )
    tables = [_relation(one, holds.get(one.name, "")) for one in found if not one.is_view]
    views = [_relation(one, plain(one.comment)) for one in found if one.is_view]
    return page(
        "Tables",
        _INTRODUCTION,
        "## Tables",
        *tables,
        "## Views",
        *views,
        "## Functions",
        *(_function(one) for one in functions(connection)),
    )


def _relation(one: CatalogueRelation, holds: str) -> str:
    columns = [
        (
            code(column.name),
            code(column.type),
            "required" if column.is_required else "",
            code(" ".join(column.default.split())),
            plain(column.comment),
        )
        for column in one.columns
    ]
    rows = (
        table(("column", "type", ""), [(name, kind, said) for name, kind, _, _, said in columns])
        if one.is_view
        else table(("column", "type", "required", "default", ""), columns)
    )
    rules = "\n".join(f"- {code(' '.join(rule.split()))}" for rule in one.rules)
    return "\n\n".join(part for part in (f"### {one.name}", holds, rows.rstrip(), rules) if part)


def _function(one: CatalogueFunction) -> str:
    """A function as one would call it: what each parameter is unless given, and what comes back."""
    parameters = ",\n".join(f"    {each}" for each in re.split(r", (?=p_)", _CAST.sub("", one.parameters)))
    called = f"{one.name}(\n{parameters}\n)" if parameters.strip() else f"{one.name}()"
    return f"### {one.name}\n\n{plain(one.comment)}\n\n```sql\n{called}\nRETURNS {one.result}\n```"


def _held(docs: Path) -> dict[str, str]:
    """What docs/ledger.md says that each table holds; one row may be about several."""
    text = (docs / "ledger.md").read_text(encoding="utf-8")
    rows = re.findall(
        r"^\| (`.+?`) \| (.+?) \| .+ \|$",
        text.partition("## Tables")[2].partition("\n\nViews")[0],
        re.MULTILINE,
    )
    found: dict[str, str] = {}
    for names, holds in rows:
        first = ""
        for name in re.findall(r"`([^`]+)`", names):
            if name.startswith("…"):  # `…_rejects`, behind a name that ends otherwise
                whole = f"{first.rsplit('_', 1)[0]}{name[1:]}"
            else:
                first = whole = name
            found[whole] = re.sub(r"\]\((?!https?:)", "](../", holds)
    return found
