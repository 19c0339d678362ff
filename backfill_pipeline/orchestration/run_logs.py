"""Output of runs, kept where the UI shows it.

Belongs here: the class that `dagster.yaml` names, and what it does otherwise than Dagster's own.
Does not: what is written to it (Dagster captures what a step prints).
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

from dagster import StringSource
from dagster._core.storage.compute_log_manager import CapturedLogContext
from dagster._core.storage.local_compute_log_manager import LocalComputeLogManager
from dagster._serdes import ConfigurableClassData


class RunLogs(LocalComputeLogManager):
    """Dagster's log files, whose helper processes do not hear Ctrl-C.

    Small processes copy what a step prints to the terminal, and Dagster ends them with SIGTERM after the step. Ctrl-C
    in a terminal goes to every process there: these would answer with a traceback each, and no longer copy what the
    run says at its end. A signal that is blocked stays blocked in a process that is started meanwhile.
    """

    @classmethod
    def config_type(cls) -> dict[str, object]:
        """The folder of the files."""
        return {"base_dir": StringSource}

    @classmethod
    def from_config_value(
        cls, inst_data: ConfigurableClassData | None, config_value: Mapping[str, object]
    ) -> RunLogs:
        """As Dagster's own, which makes one of its own class here."""
        return cls(str(config_value["base_dir"]), inst_data=inst_data)

    @contextmanager
    def capture_logs(self, log_key: Sequence[str]) -> Generator[CapturedLogContext, None, None]:
        """Captures what is printed in its block."""
        with ExitStack() as capture:
            with _interrupts_held_back():
                context = capture.enter_context(super().capture_logs(log_key))
            yield context


@contextmanager
def _interrupts_held_back() -> Iterator[None]:
    """Ctrl-C waits until the block is left."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
