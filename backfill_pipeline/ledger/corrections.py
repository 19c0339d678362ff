"""Corrections: proposals as the ledger holds them, what people decide about them, what corrected references stand for.

Belongs here: calling the procedures of migration 0020, which do everything, and reading its tables.
Does not: what is wrong and what the source has instead (`stages/corrections.py`), the audit's findings
(`correction_findings.py`).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Final, Literal

import pyarrow as pa
from psycopg import sql

from backfill_pipeline.ledger.connection import Connection, ledger_errors
from backfill_pipeline.ledger.read_back import LEDGER_SCHEMA

Status = Literal["proposed", "approved", "rejected", "stale", "applied", "undone"]

OPEN: Final[tuple[Status, ...]] = ("proposed", "approved")
"""Statuses of corrections that somebody has yet to decide about or to apply."""

CORRECTED_SCHEMA: Final = pa.schema(
    [
        *LEDGER_SCHEMA,
        pa.field("correction_id", pa.int64()),
        pa.field("source_id", pa.string()),
        pa.field("partition_key", pa.string()),
        pa.field("is_there", pa.bool_()),
        pa.field("holds", pa.bool_()),
    ]
)
"""What corrected references stand for. Where `is_there` is false, for no entry: only its ledger and reference are set.

`holds` is false where a correction does not fit its reference any more, because entries were taken back since.
"""


@dataclass(frozen=True, slots=True)
class Correction:
    """A proposal and how far it is.

    Attributes:
        kind: missing, amount, accounts, content, unexpected, left_over, posted_twice, stated_balance, below_zero, or
            balance (of the account, computed anew from its entries).
        ledger_id: None for a balance, which has the entries of all ledgers.
        source_id: the source that the ledger was compared with; None when the audit found it.
        reference_id: the reference that it is about; None for one about the balance of `account_id`.
        reason: what is wrong, in a sentence.
        closed_by: who applied or rejected it, or found that the ledger changed since.
    """

    id: int
    kind: str
    status: Status
    source_id: str | None
    partition_key: str | None
    source_row: int | None
    ledger_id: str | None
    reference_id: str | None
    account_id: str | None
    reason: str
    proposed_by: str
    proposed_at: datetime
    approved_by: str | None
    approved_at: datetime | None
    closed_by: str | None
    closed_at: datetime | None
    closing_reason: str | None

    @property
    def subject(self) -> str:
        """What it is about: a reference, or an account."""
        return self.reference_id or self.account_id or ""


@dataclass(frozen=True, slots=True)
class ProposedEntry:
    """An entry of a correction. Its `timestamp_utc` is wanted; of a closed period, the next open one is taken.

    Attributes:
        posted_entry_id, posted_at_utc: of the entry that it became; None before it is applied.
    """

    number: int
    ledger_id: str
    debit_account_id: str
    credit_account_id: str
    amount: Decimal
    currency_code: str
    transaction_type: str
    reference_id: str
    fx_rate: Decimal | None
    metadata: Mapping[str, object] | None
    timestamp_utc: datetime
    posted_entry_id: int | None
    posted_at_utc: datetime | None


@dataclass(frozen=True, slots=True)
class CorrectionDetail:
    """All of a correction.

    Attributes:
        evidence: what was found, and where.
        state: what it was made from; `state_hash` is its SHA-256.
        changed: what of that is another one now; None while nothing is, or it is closed.
    """

    correction: Correction
    entries: Sequence[ProposedEntry]
    evidence: Mapping[str, object]
    state: Mapping[str, object]
    state_hash: str
    changed: str | None


@dataclass(frozen=True, slots=True)
class Proposal:
    """What became of a finding: proposed, open already, skipped (no entry can correct it), or nothing (it is right)."""

    finding: Mapping[str, object]
    correction_id: int | None
    outcome: str
    detail: str | None


@dataclass(frozen=True, slots=True)
class Decision:
    """What became of approving, rejecting or applying one correction.

    Attributes:
        outcome: approved, rejected, applied (or one of them already), stale, same person, refused, not approved,
            closed or unknown.
        detail: what changed, why the ledger refused it, who proposed it, or the status that it was closed with.
        proposed_anew: the correction that takes the place of a stale one.
        entries: references of the entries that were posted.
    """

    correction_id: int
    outcome: str
    detail: str | None = None
    proposed_anew: int | None = None
    entries: tuple[str, ...] = ()

    @property
    def done(self) -> bool:
        """Whether what was asked for is so now."""
        return self.outcome.split()[0] in ("approved", "rejected", "applied")


_COLUMNS: Final = sql.SQL(
    "c.id, c.kind, c.status, c.source_id, c.partition_key, c.source_row, c.ledger_id, c.reference_id, c.account_id,"
    " c.reason, c.proposed_by, c.proposed_at, c.approved_by, c.approved_at, c.closed_by, c.closed_at, c.closing_reason"
)


def propose(
    connection: Connection, findings: Sequence[Mapping[str, object]], *, actor: str, reason: str | None
) -> list[Proposal]:
    """Proposes what corrects the findings, in one transaction, each from the state in which the ledger is now.

    Args:
        connection: to the ledger, autocommit.
        findings: as migration 0020 describes them; amounts as texts.
        actor: who proposes.
        reason: why, for the audit log.
    """
    if not findings:
        return []
    with ledger_errors("propose corrections of"):
        rows = connection.execute(
            "SELECT finding_number, correction_id, outcome, detail FROM propose_corrections(%s::jsonb, %s, %s)"
            " ORDER BY finding_number",
            [json.dumps([dict(finding) for finding in findings]), actor, reason],
        ).fetchall()
    return [Proposal(findings[number - 1], *others) for number, *others in rows]


def corrections(
    connection: Connection,
    *,
    statuses: Sequence[Status] | None = None,
    source_id: str | None = None,
    limit: int = 100,
) -> tuple[int, list[Correction]]:
    """How many corrections there are, and the latest of them, newest first.

    Args:
        connection: to the ledger.
        statuses: only these; None for all.
        source_id: only those that this source was compared for.
        limit: at most so many are read.
    """
    with ledger_errors("read corrections from"):
        rows = connection.execute(
            sql.SQL(
                "SELECT count(*) OVER (), {} FROM ledger_corrections c"
                " WHERE (c.status = ANY(%(statuses)s) OR %(statuses)s::text[] IS NULL)"
                " AND (c.source_id = %(source)s OR %(source)s::text IS NULL) ORDER BY c.id DESC LIMIT %(limit)s"
            ).format(_COLUMNS),
            {"statuses": None if statuses is None else list(statuses), "source": source_id, "limit": limit},
        ).fetchall()
    return (rows[0][0] if rows else 0), [Correction(*row[1:]) for row in rows]


def load(connection: Connection, correction_id: int) -> CorrectionDetail | None:
    """One correction with its entries and its evidence, or None."""
    with ledger_errors("read a correction from"):
        row = connection.execute(
            sql.SQL(
                "SELECT c.finding, c.state, c.state_hash,"
                " CASE WHEN c.status IN ('proposed', 'approved') THEN correction_change(c) END, {}"
                " FROM ledger_corrections c WHERE c.id = %s"
            ).format(_COLUMNS),
            [correction_id],
        ).fetchone()
        entries = connection.execute(
            "SELECT x.number, x.ledger_id, x.debit_account_id, x.credit_account_id, x.amount, x.currency_code,"
            " x.transaction_type, x.reference_id, x.fx_rate, x.metadata, x.timestamp_utc, x.entry_id, e.timestamp_utc"
            " FROM ledger_correction_entries x LEFT JOIN ledger_entries e ON e.id = x.entry_id"
            " WHERE x.correction_id = %s ORDER BY x.number",
            [correction_id],
        ).fetchall()
    if row is None:
        return None
    finding, state, state_hash, changed, *others = row
    return CorrectionDetail(
        Correction(*others), [ProposedEntry(*entry) for entry in entries], finding, state, state_hash, changed
    )


def approve(connection: Connection, correction_id: int, *, actor: str, reason: str | None) -> Decision:
    """Approves a proposal: by another person than who proposed it, while four eyes are on."""
    return _decide(connection, "approve_correction", correction_id, actor, reason)


def reject(connection: Connection, correction_id: int, *, actor: str, reason: str | None) -> Decision:
    """Rejects a proposal that is not applied; whoever proposed it may withdraw it so."""
    return _decide(connection, "reject_correction", correction_id, actor, reason)


def apply(connection: Connection, correction_id: int, *, actor: str, reason: str | None) -> Decision:
    """Posts the entries of an approved correction, all or none; a second time is no more than said to be done."""
    return _decide(connection, "apply_correction", correction_id, actor, reason)


def _decide(
    connection: Connection, procedure: str, correction_id: int, actor: str, reason: str | None
) -> Decision:
    with ledger_errors("decide about a correction of"):
        row = connection.execute(f"SELECT {procedure}(%s, %s, %s)", [correction_id, actor, reason]).fetchone()
    assert row is not None
    said: dict[str, object] = row[0]
    entries = said.get("entries")
    anew = said.get("proposed_anew")
    detail = said.get("changed") or said.get("why") or said.get("proposed_by")
    return Decision(
        correction_id,
        str(said["outcome"]),
        None if detail is None else str(detail),
        anew if isinstance(anew, int) else None,
        tuple(str(entry["reference_id"]) for entry in entries) if isinstance(entries, list) else (),
    )


def corrected_references(connection: Connection) -> pa.Table:
    """What every corrected reference of the ledger stands for (CORRECTED_SCHEMA).

    What was posted twice is not among them: its entry is what its source says, and the other one stands for it.
    """
    with ledger_errors("read corrections from"):
        any_applied = connection.execute(
            "SELECT EXISTS (SELECT FROM ledger_corrections WHERE status = 'applied')"
        ).fetchone()
        if any_applied == (False,):  # nearly always
            return CORRECTED_SCHEMA.empty_table()
        rows = connection.execute(
            "SELECT c.source_row, c.ledger_id, t.debit_account_id, t.credit_account_id, t.amount, t.currency_code,"
            " t.asset_type, t.transaction_type, c.reference_id, t.timestamp_utc AT TIME ZONE 'UTC', t.fx_rate,"
            " t.metadata::text, c.correction_id, c.source_id, c.partition_key, c.target IS NOT NULL, c.holds"
            " FROM ledger_corrected_references c"
            " LEFT JOIN LATERAL jsonb_populate_record(NULL::ledger_entries, c.target) t ON c.target IS NOT NULL"
            " WHERE c.kind <> 'posted_twice' OR NOT c.holds"
        ).fetchall()
    columns = zip(*rows, strict=True) if rows else [()] * len(CORRECTED_SCHEMA)
    return pa.table(
        [pa.array(list(values), field.type) for values, field in zip(columns, CORRECTED_SCHEMA, strict=True)],
        schema=CORRECTED_SCHEMA,
    )
