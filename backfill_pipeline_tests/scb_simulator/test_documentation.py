"""docs/scb-simulator.md says what there is, and its examples work."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import yaml

from backfill_pipeline.scb_simulator.faults import KINDS, make_faults
from backfill_pipeline.scb_simulator.options import Options, make_options
from backfill_pipeline.scb_simulator.server import running
from backfill_pipeline.scb_simulator.tokens import VARIABLES
from backfill_pipeline.scb_simulator.web.app import OPERATIONS
from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.cli.conftest import backfill  # noqa: F401
from backfill_pipeline_tests.scb_simulator.client import Client
from backfill_pipeline_tests.stages.world import CHECKOUT

PAGE = (CHECKOUT / "docs" / "scb-simulator.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"```yaml\n# example: ([^\n]+)\n(.*?)```", PAGE, re.DOTALL))


def test_every_operation_variable_fault_and_setting_is_there() -> None:
    for one in OPERATIONS:
        assert f"{one.path}" in PAGE, one.path
    for name in VARIABLES:
        assert f"`{name}`" in PAGE
    for kind, model in KINDS.items():
        (row,) = (line for line in PAGE.splitlines() if line.startswith(f"| `{kind}` |"))
        common = set(next(iter(KINDS.values())).__mro__[1].model_fields)
        for key in set(model.model_fields) - common - {"kind"}:
            assert f"`{key}`" in row, (kind, key)
        for key in common:
            assert f"| `{key}` |" in PAGE
    for key in {*Options.model_fields, *Options().ledgers[0].__class__.model_fields} - {"id"}:
        assert f"`{key}`" in PAGE, key


def test_the_file_of_options_is_one() -> None:
    data: dict[str, Any] = yaml.safe_load(EXAMPLES["bank.yaml"])
    faults = make_faults(data.pop("faults"), "docs")
    options = make_options(data, "docs")
    assert [(one.id, one.timezone, one.entries_per_day) for one in options.ledgers] == [
        ("SOVEREIGN", "Europe/Paris", 5000),
        ("TOKYO", "Asia/Tokyo", 5000),
    ]
    assert [one.kind for one in faults] == ["throttled", "late_entries"]


def test_the_example_for_tests_runs() -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(compile(code, "docs/scb-simulator.md", "exec"), {})


def test_the_answers_that_are_shown_are_those_of_the_default_bank() -> None:
    shown = PAGE.replace("\n", "")
    with running() as simulator:
        client = Client(simulator)
        page = client.get("entries", limit=1).text
        cursor = page.index('"next_cursor":"') + len('"next_cursor":"') + 12
        assert page[:cursor] in shown
        day = {"from": "2024-03-31T00:00:00+01:00", "to": "2024-04-01T00:00:00+02:00"}
        totals = client.get("totals", digest="true", **day).text
        assert totals[: totals.index('"days"')] in shown
        assert client.ok("totals", digest="true", **day)["days"][0]["digest"] in shown
        client.close()


@pytest.mark.e2e
@pytest.mark.slow
def test_the_source_definition_brings_every_entry_into_a_ledger_through_faults(
    backfill: Backfill,  # noqa: F811
    tmp_path: Path,
) -> None:
    definition = tmp_path / "scb.yaml"
    definition.write_text(EXAMPLES["scb.yaml"], encoding="utf-8")
    with running(make_options({"entries_per_day": 100}, "test")) as simulator:
        backfill.extra |= {
            "SCB_URL": simulator.base_url,
            "SCB_SIMULATOR_TOKEN": str(simulator.credentials.token),
        }
        client = Client(simulator)
        keys = ("id", "currency", "normal_side", "opening_balance")
        accounts = [",".join(one[key] for key in keys) for one in client.ok("accounts")["accounts"]]
        (tmp_path / "accounts.csv").write_text("\n".join(["id,currency,side,opening", *accounts, ""]))
        client.fault(
            {"kind": "throttled", "probability": 0.2, "retry_after_s": 0},
            {"kind": "truncated", "count": 1, "after": 5},
            {"kind": "dropped", "count": 1, "after": 9},
        )
        outcome = backfill("run", definition, "--json")
        assert outcome.code == 0, outcome.stderr + outcome.stdout
        struck = {kind for line in client.log() for kind in line["faults"]}
        assert struck == {"throttled", "truncated", "dropped"}
        client.fault()
        totals = client.ok("totals")
        client.close()
    rows = backfill.query(
        "SELECT currency_code, count(*), sum(amount) FROM ledger_entries WHERE ledger_id = 'SOVEREIGN'"
        " AND reference_id LIKE 'SCB-01-%%' GROUP BY currency_code"
    )
    assert (outcome.json["constraints"], outcome.json["reconciliation"]) == ("applied", "match")
    assert sum(int(str(count)) for _, count, _ in rows) == totals["count"] == 3100
    assert {str(code): Decimal(str(amount)) for code, _, amount in rows} == {
        code: Decimal(amount) for code, amount in totals["sums"].items()
    }
