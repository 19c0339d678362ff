"""Checks of what people write: variables, source files, files with secrets.

Belongs here: what can be read without any server.
Does not: the machine (`machine.py`), servers (`server.py`).
"""

from __future__ import annotations

import os
import re
import shlex
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

from backfill_pipeline.definition.catalogue import find_sources
from backfill_pipeline.definition.models import SourceDefinition
from backfill_pipeline.doctor.finding import Finding, not_looked, ok, problem, warning
from backfill_pipeline.errors import SettingsError, SourceDefinitionError
from backfill_pipeline.settings import Settings, checkout_dir, load_alert_settings
from backfill_pipeline.wording import counted

_SECRET_NAME: Final = re.compile(r"(URL|SECRET|TOKEN|PASSWORD|PASSWD|KEY)$")
# What such files hold: a URL with a password, or a variable that is a secret by its name.
_SECRET_TEXT: Final = re.compile(
    rb"://[^\s/:@]*:[^\s/@]+@|PRIVATE KEY-----"
    rb"|^\s*(export\s+)?\w*(secret|token|password|passwd|smtp_url|slack_webhook_url)\s*=\s*\S",
    re.MULTILINE | re.IGNORECASE,
)
_READ_BYTES_MAX: Final = 1 << 20
_READABLE: Final = stat.S_IRGRP | stat.S_IROTH
_CHANNELS: Final = "env | cut -d= -f1 | grep BACKFILL_ALERT_  # then set or unset the one that is named"


def secrets_of_environment() -> frozenset[str]:
    """What must be shown to nobody: passwords in URLs of the environment, and values whose names say that they are."""
    found: set[str] = set()
    for name, value in os.environ.items():
        if not _SECRET_NAME.search(name) or not value:
            continue
        found |= _passwords(value)
        if not name.endswith("URL"):
            found.add(value)
        elif "WEBHOOK" in name:  # whoever knows the path of such an address may post there
            found |= {value, urlsplit(value).path.strip("/")} if _is_url(value) else {value}
    return frozenset(found)


def _passwords(url: str) -> set[str]:
    # By hand: what libpq and urlsplit cannot read is what most likely has a password in the wrong place.
    found = set()
    _, separator, rest = url.partition("://")
    user, at, _ = rest.rpartition("@")
    if separator and at and ":" in user:
        written = user.partition(":")[2]
        found |= {written, unquote(written), *written.split("@")}
    for match in re.finditer(r"[?&\s](?:ssl)?password=([^&\s]+)", url):
        found |= {match[1], unquote(match[1])}
    return found


def _is_url(value: str) -> bool:
    try:
        return bool(urlsplit(value).netloc)
    except ValueError:
        return False


def check_alerts() -> Finding:
    """The channels of alerts: set as a whole or not at all."""
    try:
        settings = load_alert_settings()
    except SettingsError as error:
        return problem("alerts", f"alerts reach nobody: {error}", _CHANNELS)
    names = [
        name
        for name, value in (
            ("webhook", settings.webhook_url),
            ("Slack", settings.slack_webhook_url),
            ("mail", settings.email_to),
        )
        if value
    ]
    if not names:
        return ok("alerts", "no channel is set, so nobody is told of failures (docs/alerts.md)")
    return ok("alerts", f"{', '.join(names)}; backfill alerts test tries them")


def usable_sources(settings: Settings) -> dict[str, SourceDefinition | SourceDefinitionError]:
    """Sources by id, and what is wrong with those that are no use."""
    return find_sources(settings.sources_dir, settings.registered_sources_dir)


def check_sources(settings: Settings) -> Finding:
    """Source files: each of them can be used, and the exports that they name are there."""
    if not settings.sources_dir.is_dir():
        return warning(
            "sources",
            f"there is no folder {settings.sources_dir} (BACKFILL_SOURCES_DIR)",
            shlex.join(["mkdir", "-p", str(settings.sources_dir)]),
        )
    found = usable_sources(settings)
    broken = [one for one in found.values() if isinstance(one, SourceDefinitionError)]
    if broken:
        more = f"; and {len(broken) - 1:,} more" if len(broken) > 1 else ""
        return problem(
            "sources",
            f"{len(broken):,} of {counted(len(found), 'source file')} cannot be used: {broken[0]}{more}",
            "backfill sources check",
        )
    lost = [
        (one.id, file) for one in found.values() if isinstance(one, SourceDefinition) for file in _lost(one)
    ]
    if lost:
        source_id, file = lost[0]
        more = f"; and {len(lost) - 1:,} more" if len(lost) > 1 else ""
        return warning(
            "sources",
            f"{file} of source {source_id} is not there{more}",
            f"backfill sources check {source_id}",
        )
    if not found:
        return not_looked("sources", f"{settings.sources_dir} holds no source file")
    return ok("sources", f"{counted(len(found), 'source file')} can be used")


def _lost(definition: SourceDefinition) -> list[Path]:
    """Files that a definition names and that are not there; patterns find what they find."""
    return [
        file
        for file in _named(definition)
        if not any(mark in str(file) for mark in "*?[") and not file.exists()
    ]


def _named(definition: SourceDefinition) -> tuple[Path, ...]:
    named = definition.files or ((definition.file,) if definition.file is not None else ())
    return tuple(definition.path.parent / one for one in named)


def largest_source_bytes(settings: Settings) -> int:
    """The size of the largest file that a usable source names; 0 when there is none."""
    sizes = [0]
    for one in usable_sources(settings).values():
        if isinstance(one, SourceDefinition):
            sizes += [file.stat().st_size for file in _named(one) if file.is_file()]
    return max(sizes)


def check_secrets(settings: Settings) -> Finding:
    """Files that hold secrets, or may, and that others on this machine can read."""
    open_files = [file for file in _candidates(settings) if _is_open(file) and _holds_secret(file)]
    if open_files:
        return problem(
            "secrets",
            f"{counted(len(open_files), 'file')} with secrets can be read by other users of this machine:"
            f" {', '.join(map(str, open_files[:5]))}",
            shlex.join(["chmod", "600", *map(str, open_files)]),
        )
    return ok(
        "secrets",
        "no file with secrets can be read by others (.env, password and service files, source files)",
    )


def _candidates(settings: Settings) -> Iterator[Path]:
    seen = set()
    for folder in (Path(), checkout_dir(), settings.home, settings.sources_dir):
        if folder is None or not os.access(folder, os.R_OK | os.X_OK):
            continue
        patterns = (".env", ".env.*", ".envrc", "*.env", "*.key", "*.pem", ".pgpass")
        for pattern in (*patterns, "*.yaml", "*.yml") if folder == settings.sources_dir else patterns:
            for file in sorted(folder.glob(pattern)):
                if file.is_file() and file.resolve() not in seen:
                    seen.add(file.resolve())
                    yield file.absolute()
    for name, usual in (("PGPASSFILE", "~/.pgpass"), ("PGSERVICEFILE", "~/.pg_service.conf")):
        file = Path(os.environ.get(name) or os.path.expanduser(usual))
        if os.access(file, os.R_OK) and file.is_file() and file.resolve() not in seen:
            yield file


def _is_open(file: Path) -> bool:
    return bool(file.stat().st_mode & _READABLE)


def _holds_secret(file: Path) -> bool:
    if file.name == ".pgpass" or str(file) == os.environ.get("PGPASSFILE"):
        return True
    try:
        with file.open("rb") as opened:
            return _SECRET_TEXT.search(opened.read(_READ_BYTES_MAX)) is not None
    except OSError:  # one that we cannot read ourselves holds nothing of ours
        return False
