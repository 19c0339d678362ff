"""What errors of databases mean to somebody who reads one as a source.

Belongs here: which errors may pass when tried again, and one sentence for each of the others.
Does not: connecting (`connect.py`), trying again (the stages).

Drivers put URLs, statements and values into their errors. Only the server's own first line is shown, without secrets,
and where an error has a sentence of ours, not even that.
"""

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

import psycopg
import pymysql
import sqlalchemy as sa

from backfill_pipeline.definition.database import DatabaseSection
from backfill_pipeline.errors import BackfillError, SourceFileError, TransientSourceError

_MESSAGE_CHARACTERS_MAX: Final = 300
_DRIVER_ERRORS: Final = (psycopg.Error, pymysql.MySQLError, sqlite3.Error)

_LOGIN: Final = "the database refuses the login: correct user and password"
_NO_DATABASE: Final = "there is no such database, or this user may not use it: correct the URL"
_NO_TABLE: Final = "there is no such table or view: correct its name, with its schema (schema.table)"
_FORBIDDEN: Final = "this user may not read it: GRANT SELECT on it"
_WRITES: Final = "reading it would write to the database: a source is only read"
_TOO_LONG: Final = (
    "a statement took longer than database.statement_timeout_s: give the key an index, or raise it"
)

# Longest first: the first that an error's code begins with counts. Of lost connections and the like, None: try again.
_BY_SQLSTATE: Final[dict[str, str | None]] = {
    "28": _LOGIN,
    "3D000": _NO_DATABASE,
    "42P01": _NO_TABLE,
    "3F000": _NO_TABLE,
    "42501": _FORBIDDEN,
    "25006": _WRITES,
    "57014": _TOO_LONG,
    "55P03": _TOO_LONG,
    "08": None,
    "40": None,
    "53200": None,
    "53300": None,
    "57P": None,
    "25P": None,
}
_BY_MYSQL_CODE: Final[dict[int, str | None]] = {
    1045: _LOGIN,
    1698: _LOGIN,
    1251: _LOGIN,
    1044: _NO_DATABASE,
    1049: _NO_DATABASE,
    1146: _NO_TABLE,
    1142: _FORBIDDEN,
    1143: _FORBIDDEN,
    1792: _WRITES,
    1969: _TOO_LONG,
    3024: _TOO_LONG,
    1040: None,  # too many connections
    1053: None,  # shutting down
    1205: None,  # lock wait timeout
    1213: None,  # deadlock
    1412: None,  # the table was altered after the snapshot was taken
    1927: None,  # killed
    2002: None,
    2003: None,
    2006: None,
    2013: None,
    2014: None,
    2055: None,
}
# In the words of libpq, which gives no code while connecting, and of SQLite, which gives none to Python 3.10.
_BY_TEXT: Final[tuple[tuple[str, str | None], ...]] = (
    ("authentication failed", _LOGIN),
    ("no password supplied", _LOGIN),
    ("pg_hba.conf", _LOGIN),
    ("does not exist", _NO_DATABASE),
    ("no such table", _NO_TABLE),
    ("readonly database", _WRITES),
    ("interrupted", _TOO_LONG),
    ("database is locked", None),
)


@contextmanager
def database_errors(place: str, secrets: Sequence[str], section: DatabaseSection) -> Iterator[None]:
    """Translates errors of SQLAlchemy and its drivers into ours, which hold no secret.

    Args:
        place: what is read, for messages.
        secrets: texts that no message may hold.
        section: of the definition.
    """
    try:
        yield
    except sa.exc.DBAPIError as error:
        raise _translated(error.orig or error, place, secrets, section) from None
    except _DRIVER_ERRORS as error:  # while rows are fetched, past SQLAlchemy
        raise _translated(error, place, secrets, section) from None
    except UnicodeError:
        raise SourceFileError(
            f"{place}: holds text that is not UTF-8 in a name or in the key, where it cannot be read: correct it there."
        ) from None
    except sa.exc.SQLAlchemyError as error:
        raise SourceFileError(f"{place}: cannot be read ({scrubbed(str(error), secrets)}).") from None


def _translated(
    origin: BaseException, place: str, secrets: Sequence[str], section: DatabaseSection
) -> BackfillError:
    words = scrubbed(_first_line(origin), secrets)
    known, sentence = _meaning(origin)
    if not known:
        remedy = "query" if section.query is not None else "where" if section.where is not None else "table"
        return SourceFileError(f"{place}: the database refuses it ({words}): correct database.{remedy}.")
    if sentence is None:
        return TransientSourceError(f"{place}: cannot be read right now ({words}).")
    if sentence in (_LOGIN, _NO_DATABASE) and section.url_env is not None:
        return SourceFileError(f"{place}: {sentence} in {section.url_env}.")
    if sentence is _TOO_LONG:
        return SourceFileError(f"{place}: {sentence} (it is {section.statement_timeout_s}).")
    # In a query, the server's words say which of its tables or functions is meant.
    return SourceFileError(f"{place}: {sentence}{f' ({words})' if section.query is not None else ''}.")


def _meaning(origin: BaseException) -> tuple[bool, str | None]:
    """Whether the error is known, and its sentence; None when it may pass."""
    state = getattr(origin, "sqlstate", None)
    if isinstance(origin, psycopg.Error) and isinstance(state, str):
        for length in (5, 3, 2):
            if state[:length] in _BY_SQLSTATE:
                return True, _BY_SQLSTATE[state[:length]]
        return False, None
    code = origin.args[0] if origin.args else None
    if isinstance(code, int) and code in _BY_MYSQL_CODE:
        return True, _BY_MYSQL_CODE[code]
    text = str(origin)
    for mark, sentence in _BY_TEXT:
        if mark in text:
            return True, sentence
    # Errors without a code come from the client's side of a connection: refused, lost, reset.
    return isinstance(origin, (psycopg.OperationalError, pymysql.err.InterfaceError)), None


def _first_line(origin: BaseException) -> str:
    """The server's own words: of PostgreSQL without the statement, of MySQL without the number."""
    primary = getattr(getattr(origin, "diag", None), "message_primary", None)
    if primary:
        return str(primary)
    if len(origin.args) == 2 and isinstance(origin.args[0], int):
        return str(origin.args[1])
    return str(origin) or type(origin).__name__


def scrubbed(text: str, secrets: Sequence[str]) -> str:
    """A message in one line and without secrets."""
    for secret in secrets:
        text = text.replace(secret, "***")
    return " ".join(text.split())[:_MESSAGE_CHARACTERS_MAX].removesuffix(".")
