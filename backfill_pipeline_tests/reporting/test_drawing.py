"""Pictures are drawn by another process, which no run fails with and which outlives none."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from decimal import Decimal

import psutil
import pytest

from backfill_pipeline.errors import TerminalError
from backfill_pipeline.ledger.figures import DayVolume
from backfill_pipeline.reporting import drawing
from backfill_pipeline.reporting.drawing import Drawing
from backfill_pipeline.reporting.plots import daily_plot, rejects_plot

DAYS = [DayVolume(date(2024, 1, 1), "EUR", 3, Decimal("7.50"))]
_BEGIN_AND_WAIT = """
import psutil, sys
from backfill_pipeline.reporting import drawing
drawing.begin()
print(psutil.Process().children()[0].pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def own_process() -> Iterator[None]:
    drawing._end()
    yield
    drawing._end()


def drawn() -> int:
    """The process that draws now."""
    [child] = [one for one in psutil.Process().children() if drawing.__name__ in one.cmdline()]
    return child.pid


def test_what_is_drawn_there_is_what_would_be_drawn_here() -> None:
    wanted = {"days": Drawing(daily_plot, DAYS), "rejects": Drawing(rejects_plot, {})}
    assert drawing.draw(wanted) == {"days": daily_plot(DAYS), "rejects": None}
    first = drawn()
    drawing.draw(wanted)
    assert drawn() == first


def test_a_picture_that_cannot_be_drawn_is_said_and_takes_no_other_with_it() -> None:
    with pytest.raises(TerminalError, match="pictures could not be drawn: AttributeError: 'int' object"):
        drawing.draw({"days": Drawing(daily_plot, [1])})
    assert drawing.draw({"days": Drawing(daily_plot, DAYS)}) == {"days": daily_plot(DAYS)}


def test_a_process_that_is_gone_is_said_and_begun_anew() -> None:
    drawing.begin()
    os.kill(drawn(), signal.SIGKILL)
    with pytest.raises(TerminalError, match="the process that draws pictures has ended"):
        drawing.draw({"days": Drawing(daily_plot, DAYS)})
    assert drawing.draw({"days": Drawing(daily_plot, DAYS)}) == {"days": daily_plot(DAYS)}


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_it_ends_with_the_process_that_began_it(how: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _BEGIN_AND_WAIT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    ) as process:
        assert process.stdout is not None
        child = psutil.Process(int(process.stdout.readline()))
        process.send_signal(how)
    child.wait(30)


def test_unwanted_nothing_is_begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFILL_PLOTS", "off")
    drawing.begin()
    assert not [one for one in psutil.Process().children() if drawing.__name__ in one.cmdline()]
