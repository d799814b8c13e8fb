"""Connections to PostgreSQL, named after their purpose.

A connection is autocommit unless a transaction is opened explicitly, so that none is open during a model call.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, LiteralString, cast

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import TupleRow

from embedmig.config import mask, parse_address, scrub
from embedmig.config.settings import ConnectSettings
from embedmig.database.awaited import AsyncCursor, Awaited
from embedmig.database.cursors import Cursor
from embedmig.database.encodings import fit_encoding
from embedmig.database.greenlets import awaiting, wait
from embedmig.database.sessions import prepare, wanted_settings
from embedmig.errors import ConfigError, DatabaseUnavailable, UsageError

Connection = psycopg.Connection[TupleRow]

DEFAULTS: dict[str, Any] = {
    "connect_timeout": 10, "keepalives": 1, "keepalives_idle": 30, "keepalives_interval": 10, "keepalives_count": 3,
}  # fmt: skip
"""Unless the address says otherwise."""
LOOKS = 8  # of two clients at their sessions, before each is taken to have one of its own


@dataclass(frozen=True, repr=False)
class Database:
    """Where the ledger, the spaces and the source tables are. ``renew`` gives the address anew for every connection: a password
    that has changed since is then the new one. ``tables`` are the names of the source tables, without their schemas.
    """

    url: str
    schema: str
    settings: ConnectSettings = field(default_factory=ConnectSettings)
    renew: Callable[[], str] | None = field(default=None, compare=False)
    tables: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return f"Database({self.masked!r}, {self.schema!r})"

    def __getstate__(self) -> dict[str, Any]:
        """What travels to workers: the address, not what it is read from."""
        return self.__dict__ | {"renew": None}

    @property
    def masked(self) -> str:
        """The URL without its password: the only form that is ever printed."""
        return mask(self.url)

    def connect(
        self, purpose: str = "", *, autocommit: bool = True, own: bool = True, lock_timeout: bool = False
    ) -> Connection:
        """A new connection, named after its purpose in ``pg_stat_activity``, its session as :mod:`.sessions` says; in a coroutine's
        call one whose calls are awaited.

        With ``own`` false it reads for an application: the time limits and the row security of its role hold. With
        ``lock_timeout`` it waits for each lock no longer than is configured, so that others never queue behind it for longer.
        Raises :class:`DatabaseUnavailable` where there is none to be had.
        """
        address = self.renew() if self.renew else self.url
        opened = open_session(address, f"embedmig {purpose} {whoami()}".replace("  ", " ")[:63])
        if isinstance(opened, UsageError):
            raise opened
        try:
            settings = wanted_settings(self.settings, own=own, lock_timeout=lock_timeout, tables=self.tables)
            if not prepare(opened, settings):
                opened.prepare_threshold = None  # what one session has prepared, the pool's next one lacks
                if own and not self.shares_sessions(opened):
                    prepare(opened, settings, holds=True)
            if not autocommit:
                opened.autocommit = False
        except BaseException:
            opened.close()
            raise
        return opened

    def shares_sessions(self, conn: Connection) -> bool:
        """Whether ``conn`` goes through a transaction pool, as PgBouncer's, where every transaction may have another session.

        A pool tells its clients process ids of its own making. One that pools by transaction gives the session that ``conn``
        has just used to the next who asks.
        """
        seen = {backend_of(conn) for _ in range(3)}
        if seen == {conn.info.backend_pid}:
            return False
        if len(seen) > 1:
            return True
        other = open_session(self.renew() if self.renew else self.url, "embedmig pool")
        if isinstance(other, UsageError):
            raise other
        with other:
            theirs: set[int] = set()
            for _ in range(LOOKS):  # a busy pool gives by chance the same session twice
                theirs.add(backend_of(other))
                seen.add(backend_of(conn))
                if len(seen) > 1 or len(theirs) > 1 or seen == theirs:
                    return True
            return False


def open_session(address: str, name: str) -> Connection | UsageError:
    """A connection, or why there is none. The error is given back to be raised elsewhere, for it must not carry libpq's own as its
    context: that one repeats parts of the address.
    """
    try:
        address = parse_address(address)
    except ConfigError as error:
        return ConfigError(f"the database's address {error.message}", hint=error.hint)
    try:
        given = conninfo_to_dict(address)
        defaults = {key: value for key, value in DEFAULTS.items() if key not in given}
        options = {**defaults, "autocommit": True, "application_name": name, "client_encoding": "UTF8"}
        if awaiting():
            opened = wait(psycopg.AsyncConnection.connect(address, **options, cursor_factory=AsyncCursor))
            conn = cast(Connection, Awaited(opened))
        else:
            conn = psycopg.connect(address, **options, cursor_factory=Cursor)
        fit_encoding(conn)
        return conn
    except psycopg.Error as error:
        return unavailable(error, address)


def backend_of(conn: Connection) -> int:
    """The process id of the server's session that answers now."""
    row = conn.execute("select pg_backend_pid()", prepare=False).fetchone()
    assert row is not None
    return int(row[0])


def whoami() -> str:
    """``user@host:pid`` of this process, for the ledger and for whoever finds the lock taken."""
    with contextlib.suppress(KeyError, OSError):
        return f"{getpass.getuser()}@{socket.gethostname()}:{os.getpid()}"
    return f"uid-{os.getuid()}@{socket.gethostname()}:{os.getpid()}"


def unavailable(error: psycopg.Error, address: str) -> UsageError:
    """Says why a connection was refused, in the words of the person who has to mend it."""
    if not isinstance(error, psycopg.OperationalError):  # about the address itself, of which it repeats what it likes
        return ConfigError(
            f"{mask(address)} is not an address that libpq takes",
            hint="a database URL looks like postgresql://user:password@host:5432/name; check the names of its parameters",
        )
    said = scrub(str(error).strip().splitlines()[-1] if str(error).strip() else type(error).__name__, address)
    advice = {
        "password authentication failed": "check user and password; database = \"env:DATABASE_URL\" keeps them out of the file",
        "no password supplied": "put the password into the URL, PGPASSWORD or ~/.pgpass",
        "resolve host": "check the host's name in the URL",
        "translate host name": "check the host's name in the URL",
        "refused": "is PostgreSQL running there, and listening on that port?",
        "definition of service": "service names a section of ~/.pg_service.conf, or of the file that PGSERVICEFILE names",
        "does not exist": "create it first, or check the name in the URL",
        "remaining connection slots": "the server has no connection left for this role: a run takes about six",
        "too many connections": "the server has no connection left for this role: a run takes about six",
        "could not access file": "a library that session_preload_libraries or local_preload_libraries names is not there: ALTER DATABASE … RESET it, or install it",
        "too many clients": "the server has no connection left: a run takes about six",
    }  # fmt: skip
    hint = next(
        (mend for sign, mend in advice.items() if sign in str(error)),
        "check --database, EMBEDMIG_DATABASE or embedmig.toml",
    )
    return DatabaseUnavailable(f"can't connect to {mask(address)}: {said}", hint=hint)


def scalar(conn: Connection, query: LiteralString | sql.Composed | sql.SQL, params: Any = None) -> Any:
    """The first column of the first row, or None."""
    row = conn.execute(query, params).fetchone()
    return row[0] if row else None


def clock(conn: Connection) -> datetime:
    """What time it is by the database: times that it keeps are compared with no other clock."""
    now: datetime = scalar(conn, "select clock_timestamp()")
    return now.astimezone(UTC)


def ident(*parts: str) -> sql.Identifier:
    return sql.Identifier(*parts)


def literal(text: str) -> sql.SQL:
    """SQL that the user wrote (a predicate, an execute operation): trusted as the script it stands in is trusted."""
    return sql.SQL(text)


def planned_rows(conn: Connection, relation: sql.Composable) -> int:
    """How many rows the planner expects: the statistics' density times the pages there are now. Reads no row."""
    plan = scalar(conn, sql.SQL("explain (format json) select from {}").format(relation))
    return int(plan[0]["Plan"]["Plan Rows"])
