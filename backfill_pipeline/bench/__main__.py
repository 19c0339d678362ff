"""`make bench`: runs all contenders in turns and prints the table.

Belongs here: the order of rounds and the arguments.
Does not: what a contender does.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path

from backfill_pipeline.bench.contenders import CONTENDERS, Bench
from backfill_pipeline.bench.report import machine, markdown
from backfill_pipeline.settings import make_walkable_dir

DEFAULT_ENTRIES = 1_000_000
DEFAULT_ACCOUNTS = 10_000
DEFAULT_ROUNDS = 3


def main() -> int:
    """Runs the benchmark; exit code 1 when a contender of ours does not reconcile."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--entries", type=int, default=DEFAULT_ENTRIES)
    parser.add_argument("--accounts", type=int, default=DEFAULT_ACCOUNTS)
    parser.add_argument("--rounds", type=int, default=DEFAULT_ROUNDS)
    parser.add_argument(
        "--only", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), metavar="CONTENDER"
    )
    parser.add_argument("--json", type=Path, help="also write the results there")
    arguments = parser.parse_args()
    base = Path("/var/tmp")  # noqa: S108 - a directory of our own is made in it; as root it must not be in a home
    with tempfile.TemporaryDirectory(prefix="ledger-backfill-bench-", dir=base) as scratch:
        Path(scratch).chmod(0o711)
        home = Path(scratch) / "home"
        make_walkable_dir(home)
        with Bench.prepare(home, arguments.entries, arguments.accounts) as bench:
            results: dict[str, list[dict[str, float]]] = {name: [] for name in arguments.only}
            for number in range(arguments.rounds):
                for name in arguments.only:
                    figures = CONTENDERS[name](bench)
                    results[name].append(figures)
                    print(f"round {number + 1}  {name}: {figures['seconds']:.2f} s", file=sys.stderr)
    medians = {
        name: {key: statistics.median(figures[key] for figures in rounds) for key in rounds[0]}
        for name, rounds in results.items()
    }
    print(markdown(arguments.entries, arguments.accounts, medians))
    if arguments.json:
        arguments.json.write_text(
            json.dumps(
                {"machine": machine(), "entries": arguments.entries, "rounds": results, "medians": medians},
                indent=2,
            )
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
