"""MT940 bank statements: each statement line (:61:) with its description (:86:) as a record.

Belongs here: which fields make a statement, the columns of a line.
Does not: single fields (`mt940_fields.py`), whether statements hold (`statement_control.py`).

Every :61: of the file is a record: a good one, or a malformed one with its text. A record's line is that of its :61:.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from typing import Final

import pyarrow as pa

from backfill_pipeline.definition.statements import Mt940Format
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.sources.files.content import Content, Fingerprint
from backfill_pipeline.sources.malformed import Problems
from backfill_pipeline.sources.record_stream import StreamedRecords
from backfill_pipeline.sources.statements.content_stream import ContentStream
from backfill_pipeline.sources.statements.mt940_fields import (
    Field,
    StatementLine,
    balance_of,
    description_of,
    fields_of,
    statement_line_of,
)
from backfill_pipeline.sources.statements.statement_control import Balance, Statement, Verdict, judge

COLUMNS: Final = (
    *("account", "statement_reference", "statement_number", "sequence_number", "currency"),
    *("opening_balance", "opening_date", "closing_balance", "closing_date"),
    *(
        "line_number",
        "value_date",
        "entry_date",
        "booking_date",
        "sign",
        "amount",
        "signed_amount",
        "balance",
    ),
    *("funds_code", "type", "customer_reference", "bank_reference", "details", "description"),
    *("transaction_code", "posting_text", "journal_number", "purpose", "text_key"),
    *("counterparty_bank", "counterparty_account", "counterparty_name"),
    *("end_to_end_id", "mandate_id", "creditor_id", "remittance"),
)

_PIECE_ROWS: Final = 4096
_BLOCK_BYTES: Final = 1 << 20
_LINE_BYTES_MAX: Final = 1 << 20
_OPENS: Final = ("25", "25P", "28", "28C", "60", "60F", "60M")


@dataclass(slots=True)
class _Line:
    """A :61: field with what follows it."""

    statement: int
    number: int
    field: Field
    descriptions: list[Field]
    parsed: StatementLine | str
    balance: Decimal | None

    @property
    def raw(self) -> str:
        return "\n".join(one.raw for one in (self.field, *self.descriptions))

    @property
    def problem(self) -> tuple[RejectCode, str] | None:
        """What is wrong with the line itself."""
        flaws = [one.flaw for one in (self.field, *self.descriptions) if one.flaw is not None]
        if isinstance(self.parsed, str):
            return flaws[0] if flaws else (RejectCode.RECORD_MALFORMED, self.parsed)
        return flaws[0] if flaws else None


class Mt940Stream(ContentStream):
    """The `RecordStream` of an MT940 file."""

    def __init__(self, content: Content, section: Mt940Format) -> None:
        """
        Args:
            content: what is read.
            section: how it is written, and what is controlled.
        """
        super().__init__(content)
        self._section = section

    def records(self) -> Iterator[StreamedRecords]:
        """See `RecordStream.records`. Reads the file twice: first what its statements add up to."""
        statements: list[_Message] = []
        for _ in self._lines(statements):
            pass
        if not statements:
            raise SourceFileError(
                f"{self.place}: holds no MT940 statement: no line begins with :20:, :25: or :61:."
            )
        verdicts = judge([one.sums for one in statements], self._section.control)
        lines = self._lines([])
        yield _piece(list(islice(lines, _PIECE_ROWS)), statements, verdicts)
        while piece := list(islice(lines, _PIECE_ROWS)):
            yield _piece(piece, statements, verdicts)

    def _lines(self, statements: list["_Message"]) -> Iterator[_Line]:
        """All lines; adds the statements to the list, each whole when its last line was given."""
        line: _Line | None = None
        current: _Message | None = None
        for found in fields_of(self._physical_lines(), self._section.encoding):
            if line is not None and found.tag in ("86", "NS"):
                line.descriptions.append(found)
                continue
            if line is not None:
                yield line
                line = None
            if found.tag in ("", "20") or (current is not None and current.is_closed and found.tag in _OPENS):
                current = None
            if current is None and found.tag in ("20", "61", *_OPENS):
                current = _Message(Statement(found.line))
                statements.append(current)
            if current is not None:
                if found.tag == "61":
                    line = current.line(len(statements) - 1, found)
                else:
                    current.take(found)
        if line is not None:
            yield line

    def _physical_lines(self) -> Iterator[tuple[int, bytes]]:
        number = 0
        carried = b""
        for block in self._content.stream(Fingerprint(), _BLOCK_BYTES):
            if number == 0 and not carried:
                block = block.removeprefix(b"\xef\xbb\xbf")
            lines = (carried + block).splitlines(keepends=True)
            # A carriage return at the very end may be half of \r\n.
            carried = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
            if len(carried) > _LINE_BYTES_MAX:
                raise SourceFileError(
                    f"{self.place}: line {number + len(lines) + 1} is longer than 1 MiB: this is no MT940 file."
                )
            for line in lines:
                number += 1
                yield number, line.rstrip(b"\r\n")
        for line in carried.splitlines():
            number += 1
            yield number, line


@dataclass(slots=True)
class _Message:
    """A statement while its fields are read."""

    sums: Statement
    reference: str = ""
    is_closed: bool = False

    def take(self, found: Field) -> None:
        """A field that is no line."""
        if found.flaw is not None and found.tag in ("20", "62", "62F", "62M", *_OPENS):
            self.sums.spoil(found.flaw[1])
        text = found.text.strip()
        match found.tag:
            case "20":
                self.reference = text
            case "25" | "25P":
                self.sums.account = text
            case "28" | "28C":
                self.sums.number, _, self.sums.sequence = text.partition("/")
            case "60" | "60F" | "60M":
                self.sums.opening = self._balance(found, self.sums.opening)
            case "62" | "62F" | "62M":
                self.sums.closing = self._balance(found, self.sums.closing)
                self.is_closed = True

    def line(self, place: int, found: Field) -> _Line:
        """A :61: field."""
        parsed = statement_line_of(found.lines)
        self.sums.lines += 1
        if isinstance(parsed, str):
            self.sums.spoil(f"the line {found.line} of the file cannot be read")
        else:
            self.sums.add(parsed.movement)
        return _Line(place, self.sums.lines, found, [], parsed, self.sums.running())

    def _balance(self, found: Field, already: Balance | None) -> Balance | None:
        balance = balance_of(found.lines[0] if found.lines else "")  # some end a message by -XXX behind it
        if balance is None:
            self.sums.spoil(f":{found.tag}: in line {found.line} of the file is no balance")
        elif already is not None:
            self.sums.spoil(f":{found.tag}: in line {found.line} of the file is the second of its kind")
        return balance


def _piece(lines: list[_Line], statements: list[_Message], verdicts: list[Verdict]) -> StreamedRecords:
    problems = Problems(len(lines))
    rows = []
    for place, line in enumerate(lines):
        problem = line.problem or verdicts[line.statement]
        if problem is not None:
            problems.add(place, *problem)
        rows.append(_values(line, statements[line.statement]))
    schema = pa.schema([pa.field(name, pa.string()) for name in COLUMNS])
    columns = [pa.array([row.get(name, "") for row in rows], pa.string()) for name in COLUMNS]
    return StreamedRecords(
        fields=pa.table(columns, schema=schema),
        lines=pa.array([line.field.line for line in lines], pa.int64()),
        raw=pa.array([line.raw for line in lines], pa.string()),
        problems=problems,
    )


def _values(line: _Line, message: _Message) -> dict[str, str]:
    parsed, sums = line.parsed, message.sums
    if isinstance(parsed, str):
        return {}
    opening, closing = sums.opening, sums.closing
    texts = [text for one in line.descriptions if one.tag == "86" for text in one.lines]
    return {
        "account": sums.account,
        "statement_reference": message.reference,
        "statement_number": sums.number,
        "sequence_number": sums.sequence,
        "currency": "" if opening is None else opening.currency,
        "opening_balance": "" if opening is None else f"{opening.amount:f}",
        "opening_date": "" if opening is None else opening.date,
        "closing_balance": "" if closing is None else f"{closing.amount:f}",
        "closing_date": "" if closing is None else closing.date,
        "line_number": str(line.number),
        "value_date": parsed.value_date,
        "entry_date": parsed.entry_date,
        "booking_date": parsed.entry_date or parsed.value_date,
        "sign": parsed.sign,
        "amount": parsed.amount,
        "signed_amount": f"{parsed.movement:f}",
        "balance": "" if line.balance is None else f"{line.balance:f}",
        "funds_code": parsed.funds_code,
        "type": parsed.type,
        "customer_reference": parsed.customer_reference,
        "bank_reference": parsed.bank_reference,
        "details": parsed.details,
        "description": "\n".join(texts),
        **description_of(texts),
    }
