"""`backfill statement`.

Belongs here: the statement as text, CSV and JSON, each line as it comes, and the bounds as they are written.
Does not: reading it (`ledger/history/account_statements.py`).
"""

from __future__ import annotations

import csv
import json
import re
import sys
from dataclasses import asdict, fields
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Final

from backfill_pipeline.cli.output import console, plain_value
from backfill_pipeline.cli.session import open_session
from backfill_pipeline.cli.tables import plain_table
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.history.account_statements import Statement, StatementLine, account_statement
from backfill_pipeline.schemas.spreadsheets import spreadsheet_safe

_DAY: Final = re.compile(r"\d{4}-\d{2}-\d{2}")
_COLUMNS: Final = tuple(field.name for field in fields(StatementLine))


def show_statement(
    account_id: str, since: str | None, until: str | None, *, as_json: bool, as_csv: bool, limit: int
) -> None:
    """Prints the statement.

    Raises:
        UsageError: there is no such account, or a bound is no day and no moment.
    """
    if as_json and as_csv:
        raise UsageError("--json and --csv exclude one another: choose one")
    first, end = _bound(since, "--from"), _bound(until, "--to", whole_day=True)
    if first is not None and end is not None and first > end:
        raise UsageError(f"--from {since} is after --to {until}: swap them")
    with (
        open_session() as session,
        account_statement(session.connection, account_id, since=first, until=end) as statement,
    ):
        if as_json:
            _print_json(statement)
        elif as_csv:
            _print_csv(statement)
        else:
            _print_text(statement, first, end, limit)


def _bound(text: str | None, option: str, *, whole_day: bool = False) -> datetime | None:
    """A day as its beginning in UTC, or as its end where the whole day is meant; a moment as it is."""
    if text is None:
        return None
    try:
        if _DAY.fullmatch(text):
            day = date.fromisoformat(text) + timedelta(days=whole_day)
            return datetime.combine(day, time(), UTC)
        moment = datetime.fromisoformat(text)
    except (ValueError, OverflowError):
        moment = None
    if moment is None or moment.tzinfo is None:
        raise UsageError(
            f"{option} {text} is no day and no moment: write it as 2024-03-01 or, with its zone, 2024-03-01T12:00:00Z"
        )
    return moment


def _print_json(statement: Statement) -> None:
    """One object, written line by line: a hot account has more of them than should be kept in memory."""
    header = {name: getattr(statement, name) for name in ("account_id", "currency_code", "normal_side")}
    sys.stdout.write(json.dumps(header, ensure_ascii=False)[:-1] + ', "lines": [')
    legs = 0
    opening = closing = Decimal(0)
    for line in statement.lines:
        if line.kind == "opening":
            opening = line.balance
        elif line.kind == "closing":
            closing = line.balance
        sys.stdout.write(", " if line.line else "")
        json.dump(asdict(line), sys.stdout, default=plain_value, ensure_ascii=False)
        legs += line.kind == "leg"
    end = {"legs": legs, "opening_balance": opening, "closing_balance": closing}
    print("], " + json.dumps(end, default=plain_value)[1:])


def _print_csv(statement: Statement) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for line in statement.lines:
        writer.writerow([_cell(getattr(line, name)) for name in _COLUMNS])


def _cell(value: object) -> object:
    """Numbers stay numbers: a movement of -12.50 is no formula."""
    if isinstance(value, (Decimal, datetime)):
        return plain_value(value)
    return spreadsheet_safe(value)  # nothing is an empty cell


def _print_text(statement: Statement, first: datetime | None, end: datetime | None, limit: int) -> None:
    console.print(
        f"{statement.account_id}  {statement.currency_code}, {statement.normal_side}-normal,"
        f" {_text(first) or 'from the beginning'} to {_text(end) or 'the end'}",
        markup=False,
    )
    rows: list[dict[str, object]] = []
    left_out = 0
    for line in statement.lines:
        if line.kind == "leg" and len(rows) > limit:
            left_out += 1
            continue
        rows.append(_row(line))
    closing = rows.pop()
    console.print(plain_table([*rows, closing]))
    if left_out:
        console.print(f"{left_out:,} legs before the closing balance are not shown: --limit, --csv or --json")


def _row(line: StatementLine) -> dict[str, object]:
    return {
        "time": _text(line.timestamp_utc),
        "reference": line.reference_id if line.kind == "leg" else f"{line.kind} balance",
        "type": line.transaction_type,
        "other_account": line.other_account_id,
        "debit": line.amount if line.side == "debit" else None,
        "credit": line.amount if line.side == "credit" else None,
        "balance": line.balance,
    }


def _text(moment: datetime | None) -> str | None:
    """UTC, with decimals of a second only where there are any."""
    if moment is None:
        return None
    return moment.astimezone(UTC).isoformat(sep=" ").removesuffix("+00:00") + "Z"
