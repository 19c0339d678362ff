"""All pages that are made from the code.

Belongs here: which page is made by what, writing them, finding those that are out of date.
Does not: making one (the other modules).
"""

from __future__ import annotations

from pathlib import Path

from backfill_pipeline.documentation.codes import exit_codes_page, reject_codes_page
from backfill_pipeline.documentation.commands import commands_page
from backfill_pipeline.documentation.dagster_ui import dagster_page
from backfill_pipeline.documentation.decisions import decisions_page
from backfill_pipeline.documentation.definition import definition_page
from backfill_pipeline.documentation.environment import settings_page
from backfill_pipeline.documentation.tables import tables_page
from backfill_pipeline.ledger.connection import Connection


def made_pages(connection: Connection, docs: Path) -> dict[str, str]:
    """Every page that is made from the code, as it should be.

    Args:
        connection: to a ledger of this release.
        docs: the folder of the documentation.

    Returns:
        Text by path below that folder.
    """
    return {
        "reference/commands.md": commands_page(),
        "reference/dagster.md": dagster_page(),
        "reference/definition.md": definition_page(),
        "reference/exit-codes.md": exit_codes_page(),
        "reference/reject-codes.md": reject_codes_page(),
        "reference/settings.md": settings_page(),
        "reference/tables.md": tables_page(connection, docs),
        "decisions/README.md": decisions_page(docs),
    }


def outdated(pages: dict[str, str], docs: Path) -> list[str]:
    """Which of these pages are missing or say something else."""
    return [
        name
        for name, text in pages.items()
        if not (docs / name).is_file() or (docs / name).read_text(encoding="utf-8") != text
    ]
