"""What is said of all sources at once, held against the queries of one source."""

from __future__ import annotations

from collections import Counter

from backfill_pipeline.ledger import checkpoints, reconciliation, registrations, rejects
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.monitoring.moment import one_moment
from backfill_pipeline.ledger.monitoring.standings import standings
from backfill_pipeline.ledger.rolled_back import all_open_rollbacks, rolled_back_partitions
from backfill_pipeline.ledger.status import partition_outcomes

_COUNTS = ("read", "posted", "duplicates", "conflicts", "rejected", "filtered")


def assert_standings_as_asked_one_by_one(connection: Connection) -> None:
    """What `backfill status` says of all sources at once is what the queries of one source say."""
    with one_moment(connection):
        found, _ = standings(connection)
        rollbacks = all_open_rollbacks(connection)
        assert [one.source_id for one in found] == registrations.source_ids(connection)
        for one in found:
            registration = registrations.load(connection, one.source_id)
            assert registration is not None
            outcomes = partition_outcomes(connection, registration.id)
            posted = [outcome for outcome in outcomes if outcome.status == "posted"]
            sums = {name: sum(getattr(outcome, name) for outcome in posted) for name in _COUNTS}
            checkpoint = checkpoints.load(connection, one.source_id)
            assert checkpoint is not None
            verdict = reconciliation.latest(connection, registration.id)
            assert (one.revision, one.file_name, one.rows) == (
                registration.revision,
                registration.file_name,
                registration.row_count,
            )
            assert (one.status, one.processed, one.last_checkpoint_at, one.error) == (
                checkpoint.status,
                checkpoint.processed,
                checkpoint.last_checkpoint_at,
                checkpoint.error_message,
            )
            assert one.verdict == (verdict.verdict if verdict else None)
            assert {state: counts.partitions for state, counts in one.states.items()} == Counter(
                outcome.status for outcome in outcomes
            )
            assert list(one.states) == list(dict.fromkeys(outcome.status for outcome in outcomes))
            if posted:
                assert {name: getattr(one.states["posted"], name) for name in sums} == sums
            assert one.failures == {
                outcome.partition_key: outcome.error for outcome in outcomes if outcome.status == "failed"
            }
            assert list(one.rejects.items()) == list(
                rejects.count_by_code(connection, registration.id).items()
            )
            rolled_back = {outcome.partition_key for outcome in outcomes if outcome.status == "rolled back"}
            found_back = rolled_back_partitions(connection, one.source_id)
            assert {part.partition_key for part in found_back} == rolled_back
            assert sum(group.partitions for group in rollbacks.get(one.source_id, ())) == len(rolled_back)
