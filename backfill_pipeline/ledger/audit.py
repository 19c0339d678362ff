"""The strategy's audit before a backfill (§1.1) and check of the schema (§1.2).

Belongs here: read-only checks with a plain outcome.
Does not: fixing anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from backfill_pipeline.ledger import constraints
from backfill_pipeline.ledger.connection import Connection, ledger_errors


@dataclass(frozen=True, slots=True)
class Audit:
    """Findings. A healthy ledger has no duplicate references, no inconsistent balances and nothing missing.

    Attributes:
        missing: objects of the schema that are not there, by name.
    """

    entries: int
    earliest: datetime | None
    latest: datetime | None
    accounts: int
    inconsistent_balances: int
    inconsistent_sample: tuple[constraints.Offender, ...]
    duplicate_references: int
    missing: tuple[str, ...]
    constraints: str

    @property
    def clean(self) -> bool:
        """Whether nothing stands against a backfill. Inconsistent balances do not: the constraint step reports them."""
        return not (self.duplicate_references or self.missing)


def audit(connection: Connection) -> Audit:
    """Runs §1.1 and §1.2."""
    with ledger_errors("audit"):
        entries = connection.execute(
            "SELECT count(*), min(timestamp_utc), max(timestamp_utc) FROM ledger_entries"
        ).fetchone()
        accounts = connection.execute("SELECT count(*) FROM bank_accounts").fetchone()
        duplicates = connection.execute(
            "SELECT count(*) FROM"
            " (SELECT 1 FROM ledger_entries GROUP BY ledger_id, reference_id HAVING count(*) > 1) AS d"
        ).fetchone()
        present = connection.execute(
            # From the catalogue: information_schema hides the constraints of a table from whoever may only read it.
            "SELECT EXISTS (SELECT 1 FROM pg_constraint WHERE conrelid = 'ledger_entries'::regclass"
            "               AND contype = 'u' AND conname LIKE '%reference%'),"
            "       to_regclass('dual_ledger_outbox') IS NOT NULL,"
            "       EXISTS (SELECT 1 FROM pg_proc"
            "               WHERE proname = 'post_ledger_entry' AND pg_function_is_visible(oid)),"
            "       (SELECT count(*) FROM pg_trigger"
            "        WHERE tgrelid = 'ledger_entries'::regclass AND tgenabled IN ('O', 'A')"
            "        AND tgname IN ('ledger_entries_apply_balances_on_insert',"
            "                       'ledger_entries_apply_balances_on_delete', 'ledger_entries_append_only')) = 3",
            prepare=False,
        ).fetchone()
    assert entries is not None
    assert accounts is not None
    assert duplicates is not None
    assert present is not None
    offending = constraints.offenders(connection)
    names = (
        "idempotency constraint on ledger_entries (ledger_id, reference_id)",
        "table dual_ledger_outbox",
        "function post_ledger_entry",
        "enabled triggers on ledger_entries",
    )
    return Audit(
        entries=entries[0],
        earliest=entries[1],
        latest=entries[2],
        accounts=accounts[0],
        inconsistent_balances=offending.offending,
        inconsistent_sample=offending.sample,
        duplicate_references=duplicates[0],
        missing=tuple(name for name, there in zip(names, present, strict=True) if not there),
        constraints=constraints.state(connection),
    )
