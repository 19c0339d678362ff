"""Corrections as metadata: proposals, decisions and what is true afterwards, as tables.

Belongs here: turning the core's reports into Dagster's metadata values and sentences.
Does not: the asset (`assets/corrections.py`), the jobs (`operations/corrections.py`).
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence

from backfill_pipeline.ledger import corrections
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.corrections import OPEN, Decision
from backfill_pipeline.orchestration.metadata import Metadata, table
from backfill_pipeline.stages.corrections import ProposalReport, Verification
from backfill_pipeline.wording import counted


def proposals_metadata(connection: Connection) -> Metadata:
    """All corrections by status, and the open ones with what they would post, newest first."""
    open_count, latest = corrections.corrections(connection, statuses=OPEN, limit=20)
    total, recent = corrections.corrections(connection, limit=20)
    rows = []
    for one in latest:
        detail = corrections.load(connection, one.id)
        assert detail is not None
        rows.append(
            {
                "id": one.id,
                "status": one.status,
                "kind": one.kind,
                "source": one.source_id or "audit",
                "about": f"{one.ledger_id} {one.subject}",
                "why": one.reason,
                "would_post": "; ".join(
                    f"{entry.debit_account_id} ← {entry.amount:f} {entry.currency_code} ← {entry.credit_account_id}"
                    for entry in detail.entries
                ),
                "evidence": json.dumps(
                    dict(detail.evidence), ensure_ascii=False, default=str, sort_keys=True
                ),
                "changed_since": detail.changed,
                "proposed_by": one.proposed_by,
                "approved_by": one.approved_by,
            }
        )
    proposals = table(rows)
    closed = table(
        [
            {
                "id": one.id,
                "status": one.status,
                "kind": one.kind,
                "about": f"{one.ledger_id} {one.subject}",
                "closed_by": one.closed_by,
                "closed_at": one.closed_at,
                "closing_reason": one.closing_reason,
            }
            for one in recent
            if one.status not in OPEN
        ]
    )
    return {
        "open": open_count,
        "corrections": total,
        **({"proposals": proposals} if proposals else {}),
        **({"latest_closed": closed} if closed else {}),
    }


def proposed_text(report: ProposalReport) -> str:
    """What came of looking for corrections, in a sentence."""
    about = report.source_id or "the ledger by itself"
    if report.clean:
        return f"nothing to correct in {about}"
    outcomes = Counter(one.outcome for one in report.proposals)
    said = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
    more = f"; {report.not_looked_at:,} more when these are applied" if report.not_looked_at else ""
    return f"{about}: {counted(report.findings, 'finding')}: {said or 'no entry can correct them'}{more}"


def proposed_metadata(report: ProposalReport) -> Metadata:
    """What was found, and what became of each finding."""
    found = table(
        [
            {
                "correction": one.correction_id,
                "outcome": one.outcome,
                "detail": one.detail,
                **{
                    name: one.finding.get(name)
                    for name in ("kind", "ledger_id", "reference_id", "account_id", "partition_key", "line")
                },
            }
            for one in report.proposals
        ]
    )
    return {
        "outcome": proposed_text(report),
        "findings": report.findings,
        "proposed": len(report.proposed),
        "skipped": len(report.skipped),
        **({"found": found} if found else {}),
        **({"not_by_entries": "; ".join(report.not_by_entries)} if report.not_by_entries else {}),
    }


def decided_metadata(decisions: Sequence[Decision]) -> Metadata:
    """What became of each decision."""
    rows = table(
        [
            {
                "correction": one.correction_id,
                "outcome": one.outcome,
                "detail": one.detail,
                "proposed_anew": one.proposed_anew,
                "entries": ", ".join(one.entries),
            }
            for one in decisions
        ]
    )
    return {
        "outcome": decided_text(decisions),
        "done": sum(one.done for one in decisions),
        "not_done": sum(not one.done for one in decisions),
        **({"decisions": rows} if rows else {}),
    }


def decided_text(decisions: Sequence[Decision]) -> str:
    """Decisions counted by outcome, and why the first that was not done was not."""
    if not decisions:
        return "nothing to do: no correction is approved"
    outcomes = Counter(one.outcome for one in decisions)
    text = ", ".join(f"{count:,} {outcome}" for outcome, count in outcomes.items())
    refused = next((one for one in decisions if not one.done), None)
    if refused is None:
        return text
    why = f" ({refused.detail})" if refused.detail else ""
    anew = "" if refused.proposed_anew is None else f"; proposed anew as {refused.proposed_anew}"
    return f"{text}; correction {refused.correction_id}: {refused.outcome}{why}{anew}"


def verified_metadata(found: Verification) -> Metadata:
    """What is true after corrections were applied."""
    sources = table(
        [
            {
                "source": one.source_id,
                "verdict": one.verdict,
                "entries_compared": one.entries_compared,
                "breaks": one.break_count,
            }
            for one in found.reports
        ]
    )
    return {
        "verified": "match" if found.matches else "break",
        "account_breaks": found.account_break_count,
        "posted_twice": found.posted_twice,
        **({"sources": sources} if sources else {}),
        **(
            {"not_compared": "; ".join(f"{name}: {why}" for name, why in found.not_compared.items())}
            if found.not_compared
            else {}
        ),
    }
