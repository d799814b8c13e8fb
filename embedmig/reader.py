"""What an application uses to search: the alias says which version it shows, and the version says which model encodes.

A query is never encoded by a model other than the one that made the vectors it is compared with, whatever the
configuration says by now; and every read filters on the version, so that a flip in between gives no row of another.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import psycopg
from psycopg import sql

from embedmig.aliases import space_of
from embedmig.db import Connection, Database, ident, literal, scalar
from embedmig.embedders import create
from embedmig.embedders.encoder import Encoder
from embedmig.embedders.settings import EmbedderSettings
from embedmig.errors import AliasMoved, EmbedderMisconfigured, UsageError
from embedmig.ledger import ledger_exists
from embedmig.registry import AliasRecord, Registry
from embedmig.stores import Key
from embedmig.stores.pgvector import OPERATOR
from embedmig.types import Hit, Space

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


class Reader:
    """Searches a collection through its alias.

    ``settings`` say how to reach each provider; what the model *is* comes from the alias. Close it, or use it as a
    context manager. Raises :class:`UsageError` where the alias shows nothing.
    """

    def __init__(
        self,
        url: str,
        collection: str,
        *,
        schema: str = "embedmig",
        settings: Mapping[str, EmbedderSettings] | None = None,
    ) -> None:
        self.collection = collection
        self._database = Database(url, schema)
        self._registry = Registry(schema)
        self._settings = settings or {}
        self._conn: Connection = self._database.connect("reader")
        self._resolved: Resolved | None = None

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives the connection back."""
        self._conn.close()

    @property
    def version(self) -> str:
        """The version that the alias shows, as of the last search."""
        return self._current().version

    @property
    def fingerprint(self) -> str:
        """The key under which an application may cache a query's vector: it changes with every flip."""
        return self._current().fingerprint

    def search(self, text: str, k: int = 10) -> list[Hit]:
        """The ``k`` nearest rows to ``text``, nearest first, all of one version.

        If the alias flips while the query is encoded, the query is encoded anew for the version it shows then.
        """
        if not text.strip():
            raise UsageError("the query is empty", hint="a text without words has no vector")
        for _ in range(TRIES):
            current = self._current()
            hits = self._nearest(current, encode_query(current.encoder, text), k)
            if hits or self._showing() == current.version:
                return hits
            self._resolved = None
        raise AliasMoved(f"the alias of {self.collection} moved {TRIES} times during one search")

    # --- inside

    def _current(self) -> Resolved:
        if self._resolved is None:
            self._resolved = self._resolve()
        return self._resolved

    def _record(self) -> AliasRecord:
        record = None
        if ledger_exists(self._conn, self._database.schema):
            record = self._registry.alias(self._conn, self.collection)
        if record is None or record.version is None:
            raise UsageError(
                f"the alias of {self.collection!r} shows no version yet",
                hint="embedmig upgrade head creates and fills it",
            )
        return record

    def _showing(self) -> str | None:
        record = self._registry.alias(self._conn, self.collection)
        return record.version if record else None

    def _resolve(self) -> Resolved:
        record = self._record()
        assert record.version is not None
        assert record.fingerprint is not None
        assert record.encoder is not None
        space, weights = space_of(record.encoder)
        names = [
            row[0]
            for row in self._conn.execute(
                "select attname from pg_attribute where attrelid = to_regclass(%s) and attnum > 0 and not attisdropped order by attnum",
                (ident(record.alias_schema, record.alias_name).as_string(self._conn),),
            )
        ]
        encoder = encoder_for(space, weights, self._settings.get(space.provider))
        relation = ident(record.alias_schema, record.alias_name)
        return Resolved(relation, *split_columns(names), record.version, record.fingerprint, encoder)

    def _nearest(self, current: Resolved, vector: Sequence[float], k: int) -> list[Hit]:
        try:
            return nearest(self._conn, current, vector, k)
        except (psycopg.errors.UndefinedFunction, psycopg.errors.DataException):
            # The view was replaced between resolving and reading, by one of another type or dimension.
            if self._showing() == current.version:
                raise
            return []


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


def encode_query(encoder: Encoder, text: str) -> list[float]:
    """One query's vector, ``(dimensions,)``, encoded as a query. Raises :class:`UsageError` where it has none."""

    async def ask() -> list[float]:
        try:
            encoded = await encoder.encode([text], "query")
        finally:
            await encoder.embedder.aclose()
        if encoded.rejected:
            raise UsageError(f"the query has no vector: {encoded.rejected[0]}")
        return [float(value) for value in encoded.vectors[0]]

    return asyncio.run(ask())


def nearest(conn: Connection, current: Resolved, vector: Sequence[float], k: int) -> list[Hit]:
    """Top ``k`` by the space's own metric, filtered on its version; the index is asked for at least ``k`` candidates."""
    space = current.encoder.space
    extra = [sql.SQL(", v.{}").format(ident(name)) for name in current.columns]
    query = sql.SQL(
        """select {keys}, v.chunk, v.version, v.embedding {operator} %(vector)s::{type} as distance{extra}
           from {relation} v where v.version = %(version)s
           order by v.embedding {operator} %(vector)s::{type} limit %(k)s"""
    ).format(
        keys=sql.SQL(", ").join(sql.SQL("v.{}::text").format(ident(name)) for name in current.keys), extra=sql.Composed(extra),
        operator=literal(OPERATOR[space.metric]), type=literal(f"{space.storage}({space.dimensions})"), relation=current.relation,
    )  # fmt: skip
    with conn.transaction():
        # Filters and deleted rows thin an index scan out: it goes on until k rows are found.
        if scalar(conn, "select exists (select from pg_settings where name = 'hnsw.iterative_scan')"):
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
