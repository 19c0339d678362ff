"""Fixtures for the dual-ledger sync: simulated banks beside a ledger of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from backfill_pipeline_tests.dual_ledger.world import Dual, running_dual

MakeDual = Callable[..., Dual]


@pytest.fixture
def make_dual(ledger_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[MakeDual]:
    """Starts a bank of any shape: what `running_dual` takes by name."""
    with ExitStack() as stack:

        def make(**given: Any) -> Dual:
            return stack.enter_context(running_dual(ledger_url, tmp_path, monkeypatch=monkeypatch, **given))

        yield make


@pytest.fixture
def dual(make_dual: MakeDual) -> Dual:
    """One bank, SCB-01, with 3 days of 40 entries, and an empty ledger."""
    return make_dual()
