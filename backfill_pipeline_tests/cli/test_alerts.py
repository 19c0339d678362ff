"""`backfill alerts`: trying the channels, and a look for cron, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill_pipeline_tests.cli.command import Backfill, wait_until
from backfill_pipeline_tests.reporting.receivers import (
    ALERT_VARIABLES,
    HttpReceiver,
    http_receiver,
    smtp_receiver,
)
from backfill_pipeline_tests.stages.world import World, entry


@pytest.fixture
def http() -> Iterator[HttpReceiver]:
    with http_receiver() as receiver:
        yield receiver


@pytest.fixture
def alone(tmp_path: Path) -> Backfill:
    """The command without any database that it could reach."""
    nothing = dict.fromkeys(ALERT_VARIABLES, "")
    return Backfill(tmp_path / "home", "postgresql://nobody@127.0.0.1:1/none", extra=nothing)


def test_a_test_message_goes_through_everything_that_is_set(alone: Backfill, http: HttpReceiver) -> None:
    with smtp_receiver() as smtp:
        alone.extra |= {
            "BACKFILL_ALERT_WEBHOOK_URL": http.url,
            "BACKFILL_ALERT_SLACK_WEBHOOK_URL": http.url,
            "BACKFILL_ALERT_EMAIL_TO": "ann@example.org",
            "BACKFILL_ALERT_EMAIL_FROM": "ledger@example.org",
            "BACKFILL_ALERT_SMTP_URL": f"smtp://127.0.0.1:{smtp.port}",
        }
        done = alone("alerts", "test")
        assert (done.code, done.stdout, done.stderr) == (
            0,
            "webhook  taken\nslack    taken\nemail    taken\n",
            "",
        )
        assert smtp.mails[0]["Subject"] == "[backfill] info: a test of the alerts"
        assert [one.json.get("type") for one in http.received] == ["backfill.test", None]
        http.answers.extend([500, (404, {}, "no_service")])
        done = alone("alerts", "test", "--json")
    assert done.code == 1
    assert done.json == {
        "channels": [
            {"channel": "webhook", "sent": False, "error": "127.0.0.1 answers 500"},
            {
                "channel": "slack",
                "sent": False,
                "error": "127.0.0.1 answers 404 (no_service): check its address",
            },
            {"channel": "email", "sent": True, "error": None},
        ]
    }


def test_nothing_set_and_something_wrong_are_usage(alone: Backfill) -> None:
    done = alone("alerts", "test")
    assert done.code == 2
    assert done.sentence.startswith(
        "backfill: nowhere to send alerts to: set BACKFILL_ALERT_WEBHOOK_URL, BACKFILL_ALERT_SLACK_WEBHOOK_URL, or"
    )
    alone.extra["BACKFILL_ALERT_SLACK_WEBHOOK_URL"] = "http://hooks.slack.com/zebra"
    done = alone("alerts", "test")
    assert (done.code, "zebra" in done.stderr) == (2, False)
    assert "BACKFILL_ALERT_SLACK_WEBHOOK_URL must begin with https://" in done.sentence


@pytest.mark.slow
@pytest.mark.e2e
def test_cron_looks_and_sends_once(backfill: Backfill, world: World, http: HttpReceiver) -> None:
    backfill.extra |= {**dict.fromkeys(ALERT_VARIABLES, ""), "BACKFILL_ALERT_WEBHOOK_URL": http.url}
    first = backfill("alerts", "send")
    assert (first.code, first.stdout) == (0, "webhook  0 sent\n")
    source = world.write("s", [entry(1), entry(2, amount="x")], max_error_rate=1)
    assert backfill("run", source).code == 3
    http.answers.append(503)
    failed = backfill("alerts", "send", "--json")
    assert failed.code == 1
    assert failed.json["sent"] == {"webhook": 1}
    assert len(http.received) == 2  # rejects over the limit, and a source that is complete
    again = backfill("alerts", "send")
    assert again.code == 0
    assert again.stdout == "webhook  0 sent\nwaiting  1, tried again later\n"
    assert len(http.received) == 2


@pytest.mark.slow
@pytest.mark.e2e
def test_killed_while_a_receiver_answers_it_sends_the_same_alert_under_the_same_id_and_no_other_again(
    backfill: Backfill, world: World, http: HttpReceiver
) -> None:
    backfill.extra |= {**dict.fromkeys(ALERT_VARIABLES, ""), "BACKFILL_ALERT_WEBHOOK_URL": http.url}
    assert backfill("alerts", "send").code == 0
    source = world.write("s", [entry(1), entry(2, amount="x")], max_error_rate=1)
    assert backfill("run", source).code == 3
    http.delay_s = 2.0
    with backfill.started("alerts", "send") as process:
        wait_until(lambda: len(http.received) == 2)  # the first was answered, the second is being answered
        process.kill()
    http.delay_s = 0.0
    assert backfill("alerts", "send").stdout == "webhook  1 sent\n"
    assert backfill("alerts", "send").stdout == "webhook  0 sent\n"
    first, second, again = http.accepted()
    assert first != second == again
