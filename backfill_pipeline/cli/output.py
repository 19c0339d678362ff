"""Output: text for people on a terminal, JSON for programs, never both on one stream.

Belongs here: the console, JSON, and how numbers and states are written.
Does not: what is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import date
from decimal import Decimal

from rich.console import Console

# Results go to standard output, progress and remarks to standard error: `backfill run … --json | jq` works.
# Nothing is wrapped: a terminal does that itself, and a pipe must get whole lines.
# Nor is anything turned into emoji: "root:x:0" in a raw record stays what it is.
console = Console(highlight=False, soft_wrap=True, emoji=False)
remarks = Console(stderr=True, highlight=False, soft_wrap=True, emoji=False)

STATE_STYLES = {
    "posted": "green",
    "match": "green",
    "applied": "green",
    "COMPLETED": "green",
    "complete": "green",
    "failed": "red",
    "break": "red",
    "FAILED": "red",
    "refused": "yellow",
    "suspended": "yellow",
    "not run": "dim",
    "never begun": "yellow",
    "not tried": "yellow",
    "open": "yellow",
    "not applied": "dim",
    "rolled back": "yellow",
    "PAUSED": "yellow",
}


def print_json(value: Mapping[str, object]) -> None:
    """One JSON object on standard output; amounts as strings, times in ISO 8601."""
    print(json.dumps(value, default=plain_value, ensure_ascii=False))


def plain_value(value: object) -> object:
    """What JSON and CSV have no form for: amounts as text, times in ISO 8601."""
    if isinstance(value, Decimal):
        return format(value, "f")
    if isinstance(value, date):  # a moment is one too
        return value.isoformat()
    raise TypeError(f"no JSON for {type(value).__name__}")


def state(text: str) -> str:
    """A state in its colour."""
    style = STATE_STYLES.get(text)
    return f"[{style}]{text}[/{style}]" if style else text
