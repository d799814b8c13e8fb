"""Doing something at a chosen moment of a command that runs in this process: a write, a daemon's pass, or its death.

A moment is the n-th statement that embedmig sends. Death is as sudden as ``kill -9`` is for the database: from that
statement on every connection of the command is gone, so that it can neither finish a transaction nor record its end.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import psycopg

from embedmig.errors import EmbedmigError

CONNECT = psycopg.connect
APART = "fallback_application_name=apart"


class Dead(psycopg.OperationalError):
    """The process was killed here."""


class Moments:
    """Counts the statements of embedmig's connections; ``at`` says what happens before which of them."""

    def __init__(self, at: dict[int, Callable[[], None]], *, dies_at: int | None = None) -> None:
        self.at = dict(at)
        self.dies_at = dies_at
        self.dead = False
        self.count = 0
        self._apart: set[int] = set()  # connections that belong to daemons
        self._kept: list[object] = []  # so that no other connection gets the number of one that is gone
        self._lock = threading.Lock()

    def before(self, conn: psycopg.Connection[Any]) -> None:
        """Called before each statement; may raise :class:`Dead`."""
        if id(conn) in self._apart or not is_embedmigs(conn):
            return
        with self._lock:
            self.count += 1
            happens = self.at.pop(self.count, None)
            self.dead = self.dead or self.count == self.dies_at
        if self.dead:
            conn.close()
            raise Dead("killed")
        if happens:
            happens()

    def connect(self, *arguments: Any, **options: Any) -> psycopg.Connection[Any]:
        """A dead process opens no connection either; what a daemon opens is its own."""
        apart = APART in str(arguments[0])
        if self.dead and not apart:
            raise Dead("killed")
        conn = CONNECT(*arguments, **options)
        if apart:
            self._apart.add(id(conn))
            self._kept.append(conn)
        return conn


def is_embedmigs(conn: psycopg.Connection[Any]) -> bool:
    """By the name that it has in ``pg_stat_activity``."""
    with suppress(psycopg.Error):
        return (conn.info.parameter_status("application_name") or "").startswith("embedmig ")
    return False


@contextmanager
def disturbed(moments: Moments) -> Iterator[Moments]:
    """While this lasts, ``moments`` hears of every statement."""
    original = {name: getattr(psycopg.Cursor, name) for name in ("execute", "executemany", "copy")}

    def wrapped(name: str) -> Callable[..., Any]:
        def method(cursor: psycopg.Cursor[Any], *arguments: Any, **options: Any) -> Any:
            moments.before(cursor.connection)
            return original[name](cursor, *arguments, **options)

        return method

    for name in original:
        setattr(psycopg.Cursor, name, wrapped(name))
    psycopg.connect = moments.connect  # type: ignore[assignment]
    try:
        yield moments
    finally:
        psycopg.connect = CONNECT
        for name, method in original.items():
            setattr(psycopg.Cursor, name, method)


class Daemon:
    """Another process's pass of sync, as far as one process can stand in for it: a thread with its own connections,
    opened by a URL that says ``APART``.
    """

    def __init__(self, work: Callable[[], object]) -> None:
        self.error: BaseException | None = None
        self._work = work
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self, seconds: float) -> None:
        """Begins, and gets a head start of so many seconds; it may be waiting for a lock that the command has."""
        self._thread.start()
        self._thread.join(seconds)

    def _run(self) -> None:
        try:
            self._work()
        except EmbedmigError as error:
            self.error = error

    @property
    def ended(self) -> bool:
        """Whether it is through."""
        return not self._thread.is_alive()

    def join(self) -> None:
        """Waits for its end. Raises what it raised."""
        self._thread.join(30)
        assert not self._thread.is_alive(), "a pass of sync hangs"
        if self.error is not None:
            raise self.error
