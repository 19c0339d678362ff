"""An alert: what happened, how bad it is, and what to do about it.

Belongs here: the message that every channel sends in its own form, and making texts of others fit to be sent.
Does not: forms (`plain`, `slack`, `mail`, `webhook`), sending, finding out what happened.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Final

TITLE_MAX: Final = 140
"""Characters of a title: it is the subject of a mail and the headline in Slack, which allows 150."""
TEXT_MAX: Final = 1_500
"""Characters of a text: Slack allows 3,000 once its special characters are written as entities."""
VALUE_MAX: Final = 300
"""Characters of a fact's value."""
FACTS_MAX: Final = 10
"""Facts of an alert: Slack shows so many beside each other."""

# Line breaks, controls, and marks that turn the direction of writing: they could fake another line or hide a part.
_UNFIT: Final = re.compile(
    r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]+"
)


class Kind(StrEnum):
    """What an alert is about; the same name in every channel."""

    RUN_FAILED = "run_failed"
    STALLED = "stalled"
    THRESHOLD = "threshold"
    COMPLETED = "completed"
    TEST = "test"


class Severity(StrEnum):
    """How soon somebody should look."""

    ERROR = "error"
    WARNING = "warning"
    INFO = "info"


@dataclass(frozen=True, slots=True)
class Fact:
    """A name and a value, as in a table."""

    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. Its texts are one line each and of a length that every channel takes: `alert()` sees to that.

    Attributes:
        key: of what happened; the same however often it is looked at or sent, so that receivers can tell repeats.
        kind: what it is about.
        severity: how soon somebody should look.
        title: in a few words.
        text: what happened, in a sentence or two.
        remedy: what to do; empty when there is nothing to do.
        at: when it happened.
        facts: details.
        source_id: the source that it is about, where it is about one.
        run_id: the run in Dagster, likewise.
    """

    key: str
    kind: Kind
    severity: Severity
    title: str
    text: str
    remedy: str
    at: datetime
    facts: tuple[Fact, ...] = ()
    source_id: str | None = None
    run_id: str | None = None

    @property
    def moment(self) -> str:
        """When it happened, for people."""
        return f"{self.at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"

    def link(self, ui_url: str | None) -> str | None:
        """Where the UI shows more of it; None when it is not known where people open the UI.

        Args:
            ui_url: its address, without a slash at the end.
        """
        if ui_url is None:
            return None
        if self.run_id is not None:
            return f"{ui_url}/runs/{self.run_id}"
        return ui_url


def alert(
    key: str,
    kind: Kind,
    severity: Severity,
    *,
    title: str,
    text: str,
    remedy: str,
    at: datetime,
    facts: dict[str, object] | None = None,
    source_id: str | None = None,
    run_id: str | None = None,
) -> Alert:
    """An alert whose texts are fit to be sent: one line each, nothing that hides or fakes, cut where too long.

    Args:
        key: as of `Alert`, as all others.
        kind: likewise.
        severity: likewise.
        title: likewise.
        text: likewise.
        remedy: likewise.
        at: likewise; with a zone.
        facts: name → value; those that are None are left out.
        source_id: likewise.
        run_id: likewise.
    """
    assert at.tzinfo is not None, "a moment has a zone"
    told = [
        Fact(name, fit(_written(value), VALUE_MAX))
        for name, value in (facts or {}).items()
        if value is not None
    ]
    assert len(told) <= FACTS_MAX, "every channel shows all facts"
    return Alert(
        key,
        kind,
        severity,
        fit(title, TITLE_MAX),
        fit(text, TEXT_MAX),
        fit(remedy, TEXT_MAX),
        at,
        tuple(told),
        source_id,
        run_id,
    )


def fit(text: str, length_max: int) -> str:
    """A text as one line of at most so many characters, without what hides or fakes text."""
    line = " ".join(_UNFIT.sub(" ", text).split())
    return line if len(line) <= length_max else f"{line[: length_max - 1].rstrip()}…"


def _written(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
