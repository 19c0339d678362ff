"""`backfill db migrate|url|stop`.

Belongs here: the commands' text.
Does not: SQL.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from backfill_pipeline.cli.output import console, remarks
from backfill_pipeline.cli.session import open_session
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import data_steps
from backfill_pipeline.ledger.data_steps import Report, StepProgress
from backfill_pipeline.ledger.migrate import bundled_migrations, data_steps_of, migrate
from backfill_pipeline.wording import counted


def migrate_ledger() -> None:
    """Applies what is missing of the migrations, does their data steps to the end, and says what."""
    with open_session(migrated=False) as session:
        place = session.endpoint.description
        applied = migrate(session.connection)
        for migration in applied:
            console.print(f"applied {migration.version:04d} {migration.name}")
        with _progress_bars() as report:
            finished = data_steps.run(session.connection, data_steps_of(bundled_migrations()), report)
    for step in finished:
        console.print(
            f"did the data step of {step.version:04d} {step.name}: {counted(step.rows_done, 'row')}"
            f" in {counted(step.batches, 'batch', 'batches')}"
        )
    console.print(f"{place} is up to date{' now' if applied or finished else ''}", soft_wrap=True)


@contextmanager
def _progress_bars() -> Iterator[Report]:
    """How far data steps are, on standard error."""
    progress = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TextColumn("{task.fields[rows]:,} rows"),
        TimeRemainingColumn(),
        console=remarks,
        transient=True,
    )
    tasks = {}
    with progress:

        def report(step: StepProgress) -> None:
            if step.version not in tasks:
                name = f"{step.version:04d} {step.name}"
                tasks[step.version] = progress.add_task(name, total=1.0, rows=0)
            progress.update(tasks[step.version], completed=step.share, rows=step.rows_done)

        yield report


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
