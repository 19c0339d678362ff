"""The commands about the ledger's database: `backfill db`.

Belongs here: their names, arguments and help.
Does not: what they do (`database.py`).
"""

from __future__ import annotations

import typer

db_app = typer.Typer(no_args_is_help=True, help="The ledger's database.")


@db_app.command("migrate")
def db_migrate() -> None:
    """Bring the ledger's schema up to date."""
    from backfill_pipeline.cli.database import migrate_ledger

    migrate_ledger()


@db_app.command("url")
def db_url() -> None:
    """Print the ledger's URL, for psql. An embedded server stays up from then on, until backfill db stop."""
    from backfill_pipeline.cli.database import print_url

    print_url()


@db_app.command("stop")
def db_stop() -> None:
    """Let the embedded server end once nobody uses it."""
    from backfill_pipeline.cli.database import stop_server

    stop_server()
