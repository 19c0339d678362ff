"""Corrections: from what reconciliation and audit find to proposed entries, from approved ones to a verified ledger.

Belongs here: which findings there are, what the source says of each, applying, and verifying afterwards.
Does not: what entry corrects a finding and whether it still fits (migration 0020), comparing (`reconcile.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.errors import BackfillError, UsageError
from backfill_pipeline.ledger import balances, constraints, correction_findings, corrections, rejects
from backfill_pipeline.ledger.balances import AccountBreak
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.corrections import Decision, Proposal
from backfill_pipeline.schemas.extracted import SOURCE_LINE
from backfill_pipeline.stages.corrected import CorrectedReferences
from backfill_pipeline.stages.differences import Differences
from backfill_pipeline.stages.prepare import PartitionFrames
from backfill_pipeline.stages.reconcile import ReconciliationReport, reconcile
from backfill_pipeline.stages.stated import StatedReport
from backfill_pipeline.stages.work import SourceWork
from backfill_pipeline.wording import counted

PROPOSED_AT_ONCE: Final = 1_000
"""Findings that one call proposes corrections for; the others are counted, and next when these are applied."""

Finding = dict[str, object]


@dataclass(slots=True)
class ProposalReport:
    """What was found, and what of it can be corrected by entries.

    Attributes:
        source_id: the source that the ledger was compared with; None for the audit.
        findings: how many there are, the complete count.
        proposals: what became of each that was looked at.
        not_by_entries: findings that no entry can correct, each with what to do.
    """

    source_id: str | None
    findings: int = 0
    proposals: list[Proposal] = field(default_factory=list)
    not_by_entries: list[str] = field(default_factory=list)

    @property
    def proposed(self) -> list[Proposal]:
        """Those that wait for a decision now, new or not."""
        return [one for one in self.proposals if one.correction_id is not None]

    @property
    def skipped(self) -> list[Proposal]:
        """Those that no entry can correct."""
        return [one for one in self.proposals if one.outcome == "skipped"]

    @property
    def clean(self) -> bool:
        """Whether there is nothing to correct."""
        return not (self.proposed or self.skipped or self.not_by_entries)

    @property
    def not_looked_at(self) -> int:
        """Findings beyond the limit."""
        return max(self.findings - len(self.proposals), 0)


def propose_for_source(
    work: SourceWork,
    *,
    actor: str,
    reason: str | None = None,
    suspense: Sequence[str] = (),
    limit: int = PROPOSED_AT_ONCE,
) -> ProposalReport:
    """Compares a source with the ledger and proposes what would make both equal.

    Args:
        work: the source.
        actor: who proposes.
        reason: why, for the audit log.
        suspense: accounts that take what stated balances differ by; without one, no drift is ever posted away.
        limit: at most so many proposals.

    Raises:
        UsageError: a suspense account does not exist.
    """
    differences = Differences(limit)
    with work.connect() as connection:
        chosen = _Suspense.named(connection, suspense)
        found = reconcile(work, differences=differences)
        source_id = work.definition.id
        lines = _lines(work, differences.findings())
        findings: list[Finding] = [
            {"source_id": source_id, "file": work.registration.file_name, **finding, **lines.get(number, {})}
            for number, finding in enumerate(differences.findings())
        ]
        report = ProposalReport(source_id, differences.count)
        if found.stated is not None and found.stated.endings:
            drifts = _drifts(connection, work, found.stated, chosen, report)
            findings += drifts[: limit - len(findings)]
        findings += _balances_anew(found.account_breaks, report, source_id)[: limit - len(findings)]
        report.proposals = corrections.propose(connection, findings, actor=actor, reason=reason)
    _explain_breaks(found, report)
    return report


def propose_for_ledger(
    connection: Connection,
    *,
    actor: str,
    reason: str | None = None,
    suspense: Sequence[str] = (),
    limit: int = PROPOSED_AT_ONCE,
) -> ProposalReport:
    """Proposes what corrects the ledger by itself: payments posted twice, negative balances at an account's expense.

    Args:
        connection: to the ledger, autocommit.
        actor: who proposes.
        reason: why, for the audit log.
        suspense: accounts at whose expense negative ones are brought to zero. Without one, negative accounts are a
            finding only where balance constraints were refused for them: in many books they are right.
        limit: at most so many proposals.

    Raises:
        UsageError: a suspense account does not exist.
    """
    chosen = _Suspense.named(connection, suspense)
    twice, repeated = correction_findings.posted_twice(connection, limit=limit)
    findings: list[Finding] = [
        {
            "ledger_id": one.ledger_id,
            "reference_id": one.reference_id,
            "kept_ledger_id": one.ledger_id,
            "kept_reference_id": one.kept_reference_id,
            "came_from": one.came_from or "live posting",
            "kept_came_from": one.kept_came_from or "live posting",
        }
        for one in repeated
    ]
    left_over = CorrectedReferences.read(connection).left_over
    findings += [
        {"ledger_id": row["ledger_id"], "reference_id": row["reference_id"], "keep": True}
        for row in left_over.filter(pc.is_null(left_over.column("source_id"))).to_pylist()
    ][: limit - len(findings)]
    report = ProposalReport(
        None, twice + pc.sum(pc.is_null(left_over.column("source_id")), min_count=0).as_py()
    )
    count, negative = correction_findings.below_zero(connection, limit=max(limit - len(findings), 0) or 1)
    if count and not chosen.accounts and constraints.state(connection) == "refused":
        report.not_by_entries.append(
            f"{counted(count, 'account')} below zero, so the balance constraints were refused; the first is"
            f" {negative[0].account_id}: find the entries that are missing, or name an account that is to pay"
            " for it with --suspense"
        )
    elif count and chosen.accounts:
        report.findings += count
        kinds = correction_findings.currencies_of(connection, [one.account_id for one in negative])
        findings += [
            {
                "kind": "below_zero",
                "ledger_id": one.ledger_id,
                "account_id": one.account_id,
                "suspense_account_id": chosen.for_account(kinds[one.account_id]),
            }
            for one in negative[: limit - len(findings)]
        ]
    findings += _balances_anew(balances.examine(connection).breaks, report, None)[: limit - len(findings)]
    report.proposals = corrections.propose(connection, findings, actor=actor, reason=reason)
    return report


def apply_approved(
    connection: Connection, correction_ids: Sequence[int] | None, *, actor: str, reason: str | None
) -> list[Decision]:
    """Applies corrections, each in a transaction of its own: killed in between, some are applied, the others not begun.

    One that a balance constraint refuses is tried again after the others: they may give the account what it lacks.

    Args:
        connection: to the ledger, autocommit.
        correction_ids: which; None for all that are approved, oldest first.
        actor: who applies them.
        reason: why, for the audit log.
    """
    if correction_ids is None:
        _, approved = corrections.corrections(connection, statuses=["approved"], limit=1_000_000)
        correction_ids = [one.id for one in reversed(approved)]
    decisions: dict[int, Decision] = {}
    waiting = list(dict.fromkeys(correction_ids))
    while waiting:
        for one in waiting:
            decisions[one] = corrections.apply(connection, one, actor=actor, reason=reason)
        refused = [one for one in waiting if decisions[one].outcome == "refused"]
        if len(refused) == len(waiting):
            break
        waiting = refused
    return [decisions[one] for one in dict.fromkeys(correction_ids)]


@dataclass(slots=True)
class Verification:
    """What is true after corrections were applied.

    Attributes:
        reports: of the sources concerned, each compared with the ledger anew.
        account_breaks: accounts whose balance is not what their entries say; the first of `account_break_count`.
        posted_twice: entries that still repeat another one.
        not_compared: sources that cannot be compared, with why.
    """

    reports: list[ReconciliationReport] = field(default_factory=list)
    account_break_count: int = 0
    account_breaks: list[AccountBreak] = field(default_factory=list)
    posted_twice: int = 0
    not_compared: dict[str, str] = field(default_factory=dict)

    @property
    def matches(self) -> bool:
        """Whether every source concerned is equal to the ledger, and every balance to its entries."""
        return not self.account_break_count and all(report.matches for report in self.reports)


def verify(
    connection: Connection,
    source_ids: Iterable[str],
    open_source: Callable[[str], SourceWork],
    *,
    with_ledger: bool,
) -> Verification:
    """Compares the sources concerned with the ledger, and all balances with their entries.

    Args:
        connection: to the ledger, autocommit.
        source_ids: of the applied corrections.
        open_source: gives the source of an id; a UsageError or another error of the product says why it cannot.
        with_ledger: whether corrections of the audit are among them, so that it looks for repeated entries again.
    """
    found = Verification()
    works = []
    for source_id in source_ids:
        try:
            works.append(open_source(source_id))
        except BackfillError as error:
            found.not_compared[source_id] = str(error)
    for number, work in enumerate(
        works, 1
    ):  # balances are those of the whole ledger: the last one looks at them
        found.reports.append(reconcile(work, with_balances=number == len(works)))
    if found.reports:
        last = found.reports[-1]
        found.account_break_count, found.account_breaks = last.account_break_count, last.account_breaks
    else:
        examined = balances.examine(connection)
        found.account_break_count, found.account_breaks = examined.break_count, examined.breaks
    if with_ledger:
        found.posted_twice, _ = correction_findings.posted_twice(connection, limit=1)
    return found


@dataclass(frozen=True, slots=True)
class _Suspense:
    """The accounts that were named to take differences."""

    accounts: tuple[correction_findings.SuspenseAccount, ...]

    @classmethod
    def named(cls, connection: Connection, account_ids: Sequence[str]) -> _Suspense:
        """Those that were named, all of which exist."""
        found = correction_findings.suspense_accounts(connection, account_ids)
        if unknown := sorted(set(account_ids) - {one.id for one in found}):
            raise UsageError(
                f"the ledger does not have the suspense account {unknown[0]}: open it first, or name another"
            )
        return cls(tuple(found))

    def for_account(self, kind: tuple[str, str]) -> str:
        """The one of this currency and asset type, else the first: then it is said that it does not fit."""
        for one in self.accounts:
            if (one.currency_code, one.asset_type) == kind:
                return one.id
        return self.accounts[0].id


def _drifts(
    connection: Connection,
    work: SourceWork,
    stated: StatedReport,
    suspense: _Suspense,
    report: ProposalReport,
) -> list[Finding]:
    """Stated balances that differ at their last row, as findings; what stands against proposing any is said instead."""
    accounts = counted(stated.accounts_differing, "account")
    rejected = sum(rejects.count_by_code(connection, work.registration.id).values())
    if rejected:
        report.not_by_entries.append(
            f"the stated balances of {accounts} differ, and {counted(rejected, 'row')} of the source were rejected:"
            " repair and replay them first (backfill rejects), since they may be the difference"
        )
        return []
    if not suspense.accounts:
        report.not_by_entries.append(
            f"the stated balances of {accounts} differ ({stated.sentence}): the entries are what the source says, so"
            " nothing is posted to make them fit; name an account that is to hold the difference with --suspense"
        )
        return []
    report.findings += stated.accounts_differing
    kinds = correction_findings.currencies_of(connection, [one.account_id for one in stated.endings])
    return [
        {
            "kind": "stated_balance",
            "source_id": work.definition.id,
            "file": work.registration.file_name,
            "line": one.source_line,
            "source_row": one.source_row,
            "ledger_id": correction_findings.ledger_of(connection, one.account_id),
            "account_id": one.account_id,
            "suspense_account_id": suspense.for_account(kinds[one.account_id]),
            "stated_balance": format(one.stated, "f"),
            "ledger_balance": format(one.ledger, "f"),
            "as_of": one.as_of.isoformat(),
            "drift": stated.sentence,
        }
        for one in stated.endings
        if one.as_of is not None
    ]


def _lines(work: SourceWork, findings: Sequence[Finding]) -> dict[int, Finding]:
    """The line of each finding that has a row of the source, by the finding's number."""
    keys = {partition.key for partition in work.registration.partitions}
    by_partition: dict[str, list[tuple[int, int]]] = {}
    for number, finding in enumerate(findings):
        key, row = finding["partition_key"], finding["source_row"]
        if isinstance(key, str) and key in keys and isinstance(row, int) and "target" in finding:
            by_partition.setdefault(key, []).append((number, row))
    lines: dict[int, Finding] = {}
    for key, rows in by_partition.items():
        places = PartitionFrames(work, key, ()).positions(pa.array([row for _, row in rows], pa.int64()))
        for (number, _), line in zip(rows, places.column(SOURCE_LINE).to_pylist(), strict=True):
            lines[number] = {"line": line}
    return lines


def _explain_breaks(found: ReconciliationReport, report: ProposalReport) -> None:
    """Breaks of a reconciliation that are not about single references."""
    if found.break_kinds["counts"] and not report.proposals:
        counts = next(one for one in found.breaks if one.kind == "counts")
        report.not_by_entries.append(
            f"{counts.partition_key}: {counts.field} should be {counts.expected} and is {counts.actual}, and no entry"
            " differs: somebody changed the records of the backfill, restore them"
        )


def _balances_anew(
    breaks: Sequence[AccountBreak], report: ProposalReport, source_id: str | None
) -> list[Finding]:
    """Balances that are not what their entries say, as findings; of conversions, what is to be done is said."""
    for one in breaks:
        if one.what.startswith("conversion"):
            report.not_by_entries.append(
                f"account {one.account_id}: the {one.what} is {one.actual:f}, amount and rate say {one.expected:f}: no"
                " entry can correct that; somebody changed ledger_entry_conversions, have it set back"
            )
    accounts = dict.fromkeys(one.account_id for one in breaks if not one.what.startswith("conversion"))
    report.findings += len(accounts)
    return [
        {"kind": "balance", "account_id": one, **({} if source_id is None else {"source_id": source_id})}
        for one in accounts
    ]
