"""Lookups in a definition: from a text of the source to another one.

Belongs here: a lookup's keys, which are those of the account map and a default.
Does not: reading the files (`mapping/lookups.py`).
"""

from typing import Self

from pydantic import model_validator

from backfill_pipeline.definition.accounts import AccountMap
from backfill_pipeline.definition.base import Name, problem


class Lookup(AccountMap):
    """From texts to texts: written inline, or two columns of a CSV file. `default` stands for what is not in it."""

    default: Name | None = None

    @model_validator(mode="after")
    def _one_answer(self) -> Self:
        if self.default is not None and "missing" in self.model_fields_set:
            raise problem("cannot go together with default, which says what becomes of such texts", "missing")
        return self
