"""Failures: the core's errors as Dagster's.

Belongs here: which errors Dagster may retry, and that people see a sentence, not a traceback.
Does not: retrying batches (`stages/post.py` does).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg

from backfill_pipeline.errors import BackfillError, TransientError

# For whole steps, after the batches' own retries are used up: the server was away for longer.
TRANSIENT_RETRIES = dg.RetryPolicy(
    max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)


TRANSIENT_MARK = "may_succeed_later"
"""Metadata of a failure: whether the same again may succeed."""


@contextmanager
def terminal() -> Iterator[None]:
    """Shows the core's errors as one sentence; only transient ones are left for the retry policy."""
    try:
        yield
    except BackfillError as error:
        transient = isinstance(error, TransientError)
        raise dg.Failure(
            description=str(error), metadata={TRANSIENT_MARK: transient}, allow_retries=transient
        ) from None
