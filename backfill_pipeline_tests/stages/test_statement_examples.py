"""The bank statements of data/examples go all the way into a ledger, and end there with what the bank says; and so
does a workbook.
"""

from __future__ import annotations

import json
import shutil
from decimal import Decimal
from pathlib import Path

import openpyxl
import pytest

from backfill_pipeline.errors import SourceFileError
from backfill_pipeline_tests.stages.world import CHECKOUT, HEADER, World, entries, entry

EXAMPLES = CHECKOUT / "data" / "examples"


def copied(world: World, name: str, old: str = "", new: str = "") -> Path:
    """An example in the world's folder, perhaps with another text in its statements."""
    folder = world.folder / name
    shutil.copytree(EXAMPLES / name, folder)
    (statements,) = [file for file in folder.iterdir() if file.suffix in (".sta", ".xml")]
    text = statements.read_text(encoding="utf-8")
    assert old in text
    statements.write_text(text.replace(old, new), encoding="utf-8")
    path = folder / "statements.yaml"
    with path.open("a", encoding="utf-8") as file:
        file.write("\nmax_error_rate: 1\n")
    return path


def balances(world: World) -> dict[object, object]:
    return dict(world.query("SELECT id, balance FROM bank_accounts WHERE id NOT LIKE 'OPENING%%'"))


def test_mt940_statements_become_double_entries(world: World) -> None:
    path = copied(world, "mt940")
    world.post(path)
    assert world.rejects() == []
    assert balances(world) == {
        "37040044/0532013000": Decimal("1897.50"),  # :62F: of the second statement
        "SWIFT-CLEARING": Decimal("10900.00"),
        "ACCOUNT-FEES": Decimal("2.50"),
    }
    report = world.reconcile(path)
    assert report.matches, report
    assert (report.read, report.posted, report.filtered) == (6, 6, 0)
    entry = world.query(
        "SELECT debit_account_id, amount::text, timestamp_utc::text, metadata FROM ledger_entries"
        " WHERE reference_id = '37040044/0532013000/2025-01-02/2/1'"
    )
    assert entry == [
        (
            "SWIFT-CLEARING", "80.00", "2025-01-01 23:00:00+00",
            {
                "sign": "RD", "type": "NRTI", "bank_reference": "B25002-1", "counterparty_name": "City Power",
                "counterparty_account": "DE02500105170137075030", "remittance": "Return Electricity",
                "description": "109?00RUECKLASTSCHRIFT?20EREF+4711?21SVWZ+Return Electricity"
                "?31DE02500105170137075030?32City Power",
            },
        )
    ]  # fmt: skip
    world.post(path)
    assert len(world.references()) == 6


def test_camt_statements_become_double_entries(world: World) -> None:
    path = copied(world, "camt053")
    world.post(path)
    assert world.rejects() == []
    assert balances(world) == {
        "DE89370400440532013000": Decimal("4492.50"),  # CLBD of the second statement
        "SEPA-CLEARING": Decimal("9500.00"),
        "ACCOUNT-FEES": Decimal("7.50"),
    }
    report = world.reconcile(path)
    assert report.matches, report
    assert (report.read, report.posted, report.filtered) == (8, 7, 1)
    assert [reference for reference in world.references() if "/2/" in str(reference)] == [
        "STMT-2024-061/2/1", "STMT-2024-061/2/2", "STMT-2024-061/2/3", "STMT-2024-064/2/1",
    ]  # fmt: skip
    world.post(path)
    assert len(world.references()) == 7


@pytest.mark.parametrize(
    ("name", "old", "new", "statement", "code"),
    [
        ("mt940", "RD80,00", "RD80,01", 2, "statement_unbalanced"),
        ("mt940", "D300,00NTRF", "D300.00NTRF", 2, "statement_unbalanced"),
        ("mt940", ":62F:C250102EUR1897,50\n", "", 2, "statement_unbalanced"),
        (
            "mt940",
            "C241231EUR2167,50\n:61:2412310102RD80,00",
            "C241231EUR2087,50\n:61:2412310102RD160,00",
            2,
            "statement_gap",
        ),
        ("camt053", '"EUR">7.50<', '"EUR">7.51<', 1, "statement_unbalanced"),
        ("camt053", "5292.50", "5292.51", 1, "statement_unbalanced"),
    ],
)
def test_no_line_of_a_statement_that_does_not_hold_is_posted(
    world: World, name: str, old: str, new: str, statement: int, code: str
) -> None:
    path = copied(world, name, old, new)
    world.post(path)
    report = world.reconcile(path)
    assert report.matches, report
    codes = [str(found) for _, _, found, _ in world.rejects()]
    assert set(codes) - {"record_malformed"} == {code}
    assert report.read == report.posted + report.rejected + report.filtered
    references = [str(reference) for reference in world.references()]
    mark = {("mt940", 2): "/2025-", ("camt053", 1): "-061/"}[name, statement]
    assert references == [reference for reference in references if mark not in reference]
    raw = [str(text) for (text,) in world.query("SELECT raw FROM backfill_rejects")]
    assert all(text.startswith(":61:" if name == "mt940" else '{"account": "DE89') for text in raw)


def test_a_truncated_document_posts_nothing(world: World) -> None:
    path = copied(world, "camt053", "  </BkToCstmrStmt>\n</Document>\n", "")
    with pytest.raises(SourceFileError, match="is not a whole XML file .* was it cut short or damaged"):
        world.register(path)
    assert world.query("SELECT * FROM backfill_registrations") == []


def test_a_workbook(world: World) -> None:
    rows = [*entries(25), entry(26, amount="1e3"), entry(27, time="yesterday")]
    path = world.write(
        "bank",
        rows,
        type="xlsx",
        file="bank.xlsx",
        max_error_rate="1",
        xlsx={"float_decimals": {"amount": "2"}},
    )
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in [list(HEADER), *rows]:
        values = list(row)
        if isinstance(values[3], str) and values[3].endswith(".00"):
            values[3] = float(values[3])
        sheet.append(values)
    book.save(path.with_suffix(".xlsx"))
    assert len(world.post(path)) == 3
    assert [(row, code) for row, _, code, _ in world.rejects()] == [
        (26, "amount_malformed"),
        (27, "time_malformed"),
    ]
    assert world.value("SELECT amount::text FROM ledger_entries WHERE reference_id = 'R000001'") == "2.00"
    report = world.reconcile(path)
    assert report.matches, report
    ((raw, line),) = world.query("SELECT raw, source_line FROM backfill_rejects WHERE source_row = 26")
    assert json.loads(str(raw))["amount"] == "1e3"
    assert line == 27  # the row of the sheet
    world.post(path)
    assert len(world.references()) == 25


def test_several_workbooks(world: World) -> None:
    path = world.write("bank", [], type="xlsx", file=None, files="part-*.xlsx", max_error_rate="1")
    for name, rows in (("part-1", entries(14)), ("part-2", [*entries(5, first=15), entry(20, amount="x")])):
        book = openpyxl.Workbook()
        sheet = book.active
        for row in [list(HEADER), *rows]:
            sheet.append(row)
        book.save(path.parent / f"{name}.xlsx")
    world.post(path)
    assert len(world.references()) == 19
    ((raw, line),) = world.query("SELECT raw, source_line FROM backfill_rejects")
    assert str(raw).startswith('[part-2.xlsx] {"ref": "R000020"')
    assert line == 7
    assert world.reconcile(path).matches
