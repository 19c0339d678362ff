"""The summary of an evidence pack: what the ledger says of a source at one moment, and what of it does not hold.

Belongs here: the facts, and the verdict on them.
Does not: files (`evidence.py`), looks (`evidence_page.py`).
"""

from __future__ import annotations

import platform
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from decimal import Decimal
from importlib.metadata import PackageNotFoundError, version
from typing import Final

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.ledger import (
    audit_log,
    balances,
    constraints,
    evidence,
    reconciliation,
    registrations,
    rejects,
    status,
)
from backfill_pipeline.ledger.audit_log import ChainFault
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.reconciliation import Verdict
from backfill_pipeline.ledger.registrations import Registration
from backfill_pipeline.stages.evidence.format import COUNTS, FORMAT
from backfill_pipeline.stages.verify import VerificationReport
from backfill_pipeline.stages.work import all_mapping_parts
from backfill_pipeline.wording import counted

_PACKAGES: Final = ("backfill-pipeline", "cryptography", "dagster", "pandas", "pandera", "psycopg", "pyarrow")


def summarise(
    connection: Connection,
    definition: SourceDefinition,
    registration: Registration,
    verification: VerificationReport | None,
) -> dict[str, object]:
    """The summary, as it goes into a pack.

    Args:
        connection: to the ledger, in a snapshot (`evidence.snapshot`).
        definition: of the source.
        registration: its current one.
        verification: what holding its entries against their seals found; None when nobody did.
    """
    facts = _facts(connection, definition, registration, verification)
    verdict = facts.verdict
    return {
        "format": FORMAT,
        "source": {
            "id": definition.id,
            "type": registration.source_type,
            "description": definition.description,
            "revision": registration.revision,
            "file_name": registration.file_name,
            "size_bytes": registration.size_bytes,
            "sha256": registration.sha256,
            "rows": registration.row_count,
            "header": list(registration.header),
            "registered_at": registration.registered_at,
            "completed_at": registration.completed_at,
        },
        "mapping": {
            "sha256": registration.mapping_sha256,
            "parts": dict(registration.mapping_parts),
            "unchanged": is_unchanged(definition, registration),
        },
        "counts": facts.counts,
        "partitions": {"all": facts.partitions, "posted": facts.posted},
        "totals": [asdict(total) for total in evidence.totals(connection, definition.id)],
        "trial_balance_off": facts.trial_balance_off,
        "reconciliation": None
        if verdict is None
        else {
            "verdict": verdict.verdict,
            "entries_compared": verdict.entries_compared,
            "break_count": verdict.break_count,
            "reconciled_at": verdict.reconciled_at,
            "ledger_changed_since": facts.stale,
        },
        "rejects_by_code": facts.rejects_by_code,
        "rejects_repaired": rejects.count_repaired(connection, registration.id),
        "seals": facts.seals,
        "verification": None if verification is None else _verification(verification),
        "chain_heads": [asdict(head) for head in evidence.chain_heads(connection, definition.id)],
        "audit_log_faults": [asdict(fault) for fault in facts.log_faults],
        "four_eyes": audit_log.four_eyes(connection),
        "balance_constraints": constraints.state(connection),
        "versions": {
            "python": platform.python_version(),
            "postgresql": evidence.server_version(connection),
            **{package: _version(package) for package in _PACKAGES},
        },
        "findings": [
            *({"finding": text, "break": True} for text in facts.breaks()),
            *({"finding": text, "break": False} for text in facts.not_done_yet()),
        ],
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:  # a checkout that was never installed
        return "not installed"


def _verification(report: VerificationReport) -> dict[str, object]:
    whole = asdict(report)
    return {name: whole[name] for name in ("seals", "entries", "chain_faults", "touched")}


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the verdict on a pack depends on."""

    counts: Mapping[str, int]
    partitions: int
    posted: int
    rejects_by_code: Mapping[str, int]
    verdict: Verdict | None
    stale: bool
    seals: Mapping[str, int]
    trial_balance_off: Mapping[str, Decimal]
    log_faults: Sequence[ChainFault]
    verification: VerificationReport | None

    def breaks(self) -> Iterator[str]:
        """What is wrong."""
        if self.counts["read"] != sum(self.counts[name] for name in COUNTS[1:]):
            yield "the counts do not add up: read is not the sum of the others"
        counted_rejects = self.counts["rejected"] + self.counts["conflicts"]
        kept = sum(self.rejects_by_code.values())
        if self.posted == self.partitions and kept != counted_rejects:
            yield f"{counted(counted_rejects, 'reject')} counted, {kept:,} kept"
        if self.verdict is not None and self.verdict.verdict != "match":
            yield f"the reconciliation found {counted(self.verdict.break_count, 'break')}"
        if self.trial_balance_off:
            yield f"debits and credits of the ledger differ in {', '.join(self.trial_balance_off)}"
        if self.log_faults:
            yield f"the audit log was touched: {counted(len(self.log_faults), 'fault')}"
        if self.verification is not None and self.verification.chain_faults:
            yield f"the chain of seals was touched: {counted(len(self.verification.chain_faults), 'fault')}"
        if self.verification is not None:
            for one in self.verification.touched:
                numbers = ", ".join(str(number) for number in one.corrected_by)
                yield f"{one.subject} is not as it was sealed" + (
                    f"; it is so together with correction {numbers}" if numbers else ""
                )

    def not_done_yet(self) -> Iterator[str]:
        """What is missing for a proof, and no break."""
        if self.posted < self.partitions:
            yield f"{self.partitions - self.posted:,} of {counted(self.partitions, 'partition')} not posted"
        if self.verdict is None:
            yield "never reconciled"
        elif self.stale:
            yield "not reconciled since something of it was posted or rolled back"
        if unsealed := self.seals["batches"] - self.seals["sealed"]:
            yield f"{unsealed:,} of {counted(self.seals['batches'], 'batch', 'batches')} not sealed"
        if self.verification is None:
            yield "entries not held against their seals"


def _facts(
    connection: Connection,
    definition: SourceDefinition,
    registration: Registration,
    verification: VerificationReport | None,
) -> _Facts:
    outcomes = status.partition_outcomes(connection, registration.id)
    posted = [outcome for outcome in outcomes if outcome.status == "posted"]
    return _Facts(
        counts={name: sum(getattr(outcome, name) for outcome in posted) for name in COUNTS},
        partitions=len(outcomes),
        posted=len(posted),
        rejects_by_code=rejects.count_by_code(connection, registration.id),
        verdict=reconciliation.latest(connection, registration.id),
        stale=evidence.changed_since(connection, definition.id, registration.id),
        seals=evidence.seal_counts(connection, definition.id),
        trial_balance_off={code: net for code, net in balances.trial_balance(connection).items() if net},
        log_faults=audit_log.faults(connection),
        verification=verification,
    )


def is_unchanged(definition: SourceDefinition, registration: Registration) -> bool:
    """Whether the definition is the one that the entries were made by."""
    parts = all_mapping_parts(definition, registration.header)
    return not registrations.describe_mapping_changes(registration, parts)
