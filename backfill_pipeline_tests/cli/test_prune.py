"""Pruning Dagster's history with the command: it says first what would go. What may go, `orchestration` tests."""

from __future__ import annotations

import pytest

from backfill_pipeline_tests.cli.command import Backfill

pytestmark = pytest.mark.e2e


def test_it_only_says_what_would_go_unless_it_is_meant(backfill: Backfill) -> None:
    said = backfill("prune", "--older-than", "30")
    assert said.code == 0
    assert said.stdout.startswith("0 runs with 0 events can go: ended before ")
    for options, deleted in ((), False), (("--delete",), True):
        outcome = backfill("prune", *options, "--json")
        assert outcome.code == 0
        assert {**outcome.json, "ended_before": None} == {
            "runs": 0,
            "events": 0,
            "kept": 0,
            "ended_before": None,
            "deleted": deleted,
        }
    assert backfill("prune", "--older-than", "0").code == 2
