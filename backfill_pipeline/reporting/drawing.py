"""Drawing in a process of its own: loading matplotlib and drawing would take a small run half as long again.

Belongs here: that process, asking it for pictures, and what becomes of it.
Does not: drawing (`plots.py`), what is drawn of what (`orchestration/stage_metadata.py` and its neighbours).

The process is started once and serves this one until it ends; then it reads the end of its pipe, and ends as well,
however this one was ended.
"""

from __future__ import annotations

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from multiprocessing import Pipe
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Final

from backfill_pipeline.errors import TerminalError
from backfill_pipeline.settings import load_settings

if TYPE_CHECKING:
    from backfill_pipeline.reporting.plots import Plot

ANSWER_TIMEOUT_S: Final = 60.0
"""For all pictures of one request. The first one of a machine waits until matplotlib knows its fonts."""


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture to be drawn.

    Attributes:
        draw: a function of `plots.py`; it is sent by its name.
        figures: its argument.
    """

    draw: Callable[..., Plot | None]
    figures: object


def is_wanted() -> bool:
    """Whether runs draw at all (BACKFILL_PLOTS)."""
    return load_settings().plots


def begin() -> None:
    """Starts the process, if pictures are wanted: it is ready when the first one is."""
    if is_wanted():
        with _lock:
            _running()


def draw(drawings: Mapping[str, Drawing]) -> dict[str, Plot | None]:
    """The pictures by their names, None where there is nothing to see; waits for them. Usable from any thread.

    Raises:
        TerminalError: they could not be drawn.
    """
    with _lock:
        painter = _running()
        try:
            return painter.draw(drawings)
        except BaseException:
            _end()  # what it answers now would be taken for the answer to the next request
            raise


class _Painter:
    """The process, as this one sees it."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self._connection, theirs = Pipe()
        with theirs:
            # A session of its own: Ctrl-C is for the run, which may want its last pictures.
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )

    def draw(self, drawings: Mapping[str, Drawing]) -> dict[str, Plot | None]:
        try:
            self._connection.send(dict(drawings))
            if not self._connection.poll(ANSWER_TIMEOUT_S):
                raise TerminalError(f"pictures were not drawn within {ANSWER_TIMEOUT_S:g} s")
            answer = self._connection.recv()
        except (EOFError, OSError) as error:
            raise TerminalError("the process that draws pictures has ended") from error
        if isinstance(answer, str):
            raise TerminalError(f"pictures could not be drawn: {answer}")
        assert isinstance(answer, dict)
        return answer

    def end(self) -> None:
        self._connection.close()
        if self.owner == os.getpid():
            self._process.kill()
            self._process.wait()


_lock = threading.Lock()
_painter: _Painter | None = None


def _running() -> _Painter:
    global _painter
    if _painter is not None and _painter.owner != os.getpid():
        _end()  # of the process that this one was forked from
    if _painter is None:
        _painter = _Painter()
    return _painter


def _end() -> None:
    global _painter
    if _painter is not None:
        with suppress(OSError):
            _painter.end()
        _painter = None


atexit.register(_end)


def _serve(requests: Connection) -> None:
    from backfill_pipeline.reporting.plots import load

    load()
    while True:
        try:
            drawings: Mapping[str, Drawing] = requests.recv()
        except (EOFError, OSError):
            return
        try:
            answer: dict[str, Plot | None] | str = {
                name: one.draw(one.figures) for name, one in drawings.items()
            }
        except Exception as error:  # told to the process that asked, which raises it
            answer = f"{type(error).__name__}: {error}"
        with suppress(OSError):
            requests.send(answer)


if __name__ == "__main__":
    with Connection(int(sys.argv[1])) as asked:
        _serve(asked)
