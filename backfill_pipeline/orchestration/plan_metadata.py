"""A plan as metadata: what an operator sees on its materialization.

Belongs here: turning a `Plan` into Dagster's metadata values; tables of at most 20 rows, counts that are complete.
Does not: the metadata of runs (`metadata.py`), planning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict

from backfill_pipeline.orchestration.metadata import Metadata, table
from backfill_pipeline.stages.plan_report import Plan


def plan_metadata(plan: Plan) -> Metadata:
    """What a run would do."""
    outlook, estimate = plan.constraints, plan.estimate
    tables: dict[str, Sequence[Mapping[str, object]]] = {
        "would_be_posted": [asdict(one) for one in plan.totals],
        "opening_balances": [asdict(one) for one in plan.opening_totals],
        "accounts_below_zero": [asdict(one) for one in outlook.sample],
        "accounts_opened": [asdict(one) for one in plan.account_sample],
        "rejects_by_code": [{"code": code, "rows": count} for code, count in plan.rejects_by_code.items()],
        "reject_sample": [asdict(one) for one in plan.reject_samples],
        "filtered": [{"reason": why, "rows": count} for why, count in plan.filtered_by_reason.items()],
        "failing_partitions": [{"partition": one.key, "error": one.error} for one in plan.failed],
    }
    shown = {name: found for name, rows in tables.items() if (found := table(rows)) is not None}
    return {
        "outcome": plan.outcome,
        "exit_code_of_a_run": plan.exit_code,
        **asdict(plan.counts),
        "revision": plan.revision,
        "opening_entries": plan.opening_entries,
        "new_accounts": sum(plan.new_accounts.values()),
        "unknown_accounts": plan.unknown_accounts,
        "partitions_open": sum(one.state != "posted" for one in plan.partitions),
        "partitions_posted": sum(one.state == "posted" for one in plan.partitions),
        "constraints": f"{outlook.now} now, {outlook.after} after a run",
        "offending_accounts": outlook.offending,
        "estimate": f"{estimate.low_s:,} to {estimate.high_s:,} s, from {estimate.based_on}",
        **({"errors": "; ".join(plan.errors)} if plan.errors else {}),
        **({"changes": " and ".join(plan.changes)} if plan.changes else {}),
        **shown,
    }
