"""Checks of a server by its facts: clock, durability, room for connections and memory.

Belongs here: verdicts on what `ledger/health.server_facts` read, and the wording that checks of servers share.
Does not: asking the server (`server.py`).
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Final

from backfill_pipeline.doctor.finding import Finding, ok, problem, warning
from backfill_pipeline.doctor.machine import size
from backfill_pipeline.ledger.health import ServerFacts
from backfill_pipeline.wording import counted

PSQL: Final = 'psql "$(backfill db url)"'
"""How people reach the ledger, whichever server it is on."""

_CLOCK_WARNING_S: Final = 2.0
_CLOCK_PROBLEM_S: Final = 300.0
_CONNECTIONS_MIN: Final = 30
_CONNECTIONS_SHARE_MAX: Final = 0.8
_SHARED_BUFFERS_BYTES_MIN: Final = 128 << 20
_RELOAD: Final = ' -c "SELECT pg_reload_conf()"'
# Whose loss of a commit, or of a page, the product's promises do not survive.
_DURABLE: Final = {
    "fsync": "on",
    "full_page_writes": "on",
    "zero_damaged_pages": "off",
    "ignore_checksum_failure": "off",
}


def clock_finding(skew_s: float, zone: str, now: datetime | None = None) -> Finding:
    """How far the server's clock is ahead of ours.

    Args:
        skew_s: seconds; negative when it is behind.
        zone: the server's time zone.
        now: our clock, with its zone; by default that of this machine.
    """
    local = (now or datetime.now(UTC)).astimezone()
    zones = f"zones: here {local:%Z} ({local:%z}), server {zone}; the ledger keeps UTC"
    if abs(skew_s) < _CLOCK_WARNING_S:
        return ok("clock", f"this machine and the server agree within {_CLOCK_WARNING_S:g} s; {zones}")
    how = f"the server's clock is {span(abs(skew_s))} {'ahead of' if skew_s > 0 else 'behind'} this machine's"
    remedy = "timedatectl; chronyc tracking  # on both machines"
    if abs(skew_s) < _CLOCK_PROBLEM_S:
        return warning("clock", f"{how}: rates and freshness are told wrongly by as much; {zones}", remedy)
    return problem("clock", f"{how}: days would be taken for over too early or too late; {zones}", remedy)


def check_durability(facts: ServerFacts) -> Finding:
    """Whether what is committed survives a crash."""
    wrong = {name: value for name, value in _DURABLE.items() if facts.settings.get(name, value) != value}
    if facts.settings.get("synchronous_commit") == "off":
        wrong["synchronous_commit"] = "on"
    if wrong:
        now = ", ".join(f"{name} is {facts.settings[name]}" for name in wrong)
        commands = "".join(f' -c "ALTER SYSTEM SET {name} = {value}"' for name, value in wrong.items())
        sentence = f"{now}: a crash or a damaged page may lose or garble what the product was told is safe"
        return problem("durability", sentence, f"{PSQL}{commands}{_RELOAD}")
    return ok(
        "durability", "what is committed survives a crash (fsync, full_page_writes, synchronous_commit)"
    )


def check_checksums(facts: ServerFacts) -> Finding:
    """Whether damaged pages are noticed, and none was."""
    if facts.checksum_failures:
        return problem(
            "checksums",
            f"{counted(facts.checksum_failures, 'page')} of the ledger were found damaged: the disk or the memory"
            " is failing; stop posting, and restore from a backup",
            "backfill audit; sudo dmesg | grep -iE 'i/o error|ata|nvme'",
        )
    if facts.settings.get("data_checksums") == "off":
        where = facts.data_directory or "DATA_DIRECTORY"
        return warning(
            "checksums",
            "the server keeps no checksums of its pages, so a failing disk is noticed late or never",
            f"pg_ctl -D {where} stop && pg_checksums --enable -D {where} && pg_ctl -D {where} start",
        )
    return ok("checksums", "pages have checksums, and none was found damaged")


def check_autovacuum(facts: ServerFacts) -> Finding:
    """Whether old rows are cleared away, and statistics kept."""
    if facts.settings.get("autovacuum") == "off":
        return warning(
            "autovacuum",
            "autovacuum is off: the ledger grows without need, its plans get worse, and in the end it stops",
            f'{PSQL} -c "ALTER SYSTEM SET autovacuum = on"{_RELOAD}',
        )
    return ok("autovacuum", "on")


def check_connections(facts: ServerFacts) -> Finding:
    """Whether the next run finds a place."""
    limit = int(facts.settings["max_connections"])
    told = f"{facts.connections:,} of {limit:,} connections are in use"
    more = f'{PSQL} -c "ALTER SYSTEM SET max_connections = 100"  # then restart the server'
    if limit < _CONNECTIONS_MIN:
        return warning(
            "connections",
            f"{told}; runs, the UI and its daemon together may want {_CONNECTIONS_MIN}",
            more,
        )
    if facts.connections > _CONNECTIONS_SHARE_MAX * limit:
        query = "SELECT application_name, usename, count(*) FROM pg_stat_activity GROUP BY 1, 2 ORDER BY 3"
        return warning("connections", f"{told}: the next run may be turned away", f'{PSQL} -c "{query}"')
    return ok("connections", told)


def check_memory(facts: ServerFacts) -> Finding:
    """The server's own memory."""
    told = f"shared_buffers is {size(facts.shared_buffers_bytes)}"
    if facts.shared_buffers_bytes < _SHARED_BUFFERS_BYTES_MIN:
        return warning(
            "server memory",
            f"{told}: while loading, the index of the references does not fit, and posting gets slow",
            f"{PSQL} -c \"ALTER SYSTEM SET shared_buffers = '512MB'\"  # then restart the server",
        )
    return ok("server memory", told)


def span(seconds: float) -> str:
    """A time for people, such as 0:10:00."""
    return str(timedelta(seconds=round(seconds)))
