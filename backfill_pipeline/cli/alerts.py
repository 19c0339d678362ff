"""`backfill alerts`: trying the channels of alerts, and looking once without a daemon.

Belongs here: what these commands say and how they end.
Does not: channels (`reporting/alerts`), looking (`orchestration/alerts`).
"""

from __future__ import annotations

import socket
import uuid

from rich.text import Text

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, remarks
from backfill_pipeline.errors import AlertError, BackfillError, TransientAlertError, UsageError
from backfill_pipeline.reporting.alerts.channels import NO_CHANNEL, Channel, channels
from backfill_pipeline.reporting.alerts.message import Kind, Severity, alert
from backfill_pipeline.reporting.alerts.postbox import utc_now
from backfill_pipeline.settings import load_alert_settings


def try_channels(*, as_json: bool) -> ExitCode:
    """Sends a message through each channel, one try each."""
    found = channels(load_alert_settings())
    if not found:
        raise UsageError(NO_CHANNEL)
    message = alert(
        f"test/{uuid.uuid4()}",
        Kind.TEST,
        Severity.INFO,
        title="a test of the alerts",
        text=f"Somebody on {socket.gethostname()} tries whether alerts arrive here. They do.",
        remedy="",
        at=utc_now(),
        facts={"host": socket.gethostname()},
    )
    answers = []
    for channel in found:
        try:
            error = channel.send(message)
        except (AlertError, TransientAlertError) as failure:
            error = str(failure)
        except Exception as failure:  # its text may hold an address
            error = f"unexpected {type(failure).__name__}"
        answers.append({"channel": channel.name, "sent": not error, "error": error or None})
        if not as_json:
            told = f"failed  {error}" if error else "taken"
            console.print(Text(f"{channel.name:<8} {told}", style="red" if error else "green"))
    if as_json:
        print_json({"channels": answers})
    return ExitCode.CLEAN if all(one["sent"] for one in answers) else ExitCode.FAILED


def send_alerts(*, as_json: bool) -> ExitCode:
    """Looks for every kind of alerts, one after the other; one that cannot be looked for stops no other."""
    settings = load_alert_settings()
    found = channels(settings)
    if not found:
        raise UsageError(NO_CHANNEL)
    from backfill_pipeline.cli.session import dagster_instance, open_session

    sent = {one.name: 0 for one in found}
    troubles: list[str] = []
    waiting = 0
    with open_session() as session, dagster_instance(session) as instance:
        from backfill_pipeline.orchestration.alerts.sensors import WATCHES, look

        for watch in WATCHES:
            try:
                delivered = look(instance, watch.kind, settings, found)
            except BackfillError as error:
                troubles.append(str(error))
                continue
            if delivered is None:
                remarks.print(f"{watch.sensor}: another look is under way", markup=False)
                continue
            troubles += delivered.troubles
            waiting += delivered.waiting
            for name, number in delivered.sent.items():
                sent[name] += number
    _show(sent, troubles, waiting, found, as_json=as_json)
    return ExitCode.FAILED if troubles else ExitCode.CLEAN


def _show(
    sent: dict[str, int], troubles: list[str], waiting: int, found: list[Channel], *, as_json: bool
) -> None:
    if as_json:
        print_json({"sent": sent, "waiting": waiting, "errors": troubles})
        return
    for one in found:
        console.print(f"{one.name:<8} {sent[one.name]:,} sent", markup=False)
    if waiting:
        console.print(f"waiting  {waiting:,}, tried again later", markup=False)
    for trouble in troubles:
        remarks.print(trouble, markup=False)
