"""Writes the postings and accounts of a Beancount ledger as CSV, with Beancount's own API.

    python export.py example.beancount postings.csv accounts.csv

A transaction has no id in Beancount. It gets one from its content, so that it keeps it when the ledger is exported
again with others before it; the count behind it tells repeats apart. Needs `pip install beancount`.
"""

import csv
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from beancount import loader
from beancount.core import data
from beancount.core.compare import hash_entry

POSTINGS = ("txn", "posting", "date", "payee", "narration", "account", "number", "commodity")
ACCOUNTS = ("account", "kind", "commodity")


def load(path: Path) -> list[data.Directive]:
    """The ledger's directives, in order; what Beancount adds (padding) among them."""
    entries, errors, _ = loader.load_file(str(path.resolve()))
    if errors:
        raise SystemExit(f"{path}: {errors[0].message}")
    return list(entries)


def postings(entries: list[data.Directive]) -> Iterator[tuple[object, ...]]:
    """One row per posting."""
    seen: Counter[str] = Counter()
    for entry in data.filter_txns(entries):
        content = hash_entry(entry, exclude_meta=True)
        txn = f"{content[:16]}-{seen[content]}"
        seen[content] += 1
        for place, posting in enumerate(entry.postings, start=1):
            assert posting.units is not None  # the loader completes what was left out
            yield (
                txn, place, entry.date, entry.payee or "", entry.narration or "",
                posting.account, format(posting.units.number, "f"), posting.units.currency,
            )  # fmt: skip


def accounts(entries: list[data.Directive]) -> Iterator[tuple[object, ...]]:
    """One row per account that has postings. An account of this ledger holds one commodity."""
    held = {
        (posting.account, posting.units.currency)
        for entry in data.filter_txns(entries)
        for posting in entry.postings
        if posting.units is not None
    }
    for account, commodity in sorted(held):
        yield account, account.partition(":")[0], commodity


def main(ledger: str, postings_csv: str, accounts_csv: str) -> None:
    """Writes both files."""
    entries = load(Path(ledger))
    for path, header, rows in (
        (postings_csv, POSTINGS, postings(entries)),
        (accounts_csv, ACCOUNTS, accounts(entries)),
    ):
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(rows)


if __name__ == "__main__":
    main(*sys.argv[1:])
