"""Stated balances: what a source says its accounts held after each row, against the ledger; and where a drift begins."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Mapping, Sequence
from decimal import Decimal
from pathlib import Path

import psycopg
import pytest
import yaml

from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.errors import SourceDefinitionError
from backfill_pipeline.stages.stated import StatedReport, stated_details
from backfill_pipeline.stages.work import open_work
from backfill_pipeline_tests.stages.repair import fix
from backfill_pipeline_tests.stages.test_set_wise import assert_set_wise, lines_executed
from backfill_pipeline_tests.stages.world import CHECKOUT, HEADER, World, entry

STATED = {"balance": "balance", "account": {"constant": "A"}}
COLUMNS = (*HEADER, "balance")


def statement(
    count: int, *, opening: int = 0, changes: dict[int, dict[str, object]] | None = None, first: int = 1
) -> list[list[object]]:
    """Rows on account A: money in, with the balance after each; `changes` replaces cells of rows by number."""
    rows, balance = [], Decimal(opening)
    for number in range(first, first + count):
        row = entry(number)
        balance += Decimal(str(row[HEADER.index("amount")]))
        other = (changes or {}).get(number, {})
        cells = {**dict(zip(HEADER, row, strict=True)), "balance": str(balance), **other}
        rows.append([cells[name] for name in COLUMNS])
    return rows


def posted(
    world: World,
    rows: Sequence[Sequence[object]],
    *,
    accounts: Mapping[str, object] | Sequence[str] = ("A", "B", "C"),
    **settings: object,
) -> Path:
    settings = {"stated_balances": STATED, "max_error_rate": "0.5", **settings}
    path = world.write("s", rows, accounts=accounts, header=COLUMNS, **settings)
    world.post(path)
    return path


def report_of(world: World, path: Path) -> StatedReport:
    found = world.reconcile(path)
    assert found.matches
    assert found.stated is not None
    return found.stated


def told(report: StatedReport) -> list[tuple[int, str, str]]:
    return [(step.line, str(step.difference), step.why) for step in report.steps]


def test_balances_that_agree__over_partitions_and_with_an_opening_balance(world: World) -> None:
    path = posted(world, statement(25, opening=100), accounts={"A": 100, "B": 9000})
    report = report_of(world, path)
    assert (report.compared, report.differing, report.accounts) == (25, 0, 1)
    assert (report.smallest, report.largest, report.last, report.steps) == (None, None, Decimal(0), [])
    assert report.agrees
    assert report.sentence == "25 compared, all agree"


def test_a_wrong_opening_balance_is_one_drift_from_the_first_row_on(world: World) -> None:
    report = report_of(world, posted(world, statement(25, opening=107), accounts={"A": 100, "B": 9000}))
    assert report.differing == 25
    assert {report.smallest, report.largest, report.last} == {Decimal(7)}
    assert told(report) == [(2, "7.00", "from the first row on: look at the opening balance")]
    assert report.sentence.startswith("25 compared, 25 differ, from line 2 on: from the first row on")
    assert not report.agrees


def test_a_rejected_row_is_where_the_drift_begins(world: World) -> None:
    changes: dict[int, dict[str, object]] = {12: {"amount": "13,00"}, 20: {"credit": "NOBODY"}}
    report = report_of(world, posted(world, statement(25, changes=changes)))
    assert (report.compared, report.differing, report.last) == (25, 14, Decimal(34))
    assert told(report) == [
        (13, "13.00", "this row was rejected (amount_malformed)"),
        (21, "34.00", "this row was rejected (unknown_account)"),
    ]


def test_a_record_that_cannot_be_read_is_named_at_the_next_row(world: World) -> None:
    rows = statement(25)
    rows[16] = rows[16][:5]  # line 18
    report = report_of(world, posted(world, rows))
    assert (report.compared, report.differing) == (24, 8)
    assert told(report) == [(19, "18.00", "line 18 was rejected (wrong_field_count)")]


def test_a_truncated_last_line_drifts_nothing_because_it_states_nothing(world: World) -> None:
    path = world.write("s", statement(9), header=COLUMNS, stated_balances=STATED, max_error_rate="0.5")
    export = path.with_suffix(".csv")
    export.write_text(export.read_text()[:-20])
    world.post(path)
    report = report_of(world, path)
    assert (report.compared, report.differing) == (8, 0)


def test_filtered_rows_and_repeated_entries_are_told_too(world: World) -> None:
    changes: dict[int, dict[str, object]] = {4: {"note": "pending"}}
    rows = statement(8, changes=changes)
    again = [
        *entry(7),
        str(Decimal(str(rows[-1][-1])) + 8),
    ]  # entry 7 once more: a duplicate, which moves nothing
    after = entry(9)
    rows += [again, [*after, str(Decimal(str(again[-1])) + 10)]]
    rules = [{"when": {"note": "pending"}, "filter": "not booked"}]
    report = report_of(world, posted(world, rows, rules=rules))
    assert told(report) == [
        (5, "5.00", "this row was filtered (not booked)"),
        (10, "13.00", "this row repeats an entry that counts already"),
    ]


def test_a_wrong_balance_of_one_row_begins_and_ends(world: World) -> None:
    report = report_of(world, posted(world, statement(25, changes={12: {"balance": "0.01"}})))
    why = "every row since the one before is posted: look at the amount and the accounts of this one"
    assert (report.differing, report.last, report.accounts_differing) == (1, Decimal(0), 0)
    assert [(line, why) for line, _, why in told(report)] == [(13, why), (14, "agrees again")]


def test_newest_first(world: World) -> None:
    rows = statement(25, opening=100, changes={12: {"amount": "x"}})[::-1]
    stated = {**STATED, "order": "descending"}
    report = report_of(world, posted(world, rows, accounts={"A": 100, "B": 9000}, stated_balances=stated))
    assert (report.compared, report.differing, report.last) == (25, 14, Decimal(13))
    assert told(report) == [(15, "13.00", "this row was rejected (amount_malformed)")]


def test_files_follow_one_another_whatever_the_order_of_their_rows(world: World) -> None:
    rows = statement(36, changes={20: {"amount": "x"}})
    path = world.write(
        "s", [], header=COLUMNS, file=None, files="month-*.csv", max_error_rate="0.5",
        stated_balances={**STATED, "order": "descending"}, partition_rows="7",
    )  # fmt: skip
    for month in range(3):
        world.write_rows(f"month-{month}", rows[12 * month : 12 * month + 12][::-1], header=COLUMNS)
    world.post(path)
    report = report_of(world, path)
    assert (report.compared, report.differing) == (36, 17)
    assert told(report) == [(6, "21.00", "this row was rejected (amount_malformed)")]
    assert report.sentence.endswith(
        "17 differ, from line 6 of month-1.csv on: this row was rejected (amount_malformed)"
    )


def test_a_line_of_another_file_is_told_with_its_file(world: World) -> None:
    rows = statement(24, changes={12: {"amount": "x", "balance": ""}})
    path = world.write(
        "s", [], header=COLUMNS, file=None, files="month-*.csv", max_error_rate="0.5", stated_balances=STATED
    )
    for month in range(2):
        world.write_rows(f"month-{month}", rows[12 * month : 12 * month + 12], header=COLUMNS)
    world.post(path)
    (step,) = report_of(world, path).steps
    assert step.place == "2 of month-1.csv"
    assert step.why == "line 13 of month-0.csv was rejected (amount_malformed)"


def test_the_side_says_which_sign_a_statement_has(world: World) -> None:
    """B is debit-normal and credited by every row: below zero for the ledger, above it for the statement."""
    rows = statement(12, opening=5, changes={6: {"amount": "x"}})
    side = {"balance": "balance", "account": {"constant": "B"}, "side": "credit"}
    report = report_of(world, posted(world, rows, accounts={"A": 9000, "B": -5}, stated_balances=side))
    assert (report.differing, report.last) == (7, Decimal(-7))  # on the account's own side
    (step,) = report.steps
    assert (step.stated, step.ledger, step.difference) == (Decimal(32), Decimal(25), Decimal(7))


def test_a_credit_normal_account_states_what_it_owes(world: World) -> None:
    path = world.write("s", statement(12), header=COLUMNS, stated_balances={**STATED, "account": "credit"})
    accounts = path.with_name("s_accounts.csv")
    accounts.write_text("id,opening,side\nA,0,debit\nB,0,credit\n")
    definition = yaml.safe_load(path.read_text())
    definition["accounts"]["fields"]["normal_side"] = "side"
    path.write_text(yaml.safe_dump(definition))
    world.post(path)
    assert report_of(world, path).agrees


def test_both_accounts_of_a_row_may_be_stated__and_written_in_any_way(world: World) -> None:
    rows = [[*row, f"-{row[-1]} EUR".replace(".", ",")] for row in statement(12)]
    stated = [
        STATED,
        {"balance": {"column": "other", "decimal_mark": ",", "symbols": "EUR"}, "account": "credit"},
    ]
    path = world.write("s", rows, header=(*COLUMNS, "other"), stated_balances=stated)
    world.post(path)
    report = report_of(world, path)
    assert (report.compared, report.accounts, report.agrees) == (24, 2, True)


def test_rows_without_a_balance__with_one_that_is_none__and_of_unknown_accounts(world: World) -> None:
    changes: dict[int, dict[str, object]] = {
        3: {"balance": ""},
        4: {"balance": "1e3"},
        5: {"note": ""},
        6: {"note": "X"},
    }
    rows = statement(9, changes={number: {"note": "A", **changes.get(number, {})} for number in range(1, 10)})
    report = report_of(world, posted(world, rows, stated_balances={**STATED, "account": "note"}))
    assert (report.compared, report.differing, report.unread, report.unknown) == (5, 0, 2, 1)
    assert report.unread_sample == [
        'line 5: stated balance "1e3" is not a plain decimal number',
        "line 6: account of the stated balance is missing: column note is empty",
    ]
    assert report.sentence == (
        "5 compared, all agree, 2 cannot be read, 1 are of accounts that the ledger does not have"
    )
    assert not report.agrees


def test_what_others_post_counts_from_its_time_on(world: World) -> None:
    """Entries of another source and a live posting, before, between and after the rows of the statement."""
    rows = statement(12)
    for row in rows[5:]:
        row[-1] = str(Decimal(str(row[-1])) + 1000)
    path = world.write("s", rows, header=COLUMNS, stated_balances=STATED)
    between = entry(900, amount="1000", time="2024-01-01T00:05:30Z")
    after = entry(901, amount="77", time="2024-01-01T00:12:01Z")
    world.post(world.write("other", [between, after]))
    world.post(path)
    assert report_of(world, path).agrees
    world.query(
        "SELECT post_ledger_entry('MASTER', 'A', 'B', 5, 'USD', 'fiat', 'LIVE', 'L-1', NULL, NULL, '2023-05-01T00:00:00Z')"
    )
    world.query(
        "SELECT post_ledger_entry('MASTER', 'A', 'B', 9, 'USD', 'fiat', 'LIVE', 'L-2', NULL, NULL, '2024-01-01T00:12:00Z')"
    )
    report = report_of(world, path)
    assert [(step.line, int(step.difference)) for step in report.steps] == [(2, -5), (13, -14)]
    assert report.steps[0].why == "from the first row on: look at the opening balance"


def test_movements_in_another_currency_count_as_they_moved_the_account(world: World) -> None:
    path = world.write(
        "s",
        [["F1", "E", "A", "10.00", "EUR", "2024-01-01T00:00:00Z", "1.085", "-10.85"]],
        header=("ref", "debit", "credit", "amount", "currency", "time", "rate", "balance"),
        stated_balances=STATED,
        metadata=[],
    )
    definition = yaml.safe_load(path.read_text())
    definition["fields"]["fx_rate"] = "rate"
    definition["accounts"]["fields"]["currency_code"] = "currency"
    path.write_text(yaml.safe_dump(definition))
    path.with_name("s_accounts.csv").write_text("id,opening,currency\nA,0,USD\nE,0,EUR\n")
    world.post(path)
    assert report_of(world, path).agrees


def test_the_report_is_the_same_when_everything_is_a_duplicate(world: World) -> None:
    rows = statement(25, opening=50, changes={12: {"amount": "x"}, 18: {"credit": "NOBODY"}})
    rows.append([*entry(3), "0"])
    accounts = {"A": 50, "B": 9000}
    path = posted(world, rows, accounts=accounts)
    first = report_of(world, path)
    assert len(first.steps) == 3
    world.post(path)  # the same revision
    assert same(report_of(world, path), first)
    definition = yaml.safe_load(path.read_text())
    definition["partition_rows"], definition["lookups"] = "9", {"unused": {"inline": {"a": "b"}}}
    path.write_text(yaml.safe_dump(definition))
    world.post(path, accept_changed=True)  # a new revision, in other partitions
    again = world.reconcile(path)
    assert (again.posted, again.duplicates) == (0, 24)
    assert again.stated is not None
    assert same(again.stated, first)


def same(report: StatedReport, other: StatedReport) -> bool:
    def timeless(one: StatedReport) -> dict[str, object]:
        return {key: value for key, value in stated_details(one).items() if key != "seconds"}

    assert timeless(report) == timeless(other)
    return True


def test_nothing_is_compared_before_every_partition_is_posted(world: World) -> None:
    path = world.write("s", statement(25), header=COLUMNS, stated_balances=STATED)
    world.run(path, keys=["0001", "0003"])
    report = report_of(world, path)
    assert (report.compared, report.open_partitions) == (0, 1)
    assert report.sentence == "not compared yet: 1 partition is not posted"
    assert not report.agrees
    world.post(path)
    assert report_of(world, path).agrees


def test_repaired_rows_state_what_they_were_repaired_to(world: World) -> None:
    rows = statement(25, changes={12: {"amount": "13,00"}, 14: {"amount": "x"}})
    good = rows[19]
    rows[19] = rows[19][:5]  # line 21, which states nothing as it is
    path = posted(world, rows)
    assert [line for line, *_ in told(report_of(world, path))] == [13, 15, 22]
    fix(world, path, {12: {"amount": "13.00"}})
    assert told(report_of(world, path)) == [
        (15, "15.00", "this row was rejected (amount_malformed)"),
        (22, "36.00", "line 21 was rejected (wrong_field_count)"),
    ]
    cells = dict(zip(COLUMNS, good, strict=True))
    fix(world, path, {14: {"amount": "15.00"}, 20: {**cells, "balance": "0"}})
    report = report_of(world, path)
    assert report.compared == 25
    assert [(step.line, str(step.stated)) for step in report.steps] == [(21, "0"), (22, "252.00")]


def test_a_verdict_keeps_it(world: World) -> None:
    report = report_of(world, posted(world, statement(5, opening=1)))
    (kept,) = world.query("SELECT verdict, details -> 'stated_balances' FROM backfill_reconciliations")
    assert kept == ("match", stated_details(report))


def test_it_may_be_stated_later__and_is_no_change_of_the_mapping(world: World) -> None:
    path = world.write("s", statement(12), header=COLUMNS)
    world.post(path)
    assert world.reconcile(path).stated is None
    definition = {**yaml.safe_load(path.read_text()), "stated_balances": STATED}
    path.write_text(yaml.safe_dump(definition))
    assert report_of(world, path).agrees
    definition["stated_balances"] = {**STATED, "balance": "saldo"}
    path.write_text(yaml.safe_dump(definition))
    with pytest.raises(
        SourceDefinitionError, match=r"stated_balances\.0 names the column 'saldo', which s\.csv"
    ):
        world.reconcile(path)


def test_it_may_be_stated_later_of_json_lines__whose_columns_are_those_that_are_read(world: World) -> None:
    lines = [
        json.dumps(
            {
                **dict(zip(HEADER, entry(number), strict=True)),
                "amount": "2",
                "time": "2024-01-01",
                "balances": {"after": 2 * number},
            }
        )
        for number in range(1, 13)
    ]
    path = world.write("s", [], type="jsonl", file="s.jsonl")
    path.with_name("s.jsonl").write_text("\n".join(lines))
    definition = yaml.safe_load(path.read_text())
    definition["fields"]["timestamp_utc"]["timezone"] = "UTC"
    path.write_text(yaml.safe_dump(definition))
    world.post(path)
    definition["stated_balances"] = {**STATED, "balance": "balances.after"}
    path.write_text(yaml.safe_dump(definition))
    report = report_of(world, path)
    assert (report.compared, report.agrees) == (12, True)


def test_a_hundred_accounts_against_sums_made_by_hand(world: World) -> None:
    """Rows in any order of accounts and times; each states the balance of its debited account; some are rejected."""
    balances: dict[str, Decimal] = {}
    rows, differing, wrong = [], 0, dict[str, bool]()
    for number in range(1, 301):
        debit, credit = f"N{number * 7 % 20}", f"N{(number * 7 + 1 + number % 5) % 20}"
        amount, bad = Decimal(number % 13 + 1), number % 41 == 0
        for account, movement in ((debit, amount), (credit, -amount)):
            balances[account] = balances.get(account, Decimal(0)) + movement
            wrong[account] = wrong.get(account, False) or bad
        row = entry(number, debit=debit, credit=credit, amount="x" if bad else str(amount))
        rows.append([*row, str(balances[debit])])
    path = posted(
        world, rows, accounts=[f"N{number}" for number in range(20)],
        stated_balances={**STATED, "account": "debit"}, partition_rows="37",
    )  # fmt: skip
    report = report_of(world, path)
    ledger: dict[str, Decimal] = {}
    for row in rows:
        if row[HEADER.index("amount")] != "x":
            for place, sign in (("debit", 1), ("credit", -1)):
                account = str(row[HEADER.index(place)])
                ledger[account] = ledger.get(account, Decimal(0)) + sign * Decimal(
                    str(row[HEADER.index("amount")])
                )
        differing += Decimal(str(row[-1])) != ledger.get(str(row[HEADER.index("debit")]), Decimal(0))
    assert (report.compared, report.differing, report.accounts) == (300, differing, 20)
    assert differing > 20
    assert all("rejected (amount_malformed)" in step.why for step in report.steps if step.difference)


def test_it_leaves_nothing_in_the_ledger_and_reads_it_when_the_files_are_gone(world: World) -> None:
    path = posted(
        world, statement(25, changes={4: {"note": "x"}}), rules=[{"when": {"note": "x"}, "filter": "x"}]
    )
    first = report_of(world, path)
    work = open_work(load_definition(path), world.places)
    for stage, partition in itertools.product(("extracted", "transformed"), work.registration.partitions):
        work.intermediates.path(stage, partition.key).unlink()
    before = world.snapshot()
    assert same(report_of(world, path), first)
    assert world.snapshot() == before
    with psycopg.connect(world.url) as connection:
        tables = connection.execute("SELECT count(*) FROM pg_class WHERE relpersistence = 't'").fetchone()
    assert tables == (0,)


def test_the_documented_example_drifts_as_it_is_printed(world: World) -> None:
    page = (CHECKOUT / "docs" / "source-definition.md").read_text(encoding="utf-8")
    export = re.search(r"```\n(no;date;text;amount;balance\n.*?)```", page, re.DOTALL)
    example = re.search(r"```yaml\n# example: stated balances\n(.*?)```", page, re.DOTALL)
    assert export is not None
    assert example is not None
    folder = world.folder / "sources"
    folder.mkdir()
    (folder / "statement.csv").write_text(export.group(1), encoding="utf-8")
    path = folder / "statement.yaml"
    path.write_text(f"id: statement\ntype: csv\nfile: statement.csv\n{example.group(1)}", encoding="utf-8")
    world.post(path)
    report = report_of(world, path)
    assert report.sentence in page
    for step in report.steps:
        numbers = rf"{step.stated:,} +{step.ledger:,} +{step.difference} "
        assert re.search(rf"\n {step.line} +ACC-1 +{numbers} {re.escape(step.why)}\n", page), step


def test_no_row_is_taken_in_hand(world: World) -> None:
    measured = []
    for name, rows in (("warm", 100), ("few", 1_000), ("many", 4_000)):
        path = world.write(
            name,
            [[f"{name}-{row[0]}", *row[1:]] for row in statement(rows)],
            header=COLUMNS,
            accounts=("A", "B") if name == "warm" else (f"A{name}", "B"),
            stated_balances={"balance": "balance", "account": "debit"},
            partition_rows=str(rows // 2),
        )
        export = path.with_suffix(".csv")
        export.write_text(export.read_text().replace(",A,", ",A," if name == "warm" else f",A{name},"))
        world.post(path)
        measured.append(lines_executed(lambda path=path: world.reconcile(path)))
        assert report_of(world, path).agrees
    assert_set_wise(*measured[1:])
