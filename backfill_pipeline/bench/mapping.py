"""What rules cost: the same chunks mapped by the export's own definition, and by one with twenty rules.

Belongs here: the rules, and measuring both mappings side by side.
Does not: reading the file, which costs the same either way, and everything after the mapping.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Mapping as Conditions
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from backfill_pipeline.bench.figures import MAPPING, MAPPING_RULES, Figures, insist
from backfill_pipeline.bench.workloads import Bench
from backfill_pipeline.definition.load import load_definition
from backfill_pipeline.mapping.transform import Mapping, compile_mapping
from backfill_pipeline.schemas.extracted import to_arrow, to_pandas
from backfill_pipeline.schemas.frames import ENTRY_SCHEMA

_KINDS: Final = ("CARD", "FEE", "INTEREST", "SALARY", "TRANSFER")
_BRANCHES: Final = ("LON", "FRA", "KWI", "NYC", "TYO")
_TEXTS: Final = ("(?i)rent", "(?i)invoice [a-z]+", "^Standing", "Café|Groceries", "notice$")


def twenty_rules() -> list[dict[str, object]]:
    """As statements need them: by code and amount, by code and place, by what a text holds, by code alone.

    Each that matches sets an account and a type; some rows are for none of them.
    """
    conditions: list[Conditions[str, object]] = [
        *({"kind": kind, "amount": {"above": 5000 * number}} for number, kind in enumerate(_KINDS, 1)),
        *({"branch": branch, "description": {"starts_with": "Card"}} for branch in _BRANCHES),
        *({"description": {"regex": text}} for text in _TEXTS),
        *({"kind": {"in": [kind, f"{kind} {branch}"]}, "branch": {"not_in": [branch, ""]}}
          for kind, branch in zip(_KINDS, _BRANCHES, strict=True)),
    ]  # fmt: skip
    return [
        {
            "name": f"rule {number}",
            "when": condition,
            "set": {
                "transaction_type": {"constant": f"TYPE_{number}"},
                "debit_account_id": {"template": f"{number}-{{debit_account}}"},
            },
        }
        for number, condition in enumerate(conditions, 1)
    ]


def mapping_with_rules(bench: Bench) -> dict[str, Figures]:
    """Maps all chunks both ways, in turns, one chunk after the other. Seconds are processor time."""
    plain = load_definition(bench.source_file)
    written = yaml.safe_load(bench.source_file.read_text(encoding="utf-8"))
    with_rules_file = bench.source_file.with_name("with_rules.yaml")
    with_rules_file.write_text(
        yaml.safe_dump({**written, "rules": twenty_rules()}, sort_keys=False), encoding="utf-8"
    )
    mappings = {
        MAPPING: compile_mapping(plain),
        MAPPING_RULES: compile_mapping(load_definition(with_rules_file)),
    }
    seconds = dict.fromkeys(mappings, 0.0)
    changed = count = 0
    with bench.prepared_ledger() as (_, work):
        for number, partition in enumerate(work.registration.partitions):
            chunk = work.reader.read_chunk(work.chunk(partition.key), work.registration.header)
            entries: dict[str, pa.Table] = {}
            # Turn and turn about: what the first one leaves in the caches is the other's gain.
            for name in list(mappings)[:: 1 if number % 2 else -1]:
                entries[name], took_s = _mapped(mappings[name], chunk)
                seconds[name] += took_s
            count += chunk.num_rows
            changed += _changed(entries[MAPPING], entries[MAPPING_RULES])
    insist(
        count == bench.entries.num_rows,
        MAPPING_RULES,
        f"{count:,} of {bench.entries.num_rows:,} rows were mapped",
    )
    insist(count // 2 < changed < count, MAPPING_RULES, f"the rules changed {changed:,} of {count:,} entries")
    return {name: {"seconds": took_s, "entries": float(count)} for name, took_s in seconds.items()}


def _mapped(mapping: Mapping, chunk: pa.Table) -> tuple[pa.Table, float]:
    frame = to_pandas(chunk)
    collecting = gc.isenabled()
    gc.disable()  # whose turn it is to collect what others left is no price of a mapping
    try:
        started = time.process_time()  # of all threads: no file, no server, nothing to wait for
        mapped = mapping.transform(frame)
        return to_arrow(mapped, ENTRY_SCHEMA), time.process_time() - started
    finally:
        if collecting:
            gc.enable()


def _changed(plain: pa.Table, with_rules: pa.Table) -> int:
    """In how many rows the rules made another entry, all of which must be good."""
    for name, entries in ((MAPPING, plain), (MAPPING_RULES, with_rules)):
        failed = entries.num_rows - entries.column("error_code").null_count
        insist(not failed, name, f"{failed:,} rows could not be mapped")
    different = pc.not_equal(plain.column("transaction_type"), with_rules.column("transaction_type"))
    return int(pc.sum(different, min_count=0).as_py())
