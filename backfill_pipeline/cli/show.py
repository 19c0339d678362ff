"""`backfill status`: what is, without changing anything.

Belongs here: gathering and printing.
Does not: the queries (`ledger/status.py`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict

from rich.markup import escape

from backfill_pipeline.cli.output import console, print_json, state
from backfill_pipeline.cli.session import Session, open_session
from backfill_pipeline.definition.scb_days import split_day_source_id
from backfill_pipeline.ledger import (
    checkpoints,
    constraints,
    reconciliation,
    registrations,
    rejects,
    rolled_back,
    status,
)
from backfill_pipeline.ledger.banks import bank_days
from backfill_pipeline.wording import counted

_COUNTS = ("read", "posted", "duplicates", "conflicts", "rejected", "filtered")
_FAILED_SHOWN = 5


def show_status(*, as_json: bool) -> None:
    """Every source that was registered, and the constraints of the ledger."""
    with open_session() as session:
        ids = registrations.source_ids(session.connection)
        banks = sorted({named[0] for one in ids if (named := split_day_source_id(one)) is not None})
        sources = [
            _source_status(session, source_id) for source_id in ids if split_day_source_id(source_id) is None
        ]
        synced = [_bank_status(session, source_id) for source_id in banks]
        state_of_constraints = constraints.state(session.connection)
        location = session.endpoint.description
        home = str(session.settings.home)
    if as_json:
        print_json(
            {
                "ledger": location,
                "home": home,
                "constraints": state_of_constraints,
                "sources": sources,
                "banks": synced,
            }
        )
        return
    console.print(f"ledger  {location}", soft_wrap=True)
    console.print(f"home    {home}", soft_wrap=True)
    note = (
        "  (lifted on purpose: backfill constraints apply puts them back)"
        if state_of_constraints == "suspended"
        else ""
    )
    console.print(f"balance constraints  {state(state_of_constraints)}{note}")
    if not sources and not synced:
        console.print("no source was run yet: backfill run SOURCE")
    for source in sources:
        _print_source(source)
    for bank in synced:
        _print_bank(bank)


def _bank_status(session: Session, source_id: str) -> dict[str, object]:
    """A bank is one line, however many days it has; `backfill sync status` has them."""
    days = bank_days.bank_days(session.connection, source_id)
    return {
        "source_id": source_id,
        **asdict(days),
        "rejects_by_code": bank_days.rejects_by_code(session.connection, source_id),
        "rolled_back": _rolled_back(session, source_id),
    }


def _rolled_back(session: Session, source_id: str) -> list[dict[str, object]]:
    """Rollbacks of which something is not posted again."""
    return [asdict(one) for one in rolled_back.open_rollbacks(session.connection, source_id)]


def _print_rolled_back(source: dict[str, object], partition: str) -> None:
    found = source["rolled_back"]
    assert isinstance(found, list)
    for one in found:
        span = one["first"] if one["partitions"] == 1 else f"{one['first']} to {one['last']}"
        console.print(f"  [yellow]{counted(one['partitions'], partition)}[/yellow] ({span}) ", end="")
        console.print(one["sentence"], markup=False, soft_wrap=True)


def _print_bank(bank: dict[str, object]) -> None:
    codes = bank["rejects_by_code"]
    assert isinstance(codes, dict)
    console.print()
    console.print(
        f"[bold]{bank['source_id']}[/bold]  {bank['days']:,} days of a bank, {bank['first']} to {bank['last']}"
        + (f", {bank['open_days']:,} of them not posted" if bank["open_days"] else "")
    )
    console.print("  " + ", ".join(f"{name} {bank[name]:,}" for name in _COUNTS))
    if codes:
        console.print("  rejects: " + ", ".join(f"{code} {count:,}" for code, count in codes.items()))
    _print_rolled_back(bank, "day")
    console.print(f"  next: backfill sync status {bank['source_id']}")


def _source_status(session: Session, source_id: str) -> dict[str, object]:
    connection = session.connection
    registration = registrations.load(connection, source_id)
    assert registration is not None
    outcomes = status.partition_outcomes(connection, registration.id)
    checkpoint = checkpoints.load(connection, source_id)
    verdict = reconciliation.latest(connection, registration.id)
    done = [outcome for outcome in outcomes if outcome.status == "posted"]
    return {
        "source_id": source_id,
        "revision": registration.revision,
        "file": registration.file_name,
        "rows": registration.row_count,
        "status": checkpoint.status if checkpoint else None,
        "processed": checkpoint.processed if checkpoint else 0,
        "last_checkpoint_at": checkpoint.last_checkpoint_at if checkpoint else None,
        "error": checkpoint.error_message if checkpoint else None,
        **{name: sum(getattr(outcome, name) for outcome in done) for name in _COUNTS},
        "partitions": dict(Counter(outcome.status for outcome in outcomes)),
        "failed_partitions": {
            outcome.partition_key: outcome.error for outcome in outcomes if outcome.status == "failed"
        },
        "rejects_by_code": rejects.count_by_code(connection, registration.id),
        "reconciliation": verdict.verdict if verdict else "not run",
        "reconciled_at": verdict.reconciled_at if verdict else None,
        "rolled_back": _rolled_back(session, source_id),
    }


def _print_source(source: dict[str, object]) -> None:
    counts = {name: source[name] for name in _COUNTS}
    partitions = source["partitions"]
    failed = source["failed_partitions"]
    codes, rows = source["rejects_by_code"], source["rows"]
    assert isinstance(rows, int)
    assert isinstance(partitions, dict)
    assert isinstance(failed, dict)
    assert isinstance(codes, dict)
    console.print()
    console.print(
        f"[bold]{source['source_id']}[/bold]  {state(str(source['status']))}  revision {source['revision']},"
        f" {counted(rows, 'row')} of {escape(str(source['file']))}",
        soft_wrap=True,
    )
    console.print("  " + ", ".join(f"{name} {count:,}" for name, count in counts.items()))
    console.print(
        "  partitions: " + ", ".join(f"{count} {state(name)}" for name, count in partitions.items())
    )
    so_far = "" if set(partitions) <= {"posted"} else "  (about the posted partitions)"
    console.print(f"  reconciliation: {state(str(source['reconciliation']))}{so_far}")
    if codes:
        console.print(
            "  rejects: " + ", ".join(f"{code} {count:,}" for code, count in codes.items()), soft_wrap=True
        )
    for key, error in list(failed.items())[:_FAILED_SHOWN]:
        console.print(f"  [red]{key}[/red]: ", end="")
        console.print(str(error), markup=False, soft_wrap=True)
    _print_rolled_back(source, "partition")
    if failed or source["rolled_back"]:
        console.print(f"  next: backfill resume {source['source_id']}")
