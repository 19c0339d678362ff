"""A wrong definition gives one sentence that names file, key, value and what is allowed."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from backfill_pipeline.definition.fields import ConstantRule
from backfill_pipeline.definition.load import load_definition, mapping_parts, mapping_sha256
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline_tests.definition.conftest import YAML

Define = Callable[..., SourceDefinition]

WRONG = {
    "unknown key": (
        {"more": "unknown_acounts: create"},
        ["unknown_acounts", "did you mean unknown_accounts?", "metadata"],
    ),
    "unknown nested key": (
        {"amount": "{colum: a}"},
        ["fields.amount.colum", "did you mean column?", "decimal_mark"],
    ),
    "bad id": ({"id": "Bank-1"}, ["id is 'Bank-1'", "^[a-z]"]),
    "bad choice": ({"type": "xml"}, ["type is 'xml'", "'csv'"]),
    "bad mark": (
        {"amount": "{column: a, decimal_mark: ';'}"},
        ["fields.amount.decimal_mark is ';'", "'.' or ','"],
    ),
    "equal marks": (
        {"amount": "{column: a, thousands_mark: '.'}"},
        ["fields.amount.thousands_mark is '.'", "must differ from decimal_mark"],
    ),
    "two-digit year": (
        {"timestamp_utc": "{column: t, format: '%d/%m/%y', timezone: UTC}"},
        ["fields.timestamp_utc.format is '%d/%m/%y'", "two-digit year", "%Y"],
    ),
    "no zone": (
        {"timestamp_utc": "{column: t, format: '%Y-%m-%d'}"},
        ["fields.timestamp_utc.timezone is needed", "%z"],
    ),
    "unknown zone": (
        {"timestamp_utc": "{column: t, timezone: Europe/Pariss}"},
        ["fields.timestamp_utc.timezone is 'Europe/Pariss'", "Europe/Paris"],
    ),
    "unknown directive": ({"timestamp_utc": "{column: t, format: '%Y %c'}"}, ["holds %c", "%H"]),
    "no date": (
        {"timestamp_utc": "{column: t, format: '%H:%M', timezone: UTC}"},
        ["must give year, month and day"],
    ),
    "twice": ({"timestamp_utc": "{column: t, format: '%Y-%m-%d %m', timezone: UTC}"}, ["twice"]),
    "unknown format": ({"timestamp_utc": "{column: t, format: iso}"}, ["is 'iso'", "iso8601", "epoch_days"]),
    "epoch without epoch_days": (
        {"timestamp_utc": "{column: t, epoch: 2019-01-01}"},
        ["epoch", "epoch_days"],
    ),
    "rate": ({"more": "max_error_rate: 1.5"}, ["max_error_rate is '1.5'", "0 to 1"]),
    "batch size": ({"more": "config: {batch_size: 0}"}, ["config.batch_size is '0'", "1 to 1000000"]),
    "online": ({"more": "online: sometimes"}, ["online is 'sometimes'", "boolean"]),
    "retries": ({"more": "config: {max_retries: many}"}, ["config.max_retries is 'many'", "integer"]),
    "utf-16": ({"more": "csv: {encoding: utf-16}"}, ["csv.encoding is 'utf-16'", "latin-1"]),
    "no such codec": ({"more": "csv: {encoding: klingon}"}, ["csv.encoding is 'klingon'", "utf-8"]),
    "wide delimiter": ({"more": "csv: {delimiter: '||'}"}, ["csv.delimiter is '||'", "one ASCII character"]),
    "no columns": ({"more": "csv: {header: false}"}, ["csv.columns is needed"]),
    "map without a map": (
        {"debit_account_id": "{column: d, map: accounts}"},
        ["fields.debit_account_id.map", "account_map"],
    ),
    "map of nothing": ({"more": "account_map: {missing: keep}"}, ["account_map needs either inline", "file"]),
    "map half given": ({"more": "account_map: {file: m.csv, from: a}"}, ["account_map.to is needed"]),
    "missing field": ({"more": "accounts: {file: a.csv}"}, ["accounts.fields is missing"]),
    "opening missing": (
        {"more": "accounts: {file: a.csv, fields: {id: i, currency_code: c, opening_balance: b}}"},
        ["accounts.opening is needed"],
    ),
    "naive moment": (
        {
            "more": "accounts: {file: a.csv, fields: {id: i, currency_code: c, opening_balance: b}, "
            "opening: {ledger_id: M, as_of: 2018-12-31T00:00:00}}"
        },
        ["accounts.opening.as_of is '2018-12-31T00:00:00'", "timezone"],
    ),
    "no variable": (
        {"file": "${BACKFILL_NOT_SET}/x.csv"},
        ["file is '${BACKFILL_NOT_SET}/x.csv'", "set it", ":-"],
    ),
    "duplicate key": ({"more": "id: other"}, ["'id'", "twice", "lines 1 and"]),
    "duplicate metadata": ({"more": "metadata: [a, b, a]"}, ["metadata is 'a'", "twice"]),
    "metadata of mappings": ({"more": "metadata: [{a: b}]"}, ["metadata must be a mapping", "not a list"]),
    "invalid yaml": ({"more": "metadata: [a"}, ["not valid YAML", "line"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_definition_gives_one_sentence_naming_file_key_value_and_what_is_allowed(
    define: Define, tmp_path: Path, case: str
) -> None:
    changes, expected = WRONG[case]
    with pytest.raises(SourceDefinitionError) as caught:
        define(**changes)
    text = str(caught.value)
    assert text.startswith(f"{tmp_path / 'bank.yaml'}: ")
    assert "\n" not in text
    assert text.endswith(".")
    for part in expected:
        assert part in text


@pytest.mark.parametrize(
    ("content", "words"), [("", "not empty"), ("- a", "not a list"), ("just text", "not a text")]
)
def test_a_file_that_is_no_mapping_says_what_it_is(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(content)
    with pytest.raises(SourceDefinitionError, match=words):
        load_definition(path)


def test_a_missing_definition_is_named(tmp_path: Path) -> None:
    with pytest.raises(SourceDefinitionError, match="no such source definition"):
        load_definition(tmp_path / "none.yaml")


def test_yaml_does_not_guess_types_of_texts(define: Define) -> None:
    definition = define("account_map: {inline: {00123: 010, NO: 1e3}}\n", ledger_id="{constant: NO}")
    assert definition.fields.ledger_id == ConstantRule(constant="NO")
    assert definition.account_map is not None
    assert definition.account_map.inline == {"00123": "010", "NO": "1e3"}


def test_paths_start_at_the_real_file_and_know_variables(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = tmp_path / "real" / "sources"
    real.mkdir(parents=True)
    (real / "bank.yaml").write_text(YAML.replace("export.csv", "${EXPORTS:-../exports}/export.csv"))
    link = tmp_path / "link.yaml"
    os.symlink(real / "bank.yaml", link)
    assert load_definition(link).file == tmp_path / "real" / "exports" / "export.csv"
    assert load_definition(link).path == link
    monkeypatch.setenv("EXPORTS", str(tmp_path / "elsewhere"))
    assert load_definition(link).file == tmp_path / "elsewhere" / "export.csv"


@pytest.mark.parametrize(
    ("lines", "online"),
    [
        ("", None),
        ("online: true\n", True),
        ("online: false\n", None),
        ("online: true\nconfig: {batch_size: 9}\n", True),
        ("config: {batch_size: 9}\nonline: true\n", True),
        ("online: true\nconfig: {online: false}\n", False),
        ("config: {online: true}\n", True),
    ],
)
def test_an_online_source_is_the_default_of_its_runs(define: Define, lines: str, online: bool | None) -> None:
    assert define(lines).config.online is online


def test_the_mapping_hash_changes_exactly_with_what_rows_become(define: Define, tmp_path: Path) -> None:
    (tmp_path / "map.csv").write_text("a,b\n1,2\n")
    section = "account_map: {file: map.csv, from: a, to: b}\n"
    before = define(section)
    same = define(
        section
        + "description: other\nmax_error_rate: 0.5\npartition_rows: 7\nonline: true\nconfig: {batch_size: 9}\n"
    )
    assert mapping_sha256(same) == mapping_sha256(before)
    for changed, part in (
        (define(section, amount="other"), "fields"),
        (define(section + "metadata: [x]\n"), "metadata"),
        (define(section + "csv: {delimiter: ';'}\n"), "csv"),
        (define(section + "unknown_accounts: create\n"), "unknown_accounts"),
    ):
        parts, old = mapping_parts(changed), mapping_parts(before)
        assert [key for key in parts if parts[key] != old[key]] == [part]
        assert mapping_sha256(changed) != mapping_sha256(before)
    old = mapping_parts(before)
    (tmp_path / "map.csv").write_text("a,b\n1,3\n")
    assert [key for key, value in mapping_parts(define(section)).items() if value != old[key]] == [
        "account_map"
    ]
