"""docs/bad-input.md lists every kind of bad row and bad file, and each is what the page says."""

from __future__ import annotations

import re
from datetime import date
from pathlib import Path

import pytest
import yaml

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.ledger import constraints, periods
from backfill_pipeline.ledger.connection import connect
from backfill_pipeline.schemas.reject_hints import hint
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.stages.preview import preview
from backfill_pipeline_tests.stages.bad_input import FILES, POSTED, ROWS, BadFile, write_source
from backfill_pipeline_tests.stages.world import CHECKOUT, World, entry

PAGE = (CHECKOUT / "docs" / "bad-input.md").read_text(encoding="utf-8")


def table_of_rows() -> str:
    """The table of codes as the page must have it."""
    words = {**{code: row.words for code, row in ROWS.items()}, **POSTED}
    lines = ["| stage | code | for example | what to do |", "|---|---|---|---|"]
    for code in RejectCode:
        lines.append(
            f"| {code.stage} | `{code}` | {words[code].replace('|', chr(92) + '|')} | {hint(code)} |"
        )
    return "\n".join(lines)


def table_of_files() -> str:
    """The table of sentences as the page must have it."""
    lines = ["| kind | what is wrong | the sentence holds |", "|---|---|---|"]
    lines += [f"| {one.kind} | {one.what} | {one.says} |" for one in FILES]
    return "\n".join(lines)


@pytest.mark.parametrize("table", [table_of_rows, table_of_files])
def test_the_page_lists_them_all(table: object) -> None:
    expected = table()
    assert expected in PAGE, f"write into docs/bad-input.md:\n{expected}"


@pytest.mark.parametrize("code", ROWS)
def test_a_bad_row_gets_its_code(tmp_path: Path, code: RejectCode) -> None:
    found = preview(load_definition(ROWS[code].write(tmp_path)), rows=10)
    assert code in found.rejected, found.rejected
    assert found.good + sum(found.rejected.values()) + sum(found.filtered.values()) == len(found.rows)
    assert code.stage != "post"
    rejected = next(one for one in found.rows if one.code == code)
    assert rejected.reason
    assert rejected.raw


def test_every_code_of_the_ledger_is_given_to_its_row(world: World) -> None:
    world.post(
        world.write("before", [entry(1, amount="1.00")], accounts={"A": "1.00", "B": "100.00", "C": "0"})
    )
    euro = world.write(
        "euro", [entry(50, debit="E", credit="F", currency="EUR")], accounts={"E": "0", "F": "100.00"}
    )
    euro.write_text(euro.read_text().replace("constant: USD", "constant: EUR"))
    world.post(euro)
    rows = [
        entry(1, amount="2.00"),
        entry(2, debit="nobody"),
        entry(3, currency="EUR"),
        entry(4, debit="E", currency="EUR"),
        entry(5, time="2024-03-01T00:00:00Z"),
    ]
    with connect(world.url) as connection:
        assert periods.close(connection, "MASTER", date(2024, 3, 1), actor="ann", reason=None)
    world.post(world.write("rows", rows, max_error_rate="1"))
    again = world.write(
        "again", [entry(1, amount="1.00")], max_error_rate="1", config={"skip_duplicates": "false"}
    )
    world.post(again)
    with connect(world.url) as connection:
        assert constraints.apply(connection).state == "applied"
    world.post(world.write("poor", [entry(60, debit="C", credit="A", amount="100.00")], max_error_rate="1"))
    assert {str(code) for _, _, code, _ in world.rejects()} == {str(code) for code in POSTED}


@pytest.mark.parametrize("bad", FILES, ids=lambda one: f"{one.kind}: {one.what}")
def test_a_bad_file_is_refused_in_one_sentence_and_nothing_is_kept(world: World, bad: BadFile) -> None:
    path = write_source(world.folder, bad.settings)
    settings = yaml.safe_load(path.read_text())
    bad.write(world.folder / str(settings.get("file", "export")))
    with pytest.raises(SourceFileError) as caught:
        definition = world.register(path)
        preview(definition, rows=1)
    assert bad.says in str(caught.value)
    assert re.search(r"[^.?][.?]$", str(caught.value))
    assert "\n" not in str(caught.value)
    if "has no column" not in bad.says:
        assert world.query("SELECT * FROM backfill_registrations") == []
