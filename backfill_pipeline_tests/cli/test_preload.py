"""Imports beside the work: done when the block ends, abandoned when it fails, and the collector as before."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from backfill_pipeline.cli.preload import preloading
from backfill_pipeline_tests.cli.command import wait_until
from backfill_pipeline_tests.stages.world import CHECKOUT

# A module whose import takes until the thread of the test waits for it.
_UNTIL_WAITED_FOR = """
import sys, time
def waits(frame):
    return frame is not None and (frame.f_code.co_name == "join" or waits(frame.f_back))
while not waits(sys._current_frames()[{thread}]):
    time.sleep(0.01)
"""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, str]]:
    """Two modules."""
    names = ("preloaded_first", "preloaded_second")
    for name in names:
        (tmp_path / f"{name}.py").write_text("done = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield names
    for name in names:
        sys.modules.pop(name, None)


def _is_imported(name: str) -> bool:
    return hasattr(sys.modules.get(name), "done")


def test_modules_are_imported_while_the_block_works(modules: tuple[str, str]) -> None:
    with preloading(modules):
        wait_until(lambda: all(_is_imported(name) for name in modules))


def test_modules_are_there_when_the_block_ends(modules: tuple[str, str], tmp_path: Path) -> None:
    (tmp_path / f"{modules[0]}.py").write_text(_UNTIL_WAITED_FOR.format(thread=threading.get_ident()))
    with preloading(modules):
        wait_until(lambda: modules[0] in sys.modules)
        assert modules[1] not in sys.modules
    assert set(modules) <= sys.modules.keys()


def test_a_block_that_fails_waits_for_one_module_and_no_more(
    modules: tuple[str, str], tmp_path: Path
) -> None:
    (tmp_path / f"{modules[0]}.py").write_text(_UNTIL_WAITED_FOR.format(thread=threading.get_ident()))
    with pytest.raises(ZeroDivisionError), preloading(modules):
        wait_until(lambda: modules[0] in sys.modules)
        raise ZeroDivisionError
    assert modules[0] in sys.modules
    assert modules[1] not in sys.modules


def test_what_cannot_be_imported_fails_where_it_is_needed() -> None:
    with preloading(["no_such_module"]):
        pass
    with pytest.raises(ModuleNotFoundError):
        __import__("no_such_module")


def test_the_collector_works_as_usual_again_to_the_very_end(tmp_path: Path) -> None:
    code = (
        "import gc, sys\n"
        "usual = gc.get_threshold()\n"
        "from backfill_pipeline.cli.preload import import_mostly, work_from_now_on\n"
        "import_mostly()\n"
        "assert gc.get_threshold() != usual\n"
        "work_from_now_on()\n"
        "assert gc.isenabled() and gc.get_threshold() == usual and gc.get_freeze_count() > 0\n"
        "circle = [open(sys.argv[1], 'w')]\n"
        "circle.append(circle)\n"
        "circle[0].write('flushed by nobody')\n"
        "print('buffered', end='')\n"
    )
    file = tmp_path / "kept.txt"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(file)], cwd=CHECKOUT, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "buffered", "")
    assert file.read_text() == "flushed by nobody"
