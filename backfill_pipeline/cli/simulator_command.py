"""The command `backfill scb-simulator`.

Belongs here: its name, options and help.
Does not: what it does (`scb_simulator.py`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from backfill_pipeline.cli.options import Json


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
