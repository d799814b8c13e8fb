"""What the server refuses or loses, as embedmig's errors; and which of it is worth another try."""

from __future__ import annotations

import contextlib
import random
import re
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import psycopg
from psycopg import errors as pg

from embedmig.database.connections import Connection
from embedmig.errors import (
    ConnectionLost,
    DatabaseFailed,
    DatabaseInterrupted,
    Deadlocked,
    LockedOut,
    StatementCancelled,
)

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
    failed: BaseException | None = None
    try:
        with conn.pipeline():
            try:
                conn.execute("begin")
                yield
                conn.execute("commit")
            except BaseException as error:  # noqa: BLE001  raised below: a pipeline that is left by an error logs a second one
                failed = error
    except BaseException as error:  # noqa: BLE001  raised below
        failed = failed or error
    if failed is not None:
        if not conn.closed:
            conn.rollback()
        raise failed


AGAIN = "run the same command again: it goes on where it stopped"

TRANSLATIONS: tuple[tuple[tuple[type[psycopg.Error], ...], type[DatabaseFailed], str, str], ...] = (
    ((pg.UndefinedTable,), DatabaseFailed, "a table is not there",
     f"one of yours: create it, then {AGAIN}; one of embedmig's: restore a backup, or begin anew: embedmig uninstall, then embedmig upgrade head"),
    ((pg.DependentObjectsStillExist,), DatabaseFailed, "something that embedmig did not make depends on what would go",
     f"drop or change it, then {AGAIN}"),
    ((pg.DiskFull,), DatabaseFailed, "the database ran out of disk", f"make room, then {AGAIN}"),
    ((pg.OutOfMemory,), DatabaseFailed, "the database ran out of memory", f"make room, then {AGAIN}"),
    ((pg.InsufficientPrivilege,), DatabaseFailed, "the role may not do this", "docs/privileges.md lists the rights that are needed"),
    ((pg.ReadOnlySqlTransaction,), DatabaseFailed, "the server takes no writes",
     "a hot standby can be read from (status, search, gate, check); what writes needs the primary's address"),
    ((pg.QueryCanceled, pg.TransactionTimeout), StatementCancelled, "a statement was cancelled",
     f"by a time limit (connect.statement_timeout under [embedmig]) or by pg_cancel_backend; {AGAIN}"),
    ((pg.LockNotAvailable,), LockedOut, "a lock was not granted in time",
     f"pg_stat_activity shows who holds it; connect.lock_timeout under [embedmig] says how long is waited; {AGAIN}"),
    ((pg.DeadlockDetected,), Deadlocked, "the database ended a deadlock", AGAIN),
    ((pg.SerializationFailure,), DatabaseInterrupted, "another session changed the same rows", AGAIN),
    ((pg.TooManyConnections,), DatabaseFailed, "the server has no connection left", f"a run takes about six; when some are free, {AGAIN}"),
    ((pg.IdleInTransactionSessionTimeout, pg.IdleSessionTimeout), ConnectionLost, "the server ended an idle session", AGAIN),
    ((psycopg.OperationalError,), ConnectionLost, "the connection to the database was lost", f"when the database is back, {AGAIN}"),
    ((psycopg.Error,), DatabaseFailed, "the database refused", f"what was committed is kept; fix the cause, then {AGAIN}"),
)  # fmt: skip
"""The first that fits. psycopg files cancellation, lock time-outs and deadlocks under OperationalError: they are no lost connections."""


@contextlib.contextmanager
def translated(doing: str) -> Iterator[None]:
    """Puts what psycopg raises in the middle of a run into our words; what was committed is kept."""
    try:
        yield
    except psycopg.Error as error:
        raise translation(error, doing) from error


def translation(error: psycopg.Error, doing: str) -> DatabaseFailed:
    """The error of ours for one of psycopg's."""
    for kinds, failure, what, hint in TRANSLATIONS:
        if isinstance(error, kinds):
            said = first_line(error)
            if "row-level security" in str(error):
                hint = ROW_SECURITY
            elif isinstance(error, pg.UndefinedObject) and re.search(VECTOR_TYPE, said):
                hint = NO_EXTENSION
            elif isinstance(error, pg.DependentObjectsStillExist) and error.diag.message_detail:
                said = error.diag.message_detail.splitlines()[0]
            return failure(f"{what} while {doing}: {said}", hint=hint)
    raise AssertionError(error)  # the last of them fits every one


VECTOR_TYPE = r'type "(half|sparse)?vec(tor)?" does not exist'
NO_EXTENSION = "the extension vector was dropped, and the vectors with it: embedmig sync --repair makes both again and embeds every row"
ROW_SECURITY = (
    "a policy hides rows from this role, so that nothing could be counted or filled: a policy USING (true) for it, ALTER ROLE … "
    "BYPASSRLS, or a role that owns the table without FORCE ROW LEVEL SECURITY (docs/privileges.md)"
)


def first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
