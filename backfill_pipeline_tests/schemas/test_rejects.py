"""A reject shows where it is and what the source says there."""

from pathlib import Path

import pytest

from backfill_pipeline.definition.formats import CsvDialect
from backfill_pipeline.definition.load import parse_definition
from backfill_pipeline.mapping.transform import compile_mapping
from backfill_pipeline.schemas.extracted import to_arrow, to_pandas
from backfill_pipeline.schemas.frames import REJECTS_SCHEMA
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline.schemas.rejects import build_rejects
from backfill_pipeline.sources.files.csv_reader import CsvReader
from backfill_pipeline_tests.definition.conftest import YAML

HEADER = b"debit,credit,amount,currency,ref,time\n"


def test_rejects_hold_line_offset_and_raw_text_of_every_kind_of_bad_row(tmp_path: Path) -> None:
    import yaml

    lines = [
        b"a,b,1.00,USD,r1,2024-01-01T00:00:00Z",
        b"a,b,1e3,USD,r2,2024-01-01T00:00:00Z",
        b"a,b,1.00",
        b'a,"b\nb",-1,USD,r3,2024-01-01T00:00:00Z',
        b"a,b,1.00,U\xffSD,r4,2024-01-01T00:00:00Z",
        b"a,b\x00,1.00,USD,r5,2024-01-01T00:00:00Z",
    ]
    file = tmp_path / "export.csv"
    file.write_bytes(HEADER + b"\n".join(lines))
    definition = parse_definition(yaml.safe_load(YAML), tmp_path / "bank.yaml")
    reader = CsvReader(file, CsvDialect())
    (chunk,) = reader.survey(100).chunks
    extracted = to_pandas(reader.read_chunk(chunk, HEADER.decode().strip().split(",")))
    result = validate(compile_mapping(definition).transform(extracted))
    rejects = to_arrow(build_rejects(result.failures, extracted, reader), REJECTS_SCHEMA).to_pylist()
    assert len(result.valid) == 1
    assert [
        (one["source_row"], one["source_line"], one["stage"], one["code"], one["field"]) for one in rejects
    ] == [
        (2, 3, "transform", "amount_malformed", "amount"),
        (3, 4, "extract", "wrong_field_count", None),
        (4, 5, "validate", "amount_not_positive", "amount"),
        (5, 7, "extract", "encoding_invalid", None),
        (6, 8, "extract", "nul_byte", None),
    ]
    assert [one["raw"] for one in rejects] == [
        "a,b,1e3,USD,r2,2024-01-01T00:00:00Z",
        "a,b,1.00",
        'a,"b\nb",-1,USD,r3,2024-01-01T00:00:00Z',
        "a,b,1.00,U\\xffSD,r4,2024-01-01T00:00:00Z",
        "a,b\\x00,1.00,USD,r5,2024-01-01T00:00:00Z",
    ]
    content = file.read_bytes()
    for one, line in zip(rejects, lines[1:], strict=True):
        assert content[one["byte_offset"] :].startswith(line)


def test_failures_of_another_chunk_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "export.csv"
    file.write_bytes(b"x\n1\n2\n")
    reader = CsvReader(file, CsvDialect())
    first, second = (reader.read_chunk(chunk, ["x"]) for chunk in reader.survey(1).chunks)
    failures = to_pandas(
        second.select(["__source_row"]).rename_columns(["source_row"]).append_column("stage", second["x"])
    ).assign(code="c", field=None, reason="r")
    assert len(build_rejects(failures, second, reader)) == 1
    with pytest.raises(ValueError, match="not of the same chunk"):
        build_rejects(failures, first, reader)
