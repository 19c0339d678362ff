"""The command `backfill corrections`.

Belongs here: its names, arguments and help.
Does not: what it does (`corrections.py`).
"""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from backfill_pipeline.cli.options import Actor, Json, Reason

corrections_app = typer.Typer(
    no_args_is_help=True,
    help="Corrections: entries that make the ledger equal to its source again: proposed, approved, posted.",
)

Ids = Annotated[list[int], typer.Argument(metavar="ID...", help="Numbers of corrections.")]


@corrections_app.command("propose")
def corrections_propose(
    source: Annotated[
        str | None,
        typer.Argument(
            metavar="SOURCE",
            help="A source's id, or the path of its source file: the ledger is compared with it.",
        ),
    ] = None,
    audit: Annotated[
        bool,
        typer.Option(
            "--audit",
            help="What the ledger shows of itself: payments posted twice and, with --suspense, accounts below zero.",
        ),
    ] = False,
    suspense: Annotated[
        list[str] | None,
        typer.Option(
            metavar="ACCOUNT",
            help="An account that is to hold what stated balances differ by, or to pay for negative ones. One for each"
            " currency; without one, nothing is posted for a balance.",
        ),
    ] = None,
    limit: Annotated[
        int, typer.Option(min=1, max=100_000, help="At most so many proposals; the other findings come next.")
    ] = 1_000,
    by: Actor = None,
    reason: Reason = None,
    json: Json = False,
) -> None:
    """Propose entries for everything that differs. Posts nothing.

    Exit codes: 0 nothing to correct, 1 failed, 2 usage, 3 proposals wait for a decision, or findings that no entry can
    correct.
    """
    from backfill_pipeline.cli.corrections import propose
    from backfill_pipeline.errors import UsageError

    if (source is None) != audit:
        raise UsageError("corrections are proposed for one source, or with --audit for the ledger by itself")
    raise typer.Exit(propose(source, suspense or [], limit, by, reason, as_json=json))


@corrections_app.command("list")
def corrections_list(
    status: Annotated[
        Literal["open", "proposed", "approved", "rejected", "stale", "applied", "undone", "all"],
        typer.Option(help="Only these; open are those that are proposed or approved."),
    ] = "open",
    source: Annotated[str | None, typer.Option(metavar="ID", help="Only those of this source.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=100_000, help="At most so many, the latest first.")] = 100,
    json: Json = False,
) -> None:
    """List corrections, the latest first."""
    from backfill_pipeline.cli.corrections import list_corrections

    raise typer.Exit(list_corrections(status, source, limit, as_json=json))


@corrections_app.command("show")
def corrections_show(
    correction: Annotated[int, typer.Argument(metavar="ID", help="The number of a correction.")],
    json: Json = False,
) -> None:
    """Show a correction: what is wrong, where, the entries that are proposed, and who decided what."""
    from backfill_pipeline.cli.corrections import show_correction

    raise typer.Exit(show_correction(correction, as_json=json))


@corrections_app.command("approve")
def corrections_approve(ids: Ids, by: Actor = None, reason: Reason = None, json: Json = False) -> None:
    """Approve proposals, as another person than who proposed them.

    Exit codes: 0 approved, 1 the ledger changed since (they are proposed anew) or they are closed, 2 usage, 3 it takes
    another person.
    """
    from backfill_pipeline.cli.corrections import decide

    raise typer.Exit(decide("approve", ids, by, reason, as_json=json))


@corrections_app.command("reject")
def corrections_reject(ids: Ids, by: Actor = None, reason: Reason = None, json: Json = False) -> None:
    """Reject proposals, or withdraw one's own. Exit codes: 0 rejected, 1 they are closed already, 2 usage."""
    from backfill_pipeline.cli.corrections import decide

    raise typer.Exit(decide("reject", ids, by, reason, as_json=json))


@corrections_app.command("apply")
def corrections_apply(
    ids: Annotated[
        list[int] | None, typer.Argument(metavar="[ID...]", help="Of approved corrections; all by default.")
    ] = None,
    by: Actor = None,
    reason: Reason = None,
    json: Json = False,
) -> None:
    """Post approved corrections, dated in the open period, and verify the ledger: sources concerned, and all balances.

    Exit codes: 0 applied and everything matches, or nothing to do; 1 one is refused, or the ledger changed since it was
    proposed; 2 usage; 3 one is not approved yet; 4 something still differs afterwards.
    """
    from backfill_pipeline.cli.corrections import apply

    raise typer.Exit(apply(ids, by, reason, as_json=json))
