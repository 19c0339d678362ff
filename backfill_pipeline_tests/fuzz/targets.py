"""What must hold whatever a file or a definition holds.

Belongs here: one function per thing that is fuzzed; it takes bytes and fails when a promise is broken.
Does not: making up bytes (`mutations.py`, atheris).
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pyarrow as pa
import yaml

from backfill_pipeline.definition.load import load_definition, parse_definition
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.problems import check_file
from backfill_pipeline.errors import BackfillError, SourceDefinitionError, SourceFileError
from backfill_pipeline.mapping.transform import Mapping as CompiledMapping
from backfill_pipeline.mapping.transform import compile_mapping
from backfill_pipeline.profiling.profile import profile_file
from backfill_pipeline.schemas.extracted import ERROR_CODE, SOURCE_ROW, to_arrow, to_pandas
from backfill_pipeline.schemas.frames import VALIDATED_SCHEMA
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline.schemas.rejects import RejectCode, build_rejects
from backfill_pipeline.sources.headers import check_header
from backfill_pipeline.sources.open import open_source

CHUNK_ROWS = 3
CODES = {code.value for code in RejectCode}

BUSY: Mapping[str, object] = {
    "columns": {
        "debit": {"template": "{branch}-{account}", "default": "SUSPENSE"},
        "kind": {"column": "kind", "case": "upper", "slice": [0, 3], "lookup": "kinds"},
        "to": {"column": "to", "regex": "([A-Z0-9]+)", "replace": {"-": ""}, "strip_leading": "0"},
    },
    "fields": {
        "ledger_id": {"constant": "MASTER"},
        "debit_account_id": "debit",
        "credit_account_id": {"column": "to", "default": "CLEARING"},
        "amount": {"column": "amount", "minus": ["leading", "trailing", "parentheses"], "absolute": True, "zero": "filter"},
        "currency_code": {"column": "currency", "default": "EUR"},
        "transaction_type": "kind",
        "reference_id": "id",
        "timestamp_utc": {"column": "time", "timezone": "Europe/Berlin", "allow_24": True},
    },
    "rules": [
        {"when": {"status": {"in": ["pending", "held"]}}, "filter": "not booked yet"},
        {"when": {"amount": {"below": "0"}, "kind": {"not_equals": "FEE"}}, "set": {"debit_account_id": {"constant": "CLEARING"}}},
        {"when": {"amount": {"above": "1000000"}}, "reject": "too much for one payment"},
    ],
    "lookups": {"kinds": {"inline": {"TRF": "TRANSFER", "FEE": "BANK_FEE"}, "default": "OTHER"}},
    "metadata": ["status"],
}  # fmt: skip
"""A mapping that uses most of the language."""

COLUMNS = ("id", "branch", "account", "to", "kind", "amount", "currency", "time", "status")


@dataclass(frozen=True)
class FileTarget:
    """A kind of file: its part of the definition, and files to begin with.

    Attributes:
        suffix: of the file's name.
        settings: type and sections; may replace parts of BUSY.
        seeds: good files.
        words: what matters to its readers, for mutations.
    """

    suffix: str
    settings: Mapping[str, object]
    seeds: tuple[bytes, ...]
    words: tuple[bytes, ...]

    def definition(self, folder: Path) -> SourceDefinition:
        return parse_definition(
            as_yaml_gives_it({"id": "fuzzed", "file": f"input{self.suffix}", **BUSY, **self.settings}),
            folder / "fuzzed.yaml",
        )

    def run(self, data: bytes) -> Counted | None:
        """Reads, maps and validates a file; None when it is refused as a whole, which takes one sentence."""
        with tempfile.TemporaryDirectory(prefix="backfill-fuzz-") as scratch:
            folder = Path(scratch)
            (folder / f"input{self.suffix}").write_bytes(data)
            definition = self.definition(folder)
            try:
                return count(definition, compile_mapping(definition), folder / "captures")
            except SourceFileError as error:
                check_sentence(error)
                return None


@dataclass(frozen=True)
class Counted:
    """The equation of one file, before posting."""

    read: int
    good: int
    rejected: int
    filtered: int


def count(definition: SourceDefinition, mapping: CompiledMapping, captures: Path) -> Counted:
    """Takes all chunks to the validated frame, as a run does; every row must come out exactly once."""
    visited: list[pa.Table] = []
    reader = open_source(definition, captures)
    manifest = reader.survey(CHUNK_ROWS, visit=visited.append)
    assert sum(chunk.row_count for chunk in manifest.chunks) == manifest.row_count
    check_header(definition, manifest.header)
    # As a resumed run would: a reader that knows nothing but the registration.
    reader = open_source(definition, captures, registered_sha256=manifest.sha256)
    assert reader.fingerprint()[1] == manifest.sha256
    good = rejected = filtered = 0
    tables = []
    for chunk in manifest.chunks:
        extracted = reader.read_chunk(chunk, manifest.header)
        extracted.validate(full=True)
        tables.append(extracted)
        first = chunk.first_row
        assert extracted[SOURCE_ROW].to_pylist() == list(range(first, first + chunk.row_count))
        assert set(extracted[ERROR_CODE].drop_null().to_pylist()) <= CODES
        outcome = validate(mapping.transform(to_pandas(extracted)))
        rejects = build_rejects(outcome.failures, extracted, reader)
        assert len(outcome.valid) + len(rejects) + sum(outcome.filtered.values()) == chunk.row_count
        assert set(rejects["code"]) <= CODES
        to_arrow(outcome.valid, VALIDATED_SCHEMA).validate(full=True)
        for text in (*rejects["raw"], *rejects["reason"]):
            assert "\0" not in text, "PostgreSQL takes no NUL"
            text.encode()
        good, rejected = good + len(outcome.valid), rejected + len(rejects)
        filtered += sum(outcome.filtered.values())
    if tables:
        assert pa.concat_tables(tables).equals(pa.concat_tables(visited)), "read again, a record is another"
    return Counted(manifest.row_count, good, rejected, filtered)


def check_sentence(error: BackfillError) -> None:
    """An error is one sentence for people: no traceback, no line breaks, not empty, not endless."""
    text = str(error)
    assert text
    assert "Traceback" not in text
    assert "\n" not in text
    assert "\0" not in text
    assert len(text) < 2500, text


def run_definition(data: bytes) -> None:
    """A definition is usable, or one sentence says why not; `check` finds something to say in the same cases."""
    with tempfile.TemporaryDirectory(prefix="backfill-fuzz-") as scratch:
        path = Path(scratch) / "source.yaml"
        path.write_bytes(data)
        checked = check_file(path)
        try:
            definition = load_definition(path)
        except SourceDefinitionError as error:
            check_sentence(error)
            assert checked.problems, f"check says nothing of: {error}"
            return
        assert not checked.problems, checked.problems
        try:
            compile_mapping(definition)
        except SourceFileError as error:
            check_sentence(error)


def run_profile(data: bytes) -> None:
    """`profile` says what it sees, or one sentence; its draft is a definition that loads."""
    with tempfile.TemporaryDirectory(prefix="backfill-fuzz-") as scratch:
        path = Path(scratch) / "export.csv"
        path.write_bytes(data)
        try:
            profile_file(path)
        except BackfillError as error:
            check_sentence(error)


def as_yaml_gives_it(value: object) -> object:
    """Scalars as text, as the loader of definitions gives them."""
    if isinstance(value, Mapping):
        return {str(key): as_yaml_gives_it(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [as_yaml_gives_it(one) for one in value]
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


def definition_seeds() -> tuple[bytes, ...]:
    """The definitions of this package, as YAML."""
    from backfill_pipeline_tests.fuzz.files import FILE_TARGETS

    whole = [{"id": "fuzzed", "file": "input", **BUSY, **target.settings} for target in FILE_TARGETS.values()]
    return tuple(yaml.safe_dump(as_yaml_gives_it(one), sort_keys=False).encode() for one in whole)


Target = Callable[[bytes], object]


def targets() -> dict[str, tuple[Target, tuple[bytes, ...], tuple[bytes, ...]]]:
    """Name → function, seeds and words of everything that is fuzzed."""
    from backfill_pipeline_tests.fuzz.files import FILE_TARGETS

    found: dict[str, tuple[Target, tuple[bytes, ...], tuple[bytes, ...]]] = {
        name: (partial(FileTarget.run, target), target.seeds, target.words)
        for name, target in FILE_TARGETS.items()
    }
    words = (
        b"'",
        b'"',
        b"{",
        b"}",
        b"[",
        b"]",
        b": ",
        b"\n  ",
        b"- ",
        b"&a ",
        b"*a",
        b"<<: ",
        b"!!python/name:os.system ",
        b"|",
        b"~",
        b"${HOME}",
        b"999999999999",
    )
    found["definition"] = (run_definition, definition_seeds(), words)
    found["profile"] = (run_profile, FILE_TARGETS["csv"].seeds, FILE_TARGETS["csv"].words)
    return found
