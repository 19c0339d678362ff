"""`backfill report`, as people type it: a page in every case, and an exit code that calls no loss a success."""

from __future__ import annotations

from pathlib import Path

from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.pages.reading import Page
from backfill_pipeline_tests.stages.world import World, entries

ACCOUNTS = {"A": "1000", "B": "1000", "C": "1000"}


def test_every_outcome_has_its_page_and_its_code(backfill: Backfill, world: World, tmp_path: Path) -> None:
    out = tmp_path / "reports" / "bank.html"
    world.write("bank", entries(12), accounts=ACCOUNTS)
    never = backfill("report", "bank", "--out", out)
    assert (
        never.code,
        never.sentence.endswith("source bank was never run here: there is nothing to report"),
    ) == (2, True)

    assert backfill("run", "bank").code == 0
    clean = backfill("report", "bank", "--out", out)
    assert (clean.code, clean.stderr) == (0, "")
    assert f"complete and equal  report of bank in {out}" in clean.stdout
    assert Page(out.read_text(encoding="utf-8")).wrong == []

    world.query("DELETE FROM backfill_reconciliations")
    not_done = backfill("report", "bank", "--out", out, "--samples", 0, "--json")
    assert (not_done.code, not_done.json["outcome"], not_done.json["path"]) == (3, "not complete", str(out))
    assert not_done.json["findings"] == [
        {"level": "open", "text": "not reconciled, or rolled back since", "remedy": "backfill reconcile bank"}
    ]

    world.tamper("UPDATE ledger_entries SET amount = 7 WHERE reference_id = 'R000003'")
    assert backfill("reconcile", "bank").code == 4
    broken = backfill("report", "bank", "--out", out)
    assert (broken.code, "does not hold" in broken.stdout) == (4, True)

    wrong = backfill("report", "bank", "--out", tmp_path)
    assert (wrong.code, "is a folder: name a file with --out" in wrong.sentence) == (2, True)
