"""What monitoring sees of a bank: its days as one source, how far it is, what it has not heard of."""

from __future__ import annotations

from collections import Counter

from prometheus_client.openmetrics.parser import text_string_to_metric_families

from backfill_pipeline.ledger.monitoring.snapshot import look
from backfill_pipeline.reporting.metrics.exporter import exposition
from backfill_pipeline_tests.dual_ledger.syncing import sync
from backfill_pipeline_tests.dual_ledger.world import FIRST_DAY, Dual


def figures(dual: Dual) -> dict[str, dict[str, float]]:
    """Metric → its labels but for names of the bank, or `value` → value; what is 0 is left out."""
    found: dict[str, dict[str, float]] = {}
    for one in text_string_to_metric_families(exposition(look(dual.url), Counter()).decode()):
        for sample in one.samples:
            if sample.value:
                names = {"source", "bank", "ledger"}
                labels = [value for name, value in sorted(sample.labels.items()) if name not in names]
                found.setdefault(sample.name, {})[" ".join(labels) or "value"] = sample.value
    return found


def test_a_bank_is_one_source_whose_figures_are_those_of_all_its_days(dual: Dual) -> None:
    sync(dual)
    found = figures(dual)
    assert found["backfill_up"] == {"value": 1}
    assert found["backfill_expected_rows"] == found["backfill_processed_rows"] == {"value": 120}
    assert found["backfill_rows"] == {"posted": 120}
    assert found["backfill_partitions"] == {"posted": 3}
    assert found["backfill_checkpoints"] == {"COMPLETED": 3}
    assert found["backfill_bank_days"] == {"complete": 3}
    assert found["backfill_bank_entries"] == {"value": 120}
    assert "backfill_bank_unacknowledged_entries" not in found
    assert "backfill_outbox_rows" not in found
    assert found["backfill_reconciliations"] == {"match": 3}
    [last] = dual.query("SELECT extract(epoch FROM max(window_to))::float8 FROM sync_status")
    assert found["backfill_bank_complete_to_timestamp_seconds"] == {"value": last[0]}


def test_ledgers_that_differ_show_with_their_day_and_so_does_what_the_bank_has_not_heard_of(
    dual: Dual,
) -> None:
    sync(dual)
    dual.change(f"SCB-01-{FIRST_DAY:%Y%m%d}-000000003")
    sync(dual, days=[FIRST_DAY])
    dual.post_here("ours", at=f"{dual.days()[1]}T12:00:00Z")
    found = figures(dual)
    assert found["backfill_bank_days"] == {"break": 1, "complete": 2}
    assert found["backfill_bank_breaks"]["value"] >= 1
    assert found["backfill_rejects"] == {"conflict post": 1}
    assert found["backfill_outbox_rows"] == {"entry PENDING": 1}
    assert set(found["backfill_outbox_oldest_timestamp_seconds"]) == {"entry PENDING"}
    [first] = dual.query("SELECT extract(epoch FROM min(window_from))::float8 FROM sync_status")
    assert found["backfill_bank_complete_to_timestamp_seconds"] == {"value": first[0]}
    assert "backfill_unaccounted_rows" not in found
