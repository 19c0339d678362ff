"""Transactions of several rows: which rows belong together, and what becomes of them.

Belongs here: the model of the section, and what must hold between it and the fields.
Does not: bringing rows together (`sources/grouping/grouped_reader.py`), pairing them (`mapping/legs.py`).
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from backfill_pipeline.definition.base import Model, Name, problem
from backfill_pipeline.definition.fields import (
    EntryFields,
    GeneratedReferenceRule,
    Value,
    rule_columns,
)

CURRENCY: Final = "{currency_code}"
UNIT: Final = "{unit}"
_PLACEHOLDER: Final = re.compile(r"\{[^{}]*\}")


def _one_or_more(value: object) -> object:
    """One text is short for a list of it."""
    return (value,) if isinstance(value, str) else value


class Transactions(Model):
    """Rows that share an id are the legs of one transaction, which sums to zero.

    Attributes:
        id: columns of the source whose texts together are the transaction's id.
        positive: the side of a leg whose amount is above zero.
        zero_legs: what becomes of a leg with an amount of zero.
        references: `row`: an entry takes the reference of the row that carries it. `numbered`: rows have the
            transaction's reference, and entries get `<reference>/<n>`.
        unit: a column that tells what amounts count where the currency does not: shares, hours, points.
        conversion_account: where a transaction that changes one currency into another is balanced, per currency.
    """

    id: Annotated[tuple[Name, ...], BeforeValidator(_one_or_more), Field(min_length=1)]
    positive: Literal["debit", "credit"] = "debit"
    zero_legs: Literal["filter", "reject"] = "filter"
    references: Literal["row", "numbered"] = "row"
    unit: Name | None = None
    conversion_account: Name | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if twice := next((one for one in self.id if self.id.count(one) > 1), None):
            raise problem("names a column twice", "id", twice)
        template = self.conversion_account
        if template is None:
            return self
        needed = CURRENCY if self.unit is None else UNIT
        if needed not in template:
            raise problem(
                f"must hold {needed}, because an account has one currency", "conversion_account", template
            )
        allowed = {CURRENCY, UNIT} if self.unit is not None else {CURRENCY}
        rest = _PLACEHOLDER.sub(lambda found: "" if found[0] in allowed else found[0], template)
        if "{" in rest or "}" in rest:
            raise problem(
                f"may hold no placeholder but {' and '.join(sorted(allowed))}", "conversion_account", template
            )
        return self

    def columns_read(self, derived: Iterable[str]) -> dict[str, str]:
        """Source column → the key that reads it."""
        found = dict.fromkeys(self.id, "transactions.id")
        if self.unit is not None and self.unit not in derived:
            found.setdefault(self.unit, "transactions.unit")
        return found


def check_transactions(
    transactions: Transactions | None, columns: Mapping[str, Value], fields: EntryFields
) -> None:
    """Raises the first problem between the section and the fields."""
    if transactions is None:
        if fields.account_id is not None:
            raise problem(
                "is needed with fields.account_id: id says which rows are one transaction", "transactions"
            )
        return
    if fields.account_id is None:
        raise problem(
            "is needed with transactions, in place of debit_account_id and credit_account_id: the account of each leg",
            "fields.account_id",
        )
    if derived := next((one for one in transactions.id if one in columns), None):
        raise problem(
            "is a derived column: rows are brought together before columns are derived, so name columns of the source",
            "transactions.id",
            derived,
        )
    _check_fields(fields)
    _check_references(transactions, columns, fields)


def _check_fields(fields: EntryFields) -> None:
    amount = fields.amount
    if amount.absolute:
        raise problem(
            "contradicts transactions: the sign tells a debit from a credit", "fields.amount.absolute"
        )
    if "zero" in amount.model_fields_set:
        raise problem("is transactions.zero_legs where rows are legs", "fields.amount.zero", amount.zero)
    if fields.fx_rate is not None:
        raise problem(
            "has no meaning with transactions: a leg is in its account's own currency", "fields.fx_rate"
        )


def _check_references(transactions: Transactions, columns: Mapping[str, Value], fields: EntryFields) -> None:
    reference, ids = fields.reference_id, set(transactions.id)
    assert fields.account_id is not None
    if isinstance(reference, GeneratedReferenceRule):
        if transactions.references == "numbered":
            raise problem(
                "contradicts generated references, of which each row has its own",
                "transactions.references",
                "numbered",
            )
        needed = ids | _source_columns(
            (*rule_columns(fields.account_id), *rule_columns(fields.amount)), columns
        )
        if reference.columns is not None and (lacking := sorted(needed - set(reference.columns))):
            raise problem(
                f"must hold {', '.join(lacking)} too, so that no two different legs get the same reference",
                "fields.reference_id.columns",
            )
    elif transactions.references == "row" and _source_columns(rule_columns(reference), columns) <= ids:
        raise problem(
            "is the same for all rows of a transaction: write references: numbered below transactions, or read a"
            " column that tells its rows apart",
            "fields.reference_id",
        )


def _source_columns(names: Sequence[str], columns: Mapping[str, Value]) -> set[str]:
    """The columns of the source that columns are made of, through derived ones."""
    made_of: dict[str, set[str]] = {}
    for name, value in columns.items():
        made_of[name] = set().union(*(made_of.get(one, {one}) for one in value.columns_read()))
    return set().union(*(made_of.get(name, {name}) for name in names))
