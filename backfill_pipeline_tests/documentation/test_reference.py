"""The pages that are made from the code are those that the code makes now, and name everything that there is."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
import typer.main

from backfill_pipeline.cli.app import app
from backfill_pipeline.documentation.environment import variables
from backfill_pipeline.documentation.markdown import code, plain, table
from backfill_pipeline.documentation.pages import made_pages, outdated
from backfill_pipeline.errors import UsageError
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.schemas.rejects import RejectCode

CHECKOUT = Path(__file__).resolve().parents[2]
DOCS = CHECKOUT / "docs"
PACKAGE = CHECKOUT / "backfill_pipeline"
VARIABLE = re.compile(r"(?:BACKFILL|LEDGER|DAGSTER|SCB_SIMULATOR)_[A-Z0-9_]+|TMPDIR")
# Dagster's own, which `backfill` sets for its processes and nobody else has to.
SET_BY_US = {"DAGSTER_EVENT_BATCH_SIZE"}


def test_the_committed_pages_are_up_to_date(connection: Connection) -> None:
    assert outdated(made_pages(connection, DOCS), DOCS) == [], "write them again: make reference"


def test_a_table_that_no_page_explains_is_named(connection: Connection) -> None:
    connection.execute("CREATE TABLE nobody_explains_this (id bigint)")
    with pytest.raises(UsageError, match=r"docs/ledger.md does not say what nobody_explains_this holds"):
        made_pages(connection, DOCS)


def test_a_page_that_is_missing_or_changed_is_out_of_date(tmp_path: Path) -> None:
    (tmp_path / "same.md").write_text("a")
    (tmp_path / "changed.md").write_text("b")
    assert outdated({"same.md": "a", "changed.md": "a", "missing.md": "a"}, tmp_path) == [
        "changed.md",
        "missing.md",
    ]


def test_every_command_is_on_its_page() -> None:
    text = (DOCS / "reference" / "commands.md").read_text(encoding="utf-8")
    titles = set(re.findall(r"^##+ (backfill .*)$", text, re.MULTILINE))
    root = typer.main.get_command(app)
    expected = {f"backfill {name}" for name in root.commands}
    for name, group in root.commands.items():
        expected |= {f"backfill {name} {inner}" for inner in getattr(group, "commands", ())}
    assert titles == expected


def test_every_reject_code_is_on_its_page() -> None:
    text = (DOCS / "reference" / "reject-codes.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `([a-z_]+)` \|", text, re.MULTILINE) == list(RejectCode)


def test_every_environment_variable_that_the_code_reads_is_on_the_page_of_settings() -> None:
    read = {
        node.value
        for file in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and VARIABLE.fullmatch(node.value)
    }
    assert read - SET_BY_US - variables() == set()
    assert "BACKFILL_HOME" in read


class TestMarkdown:
    def test_bars_in_cells_do_not_end_them(self) -> None:
        assert table(("a", ""), [("x|y", "")]) == "| a | |\n|---|---|\n| x\\|y | |\n"

    def test_a_table_of_nothing_is_nothing(self) -> None:
        assert table(("a",), []) == ""

    def test_marks_stand_for_themselves_and_code_stays_code(self) -> None:
        assert plain("a <b> *c* `<d>`") == "a \\<b> \\*c\\* `<d>`"
        assert code("`x`") == "`` `x` ``"
