"""The statements that compare stated balances with the ledger's, from the first temporary table to the report.

Belongs here: SQL, in the order in which it is run.
Does not: running it (`running_balances.py`).
"""

from __future__ import annotations

from typing import Final

# `position` is a row's place in the statement; movements without one are not of this source.
TABLES: Final = """
CREATE TEMP TABLE backfill_stated (
    source_row bigint, source_line bigint, position bigint, account_id text COLLATE "C", balance numeric,
    balance_scale smallint, side text) ON COMMIT DROP;
CREATE TEMP TABLE backfill_unposted (
    source_row bigint, source_line bigint, position bigint, what text DEFAULT 'filtered', detail text) ON COMMIT DROP;
CREATE TEMP TABLE backfill_found (
    entry_id bigint, source_row bigint, position bigint, has_it boolean) ON COMMIT DROP;
"""

ACCOUNTS: Final = """
CREATE TEMP TABLE backfill_stated_accounts ON COMMIT DROP AS
SELECT row_number() OVER () AS number, a.id, a.normal_side
FROM bank_accounts a WHERE a.id IN (SELECT account_id FROM backfill_stated);
ANALYZE backfill_stated;
ANALYZE backfill_stated_accounts;
"""

# Rows that moved nothing, and why: rejects as they stand, beside what the definition left out.
UNPOSTED: Final = """
INSERT INTO backfill_unposted
SELECT x.source_row, x.source_line,
       p.byte_offset / %(stride)s::bigint * %(file_rows)s::bigint + %(sign)s::bigint * x.source_row,
       CASE x.state WHEN 'open' THEN 'rejected' ELSE 'filtered' END,
       CASE x.state WHEN 'open' THEN x.code ELSE 'after its repair' END
FROM backfill_rejects_now x JOIN backfill_partitions p ON p.id = x.partition_id
WHERE p.registration_id = %(registration)s AND x.state IN ('open', 'filtered')
"""

OWN_BATCHES: Final = """
CREATE TEMP TABLE backfill_own_batches ON COMMIT DROP AS
SELECT b.id, p.byte_offset / %(stride)s::bigint * %(file_rows)s::bigint AS file_position
FROM backfill_batches b JOIN backfill_partitions p ON p.id = b.partition_id
WHERE p.registration_id = %(registration)s
"""

ANY_DUPLICATES: Final = """
SELECT EXISTS (SELECT FROM backfill_batches b JOIN backfill_partitions p ON p.id = b.partition_id
               WHERE p.registration_id = %(registration)s AND b.duplicates > 0)
"""

# Rows whose entry was in the ledger already. Of rows with one and the same entry, the first in the statement has it.
FOUND: Final = """
CREATE TEMP TABLE backfill_said ON COMMIT DROP AS
SELECT s.source_row,
       p.byte_offset / %(stride)s::bigint * %(file_rows)s::bigint + %(sign)s::bigint * s.source_row AS position,
       s.ledger_id, s.reference_id
FROM backfill_source_data s JOIN backfill_partitions p ON p.id = s.partition_id
WHERE p.registration_id = %(registration)s
  AND p.id IN (SELECT partition_id FROM backfill_batches WHERE duplicates > 0);
ANALYZE backfill_said;
INSERT INTO backfill_found
SELECT e.id, s.source_row, s.position,
       o.id IS NULL AND row_number() OVER (PARTITION BY e.id ORDER BY s.position) = 1
FROM backfill_said s
JOIN ledger_entries e ON e.ledger_id = s.ledger_id AND e.reference_id = s.reference_id
LEFT JOIN backfill_own_batches o ON o.id = e.batch_id
WHERE (o.id IS NULL OR e.source_row <> s.source_row)
  AND NOT EXISTS (SELECT FROM backfill_unposted u WHERE u.source_row = s.source_row);
ANALYZE backfill_found;
INSERT INTO backfill_unposted
SELECT f.source_row, (SELECT min(s.source_line) FROM backfill_stated s WHERE s.source_row = f.source_row),
       f.position, 'duplicate', NULL
FROM backfill_found f WHERE NOT f.has_it
"""

# What moves an account with a stated balance. What is not of this source counts by its time. An entry that was reversed
# and the one that reverses it move nothing between them.
MOVEMENTS: Final = """
CREATE TEMP TABLE backfill_movements ON COMMIT DROP AS
WITH leg AS (
    SELECT e.id, 'debit' AS side, a.number, a.normal_side, e.amount, e.timestamp_utc, e.batch_id, e.source_row
    FROM ledger_entries e JOIN backfill_stated_accounts a ON a.id = e.debit_account_id
    WHERE NOT EXISTS (SELECT FROM ledger_reversals r WHERE r.entry_id = e.id)
      AND NOT EXISTS (SELECT FROM ledger_reversals r WHERE r.reversal_entry_id = e.id)
    UNION ALL
    SELECT e.id, 'credit', a.number, a.normal_side, e.amount, e.timestamp_utc, e.batch_id, e.source_row
    FROM ledger_entries e JOIN backfill_stated_accounts a ON a.id = e.credit_account_id
    WHERE NOT EXISTS (SELECT FROM ledger_reversals r WHERE r.entry_id = e.id)
      AND NOT EXISTS (SELECT FROM ledger_reversals r WHERE r.reversal_entry_id = e.id)
)
SELECT l.number AS account, l.timestamp_utc AS at,
       CASE WHEN o.id IS NULL THEN f.position
            ELSE o.file_position + %(sign)s::bigint * l.source_row END AS position,
       CASE WHEN l.side = l.normal_side THEN coalesce(c.amount, l.amount)
            ELSE -coalesce(c.amount, l.amount) END AS movement
FROM leg l
LEFT JOIN backfill_own_batches o ON o.id = l.batch_id
LEFT JOIN backfill_found f ON f.entry_id = l.id AND f.has_it
LEFT JOIN ledger_entry_conversions c ON c.entry_id = l.id AND c.side = l.side;
ANALYZE backfill_movements;
CREATE TEMP TABLE backfill_others ON COMMIT DROP AS
WITH own AS (
    SELECT account, min(at) AS first, max(at) AS last FROM backfill_movements WHERE position IS NOT NULL GROUP BY 1
)
SELECT m.account, sum(m.movement) FILTER (WHERE m.at <= coalesce(o.first, 'infinity')) AS before,
       coalesce(bool_or(m.at > o.first AND m.at <= o.last), false) AS mixed
FROM backfill_movements m LEFT JOIN own o USING (account)
WHERE m.position IS NULL GROUP BY 1
"""

# Both sides in the order of the statement: what moved an account, and then what is stated of it.
EVENTS: Final = """
CREATE TEMP VIEW backfill_events AS
SELECT account, position, 0 AS kind, movement, at, NULL::bigint AS source_row, NULL::bigint AS source_line,
       NULL::numeric AS stated
FROM backfill_movements WHERE position IS NOT NULL
UNION ALL
SELECT a.number, s.position, 1, 0, NULL, s.source_row, s.source_line,
       round(s.balance, s.balance_scale) * CASE WHEN s.side <> a.normal_side THEN -1 ELSE 1 END
FROM backfill_stated s JOIN backfill_stated_accounts a ON a.id = s.account_id
"""

# Most often all other entries on the accounts come before the statement: then they are one movement before all others.
BALANCES: Final = """
CREATE TEMP VIEW backfill_running_balances AS
WITH event AS (
    SELECT account, position, kind, movement, source_row, source_line, stated FROM backfill_events
    UNION ALL
    SELECT account, (-9223372036854775808)::bigint, 0, coalesce(before, 0), NULL, NULL, NULL FROM backfill_others
), running AS (
    SELECT *, sum(movement) OVER (PARTITION BY account ORDER BY position, kind ROWS UNBOUNDED PRECEDING) AS ledger
    FROM event
)
SELECT account, position, source_row, source_line, stated, ledger FROM running WHERE kind = 1
"""

# When they do not, each counts from its time on: `until` is the latest that the statement has come to at a row.
BALANCES_BY_TIME: Final = """
CREATE TEMP TABLE backfill_running ON COMMIT DROP AS
WITH running AS (
    SELECT *, sum(movement) OVER so_far AS moved, max(at) OVER so_far AS latest
    FROM backfill_events
    WINDOW so_far AS (PARTITION BY account ORDER BY position, kind ROWS UNBOUNDED PRECEDING)
), beginning AS (
    SELECT DISTINCT ON (account) account, at FROM backfill_movements WHERE position IS NOT NULL
    ORDER BY account, position
)
SELECT r.account, r.position, r.source_row, r.source_line, r.stated, r.moved,
       coalesce(r.latest, b.at, 'infinity') AS until
FROM running r LEFT JOIN beginning b USING (account)
WHERE r.kind = 1;
ANALYZE backfill_running;
CREATE TEMP VIEW backfill_running_balances AS
WITH event AS (
    SELECT account, at, 0 AS kind, movement FROM backfill_movements WHERE position IS NULL
    UNION ALL
    SELECT DISTINCT account, until, 1, 0::numeric FROM backfill_running
), other AS (
    SELECT account, at, kind,
           sum(movement) OVER (PARTITION BY account ORDER BY at, kind ROWS UNBOUNDED PRECEDING) AS moved
    FROM event
)
SELECT r.account, r.position, r.source_row, r.source_line, r.stated, r.moved + o.moved AS ledger
FROM backfill_running r
JOIN other o ON o.account = r.account AND o.at = r.until AND o.kind = 1
"""

COMPARED: Final = """
CREATE TEMP TABLE backfill_compared ON COMMIT DROP AS
SELECT account, position, source_row, source_line, stated, ledger, stated - ledger AS difference,
       lag(stated - ledger) OVER statement AS difference_before, lag(position) OVER statement AS position_before,
       lead(position) OVER statement IS NULL AS is_last
FROM backfill_running_balances
WINDOW statement AS (PARTITION BY account ORDER BY position)
"""

TOTALS: Final = """
SELECT count(*), count(*) FILTER (WHERE difference <> 0), count(*) FILTER (WHERE is_last),
       count(*) FILTER (WHERE is_last AND difference <> 0),
       count(*) FILTER (WHERE difference <> coalesce(difference_before, 0)),
       min(difference) FILTER (WHERE difference <> 0), max(difference) FILTER (WHERE difference <> 0),
       (SELECT difference FROM backfill_compared ORDER BY position DESC LIMIT 1),
       (SELECT count(*) FROM backfill_stated)
FROM backfill_compared
"""

# Accounts that differ at their last row, and the latest time that the source's own entries have on them.
ENDINGS: Final = """
SELECT a.id, c.source_row, c.source_line, c.stated, c.ledger,
       (SELECT max(m.at) FROM backfill_movements m WHERE m.account = c.account AND m.position IS NOT NULL)
FROM backfill_compared c JOIN backfill_stated_accounts a ON a.number = c.account
WHERE c.is_last AND c.difference <> 0
ORDER BY a.id LIMIT %(limit)s
"""

# Of the rows since the one before, the first that may be to blame: the row itself, one that states no balance of
# another account, one that does.
STEPS: Final = """
SELECT d.source_row, d.source_line, a.id, d.stated * f.factor, d.ledger * f.factor, d.difference * f.factor,
       d.position_before IS NULL, u.what, u.detail, u.source_row, u.source_line, coalesce(u.others, 0)
FROM (SELECT * FROM backfill_compared WHERE difference <> coalesce(difference_before, 0)
      ORDER BY position, account LIMIT %(limit)s) d
JOIN backfill_stated_accounts a ON a.number = d.account
CROSS JOIN LATERAL (
    SELECT CASE WHEN s.side <> a.normal_side THEN -1 ELSE 1 END AS factor
    FROM backfill_stated s WHERE s.source_row = d.source_row AND s.account_id = a.id LIMIT 1
) f
LEFT JOIN LATERAL (
    SELECT x.what, x.detail, x.source_row, x.source_line, count(*) OVER () - 1 AS others
    FROM backfill_unposted x
    WHERE x.position > coalesce(d.position_before, %(lowest)s) AND x.position <= d.position
    ORDER BY x.source_row = d.source_row DESC,
             EXISTS (SELECT FROM backfill_stated s WHERE s.source_row = x.source_row AND s.account_id <> a.id),
             x.position DESC
    LIMIT 1
) u ON true
ORDER BY d.position, d.account
"""
