"""What an audit found: a check, how it ended, a sample of what it found and what to do about it.

Belongs here: the form of a check's outcome.
Does not: checks (`audit_schema`, `audit_balances`, `audit_backfills`, `audit_controls`), or putting them together
(`audit`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from psycopg import sql
from psycopg.rows import dict_row

from backfill_pipeline.ledger.connection import Connection

SAMPLE_SIZE: Final = 20


class Severity(StrEnum):
    """What a finding means.

    BREAK: the ledger, its history or its schema is not what it should be. WARNING: somebody has to look, nothing is
    wrong in the ledger. NOTE: true and worth knowing.
    """

    BREAK = "break"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Check:
    """One check of the audit. It found nothing when `count` is zero.

    Attributes:
        name: for programs; stays the same from release to release.
        severity: of what it finds, if it finds something.
        looks_for: what is counted, for people: "accounts whose balance is not what their legs say".
        remedy: what to do about a finding.
        count: complete, however many the sample shows.
        sample: the first findings, all with the same keys.
        skipped: why it was not made; None when it was. What was not looked at is not clean.
    """

    name: str
    severity: Severity
    looks_for: str
    remedy: str
    count: int = 0
    sample: tuple[Mapping[str, object], ...] = ()
    skipped: str | None = None

    @property
    def outcome(self) -> str:
        """passed, skipped, or the severity of what was found."""
        if self.skipped is not None:
            return "skipped"
        return self.severity.value if self.count else "passed"


@dataclass(frozen=True, slots=True)
class Query:
    """A check that is one statement.

    Attributes:
        check: without an outcome.
        select: rows of the finding, each one counted; without ORDER BY and LIMIT. Its columns are the keys of the
            sample.
        order_by: of the sample.
        needs: the tables and functions that it asks.
    """

    check: Check
    select: str
    order_by: str
    needs: tuple[str, ...]

    def run(self, connection: Connection, present: frozenset[str]) -> Check:
        """Makes the check, or skips it when something is not there.

        Args:
            connection: to the ledger.
            present: tables, views and functions that are there.
        """
        if absent := [name for name in self.needs if name not in present]:
            return found(self.check, 0, (), skipped=f"there is no {', '.join(absent)}")
        statement = sql.SQL(
            "WITH finding AS ({}) SELECT count(*) OVER () AS finding_count, finding.* FROM finding ORDER BY {} LIMIT {}"
        ).format(sql.SQL(self.select), sql.SQL(self.order_by), sql.Literal(SAMPLE_SIZE))
        with connection.cursor(row_factory=dict_row) as cursor:
            rows = cursor.execute(statement, prepare=False).fetchall()
        count = int(rows[0]["finding_count"]) if rows else 0
        return found(
            self.check,
            count,
            [{key: value for key, value in row.items() if key != "finding_count"} for row in rows],
        )


def found(
    check: Check, count: int, sample: Sequence[Mapping[str, object]], *, skipped: str | None = None
) -> Check:
    """The check with its outcome."""
    return Check(
        check.name,
        check.severity,
        check.looks_for,
        check.remedy,
        count=count,
        sample=tuple(sample[:SAMPLE_SIZE]),
        skipped=skipped,
    )
