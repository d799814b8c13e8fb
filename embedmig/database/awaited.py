"""Connections of psycopg's asynchronous kind, for functions that are written for the other: see :mod:`.greenlets`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Any, Self

import psycopg
from psycopg.abc import Params
from psycopg.rows import TupleRow, tuple_row

from embedmig.database.cursors import Cursor, doubled
from embedmig.database.greenlets import entered, wait


class AsyncCursor(psycopg.AsyncCursor[TupleRow]):
    """As :class:`.cursors.Cursor`."""

    async def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
        return await super().execute(query if params is None else doubled(query), params, **options)


class AwaitedCursor:
    """A cursor whose calls are awaited by the caller's coroutine."""

    def __init__(self, cursor: psycopg.AsyncCursor[TupleRow]) -> None:
        self._cursor = cursor

    def execute(self, query: Any, params: Params | None = None, **options: Any) -> Self:
        wait(self._cursor.execute(query, params, **options))
        return self

    def executemany(self, query: Any, params_seq: Iterable[Params], **options: Any) -> None:
        wait(self._cursor.executemany(query, params_seq, **options))

    def fetchone(self) -> TupleRow | None:
        return wait(self._cursor.fetchone())

    def fetchall(self) -> list[TupleRow]:
        return wait(self._cursor.fetchall())

    def __iter__(self) -> Iterator[TupleRow]:
        return iter(self.fetchall())

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        wait(self._cursor.close())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._cursor, name)


class Lent:
    """A connection of the application's: its session is left as it is. Rows are tuples, names may have percent signs."""

    def __init__(self, conn: Any) -> None:
        self._conn = conn

    def cursor(self) -> Any:
        return Cursor(self._conn, row_factory=tuple_row)

    def execute(self, query: Any, params: Params | None = None, **options: Any) -> Any:
        return self.cursor().execute(query, params, **options)

    def transaction(self) -> AbstractContextManager[Any]:
        block: AbstractContextManager[Any] = self._conn.transaction()
        return block

    @property
    def prepare_threshold(self) -> int | None:
        found: int | None = self._conn.prepare_threshold
        return found

    @prepare_threshold.setter
    def prepare_threshold(self, value: int | None) -> None:
        self._conn.prepare_threshold = value

    def __getattr__(self, name: str) -> Any:
        return getattr(self._conn, name)


class Awaited(Lent):
    """A connection whose calls are awaited by the caller's coroutine."""

    def cursor(self) -> Any:
        return AwaitedCursor(AsyncCursor(self._conn, row_factory=tuple_row))

    def transaction(self) -> AbstractContextManager[Any]:
        return entered(self._conn.transaction())

    def close(self) -> None:
        wait(self._conn.close())
