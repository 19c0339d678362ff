"""Failures: the core's errors as Dagster's.

Belongs here: which errors Dagster may retry, and that people see a sentence, not a traceback.
Does not: retrying batches (`stages/post.py` does).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from dagster_shared.error import SerializableErrorInfo

from backfill_pipeline.errors import BackfillError, TransientError

# For whole steps, after the batches' own retries are used up: the server was away for longer.
TRANSIENT_RETRIES = dg.RetryPolicy(
    max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL, jitter=dg.Jitter.PLUS_MINUS
)


TRANSIENT_MARK = "may_succeed_later"
"""Metadata of a failure: whether the same again may succeed."""


def why_failed(instance: dg.DagsterInstance, run_id: str) -> tuple[str, bool] | None:
    """The first failure of a run's steps in a sentence, and whether the same again may succeed.

    Args:
        instance: where the run is recorded.
        run_id: of a run that failed.

    Returns:
        None when no step failed: the process died.
    """
    for entry in instance.all_logs(run_id, of_type=dg.DagsterEventType.STEP_FAILURE):
        event = entry.dagster_event
        if event is None:
            continue
        data = event.step_failure_data
        if data.user_failure_data is not None:
            transient = data.user_failure_data.metadata.get(TRANSIENT_MARK)
            told = data.user_failure_data.description or f"{event.step_key} failed"
            return told, transient is not None and bool(transient.value)
        if data.error is not None and data.error.cls_name == dg.DagsterExecutionInterruptedError.__name__:
            return "it was interrupted", True  # as when Dagster is stopped
        if data.error is not None:
            return _innermost(data.error), False
    return None


def _innermost(error: SerializableErrorInfo) -> str:
    """What really happened, below the errors that Dagster wraps around it."""
    while error.cause is not None:
        error = error.cause
    return " ".join(error.message.split())


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
