"""The sensor on a real instance: what it requests, what its runs do, and what it leaves alone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import dagster as dg
import psycopg
import pytest
from dagster._core.definitions.sensor_definition import SensorExecutionData

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.ledger.connection import source_lock
from backfill_pipeline.orchestration import inbox
from backfill_pipeline.orchestration.inbox import ATTEMPTS_MAX, INBOX_TAG
from backfill_pipeline.orchestration.partitions import partitions_name
from backfill_pipeline_tests.cli.command import batches, wait_until
from backfill_pipeline_tests.stages.test_inbox import Watched
from backfill_pipeline_tests.stages.world import CHECKOUT, World, entries, entry

pytestmark = pytest.mark.e2e
RICH = {"A": 1, "B": 100_000, "C": 1}


class Sensed(Watched):
    """A watched folder with the real sensor, whose requests are run as the daemon would, in this process."""

    def __init__(self, world: World, instance: dg.DagsterInstance, **settings: object) -> None:
        super().__init__(world, accounts=RICH, **settings)
        self.instance = instance

    @property
    def defs(self) -> dg.Definitions:
        definition = load_definition(self.source)
        return build_defs({definition.id: definition})

    def tick(self) -> SensorExecutionData:
        """One evaluation, a good second after the one before: files settle in one."""
        self.let_a_second_pass()
        defs = self.defs
        sensor = defs.resolve_sensor_def("inbox")
        return sensor.evaluate_tick(
            dg.build_sensor_context(instance=self.instance, definitions=defs, sensor_name="inbox")
        )

    def let_a_second_pass(self) -> None:
        """For the files: what was seen of them was seen a second earlier."""
        with psycopg.connect(self.world.url, autocommit=True) as connection:
            if connection.execute("SELECT to_regclass('backfill_inbox_files')").fetchone() != (None,):
                connection.execute("UPDATE backfill_inbox_files SET since = since - interval '1 s'")

    def run(self, request: dg.RunRequest) -> dg.ExecuteInProcessResult:
        assert request.job_name is not None
        job = self.defs.resolve_job_def(request.job_name)
        if request.asset_selection is not None:
            job = job.get_subset(asset_selection=set(request.asset_selection))
        return job.execute_in_process(
            run_config=request.run_config,
            instance=self.instance,
            tags={**request.tags, "dagster/run_key": str(request.run_key)},
            raise_on_error=False,
        )

    def launched(self) -> list[str]:
        """Ticks and runs until a tick requests nothing, after the two that see what is new; the jobs that ran."""
        jobs = []
        self.tick()
        while requests := self.tick().run_requests:
            (request,) = requests
            jobs.append(
                f"{request.job_name} {request.tags.get('dagster/asset_partition_range_start', '')}".strip()
            )
            self.run(request)
            assert len(jobs) < 10
        return jobs

    def says(self) -> str:
        data = self.tick()
        assert data.run_requests == []
        return str(data.skip_message)


@pytest.fixture
def sensed(world: World, instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch) -> Sensed:
    monkeypatch.setenv("BACKFILL_INBOX_DIR", str(world.folder / "sources" / "in"))
    monkeypatch.setenv("BACKFILL_INBOX_SETTLE_S", "1")
    return Sensed(world, instance)


def test_a_file_is_left_alone_while_it_grows_then_launched_once(sensed: Sensed) -> None:
    for count in (3, 8, 25):
        sensed.put("1.csv", entries(count))
        assert "s waiting (1 waiting)" in sensed.says()
    jobs = []
    while requests := sensed.tick().run_requests:
        (request,) = requests
        jobs.append(request.job_name)
        assert request.run_key == f"{request.tags[INBOX_TAG]}/1"
        assert sensed.run(request).success
    assert jobs == ["register_s", "backfill_s"]
    assert len(sensed.world.references()) == 25
    assert sensed.world.value("SELECT verdict FROM backfill_reconciliations") == "match"
    assert list(sensed.instance.get_dynamic_partitions(partitions_name("s"))) == ["0001", "0002", "0003"]
    assert "s done (1 done)" in sensed.says()
    assert "s done (1 done)" in sensed.says()


@pytest.mark.slow
def test_a_second_file_runs_its_own_partitions_alone(sensed: Sensed) -> None:
    sensed.put("2.csv", entries(20))
    assert sensed.launched() == ["register_s", "backfill_s 0001"]
    sensed.put("1.csv", entries(20, first=21))
    assert sensed.launched() == ["register_s", "backfill_s 0003"]
    assert len(sensed.world.references()) == 40
    assert sensed.world.value("SELECT sum(duplicates)::int FROM backfill_batches") == 0
    assert sensed.world.query("SELECT verdict, entries_compared::int FROM backfill_reconciliations ORDER BY id") == [
        ("match", 23), ("match", 43),
    ]  # fmt: skip
    shown = sensed.instance.get_materialized_partitions(dg.AssetKey(["s", "posted"]))
    assert shown == {"0001", "0002", "0003", "0004"}


@pytest.mark.slow
def test_the_same_content_under_another_name_is_told_and_left_out(sensed: Sensed) -> None:
    path = sensed.put("1.csv", entries(10))
    sensed.launched()
    (sensed.folder / "again.csv").write_bytes(path.read_bytes())
    assert sensed.launched() == []
    text = sensed.says()
    assert "s done (1 done, 1 copy)" in text
    assert "again.csv has the content of 1.csv: left out" in text


def test_a_file_that_cannot_be_used_is_tried_once_and_again_when_it_changed(sensed: Sensed) -> None:
    sensed.put("1.csv", entries(10))
    sensed.launched()
    bad = sensed.folder / "2.csv"
    bad.write_text("ref,debit\nR1,A\n")
    assert sensed.launched() == ["register_s"]
    for _ in range(3):
        text = sensed.says()
        assert "s refused (1 done, 1 refused)" in text
        assert "2.csv: has other columns than 1.csv" in text
    sensed.put("2.csv", entries(5, first=11))
    assert sensed.launched() == ["register_s", "backfill_s 0002"]
    assert "s done (2 done)" in sensed.says()


@pytest.mark.slow
def test_files_that_cannot_be_used_do_not_hold_up_the_others(sensed: Sensed) -> None:
    sensed.put("1.csv", entries(10))
    for name in ("0.csv", "5.csv"):
        (sensed.folder / name).write_text("ref,debit\nR1,A\n")
    (sensed.folder / "5.csv").write_text("ref,debit\nR1,B\n")
    sensed.put("9.csv", entries(10, first=11))
    sensed.tick()
    for _ in range(8):
        for request in sensed.tick().run_requests or []:
            sensed.run(request)
    text = sensed.says()
    assert "refused" in text
    assert sensed.world.references() == []  # 0.csv comes first: its columns are those of the source
    for name in ("0.csv", "5.csv"):
        (sensed.folder / name).unlink()
    assert sensed.launched() == ["register_s", "backfill_s 0001"]
    (sensed.folder / "0.csv").write_text("ref,debit\nR1,A\n")
    sensed.put("3.csv", entries(10, first=21))
    (sensed.folder / "5.csv").write_text("ref,debit\nR1,B\n")
    assert sensed.launched() == ["register_s", "register_s", "register_s", "backfill_s 0003"]
    assert "s refused (3 done, 2 refused)" in sensed.says()
    assert len(sensed.world.references()) == 30


@pytest.mark.slow
def test_too_many_rejects_are_told_and_the_next_file_is_not_held_up(sensed: Sensed) -> None:
    sensed.put("1.csv", [entry(1, amount="x")])
    assert sensed.launched() == ["register_s", "backfill_s 0001"]
    assert "more than max_error_rate" in sensed.says()
    sensed.put("2.csv", entries(10, first=2))
    assert sensed.launched() == ["register_s", "backfill_s 0002"]
    assert len(sensed.world.references()) == 10


def test_a_run_of_the_source_is_waited_for(sensed: Sensed) -> None:
    sensed.put("1.csv", entries(10))
    sensed.tick()
    with source_lock(sensed.world.url, "s"):
        assert "s running (1 new): a run is in progress" in sensed.says()
    job = sensed.defs.resolve_job_def("register_s")
    run = sensed.instance.create_run_for_job(job, tags={"by": "a person"}, status=dg.DagsterRunStatus.STARTED)
    assert "a run is in progress" in sensed.says()
    sensed.instance.report_run_failed(run)
    assert len(sensed.tick().run_requests or []) == 1


@pytest.mark.slow
def test_a_run_whose_process_died_is_tried_again_a_few_times(
    sensed: Sensed, monkeypatch: pytest.MonkeyPatch
) -> None:
    sensed.put("1.csv", entries(10))
    sensed.tick()
    (request,) = sensed.tick().run_requests or []
    run = sensed.instance.create_run_for_job(
        sensed.defs.resolve_job_def("register_s"), tags=request.tags, status=dg.DagsterRunStatus.STARTED
    )
    sensed.instance.report_run_failed(run)
    assert "Dagster starts its run again" in sensed.says()  # as dagster.yaml asks it to
    monkeypatch.setattr(inbox, "_RETRY_GRACE_S", 0)  # and it did not
    keys = [request.run_key]
    for _ in range(ATTEMPTS_MAX - 1):
        (request,) = sensed.tick().run_requests or []
        keys.append(request.run_key)
        run = sensed.instance.create_run_for_job(
            sensed.defs.resolve_job_def("register_s"), tags=request.tags, status=dg.DagsterRunStatus.STARTED
        )
        sensed.instance.report_run_failed(run)
    assert len(set(keys)) == ATTEMPTS_MAX  # Dagster launches a key once
    assert "its process died" in sensed.says()


@pytest.mark.slow
def test_a_cancelled_run_is_not_started_again(sensed: Sensed) -> None:
    sensed.put("1.csv", entries(10))
    sensed.tick()
    (request,) = sensed.tick().run_requests or []
    run = sensed.instance.create_run_for_job(
        sensed.defs.resolve_job_def("register_s"), tags=request.tags, status=dg.DagsterRunStatus.STARTED
    )
    sensed.instance.report_run_canceled(run)
    assert "its run was cancelled" in sensed.says()


@pytest.mark.slow
def test_a_cancelled_run_that_got_somewhere_is_not_started_again(sensed: Sensed) -> None:
    sensed.put("1.csv", entries(30))
    sensed.tick()
    (register,) = sensed.tick().run_requests or []
    sensed.run(register)
    (post,) = sensed.tick().run_requests or []
    sensed.world.post(sensed.source, register=False, keys=["0001"])
    run = sensed.instance.create_run_for_job(
        sensed.defs.resolve_job_def("backfill_s"), tags=post.tags, status=dg.DagsterRunStatus.STARTED
    )
    sensed.instance.report_run_canceled(run)
    assert "its run was cancelled" in sensed.says()
    sensed.put("2.csv", entries(10, first=31))
    assert sensed.launched() == ["register_s", "backfill_s 0002"]
    assert len(sensed.world.references()) == 40


@pytest.mark.slow
def test_a_killed_command_is_carried_on_with(sensed: Sensed) -> None:
    """kill -9 of a run in the middle: its run is swept, and what is left of it is posted."""
    text = sensed.source.read_text().replace("partition_rows: '10'", "partition_rows: 500")
    sensed.source.write_text(text + "config: {batch_size: 5}\n")
    sensed.put("1.csv", entries(4000))
    command = subprocess.Popen(
        [sys.executable, "-m", "backfill_pipeline.cli", "run", str(sensed.source)],
        env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    wait_until(lambda: batches(sensed.world.url) > 40)
    os.killpg(command.pid, signal.SIGKILL)
    command.wait()
    before = batches(sensed.world.url)
    assert before < 800
    jobs = sensed.launched()
    assert [job.split()[0] for job in jobs] == ["backfill_s"]
    assert len(sensed.world.references()) == 4000
    assert (
        sensed.world.value("SELECT verdict FROM backfill_reconciliations ORDER BY id DESC LIMIT 1") == "match"
    )
    assert "s done (1 done)" in sensed.says()


def test_a_run_that_was_killed_after_posting_is_finished(sensed: Sensed) -> None:
    sensed.tick()
    sensed.put("1.csv", entries(10))
    sensed.world.post(sensed.source)
    assert sensed.launched() == ["backfill_s"]
    assert sensed.world.value("SELECT verdict FROM backfill_reconciliations") == "match"


def test_files_that_no_source_takes_are_told(sensed: Sensed) -> None:
    (sensed.folder / "notes.txt").write_text("?")
    text = sensed.says()
    assert "s empty (no file)" in text
    assert "no source takes" in text
    assert "notes.txt" in text


def test_without_a_source_of_the_inbox_no_ledger_is_opened(
    sensed: Sensed, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKFILL_INBOX_DIR", str(sensed.world.folder / "elsewhere"))
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert "no source takes files from" in sensed.says()


def test_a_ledger_that_is_away_is_told_in_a_sentence(sensed: Sensed, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/none")
    assert "127.0.0.1" in sensed.says()


@pytest.mark.slow
def test_a_single_file_needs_no_names(world: World, sensed: Sensed) -> None:
    path: Path = world.write("s", [], accounts=RICH, file="in/export.csv")
    sensed.source = path
    sensed.put("export.csv", entries(10))
    assert sensed.launched() == ["register_s", "backfill_s 0001"]
    assert sensed.launched() == []
