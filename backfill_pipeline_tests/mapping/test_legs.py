"""What the rows of a chunk become when they are legs of transactions."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.mapping.transform import Mapping as CompiledMapping
from backfill_pipeline.mapping.transform import compile_mapping
from backfill_pipeline.schemas.extracted import extracted_schema, to_arrow
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline_tests.mapping.conftest import extracted

FIELDS: dict[str, Any] = {
    "ledger_id": {"constant": "MASTER"},
    "account_id": "account",
    "amount": "amount",
    "currency_code": {"column": "currency", "default": "EUR"},
    "transaction_type": {"constant": "BOOKING"},
    "reference_id": "ref",
    "timestamp_utc": {"column": "time"},
}
COLUMNS = ("txn", "account", "amount", "currency", "ref", "time", "more")


def mapping(folder: Path, *, fields: Mapping[str, Any] | None = None, **sections: Any) -> CompiledMapping:
    data = {
        "id": "bank", "type": "csv", "file": "export.csv", "fields": FIELDS | dict(fields or {}),
        "transactions": {"id": "txn"},
    } | sections  # fmt: skip
    path = folder / "bank.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False))
    return compile_mapping(load_definition(path))


def mapped(compiled: CompiledMapping, rows: Sequence[Mapping[str, str]]) -> list[dict[str, Any]]:
    whole = [
        {"currency": "", "ref": f"r{place}", "time": "2024-01-01T00:00:00Z", "more": "", **row}
        for place, row in enumerate(rows)
    ]
    frame = compiled.transform(extracted(**{name: [row[name] for row in whole] for name in COLUMNS}))
    found: list[dict[str, Any]] = to_arrow(frame, ENTRY_SCHEMA).to_pylist()
    return found


def leg(txn: str, account: str, amount: str, **more: str) -> dict[str, str]:
    return {"txn": txn, "account": account, "amount": amount, **more}


def outcome(row: Mapping[str, Any]) -> object:
    """An entry as (debit, credit, amount), or the name of what became of the row."""
    if row["error_code"] is not None or row["filter_reason"] is not None:
        return row["error_code"] or row["filter_reason"]
    return row["debit_account_id"], row["credit_account_id"], f"{row['amount'].normalize():f}"


def outcomes(compiled: CompiledMapping, *rows: Mapping[str, str]) -> list[object]:
    return [outcome(row) for row in mapped(compiled, rows)]


def test_the_side_of_positive_amounts_is_stated(tmp_path: Path) -> None:
    rows = (leg("T", "A", "5"), leg("T", "B", "-5"))
    assert outcomes(mapping(tmp_path), *rows) == [("A", "B", "5"), "paired_leg"]
    credit = mapping(tmp_path, transactions={"id": "txn", "positive": "credit"})
    assert outcomes(credit, *rows) == ["paired_leg", ("B", "A", "5")]
    wrong = mapped(credit, [leg("T", "A", "5"), leg("T", "B", "-4")])
    assert wrong[0]["error_reason"] == 'transaction "T" does not sum to zero: EUR 1'


def test_signs_may_be_told_as_for_any_amount(tmp_path: Path) -> None:
    sign = {"column": "amount", "sign": {"column": "more", "negative": "CR", "positive": "DR"}}
    rows = (leg("T", "A", "5.00", more="DR"), leg("T", "B", "5.00", more="CR"))
    assert outcomes(mapping(tmp_path, fields={"amount": sign}), *rows) == [("A", "B", "5"), "paired_leg"]
    columns = {"in": "amount", "out": "more", "decimal_mark": ","}
    rows = (leg("T", "A", "5,00"), leg("T", "B", "", more="5,00"))
    assert outcomes(mapping(tmp_path, fields={"amount": columns}), *rows) == [("A", "B", "5"), "paired_leg"]
    cents = {"column": "amount", "minor_units": "true"}
    rows = (leg("T", "A", "500"), leg("T", "B", "-500"))
    assert outcomes(mapping(tmp_path, fields={"amount": cents}), *rows) == [("A", "B", "5"), "paired_leg"]


def test_accounts_go_through_the_map_and_rules(tmp_path: Path) -> None:
    compiled = mapping(
        tmp_path,
        fields={"account_id": {"column": "account", "map": "accounts"}},
        account_map={"inline": {"1": "ONE", "2": "TWO"}},
        rules=[{"when": {"more": "fee"}, "set": {"account_id": {"constant": "FEES"}}}],
    )
    rows = (leg("T", "1", "5"), leg("T", "2", "-4"), leg("T", "?", "-1", more="fee"), leg("U", "3", "1"))
    assert outcomes(compiled, *rows) == [
        ("ONE", "FEES", "1"),
        ("ONE", "TWO", "4"),
        "paired_leg",
        "account_unmapped",
    ]


def test_zero_legs_are_left_out_or_rejected(tmp_path: Path) -> None:
    rows = (leg("T", "A", "0.00"), leg("T", "B", "1"), leg("T", "C", "-1"))
    assert outcomes(mapping(tmp_path), *rows) == ["zero_leg", ("B", "C", "1"), "paired_leg"]
    # Of a transaction that is rejected, the zero may be what is wrong.
    off = [leg("T", "A", "0.00"), leg("T", "B", "1")]
    assert outcomes(mapping(tmp_path), *off) == ["transaction_unbalanced"] * 2
    assert outcomes(mapping(tmp_path), *off, leg("T", "C", "x")) == [
        "transaction_incomplete", "transaction_incomplete", "amount_malformed",
    ]  # fmt: skip
    fine = [leg("T", "A", "0.00"), leg("T", "B", "1.001"), leg("T", "C", "-1.001")]
    assert outcomes(mapping(tmp_path), *fine)[::2] == ["transaction_incomplete"] * 2
    strict = mapping(tmp_path, transactions={"id": "txn", "zero_legs": "reject"})
    assert outcomes(strict, *rows) == ["leg_amount_zero", "transaction_incomplete", "transaction_incomplete"]


def test_legs_of_one_account_that_meet_move_nothing(tmp_path: Path) -> None:
    compiled = mapping(tmp_path)
    assert outcomes(compiled, leg("T", "A", "5"), leg("T", "A", "-5")) == ["offset_leg", "paired_leg"]
    rows = (leg("T", "A", "100"), leg("T", "A", "-60"), leg("T", "B", "-40"))
    assert outcomes(compiled, *rows) == [("A", "B", "40"), "offset_leg", "paired_leg"]


def test_an_id_is_needed(tmp_path: Path) -> None:
    assert (
        outcomes(mapping(tmp_path), leg("", "A", "5"), leg("  ", "B", "-5")) == ["transaction_id_missing"] * 2
    )


def test_legs_meet_only_in_one_currency_ledger_and_unit(tmp_path: Path) -> None:
    rows = (leg("T", "A", "5"), leg("T", "B", "-5", currency="USD"))
    assert outcomes(mapping(tmp_path), *rows) == ["transaction_unbalanced"] * 2
    by_ledger = mapping(tmp_path, fields={"ledger_id": "more"})
    rows = (leg("T", "A", "5", more="L1"), leg("T", "B", "-5", more="L2"))
    assert outcomes(by_ledger, *rows) == ["transaction_unbalanced"] * 2
    by_unit = mapping(tmp_path, transactions={"id": "txn", "unit": "more"})
    found = mapped(by_unit, rows)
    assert found[0]["error_reason"] == 'transaction "T" does not sum to zero: L1 5, L2 -5'
    assert outcomes(by_unit, leg("T", "A", "5"), leg("T", "B", "-5", more="EUR")) == [
        ("A", "B", "5"),
        "paired_leg",
    ]


def test_many_sums_are_not_all_shown(tmp_path: Path) -> None:
    rows = [leg("T", "A", str(number + 1), more=f"U{number}") for number in range(5)]
    found = mapped(mapping(tmp_path, transactions={"id": "txn", "unit": "more"}), rows)
    assert found[0]["error_reason"] == 'transaction "T" does not sum to zero: U0 1, U1 2, U2 3 and 2 more'


def test_conversion_accounts_are_named_by_currency_and_unit(tmp_path: Path) -> None:
    section = {"id": "txn", "unit": "more", "conversion_account": "{currency_code}/{unit}/{unit}"}
    rows = (leg("T", "A", "3", more="VT", currency="XXX"), leg("T", "B", "-300", currency="USD"))
    assert outcomes(mapping(tmp_path, transactions=section), *rows) == [
        ("A", "XXX/VT/VT", "3"), ("USD/USD/USD", "B", "300"),
    ]  # fmt: skip


def test_what_one_currency_lacks_in_another_ledger_is_no_conversion(tmp_path: Path) -> None:
    section = {"id": "txn", "conversion_account": "CONV-{currency_code}"}
    by_ledger = mapping(tmp_path, fields={"ledger_id": "more"}, transactions=section)
    rows = [leg("T", "A", "10", more="L1"), leg("T", "B", "-7", more="L2")]
    assert outcomes(by_ledger, *rows) == ["transaction_unbalanced"] * 2
    even = [leg("T", "A", "7", more="L1"), leg("T", "B", "-7", more="L2")]
    assert outcomes(by_ledger, *even) == [("A", "CONV-EUR", "7"), ("CONV-EUR", "B", "7")]
    # Too much of euros and too little of dollars, whatever the ledgers.
    rows.append(leg("T", "C", "-3.30", more="L2", currency="USD"))
    assert outcomes(by_ledger, *rows) == [
        ("A", "CONV-EUR", "10"), ("CONV-EUR", "B", "7"), ("CONV-USD", "C", "3.3"),
    ]  # fmt: skip
    wide = "99999999999999999999.999999999999999999"
    rows = [leg("T", "A", wide, more="L1"), leg("T", "B", f"-{wide[:-1]}8", more="L2"), leg("U", "A", "1")]
    assert outcomes(by_ledger, *rows)[:2] == ["transaction_unbalanced"] * 2


def test_wide_amounts_are_exact(tmp_path: Path) -> None:
    wide = "99999999999999999999.999999999999999999"
    rows = (leg("T", "A", wide), leg("T", "B", wide), leg("T", "C", f"-{wide}"), leg("T", "D", f"-{wide}"))
    found = mapped(mapping(tmp_path, fields={"currency_code": {"constant": "XXX"}}), rows)
    assert [str(row["amount"]) for row in found if row["amount"] is not None] == [wide, wide]
    off = mapped(
        mapping(tmp_path), [leg("T", "A", wide), leg("T", "B", "-99999999999999999999.999999999999999998")]
    )
    assert off[0]["error_reason"] == 'transaction "T" does not sum to zero: EUR 0.000000000000000001'


def test_an_entry_keeps_the_decimals_of_its_transaction(tmp_path: Path) -> None:
    found = mapped(mapping(tmp_path), [leg("T", "A", "10"), leg("T", "B", "-7.50"), leg("T", "C", "-2.5")])
    assert {row["amount_scale"] for row in found if row["amount"] is not None} == {2}


def test_an_entry_that_the_ledger_would_refuse_takes_its_transaction_with_it(tmp_path: Path) -> None:
    rows = [
        leg("T", "A", "5"),
        leg("T", "B", "-5"),
        leg("T", "C", "1.001", currency="USD"),
        leg("T", "D", "-1.001", currency="USD"),
    ]
    frame = extracted(**{
        name: [{"currency": "", "ref": f"r{at}", "time": "2024-01-01T00:00:00Z", "more": "", **row}[name] for at, row in enumerate(rows)]
        for name in COLUMNS
    })  # fmt: skip
    result = validate(mapping(tmp_path).transform(frame))
    assert len(result.valid) == 0
    assert Counter(result.failures["code"]) == {"amount_too_many_decimals": 1, "transaction_incomplete": 3}


amounts = st.integers(1, 500).map(lambda cents: Decimal(cents) / 100)


@st.composite
def transactions(draw: st.DrawFn) -> list[dict[str, str]]:
    rows: list[dict[str, str]] = []
    for number in range(draw(st.integers(1, 5))):
        for currency in draw(st.sampled_from([["EUR"], ["EUR", "USD"]])):
            parts = draw(
                st.lists(st.tuples(st.sampled_from("ABC"), amounts, st.booleans()), min_size=1, max_size=5)
            )
            signed = [(account, amount if debit else -amount) for account, amount, debit in parts]
            signed.append(
                ("D", -sum((amount for _, amount in signed), Decimal()) + draw(st.sampled_from([0, 0, 0, 1])))
            )
            rows += [
                leg(f"T{number}", account, f"{amount:.2f}", currency=currency) for account, amount in signed
            ]
    return [{**row, "ref": f"r{place}"} for place, row in enumerate(rows)]


@settings(deadline=None)
@given(transactions(), st.randoms())
def test_whatever_is_posted_is_what_the_rows_say_in_any_order(
    tmp_path_factory: pytest.TempPathFactory, rows: list[dict[str, str]], shuffler: random.Random
) -> None:
    compiled = mapping(tmp_path_factory.mktemp("legs"))
    found = mapped(compiled, rows)
    balanced = {
        txn
        for txn in {row["txn"] for row in rows}
        if not any(
            sum(Decimal(row["amount"]) for row in rows if (row["txn"], row["currency"]) == (txn, currency))
            for currency in ("EUR", "USD")
        )
    }
    wanted: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    moved: dict[tuple[str, str], Decimal] = defaultdict(Decimal)
    entries: Counter[str] = Counter()
    for row, made in zip(rows, found, strict=True):
        assert (made["error_code"] == "transaction_unbalanced") == (row["txn"] not in balanced)
        if row["txn"] not in balanced:
            continue
        wanted[row["account"], row["currency"]] += Decimal(row["amount"])
        if made["filter_reason"] is None:
            entries[row["txn"]] += 1
            assert made["amount"] > 0
            moved[made["debit_account_id"], row["currency"]] += made["amount"]
            moved[made["credit_account_id"], row["currency"]] -= made["amount"]
    assert {place: sum_ for place, sum_ in moved.items() if sum_} == {
        place: sum_ for place, sum_ in wanted.items() if sum_
    }
    for txn, count in entries.items():
        assert count < sum(row["txn"] == txn for row in rows)
    shuffled = list(rows)
    shuffler.shuffle(shuffled)
    again = {
        row["ref"]: outcome(made) for row, made in zip(shuffled, mapped(compiled, shuffled), strict=True)
    }
    assert again == {row["ref"]: outcome(made) for row, made in zip(rows, found, strict=True)}


def test_chunks_in_which_nothing_is_paired(tmp_path: Path) -> None:
    compiled = mapping(tmp_path)
    assert outcomes(compiled) == []
    assert outcomes(compiled, leg("T", "A", "0"), leg("T", "B", "0")) == ["zero_leg"] * 2
    assert outcomes(compiled, leg("T", "A", "x")) == ["amount_malformed"]
    section = {
        "id": "txn",
        "conversion_account": "C-{unit}",
        "unit": "more",
        "references": "numbered",
    }
    assert outcomes(mapping(tmp_path, transactions=section), leg("T", "A", "x")) == ["amount_malformed"]
    malformed = pa.table(
        [
            pa.array([1]),
            pa.array([2]),
            pa.array([3]),
            pa.array([4]),
            pa.array(["nul_byte"]),
            pa.array(["it holds one"]),
        ]
        + [pa.nulls(1, pa.string()) for _ in COLUMNS],
        schema=extracted_schema(COLUMNS),
    )
    assert outcome(to_arrow(compiled.transform(malformed), ENTRY_SCHEMA).to_pylist()[0]) == "nul_byte"
