"""The commands: their names, arguments and help.

Belongs here: the command line as users see it.
Does not: what commands do (the other modules of this package).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from backfill_pipeline.cli.alert_commands import alerts_app
from backfill_pipeline.cli.audit_commands import audit_app
from backfill_pipeline.cli.bank_commands import outbox_app, sync_app
from backfill_pipeline.cli.correction_commands import corrections_app
from backfill_pipeline.cli.evidence import evidence_app
from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.metrics import metrics_app
from backfill_pipeline.cli.options import Day, Json, Source
from backfill_pipeline.cli.periods import period_app
from backfill_pipeline.cli.prune import prune
from backfill_pipeline.cli.report import report
from backfill_pipeline.cli.rollback import rollback
from backfill_pipeline.cli.seals import seals_app

app = typer.Typer(
    name="backfill",
    help="Moves ledger history into a core banking ledger on PostgreSQL, and proves that nothing was lost or doubled.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
constraints_app = typer.Typer(
    no_args_is_help=True, help="Balance constraints and foreign keys of the ledger."
)
rejects_app = typer.Typer(no_args_is_help=True, help="Rows that were rejected, with their reasons.")
db_app = typer.Typer(no_args_is_help=True, help="The ledger's database.")
sources_app = typer.Typer(no_args_is_help=True, help="Source definitions: list, check and try them.")
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
    from backfill_pipeline.cli.run import resume_source

    raise typer.Exit(resume_source(source, as_json=json))


@app.command()
def status(json: Json = False) -> None:
    """Show every source: progress, counts, rejects, reconciliation, and the state of the constraints."""
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


@app.command("scb-simulator")
def scb_simulator(
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE.yaml", help="Options and faults; those on the command line win."),
    ] = None,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Keeps what it is told; by default below BACKFILL_HOME."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 is a free one.")] = 0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    ledgers: Annotated[
        str | None, typer.Option(metavar="N|ID,ID", help="How many ledgers, or their ids. Default: 1.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same bank. Default: 1.")] = None,
    start: Annotated[
        str | None, typer.Option(metavar="DATE", help="First day of the ledgers. Default: 2024-03-01.")
    ] = None,
    days: Annotated[int | None, typer.Option(help="Days of the ledgers. Default: 31.")] = None,
    entries_per_day: Annotated[
        int | None, typer.Option(help="Entries of each ledger and day. Default: 1000.")
    ] = None,
    currencies: Annotated[
        str | None, typer.Option(metavar="CODE,CODE", help="Default: EUR,USD,JPY,KWD.")
    ] = None,
    accounts: Annotated[int | None, typer.Option(help="Accounts of each ledger. Default: 40.")] = None,
    timezone: Annotated[
        str | None, typer.Option(metavar="ZONE", help="Of the bank's days. Default: Europe/Paris.")
    ] = None,
    known_share: Annotated[
        float | None,
        typer.Option(metavar="SHARE", help="Of entries between accounts that we share. Default: 0.9."),
    ] = None,
    unknown_accounts: Annotated[
        str | None, typer.Option(metavar="refuse|accept", help="What we send of accounts it does not have.")
    ] = None,
    fault: Annotated[
        list[str] | None,
        typer.Option(metavar="KIND:KEY=VALUE,...", help="A fault to switch on; can be given several times."),
    ] = None,
    definitions: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Write a source definition of each ledger and its accounts into this folder."
        ),
    ] = None,
    token_lifetime_s: Annotated[
        int, typer.Option(min=1, max=86_400, help="Seconds until a token from /oauth/token ends.")
    ] = 3600,
    json: Json = False,
) -> None:
    """Serve a simulated Sovereign Central Bank, to try a sync of two ledgers on. Ctrl-C stops it.

    Credentials come from SCB_SIMULATOR_TOKEN, SCB_SIMULATOR_CLIENT_ID, SCB_SIMULATOR_CLIENT_SECRET and
    SCB_SIMULATOR_ADMIN_TOKEN; without any it makes its own, in a file beside the state.
    """
    from backfill_pipeline.cli.scb_simulator import Place, simulate

    given = {
        "ledgers": int(ledgers) if ledgers is not None and ledgers.isdecimal() else ledgers,
        "seed": seed,
        "start": start,
        "days": days,
        "entries_per_day": entries_per_day,
        "currencies": currencies,
        "accounts": accounts,
        "timezone": timezone,
        "known_share": known_share,
        "unknown_accounts": unknown_accounts,
    }
    place = Place(host, port, state)
    raise typer.Exit(
        simulate(
            place,
            config,
            given,
            fault or [],
            definitions=definitions,
            token_lifetime_s=token_lifetime_s,
            as_json=json,
        )
    )


@sources_app.command("list")
def sources_list(json: Json = False) -> None:
    """List every source: its file, what was run of it, or what is wrong with its definition."""
    from backfill_pipeline.cli.sources import list_sources

    raise typer.Exit(list_sources(as_json=json))


@sources_app.command("check")
def sources_check(
    source: Source,
    rows: Annotated[int, typer.Option(min=1, max=1_000_000, help="Rows to map and validate.")] = 1000,
    day: Day = None,
    json: Json = False,
) -> None:
    """Say everything that is wrong with a definition and its files, and what its first rows would become.

    Exit codes: 0 good, 2 the definition or a file is wrong, 3 rows would be rejected. Needs no database.
    """
    from backfill_pipeline.cli.banks import parse_day
    from backfill_pipeline.cli.sources import check_source

    raise typer.Exit(check_source(source, rows, parse_day(day, "--day"), as_json=json))


@sources_app.command("preview")
def sources_preview(
    source: Source,
    rows: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many rows.")] = 10,
    from_line: Annotated[
        int, typer.Option("--from", min=1, metavar="LINE", help="The line of the file to begin with.")
    ] = 1,
    day: Day = None,
    json: Json = False,
) -> None:
    """Show rows before and after mapping, with what is wrong below them. Posts nothing and needs no database."""
    from backfill_pipeline.cli.banks import parse_day
    from backfill_pipeline.cli.sources import preview_source

    raise typer.Exit(preview_source(source, rows, from_line, parse_day(day, "--day"), as_json=json))


@sources_app.command("schema")
def sources_schema() -> None:
    """Print the JSON Schema of a source definition, for editors."""
    from backfill_pipeline.cli.sources import print_schema

    print_schema()


@constraints_app.command("apply")
def constraints_apply(json: Json = False) -> None:
    """Check all balances, then apply and probe the constraints in one transaction. Refused while accounts offend."""
    from backfill_pipeline.cli.constraints import apply_constraints

    raise typer.Exit(apply_constraints(as_json=json))


@constraints_app.command("suspend")
def constraints_suspend() -> None:
    """Lift the constraints for a later large backfill; apply puts them back."""
    from backfill_pipeline.cli.constraints import suspend_constraints

    suspend_constraints()


@constraints_app.command("verify")
def constraints_verify(json: Json = False) -> None:
    """Check that the constraints exist and that a probe which breaks them is refused. Changes nothing."""
    from backfill_pipeline.cli.constraints import verify_constraints

    raise typer.Exit(verify_constraints(as_json=json))


@rejects_app.command("list")
def rejects_list(
    source: Source,
    code: Annotated[str | None, typer.Option(help="Only rejects with this code.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most so many rows.")] = 50,
    json: Json = False,
) -> None:
    """List rejected rows with line, code, field and reason, and how those ended that were repaired."""
    from backfill_pipeline.cli.rejects import list_rejects

    list_rejects(source, code, limit, as_json=json)


@rejects_app.command("export")
def rejects_export(
    source: Source,
    out: Annotated[
        Path | None, typer.Option(help="The CSV file to write; by default standard output.")
    ] = None,
) -> None:
    """Write all open rejects as CSV, with the source's columns and a hint each, safe to open in a spreadsheet."""
    from backfill_pipeline.cli.rejects import export_rejects

    export_rejects(source, out)


@rejects_app.command("replay")
def rejects_replay(
    source: Source,
    file: Annotated[Path, typer.Option(help="An export of rejects whose cells were repaired.")],
    json: Json = False,
) -> None:
    """Send repaired rows through the pipeline again: the same mapping, the same checks, each row once.

    Exit codes: 0 every row of the file is in the ledger, 1 failed, 2 usage, 3 some stay rejected, 4 reconciliation
    break.
    """
    from backfill_pipeline.cli.rejects import replay

    raise typer.Exit(replay(source, file, as_json=json))


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


__all__ = ["ExitCode", "app"]
