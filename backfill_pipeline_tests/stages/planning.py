"""Words for tests of plans: planning a source of a `World`, running it, and holding the two against each other.

Belongs here: what a run left in the ledger, in the words of a plan.
Does not: expectations of a single test.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger import constraints, registrations, rejects, status
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.stages.plan import make_plan
from backfill_pipeline.stages.plan_report import Counts, Plan
from backfill_pipeline_tests.stages.world import World

# Everything that a plan must leave as it is, the positions of sequences included.
_LASTING = """
    SELECT (SELECT count(*) FROM ledger_entries), (SELECT count(*) FROM bank_accounts),
           (SELECT count(*) FROM backfill_registrations), (SELECT count(*) FROM backfill_partitions),
           (SELECT count(*) FROM backfill_batches), (SELECT count(*) FROM backfill_rejects),
           (SELECT count(*) FROM backfill_source_references), (SELECT count(*) FROM ledger_backfill_checkpoints),
           (SELECT count(*) FROM ledger_entry_conversions), (SELECT count(*) FROM ledger_constraint_events),
           (SELECT string_agg(sequencename || coalesce(last_value::text, '-'), ',' ORDER BY sequencename)
            FROM pg_sequences WHERE schemaname NOT LIKE 'pg_temp%'),
           (SELECT md5(string_agg(a::text, ',' ORDER BY id)) FROM bank_accounts a),
           (SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'backfill%')
"""
_numbers = itertools.count(1)


def files_below(folder: Path) -> set[tuple[str, int]]:
    return {
        (str(path.relative_to(folder)), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


def planned(world: World, path: Path, *, accept_changed: bool = False) -> Plan:
    """A plan that left no trace, in the ledger or the home."""
    home = world.folder / "home"
    before = world.query(_LASTING), files_below(home)
    with connect(world.url) as connection:
        plan = make_plan(load_definition(path), connection, world.places, accept_changed=accept_changed)
    assert (world.query(_LASTING), files_below(home)) == before
    assert plan.counts.read == sum(
        (
            plan.counts.posted,
            plan.counts.duplicates,
            plan.counts.conflicts,
            plan.counts.rejected,
            plan.counts.filtered,
        )
    )
    return plan


@dataclass(frozen=True)
class Happened:
    """A run, in the words of a plan."""

    counts: Counts
    partitions: Mapping[str, Counts]
    failed: set[str]
    rejects_by_code: Mapping[str, int]
    filtered_by_reason: Mapping[str, int]
    totals: list[tuple[object, ...]]
    opening_entries: int
    new_accounts: set[str]
    constraints_after: str
    offenders: list[tuple[str, Decimal]]


def ran(world: World, path: Path, *, accept_changed: bool = False) -> Happened:
    """Runs a source as `backfill run` does, constraints included, and says what it did."""
    before = {account for (account,) in world.query("SELECT id FROM bank_accounts")}
    entries_before = {row for (row,) in world.query("SELECT id FROM ledger_entries")}
    run_id = f"run of a plan {next(_numbers)}"
    failed: set[str] = set()
    after = ""
    offenders: list[tuple[str, Decimal]] = []
    try:
        reports = world.run(path, run_id=run_id, accept_changed=accept_changed)
        failed = {report.key for report in reports if report.error is not None}
    except BackfillError:
        failed = {"all"}
    with connect(world.url) as connection:
        if not failed:
            report = constraints.apply(connection)
            after = report.state
            offenders = [(one.account_id, one.available_balance) for one in report.sample]
        registration = registrations.load(connection, load_definition(path).id)
        assert registration is not None
        keys = [partition.key for partition in registration.partitions]
        one_by_one = {key: status.run_counts(connection, registration.id, [key], [run_id]) for key in keys}
        by_code = rejects.count_by_code(connection, registration.id)
    parts = {
        key: Counts(one.read, one.posted, one.duplicates, one.conflicts, one.rejected, one.filtered)
        for key, one in one_by_one.items()
    }
    filtered: Counter[str] = Counter()
    for (reasons,) in world.query(
        "SELECT filtered_by_reason FROM backfill_partitions WHERE registration_id = %s", registration.id
    ):
        assert isinstance(reasons, dict)
        filtered.update(reasons)
    new = [
        row
        for row in world.query(
            "SELECT id, ledger_id, currency_code, amount, transaction_type FROM ledger_entries ORDER BY id"
        )
        if row[0] not in entries_before
    ]
    sums: dict[tuple[object, object], list[Decimal]] = {}
    for _, ledger, currency, amount, kind in new:
        if kind != "OPENING_BALANCE":
            assert isinstance(amount, Decimal)
            sums.setdefault((ledger, currency), []).append(amount)
    return Happened(
        counts=Counts(*(sum(getattr(one, name) for one in parts.values()) for name in Counts.__slots__)),
        partitions=parts,
        failed=failed,
        rejects_by_code=by_code,
        filtered_by_reason=dict(filtered),
        totals=sorted((*key, len(amounts), sum(amounts)) for key, amounts in sums.items()),
        opening_entries=sum(kind == "OPENING_BALANCE" for *_, kind in new),
        new_accounts={a for (a,) in world.query("SELECT id FROM bank_accounts") if isinstance(a, str)}
        - before,
        constraints_after=after,
        offenders=offenders,
    )


def assert_as_planned(plan: Plan, happened: Happened) -> None:
    """Every number of the plan is that of the run."""
    assert plan.counts == happened.counts
    assert {one.key: one.counts for one in plan.partitions} == happened.partitions
    assert {one.key for one in plan.failed} == happened.failed or happened.failed == {"all"}
    assert plan.rejects_by_code == happened.rejects_by_code
    assert plan.filtered_by_reason == happened.filtered_by_reason
    assert [
        (one.ledger_id, one.currency_code, one.entries, one.amount) for one in plan.totals
    ] == happened.totals
    assert plan.opening_entries == happened.opening_entries
    assert sum(plan.new_accounts.values()) == len(happened.new_accounts)
    assert {one.account_id for one in plan.account_sample} <= happened.new_accounts
    if not happened.failed:
        assert plan.constraints.after == happened.constraints_after
        found = [(one.account_id, one.available_balance) for one in plan.constraints.sample]
        assert found == happened.offenders
    assert plan.ending == (
        "failed"
        if happened.failed
        else "rejects or refused"
        if plan.counts.rejected or plan.counts.conflicts or happened.constraints_after == "refused"
        else "clean"
    )


def assert_planned_and_run_agree(world: World, path: Path, *, accept_changed: bool = False) -> Plan:
    plan = planned(world, path, accept_changed=accept_changed)
    assert_as_planned(plan, ran(world, path, accept_changed=accept_changed))
    return plan
