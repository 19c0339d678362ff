"""The made-up export: the same on every machine, spoilt as stated, and never able to drive an account below zero."""

import csv
import hashlib
import itertools
import json
import subprocess
import sys
from collections import Counter, defaultdict
from dataclasses import asdict
from decimal import ROUND_HALF_EVEN, Decimal
from pathlib import Path
from uuid import UUID

import pytest

from backfill_pipeline.errors import UsageError
from backfill_pipeline.local.dirt import DIRTY_KINDS
from backfill_pipeline.local.generate import ACCOUNTS_MIN, GeneratedExport, References, generate
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


@pytest.mark.parametrize(
    ("skew", "references", "digest"),
    [
        (0.5, "sequential", "4fe0a6028983a474"),
        (0.0, "uuid", "24e31f6f6e01f14e"),
        (0.1, "uuid", "35407c4e9c06a262"),
    ],
)
def test_skewed_and_random_exports_depend_on_the_arguments_alone(
    tmp_path: Path, skew: float, references: References, digest: str
) -> None:
    export = generate(120_000, 300, 42, 0.01, tmp_path, skew=skew, references=references)
    assert hashlib.sha256(export.entries_file.read_bytes()).hexdigest()[:16] == digest


def test_random_references_are_uuids_and_nothing_else_changes(tmp_path: Path) -> None:
    counted = generate(2000, 40, 5, 0, tmp_path / "counted")
    drawn = generate(2000, 40, 5, 0, tmp_path / "drawn", references="uuid")
    references = [row["booking_id"] for row in _rows(drawn.entries_file)]
    assert len(set(references)) == 2000
    assert all(UUID(reference).version == 4 and str(UUID(reference)) == reference for reference in references)
    without = [
        [row | {"booking_id": ""} for row in _rows(export.entries_file)] for export in (counted, drawn)
    ]
    assert without[0] == without[1]


def test_two_sources_of_one_seed_share_no_random_reference(tmp_path: Path) -> None:
    one, two = (
        {row["booking_id"] for row in _rows(made.entries_file)}
        for made in (generate(1000, 40, 5, 0, tmp_path / name, name=name, references="uuid") for name in "ab")
    )
    assert not one & two


@pytest.mark.parametrize(("skew", "low", "high"), [(0.05, 0.05, 0.06), (0.25, 0.245, 0.26), (0.5, 0.5, 0.5)])
def test_skew_is_the_share_of_all_legs_on_one_account_and_on_both_sides(
    tmp_path: Path, skew: float, low: float, high: float
) -> None:
    rows = _rows(generate(20_000, 1000, 5, 0, tmp_path, skew=skew).entries_file)
    legs = {side: Counter(row[side] for row in rows) for side in ("debit_account", "credit_account")}
    [(hot, count)] = (legs["debit_account"] + legs["credit_account"]).most_common(1)
    assert low <= count / (2 * len(rows)) <= high
    assert min(side[hot] for side in legs.values()) > 0.4 * count


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


@pytest.fixture(scope="module", params=[0.0, 0.4], ids=["even", "skewed"])
def clean(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> GeneratedExport:
    return generate(20_000, 40, 5, 0, tmp_path_factory.mktemp("clean"), skew=request.param)


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


@pytest.mark.parametrize("skew", [0.51, -0.1, float("nan")])
def test_more_than_half_of_all_legs_cannot_be_on_one_account(tmp_path: Path, skew: float) -> None:
    with pytest.raises(UsageError, match=r"^Cannot put .* one account.*\.$"):
        generate(10, 20, 1, 0, tmp_path / "none", skew=skew)
    assert not (tmp_path / "none").exists()


@pytest.mark.slow
def test_five_million_entries_in_well_under_a_minute_and_in_flat_memory(tmp_path: Path) -> None:
    code = (
        "import sys, resource; from pathlib import Path; from backfill_pipeline.local.generate import generate;"
        "generate(int(sys.argv[1]), 10_000, 1, 0.0, Path(sys.argv[2]), skew=0.5, references='uuid');"
        "used = resource.getrusage(resource.RUSAGE_SELF); print(used.ru_utime + used.ru_stime, used.ru_maxrss)"
    )
    cpu_s, peak_kib = [], []
    for entries in (1_000_000, 5_000_000):
        printed = subprocess.run(
            [sys.executable, "-c", code, str(entries), str(tmp_path)],
            capture_output=True,
            text=True,
            check=True,
            cwd=CHECKOUT,
        ).stdout.split()
        cpu_s.append(float(printed[0]))
        peak_kib.append(float(printed[1]))
    assert cpu_s[1] < 30
    assert peak_kib[1] < 1.1 * peak_kib[0]
