"""What `backfill corrections` does.

Belongs here: its text, JSON and exit codes.
Does not: finding and applying corrections (`stages/corrections.py`), the command line (`correction_commands.py`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Final, Literal, get_args

from backfill_pipeline.cli.banks import refuse_whole_banks
from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, remarks, state
from backfill_pipeline.cli.person import person
from backfill_pipeline.cli.session import Session, named_source, open_session
from backfill_pipeline.cli.tables import plain_table
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import corrections
from backfill_pipeline.ledger.corrections import Correction, CorrectionDetail, Decision, ProposedEntry
from backfill_pipeline.stages.corrections import (
    ProposalReport,
    Verification,
    apply_approved,
    propose_for_ledger,
    propose_for_source,
    verify,
)
from backfill_pipeline.stages.work import SourceWork, open_work
from backfill_pipeline.wording import are, counted

_SHOWN: Final = 20
# What the finding holds besides columns of its own.
_EVIDENCE: Final = {
    "file": "file",
    "line": "line",
    "kept_reference_id": "stays",
    "came_from": "came from",
    "kept_came_from": "the one that stays came from",
    "suspense_account_id": "suspense account",
    "stated_balance": "stated balance",
    "ledger_balance": "ledger's balance",
    "as_of": "as of",
    "drift": "stated balances",
}


def propose(
    name: str | None,
    suspense: Sequence[str],
    limit: int,
    by: str | None,
    reason: str | None,
    *,
    as_json: bool,
) -> ExitCode:
    """Proposes corrections for a source, or for the ledger by itself."""
    definition = None if name is None else named_source(name)
    if definition is not None:
        refuse_whole_banks(definition, "corrections propose")
    with open_session() as session:
        if definition is None:
            report = propose_for_ledger(
                session.connection, actor=person(by), reason=reason, suspense=suspense, limit=limit
            )
        else:
            session.registration(definition.id)
            work = open_work(definition, session.places)
            report = propose_for_source(work, actor=person(by), reason=reason, suspense=suspense, limit=limit)
        proposed = {one.correction_id for one in report.proposed}
        shown = _read(session, sorted(one for one in proposed if one is not None)[:_SHOWN])
    if as_json:
        print_json({**asdict(report), "proposed": len(report.proposed), "clean": report.clean})
    else:
        _print_proposals(report, shown)
    return ExitCode.CLEAN if report.clean else ExitCode.REJECTS_OR_REFUSED


def list_corrections(status: str, source: str | None, limit: int, *, as_json: bool) -> ExitCode:
    """Lists corrections, the latest first."""
    if status == "all":
        statuses = None
    elif status == "open":
        statuses = corrections.OPEN
    else:
        statuses = tuple(one for one in get_args(corrections.Status) if one == status)
    with open_session() as session:
        count, found = corrections.corrections(
            session.connection, statuses=statuses, source_id=source, limit=limit
        )
    if as_json:
        print_json({"count": count, "corrections": [asdict(one) for one in found]})
    elif not found:
        console.print("no corrections" if status == "all" else f"no {status} corrections")
    else:
        console.print(plain_table([_row(one) for one in found]))
        if count > len(found):
            console.print(f"{count - len(found):,} more: --limit shows them")
    return ExitCode.CLEAN


def show_correction(correction_id: int, *, as_json: bool) -> ExitCode:
    """Shows one correction."""
    with open_session() as session:
        detail = corrections.load(session.connection, correction_id)
    if detail is None:
        raise UsageError(_unknown(correction_id))
    if as_json:
        print_json(asdict(detail))
    else:
        _print_detail(detail)
    return ExitCode.CLEAN


def decide(
    what: Literal["approve", "reject"],
    ids: Sequence[int],
    by: str | None,
    reason: str | None,
    *,
    as_json: bool,
) -> ExitCode:
    """Approves or rejects corrections, each by itself."""
    procedure = corrections.approve if what == "approve" else corrections.reject
    with open_session() as session:
        decisions = [
            procedure(session.connection, one, actor=person(by), reason=reason) for one in dict.fromkeys(ids)
        ]
    if as_json:
        print_json({"corrections": [asdict(one) for one in decisions]})
    else:
        for one in decisions:
            console.print(_sentence(one), markup=False, soft_wrap=True)
    return _exit_code(decisions)


def apply(ids: Sequence[int] | None, by: str | None, reason: str | None, *, as_json: bool) -> ExitCode:
    """Applies approved corrections and verifies what they concern."""
    with open_session() as session:
        decisions = apply_approved(session.connection, ids, actor=person(by), reason=reason)
        applied = [one.correction_id for one in decisions if one.done]
        verification = _verify(session, applied) if applied else None
    if as_json:
        print_json(
            {
                "corrections": [asdict(one) for one in decisions],
                "verification": None if verification is None else _verification_as_json(verification),
            }
        )
    else:
        if not decisions:
            console.print("no correction is approved: nothing to apply")
        for one in decisions:
            console.print(_sentence(one), markup=False, soft_wrap=True)
        if verification is not None:
            _print_verification(verification)
    code = _exit_code(decisions)
    if verification is None or code is not ExitCode.CLEAN:
        return code
    if not verification.matches:
        return ExitCode.RECONCILIATION_BREAK
    return ExitCode.FAILED if verification.not_compared else ExitCode.CLEAN


def _verify(session: Session, applied: Sequence[int]) -> Verification:
    concerned = _read(session, applied)
    sources = sorted({one.source_id for one in concerned if one.source_id is not None})

    def opened(source_id: str) -> SourceWork:
        return open_work(named_source(source_id, register=False), session.places)

    return verify(
        session.connection, sources, opened, with_ledger=any(one.source_id is None for one in concerned)
    )


def _read(session: Session, ids: Sequence[int]) -> list[Correction]:
    details = [corrections.load(session.connection, one) for one in ids]
    return [one.correction for one in details if one is not None]


def _exit_code(decisions: Sequence[Decision]) -> ExitCode:
    outcomes = {one.outcome for one in decisions if not one.done}
    if "unknown" in outcomes:
        return ExitCode.USAGE
    if outcomes - {"same person", "not approved"}:
        return ExitCode.FAILED
    return ExitCode.REJECTS_OR_REFUSED if outcomes else ExitCode.CLEAN


def _sentence(one: Decision) -> str:
    """A decision in words, with what to do next."""
    number = f"correction {one.correction_id}"
    match one.outcome:
        case "unknown":
            return _unknown(one.correction_id)
        case "applied":
            return f"{number} is applied: {', '.join(one.entries) or 'the balance is what its entries say'}"
        case "same person":
            return f"{number} was proposed by {one.detail}: another person has to approve it"
        case "not approved":
            return f"{number} is not approved: backfill corrections approve {one.correction_id}"
        case "closed" if one.detail == "stale":
            return f"{number} was refused before, because the ledger changed since it was proposed"
        case "closed":
            return f"{number} is {one.detail} already"
        case "stale":
            anew = (
                f"it is proposed anew as correction {one.proposed_anew}"
                if one.proposed_anew
                else "propose again, if there is still something to correct"
            )
            return f"{number} is refused: the ledger changed since it was proposed ({one.detail}); {anew}"
        case "refused":
            return f"{number} is refused by the ledger, nothing of it is posted: {one.detail}"
    return f"{number} is {one.outcome}"


def _unknown(correction_id: int) -> str:
    return f"there is no correction {correction_id}: backfill corrections list --status all shows them"


def _row(one: Correction) -> dict[str, object]:
    return {
        "id": str(one.id),
        "status": one.status,
        "kind": one.kind.replace("_", " "),
        "source": one.source_id or "(audit)",
        "about": one.subject,
        "proposed_by": one.proposed_by,
        "reason": one.reason,
    }


def _print_proposals(report: ProposalReport, shown: Sequence[Correction]) -> None:
    compared = f"[bold]{report.source_id}[/bold]" if report.source_id else "[bold]ledger[/bold]"
    if report.clean:
        console.print(f"{compared}  nothing to correct")
        return
    new = sum(one.outcome == "proposed" for one in report.proposed)
    before = len(report.proposed) - new
    console.print(
        f"{compared}  {counted(report.findings, 'finding')}, {counted(new, 'correction')} proposed"
        + (f", {before:,} {are(before)} open already" if before else "")
    )
    if shown:
        console.print(plain_table([_row(one) for one in shown]))
        more = len(report.proposed) - len(shown)
        if more:
            console.print(f"  {more:,} more: backfill corrections list")
        console.print("  next: another person looks at them (backfill corrections show ID) and approves them")
    reasons = Counter(str(one.detail) for one in report.skipped)
    for detail, count in reasons.most_common(_SHOWN):
        subject = next(one.finding for one in report.skipped if str(one.detail) == detail)
        about = subject.get("reference_id") or subject.get("account_id")
        others = f" and {count - 1:,} more" if count > 1 else ""
        console.print(f"  no entry can correct {about}{others}: {detail}", markup=False, soft_wrap=True)
    for sentence in report.not_by_entries[:_SHOWN]:
        console.print(f"  {sentence}", markup=False, soft_wrap=True)
    if report.not_looked_at:
        console.print(
            f"  {counted(report.not_looked_at, 'finding')} beyond the limit: propose again after these"
        )


def _print_detail(detail: CorrectionDetail) -> None:
    one = detail.correction
    console.print(f"[bold]correction {one.id}[/bold]  {state(one.status)}  {one.kind.replace('_', ' ')}")
    facts = {
        "about": one.subject if one.ledger_id is None else f"{one.subject} in ledger {one.ledger_id}",
        "why": one.reason,
        "source": one.source_id,
        "partition": one.partition_key,
        **{label: detail.evidence.get(name) for name, label in _EVIDENCE.items()},
        "proposed": f"{one.proposed_at:%Y-%m-%d %H:%M:%S} UTC by {one.proposed_by}",
        "approved": one.approved_at and f"{one.approved_at:%Y-%m-%d %H:%M:%S} UTC by {one.approved_by}",
        "closed": one.closed_at
        and f"{one.closed_at:%Y-%m-%d %H:%M:%S} UTC by {one.closed_by}"
        + (f": {one.closing_reason}" if one.closing_reason else ""),
        "state": f"SHA-256 {detail.state_hash}",
    }
    for label, value in facts.items():
        if value is not None:
            console.print(f"  {label:<12}{value}", markup=False, soft_wrap=True)
    if detail.changed:
        console.print(
            f"  [yellow]the ledger changed since[/yellow] ({detail.changed}): it will be refused, and proposed anew"
        )
    if detail.entries:
        console.print("  entries:")
        console.print(plain_table([_entry_row(entry) for entry in detail.entries]))
    else:
        console.print("  no entries: the balance is computed anew")


def _entry_row(entry: ProposedEntry) -> dict[str, object]:
    return {
        "reference": entry.reference_id,
        "time": f"{entry.posted_at_utc or entry.timestamp_utc:%Y-%m-%d %H:%M:%S} UTC",
        "debit": entry.debit_account_id,
        "credit": entry.credit_account_id,
        "amount": entry.amount,
        "currency": entry.currency_code,
        "rate": entry.fx_rate,
        "type": entry.transaction_type,
        "posted": "yes" if entry.posted_entry_id else "no",
    }


def _print_verification(found: Verification) -> None:
    for report in found.reports:
        corrected = (
            f", {counted(report.corrected, 'entry', 'entries')} as corrected" if report.corrected else ""
        )
        console.print(
            f"[bold]{report.source_id}[/bold]  reconciliation {state(report.verdict)}:"
            f" {report.entries_compared:,} compared{corrected}"
        )
        if report.break_count:
            console.print(
                f"  {counted(report.break_count, 'break')}: backfill corrections propose {report.source_id}"
            )
    for source_id, why in found.not_compared.items():
        console.print(f"[bold]{source_id}[/bold]  not compared: ", end="")
        console.print(why, markup=False, soft_wrap=True)
    if found.account_break_count:
        console.print(
            f"{counted(found.account_break_count, 'account')} whose balance is not what its entries say, the first:"
        )
        console.print(plain_table([asdict(one) for one in found.account_breaks[:_SHOWN]]))
    else:
        console.print("every balance is what its entries say")
    if found.posted_twice:
        remarks.print(f"{counted(found.posted_twice, 'entry', 'entries')} still repeat another one")


def _verification_as_json(found: Verification) -> Mapping[str, object]:
    return {
        "matches": found.matches,
        "sources": [
            {
                "source_id": report.source_id,
                "reconciliation": report.verdict,
                "corrected": report.corrected,
                "break_count": report.break_count,
                "break_kinds": dict(report.break_kinds),
            }
            for report in found.reports
        ],
        "not_compared": found.not_compared,
        "account_break_count": found.account_break_count,
        "posted_twice": found.posted_twice,
    }
