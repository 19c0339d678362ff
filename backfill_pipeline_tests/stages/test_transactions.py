"""Sources whose rows are legs of transactions, from the file to the ledger and back."""

from __future__ import annotations

import json
import random
import re
import sqlite3
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml

from backfill_pipeline.errors import SourceChangedError
from backfill_pipeline.stages.plan_report import Counts
from backfill_pipeline.stages.reconcile import ReconciliationReport
from backfill_pipeline_tests.stages.planning import planned
from backfill_pipeline_tests.stages.world import CHECKOUT, World

HEADER = ("ref", "txn", "account", "amount", "currency", "time", "note")
FIELDS: dict[str, object] = {
    "ledger_id": {"constant": "MASTER"},
    "account_id": "account",
    "amount": "amount",
    "currency_code": "currency",
    "transaction_type": {"constant": "BOOKING"},
    "reference_id": "ref",
    "timestamp_utc": {"column": "time"},
}
Row = Sequence[str]


def legs(txn: str, *amounts: tuple[str, str], currency: str = "USD") -> list[Row]:
    """The rows of one transaction: (account, signed amount)."""
    return [
        (f"{txn}-{place}", txn, account, amount, currency, "2024-01-02T03:04:05Z", f"note {place}")
        for place, (account, amount) in enumerate(amounts, start=1)
    ]


def many(count: int) -> list[Row]:
    """Transactions of two to four legs."""
    rows: list[Row] = []
    for number in range(count):
        cents = 100 + number
        if number % 3 == 0:
            rows += legs(f"T{number:05d}", ("A", f"{cents}.00"), ("B", f"-{cents}.00"))
        elif number % 3 == 1:
            rows += legs(f"T{number:05d}", ("A", f"{cents}.00"), ("B", "-1.00"), ("C", f"-{cents - 1}.00"))
        else:
            rows += legs(
                f"T{number:05d}", ("A", "7.00"), ("B", f"{cents}.00"), ("C", f"-{cents}.00"), ("A", "-7.00")
            )
    return rows


def define(world: World, name: str, rows: Iterable[Row], **settings: object) -> Path:
    kept: dict[str, Any] = {
        "fields": FIELDS, "transactions": {"id": "txn"}, "max_error_rate": "1", "partition_rows": "10",
    } | settings  # fmt: skip
    return world.write(name, rows, header=HEADER, **kept)


def assert_accounted_for(world: World, path: Path) -> ReconciliationReport:
    """Every row is something, and every entry is what its rows say."""
    report = world.reconcile(path)
    assert report.matches
    assert (
        report.read
        == report.posted + report.duplicates + report.conflicts + report.rejected + report.filtered
    )
    return report


def balances(world: World) -> dict[object, str]:
    return {account: str(amount) for account, amount in world.query("SELECT id, balance FROM bank_accounts")}


def test_legs_become_entries_and_every_row_is_accounted_for(world: World) -> None:
    path = define(
        world,
        "legs",
        [
            *legs("T1", ("A", "70.00"), ("B", "30.00"), ("C", "-100.00")),
            *legs("T2", ("A", "1.00"), ("B", "-1.01")),
            *legs("T3", ("A", "5.00"), ("B", "x"), ("C", "-5.00")),
            *legs("T4", ("A", "5.00"), ("C", "0.00"), ("B", "-5.00")),
        ],
    )
    reports = world.post(path)
    assert world.query(
        "SELECT reference_id, debit_account_id, credit_account_id, amount::text FROM ledger_entries ORDER BY 1"
    ) == [
        ("T1-1", "A", "C", "70.00"),
        ("T1-2", "B", "C", "30.00"),
        ("T4-1", "A", "B", "5.00"),
    ]
    assert [(row, code) for row, _, code, _ in world.rejects()] == [
        (4, "transaction_unbalanced"), (5, "transaction_unbalanced"),
        (6, "transaction_incomplete"), (7, "amount_malformed"), (8, "transaction_incomplete"),
    ]  # fmt: skip
    reasons = world.query("SELECT reason FROM backfill_rejects ORDER BY source_row")
    assert reasons[0] == ('transaction "T2" does not sum to zero: USD -0.01',)
    assert reasons[2] == ('row 7 (line 8) of transaction "T3" is rejected',)
    filtered: Counter[str] = Counter()
    for (by_reason,) in world.query("SELECT filtered_by_reason FROM backfill_partitions"):
        assert isinstance(by_reason, dict)
        filtered.update(by_reason)
    assert filtered == {"paired_leg": 2, "zero_leg": 1}
    assert_accounted_for(world, path)
    assert len(reports) == 1


def test_scattered_rows_make_the_same_entries_as_rows_side_by_side(world: World) -> None:
    rows = many(60)
    world.post(define(world, "together", rows))
    shuffled = list(rows)
    random.Random(3).shuffle(shuffled)
    fields = FIELDS | {"ledger_id": {"constant": "SHUFFLED"}}
    scattered = define(world, "scattered", shuffled, fields=fields)
    world.post(scattered)
    found: dict[object, list[tuple[object, ...]]] = {}
    for ledger, *entry in world.query(
        "SELECT ledger_id, reference_id, debit_account_id, credit_account_id, amount::text, metadata::text"
        " FROM ledger_entries ORDER BY 1, 2"
    ):
        found.setdefault(ledger, []).append(tuple(entry))
    assert found["SHUFFLED"] == found["MASTER"]
    assert_accounted_for(world, scattered)


def test_an_export_in_another_order_posts_nothing_twice(world: World) -> None:
    rows = [
        *many(20),
        *legs("E1", ("A", "10.00"), ("B", "-5.00"), ("C", "-5.00")),
        *legs("E2", ("A", "10.00"), ("B", "-5.00"), ("B", "-5.00")),
    ]
    path = define(world, "legs", rows)
    world.post(path)
    before = world.query("SELECT count(*) FROM ledger_entries")
    world.write_rows("legs", list(reversed(rows)), header=HEADER)
    world.post(path)
    assert world.query("SELECT count(*) FROM ledger_entries") == before
    assert assert_accounted_for(world, path).conflicts == 0


@pytest.mark.parametrize(
    "generated", [{"generate": "true"}, {"generate": "true", "columns": ["txn", "account", "amount"]}]
)
def test_generated_references_are_those_of_the_rows_in_any_order(world: World, generated: object) -> None:
    rows = [row[1:] for row in many(20)] + [
        row[1:] for row in legs("E", ("A", "2"), ("B", "-1"), ("B", "-1"))
    ]
    settings: dict[str, Any] = {
        "fields": FIELDS | {"reference_id": generated}, "transactions": {"id": "txn"}, "max_error_rate": "1",
    }  # fmt: skip
    path = world.write("legs", rows, header=HEADER[1:], **settings)
    world.post(path)
    before = world.query("SELECT count(*) FROM ledger_entries")
    shuffled = list(rows)
    random.Random(5).shuffle(shuffled)
    world.write_rows("legs", shuffled, header=HEADER[1:])
    world.post(path)
    assert world.query("SELECT count(*) FROM ledger_entries") == before
    assert_accounted_for(world, path)


def test_numbered_references(world: World) -> None:
    path = define(
        world,
        "legs",
        [*legs("T1", ("A", "70"), ("B", "30"), ("C", "-100")), *legs("T2", ("A", "1"), ("C", "-1"))],
        fields=FIELDS | {"reference_id": "txn"},
        transactions={"id": "txn", "references": "numbered"},
    )
    world.post(path)
    assert world.references() == ["T1/1", "T1/2", "T2/1"]


def test_two_entries_that_would_get_one_reference_are_rejected_not_merged(world: World) -> None:
    rows = [
        ("R1", "T1", "A", "5.00", "USD", "2024-01-01T00:00:00Z", ""),
        ("R1", "T1", "A", "5.00", "USD", "2024-01-01T00:00:00Z", ""),
        ("R1", "T1", "B", "-5.00", "USD", "2024-01-01T00:00:00Z", ""),
        ("R1", "T1", "B", "-5.00", "USD", "2024-01-01T00:00:00Z", ""),
    ]
    world.post(define(world, "legs", rows))
    assert [code for _, _, code, _ in world.rejects()] == ["transaction_reference_repeated"] * 4
    assert world.references() == []


def test_a_conversion_is_balanced_against_its_account_in_each_currency(world: World) -> None:
    rows = [
        *legs("T1", ("A", "100.00"), ("B", "-10.00")),
        *legs("T1", ("E", "-80.00"), currency="EUR"),
        *legs("T2", ("A", "1.00")),
        *legs("T2", ("E", "1.00"), currency="EUR"),
    ]
    rows = [(f"R{number}", *row[1:]) for number, row in enumerate(rows)]
    path = define(
        world, "legs", rows,
        transactions={"id": "txn", "conversion_account": "CONVERSIONS-{currency_code}"},
        accounts=(), unknown_accounts="create",
    )  # fmt: skip
    world.post(path)
    assert balances(world) == {
        "A": "100.00", "B": "-10.00", "CONVERSIONS-USD": "-90.00", "E": "-80.00", "CONVERSIONS-EUR": "80.00",
    }  # fmt: skip
    assert [code for _, _, code, _ in world.rejects()] == [
        "transaction_unbalanced"
    ] * 2  # both sums on one side
    assert_accounted_for(world, path)


def test_a_row_that_a_rule_leaves_out_does_not_unbalance_its_transaction_silently(world: World) -> None:
    path = define(
        world,
        "legs",
        [*legs("T1", ("A", "5"), ("B", "-4"), ("C", "-1")), *legs("T2", ("A", "5"), ("B", "-5"), ("C", "1"))],
        rules=[{"when": {"account": "C"}, "filter": "not ours"}],
    )
    world.post(path)
    assert [(row, code) for row, _, code, _ in world.rejects()] == [
        (1, "transaction_unbalanced"), (2, "transaction_unbalanced"),
    ]  # fmt: skip
    assert world.references() == ["T2-1"]


def test_an_entry_that_cannot_be_posted_rejects_all_of_its_transaction(world: World) -> None:
    path = define(
        world,
        "legs",
        [*legs("T1", ("A", "70.001"), ("B", "30"), ("C", "-100.001")), *legs("T2", ("A", "1"), ("B", "-1"))],
    )
    world.post(path)
    assert {(row, code) for row, _, code, _ in world.rejects()} == {
        (1, "amount_too_many_decimals"), (2, "transaction_incomplete"), (3, "transaction_incomplete"),
    }  # fmt: skip
    assert world.references() == ["T2-1"]
    report = assert_accounted_for(world, path)
    assert (report.rejected, report.filtered) == (3, 1)


def test_partitions_cut_no_transaction_in_two(world: World) -> None:
    rows = legs("LONG", *[("A", "1")] * 24, ("B", "-24")) + many(5)
    path = define(world, "legs", rows, partition_rows="4")
    world.post(path)
    assert world.rejects() == []
    assert_accounted_for(world, path)
    sizes = [
        count for (count,) in world.query("SELECT row_count FROM backfill_partitions ORDER BY first_row")
    ]
    assert sizes[0] == 25
    assert sum(int(str(size)) for size in sizes) == len(rows)


def as_jsonl(folder: Path, rows: Sequence[Row]) -> None:
    lines = (json.dumps(dict(zip(HEADER, row, strict=True))) for row in rows)
    (folder / "legs.jsonl").write_text("\n".join(lines) + "\n")


def as_parquet(folder: Path, rows: Sequence[Row]) -> None:
    columns = {name: [row[place] for row in rows] for place, name in enumerate(HEADER)}
    pq.write_table(pa.table(columns), folder / "legs.parquet", row_group_size=7)


@pytest.mark.parametrize(("kind", "write"), [("jsonl", as_jsonl), ("parquet", as_parquet)])
def test_other_kinds_of_files(world: World, kind: str, write: Any) -> None:
    rows = many(20)
    random.Random(1).shuffle(rows)
    path = define(world, "legs", rows, type=kind, file=f"legs.{kind}", csv=None)
    write(path.parent, rows)
    world.post(path)
    assert world.rejects() == []
    assert_accounted_for(world, path)


def test_a_database_is_what_it_said_when_it_was_registered(world: World, tmp_path: Path) -> None:
    rows = many(20)
    random.Random(6).shuffle(rows)
    with closing(sqlite3.connect(tmp_path / "legs.db")) as database, database:
        columns = ", ".join(f"{name} TEXT" for name in HEADER)
        database.execute(f"CREATE TABLE legs ({columns})")
        database.executemany("INSERT INTO legs VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    section = {"sqlite": str(tmp_path / "legs.db"), "table": "legs", "key": "ref"}
    path = define(world, "legs", [], type="database", file=None, database=section)
    world.register(path)
    with closing(sqlite3.connect(tmp_path / "legs.db")) as database, database:
        database.execute("DELETE FROM legs")
    world.post(path, register=False)
    assert world.rejects() == []
    report = assert_accounted_for(world, path)
    assert report.read == len(rows)


def test_the_legs_of_a_transaction_may_lie_in_several_files(world: World) -> None:
    rows = many(20)
    path = define(world, "legs", [], file=None, files="part-*.csv")
    for name, part in (("part-1", rows[0::2]), ("part-2", rows[1::2])):
        world.write_rows(name, part, header=HEADER)
    world.post(path)
    assert world.rejects() == []
    assert_accounted_for(world, path)


def test_a_source_that_is_posted_is_not_paired_otherwise(world: World) -> None:
    rows = many(6)
    world.post(define(world, "legs", rows))
    changed = define(world, "legs", rows, transactions={"id": "txn", "references": "numbered"})
    with pytest.raises(SourceChangedError):
        world.register(changed)


def test_a_capture_that_is_gone_is_made_again(world: World) -> None:
    rows = many(20)
    random.Random(2).shuffle(rows)
    path = define(world, "legs", rows)
    definition = world.register(path)
    captures = list(world.places.captures_dir(definition.id).rglob("*.arrow"))
    assert captures
    for one in captures:
        one.unlink()
    world.post(path, register=False)
    assert world.rejects() == []


def test_a_correction_is_posted_with_the_next_revision(world: World) -> None:
    rows = [*legs("T1", ("A", "1.00"), ("B", "-1.01")), *legs("T2", ("A", "2.00"), ("B", "-2.00"))]
    path = define(world, "legs", rows)
    world.post(path)
    world.write_rows("legs", [*legs("T1", ("A", "1.00"), ("B", "-1.00")), *rows[2:]], header=HEADER)
    world.post(path)
    assert world.references() == ["T1-1", "T2-1"]
    assert_accounted_for(world, path)


@pytest.mark.parametrize("batch_size", [1, 1000])
def test_a_posted_transaction_that_got_more_rows_is_not_posted_in_part(world: World, batch_size: int) -> None:
    rows = [*legs("T1", ("A", "10.00"), ("B", "-10.00")), *legs("T2", ("A", "1.00"), ("C", "-1.00"))]
    fields = FIELDS | {"reference_id": "txn"}
    path = define(world, "legs", rows, fields=fields, transactions={"id": "txn", "references": "numbered"})
    world.post(path)
    # Larger than what is posted, so that what was T1/1 would be T1/2 now, and be posted once more.
    more = [*legs("T1", ("C", "20.00"), ("B", "-20.00")), *legs("T3", ("A", "3.00"), ("B", "-3.00"))]
    world.write_rows("legs", [*rows, *more], header=HEADER)
    plan = planned(world, path)
    world.post(path, batch_size=batch_size)
    assert world.references() == ["T1/1", "T2/1", "T3/1"]
    assert balances(world) == {"A": "14.00", "B": "-13.00", "C": "-1.00"}
    told = world.query(
        "SELECT code, reason FROM backfill_rejects x JOIN backfill_partitions p ON p.id = x.partition_id"
        " WHERE p.registration_id = (SELECT max(id) FROM backfill_registrations) ORDER BY source_row"
    )
    assert sorted(str(code) for code, _ in told) == ["conflict", "transaction_incomplete"]
    assert ("transaction_incomplete", "row 3 of its transaction is a conflict") in told
    report = assert_accounted_for(world, path)
    assert plan.counts == Counts(8, 1, 1, 1, 1, 4)
    counts = report.posted, report.duplicates, report.conflicts, report.rejected, report.filtered
    assert (report.read, *counts) == astuple(plan.counts)


# --- what the documentation shows -------------------------------------------------------------------------------

PAGE = (CHECKOUT / "docs" / "transactions.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```yaml\n# example: ([^\n]+)\n(.*?)```", PAGE, re.DOTALL))


def documented(folder: Path, name: str, **more: object) -> Path:
    path = folder / "vouchers.yaml"
    path.write_text(f"id: vouchers\ntype: csv\nfile: vouchers.csv\nmax_error_rate: 1\n{EXAMPLES[name]}")
    data = yaml.safe_load(path.read_text())
    base = yaml.safe_load(EXAMPLES["vouchers"])
    data["fields"] = base["fields"] | data.get("fields", {})
    path.write_text(yaml.safe_dump(data | {"unknown_accounts": "create"} | more))
    return path


def test_every_documented_example_is_run() -> None:
    assert set(EXAMPLES) == {"vouchers", "conversion", "units"}


def test_the_documented_vouchers(world: World) -> None:
    export = re.search(r"```\n(voucher,date.*?)```", PAGE, re.DOTALL)
    assert export is not None
    (world.folder / "vouchers.csv").write_text(export[1])
    path = documented(world.folder, "vouchers")
    world.post(path)
    assert world.query(
        "SELECT reference_id, debit_account_id, credit_account_id, amount::text FROM ledger_entries ORDER BY 1"
    ) == [
        ("V1/1", "4400 Rent", "1200 Bank", "900.00"),
        ("V1/2", "1576 VAT", "1200 Bank", "171.00"),
        ("V2/1", "1200 Bank", "1400 Customers", "250.00"),
    ]
    reasons = {str(reason) for (reason,) in world.query("SELECT reason FROM backfill_rejects")}
    assert reasons == {'transaction "V3" does not sum to zero: EUR -0.5'}
    assert reasons.pop() in PAGE
    report = assert_accounted_for(world, path)
    assert (report.posted, report.filtered, report.rejected) == (3, 2, 2)


@pytest.mark.parametrize(
    ("name", "currencies", "accounts"),
    [
        ("conversion", ("EUR", "USD"), {"A", "B", "CONVERSIONS-EUR", "CONVERSIONS-USD"}),
        ("units", ("VT", "USD"), {"A", "B", "CONVERSIONS-VT", "CONVERSIONS-USD"}),
    ],
)
def test_the_documented_conversions(
    world: World, name: str, currencies: tuple[str, str], accounts: set[str]
) -> None:
    lines = [f"V1,2024-03-01,{account},{side},{amount},x,{currency}" for account, side, amount, currency in (
        ("A", "D", "10", currencies[0]), ("B", "C", "900", currencies[1]),
    )]  # fmt: skip
    header = "voucher,date,account,side,amount,text,commodity"
    (world.folder / "vouchers.csv").write_text("\n".join([header, *lines, ""]))
    path = documented(world.folder, name)
    data = yaml.safe_load(path.read_text())
    data["transactions"]["references"] = "numbered"
    if name == "conversion":
        data["fields"]["currency_code"] = "commodity"
    path.write_text(yaml.safe_dump(data))
    world.post(path)
    assert set(balances(world)) == accounts
    assert_accounted_for(world, path)
