"""`backfill metrics`: figures of the ledger for a monitoring system.

Belongs here: the command, its exit code, and which ledger is looked at.
Does not: the metrics (`reporting/metrics/`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from backfill_pipeline.cli.exit_codes import ExitCode

metrics_app = typer.Typer()


@metrics_app.command()
def metrics(
    serve: Annotated[
        int | None,
        typer.Option(
            metavar="PORT", min=0, max=65535, help="Serve them over HTTP until Ctrl-C; 0 is a free port."
        ),
    ] = None,
    host: Annotated[str, typer.Option(help="With --serve: the address to listen on.")] = "127.0.0.1",
) -> None:
    """Print metrics of the ledger in the OpenMetrics format, or serve them for Prometheus. Changes nothing.

    Exit codes: 0 good, 1 the ledger cannot be looked at (backfill_up 0 is printed), 2 usage.
    """
    raise typer.Exit(_print() if serve is None else _serve(host, serve))


def _print() -> ExitCode:
    from collections import Counter

    from backfill_pipeline.cli.output import remarks
    from backfill_pipeline.ledger.monitoring.snapshot import Unavailable, look
    from backfill_pipeline.reporting.metrics.exporter import exposition

    with _ledger_url() as url:
        found = look(url)
    is_down = isinstance(found, Unavailable)
    typer.echo(exposition(found, Counter([found.reason] if isinstance(found, Unavailable) else [])), nl=False)
    if isinstance(found, Unavailable):
        remarks.print(f"backfill: {found.sentence}", markup=False)
    return ExitCode.FAILED if is_down else ExitCode.CLEAN


def _serve(host: str, port: int) -> ExitCode:
    from backfill_pipeline.cli.output import console, remarks
    from backfill_pipeline.cli.preload import work_from_now_on
    from backfill_pipeline.cli.signals import stopped_by_signals
    from backfill_pipeline.ledger.monitoring.snapshot import look
    from backfill_pipeline.reporting.metrics.exporter import Exporter
    from backfill_pipeline.reporting.metrics.server import serving

    with stopped_by_signals() as stop, _ledger_url() as url:
        exporter = Exporter(lambda: look(url), say=lambda said: remarks.print(said, markup=False))
        with serving(exporter, host=host, port=port) as address:
            work_from_now_on()
            console.print(f"metrics  {address}   (Ctrl-C stops)")
            console.file.flush()
            stop.wait()
            remarks.print("stopping")
    return ExitCode.CLEAN


@contextmanager
def _ledger_url() -> Iterator[str]:
    """The ledger's address; an embedded server is started, and kept for the length of the block.

    A server of one's own is not asked for anything here, and no database is made on it: it may be down.
    """
    from backfill_pipeline.local.embedded import embedded_server
    from backfill_pipeline.local.endpoint import EMBEDDED_LEDGER_DATABASE, normalise_url
    from backfill_pipeline.settings import load_settings

    settings = load_settings()
    given = settings.ledger_database_url
    if given is not None:
        yield normalise_url(given.get_secret_value(), "LEDGER_DATABASE_URL")
        return
    settings.prepare_home()
    with embedded_server(settings.home) as server:
        yield server.url(EMBEDDED_LEDGER_DATABASE)
