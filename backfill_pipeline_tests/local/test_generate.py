"""The made-up export: the same on every machine, spoilt as stated, and never able to drive an account below zero."""

import csv
import hashlib
import itertools
import json
from collections import Counter, defaultdict
from dataclasses import asdict
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path

import pytest

from backfill_pipeline.errors import UsageError
from backfill_pipeline.local.dirt import DIRTY_KINDS
from backfill_pipeline.local.generate import ACCOUNTS_MIN, GeneratedExport, generate
from backfill_pipeline.money import minor_units
from backfill_pipeline.schemas.rejects import RejectCode

CHECKOUT = Path(__file__).resolve().parents[2]


def _rows(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_bundled_sample_is_what_the_generator_writes(tmp_path: Path) -> None:
    made = generate(
        5000, 200, 1, 0.006, tmp_path / "data" / "sample",
        name="sample", sources_dir=tmp_path / "data" / "sources", partition_rows=1000,
    )  # fmt: skip
    for file in (made.entries_file, made.accounts_file, made.expected_file, made.definition_file):
        assert file.read_bytes() == (CHECKOUT / file.relative_to(tmp_path)).read_bytes(), file.name


def test_bundled_sample_has_every_kind_of_dirt_and_stays_below_its_limit_in_every_partition() -> None:
    expected = json.loads((CHECKOUT / "data" / "sample" / "expected.json").read_text(encoding="utf-8"))
    assert set(expected["by_kind"]) == set(DIRTY_KINDS)
    # One spoilt row in each stretch of 166: a partition of 1000 rows has 7 at most, below its limit of 10.
    assert sum(expected["by_kind"].values()) == 30


def test_bytes_depend_on_the_arguments_alone(tmp_path: Path) -> None:
    export = generate(120_000, 300, 42, 0.01, tmp_path)
    digests = [
        hashlib.sha256(f.read_bytes()).hexdigest()[:16] for f in (export.entries_file, export.accounts_file)
    ]
    assert digests == ["5a324ac918526cbd", "38e77ade410fbe13"]


def test_another_seed_is_another_export(tmp_path: Path) -> None:
    one, two = (generate(100, 20, seed, 0, tmp_path / str(seed)) for seed in (1, 2))
    assert one.entries_file.read_bytes() != two.entries_file.read_bytes()


def test_expected_counts_add_up_and_codes_are_the_product_s(tmp_path: Path) -> None:
    expected = generate(10_000, 50, 3, 0.1, tmp_path).expected
    assert (
        expected.entries
        == expected.posted + expected.duplicates + expected.conflicts + expected.rejected
        == 10_000
    )
    assert expected.rejected == sum(expected.rejected_by_code.values())
    assert set(expected.by_kind) == set(DIRTY_KINDS)
    assert set(expected.rejected_by_code) <= {code.value for code in RejectCode}
    assert 990 <= sum(expected.by_kind.values()) <= 1000
    assert json.loads((tmp_path / "expected.json").read_text(encoding="utf-8")) == asdict(expected)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> GeneratedExport:
    return generate(20_000, 40, 5, 0, tmp_path_factory.mktemp("clean"))


def test_clean_rows_are_what_the_ledger_asks_for(clean: GeneratedExport) -> None:
    account_currency = {row["account_id"]: row["currency"] for row in _rows(clean.accounts_file)}
    rows = _rows(clean.entries_file)
    assert len({row["booking_id"] for row in rows}) == len(rows) == 20_000
    for row in rows:
        places = len(row["amount"].partition(".")[2])
        assert places == minor_units(row["currency"])
        assert Decimal(row["amount"]) > 0
        own, other = account_currency[row["debit_account"]], account_currency[row["credit_account"]]
        assert row["debit_account"] != row["credit_account"]
        assert row["currency"] == own
        assert bool(row["fx_rate"]) == (own != other)
    currencies = {row["currency"] for row in rows}
    assert {minor_units(code) for code in currencies} == {0, 2, 3}
    assert sum(bool(row["fx_rate"]) for row in rows) > 300
    assert any("\n" in row["description"] for row in rows)


def test_no_account_ever_goes_below_zero_in_any_order(clean: GeneratedExport) -> None:
    accounts = {row["account_id"]: row for row in _rows(clean.accounts_file)}
    lowest = {account: Decimal(row["opening_balance"]) for account, row in accounts.items()}
    for row in _rows(clean.entries_file):
        amount = Decimal(row["amount"])
        for account, side in ((row["debit_account"], "debit"), (row["credit_account"], "credit")):
            if accounts[account]["normal_side"] == side:
                continue  # raises it: the worst order has all of these last
            moved = amount
            if accounts[account]["currency"] != row["currency"]:
                unit = Decimal(1).scaleb(-(minor_units(accounts[account]["currency"]) or 0))
                moved = (amount * Decimal(row["fx_rate"])).quantize(unit, ROUND_HALF_EVEN)
            lowest[account] -= moved
    assert min(lowest.values()) >= 0


def test_opening_balance_equity_never_goes_below_zero_on_the_way(clean: GeneratedExport) -> None:
    equity: dict[str, Decimal] = defaultdict(Decimal)
    for row in _rows(clean.accounts_file):
        opening = Decimal(row["opening_balance"])
        assert opening > 0
        equity[row["currency"]] += opening if row["normal_side"] == "debit" else -opening
        assert equity[row["currency"]] >= 0


def test_repeats_and_conflicts_follow_the_row_they_repeat(tmp_path: Path) -> None:
    export = generate(3000, 30, 9, 0.05, tmp_path)
    lines = export.entries_file.read_bytes().split(b"\nGENERATED9-BK")
    first: dict[bytes, int] = {}
    repeats = Counter[bool]()
    for number, line in enumerate(lines):
        if (seen := first.setdefault(line[:10], number)) != number:
            repeats[lines[seen].strip() == line.strip()] += 1
    assert repeats == {True: export.expected.duplicates, False: export.expected.conflicts}


def test_accounts_cover_both_sides_of_every_currency_however_few(tmp_path: Path) -> None:
    rows = _rows(generate(1, ACCOUNTS_MIN, 0, 0, tmp_path).accounts_file)
    sides = itertools.product({row["currency"] for row in rows}, ("debit", "credit"))
    assert {(row["currency"], row["normal_side"]) for row in rows} == set(sides)


@pytest.mark.parametrize(
    ("entries", "accounts", "seed", "dirty_rate"),
    [
        (0, 20, 1, 0.0),
        (10, ACCOUNTS_MIN - 1, 1, 0.0),
        (10, 20, -1, 0.0),
        (10, 20, 1, 0.51),
        (10, 20, 1, -0.1),
    ],
)
def test_senseless_arguments_are_refused_in_a_sentence(
    tmp_path: Path, entries: int, accounts: int, seed: int, dirty_rate: float
) -> None:
    with pytest.raises(UsageError, match=r"^Cannot .*\.$"):
        generate(entries, accounts, seed, dirty_rate, tmp_path / "none")
    assert not (tmp_path / "none").exists()
