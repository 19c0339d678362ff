"""Metrics: named by the conventions, whole or not at all, parsed strictly, and the page about them up to date."""

from __future__ import annotations

import re
import threading
import time
from collections import Counter
from dataclasses import replace

import pytest
from prometheus_client.core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from backfill_pipeline.ledger.monitoring.snapshot import REASONS, Snapshot, Unavailable, look
from backfill_pipeline.ledger.monitoring.sources import OpenRejects
from backfill_pipeline.reporting.metrics.catalogue import ALL_METRICS, reference, series_names
from backfill_pipeline.reporting.metrics.exporter import Exporter, exposition
from backfill_pipeline_tests.postgresql import Server
from backfill_pipeline_tests.stages.world import CHECKOUT, World, entries, entry

PAGE = CHECKOUT / "docs" / "metrics.md"
DOWN = Unavailable("unreachable", "the ledger is away")
UNITS = ("seconds", "bytes")


@pytest.fixture(scope="module")
def snapshot(server: Server, tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    with server.ledger_database() as url:
        world = World(url, tmp_path_factory.mktemp("metrics"))
        rows = [*entries(20), entry(1), entry(21, amount="x")]
        path = world.write("bank", rows, max_error_rate="1")
        world.post(path)
        world.reconcile(path)
        found = look(url)
    assert isinstance(found, Snapshot), found
    return found


def parsed(text: bytes) -> dict[str, Metric]:
    return {one.name: one for one in text_string_to_metric_families(text.decode())}


def samples(text: bytes) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for one in parsed(text).values()
        for sample in one.samples
    }


def value(text: bytes, name: str, **labels: str) -> float:
    return samples(text)[name, frozenset(labels.items())]


class TestNames:
    @pytest.mark.parametrize("one", ALL_METRICS, ids=lambda one: one.name)
    def test_follow_the_conventions(self, one: object) -> None:
        [declared] = [found for found in ALL_METRICS if found is one]
        assert re.fullmatch(r"backfill_[a-z][a-z0-9_]*[a-z]", declared.name)
        assert not declared.name.endswith(("_total", "_count", "_sum", "_bucket"))
        ending = declared.name.rpartition("_")[2]
        assert declared.unit == (ending if ending in UNITS else "")
        assert not re.search(r"_(ms|minutes|hours|s|kb|mb)$", declared.name)
        assert "timestamp" not in declared.name or declared.name.endswith("_timestamp_seconds")
        assert declared.help[0].isupper() or declared.help[0].isdigit()
        assert not declared.help.endswith(".")
        assert all(re.fullmatch("[a-z]+", label) for label in declared.labels)

    def test_are_given_once(self) -> None:
        names = [name for one in ALL_METRICS for name in one.series_names]
        assert len(names) == len(set(names)) == len(series_names())

    def test_the_strategy_finds_all_that_it_asks_for(self) -> None:
        """§Monitoring: progress, performance and quality."""
        assert {one.name for one in ALL_METRICS if one.strategy} >= {
            "backfill_expected_rows",  # total entries to process
            "backfill_processed_rows",  # entries processed
            "backfill_rows",  # successful, failed; duplicates skipped
            "backfill_batch_rows",  # processing rate
            "backfill_batch_duration_seconds",  # batch processing time
            "backfill_look_query_duration_seconds",  # database query time
            "backfill_checkpoint_duration_seconds",  # checkpoint save time
            "backfill_elapsed_seconds",  # total elapsed time
            "backfill_rejects",  # validation errors
            "backfill_offending_accounts",  # balance inconsistencies
            "backfill_reconciliation_breaks",  # reconciliation mismatches
            "backfill_stalled_checkpoints",
        }


class TestTheText:
    def test_holds_every_metric_with_its_labels_and_what_the_ledger_says(self, snapshot: Snapshot) -> None:
        text = exposition(snapshot, Counter())
        assert text.endswith(b"# EOF\n")
        found = parsed(text)
        assert list(found) == [one.name for one in ALL_METRICS]
        for declared in ALL_METRICS:
            one = found[declared.name]
            assert (one.type, one.unit, one.documentation) == (declared.kind, declared.unit, declared.help)
            for sample in one.samples:
                assert sample.name in declared.series_names
                assert set(sample.labels) - {"le"} == set(declared.labels)
        assert value(text, "backfill_up") == 1
        rows = {
            outcome: value(text, "backfill_rows", source="bank", outcome=outcome)
            for outcome in ("posted", "duplicate", "conflict", "rejected", "filtered")
        }
        assert rows == {"posted": 20, "duplicate": 1, "conflict": 0, "rejected": 1, "filtered": 0}
        assert value(text, "backfill_expected_rows", source="bank") == sum(rows.values()) == 22
        assert value(text, "backfill_unaccounted_rows", source="bank") == 0
        assert value(text, "backfill_partitions", source="bank", state="posted") == 3
        assert value(text, "backfill_partitions", source="bank", state="failed") == 0
        assert value(text, "backfill_rejects", source="bank", stage="transform", code="amount_malformed") == 1
        batches = value(text, "backfill_batch_duration_seconds_count", source="bank", kind="entries")
        assert batches == value(
            text, "backfill_batch_duration_seconds_bucket", source="bank", kind="entries", le="+Inf"
        )
        assert batches == 3

    def test_counters_of_a_source_begin_at_nothing(self, snapshot: Snapshot) -> None:
        """Else the first batch of a source would be in no rate."""
        registered = replace(snapshot, batch_work=())
        text = exposition(registered, Counter())
        assert value(text, "backfill_batch_duration_seconds_count", source="bank", kind="entries") == 0
        rows = {"source": "bank", "kind": "entries", "outcome": "posted"}
        assert value(text, "backfill_batch_rows_total", **rows) == 0
        assert value(exposition(snapshot, Counter()), "backfill_batch_rows_total", **rows) == 20

    def test_says_when_there_is_nothing_else_that_the_ledger_is_down(self) -> None:
        text = exposition(DOWN, Counter({"unreachable": 2}))
        assert list(parsed(text)) == ["backfill_up", "backfill_build_info", "backfill_look_failures"]
        assert value(text, "backfill_up") == 0
        assert {reason: value(text, "backfill_look_failures_total", reason=reason) for reason in REASONS} == {
            "unreachable": 2,
            "schema": 0,
            "timeout": 0,
            "failed": 0,
        }

    @pytest.mark.parametrize("name", ['"} 1', "a\\b", "two\nlines", "# EOF", "صندوق 銀行", "", "x" * 10_000])
    def test_names_from_outside_stay_what_they_are(self, snapshot: Snapshot, name: str) -> None:
        hostile = replace(snapshot, open_rejects=(OpenRejects(name, "post", name, 7),))
        text = exposition(hostile, Counter())
        assert value(text, "backfill_rejects", source=name, stage="post", code=name) == 7


class Ledger:
    """A ledger as an exporter sees it; what it answers can be changed, and held up."""

    def __init__(self, *answers: Snapshot | Unavailable | Exception) -> None:
        self.answers = list(answers)
        self.looks = 0
        self.may_answer = threading.Event()
        self.may_answer.set()

    def __call__(self) -> Snapshot | Unavailable:
        self.looks += 1
        answer = self.answers[min(self.looks, len(self.answers)) - 1]
        assert self.may_answer.wait(60)
        if isinstance(answer, Exception):
            raise answer
        return answer


class TestTheExporter:
    def test_many_who_ask_at_once_are_answered_with_one_look(self, snapshot: Snapshot) -> None:
        ledger = Ledger(snapshot)
        ledger.may_answer.clear()
        exporter = Exporter(ledger)
        texts: list[bytes] = []
        threads = [threading.Thread(target=lambda: texts.append(exporter.text())) for _ in range(20)]
        for thread in threads:
            thread.start()
        ledger.may_answer.set()
        for thread in threads:
            thread.join()
        assert (len(texts), len(set(texts)), ledger.looks) == (20, 1, 1)

    def test_a_look_is_kept_for_a_moment_and_no_longer(self, snapshot: Snapshot) -> None:
        ledger = Ledger(snapshot)
        keeping = Exporter(ledger, kept_s=3600)
        assert keeping.text() == keeping.text()
        assert ledger.looks == 1
        forgetful = Exporter(ledger, kept_s=0)
        forgetful.text()
        forgetful.text()
        assert ledger.looks == 3

    def test_it_says_once_that_the_ledger_is_down_and_once_that_it_is_back(self, snapshot: Snapshot) -> None:
        said: list[str] = []
        ledger = Ledger(snapshot, DOWN, DOWN, snapshot, snapshot)
        exporter = Exporter(ledger, say=said.append, kept_s=0)
        up = [value(exporter.text(), "backfill_up") for _ in range(5)]
        assert up == [1, 0, 0, 1, 1]
        assert said == ["the ledger is away", "the ledger can be looked at again"]
        assert value(exporter.text(), "backfill_look_failures_total", reason="unreachable") == 2

    def test_an_answer_comes_in_time_also_when_the_ledger_does_not(self, snapshot: Snapshot) -> None:
        ledger = Ledger(snapshot)
        ledger.may_answer.clear()
        exporter = Exporter(ledger, answer_timeout_s=0.05, kept_s=3600)
        text = exporter.text()
        assert value(text, "backfill_up") == 0
        assert value(text, "backfill_look_failures_total", reason="timeout") == 1
        exporter.text()
        assert ledger.looks == 1  # nobody asks a ledger again that has not answered
        ledger.may_answer.set()
        deadline = time.monotonic() + 60
        while value(exporter.text(), "backfill_up") == 0:
            assert time.monotonic() < deadline
        assert ledger.looks == 1

    def test_a_look_that_is_lost_is_not_waited_for_for_ever(self, snapshot: Snapshot) -> None:
        """A connection may be gone without anybody saying so: the ledger would be down until somebody restarts us."""
        lost = threading.Event()
        looks: list[int] = []

        def look() -> Snapshot:
            looks.append(len(looks))
            if len(looks) == 1:
                assert lost.wait(60)
            return snapshot

        exporter = Exporter(look, answer_timeout_s=0.05, lost_after_s=0.05, kept_s=3600)
        assert value(exporter.text(), "backfill_up") == 0
        deadline = time.monotonic() + 60
        while value(exporter.text(), "backfill_up") == 0:
            assert time.monotonic() < deadline
        lost.set()
        assert len(looks) >= 2

    def test_a_defect_of_ours_is_a_failed_look_and_the_next_one_is_made(self, snapshot: Snapshot) -> None:
        said: list[str] = []
        exporter = Exporter(Ledger(RuntimeError("oops"), snapshot), say=said.append, kept_s=0)
        assert value(exporter.text(), "backfill_up") == 0
        assert value(exporter.text(), "backfill_up") == 1
        assert said[0] == "unexpected RuntimeError: oops"


def test_the_page_has_the_tables_that_the_code_says() -> None:
    """When this fails: python -c 'from backfill_pipeline.reporting.metrics.catalogue import *; print(reference())'."""
    _, begins, rest = PAGE.read_text(encoding="utf-8").partition("<!-- from the code -->\n")
    tables, ends, _ = rest.partition("<!-- to here -->")
    assert begins
    assert ends
    assert tables.strip() == reference().strip()
