"""The reader of applications on asyncio: :class:`Reader` itself, its calls awaited (:mod:`embedmig.database.greenlets`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Concatenate, ParamSpec, Self, TypeVar

from embedmig.database.greenlets import run
from embedmig.errors import UsageError
from embedmig.reading.connections import SIZE
from embedmig.reading.reader import QueryVector, Reader
from embedmig.types import Hit, Hits

T = TypeVar("T")
P = ParamSpec("P")


class _Awaited(Reader):
    """A reader of ``size`` connections, made and called in coroutines' calls."""

    def __init__(self, size: int, *arguments: Any, **options: Any) -> None:
        self._size = size
        super().__init__(*arguments, **options)


class AsyncReader:
    """:class:`Reader` for applications on asyncio: the same promises, for any number of searches at once in one event loop.

    ``url`` is an address, for which at most ``connections`` are opened; or the application's ``psycopg.AsyncConnection``,
    ``AsyncConnectionPool``, or SQLAlchemy ``AsyncEngine``, ``AsyncConnection`` or ``AsyncSession``. The other ``options`` are those of
    :class:`Reader`. No connection is held while a model is waited for. A task that is cancelled gives back what it has. Clients of
    stores beside PostgreSQL wait on other threads, and models are loaded there.
    """

    def __init__(self, url: Any, collection: str, *, connections: int = SIZE, **options: Any) -> None:
        self._arguments = (connections, url, collection), options
        self._reader: Reader | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def open(self) -> None:
        """Connects, in the event loop that it then serves. Raises :class:`DatabaseUnavailable`."""
        places, options = self._arguments
        self._reader = await run(_Awaited, *places, **options)

    async def aclose(self) -> None:
        """As :meth:`Reader.close`."""
        await self.call(Reader.close)

    async def call(self, method: Callable[Concatenate[Reader, P], T], *arguments: P.args, **options: P.kwargs) -> T:
        """What a function of a :class:`Reader` gives, without holding the event loop up while that reads."""
        if self._reader is None:
            raise UsageError("the reader is not open", hint="async with AsyncReader(…) as reader: …")
        return await run(method, self._reader, *arguments, **options)

    async def version(self) -> str:
        """As :attr:`Reader.version`."""
        return await self.call(lambda reader: reader.version)

    async def fingerprint(self) -> str:
        """As :attr:`Reader.fingerprint`."""
        return await self.call(lambda reader: reader.fingerprint)

    async def encode(self, text: str) -> QueryVector:
        """As :meth:`Reader.encode`."""
        return await self.call(Reader.encode, text)

    async def search(
        self, text: str, k: int = 10, *, where: Mapping[str, Any] | None = None, tenant: str | None = None,
        rerank: str | bool | None = None, depth: int | None = None, budget_ms: float | None = None, max_texts: int | None = None,
        cut: str | None = None,
    ) -> Hits:  # fmt: skip
        """As :meth:`Reader.search`."""
        return await self.call(
            Reader.search, text, k, where=where, tenant=tenant, rerank=rerank, depth=depth, budget_ms=budget_ms,
            max_texts=max_texts, cut=cut,
        )  # fmt: skip

    async def nearest(self, query: QueryVector, k: int = 10, *, where: Mapping[str, Any] | None = None) -> list[Hit]:
        """As :meth:`Reader.nearest`."""
        return await self.call(Reader.nearest, query, k, where=where)

    async def text(self, hit: Hit) -> str | None:
        """As :meth:`Reader.text`."""
        return await self.call(Reader.text, hit)
