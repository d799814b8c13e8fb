"""A reader of any kind behind the methods of :class:`Reader`, so that one test speaks of all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, AsyncExitStack, ExitStack, contextmanager
from typing import Any

import psycopg
import sqlalchemy
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import Session

from embedmig import AsyncReader, Reader

Open = Callable[..., AbstractContextManager[Any]]


class OnALoop:
    """An :class:`AsyncReader` whose calls are run to their end."""

    def __init__(self, reader: AsyncReader, runner: asyncio.Runner) -> None:
        self.reader, self._runner = reader, runner

    def close(self) -> None:
        self._runner.run(self.reader.aclose())

    def rollback(self) -> None:
        """Of the application's session."""
        self._runner.run(self.reader._arguments[0][1].rollback())

    def __getattr__(self, name: str) -> Any:
        call = getattr(self.reader, name)
        if name in ("fingerprint", "version"):
            return self._runner.run(call())
        return lambda *arguments, **options: self._runner.run(call(*arguments, **options))


@contextmanager
def asynchronous(place: Any, *arguments: Any, **options: Any) -> Iterator[OnALoop]:
    """``place`` may be a coroutine function that is given an exit stack."""
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        try:
            given = runner.run(place(stack)) if callable(place) else place
            reader = AsyncReader(given, *arguments, **options)
            runner.run(reader.open())
            yield OnALoop(reader, runner)
            runner.run(reader.aclose())
        finally:
            runner.run(stack.aclose())


OWN: dict[str, Open] = {"Reader": Reader, "AsyncReader": asynchronous}
"""On connections of their own."""


def over_what_the_application_has(url: str, stack: ExitStack) -> tuple[dict[str, Any], Session]:
    """A reader of each kind, by what it reads through; and the session, which is in a transaction."""
    engine = sqlalchemy.create_engine(url.replace("postgresql://", "postgresql+psycopg://"))
    stack.callback(engine.dispose)
    session = stack.enter_context(Session(engine))
    session.execute(sqlalchemy.text("select 1"))  # a transaction is open
    conn = stack.enter_context(psycopg.connect(url, row_factory=psycopg.rows.dict_row))
    places = {
        "Connection": conn, "ConnectionPool": stack.enter_context(ConnectionPool(url, min_size=1)), "Engine": engine, "Session": session,
        "AsyncConnection": open_connection(url), "AsyncConnectionPool": open_pool(url), "AsyncEngine": open_engine(url),
        "AsyncSession": open_engine(url, session=True),
    }  # fmt: skip
    readers = {
        kind: stack.enter_context((asynchronous if kind.startswith("Async") else Reader)(place, "docs"))
        for kind, place in places.items()
    }
    return readers, session


def open_connection(url: str) -> Any:
    async def opened(stack: AsyncExitStack) -> Any:
        return await stack.enter_async_context(await psycopg.AsyncConnection.connect(url))

    return opened


def open_pool(url: str, size: int = 2) -> Any:
    async def opened(stack: AsyncExitStack) -> Any:
        return await stack.enter_async_context(AsyncConnectionPool(url, min_size=size, max_size=size, open=False))

    return opened


def open_engine(url: str, *, session: bool = False) -> Any:
    async def opened(stack: AsyncExitStack) -> Any:
        engine = create_async_engine(url.replace("postgresql://", "postgresql+psycopg://"))
        stack.push_async_callback(engine.dispose)
        return await stack.enter_async_context(AsyncSession(engine)) if session else engine

    return opened
