"""Sessions in a database that holds vectors alone: kept for the next request, and their errors in the words of stores."""

from __future__ import annotations

import atexit
import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors as pg
from psycopg.pq import TransactionStatus

from embedmig.database import Connection, Database, first_line
from embedmig.errors import (
    DatabaseUnavailable,
    OutcomeUnknown,
    PlaceMissing,
    StoreError,
    StoreThrottled,
    StoreUnauthorized,
    StoreUnreachable,
    VectorRefused,
)

_idle: dict[tuple[int, Database], deque[Connection]] = {}
"""By process, for a connection must not be shared with a parent, and by address and limits."""


@contextmanager
def session(name: str, database: Database) -> Iterator[Connection]:
    """One that nobody else has meanwhile. Raises errors of :mod:`embedmig.errors` alone; ``name`` is the store's."""
    idle = _idle.setdefault((os.getpid(), database), deque())
    try:
        conn = idle.pop()
    except IndexError:
        conn = _open(name, database)
    try:
        yield conn
    except psycopg.Error as error:
        raise translated(error, name, lost=conn.broken) from error
    finally:
        if conn.info.transaction_status == TransactionStatus.IDLE:
            idle.append(conn)
        else:
            conn.close()


def _open(name: str, database: Database) -> Connection:
    try:
        return database.connect("store", lock_timeout=True)
    except DatabaseUnavailable as error:
        refused = "password" in error.message or "authentication" in error.message
        kind = StoreUnauthorized if refused else StoreUnreachable
        raise kind(f"{name} can't be reached: {error.message}", hint=error.hint) from error


def translated(error: psycopg.Error, name: str, *, lost: bool) -> StoreError:
    """By class."""
    said = f"{name}: {first_line(error)}"
    match error:
        case pg.UndefinedTable() | pg.InvalidSchemaName():
            return PlaceMissing(said)
        case pg.InsufficientPrivilege():
            return StoreUnauthorized(said, hint="docs/stores/pgvector.md lists the rights that are needed")
        case pg.LockNotAvailable() | pg.DeadlockDetected() | pg.SerializationFailure() | pg.TooManyConnections():
            return StoreThrottled(said)
        case pg.DataException():
            return VectorRefused(said)
        case pg.QueryCanceled() | pg.AdminShutdown() | pg.CrashShutdown() | pg.CannotConnectNow():
            return OutcomeUnknown(said)
    return OutcomeUnknown(said) if lost else StoreError(said)


@atexit.register
def _close() -> None:
    for (pid, _), conns in _idle.items():
        for conn in conns if pid == os.getpid() else ():
            conn.close()
