"""Every example of the mapping language in the documentation does what the text around it says.

An example is a block that starts with "# example: <name>"; here are rows for each, and what they become.
"""

import csv
import io
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from backfill_pipeline.mapping.transform import compile_mapping
from backfill_pipeline.schemas.ledger_entry import validate
from backfill_pipeline_tests.mapping.chunks import define_in, entries_of
from backfill_pipeline_tests.mapping.conftest import extracted

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "source-definition.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```yaml\n# example: ([^\n]+)\n(.*?)```", PAGE, re.DOTALL))
FILES = {"branches.csv": "code,account\n10,ACC-10\n"}

Expected = Sequence[tuple[Mapping[str, str], Mapping[str, object]]]
CASES: dict[str, Expected] = {
    "values": [
        (
            {"account": "00120", "iban": "DE89 37040044", "currency": "usd", "code": "FEE 7"},
            {
                "debit_account_id": "120", "credit_account_id": "37040044", "currency_code": "USD",
                "transaction_type": "BANK_FEE",
            },
        ),
        (
            {"account": "1", "iban": "DE8937040044", "currency": "", "code": "XYZ"},
            {"credit_account_id": "37040044", "currency_code": "EUR", "transaction_type": "OTHER"},
        ),
        ({"account": "1", "iban": "FR1", "code": "TRF"}, {"error_code": "value_unmatched"}),
    ],
    "template": [
        (
            {"day": "2024-01-31", "number": "7", "branch": "10", "account": "4711"},
            {"reference_id": "2024-01-31/7", "credit_account_id": "10-4711"},
        ),
        ({"day": "2024-01-31", "number": "8", "account": "4711"}, {"credit_account_id": "SUSPENSE"}),
        ({"number": "8", "branch": "10", "account": "4711"}, {"error_code": "reference_id_missing"}),
    ],
    "derived columns": [
        (
            {"day": "2024-01-31", "clock": "09:30:00", "amount": "EUR 5.00", "text": "for CUST 17"},
            {"debit_account_id": "C-17", "amount_scale": 2, "metadata": '{"customer": "17"}', "error_code": None},
        ),
        ({"day": "2024-01-31", "clock": "09:30", "text": "none"}, {"debit_account_id": "C-0"}),
    ],
    "rules": [
        ({"status": "pending"}, {"filter_reason": "not booked yet"}),
        ({"text": "A Test", "amount": "0.5"}, {"error_code": "rule_rejected"}),
        ({"text": "A Test", "amount": "1.01"}, {"error_code": None, "transaction_type": "TRANSFER"}),
        ({"code": "FEE"}, {"debit_account_id": "FEES", "transaction_type": "BANK_FEE"}),
        ({"text": "Charge 7", "branch": "10"}, {"debit_account_id": "FEES"}),
        ({"text": "Charge 7", "branch": "900"}, {"debit_account_id": "a"}),
    ],
    "lookups": [
        ({"kind": "01", "branch": "10"}, {"transaction_type": "TRANSFER", "debit_account_id": "ACC-10"}),
        ({"kind": "03", "branch": "10"}, {"transaction_type": "OTHER"}),
        ({"kind": "01", "branch": "11"}, {"error_code": "lookup_missing"}),
    ],
}  # fmt: skip


def test_every_example_is_run() -> None:
    assert set(EXAMPLES) == {*CASES, "stated balances", "bank statement", "scb"}


@pytest.mark.parametrize("name", CASES)
def test_an_example_does_what_it_says(tmp_path: Path, name: str) -> None:
    for file, content in FILES.items():
        (tmp_path / file).write_text(content)
    rows = [row for row, _ in CASES[name]]
    entries = entries_of(define_in(tmp_path, EXAMPLES[name]), rows)
    for entry, (row, expected) in zip(entries, CASES[name], strict=True):
        assert {key: entry[key] for key in expected} == expected, (row, entry["error_reason"])


def test_the_statement_becomes_double_entries(tmp_path: Path) -> None:
    definition = define_in(tmp_path, EXAMPLES["bank statement"])
    records = statement()
    table = extracted(**{name: [record[name] for record in records] for name in records[0]})
    outcome = validate(compile_mapping(definition).transform(table))
    assert list(outcome.failures["reason"]) == []
    assert outcome.filtered == {"not booked yet": 1}
    made: list[tuple[Any, ...]] = list(
        outcome.valid[["debit_account_id", "credit_account_id", "amount", "transaction_type"]]
        .astype(str)
        .itertuples(index=False, name=None)
    )
    assert [(*accounts, amount.rstrip("0"), kind) for *accounts, amount, kind in made] == [
        ("CLEARING", "10-4711", "1250.", "TRANSFER"),
        ("10-4711", "CLEARING", "80.", "TRANSFER"),
        ("10-4711", "FEES", "2.5", "BANK_FEE"),
        ("CLEARING", "SUSPENSE", "5.", "TRANSFER"),
    ]


def statement() -> list[dict[str, str]]:
    """The export that is printed above the example."""
    text = re.search(r"```\n(no;booked;.*?)```", PAGE, re.DOTALL)
    assert text is not None
    return list(csv.DictReader(io.StringIO(text.group(1)), delimiter=";"))
