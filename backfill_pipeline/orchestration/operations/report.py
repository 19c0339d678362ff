"""The report of a source, as a job.

Belongs here: Dagster's side of `reporting/report/`.
Does not: what the page holds.
"""

from pathlib import Path

import dagster as dg
from pydantic import Field

from backfill_pipeline.errors import UsageError
from backfill_pipeline.orchestration.launchpad import LaunchpadConfig
from backfill_pipeline.orchestration.metadata import Metadata
from backfill_pipeline.orchestration.operations.operating import operating, stated
from backfill_pipeline.orchestration.resources import LedgerResource, source_definition
from backfill_pipeline.reporting.report.outcome import Level
from backfill_pipeline.reporting.report.write import SAMPLES, write_report
from backfill_pipeline.settings import load_settings


class ReportConfig(LaunchpadConfig):
    """Whose report, and where it goes."""

    source: str = Field(description="The source's id; a bank's, or a bank's with @ and a day.")
    out: str = Field(
        default="",
        description="The file to write, as an absolute path on the machine of the run. Empty: SOURCE.html in the"
        " folder reports of BACKFILL_HOME. A report that is there is replaced.",
    )
    samples: int = Field(
        default=SAMPLES,
        ge=0,
        le=20,
        description="Rejected rows of each code to show; 0 keeps them and their reasons out of the page.",
    )


def report_job() -> dg.JobDefinition:
    """The job `report`."""

    @dg.op(name="write_report", description="Reads the ledger at one moment, and writes the page.")
    def write(context: dg.OpExecutionContext, config: ReportConfig, ledger: LedgerResource) -> None:
        with operating(context, ledger) as connection:
            definition = source_definition(stated(config.source, "source", "name the source"))
            written = write_report(
                connection, definition, _file(config.out, definition.id), samples=config.samples
            )
        outcome = written.outcome
        context.log.info(f"{written.path}: {outcome.word}. {outcome.sentence}")
        metadata: Metadata = {
            "outcome": outcome.word,
            "sentence": outcome.sentence,
            "page": dg.MetadataValue.path(str(written.path)),
            **(
                {
                    "findings": dg.MetadataValue.md(
                        "\n".join(f"- {one.text}: {one.remedy}" for one in outcome.findings)
                    )
                }
                if outcome.findings
                else {}
            ),
        }
        if outcome.level is Level.BROKEN:
            raise dg.Failure(
                description=f"the report is written to {written.path}, and what it shows does not hold:"
                f" {outcome.findings[0].text}",
                metadata=metadata,
                allow_retries=False,
            )
        context.add_output_metadata(metadata)

    @dg.job(
        name="report",
        description="Writes what became of a source, a bank or a day as one page: the outcome, the flow of rows, plots,"
        " rejects, balances and breaks, fingerprints.",
    )
    def job() -> None:
        write()

    return job


def _file(out: str, source_id: str) -> Path:
    if not out.strip():
        folder = load_settings().home / "reports"
        folder.mkdir(mode=0o700, exist_ok=True)  # a page holds records of its source
        return folder / f"{source_id}.html"
    path = Path(out.strip()).expanduser()
    if not path.is_absolute():
        raise UsageError(
            f"out is {out} in the run's config: write an absolute path, since runs have no folder of their own"
        )
    return path
