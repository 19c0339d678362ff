"""The kinds of files that are fuzzed, with good files to begin with.

Belongs here: one entry per kind. A new kind of source gets one.
Does not: what must hold (`targets.py`).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zipfile
from datetime import datetime
from pathlib import Path

import openpyxl
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from backfill_pipeline_tests.fuzz.targets import COLUMNS, FileTarget

EXAMPLES = Path(__file__).resolve().parents[2] / "data" / "examples"
ROWS = (
    ("T1", "10", "4711", "ACC-1", "TRF", "1049.99", "EUR", "2024-03-01 09:00", "booked"),
    ("T2", "10", "4712", "ACC-2", "FEE", "-2.50", "EUR", "2024-03-31 03:30", "booked"),
    ("T3", "", "", "", "trf", "(12.00)", "", "2024-10-27T01:30:00+01:00", "pending"),
    ("T4", "10", "00042", 'A "quoted"\nline', "XXX", "0.00", "JPY", "2024-02-29 24:00", ""),
    ("T5", "1é", "Ø", "ACC,5", "TRF", "12345678901234567890.123456789012345678", "XAU", "2024-03-01", "held"),
)


def _csv(delimiter: str = ",", line: str = "\n", encoding: str = "utf-8", **options: object) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text, delimiter=delimiter, lineterminator=line, **options)
    writer.writerows([COLUMNS, *ROWS])
    return text.getvalue().encode(encoding)


def _jsonl() -> bytes:
    objects = [dict(zip(COLUMNS, row, strict=True)) for row in ROWS]
    lines = [json.dumps(one) for one in objects]
    lines.append(
        '{"id": "T6", "amount": 10.10, "branch": 7, "account": true, "to": null, "kind": "TRF", "x": [1, {"y": 2}]}'
    )
    return "\n".join(lines).encode()


def _fixed() -> bytes:
    return "\n".join(
        "".join(field.replace("\n", " ")[:40].ljust(40) for field in row) for row in ROWS
    ).encode()


def _parquet() -> bytes:
    sink = pa.BufferOutputStream()
    columns = list(zip(*ROWS, strict=True))
    pq.write_table(pa.table([pa.array(one) for one in columns], names=list(COLUMNS)), sink, row_group_size=2)
    return bytes(sink.getvalue())


def _zip() -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("export.csv", _csv())
    return sink.getvalue()


def _xlsx() -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    sheet.append(COLUMNS)
    for row in ROWS:
        sheet.append([*row[:5], 1049.99, *row[6:7], datetime(2024, 3, 1, 9), row[8]])
    sink = io.BytesIO()
    book.save(sink)
    return sink.getvalue()


def _example(name: str) -> tuple[dict[str, object], bytes]:
    """An example's settings, in place of those of BUSY, and its file."""
    folder = EXAMPLES / name
    read = yaml.safe_load((folder / "statements.yaml").read_text(encoding="utf-8"))
    settings = {"columns": {}, "lookups": {}} | {
        key: read[key] for key in ("type", "fields", "rules", "metadata")
    }
    return settings, (folder / read["file"]).read_bytes()


LEGS: dict[str, object] = {
    "columns": {},
    "lookups": {},
    "rules": [{"when": {"account": "A9"}, "filter": "not ours"}],
    "metadata": [],
    "transactions": {"id": "txn", "references": "numbered"},
    "fields": {
        "ledger_id": {"constant": "MASTER"},
        "account_id": "account",
        "amount": "amount",
        "currency_code": "currency",
        "transaction_type": {"constant": "JOURNAL"},
        "reference_id": "txn",
        "timestamp_utc": {"column": "time", "timezone": "UTC"},
    },
}
_SCATTERED = b"""txn,account,amount,currency,time
T1,A1,-5,EUR,2024-03-01
T2,A1,7,EUR,2024-03-01
T1,A2,5,EUR,2024-03-01
T3,A9,1,EUR,2024-03-01
T2,A2,-3,EUR,2024-03-01
T4,A1,0,EUR,2024-03-01
T2,A3,-4,EUR,2024-03-01
T3,A1,-1,EUR,2024-03-01
"""

_MT940, _MT940_FILE = _example("mt940")
_CAMT, _CAMT_FILE = _example("camt053")
_CSV_WORDS = (b",", b";", b'"', b'""', b'"\n', b"\n\n", b",,", b",".join(name.encode() for name in COLUMNS))

FILE_TARGETS: dict[str, FileTarget] = {
    "csv": FileTarget(".csv", {"type": "csv"}, (_csv(), _csv(line="\r\n", quoting=csv.QUOTE_ALL)), _CSV_WORDS),
    "csv_semicolon": FileTarget(
        ".csv",
        {"type": "csv", "csv": {"delimiter": ";", "encoding": "cp1252", "comment": "#", "skip_lines": 1, "skip_footer_lines": 1}},
        (b"Export\r\n" + _csv(";", "\r\n", "cp1252") + b"5 rows\r\n",),
        (*_CSV_WORDS, b"#"),
    ),
    "csv_unquoted": FileTarget(
        ".csv",
        {"type": "csv", "csv": {"delimiter": "\t", "quote": None}},
        (b"\n".join("\t".join(field.replace("\n", " ") for field in row).encode() for row in (COLUMNS, *ROWS)),),
        (*_CSV_WORDS, b"\t"),
    ),
    "jsonl": FileTarget(".jsonl", {"type": "jsonl"}, (_jsonl(),), (b"{", b"}", b"[", b"]", b'"', b":", b",", b"\\u0000", b"\\ud800", b"null", b"1e999", b"-0", b'"id": ', b"[" * 200)),
    "fixed": FileTarget(
        ".txt",
        {"type": "fixed", "fixed": {"columns": [{"name": name, "width": 40} for name in COLUMNS]}},
        (_fixed(),),
        (b" " * 40, b"\xc2\xa0"),
    ),
    "parquet": FileTarget(".parquet", {"type": "parquet"}, (_parquet(),), (b"PAR1", b"\x15\x04")),
    "csv_escaped": FileTarget(
        ".csv",
        {"type": "csv", "csv": {"escape": "\\"}},
        (_csv(escapechar="\\", doublequote=False),),
        (*_CSV_WORDS, b"\\", b"\\\\", b'\\"', b"\\\n", b"\\,"),
    ),
    "transactions": FileTarget(
        ".csv",
        {"type": "csv", **LEGS},
        (_SCATTERED,),
        (*_CSV_WORDS, b"T1,A1,", b"-0.00", b"T0"),
    ),
    "xlsx": FileTarget(".xlsx", {"type": "xlsx", "xlsx": {"float_decimals": {"amount": 2}}}, (_xlsx(),), (b"PK\x03\x04", b"PK\x01\x02")),
    "mt940": FileTarget(".sta", _MT940, (_MT940_FILE,), (b":61:", b":86:", b":62F:", b":60F:", b":25:", b":28C:", b"-}", b"{4:", b"C", b"RD", b",", b"?20", b"NTRF", b"//")),
    "camt": FileTarget(".xml", _CAMT, (_CAMT_FILE,), (b"<Ntry>", b"</Ntry>", b"<Amt Ccy=\"EUR\">", b"<!DOCTYPE a [<!ENTITY b 'c'>]>", b"&b;", b"&amp;", b"<![CDATA[", b"]]>", b"<!--", b"CRDT", b"DBIT", b"<TxDtls>", b"</TxDtls>", b"xmlns=")),
    "gzip": FileTarget(".csv.gz", {"type": "csv"}, (gzip.compress(_csv(), mtime=0),), (b"\x1f\x8b\x08",)),
    "zip": FileTarget(".zip", {"type": "csv"}, (_zip(),), (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06")),
}  # fmt: skip
