"""What may be said of stated balances, and what it changes: nothing of the mapping."""

from collections.abc import Callable

import pytest

from backfill_pipeline.definition.json_schema import source_schema
from backfill_pipeline.definition.load import mapping_sha256
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline_tests.definition.json_schema import offends

Define = Callable[..., SourceDefinition]

WRONG = {
    "no account": ("{balance: b}", "stated_balances.0.account is missing"),
    "no balance": ("{account: a}", "stated_balances.0.balance is missing"),
    "unknown key": ("{balance: b, account: a, sign: x}", "stated_balances.0.sign is an unknown key"),
    "side": ("{balance: b, account: a, side: asset}", "stated_balances.0.side is 'asset': allowed is 'debit' or 'credit'"),
    "order": ("{balance: b, account: a, order: down}", "stated_balances.0.order is 'down'"),
    "two orders": (
        "[{balance: b, account: a}, {balance: c, account: d, order: descending}]",
        "stated_balances.1.order is 'descending', which is not the order of the first one",
    ),
    "magnitude": (
        "{balance: {column: b, absolute: true}, account: a}",
        "stated_balances.0.balance.absolute has no meaning for a stated balance",
    ),
    "zero": ("{balance: {column: b, zero: filter}, account: a}", "stated_balances.0.balance.zero has no meaning"),
    "lookup": ("{balance: b, account: {column: a, lookup: x}}", "stated_balances.0.account.lookup is 'x', which is no lookup"),
    "account map": ("{balance: b, account: {column: a, map: accounts}}", "stated_balances.0.account.map"),
    "no list": ("b", "stated_balances"),
}  # fmt: skip


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(define: Define, case: str) -> None:
    text, says = WRONG[case]
    with pytest.raises(SourceDefinitionError) as error:
        define(f"stated_balances: {text}\n")
    assert says in str(error.value)


def test_it_is_no_part_of_the_mapping__but_its_columns_must_be_there(define: Define) -> None:
    without = define()
    stated = define(
        "columns: {own: {template: '{branch}-{no}'}}\n"
        "stated_balances: {balance: {column: saldo, sign: {column: dc, negative: D, positive: C}}, account: own}\n"
    )
    columns = define("columns: {own: {template: '{branch}-{no}'}}\n")
    assert mapping_sha256(stated) == mapping_sha256(columns) != mapping_sha256(without)
    read = stated.columns_read()
    assert read["saldo"] == read["dc"] == "stated_balances.0"
    assert read["branch"] == "columns.own"
    assert "own" not in read


def test_one_or_several__for_editors_too(define: Define) -> None:
    one = "{balance: b, account: {constant: A}, side: credit, order: descending}"
    assert define(f"stated_balances: {one}\n") == define(f"stated_balances: [{one}]\n")
    schema = source_schema()
    stated = {"balance": "b", "account": {"constant": "A"}, "side": "credit", "order": "descending"}
    base = define().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    assert offends({**base, "stated_balances": stated}, schema, schema) == []
    assert offends({**base, "stated_balances": [stated, stated]}, schema, schema) == []
    assert offends({**base, "stated_balances": {**stated, "side": "x"}}, schema, schema) != []
