"""The SQL of the strategy document, statement by statement.

Belongs here: taking the document apart, and the copy of what it reads with (`strategy_queries.sql`).
Does not: running it (`test_strategy_queries.py`).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
DOCUMENT = CHECKOUT.parent / "shared" / "ledger_backfill_strategy.md"
COPY = Path(__file__).with_name("strategy_queries.sql")

_STATEMENT = re.compile(r"(?:\$\$.*?\$\$|--[^\n]*|'[^']*'|[^;])+;", re.DOTALL)
_COMMENT = re.compile(r"--[^\n]*")
_WRITES = re.compile(r"\b(INSERT|UPDATE|DELETE|CREATE|PERFORM)\b")


@dataclass(frozen=True)
class Statement:
    """A statement as it is written, without its comments, and the section that it stands in."""

    section: str
    sql: str

    @property
    def reads(self) -> bool:
        return not _WRITES.search(re.sub(r"'[^']*'", "", self.sql))


def of_document(text: str) -> list[Statement]:
    """All statements of its sql blocks."""
    found, section, block = [], "", None
    for line in text.splitlines():
        if block is None and line.startswith("#"):
            number = re.match(r"#+ (\d+\.\d+)", line)
            section = number[1] if number else line.lstrip("# ").strip()
        elif line == "```sql":
            block = []
        elif line.startswith("```") and block is not None:
            found += _statements(section, "\n".join(block))
            block = None
        elif block is not None:
            block.append(line)
    return found


def copied() -> list[Statement]:
    """The copy: every statement of the document that reads."""
    parts = re.split(r"^-- section: (.+)\n", COPY.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return [
        one
        for section, text in zip(parts[1::2], parts[2::2], strict=True)
        for one in _statements(section, text)
    ]


def _statements(section: str, text: str) -> list[Statement]:
    found = (_COMMENT.sub("", statement).strip() for statement in _STATEMENT.findall(text))
    return [Statement(section, re.sub(r"\n\s*\n", "\n", statement)) for statement in found]


def query(section: str, number: int = 0) -> str:
    """One of a section's reading statements, as the document writes it."""
    return [statement for statement in copied() if statement.section == section][number].sql
