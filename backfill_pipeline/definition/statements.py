"""Bank statements with balances: the sections of a definition for MT940 and camt files.

Belongs here: names, types and defaults of these keys.
Does not: other kinds of files (`formats.py`), reading (`sources/`).
"""

from typing import Literal, Self

from pydantic import model_validator

from backfill_pipeline.definition.base import Model, problem
from backfill_pipeline.definition.encodings import check_encoding

Control = Literal["chain", "balance", "none"]
"""What of a statement must hold before any line of it is taken: that it adds up and follows the one before of the same
account; that it adds up; nothing."""


class Mt940Format(Model):
    """How an MT940 file is written, and what is controlled."""

    encoding: str = "utf-8"
    control: Control = "chain"

    @model_validator(mode="after")
    def _readable(self) -> Self:
        if reason := check_encoding(self.encoding, ":", None):
            raise problem(reason, "encoding", self.encoding)
        return self


class CamtFormat(Model):
    """What is controlled of a camt file; how it is written, it says itself."""

    control: Control = "chain"
