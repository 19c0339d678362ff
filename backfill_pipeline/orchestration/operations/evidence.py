"""The evidence pack of a source, as a job.

Belongs here: Dagster's side of `stages/evidence/pack.py`.
Does not: what a pack holds, checking one.
"""

from pathlib import Path

import dagster as dg
from pydantic import Field

from backfill_pipeline.errors import UsageError
from backfill_pipeline.orchestration.metadata import Metadata
from backfill_pipeline.orchestration.operations.operating import DecisionConfig, operating, stated
from backfill_pipeline.orchestration.resources import LedgerResource, source_definition
from backfill_pipeline.stages.evidence.keys import read_private_key
from backfill_pipeline.stages.evidence.pack import prove_and_write


class EvidenceConfig(DecisionConfig):
    """Whose evidence, and where it goes."""

    source: str = Field(description="The source's id; of a bank with @ and a day.")
    out: str = Field(
        description="The folder to write, as an absolute path on the machine of the run; not there yet, or empty."
    )
    sign: str = Field(
        default="",
        description="The file of the key that signs it, of backfill evidence keygen. Empty: not signed.",
    )


def evidence_job() -> dg.JobDefinition:
    """The job `evidence`."""

    @dg.op(name="write_evidence", description="Reconciles, verifies the seals, and writes the pack.")
    def write_evidence(
        context: dg.OpExecutionContext, config: EvidenceConfig, ledger: LedgerResource
    ) -> None:
        with operating(context, ledger) as connection:
            out = Path(stated(config.out, "out", "name the folder to write")).expanduser()
            if not out.is_absolute():
                raise UsageError(
                    f"out is {config.out} in the run's config: write an absolute path, since runs have no folder of"
                    " their own"
                )
            pack = prove_and_write(
                connection,
                source_definition(stated(config.source, "source", "name the source")),
                ledger.places,
                source_definition,
                out,
                key=read_private_key(Path(config.sign).expanduser()) if config.sign.strip() else None,
                recorded=False,
                actor=config.person,
                reason=config.why,
            )
        said = "; ".join(pack.findings) or "complete and proven"
        context.log.info(f"{pack.path}: {said}")
        metadata: Metadata = {
            "outcome": said,
            "page": dg.MetadataValue.path(str(pack.path / "index.html")),
            "manifest_sha256": pack.manifest_sha256,
            "signed_by": pack.signed_by or "nobody",
        }
        if pack.broken:
            raise dg.Failure(
                description=f"the pack is written to {pack.path}, and what it shows does not hold: {said}",
                metadata=metadata,
                allow_retries=False,
            )
        context.add_output_metadata(metadata)

    @dg.job(
        name="evidence",
        description="Writes a pack for auditors: fingerprints, counts, totals, reconciliation, rejects, seals and"
        " decisions of a source, with a manifest of hashes.",
    )
    def job() -> None:
        write_evidence()

    return job
