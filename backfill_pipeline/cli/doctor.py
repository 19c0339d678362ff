"""`backfill doctor`: everything around the product that may be wrong, and what to do about it.

Belongs here: the command, the order of the checks, text, JSON and exit codes.
Does not: the checks (`doctor/`).
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING

import typer
from rich.text import Text

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.options import Json
from backfill_pipeline.cli.output import console, print_json

if TYPE_CHECKING:
    from backfill_pipeline.doctor.finding import Finding
    from backfill_pipeline.settings import Settings

_STYLES = {"ok": "green", "warning": "yellow", "problem": "red", "not looked": "dim"}
_OUTCOME_WIDTH = max(map(len, _STYLES))
_SETTINGS_REMEDY = "env | cut -d= -f1 | grep -E 'BACKFILL_|LEDGER_'  # then correct the one that is named"


def doctor(json: Json = False) -> None:
    """Look at versions, connections, schema, rights, room, clock, settings and leftovers, and say what to do.

    Changes nothing. An embedded server that stands still is started for the look and stopped again.

    Exit codes: 0 nothing is wrong, 1 there is a problem, 2 usage, 3 there are warnings and no problem.
    """
    from backfill_pipeline.doctor.environment import secrets_of_environment
    from backfill_pipeline.doctor.finding import Outcome, harmless

    secrets = secrets_of_environment()
    found = [harmless(one, secrets) for one in _examined()]
    outcomes = {one.outcome for one in found}
    if json:
        worst = next((one for one in (Outcome.PROBLEM, Outcome.WARNING) if one in outcomes), Outcome.OK)
        checks = [
            {"name": one.name, "outcome": one.outcome, "sentence": one.sentence, "remedy": one.remedy}
            for one in found
        ]
        print_json({"outcome": worst, "checks": checks})
    else:
        _show(found)
    from_worst = {Outcome.PROBLEM: ExitCode.FAILED, Outcome.WARNING: ExitCode.REJECTS_OR_REFUSED}
    code = next((code for outcome, code in from_worst.items() if outcome in outcomes), ExitCode.CLEAN)
    raise typer.Exit(code)


def _examined() -> list[Finding]:
    from backfill_pipeline.doctor import environment, machine
    from backfill_pipeline.doctor.finding import looked, not_looked, ok, problem
    from backfill_pipeline.errors import SettingsError
    from backfill_pipeline.settings import load_settings

    found = [
        looked("python", machine.check_python, "make"),
        looked("packages", machine.check_packages, "make"),
        looked("client", machine.check_client, "make"),
        looked("memory", machine.check_memory),
        looked("shared memory", machine.check_shared_memory),
        looked("alerts", environment.check_alerts),
    ]
    try:
        settings = load_settings()
    except SettingsError as error:
        found.append(problem("settings", str(error), _SETTINGS_REMEDY))
        found.append(not_looked("home, sources, server", "the settings cannot be used"))
        return found
    found.append(ok("settings", "every variable that is set can be used (docs/reference/settings.md)"))
    found += [
        looked("secrets", lambda: environment.check_secrets(settings)),
        looked("sources", lambda: environment.check_sources(settings), "backfill sources check"),
        looked("home", lambda: machine.check_home(settings), f"ls -ld {settings.home}"),
        looked("storage", lambda: machine.check_storage(settings)),
        looked("disk", lambda: _disk(settings), f"df -h {settings.home}"),
    ]
    return found + _of_servers(settings)


def _disk(settings: Settings) -> Finding:
    from backfill_pipeline.doctor.environment import largest_source_bytes
    from backfill_pipeline.doctor.machine import check_disk

    return check_disk(settings, largest_source_bytes(settings))


def _of_servers(settings: Settings) -> list[Finding]:
    from concurrent.futures import ThreadPoolExecutor

    from backfill_pipeline.doctor.finding import looked, not_looked, problem
    from backfill_pipeline.doctor.leftovers import RecordsLook, check_up
    from backfill_pipeline.doctor.reach import reached
    from backfill_pipeline.doctor.server import LedgerLook
    from backfill_pipeline.errors import BackfillError

    up = looked("UI", lambda: check_up(settings))
    try:
        with reached(settings) as way:
            if way.ledger_url is None or way.dagster_url is None:
                return [way.finding, not_looked("ledger", "there is no server to look at"), up]
            records = RecordsLook(way.dagster_url, settings)
            # Side by side: a server that hangs is waited for once.
            with ThreadPoolExecutor(1) as pool:
                of_records = pool.submit(records.findings)
                of_ledger = LedgerLook(way.ledger_url).findings()
                return [way.finding, *of_ledger, *of_records.result(), up]
    except BackfillError as error:
        return [problem("settings", str(error), _SETTINGS_REMEDY), up]


def _show(found: list[Finding]) -> None:
    width = max(len(one.name) for one in found)
    for (outcome, sentence, remedy), group in groupby(
        found, key=lambda one: (one.outcome, one.sentence, one.remedy)
    ):
        names = [one.name for one in group]
        line = Text(f"{outcome:<{_OUTCOME_WIDTH}}", style=_STYLES[outcome])
        line.append(f"  {names[0] if len(names) == 1 else f'{len(names)} checks':<{width}}  ", style="bold")
        line.append(sentence if len(names) == 1 else f"{sentence}: {', '.join(names)}", style="default")
        console.print(line)
        if remedy is not None:
            console.print(Text(f"{'':<{_OUTCOME_WIDTH + width + 4}}$ {remedy}"))
    counts = {name: sum(one.outcome == name for one in found) for name in _STYLES}
    console.print(
        ", ".join(f"{number:,} {_plural(name, number)}" for name, number in counts.items() if number)
    )


def _plural(outcome: str, number: int) -> str:
    return f"{outcome}s" if outcome in ("warning", "problem") and number != 1 else outcome
