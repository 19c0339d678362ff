"""`make bench`: measures everything on this machine and writes the report.

Belongs here: arguments, the scratch directory with its server, and exit codes.
Does not: contenders, plans, wording.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

from backfill_pipeline.bench import report
from backfill_pipeline.bench.figures import BrokenContenderError
from backfill_pipeline.bench.machine import machine, settings
from backfill_pipeline.bench.plan import Plan, full_plan, quick_plan, smoke_plan
from backfill_pipeline.bench.processes import Home
from backfill_pipeline.bench.results import Results, read_results
from backfill_pipeline.bench.rounds import measure
from backfill_pipeline.errors import BackfillError, UsageError
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.local.embedded import EmbeddedServer, embedded_server

EXIT_FAILED = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

# On a disk, unlike /tmp on many machines; and as root not in a home, which the server's user could not enter.
_SCRATCH = Path("/var/tmp")  # noqa: S108 - a directory of our own is made in it
_ENTRIES = 1_000_000
_QUICK_ENTRIES = 200_000
_ROUNDS = 3
_QUICK_ROUNDS = 2


def main(arguments: Sequence[str] | None = None, *, plan: Plan | None = None) -> int:
    """Runs the benchmark.

    Args:
        arguments: of the command line.
        plan: what to measure, when it is not for the arguments to say.

    Returns:
        0, or 1 when a contender of ours does not reconcile, 2 for what it cannot start with, 130 after Ctrl-C.
    """
    given = _parser().parse_args(arguments)
    try:
        if given.document is not None:
            report.check(given.document)  # before an hour is spent
        results = _measure(given, plan) if given.render is None else read_results(given.render)
        if given.json is not None:
            results.write(given.json)
        if given.document is not None:
            report.write(results, given.document, given.images)
    except BrokenContenderError as error:
        print(f"The benchmark failed: {error}", file=sys.stderr)
        return EXIT_FAILED
    except BackfillError as error:
        print(error, file=sys.stderr)
        return EXIT_USAGE if isinstance(error, UsageError) else EXIT_FAILED
    except KeyboardInterrupt:
        print("Interrupted: nothing is left behind, and nothing was written.", file=sys.stderr)
        return EXIT_INTERRUPTED
    print(report.markdown(results))
    return 0


def _measure(given: argparse.Namespace, plan: Plan | None) -> Results:
    plan = _plan(given) if plan is None else plan
    _check_disk(given.scratch, plan)
    with _interruptible(), _scratch(given.scratch) as scratch, embedded_server(scratch) as server:
        return run(plan, server, scratch)


def run(plan: Plan, server: EmbeddedServer, scratch: Path) -> Results:
    """Measures a plan on a server whose home is the scratch directory.

    Raises:
        BrokenContenderError: a contender of ours does not reconcile.
    """
    with connect(server.url("postgres")) as connection:
        about, configured = machine(scratch, connection), settings(connection)
    today = datetime.now(UTC).date().isoformat()
    sections, failed = measure(
        plan, server, scratch, lambda message: print(message, file=sys.stderr, flush=True)
    )
    return Results(today, about, configured, list(plan.rivals), {**plan.skipped, **failed}, sections)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m backfill_pipeline.bench",
        description="Measures this product against the limits of its own server and against rivals.",
    )
    parser.add_argument("--quick", action="store_true", help="limits and ours at one small size")
    parser.add_argument("--smoke", action="store_true", help="one round of even less")
    parser.add_argument("--huge", action="store_true", help="ten times the main size as well")
    parser.add_argument(
        "--entries", type=_positive, help="the main size; others are a tenth and five times of it"
    )
    parser.add_argument("--rounds", type=_positive)
    parser.add_argument("--only", nargs="+", metavar="CONTENDER", help="leave all others out")
    parser.add_argument("--scratch", type=Path, default=_SCRATCH, help="where to work; removed afterwards")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    parser.add_argument(
        "--document", type=Path, metavar="FILE", help="write tables between the marks of this page"
    )
    parser.add_argument("--images", type=Path, metavar="FOLDER", help="where the page's plots go")
    parser.add_argument(
        "--render", type=Path, metavar="FILE", help="measure nothing: take the figures of this JSON"
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is not a number from 1 on")
    return number


def _plan(given: argparse.Namespace) -> Plan:
    if given.smoke:
        plan = smoke_plan(entries=given.entries or _QUICK_ENTRIES)
    elif given.quick:
        plan = quick_plan(entries=given.entries or _QUICK_ENTRIES, rounds=given.rounds or _QUICK_ROUNDS)
    else:
        plan = full_plan(entries=given.entries or _ENTRIES, rounds=given.rounds or _ROUNDS, huge=given.huge)
    return plan.only(given.only) if given.only else plan


def _check_disk(directory: Path, plan: Plan) -> None:
    try:
        free_bytes = shutil.disk_usage(directory).free
    except OSError as error:
        raise UsageError(
            f"{directory} cannot be used ({error.strerror}): name another directory with --scratch"
        ) from None
    if free_bytes < plan.disk_bytes:
        raise UsageError(
            f"{directory} has {free_bytes / 2**30:.1f} GiB free and the benchmark may need"
            f" {plan.disk_bytes / 2**30:.1f} GiB: make room there, or name another directory with --scratch"
        )


@contextmanager
def _scratch(parent: Path) -> Iterator[Path]:
    """A directory of our own, which the server's user may walk through; removed whatever happens."""
    scratch = Path(tempfile.mkdtemp(prefix="ledger-backfill-bench-", dir=parent.absolute()))
    scratch.chmod(0o711)
    try:
        yield scratch
    finally:
        Home(scratch).stop_server()  # when its start was interrupted, nobody holds it
        shutil.rmtree(scratch, ignore_errors=True)


@contextmanager
def _interruptible() -> Iterator[None]:
    """Being told to end counts as Ctrl-C; while that is cleaned up after, neither is heard a second time."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(one, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {one: signal.signal(one, interrupt) for one in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


if __name__ == "__main__":
    sys.exit(main())
