"""No secret is kept or told anywhere: not in the ledger, files, logs, reports or errors."""

from __future__ import annotations

import json
from base64 import b64encode
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from backfill_pipeline_tests.dual_ledger.conftest import MakeDual
from backfill_pipeline_tests.dual_ledger.hostile import Asked, as_json, hostile_bank
from backfill_pipeline_tests.dual_ledger.syncing import errors, sync, tell
from backfill_pipeline_tests.dual_ledger.world import Dual


def everything_in(url: str) -> str:
    """All rows of all tables of a database, as text."""
    with psycopg.connect(url, autocommit=True) as connection:
        tables = connection.execute(
            "SELECT table_schema, table_name FROM information_schema.tables"
            " WHERE table_type = 'BASE TABLE' AND table_schema NOT IN ('pg_catalog', 'information_schema')"
        ).fetchall()
        return "\n".join(
            str(row[0])
            for schema, table in tables
            for row in connection.execute(
                sql.SQL("SELECT t::text FROM {}.{} AS t").format(
                    sql.Identifier(schema), sql.Identifier(table)
                )
            )
        )


def forms(secrets: list[str]) -> list[str]:
    """A secret as it may be written."""
    return [
        form
        for one in secrets
        for form in {one, quote(one, safe=""), b64encode(one.encode()).decode(), one.encode().hex()}
    ]


def assert_hidden(dual: Dual, secrets: list[str], *texts: str) -> None:
    kept = everything_in(dual.url) + "\n".join(texts)
    for file in dual.folder.rglob("*"):
        if file.is_file() and file.suffix != ".sqlite":
            kept += file.read_bytes().decode("latin-1")
    assert "SCB-01-20240329-000000001" in kept, "nothing was looked at"
    found = [form[:3] for form in forms(secrets) if form in kept]
    assert not found, "a secret was kept"


@pytest.mark.parametrize("auth", [pytest.param("bearer", marks=pytest.mark.slow), "oauth2"])
def test_after_a_sync_with_faults_no_secret_is_anywhere(make_dual: MakeDual, auth: str) -> None:
    dual = make_dual()
    dual.write_scb(auth=auth, scb={"backoff_s": 0, "max_attempts": 3, "page_size": 15})
    dual.faults(
        {"kind": "expired_token", "probability": 0.3, "seed": 4},
        {"kind": "server_error", "probability": 0.2, "seed": 5},
        {"kind": "truncated", "probability": 0.1, "seed": 6},
    )
    log: list[str] = []
    reports = sync(dual, log=log)
    dual.post_here("OURS-1")
    report = tell(dual)
    dual.faults()
    dual.later()
    reports += sync(dual, log=log)
    secrets = [one for one in dual.environment.values() if one]
    assert_hidden(dual, secrets, repr(reports), *log, *errors(reports), repr(report))


def test_a_bank_that_says_our_secrets_aloud_is_not_quoted(
    make_dual: MakeDual, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Headers of ours in error pages, in refusals of items, in their codes."""
    dual = make_dual()
    sync(dual, days=dual.days()[:1])
    secret = "s3cr3t/with+odd=characters"
    monkeypatch.setenv("SCB_SIMULATOR_TOKEN", secret)

    def answer(asked: Asked) -> tuple[int, dict[str, str], bytes]:
        aloud = " ".join(f"{name}: {value}" for name, value in asked.headers.items())
        if asked.method == "POST":
            items = next(iter(json.loads(asked.body).values()))
            return as_json(
                {
                    "results": [
                        {"index": index, "reference": one["reference"], "result": "refused", "status": 422,
                         "code": f"why {secret}", "detail": aloud}
                        for index, one in enumerate(items)
                    ]
                },
                207,
            )  # fmt: skip
        return as_json({"detail": aloud, "code": secret}, (400, 403, 422, 500)[len(bank.asked) % 4])

    with hostile_bank(answer) as bank:
        dual.write_scb(scb={"base_url": bank.url, "max_attempts": 2})
        dual.post_here("OURS-1")
        log: list[str] = []
        reports = sync(dual, log=log)
        told = tell(dual)
        assert any(one.method == "POST" for one in bank.asked)
        assert all(secret in one.headers["Authorization"] for one in bank.asked)
    assert {one.outcome for one in reports} == {"failed"}
    assert_hidden(dual, [secret], repr(reports), *log, *errors(reports), repr(told))
    assert dual.outbox()[-1][4] is not None
