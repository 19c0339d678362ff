"""Exit codes: part of the product's interface, never calling a loss a success."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What a command's exit code says."""

    CLEAN = 0
    FAILED = 1
    USAGE = 2
    REJECTS_OR_REFUSED = 3
    RECONCILIATION_BREAK = 4
    INTERRUPTED = 130
