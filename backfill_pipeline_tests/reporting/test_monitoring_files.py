"""What is in deploy/monitoring works with the metrics that there are: Prometheus takes it, and every name in it exists.

Prometheus' own promtool says so where it is installed (Debian's package prometheus has it); names are checked anyway.
"""

from __future__ import annotations

import json
import re
import shlex
import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from backfill_pipeline.ledger.monitoring.snapshot import Unavailable
from backfill_pipeline.ledger.monitoring.work import BATCH_BOUNDS_S
from backfill_pipeline.reporting.metrics.catalogue import ALL_METRICS, series_names
from backfill_pipeline.reporting.metrics.exporter import exposition
from backfill_pipeline_tests.cli.test_documented_commands import problem
from backfill_pipeline_tests.stages.world import CHECKOUT

FOLDER = CHECKOUT / "deploy" / "monitoring"
RULES, RULE_TESTS = FOLDER / "backfill-rules.yml", FOLDER / "backfill-rules.test.yml"
DASHBOARD, SCRAPE = FOLDER / "grafana-dashboard.json", FOLDER / "prometheus.yml"
PAGE = CHECKOUT / "docs" / "metrics.md"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(
    PROMTOOL is None, reason="promtool is not installed: install Debian's package prometheus"
)

NAME = re.compile(r"\bbackfill_[a-z0-9_]+\b")
LABELS = re.compile(r"\b(backfill_[a-z0-9_]+)\{([^}]*)\}")
BY = re.compile(r"\bby \(([^)]*)\)")
COMMAND = re.compile(r"`backfill ([^`]+)`")


def promtool(*arguments: object) -> str:
    assert PROMTOOL is not None
    done = subprocess.run(
        [PROMTOOL, *map(str, arguments)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def dashboard() -> dict[str, Any]:
    return dict(json.loads(DASHBOARD.read_text(encoding="utf-8")))


def expressions() -> list[tuple[str, str]]:
    """Where, and what is asked for there."""
    panels = [
        (f"panel {panel['title']}", target["expr"])
        for panel in dashboard()["panels"]
        for target in panel.get("targets", [])
    ]
    return [*((f"alert {rule['alert']}", rule["expr"]) for rule in rules()), *panels]


@pytest.mark.parametrize(("place", "expression"), expressions(), ids=lambda value: value[:40])
def test_every_metric_and_label_that_is_asked_for_exists(place: str, expression: str) -> None:
    asked = set(NAME.findall(expression))
    assert asked <= series_names(), place
    assert asked or 'up{job="backfill"}' in expression
    labels = {name: {*one.labels, "le"} for one in ALL_METRICS for name in one.series_names}
    for name, matchers in LABELS.findall(expression):
        assert set(re.findall(r"([a-z_]+)\s*(?:=~|!~|!=|=)", matchers)) <= labels[name], place
    known = set().union(*(labels[name] for name in asked))
    for group in BY.findall(expression):
        assert {label.strip() for label in group.split(",")} <= known, place


def test_every_metric_that_the_strategy_names_is_on_the_dashboard() -> None:
    shown = set(NAME.findall(" ".join(expression for place, expression in expressions() if "panel" in place)))
    missing = [one.name for one in ALL_METRICS if one.strategy and not shown.intersection(one.series_names)]
    assert missing == []


def test_panels_are_there_once_lie_beside_one_another_and_ask_the_chosen_server() -> None:
    found = dashboard()
    numbers = [panel["id"] for panel in found["panels"]]
    assert len(numbers) == len(set(numbers)) > 20
    taken: set[tuple[int, int]] = set()
    for panel in found["panels"]:
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert all(x < 24 for x, _ in cells)
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"]["uid"] == "${datasource}"
    variables = {one["name"] for one in found["templating"]["list"]}
    used = set(re.findall(r"\$([a-z]+)", " ".join(expression for _, expression in expressions())))
    assert used <= variables


def test_every_alert_says_what_to_do_and_how_bad_it_is() -> None:
    names = [rule["alert"] for rule in rules()]
    assert len(names) == len(set(names)) > 10
    for rule in rules():
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}
        assert rule["annotations"]["description"].endswith(".")


def test_every_command_that_an_alert_names_is_taken() -> None:
    named = [
        shlex.split(re.sub(r"\{\{.*?\}\}", "bank", found))
        for rule in rules()
        for found in COMMAND.findall(rule["annotations"]["description"])
    ]
    assert len(named) > 20
    assert [wrong for words in named if (wrong := problem(words))] == []


def test_every_alert_is_tested_to_fire_and_not_to() -> None:
    fires, quiet = set(), set()
    for test in yaml.safe_load(RULE_TESTS.read_text())["tests"]:
        for case in test["alert_rule_test"]:
            (fires if case["exp_alerts"] else quiet).add(case["alertname"])
    assert fires == quiet == {rule["alert"] for rule in rules()}


def test_times_of_batches_that_an_alert_asks_about_are_counted_apart() -> None:
    asked = [
        float(limit)
        for rule in rules()
        for limit in re.findall(r"backfill_batch_duration_seconds_bucket.*> (\d+)$", rule["expr"].strip())
    ]
    assert asked
    assert set(asked) <= set(BATCH_BOUNDS_S)


def test_every_alert_is_on_the_page_about_metrics() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert [rule["alert"] for rule in rules() if f"`{rule['alert']}`" not in page] == []


def test_the_scrape_config_names_the_rules_and_waits_longer_than_the_exporter() -> None:
    config = yaml.safe_load(SCRAPE.read_text())
    assert config["rule_files"] == [RULES.name]
    [job] = config["scrape_configs"]
    assert (job["job_name"], job["scrape_timeout"]) == ("backfill", "10s")


@needs_promtool
class TestPrometheus:
    def test_takes_the_scrape_config_and_the_rules(self) -> None:
        assert "SUCCESS" in promtool("check", "config", SCRAPE)

    def test_fires_each_alert_when_it_should_and_not_before(self) -> None:
        assert "SUCCESS" in promtool("test", "rules", RULE_TESTS)

    def test_understands_every_query_of_the_dashboard(self, tmp_path: Path) -> None:
        queries = [
            {"record": f"query:{number}", "expr": re.sub(r"\$__rate_interval", "5m", expression)}
            for number, (_, expression) in enumerate(expressions())
        ]
        file = tmp_path / "queries.yml"
        file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": queries}]}))
        assert f"{len(queries)} rules found" in promtool("check", "rules", file)

    def test_reads_what_is_written_also_as_the_older_format(self) -> None:
        """As the node exporter does with files: comments that it does not know are passed over, types are not."""
        assert PROMTOOL is not None
        text = exposition(Unavailable("failed", ""), Counter())
        done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, check=False)
        assert b"parsing error" not in done.stderr + done.stdout
