"""What a check says: whether it passed, how grave it is, and what to do.

Belongs here: turning findings of the core into Dagster's results; what is said when it could not be looked.
Does not: looking (the modules beside this one, and `ledger/`).

A check that could not look does not pass. It does not fail its run either: what the run posted is posted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import dagster as dg

from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger.auditing.findings import Check, Severity
from backfill_pipeline.ledger.connection import Connection, connect
from backfill_pipeline.orchestration.metadata import Metadata, table


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a check ended.

    Attributes:
        passed: it looked, and all is as it should be.
        sentence: what is so, and what to do where it is not as it should be.
        severity: of what it found.
        metadata: counts, and a sample.
    """

    passed: bool
    sentence: str
    severity: dg.AssetCheckSeverity = dg.AssetCheckSeverity.ERROR
    metadata: Metadata = field(default_factory=dict)


Look = Callable[[Connection], Verdict]


@dataclass(frozen=True, slots=True)
class Looked:
    """A check of an asset.

    Attributes:
        spec: as Dagster shows it.
        look: makes it.
    """

    spec: dg.AssetCheckSpec
    look: Look


def of_finding(check: Check, otherwise: str, counts: Mapping[str, int] | None = None) -> Verdict:
    """The verdict on a finding: exact count, a sample, and the remedy; `otherwise` is said when nothing was found."""
    severity = dg.AssetCheckSeverity.ERROR if check.severity is Severity.BREAK else dg.AssetCheckSeverity.WARN
    if check.skipped is not None:
        return could_not_look(check.skipped)
    sample = table(check.sample)
    metadata: dict[str, dg.MetadataValue | str | int | float | bool] = {
        **(counts or {}),
        "count": check.count,
    }
    if sample is not None:
        metadata["sample"] = sample
    if not check.count:
        return Verdict(True, otherwise, severity, metadata)
    return Verdict(
        False, f"{check.looks_for}: {check.count:,}. What to do: {check.remedy}", severity, metadata
    )


def could_not_look(reason: str) -> Verdict:
    """The verdict of a check that was not made."""
    return Verdict(False, f"it could not be looked: {reason}", metadata={"could_not_look": True})


def results(
    url: str, checks: Sequence[Looked], selected: Callable[[dg.AssetCheckKey], bool]
) -> Iterator[dg.AssetCheckResult]:
    """Makes the checks that are selected, one after the other, over a connection of its own.

    Args:
        url: of the ledger.
        checks: to choose from.
        selected: which of them.
    """
    wanted = [one for one in checks if selected(one.spec.key)]
    try:
        with connect(url, application_name="backfill checks") as connection:
            verdicts = [_judged(one, connection) for one in wanted]
    except BackfillError as error:
        verdicts = [could_not_look(str(error))] * len(wanted)
    for one, verdict in zip(wanted, verdicts, strict=True):
        yield dg.AssetCheckResult(
            asset_key=one.spec.asset_key,
            check_name=one.spec.name,
            passed=verdict.passed,
            severity=verdict.severity,
            description=verdict.sentence,
            metadata=verdict.metadata,
        )


def _judged(one: Looked, connection: Connection) -> Verdict:
    try:
        return one.look(connection)
    except BackfillError as error:
        return could_not_look(str(error))
