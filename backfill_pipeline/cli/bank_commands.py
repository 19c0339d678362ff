"""The commands about ledgers that a bank keeps too: `backfill sync` and `backfill outbox`.

Belongs here: their names, arguments and help.
Does not: what they do (`sync.py`, `sync_show.py`, `outbox.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from backfill_pipeline.cli.options import Json

sync_app = typer.Typer(
    no_args_is_help=True,
    help="Ledgers that a Sovereign Central Bank keeps too: fetch, post, acknowledge, prove.",
)
outbox_app = typer.Typer(no_args_is_help=True, help="What banks have to hear of, and telling them.")

Banks = Annotated[
    list[str] | None,
    typer.Argument(metavar="BANK", help="Ids or source files of type scb; all of them by default."),
]
From = Annotated[
    str | None,
    typer.Option("--from", metavar="DATE", help="The first day, or start: the first of each bank."),
]
To = Annotated[str | None, typer.Option("--to", metavar="DATE", help="The last day, itself included.")]
Bank = Annotated[
    str | None,
    typer.Option("--bank", metavar="BANK", help="Of this bank alone: its id, or that of its source."),
]
Kind = Annotated[
    Literal["acknowledgement", "entry"] | None,
    typer.Option(help="Only what became of the bank's entries, or only entries of ours."),
]


@sync_app.command("run")
def sync_run(
    banks: Banks = None,
    first: From = None,
    last: To = None,
    refetch: Annotated[
        Literal["changed", "always"],
        typer.Option(help="always: also fetch complete days of which the bank says nothing new."),
    ] = "changed",
    json: Json = False,
) -> None:
    """Bring days of banks' ledgers and of ours into line, and prove both equal: Dagster runs, shown in the UI.

    Without --from and --to it does what a night does: the day that ended, the look-back, and every day before that is
    not complete. Exit codes: 0 clean, 1 days are not complete, 2 usage, 3 with rejects, conflicts or constraints
    refused, 4 the ledgers differ.
    """
    from backfill_pipeline.cli.sync import run_sync

    raise typer.Exit(run_sync(banks or [], first, last, refetch=refetch, as_json=json))


@sync_app.command("status")
def sync_status(
    bank: Annotated[
        str | None, typer.Argument(metavar="BANK", help="Its days, one by one; all banks by default.")
    ] = None,
    json: Json = False,
) -> None:
    """Show how far banks are: days that are complete, how far behind, and why a day is not.

    Exit codes: 0 every day since the first one is complete, 1 some are not, a night was missed, or the bank refuses
    what it is told, 2 usage.
    """
    from backfill_pipeline.cli.sync_show import show_sync_status

    raise typer.Exit(show_sync_status(bank, as_json=json))


@sync_app.command("reconcile")
def sync_reconcile(banks: Banks = None, first: From = None, last: To = None, json: Json = False) -> None:
    """Hold days of both ledgers against each other again: totals, then every entry and field. Changes nothing.

    Without both --from and --to, the days that were ever synchronised. Exit codes: 0 equal, 1 some days could not be
    compared, 2 usage, 4 the ledgers differ.
    """
    from backfill_pipeline.cli.sync_show import reconcile_days

    raise typer.Exit(reconcile_days(banks or [], first, last, as_json=json))


@outbox_app.command("dispatch")
def outbox_dispatch(
    bank: Annotated[
        list[str] | None,
        typer.Option(metavar="BANK", help="Only this bank; can be given several times."),
    ] = None,
    kind: Kind = None,
    watch: Annotated[bool, typer.Option("--watch", help="Go on until Ctrl-C or SIGTERM.")] = False,
    wait_s: Annotated[
        float,
        typer.Option("--wait-s", min=0, max=86_400, help="Go on for so many seconds, until nothing is left."),
    ] = 0.0,
    json: Json = False,
) -> None:
    """Tell banks what is due: what became of their entries, and entries of ours. Any number may run at once.

    Exit codes: 0 nothing is left, 1 something is (a bank is away, or refuses for now), 2 usage, 3 rows were given up.
    """
    from backfill_pipeline.cli.outbox import dispatch_outbox

    raise typer.Exit(dispatch_outbox(bank or [], kind, wait_s, watch=watch, as_json=json))


@outbox_app.command("status")
def outbox_status(
    bank: Bank = None,
    check: Annotated[
        bool, typer.Option("--check", help="Also look for entries without a row, and rows without an entry.")
    ] = False,
    json: Json = False,
) -> None:
    """Show what banks have to hear of, by kind and status, and whether they answer.

    Exit codes: 0 nothing waits for a person, 1 rows were given up or do not go with the entries, 2 usage.
    """
    from backfill_pipeline.cli.outbox import show_outbox_status

    raise typer.Exit(show_outbox_status(bank, check=check, as_json=json))


@outbox_app.command("show")
def outbox_show(
    bank: Bank = None,
    kind: Kind = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS",
            help="PENDING, SENT, ACKNOWLEDGED, FAILED, DEAD, CANCELLED or COMPENSATED; several times.",
        ),
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Of this entry alone.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many rows.")] = 50,
    json: Json = False,
) -> None:
    """List rows of the outbox: what the bank is told, how often it was tried, and why it was refused."""
    from backfill_pipeline.cli.outbox import show_outbox

    show_outbox(bank, kind, status or [], reference, limit, as_json=json)


@outbox_app.command("retry")
def outbox_retry(
    bank: Bank = None,
    kind: Kind = None,
    status: Annotated[
        list[str] | None,
        typer.Option(
            metavar="STATUS",
            help="FAILED or DEAD; both by default. Also ACKNOWLEDGED, of a bank that lost what it had.",
        ),
    ] = None,
    reference: Annotated[str | None, typer.Option(help="Of this entry alone.")] = None,
    json: Json = False,
) -> None:
    """Put refused rows back, to be sent by the next dispatch as if they had never been tried."""
    from backfill_pipeline.cli.outbox import retry_outbox

    raise typer.Exit(retry_outbox(bank, kind, status or [], reference, as_json=json))
