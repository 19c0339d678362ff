"""Checks of a source, or of a bank, as the ledger has it: whoever posted it, and whichever run did.

Belongs here: the count equation, failed partitions, rejects, stalls, freshness and the outbox, each in a sentence.
Does not: comparing with the source (`assets/reconciliation.py`), the queries (`ledger/`).
"""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final

import dagster as dg

from backfill_pipeline.definition.models import Freshness, SourceDefinition
from backfill_pipeline.definition.scb_days import scb_of
from backfill_pipeline.ledger.attention import sources_over_limit
from backfill_pipeline.ledger.auditing.backfill_checks import lost_rows, stalled_checkpoints
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.source_health import (
    failed_partitions,
    is_registered,
    last_proof,
    outbox_lag,
    posted_rows,
)
from backfill_pipeline.orchestration.assets.keys import asset_key
from backfill_pipeline.orchestration.checks.verdicts import (
    Looked,
    Verdict,
    could_not_look,
    of_finding,
    results,
)
from backfill_pipeline.orchestration.metadata import Metadata, table
from backfill_pipeline.orchestration.resources import LedgerResource
from backfill_pipeline.settings import load_alert_settings
from backfill_pipeline.wording import are, counted

_EVER: Final = datetime(1970, 1, 1, tzinfo=UTC)


def source_checks(definition: SourceDefinition) -> dg.AssetChecksDefinition:
    """The checks of a source or of a bank; any of them can be executed by itself."""
    checks = _checks(definition)

    @dg.multi_asset_check(
        name=f"{definition.id}_checks",
        specs=[one.spec for one in checks],
        can_subset=True,
        description="Looks at the ledger, and changes nothing.",
    )
    def look(context: dg.AssetCheckExecutionContext, ledger: LedgerResource) -> Iterator[dg.AssetCheckResult]:
        yield from results(
            ledger.places.ledger_url, checks, lambda key: key in context.selected_asset_check_keys
        )

    return look


def freshness_check(definition: SourceDefinition) -> dg.AssetChecksDefinition | None:
    """The check of a source that is expected again and again, by itself since it comes after reconciliation."""
    if (fresh := _fresh_check(definition)) is None:
        return None

    @dg.multi_asset_check(
        name=f"{definition.id}_freshness",
        specs=[fresh.spec],
        description="Looks at the ledger, and changes nothing.",
    )
    def look(ledger: LedgerResource) -> Iterator[dg.AssetCheckResult]:
        yield from results(ledger.places.ledger_url, [fresh], lambda _: True)

    return look


def report_checks(instance: dg.DagsterInstance, url: str, definition: SourceDefinition) -> None:
    """Makes all checks of a source for a run that fails: Dagster skips those that come after what failed.

    Args:
        instance: where the results are recorded.
        url: of the ledger.
        definition: of the source or bank.
    """
    for result in results(url, _checks(definition), lambda _: True):
        assert result.asset_key is not None, "every result names its asset"
        assert result.check_name is not None, "and its check"
        instance.report_runless_asset_event(
            dg.AssetCheckEvaluation(
                asset_key=result.asset_key,
                check_name=result.check_name,
                passed=result.passed,
                severity=result.severity,
                description=result.description,
                metadata=result.metadata,
            )
        )


def _checks(definition: SourceDefinition) -> list[Looked]:
    name, is_bank = definition.id, definition.scb is not None
    # Of a bank's assets, reconciliation alone has a result of its own in a run of many days: checks of the others would
    # be skipped.
    shown_at = asset_key(name, "reconciliation" if is_bank else "posted")
    looked = partial(_looked, name, shown_at)
    found = [
        looked(
            "nothing_lost",
            "Of every partition that is posted, read = posted + duplicates + conflicts + rejected + filtered, and each"
            " reject that was counted is kept. An error.",
            lambda connection: _nothing_lost(connection, name, is_bank=is_bank),
        ),
        looked(
            "no_partition_failed",
            "No partition, and no day of a bank, is left whose latest try failed; otherwise how many, which, why, and"
            " how to recover. An error.",
            lambda connection: of_finding(
                failed_partitions(connection, name, is_bank=is_bank), "no partition is left failed"
            ),
        ),
        looked(
            "rejects_under_limit",
            "No more rejects and conflicts than BACKFILL_ALERT_REJECT_RATE_MAX (1 % unless it is set) and"
            " BACKFILL_ALERT_REJECTS_MAX allow. A warning.",
            lambda connection: _rejects(connection, name),
        ),
        looked(
            "not_stalled",
            "It is not in progress without a checkpoint for BACKFILL_ALERT_STALLED_AFTER_S, one hour unless it is set."
            " A warning.",
            lambda connection: _not_stalled(connection, name, is_bank=is_bank),
        ),
    ]
    if is_bank:
        bank_id = scb_of(definition).bank_id
        found.append(
            looked(
                "outbox_keeps_up",
                "Nothing waits for longer than an hour to be told to the bank (a warning), and nothing was given up (an"
                " error).",
                lambda connection: _outbox(connection, name, bank_id),
            )
        )
    return found


def _fresh_check(definition: SourceDefinition) -> Looked | None:
    if (freshness := definition.freshness) is None:
        return None
    return _looked(
        definition.id,
        asset_key(definition.id, "reconciliation"),
        "fresh",
        "All of it was proven equal to the ledger within the hours that freshness.at_most_hours of its source file"
        f" allows ({freshness.at_most_hours}). A warning.",
        lambda connection: _fresh(connection, definition, freshness),
    )


def _looked(
    source_id: str, key: dg.AssetKey, name: str, description: str, look: Callable[[Connection], Verdict]
) -> Looked:
    """A check of a source. It does not pass while there is nothing to look at."""

    def look_at_what_is_there(connection: Connection) -> Verdict:
        if not is_registered(connection, source_id):
            return could_not_look(
                f"nothing of {source_id} is in this ledger yet. Materialize {source_id}/manifest first"
            )
        return look(connection)

    return Looked(dg.AssetCheckSpec(name, asset=key, description=description), look_at_what_is_there)


def _nothing_lost(connection: Connection, source_id: str, *, is_bank: bool) -> Verdict:
    rows = posted_rows(connection, source_id)
    compared = f"{source_id}@DAY" if is_bank else source_id
    return of_finding(
        replace(
            lost_rows(connection, source_id),
            remedy="rows of backfill_batches or backfill_rejects were changed directly: backfill reconcile"
            f" {compared} says which counts",
        ),
        f"read {rows.read:,} = posted {rows.posted:,} + duplicates {rows.duplicates:,} + conflicts {rows.conflicts:,}"
        f" + rejected {rows.rejected:,} + filtered {rows.filtered:,}, in"
        f" {counted(rows.partitions, 'posted partition')}",
        {
            "partitions": rows.partitions,
            "read": rows.read,
            "posted": rows.posted,
            "duplicates": rows.duplicates,
            "conflicts": rows.conflicts,
            "rejected": rows.rejected,
            "filtered": rows.filtered,
        },
    )


def _rejects(connection: Connection, source_id: str) -> Verdict:
    # Here, and not when definitions are loaded: a mistyped address of a mail stops no backfill.
    limits = load_alert_settings()
    over = [
        one
        for one in sources_over_limit(
            connection, _EVER, failed_max=limits.rejects_max, rate_max=limits.reject_rate_max
        )
        if one.source_id.partition("@")[0] == source_id
    ]
    allowed = f"{limits.reject_rate_max:.2%} of all rows" + (
        "" if limits.rejects_max is None else f" or {counted(limits.rejects_max, 'row')}"
    )
    severity = dg.AssetCheckSeverity.WARN
    if not over:
        return Verdict(True, f"no more rejects and conflicts than {allowed}", severity)
    failed, processed = sum(one.failed for one in over), sum(one.processed for one in over)
    where = "" if over[0].source_id == source_id else f" on {counted(len(over), 'day')}"
    sample = table(
        [
            {"source": one.source_id, "rows": one.processed, "failed": one.failed, "rate": f"{one.rate:.2%}"}
            for one in sorted(over, key=lambda one: one.rate, reverse=True)
        ]
    )
    return Verdict(
        False,
        f"{counted(failed, 'reject or conflict', 'rejects and conflicts')} among {counted(processed, 'row')}{where},"
        f" more than {allowed}."
        f" What to do: backfill rejects list {over[0].source_id} shows their reasons; repaired rows go in with backfill"
        " rejects export and replay",
        severity,
        {"failed": failed, "rows": processed, **({"sample": sample} if sample else {})},
    )


def _not_stalled(connection: Connection, source_id: str, *, is_bank: bool) -> Verdict:
    again = f"backfill sync run {source_id}" if is_bank else f"backfill resume {source_id}"
    after = timedelta(seconds=load_alert_settings().stalled_after_s)
    return of_finding(
        replace(
            stalled_checkpoints(connection, stalled_after=after, source_id=source_id),
            remedy=f"where a run writes it, look at that run in the UI; else {again} carries on",
        ),
        "it is not in progress, or its checkpoint moves",
    )


def _fresh(connection: Connection, definition: SourceDefinition, freshness: Freshness) -> Verdict:
    proof = last_proof(connection, definition.id)
    severity = dg.AssetCheckSeverity.WARN
    allowed = f"freshness.at_most_hours of {definition.id} is {freshness.at_most_hours}"
    remedy = (
        f"What to do: see that its export is there ({definition.place}); then backfill run {definition.id}"
    )
    if proof is None:
        return Verdict(
            False,
            f"{definition.id} was never posted in full and then found equal to the ledger, and {allowed}. {remedy}",
            severity,
        )
    hours = proof.age / timedelta(hours=1)
    at = proof.at.astimezone(UTC)
    metadata: Metadata = {"proven_at": dg.MetadataValue.timestamp(at), "age_hours": round(hours, 2)}
    if hours <= freshness.at_most_hours:
        return Verdict(
            True, f"proven equal to the ledger at {at:%Y-%m-%d %H:%M} UTC, and {allowed}", severity, metadata
        )
    return Verdict(
        False,
        f"{definition.id} was last proven equal to the ledger at {at:%Y-%m-%d %H:%M} UTC, {hours:,.1f} hours ago, and"
        f" {allowed}. {remedy}",
        severity,
        metadata,
    )


def _outbox(connection: Connection, source_id: str, bank_id: str) -> Verdict:
    lag = outbox_lag(connection, bank_id)
    if not lag.rows:
        return could_not_look(
            f"the ledger keeps no outbox for {bank_id} yet. Take a day of {source_id} first"
        )
    late = sum(one.rows for one in lag.late)
    sample = table(
        [
            {"kind": one.kind, "status": one.status, "rows": one.rows, "oldest": one.oldest_at}
            for one in lag.rows
            if one.rows
        ]
    )
    metadata: Metadata = {
        "waiting": sum(one.rows for one in lag.rows) - lag.dead,
        "waiting_too_long": late,
        "given_up": lag.dead,
        **({"sample": sample} if sample else {}),
    }
    if lag.dead:
        return Verdict(
            False,
            f"{counted(lag.dead, 'row')} of the outbox of {bank_id} {are(lag.dead)} given up. What to do: backfill"
            f" outbox show --bank {source_id} --status DEAD says why, backfill outbox retry --bank {source_id} puts"
            " them back",
            metadata=metadata,
        )
    warning = dg.AssetCheckSeverity.WARN
    if late:
        return Verdict(
            False,
            f"{counted(late, 'row')} for {bank_id}, the oldest of which waits for more than an hour. What to do: see"
            f" that the sensor outbox is on and the bank answers (backfill outbox status --bank {source_id}); at once:"
            f" backfill outbox dispatch --bank {source_id}",
            warning,
            metadata,
        )
    return Verdict(True, f"nothing waits for more than an hour to be told to {bank_id}", warning, metadata)
