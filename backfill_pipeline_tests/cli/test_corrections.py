"""`backfill corrections`: what people see and scripts rely on."""

from __future__ import annotations

import pytest

from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.stages.world import World, entries

pytestmark = pytest.mark.e2e


@pytest.mark.slow
def test_from_a_missing_entry_to_a_ledger_that_matches_again(backfill: Backfill, world: World) -> None:
    path = world.write("bank", entries(12), accounts={"A": "1000", "B": "1000"})
    assert backfill("run", path).code == 0
    world.query("DELETE FROM ledger_entries WHERE reference_id IN ('R000004', 'R000011')")
    assert backfill("reconcile", "bank").code == 4

    proposed = backfill("corrections", "propose", "bank", "--by", "ann")
    assert proposed.code == 3
    assert "2 corrections proposed" in proposed.stdout
    listed = backfill("corrections", "list", "--json").json
    found = listed["corrections"]
    assert isinstance(found, list)
    first, second = sorted(one["id"] for one in found)

    early = backfill("corrections", "apply", first, "--by", "ann")
    assert early.code == 3
    assert f"backfill corrections approve {first}" in early.stdout
    assert backfill("corrections", "approve", first, "--by", "ann").code == 3
    approved = backfill("corrections", "approve", first, "--by", "bob", "--reason", "seen in the export")
    assert (approved.code, approved.stdout) == (0, f"correction {first} is approved\n")
    shown = backfill("corrections", "show", first).stdout
    assert "R000004 in ledger MASTER" in shown
    assert "UTC by bob" in shown
    assert backfill("corrections", "show", 4711).code == 2

    half = backfill("corrections", "apply", "--by", "bob")
    assert half.code == 4  # the other one is still missing
    assert "backfill corrections propose bank" in half.stdout
    assert backfill("corrections", "approve", second, "--by", "bob").code == 0
    done = backfill("corrections", "apply", "--by", "bob", "--json")
    assert done.code == 0
    verification = done.json["verification"]
    assert isinstance(verification, dict)
    assert verification["matches"] is True
    assert verification["sources"] == [
        {"source_id": "bank", "reconciliation": "match", "corrected": 2, "break_count": 0, "break_kinds": {}}
    ]
    reconciled = backfill("reconcile", "bank", "--json")
    assert (reconciled.code, reconciled.json["corrected"]) == (0, 2)


def test_wrong_usage_is_said_in_a_sentence(backfill: Backfill, world: World) -> None:
    path = world.write("bank", entries(1))
    for arguments in ((), (path, "--audit")):
        done = backfill("corrections", "propose", *arguments)
        assert done.code == 2
        assert "for one source, or with --audit" in done.sentence
    never_run = backfill("corrections", "propose", path)
    assert never_run.code == 2
    assert "was never run here" in never_run.sentence
    assert backfill("corrections", "approve", 1).code == 2
    assert backfill("corrections", "propose", "--audit", "--suspense", "NONE").code == 2
