"""Validation tells every bad row from every good one, with a code, a field and reasons."""

import io
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from datetime import UTC, datetime
from decimal import Decimal

import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backfill_pipeline.money import AMOUNT_TYPE, CURRENCY_DECIMALS
from backfill_pipeline.schemas.extracted import to_arrow, to_pandas
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA, FAILURES_SCHEMA, VALIDATED_SCHEMA
from backfill_pipeline.schemas.ledger_entry import excess_decimals, validate
from backfill_pipeline.schemas.rejects import RejectCode, Stage

GOOD: dict[str, object] = {
    "ledger_id": "MASTER",
    "debit_account_id": "a",
    "credit_account_id": "b",
    "amount": Decimal("10.00"),
    "amount_scale": 2,
    "currency_code": "USD",
    "asset_type": "fiat",
    "transaction_type": "TRANSFER",
    "reference_id": "r",
    "timestamp_utc": datetime(2024, 1, 1, tzinfo=UTC),
    "fx_rate": None,
    "fx_rate_scale": None,
    "metadata": None,
    "error_code": None,
    "error_field": None,
    "error_reason": None,
}


def frame_of(*changes: Mapping[str, object]) -> pd.DataFrame:
    rows = [{**GOOD, "source_row": number, **change} for number, change in enumerate(changes, start=1)]
    return to_pandas(pa.Table.from_pylist(rows, schema=ENTRY_SCHEMA))


BAD = [
    ({"amount": Decimal(0)}, "amount_not_positive", "amount", "amount 0 is not above zero"),
    ({"amount": Decimal("-1.50")}, "amount_not_positive", "amount", "amount -1.5 is not above zero"),
    (
        {"amount": Decimal("10.5"), "amount_scale": 1, "currency_code": "JPY"},
        "amount_too_many_decimals",
        "amount",
        "amount 10.5 is too fine: JPY has 0 decimals",
    ),
    (
        {"amount": Decimal("0.001"), "amount_scale": 3},
        "amount_too_many_decimals",
        "amount",
        "USD has 2 decimals",
    ),
    ({"currency_code": "BTC"}, "currency_unknown", "currency_code", 'currency "BTC" is not in ISO 4217'),
    ({"currency_code": "usd"}, "currency_unknown", "currency_code", "usd"),
    (
        {"asset_type": "FIAT"},
        "asset_type_unknown",
        "asset_type",
        "allowed are fiat, cbdc, commodity, security",
    ),
    ({"debit_account_id": "b"}, "same_account", "credit_account_id", 'both "b"'),
    ({"ledger_id": "x" * 65}, "ledger_id_too_long", "ledger_id", "65 characters, at most 64"),
    ({"debit_account_id": "x" * 256}, "debit_account_id_too_long", "debit_account_id", "256"),
    ({"credit_account_id": "x" * 256}, "credit_account_id_too_long", "credit_account_id", "256"),
    ({"reference_id": "x" * 256}, "reference_id_too_long", "reference_id", "256"),
    ({"transaction_type": "x" * 65}, "transaction_type_too_long", "transaction_type", "65"),
    ({"ledger_id": ""}, "ledger_id_missing", "ledger_id", "empty"),
    ({"fx_rate": Decimal(0), "fx_rate_scale": 0}, "fx_rate_not_positive", "fx_rate", "0 is not above zero"),
    (
        {"timestamp_utc": datetime(1899, 12, 31, tzinfo=UTC)},
        "time_out_of_range",
        "timestamp_utc",
        "1899-12-31",
    ),
    ({"timestamp_utc": datetime(2200, 1, 1, tzinfo=UTC)}, "time_out_of_range", "timestamp_utc", "2200-01-01"),
]


@pytest.mark.parametrize(("change", "code", "field", "words"), BAD)
def test_each_rule_rejects_its_row_alone_with_code_field_and_reason(
    change: dict[str, object], code: str, field: str, words: str
) -> None:
    result = validate(frame_of({}, change, {}))
    assert result.valid["source_row"].tolist() == [1, 3]
    (failure,) = result.failures.to_dict("records")
    assert (failure["source_row"], failure["stage"], failure["code"], failure["field"]) == (
        2,
        "validate",
        code,
        field,
    )
    assert words in failure["reason"]
    assert RejectCode(code).description


@pytest.mark.parametrize(
    "change",
    [
        {"amount": Decimal("10.000"), "amount_scale": 3},
        {"amount": Decimal("10.00"), "currency_code": "JPY"},
        {"amount": Decimal("0.001"), "amount_scale": 3, "currency_code": "KWD"},
        {"amount": Decimal("0.000000000000000001"), "amount_scale": 18, "currency_code": "XAU"},
        {"ledger_id": "é" * 64},
        {"timestamp_utc": datetime(1900, 1, 1, tzinfo=UTC)},
        {"timestamp_utc": datetime(2199, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)},
        {"asset_type": "cbdc"},
        {"fx_rate": Decimal("0.5"), "fx_rate_scale": 1},
    ],
)
def test_what_is_allowed_passes_unchanged(change: dict[str, object]) -> None:
    frame = frame_of(change)
    result = validate(frame)
    assert len(result.failures) == 0
    assert to_arrow(result.valid, VALIDATED_SCHEMA).equals(to_arrow(frame, VALIDATED_SCHEMA))


@settings(max_examples=200, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.decimals(Decimal("0.00001"), Decimal("999999"), places=5),
            st.integers(0, 5),
            st.sampled_from([*CURRENCY_DECIMALS]),
        ),
        min_size=1,
        max_size=30,
    )
)
def test_decimals_are_judged_as_decimal_judges_them(cases: list[tuple[Decimal, int, str]]) -> None:
    rows = []
    for amount, keep, code in cases:
        shown = amount.quantize(Decimal(1).scaleb(-keep)) or Decimal(1)
        rows.append(
            {"amount": shown, "amount_scale": max(0, -int(shown.as_tuple().exponent)), "currency_code": code}
        )
    failed = set(validate(frame_of(*rows)).failures["source_row"])
    for number, row in enumerate(rows, start=1):
        decimals = CURRENCY_DECIMALS[str(row["currency_code"])]
        value = row["amount"]
        assert isinstance(value, Decimal)
        too_fine = decimals is not None and value != value.quantize(Decimal(1).scaleb(-decimals))
        assert (number in failed) == too_fine


def test_the_first_failing_field_gives_the_code_and_all_reasons_are_kept() -> None:
    bad = {"ledger_id": "x" * 65, "amount": Decimal(-1), "currency_code": "ZZZ", "asset_type": "gold"}
    failure = validate(frame_of(bad)).failures.iloc[0]
    assert failure["code"] == "ledger_id_too_long"
    assert failure["reason"].count("; ") == 3


def test_errors_of_earlier_stages_are_kept_with_their_stage() -> None:
    malformed = {"error_code": "wrong_field_count", "error_reason": "the record has 3 fields", "amount": None}
    unread = {
        "error_code": "amount_malformed",
        "error_field": "amount",
        "error_reason": "why",
        "amount": None,
    }
    result = validate(frame_of(malformed, {}, unread, {"amount": Decimal(0)}))
    assert result.failures["source_row"].tolist() == [1, 3, 4]
    assert result.failures["stage"].tolist() == ["extract", "transform", "validate"]
    assert result.failures["field"].astype(object).where(result.failures["field"].notna(), None).tolist() == [
        None,
        "amount",
        "amount",
    ]
    assert result.valid["source_row"].tolist() == [2]


def test_no_rows_are_valid() -> None:
    result = validate(to_pandas(ENTRY_SCHEMA.empty_table()))
    assert len(result.valid) == len(result.failures) == 0
    assert to_arrow(result.failures, FAILURES_SCHEMA).schema == FAILURES_SCHEMA


def test_ten_thousand_bad_rows_are_told_without_a_flood_of_text() -> None:
    frame = pd.concat([frame_of({"amount": Decimal(-1), "currency_code": "ZZZ"})] * 10_000, ignore_index=True)
    printed = io.StringIO()
    with redirect_stdout(printed), redirect_stderr(printed):
        result = validate(frame)
    assert len(result.failures) == 10_000
    assert printed.getvalue() == ""
    assert set(result.failures["reason"]) == {
        'amount -1 is not above zero; currency "ZZZ" is not in ISO 4217'
    }


def test_every_code_is_explained_and_has_a_stage() -> None:
    for code in RejectCode:
        assert code.description
        assert isinstance(code.stage, Stage)


@settings(max_examples=300, deadline=None)
@given(
    whole=st.one_of(
        st.integers(1, 10**20 - 1), st.integers(2**62, 2**64 + 1000), st.just(18446744072079056827)
    ),
    fraction=st.from_regex(r"\A[0-9]{1,18}\Z"),
    currency=st.sampled_from(["JPY", "USD", "KWD", "CLF"]),
)
def test_an_amount_of_any_size_is_as_fine_as_its_digits(whole: int, fraction: str, currency: str) -> None:
    amount = Decimal(f"{whole}.{fraction}")
    table = pa.table(
        {
            "amount": pa.array([amount], AMOUNT_TYPE),
            "amount_scale": pa.array([len(fraction)], pa.int8()),
            "currency_code": [currency],
        }
    )
    too_fine = len(fraction.rstrip("0")) > (CURRENCY_DECIMALS[currency] or 0)
    assert excess_decimals(table).to_pylist() == [too_fine]


def test_yen_that_are_written_with_decimals_are_fine_however_large() -> None:
    large = {"amount": Decimal("18446744072079056827.00"), "amount_scale": 2, "currency_code": "JPY"}
    outcome = validate(frame_of(large, {**large, "amount": Decimal("18446744072079056827.01")}))
    assert list(outcome.failures["source_row"]) == [2]
