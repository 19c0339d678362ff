"""Products that load a CSV into PostgreSQL: pgloader and dlt.

Belongs here: how they are called, in processes of their own.
Does not: what dlt is told inside its process (`dlt_load.py`).
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Final
from urllib.parse import quote

from backfill_pipeline.bench.figures import Figures, insist
from backfill_pipeline.bench.rivals.common import (
    ENTRIES_TABLE,
    create_entries_table,
    export_file,
    insist_on_rows,
    ledger_with_accounts,
)
from backfill_pipeline.bench.workloads import Bench
from backfill_pipeline.ledger.connection import Connection
from backfill_pipeline.local.dirt import COLUMNS

_TARGETS: Final = {
    "booking_id": "reference_id",
    "booked_at": "timestamp_utc",
    "debit_account": "debit_account_id",
    "credit_account": "credit_account_id",
    "amount": "amount",
    "currency": "currency_code",
    "kind": "transaction_type",
    "fx_rate": "fx_rate",
}
"""Column of the export → column of the ledger. The others would need a function of their own to become metadata."""

DLT_SCHEMA: Final = "dlt_rival"
DLT_TABLE: Final = "entries"
_TIMEOUT_S: Final = 1800


def pgloader_missing() -> str:
    """Why pgloader cannot be measured here, or "" when it can."""
    return "" if shutil.which("pgloader") else "pgloader is not on the PATH: install it (Debian: pgloader)"


def pgloader(bench: Bench) -> Figures:
    """pgloader: the CSV into a table with the ledger's keys and checks.

    It keeps rows that the table refuses in a file of their own and goes on. No balances, no metadata, nothing that
    tells a duplicate from a conflict, no resuming. Its process is measured as a user starts it.
    """
    with ledger_with_accounts(bench) as connection, tempfile.TemporaryDirectory(dir=bench.home) as scratch:
        create_entries_table(connection)
        info = connection.info
        script = Path(scratch) / "entries.load"
        fields = ", ".join(
            f"{_TARGETS.get(column, column)} [null if blanks]"
            if column == "fx_rate"
            else _TARGETS.get(column, column)
            for column in COLUMNS
        )
        script.write_text(
            f"LOAD CSV FROM '{export_file(bench)}' ({fields})\n"
            f"INTO postgresql://{info.user}@unix:{info.host}:{info.port}/{info.dbname}\n"
            f"TARGET TABLE {ENTRIES_TABLE} ({', '.join(_TARGETS.values())})\n"
            "WITH skip header = 1, fields optionally enclosed by '\"', fields escaped by double-quote,"
            " fields terminated by ',';\n",
            encoding="utf-8",
        )
        started = time.monotonic()
        done = subprocess.run(
            ["pgloader", "--root-dir", str(Path(scratch) / "rejects"), str(script)],  # noqa: S607 - the user's own
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        seconds = time.monotonic() - started
        insist(
            done.returncode == 0,
            "pgloader",
            f"ended with {done.returncode}: {(done.stdout + done.stderr)[-500:]}",
        )
        insist_on_rows(connection, ENTRIES_TABLE, bench.entries.num_rows, "pgloader")
    return {"seconds": seconds, "entries": float(bench.entries.num_rows)}


def dlt_missing() -> str:
    """Why dlt cannot be measured here, or "" when it can."""
    for module in ("dlt", "adbc_driver_postgresql"):
        if importlib.util.find_spec(module) is None:
            return f"{module} is not installed: pip install '.[bench]'"
    return ""


def dlt_arrow(bench: Bench) -> Figures:
    """dlt: Arrow tables from the CSV, appended through ADBC to a table that dlt makes.

    It resumes a load that was killed after its extraction and keeps what was loaded when. No keys and so no duplicates
    told, no balances, metadata as columns. Measured is `pipeline.run`, without starting Python and
    importing dlt.
    """
    with ledger_with_accounts(bench) as connection, tempfile.TemporaryDirectory(dir=bench.home) as scratch:
        seconds = _run_dlt(export_file(bench), connection, Path(scratch))
        insist_on_rows(connection, DLT_TABLE, bench.entries.num_rows, "dlt", schema=DLT_SCHEMA)
    return {"seconds": seconds, "entries": float(bench.entries.num_rows)}


def _run_dlt(export: Path, connection: Connection, scratch: Path) -> float:
    """In a process of its own: its settings come from the environment and must not stay in ours; its seconds."""
    info = connection.info
    # dlt asks for a password and a host; libpq takes the socket's directory behind them, which asks for neither.
    url = (
        f"postgresql://{info.user}:none@localhost:{info.port}/{info.dbname}?host={quote(info.host, safe='')}"
    )
    done = subprocess.run(
        [sys.executable, "-m", "backfill_pipeline.bench.rivals.dlt_load", str(export), DLT_SCHEMA, DLT_TABLE],
        input=url,
        env={
            **os.environ,
            "DLT_DATA_DIR": str(scratch),
            "RUNTIME__DLTHUB_TELEMETRY": "false",
            "RUNTIME__LOG_LEVEL": "ERROR",
        },
        capture_output=True,
        text=True,
        timeout=_TIMEOUT_S,
        check=False,
    )
    insist(done.returncode == 0, "dlt", f"ended with {done.returncode}: {done.stderr[-500:]}")
    return float(json.loads(done.stdout.splitlines()[-1]))
