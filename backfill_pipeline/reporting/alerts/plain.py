"""An alert as plain text: in mails, and wherever nothing else can be shown.

Belongs here: its layout in lines.
Does not: other forms.
"""

from __future__ import annotations

from backfill_pipeline.reporting.alerts.message import Alert


def headline(alert: Alert) -> str:
    """The alert in a line, as the subject of a mail."""
    return f"[backfill] {alert.severity.value}: {alert.title}"


def plain_text(alert: Alert, ui_url: str | None) -> str:
    """The whole alert, lines as long as their texts.

    Args:
        alert: to be written.
        ui_url: where people open the UI.
    """
    table = {fact.name: fact.value for fact in alert.facts} | {"at": alert.moment}
    if link := alert.link(ui_url):
        table["link"] = link
    width = max(map(len, table))
    parts = [
        headline(alert),
        alert.text,
        *([f"What to do: {alert.remedy}"] if alert.remedy else []),
        "\n".join(f"{name:<{width}}  {value}" for name, value in table.items()),
        f"id {alert.key}",
    ]
    return "\n\n".join(parts) + "\n"
