"""The state: it survives restarts and clients, and belongs to one simulator."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from backfill_pipeline.errors import UsageError
from backfill_pipeline.scb_simulator import told
from backfill_pipeline.scb_simulator.faults import make_faults
from backfill_pipeline.scb_simulator.options import make_options
from backfill_pipeline.scb_simulator.server import running
from backfill_pipeline.scb_simulator.store import Store
from backfill_pipeline.scb_simulator.tokens import Credentials
from backfill_pipeline_tests.scb_simulator.client import Client
from backfill_pipeline_tests.scb_simulator.conftest import SMALL, Served
from backfill_pipeline_tests.scb_simulator.test_reading import problem
from backfill_pipeline_tests.scb_simulator.test_telling import OURS, ours, posted

OPTIONS = make_options(SMALL, "test")


def test_everything_that_it_was_told_survives_a_restart(tmp_path: Path) -> None:
    state, credentials = tmp_path / "state.sqlite", Credentials.random()
    seen: list[Any] = []
    for start in range(2):
        with running(OPTIONS, state=state, credentials=credentials) as simulator:
            client = Client(simulator)
            if not start:
                client.send("entries", [OURS], key="k")
                client.send("acknowledgements", [posted(1)])
                client.admin.post("/admin/late-entries", json={"ledger": "SCB-01", "day": "2024-03-30"})
                change = {"reference": posted(5)["reference"], "amount": "3"}
                client.admin.post("/admin/change-entry", json=change)
                form = {
                    "grant_type": "client_credentials",
                    "client_id": credentials.client_id,
                    "client_secret": credentials.client_secret,
                }
                issued = httpx.post(f"{simulator.base_url}/oauth/token", data=form).json()["access_token"]
                client.fault({"kind": "server_error", "operations": ["ledgers"], "after": 1, "count": 2})
                cursor = client.ok("entries", limit=70)["next_cursor"]
            assert client.send("entries", [OURS], key="k").json()["accepted"] == 1
            assert (
                httpx.get(
                    f"{simulator.base_url}{client.path}/accounts",
                    headers={"Authorization": f"Bearer {issued}"},
                ).status_code
                == 200
            )
            seen.append(
                [
                    client.all(),
                    client.ok("totals", digest="true"),
                    client.all("received"),
                    client.all("acknowledgements"),
                    client.ok("entries", cursor=cursor, limit=20),
                ]
            )
            seen.append([client.http.get("/ledgers").status_code for _ in range(2)])
            client.close()
    assert seen[0] == seen[2]
    assert len(seen[0][0]) == 241
    assert (seen[1], seen[3]) == ([200, 503], [503, 200])


def test_reset_makes_it_new(client: Client) -> None:
    new = client.ok("totals", digest="true")
    client.send("entries", [OURS], key="k")
    client.send("acknowledgements", [posted(1)])
    client.admin.post("/admin/late-entries", json={"ledger": "SCB-01", "day": "2024-03-30"})
    client.admin.post("/admin/change-entry", json={"reference": posted(5)["reference"], "amount": "3"})
    client.fault({"kind": "server_error", "operations": ["ledgers"]})
    assert client.admin.post("/admin/reset").status_code == 200
    assert client.http.get("/ledgers").status_code == 200
    assert client.ok("totals", digest="true") == new
    assert client.all("received") == client.all("acknowledgements") == []
    assert client.send("entries", [{**OURS, "amount": "1"}], key="k").json()["accepted"] == 1


def test_faults_that_are_given_at_the_start_take_the_place_of_those_of_the_state(tmp_path: Path) -> None:
    for faults, kinds in ((["slow"], ["slow"]), (None, ["slow"]), (["down"], ["down"]), ([], [])):
        given = None if faults is None else make_faults([{"kind": kind} for kind in faults], "x")
        with running(OPTIONS, state=tmp_path / "state.sqlite", faults=given) as simulator:
            assert [one.fault.kind for one in simulator.bank.switches.current()] == kinds


class TestWhoseItIs:
    @pytest.mark.parametrize(
        ("other", "key"),
        [
            ({"seed": 2}, "seed is 1, not 2"),
            ({"days": 5}, "days is 4, not 5"),
            ({"entries_per_day": 61}, "entries_per_day of SCB-01 is 60, not 61"),
            ({"ledgers": 2}, "ledgers is SCB-01, not SCB-01, SCB-02"),
            ({"currencies": "EUR"}, "currencies of SCB-01 is EUR,USD,JPY,KWD, not EUR"),
            ({"known_share": 0.5}, "known_share of SCB-01 is 0.9, not 0.5"),
        ],
    )
    def test_other_options_are_refused_in_one_sentence(
        self, tmp_path: Path, other: dict[str, object], key: str
    ) -> None:
        state = tmp_path / "state.sqlite"
        Store(state, OPTIONS).close()
        with pytest.raises(UsageError) as raised:
            Store(state, make_options({**SMALL, **other}, "x"))
        assert key in str(raised.value)
        assert str(state) in str(raised.value)
        assert "--state" in str(raised.value)
        Store(state, OPTIONS).close()

    def test_a_second_simulator_on_the_same_state_is_refused(self, tmp_path: Path) -> None:
        with Store(tmp_path / "s", OPTIONS), pytest.raises(UsageError, match="in use by another simulator"):
            Store(tmp_path / "s", OPTIONS)

    @pytest.mark.parametrize(
        "content", [b"not a database at all, but long enough to be looked at" * 100, b"x"]
    )
    def test_a_file_that_is_no_state_is_refused_and_left_as_it_is(
        self, tmp_path: Path, content: bytes
    ) -> None:
        file = tmp_path / "file"
        file.write_bytes(content)
        with pytest.raises(UsageError, match="is not the state of a simulator"):
            Store(file, OPTIONS)
        assert file.read_bytes() == content

    def test_a_database_of_somebody_else_is_refused_and_left_as_it_is(self, tmp_path: Path) -> None:
        file = tmp_path / "file"
        with sqlite3.connect(file) as other:
            other.execute("CREATE TABLE identity (name TEXT)")
        other.close()
        content = file.read_bytes()
        with pytest.raises(UsageError, match="is not the state of a simulator"):
            Store(file, OPTIONS)
        assert file.read_bytes() == content

    def test_an_empty_file_becomes_a_state(self, tmp_path: Path) -> None:
        (tmp_path / "s").touch()
        for _ in range(2):
            Store(tmp_path / "s", OPTIONS).close()

    def test_a_place_that_cannot_be_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        for place in (tmp_path / "file" / "state", tmp_path):
            with pytest.raises(UsageError, match="cannot be used as the simulator's state"):
                Store(place, OPTIONS)


def test_what_fails_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    with Store(tmp_path / "s", OPTIONS) as store:
        with pytest.raises(RuntimeError), store.write() as connection:
            connection.execute("INSERT INTO tokens VALUES ('x', 1)")
            raise RuntimeError
        with store.read() as connection:
            assert connection.execute("SELECT count(*) FROM tokens").fetchone() == (0,)


def test_a_failure_of_its_own_is_a_problem_document_and_leaves_nothing(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    client = served()
    monkeypatch.setattr(told, "_microseconds", lambda _: 1 // 0)
    problem(client.send("entries", [OURS], key="k"), 500, "internal")
    monkeypatch.undo()
    assert client.all("received") == []
    assert client.send("entries", [OURS], key="k").json()["accepted"] == 1


def test_others_may_look_into_the_state_while_it_is_written(served: Served, tmp_path: Path) -> None:
    client = served(state=tmp_path / "s")
    with sqlite3.connect(tmp_path / "s") as other:
        other.execute("BEGIN")
        assert other.execute("SELECT count(*) FROM received").fetchone() == (0,)
        assert client.send("entries", [OURS]).json()["accepted"] == 1
    other.close()


def test_a_write_waits_for_another_process_that_writes(served: Served, tmp_path: Path) -> None:
    client = served(state=tmp_path / "s")
    other = sqlite3.connect(tmp_path / "s", isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    timer = threading.Timer(0.5, other.rollback)
    answers: list[Any] = []
    thread = threading.Thread(
        target=lambda: answers.append(client.send("entries", [OURS]).json()["accepted"])
    )
    thread.start()
    thread.join(0.5)
    assert answers == []
    other.rollback()
    thread.join(30)
    timer.cancel()
    other.close()
    assert answers == [1]


def test_many_clients_at_once_each_get_what_is_right(served: Served) -> None:
    client = served()
    right = client.all(limit=50)
    token = client.http.headers["Authorization"]
    failures: list[BaseException] = []

    def work(number: int) -> None:
        try:
            mine = Client(client.simulator)
            mine.http.headers["Authorization"] = token
            for turn in range(5):
                assert mine.all(limit=50) == right
                sent = [ours(number * 1000 + turn * 10 + one) for one in range(10)]
                assert mine.send("entries", sent, key=f"{number}-{turn}").json()["accepted"] == 10
                assert mine.ok("totals")["count"] == 240
            mine.close()
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(client.all("received", limit=37)) == 400
