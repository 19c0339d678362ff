"""`backfill status`: what is, without changing anything.

Belongs here: gathering and printing.
Does not: the queries (`ledger/monitoring/standings.py`), watching (`watch.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from rich.markup import escape

from backfill_pipeline.cli.output import console, print_json, state
from backfill_pipeline.cli.session import open_session
from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.monitoring.moment import one_moment
from backfill_pipeline.ledger.monitoring.standings import BankStanding, SourceStanding, StateCounts, standings
from backfill_pipeline.ledger.rolled_back import OpenRollback, all_open_rollbacks
from backfill_pipeline.wording import counted

_COUNTS = ("read", "posted", "duplicates", "conflicts", "rejected", "filtered")
_FAILED_SHOWN = 5
_NOTHING = StateCounts(0, 0, 0, 0, 0, 0, 0)


def show_status(*, as_json: bool) -> None:
    """Every source that was registered, and the constraints of the ledger."""
    with open_session() as session:
        with one_moment(session.connection):
            found, found_banks = standings(session.connection)
            rollbacks = all_open_rollbacks(session.connection)
            state_of_constraints = constraints.state(session.connection)
        sources = [_source_status(one, rollbacks) for one in found]
        synced = [_bank_status(one, rollbacks) for one in found_banks]
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


def _bank_status(bank: BankStanding, rollbacks: Mapping[str, Sequence[OpenRollback]]) -> dict[str, object]:
    """A bank is one line, however many days it has; `backfill sync status` has them."""
    return {
        "source_id": bank.source_id,
        **asdict(bank.days),
        "rejects_by_code": bank.rejects,
        "rolled_back": [asdict(one) for one in rollbacks.get(bank.source_id, ())],
    }


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


def _source_status(
    source: SourceStanding, rollbacks: Mapping[str, Sequence[OpenRollback]]
) -> dict[str, object]:
    done = source.states.get("posted", _NOTHING)
    return {
        "source_id": source.source_id,
        "revision": source.revision,
        "file": source.file_name,
        "rows": source.rows,
        "status": source.status,
        "processed": source.processed,
        "last_checkpoint_at": source.last_checkpoint_at,
        "error": source.error,
        **{name: getattr(done, name) for name in _COUNTS},
        "partitions": {state: counts.partitions for state, counts in source.states.items()},
        "failed_partitions": source.failures,
        "rejects_by_code": source.rejects,
        "reconciliation": source.verdict or "not run",
        "reconciled_at": source.reconciled_at,
        "rolled_back": [asdict(one) for one in rollbacks.get(source.source_id, ())],
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
