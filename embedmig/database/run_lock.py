"""The run lock: one runner at a time in one ledger."""

from __future__ import annotations

import contextlib

import psycopg
from psycopg import errors as pg
from psycopg import sql

from embedmig.database.connections import Connection, Database
from embedmig.database.failures import translated
from embedmig.errors import ConfigError, LockHeld, RunSuperseded

LOCK_CLASS = 0x656D6267  # "embg"; the second half of the lock's key is the hash of the ledger's schema
LOCK_PATIENCE = "500ms"  # who was killed a moment ago holds the run lock until the server has noticed


class RunLock:
    """One runner at a time: a session advisory lock on a connection of its own, held for the whole run.

    Not a transaction's lock: a backfill takes hours, and a transaction open that long would stop vacuum.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._conn: Connection | None = None

    def __enter__(self) -> RunLock:
        with translated("taking the run lock"):
            self._take()
        return self

    def _take(self) -> None:
        self._conn = self._database.connect("lock")
        self._refuse_transaction_pool()
        while not self._locked(self._conn):
            if holder := describe_holder(self._conn, self._database.schema):
                self._conn.close()
                raise LockHeld(
                    f"another run holds the lock: {holder}", hint="wait for it to end, or look: embedmig status"
                )

    def _locked(self, conn: Connection) -> bool:
        try:
            with conn.transaction():
                conn.execute(sql.SQL("set local lock_timeout = {}").format(sql.Literal(LOCK_PATIENCE)))
                conn.execute("select pg_advisory_lock(%s, hashtext(%s))", (LOCK_CLASS, self._database.schema))
        except pg.LockNotAvailable:
            return False
        return True

    def __exit__(self, *_: object) -> None:
        """Unlocks first: a server notices a closed connection a moment later, and the next command comes at once."""
        if self._conn is not None:
            with contextlib.suppress(psycopg.Error):  # a connection that was lost holds no lock
                self._conn.execute("select pg_advisory_unlock_all()")
            self._conn.close()

    def require(self) -> None:
        """Raises :class:`RunSuperseded` if the lock's connection is gone: nothing goes on unlocked."""
        assert self._conn is not None
        require_held(self._conn, "the run lock")

    def _refuse_transaction_pool(self) -> None:
        """The lock would be stranded in one of the pool's sessions."""
        assert self._conn is not None
        if self._database.shares_sessions(self._conn):
            self._conn.close()
            raise ConfigError(
                "the database is reached through a transaction pool, which can't hold a session lock",
                hint="give embedmig a direct connection, or a pool in session mode",
            )


def require_held(conn: Connection, what: str) -> None:
    """Raises :class:`RunSuperseded` if the session that holds an advisory lock is gone, and the lock with it."""
    try:
        conn.execute("select 1")
    except psycopg.Error as error:
        raise RunSuperseded(
            f"the connection that holds {what} was lost, so this run stopped",
            hint="run the same command again: it goes on where it stopped",
        ) from error


def lock_is_held(conn: Connection, schema: str) -> bool:
    """Whether a runner is alive: a ledger's ``running`` without its lock is a runner that died."""
    return describe_holder(conn, schema) is not None


def describe_holder(conn: Connection, schema: str) -> str | None:
    """Who holds the run lock: the connection's name, where from, and since when; None where nobody does."""
    row = conn.execute(
        """select a.application_name, coalesce(host(a.client_addr), 'local'), a.pid, date_trunc('second', a.backend_start)
           from pg_locks l join pg_stat_activity a using (pid)
           where l.locktype = 'advisory' and l.granted and l.classid = %s::bigint::oid
             and l.objid = (hashtext(%s)::bigint & 4294967295)::oid and l.database = (select oid from pg_database where datname = current_database())""",
        (LOCK_CLASS, schema),
    ).fetchone()
    if row is None:
        return None
    return f"{row[0].removeprefix('embedmig lock ') or 'unknown'} (backend {row[2]}, {row[1]}, since {row[3]})"
