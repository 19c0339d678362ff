"""The section `api`: what is right reads well, and what is wrong is one sentence that shows no secret."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from backfill_pipeline.definition.json_schema import source_schema
from backfill_pipeline.definition.load import load_definition, mapping_parts
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline_tests.definition.conftest import YAML
from backfill_pipeline_tests.definition.json_schema import offends

FIELDS = YAML.replace("type: csv\nfile: export.csv\n", "type: api\n")
GOOD = """
api:
  base_url: https://api.example.org/v1
  path: /ledgers/main/entries
  auth: {kind: bearer, token_env: BANK_TOKEN}
  records: data.entries
  pagination: {kind: cursor, next: meta.next}
"""

Load = Callable[[str], SourceDefinition]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(api: str) -> SourceDefinition:
        path = tmp_path / "bank.yaml"
        path.write_text(FIELDS + api)
        return load_definition(path)

    return loaded


def changed(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def test_a_good_section_says_where_it_is_without_any_secret(load: Load) -> None:
    definition = load(GOOD)
    assert definition.is_live
    assert definition.place == "https://api.example.org/v1/ledgers/main/entries"
    assert definition.place_key == "api"
    assert definition.api is not None
    assert definition.api.name == "api.example.org/v1/ledgers/main/entries"


def test_variables_are_expanded_in_the_address_and_nowhere_else(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = changed("https://api.example.org", "${BANK:-https://b.example}").replace("main", "${BANK}")
    definition = load(address)
    assert definition.place == "https://b.example/v1/ledgers/${BANK}/entries"
    monkeypatch.setenv("BANK", "https://c.example")
    assert load(address).place.startswith("https://c.example/v1/")
    with pytest.raises(SourceDefinitionError, match="api.base_url is .* variable NONE is not set: set it"):
        load(changed("https://api.example.org", "${NONE}"))


def test_a_secret_in_the_variable_of_the_address_is_refused_and_not_shown(
    load: Load, monkeypatch: pytest.MonkeyPatch
) -> None:
    for value in (
        "https://user:hunter2@b.example",
        "https://hunter2@b.example",
        "https://b.example?key=hunter2&",
        "//x:hunter2@b",
    ):
        monkeypatch.setenv("BANK", value)
        with pytest.raises(SourceDefinitionError, match=r"api\.base_url") as failed:
            load(changed("https://api.example.org", "${BANK}"))
        assert "hunter2" not in str(failed.value)


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("https://api.example.org/v1", "ftp://x", "must begin with https:// or http:// and name a host"),
        ("https://api.example.org/v1", "https://", "name a host"),
        ("https://api.example.org/v1", "https://x:99999", "is no address"),
        ("https://api.example.org/v1", "https://x?a=1", "must end with its path: parameters go under params"),
        ("https://api.example.org/v1", "http://x", "would send credentials unencrypted: use https, or set allow_http"),
        ("/ledgers/main/entries", "https://evil.example/x", "must be a path below base_url"),
        ("/ledgers/main/entries", "//evil.example/x", "must be a path below base_url"),
        ("/ledgers/main/entries", "entries?from=1", "parameters go under params"),
        ("/ledgers/main/entries", "../../x", "must not leave base_url"),
        ("token_env: BANK_TOKEN", "token_env: abc-def", "must be the name of an environment variable"),
        ("token_env: BANK_TOKEN", "token: hunter2", "api.auth.token is an unknown key: did you mean token_env"),
        ("{kind: bearer, token_env: BANK_TOKEN}", "hunter2", "must be a mapping with kind: bearer or api_key"),
        ("{kind: bearer, token_env: BANK_TOKEN}", "{token_env: A}", "api.auth.kind is missing: allowed are bearer"),
        ("{kind: bearer, token_env: BANK_TOKEN}", "{kind: api_key, value_env: A}", "needs either header or param"),
        ("{kind: bearer, token_env: BANK_TOKEN}", "{kind: digest}", "api.auth.kind is 'digest', .* allowed are bearer"),
        ("records: data.entries", "records: data..entries", "is no dotted path"),
        ("{kind: cursor, next: meta.next}", "{kind: cursor}", "needs either next .* or last_record"),
        ("{kind: cursor, next: meta.next}", "{kind: cursor, next: a, last_record: b}", "needs either next"),
        ("{kind: cursor, next: meta.next}", "{kind: pages}", "api.pagination.kind is 'pages', .* page, offset, cursor"),
        ("{kind: cursor, next: meta.next}", "{kind: page, end: total}", "is total, but nothing says where"),
        ("{kind: cursor, next: meta.next}", "{kind: page, end: short_page}", "size is needed with end: short_page"),
        ("{kind: cursor, next: meta.next}", "{kind: page, end: empty_page, has_more: a}", "end is given beside has_more"),
        ("{kind: cursor, next: meta.next}", "{kind: page, size_param: n}", "size is needed with size_param"),
        ("  pagination: {kind: cursor, next: meta.next}\n", "", "api.pagination is missing"),
        ("  records:", "  headers: {Authorization: Bearer hunter2}\n  records:", "remedy|auth: {kind: bearer"),
        ("  records:", "  headers: {X-Api-Key: hunter2}\n  records:", "api.headers.X-Api-Key looks like a secret"),
        ("  records:", "  headers: {cookie: hunter2}\n  records:", "api.headers.cookie looks like a secret"),
        ("  records:", "  headers: {Host: x}\n  records:", "set by the product itself"),
        ("  records:", "  headers: {'a b': x}\n  records:", "is no name of a header"),
        ("  records:", "  headers: {A: \"x\\ny\"}\n  records:", "must be printable ASCII"),
        ("  records:", "  params: {api_key: hunter2}\n  records:", "write auth: {kind: api_key, param: api_key"),
        ("  records:", "  params: {access_token: hunter2}\n  records:", "looks like a secret"),
        ("  records:", "  params: {cursor: x}\n  records:", "pagination sets the parameter cursor, which params sets too"),
        ("  records:", "  total: a\n  total_header: b\n  records:", "total_header is given beside total"),
        ("  records:", "  format: jsonl\n  records:", "api.records is given, but in JSON lines"),
        ("  records: data.entries", "  format: jsonl", "api.pagination.next is given, but in JSON lines"),
        ("  records:", "  format: csv\n  records:", "format is 'csv': allowed is 'json' or 'jsonl'"),
        ("  records:", "  max_attempts: 0\n  records:", "outside the allowed range of 1 to 20"),
        ("  records:", "  verify: false\n  records:", "api.verify is an unknown key"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence(load: Load, old: str, new: str, sentence: str) -> None:
    with pytest.raises(SourceDefinitionError, match=sentence) as failed:
        load(changed(old, new))
    assert "hunter2" not in str(failed.value)


@pytest.mark.parametrize(
    ("windows", "sentence"),
    [
        ("start: 2024-02-01, end: 2024-01-01, days: 1", "end is '2024-01-01', which must be after start"),
        ("start: 1.2.2024, end: today, days: 1", "start is '1.2.2024', which is no day: allowed is such as"),
        ("start: 2024-02-30, end: today, days: 1", "start"),
        ("start: 2024-02-01, end: tomorrow, days: 1", "end is 'tomorrow', which is no day"),
        ("start: 2024-02-01, end: today, days: 0", "outside the allowed range"),
        ("start: 2024-02-01, end: today, days: 1, format: '%H'", "does not tell one day from another"),
        (
            "start: 2024-02-01, end: today, days: 1, format: iso",
            "does not tell one day from another: allowed are date",
        ),
        (
            "start: 2024-02-01, end: today, days: 1, format: iso8601, to_inclusive: true",
            "no moment is the last one",
        ),
        (
            "start: 2024-02-01, end: today, days: 1, format: '%Y%m%d%H', to_inclusive: true",
            "no moment is the last one",
        ),
        ("start: 2024-02-01, end: today, days: 1, timezone: Berlin", "is not a time zone"),
        ("start: 2024-02-01, end: today, days: 1, from: cursor", "windows sets the parameter cursor"),
        ("start: 2024-02-01, end: today, days: 1, from: to", "to is 'to', which must differ from from"),
    ],
)
def test_windows_that_cannot_be_meant(load: Load, windows: str, sentence: str) -> None:
    with pytest.raises(SourceDefinitionError, match=sentence):
        load(GOOD + f"  windows: {{{windows}}}\n")


@pytest.mark.parametrize(
    "address", ["http://localhost:8080", "http://127.0.0.1", "http://[::1]:80", "https://x"]
)
def test_loopback_needs_no_encryption(load: Load, address: str) -> None:
    load(changed("https://api.example.org/v1", address))


def test_plain_http_is_allowed_where_it_is_said_or_no_credentials_travel(load: Load) -> None:
    load(changed("https://api.example.org/v1", "http://x\n  allow_http: true"))
    load(
        changed("https://api.example.org/v1", "http://x").replace(
            "  auth: {kind: bearer, token_env: BANK_TOKEN}\n", ""
        )
    )
    oauth = "{kind: oauth2, token_url: http://x/token, client_id_env: A, client_secret_env: B}"
    with pytest.raises(
        SourceDefinitionError, match="auth.token_url is 'http://x/token', which would send credentials"
    ):
        load(changed("{kind: bearer, token_env: BANK_TOKEN}", oauth))


def test_harmless_names_are_no_secrets(load: Load) -> None:
    load(
        GOOD
        + "  headers: {X-Request-Source: a, Accept-Language: de}\n  params: {page_token: a, key: b, sort: c}\n"
    )


def test_the_mapping_knows_what_is_asked_and_not_how(load: Load) -> None:
    before = mapping_parts(load(GOOD))
    how = "  max_attempts: 3\n  requests_per_second: 2\n  total: meta.total\n  key: id\n"
    assert (
        mapping_parts(load(GOOD.replace("BANK_TOKEN", "OTHER").replace("api.example", "b.example") + how))
        == before
    )
    for what in ("  params: {a: b}\n", "  windows: {start: 2024-01-01, end: today, days: 1}\n"):
        assert mapping_parts(load(GOOD + what))["api"] != before["api"]


def test_a_section_needs_its_type_and_the_type_its_section(load: Load, tmp_path: Path) -> None:
    with pytest.raises(SourceDefinitionError, match="api is needed with type api"):
        load("")
    (tmp_path / "csv.yaml").write_text(YAML + GOOD)
    with pytest.raises(SourceDefinitionError, match="api is given, but type is csv: remove it"):
        load_definition(tmp_path / "csv.yaml")
    with pytest.raises(SourceDefinitionError, match="file is given, but type is api: remove it"):
        load(GOOD + "file: x.csv\n")


def test_editors_know_every_kind_and_no_other(load: Load) -> None:
    schema = source_schema()

    def offences(api: str) -> list[str]:
        return offends(yaml.safe_load(FIELDS + api), schema, schema)

    assert offences(GOOD) == []
    for kind in (
        "{kind: page, end: total}",
        "{kind: offset, size_param: limit, size: 5}",
        "{kind: link}",
        "{kind: none}",
    ):
        assert offences(changed("{kind: cursor, next: meta.next}", kind)) == []
    assert offences(changed("{kind: cursor, next: meta.next}", "{kind: pages}")) != []
    assert offences(changed("token_env", "token")) != []
    assert offences(GOOD + "  windows: {start: '2024-01-01', end: today, days: 7, from: since}\n") == []
    assert all("description" in one for one in schema["$defs"]["ApiSource"]["properties"].values())
