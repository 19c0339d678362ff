"""Running balances that a source states: where they are, of which account, and how they are meant.

Belongs here: the model of a stated balance, and what must hold between several.
Does not: reading them (`mapping/stated.py`), comparing them with the ledger (`stages/stated.py`).
"""

from typing import Annotated, Literal

from pydantic import AfterValidator, BeforeValidator

from backfill_pipeline.definition.base import Model, PlainColumn, problem
from backfill_pipeline.definition.fields import AccountField
from backfill_pipeline.definition.numbers import NumberRule


def _signed(rule: NumberRule) -> NumberRule:
    for key, stated in (("absolute", rule.absolute), ("zero", rule.zero == "filter")):
        if stated:
            raise problem("has no meaning for a stated balance, which is compared with its sign", key)
    return rule


class StatedBalance(Model):
    """A column that holds an account's balance after each row."""

    balance: Annotated[NumberRule, PlainColumn, AfterValidator(_signed)]
    account: AccountField
    side: Literal["debit", "credit"] | None = None
    order: Literal["ascending", "descending"] = "ascending"

    def columns_read(self) -> tuple[str, ...]:
        """The columns that it reads."""
        return (*self.balance.columns_read(), *self.account.columns_read())


def _one_or_several(value: object) -> object:
    """One stated balance is short for a list of it."""
    return [value] if isinstance(value, dict) else value


def _one_order(stated: tuple[StatedBalance, ...]) -> tuple[StatedBalance, ...]:
    for number, one in enumerate(stated):
        if one.order != stated[0].order:
            raise problem(
                "is not the order of the first one, and a file has one order", f"{number}.order", one.order
            )
    return stated


StatedBalances = Annotated[
    tuple[StatedBalance, ...], BeforeValidator(_one_or_several), AfterValidator(_one_order)
]
