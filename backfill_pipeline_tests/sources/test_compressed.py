"""A compressed file gives the rows of the file inside, or one sentence."""

import gzip
import zipfile
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backfill_pipeline.definition.formats import CsvDialect
from backfill_pipeline.errors import SourceFileError
from backfill_pipeline.sources.files import compressed
from backfill_pipeline.sources.files.compressed import content_of
from backfill_pipeline.sources.files.csv_reader import CsvReader

BODY = b"a,b\n" + b"".join(b"%d,x\n" % number for number in range(1000))


def zstd(data: bytes) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.CompressedOutputStream(sink, "zstd") as stream:
        stream.write(data)
    whole: bytes = sink.getvalue().to_pybytes()
    return whole


def zipped(path: Path, **members: bytes) -> bytes:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return path.read_bytes()


PACK: dict[str, Callable[[Path], bytes]] = {
    "gz": lambda path: gzip.compress(BODY),
    "zst": lambda path: zstd(BODY),
    "zip": lambda path: zipped(path, export=BODY),
}


def reader_of(path: Path, member: str | None = None) -> CsvReader:
    return CsvReader(content_of(path, member), CsvDialect())


def rows(reader: CsvReader) -> pa.Table:
    manifest = reader.survey(300)
    return pa.concat_tables([reader.read_chunk(chunk, manifest.header) for chunk in manifest.chunks])


@pytest.mark.parametrize("kind", PACK)
def test_rows_and_positions_are_those_of_the_file_inside(tmp_path: Path, kind: str) -> None:
    plain, packed = tmp_path / "export.csv", tmp_path / f"export.csv.{kind}"
    plain.write_bytes(BODY)
    packed.write_bytes(PACK[kind](packed))
    reader = reader_of(packed)
    manifest = reader.survey(300)
    assert rows(reader).equals(rows(reader_of(plain)))
    assert (manifest.size_bytes, manifest.sha256) == reader.fingerprint()
    assert manifest.size_bytes == packed.stat().st_size
    assert reader.raw_text([4], [3]) == ["0,x"]
    # Another process, which only reads the last chunk.
    assert reader_of(packed).read_chunk(manifest.chunks[-1], manifest.header).num_rows == 100


@pytest.mark.parametrize("kind", PACK)
@pytest.mark.parametrize("keep", [0.2, 0.6, 0.95])
def test_a_file_that_was_cut_short_is_refused_in_one_sentence(tmp_path: Path, kind: str, keep: float) -> None:
    packed = tmp_path / f"export.csv.{kind}"
    whole = PACK[kind](packed)
    packed.write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(SourceFileError, match="not a whole .* file") as caught:
        reader_of(packed).survey(300)
    assert "\n" not in str(caught.value)
    assert str(packed) in str(caught.value)


@pytest.mark.parametrize("kind", PACK)
def test_a_file_that_only_has_the_name_of_an_archive_is_refused(tmp_path: Path, kind: str) -> None:
    packed = tmp_path / f"export.csv.{kind}"
    packed.write_bytes(BODY)
    with pytest.raises(SourceFileError, match="not a whole"):
        reader_of(packed).survey(300)


@pytest.mark.parametrize("kind", PACK)
def test_a_bomb_is_refused_before_it_fills_the_disk(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compressed, "ALWAYS_BYTES", 1000)
    monkeypatch.setattr(compressed, "RATIO_MAX", 2)
    packed = tmp_path / f"export.csv.{kind}"
    packed.write_bytes(PACK[kind](packed))
    with pytest.raises(SourceFileError, match="more than 2 times its size"):
        reader_of(packed).survey(300)


def test_a_full_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packed = tmp_path / "export.csv.gz"
    packed.write_bytes(gzip.compress(BODY))
    monkeypatch.setattr(compressed, "DISK_FREE_BYTES_MIN", 1 << 62)
    with pytest.raises(SourceFileError, match="no room in .*TMPDIR"):
        reader_of(packed).survey(300)
    monkeypatch.setenv("TMPDIR", str(tmp_path / "none"))
    with pytest.raises(SourceFileError, match="cannot be unpacked into .*none"):
        reader_of(packed).survey(300)


def test_a_zip_with_several_files_needs_a_member(tmp_path: Path) -> None:
    packed = tmp_path / "export.zip"
    zipped(packed, **{"a.csv": BODY, "in/b.csv": b"c\n1\n"})
    with pytest.raises(
        SourceFileError, match=r"holds 2 files \(a.csv, in/b.csv\): say which one with member"
    ):
        reader_of(packed).survey(300)
    assert reader_of(packed, "in/b.csv").survey(300).header == ("c",)
    with pytest.raises(SourceFileError, match="holds no file 'z.csv', only a.csv, in/b.csv"):
        reader_of(packed, "z.csv").survey(300)


def test_a_file_that_changed_is_unpacked_again(tmp_path: Path) -> None:
    packed = tmp_path / "export.csv.gz"
    packed.write_bytes(gzip.compress(BODY))
    reader = reader_of(packed)
    before = reader.survey(300)
    packed.write_bytes(gzip.compress(BODY + b"1000,x\n"))
    assert reader.survey(300).row_count == before.row_count + 1
    assert reader.fingerprint() != (before.size_bytes, before.sha256)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(sorted(PACK)),
    place=st.integers(0, 10_000),
    garbage=st.binary(min_size=1, max_size=12),
    keep=st.integers(0, 10_000),
)
def test_a_damaged_archive_gives_the_rows_or_one_sentence(
    tmp_path: Path, kind: str, place: int, garbage: bytes, keep: int
) -> None:
    packed = tmp_path / f"export.csv.{kind}"
    whole = PACK[kind](packed)
    at = place % len(whole)
    damaged = whole[:at] + garbage + whole[at + len(garbage) :]
    packed.write_bytes(damaged[: len(whole) - keep % 40 if keep % 3 else None])
    try:
        found = rows(reader_of(packed))
    except SourceFileError as error:
        assert "\n" not in str(error)
    else:  # damage in a name or a date of the archive
        if kind != "zst":  # whose checksum is optional
            assert found.num_rows == 1000
