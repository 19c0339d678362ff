"""An alert for a webhook: JSON, signed after the specification of Standard Webhooks.

Belongs here: the body, its signature, and sending both.
Does not: the request itself (`http_post`).

Whoever receives it can check it with any library for Standard Webhooks (https://www.standardwebhooks.com).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from datetime import UTC
from typing import Final

from pydantic import SecretStr

from backfill_pipeline.reporting.alerts.http_post import post
from backfill_pipeline.reporting.alerts.message import Alert

_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what every such secret begins with


def webhook_body(alert: Alert, ui_url: str | None) -> bytes:
    """The JSON of an alert: `type`, `timestamp`, `data`.

    Args:
        alert: to be written.
        ui_url: where people open the UI.
    """
    return json.dumps(
        {
            "type": f"backfill.{alert.kind.value}",
            "timestamp": alert.at.astimezone(UTC).isoformat(),
            "data": {
                "key": alert.key,
                "severity": alert.severity.value,
                "title": alert.title,
                "text": alert.text,
                "remedy": alert.remedy,
                "source_id": alert.source_id,
                "run_id": alert.run_id,
                "link": alert.link(ui_url),
                "facts": {fact.name: fact.value for fact in alert.facts},
            },
        },
        ensure_ascii=False,
    ).encode()


def message_id(alert: Alert) -> str:
    """Of the alert: the same for every try, so that a receiver can leave out what it has."""
    return f"msg_{hashlib.sha256(alert.key.encode()).hexdigest()[:32]}"


def signature(secret: SecretStr, message: str, timestamp_s: int, body: bytes) -> str:
    """The header `webhook-signature`: HMAC-SHA256 over id, time and body.

    Args:
        secret: whsec_ and Base64.
        message: the header `webhook-id`.
        timestamp_s: the header `webhook-timestamp`, seconds since 1970.
        body: as it is sent.
    """
    key = base64.b64decode(secret.get_secret_value().removeprefix(_SECRET_PREFIX))
    signed = f"{message}.{timestamp_s}.".encode() + body
    return "v1," + base64.b64encode(hmac.digest(key, signed, "sha256")).decode("ascii")


@dataclass(frozen=True, slots=True)
class WebhookChannel:
    """Sends alerts to a web address.

    Attributes:
        url: where to.
        secret: signs them; None leaves them unsigned.
        ui_url: where people open the UI.
    """

    url: SecretStr
    secret: SecretStr | None
    ui_url: str | None
    name: str = "webhook"

    def send(self, alert: Alert) -> str:
        """Sends it once; as `Channel.send`."""
        body, message, now_s = webhook_body(alert, self.ui_url), message_id(alert), int(time.time())
        headers = {"webhook-id": message, "webhook-timestamp": str(now_s)}
        if self.secret is not None:
            headers["webhook-signature"] = signature(self.secret, message, now_s, body)
        post(self.url, body, headers)
        return ""
