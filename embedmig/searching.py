"""Searching one relation of vectors: the alias, or one version's space; through the index, or exactly.

The encoder of a relation's vectors goes with it, so that no query is compared with vectors of another model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import sql

from embedmig import source as sources
from embedmig.aliases import collection_of
from embedmig.db import Connection, ident, literal, scalar
from embedmig.embedders import create
from embedmig.embedders.encoder import Encoder
from embedmig.errors import EmbedderMisconfigured, UsageError
from embedmig.registry import Registry, SpaceRecord
from embedmig.settings import EmbedderSettings
from embedmig.stores import Key, Store, open_store
from embedmig.stores.pgvector import OPERATOR
from embedmig.types import Hit, Space


@dataclass(frozen=True, slots=True)
class Resolved:
    """What the alias shows now: relation, columns, and the encoder of its vectors."""

    relation: sql.Composable
    keys: tuple[str, ...]
    columns: tuple[str, ...]
    version: str
    fingerprint: str
    encoder: Encoder


def column_names(conn: Connection, relation: sql.Composable) -> list[str]:
    """The columns of a view, in order."""
    cursor = conn.execute(sql.SQL("select * from {} limit 0").format(relation))
    return [column.name for column in cursor.description or ()]


def split_columns(names: Sequence[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """A view's columns: the key is what stands before ``chunk``, the application's own columns after ``embedding``."""
    return tuple(names[: names.index("chunk")]), tuple(names[names.index("embedding") + 1 :])


def resolve_space(conn: Connection, store: Store, record: SpaceRecord, settings: EmbedderSettings | None) -> Resolved:
    """One version's space as the alias would show it, whatever the alias shows. Raises :class:`EmbedderMisconfigured`."""
    relation = sql.SQL("({}) as shown").format(store.view())
    encoder = encoder_for(record.space, record.weights, settings)
    return Resolved(relation, *split_columns(column_names(conn, relation)), record.version, record.fingerprint, encoder)


class NotReady(UsageError):
    """The version is still being built: what it lacks would look like what it doesn't find."""


class Gone(UsageError):
    """The version is not there, or no more."""


def resolve_version(
    conn: Connection, registry: Registry, collection: str, version: str, settings: Mapping[str, EmbedderSettings]
) -> Resolved:
    """A version beside the one that the alias shows, from what the database says of it.

    Wants SELECT on the registry, the source and the space. Raises :class:`NotReady`, :class:`Gone`, and
    :class:`UsageError` where the alias shows nothing.
    """
    alias, record = registry.alias(conn, collection), registry.space(conn, collection, version)
    if record is None or record.state == "retired":
        what = "is retired" if record else "is not there"
        raise Gone(f"version {version} of {collection!r} {what}", hint="embedmig status shows those there are")
    if record.state == "building":
        raise NotReady(f"version {version} of {collection!r} is still being built", hint="embedmig upgrade head")
    if alias is None or alias.encoder is None:
        raise UsageError(f"the alias of {collection!r} shows no version yet", hint="embedmig upgrade head")
    source = sources.resolve(conn, collection_of(alias.encoder))
    return resolve_space(conn, open_store(source, record), record, settings.get(record.space.provider))


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


def nearest(conn: Connection, current: Resolved, vector: Sequence[float], k: int, *, exact: bool = False) -> list[Hit]:
    """Top ``k`` by the space's own metric, filtered on its version; the index is asked for at least ``k`` candidates.

    With ``exact``, every vector is compared: no index matches an order by the distance plus nothing.
    """
    space = current.encoder.space
    extra = [sql.SQL(", {}").format(ident(name)) for name in current.columns]
    query = sql.SQL(
        """select {keys}, chunk, version, embedding {operator} %(vector)s::{type} as distance{extra}
           from {relation} where version = %(version)s
           order by (embedding {operator} %(vector)s::{type}){exactly} limit %(k)s"""
    ).format(
        keys=sql.SQL(", ").join(sql.SQL("{}::text").format(ident(name)) for name in current.keys), extra=sql.Composed(extra),
        operator=literal(OPERATOR[space.metric]), type=literal(f"{space.storage}({space.dimensions})"), relation=current.relation,
        exactly=sql.SQL(" + 0" if exact else ""),
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
