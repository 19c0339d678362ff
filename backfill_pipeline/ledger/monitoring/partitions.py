"""Partitions and rejects of what sources are now, as parts of larger queries.

Belongs here: SQL that several queries of this package begin with.
Does not: whole queries (`sources.py`, `standings.py`, `live.py`).
"""

from __future__ import annotations

from typing import Final

CURRENT: Final = """
    SELECT DISTINCT ON (r.source_id) r.id, r.source_id, split_part(r.source_id, '@', 1) AS source,
           nullif(split_part(r.source_id, '@', 2), '') AS day, r.source_type, r.revision, r.file_name, r.row_count
    FROM backfill_registrations r ORDER BY r.source_id, r.revision DESC
"""
"""The latest revision of each source, a day of a bank being one: `source` stands before the @, `day` behind it."""

# As the view backfill_partition_outcomes has it, which asks for each partition by itself: made in sets, two thousand of
# them take as long as twenty. Rows of a partition that is not posted yet are those that its batches decided. What is
# current is found first (hence MATERIALIZED), so that batches of earlier revisions are not summed up.
PARTS: Final = f"""
    mine AS MATERIALIZED (
        SELECT c.source, c.source_id, c.id AS registration_id, p.id, p.number, p.row_count, p.rejected_early,
               p.filtered, p.validated_at, p.posted_at, p.rolled_back_at, p.error
        FROM ({CURRENT}) AS c JOIN backfill_partitions p ON p.registration_id = c.id
    ), batch AS (
        SELECT x.partition_id, sum(x.posted) AS posted, sum(x.duplicates) AS duplicates,
               sum(x.conflicts) - sum(x.taken_conflicts) AS conflicts,
               sum(x.rejected) - sum(x.taken_rejected) AS rejected, sum(x.filtered) AS filtered,
               sum(x.read) FILTER (WHERE x.kind = 'entries') AS read, max(x.posted_at) AS last_posted_at
        FROM backfill_batches x JOIN mine ON mine.id = x.partition_id GROUP BY x.partition_id
    ), part AS (
        SELECT p.source, p.source_id, p.registration_id, p.id, p.number, p.row_count,
               coalesce(b.posted, 0) AS posted, coalesce(b.duplicates, 0) AS duplicates,
               coalesce(b.conflicts, 0) AS conflicts,
               coalesce(b.rejected, 0) + CASE WHEN p.posted_at IS NULL THEN 0 ELSE coalesce(p.rejected_early, 0) END
                   AS rejected,
               coalesce(b.filtered, 0) + CASE WHEN p.posted_at IS NULL THEN 0 ELSE coalesce(p.filtered, 0) END
                   AS filtered,
               CASE WHEN p.posted_at IS NOT NULL THEN 'posted'
                    WHEN p.error IS NOT NULL THEN 'failed'
                    WHEN p.rolled_back_at IS NOT NULL
                         AND (b.last_posted_at IS NULL OR b.last_posted_at < p.rolled_back_at) THEN 'rolled back'
                    WHEN b.read > 0 THEN 'posting'
                    WHEN p.validated_at IS NOT NULL THEN 'validated'
                    ELSE 'registered' END AS state
        FROM mine p LEFT JOIN batch b ON b.partition_id = p.id
    )
"""  # noqa: S608 - put together from constants of this module, as the next one
"""Common table expressions: `part` is a row for each partition of what is current."""

# As the view backfill_rejects_now has it: how a reject stands is its latest replay, and until there is one, itself.
OPEN_REJECTS: Final = f"""
    mine AS MATERIALIZED (
        SELECT p.id, c.source, c.day FROM ({CURRENT}) AS c JOIN backfill_partitions p ON p.registration_id = c.id
    ), rejected AS (
        SELECT mine.source, mine.day, CASE WHEN y.code IS NULL THEN x.stage ELSE y.stage END AS stage,
               coalesce(y.code, x.code) AS code
        FROM backfill_rejects x
        JOIN mine ON mine.id = x.partition_id
        LEFT JOIN (SELECT DISTINCT ON (partition_id, source_row) partition_id, source_row, stage, code, outcome
                   FROM backfill_replays ORDER BY partition_id, source_row, id DESC) AS y
            ON y.partition_id = x.partition_id AND y.source_row = x.source_row
        WHERE y.outcome IS NULL OR y.outcome NOT IN ('posted', 'duplicate', 'filtered')
    )
"""  # noqa: S608
"""A common table expression: `rejected` is a row for each row that is rejected now."""
