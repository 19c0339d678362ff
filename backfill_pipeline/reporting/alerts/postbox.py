"""The postbox: alerts that are to be sent, and to which channels each has gone.

Belongs here: that what happened is told once on every channel, however often it is looked at, whichever channel fails
and wherever a process is killed; pauses between tries, and an end to them.
Does not: finding out what happened, where a postbox is kept (the caller saves it), forms.

A postbox is saved after each answer. So whoever is killed repeats at most the one alert whose answer was not saved yet,
under the same id; none is lost.
"""

from __future__ import annotations

import math
import queue
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from pydantic import BaseModel, ConfigDict

from backfill_pipeline.errors import AlertError, TransientAlertError
from backfill_pipeline.reporting.alerts.channels import Channel
from backfill_pipeline.reporting.alerts.http_post import RetryLaterError
from backfill_pipeline.reporting.alerts.message import Alert, Kind, Severity, alert
from backfill_pipeline.wording import counted

PAUSE_MIN_S: Final = 30
PAUSE_MAX_S: Final = 3_600
"""Between tries; also after a refusal, which somebody may have put right since."""
GIVEN_UP_AFTER: Final = timedelta(days=1)
WAITING_MAX: Final = 100
"""Alerts that wait at most: the oldest give way."""
DIGEST_OVER: Final = 5
"""So many alerts of one look are told one by one; more become one alert that counts them."""
LOOK_BACK_MAX: Final = timedelta(days=3)
"""After a longer time without looking, what happened before is not told any more."""
_REMEMBERED: Final = timedelta(days=30)
_REMEMBERED_MAX: Final = 10_000
_BUDGET_S: Final = 25.0
"""After this, a look begins no other try: Dagster stops a tick after a minute."""


class Try(BaseModel):
    """How an alert stands at one channel.

    Attributes:
        attempts: that failed.
        next_at: not before this moment.
        error: of the last attempt.
    """

    model_config = ConfigDict(frozen=True)

    attempts: int = 0
    next_at: datetime
    error: str = ""


class Waiting(BaseModel):
    """An alert that some channels have not taken yet.

    Attributes:
        alert: the alert.
        found_at: since when it waits.
        left: channel → how it stands there; a channel that took it, or gave up, is not in it.
    """

    alert: Alert
    found_at: datetime
    left: dict[str, Try]


class Postbox(BaseModel):
    """What is kept between two looks.

    Attributes:
        began: the first look; what happened before is history, and not told.
        looked: the last one.
        seen: key of what was told, or will be → the last look that found it.
        waiting: alerts that are not sent everywhere yet, the oldest first.
    """

    began: datetime
    looked: datetime
    seen: dict[str, datetime] = {}
    waiting: list[Waiting] = []

    def since(self, margin: timedelta, now: datetime) -> datetime:
        """From when on to look: a margin before the last look, for what was recorded late.

        Args:
            margin: of time between something happening and its record.
            now: the moment.
        """
        if self.looked > now:
            # The clock was set back. Keys tell what was told; nothing waits until it is that late again.
            return max(min(self.began, now - margin), now - LOOK_BACK_MAX)
        return max(self.began, self.looked - margin, now - LOOK_BACK_MAX)


@dataclass(frozen=True, slots=True)
class Happening:
    """Something to be told.

    Attributes:
        key: of it; two with the same key are told once.
        at: when it happened.
        tell: writes the alert; called only when it is told.
    """

    key: str
    at: datetime
    tell: Callable[[], Alert]


@dataclass(frozen=True, slots=True)
class Delivered:
    """What a look sent.

    Attributes:
        sent: channel → alerts that it took.
        troubles: what went wrong now, a sentence each.
        waiting: alerts that wait for another try.
    """

    sent: dict[str, int]
    troubles: tuple[str, ...]
    waiting: int

    @property
    def sentence(self) -> str:
        """What happened, in a line."""
        told = [f"{counted(number, 'alert')} to {name}" for name, number in self.sent.items() if number]
        parts = [f"sent {', '.join(told)}"] if told else []
        if self.waiting:
            parts.append(f"{counted(self.waiting, 'alert')} waiting for another try")
        return "; ".join(parts) or "nothing to tell"


def take(
    box: Postbox, happenings: Sequence[Happening], names: Sequence[str], kind: Kind, now: datetime
) -> None:
    """Puts what is new into the postbox.

    Args:
        box: changed.
        happenings: everything that was found, also what is known already.
        names: of the channels that it goes to.
        kind: what they are about.
        now: the moment of the look.
    """
    new = [one for one in happenings if one.key not in box.seen]
    alerts = [_digest(new, kind)] if len(new) > DIGEST_OVER else [one.tell() for one in new]
    box.waiting += [
        Waiting(alert=one, found_at=now, left={name: Try(next_at=now) for name in names}) for one in alerts
    ]
    box.seen |= {one.key: now for one in happenings}
    newest = sorted(box.seen.items(), key=lambda item: item[1], reverse=True)[:_REMEMBERED_MAX]
    box.seen = {key: at for key, at in newest if at > now - _REMEMBERED}
    box.looked = now


def _digest(new: Sequence[Happening], kind: Kind) -> Alert:
    latest = max(new, key=lambda one: one.at)
    shown = [one.tell() for one in sorted(new, key=lambda one: one.at)[-DIGEST_OVER:]]
    worst = min((one.severity for one in shown), key=list(Severity).index)
    what = kind.value.replace("_", " ")
    return alert(
        f"{kind.value}/digest/{len(new)}/{latest.key}",
        kind,
        worst,
        title=f"{counted(len(new), 'alert')} at once: {what}",
        text="; ".join(one.title for one in reversed(shown)) + f", and {len(new) - len(shown):,} more",
        remedy="See each of them in the UI, or with backfill status",
        at=latest.at,
        facts={str(number): f"{one.title}: {one.text}" for number, one in enumerate(reversed(shown), 1)},
    )


def deliver(box: Postbox, found: Sequence[Channel], now: datetime, save: Callable[[], None]) -> Delivered:
    """Tries what is due on every channel, all channels at once.

    A channel that fails is left alone until its pause is over, and stops no other.

    Args:
        box: changed.
        found: the channels.
        now: the moment of the look.
        save: keeps the postbox; called after each answer.
    """
    names = {one.name for one in found}
    troubles = _tidy(box, names)
    save()
    due = {one.name: _due(box, one.name, now) for one in found}
    sent = dict.fromkeys(due, 0)
    answers: queue.SimpleQueue[_Answer | None] = queue.SimpleQueue()
    busy = [one for one in found if due[one.name]]
    if busy:
        until = time.monotonic() + _BUDGET_S
        with ThreadPoolExecutor(len(busy), thread_name_prefix="alerts") as pool:
            for channel in busy:
                pool.submit(_send_all, channel, due[channel.name], until, answers)
            open_channels = len(busy)
            while open_channels:
                if (answer := answers.get()) is None:
                    open_channels -= 1
                    continue
                sent[answer.channel] += answer.error is None
                troubles += _record(box, answer, now)
                save()
    if given_up := _give_up(box, now):
        troubles += given_up
        save()
    return Delivered(sent, tuple(troubles), len(box.waiting))


@dataclass(frozen=True, slots=True)
class _Answer:
    """What a channel answered; `error` is None when it took the alert."""

    channel: str
    item: Waiting
    error: Exception | None
    remark: str = ""


def _due(box: Postbox, name: str, now: datetime) -> list[Waiting]:
    """What is to be tried: one that keeps failing comes after all others, so that it holds up none."""
    # No pause is longer than the longest, unless the clock was set back.
    latest = now + timedelta(seconds=PAUSE_MAX_S)
    due = [item for item in box.waiting if name in item.left and not now < item.left[name].next_at <= latest]
    return sorted(due, key=lambda item: item.left[name].attempts)


def _send_all(
    channel: Channel, items: Sequence[Waiting], until: float, answers: queue.SimpleQueue[_Answer | None]
) -> None:
    """In a thread of its own: one after another, until the channel does not answer. Being refused ends nothing."""
    try:
        for item in items:
            if time.monotonic() > until:
                return
            try:
                answers.put(_Answer(channel.name, item, None, channel.send(item.alert)))
            except Exception as error:  # whatever it is, it is this channel's alone and told below
                answers.put(_Answer(channel.name, item, error))
                if isinstance(error, TransientAlertError):
                    return
    finally:
        answers.put(None)


def _record(box: Postbox, answer: _Answer, now: datetime) -> list[str]:
    """Takes an answer into the postbox; what is to be said of it."""
    name, item, error = answer.channel, answer.item, answer.error
    if error is None:
        _close(box, item, name)
        return [f"{name}: {answer.remark}"] if answer.remark else []
    known = isinstance(error, AlertError | TransientAlertError)
    # The text of an error that nobody foresaw may hold an address.
    text = str(error) if known else f"unexpected {type(error).__name__}"
    attempts = item.left[name].attempts + 1
    pause_s = _pause_s(error, attempts)
    next_at = now + timedelta(seconds=pause_s)
    if isinstance(error, TransientAlertError):
        # What waits behind it would only meet the same.
        for other in _due(box, name, now):
            other.left[name] = other.left[name].model_copy(update={"next_at": next_at})
    item.left[name] = Try(attempts=attempts, next_at=next_at, error=text)
    return [f"{name}: {text}; {item.alert.title!r} is tried again after {pause_s} s"]


def _pause_s(error: Exception, attempts: int) -> int:
    if not isinstance(error, TransientAlertError):
        return PAUSE_MAX_S
    pause_s = min(PAUSE_MIN_S << min(attempts - 1, 10), PAUSE_MAX_S)
    asked_s = math.ceil(error.after_s) if isinstance(error, RetryLaterError) else 0
    return min(max(pause_s, asked_s), PAUSE_MAX_S)


def _close(box: Postbox, item: Waiting, name: str) -> None:
    item.left.pop(name, None)
    if not item.left:
        box.waiting = [one for one in box.waiting if one is not item]


def _tidy(box: Postbox, names: set[str]) -> list[str]:
    """Takes out what no channel is left for, and the oldest of too many; what is to be said of it."""
    for item in list(box.waiting):
        for name in [one for one in item.left if one not in names]:
            _close(box, item, name)
    if (over := len(box.waiting) - WAITING_MAX) <= 0:
        return []
    box.waiting = box.waiting[over:]
    return [f"given up: the oldest {counted(over, 'alert')} of more than {WAITING_MAX} that wait"]


def _give_up(box: Postbox, now: datetime) -> list[str]:
    """Takes out what waited too long, but nothing that is still to be tried: nobody may have looked for a day."""
    troubles = []
    for item in list(box.waiting):
        if now - item.found_at > GIVEN_UP_AFTER and all(one.next_at > now for one in item.left.values()):
            why = "; ".join(f"{name}: {one.error or 'not tried'}" for name, one in item.left.items())
            troubles.append(f"given up after {GIVEN_UP_AFTER.days} day: {item.alert.title!r} ({why})")
            box.waiting = [one for one in box.waiting if one is not item]
    return troubles


def utc_now() -> datetime:
    """The moment."""
    return datetime.now(UTC)
