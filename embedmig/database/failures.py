"""What the server refuses or loses, as embedmig's errors; and which of it is worth another try."""

from __future__ import annotations

import contextlib
import random
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import psycopg
from psycopg import errors as pg

from embedmig.database.connections import Connection
from embedmig.errors import DatabaseFailed

T = TypeVar("T")

TRANSIENT = (pg.DeadlockDetected, pg.SerializationFailure, pg.LockNotAvailable)


def retry_transient(work: Callable[[], T], *, tries: int = 6, sleep: Callable[[float], None] = time.sleep) -> T:
    """Runs ``work``, a whole transaction, again after a deadlock or a lock not granted, with full jitter."""
    for attempt in range(tries - 1):
        try:
            return work()
        except TRANSIENT:
            sleep(random.uniform(0, 0.05 * 2**attempt))  # noqa: S311  jitter, not a secret
    return work()


@contextlib.contextmanager
def in_one_go(conn: Connection) -> Iterator[None]:
    """A transaction whose statements travel together where nobody waits for an answer, and the commit with them: locks taken
    by the last of them are held for one exchange with the server, however busy this machine is. An error of any of them is
    raised at the end. ``Connection.transaction`` would wait before the commit.
    """
    try:
        with conn.pipeline():
            conn.execute("begin")
            yield
            conn.execute("commit")
    except BaseException:
        if not conn.closed:
            conn.rollback()
        raise


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Puts what psycopg raises in the middle of a run into our words; what was committed is kept."""
    try:
        yield
    except (pg.DiskFull, pg.OutOfMemory) as error:
        raise DatabaseFailed(
            f"the database ran out of {'disk' if isinstance(error, pg.DiskFull) else 'memory'} while {doing}: {first_line(error)}",
            hint="make room, then run the same command again: it goes on where it stopped",
        ) from error
    except pg.InsufficientPrivilege as error:
        raise DatabaseFailed(
            f"the role may not do this while {doing}: {first_line(error)}",
            hint="docs/privileges.md lists the rights that are needed",
        ) from error
    except psycopg.OperationalError as error:
        raise DatabaseFailed(
            f"the connection to the database was lost while {doing}: {first_line(error)}",
            hint="when the database is back, run the same command again: it goes on where it stopped",
        ) from error
    except psycopg.Error as error:
        raise DatabaseFailed(
            f"the database refused while {doing}: {first_line(error)}",
            hint="what was committed is kept; when the cause is mended, run the same command again",
        ) from error


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
