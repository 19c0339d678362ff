"""Several files are one source: one run of rows, one fingerprint."""

from pathlib import Path

import pyarrow as pa
import pytest

from backfill_pipeline.definition.formats import CsvDialect
from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.sources import several
from backfill_pipeline.sources.files.csv_reader import CsvReader
from backfill_pipeline.sources.protocol import CHUNK_COUNT_MAX, SourceReader
from backfill_pipeline.sources.several import SeveralReader


def make(file: Path, chunk_count_max: int) -> SourceReader:
    return CsvReader(file, CsvDialect(), chunk_count_max=chunk_count_max)


def write(folder: Path, **files: str) -> SeveralReader:
    for name, text in files.items():
        (folder / f"{name}.csv").write_text(text)
    return SeveralReader([folder / "*.csv"], make)


def test_rows_run_through_and_lines_and_raw_text_belong_to_a_file(tmp_path: Path) -> None:
    reader = write(tmp_path, b="x,y\n3,4\n5\n7,8\n", a="x,y\n\n1,2\n")
    visited: list[pa.Table] = []
    manifest = reader.survey(2, visit=visited.append)
    table = pa.concat_tables([reader.read_chunk(chunk, manifest.header) for chunk in manifest.chunks])
    assert table.equals(pa.concat_tables(visited))
    assert table["__source_row"].to_pylist() == [1, 2, 3, 4]
    assert table["__source_line"].to_pylist() == [3, 2, 3, 4]
    assert table["x"].to_pylist() == ["1", "3", None, "7"]
    assert [(one.number, one.first_row, one.row_count) for one in manifest.chunks] == [
        (1, 1, 1), (2, 2, 2), (3, 4, 1),
    ]  # fmt: skip
    raw = reader.raw_text(table["__byte_offset"].to_pylist(), table["__byte_length"].to_pylist())
    assert raw == ["[a.csv] 1,2", "[b.csv] 3,4", "[b.csv] 5", "[b.csv] 7,8"]
    assert (manifest.size_bytes, manifest.sha256) == reader.fingerprint()
    assert manifest.file_name == "a.csv and 1 more"


def test_any_change_of_names_or_contents_changes_the_fingerprint(tmp_path: Path) -> None:
    reader = write(tmp_path, a="x\n1\n", b="x\n2\n")
    seen = {reader.fingerprint()[1]}
    write(tmp_path, c="x\n3\n")
    seen.add(reader.fingerprint()[1])
    (tmp_path / "c.csv").rename(tmp_path / "d.csv")
    seen.add(reader.fingerprint()[1])
    write(tmp_path, d="x\n4\n")
    seen.add(reader.fingerprint()[1])
    assert len(seen) == 4


def test_a_file_with_other_columns_is_named(tmp_path: Path) -> None:
    reader = write(tmp_path, a="x,y\n1,2\n", b="x,z\n1,2\n")
    with pytest.raises(
        SourceFileError, match=r"b\.csv: has other columns than a\.csv: column 2 is 'z' here and 'y'"
    ):
        reader.survey(10)
    reader = write(tmp_path, b="x,y,z\n")
    with pytest.raises(SourceFileError, match="3 columns here and 2 there"):
        reader.survey(10)


def test_files_are_taken_once_and_by_name(tmp_path: Path) -> None:
    write(tmp_path, b="x\n", a="x\n")
    found = several.matching_files([tmp_path / "b.csv", tmp_path / "*.csv"])
    assert [file.name for file in found] == ["a.csv", "b.csv"]


def test_nothing_and_too_much_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(SourceFileError, match=r"\*\.csv: no file matches"):
        SeveralReader([tmp_path / "*.csv"], make).survey(10)
    reader = write(tmp_path, a="x\n", b="x\n")
    monkeypatch.setattr(several, "CHUNK_COUNT_MAX", 1)
    with pytest.raises(SourceFileError, match="2 files are more than the 1"):
        reader.survey(10)


def test_a_missing_file_is_a_change(tmp_path: Path) -> None:
    reader = write(tmp_path, a="x\n1\n", b="x\n2\n")
    manifest = reader.survey(10)
    (tmp_path / "b.csv").unlink()
    with pytest.raises(SourceChangedError, match="there were 2 files or more .* now there are 1"):
        SeveralReader([tmp_path / "*.csv"], make).read_chunk(manifest.chunks[1], manifest.header)


def test_all_files_together_keep_to_the_limit_of_chunks(tmp_path: Path) -> None:
    reader = write(tmp_path, a="x\n1\n", b="x\n" + "1\n" * 9000, c="x\n" + "1\n" * 3000)
    manifest = reader.survey(1)
    assert 500 < len(manifest.chunks) <= CHUNK_COUNT_MAX
    assert manifest.row_count == 12_001
    assert [chunk.number for chunk in manifest.chunks] == list(range(1, len(manifest.chunks) + 1))


def test_few_files_are_open_at_a_time(tmp_path: Path) -> None:
    reader = write(tmp_path, **{f"f{number}": "x\n1\n" for number in range(8)})
    manifest = reader.survey(10)
    for chunk in [*manifest.chunks, *manifest.chunks]:
        assert reader.read_chunk(chunk, manifest.header)["x"].to_pylist() == ["1"]
    assert len(reader._readers) == several.READERS_KEPT
