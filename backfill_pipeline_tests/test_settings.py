"""What the environment may say, and what is said about it when it is wrong."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from backfill_pipeline import settings as settings_module
from backfill_pipeline.errors import SettingsError
from backfill_pipeline.settings import Settings, default_home, load_settings

CHECKOUT = Path(__file__).resolve().parents[1]
VARIABLES = (
    "LEDGER_DATABASE_URL",
    "BACKFILL_HOME",
    "BACKFILL_SOURCES_DIR",
    "BACKFILL_DAGSTER_DATABASE_URL",
    "BACKFILL_INBOX_DIR",
    "BACKFILL_INBOX_SETTLE_S",
)


@pytest.fixture(autouse=True)
def _empty_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)


def test_nothing_set_means_embedded_ledger_and_the_checkout_s_sources() -> None:
    settings = load_settings()
    assert settings.ledger_database_url is None
    assert settings.dagster_database_url is None
    assert settings.sources_dir == CHECKOUT / "data" / "sources"
    assert settings.inbox_dir == CHECKOUT / "data" / "inbox"
    assert settings.inbox_settle_s == 60
    assert settings.home == default_home()


def test_empty_variable_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in VARIABLES:
        monkeypatch.setenv(variable, "")
    assert load_settings() == Settings()
    assert load_settings().home == default_home()


@pytest.mark.parametrize("seconds", ["0", "-1", "soon", "1.5", "86401"])
def test_the_time_that_files_settle_for_is_whole_seconds_of_a_day(
    monkeypatch: pytest.MonkeyPatch, seconds: str
) -> None:
    monkeypatch.setenv("BACKFILL_INBOX_SETTLE_S", seconds)
    with pytest.raises(
        SettingsError, match=r"^The environment variable BACKFILL_INBOX_SETTLE_S must be .*\.$"
    ):
        load_settings()


def test_home_of_root_is_below_var_lib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_home().parent == Path("/var/lib/ledger-backfill")


@pytest.mark.parametrize(
    ("data_home", "expected"),
    [("/data/home", "/data/home"), ("", "/home/ada/.local/share"), ("relative", "/home/ada/.local/share")],
)
def test_home_of_an_ordinary_user_follows_the_xdg_specification(
    monkeypatch: pytest.MonkeyPatch, data_home: str, expected: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("XDG_DATA_HOME", data_home)
    assert default_home().parent == Path(expected) / "ledger-backfill"


def test_two_checkouts_of_one_name_have_two_homes(monkeypatch: pytest.MonkeyPatch) -> None:
    homes = set()
    for checkout in ("/srv/a/ledger", "/srv/b/ledger"):
        monkeypatch.setattr(settings_module, "checkout_dir", lambda checkout=checkout: Path(checkout))
        homes.add(default_home())
    assert len(homes) == 2
    assert all(home.name.startswith("ledger-") for home in homes)


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://ada:secret@localhost:5432/ledger",
        "postgres://ada:se%40cret@localhost/ledger",
        "postgresql:///ledger?host=/run/postgresql",
        "postgresql+psycopg2://ada@/ledger?host=/run/postgresql",
    ],
)
def test_urls_of_postgresql_are_taken(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setenv("LEDGER_DATABASE_URL", url)
    taken = load_settings().ledger_database_url
    assert taken is not None
    assert taken.get_secret_value() == url
    assert "secret" not in repr(load_settings())


@pytest.mark.parametrize("variable", ["LEDGER_DATABASE_URL", "BACKFILL_DAGSTER_DATABASE_URL"])
@pytest.mark.parametrize(
    "url", ["mysql://ada:hunter2@h/db", "ada:hunter2@h/db", "hunter2", "postgresql://[hunter2/db"]
)
def test_other_urls_are_refused_in_one_sentence_without_the_password(
    monkeypatch: pytest.MonkeyPatch, variable: str, url: str
) -> None:
    monkeypatch.setenv(variable, url)
    with pytest.raises(SettingsError) as caught:
        load_settings()
    message = str(caught.value)
    assert message.startswith(f"The environment variable {variable} ")
    assert message.endswith(".")
    assert "hunter2" not in message
    assert "\n" not in message


def test_relative_paths_and_tilde_are_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ada")
    monkeypatch.setenv("BACKFILL_HOME", "here")
    monkeypatch.setenv("BACKFILL_SOURCES_DIR", "~/sources")
    settings = load_settings()
    assert settings.home == tmp_path / "here"
    assert settings.sources_dir == Path("/home/ada/sources")


def test_home_that_is_a_file_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("BACKFILL_HOME", str(file))
    with pytest.raises(SettingsError, match=f"BACKFILL_HOME is {file}, which is not a directory"):
        load_settings()


def test_prepared_home_keeps_ledger_data_to_its_owner_whatever_the_umask(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("BACKFILL_HOME", str(tmp_path / "new" / "home"))
    settings = load_settings()
    before = os.umask(0o077)
    try:
        settings.prepare_home()
        settings.prepare_home()  # a second time changes nothing
    finally:
        os.umask(before)

    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(tmp_path / "new") == mode(settings.home) == 0o711
    for directory in (settings.dagster_dir, settings.intermediates_dir, settings.rejects_dir):
        assert mode(directory) == 0o700


def test_home_that_cannot_be_made_is_refused_in_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BACKFILL_HOME", "/proc/nowhere")
    with pytest.raises(SettingsError, match="BACKFILL_HOME /proc/nowhere cannot be prepared"):
        load_settings().prepare_home()


def test_reading_the_environment_loads_nothing_heavy() -> None:
    code = (
        "import sys, backfill_pipeline.settings\n"
        "print(sorted({'pandas', 'pyarrow', 'dagster', 'psycopg', 'numpy'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"
