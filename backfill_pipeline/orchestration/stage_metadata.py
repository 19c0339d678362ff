"""Metadata of the stages: what an operator asks of a partition that went through one.

Belongs here: rows, rates, times of batches, totals, rejects and pictures of one partition; asking the ledger for what
no report tells.
Does not: the whole source (`reconciliation_metadata.py`), drawing (`reporting/plots.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final

from backfill_pipeline.ledger import figures
from backfill_pipeline.ledger.batches import BatchOutcome
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.figures import Scope
from backfill_pipeline.ledger.rejects import Reject, Rejected, rejected_by
from backfill_pipeline.orchestration.metadata import TABLE_ROWS, Metadata, pictures, table, totals_metadata
from backfill_pipeline.reporting import drawing
from backfill_pipeline.reporting.drawing import Drawing
from backfill_pipeline.reporting.plots import Plot, daily_plot, rejects_plot, throughput_plot
from backfill_pipeline.stages.prepare import StageReport
from backfill_pipeline.stages.volumes import totals
from backfill_pipeline.stages.work import Log

PARTITIONS_DRAWN: Final = 2
"""Partitions of a run whose pictures are drawn, besides the last one: each costs time, and room for ever."""

STANDING_ASKED_MAX: Final = 100
"""Partitions of a run that were posted before and are asked for what they hold: work for nothing but the picture."""

_RAW_CHARS: Final = 200


def stage_metadata(report: StageReport) -> Metadata:
    """What a stage did to one partition, as far as its report tells."""
    # What an earlier run posted is counted in the ledger alone.
    is_whole = not report.details.get("posted_before")
    return {
        **({"dagster/partition_row_count": report.rows_out} if is_whole else {}),
        "rows_in": report.rows_in,
        "rows_out": report.rows_out,
        "seconds": round(report.seconds, 3),
        **report.details,
        **({"batches": len(report.batches)} if report.stage == "posted" else {}),
        **batch_times(report.batches),
        **({} if report.last_row is None else {"checkpoint_row": report.last_row}),
        **({} if report.days is None else totals_metadata(totals(report.days))),
    }


def batch_times(batches: Sequence[BatchOutcome]) -> Metadata:
    """How long batches took in the database; empty without any."""
    if not batches:
        return {}
    seconds = sorted(batch.seconds for batch in batches)
    checkpoints = [one.checkpoint_seconds for one in batches if one.checkpoint_seconds is not None]
    return {
        "batch_p50_s": round(_percentile(seconds, 50), 4),
        "batch_p95_s": round(_percentile(seconds, 95), 4),
        "slowest_batch_s": round(seconds[-1], 4),
        "database_seconds": round(sum(seconds), 3),
        **({"checkpoint_seconds": round(sum(checkpoints), 4)} if checkpoints else {}),
    }


def _percentile(ascending: Sequence[float], percent: int) -> float:
    """The smallest value that so many of a hundred do not exceed, as PostgreSQL's percentile_disc."""
    return ascending[max(0, -(-len(ascending) * percent // 100) - 1)]


@dataclass(slots=True)
class StageFigures:
    """Completes the metadata of the partitions of one run with what the ledger knows. Used by one thread.

    Attributes:
        connect: opens a connection to the ledger; called when something is first asked.
        registration_id: of the source.
        partition_ids: key → id.
        log: is told when figures cannot be had: nothing of a run depends on them.
    """

    connect: Callable[[], Connection]
    registration_id: int
    partition_ids: dict[str, int]
    log: Log
    _connection: Connection | None = None
    _standing: int = 0
    _painting: ThreadPoolExecutor = field(
        default_factory=lambda: ThreadPoolExecutor(1, thread_name_prefix="pictures")
    )
    _drawn: dict[str, Future[dict[str, Plot | None]]] = field(default_factory=dict)

    def metadata(self, key: str, report: StageReport, *, last: bool) -> Metadata:
        """All that there is to show of a stage of a partition, but for its pictures, which `drawn` has.

        Args:
            key: of the partition.
            report: of the stage.
            last: whether it is the last partition of the run.
        """
        told = stage_metadata(report)
        try:
            return {**told, **self._asked(key, report, last=last)}
        except Exception as error:  # the entries are posted: that nothing can be shown of them fails no run
            self._disconnect()
            return {**told, **self._not_had(key, error)}

    def standing(self, key: str) -> Metadata:
        """What a partition holds that was posted before: this run's event would hide what an earlier one told of it.

        Nothing beyond the first STANDING_ASKED_MAX of a run.
        """
        self._standing += 1
        if self._standing > STANDING_ASKED_MAX:
            return {}
        try:
            found = rejected_by(
                self._ledger(), self.partition_ids[key], while_posting=True, sample_max=TABLE_ROWS
            )
            posted = figures.currency_totals(self._ledger(), Scope([self.registration_id], [key]))
        except Exception as error:  # the entries were posted before, and stay: no failure of this run
            self._disconnect()
            return self._not_had(key, error)
        return {
            "dagster/partition_row_count": sum(one.entries for one in posted),
            **totals_metadata(posted),
            **reject_tables(found),
        }

    def drawn(self) -> dict[str, Metadata]:
        """Pictures of partitions that were posted, by key; waits for those that are not ready."""
        found: dict[str, Metadata] = {}
        for key, drawing_of in self._drawn.items():
            try:
                found[key] = pictures(drawing_of.result())
            except (
                Exception
            ) as error:  # a picture that cannot be drawn, whatever the reason, takes no other with it
                found[key] = self._not_had(key, error)
        return found

    def _not_had(self, key: str, error: Exception) -> Metadata:
        """What is shown in place of figures; the run goes on."""
        self.log(f"partition {key}: its figures could not be had: {error}")
        return {"figures": f"could not be had: {error}"}

    def close(self) -> None:
        """Closes the connection."""
        self._painting.shutdown(wait=False, cancel_futures=True)
        self._disconnect()

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _asked(self, key: str, report: StageReport, *, last: bool) -> Metadata:
        posting = report.stage == "posted"
        # An earlier run may have refused some: tables and totals are those of the partition, whoever posted it.
        refused = sum(int(report.details.get(name, 0)) for name in ("rejected", "conflicts", "posted_before"))
        found = Rejected({}, [])
        if refused:
            found = rejected_by(
                self._ledger(), self.partition_ids[key], while_posting=posting, sample_max=TABLE_ROWS
            )
        metadata = reject_tables(found)
        if not posting:
            return metadata
        scope = Scope([self.registration_id], [key])
        drawn = drawing.is_wanted() and (last or len(self._drawn) < PARTITIONS_DRAWN)
        days = None if report.days is None else list(report.days)
        if days is None and drawn:
            days = figures.daily_volume(self._ledger(), scope)
        if report.days is None:
            posted = figures.currency_totals(self._ledger(), scope) if days is None else totals(days)
            row_count = sum(one.entries for one in posted)
            metadata = {
                **metadata,
                "dagster/partition_row_count": row_count,
                **totals_metadata(posted),
            }
        if not drawn:
            return metadata
        drawings = {
            "throughput_plot": Drawing(throughput_plot, figures.throughput(self._ledger(), scope)),
            "daily_plot": Drawing(daily_plot, days or []),
            "rejects_plot": Drawing(rejects_plot, found.counts),
        }
        self._drawn[key] = self._painting.submit(drawing.draw, drawings)
        return metadata

    def _ledger(self) -> Connection:
        if self._connection is None:
            self._connection = self.connect()
        return self._connection


def reject_tables(found: Rejected) -> Metadata:
    """Rejected rows by code, and a sample over all codes; empty without any."""
    if not found.counts:
        return {}
    counts = table([{"code": code, "rows": count} for code, count in found.counts.items()])
    sample = table([_reject_row(one) for one in found.sample])
    return {
        **({"rejects_by_code": counts} if counts else {}),
        **({"rejects_sample": sample} if sample else {}),
    }


def _reject_row(one: Reject) -> dict[str, object]:
    raw = one.raw if len(one.raw) <= _RAW_CHARS else f"{one.raw[:_RAW_CHARS]}…"
    return {
        "code": one.code,
        "row": one.source_row,
        "line": one.source_line,
        "field": one.field,
        "reason": one.reason,
        "raw": raw,
    }
