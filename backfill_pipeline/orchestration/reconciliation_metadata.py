"""Metadata of a reconciliation: its outcome, its first breaks, and the whole source in pictures.

Belongs here: turning the report into Dagster's metadata values; the figures of a whole source.
Does not: comparing, drawing (`reporting/plots.py`).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict

from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.ledger import figures, rejects
from backfill_pipeline.ledger.figures import Scope
from backfill_pipeline.orchestration.metadata import Metadata, pictures, table, totals_metadata
from backfill_pipeline.reporting import drawing
from backfill_pipeline.reporting.drawing import Drawing
from backfill_pipeline.reporting.plots import daily_plot, rejects_plot, throughput_plot
from backfill_pipeline.stages.reconcile import ReconciliationReport, currency_rows, equation
from backfill_pipeline.stages.stated import StatedReport, step_rows
from backfill_pipeline.stages.volumes import totals
from backfill_pipeline.stages.work import Log, Places


def reconciliation_metadata(report: ReconciliationReport) -> Metadata:
    """The outcome of a reconciliation with its first breaks."""
    breaks = table([asdict(one) for one in report.breaks])
    accounts = table([asdict(one) for one in report.account_breaks])
    currencies = table(currency_rows(report))
    return {
        "verdict": report.verdict,
        "equation": equation(report),
        "read": report.read,
        "posted": report.posted,
        "duplicates": report.duplicates,
        "conflicts": report.conflicts,
        "rejected": report.rejected,
        "filtered": report.filtered,
        "entries_compared": report.entries_compared,
        "opening_entries_compared": report.opening_entries_compared,
        "open_partitions": report.open_partitions,
        "breaks": report.break_count,
        "account_breaks": report.account_break_count,
        "currency_breaks": len(report.currency_breaks),
        "seconds": round(report.seconds, 3),
        **({"break_sample": breaks} if breaks else {}),
        **({"account_break_sample": accounts} if accounts else {}),
        **({"currencies": currencies} if currencies else {}),
        **({} if report.stated is None else stated_metadata(report.stated)),
    }


def stated_metadata(report: StatedReport) -> Metadata:
    """How stated balances compare with the ledger's, and where they part."""
    steps = table(step_rows(report))
    return {
        "stated_balances": report.sentence,
        "stated_balances_differing": report.differing,
        **({"stated_balance_drift": steps} if steps else {}),
    }


def posted_as_a_whole(
    definition: SourceDefinition, places: Places, registration_ids: Sequence[int], log: Log
) -> Metadata:
    """A source, or days of a bank, as far as they are posted: times of batches, totals, and pictures.

    Nothing of it decides anything: where it cannot be had, `log` is told why, and the metadata says so.
    """
    scope = Scope(registration_ids)
    try:
        with places.connect(definition.id) as connection:
            times = figures.batch_figures(connection, scope)
            points = figures.throughput(connection, scope) if drawing.is_wanted() else []
            days = figures.daily_volume(connection, scope)
            codes: dict[str, int] = {}
            for registration_id in registration_ids:
                for code, count in rejects.count_by_code(connection, registration_id).items():
                    codes[code] = codes.get(code, 0) + count
        drawings = {
            "throughput_plot": Drawing(throughput_plot, points),
            "daily_plot": Drawing(daily_plot, days),
            "rejects_plot": Drawing(rejects_plot, codes),
        }
        plots = drawing.draw(drawings) if drawing.is_wanted() else {}
    except Exception as error:  # a picture is not worth a verdict
        log(f"the figures of {definition.id} could not be had, the outcome is without them: {error}")
        return {"figures": f"could not be had: {error}"}
    counts = table([{"code": code, "rows": count} for code, count in codes.items()])
    return {
        **totals_metadata(totals(days)),
        **(
            {}
            if times is None
            else {
                "batches": times.batches,
                "batch_p50_s": round(times.p50_s, 4),
                "batch_p95_s": round(times.p95_s, 4),
                "database_seconds": round(times.busy_s, 3),
            }
        ),
        **({"rejects_by_code": counts} if counts else {}),
        **pictures(plots),
    }


@contextmanager
def beside(
    definition: SourceDefinition, places: Places, registration_ids: Sequence[int], log: Log
) -> Iterator[Future[Metadata]]:
    """`posted_as_a_whole` in a thread of its own: reconciling waits for the server most of the time."""
    with ThreadPoolExecutor(1, thread_name_prefix="figures") as pool:
        yield pool.submit(posted_as_a_whole, definition, places, registration_ids, log)
