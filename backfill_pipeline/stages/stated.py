"""Stated balances: what a source says that its accounts held after each row, against what the ledger says.

Belongs here: which rows state a balance, why a drift begins where it does, and the report.
Does not: reading balances (`mapping/stated.py`), summing entries (`ledger/history/running_balances.py`), the exact
reconciliation (`reconcile.py`), whose verdict a drift never changes.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from itertools import accumulate
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.ledger.history.running_balances import Comparison, Ending, Step, running_balances
from backfill_pipeline.ledger.status import PartitionOutcome
from backfill_pipeline.schemas.extracted import SOURCE_LINE, SOURCE_ROW
from backfill_pipeline.sources.several import FILE_STRIDE
from backfill_pipeline.stages.prepare import PartitionFrames
from backfill_pipeline.stages.replay import repaired_records
from backfill_pipeline.stages.work import SourceWork
from backfill_pipeline.wording import are, counted

STEPS_KEPT: Final = 20
"""Rows at which the drift begins or changes that are told one by one; the others are counted."""
ENDINGS_KEPT: Final = 1_000
"""Accounts that differ at their last row that are kept for corrections; the others are counted."""
_UNREAD_KEPT: Final = 5


@dataclass(frozen=True, slots=True)
class DriftStep:
    """A row at which a drift begins, changes or ends.

    Attributes:
        line: where the row begins in its file.
        stated, ledger: the balance after the row, both as the source states it.
        difference: stated minus ledger; zero where the drift ends.
        why: what is known about it.
        file: that the line is of, in a source of several.
    """

    line: int
    source_row: int
    account_id: str
    stated: Decimal
    ledger: Decimal
    difference: Decimal
    why: str
    file: str | None = None

    @property
    def place(self) -> str:
        """The line, and of which file where there are several."""
        return f"{self.line}" if self.file is None else f"{self.line} of {self.file}"


@dataclass(slots=True)
class StatedReport:
    """What became of the stated balances of a source.

    Attributes:
        open_partitions: partitions that are not posted yet. While there are any, nothing is compared: a balance needs
            all rows before it.
        compared: rows whose stated balance was compared with the ledger's.
        differing: those of them in which the two differ.
        accounts, accounts_differing: accounts with a stated balance, and those that still differ at their last row.
        smallest, largest: of the differences (stated minus ledger, on the account's normal side) that are not zero.
        last: the difference at the last row.
        step_count: rows at which the difference changes; `steps` are the first of them.
        unread: rows with a balance that cannot be read, or of no account; `unread_sample` says why.
        unknown: rows that state a balance of an account that the ledger does not have.
        endings: the first of `accounts_differing`, each with its last row.
    """

    open_partitions: int = 0
    compared: int = 0
    differing: int = 0
    accounts: int = 0
    accounts_differing: int = 0
    smallest: Decimal | None = None
    largest: Decimal | None = None
    last: Decimal | None = None
    step_count: int = 0
    steps: list[DriftStep] = field(default_factory=list)
    unread: int = 0
    unread_sample: list[str] = field(default_factory=list)
    unknown: int = 0
    endings: list[Ending] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def agrees(self) -> bool:
        """Whether every stated balance could be compared, and is the ledger's."""
        return not (self.open_partitions or self.differing or self.unread or self.unknown)

    @property
    def sentence(self) -> str:
        """The outcome in a sentence, for people."""
        if self.open_partitions:
            open_ = self.open_partitions
            return f"not compared yet: {counted(open_, 'partition')} {are(open_)} not posted"
        parts = [f"{self.compared:,} compared"]
        if self.differing:
            first = self.steps[0]
            parts.append(f"{self.differing:,} differ, from line {first.place} on: {first.why}")
        elif self.compared:
            parts.append("all agree")
        if self.unread:
            parts.append(f"{self.unread:,} cannot be read")
        if self.unknown:
            parts.append(f"{self.unknown:,} are of accounts that the ledger does not have")
        return ", ".join(parts)


def compare_stated_balances(
    connection: Connection, work: SourceWork, outcomes: Sequence[PartitionOutcome]
) -> StatedReport | None:
    """Compares the balances that a source states with the ledger's; None when it states none.

    Args:
        connection: to the ledger, autocommit.
        work: the source.
        outcomes: of all its partitions.

    Raises:
        SourceDefinitionError: the source lacks a column of the stated balances.
        TransientLedgerError: the ledger cannot be read right now.
    """
    stated = work.definition.stated_balances
    if not stated:
        return None
    open_partitions = sum(outcome.status != "posted" for outcome in outcomes)
    if open_partitions:
        return StatedReport(open_partitions=open_partitions)
    started = time.monotonic()
    report = StatedReport()
    descending = stated[0].order == "descending"
    with running_balances(connection, descending=descending, file_stride=FILE_STRIDE) as running:
        for outcome in outcomes:
            said = _readable(_said(connection, work, outcome.partition_key), report)
            running.add(
                said, _left_out(work, outcome), byte_offset=work.chunk(outcome.partition_key).byte_offset
            )
        found = running.compare(work.registration.id, step_limit=STEPS_KEPT, ending_limit=ENDINGS_KEPT)
    _take(found, report, work)
    report.seconds = time.monotonic() - started
    return report


def step_rows(report: StatedReport) -> list[dict[str, object]]:
    """Where the drift begins and changes, as rows of a table."""
    return [
        {
            "line": step.place,
            "account": step.account_id,
            "stated": step.stated,
            "ledger": step.ledger,
            "difference": step.difference,
            "why": step.why,
        }
        for step in report.steps
    ]


def stated_details(report: StatedReport) -> dict[str, object]:
    """A report as JSON, amounts as texts."""

    def plain(value: object) -> object:
        return format(value, "f") if isinstance(value, Decimal) else value

    whole = {name: plain(value) for name, value in asdict(report).items() if name != "endings"}
    whole["steps"] = [{name: plain(value) for name, value in asdict(one).items()} for one in report.steps]
    return {**whole, "agrees": report.agrees, "sentence": report.sentence}


def _said(connection: Connection, work: SourceWork, key: str) -> pa.Table:
    """What the rows of a partition state (STATED_SCHEMA); rows that were repaired state what they were repaired to."""
    extracted = _extracted(work, key)
    repaired = repaired_records(connection, work, work.registration.partition(key).id)
    if repaired.num_rows:
        kept = pc.invert(pc.is_in(extracted.column(SOURCE_ROW), repaired.column(SOURCE_ROW).combine_chunks()))
        # Of a column that the registration does not know, nobody repaired a cell.
        known = repaired.schema.names
        extracted = pa.concat_tables([extracted.filter(kept), repaired], promote_options="default")
        extracted = extracted.sort_by(SOURCE_ROW).select([*known, *_further(work)])
    return work.mapping.stated_balances(extracted)


def _extracted(work: SourceWork, key: str) -> pa.Table:
    """The records of a partition, with all columns that stated balances read.

    The registration knows the columns that were read when it was made. Stated balances may have come later.
    """
    further = _further(work)
    if not further:
        return PartitionFrames(work, key, ()).extracted()
    if work.definition.type != "jsonl":
        column = further[0]
        raise SourceDefinitionError(
            f"{work.definition.path}: {work.definition.columns_read()[column]} names the column {column!r}, which"
            f" {work.registration.file_name} did not have when it was registered: correct the name."
        )
    return work.reader.read_chunk(work.chunk(key), (*work.registration.header, *further))


def _further(work: SourceWork) -> list[str]:
    """Columns that stated balances read, and the registration does not know."""
    read = work.definition.columns_read()
    return [
        column
        for column, key in read.items()
        if key.startswith("stated_balances") and column not in work.registration.header
    ]


def _readable(said: pa.Table, report: StatedReport) -> pa.Table:
    """Those that can be compared; the others are counted."""
    bad = pc.is_valid(said.column("problem"))
    if not pc.any(bad, min_count=0).as_py():
        return said
    unread = said.filter(bad)
    report.unread += unread.num_rows
    room = _UNREAD_KEPT - len(report.unread_sample)
    for row in unread.slice(0, room).select(["source_line", "problem"]).to_pylist():
        report.unread_sample.append(f"line {row['source_line']}: {row['problem']}")
    return said.filter(pc.invert(bad))


def _left_out(work: SourceWork, outcome: PartitionOutcome) -> pa.Table:
    """The rows of a partition that the definition filters: source_row, source_line, detail."""
    nothing = pa.schema([("source_row", pa.int64()), ("source_line", pa.int64()), ("detail", pa.string())])
    if not outcome.filtered:
        return nothing.empty_table()
    frames = PartitionFrames(work, outcome.partition_key, ())
    transformed = frames.transformed()
    filtered = transformed.filter(pc.is_valid(transformed.column("filter_reason")))
    rows = filtered.column("source_row")
    lines = frames.positions(rows.combine_chunks()).column(SOURCE_LINE)
    return pa.table([rows, lines, filtered.column("filter_reason")], schema=nothing)


def _take(found: Comparison, report: StatedReport, work: SourceWork) -> None:
    for name in (
        "compared",
        "differing",
        "accounts",
        "accounts_differing",
        "smallest",
        "largest",
        "last",
        "unknown",
        "endings",
    ):
        setattr(report, name, getattr(found, name))
    report.step_count = found.step_count
    report.steps = [
        DriftStep(
            step.source_line,
            step.source_row,
            step.account_id,
            step.stated,
            step.ledger,
            step.difference,
            _why(step, work),
            _file_of(work, step.source_row),
        )
        for step in found.steps
    ]


def _file_of(work: SourceWork, source_row: int) -> str | None:
    """The file that a row is of; None in a source of one file."""
    files = work.registration.files
    if len(files) < 2:
        return None
    last_rows = list(accumulate(file.row_count for file in files))
    return files[bisect_left(last_rows, source_row)].name


def _why(step: Step, work: SourceWork) -> str:
    """What is known about a step, in a few words."""
    if not step.difference:
        return "agrees again"
    row = step.unposted
    if row is None:
        if step.is_first:
            return "from the first row on: look at the opening balance"
        return "every row since the one before is posted: look at the amount and the accounts of this one"
    this = row.source_row == step.source_row
    place = "this row" if this else f"line {row.source_line}" if row.source_line else f"row {row.source_row}"
    file = _file_of(work, row.source_row)
    if row.source_line and file != _file_of(work, step.source_row):
        place += f" of {file}"
    if row.what == "duplicate":
        text = f"{place} repeats an entry that counts already"
    else:
        text = f"{place} was {row.what} ({row.detail})"
    return (
        f"{text}, and {step.others:,} more rows since the one before were not posted" if step.others else text
    )
