"""Repairing the rejects of the bundled sample with the command, killed in the middle too."""

from __future__ import annotations

import csv
import json
import os
import signal
from pathlib import Path

import pytest

from backfill_pipeline_tests.cli.command import Backfill, wait_until
from backfill_pipeline_tests.stages.repair import repair, rows_of
from backfill_pipeline_tests.stages.world import CHECKOUT, World, entries, entry

pytestmark = pytest.mark.e2e

EXPECTED = json.loads((CHECKOUT / "data" / "sample" / "expected.json").read_text())
COUNTS = ("read", "posted", "duplicates", "conflicts", "rejected", "filtered")


def status(backfill: Backfill) -> dict[str, int]:
    """The count equation of the only source, which must hold."""
    sources = backfill("status", "--json").json["sources"]
    assert isinstance(sources, list)
    (source,) = sources
    assert source["read"] == sum(source[name] for name in COUNTS[1:])
    assert source["reconciliation"] == "match"
    assert source["status"] == "COMPLETED"
    assert sum(source["rejects_by_code"].values()) == source["rejected"] + source["conflicts"]
    return {name: source[name] for name in COUNTS}


@pytest.mark.slow
def test_rejects_of_the_sample_are_exported_repaired_and_replayed(backfill: Backfill, tmp_path: Path) -> None:
    backfill.sources_dir = None
    assert backfill("run", "sample").code == 3
    file = tmp_path / "repaired.csv"
    assert backfill("rejects", "export", "sample", "--out", file).code == 0
    exported = rows_of(file)
    assert len(exported) == EXPECTED["rejected"] + EXPECTED["conflicts"]
    spoilt_amounts = [int(row["reject.row"]) for row in exported if row["reject.code"] == "amount_malformed"]
    assert spoilt_amounts
    repair(file, {row: {"amount": "1"} for row in spoilt_amounts})

    replayed = backfill("rejects", "replay", "sample", "--file", file, "--json")

    assert replayed.code == 3, replayed  # the others stay rejected
    result = replayed.json
    assert result["rows"] == len(exported)
    assert result["read"] == sum(int(str(result[name])) for name in COUNTS[1:])
    assert result["posted"] == len(spoilt_amounts)
    assert result["reconciliation"] == "match"
    assert status(backfill) == {
        "read": EXPECTED["entries"],
        "posted": EXPECTED["posted"] + len(spoilt_amounts),
        "duplicates": EXPECTED["duplicates"],
        "conflicts": EXPECTED["conflicts"],
        "rejected": EXPECTED["rejected"] - len(spoilt_amounts),
        "filtered": 0,
    }
    rows = backfill.query(
        "SELECT e.source_row FROM ledger_entries e JOIN backfill_batches b ON b.id = e.batch_id WHERE b.kind = 'replay'"
        " ORDER BY 1"
    )
    assert [row for (row,) in rows] == spoilt_amounts

    again = backfill("rejects", "replay", "sample", "--file", file)
    assert f"replayed before {len(spoilt_amounts)}" in again.stdout
    assert "posted 0" in again.stdout
    repair(file, {spoilt_amounts[0]: {"amount": "2"}})
    refused = backfill("rejects", "replay", "sample", "--file", file)
    assert refused.code == 2
    assert "was replayed already with other values" in refused.sentence

    listed = backfill("rejects", "list", "sample", "--json").json
    assert listed["repaired"] == len(spoilt_amounts)
    assert isinstance(listed["rejects"], list)
    states = {row["source_row"]: row["state"] for row in listed["rejects"]}
    assert {states[row] for row in spoilt_amounts} == {"posted"}
    assert "sent again, posted: batch" in backfill("rejects", "list", "sample").stdout
    once_more = backfill("run", "sample", "--json").json
    assert (once_more["posted"], once_more["reconciliation"]) == (0, "match")
    assert once_more["duplicates"] == EXPECTED["posted"] + len(spoilt_amounts) + EXPECTED["duplicates"]
    assert backfill("reconcile", "sample").code == 0


@pytest.mark.slow
def test_every_reject_repaired_is_exit_code_0(backfill: Backfill, world: World, tmp_path: Path) -> None:
    source = world.write("bank", [entry(1, amount="-1.00"), entry(2)], max_error_rate="1")
    assert backfill("run", source).code == 3
    file = tmp_path / "repaired.csv"
    file.write_text(backfill("rejects", "export", source).stdout, encoding="utf-8", newline="")
    assert [row["amount"] for row in rows_of(file)] == ["'-1.00"]
    unchanged = backfill("rejects", "replay", source, "--file", file)
    assert unchanged.code == 3
    assert "nothing new" in unchanged.stdout
    assert backfill("rejects", "replay", source, "--file", repair(file, {1: {"amount": "1.00"}})).code == 0
    assert backfill("rejects", "export", source).stdout.count("\n") == 1
    assert backfill("rejects", "replay", source, "--file", tmp_path / "none.csv").code == 2


def test_the_export_of_a_source_that_changed_says_that_its_columns_are_empty(
    backfill: Backfill, world: World
) -> None:
    source = world.write("bank", [entry(1, amount="-1.00"), entry(2)], max_error_rate="1")
    assert backfill("run", source).code == 3
    world.write_rows("bank", entries(3))
    exported = backfill("rejects", "export", source)
    assert exported.code == 0
    assert "columns are left empty" in exported.stderr
    (row,) = csv.DictReader(exported.stdout.splitlines())
    assert (row["amount"], row["reject.code"]) == ("", "amount_not_positive")


@pytest.mark.slow
def test_killed_while_replaying_and_again_ends_exact(
    backfill: Backfill, world: World, tmp_path: Path
) -> None:
    rows = [entry(number, amount="x" if number % 2 else "1.00") for number in range(1, 2_001)]
    source = world.write("bank", rows, max_error_rate="1", partition_rows="100", config={"batch_size": "5"})
    assert backfill("run", source).code == 3
    file = tmp_path / "repaired.csv"
    assert backfill("rejects", "export", source, "--out", file).code == 0
    repair(file, {number: {"amount": "1.00"} for number in range(1, 2_001, 2)})

    def replayed() -> int:
        return int(str(backfill.query("SELECT count(*) FROM backfill_batches WHERE kind = 'replay'")[0][0]))

    for wanted in (1, 40):
        with backfill.started("rejects", "replay", source, "--file", file) as process:
            wait_until(lambda wanted=wanted: replayed() >= wanted or process.poll() is not None)
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert 40 <= replayed() < 200

    last = backfill("rejects", "replay", source, "--file", file, "--json")

    assert last.code == 0, last
    assert int(str(last.json["already_replayed"])) + int(str(last.json["posted"])) == 1_000
    assert status(backfill) == dict(zip(COUNTS, (2_000, 2_000, 0, 0, 0, 0), strict=True))
    assert world.value("SELECT count(DISTINCT reference_id)::int FROM ledger_entries") == 2_000
    assert world.value("SELECT total_successful::int FROM ledger_backfill_checkpoints") == 2_000
