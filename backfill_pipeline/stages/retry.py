"""Retrying: the one place that decides how transient errors of the ledger, or of a source, are tried again.

Belongs here: backoff and jitter.
Does not: what is tried, or what a lost connection means to it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import stamina

from backfill_pipeline.errors import TransientError
from backfill_pipeline.stages.config import BackfillConfig

T = TypeVar("T")
_WAIT_MAX_S = 60.0

# Retries are told through `log`. stamina's own report goes to standard output when structlog is installed, into the
# middle of `run --json`.
stamina.instrumentation.set_on_retry_hooks(())


def retrying(config: BackfillConfig, action: Callable[[], T], log: Callable[[str], None]) -> T:
    """Calls `action` until it succeeds or `max_retries` are used up; waits longer each time, with jitter.

    Raises:
        TransientError: of the last try. Every other error at once.
    """
    delay_s = config.retry_delay_ms / 1000
    for attempt in stamina.retry_context(
        on=TransientError,
        attempts=config.max_retries + 1,
        timeout=None,
        wait_initial=delay_s,
        wait_max=_WAIT_MAX_S,
        wait_jitter=delay_s,
    ):
        with attempt:
            try:
                return action()
            except TransientError as error:
                log(f"{error} (try {attempt.num} of {config.max_retries + 1})")
                raise
    raise AssertionError("unreachable: the last attempt returns or raises")
