"""The section `scb`: a bank's definition, its days, and one sentence for everything that cannot be meant."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
import yaml

from backfill_pipeline.definition.catalogue import find_sources, resolve_source
from backfill_pipeline.definition.json_schema import source_schema
from backfill_pipeline.definition.load import load_definition, mapping_parts
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.definition.problems import check_file
from backfill_pipeline.definition.scb import CONTROL_COLUMNS
from backfill_pipeline.definition.scb_days import (
    day_definition,
    day_window,
    days_between,
    last_ended_day,
    scb_of,
)
from backfill_pipeline.errors import SourceDefinitionError, UsageError
from backfill_pipeline_tests.definition.json_schema import offends

GOOD = """\
id: scb_01
type: scb
scb:
  base_url: https://scb.example.org/v1
  bank_id: SCB-01
  auth: {kind: bearer, token_env: SCB_TOKEN}
  timezone: Europe/Paris
  start: 2024-03-01
fields:
  ledger_id: {constant: SOVEREIGN}
  debit_account_id: debit_account
  credit_account_id: credit_account
  amount: amount
  currency_code: currency
  transaction_type: type
  reference_id: reference
  timestamp_utc: {column: booked_at}
"""
ACCOUNTS = """\
accounts:
  file: accounts.csv
  fields: {id: id, currency_code: currency, opening_balance: opening}
  opening: {ledger_id: SOVEREIGN, as_of: 2024-02-29T22:59:59Z}
"""

Load = Callable[[str], SourceDefinition]


@pytest.fixture
def load(tmp_path: Path) -> Load:
    def loaded(text: str) -> SourceDefinition:
        path = tmp_path / "scb_01.yaml"
        path.write_text(text)
        return load_definition(path)

    return loaded


def changed(old: str, new: str) -> str:
    assert old in GOOD, old
    return GOOD.replace(old, new)


# --- what is right ----------------------------------------------------------------------------------------------


def test_a_few_lines_are_enough_and_say_where_the_ledger_is(load: Load) -> None:
    definition = load(GOOD)
    assert definition.is_live
    assert (definition.place, definition.place_key) == ("https://scb.example.org/v1/ledgers/SCB-01", "scb")
    assert definition.dual_ledger_id == "SOVEREIGN"
    section = scb_of(definition)
    assert (section.nightly.enabled, section.nightly.cron, section.nightly.lookback_days) == (
        True,
        "0 3 * * *",
        3,
    )
    assert section.send_entries
    assert section.digest


def test_a_bank_may_call_the_ledger_otherwise(load: Load) -> None:
    definition = load(changed("  bank_id: SCB-01\n", "  bank_id: SCB-01\n  ledger: main-1\n"))
    assert definition.place == "https://scb.example.org/v1/ledgers/main-1"


def test_the_address_may_come_from_the_environment(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    text = changed("https://scb.example.org/v1", "${SCB_ADDRESS}")
    with pytest.raises(SourceDefinitionError, match=r"scb\.base_url is .* variable SCB_ADDRESS is not set"):
        load(text)
    monkeypatch.setenv("SCB_ADDRESS", "https://b.example")
    assert load(text).place == "https://b.example/ledgers/SCB-01"
    monkeypatch.setenv("SCB_ADDRESS", "https://user:hunter2@b.example")
    with pytest.raises(SourceDefinitionError, match=r"scb\.base_url holds a user or a password") as failed:
        load(text)
    assert "hunter2" not in str(failed.value)


def test_what_control_totals_are_made_of_is_always_read(load: Load) -> None:
    assert set(CONTROL_COLUMNS) <= set(load(GOOD).columns_read())
    one_account = changed("debit_account_id: debit_account", "debit_account_id: {constant: NOSTRO}")
    assert set(CONTROL_COLUMNS) <= set(load(one_account).columns_read())


# --- what is wrong ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "key", "sentence"),
    [
        ("https://scb.example.org/v1", "ftp://x", "scb.base_url", "must begin with https:// or http:// and name a host"),
        ("https://scb.example.org/v1", "http://x", "scb.base_url", "would send credentials unencrypted: use https"),
        ("https://scb.example.org/v1", "https://x?a=1", "scb.base_url", "must end with its path"),
        ("  bank_id: SCB-01\n", "", "scb.bank_id", "is missing"),
        ("bank_id: SCB-01", "bank_id: ''", "scb.bank_id", "must be 1 to 63 letters, digits"),
        ("bank_id: SCB-01", "bank_id: a b", "scb.bank_id", "must be 1 to 63 letters, digits"),
        ("bank_id: SCB-01", "bank_id: LOCAL", "scb.bank_id", "neither LOCAL nor OPENING, which name entries of our own"),
        ("bank_id: SCB-01", "bank_id: OPENING", "scb.bank_id", "neither LOCAL nor OPENING"),
        ("bank_id: SCB-01", "bank_id: A\n  ledger: a/b", "scb.ledger", "must not hold spaces, slashes"),
        ("bank_id: SCB-01", "bank_id: A\n  ledger: ''", "scb.ledger", "must not be empty"),
        ("  auth: {kind: bearer, token_env: SCB_TOKEN}\n", "", "scb.auth", "is missing"),
        ("token_env: SCB_TOKEN", "token_env: hunter2-x", "scb.auth.token_env", "must be the name of an environment variable"),
        ("token_env: SCB_TOKEN", "token: hunter2", "scb.auth.token", "is an unknown key: did you mean token_env?"),
        ("{kind: bearer, token_env: SCB_TOKEN}", "{kind: magic}", "scb.auth.kind", "allowed are bearer, api_key"),
        ("{kind: bearer, token_env: SCB_TOKEN}",
         "{kind: oauth2, token_url: http://x/t, client_id_env: A, client_secret_env: B}",
         "scb.auth.token_url", "would send credentials unencrypted"),
        ("  timezone: Europe/Paris\n", "", "scb.timezone", "is missing"),
        ("Europe/Paris", "Paris", "scb.timezone", "is not a time zone: allowed are IANA names"),
        ("  start: 2024-03-01\n", "", "scb.start", "is missing"),
        ("2024-03-01", "1.3.2024", "scb.start", "is no day: allowed is such as 2024-01-31"),
        ("2024-03-01", "2024-02-30", "scb.start", "is no day"),
        ("2024-03-01", "2024-03-01\n  nightly: {cron: 0 3 * *}", "scb.nightly.cron", "0 3 * *"),
        ("2024-03-01", "2024-03-01\n  nightly: {cron: 0 25 * * *}", "scb.nightly.cron", "0 25 * * *"),
        ("2024-03-01", "2024-03-01\n  nightly: {cron: '@daily'}", "scb.nightly.cron", "@daily"),
        ("2024-03-01", "2024-03-01\n  nightly: {timezone: X}", "scb.nightly.timezone", "is not a time zone"),
        ("2024-03-01", "2024-03-01\n  nightly: {lookback_days: 367}", "scb.nightly.lookback_days", "range of 0 to 366"),
        ("2024-03-01", "2024-03-01\n  nightly: {lookback: 3}", "scb.nightly.lookback", "did you mean lookback_days?"),
        ("2024-03-01", "2024-03-01\n  nightly: {enabled: maybe}", "scb.nightly.enabled", "boolean"),
        ("2024-03-01", "2024-03-01\n  nightly: daily", "scb.nightly", "must be a mapping"),
        ("2024-03-01", "2024-03-01\n  fetch_workers: 17", "scb.fetch_workers", "range of 1 to 16"),
        ("2024-03-01", "2024-03-01\n  batch_size: 0", "scb.batch_size", "range of 1 to 10000"),
        ("2024-03-01", "2024-03-01\n  page_size: 0", "scb.page_size", "range of 1 to 1000000"),
        ("2024-03-01", "2024-03-01\n  send_attempts: 0", "scb.send_attempts", "range of 1 to 1000"),
        ("2024-03-01", "2024-03-01\n  headers: {Authorization: Bearer hunter2}", "scb.headers.Authorization", "looks like a secret"),
        ("2024-03-01", "2024-03-01\n  send_entry: no", "scb.send_entry", "did you mean send_entries?"),
        ("{constant: SOVEREIGN}", "ledger", "fields.ledger_id", "must be a constant with type scb"),
        ("reference_id: reference", "reference_id: {generate: true}", "fields.reference_id", "must be the column reference"),
        ("reference_id: reference", "reference_id: {column: reference, case: upper}", "fields.reference_id", "must be the column reference, as it is"),
        ("fields:", "columns: {reference: {template: '{type}-1'}}\nfields:", "fields.reference_id", "must be the column reference, as it is"),
        ("fields:", "rules:\n- {when: {type: FEE}, set: {reference_id: narrative}}\nfields:", "rules.0.set.reference_id", "must not be set by a rule with type scb"),
        ("fields:", "rules:\n- {when: {type: FEE}, set: {ledger_id: {constant: X}}}\nfields:", "rules.0.set.ledger_id", "must not be set by a rule with type scb"),
        ("fields:", "stated_balances: {balance: b, account: {constant: X}}\nfields:", "stated_balances", "cannot go together with type scb"),
        ("fields:", "file: a.csv\nfields:", "file", "is given, but type is scb: remove it"),
        ("fields:", "api: {base_url: 'https://x', pagination: {kind: none}}\nfields:", "api", "is given, but type is scb: remove it"),
        ("fields:", ACCOUNTS.replace("SOVEREIGN", "OTHER") + "fields:", "accounts.opening.ledger_id", "must be SOVEREIGN with type scb"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_one_sentence_with_file_key_and_line(
    load: Load, tmp_path: Path, old: str, new: str, key: str, sentence: str
) -> None:
    text = changed(old, new)
    with pytest.raises(SourceDefinitionError) as failed:
        load(text)
    told = str(failed.value)
    assert told.startswith(f"{tmp_path / 'scb_01.yaml'}: ")
    assert sentence in told
    assert "hunter2" not in told
    assert "\n" not in told
    # sources check: the same, with the line of the key or of the nearest one around it.
    (first, *_) = check_file(tmp_path / "scb_01.yaml").problems
    assert (first.key, sentence in first.text) == (key, True)
    assert first.line is not None
    line = text.splitlines()[first.line - 1]
    parts = [part for part in key.split(".") if not part.isdigit()]
    assert any(part in line for part in parts), line


def test_the_section_needs_its_type_and_the_type_its_section(load: Load) -> None:
    with pytest.raises(SourceDefinitionError, match="scb is needed with type scb"):
        load(GOOD[: GOOD.index("scb:\n", 20)] + GOOD[GOOD.index("fields:") :])
    with pytest.raises(SourceDefinitionError, match="scb is given, but type is csv: remove it"):
        load(changed("type: scb", "type: csv\nfile: a.csv"))


def test_everything_that_is_wrong_is_told_at_once(load: Load, tmp_path: Path) -> None:
    text = GOOD.replace("Europe/Paris", "Paris").replace("bank_id: SCB-01", "bank_id: a b")
    (tmp_path / "scb_01.yaml").write_text(text.replace("2024-03-01", "soon"))
    found = check_file(tmp_path / "scb_01.yaml").problems
    assert {one.key for one in found} >= {"scb.timezone", "scb.start"}


# --- the mapping ------------------------------------------------------------------------------------------------


def test_how_a_bank_is_asked_may_change_and_who_it_is_may_not(load: Load) -> None:
    before = mapping_parts(load(GOOD))
    how = (
        "  page_size: 10\n  fetch_workers: 1\n  digest: false\n  nightly: {enabled: false}\n  backoff_s: 0\n"
    )
    other_way = GOOD.replace("scb.example.org", "b.example").replace("SCB_TOKEN", "OTHER_TOKEN")
    assert (
        mapping_parts(load(other_way.replace("  start: 2024-03-01\n", how + "  start: 2023-01-01\n")))
        == before
    )
    for old, new in (("SCB-01", "SCB-02"), ("Europe/Paris", "Europe/London")):
        assert mapping_parts(load(changed(old, new)))["scb"] != before["scb"]


def test_days_of_one_bank_differ_in_their_id_alone(load: Load) -> None:
    definition = load(GOOD + ACCOUNTS)
    first, second = (mapping_parts(day_definition(definition, date(2024, 3, day))) for day in (1, 2))
    assert {key for key in first if first[key] != second[key]} == {"id"}


# --- days -------------------------------------------------------------------------------------------------------


def test_a_day_is_a_source_with_its_own_window_and_without_accounts(load: Load) -> None:
    day = day_definition(load(GOOD + ACCOUNTS), date(2024, 3, 31))
    assert (day.id, day.accounts) == ("scb_01@2024-03-31", None)
    assert day.api is not None
    assert day.api.windows is not None
    assert day.place == "https://scb.example.org/v1/ledgers/SCB-01/entries"
    assert (day.api.windows.start, day.api.windows.end) == (date(2024, 3, 31), date(2024, 4, 1))


@pytest.mark.parametrize(
    ("zone", "first", "last", "hours"),
    [
        ("Europe/Paris", date(2024, 3, 29), date(2024, 4, 2), {date(2024, 3, 31): 23}),
        ("Europe/Paris", date(2024, 10, 25), date(2024, 10, 29), {date(2024, 10, 27): 25}),
        ("America/Santiago", date(2024, 9, 6), date(2024, 9, 10), {date(2024, 9, 8): 23}),  # at midnight
        ("Australia/Lord_Howe", date(2024, 4, 5), date(2024, 4, 9), {date(2024, 4, 7): 24.5}),
        ("Pacific/Apia", date(2011, 12, 28), date(2012, 1, 1), {date(2011, 12, 30): 0}),  # never was
        ("Asia/Kolkata", date(2024, 3, 29), date(2024, 4, 2), {}),
    ],
)
def test_days_have_neither_gap_nor_overlap(
    load: Load, zone: str, first: date, last: date, hours: dict[date, float]
) -> None:
    section = scb_of(load(changed("Europe/Paris", zone)))
    windows = {day: day_window(section, day) for day in days_between(first, last)}
    ends = [window[1] for window in windows.values()]
    assert [window[0] for window in windows.values()][1:] == ends[:-1]
    for day, (begin, end) in windows.items():
        assert end - begin == timedelta(hours=hours.get(day, 24)), day


def test_the_last_day_is_the_one_that_ended_in_the_banks_own_time_zone(load: Load) -> None:
    now = datetime(2024, 3, 31, 23, 30, tzinfo=UTC)
    assert last_ended_day(scb_of(load(GOOD)), now) == date(2024, 3, 31)
    far = scb_of(load(changed("Europe/Paris", "America/New_York")))
    assert last_ended_day(far, now) == date(2024, 3, 30)


# --- by name ----------------------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "sources").mkdir()
    (tmp_path / "sources" / "scb_01.yaml").write_text(GOOD)
    (tmp_path / "sources" / "plain.yaml").write_text(
        GOOD[: GOOD.index("scb:\n", 20)].replace("scb_01", "plain").replace("scb", "csv")
        + "file: a.csv\n"
        + GOOD[GOOD.index("fields:") :]
    )
    return tmp_path / "sources", tmp_path / "registered"


def test_a_day_is_named_by_id_or_by_path(folders: tuple[Path, Path]) -> None:
    by_id = resolve_source("scb_01@2024-03-05", *folders)
    assert by_id.id == "scb_01@2024-03-05"
    by_path = resolve_source(f"{folders[0]}/scb_01.yaml@2024-03-05", *folders)
    assert (by_path.id, by_path.path) == (by_id.id, by_id.path)
    assert resolve_source("scb_01", *folders).api is None


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("scb_01@2024-02-30", "scb_01@2024-02-30: 2024-02-30 is no day of the calendar: write it as 2024-03-01"),
        ("scb_01@2024-3-1", "2024-3-1 is no day of the calendar"),
        ("scb_01@2024-02-29", "scb_01 begins on 2024-03-01 (scb.start), and 2024-02-29 is before that"),
        ("plain@2024-03-05", "plain is of type csv, and only type scb has days: name it without @2024-03-05"),
        ("none@2024-03-05", "there is no source none in"),
        ("scb_01@yesterday", "there is no source scb_01@yesterday in"),
    ],
)  # fmt: skip
def test_a_day_that_is_none_is_refused_in_one_sentence(
    folders: tuple[Path, Path], name: str, sentence: str
) -> None:
    with pytest.raises(UsageError) as failed:
        resolve_source(name, *folders)
    assert sentence in str(failed.value)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"SOVEREIGN": "OTHER"}, "scb.bank_id is 'SCB-01', which"),
        ({"SCB-01": "SCB-02"}, "fields.ledger_id is 'SOVEREIGN', which"),
    ],
)
def test_a_bank_and_a_ledger_are_kept_with_each_other_alone(
    folders: tuple[Path, Path], tmp_path: Path, changes: dict[str, str], sentence: str
) -> None:
    text = GOOD.replace("id: scb_01", "id: scb_02")
    for old, new in changes.items():
        text = text.replace(old, new)
    elsewhere = tmp_path / "scb_02.yaml"
    elsewhere.write_text(text)
    with pytest.raises(SourceDefinitionError) as failed:
        resolve_source(os.fspath(elsewhere), *folders)
    assert sentence in str(failed.value)
    assert not folders[1].exists()
    (folders[0] / "zzz.yaml").write_text(text)
    found = find_sources(*folders)
    assert isinstance(found["scb_01"], SourceDefinition)
    assert sentence in str(found["scb_02"])


# --- editors ----------------------------------------------------------------------------------------------------


def test_editors_know_every_key_and_no_other() -> None:
    schema = source_schema()

    def offences(text: str) -> list[str]:
        return offends(yaml.safe_load(text.replace("2024-03-01", "'2024-03-01'")), schema, schema)

    assert offences(GOOD) == []
    nightly = "  nightly: {enabled: true, cron: 0 3 * * *, timezone: UTC, lookback_days: 5}\n"
    more = "  ledger: main\n  send_entries: false\n  digest: false\n  fetch_workers: 2\n  batch_size: 10\n"
    assert offences(GOOD.replace("fields:", f"{nightly}{more}fields:")) == []
    assert offences(GOOD.replace("token_env", "token")) != []
    assert offences(GOOD.replace("  timezone", "  time_zone")) != []
    assert offences(GOOD.replace("fields:", "  nightly: {lookback: 5}\nfields:")) != []
    for name in ("ScbSection", "NightlySync"):
        assert all("description" in one for one in schema["$defs"][name]["properties"].values()), name
