"""The benchmark itself, at small sizes: it measures the real thing, and a ledger that is not right fails it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import psycopg
import pytest

from backfill_pipeline.bench import commands, contenders
from backfill_pipeline.bench.__main__ import main
from backfill_pipeline.bench.figures import (
    MAPPING,
    MAPPING_RULES,
    POSTING,
    RECONCILE,
    RUN,
    BrokenContenderError,
    Figures,
)
from backfill_pipeline.bench.mapping import mapping_with_rules, twenty_rules
from backfill_pipeline.bench.plan import Plan, Section, Step, full_plan, quick_plan, smoke_plan
from backfill_pipeline.bench.processes import fresh_home
from backfill_pipeline.bench.results import read_results
from backfill_pipeline.bench.rounds import measure
from backfill_pipeline.bench.targets import Target, targets
from backfill_pipeline.bench.workloads import Bench, Workload
from backfill_pipeline.local.embedded import embedded_server
from backfill_pipeline.local.generate import generate
from backfill_pipeline_tests.cli.command import wait_until
from backfill_pipeline_tests.postgresql import walkable_directory
from backfill_pipeline_tests.stages.world import CHECKOUT

SMOKE_ENTRIES = 100_000
SMALL = Workload("main", 3_000, 60)
# One source row in the ledger is not what the source says; balances follow the entry, so they agree with it.
FORGE = """
    CREATE FUNCTION forge() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.amount := NEW.amount + 1; RETURN NEW; END';
    CREATE TRIGGER forge BEFORE INSERT ON ledger_entries FOR EACH ROW WHEN (NEW.source_row = 7) EXECUTE FUNCTION forge();
"""
LOSE = """
    CREATE FUNCTION lose() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
    CREATE TRIGGER lose BEFORE INSERT ON ledger_entries FOR EACH ROW WHEN (NEW.source_row = 7) EXECUTE FUNCTION lose();
"""


@pytest.fixture
def scratch() -> Iterator[Path]:
    with walkable_directory() as directory:
        yield directory


@pytest.mark.e2e
@pytest.mark.slow
def test_small_run_measures_the_promises(scratch: Path, tmp_path: Path) -> None:
    assert len(_judged(10_000, scratch, tmp_path / "results.json")) == 8
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
@pytest.mark.e2e
def test_small_run_keeps_the_promises_loosely(scratch: Path, tmp_path: Path) -> None:
    """A third of each target: less than that is a defect on every machine that has nothing else to do."""
    judged = _judged(SMOKE_ENTRIES, scratch, tmp_path / "results.json")
    assert not [target for target in judged if not target.holds_within(3.0)]


def _judged(entries: int, scratch: Path, found: Path) -> list[Target]:
    """The promises that a smoke test measured."""
    assert main(["--smoke", "--entries", str(entries), "--scratch", str(scratch), "--json", str(found)]) == 0
    return [target for target in targets(read_results(found)) if target.measured is not None]


@pytest.mark.parametrize("tampering", [FORGE, LOSE], ids=["forged", "lost"])
def test_a_ledger_that_is_not_right_fails_the_benchmark(
    scratch: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path, tampering: str
) -> None:
    def tamper(bench: Bench) -> dict[str, Figures]:
        with psycopg.connect(bench.server.url("bench_template"), autocommit=True) as connection:
            connection.execute(tampering)
        return {}

    posting = Step(POSTING, lambda bench: {POSTING: contenders.posting(bench)}, 0, 0)
    plan = Plan((Section(SMALL, (Step("tamper", tamper, 0, 0), posting)),), 1)
    found = tmp_path / "results.json"

    assert main(["--scratch", str(scratch), "--json", str(found)], plan=plan) == 1

    told = capsys.readouterr()
    assert told.out == ""
    last = told.err.splitlines()[-1]
    assert last.startswith("The benchmark failed: posting: ")
    assert not found.exists(), "figures of a broken contender are no figures"
    assert list(scratch.iterdir()) == []


@pytest.mark.slow
@pytest.mark.e2e
def test_a_command_that_finds_a_break_fails_its_contender(scratch: Path) -> None:
    export = generate(200, 20, 1, 0.0, scratch / "export", name="bench")
    with fresh_home(scratch / "home") as home:
        assert home.backfill("run", str(export.definition_file), "--json").result(RUN)["posted"] == 200
        with embedded_server(home.path) as server, psycopg.connect(server.url("ledger")) as connection:
            connection.execute("SET session_replication_role = replica")
            changed = connection.execute("UPDATE ledger_entries SET amount = amount + 1 WHERE source_row = 7")
            assert changed.rowcount
        with pytest.raises(BrokenContenderError, match=r"backfill reconcile: .* ended with 4"):
            home.backfill("reconcile", str(export.definition_file), "--json").result(RECONCILE)
    assert not (scratch / "home").exists()


@pytest.mark.slow
def test_twenty_rules_cost_half_as_much_again_at_most(scratch: Path) -> None:
    """Both mappings take turns in one process, and the fastest turn of each counts: what else the machine does only adds."""
    plan = Plan(
        (
            Section(
                replace(SMALL, entries=SMOKE_ENTRIES, accounts=1_000),
                (Step("rules", mapping_with_rules, 0, 0),),
            ),
        ),
        7,
    )
    with embedded_server(scratch) as server:
        sections, _ = measure(plan, server, scratch, lambda _message: None)
    (found,) = sections
    plain, rules = (min(turn["seconds"] for turn in found.rounds[name]) for name in (MAPPING, MAPPING_RULES))
    assert found.median(MAPPING_RULES, "entries") == SMOKE_ENTRIES
    # Half of it room for processors on which text costs more beside numbers than on those that were measured.
    assert 1 < rules / plain < 1.5 * 1.5


def test_there_are_twenty_of_them() -> None:
    assert len(twenty_rules()) == 20


def test_rules_that_change_nothing_are_no_measure(scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("backfill_pipeline.bench.mapping._KINDS", ("NONE",) * 5)
    monkeypatch.setattr("backfill_pipeline.bench.mapping._TEXTS", ("never",) * 5)
    with (
        embedded_server(scratch) as server,
        Bench.prepare(server, scratch / "main", SMALL) as bench,
        pytest.raises(BrokenContenderError, match="the rules changed"),
    ):
        mapping_with_rules(bench)


@pytest.mark.e2e
@pytest.mark.slow
def test_killed_half_way_and_resumed_is_whole(scratch: Path) -> None:
    plan = Plan((Section(SMALL, (Step("resumed", commands.killed_and_resumed, 0, 0),)),), 1)
    with embedded_server(scratch) as server:
        sections, failed = measure(plan, server, scratch, lambda _message: None)
    assert not failed
    ((figures,),) = sections[0].rounds.values()
    assert figures["seconds"] == figures["killed_after_s"] + figures["resume_s"]


class TestRounds:
    def test_contenders_take_turns_and_nobody_always_follows_the_same(self, scratch: Path) -> None:
        turns: list[str] = []

        def turn(name: str, _bench: Bench) -> dict[str, Figures]:
            turns.append(name)
            return {name: {"seconds": 1.0, "entries": 1.0}}

        steps = tuple(Step(name, partial(turn, name), 1, 0) for name in "abc")
        with embedded_server(scratch) as server:
            sections, _ = measure(Plan((Section(SMALL, steps),), 3), server, scratch, lambda _message: None)
        assert "".join(turns) == "abccbaabc"
        assert {name: len(rounds) for name, rounds in sections[0].rounds.items()} == {"a": 3, "b": 3, "c": 3}

    def test_a_rival_that_fails_is_left_out_with_its_reason(self, scratch: Path) -> None:
        def fail(_bench: Bench) -> dict[str, Figures]:
            raise OSError("no such\nprogram")

        def good(_bench: Bench) -> dict[str, Figures]:
            return {"good": {"seconds": 1.0, "entries": 1.0}}

        steps = (Step("good", good, 1, 0), Step("bad", fail, 1, 0))
        with embedded_server(scratch) as server:
            plan = Plan((Section(SMALL, steps),), 2, rivals=("bad",))
            sections, failed = measure(plan, server, scratch, lambda _message: None)
            assert failed == {"bad": "no such program"}
            assert list(sections[0].rounds) == ["good"]
            with pytest.raises(OSError, match="no such"):
                measure(Plan((Section(SMALL, steps),), 2), server, scratch, lambda _message: None)


class TestPlans:
    def test_the_full_one_holds_every_size_and_every_kind_of_data(self) -> None:
        plan = full_plan(entries=1_000_000, rounds=3, huge=True)
        workloads = [section.workload for section in plan.sections]
        assert [workload.entries for workload in workloads] == [
            1_000_000, 100_000, 1_000_000, 1_000_000, 5_000_000, 10_000_000,
        ]  # fmt: skip
        assert {workload.role for workload in workloads} == {
            "main",
            "small",
            "skewed",
            "uuid",
            "large",
            "huge",
        }

    def test_the_quick_one_is_a_part_of_the_full_one(self) -> None:
        full = {step.name for step in full_plan(entries=10_000, rounds=1, huge=False).sections[0].steps}
        quick = {step.name for step in quick_plan(entries=10_000, rounds=1).sections[0].steps}
        smoke = {step.name for step in smoke_plan(entries=10_000).sections[0].steps}
        assert smoke < quick < full

    def test_too_little_room_is_told_in_one_sentence_before_anything_starts(
        self, scratch: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--quick", "--entries", "900000000", "--scratch", str(scratch)]) == 2
        told = capsys.readouterr().err
        assert told.count("\n") == 1
        assert str(scratch) in told
        assert "--scratch" in told
        assert list(scratch.iterdir()) == []

    def test_an_unknown_contender_is_told_with_the_known_ones(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["--smoke", "--only", "warp"]) == 2
        assert "plain COPY" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.parametrize(("step", "at_work"), [(POSTING, "*/postgres"), (RUN, "*/main/command/postgres")])
def test_ctrl_c_leaves_no_server_and_no_directory(scratch: Path, step: str, at_work: str) -> None:
    """While the benchmark's own server works, and while a command and its server do."""
    command = ["--smoke", "--entries", "100000", "--only", step, "--scratch", str(scratch)]
    process = subprocess.Popen(
        [sys.executable, "-m", "backfill_pipeline.bench", *command],
        cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stderr is not None
        assert any(f": {step}" in line for line in process.stderr), "it never came to that"
        wait_until(lambda: bool(list(scratch.glob(f"{at_work}/data/postmaster.pid"))))
        time.sleep(0.2)
        assert _processes_below(scratch), "there was nothing to leave behind"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(timeout=60) == 130
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert list(scratch.iterdir()) == []
    assert _processes_below(scratch) == []


def _processes_below(directory: Path) -> list[int]:
    """Processes that work inside a directory, as PostgreSQL's do; also when it was removed under them."""
    found = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        try:
            if link.readlink().as_posix().startswith(f"{directory}/"):
                found.append(int(link.parent.name))
        except OSError:
            continue
    return found
