"""`backfill scb-simulator` as its users see it, in processes of its own."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from backfill_pipeline.scb_simulator.tokens import VARIABLES
from backfill_pipeline_tests.cli.command import Backfill, finish

SMALL = ("--entries-per-day", 50, "--days", 3)


@pytest.fixture
def backfill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Backfill:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    return Backfill(tmp_path / "home", None, tmp_path)


def first_line(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    found = json.loads(process.stdout.readline())
    assert isinstance(found, dict)
    return found


@contextmanager
def simulator(
    backfill: Backfill, *arguments: object
) -> Iterator[tuple[subprocess.Popen[str], dict[str, Any]]]:
    with backfill.started("scb-simulator", "--json", *SMALL, *arguments) as process:
        yield process, first_line(process)


def secrets_of(file: str) -> dict[str, str]:
    """What a shell gets that sources the file."""
    done = subprocess.run(["sh", "-c", '. "$1"; env', "sh", file], capture_output=True, text=True, check=True)
    lines = dict(line.partition("=")[::2] for line in done.stdout.splitlines())
    return {name: lines[name] for name in VARIABLES}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_serves_until_it_is_stopped_and_goes_on_when_it_is_started_again(
    backfill: Backfill, number: signal.Signals
) -> None:
    for turn in range(2):
        with simulator(backfill) as (process, told):
            assert told["ledgers"] == ["SCB-01"]
            header = {
                "Authorization": f"Bearer {secrets_of(told['credentials_file'])['SCB_SIMULATOR_TOKEN']}"
            }
            with httpx.Client(base_url=told["url"], headers=header) as http:
                assert len(http.get("/ledgers/SCB-01/entries").json()["entries"]) == 150
                sent = {"acknowledgements": [{"reference": "SCB-01-20240301-000000001", "status": "posted"}]}
                answer = http.post(
                    "/ledgers/SCB-01/acknowledgements", json=sent, headers={"Idempotency-Key": f"k{turn}"}
                ).json()
                assert (answer["accepted"], answer["known"]) == ((1, 0), (0, 1))[turn]
                os.kill(process.pid, number)  # with a connection that is still open
                outcome = finish(process)
            assert (outcome.code, outcome.stdout, outcome.stderr) == (0, "", "stopping\n")


def test_what_it_confirmed_is_there_after_it_was_killed(backfill: Backfill) -> None:
    backfill.extra["SCB_SIMULATOR_TOKEN"] = "from-the-environment"
    header = {"Authorization": "Bearer from-the-environment", "Idempotency-Key": "k"}
    sent = {
        "acknowledgements": [
            {"reference": f"SCB-01-20240301-{n:09d}", "status": "posted"} for n in range(1, 51)
        ]
    }
    answers = []
    for _ in range(2):
        with simulator(backfill) as (process, told):
            url = f"{told['url']}/ledgers/SCB-01/acknowledgements"
            answers.append(httpx.post(url, json=sent, headers=header))
            assert len(httpx.get(url, headers=header).json()["acknowledgements"]) == 50
            os.kill(process.pid, signal.SIGKILL)
            process.wait()
    assert answers[0].content == answers[1].content
    assert answers[1].headers["idempotency-replayed"] == "true"


def test_for_people_it_prints_where_things_are_and_no_secret(backfill: Backfill) -> None:
    with backfill.started("scb-simulator", *SMALL, "--fault", "slow:delay_s=0.1") as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(6)]
        os.kill(process.pid, signal.SIGTERM)
        finish(process)
    assert lines[0].startswith("SCB simulator  http://127.0.0.1:")
    assert lines[1].rstrip().endswith("/docs")
    assert "3 days from 2024-03-01 in Europe/Paris, 50 entries a day" in lines[2]
    assert lines[5] == "fault          slow, struck 0 times so far\n"
    file = lines[4].removeprefix("credentials    . ").strip()
    text = "".join(lines)
    assert not any(secret in text for secret in secrets_of(file).values())


def test_credentials_of_the_environment_are_used_and_none_are_made(backfill: Backfill) -> None:
    backfill.extra["SCB_SIMULATOR_TOKEN"] = "from-the-environment"
    with simulator(backfill) as (_, told):
        assert told["credentials_file"] is None
        header = {"Authorization": "Bearer from-the-environment"}
        assert httpx.get(f"{told['url']}/ledgers", headers=header).status_code == 200
        assert not list(backfill.home.rglob("*.env"))


def test_a_file_gives_options_and_faults_and_the_command_line_wins(
    backfill: Backfill, tmp_path: Path
) -> None:
    config = tmp_path / "bank.yaml"
    config.write_text(
        "seed: 5\ndays: 2\ntimezone: Asia/Tokyo\nledgers: [ONE, {id: TWO, currencies: [JPY]}]\n"
        "faults:\n  - {kind: throttled, operations: [ledgers], count: 1}\n"
    )
    backfill.extra["SCB_SIMULATOR_TOKEN"] = "from-the-environment"
    with simulator(backfill, "--config", config) as (_, told):
        assert told["ledgers"] == ["ONE", "TWO"]
        with httpx.Client(
            base_url=told["url"], headers={"Authorization": "Bearer from-the-environment"}
        ) as http:
            assert http.get("/ledgers").status_code == 429
            two = http.get("/ledgers").json()["ledgers"][1]
            assert (two["timezone"], two["currencies"], two["last_day"]) == (
                "Asia/Tokyo",
                ["JPY"],
                "2024-03-03",
            )


class TestWrong:
    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            (["--currencies", "EUR,XAU"], "the options: currencies must be ISO 4217 codes"),
            (["--start", "2024-02-30"], "the options: start must be a valid date"),
            (["--ledgers", "0"], "the options: ledgers must be from 1 to 99"),
            (["--fault", "nope"], "--fault nope: kind must be one of"),
            (["--config", "/nope.yaml"], "/nope.yaml cannot be read (No such file or directory)"),
            (["--host", "no.such.host.invalid"], "no.such.host.invalid is no address to listen on"),
        ],
    )
    def test_options_are_refused_in_one_sentence(
        self, backfill: Backfill, arguments: list[str], says: str
    ) -> None:
        outcome = backfill("scb-simulator", *arguments)
        assert (outcome.code, outcome.stdout) == (2, "")
        assert says in outcome.sentence

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("a: [", "bank.yaml:1: this is not YAML"),
            ("- 1", "must hold keys and values"),
            ("days: many", "bank.yaml: days must be a valid integer"),
            ("faults: [{kind: slow, delay_s: x}]", "bank.yaml: fault 1: delay_s must be a valid number"),
            ("faults: 5", "bank.yaml: faults must be a list"),
        ],
    )
    def test_a_file_is_refused_with_its_name(
        self, backfill: Backfill, tmp_path: Path, text: str, says: str
    ) -> None:
        file = tmp_path / "bank.yaml"
        file.write_text(text)
        outcome = backfill("scb-simulator", "--config", file)
        assert outcome.code == 2
        assert says in outcome.sentence

    def test_a_port_that_is_taken(self, backfill: Backfill) -> None:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            taken.listen()
            outcome = backfill("scb-simulator", "--port", taken.getsockname()[1])
        assert outcome.code == 2
        assert "Address already in use): choose another --port" in outcome.sentence

    def test_a_state_that_is_in_use_or_of_other_options(self, backfill: Backfill) -> None:
        with simulator(backfill) as (process, _):
            assert "is in use by another simulator" in backfill("scb-simulator", *SMALL).sentence
            os.kill(process.pid, signal.SIGTERM)
            finish(process)
        assert "whose days is 3, not 31" in backfill("scb-simulator", "--entries-per-day", 50).sentence
