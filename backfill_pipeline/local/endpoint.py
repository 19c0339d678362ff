"""Where the ledger and Dagster's records are: on the embedded PostgreSQL, or on the server of LEDGER_DATABASE_URL.

Belongs here: database URLs in the two dialects that are needed, making sure that both databases exist.
Does not: tables (`ledger/` migrates them), keeping connections, the life of the embedded server (`embedded.py`).
"""

import contextlib
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlencode

import psycopg
from psycopg import conninfo, sql

from backfill_pipeline.errors import BackfillError, SettingsError, TransientLedgerError
from backfill_pipeline.local.embedded import EmbeddedServer, embedded_server, server_url
from backfill_pipeline.settings import Settings, checkout_dir

EMBEDDED_LEDGER_DATABASE = "ledger"
EMBEDDED_DAGSTER_DATABASE = "dagster"
_MAINTENANCE_DATABASE = "postgres"
_CONNECT_TIMEOUT_S = 10
# Dagster's records are a picture of the ledger, which is the truth: a power cut may take their last half second, and
# the next command mends them. Whatever the ledger commits is on disk together with all that Dagster wrote before it,
# so that the picture can say too little and never too much.
_DAGSTER_OPTIONS = urlencode({"options": "-c synchronous_commit=off"}, quote_via=quote)
_IN_NETLOC = ("user", "password", "dbname")


@dataclass(frozen=True, slots=True)
class LedgerEndpoint:
    """Addresses of the two databases. The URLs may hold a password: they are not part of `repr`.

    Attributes:
        ledger_url: for psycopg and psql, `postgresql://…`.
        dagster_url: for dagster.yaml, `postgresql+psycopg2://…`; exported as BACKFILL_DAGSTER_DATABASE_URL.
        server: the embedded server that holds both, or None when a server was given.
    """

    ledger_url: str = field(repr=False)
    dagster_url: str = field(repr=False)
    server: EmbeddedServer | None = field(default=None, repr=False, compare=False)

    @property
    def embedded(self) -> bool:
        """Whether the ledger is on the embedded server."""
        return self.server is not None

    @property
    def description(self) -> str:
        """The ledger's place without its password, for people."""
        return describe_url(self.ledger_url)


@contextlib.contextmanager
def resolve_ledger(settings: Settings) -> Iterator[LedgerEndpoint]:
    """Yields the databases to work with, both existing; the embedded server stays up for the length of the block.

    Raises:
        EmbeddedServerError: the embedded server cannot be started.
        SettingsError: a given URL cannot be used, or its database is missing and may not be created.
        TransientLedgerError: the given server does not answer.
    """
    given = settings.ledger_database_url
    server: EmbeddedServer | None = None
    with contextlib.ExitStack() as stack:
        if given is None:
            server = stack.enter_context(embedded_server(settings.home))
        ledger_url, dagster_url = addresses(settings, None if server is None else server.socket_dir)
        ensure_database(ledger_url)
        ensure_database(dagster_url)
        yield LedgerEndpoint(ledger_url, sqlalchemy_url(dagster_url), server)


def addresses(settings: Settings, socket_dir: Path | None) -> tuple[str, str]:
    """The URLs of the ledger and of Dagster's records, for psycopg; neither need exist.

    Args:
        settings: may name one or both.
        socket_dir: of the embedded server; None when the ledger's server is given.

    Raises:
        SettingsError: a given URL cannot be used.
    """
    if settings.ledger_database_url is not None:
        ledger_url = normalise_url(settings.ledger_database_url.get_secret_value(), "LEDGER_DATABASE_URL")
        dagster_url = _sibling_url(ledger_url, suffix="_dagster")
    else:
        assert socket_dir is not None, "without a URL the ledger is on the embedded server"
        ledger_url = server_url(socket_dir, EMBEDDED_LEDGER_DATABASE)
        dagster_url = f"{server_url(socket_dir, EMBEDDED_DAGSTER_DATABASE)}&{_DAGSTER_OPTIONS}"
    if settings.dagster_database_url is not None:
        dagster_url = normalise_url(
            settings.dagster_database_url.get_secret_value(), "BACKFILL_DAGSTER_DATABASE_URL"
        )
    return ledger_url, dagster_url


def normalise_url(url: str, variable: str) -> str:
    """Reads a URL as libpq does, and writes it in one form: `postgresql://`, a database, everything else kept.

    Args:
        url: `postgresql://…`, `postgres://…` or, as SQLAlchemy writes it, `postgresql+psycopg2://…`.
        variable: where it comes from, for the error message, which never quotes the URL.

    Raises:
        SettingsError: libpq cannot read it.
    """
    scheme, separator, rest = url.partition("://")
    try:
        parameters = _string_values(conninfo.conninfo_to_dict(scheme.partition("+")[0] + separator + rest))
    except psycopg.ProgrammingError:
        # libpq's own message quotes the part that it stumbled over, which may be half a password.
        raise SettingsError(
            f"The environment variable {variable} is not a URL that PostgreSQL can read: write "
            "postgresql://user:password@host:5432/database and percent-encode special characters of the password."
        ) from None
    if "@" in parameters.get(
        "host", ""
    ):  # an "@" in the password that was not encoded: the rest became the host
        raise SettingsError(
            f"The environment variable {variable} has more than one @ before the host: write an @ in the password "
            "as %40."
        )
    if not parameters.get("dbname"):
        raise SettingsError(
            f"The environment variable {variable} names no database: add it at the end, as in "
            "postgresql://user:password@host:5432/ledger."
        )
    return _write_url("postgresql", parameters)


def sqlalchemy_url(url: str) -> str:
    """The same database in SQLAlchemy's dialect, naming the driver that Dagster's storage works with.

    With a bare `postgresql://`, SQLAlchemy 2.1 picks psycopg 3, and Dagster's NOTIFY fails at its first event.
    """
    return _write_url("postgresql+psycopg2", _string_values(conninfo.conninfo_to_dict(url)))


def describe_url(url: str) -> str:
    """`database "ledger" on db.example.org:5432 as backfill`: everything that matters but no secret."""
    parameters = _string_values(conninfo.conninfo_to_dict(url))
    place = parameters.get("host") or parameters.get("hostaddr") or "the local server"
    port = parameters.get("port")
    user = parameters.get("user")
    return (
        f'database "{parameters.get("dbname", "")}" on {place}'
        + (f":{port}" if port and not place.startswith("/") else "")
        + (f" as {user}" if user else "")
    )


def ensure_database(url: str, name: str | None = None) -> None:
    """Creates a database on the server of `url` when it is missing; several processes may do so at once.

    Args:
        url: libpq URL of any database on that server.
        name: the database to create; by default the one that `url` names.

    Raises:
        SettingsError: it is missing and this user may not create it, or it is not in UTF-8.
        TransientLedgerError: the server does not answer or refuses the connection.
    """
    parameters = _string_values(conninfo.conninfo_to_dict(url))
    wanted = parameters["dbname"] if name is None else name
    target = _write_url("postgresql", {**parameters, "dbname": wanted})
    try:
        with _connect(target) as connection:
            _check_encoding(connection, target)
            return
    except psycopg.OperationalError as error:
        # A failed connection carries no SQLSTATE: whether the database is missing is found out on its neighbour.
        refusal = error
    try:
        with _connect(
            _write_url("postgresql", {**parameters, "dbname": _MAINTENANCE_DATABASE})
        ) as connection:
            found = connection.execute("SELECT 1 FROM pg_database WHERE datname = %s", [wanted]).fetchone()
            if found is not None:
                raise _unreachable(target, refusal)
            # From template0 in UTF-8, whatever the server's own default is: texts come in all scripts.
            statement = "CREATE DATABASE {} TEMPLATE template0 ENCODING 'UTF8' LC_COLLATE 'C' LC_CTYPE 'C'"
            connection.execute(sql.SQL(statement).format(sql.Identifier(wanted)))
    except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
        return  # another process was faster
    except psycopg.errors.InsufficientPrivilege:
        raise SettingsError(
            f"The {describe_url(target)} does not exist and this user may not create it: "
            f"have it made with CREATE DATABASE, owned by this user."
        ) from None
    except psycopg.OperationalError as error:
        raise _unreachable(target, error) from error


def _connect(url: str) -> psycopg.Connection[tuple[object, ...]]:
    # A timeout that the URL states wins.
    stated = conninfo.conninfo_to_dict(url).get("connect_timeout")
    return psycopg.connect(url, autocommit=True, connect_timeout=stated or _CONNECT_TIMEOUT_S)


def _check_encoding(connection: psycopg.Connection[tuple[object, ...]], url: str) -> None:
    encoding = connection.info.parameter_status("server_encoding")
    if encoding != "UTF8":
        raise SettingsError(
            f"The {describe_url(url)} is encoded in {encoding}: use one made with ENCODING 'UTF8', which can hold "
            "texts of every script."
        )


def _unreachable(url: str, error: psycopg.OperationalError) -> BackfillError:
    reason = " ".join(str(error).split())  # libpq's reports name host, port and user, and no password
    return TransientLedgerError(
        f"The {describe_url(url)} cannot be reached ({reason}): start the server or correct the URL."
    )


def _sibling_url(url: str, suffix: str) -> str:
    parameters = _string_values(conninfo.conninfo_to_dict(url))
    return _write_url("postgresql", {**parameters, "dbname": parameters["dbname"] + suffix})


def _string_values(parameters: Mapping[str, object]) -> dict[str, str]:
    return {key: str(value) for key, value in parameters.items() if value is not None}


def _write_url(scheme: str, parameters: Mapping[str, str]) -> str:
    """User, password and database in their places; host, port and all the rest as query, which has room for sockets,
    several hosts and IPv6 addresses, and which libpq and SQLAlchemy read alike.
    """
    user = quote(parameters.get("user", ""), safe="")
    if "password" in parameters:
        user += ":" + quote(parameters["password"], safe="")
    database = quote(parameters.get("dbname", ""), safe="")
    rest = {key: value for key, value in parameters.items() if key not in _IN_NETLOC}
    # libpq knows %20 only, not the plus sign.
    query = urlencode(rest, quote_via=quote, safe="")
    return f"{scheme}://{user}{'@' if user else ''}/{database}" + (f"?{query}" if query else "")


def prepare_dagster(settings: Settings, endpoint: LedgerEndpoint) -> dict[str, str]:
    """Makes Dagster's home below `BACKFILL_HOME` and returns the variables for a process that uses it.

    The home is not the checkout, where `dagster.yaml` lies, because Dagster writes into its home; a link leads there.

    LEDGER_DATABASE_URL is not among the variables: each process joins an embedded server by itself, and so keeps it
    running for as long as it lives; a given server is in the environment already.

    Raises:
        SettingsError: there is no `dagster.yaml`, or the home cannot be written.
    """
    settings.prepare_home()
    config = (checkout_dir() or Path.cwd()) / "dagster.yaml"
    if not config.is_file():
        raise SettingsError(f"{config} is missing: run this from a checkout of the product.")
    link = settings.dagster_dir / "dagster.yaml"
    if not link.exists() or not link.samefile(config):
        partial = link.with_name(f".dagster.yaml.{os.getpid()}")
        partial.symlink_to(config)
        partial.replace(link)  # at once: another process may be reading it
    return {
        "BACKFILL_HOME": str(settings.home),
        "BACKFILL_SOURCES_DIR": str(settings.sources_dir),
        "BACKFILL_DAGSTER_DIR": str(settings.dagster_dir),
        "BACKFILL_DAGSTER_DATABASE_URL": endpoint.dagster_url,
        "DAGSTER_HOME": str(settings.dagster_dir),
    }
