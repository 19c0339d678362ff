"""`backfill period close|reopen|list`.

Belongs here: the commands, their text, JSON and exit codes.
Does not: closing and reopening (`ledger/periods.py`).
"""

from __future__ import annotations

import re
from dataclasses import asdict
from datetime import date
from typing import Annotated, Final

import typer

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.options import Actor, Json, Reason

period_app = typer.Typer(
    no_args_is_help=True, help="Closed periods: months in which a ledger takes no entries any more."
)

Ledger = Annotated[str, typer.Argument(metavar="LEDGER", help="A ledger's id, such as MASTER.")]
Month = Annotated[str, typer.Argument(metavar="MONTH", help="A month in UTC, such as 2024-01.")]

_MONTH: Final = re.compile(r"(\d{4})-(0[1-9]|1[0-2])", re.ASCII)


@period_app.command("close")
def period_close(
    ledger: Ledger, month: Month, by: Actor = None, reason: Reason = None, json: Json = False
) -> None:
    """Close a month of a ledger: the database refuses its entries from now on, and those it has are sealed for good.

    Exit codes: 0 it is closed, 1 it is not over or the ledger has no entries, 2 usage.
    """
    from backfill_pipeline.cli.output import console, print_json
    from backfill_pipeline.cli.person import person
    from backfill_pipeline.cli.session import open_session
    from backfill_pipeline.cli.tables import printable
    from backfill_pipeline.ledger import periods

    first = parse_month(month)
    with open_session() as session:
        closed = periods.close(session.connection, ledger, first, actor=person(by), reason=reason)
        (found,) = [one for one in periods.closed_periods(session.connection, ledger) if one.month == first]
    if json:
        print_json({**asdict(found), "month": month, "closed_now": closed})
    elif closed:
        console.print(
            f"{ledger} {month} is closed with {found.entries or 0:,} entries, seal {found.seal}", markup=False
        )
    else:
        console.print(
            f"{ledger} {month} is closed already, since {found.closed_at:%Y-%m-%d} by {printable(found.closed_by)}",
            markup=False,
        )
    raise typer.Exit(ExitCode.CLEAN)


@period_app.command("reopen")
def period_reopen(
    ledger: Ledger, month: Month, by: Actor = None, reason: Reason = None, json: Json = False
) -> None:
    """Open a closed month again. It takes two people: the second one asks for the same. Seals stay final.

    Exit codes: 0 it is open, 2 usage, 3 it waits for another person.
    """
    from backfill_pipeline.cli.output import console, print_json
    from backfill_pipeline.cli.person import person
    from backfill_pipeline.cli.session import open_session
    from backfill_pipeline.ledger import periods

    first, actor = parse_month(month), person(by)
    with open_session() as session:
        was_closed = periods.is_closed(session.connection, ledger, first)
        reopened = periods.reopen(session.connection, ledger, first, actor=actor, reason=reason)
    state = "open" if reopened else "waiting for another person"
    if json:
        print_json(
            {"ledger_id": ledger, "month": month, "state": state, "reopened_now": was_closed and reopened}
        )
    elif not reopened:
        console.print(
            f"{ledger} {month} stays closed until another person than {actor} asks for the same:"
            f" backfill period reopen {ledger} {month} --by NAME",
            markup=False,
        )
    else:
        console.print(
            f"{ledger} {month} is open" + ("" if was_closed else "; it was not closed"), markup=False
        )
    raise typer.Exit(ExitCode.CLEAN if reopened else ExitCode.REJECTS_OR_REFUSED)


@period_app.command("list")
def period_list(
    ledger: Annotated[
        str | None, typer.Argument(metavar="LEDGER", help="Of this ledger; of all by default.")
    ] = None,
    json: Json = False,
) -> None:
    """List closed periods, and those that somebody asked to reopen. All other months are open."""
    from backfill_pipeline.cli.output import console, print_json
    from backfill_pipeline.cli.session import open_session
    from backfill_pipeline.cli.tables import plain_table
    from backfill_pipeline.ledger import audit_log, periods

    with open_session() as session:
        found = periods.closed_periods(session.connection, ledger)
        asked = {
            one.subject: one.requested_by
            for one in audit_log.open_requests(session.connection)
            if one.action == periods.REOPEN
        }
    rows: list[dict[str, object]] = [
        {
            **asdict(one),
            "month": f"{one.month:%Y-%m}",
            "reopening_asked_by": asked.get(f"{one.ledger_id} {one.month:%Y-%m}"),
        }
        for one in found
    ]
    if json:
        print_json({"closed": rows})
    elif not rows:
        console.print("no period is closed")
    else:
        shown = [
            {**row, "closed_at": f"{one.closed_at:%Y-%m-%d %H:%M:%S} UTC"}
            for row, one in zip(rows, found, strict=True)
        ]
        console.print(
            plain_table([{name: value for name, value in row.items() if name != "seal"} for row in shown])
        )


def parse_month(text: str) -> date:
    """The first day of a month that is written as 2024-01.

    Raises:
        UsageError: it is none.
    """
    from backfill_pipeline.errors import UsageError

    found = _MONTH.fullmatch(text)
    if found is None or found[1] == "0000":
        raise UsageError(f"{text} is no month: write year and month, such as 2024-01")
    return date(int(found[1]), int(found[2]), 1)
