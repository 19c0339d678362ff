"""One bad row for every code of a reject, and one bad file for every sentence: what docs/bad-input.md lists."""

from __future__ import annotations

import gzip
import io
import json
import sqlite3
import zipfile
from collections.abc import Callable, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from backfill_pipeline.schemas.rejects import RejectCode

ROW = {
    "ledger": "MASTER", "debit": "A", "credit": "B", "amount": "1.00", "currency": "USD", "asset": "fiat",
    "type": "TRANSFER", "ref": "R1", "time": "2024-03-01T09:00:00Z", "zone": "UTC", "rate": "", "txn": "T1",
}  # fmt: skip
FIELDS: Mapping[str, object] = {
    "ledger_id": "ledger", "debit_account_id": "debit", "credit_account_id": "credit", "amount": "amount",
    "currency_code": "currency", "asset_type": "asset", "transaction_type": "type", "reference_id": "ref",
    "timestamp_utc": {"column": "time"}, "fx_rate": "rate",
}  # fmt: skip
LEGS: Mapping[str, object] = {
    "fields": {
        "ledger_id": "ledger", "account_id": "debit", "amount": "amount", "currency_code": "currency",
        "transaction_type": "type", "reference_id": "ref", "timestamp_utc": {"column": "time"},
    },
    "transactions": {"id": "txn", "zero_legs": "reject"},
}  # fmt: skip
STATEMENT = ":20:R\n:25:A\n:28C:{number}\n:60F:C240301EUR{opening}\n:61:240301C5,00NTRFx\n:62F:C240301EUR{closing}\n-\n"
MT940: Mapping[str, object] = {
    "type": "mt940", "csv": None,
    "fields": {
        "ledger_id": {"constant": "MASTER"}, "debit_account_id": {"constant": "C"}, "credit_account_id": "account",
        "amount": "amount", "currency_code": "currency", "transaction_type": "type", "reference_id": {"generate": "true"},
        "timestamp_utc": {"column": "booking_date", "timezone": "UTC"},
    },
}  # fmt: skip


@dataclass(frozen=True)
class BadRow:
    """A row that gets one code.

    Attributes:
        words: the row as the documentation has it.
        changed: columns of ROW that differ.
        settings: of the definition.
        content: of the whole export, in place of the row.
        others: rows beside it, as `changed`.
    """

    words: str
    changed: Mapping[str, str] = field(default_factory=dict)
    settings: Mapping[str, object] = field(default_factory=dict)
    content: bytes | None = None
    others: tuple[Mapping[str, str], ...] = ()

    def write(self, folder: Path) -> Path:
        """The source file, with its export."""
        rows = [ROW | {"ref": "R0"} | dict(other) for other in self.others] + [ROW | dict(self.changed)]
        lines = [",".join(ROW), *(",".join(row.values()) for row in rows)]
        content = "\n".join(lines).encode() if self.content is None else self.content
        (folder / "export").write_bytes(content)
        return write_source(folder, dict(self.settings))


def write_source(folder: Path, settings: Mapping[str, object]) -> Path:
    definition = {
        "id": "bad",
        "type": "csv",
        "file": "export",
        "fields": FIELDS,
        "max_error_rate": "1",
    } | dict(settings)
    path = folder / "bad.yaml"
    path.write_text(yaml.safe_dump({key: value for key, value in definition.items() if value is not None}))
    return path


def _line(**changed: str) -> bytes:
    return (",".join(ROW) + "\n" + ",".join((ROW | changed).values())).encode()


def _amount(rule: object) -> dict[str, object]:
    return {"fields": {**FIELDS, "amount": rule}}


def _field(name: str, rule: object) -> dict[str, object]:
    return {"fields": {**FIELDS, name: rule}}


_SPLIT = {"in": "amount", "out": "rate"}
_BERLIN = {"column": "time", "timezone": "Europe/Berlin"}

ROWS: dict[RejectCode, BadRow] = {
    RejectCode.WRONG_FIELD_COUNT: BadRow("`T1,A` under a header of twelve columns", content=_line() + b"\nT1,A"),
    RejectCode.RECORD_MALFORMED: BadRow(
        '`{"ref": "R1"` in JSON lines; a line too short for its columns; a cell with `#REF!`; `:61:` without an amount',
        content=json.dumps(ROW)[:-1].encode(),
        settings={"type": "jsonl"},
    ),
    RejectCode.QUOTE_UNTERMINATED: BadRow('`"A,B,1.00` and no other quote', content=_line(debit='"A')),
    RejectCode.RECORD_TOO_LONG: BadRow("a line of 2 MiB", {"debit": "x" * (2 << 20)}),
    RejectCode.ENCODING_INVALID: BadRow("a byte that is no UTF-8", content=_line().replace(b"fiat", b"\xff")),
    RejectCode.NUL_BYTE: BadRow("a NUL byte", content=_line().replace(b"fiat", b"f\0t")),
    RejectCode.STATEMENT_UNBALANCED: BadRow(
        "a line of a statement that opens with 100, moves 5 and closes with 106",
        content=STATEMENT.format(number=1, opening="100,", closing="106,").encode(),
        settings=MT940,
    ),
    RejectCode.STATEMENT_GAP: BadRow(
        "a line of a statement that opens with 205, after one that closes with 105",
        content=(
            STATEMENT.format(number=1, opening="100,", closing="105,")
            + STATEMENT.format(number=3, opening="205,", closing="210,")
        ).encode(),
        settings=MT940,
    ),
    RejectCode.LEDGER_ID_MISSING: BadRow("no text", {"ledger": ""}),
    RejectCode.DEBIT_ACCOUNT_ID_MISSING: BadRow("no text", {"debit": ""}),
    RejectCode.CREDIT_ACCOUNT_ID_MISSING: BadRow("no text", {"credit": " "}),
    RejectCode.ACCOUNT_ID_MISSING: BadRow("no text, in a leg", {"debit": ""}, LEGS),
    RejectCode.ACCOUNT_UNMAPPED: BadRow(
        "an account that the map lacks",
        settings={"account_map": {"inline": {"4711": "A"}}, **_field("debit_account_id", {"column": "debit", "map": "accounts"})},
    ),
    RejectCode.LOOKUP_MISSING: BadRow(
        "a text that the lookup lacks",
        settings={"lookups": {"kinds": {"inline": {"X": "Y"}}}, **_field("transaction_type", {"column": "type", "lookup": "kinds"})},
    ),
    RejectCode.VALUE_UNMATCHED: BadRow(
        "`TRANSFER` under `regex: '^[0-9]+$'`",
        settings=_field("transaction_type", {"column": "type", "regex": "^[0-9]+$", "unmatched": "reject"}),
    ),
    RejectCode.VALUE_MALFORMED: BadRow(
        "`UTC` under `{above: 0}`", settings={"rules": [{"when": {"zone": {"above": "0"}}, "filter": "x"}]}
    ),
    RejectCode.RULE_REJECTED: BadRow(
        "what a rule says", settings={"rules": [{"when": {"ref": "R1"}, "reject": "no such booking"}]}
    ),
    RejectCode.AMOUNT_MISSING: BadRow("no text", {"amount": ""}),
    RejectCode.AMOUNT_MALFORMED: BadRow("`1e3`, `1.049,99`, `NaN`", {"amount": "1e3"}),
    RejectCode.AMOUNT_OUT_OF_RANGE: BadRow("21 digits", {"amount": "1" * 21}),
    RejectCode.AMOUNT_INEXACT: BadRow(
        "`1` over `3`", {"amount": "1", "rate": "3"},
        {"fields": {**{k: v for k, v in FIELDS.items() if k != "fx_rate"}, "amount": {"numerator": "amount", "denominator": "rate"}}},
    ),
    RejectCode.AMOUNT_SIGN_UNCLEAR: BadRow(
        "`X` where `D` and `C` are signs",
        settings=_amount({"column": "amount", "sign": {"column": "zone", "negative": ["D"], "positive": ["C"]}}),
    ),
    RejectCode.AMOUNT_IN_AND_OUT: BadRow(
        "both columns filled", {"rate": "2.00"},
        {"fields": {**{k: v for k, v in FIELDS.items() if k != "fx_rate"}, "amount": _SPLIT}},
    ),
    RejectCode.AMOUNT_MINOR_UNIT_UNKNOWN: BadRow(
        "cents of `XXX`", {"amount": "100", "currency": "XXX"}, _amount({"column": "amount", "minor_units": "true"})
    ),
    RejectCode.CURRENCY_CODE_MISSING: BadRow("no text", {"currency": ""}),
    RejectCode.ASSET_TYPE_MISSING: BadRow("no text", {"asset": ""}),
    RejectCode.TRANSACTION_TYPE_MISSING: BadRow("no text", {"type": ""}),
    RejectCode.REFERENCE_ID_MISSING: BadRow("no text", {"ref": ""}),
    RejectCode.TIME_MISSING: BadRow("no text", {"time": ""}),
    RejectCode.TIME_MALFORMED: BadRow("`yesterday`, `2024-02-30`", {"time": "2024-02-30T00:00:00Z"}),
    RejectCode.TIME_ZONE_MISSING: BadRow("`2024-03-01 09:00`", {"time": "2024-03-01 09:00"}),
    RejectCode.TIME_ZONE_UNKNOWN: BadRow(
        "`CEST`", {"time": "2024-03-01 09:00", "zone": "CEST"},
        _field("timestamp_utc", {"column": "time", "timezone_column": "zone"}),
    ),
    RejectCode.TIME_NONEXISTENT: BadRow(
        "`2024-03-31 02:30` in Berlin", {"time": "2024-03-31 02:30"}, _field("timestamp_utc", _BERLIN)
    ),
    RejectCode.TIME_AMBIGUOUS: BadRow(
        "`2024-10-27 02:30` in Berlin", {"time": "2024-10-27 02:30"}, _field("timestamp_utc", _BERLIN)
    ),
    RejectCode.FX_RATE_MALFORMED: BadRow("`1,0850`", {"rate": "1.0.850"}),
    RejectCode.FX_RATE_OUT_OF_RANGE: BadRow("21 digits", {"rate": "1" * 21}),
    RejectCode.FX_RATE_INEXACT: BadRow(
        "`1` over `3`", {"rate": "1", "zone": "3"}, _field("fx_rate", {"numerator": "rate", "denominator": "zone"})
    ),
    RejectCode.TRANSACTION_ID_MISSING: BadRow("no text", {"txn": ""}, LEGS),
    RejectCode.LEG_AMOUNT_ZERO: BadRow("`0.00` in a leg, with `zero_legs: reject`", {"amount": "0.00"}, LEGS),
    RejectCode.TRANSACTION_UNBALANCED: BadRow(
        "legs of `1.00` and `-1.01`", settings=LEGS, others=({"amount": "-1.01", "debit": "B"},)
    ),
    RejectCode.TRANSACTION_REFERENCE_REPEATED: BadRow(
        "two pairs of legs with one reference", {"amount": "-5", "debit": "B"}, LEGS,
        others=({"ref": "R1", "amount": "5"}, {"ref": "R1", "amount": "5"}, {"ref": "R1", "amount": "-5", "debit": "B"}),
    ),
    RejectCode.TRANSACTION_INCOMPLETE: BadRow(
        "a leg beside one that is rejected", settings=LEGS, others=({"amount": "x", "debit": "B"},)
    ),
    RejectCode.LEDGER_ID_TOO_LONG: BadRow("65 characters", {"ledger": "x" * 65}),
    RejectCode.DEBIT_ACCOUNT_ID_TOO_LONG: BadRow("256 characters", {"debit": "x" * 256}),
    RejectCode.CREDIT_ACCOUNT_ID_TOO_LONG: BadRow("256 characters", {"credit": "x" * 256}),
    RejectCode.SAME_ACCOUNT: BadRow("`A` and `A`", {"credit": "A"}),
    RejectCode.AMOUNT_NOT_POSITIVE: BadRow("`-1.00`, `0.00`", {"amount": "-1.00"}),
    RejectCode.AMOUNT_TOO_MANY_DECIMALS: BadRow("`1.005` USD, `1.5` JPY", {"amount": "1.005"}),
    RejectCode.CURRENCY_UNKNOWN: BadRow("`usd`, `EURO`", {"currency": "usd"}),
    RejectCode.ASSET_TYPE_UNKNOWN: BadRow("`gold`", {"asset": "gold"}),
    RejectCode.TRANSACTION_TYPE_TOO_LONG: BadRow("65 characters", {"type": "x" * 65}),
    RejectCode.REFERENCE_ID_TOO_LONG: BadRow("256 characters", {"ref": "x" * 256}),
    RejectCode.TIME_OUT_OF_RANGE: BadRow("`1024-03-01`", {"time": "1024-03-01T00:00:00Z"}),
    RejectCode.FX_RATE_NOT_POSITIVE: BadRow("`0`, `-1`", {"rate": "-1"}),
}  # fmt: skip
"""Codes that need no ledger."""

POSTED: dict[RejectCode, str] = {
    RejectCode.CONFLICT: "`R1` for 2.00, where the ledger has `R1` for 1.00",
    RejectCode.DUPLICATE_REFERENCE: "`R1` again, with `skip_duplicates: false`",
    RejectCode.UNKNOWN_ACCOUNT: "an account that the ledger lacks, without `unknown_accounts: create`",
    RejectCode.CURRENCY_MISMATCH: "EUR between two accounts in USD",
    RejectCode.FX_RATE_MISSING: "EUR between an account in EUR and one in USD, without `fx_rate`",
    RejectCode.PERIOD_CLOSED: "2024-03-01, while March 2024 is closed",
    RejectCode.BALANCE_CONSTRAINT: "100.00 from an account that holds 1.00, while constraints are applied",
}
"""Codes that the ledger gives: the row as the documentation has it."""


@dataclass(frozen=True)
class BadFile:
    """A source that is refused as a whole.

    Attributes:
        kind: of source, as the documentation has it.
        what: is wrong, likewise.
        says: a part of the sentence that tells it, likewise.
        write: the export.
        settings: of the definition.
    """

    kind: str
    what: str
    says: str
    write: Callable[[Path], object]
    settings: Mapping[str, object] = field(default_factory=dict)


def _bytes(content: bytes) -> Callable[[Path], object]:
    return lambda file: file.write_bytes(content)


def _zip(members: Mapping[str, bytes]) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return held.getvalue()


def _book(*sheets: list[list[object]]) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        book = openpyxl.Workbook()
        book.remove(book.worksheets[0])
        for number, rows in enumerate(sheets, start=1):
            sheet = book.create_sheet(f"sheet {number}")
            for row in rows:
                sheet.append(row)
        book.save(file)

    return write


def _parquet(**columns: pa.Array) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        whole = {name: pa.array([text]) for name, text in ROW.items()} | columns
        pq.write_table(pa.table(whole), file)

    return write


def _sqlite(table: str = "t", **changed: object) -> Callable[[Path], object]:
    def write(file: Path) -> None:
        row = ROW | changed
        with closing(sqlite3.connect(file)) as connection:
            connection.execute(f"CREATE TABLE {table} ({', '.join(row)})")
            connection.execute(
                f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", tuple(row.values())
            )
            connection.commit()

    return write


def _database(**section: object) -> dict[str, object]:
    return {
        "type": "database",
        "file": None,
        "database": {"sqlite": "export", "table": "t", "key": "ref"} | section,
    }


_ROW = [list(ROW), list(ROW.values())]
_WIDE = {"fixed": {"columns": [{"name": name, "width": "20"} for name in ROW]}}
_CAMT = {**MT940, "type": "camt"}
_OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600)

FILES: list[BadFile] = [
    BadFile("all", "it is not there", "there is no such file", lambda file: file.with_suffix(".x").write_text("")),
    BadFile("all", "it is a directory", "is a directory", lambda file: file.mkdir()),
    BadFile("all", "a column that the definition reads is missing", "has no column 'ref', which fields.reference_id", _bytes(_line().replace(b"ref", b"id"))),
    BadFile("all", "two columns have one name", "are both named 'debit'", _bytes(_line().replace(b"credit", b"debit"))),
    BadFile("`csv`", "a column has no name", "has no name: the header line must name them all", _bytes(_line().replace(b"credit", b""))),
    BadFile("`csv`", "it is empty", "is empty: expected a header line", _bytes(b"")),
    BadFile("`csv`", "the header has an open quote", "the header line has a quote that is never closed", _bytes(b'"a,b\n1,2\n')),
    BadFile("`csv`", "it is UTF-16", "the header line holds NUL bytes: is it UTF-16?", _bytes(_line().decode().encode("utf-16-le"))),
    BadFile("`csv`", "the header is in another encoding", "the header line is not utf-8: set csv.encoding", _bytes(_line().replace(b"zone", b"z\xff"))),
    BadFile("`csv`, `jsonl`, `fixed`", "a line is longer than 64 MiB", "is longer than 64 MiB", _bytes(_line() + b"x" * (65 << 20))),
    BadFile("`.gz`, `.zst`, `.zip`", "it is cut short or damaged", "is not a whole gzip file", _bytes(gzip.compress(_line())[:-9]), {"file": "export.gz"}),
    BadFile("`.gz`, `.zst`, `.zip`", "it unpacks to far more than it is", "unpacks to more than 500 times its size", _bytes(gzip.compress(bytes(70 << 20))), {"file": "export.gz"}),
    BadFile("`.zip`", "it holds several files", "holds 2 files (a.csv, b.csv): say which one with member", _bytes(_zip({"a.csv": b"a", "b.csv": b"b"})), {"file": "export.zip"}),
    BadFile("`.zip`", "it lacks the member", "holds no file 'c.csv', only a.csv", _bytes(_zip({"a.csv": b"a"})), {"file": "export.zip", "member": "c.csv"}),
    BadFile("`parquet`", "it is none, or damaged", "is not a whole Parquet file", _bytes(b"PAR1"), {"type": "parquet"}),
    BadFile("`parquet`", "a float is read as an amount", "is a float (double), which is no exact number", _parquet(amount=pa.array([1.5])), {"type": "parquet"}),
    BadFile("`parquet`", "a list is read", "not a single value", _parquet(debit=pa.array([["A"]])), {"type": "parquet"}),
    BadFile("`xlsx`", "it is no workbook", "should be an Excel workbook (.xlsx), but is none", _bytes(_line()), {"type": "xlsx"}),
    BadFile("`xlsx`", "it is an old workbook", "is an old Excel workbook (.xls)", _bytes(_OLE), {"type": "xlsx"}),
    BadFile("`xlsx`", "it has a password", "is protected by a password", _bytes(_OLE + "EncryptedPackage".encode("utf-16-le")), {"type": "xlsx"}),
    BadFile("`xlsx`", "it is an OpenDocument file", "is an OpenDocument spreadsheet", _bytes(_zip({"content.xml": b"x"})), {"type": "xlsx"}),
    BadFile("`xlsx`", "it is cut short or damaged", "is not a whole Excel workbook", _bytes(_zip({"_rels/.rels": b"x"})[:-9]), {"type": "xlsx"}),
    BadFile("`xlsx`", "it unpacks to far more than it is", "unpacks to more than 500 times its size", _bytes(_zip({"_rels/.rels": bytes(70 << 20)})), {"type": "xlsx"}),
    BadFile("`xlsx`", "it has several sheets, and none is chosen", "holds 2 sheets (sheet 1, sheet 2): say which one with xlsx.sheet", _book(_ROW, _ROW), {"type": "xlsx"}),
    BadFile("`xlsx`", "the row of names is empty", "is empty, and should name the columns", _book([[], *_ROW]), {"type": "xlsx"}),
    BadFile("`mt940`", "it holds no statement", "holds no MT940 statement", _bytes(_line()), MT940),
    BadFile("`mt940`", "a line is longer than 1 MiB", "is longer than 1 MiB: this is no MT940 file", _bytes(b"x" * (3 << 20)), MT940),
    BadFile("`camt`", "it is cut short, or no XML", "is not a whole XML file", _bytes(b"<Document><BkToCstmrStmt>"), _CAMT),
    BadFile("`camt`", "it is another document", "is no camt document with a statement: its root is html", _bytes(b"<html/>"), _CAMT),
    BadFile("`camt`", "it is another message", "is no bank statement: it holds CstmrCdtTrfInitn", _bytes(b"<Document><CstmrCdtTrfInitn/></Document>"), _CAMT),
    BadFile("`camt`, `xlsx`", "its XML declares a document type", "declares a document type (DOCTYPE)", _bytes(b"<!DOCTYPE x [<!ENTITY a 'ha'>]><Document/>"), _CAMT),
    BadFile("several files", "no file matches", "no file matches", lambda file: None, {"file": None, "files": "part-*.csv"}),
    BadFile(
        "several files", "one has other columns", "has other columns than part-1.csv",
        lambda file: [(file.parent / f"part-{n}.csv").write_bytes(_line().replace(b"zone", b"zone%d" % n)) for n in (1, 2)],
        {"file": None, "files": "part-*.csv"},
    ),
    BadFile("`database`", "the SQLite file is not there", "there is no such", lambda file: None, _database()),
    BadFile("`database`", "it is no database", "the database refuses it (file is not a database)", _bytes(b"x" * 5000), _database()),
    BadFile("`database`", "there is no such table", "there is no such table or view", _sqlite("other"), _database()),
    BadFile("`database`", "a column of the key is missing", "has no column 'number', which database.key names", _sqlite(), _database(key="number")),
    BadFile("`database`", "the key is empty in a row", "the key is empty in record 1", _sqlite(ref=None), _database()),
    BadFile("`database`", "a float is read as an amount", "which is no exact number: say how many decimals it stands for with database.float_decimals", _sqlite(amount=1.5), _database()),
]  # fmt: skip
"""Files that are refused before anything of them is registered."""
