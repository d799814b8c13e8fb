"""What a search compares with what: one version's vectors, as the alias or the space itself shows them, and their encoder.

The encoder of the vectors goes with them, so that no query is compared with vectors of another model.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from operator import index
from types import MappingProxyType
from typing import Any, TypeAlias

import psycopg
from psycopg import errors as pg
from psycopg import sql

from embedmig.config.settings import EmbedderSettings, StoreSettings
from embedmig.database import Connection, first_line, in_thread
from embedmig.database.registry import AliasRecord, Registry
from embedmig.embedders import create
from embedmig.embedders.encoder import Encoder
from embedmig.errors import EmbedderMisconfigured, UsageError
from embedmig.source import table as sources
from embedmig.source.rows import Key
from embedmig.stores import external_search, open_manifest
from embedmig.stores.aliases import collection_of, space_of
from embedmig.stores.key_relations import key_parameters, typed_keys
from embedmig.stores.manifest import Manifest
from embedmig.stores.pgvector import search
from embedmig.stores.pgvector.search import Shown
from embedmig.stores.presence import require_vectors
from embedmig.types import Hit, Space

WRONG_VALUE = (
    psycopg.DataError,
    pg.UndefinedFunction,
    pg.UndefinedObject,
    pg.DatatypeMismatch,
    pg.IndeterminateDatatype,
)
"""What the server says of a value that is not of its column's type; psycopg itself has no ``sqlstate`` for what it can't send."""

Stores: TypeAlias = Mapping[str, StoreSettings]
NO_STORES: Stores = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Resolved:
    """One version that can be searched: where its vectors are shown, and what encodes queries for them."""

    shown: Shown
    fingerprint: str
    encoder: Encoder  # of queries, which may be another model than that of the documents

    @property
    def version(self) -> str:
        """The version of every vector that is shown."""
        return self.shown.version


def resolve_space(conn: Connection, manifest: Manifest, settings: EmbedderSettings | None) -> Resolved:
    """One version's space as the alias would show it, whatever the alias shows; ``settings`` are those of the provider of
    its ``query_side``. Raises :class:`EmbedderMisconfigured`.
    """
    record = manifest.record
    require_vectors(conn, manifest.source, manifest.record)
    return Resolved(
        manifest.shown(conn), record.fingerprint, encoder_for(record.space, record.weights, settings)
    )  # fmt: skip


def resolve_alias(
    conn: Connection, alias: AliasRecord, settings: Mapping[str, EmbedderSettings], stores: Stores = NO_STORES,
    encoder: Encoder | None = None,
) -> Resolved:  # fmt: skip
    """What the alias shows now, with its own encoder unless another one is given. Wants SELECT on the view and on the registry of
    aliases alone.
    """
    assert alias.encoder is not None
    assert alias.version is not None
    space, weights = space_of(alias.encoder)
    shown = (
        external_search.shown_by_alias(conn, alias, space, replace(collection_of(alias.encoder), stores=stores))
        if space.external
        else search.shown_by_alias(conn, alias, space)
    )
    found = encoder or encoder_for(space, weights, settings.get(space.query_side.provider))
    return Resolved(shown, alias.fingerprint or "", found)


@dataclass(frozen=True)
class Ranker:
    """A version's vectors of rows that another version found; it need not have all of them."""

    manifest: Manifest
    shown: Shown

    def lacking(self, conn: Connection, keys: Sequence[Key]) -> dict[Key, bool]:
        """Which of these rows want a vector, and whether each is in a batch at the API."""
        return self.manifest.lacking_among(conn, keys)

    def rank(self, conn: Connection, keys: Sequence[Key], vector: Sequence[float]) -> list[Hit]:
        """Those of these rows that have a vector, each by its nearest chunk, nearest first; equally near ones as they come.

        Raises :class:`StoreError` where their vectors can't be had.
        """
        return self._rank(conn, self._of_all, keys, vector)

    def rank_current(self, conn: Connection, keys: Sequence[Key], vector: Sequence[float]) -> list[Hit] | None:
        """As :meth:`rank`, in one question to the database; None unless every one of these rows has a vector of its text as it is now."""
        found = self._rank(conn, self._of_current, keys, vector)
        return found if len(found) == len(keys) else None

    def _rank(self, conn: Connection, query: sql.SQL, keys: Sequence[Key], vector: Sequence[float]) -> list[Hit]:
        place = {key: n for n, key in enumerate(keys)}
        found = self.shown.among(conn, query, key_parameters(keys), vector) if keys else []
        return sorted(found, key=lambda hit: (hit.distance, place.get(hit.key_text, len(keys))))

    @cached_property
    def _of_all(self) -> sql.SQL:
        return self.shown.query_among(self.manifest.given_keys())

    @cached_property
    def _of_current(self) -> sql.SQL:
        return self.shown.query_among(self.manifest.given_keys(current=True))

    def vectors(self, conn: Connection, keys: Sequence[Key]) -> dict[tuple[Key, int], Sequence[float]]:
        """Those of these rows that have one, by key and chunk."""
        return self.shown.vectors(conn, typed_keys(self.manifest.source.key, keys)) if keys else {}


class VersionNotReady(UsageError):
    """The version is still being built: what it lacks would look like what it doesn't find."""


class VersionGone(UsageError):
    """The version is not there, or no more."""


def resolve_version(
    conn: Connection,
    registry: Registry,
    collection: str,
    version: str,
    settings: Mapping[str, EmbedderSettings],
    stores: Stores = NO_STORES,
) -> Resolved:
    """A version beside the one that the alias shows, from what the database says of it.

    Wants SELECT on the registry, the source and the space. Raises :class:`VersionNotReady`, :class:`VersionGone`, and
    :class:`UsageError` where the alias shows nothing.
    """
    manifest = find_manifest(conn, registry, collection, version, stores)
    if manifest.record.state == "building":
        raise VersionNotReady(f"version {version} of {collection!r} is still being built", hint="embedmig upgrade head")
    return resolve_space(conn, manifest, settings.get(manifest.space.query_side.provider))


def find_manifest(
    conn: Connection, registry: Registry, collection: str, version: str, stores: Stores = NO_STORES
) -> Manifest:
    """A version's manifest, over the collection as the alias shows it. Raises :class:`VersionGone`, and
    :class:`UsageError` where the alias shows nothing.
    """
    alias, record = registry.alias(conn, collection), registry.space(conn, collection, version)
    if record is None or not record.live:
        what = f"is {record.state}" if record else "is not there"
        raise VersionGone(f"version {version} of {collection!r} {what}", hint="embedmig status shows those there are")
    if alias is None or alias.encoder is None:
        raise UsageError(f"the alias of {collection!r} shows no version yet", hint="embedmig upgrade head")
    shown = replace(collection_of(alias.encoder), stores=stores)
    return open_manifest(sources.resolve(conn, shown), record)


def encoder_for(space: Space, weights: str, settings: EmbedderSettings | None) -> Encoder:
    """The encoder of queries among a space's vectors. Raises :class:`EmbedderMisconfigured` for other weights than made them."""
    asked = space.query_side
    embedder = in_thread(lambda: create(asked, settings))
    found = in_thread(embedder.weights) if weights else ""
    if found != weights and asked is space:
        raise EmbedderMisconfigured(
            f"{space.model}: the vectors were made with weights {weights[:19]}…, but here are {found[:19] or 'none'}",
            hint="install the same model files here as where the backfill ran",
        )
    return Encoder(asked, embedder)


async def encode_query(encoder: Encoder, text: str) -> tuple[float, ...]:
    """One query's vector, ``(dimensions,)``, encoded as a query. Raises :class:`UsageError` where it has none."""
    encoded = await encoder.encode([text], "query")
    if encoded.rejected:
        raise UsageError(f"the query has no vector: {encoded.rejected[0]}")
    return tuple(encoded.vectors[0].tolist())


def nearest(
    conn: Connection,
    current: Resolved,
    vector: Sequence[float],
    k: int,
    *,
    exact: bool = False,
    where: Mapping[str, Any] | None = None,
) -> list[Hit]:
    """The ``k`` nearest rows by the space's own metric, filtered on its version. ``where`` gives values that key or columns of
    the alias must have; a list: one of them. ``exact`` compares every vector. Raises :class:`UsageError` for an unknown column,
    for values that can't be compared with it, and for a ``k`` that is no number of rows.
    """
    try:
        rows = index(k)
    except TypeError:
        rows = -1
    if rows < 0:
        raise UsageError(f"k is {k!r}", hint="how many rows are wanted: a whole number, 0 or more")
    try:
        return current.shown.nearest(conn, vector, rows, exact=exact, where=where)
    except (psycopg.DataError, psycopg.ProgrammingError) as error:
        if not where or not (isinstance(error, WRONG_VALUE) or error.sqlstate is None):
            raise
        raise UsageError(
            f"where ({', '.join(where)}) can't be compared with what the alias shows: {first_line(error)}",
            hint="give each value as its column's own type; a list means one of its values",
        ) from error
