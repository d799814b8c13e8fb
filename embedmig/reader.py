"""What an application uses to search: the alias says which version it shows, and the version says which model encodes.

A query is never encoded by a model other than the one that made the vectors it is compared with, whatever the
configuration says by now; and every read filters on the version, so that a flip in between gives no row of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from embedmig.aliases import CHANNEL, space_of
from embedmig.db import Connection, Database, ident, literal, scalar
from embedmig.embedders import create
from embedmig.embedders.encoder import Encoder
from embedmig.errors import AliasMoved, EmbedderMisconfigured, UsageError
from embedmig.ledger import ledger_exists
from embedmig.registry import Registry
from embedmig.settings import EmbedderSettings
from embedmig.stores import Key
from embedmig.stores.pgvector import OPERATOR
from embedmig.types import Hit, Space

T = TypeVar("T")

TRIES = 5  # flips that one search outlives


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the alias shows now: relation, columns, and the encoder of its vectors."""

    relation: sql.Composable
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    version: str
    fingerprint: str
    encoder: Encoder


@dataclass(frozen=True, slots=True)
class QueryVector:
    """A query's vector ``(dimensions,)``, and the version that it may be compared with. Cache it under fingerprint and text."""

    vector: tuple[float, ...]
    version: str
    fingerprint: str


class Reader:
    """Searches a collection through its alias.

    ``settings`` say how to reach each provider; what the model *is* comes from the alias. ``lazy`` notes which rows
    were found, so that a backfill with ``order="hot"`` embeds those first. One reader serves one thread; close it, or use it
    as a context manager. Raises :class:`UsageError` where there is nothing to be shown.
    """

    def __init__(
        self,
        url: str,
        collection: str,
        *,
        schema: str = "embedmig",
        settings: Mapping[str, EmbedderSettings] | None = None,
        lazy: bool = False,
    ) -> None:
        self.collection = collection
        self.lazy = lazy
        self._database = Database(url, schema)
        self._registry = Registry(schema)
        self._settings = settings or {}
        self._loop = asyncio.new_event_loop()
        self._resolved: Resolved | None = None
        self._conn = self._connect()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives connection and model back."""
        self._forget()
        self._loop.close()
        self._conn.close()

    @property
    def version(self) -> str:
        """The version that the alias shows, as far as this reader has heard."""
        return self._current().version

    @property
    def fingerprint(self) -> str:
        """Part of the key under which an application caches a query's vector: it changes with every flip."""
        return self._current().fingerprint

    def encode(self, text: str) -> QueryVector:
        """A query's vector, with the version it can be compared with. Raises :class:`UsageError` for an empty text."""
        if not text.strip():
            raise UsageError("the query is empty", hint="a text without words has no vector")
        current = self._current()
        vector = self._loop.run_until_complete(encode_query(current.encoder, text))
        return QueryVector(vector, current.version, current.fingerprint)

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The ``k`` nearest rows to ``text``, nearest first, all of one version.

        If the alias flips while the query is encoded, the query is encoded anew for the version it shows then. A
        connection that was lost is opened again. Raises :class:`DatabaseUnavailable` where that can't be done.
        """
        for _ in range(TRIES):
            try:
                return self.nearest(self.encode(text), k)
            except AliasMoved:
                self._forget()
            except psycopg.OperationalError:
                if not self._conn.broken:
                    raise
                self._reconnect()
        raise AliasMoved(f"the alias of {self.collection} moved {TRIES} times during one search")

    def nearest(self, query: QueryVector, k: int = 10) -> list[Hit]:
        """The ``k`` nearest rows to a vector that :meth:`encode` made, perhaps a while ago.

        Raises :class:`AliasMoved` where it was made for another version than the alias shows: a comparison across
        versions would raise nothing and return rubbish.
        """
        current = self._current()
        if query.version != current.version or query.fingerprint != current.fingerprint:
            raise AliasMoved(
                f"the query's vector was made for {query.version}, and the alias shows {current.version}",
                hint="encode the query again; use the fingerprint as part of the cache's key",
            )
        hits = self._read(current, query.vector, k)
        if not hits and self._showing() != current.version:
            raise AliasMoved(f"the alias of {self.collection} moved away from {current.version}")
        if self.lazy and hits:
            self._registry.note_reads(self._conn, self.collection, [hit.key for hit in hits])
        return hits

    # --- inside

    def _connect(self) -> Connection:
        conn = self._database.connect("reader")
        conn.execute(sql.SQL("listen {}").format(ident(CHANNEL)))
        return conn

    def _reconnect(self) -> None:
        """Notes may have been missed meanwhile, so what was known of the alias is forgotten too."""
        self._conn.close()
        self._conn = self._connect()
        self._forget()

    def _forget(self) -> None:
        """What is known of the alias is out of date; its model is let go in the loop that it was used in."""
        if self._resolved is not None:
            self._loop.run_until_complete(self._resolved.encoder.embedder.aclose())
        self._resolved = None

    def _current(self) -> Resolved:
        """What the alias shows, as far as is known: a flip says so by NOTIFY, and an empty result asks again."""
        if any(note.payload == self.collection for note in self._conn.notifies(timeout=0)):
            self._forget()
        if self._resolved is None:
            self._resolved = self._resolve()
        return self._resolved

    def _showing(self) -> str | None:
        record = self._registry.alias(self._conn, self.collection)
        return record.version if record else None

    def _resolve(self) -> Resolved:
        record = None
        if ledger_exists(self._conn, self._database.schema):
            record = self._registry.alias(self._conn, self.collection)
        if record is None or record.version is None or record.encoder is None:
            raise UsageError(
                f"the alias of {self.collection!r} shows no version yet",
                hint="embedmig upgrade head creates and fills it",
            )
        relation = ident(record.alias_schema, record.alias_name)
        names = column_names(self._conn, relation)
        space, weights = space_of(record.encoder)
        encoder = encoder_for(space, weights, self._settings.get(space.provider))
        return Resolved(relation, *split_columns(names), record.version, record.fingerprint or "", encoder)

    def _read(self, current: Resolved, vector: Sequence[float], k: int) -> list[Hit]:
        try:
            return nearest(self._conn, current, vector, k)
        except (psycopg.errors.UndefinedFunction, psycopg.errors.DataException, psycopg.errors.UndefinedTable):
            # The view was replaced between resolving and reading, by one of another type or dimension.
            if self._showing() == current.version:
                raise
            return []


class AsyncReader:
    """:class:`Reader` for applications on asyncio: the same promises, its work on a thread of its own."""

    def __init__(self, url: str, collection: str, **options: Any) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedmig-reader")
        self._make = partial(Reader, url, collection, **options)
        self._reader: Reader | None = None

    async def __aenter__(self) -> AsyncReader:
        self._reader = await self._call(self._make)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._call(self._open.close)
        self._thread.shutdown()

    @property
    def _open(self) -> Reader:
        if self._reader is None:
            raise UsageError("the reader is not open", hint="async with AsyncReader(…) as reader: …")
        return self._reader

    async def _call(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def encode(self, text: str) -> QueryVector:
        """As :meth:`Reader.encode`."""
        return await self._call(self._open.encode, text)

    async def search(self, text: str, k: int = 10) -> list[Hit]:
        """As :meth:`Reader.search`."""
        return await self._call(self._open.search, text, k)

    async def nearest(self, query: QueryVector, k: int = 10) -> list[Hit]:
        """As :meth:`Reader.nearest`."""
        return await self._call(self._open.nearest, query, k)


def column_names(conn: Connection, relation: sql.Composable) -> list[str]:
    """The columns of a view, in order."""
    cursor = conn.execute(sql.SQL("select * from {} limit 0").format(relation))
    return [column.name for column in cursor.description or ()]


def split_columns(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A view's columns: the key is what stands before ``chunk``, the application's own columns after ``embedding``."""
    return tuple(names[: names.index("chunk")]), tuple(names[names.index("embedding") + 1 :])


def encoder_for(space: Space, weights: str, settings: EmbedderSettings | None) -> Encoder:
    """The encoder of a space's vectors. Raises :class:`EmbedderMisconfigured` for other weights than made them."""
    embedder = create(space, settings)
    found = embedder.weights() if weights else ""
    if found != weights:
        raise EmbedderMisconfigured(
            f"{space.model}: the vectors were made with weights {weights[:19]}…, but here are {found[:19] or 'none'}",
            hint="install the same model files here as where the backfill ran",
        )
    return Encoder(space, embedder)


async def encode_query(encoder: Encoder, text: str) -> tuple[float, ...]:
    """One query's vector, ``(dimensions,)``, encoded as a query. Raises :class:`UsageError` where it has none."""
    encoded = await encoder.encode([text], "query")
    if encoded.rejected:
        raise UsageError(f"the query has no vector: {encoded.rejected[0]}")
    return tuple(float(value) for value in encoded.vectors[0])


def nearest(conn: Connection, current: Resolved, vector: Sequence[float], k: int) -> list[Hit]:
    """Top ``k`` by the space's own metric, filtered on its version; the index is asked for at least ``k`` candidates."""
    space = current.encoder.space
    extra = [sql.SQL(", {}").format(ident(name)) for name in current.columns]
    query = sql.SQL(
        """select {keys}, chunk, version, embedding {operator} %(vector)s::{type} as distance{extra}
           from {relation} where version = %(version)s
           order by embedding {operator} %(vector)s::{type} limit %(k)s"""
    ).format(
        keys=sql.SQL(", ").join(sql.SQL("{}::text").format(ident(name)) for name in current.keys), extra=sql.Composed(extra),
        operator=literal(OPERATOR[space.metric]), type=literal(f"{space.storage}({space.dimensions})"), relation=current.relation,
    )  # fmt: skip
    with conn.transaction():
        # Filters and deleted rows thin an index scan out: it goes on until k rows are found.
        if scalar(conn, "select extversion >= '0.8' from pg_extension where extname = 'vector'"):
            conn.execute("set local hnsw.iterative_scan = strict_order")
        conn.execute(sql.SQL("set local hnsw.ef_search = {}").format(sql.Literal(max(40, min(k, 1000)))))
        values = {"vector": str(list(vector)), "version": current.version, "k": k}
        return [read_hit(row, current) for row in conn.execute(query, values)]


def read_hit(row: Sequence[Any], current: Resolved) -> Hit:
    """A row of the result as a value."""
    width = len(current.keys)
    key: Key = tuple(row[:width])
    return Hit(
        key, row[width], row[width + 1], row[width + 2], dict(zip(current.columns, row[width + 3 :], strict=True))
    )
