"""Channels: where alerts go, as the environment says.

Belongs here: what a channel is, and which there are.
Does not: how each of them writes and sends (`webhook`, `slack`, `mail`).
"""

from __future__ import annotations

from typing import Final, Protocol

from backfill_pipeline.reporting.alerts.message import Alert
from backfill_pipeline.reporting.alerts.slack import SlackChannel
from backfill_pipeline.reporting.alerts.webhook import WebhookChannel
from backfill_pipeline.settings import AlertSettings

NO_CHANNEL: Final = (
    "nowhere to send alerts to: set BACKFILL_ALERT_WEBHOOK_URL, BACKFILL_ALERT_SLACK_WEBHOOK_URL, or"
    " BACKFILL_ALERT_EMAIL_TO with BACKFILL_ALERT_EMAIL_FROM and BACKFILL_ALERT_SMTP_URL"
)


class Channel(Protocol):
    """Somewhere that alerts go to."""

    @property
    def name(self) -> str:
        """webhook, slack or email."""

    def send(self, alert: Alert) -> str:
        """Sends an alert once, and returns when it was taken.

        Returns:
            Who did not get it all the same, in a sentence; empty when everybody did.

        Raises:
            TransientAlertError: it may be taken when tried again.
            AlertError: it will not, before somebody changes something.
        """


def channels(settings: AlertSettings) -> list[Channel]:
    """Those that are set, none when nothing is."""
    found: list[Channel] = []
    if settings.webhook_url is not None:
        found.append(WebhookChannel(settings.webhook_url, settings.webhook_secret, settings.ui_url))
    if settings.slack_webhook_url is not None:
        found.append(SlackChannel(settings.slack_webhook_url, settings.ui_url))
    if settings.email_to and settings.email_from is not None and settings.smtp_url is not None:
        # Every command that knows the sensors comes by here, and most send no mail.
        from backfill_pipeline.reporting.alerts.mail import MailChannel

        found.append(MailChannel(settings.smtp_url, settings.email_from, settings.email_to, settings.ui_url))
    return found
