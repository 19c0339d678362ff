"""`backfill scb-simulator`: a simulated Sovereign Central Bank to synchronise a ledger with.

Belongs here: the command's settings from file and command line, its text, and its end on Ctrl-C and SIGTERM.
Does not: the bank (`scb_simulator/`).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backfill_pipeline.cli.exit_codes import ExitCode
from backfill_pipeline.cli.output import console, print_json, remarks
from backfill_pipeline.cli.preload import work_from_now_on
from backfill_pipeline.cli.scb_definitions import write_definitions
from backfill_pipeline.cli.signals import stopped_by_signals
from backfill_pipeline.errors import TerminalError
from backfill_pipeline.scb_simulator.faults import AnyFault, make_faults, written_faults
from backfill_pipeline.scb_simulator.options import Options, make_options, read_file
from backfill_pipeline.scb_simulator.server import Simulator, running
from backfill_pipeline.scb_simulator.tokens import Credentials, from_environment, made_up
from backfill_pipeline.settings import load_settings
from backfill_pipeline.wording import counted

_LOOK_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Place:
    """Where the simulator listens and keeps its state; None is a file below BACKFILL_HOME."""

    host: str
    port: int
    state: Path | None


def simulate(
    place: Place,
    config: Path | None,
    given: Mapping[str, object],
    faults: Sequence[str],
    *,
    definitions: Path | None = None,
    token_lifetime_s: int,
    as_json: bool,
) -> ExitCode:
    """Runs until Ctrl-C or SIGTERM.

    Args:
        place: where.
        config: a YAML file of options and faults.
        given: options of the command line by the names of the file's keys; None where not given.
        faults: as written on the command line; they take the place of the file's.
        definitions: a folder for a source definition of each ledger; None writes none.
        token_lifetime_s: of tokens for client credentials.
        as_json: one JSON object instead of text, once it serves.
    """
    options, switched = _settings(config, given, faults)
    state = _default_state() if place.state is None else place.state.absolute()
    credentials, file = _credentials(state)
    with (
        stopped_by_signals() as stop,
        running(
            options,
            state=state,
            credentials=credentials,
            faults=switched,
            host=place.host,
            port=place.port,
            token_lifetime_s=token_lifetime_s,
        ) as simulator,
    ):
        work_from_now_on()
        written = [] if definitions is None else write_definitions(definitions.absolute(), simulator)
        _tell(simulator, state, file, written, as_json=as_json)
        while not stop.wait(_LOOK_EVERY_S):
            if not simulator.serving():
                raise TerminalError(
                    "the simulator ended by itself: start it again, it goes on with its state"
                )
        remarks.print("stopping")
    return ExitCode.CLEAN


def _settings(
    config: Path | None, given: Mapping[str, object], faults: Sequence[str]
) -> tuple[Options, list[AnyFault] | None]:
    data = {} if config is None else read_file(config)
    where = "the options" if config is None else str(config)
    in_file = data.pop("faults", None)
    switched = written_faults(faults) if faults else None
    if switched is None and in_file is not None:
        switched = make_faults(in_file, where)
    data.update({key: value for key, value in given.items() if value is not None})
    return make_options(data, where), switched


def _default_state() -> Path:
    settings = load_settings()
    settings.prepare_home()
    folder = settings.home / "scb-simulator"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / "state.sqlite"


def _credentials(state: Path) -> tuple[Credentials, Path | None]:
    """Those of the environment; without any, those in a file beside the state, which is named then."""
    found = from_environment(os.environ)
    if found is not None:
        return found, None
    file = state.with_name(f"{state.name}.env")
    return made_up(file), file


def _tell(
    simulator: Simulator, state: Path, file: Path | None, definitions: Sequence[Path], *, as_json: bool
) -> None:
    options = simulator.bank.options
    if as_json:
        print_json(
            {
                "url": simulator.base_url,
                "ledgers": [ledger.id for ledger in options.ledgers],
                "state": str(state),
                "credentials_file": None if file is None else str(file),
                "definitions": [str(path) for path in definitions],
            }
        )
    else:
        console.print(f"SCB simulator  {simulator.base_url}   (Ctrl-C stops)")
        console.print(f"its API        {simulator.base_url}/docs")
        for ledger in options.ledgers:
            console.print(
                f"ledger         {ledger.id}  {counted(options.days, 'day')} from {options.start} in {ledger.timezone},"
                f" {ledger.entries_per_day:,} entries a day in {', '.join(ledger.currencies)}",
                markup=False,
            )
        console.print(f"state          {state}", markup=False)
        console.print(
            "credentials    from the environment" if file is None else f"credentials    . {file}",
            markup=False,
        )
        for path in definitions:
            console.print(f"definition     {path}", markup=False)
        for switch in simulator.bank.switches.current():
            console.print(f"fault          {switch.fault.kind}, struck {switch.fired:,} times so far")
    console.file.flush()
