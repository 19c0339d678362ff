"""The sensors that tell people: a run failed, a source stalled, too many rejects, a source completed.

Belongs here: when it is looked, and what the ticks say.
Does not: what is told and how (`reporting/alerts`), where it is remembered (`store`).

A tick that could not look, or could not send, fails: an alert that nobody gets must not look like quiet.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

import dagster as dg

from backfill_pipeline.errors import AlertError, BackfillError, SettingsError
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.migrate import migrate
from backfill_pipeline.local.endpoint import resolve_ledger
from backfill_pipeline.orchestration.alerts import store
from backfill_pipeline.orchestration.alerts.run_failures import run_failures
from backfill_pipeline.orchestration.launch import sweep_orphans
from backfill_pipeline.reporting.alerts import ledger_happenings
from backfill_pipeline.reporting.alerts.channels import NO_CHANNEL, Channel, channels
from backfill_pipeline.reporting.alerts.deadline import Deadline
from backfill_pipeline.reporting.alerts.message import Kind, Severity, alert
from backfill_pipeline.reporting.alerts.postbox import Delivered, Happening, Postbox, deliver, take, utc_now
from backfill_pipeline.settings import AlertSettings, load_alert_settings, load_settings

_BLIND_AFTER: Final = timedelta(minutes=15)
"""So long the ledger may be away before people are told that nobody can say how it is."""
_LEDGER_DEADLINE_S: Final = 15.0
"""For all questions to the ledger at one look: they take milliseconds, and Dagster stops a tick after a minute."""
_MARGIN: Final = timedelta(hours=1)
"""How long before the last look it is looked again: records of what happened then may have been written late."""


@dataclass(frozen=True, slots=True)
class Watch:
    """A kind of alerts that a sensor looks for.

    Attributes:
        kind: of alerts.
        sensor: its name.
        interval_s: seconds between looks.
        description: for the UI.
    """

    kind: Kind
    sensor: str
    interval_s: int
    description: str


WATCHES: Final = (
    Watch(
        Kind.RUN_FAILED,
        "alert_run_failed",
        30,
        "Tells people of runs that failed: of the UI, of schedules and sensors, and of the backfill command.",
    ),
    Watch(
        Kind.STALLED,
        "alert_stalled",
        300,
        "Tells people of sources in progress without a checkpoint for BACKFILL_ALERT_STALLED_AFTER_S, one hour unless"
        " it is set.",
    ),
    Watch(
        Kind.THRESHOLD,
        "alert_threshold",
        60,
        "Tells people of sources with more rejects and conflicts than BACKFILL_ALERT_REJECT_RATE_MAX (1 % unless it is"
        " set) or BACKFILL_ALERT_REJECTS_MAX allow.",
    ),
    Watch(
        Kind.COMPLETED,
        "alert_completed",
        60,
        "Tells people of sources, and of days of banks, that were posted in full, and how the reconciliation ended.",
    ),
)


def alert_sensors() -> list[dg.SensorDefinition]:
    """A sensor for each kind of alerts: on when there is somewhere to send them to, else off."""
    return [_sensor(watch, is_on=_has_channels()) for watch in WATCHES]


def _has_channels() -> bool:
    try:
        return bool(channels(load_alert_settings()))
    except SettingsError:
        return True  # so that each tick fails with the sentence that says what is wrong


def _sensor(watch: Watch, *, is_on: bool) -> dg.SensorDefinition:
    @dg.sensor(
        name=watch.sensor,
        minimum_interval_seconds=watch.interval_s,
        default_status=dg.DefaultSensorStatus.RUNNING if is_on else dg.DefaultSensorStatus.STOPPED,
        description=f"{watch.description} Off unless a webhook, Slack or mail is set in the environment.",
    )
    def look_and_tell(context: dg.SensorEvaluationContext) -> dg.SkipReason:
        settings = load_alert_settings()
        found = channels(settings)
        if not found:
            return dg.SkipReason(NO_CHANNEL)
        delivered = look(context.instance, watch.kind, settings, found)
        if delivered is None:
            return dg.SkipReason("another look is under way")
        if delivered.troubles:
            raise AlertError("; ".join(delivered.troubles))
        return dg.SkipReason(delivered.sentence)

    return look_and_tell


def look(
    instance: dg.DagsterInstance, kind: Kind, settings: AlertSettings, found: Sequence[Channel]
) -> Delivered | None:
    """Looks once for a kind of alerts, and sends what is due.

    Args:
        instance: where runs, and postboxes, are kept.
        kind: of alerts.
        settings: the limits.
        found: the channels.

    Returns:
        None when somebody else is looking.

    Raises:
        BackfillError: it could not look; what waits was sent all the same.
    """
    with store.only_look(load_settings().dagster_dir, kind) as is_ours:
        if not is_ours:
            return None
        now = utc_now()
        box = store.load(instance, kind, now)
        names = [one.name for one in found]
        try:
            _take_new(instance, kind, settings, box, names, now)
        except BackfillError as error:
            if kind is Kind.STALLED and now - box.looked > _BLIND_AFTER:
                _take_blindness(box, names, now, str(error))
            raise
        finally:
            # A ledger that is away keeps no alert waiting that was found before.
            delivered = deliver(box, found, now, lambda: store.save(instance, kind, box))
        return delivered


def _take_blindness(box: Postbox, names: Sequence[str], now: datetime, reason: str) -> None:
    """Puts into the postbox, once a day, that nobody can say how the ledger is. The next look goes back to the last."""
    looked, key = box.looked, f"stalled/cannot look/{now:%Y%m%d}"
    told = alert(
        key,
        Kind.STALLED,
        Severity.ERROR,
        title="the ledger cannot be looked at",
        text=f"Nobody would hear of sources that stall, are complete or have too many rejects: {reason}",
        remedy="See that the ledger's server runs and can be reached: backfill status",
        at=now,
        facts={"last look": f"{looked.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"},
    )
    take(box, [Happening(key, now, lambda: told)], names, Kind.STALLED, now)
    box.looked = looked


def _take_new(
    instance: dg.DagsterInstance,
    kind: Kind,
    settings: AlertSettings,
    box: Postbox,
    names: Sequence[str],
    now: datetime,
) -> None:
    """Puts what happened since the last look into the postbox."""
    since = box.since(_MARGIN, now)
    if kind is Kind.RUN_FAILED:
        # A command that was killed left its run behind as if it were going on.
        sweep_orphans(instance, only_own=True)
        take(box, run_failures(instance, since), names, kind, now)
        return
    with resolve_ledger(load_settings()) as endpoint, connect(endpoint.ledger_url) as connection:
        migrate(connection)
        # A connection that is lost, and of which nobody says so, would be waited on by every look after this one.
        with (
            Deadline(_LEDGER_DEADLINE_S) as deadline,
            socket.socket(fileno=os.dup(connection.fileno())) as line,
        ):
            deadline.watch(line)
            happenings: list[Happening]
            if kind is Kind.STALLED:
                happenings = ledger_happenings.stalled(connection, settings)
            elif kind is Kind.THRESHOLD:
                happenings = ledger_happenings.over_threshold(connection, since, settings)
            else:
                happenings = ledger_happenings.completed(connection, since)
            take(box, happenings, names, kind, now)
