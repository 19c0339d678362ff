"""The postbox: what happened is told once on every channel, whichever fails, and wherever a process is killed."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from pydantic import SecretStr

from backfill_pipeline.reporting.alerts import postbox
from backfill_pipeline.reporting.alerts.message import Alert, Kind, Severity, alert
from backfill_pipeline.reporting.alerts.postbox import (
    GIVEN_UP_AFTER,
    LOOK_BACK_MAX,
    WAITING_MAX,
    Delivered,
    Happening,
    Postbox,
    deliver,
    take,
)
from backfill_pipeline.reporting.alerts.webhook import WebhookChannel, message_id
from backfill_pipeline_tests.reporting.receivers import HttpReceiver, http_receiver

NOW = datetime(2024, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)


class KilledError(BaseException):
    """The process ends here."""


def told(key: str, at: datetime = NOW) -> Alert:
    return alert(
        key, Kind.STALLED, Severity.ERROR, title=f"title {key}", text=f"text {key}", remedy="", at=at
    )


def happening(key: str, at: datetime = NOW) -> Happening:
    return Happening(key, at, lambda: told(key, at))


class Two:
    """Two webhooks on real servers, and a postbox that is kept as text, as it is in production."""

    def __init__(self, first: HttpReceiver, second: HttpReceiver) -> None:
        self.servers = {"first": first, "second": second}
        self.channels = [
            WebhookChannel(SecretStr(server.url), None, None, name) for name, server in self.servers.items()
        ]
        self.kept = Postbox(began=NOW - HOUR, looked=NOW - HOUR).model_dump_json()
        self.killed_at_save: int | None = None
        self.saves = 0

    def look(self, keys: Sequence[str], now: datetime = NOW) -> Delivered:
        box = Postbox.model_validate_json(self.kept)
        take(box, [happening(key, now) for key in keys], list(self.servers), Kind.STALLED, now)

        def save() -> None:
            self.saves += 1
            if self.saves == self.killed_at_save:
                raise KilledError
            self.kept = box.model_dump_json()

        return deliver(box, self.channels, now, save)

    def got(self, name: str) -> list[str]:
        """Keys of alerts that arrived, whatever was answered."""
        return [str(one.json["data"]["key"]) for one in self.servers[name].received]  # type: ignore[index]  # an object


@pytest.fixture
def two() -> object:
    with ExitStack() as stack:
        yield Two(stack.enter_context(http_receiver()), stack.enter_context(http_receiver()))


def test_everything_goes_to_every_channel_once(two: Two) -> None:
    assert two.look(["a", "b"]).sent == {"first": 2, "second": 2}
    for minute in range(1, 4):
        done = two.look(["a", "b"], NOW + timedelta(minutes=minute))
        assert (done.sent, done.sentence) == ({"first": 0, "second": 0}, "nothing to tell")
    assert two.look(["a", "b", "c"], NOW + HOUR).sentence == "sent 1 alert to first, 1 alert to second"
    assert two.got("first") == two.got("second") == ["a", "b", "c"]


def test_a_channel_that_fails_stops_no_other_and_gets_it_later_with_growing_pauses(two: Two) -> None:
    two.servers["first"].answers = deque([503, 503])
    done = two.look(["a", "b"])
    assert done.sent == {"first": 0, "second": 2}
    assert done.waiting == 2
    (trouble,) = done.troubles
    assert trouble == "first: 127.0.0.1 answers 503; 'title a' is tried again after 30 s"
    assert two.look([], NOW + timedelta(seconds=29)).sent == {"first": 0, "second": 0}
    assert two.got("first") == ["a"]
    assert len(two.look([], NOW + timedelta(seconds=31)).troubles) == 1
    assert two.look([], NOW + timedelta(seconds=32)).waiting == 2
    assert two.look([], NOW + timedelta(seconds=200)).sent == {"first": 2, "second": 0}
    assert sorted(two.got("first")[2:]) == ["a", "b"]
    assert two.got("second") == ["a", "b"]


def test_a_channel_that_says_when_to_come_again_is_left_alone_until_then(two: Two) -> None:
    two.servers["first"].answers.append((429, {"Retry-After": "600"}, ""))
    two.look(["a"])
    assert two.look(["b"], NOW + timedelta(seconds=599)).sent == {"first": 1, "second": 1}  # b alone is due
    assert two.look([], NOW + timedelta(seconds=601)).sent == {"first": 1, "second": 0}
    assert two.got("first") == ["a", "b", "a"]


def test_one_alert_that_is_refused_holds_up_no_other(two: Two) -> None:
    two.servers["first"].answers.append(400)
    done = two.look(["a", "b"])
    assert done.sent == {"first": 1, "second": 2}
    assert two.got("first") == ["a", "b"]
    assert two.look(["c"], NOW + timedelta(minutes=59)).sent == {"first": 1, "second": 1}
    assert two.look([], NOW + timedelta(minutes=61)).sent == {"first": 1, "second": 0}


@pytest.mark.parametrize("killed_at", [1, 2, 3, 4, 5])
def test_wherever_it_is_killed_everything_arrives_and_repeats_have_the_same_id(
    two: Two, killed_at: int
) -> None:
    two.killed_at_save = killed_at
    with pytest.raises(KilledError):
        two.look(["a", "b"])
    arrived = {name: list(two.got(name)) for name in two.servers}
    for _ in range(2):  # the next daemon, twice
        two.look(["a", "b"])
    for name, server in two.servers.items():
        assert set(two.got(name)) == {"a", "b"}
        assert {one.headers["webhook-id"] for one in server.received} == {
            message_id(told(key)) for key in "ab"
        }
    # Before anything was saved, nothing was sent.
    assert killed_at > 1 or not any(arrived.values())


def test_an_answer_that_was_saved_is_never_sent_again(two: Two) -> None:
    two.channels = two.channels[:1]
    two.killed_at_save = 3  # the postbox, the first answer, and not the second
    with pytest.raises(KilledError):
        two.look(["a", "b"])
    two.look(["a", "b"])
    assert two.got("first") == ["a", "b", "b"]


def test_many_at_once_are_one_alert_that_counts_them(two: Two) -> None:
    keys = [f"k{number:03d}" for number in range(57)]
    two.look(keys)
    two.look(keys, NOW + timedelta(minutes=1))
    (one,) = two.servers["first"].received
    data = one.json["data"]
    assert isinstance(data, dict)
    assert data["title"] == "57 alerts at once: stalled"
    assert data["text"].endswith("and 52 more")
    assert len(data["facts"]) == 5


def test_what_nobody_takes_is_given_up_after_a_day_and_told(two: Two) -> None:
    two.servers["first"].answers = deque([500] * 100)
    two.look(["a"])
    done = two.look([], NOW + GIVEN_UP_AFTER + timedelta(seconds=1))
    assert done.troubles == (
        "first: 127.0.0.1 answers 500; 'title a' is tried again after 60 s",
        "given up after 1 day: 'title a' (first: 127.0.0.1 answers 500)",
    )
    assert done.waiting == 0
    assert '"waiting":[]' in two.kept


def test_nothing_is_given_up_untried_when_nobody_looked_for_days(two: Two) -> None:
    two.servers["first"].answers = deque([500])
    two.look(["a"])
    done = two.look([], NOW + 3 * GIVEN_UP_AFTER)
    assert (done.sent["first"], done.troubles, done.waiting) == (1, (), 0)


def test_a_clock_that_was_set_back_delays_nothing(two: Two) -> None:
    two.servers["first"].answers = deque([500])
    two.look(["a"], NOW + 1000 * HOUR)
    box = Postbox.model_validate_json(two.kept)
    assert box.since(HOUR, NOW) == NOW - HOUR
    assert two.look(["a", "b"]).sent == {"first": 2, "second": 1}
    assert two.got("second") == ["a", "b"]
    # What was begun when the clock was right is looked at again as far as anything is: keys tell what was told.
    begun = Postbox(began=NOW - 1000 * HOUR, looked=NOW + 1000 * HOUR)
    assert begun.since(HOUR, NOW) == NOW - LOOK_BACK_MAX


def test_a_pause_without_measure_is_an_hour_and_stops_no_other_channel(two: Two) -> None:
    two.servers["first"].answers = deque([(429, {"Retry-After": "9" * 400}, "")])
    done = two.look(["a"])
    assert done.troubles == ("first: 127.0.0.1 answers 429; 'title a' is tried again after 3600 s",)
    assert done.sent["second"] == 1


def test_what_waits_is_bounded_and_the_oldest_gives_way(two: Two) -> None:
    for server in two.servers.values():
        server.answers = deque([500])
    two.look(["first"])
    for number in range(WAITING_MAX):
        box = Postbox.model_validate_json(two.kept)
        take(box, [happening(f"k{number}")], list(two.servers), Kind.STALLED, NOW)
        two.kept = box.model_dump_json()
    two.channels = []
    box = Postbox.model_validate_json(two.kept)
    done = deliver(
        box,
        [WebhookChannel(SecretStr(s.url), None, None, n) for n, s in two.servers.items()],
        NOW - HOUR,
        lambda: None,
    )
    assert done.troubles == (f"given up: the oldest 1 alert of more than {WAITING_MAX} that wait",)
    assert [one.alert.key for one in box.waiting] == [f"k{number}" for number in range(WAITING_MAX)]


def test_a_channel_that_is_not_set_any_more_keeps_nothing_waiting(two: Two) -> None:
    two.servers["first"].answers = deque([500])
    two.look(["a"])
    two.channels = two.channels[1:]
    assert two.look([], NOW + HOUR).waiting == 0


def test_an_error_that_nobody_foresaw_is_told_without_its_text(two: Two) -> None:
    class Broken(WebhookChannel):
        def send(self, alert: Alert) -> str:
            raise ValueError("https://hooks.example.org/zebra")

    two.channels[0] = Broken(SecretStr("http://127.0.0.1/"), None, None, "first")
    done = two.look(["a"])
    assert done.sent["second"] == 1
    assert done.troubles == ("first: unexpected ValueError; 'title a' is tried again after 3600 s",)


def test_a_look_goes_back_a_margin_but_never_before_the_first_one_nor_for_ever() -> None:
    box = Postbox(began=NOW - HOUR, looked=NOW)
    assert box.since(HOUR / 2, NOW) == NOW - HOUR / 2
    assert box.since(2 * HOUR, NOW) == NOW - HOUR
    old = Postbox(began=NOW - 90 * 24 * HOUR, looked=NOW - 60 * 24 * HOUR)
    assert old.since(HOUR, NOW) == NOW - LOOK_BACK_MAX


def test_what_is_found_again_at_every_look_is_never_forgotten(two: Two) -> None:
    for week in range(20):
        two.look(["a"], NOW + timedelta(weeks=week))
    assert two.got("first") == ["a"]


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postbox, "_REMEMBERED_MAX", 10)
    box = Postbox(began=NOW, looked=NOW)
    for number in range(40):
        take(box, [happening(f"k{number}")], [], Kind.STALLED, NOW + number * HOUR)
    assert list(box.seen) == [f"k{number}" for number in range(39, 29, -1)]
