"""Contenders that are the `backfill` command itself, as a user starts it: interpreter, imports and server included.

Belongs here: which commands, in which order, in which home, and what each must have printed to count.
Does not: processes and their memory (`processes.py`).

All commands of one home are one contender with several figures: what is posted once serves the runs that find
everything posted, and the reconciliation.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping

from backfill_pipeline.bench.figures import (
    HELP,
    RECONCILE,
    RESUMED,
    RUN,
    RUN_AGAIN,
    RUN_TWIN,
    Figures,
    insist,
)
from backfill_pipeline.bench.processes import Finished, Home, fresh_home
from backfill_pipeline.bench.workloads import Bench
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import BackfillError
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.ledger.status import processed_rows

_HELP_REPEATS = 3


def run_and_reconcile(bench: Bench) -> dict[str, Figures]:
    """`backfill run` in a fresh home, then `backfill reconcile` there."""
    with fresh_home(bench.home / "command") as home:
        return _run_and_reconcile(bench, home)


def run_and_repeat(bench: Bench) -> dict[str, Figures]:
    """The same, then two runs in which every row is a duplicate: of the same source, and of its twin."""
    with fresh_home(bench.home / "command") as home:
        return {
            **_run_and_reconcile(bench, home),
            RUN_AGAIN: _repeated(bench, home, RUN_AGAIN, str(bench.source_file)),
            RUN_TWIN: _repeated(bench, home, RUN_TWIN, str(bench.twin_file)),
        }


def killed_and_resumed(bench: Bench) -> dict[str, Figures]:
    """`backfill run`, killed with SIGKILL when half of the entries are posted, then `backfill resume`."""
    source_id = load_definition(bench.source_file).id
    half = bench.workload.entries // 2
    with fresh_home(bench.home / "command") as home:

        def half_way() -> bool:
            return _posted_so_far(home, source_id) >= half

        killed = home.backfill("run", str(bench.source_file), "--json", kill_when=half_way)
        insist(killed.code < 0, RESUMED, f"the run was over before it could be killed, with {killed.code}")
        resumed = home.backfill("resume", str(bench.source_file), "--json")
        _insist_on_match(resumed.result(RESUMED), RESUMED)
        check = home.backfill("reconcile", str(bench.source_file), "--json").result(RESUMED)
        _insist_on(check, RESUMED, posted=bench.entries.num_rows, duplicates=0)
    return {
        RESUMED: {
            "seconds": killed.seconds + resumed.seconds,
            "entries": float(bench.entries.num_rows),
            "killed_after_s": killed.seconds,
            "resume_s": resumed.seconds,
        }
    }


def help_text(bench: Bench) -> dict[str, Figures]:
    """`backfill --help`: what every command costs before it does anything. The median of three."""
    with fresh_home(bench.home / "command") as home:
        commands = [home.backfill("--help") for _ in range(_HELP_REPEATS)]
    insist(all(command.code == 0 for command in commands), HELP, "it failed")
    return {HELP: {"seconds": statistics.median(command.seconds for command in commands)}}


def _run_and_reconcile(bench: Bench, home: Home) -> dict[str, Figures]:
    first = home.backfill("run", str(bench.source_file), "--json")
    printed = first.result(RUN)
    _insist_on_match(printed, RUN)
    _insist_on(printed, RUN, posted=bench.entries.num_rows, duplicates=0)
    check = home.backfill("reconcile", str(bench.source_file), "--json")
    compared = check.result(RECONCILE)
    _insist_on_match(compared, RECONCILE)
    _insist_on(compared, RECONCILE, entries_compared=bench.entries.num_rows)
    comparing = float(str(compared["seconds"]))
    return {
        RUN: _figures(bench, first),
        RECONCILE: {**_figures(bench, check), "comparing_s": comparing},
    }


def _repeated(bench: Bench, home: Home, contender: str, source: str) -> Figures:
    command = home.backfill("run", source, "--json")
    printed = command.result(contender)
    _insist_on_match(printed, contender)
    _insist_on(printed, contender, posted=0, duplicates=bench.entries.num_rows)
    return _figures(bench, command)


def _figures(bench: Bench, command: Finished) -> Figures:
    return {"seconds": command.seconds, "entries": float(bench.entries.num_rows), **command.memory}


def _insist_on_match(printed: Mapping[str, object], contender: str) -> None:
    verdict = printed["reconciliation"]
    insist(verdict == "match", contender, f"the reconciliation says {verdict}")


def _insist_on(printed: Mapping[str, object], contender: str, **expected: int) -> None:
    for name, count in expected.items():
        insist(
            printed[name] == count, contender, f"{name} is {printed[name]}, and {count:,} was to be expected"
        )


def _posted_so_far(home: Home, source_id: str) -> int:
    """Rows that a run under way has committed; 0 as long as there is no ledger to ask."""
    url = home.ledger_url()
    if url is None:
        return 0
    try:
        with connect(url, application_name="benchmark") as connection:
            return processed_rows(connection, source_id)
    except BackfillError:  # the server or the schema is not ready yet
        return 0
