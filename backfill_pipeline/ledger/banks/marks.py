"""Which ledgers a bank keeps too.

Belongs here: marking a ledger as kept with a bank, and that each has only one of the other.
Does not: what banks are told then (the trigger on `ledger_entries`, `outbox.py`).
"""

from __future__ import annotations

from datetime import datetime

from backfill_pipeline.errors import LedgerError
from backfill_pipeline.ledger.connection import Connection, ledger_errors


def mark_ledger(
    connection: Connection, ledger_id: str, bank_id: str, *, send_entries: bool, since: datetime
) -> int:
    """Marks a ledger as kept with a bank; returns how many entries were there before and are noted for the bank now.

    Args:
        connection: to the ledger.
        ledger_id: ours.
        bank_id: of the bank.
        send_entries: whether the bank is sent entries that were posted here first.
        since: when both began to keep it. Of what was posted here before the mark, nothing older is sent.

    Raises:
        LedgerError: it is kept with another bank, or the bank keeps another ledger.
    """
    with ledger_errors("mark a ledger as kept with a bank in"):
        marked = connection.execute(
            "SELECT ledger_id, bank_id, send_entries FROM dual_ledgers WHERE ledger_id = %s OR bank_id = %s",
            [ledger_id, bank_id],
        ).fetchall()
        if marked == [(ledger_id, bank_id, send_entries)]:  # marking again looks at every entry
            return 0
        for other_ledger, other_bank, _ in marked:
            if (other_ledger, other_bank) != (ledger_id, bank_id):
                raise LedgerError(
                    f"ledger {other_ledger} is kept with bank {other_bank} already, so ledger {ledger_id} cannot be"
                    f" kept with bank {bank_id}: check fields.ledger_id and scb.bank_id of the definitions"
                )
        row = connection.execute(
            "SELECT mark_dual_ledger(%s, %s, %s, %s)", [ledger_id, bank_id, send_entries, since]
        ).fetchone()
    assert row is not None
    return int(row[0])
