"""What every store beside PostgreSQL shares: content-addressed points, retries, and rows found by their nearest chunk.

A store's own file fills in what its client can do, each in one method of :class:`ExternalStore`; ids, batches, retries and the
answers of :class:`embedmig.stores.protocol.VectorStore` are made of those here.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import numpy as np
from psycopg import sql

from embedmig.config.settings import StoreSettings
from embedmig.database import Connection
from embedmig.database.registry import Place, SpaceRecord
from embedmig.errors import (
    Interrupted,
    OutcomeUnknown,
    PlaceMissing,
    PlanError,
    StoreError,
    StoreThrottled,
    StoreUnreachable,
    VectorRefused,
)
from embedmig.source import Source
from embedmig.source.rows import Key
from embedmig.stores.adopted_place import VERSION as VERSION
from embedmig.stores.manifest_table import refuse_taken_names, table_name
from embedmig.stores.payload_values import payload, wanted_value
from embedmig.stores.protocol import Batch, Capabilities, IndexBuild, IndexOptions, IndexState, point_id, rows_once
from embedmig.stores.protocol import pages as pages
from embedmig.types import Hit, Metric, Progress, Space

KEY, CHUNK, HASH = "embedmig_key", "embedmig_chunk", "embedmig_hash"
"""What every point says beside its vector: the key (a list of texts), the chunk's number, the content hash in hexadecimal digits,
and :data:`VERSION`. The collection's ``columns`` stand beside them under their own names.
"""
CHUNKS = 5  # points that are asked for per row wanted, where a row has several; at each refill four times as many
CHANGED = 1_000  # points whose columns are changed at once
POLL_SECONDS = 0.2  # between two looks at an index that is being built
BACKOFF_SECONDS = (0.1, 10.0)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Point:
    """A vector on its way into a store, ``(dimensions,)`` float32, and what is said of it."""

    id: str
    key: Key
    chunk: int
    content_hash: bytes
    vector: Any
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Near:
    """A point found by a search. ``distance`` is as pgvector has it: smaller is nearer: one less cosine, L2, or the negative inner product."""

    id: str
    key: Key
    chunk: int
    content_hash: bytes
    distance: float


@dataclass(frozen=True, slots=True)
class Held:
    """A point as a listing has it, with the payload's fields that were asked for; of an adopted collection, anybody's."""

    id: str
    payload: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CollectionInfo:
    """What a collection that is there can hold."""

    dimensions: int
    metric: Metric


@dataclass(frozen=True, slots=True)
class IndexStatus:
    """An index and how far it is; None where the store does not say. ``why`` explains a state that is not valid."""

    state: IndexState
    indexed: int | None = None
    total: int | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a request is repeated whose outcome is unknown, or that was refused for the time being."""

    give_up_after: float
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic


class ExternalStore(ABC):
    """One space in a collection of its own of a store beside PostgreSQL. Implements :class:`VectorStore`.

    The methods that a store fills in raise errors of :mod:`embedmig.errors` alone: :class:`StoreUnreachable`,
    :class:`StoreThrottled` and :class:`OutcomeUnknown`, which :meth:`attempt` repeats; :class:`PlaceMissing`,
    :class:`VectorRefused`; :class:`StoreError` for all else, with the server's own words.
    """

    kind: ClassVar[str]
    extra: ClassVar[str]
    capabilities: ClassVar[Capabilities]
    adoptable: ClassVar[bool] = True  # collections that an application has made can be read and marked
    options: ClassVar[frozenset[str]] = frozenset()
    """The keys of ``[stores.NAME.options]``: what a collection is made with (replicas, a cloud's region)."""

    def __init__(self, source: Source, record: SpaceRecord, settings: StoreSettings) -> None:
        self.source, self.record, self.space, self.settings = source, record, record.space, settings
        self.collection = record.place[3]
        self.patience = Patience(settings.give_up_after)

    # --- what a store fills in: the server

    @abstractmethod
    def server_version(self) -> str:
        """The server's version. Raises :class:`StoreUnreachable`, :class:`StoreUnauthorized`, :class:`StoreUnsuitable`."""

    @staticmethod
    @abstractmethod
    def collection_name(space: Space, unique: str) -> str:
        """A name that the store takes. ``unique`` is one of at most 61 characters of ``a-z0-9_``."""

    @abstractmethod
    def describe(self) -> CollectionInfo | None:
        """The collection that is there; None where there is none."""

    def check_adoptable(self) -> None:  # noqa: B027  nothing to refuse in most stores
        """Raises :class:`StoreUnsuitable` for a collection of the application's whose points can't be given a version."""

    @abstractmethod
    def create_collection(self) -> None:
        """Makes it, of the space's dimensions and metric; nothing where it is there. Searchable, if slowly, without an index."""

    @abstractmethod
    def drop_collection(self) -> None:
        """Removes it with all points; nothing where it is not there."""

    # --- what a store fills in: points

    @abstractmethod
    def put(self, points: Sequence[Point]) -> None:
        """All or an error, any number of times: acknowledged, durable, and seen by every later listing, fetch and count.

        Cuts ``points`` into requests within the store's limits. Each point says :data:`KEY`, :data:`CHUNK`, :data:`HASH`,
        :data:`VERSION` and its ``columns``.
        """

    @abstractmethod
    def remove(self, ids: Sequence[str]) -> None:
        """Points that are not there are no error."""

    @abstractmethod
    def held(self, fields: Sequence[str] | None = ()) -> Iterator[Sequence[Held]]:
        """Every point of the collection, a page at a time, beside writers; with these fields of the payload, None: all of them."""

    @abstractmethod
    def vectors(self, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """By id, ``(dimensions,)`` each; those that are not there are left out."""

    @abstractmethod
    def near(self, vector: Sequence[float], limit: int, where: Mapping[str, Any], *, exact: bool) -> list[Near]:
        """The ``limit`` nearest points, nearest first. ``where``: columns and the value they must have, as ``payload_values``
        gives it; a list: one of them. Columns of the key are compared by their text.
        """

    @abstractmethod
    def total(self) -> int:
        """How many points there are, exactly, and by another way than a listing."""

    @abstractmethod
    def set_columns(self, columns: Mapping[str, Mapping[str, Any]]) -> None:
        """By id: replaces the columns of points that are there, and nothing else of them; others are left out. Values are as
        ``payload_values`` gives them.
        """

    @abstractmethod
    def set_version(self, ids: Sequence[str], version: str) -> None:
        """Writes :data:`VERSION` onto points of an adopted collection, and nothing else."""

    @abstractmethod
    def size_bytes(self) -> int | None:
        """What it takes on disk; None where the store does not say."""

    # --- what a store fills in: index and alias

    @abstractmethod
    def start_index(self, options: IndexOptions) -> None:
        """Has the index built, in the store's own time; nothing where it is there or begun."""

    @abstractmethod
    def index_status(self) -> IndexStatus:
        """Valid only where the store has shown that every point is in it."""

    @abstractmethod
    def alias_target(self, name: str) -> str | None:
        """The collection that the store's own alias names; None where there is no such alias."""

    @abstractmethod
    def point_alias(self, name: str) -> None:
        """Has it name this collection, in one step that readers never see the middle of; any number of times."""

    @abstractmethod
    def remove_alias(self, name: str) -> None:
        """Nothing where there is none."""

    # --- what is made of it: before the space is there

    @classmethod
    def new_place(cls, space: Space, fingerprint: str, schema: str) -> Place:
        """The manifest's schema and table, and the collection: both have a name that tells the space."""
        unique = table_name(space, fingerprint)
        return (schema, unique, "", cls.collection_name(space, unique))

    @staticmethod
    def check_server(conn: Connection, *, looking: bool = False) -> None:
        """PostgreSQL needs nothing for it."""
        del conn, looking

    @staticmethod
    def server_sql(conn: Connection) -> list[sql.SQL]:
        """None: PostgreSQL needs nothing for it."""
        del conn
        return []

    @classmethod
    def check_source(cls, source: Source) -> None:
        """Names that points, the manifest or the alias use themselves are refused. Raises :class:`PlanError`."""
        refuse_taken_names(source, "point_id")
        taken = [column.name for column in (*source.key, *source.columns) if column.name in (KEY, CHUNK, HASH, VERSION)]
        if taken:
            raise PlanError(
                f"column {taken[0]!r} has a name that embedmig uses in {cls.kind} itself",
                hint="rename it, or leave it out of columns",
            )

    @classmethod
    def describe_index(cls, space: Space, options: IndexOptions) -> str:
        """The graph's parameters."""
        return f"HNSW index of {space.tag} in {cls.kind} (m={options.m}, ef_construction={options.ef_construction})"

    @classmethod
    def check_index(cls, space: Space, options: IndexOptions) -> None:
        """By dimensions, and what only pgvector knows."""
        if limit := cls.index_over_limit(space, options):
            raise PlanError(f"{space.tag}: {limit[0]}", hint=limit[1])
        if options.storage is not None or options.rerank is not None:
            raise PlanError(
                f"{space.tag}: storage and rerank of an index are for pgvector",
                hint="leave them out of op.create_index",
            )

    @classmethod
    def index_over_limit(cls, space: Space, options: IndexOptions) -> tuple[str, str] | None:  # noqa: ARG003
        """By the store's own limit."""
        most = cls.capabilities.indexed_dimensions
        if space.dimensions <= most:
            return None
        return (
            f"{cls.kind} indexes at most {most:,} dimensions, not {space.dimensions:,}",
            "ask the model for fewer dimensions",
        )

    # --- what is made of it: the space

    @property
    def name(self) -> str:
        """The collection's."""
        return self.collection

    def attempt(self, call: Callable[[], T]) -> T:
        """Repeats what may be repeated: every call here is idempotent."""
        until, wait = self.patience.clock() + self.patience.give_up_after, BACKOFF_SECONDS[0]
        while True:
            try:
                return call()
            except (StoreUnreachable, StoreThrottled, OutcomeUnknown) as error:
                pause = max(wait, getattr(error, "retry_after", None) or 0.0)
                if self.patience.clock() + pause > until:
                    raise
                self.patience.sleep(pause)
                wait = min(wait * 2, BACKOFF_SECONDS[1])

    def create(self, conn: Connection) -> None:
        """The collection; one that is there must be of the space's dimensions and metric."""
        self.attempt(self.create_collection)
        found = self.attempt(self.describe)
        if found is None:
            raise PlaceMissing(
                f"collection {self.collection!r} is not there although {self.settings.name} has just made it"
            )
        if (found.dimensions, found.metric) != (self.space.dimensions, self.space.metric):
            raise VectorRefused(
                f"collection {self.collection!r} of {self.settings.name} holds {found.dimensions} dimensions by {found.metric}, "
                f"not {self.space.dimensions} by {self.space.metric}",
                hint="drop it, if nobody else uses it, and run the same command again",
            )

    def drop(self, conn: Connection) -> None:
        """The collection with its points. Raises :class:`PlanError` for an adopted one."""
        self._refuse_adopted()
        self.attempt(self.drop_collection)

    def _refuse_adopted(self) -> None:
        if self.record.adopted:
            raise PlanError(
                f"collection {self.collection!r} belongs to the application; embedmig removes nothing from it"
            )

    def disk_bytes(self, conn: Connection, vectors: int) -> int:
        """By the store's own figure, or the vectors' own bytes where it has none."""
        said = self.attempt(self.size_bytes)
        return vectors * self.space.dimensions * 4 if said is None else said

    def id_of(self, key: Key, chunk: int, content_hash: bytes) -> str:
        """Content-addressed: another text makes another point."""
        return point_id(self.space.tag, key, chunk, content_hash)

    def upsert(self, conn: Connection, batch: Batch) -> int:
        """All of a batch, with no columns: the engine has :meth:`points_of` and :meth:`put_all`."""
        return self.put_all(self.points_of(batch))

    def points_of(self, batch: Batch, columns: Mapping[Key, Mapping[str, Any]] | None = None) -> list[Point]:
        """The points of a batch; ``columns`` by key of the row, as the source has them. Raises :class:`VectorRefused`."""
        if batch.vectors.shape[1:] != (self.space.dimensions,) or not np.isfinite(batch.vectors).all():
            raise VectorRefused(f"{self.space.tag}: not {self.space.dimensions} finite numbers")
        known = columns or {}
        return [
            Point(self.id_of(row.key, piece.chunk, row.content_hash), row.key, piece.chunk, row.content_hash, vector, payload(known.get(row.key, {})))
            for row, piece, vector in zip(batch.rows, batch.pieces, batch.vectors, strict=True)
        ]  # fmt: skip

    def change_columns(self, columns: Mapping[str, Mapping[str, Any]]) -> None:
        """By id of the point, as the source has them. Acknowledged when it returns."""
        for some in pages(columns.items(), CHANGED):
            said = {one: payload(values) for one, values in some}
            self.attempt(lambda said=said: self.set_columns(said))  # type: ignore[misc]

    def wanted(self, where: Mapping[str, Any]) -> dict[str, Any]:
        """``where`` as points have its values: numbers as the column's type has them."""
        types = {column.name: column.base or column.type for column in self.source.columns}
        return {name: wanted_value(value, types.get(name, "")) for name, value in where.items()}

    def put_all(self, points: Sequence[Point]) -> int:
        """Acknowledged and durable when it returns."""
        if points:
            self.attempt(lambda: self.put(points))
        return len(points)

    def delete(self, conn: Connection, ids: Sequence[str]) -> None:
        """Acknowledged when it returns. Raises :class:`PlanError` for an adopted collection."""
        self._refuse_adopted()
        if ids:
            self.attempt(lambda: self.remove(ids))

    def list_ids(self, conn: Connection) -> Iterator[str]:
        """Page by page."""
        for page in self.held():
            for point in page:
                yield point.id

    def points_held(self) -> Iterator[list[tuple[Key, str | None, int, float]]]:
        """Of every point that is there: key, or its id where it says none, version, dimensions, and the vector's norm."""
        for page in self.held((VERSION,) if self.record.adopted else (KEY, VERSION)):
            vectors = self.attempt(lambda page=page: self.vectors([point.id for point in page]))  # type: ignore[misc]
            yield [
                (
                    tuple(point.payload.get(KEY) or (point.id,)), point.payload.get(VERSION), len(vectors[point.id]),
                    float(np.linalg.norm(vectors[point.id])),
                )
                for point in page
                if point.id in vectors
            ]  # fmt: skip

    def fetch(self, conn: Connection, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """In one request, or as many as the store's limits make necessary."""
        return self.attempt(lambda: self.vectors(ids)) if ids else {}

    def count(self, conn: Connection) -> int:
        """All of the collection."""
        return self.attempt(self.total)

    def search(
        self, conn: Connection, vector: Sequence[float], k: int, *, where: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[Hit]:  # fmt: skip
        """By points, over-fetched until ``k`` rows are found. What of them is still eligible the manifest alone knows."""
        limit = k * CHUNKS if self.space.chunk else k
        wanted = self.wanted(where or {})
        while True:
            points = self.attempt(lambda: self.near(vector, limit, wanted, exact=exact))  # noqa: B023  called at once
            hits = [Hit(point.key, point.chunk, self.space.tag, point.distance, key_text=point.key) for point in points]
            found = rows_once(hits)
            if len(found) >= k or len(points) < limit:
                return found[:k]
            limit *= 4

    # --- what is made of it: index and alias

    def index_sql(self, options: IndexOptions) -> str:
        """There is no SQL."""
        return f"not SQL: {self.kind} builds it"

    def build_index(self, conn: Connection, options: IndexOptions, build: IndexBuild) -> str:
        """Starts it and looks until it is valid. A stop leaves the store to go on by itself; repeated, it is waited for again.

        Raises :class:`StoreError` where the store has given it up.
        """
        self.attempt(lambda: self.start_index(options))
        while (status := self.attempt(self.index_status)).state != "valid":
            if status.state == "invalid":
                raise StoreError(
                    f"{self.settings.name} has given up the index of {self.collection!r}: {status.why}",
                    hint="fix the cause in the store, then run the same command again",
                )
            build.guard()
            build.report(Progress("indexing", status.indexed or 0, status.total or 0, ""))
            if build.stop.wait(POLL_SECONDS):
                raise Interrupted("stopped while the index was built", hint="run the same command again")
        return "built"

    def index_state(self, conn: Connection) -> IndexState:
        """As the store has shown it."""
        return self.attempt(self.index_status).state

    def seconds_since_read(self, conn: Connection) -> float | None:
        """Stores don't say."""
        return None

    @property
    def alias_name(self) -> str:
        """Of the store's own alias: ``store_alias`` of the collection, or the last part of the alias in SQL."""
        collection = self.source.collection
        return collection.store_alias or collection.alias.rpartition(".")[2].strip('"')

    def alias(self, conn: Connection) -> str | None:
        """The collection that the store's own alias names."""
        return self.attempt(lambda: self.alias_target(self.alias_name))

    def set_alias(self, conn: Connection) -> None:
        """One idempotent call."""
        self.attempt(lambda: self.point_alias(self.alias_name))
