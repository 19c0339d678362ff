"""The commands: their names, arguments and help.

Belongs here: which commands and groups of commands there are, and the arguments of the plain ones.
Does not: the groups (`*_commands.py`), what commands do (the other modules of this package).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from backfill_pipeline.cli.alert_commands import alerts_app
from backfill_pipeline.cli.audit_commands import audit_app
from backfill_pipeline.cli.bank_commands import outbox_app, sync_app
from backfill_pipeline.cli.constraint_commands import constraints_app
from backfill_pipeline.cli.correction_commands import corrections_app
from backfill_pipeline.cli.database_commands import db_app
from backfill_pipeline.cli.doctor import doctor
from backfill_pipeline.cli.evidence import evidence_app
from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.metrics import metrics_app
from backfill_pipeline.cli.options import Json, Source
from backfill_pipeline.cli.periods import period_app
from backfill_pipeline.cli.prune import prune
from backfill_pipeline.cli.reject_commands import rejects_app
from backfill_pipeline.cli.report import report
from backfill_pipeline.cli.rollback import rollback
from backfill_pipeline.cli.seals import seals_app
from backfill_pipeline.cli.simulator_command import scb_simulator
from backfill_pipeline.cli.source_commands import sources_app
from backfill_pipeline.errors import UsageError

app = typer.Typer(
    name="backfill",
    help="Moves ledger history into a core banking ledger on PostgreSQL, and proves that nothing was lost or doubled.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(sources_app, name="sources")
app.add_typer(sync_app, name="sync")
app.add_typer(outbox_app, name="outbox")
app.add_typer(constraints_app, name="constraints")
app.add_typer(rejects_app, name="rejects")
app.add_typer(db_app, name="db")
app.add_typer(alerts_app, name="alerts")
app.add_typer(evidence_app, name="evidence")
app.add_typer(corrections_app, name="corrections")
app.add_typer(audit_app)
app.add_typer(period_app, name="period")
app.add_typer(seals_app)
app.add_typer(metrics_app)
app.command()(rollback)
app.command()(report)
app.command()(prune)
app.command()(doctor)


@app.command()
def run(
    source: Source,
    partitions: Annotated[
        str | None,
        typer.Option(metavar="A..B", help="Only these partitions, by key or number, such as 3..7 or 3."),
    ] = None,
    json: Json = False,
    accept_changed: Annotated[
        bool,
        typer.Option(
            help="Register a changed source as a new revision although the current one is unfinished."
        ),
    ] = False,
) -> None:
    """Register a source and take it through all stages: one Dagster run, shown in the UI.

    Exit codes: 0 clean, 1 failed, 2 usage, 3 finished with rejects or with constraints refused, 4 reconciliation break.
    """
    _begin_drawing()
    from backfill_pipeline.cli.run import run_source

    raise typer.Exit(run_source(source, partitions, as_json=json, accept_changed=accept_changed))


@app.command()
def plan(
    source: Source,
    json: Json = False,
    accept_changed: Annotated[
        bool, typer.Option(help="As of the run: plan a changed source whose current revision is unfinished.")
    ] = False,
) -> None:
    """Say everything that a run would do, down to the last row and balance. Posts and registers nothing.

    Exit codes are those that the run would have: 0 clean, 1 it would fail (or the plan did), 2 usage, 3 with rejects,
    conflicts or constraints refused.
    """
    from backfill_pipeline.cli.plan import plan_source

    raise typer.Exit(plan_source(source, as_json=json, accept_changed=accept_changed))


@app.command()
def resume(source: Source, json: Json = False) -> None:
    """Carry on with a source: only partitions that are not posted yet, from the first batch that is not recorded."""
    _begin_drawing()
    from backfill_pipeline.cli.run import resume_source

    raise typer.Exit(resume_source(source, as_json=json))


@app.command()
def status(
    watch: Annotated[
        bool,
        typer.Option(
            "--watch",
            help="Look again and again, on a screen, until Ctrl-C; with --json, a line at each look.",
        ),
    ] = False,
    interval: Annotated[
        float | None,
        typer.Option(
            metavar="S", min=0.5, max=3600, help="With --watch: seconds between two looks. Default: 2."
        ),
    ] = None,
    json: Json = False,
) -> None:
    """Show every source: progress, counts, rejects, reconciliation, and the state of the constraints."""
    if watch:
        from backfill_pipeline.cli.watch import watch_status

        raise typer.Exit(watch_status(interval, as_json=json))
    if interval is not None:
        raise UsageError("--interval is about status --watch: add --watch")
    from backfill_pipeline.cli.show import show_status

    show_status(as_json=json)


@app.command()
def inbox(json: Json = False) -> None:
    """Show what lies in the inbox: which files are waiting, new, done, copies or refused, and which no source takes."""
    from backfill_pipeline.cli.inbox import show_inbox

    show_inbox(as_json=json)


@app.command()
def reconcile(source: Source, json: Json = False) -> None:
    """Compare a source with the ledger, entry by entry and field by field, and all balances with their legs."""
    from backfill_pipeline.cli.reconcile import reconcile_source

    raise typer.Exit(reconcile_source(source, as_json=json))


@app.command()
def generate(
    entries: Annotated[int, typer.Option(min=1, help="Number of entries.")],
    accounts: Annotated[int, typer.Option(min=20, help="Number of accounts.")],
    out: Annotated[Path, typer.Option(help="Folder for the export, its accounts and its source file.")],
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes on every machine.")] = 1,
    dirty: Annotated[
        float, typer.Option(min=0, max=0.5, metavar="RATE", help="Share of spoilt rows, of every kind.")
    ] = 0.0,
    name: Annotated[str, typer.Option(help="Id of the source.")] = "generated",
    skew: Annotated[
        float, typer.Option(min=0, max=0.5, metavar="SHARE", help="Share of all legs put on one account.")
    ] = 0.0,
    references: Annotated[
        Literal["sequential", "uuid"], typer.Option(help="Counted, or random (from the seed as well).")
    ] = "sequential",
) -> None:
    """Write a made-up bank export to try things on, with its accounts and a source file."""
    from backfill_pipeline.cli.generate import generate_export

    generate_export(entries, accounts, out, seed, dirty, name, skew=skew, references=references)


@app.command()
def profile(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A delimited text file.")],
    out: Annotated[
        Path | None, typer.Option(metavar="DRAFT.yaml", help="Write a first draft of a source file here.")
    ] = None,
    json: Json = False,
) -> None:
    """Look at an unknown export: how it is written, what its columns hold, which fields they may feed."""
    from backfill_pipeline.cli.profile import profile_export

    raise typer.Exit(profile_export(file, out, as_json=json))


@app.command()
def up(
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the UI; by default a free one.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
) -> None:
    """Start the Dagster UI and daemon on this home's ledger, and print where the UI is. Ctrl-C stops both."""
    from backfill_pipeline.cli.up import start_ui

    raise typer.Exit(start_ui(host, port))


app.command("scb-simulator")(scb_simulator)


def _begin_drawing() -> None:
    """What draws a run's pictures loads its libraries while the run loads its own: before them, so that both do."""
    from backfill_pipeline.reporting import drawing

    drawing.begin()


__all__ = ["ExitCode", "app"]
