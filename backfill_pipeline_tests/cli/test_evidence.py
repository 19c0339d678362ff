"""`backfill evidence`: a pack, its check and its key, as people type them."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.stages.world import World, entries, entry


@pytest.mark.slow
def test_from_key_to_check(backfill: Backfill, world: World, tmp_path: Path) -> None:
    world.write("bank", [*entries(12), entry(13, amount="much")], max_error_rate="1")
    assert backfill("run", "bank").code == 3
    key, pack = tmp_path / "key.pem", tmp_path / "pack"

    made = backfill("evidence", "keygen", "--out", key, "--json")
    assert (made.code, made.json["public_key"]) == (0, f"{key}.pub")

    # Options may come first, as with every command.
    written = backfill("evidence", "--out", pack, "--sign", key, "--by", "anna", "bank", "--json")
    assert (written.code, written.json["findings"]) == (0, [])
    assert written.json["signed_by"] == made.json["fingerprint"]

    checked = backfill("evidence", "verify", pack, "--public-key", f"{key}.pub")
    assert checked.code == 0
    assert f"signed by the given key: {made.json['fingerprint']}" in checked.stdout
    (pack / "rejects.csv").write_text("nothing was rejected")
    touched = backfill("evidence", "verify", pack, "--json")
    assert (touched.code, touched.json["verdict"]) == (4, "changed")
    assert touched.json["faults"] == ["rejects.csv was changed"]

    world.tamper("UPDATE ledger_entries SET amount = 7 WHERE reference_id = 'R000003'")
    broken = backfill("evidence", "bank", "--out", tmp_path / "broken")
    assert (broken.code, "does not hold" in broken.stdout) == (4, True)
    assert backfill.query(
        "SELECT actor FROM audit_log WHERE action = 'evidence_packed' ORDER BY 1 LIMIT 1"
    ) == [("anna",)]
    assert backfill("evidence", "bank", "--out", pack).sentence.endswith("name a new one with --out")
