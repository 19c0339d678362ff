"""The machine and what people write: each problem made, and found."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from backfill_pipeline.doctor import environment, machine
from backfill_pipeline.doctor.finding import Finding, Outcome
from backfill_pipeline.settings import Settings, load_settings
from backfill_pipeline_tests.stages.world import CHECKOUT, World

NOBODY = 65_534


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A home that is there, and an empty folder of sources."""
    (tmp_path / "sources").mkdir()
    monkeypatch.setenv("BACKFILL_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("BACKFILL_SOURCES_DIR", str(tmp_path / "sources"))
    monkeypatch.chdir(tmp_path)
    found = load_settings()
    found.prepare_home()
    return found


def said(finding: Finding) -> tuple[Outcome, str]:
    return finding.outcome, f"{finding.sentence} $ {finding.remedy}"


def test_this_machine_has_what_the_product_asks_for() -> None:
    assert machine.check_python().outcome is Outcome.OK
    assert machine.check_client().outcome is Outcome.OK
    assert machine.check_packages().outcome in (Outcome.OK, Outcome.WARNING)  # never what would stop it


def test_a_package_that_differs_from_the_lock_is_named(tmp_path: Path) -> None:
    lock = tmp_path / "requirements.lock"
    lock.write_text(
        "psutil==0.0.1 \\\n    --hash=sha256:aa\nno-such-thing[extra]==1.0 \\\nelsewhere==1 ; sys_platform == 'win32' \\\n"
    )
    outcome, text = said(machine.check_packages(lock))
    assert outcome is Outcome.WARNING
    assert "2 packages differ: no-such-thing is missing (locked: 1.0), psutil " in text
    assert text.endswith("$ make")


def test_a_home_that_is_well(settings: Settings) -> None:
    assert machine.check_home(settings).outcome is Outcome.OK


def test_a_home_that_is_not_there_is_not_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFILL_HOME", str(tmp_path / "a" / "home"))
    finding = machine.check_home(load_settings())
    assert finding.outcome is Outcome.OK
    assert "the first command makes it" in finding.sentence
    assert not (tmp_path / "a").exists()


def test_a_home_below_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("BACKFILL_HOME", str(tmp_path / "file" / "home"))
    outcome, text = said(machine.check_home(load_settings()))
    assert outcome is Outcome.PROBLEM
    assert f"{tmp_path / 'file'} is not a directory $ export BACKFILL_HOME=" in text


def test_a_home_that_is_read_only(settings: Settings) -> None:
    settings.home.chmod(0o555)
    with not_as_root():
        outcome, text = said(machine.check_home(settings))
    assert outcome is Outcome.PROBLEM
    assert "is read-only for this user" in text


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")
def test_a_home_and_a_folder_in_it_of_somebody_else(settings: Settings) -> None:
    os.chown(settings.rejects_dir, NOBODY, NOBODY)
    outcome, text = said(machine.check_home(settings))
    assert outcome is Outcome.PROBLEM
    assert f"$ sudo chown -R 0 {settings.rejects_dir}" in text
    os.chown(settings.home, NOBODY, NOBODY)
    outcome, text = said(machine.check_home(settings))
    assert outcome is Outcome.PROBLEM
    assert f"belongs to user {NOBODY} and not to you" in text


@contextmanager
def not_as_root() -> Iterator[None]:
    """Root may write everywhere; whoever else runs this stays who he is."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def test_data_that_others_can_read_or_write(settings: Settings) -> None:
    settings.rejects_dir.chmod(0o750)
    outcome, text = said(machine.check_home(settings))
    assert outcome is Outcome.PROBLEM
    assert text.endswith(f"$ chmod 700 {settings.rejects_dir}")
    settings.rejects_dir.chmod(0o700)
    settings.home.chmod(0o777)
    assert said(machine.check_home(settings))[1].endswith(f"$ chmod o-w {settings.home}")


@pytest.mark.skipif(not os.access("/dev/shm", os.W_OK), reason="there is no memory to lie in")
def test_a_home_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFILL_HOME", "/dev/shm/not-made-by-a-test")
    outcome, text = said(machine.check_storage(load_settings()))
    assert outcome is Outcome.WARNING
    assert "lies in memory" in text


def test_room_on_the_disk(settings: Settings) -> None:
    assert machine.check_disk(settings, 0, machine.FREE_BYTES_MIN).outcome is Outcome.OK
    assert machine.check_disk(settings, 0, machine.FREE_BYTES_MIN - 1).outcome is Outcome.PROBLEM
    source_bytes = machine.GIB
    assert machine.check_disk(settings, source_bytes, 6 * source_bytes).outcome is Outcome.OK
    outcome, text = said(machine.check_disk(settings, source_bytes, 6 * source_bytes - 1))
    assert outcome is Outcome.WARNING
    assert "the largest source (1.0 GiB) may take about 6.0 GiB" in text


def test_the_largest_source_counts(settings: Settings) -> None:
    world = World("", settings.sources_dir.parent)
    world.write("s", [])
    file = settings.sources_dir / "s.csv"
    file.write_bytes(b"x" * 12_345)
    assert environment.largest_source_bytes(settings) == 12_345


def test_memory_of_the_machine() -> None:
    assert machine.check_memory(machine.AVAILABLE_BYTES_MIN).outcome is Outcome.OK
    assert machine.check_memory(machine.AVAILABLE_BYTES_MIN - 1).outcome is Outcome.WARNING
    assert machine.check_shared_memory(Path("/"), machine.SHARED_BYTES_MIN).outcome is Outcome.OK
    assert machine.check_shared_memory(Path("/"), machine.SHARED_BYTES_MIN - 1).outcome is Outcome.WARNING
    assert machine.check_shared_memory(Path("/nowhere")).outcome is Outcome.NOT_LOOKED


def test_half_a_channel_of_alerts(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("BACKFILL_ALERT_")]:
        monkeypatch.delenv(name)
    assert environment.check_alerts().outcome is Outcome.OK
    monkeypatch.setenv("BACKFILL_ALERT_SMTP_URL", "smtp://u:hidden-word@mail.example.org:587")
    outcome, text = said(environment.check_alerts())
    assert outcome is Outcome.PROBLEM
    assert "BACKFILL_ALERT_EMAIL_TO is not set" in text
    assert "hidden-word" not in text


def test_sources_that_cannot_be_used_and_exports_that_are_gone(settings: Settings) -> None:
    assert environment.check_sources(settings).outcome is Outcome.NOT_LOOKED
    world = World("", settings.sources_dir.parent)
    world.write("good", [])
    assert environment.check_sources(settings).outcome is Outcome.OK
    export = settings.sources_dir / "good.csv"
    export.unlink()
    outcome, text = said(environment.check_sources(settings))
    assert outcome is Outcome.WARNING
    assert f"{export} of source good is not there" in text
    (settings.sources_dir / "bad.yaml").write_text("id: [\n")
    outcome, text = said(environment.check_sources(settings))
    assert outcome is Outcome.PROBLEM
    assert "1 of 2 source files cannot be used: " in text
    assert text.endswith("$ backfill sources check")


def test_there_is_no_folder_of_sources(settings: Settings) -> None:
    settings.sources_dir.rmdir()
    outcome, text = said(environment.check_sources(settings))
    assert outcome is Outcome.WARNING
    assert text.endswith(f"$ mkdir -p {settings.sources_dir}")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", "LEDGER_DATABASE_URL=postgresql://ana:word@db/ledger\n"),
        ("prod.env", "export BANK_TOKEN=abc\n"),
        ("seal.key", "-----BEGIN PRIVATE KEY-----\n"),
        (".pgpass", "db:5432:ledger:ana:word\n"),
        ("sources/s.yml", "# postgresql://ana:word@db/ledger\n"),
    ],
)
def test_a_file_with_a_secret_that_others_can_read(settings: Settings, name: str, text: str) -> None:
    file = Path.cwd() / name
    file.write_text(text)
    file.chmod(0o644)
    outcome, shown = said(environment.check_secrets(settings))
    assert outcome is Outcome.PROBLEM
    assert f"$ chmod 600 {file}" in shown
    assert "word" not in shown
    file.chmod(0o600)
    assert environment.check_secrets(settings).outcome is Outcome.OK


def test_the_checkout_itself_holds_no_secret(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFILL_SOURCES_DIR", str(CHECKOUT / "data" / "sources"))
    assert environment.check_secrets(load_settings()).outcome is Outcome.OK
