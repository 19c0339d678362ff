"""Accounts in a definition: the map from the source's identifiers, the accounts file, and opening balances.

Belongs here: names, types, ranges and defaults of these keys.
Does not: reading the files (`mapping/accounts.py`, `mapping/account_map.py`).
"""

from pathlib import Path
from typing import Final, Literal, Self

from pydantic import AwareDatetime, Field, model_validator

from backfill_pipeline.definition.base import Model, Name, problem
from backfill_pipeline.definition.fields import AccountField, AnyRule, ConstantRule, TextField
from backfill_pipeline.definition.formats import CsvDialect
from backfill_pipeline.definition.numbers import BalanceField


class AccountMap(Model):
    """From the source's account identifiers to the ledger's: written inline, or two columns of a CSV file."""

    inline: dict[Name, Name] | None = None
    file: Path | None = None
    from_: Name | None = Field(default=None, alias="from")
    to: Name | None = None
    csv: CsvDialect = CsvDialect()
    missing: Literal["reject", "keep"] = "reject"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if (self.inline is None) == (self.file is None):
            raise problem("needs either inline (a mapping) or file (a CSV file), not both")
        if self.file is not None and (self.from_ is None or self.to is None):
            raise problem(
                "is needed with file: the column names are given as from and to",
                "to" if self.from_ else "from",
            )
        if self.inline is not None and (self.from_ is not None or self.to is not None):
            raise problem(
                "has a meaning only with file", "from" if self.from_ else "to", self.from_ or self.to
            )
        return self


class AccountFields(Model):
    """Which rule feeds which field of an account."""

    id: AccountField
    currency_code: TextField
    asset_type: TextField = ConstantRule(constant="fiat")
    normal_side: TextField = ConstantRule(constant="debit")
    opening_balance: BalanceField | None = None

    def rules(self) -> dict[str, AnyRule]:
        """Field → rule, without the fields that have none."""
        return {name: rule for name in type(self).model_fields if (rule := getattr(self, name)) is not None}


CURRENCY_PLACEHOLDER: Final = "{currency_code}"


class Opening(Model):
    """How opening balances become entries: each against the equity account of its currency, at one moment."""

    ledger_id: Name
    equity_account_id: Name = f"OPENING-BALANCE-EQUITY-{CURRENCY_PLACEHOLDER}"
    as_of: AwareDatetime
    transaction_type: Name = "OPENING_BALANCE"

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if CURRENCY_PLACEHOLDER not in self.equity_account_id:
            raise problem(
                f"must hold {CURRENCY_PLACEHOLDER}, because an account has one currency",
                "equity_account_id",
                self.equity_account_id,
            )
        if "{" in self.equity_account_id.replace(CURRENCY_PLACEHOLDER, ""):
            raise problem(
                f"may hold no placeholder but {CURRENCY_PLACEHOLDER}",
                "equity_account_id",
                self.equity_account_id,
            )
        return self


class Accounts(Model):
    """Where the source's accounts and their opening balances come from."""

    file: Path
    csv: CsvDialect = CsvDialect()
    fields: AccountFields
    opening: Opening | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.fields.opening_balance is not None and self.opening is None:
            raise problem(
                "is needed with fields.opening_balance: ledger_id and as_of of the opening entries", "opening"
            )
        return self
