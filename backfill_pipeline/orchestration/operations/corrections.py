"""Proposing, approving and applying corrections, as jobs. Each of them materializes the asset `corrections` too.

Belongs here: Dagster's side of `stages/corrections.py`.
Does not: what corrects what, who may decide, posting.
"""

from collections.abc import Sequence
from typing import Literal

import dagster as dg
from pydantic import Field

from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger import corrections
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.orchestration.assets.keys import CORRECTIONS_KEY
from backfill_pipeline.orchestration.corrections_metadata import (
    decided_metadata,
    decided_text,
    proposals_metadata,
    proposed_metadata,
    proposed_text,
    verified_metadata,
)
from backfill_pipeline.orchestration.metadata import Metadata
from backfill_pipeline.orchestration.operations.operating import DecisionConfig, operating
from backfill_pipeline.orchestration.resources import LedgerResource, source_definition
from backfill_pipeline.stages.corrections import (
    Verification,
    apply_approved,
    propose_for_ledger,
    propose_for_source,
    verify,
)
from backfill_pipeline.stages.work import Places, open_work


class ProposeConfig(DecisionConfig):
    """What to look at, and who proposes."""

    source: str = Field(
        default="",
        description="The source that the ledger is compared with; of a bank with @ and a day. Empty: what the ledger"
        " shows of itself, such as payments that were posted twice.",
    )
    suspense: list[str] = Field(
        default_factory=list,
        description="Accounts that are to hold what stated balances differ by, or to pay for negative ones; one for"
        " each currency. Empty: nothing is posted for a balance.",
    )


class DecideConfig(DecisionConfig):
    """Which corrections, what about them, and who decides."""

    ids: list[int] = Field(description="Numbers of the corrections, as the asset corrections shows them.")
    decision: Literal["approve", "reject"] = Field(
        default="approve",
        description="approve: another person than who proposed it, while four eyes are on. reject: it is closed.",
    )


class ApplyCorrectionsConfig(DecisionConfig):
    """Which corrections are posted, and who does it."""

    ids: list[int] = Field(
        default_factory=list, description="Numbers of approved corrections. Empty: all that are approved."
    )


def correction_jobs() -> list[dg.JobDefinition]:
    """The jobs `propose_corrections`, `approve_corrections` and `apply_corrections`."""

    @dg.op(name="propose", description="Finds what differs and proposes entries for it. Posts nothing.")
    def propose(context: dg.OpExecutionContext, config: ProposeConfig, ledger: LedgerResource) -> None:
        with operating(context, ledger) as connection:
            if source := config.source.strip():
                report = propose_for_source(
                    open_work(source_definition(source), ledger.places),
                    actor=config.person, reason=config.why, suspense=config.suspense,
                )  # fmt: skip
            else:
                report = propose_for_ledger(
                    connection, actor=config.person, reason=config.why, suspense=config.suspense
                )
            _show(context, connection)
        context.log.info(proposed_text(report))
        context.add_output_metadata(proposed_metadata(report))

    @dg.op(name="decide", description="Approves or rejects each of them by itself.")
    def decide(context: dg.OpExecutionContext, config: DecideConfig, ledger: LedgerResource) -> None:
        with operating(context, ledger) as connection:
            if not config.ids:
                raise UsageError("ids is empty in the run's config: name corrections, such as [1, 2]")
            procedure = corrections.approve if config.decision == "approve" else corrections.reject
            decisions = [
                procedure(connection, one, actor=config.person, reason=config.why)
                for one in dict.fromkeys(config.ids)
            ]
            _show(context, connection)
        context.log.info(decided_text(decisions))
        metadata = decided_metadata(decisions)
        _fail_unless(all(one.done for one in decisions), decided_text(decisions), metadata)
        context.add_output_metadata(metadata)

    @dg.op(name="apply_approved", description="Posts their entries, then compares what they concern.")
    def apply(context: dg.OpExecutionContext, config: ApplyCorrectionsConfig, ledger: LedgerResource) -> None:
        with operating(context, ledger) as connection:
            decisions = apply_approved(connection, config.ids or None, actor=config.person, reason=config.why)
            applied = [one.correction_id for one in decisions if one.done]
            found = _verified(connection, ledger.places, applied) if applied else None
            _show(context, connection)
        context.log.info(decided_text(decisions))
        metadata = {**decided_metadata(decisions), **({} if found is None else verified_metadata(found))}
        _fail_unless(all(one.done for one in decisions), decided_text(decisions), metadata)
        if found is not None:
            _fail_unless(
                found.matches and not found.not_compared,
                f"{decided_text(decisions)}; the ledger is not equal to its sources yet: see the metadata, and launch"
                " propose_corrections again",
                metadata,
            )
        context.add_output_metadata(metadata)

    @dg.job(
        name="propose_corrections",
        description="Compares a source with the ledger, or the ledger with itself, and proposes entries that correct"
        " what differs. Posts nothing; the asset corrections shows them.",
    )
    def propose_job() -> None:
        propose()

    @dg.job(
        name="approve_corrections",
        description="Approves proposed corrections, by another person than who proposed them; or rejects them.",
    )
    def decide_job() -> None:
        decide()

    @dg.job(
        name="apply_corrections",
        description="Posts approved corrections, each in one transaction, and compares what they concern afterwards."
        " One whose ledger changed since it was proposed is refused, and proposed anew.",
    )
    def apply_job() -> None:
        apply()

    return [propose_job, decide_job, apply_job]


def _show(context: dg.OpExecutionContext, connection: Connection) -> None:
    context.log_event(dg.AssetMaterialization(CORRECTIONS_KEY, metadata=proposals_metadata(connection)))


def _fail_unless(well: bool, said: str, metadata: Metadata) -> None:
    """A run that did not do all that it was asked for does not look as if it had."""
    if not well:
        raise dg.Failure(description=said, metadata=metadata, allow_retries=False)


def _verified(connection: Connection, places: Places, applied: Sequence[int]) -> Verification:
    details = [corrections.load(connection, one) for one in applied]
    sources = {None if one is None else one.correction.source_id for one in details}
    return verify(
        connection,
        sorted(one for one in sources if one is not None),
        lambda source: open_work(source_definition(source), places),
        with_ledger=None in sources,
    )
