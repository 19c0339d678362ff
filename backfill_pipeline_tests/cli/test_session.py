"""Sources that a command names by the path of their file, without a server."""

from __future__ import annotations

from pathlib import Path

import pytest

from backfill_pipeline.cli.session import named_source
from backfill_pipeline_tests.stages.world import World


def test_a_file_that_takes_over_an_id_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BACKFILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BACKFILL_SOURCES_DIR", str(tmp_path / "sources"))
    files = []
    for folder in ("one", "other [red]"):
        (tmp_path / folder).mkdir()
        files.append(World("", tmp_path / folder).write("s", []))
    one, other = files
    named_source(str(one))
    named_source(str(one))
    assert named_source(str(other), register=False).path == other
    assert capsys.readouterr().err == ""  # nothing changed hands
    named_source(str(other))
    assert capsys.readouterr().err == f"s means {other} from now on; before, it meant {one}\n"
    named_source(str(other))
    assert named_source("s").path == other
    assert capsys.readouterr().err == ""
    other.unlink()
    named_source(str(one))  # what it meant is gone
    assert capsys.readouterr().err == ""
