"""What a materialization shows, held against what the ledger has."""

from __future__ import annotations

import base64
import re
from collections import Counter
from collections.abc import Mapping
from decimal import Decimal

import dagster as dg
import pytest

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import LedgerError
from backfill_pipeline.orchestration import stage_metadata
from backfill_pipeline.orchestration.launch import LaunchedRun, launch_manifest, launch_range
from backfill_pipeline.orchestration.metadata import TABLE_ROWS
from backfill_pipeline.orchestration.partitions import partitions_name
from backfill_pipeline.orchestration.stage_metadata import PARTITIONS_DRAWN
from backfill_pipeline.reporting.plots import Plot
from backfill_pipeline_tests.stages.world import World, entries, entry

pytestmark = pytest.mark.e2e
Shown = Mapping[str, dg.MetadataValue]
PLOTS = {"throughput_plot", "daily_plot", "rejects_plot"}


def backfill(world: World, instance: dg.DagsterInstance) -> LaunchedRun:
    """Everything of source `s`, in one run."""
    definition = load_definition(world.folder / "sources" / "s.yaml")
    defs = build_defs({definition.id: definition})
    assert not launch_manifest(defs, instance, "s", accept_changed=False).errors
    return launch_range(defs, instance, "s", instance.get_dynamic_partitions(partitions_name("s")))


def shown(instance: dg.DagsterInstance, asset: str) -> dict[str, Shown]:
    """Partition (or "", of an asset without) → metadata of its newest event: what the UI shows of it."""
    records = instance.fetch_materializations(dg.AssetKey(["s", asset]), limit=100).records
    events = [record.asset_materialization for record in reversed(records)]
    return {event.partition or "": event.metadata for event in events if event}


def rows(value: dg.MetadataValue) -> list[dict[str, object]]:
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def is_picture(value: dg.MetadataValue) -> bool:
    assert isinstance(value, dg.MarkdownMetadataValue)
    match = re.match(r"!\[[^\]]+\]\(data:image/png;base64,([A-Za-z0-9+/=]+)\)\n\n\w", str(value.value))
    return match is not None and base64.b64decode(match[1]).startswith(b"\x89PNG")


def test_a_partition_shows_what_the_ledger_has_of_it(world: World, instance: dg.DagsterInstance) -> None:
    bad = [entry(n, amount="x") for n in range(25, 50)] + [entry(n, time="never") for n in range(50, 53)]
    again = [entry(1), entry(2, amount="7.77")]
    world.write(
        "s",
        [*entries(24), *bad, *again],
        partition_rows="100",
        config={"batch_size": "7"},
        max_error_rate="1",
    )
    backfill(world, instance)
    validated, posted = (shown(instance, stage)["0001"] for stage in ("validated", "posted"))

    batches = world.query(
        "SELECT seconds::float8, checkpoint_seconds::float8 FROM backfill_batches WHERE kind = 'entries' ORDER BY 1"
    )
    seconds = [batch for batch, _ in batches]
    assert all(0 < checkpoint < batch for batch, checkpoint in batches)
    assert [posted[name].value for name in ("rows_in", "rows_out", "batches", "duplicates", "conflicts")] == [
        26,
        24,
        4,
        1,
        1,
    ]
    # A batch is recorded before it is committed: what the run tells is a little more.
    assert posted["slowest_batch_s"].value >= round(seconds[-1], 4)
    assert posted["batch_p50_s"].value >= round(seconds[1], 4)
    assert posted["batch_p95_s"].value == posted["slowest_batch_s"].value
    assert posted["database_seconds"].value >= round(sum(seconds), 3)
    assert posted["checkpoint_seconds"].value == pytest.approx(sum(one for _, one in batches), abs=1e-4)
    assert posted["entries_per_second"].value > 0
    assert (
        posted["checkpoint_row"].value
        == world.query("SELECT max(last_row) FROM backfill_batches")[0][0]
        == 54
    )

    totals = world.query("SELECT currency_code, count(*), sum(amount) FROM ledger_entries GROUP BY 1")
    assert [(row["currency"], row["entries"]) for row in rows(posted["totals"])] == [("USD", "24")]
    assert Decimal(str(rows(posted["totals"])[0]["amount"])) == totals[0][2]
    assert posted["entries/USD"].value == 24
    assert validated["entries/USD"].value == 26

    assert rows(posted["rejects_by_code"]) == [{"code": "conflict", "rows": "1"}]
    assert rows(validated["rejects_by_code"]) == [
        {"code": "amount_malformed", "rows": "25"},
        {"code": "time_malformed", "rows": "3"},
    ]
    sample = rows(validated["rejects_sample"])
    assert len(sample) == TABLE_ROWS
    assert Counter(row["code"] for row in sample) == {"amount_malformed": 17, "time_malformed": 3}
    kept = {row: raw for row, raw in world.query("SELECT source_row::text, raw FROM backfill_rejects")}
    assert all(kept[row["row"]] == row["raw"] for row in sample)
    assert {name for name in posted if name.endswith("_plot")} == PLOTS
    assert all(is_picture(posted[name]) for name in PLOTS)


def test_pictures_are_drawn_of_the_first_partitions_and_the_last_and_of_the_whole(
    world: World, instance: dg.DagsterInstance
) -> None:
    world.write("s", [entry(71, amount="x"), *entries(70)], config={"batch_size": "5"}, max_error_rate="1")
    backfill(world, instance)
    posted = shown(instance, "posted")
    drawn = [key for key, metadata in sorted(posted.items()) if "daily_plot" in metadata]
    assert drawn == [*sorted(posted)[:PARTITIONS_DRAWN], max(posted)]
    assert all("entries/USD" in metadata for metadata in posted.values())
    whole = shown(instance, "reconciliation")[""]
    assert all(is_picture(whole[name]) for name in PLOTS)
    assert (whole["entries/USD"].value, whole["batches"].value, whole["verdict"].value) == (70, 15, "match")
    assert [whole[name].value for name in ("read", "posted", "rejected")] == [71, 70, 1]


def test_without_pictures_the_figures_are_the_same(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKFILL_PLOTS", "off")
    monkeypatch.setattr(stage_metadata.drawing, "draw", lambda *_: pytest.fail("pictures were drawn"))
    world.write("s", [entry(21, amount="x"), *entries(20)], config={"batch_size": "5"}, max_error_rate="1")
    backfill(world, instance)
    for asset, key in (("posted", "0001"), ("reconciliation", "")):
        metadata = shown(instance, asset)[key]
        assert not PLOTS & metadata.keys()
        assert metadata["entries/USD"].value > 0
        assert "figures" not in metadata


def test_a_failed_run_shows_pictures_of_what_it_posted(world: World, instance: dg.DagsterInstance) -> None:
    bad = [entry(n, amount="x") for n in range(91, 101)]
    world.write("s", [*entries(10), *bad], partition_rows="10", max_error_rate="0")
    backfill(world, instance)
    posted = shown(instance, "posted")
    assert list(posted) == ["0001"]
    assert is_picture(posted["0001"]["daily_plot"])
    assert posted["0001"]["entries/USD"].value == 10


def test_a_partition_that_is_taken_up_shows_all_of_its_entries(
    world: World, instance: dg.DagsterInstance
) -> None:
    """Totals, row count and rejects are those of the partition, whichever run had them."""
    world.write("s", [*entries(9), entry(9, amount="7.77")], config={"batch_size": "2"}, max_error_rate="1")
    backfill(world, instance)
    world.query("UPDATE backfill_partitions SET posted_at = NULL")
    world.query("UPDATE backfill_registrations SET completed_at = NULL")
    backfill(world, instance)
    posted = shown(instance, "posted")["0001"]
    assert (posted["posted"].value, posted["posted_before"].value) == (0, 10)
    assert posted["entries/USD"].value == posted["dagster/partition_row_count"].value == 9
    assert rows(posted["rejects_by_code"]) == [{"code": "conflict", "rows": "1"}]
    assert "batch_p50_s" not in posted

    backfill(world, instance)  # as somebody who launches it in the UI once more
    again = shown(instance, "posted")["0001"]
    assert again["note"].value == "posted before: nothing to do"
    assert "posted_before" not in again
    assert again["entries/USD"].value == again["dagster/partition_row_count"].value == 9
    assert [rows(again[name]) for name in ("totals", "rejects_by_code", "rejects_sample")] == [
        rows(posted[name]) for name in ("totals", "rejects_by_code", "rejects_sample")
    ]


def test_what_cannot_be_drawn_or_asked_fails_no_run(
    world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_arguments: object) -> Plot:
        raise LedgerError("no figures today")

    monkeypatch.setattr(stage_metadata.figures, "throughput", refuse)
    world.write("s", entries(10), config={"batch_size": "2"})
    run = backfill(world, instance)
    assert run.success
    assert run.checks["ledger_equals_source"]
    posted, whole = shown(instance, "posted")["0001"], shown(instance, "reconciliation")[""]
    assert posted["entries/USD"].value == 10
    for metadata in (posted, whole):
        assert metadata["figures"].value == "could not be had: no figures today"
        assert not PLOTS & metadata.keys()
