"""Where a reader's connections come from: of its own, or the application's. Each is lent for a while, never during a model call.

:func:`connections_of` serves threads; in a coroutine's call it serves coroutines, with connections that are awaited.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, Protocol, TypeAlias, cast

import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from embedmig.database import Connection, Database, Turn, awaiting, first_line, ident, scalar
from embedmig.database.awaited import Awaited, Lent
from embedmig.database.greenlets import entered, wait
from embedmig.errors import UsageError
from embedmig.stores.aliases import CHANNEL

SIZE = 8
"""Connections that an asynchronous reader opens at most."""
LOOK_SECONDS = 5.0
"""How often the alias is looked at where nobody listens for flips; what is read in between is right all the same."""


class Lost(psycopg.OperationalError):
    """The connection broke; the next one is another."""


class Connections(Protocol):
    """What a reader wants of them. ``database`` is where it opens connections for what goes on beside its reads."""

    @property
    def database(self) -> Database: ...

    def lend(self) -> AbstractContextManager[Connection]:
        """One that nobody else has meanwhile. Raises :class:`Lost`, :class:`DatabaseUnavailable`."""

    def heard(self) -> bool:
        """Whether something was said of the alias since this was last asked, or may have been."""

    def unsure(self) -> bool:
        """Whether the alias has to be looked at, because nothing would be heard."""

    def close(self) -> None: ...


class OwnConnections:
    """At most ``size``, opened when they are wanted; each listens. One that breaks takes those that rest with it."""

    def __init__(self, database: Database, collection: str, size: int = 1) -> None:
        if size < 1:
            raise UsageError(f"connections={size}", hint="at least 1")
        self.database, self._collection = database, collection
        self._resting: list[Connection] = []
        self._room = asyncio.Semaphore(size)
        self._standby = self._noted = self._closed = False
        with self.lend():
            """Whoever can't connect hears of it at once."""

    @contextmanager
    def lend(self) -> Iterator[Connection]:
        """Where all are lent, a coroutine waits; a thread uses one at a time."""
        if awaiting():
            wait(self._room.acquire())
        try:
            conn = self._resting.pop() if self._resting else self._open()
            try:
                yield conn
            except psycopg.OperationalError as error:
                if conn.broken:
                    raise Lost(first_line(error)) from error
                raise
            finally:
                self._take_back(conn)
        finally:
            if awaiting():
                self._room.release()

    def heard(self) -> bool:
        if not awaiting():
            self._poll()
        noted, self._noted = self._noted, False
        return noted

    def unsure(self) -> bool:
        return self._standby  # it passes on no notes

    def close(self) -> None:
        self._closed = True
        while self._resting:
            self._resting.pop().close()

    def _open(self) -> Connection:
        conn = self.database.connect("reader", own=False)
        try:
            self._standby = bool(scalar(conn, "select pg_is_in_recovery()"))
            if not self._standby:
                conn.execute(sql.SQL("listen {}").format(ident(CHANNEL)))
            conn.add_notify_handler(lambda note: self._note(note.payload))
        except BaseException:
            conn.close()
            raise
        return conn

    def _take_back(self, conn: Connection) -> None:
        if conn.broken or conn.closed:
            self._noted = True
            while self._resting:
                self._resting.pop().close()
        elif self._closed or conn.info.transaction_status != TransactionStatus.IDLE:
            conn.close()
        else:
            self._resting.append(conn)

    def _note(self, payload: str) -> None:
        """Heard with the answer to a statement, or when it is asked for."""
        self._noted = self._noted or payload == self._collection

    def _poll(self) -> None:
        """What came since the last answer. A thread's reader has one connection; a coroutine's hear with their next answers."""
        for conn in self._resting:
            with suppress(psycopg.OperationalError):  # lost, as its next statement will say
                conn.pgconn.consume_input()
                while note := conn.pgconn.notifies():
                    self._note(note.extra.decode())


Borrow: TypeAlias = Callable[[], AbstractContextManager[Any]]
"""Gives a connection of psycopg's for a while."""


class LentConnections:
    """Of the application's. Sessions are left as they are, and so are transactions, in which the reads then are; nobody listens.

    ``many``: after one that is lost there is another.
    """

    def __init__(self, borrow: Borrow, schema: str, *, many: bool) -> None:
        self._borrow, self._many = borrow, many
        self._looked = time.monotonic()
        with self.lend() as conn:
            secret = {"password": conn.info.password} if conn.info.password else {}
            self.database = Database(make_conninfo(conn.info.dsn, **secret), schema)

    @contextmanager
    def lend(self) -> Iterator[Connection]:
        with self._borrow() as given:
            conn = cast(Connection, Awaited(given) if awaiting() else Lent(given))
            try:
                alone = given.autocommit and given.info.transaction_status == TransactionStatus.IDLE
                with nullcontext() if alone else conn.transaction():
                    yield conn
            except psycopg.OperationalError as error:
                if self._many and conn.broken:
                    raise Lost(first_line(error)) from error
                raise

    def heard(self) -> bool:
        return False

    def unsure(self) -> bool:
        due = time.monotonic() >= self._looked + LOOK_SECONDS
        if due:
            self._looked = time.monotonic()
        return due

    def close(self) -> None:
        """They are not the reader's."""


def connections_of(place: Any, schema: str, collection: str, size: int) -> Connections:
    """Over an address, or over what the application has: a connection or a pool of psycopg's, an engine, a connection or a session of
    SQLAlchemy's. In a coroutine's call the asynchronous kind of each. Raises :class:`UsageError` for anything else.
    """
    if isinstance(place, str | Database):
        return OwnConnections(Database(place, schema) if isinstance(place, str) else place, collection, size)
    borrow, many = _borrowed(place)

    @contextmanager
    def borrowed() -> Iterator[Any]:
        with borrow() as given:
            if not isinstance(given, psycopg.AsyncConnection if awaiting() else psycopg.Connection):
                raise _unusable(place, type(given).__module__)
            yield given

    return LentConnections(borrowed, schema, many=many)


def _borrowed(place: Any) -> tuple[Borrow, bool]:
    """How a connection is had from it, and whether there are many."""
    module = type(place).__module__.partition(".")[0]
    if isinstance(place, psycopg.Connection | psycopg.AsyncConnection):
        return _one(lambda: place), False
    if module == "psycopg_pool":
        return (lambda: entered(place.connection()) if awaiting() else place.connection()), True
    if module == "sqlalchemy":
        if hasattr(place, "raw_connection"):
            return (lambda: _of_engine(place)), True
        return _one(lambda: _driver(_waited(place.connection()) if hasattr(place, "get_bind") else place)), False
    raise _unusable(place)


def _one(give: Callable[[], Any]) -> Borrow:
    turn = Turn()

    @contextmanager
    def borrow() -> Iterator[Any]:
        with turn:
            yield give()

    return borrow


@contextmanager
def _of_engine(engine: Any) -> Iterator[Any]:
    with entered(engine.connect()) if awaiting() else engine.connect() as conn:
        yield _driver(conn)


def _driver(conn: Any) -> Any:
    """The driver's own, under a connection of SQLAlchemy's."""
    raw = wait(conn.get_raw_connection()) if hasattr(conn, "get_raw_connection") else conn.connection
    return raw.driver_connection


def _waited(value: Any) -> Any:
    return wait(value) if inspect.isawaitable(value) else value


def _unusable(place: Any, driver: str = "") -> UsageError:
    kind = "AsyncReader" if awaiting() else "Reader"
    what = f"{type(place).__module__}.{type(place).__qualname__}"
    want = "an asynchronous" if awaiting() else "a"
    return UsageError(
        f"{kind} can't read through {what}{f' (driver: {driver})' if driver else ''}",
        hint=f"a URL, {want} connection or pool of psycopg 3, or {want} SQLAlchemy engine or session over postgresql+psycopg://",
    )
