"""Exit codes: part of the product's interface, never calling a loss a success."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class ExitCode(IntEnum):
    """What a command's exit code says."""

    CLEAN = 0
    FAILED = 1
    USAGE = 2
    REJECTS_OR_REFUSED = 3
    RECONCILIATION_BREAK = 4
    INTERRUPTED = 130

    @property
    def meaning(self) -> str:
        """One sentence for people."""
        return _MEANINGS[self]


_MEANINGS: Final = {
    ExitCode.CLEAN: "clean: everything was posted or was there already",
    ExitCode.FAILED: "failed: something was not done; `backfill status` says what",
    ExitCode.USAGE: "usage: wrong arguments, settings or source definition",
    ExitCode.REJECTS_OR_REFUSED: "finished, with rejects or conflicts, with the balance constraints refused, or with"
    " findings short of a break; or waiting for another person",
    ExitCode.RECONCILIATION_BREAK: "reconciliation break: ledger and source differ, or the ledger is broken in itself"
    " (`audit`, `audit-log verify`)",
    ExitCode.INTERRUPTED: "interrupted with Ctrl-C or SIGTERM; what is committed stays",
}
