"""An alert for Slack: blocks for an incoming webhook.

Belongs here: the blocks, and writing texts so that Slack reads no markup in them.
Does not: the request itself (`http_post`).

Texts that others may have had a hand in (a source's name, the sentence of an error) are objects of type plain_text, in
which Slack looks for neither links nor mentions, and which can be copied as they are: a command stays a command.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Final

from pydantic import SecretStr

from backfill_pipeline.reporting.alerts.http_post import post
from backfill_pipeline.reporting.alerts.message import Alert, Severity
from backfill_pipeline.reporting.alerts.plain import headline

_MARKS: Final = {Severity.ERROR: "🔴", Severity.WARNING: "🟠", Severity.INFO: "🟢"}
_ENTITIES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
_ADDRESS: Final = str.maketrans({"&": "&amp;", "<": "%3C", ">": "%3E", "|": "%7C"})


def slack_body(alert: Alert, ui_url: str | None) -> bytes:
    """The JSON of an alert: a text for notifications, and blocks.

    Args:
        alert: to be written.
        ui_url: where people open the UI.
    """
    blocks: list[dict[str, object]] = [
        {"type": "header", "text": _plain(f"{_MARKS[alert.severity]} {alert.title}")},
        {"type": "section", "text": _plain(alert.text)},
    ]
    if alert.remedy:
        blocks.append({"type": "section", "text": _plain(f"What to do: {alert.remedy}")})
    if alert.facts:
        fields = [_plain(f"{fact.name}\n{fact.value}") for fact in alert.facts]
        blocks.append({"type": "section", "fields": fields})
    link = alert.link(ui_url)
    shown = f"{alert.moment} · <{link.translate(_ADDRESS)}|Open the UI>" if link else alert.moment
    blocks.append({"type": "context", "elements": [{"type": "mrkdwn", "text": shown, "verbatim": True}]})
    text = headline(alert).translate(_ENTITIES)
    return json.dumps({"text": text, "blocks": blocks}, ensure_ascii=False).encode()


def _plain(text: str) -> dict[str, object]:
    return {"type": "plain_text", "text": text, "emoji": False}


@dataclass(frozen=True, slots=True)
class SlackChannel:
    """Sends alerts to a channel of Slack.

    Attributes:
        url: of an incoming webhook.
        ui_url: where people open the UI.
    """

    url: SecretStr
    ui_url: str | None
    name: str = "slack"

    def send(self, alert: Alert) -> str:
        """Sends it once; as `Channel.send`."""
        post(self.url, slack_body(alert, self.ui_url), {})
        return ""
