"""What a command shows and whom it records: whole cells, harmless texts, and no name but the one that was meant."""

from __future__ import annotations

import pytest

from backfill_pipeline.cli.output import console
from backfill_pipeline.cli.person import person
from backfill_pipeline.cli.tables import plain_table
from backfill_pipeline.errors import UsageError


def test_a_pipe_gets_whole_lines_however_long() -> None:
    reference, amount = "R" * 200, "4,323,944.83"
    with console.capture() as captured:
        console.print(plain_table([{"reference": reference, "amount": amount}]))
    assert reference in captured.get()
    assert amount in captured.get()


def test_what_a_person_wrote_cannot_move_the_cursor() -> None:
    with console.capture() as captured:
        console.print(plain_table([{"reason": "fine\x1b[2K\nanna"}]))
    assert "fine\\x1b[2K⏎anna" in captured.get()


@pytest.mark.parametrize("blank", ["", "  "])
def test_a_blank_name_is_nobody(monkeypatch: pytest.MonkeyPatch, blank: str) -> None:
    monkeypatch.setenv("BACKFILL_ACTOR", "anna")
    with pytest.raises(UsageError, match="--by is blank"):
        person(blank)
    assert person() == "anna"
    assert person("ben") == "ben"
