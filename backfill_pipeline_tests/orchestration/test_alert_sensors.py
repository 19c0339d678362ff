"""The sensors of alerts on a real instance: what they tell, once, also after a restart and while the ledger is away."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import dagster as dg
import pytest
from dagster._core.utils import make_new_run_id

from backfill_pipeline.build import build_defs
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import AlertError, SettingsError, TransientLedgerError
from backfill_pipeline.ledger.connection import Connection, connect, ledger_errors
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.orchestration.alerts import run_failures as run_failures_module
from backfill_pipeline.orchestration.alerts import sensors, store
from backfill_pipeline.orchestration.alerts.run_failures import run_failures
from backfill_pipeline.orchestration.alerts.sensors import WATCHES
from backfill_pipeline.orchestration.launch import launch_manifest, launch_range, process_tags
from backfill_pipeline.orchestration.partitions import partitions_name
from backfill_pipeline.reporting.alerts import ledger_happenings
from backfill_pipeline.reporting.alerts.message import Kind
from backfill_pipeline.reporting.alerts.postbox import Happening
from backfill_pipeline_tests.reporting.receivers import ALERT_VARIABLES, HttpReceiver, http_receiver
from backfill_pipeline_tests.stages.world import World, entries, entry

pytestmark = pytest.mark.e2e
RICH = {"A": 1, "B": 100_000, "C": 1}


class Watched:
    """A source, a receiver of alerts, and the sensors as the daemon would evaluate them."""

    def __init__(self, world: World, instance: dg.DagsterInstance, receiver: HttpReceiver) -> None:
        self.world, self.instance, self.receiver = world, instance, receiver

    def write(self, rows: list[list[object]], **settings: object) -> None:
        self.source = self.world.write("s", rows, accounts=RICH, **settings)

    @property
    def defs(self) -> dg.Definitions:
        definition = load_definition(self.source)
        return build_defs({definition.id: definition})

    def run(self) -> bool:
        launch_manifest(self.defs, self.instance, "s", accept_changed=True)
        keys = list(self.instance.get_dynamic_partitions(partitions_name("s")))
        return launch_range(self.defs, self.instance, "s", keys or ["0001"]).success

    def tick(self, name: str) -> str:
        """One evaluation, by a process that remembers nothing; what it says."""
        defs = build_defs({})
        sensor = defs.resolve_sensor_def(name)
        data = sensor.evaluate_tick(
            dg.build_sensor_context(instance=self.instance, definitions=defs, sensor_name=name)
        )
        assert data.run_requests == []
        return str(data.skip_message)

    def told(self) -> list[dict[str, object]]:
        """What arrived so far, and is left out from then on."""
        found = [one.json["data"] for one in self.receiver.received]
        self.receiver.received.clear()
        return found  # type: ignore[return-value]  # objects, as the webhook's own test shows


@pytest.fixture
def receiver(monkeypatch: pytest.MonkeyPatch) -> Iterator[HttpReceiver]:
    for name in ALERT_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    with http_receiver() as receiver:
        monkeypatch.setenv("BACKFILL_ALERT_WEBHOOK_URL", receiver.url)
        monkeypatch.setenv("BACKFILL_ALERT_UI_URL", "http://ui.example.org:3000/")
        yield receiver


@pytest.fixture
def watched(world: World, instance: dg.DagsterInstance, receiver: HttpReceiver) -> Watched:
    return Watched(world, instance, receiver)


def test_sensors_are_off_without_an_address_and_on_with_one(
    world: World, receiver: HttpReceiver, monkeypatch: pytest.MonkeyPatch
) -> None:
    names = [watch.sensor for watch in WATCHES]
    on = build_defs({})
    assert {on.resolve_sensor_def(name).default_status.value for name in names} == {"RUNNING"}
    monkeypatch.delenv("BACKFILL_ALERT_WEBHOOK_URL")
    off = build_defs({})
    assert {off.resolve_sensor_def(name).default_status.value for name in names} == {"STOPPED"}
    # A wrong address takes neither the definitions away, nor does it look like quiet.
    monkeypatch.setenv("BACKFILL_ALERT_WEBHOOK_URL", "zebra")
    wrong = build_defs({})
    assert {wrong.resolve_sensor_def(name).default_status.value for name in names} == {"RUNNING"}


def test_a_tick_without_an_address_says_so_and_one_with_a_wrong_one_fails(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BACKFILL_ALERT_WEBHOOK_URL", "zebra")
    with pytest.raises(SettingsError, match="BACKFILL_ALERT_WEBHOOK_URL is not a URL"):
        watched.tick("alert_stalled")
    monkeypatch.delenv("BACKFILL_ALERT_WEBHOOK_URL")
    assert watched.tick("alert_stalled").startswith(
        "nowhere to send alerts to: set BACKFILL_ALERT_WEBHOOK_URL"
    )


def test_a_failed_run_and_too_many_rejects_are_told_once(watched: Watched) -> None:
    for name in ("alert_run_failed", "alert_threshold", "alert_completed"):
        assert watched.tick(name) == "nothing to tell"
    bad = [entry(number, amount="x") for number in range(11, 16)]
    watched.write([*entries(10), *bad], max_error_rate=0.1)
    assert not watched.run()
    assert watched.tick("alert_run_failed") == "sent 1 alert to webhook"
    (told,) = watched.told()
    assert told["title"] == f"run {str(told['run_id'])[:8]} of s failed"
    assert "0002" in str(told["text"])
    assert "max_error_rate" in str(told["text"])
    assert "Then: backfill resume s" in str(told["text"])
    assert told["remedy"] == ""  # it is in the sentence
    assert told["link"] == f"http://ui.example.org:3000/runs/{told['run_id']}"
    assert watched.tick("alert_run_failed") == "nothing to tell"

    watched.write([*entries(10), *bad], max_error_rate=1)
    watched.world.run(watched.source, accept_changed=True)
    watched.world.reconcile(watched.source)
    assert watched.tick("alert_threshold") == "sent 1 alert to webhook"
    assert watched.tick("alert_completed") == "sent 1 alert to webhook"
    threshold, completed = watched.told()
    assert threshold["title"] == "s has 5 rejects and conflicts"
    assert "read 15 = posted 10 + duplicates 0 + conflicts 0 + rejected 5 + filtered 0" in str(
        completed["text"]
    )
    for watch in WATCHES:
        assert watched.tick(watch.sensor) == "nothing to tell"
    assert watched.told() == []


def test_what_happened_before_the_first_look_is_history(watched: Watched) -> None:
    with connect(watched.world.url) as connection:
        migrate(connection)
    watched.write([entry(1), entry(2, amount="x")], max_error_rate=1)
    watched.world.run(watched.source)
    watched.world.reconcile(watched.source)
    add_failure(watched.instance, "broken")
    for watch in WATCHES:
        assert watched.tick(watch.sensor) == "nothing to tell"


def test_a_source_that_stalled_is_told_once_for_each_time(watched: Watched) -> None:
    watched.tick("alert_stalled")  # brings the schema up to date
    watched.write(entries(15))
    watched.world.run(watched.source, keys=["0001"])
    for hours in (2, 3):
        watched.world.tamper(
            "UPDATE ledger_backfill_checkpoints SET last_checkpoint_at = timezone('UTC', now()) - %s * interval '1 hour'",
            hours,
        )
        assert watched.tick("alert_stalled") == "sent 1 alert to webhook"
        assert watched.tick("alert_stalled") == "nothing to tell"
    assert {one["title"] for one in watched.told()} == {"s makes no progress"}


def test_a_command_that_was_killed_is_told_as_a_failed_run(watched: Watched) -> None:
    watched.tick("alert_run_failed")
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    tags = process_tags() | {".dagster/backfill_pid": str(child.pid)}
    run = watched.instance.add_run(
        dg.DagsterRun("backfill_s", run_id=make_new_run_id(), tags=tags, status=dg.DagsterRunStatus.STARTED)
    )
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    watched.tick("alert_run_failed")
    (told,) = watched.told()
    assert told["run_id"] == run.run_id
    assert "the process that executed it is gone" in str(told["text"])
    assert str(told["remedy"]).startswith(
        "Dagster starts it again by itself where backfill up runs; else backfill resume s"
    )


def add_failure(instance: dg.DagsterInstance, reason: str, **tags: str) -> str:
    run = instance.add_run(dg.DagsterRun("dispatch_outbox", run_id=make_new_run_id(), tags=tags))
    instance.report_run_failed(run, reason)
    return run.run_id


def test_what_a_sensor_launches_again_and_again_is_told_once_an_hour_for_each_reason(
    watched: Watched,
) -> None:
    since = datetime.now(UTC) - timedelta(hours=1)
    for reason in ("SCB-01: away", "SCB-01: away", "SCB-02: away"):
        add_failure(watched.instance, reason, **{"dagster/sensor_name": "outbox"})
    ours = [add_failure(watched.instance, "SCB-01: away") for _ in range(2)]
    found = run_failures(watched.instance, since)
    assert len(found) == 5
    assert len({one.key for one in found}) == 2 + len(ours)


def test_rollbacks_and_cancelled_runs_are_no_failures(watched: Watched) -> None:
    since = datetime.now(UTC) - timedelta(hours=1)
    add_failure(watched.instance, "rolled back by ann", **{"backfill/rollback": "1"})
    run = watched.instance.add_run(dg.DagsterRun("backfill_s", run_id=make_new_run_id()))
    watched.instance.report_run_canceled(run, "by a person")
    assert run_failures(watched.instance, since) == []


def test_a_run_that_failed_is_told_however_many_were_begun_after_it(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_failures_module, "_RUNS_AT_ONCE", 2)
    since = datetime.now(UTC) - timedelta(hours=1)
    ours = [add_failure(watched.instance, "broken") for _ in range(5)]
    found = run_failures(watched.instance, since)
    assert [one.key for one in found] == [f"run_failed/{run_id}" for run_id in ours]


def test_a_receiver_that_is_away_fails_the_tick_and_gets_it_later(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.tick("alert_run_failed")
    run_id = add_failure(watched.instance, "broken")
    watched.receiver.answers.append(503)
    with pytest.raises(AlertError, match="webhook: 127.0.0.1 answers 503; .* is tried again after 30 s"):
        watched.tick("alert_run_failed")
    assert watched.tick("alert_run_failed") == "1 alert waiting for another try"
    now = datetime.now(UTC) + timedelta(seconds=31)
    monkeypatch.setattr(sensors, "utc_now", lambda: now)
    assert watched.tick("alert_run_failed") == "sent 1 alert to webhook"
    assert [one["run_id"] for one in watched.told()] == [run_id, run_id]


def test_a_ledger_that_is_away_fails_the_tick_and_is_told_after_a_while_once_a_day(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.tick("alert_stalled")
    monkeypatch.setenv("LEDGER_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/ledger")
    monkeypatch.setenv("BACKFILL_DAGSTER_DATABASE_URL", os.environ["BACKFILL_DAGSTER_DATABASE_URL"])
    start = datetime.now(UTC)
    for minutes, alerts in ((1, 0), (16, 1), (17, 0)):
        monkeypatch.setattr(sensors, "utc_now", lambda minutes=minutes: start + timedelta(minutes=minutes))
        with pytest.raises(TransientLedgerError):
            watched.tick("alert_stalled")
        assert [one["title"] for one in watched.told()] == ["the ledger cannot be looked at"] * alerts


def test_a_ledger_that_never_answers_is_not_waited_for(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.tick("alert_completed")
    monkeypatch.setattr(sensors, "_LEDGER_DEADLINE_S", 0.3)

    def forever(connection: Connection, _since: datetime) -> list[Happening]:
        with ledger_errors("look at"):
            connection.execute("SELECT pg_sleep(600)")
        return []

    monkeypatch.setattr(ledger_happenings, "completed", forever)
    with pytest.raises(TransientLedgerError):
        watched.tick("alert_completed")


def test_two_looks_at_once_are_one(watched: Watched) -> None:
    folder = watched.world.folder / "home" / "dagster"
    with store.only_look(folder, Kind.RUN_FAILED) as is_ours:
        assert is_ours
        assert watched.tick("alert_run_failed") == "another look is under way"
        assert watched.tick("alert_stalled") == "nothing to tell"
    assert watched.tick("alert_run_failed") == "nothing to tell"


def test_a_postbox_of_another_release_begins_anew(watched: Watched) -> None:
    watched.tick("alert_run_failed")
    watched.instance.daemon_cursor_storage.set_cursor_values({"backfill/alerts/run_failed": '{"what": 1}'})
    assert watched.tick("alert_run_failed") == "nothing to tell"
