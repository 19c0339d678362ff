"""Options of numbers and times that contradict each other are refused, with their key, value and line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from backfill_pipeline.definition.load import mapping_sha256
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.numbers import NumberRule
from backfill_pipeline.definition.problems import check_file
from backfill_pipeline.errors import SourceDefinitionError

Define = Callable[..., SourceDefinition]

SIGN = "sign: {column: dc, negative: D, positive: C}"
AMOUNTS = {
    "{decimal_mark: ','}": ["amount needs one of column, in and out, numerator and denominator"],
    "{column: a, in: b, out: c}": ["amount needs one of"],
    "{in: a}": ["amount.out is needed with in"],
    "{out: a}": ["amount.in is needed with out"],
    "{numerator: a}": ["amount.denominator is needed with numerator"],
    "{in: a, out: b, numerator: c, denominator: d}": ["amount needs one of"],
    "{column: a, out_minus: true}": ["amount.out_minus", "only with in and out"],
    "{column: a, decimal_mark: ',', thousands_mark: ','}": ["amount.thousands_mark is ','", "must differ"],
    "{column: a, thousands_mark: ';'}": ["amount.thousands_mark is ';'", "'apostrophe'"],
    "{column: a, grouping: indian}": ["amount.thousands_mark is needed with grouping: indian"],
    "{column: a, grouping: chinese}": ["amount.grouping is 'chinese'", "'indian'"],
    "{column: a, symbols: []}": ["amount.symbols", "at least 1 item"],
    "{column: a, symbols: ['-']}": ["amount.symbols is '-'", "signs"],
    "{column: a, symbols: ['1']}": ["amount.symbols is '1'", "digits"],
    "{column: a, symbols: ['.']}": ["amount.symbols is '.'", "mark of the number"],
    "{column: a, symbols: ['€ ']}": ["amount.symbols is '€ '", "white space"],
    "{column: a, whole_mark: '-'}": ["amount.whole_mark is '-'", "'.-'"],
    "{column: a, minus: behind}": ["amount.minus.0 is 'behind'", "'trailing'"],
    "{column: a, minus: []}": ["amount.minus", "at least 1 item"],
    "{column: a, sign: {column: dc, negative: D}}": ["amount.sign.positive is missing"],
    "{column: a, sign: {column: dc, negative: [D, X], positive: [C, X]}}": [
        "amount.sign.positive is 'X'", "is negative as well",
    ],
    "{column: a, sign: {column: dc, negative: 'D ', positive: C}}": ["amount.sign.negative is 'D '", "white space"],
    "{column: a, sign: {negative: '-', positive: '+'}}": ["amount.sign is '-'", "signs"],
    f"{{in: a, out: b, {SIGN}}}": ["amount.sign", "contradicts in and out"],
    f"{{column: a, minus: trailing, {SIGN}}}": ["amount.minus", "contradicts sign"],
    "{numerator: a, denominator: b, sign: {negative: D, positive: C}}": ["amount.sign.column is needed"],
    "{column: a, symbols: [D], sign: {negative: D, positive: C}}": ["amount.symbols is 'D'", "text of sign"],
    "{in: a, out: b, minus: trailing}": ["amount.minus", "only if out_minus"],
    "{numerator: a, denominator: b, decimal_mark: ','}": ["amount.decimal_mark", "integers"],
    "{numerator: a, denominator: b, minor_units: true}": ["amount.minor_units", "integers"],
    "{column: a, minor_units: 19}": ["amount.minor_units is '19'", "0 to 18"],
    "{column: a, minor_units: cents}": ["amount.minor_units is 'cents'", "true nor false"],
    "{column: a, minor_units: -1}": ["amount.minor_units is '-1'", "0 to 18"],
    "{column: a, minor_units: true, whole_mark: '.-'}": ["amount.whole_mark is '.-'", "minor_units"],
    "{column: a, zero: ignore}": ["amount.zero is 'ignore'", "'filter'"],
    "{column: a, absolute: maybe}": ["amount.absolute is 'maybe'", "boolean"],
}  # fmt: skip
TIMES = {
    "{timezone: UTC}": ["timestamp_utc needs either column, or columns"],
    "{column: a, columns: [b, c]}": ["timestamp_utc needs either column, or columns"],
    "{columns: []}": ["timestamp_utc.columns", "at least 1 item"],
    "{column: t, timezone: UTC, timezone_column: z}": ["timestamp_utc.timezone_column is 'z'", "contradicts"],
    "{column: t, timezone_column: z, format: epoch_seconds}": ["timestamp_utc.timezone_column is 'z'", "UTC"],
    "{column: t, timezone: UTC, format: epoch_microseconds}": ["timestamp_utc.timezone is 'UTC'", "UTC"],
    "{column: t, ambiguous: later}": ["timestamp_utc.ambiguous is 'later'", "only with timezone"],
    "{column: t, nonexistent: shift_forward}": ["timestamp_utc.nonexistent", "only with timezone"],
    "{column: t, timezone: UTC, ambiguous: guess}": ["timestamp_utc.ambiguous is 'guess'", "'earlier'"],
    "{column: t, format: '%d.%m.%y', timezone: UTC}": [
        "timestamp_utc.format is '%d.%m.%y'",
        "%Y",
        "pivot: 1970",
    ],
    "{column: t, format: '%d.%m.%Y', timezone: UTC, pivot: 1970}": ["timestamp_utc.pivot is '1970'", "%y"],
    "{column: t, pivot: 1970}": ["timestamp_utc.pivot is '1970'", "%y"],
    "{column: t, format: '%d.%m.%y', timezone: UTC, pivot: 70}": [
        "timestamp_utc.pivot is '70'",
        "1900 to 2100",
    ],
    "{column: t, format: '%y %Y-%m-%d', timezone: UTC, pivot: 1970}": ["gives a part of the time twice"],
    "{column: t, format: '%Y-%m-%d', timezone: UTC, allow_24: true}": ["timestamp_utc.allow_24", "%H"],
    "{column: t, format: epoch_seconds, allow_24: true}": ["timestamp_utc.allow_24", "%H"],
    "{column: t, format: epoch_seconds, fraction: exact}": [
        "timestamp_utc.fraction is 'exact'",
        "epoch_days",
    ],
    "{column: t, format: epoch_days, fraction: hour}": ["timestamp_utc.fraction is 'hour'", "'second'"],
    "{column: t, epoch: 1899-12-30}": ["timestamp_utc.epoch is '1899-12-30'", "epoch_days"],
}
RATES = {
    "{in: a, out: b}": ["fx_rate.in", "rate"],
    f"{{column: a, {SIGN}}}": ["fx_rate.sign", "rate"],
    "{column: a, absolute: true}": ["fx_rate.absolute", "rate"],
    "{column: a, minor_units: true}": ["fx_rate.minor_units", "rate"],
    "{column: a, zero: filter}": ["fx_rate.zero", "rate"],
}
CASES = [
    *(("amount", rule, words) for rule, words in AMOUNTS.items()),
    *(("timestamp_utc", rule, words) for rule, words in TIMES.items()),
]


@pytest.mark.parametrize(("field", "rule", "words"), CASES, ids=lambda value: str(value))
def test_a_contradiction_is_one_sentence_with_its_line(
    define: Define, tmp_path: Path, field: str, rule: str, words: list[str]
) -> None:
    with pytest.raises(SourceDefinitionError) as caught:
        define(**{field: rule})
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'bank.yaml'}: fields.{field}")
    assert text.endswith(".")
    assert "\n" not in text
    for part in words:
        assert part in text
    lines = (tmp_path / "bank.yaml").read_text().splitlines()
    (line,) = (number for number, content in enumerate(lines, 1) if content.startswith(f"  {field}:"))
    assert [problem.line for problem in check_file(tmp_path / "bank.yaml").problems][:1] == [line]


@pytest.mark.parametrize("rule", RATES)
def test_a_rate_has_no_sign_and_no_currency(define: Define, rule: str) -> None:
    with pytest.raises(SourceDefinitionError) as caught:
        define(amount=f"a\n  fx_rate: {rule}")
    for part in RATES[rule]:
        assert part in str(caught.value)


def test_a_balance_of_zero_is_no_entry_and_cannot_be_filtered(define: Define) -> None:
    fields = "{id: i, currency_code: c, opening_balance: {column: b, zero: filter}}"
    opening = "{ledger_id: M, as_of: 2018-12-31T00:00:00Z}"
    with pytest.raises(SourceDefinitionError, match=r"opening_balance\.zero is 'filter'"):
        define(f"accounts: {{file: a.csv, fields: {fields}, opening: {opening}}}\n")


def test_one_text_is_short_for_a_list(define: Define) -> None:
    short = define(amount="{column: a, symbols: €, minus: trailing, empty: x}")
    assert short.fields.amount == NumberRule(column="a", symbols=("€",), minus=("trailing",), empty=("x",))


def test_every_column_of_a_rule_is_looked_for_in_the_source(define: Define) -> None:
    fields = define(amount="{in: i, out: o}", timestamp_utc="{columns: [d, t], timezone_column: z}").fields
    assert fields.amount.columns_read() == ("i", "o")
    assert fields.timestamp_utc.columns_read() == ("d", "t", "z")
    signed = define(amount=f"{{numerator: n, denominator: d, {SIGN}}}").fields.amount
    assert signed.columns_read() == ("n", "d", "dc")


@pytest.mark.parametrize(
    "rule",
    [
        "{column: amount, minor_units: true}", "{column: amount, minor_units: 2}", "{column: amount, absolute: true}",
        "{column: amount, zero: filter}", "{column: amount, symbols: €}", "{in: amount, out: x}",
    ],
)  # fmt: skip
def test_another_reading_is_another_mapping(define: Define, rule: str) -> None:
    assert mapping_sha256(define(amount=rule)) != mapping_sha256(define(amount="{column: amount}"))
    assert mapping_sha256(define(amount="{column: amount, minor_units: false}")) == mapping_sha256(
        define(amount="amount")
    )
