"""No work per row in Python: four times the rows are the same number of lines executed.

Counted, not timed, so that it holds on any machine: every line of this product's own code that runs, in every thread.
"""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pytest

import backfill_pipeline
from backfill_pipeline.sources.files.csv_records import RecordScanner
from backfill_pipeline_tests.stages.world import World, entries, entry

_OURS = str(Path(backfill_pipeline.__file__).parent)
_FEW, _MANY = 1_000, 4_000


def lines_executed(action: Callable[[], object]) -> Counter[str]:
    """Lines of our code that ran, per function."""
    lines: Counter[str] = Counter()

    def trace(frame: FrameType, event: str, argument: object) -> Callable[..., object] | None:
        code = frame.f_code
        if not code.co_filename.startswith(_OURS):
            return None
        if event == "line":
            lines[f"{code.co_filename[len(_OURS) :]}:{code.co_name}"] += 1
        return trace

    before = sys.gettrace()
    threading.settrace(trace)
    sys.settrace(trace)
    try:
        action()
    finally:
        sys.settrace(before)
        threading.settrace(before)
    return lines


def assert_set_wise(few: Counter[str], many: Counter[str]) -> None:
    grown = {name: (few[name], count) for name, count in many.items() if count > few[name] + _FEW // 4}
    assert not grown, f"lines run for {_FEW} and {_MANY} rows: {grown}"
    # The tracer saw something, and the growth of a loop over rows would have been seen in it.
    assert few.total() > 500


@pytest.fixture
def sources(world: World) -> Callable[[str, int], Path]:
    """Two partitions each, so that only their size differs."""

    def write(name: str, rows: int) -> Path:
        return world.write(
            name, entries(rows, first=1 if rows == _FEW else 10_001), partition_rows=str(rows // 2)
        )

    return write


def test_a_run_and_its_reconciliation(world: World, sources: Callable[[str, int], Path]) -> None:
    world.post(sources("warm", 100))  # what is made once per process
    measured = []
    for rows in (_FEW, _MANY):
        source = sources(f"s{rows}", rows)
        measured.append(lines_executed(lambda source=source: (world.post(source), world.reconcile(source))))
    assert_set_wise(*measured)
    assert len(world.references()) == _FEW + _MANY


def test_a_run_with_rules_lookups_and_filtered_rows(world: World) -> None:
    measured = []
    for name, rows in (("warm", 100), ("few", _FEW), ("many", _MANY)):
        path = world.write(
            name,
            [
                row
                for number in range(rows // 2)
                for row in entries(2, first=2 * number + 1, note=str(number % 3))
            ],
            partition_rows=str(rows // 2),
            lookups={"sides": {"inline": {"A": "A", "B": "C"}}},
            columns={"key": {"template": name + "-{ref}"}, "side": {"column": "credit", "lookup": "sides"}},
            rules=[
                {"when": {"note": "0", "amount": {"above": "5"}}, "filter": "zero"},
                {"when": {"note": "1"}, "set": {"credit_account_id": {"column": "side"}}},
            ],
            metadata=["key"],
        )
        text = path.read_text().replace("reference_id: ref", "reference_id: key")
        path.write_text(text)
        measured.append(lines_executed(lambda path=path: (world.post(path), world.reconcile(path))))
    assert_set_wise(*measured[1:])


def test_a_run_of_scattered_transactions_of_several_rows(world: World) -> None:
    measured = []
    for name, rows in (("warm", 100), ("few", _FEW), ("many", _MANY)):
        legs = [
            [f"{name}{number}", account, amount, *entry(number)[4:]]
            for number in range(rows // 4)
            for account, amount in (("A", "7.00"), ("B", "-5.00"), ("C", "-2.00"), ("A", "0.00"))
        ]
        legs.append([f"{name}-off", "A", "1.00", *entry(1)[4:]])  # and one that is rejected
        path = world.write(
            name,
            [*legs[0::2], *legs[1::2]],
            header=("txn", "account", "amount", "currency", "time", "note"),
            partition_rows=str(rows // 2),
            transactions={"id": "txn", "references": "numbered"},
            max_error_rate="1",
        )
        text = path.read_text().replace("reference_id: ref", "reference_id: txn")
        text = text.replace("  debit_account_id: debit\n  credit_account_id: credit", "  account_id: account")
        path.write_text(text)
        measured.append(lines_executed(lambda path=path: (world.post(path), world.reconcile(path))))
    assert_set_wise(*measured[1:])
    assert len(world.references()) == (100 + _FEW + _MANY) // 2


def test_a_run_in_which_everything_is_a_duplicate(world: World, sources: Callable[[str, int], Path]) -> None:
    measured = []
    for rows in (_FEW, _MANY):
        world.post(sources(f"first{rows}", rows))
        again = sources(f"again{rows}", rows)
        measured.append(lines_executed(lambda again=again: (world.post(again), world.reconcile(again))))
        assert world.reconcile(again).duplicates == rows
    assert_set_wise(*measured)


def test_the_count_sees_a_loop_over_rows() -> None:
    def row_by_row(rows: int) -> None:
        scanner = RecordScanner(",", '"', offset=0, line=1)
        for _ in range(rows):
            scanner.feed(b"a,b\n", last=False)

    with pytest.raises(AssertionError, match="csv_records"):
        assert_set_wise(lines_executed(lambda: row_by_row(_FEW)), lines_executed(lambda: row_by_row(_MANY)))
