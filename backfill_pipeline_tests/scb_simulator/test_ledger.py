"""The pure core: entries, days, references and totals, without HTTP or state."""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from datetime import date, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backfill_pipeline.errors import UsageError
from backfill_pipeline.money import minor_units
from backfill_pipeline.scb_simulator.calendar import calendar_of
from backfill_pipeline.scb_simulator.ledger import BankLedger, Entry, Name
from backfill_pipeline.scb_simulator.options import make_options
from backfill_pipeline.scb_simulator.totals import TotalsOfLedger
from backfill_pipeline_tests.stages.world import CHECKOUT

DAY = date(2024, 3, 5)


def ledger(**given: object) -> BankLedger:
    options = make_options({"entries_per_day": 500, **given}, "test")
    return BankLedger(options, options.ledgers[0])


def whole(bank: BankLedger, day: date) -> list[Entry]:
    return bank.entries(day, 0, bank.count(day))


class TestEntries:
    def test_entry_n_is_the_same_alone_and_among_others_and_after_other_days(self) -> None:
        day = whole(ledger(), DAY)
        other = ledger()
        assert [other.entries(DAY, number, number + 1)[0] for number in (499, 3, 250)] == [
            day[499], day[3], day[250],
        ]  # fmt: skip

    def test_content_is_pinned__another_machine_or_version_serves_the_same(self) -> None:
        entry = ledger().entries(DAY, 7, 8)[0]
        assert (entry.reference, entry.booked_at, entry.amount, entry.currency) == PINNED[0]
        assert (entry.debit_account, entry.credit_account, entry.type, entry.narrative) == PINNED[1]
        assert entry.metadata == PINNED[2]

    def test_another_process_makes_the_same(self) -> None:
        code = (
            "from datetime import date\n"
            "from backfill_pipeline.scb_simulator.ledger import BankLedger\n"
            "from backfill_pipeline.scb_simulator.options import make_options\n"
            "options = make_options({'entries_per_day': 500}, 'x')\n"
            "print(BankLedger(options, options.ledgers[0]).entries(date(2024, 3, 5), 0, 50))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
        )
        assert done.stdout.strip() == str(whole(ledger(), DAY)[:50])

    @pytest.mark.parametrize("given", [{"seed": 2}, {"ledgers": ["OTHER"]}])
    def test_another_seed_or_ledger_has_other_entries(self, given: dict[str, object]) -> None:
        mine, other = whole(ledger(), DAY), whole(ledger(**given), DAY)
        assert [one.minor for one in mine] != [one.minor for one in other]

    def test_the_number_of_days_and_the_first_day_change_no_entry(self) -> None:
        assert whole(ledger(), DAY) == whole(ledger(start="2024-03-04", days=2), DAY)

    def test_times_rise_with_numbers_and_references_rise_as_text(self) -> None:
        bank = ledger()
        entries = [entry for day in (date(2024, 3, 30), date(2024, 3, 31)) for entry in whole(bank, day)]
        assert entries == sorted(entries, key=lambda one: one.place)
        references = [entry.reference.encode() for entry in entries]
        assert references == sorted(set(references))

    def test_amounts_are_exact_and_have_all_decimals_of_their_currency(self) -> None:
        seen = Counter[str]()
        for entry in whole(ledger(), DAY):
            amount = Decimal(entry.amount)
            assert -int(amount.as_tuple().exponent) == minor_units(entry.currency)
            assert amount.scaleb(minor_units(entry.currency) or 0) == entry.minor > 0
            seen[entry.currency] += 1
        assert set(seen) == {"EUR", "USD", "JPY", "KWD"}
        assert min(seen.values()) > 80

    def test_both_accounts_are_kept_in_the_currency_and_differ(self) -> None:
        bank = ledger()
        for entry in whole(bank, DAY):
            sides = [bank.account_ids[one] for one in (entry.debit_account, entry.credit_account)]
            assert {side.currency for side in sides} == {entry.currency}
            assert entry.debit_account != entry.credit_account

    @pytest.mark.parametrize("share", [0, 0.25, 1])
    def test_the_known_share_of_entries_is_between_shared_accounts(self, share: float) -> None:
        bank = ledger(known_share=share, entries_per_day=4000)
        known = sum(
            bank.account_ids[entry.debit_account].shared and bank.account_ids[entry.credit_account].shared
            for entry in whole(bank, DAY)
        )
        assert abs(known - share * 4000) <= (100 if 0 < share < 1 else 0)

    def test_no_account_ends_below_zero_and_neither_does_the_equity_of_openings(self) -> None:
        bank = ledger(days=3)
        balances = {account.id: account.opening_minor for account in bank.accounts}
        sign = {account.id: 1 if account.normal_side == "debit" else -1 for account in bank.accounts}
        for day in range(1, 4):
            for entry in whole(bank, date(2024, 3, day)):
                balances[entry.debit_account] += sign[entry.debit_account] * entry.minor
                balances[entry.credit_account] -= sign[entry.credit_account] * entry.minor
        assert min(balances.values()) > 0
        for code in bank.options.currencies:
            assert sum(one.opening_minor * sign[one.id] for one in bank.accounts if one.currency == code) > 0


class TestSpans:
    @given(st.integers(0, 400_000), st.integers(1, 200_000))
    def test_the_first_entry_from_a_moment_is_the_first_from_that_moment(
        self, start: int, length: int
    ) -> None:
        bank = ledger(start="2024-03-30", days=4, entries_per_day=50)
        from_s = bank.start_s - 20_000 + start
        everything = [
            entry for offset in range(4) for entry in whole(bank, date(2024, 3, 30) + timedelta(offset))
        ]
        expected = [one for one in everything if from_s <= one.place.booked_s < from_s + length]
        found = [
            entry
            for day, first, end in bank.spans(from_s, from_s + length)
            for entry in bank.entries(day, first, end)
        ]
        assert found == expected

    def test_an_empty_ledger_has_no_spans(self) -> None:
        bank = ledger(entries_per_day=0)
        assert list(bank.spans(bank.start_s, bank.end_s)) == []


class TestDays:
    @pytest.mark.parametrize(
        ("zone", "day", "hours"),
        [
            ("Europe/Paris", date(2024, 3, 31), 23),
            ("Europe/Paris", date(2024, 10, 27), 25),
            ("Europe/Paris", date(2024, 6, 1), 24),
            ("America/New_York", date(2024, 3, 10), 23),
            ("Australia/Lord_Howe", date(2024, 4, 7), 24.5),
            ("Asia/Beirut", date(2024, 3, 31), 23),  # 00:00 does not exist
            ("America/Havana", date(2024, 11, 3), 25),  # 00:00 exists twice
            ("Pacific/Apia", date(2011, 12, 30), 0),  # the whole date does not exist
            ("UTC", date(2024, 3, 31), 24),
        ],
    )  # fmt: skip
    def test_a_day_is_as_long_as_it_is(self, zone: str, day: date, hours: float) -> None:
        assert calendar_of(zone).length_s(day) == hours * 3600

    @pytest.mark.parametrize(
        "zone", ["Europe/Paris", "America/Havana", "Asia/Beirut", "Pacific/Apia", "Asia/Kolkata"]
    )
    def test_days_follow_each_other_without_gap_or_overlap(self, zone: str) -> None:
        calendar = calendar_of(zone)
        days = [date(2011, 12, 20) + timedelta(days=number) for number in range(30)]
        days += [date(2024, 1, 1) + timedelta(days=number) for number in range(366)]
        for day, following in itertools.pairwise(days):
            if following - day == timedelta(days=1):
                assert calendar.start_s(day) + calendar.length_s(day) == calendar.start_s(following)
            if calendar.length_s(day):
                assert calendar.day_of(calendar.start_s(day)) == day
                assert calendar.day_of(calendar.start_s(day) + calendar.length_s(day) - 1) == day

    @pytest.mark.parametrize("day", [date(2024, 3, 31), date(2024, 10, 27)])
    def test_entries_of_a_day_on_which_clocks_change_fill_it_and_stay_in_it(self, day: date) -> None:
        bank = ledger(start=str(day), days=1, entries_per_day=5000)
        entries = whole(bank, day)
        assert len(entries) == 5000
        zone = ZoneInfo("Europe/Paris")
        times = [datetime.fromisoformat(entry.booked_at) for entry in entries]
        assert {one.astimezone(zone).date() for one in times} == {day}
        assert [int(one.timestamp()) for one in times] == [entry.place.booked_s for entry in entries]
        gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
        assert timedelta(0) <= min(gaps)
        assert max(gaps) < timedelta(seconds=60)

    def test_a_date_that_never_was_has_no_entries(self) -> None:
        bank = ledger(start="2011-12-29", days=3, timezone="Pacific/Apia")
        assert [bank.count(date(2011, 12, day)) for day in (29, 30, 31)] == [500, 0, 500]
        assert [day for day, _, _ in bank.spans(bank.start_s, bank.end_s)] == [
            date(2011, 12, 29),
            date(2011, 12, 31),
        ]


class TestReferences:
    def test_a_reference_names_its_entry(self) -> None:
        bank = ledger()
        for number in (0, 7, 499):
            reference = bank.entries(DAY, number, number + 1)[0].reference
            assert bank.named(reference) == Name(DAY, 0, number)
        late = bank.late_entries(DAY, [3])[0]
        assert bank.named(late.reference) == Name(DAY, 1, 3)

    @pytest.mark.parametrize(
        "text",
        [
            "", "-", "SCB-01", "SCB-01-20240305-", "SCB-01-20240305-000000000", "SCB-01-20240305-000000501",
            "SCB-01-20240305-1", "SCB-01-20240305-0000000001", "SCB-01-20240305-00000000\uff11", "SCB-01-20240230-000000001",
            "SCB-01-20240229-000000001", "SCB-01-20240401-000000001", "SCB-02-20240305-000000001",
            "SCB-01-20240305-L1", "SCB-01-20240305-" + "1" * 5000, "SCB-01-20240305-LL0000001", "SCB-01-20240305-000000001\n",
        ],
    )  # fmt: skip
    def test_what_is_no_reference_of_the_ledger_names_nothing(self, text: str) -> None:
        assert ledger().named(text) is None


class TestTotals:
    def test_they_are_the_sums_of_the_entries(self) -> None:
        bank = ledger(entries_per_day=20_000)
        for first, end in ((0, 20_000), (17, 9000), (5, 5)):
            totals = TotalsOfLedger(bank).of(DAY, first, end)
            entries = bank.entries(DAY, first, end)
            sums = Counter[str]()
            for entry in entries:
                sums[entry.currency] += entry.minor
            assert (totals.count, totals.sums()) == (end - first, dict(sorted(sums.items())))

    def test_the_total_of_a_day_that_is_remembered_is_not_changed_by_its_users(self) -> None:
        totals = TotalsOfLedger(ledger())
        totals.of(DAY, 0, 500).add("EUR", 1_000_000)
        assert totals.of(DAY, 0, 500).count == 500


class TestOptions:
    @pytest.mark.parametrize(
        ("given", "says"),
        [
            ({"entries_per_day": -1}, "entries_per_day must be from 0 to 10000000, not -1"),
            ({"entries_per_day": 10_000_000, "days": 1000}, "at most 1000000000"),
            ({"currencies": "EUR,XAU"}, "'XAU' is none"),
            ({"currencies": "EUR,EUR"}, "each once"),
            ({"currencies": ""}, "'' is none"),
            ({"accounts": 15}, "accounts must be at least 16 for 4 currencies, not 15"),
            ({"timezone": "Mars/Base"}, "not 'Mars/Base'"),
            ({"timezone": "../etc"}, "not '../etc'"),
            ({"known_share": 1.5}, "known_share must be from 0 to 1, not 1.5"),
            ({"known_share": float("nan")}, "known_share must be"),
            ({"start": "yesterday"}, "start must be a valid date"),
            ({"start": "1979-12-31"}, "start and days must stay between 1980-01-01"),
            ({"start": "2199-12-31", "days": 3}, "start and days must stay between"),
            ({"days": 0}, "days must be from 1 to 36600, not 0"),
            ({"ledgers": 0}, "ledgers must be from 1 to 99"),
            ({"ledgers": []}, "at least one"),
            ({"ledgers": ["A", "a"]}, "an id of its own"),
            ({"ledgers": ["A/B"]}, "not 'A/B'"),
            ({"ledgers": True}, "ledgers must be a number"),
            ({"ledgers": [{"timezone": "UTC"}]}, "ledgers.0.id is missing"),
            ({"ledgers": [{"id": "A", "acounts": 1}]}, "ledgers.0.acounts is no key that there is"),
            ({"ledgers": [{"id": "A", "accounts": 5}]}, "ledgers.0 accounts must be at least 16"),
            ({"seeds": 1}, "seeds is no key that there is"),
            ({"unknown_accounts": "maybe"}, "unknown_accounts must be 'refuse' or 'accept'"),
        ],
    )  # fmt: skip
    def test_what_is_wrong_is_said_in_one_sentence_with_key_and_place(
        self, given: dict[str, object], says: str
    ) -> None:
        with pytest.raises(UsageError) as raised:
            make_options(given, "bank.yaml")
        assert str(raised.value).startswith("bank.yaml: ")
        assert says in str(raised.value)
        assert "\n" not in str(raised.value)

    def test_what_is_said_for_all_ledgers_holds_unless_a_ledger_says_otherwise(self) -> None:
        options = make_options(
            {
                "timezone": "Asia/Tokyo",
                "ledgers": ["A", {"id": "B", "timezone": "UTC", "currencies": ["JPY"]}],
            },
            "x",
        )
        assert [(one.id, one.timezone) for one in options.ledgers] == [("A", "Asia/Tokyo"), ("B", "UTC")]
        assert options.ledgers[1].currencies == ("JPY",)


PINNED = (
    ("SCB-01-20240305-000000008", "2024-03-05T00:22:48+01:00", "0.990", "KWD"),
    ("SCB-01-KWD-00003", "SCB-01-KWD-00001", "CARD", "Two lines:\nsecond line, with comma"),
    {"channel": "INSTANT", "batch": "240305/24"},
)
