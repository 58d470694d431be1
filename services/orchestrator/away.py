"""What stands in the way for a while: a database that is locked, full or restarting, and a disk without space.

Nothing is wrong with the work then, and asking again later is right. Knows no table and no HTTP.
"""

from __future__ import annotations

import errno
import sqlite3

from sqlalchemy import make_url
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnection

from understudy.errors import Unavailable

__all__ = ["is_away", "no_space", "told", "unusable"]

RETRY_SECONDS = 5.0  # when to ask a database again that is locked, full or away

_SQLITE_AWAY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR})
_SQLITE_AWAY |= {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PROTOCOL}
# Classes of SQLSTATE: connection, rollback by the server, resources (a full disk), state of an object (a lock that was
# waited for), operator (a restart). 25006 is a write on a server that stands by.
_POSTGRES_AWAY = frozenset({"08", "40", "53", "55", "57"})
_STANDS_BY = "25006"

FULL_PAUSE = 5.0  # seconds more than after another fault: room is made by people, or by an alarm
_NO_SPACE = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


def is_away(error: BaseException) -> bool:
    """Whether the database could not do its part now: it is locked, full, restarting or not to be reached.

    Nothing is wrong with what it was asked then, and asking again later is right. Any other error of it is a defect.
    """
    if not isinstance(error, DBAPIError):
        return isinstance(error, NoConnection)
    if isinstance(error.orig, sqlite3.Error):
        # The driver gives a code to what SQLite itself has said; the low byte is the kind of error.
        return getattr(error.orig, "sqlite_errorcode", sqlite3.SQLITE_OK) & 0xFF in _SQLITE_AWAY
    state = getattr(error.orig, "sqlstate", None)
    if state is None:  # it was not the server that spoke
        return error.connection_invalidated or type(error.orig).__name__ == "OperationalError"
    return state[:2] in _POSTGRES_AWAY or state == _STANDS_BY


def told(error: SQLAlchemyError) -> Unavailable:
    """What a caller is told of a database that is away: to ask again, and what stands in the way."""
    return Unavailable(f"the database cannot take this now: {_cause(error)}; ask again", retry_after=RETRY_SECONDS)


def unusable(error: SQLAlchemyError, database: str) -> Unavailable:
    """What somebody at this machine is told of a database, in the driver's words, hosts and users included.

    `database` is its URL, whose password is left out.
    """
    orig = error.orig if isinstance(error, DBAPIError) else None
    said = str(orig or error).strip().partition("\n")[0]
    return Unavailable(f"the database {make_url(database).render_as_string(hide_password=True)} cannot be used: {said}")


def _cause(error: SQLAlchemyError) -> str:
    """In the database's own words, where these do not name hosts and users as those of a failed connection do."""
    orig = error.orig if isinstance(error, DBAPIError) else None
    if isinstance(orig, sqlite3.Error):
        return str(orig)
    said = getattr(getattr(orig, "diag", None), "message_primary", None)
    return str(said) if said and getattr(orig, "sqlstate", None) else "it does not answer"


def no_space(error: BaseException) -> Unavailable | None:
    """A disk without space, told as what it is; None for any other error."""
    if isinstance(error, OSError) and error.errno in _NO_SPACE:
        where = f" ({error.filename})" if error.filename else ""
        return Unavailable(f"no space is left{where}: free some, and the work is tried again", retry_after=FULL_PAUSE)
    return None
