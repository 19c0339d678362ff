"""The sweep before `backfill up`, as a process of its own: `python -m backfill_pipeline.cli.sweep`.

What it imports, Dagster and all stages, would stay in the memory of `up` for as long as that runs: 120 MiB for nothing.

Belongs here: that process, which prints the ids of the runs that it swept.
Does not: which runs those are (`orchestration/launch.py`), starting it (`up.py`).
"""

from __future__ import annotations

import logging

import dagster as dg

from backfill_pipeline.orchestration.launch import sweep_orphans


def sweep() -> None:
    """Sweeps the instance of the environment. Nothing of Dagster may run on it."""
    logging.getLogger().addHandler(logging.NullHandler())
    with dg.DagsterInstance.get() as instance:
        for run_id in sweep_orphans(instance, only_own=False):
            print(run_id)


if __name__ == "__main__":
    sweep()
