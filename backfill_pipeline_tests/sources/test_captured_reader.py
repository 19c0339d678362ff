"""What was captured is what is read, whatever the source says later; a capture is made again only where it can be."""

import json
import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.errors import SourceChangedError, SourceFileError
from backfill_pipeline.schemas.rejects import RejectCode
from backfill_pipeline.sources.capture.captured_reader import CapturedReader, prune_captures
from backfill_pipeline.sources.capture.captures import BATCH_ROWS
from backfill_pipeline.sources.files.content import file_fingerprint
from backfill_pipeline.sources.malformed import Problems
from backfill_pipeline.sources.protocol import SourceManifest
from backfill_pipeline.sources.record_stream import StreamedRecords

QUICK = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


class Table:
    """A live table: says what `rows` hold at the time. With a file, that is its fingerprint."""

    def __init__(self, rows: list[dict[str, str]], piece_rows: int = 3, file: Path | None = None) -> None:
        self.rows, self.piece_rows, self.file = rows, piece_rows, file
        self.bad: set[int] = set()
        self.joined: set[int] = set()
        self.read_times = 0
        self.place = self.name = "table entries"

    def records(self) -> Iterator[StreamedRecords]:
        self.read_times += 1
        for first in range(0, max(1, len(self.rows)), self.piece_rows):
            part = self.rows[first : first + self.piece_rows]
            numbers = range(first, first + len(part))
            problems = Problems(len(part))
            for place, number in enumerate(numbers):
                if number in self.bad:
                    problems.add(place, RejectCode.NUL_BYTE, "is bad")
            names = list(self.rows[0]) if self.rows else ["a"]
            yield StreamedRecords(
                fields=pa.table(
                    [pa.array([row[name] for row in part], pa.string()) for name in names], names=names
                ),
                lines=pa.array([number + 10 for number in numbers], pa.int64()),
                raw=pa.array(
                    [f"raw {number}" if number in self.bad else None for number in numbers], pa.string()
                ),
                problems=problems,
                joined=pa.array([number in self.joined for number in numbers], pa.bool_()),
            )

    def fingerprint(self) -> tuple[int, str] | None:
        return None if self.file is None else file_fingerprint(self.file)


def rows_of(count: int) -> list[dict[str, str]]:
    return [{"a": f"a{number}", "é": ""} for number in range(count)]


def everything(reader: CapturedReader, manifest: SourceManifest) -> pa.Table:
    return pa.concat_tables([reader.read_chunk(chunk, manifest.header) for chunk in manifest.chunks])


def test_chunks_give_the_records_that_were_visited(tmp_path: Path) -> None:
    source = Table(rows_of(10))
    source.bad = {4}
    reader = CapturedReader(source, tmp_path)
    visited: list[pa.Table] = []
    manifest = reader.survey(4, visit=visited.append)
    assert [chunk.row_count for chunk in manifest.chunks] == [4, 4, 2]
    assert [chunk.first_line for chunk in manifest.chunks] == [10, 14, 18]
    table = everything(reader, manifest)
    assert table == pa.concat_tables(visited)
    assert table["a"].to_pylist() == [*(f"a{n}" for n in range(4)), None, *(f"a{n}" for n in range(5, 10))]
    assert table["__error_code"].to_pylist()[4] == "nul_byte"
    assert (manifest.header, manifest.row_count, source.read_times) == (("a", "é"), 10, 1)
    assert reader.raw_text([9, 4, 0], [1, 1, 1]) == [
        json.dumps({"a": "a9", "é": ""}, ensure_ascii=False),
        "raw 4",
        json.dumps({"a": "a0", "é": ""}, ensure_ascii=False),
    ]


def test_a_registered_live_source_is_its_capture_whatever_it_says_now(tmp_path: Path) -> None:
    source = Table(rows_of(10))
    manifest = CapturedReader(source, tmp_path).survey(4)
    source.rows = rows_of(3)
    reader = CapturedReader(source, tmp_path, registered_sha256=manifest.sha256)
    assert reader.fingerprint() == (manifest.size_bytes, manifest.sha256)
    assert everything(reader, manifest).num_rows == 10
    assert source.read_times == 1
    # Another survey says what the table holds now, and leaves the registered capture alone.
    assert CapturedReader(source, tmp_path).survey(4).sha256 != manifest.sha256
    assert (
        everything(CapturedReader(source, tmp_path, registered_sha256=manifest.sha256), manifest).num_rows
        == 10
    )


@pytest.mark.parametrize("damage", ["removed", "cut", "flipped"])
def test_a_lost_capture_is_made_again_while_the_source_says_the_same(tmp_path: Path, damage: str) -> None:
    source = Table(rows_of(10))
    manifest = CapturedReader(source, tmp_path).survey(4)
    (capture,) = tmp_path.glob("*.arrow")
    content = bytearray(capture.read_bytes())
    if damage == "removed":
        capture.unlink()
    elif damage == "cut":
        capture.write_bytes(content[: len(content) // 2])
    else:
        content[content.index(b"a3")] ^= 1
        capture.write_bytes(content)
    reader = CapturedReader(source, tmp_path, registered_sha256=manifest.sha256)
    assert everything(reader, manifest)["a"].to_pylist() == [f"a{n}" for n in range(10)]
    assert source.read_times == 2


def test_a_lost_capture_of_a_source_that_moved_on_is_told(tmp_path: Path) -> None:
    source = Table(rows_of(10))
    manifest = CapturedReader(source, tmp_path).survey(4)
    for path in tmp_path.glob("*"):
        path.unlink()
    source.rows = [*rows_of(9), {"a": "other", "é": ""}]
    reader = CapturedReader(source, tmp_path, registered_sha256=manifest.sha256)
    assert reader.fingerprint()[1] != manifest.sha256
    assert reader.read_chunk(manifest.chunks[0], manifest.header).num_rows == 4
    with pytest.raises(SourceChangedError, match="records 9 to 10 are not what they were"):
        reader.read_chunk(manifest.chunks[2], manifest.header)


@pytest.mark.parametrize("damage", ["removed", "cut"])
def test_texts_are_read_again_where_the_capture_is_lost(tmp_path: Path, damage: str) -> None:
    source = Table(rows_of(10))
    source.bad = {4}
    manifest = CapturedReader(source, tmp_path).survey(4)
    (capture,) = tmp_path.glob("*.arrow")
    if damage == "removed":
        capture.unlink()
    else:
        capture.write_bytes(capture.read_bytes()[:100])
    reader = CapturedReader(source, tmp_path, registered_sha256=manifest.sha256)
    assert reader.raw_text([4, 9], [1, 1]) == ["raw 4", '{"a": "a9", "é": ""}']
    assert source.read_times == 2
    for path in tmp_path.glob("*.arrow"):
        path.unlink()
    source.rows[9]["a"] = "other"
    reader = CapturedReader(source, tmp_path, registered_sha256=manifest.sha256)
    with pytest.raises(SourceChangedError, match="table entries: is not what it was when it was registered"):
        reader.raw_text([4, 9], [1, 1])


def test_a_file_is_known_by_its_own_fingerprint(tmp_path: Path) -> None:
    file = tmp_path / "book"
    file.write_bytes(b"1")
    source = Table(rows_of(5), file=file)
    manifest = CapturedReader(source, tmp_path / "captures").survey(4)
    assert (manifest.size_bytes, manifest.sha256) == file_fingerprint(file)
    reader = CapturedReader(source, tmp_path / "captures")
    assert everything(reader, manifest).num_rows == 5
    assert source.read_times == 1
    file.write_bytes(b"2")
    source.rows = rows_of(4)
    with pytest.raises(SourceChangedError):
        CapturedReader(source, tmp_path / "captures").read_chunk(manifest.chunks[1], manifest.header)


def test_a_file_that_changes_while_it_is_read_is_not_registered(tmp_path: Path) -> None:
    file = tmp_path / "book"
    file.write_bytes(b"1")
    reader = CapturedReader(Table(rows_of(5), file=file), tmp_path / "captures")
    with pytest.raises(SourceFileError, match="changed while it was read"):
        reader.survey(4, visit=lambda _: file.write_bytes(b"2") and None)
    assert not list((tmp_path / "captures").iterdir())


def test_a_survey_that_is_ended_early_still_shows_records(tmp_path: Path) -> None:
    class EnoughError(Exception):
        pass

    def enough(_: pa.Table) -> None:
        raise EnoughError

    reader = CapturedReader(Table(rows_of(100)), tmp_path)
    with pytest.raises(EnoughError):
        reader.survey(4, visit=enough)
    assert reader.raw_text([1], [1]) == [json.dumps({"a": "a1", "é": ""}, ensure_ascii=False)]
    assert not list(tmp_path.glob("*.arrow"))


@pytest.mark.parametrize("count", [0, 5, 3 * BATCH_ROWS])
@pytest.mark.parametrize("room_bytes", [0, 300])
def test_a_disk_that_is_full_is_told_and_nothing_is_left(tmp_path: Path, count: int, room_bytes: int) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room_bytes, before[1]))
    try:
        with pytest.raises(
            SourceFileError, match=f"table entries: cannot be captured in {tmp_path}: file too large."
        ):
            CapturedReader(Table(rows_of(count), piece_rows=2000), tmp_path).survey(4)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(tmp_path.iterdir())


def test_other_columns_on_the_way_are_refused(tmp_path: Path) -> None:
    class Changing(Table):
        def records(self) -> Iterator[StreamedRecords]:
            yield from super().records()
            self.rows = [{"b": "1"}]
            yield from super().records()

    with pytest.raises(SourceFileError, match="other columns from record 6 on: b instead of a, é"):
        CapturedReader(Changing(rows_of(5)), tmp_path).survey(4)
    assert not list(tmp_path.iterdir())


def test_an_empty_source_has_columns_and_no_chunk(tmp_path: Path) -> None:
    manifest = CapturedReader(Table([]), tmp_path).survey(4)
    assert (manifest.header, manifest.row_count, manifest.chunks) == (("a",), 0, ())


@QUICK
@given(
    count=st.integers(1, 60),
    joined=st.sets(st.integers(1, 59)),
    chunk_rows=st.integers(1, 20),
    count_max=st.integers(1, 5),
    piece_rows=st.integers(1, 20),
)
def test_joined_records_are_never_parted(
    tmp_path: Path, count: int, joined: set[int], chunk_rows: int, count_max: int, piece_rows: int
) -> None:
    source = Table(rows_of(count), piece_rows=piece_rows)
    source.joined = joined
    reader = CapturedReader(source, tmp_path, chunk_count_max=count_max)
    manifest = reader.survey(chunk_rows)
    assert len(manifest.chunks) <= count_max
    firsts = [chunk.byte_offset for chunk in manifest.chunks]
    assert not joined & set(firsts)
    assert firsts == [0, *(chunk.byte_offset + chunk.row_count for chunk in manifest.chunks[:-1])]
    assert everything(reader, manifest)["a"].to_pylist() == [f"a{n}" for n in range(count)]


@QUICK
@given(piece_rows=st.integers(1, 3 * BATCH_ROWS))
def test_the_fingerprint_does_not_depend_on_how_records_came(tmp_path: Path, piece_rows: int) -> None:
    source = Table(rows_of(2 * BATCH_ROWS + 5), piece_rows=max(piece_rows, 500))
    first = CapturedReader(source, tmp_path).survey(BATCH_ROWS + 1)
    assert first == CapturedReader(Table(source.rows, 7000), tmp_path).survey(BATCH_ROWS + 1)


def test_old_captures_are_pruned(tmp_path: Path) -> None:
    manifest = CapturedReader(Table(rows_of(3)), tmp_path).survey(4)
    (tmp_path / "1-2.tmp").write_bytes(b"")
    os.utime(tmp_path / "1-2.tmp", (1, 1))
    prune_captures(tmp_path, older_than_s=time.time() - 60)
    assert [path.name for path in tmp_path.iterdir()] == [f"{manifest.sha256}-{manifest.size_bytes}.arrow"]
