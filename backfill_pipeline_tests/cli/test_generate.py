"""`backfill generate`: what it writes can be run as it is, however unkind it was asked to be."""

from pathlib import Path

import pytest

from backfill_pipeline_tests.cli.command import Backfill


@pytest.mark.slow
def test_a_skewed_export_with_random_references_goes_through_the_whole_pipeline(
    backfill: Backfill, tmp_path: Path
) -> None:
    made = backfill(
        "generate", "--entries", 2000, "--accounts", 40, "--out", tmp_path / "export", "--name", "unkind",
        "--skew", 0.4, "--references", "uuid",
    )  # fmt: skip
    assert made.code == 0, made.stderr
    definition = tmp_path / "export" / "unkind.yaml"
    done = backfill("run", definition, "--json")
    assert done.code == 0, done.stderr
    assert (done.json["posted"], done.json["reconciliation"]) == (2000, "match")
    [(references, hot_legs)] = backfill.query(
        "SELECT count(DISTINCT reference_id::uuid), count(*) FILTER (WHERE %s IN (debit_account_id, credit_account_id))"
        " FROM ledger_entries WHERE transaction_type <> 'OPENING_BALANCE'",
        "UNKIND1-0000001",
    )
    assert references == 2000
    assert 1500 < int(str(hot_legs)) < 1750


@pytest.mark.parametrize(
    ("option", "value"), [("--skew", "0.6"), ("--references", "random"), ("--dirty", "0.7")]
)
def test_what_cannot_be_generated_is_a_usage_error(
    backfill: Backfill, tmp_path: Path, option: str, value: str
) -> None:
    refused = backfill(
        "generate", "--entries", 10, "--accounts", 20, "--out", tmp_path / "export", option, value
    )
    assert refused.code == 2
    assert option in refused.stderr
    assert not (tmp_path / "export").exists()
