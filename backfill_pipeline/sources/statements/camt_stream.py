"""camt.053 bank statements (ISO 20022), and camt.052 and camt.054: each entry, or each of its details, as a record.

Belongs here: which elements are statements and records, when an entry is several records.
Does not: the columns of a record (`camt_entries.py`), whether statements hold (`statement_control.py`), XML as such
(`xml_reading.py`).

A document that is not whole is refused as a whole, before any record is given. A record's line is that of its entry,
or of its details.
"""

import json
from collections.abc import Iterator
from itertools import islice
from typing import Final

import pyarrow as pa

from backfill_pipeline.definition.statements import CamtFormat
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.files.content import Content, Fingerprint
from backfill_pipeline.sources.malformed import Problems
from backfill_pipeline.sources.record_stream import StreamedRecords
from backfill_pipeline.sources.statements.camt_entries import (
    COLUMNS,
    CamtRecord,
    Node,
    balance_of,
    records_of,
)
from backfill_pipeline.sources.statements.content_stream import ContentStream
from backfill_pipeline.sources.statements.statement_control import Statement, Verdict, judge
from backfill_pipeline.sources.xml_reading import read_xml

MESSAGES: Final = {
    "BkToCstmrStmt": "Stmt",
    "BkToCstmrAcctRpt": "Rpt",
    "BkToCstmrDbtCdtNtfctn": "Ntfctn",
}
"""Message → what it consists of. Only statements (camt.053) state what they begin and end with."""

_PIECE_ROWS: Final = 4096
_BLOCK_BYTES: Final = 256 << 10
_VALUE_CHARACTERS_MAX: Final = 1 << 20
_ENTRY_NODES_MAX: Final = 1_000_000
"""Elements of one entry in memory; of its details, only what becomes a record is kept."""

_ENTRY_DETAILS_MAX: Final = 500_000
_OPENING: Final = ("OPBD", "PRCD", "ITBD")
_CLOSING: Final = ("CLBD", "ITBD")


class CamtStream(ContentStream):
    """The `RecordStream` of a camt document."""

    def __init__(self, content: Content, section: CamtFormat) -> None:
        """
        Args:
            content: what is read.
            section: what is controlled.
        """
        super().__init__(content)
        self._section = section

    def records(self) -> Iterator[StreamedRecords]:
        """See `RecordStream.records`. Reads the document twice: first to its end, and what its statements add up to."""
        statements: list[_Statement] = []
        for _ in self._records(statements):
            pass
        control = self._section.control if statements[0].is_controlled else "none"
        verdicts = judge([one.sums for one in statements], control)
        records = self._records([])
        yield _piece(list(islice(records, _PIECE_ROWS)), statements, verdicts)
        while piece := list(islice(records, _PIECE_ROWS)):
            yield _piece(piece, statements, verdicts)

    def _records(self, statements: list["_Statement"]) -> Iterator[tuple[int, CamtRecord]]:
        """All records, each with the number of its statement; adds the statements to the list."""
        handler = _Document(self.place, statements)
        blocks = self._content.stream(Fingerprint(), _BLOCK_BYTES)
        for _ in read_xml(blocks, handler, self.place):
            found, handler.found = handler.found, []
            yield from found
        if not statements:
            what = (
                ""
                if handler.root == "Document"
                else f": its root is {handler.root}, and it holds no Document"
            )
            raise SourceFileError(f"{self.place}: is no camt document with a statement{what}.")


class _Statement:
    """A statement while its elements are read."""

    def __init__(self, line: int, *, is_controlled: bool) -> None:
        self.sums = Statement(line)
        self.is_controlled = is_controlled
        self.identification = ""
        self.currency = ""
        self._rank: dict[str, int] = {}

    def take(self, node: Node) -> None:
        """An element that is no entry."""
        match node.name:
            case "Id":
                self.identification = node.text.strip()
            case "ElctrncSeqNb" | "LglSeqNb":
                self.sums.number = self.sums.number or node.text.strip()
            case "StmtPgntn":
                self.sums.sequence = node.find("PgNb")
            case "Acct":
                self.sums.account = node.find("Id", "IBAN") or node.find("Id", "Othr", "Id")
                self.currency = node.find("Ccy")
            case "Bal":
                self._take_balance(node)

    def _take_balance(self, node: Node) -> None:
        code = node.find("Tp", "CdOrPrtry", "Cd")
        if code not in _OPENING and code not in _CLOSING:
            return
        balance = balance_of(node)
        if isinstance(balance, str):
            self.sums.spoil(f"the balance {code} in line {node.line} of the file {balance}")
            return
        # Of several interim balances, the first is the opening one and the last the closing one.
        if code in _OPENING and _OPENING.index(code) < self._rank.get("opening", len(_OPENING)):
            self._rank["opening"] = _OPENING.index(code)
            self.sums.opening = balance
        if code in _CLOSING and _CLOSING.index(code) <= self._rank.get("closing", len(_CLOSING)):
            self._rank["closing"] = _CLOSING.index(code)
            self.sums.closing = balance

    def records(self, node: Node) -> list[CamtRecord]:
        """An entry."""
        self.sums.lines += 1
        records = records_of(node, self.sums.lines)
        for record in records:
            if record.movement is None:
                self.sums.spoil(f"the entry in line {node.line} of the file cannot be read")
                continue
            opening = self.sums.opening
            if opening is not None and record.currency != opening.currency:
                self.sums.spoil(
                    f"the entry in line {node.line} of the file is in {record.currency},"
                    f" the account in {opening.currency}"
                )
            if record.is_booked:
                self.sums.add(record.movement)
                running = self.sums.running()
                record.values["balance"] = "" if running is None else f"{running:f}"
        return records


class _Document:
    """An `XmlHandler` that collects the records of a document, entry by entry."""

    def __init__(self, place: str, statements: list[_Statement]) -> None:
        self.found: list[tuple[int, CamtRecord]] = []
        self.root = ""
        self._place = place
        self._statements = statements
        self._path: list[str] = []
        self._open: list[Node] = []
        self._nodes = 0
        self._details = 0
        self._characters = 0

    def start(self, name: str, attributes: dict[str, str], line: int) -> None:
        """See `XmlHandler`."""
        self.root = self.root or name
        depth = len(self._path)
        if depth == 0 and name != "Document":
            return  # an envelope, such as BizMsgEnvlp with its header
        self._check(name, depth)
        self._path.append(name)
        if depth == 2 and name == MESSAGES[self._path[1]]:
            self._statements.append(_Statement(line, is_controlled=name == "Stmt"))
        if self._open or (depth == 3 and self._path[2] == MESSAGES[self._path[1]]):
            node = Node(name, line, attributes.get("Ccy", ""))
            if self._open:
                self._open[-1].children.append(node)
            self._open.append(node)
            self._nodes += 1
            self._characters = 0
            if self._nodes > _ENTRY_NODES_MAX or len(self._open) > 64 or self._details > _ENTRY_DETAILS_MAX:
                raise SourceFileError(f"{self._place}: line {line}: an entry is too large to be one.")

    def text(self, text: str) -> None:
        """See `XmlHandler`."""
        if self._open:
            self._characters += len(text)
            if self._characters > _VALUE_CHARACTERS_MAX:
                raise SourceFileError(
                    f"{self._place}: line {self._open[-1].line}: a value is longer than 1 MiB."
                )
            self._open[-1].text += text

    def end(self, name: str) -> None:
        """See `XmlHandler`."""
        if self._path:
            self._path.pop()
        if not self._open:
            return
        node = self._open.pop()
        if name == "TxDtls":
            self._nodes -= node.fold()
            self._details += 1
        if self._open:
            return
        self._nodes = self._details = 0
        statement = self._statements[-1]
        if node.name == "Ntry":
            place = len(self._statements) - 1
            self.found += [(place, record) for record in statement.records(node)]
        else:
            statement.take(node)

    def _check(self, name: str, depth: int) -> None:
        if depth == 1 and name not in MESSAGES:
            raise SourceFileError(
                f"{self._place}: is no bank statement: it holds {name}, and not {', '.join(MESSAGES)}"
                " (camt.053, camt.052, camt.054)."
            )


def _piece(
    found: list[tuple[int, CamtRecord]], statements: list[_Statement], verdicts: list[Verdict]
) -> StreamedRecords:
    problems = Problems(len(found))
    rows, raw = [], []
    for place, (number, record) in enumerate(found):
        row = {**record.values, **_of_statement(statements[number])}
        problem = record.problem or verdicts[number]
        if problem is not None:
            problems.add(place, *problem)
        rows.append(row)
        raw.append(None if problem is None else _shown(row))
    schema = pa.schema([pa.field(name, pa.string()) for name in COLUMNS])
    columns = [pa.array([row.get(name, "") for row in rows], pa.string()) for name in COLUMNS]
    return StreamedRecords(
        fields=pa.table(columns, schema=schema),
        lines=pa.array([record.line for _, record in found], pa.int64()),
        raw=pa.array(raw, pa.string()),
        problems=problems,
    )


def _of_statement(statement: _Statement) -> dict[str, str]:
    opening, closing = statement.sums.opening, statement.sums.closing
    return {
        "account": statement.sums.account,
        "account_currency": statement.currency,
        "statement_id": statement.identification,
        "statement_number": statement.sums.number,
        "opening_balance": "" if opening is None else f"{opening.amount:f}",
        "opening_date": "" if opening is None else opening.date,
        "closing_balance": "" if closing is None else f"{closing.amount:f}",
        "closing_date": "" if closing is None else closing.date,
    }


def _shown(row: dict[str, str]) -> str:
    return json.dumps({name: row[name] for name in COLUMNS if row.get(name)}, ensure_ascii=False)
