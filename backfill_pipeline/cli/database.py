"""`backfill db migrate|url|stop`.

Belongs here: the commands' text.
Does not: SQL.
"""

from __future__ import annotations

from backfill_pipeline.cli.output import console, remarks
from backfill_pipeline.cli.session import open_session
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.migrate import migrate


def migrate_ledger() -> None:
    """Applies what is missing of the migrations and says what."""
    with open_session(migrated=False) as session:
        applied = migrate(session.connection)
        place = session.endpoint.description
    for migration in applied:
        console.print(f"applied {migration.version:04d} {migration.name}")
    console.print(f"{place} is up to date" if not applied else f"{place} is up to date now", soft_wrap=True)


def print_url() -> None:
    """The ledger's URL on standard output, alone, so that `psql "$(backfill db url)"` works: the server stays up."""
    with open_session() as session:
        if session.endpoint.server is not None:
            session.endpoint.server.keep_running(True)
            remarks.print("[dim]the embedded server stays up; backfill db stop ends it[/dim]")
        print(session.endpoint.ledger_url)


def stop_server() -> None:
    """Lets the embedded server end: now, or as soon as its last user (a run, the UI) leaves."""
    with open_session(migrated=False) as session:
        if session.endpoint.server is None:
            raise UsageError("LEDGER_DATABASE_URL names a server of your own: it is not ours to stop")
        session.endpoint.server.keep_running(False)
    remarks.print("the embedded server stops when nobody uses it")
