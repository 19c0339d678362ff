"""A browser, and one Dagster UI that all tests of this folder look at.

Belongs here: Chromium, `backfill up` on a fresh home with its sources and its simulated bank, and what is kept of a test.
Does not: how Dagster's pages are worked (`dagster_ui.py`).

Starting a UI takes ten seconds, so there is one; each test has sources of its own in it. The tests run in the order of
their files in one process: what has to wait for Dagster's clock has waited meanwhile.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backfill_pipeline_tests.cli.command import Backfill
from backfill_pipeline_tests.dual_ledger.world import running_dual
from backfill_pipeline_tests.postgresql import walkable_directory
from backfill_pipeline_tests.stages.world import CHECKOUT, World, entries, entry

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

    from backfill_pipeline_tests.ui.dagster_ui import DagsterUi

# Without `make test-ui`'s set-up there is no Playwright; then nothing of this folder is collected, and `make test-ui`
# fails, because pytest found no test.
collect_ignore_glob = [] if importlib.util.find_spec("playwright") else ["*.py"]

ARTEFACTS = Path(os.environ.get("BACKFILL_UI_ARTEFACTS", CHECKOUT / "build" / "test-ui"))
"""Screenshots of all tests, and a trace of each that failed (`playwright show-trace FILE`)."""
DESKTOP = {"width": 1400, "height": 900}
PHONE = {"width": 360, "height": 740}
OWNER = "team:payments-desk"
"""Of the source `payments`."""
_UP_TIMEOUT_S = 60


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    if program is None:
        pytest.fail("no Chromium: install Debian's package chromium (as root, `make test-ui` does)")
    # Its sandbox refuses to run as root, and /dev/shm is small in containers. The pages are our own.
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=program, args=["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        )
        yield browser
        browser.close()


@dataclass(frozen=True)
class Operator:
    """A running UI, the command on the same home, and the sources that both know.

    Attributes:
        url: of the UI.
        backfill: the command.
        world: writes sources, and looks into the ledger.
        bank_days: those of the bank scb_01 that ended before today.
        night: when the schedule of the bank ticks, once.
    """

    url: str
    backfill: Backfill
    world: World
    bank_days: tuple[date, ...]
    night: datetime

    def balance(self, account: str) -> object:
        return self.world.value("SELECT balance FROM bank_accounts WHERE id = %s", account)


@pytest.fixture(scope="session")
def operator() -> Iterator[Operator]:
    """`backfill up` on a fresh home with its embedded server."""
    started = datetime.now(UTC)
    # So late that the daemon is there and sees it pass, however slow the machine, and once only: the next one is tomorrow.
    night = started.replace(second=0, microsecond=0) + timedelta(minutes=2)
    first_day = night.date() - timedelta(days=2)
    with (
        walkable_directory() as folder,
        running_dual(
            "", folder, start=first_day.isoformat(), days=2, entries_per_day=40, timezone="UTC"
        ) as bank,
    ):
        world = World("", folder)
        _write_sources(world)
        bank.write_scb(scb={"nightly": {"cron": f"{night.minute} {night.hour} * * *"}}, max_error_rate="0")
        command = Backfill(
            folder / "home", None, folder / "sources", extra={**bank.environment, "BACKFILL_PLOTS": "on"}
        )
        with _up(command) as url:
            world.url = command.ledger_url
            yield Operator(url, command, world, (first_day, first_day + timedelta(days=1)), night)


def _write_sources(world: World) -> None:
    """The bundled sample as it is, and a source for each thing that can be wrong."""
    sources = world.folder / "sources"
    sources.mkdir(exist_ok=True)
    shutil.copy(CHECKOUT / "data" / "sources" / "sample.yaml", sources)
    shutil.copytree(CHECKOUT / "data" / "sample", world.folder / "sample")
    rows = entries(40)
    rows[14] = entry(15, debit="LATE")
    world.write("payments", rows, accounts={"A": 1, "B": 9000, "C": 1}, owners=[OWNER])
    # OVERDRAWN pays more than it has; what it gets later is in a source of its own.
    world.write(
        "rent",
        [entry(9001, debit="LANDLORD", credit="OVERDRAWN", amount="250.00")],
        accounts=["LANDLORD", "OVERDRAWN"],
    )
    world.write(
        "deposit",
        [entry(9002, debit="OVERDRAWN", credit="TILL", amount="300.00")],
        accounts={"OVERDRAWN": 0, "TILL": 1000},
    )


@contextmanager
def _up(command: Backfill) -> Iterator[str]:
    """The UI, until the block ends. SIGTERM ends it, since a Ctrl-C does nothing where these tests run in the background."""
    with command.started("up") as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"Dagster UI  (http://\S+)", line)
        if found is None:
            assert process.stderr is not None
            pytest.fail(f"backfill up printed {line!r} and {process.stderr.read()!r}")
        yield found[1]
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=_UP_TIMEOUT_S)
        assert process.returncode == 0


@contextmanager
def _recorded(browser: Browser, name: str, failed: Callable[[], bool]) -> Iterator[Page]:
    """A page of desktop size; its last look is kept, and its trace when `failed` says so at the end."""
    ARTEFACTS.mkdir(parents=True, exist_ok=True)
    trace = ARTEFACTS / f"{name}.zip"
    trace.unlink(missing_ok=True)
    context = browser.new_context(viewport=DESKTOP, timezone_id="UTC", locale="en-GB")
    context.tracing.start(screenshots=True, snapshots=True)
    page = context.new_page()
    raised = True
    try:
        yield page
        raised = False
    finally:
        page.screenshot(path=ARTEFACTS / f"{name}.png")
        context.tracing.stop(path=trace if raised or failed() else None)
        context.close()


@pytest.fixture
def page(browser: Browser, request: pytest.FixtureRequest) -> Iterator[Page]:
    """An empty page, recorded under the name of the test."""
    before = request.session.testsfailed
    name = re.sub(r"\W+", "-", request.node.name)
    # A test's outcome is known before its fixtures end.
    with _recorded(browser, name, lambda: request.session.testsfailed > before) as page:
        yield page


@pytest.fixture(scope="session")
def poisoned(operator: Operator, browser: Browser) -> str:
    """The source `payments` is launched from the UI, and will fail in one partition; returns the address of its backfill.

    Asked for early, so that the daemon's next look goes by during another test.
    """
    from backfill_pipeline_tests.ui.dagster_ui import DagsterUi

    with _recorded(browser, "poisoned", lambda: False) as page:
        ui = DagsterUi(page, operator.url)
        ui.find_asset("payments", "manifest")
        ui.materialize()
        ui.launch_partitions("backfill_payments", "All")
        return page.url


@pytest.fixture
def ui(operator: Operator, page: Page) -> DagsterUi:
    """Dagster's pages."""
    from backfill_pipeline_tests.ui.dagster_ui import DagsterUi

    return DagsterUi(page, operator.url)
