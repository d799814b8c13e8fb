"""Where vectors are: what a store can do, and what one says of itself.

A :class:`VectorStore` is opened on one space, in a place of its own (a table, a collection). What the space lacks, and
what in it is out of date, is not asked here: that is :class:`embedmig.stores.manifest.Manifest`.
"""

from __future__ import annotations

import threading
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, ClassVar, Literal, Protocol, TypeVar

from psycopg import sql

from embedmig.database import Connection, Database
from embedmig.database.registry import Place, SpaceRecord
from embedmig.events import Event
from embedmig.source import Source
from embedmig.source.rows import Key, Piece, Row
from embedmig.stores.index_sizes import IndexStorage
from embedmig.types import Hit, Metric, Space, Vectors

T = TypeVar("T")
IndexState = Literal["valid", "building", "invalid", "none"]

NAMESPACE = uuid.UUID("5b5f1f0e-0f5c-5c0e-9d4c-6a1d6f0a8d27")
"""Of every point id. Another one would make other ids of the same points: it never changes."""


def point_id(tag: str, key: Key, chunk: int, content_hash: bytes) -> str:
    """The content-addressed id of a vector in a store beside PostgreSQL.

    Another text makes another point, so that a late writer overwrites nothing, and a listing of ids proves what is there.
    """
    parts = (tag, *key, str(chunk), content_hash.hex())
    return str(uuid.uuid5(NAMESPACE, "".join(f"{len(part)}:{part}" for part in parts)))


def rows_once(hits: Sequence[Hit]) -> list[Hit]:
    """Each row by its nearest chunk; ``hits`` are chunks, nearest first."""
    best: dict[Key, Hit] = {}
    for hit in hits:
        best.setdefault(hit.key_text, hit)
    return list(best.values())


def pages(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """At most ``size`` at a time, in order."""
    walk = iter(items)
    while page := list(islice(walk, size)):
        yield page


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a store can hold and do. ``filters``: its search takes ``where``. ``alias``: it has one of its own, moved in
    one step. ``same_transaction``: what it does commits or rolls back with the caller's transaction in PostgreSQL.
    ``half_precision``: it can keep vectors in 16 bits a number.
    """

    dimensions: int
    indexed_dimensions: int
    metrics: frozenset[Metric]
    filters: bool
    alias: bool
    same_transaction: bool
    half_precision: bool = False


@dataclass(frozen=True, slots=True)
class Batch:
    """Embedded rows on their way into a space.

    ``vectors`` is ``(n, dimensions)`` float32; ``rows[i]`` and ``pieces[i]`` say whose vector ``vectors[i]`` is. All
    pieces of a row are in one batch. ``failures`` are rows the model refused, with the reason.
    """

    rows: Sequence[Row]
    pieces: Sequence[Piece]
    vectors: Vectors
    failures: Sequence[tuple[Row, str]] = ()


@dataclass(frozen=True, slots=True)
class IndexOptions:
    """What the script says of an index: the HNSW graph's ``m`` and ``ef_construction``, what it holds of each vector
    (None: the vector itself) and how many candidates a search takes for each result, bytes of memory and workers.
    """

    m: int = 16
    ef_construction: int = 64
    storage: IndexStorage | None = None
    rerank: int | None = None
    memory: int | None = None
    workers: int | None = None


@dataclass(frozen=True, slots=True)
class IndexBuild:
    """On whose behalf an index is built: who hears of it, who may stop it (``guard`` raises), and what it may use.
    ``memory`` is how many bytes the configuration lets a build take; None leaves it to the machine. ``rows`` is about how many
    vectors are expected in it, where more come than are there.
    """

    database: Database
    report: Callable[[Event], None]
    stop: threading.Event
    guard: Callable[[], None]
    memory: int | None = None
    rows: int = 0


class VectorStore(Protocol):
    """One space in one store.

    ``conn`` is the caller's connection to PostgreSQL: a store with ``same_transaction`` works in its transaction, others
    need not look at it. Every method may be repeated after an unknown outcome. :data:`embedmig.testing.STORE_PROMISES`
    is what each of them promises. Raises :class:`PlaceMissing` where the place is not there, :class:`VectorRefused`
    for vectors that it can't hold.
    """

    capabilities: ClassVar[Capabilities]
    source: Source
    record: SpaceRecord

    @staticmethod
    def new_place(space: Space, fingerprint: str, schema: str) -> Place:
        """Where the vectors of a space that is about to be made will be; ``schema`` is embedmig's own."""

    @staticmethod
    def check_server(conn: Connection, *, looking: bool = False) -> None:
        """Refuses a server that it can't work with; changes nothing. ``looking``: a role that may more may run it.

        Raises :class:`DatabaseUnsuitable`.
        """

    @staticmethod
    def check_source(source: Source) -> None:
        """Refuses a source whose key it can't hold. Raises :class:`PlanError`."""

    @staticmethod
    def describe_index(space: Space, options: IndexOptions) -> str:
        """What would be built, in a few words."""

    @staticmethod
    def check_index(space: Space, options: IndexOptions) -> None:
        """Raises :class:`PlanError` for an index that can't be built over the space."""

    @staticmethod
    def index_over_limit(space: Space, options: IndexOptions) -> tuple[str, str] | None:
        """Why an index can't hold the space's dimensions, and what can be done; None where it can."""

    @property
    def name(self) -> str:
        """What :meth:`alias` answers while the alias shows this space."""

    def create(self, conn: Connection) -> None:
        """Makes the place; nothing where it is there. Raises :class:`VectorRefused` where it is of other dimensions."""

    @staticmethod
    def server_sql(conn: Connection) -> list[sql.SQL]:
        """What :meth:`create` executes once a database, if that was not done yet; for printing."""

    def drop(self, conn: Connection) -> None:
        """Removes the place with all vectors: the point of no return."""

    def upsert(self, conn: Connection, batch: Batch) -> int:
        """Writes all of a batch or nothing, acknowledged and durable; returns how many vectors were taken."""

    def delete(self, conn: Connection, ids: Sequence[str]) -> None:
        """Removes points; those that are not there are no error."""

    def id_of(self, key: Key, chunk: int, content_hash: bytes) -> str:
        """The id of a point."""

    def list_ids(self, conn: Connection) -> Iterator[str]:
        """Every point that was there before it began and was not deleted since, each once."""

    def fetch(self, conn: Connection, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """The vectors of points, ``(dimensions,)`` each; those that are not there are left out."""

    def search(
        self, conn: Connection, vector: Sequence[float], k: int, *, where: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[Hit]:  # fmt: skip
        """The ``k`` nearest rows by the space's metric, nearest first, each by its nearest chunk; all of its version."""

    def count(self, conn: Connection) -> int:
        """How many vectors of the space's version there are, exactly."""

    def disk_bytes(self, conn: Connection, vectors: int) -> int:
        """What the space takes on disk, indexes included; ``vectors`` is how many it holds."""

    def index_sql(self, options: IndexOptions) -> list[sql.Composable] | str:
        """The statements of :meth:`build_index`; or, in words, why there are none."""

    def build_index(self, conn: Connection, options: IndexOptions, build: IndexBuild) -> str:
        """Builds the index unless a valid one is there, reporting :class:`Progress`; returns the outcome in a few words.

        Raises :class:`Interrupted` when stopped; repeated, it is built anew.
        """

    def index_state(self, conn: Connection) -> IndexState:
        """The state of the space's vector index."""

    def seconds_since_read(self, conn: Connection) -> float | None:
        """How long ago somebody searched the place since the space has its state; None where that isn't known."""

    def alias(self, conn: Connection) -> str | None:
        """The :attr:`name` of the space that the collection's alias shows; None where it shows nothing."""

    def set_alias(self, conn: Connection) -> None:
        """Has the collection's alias show this space, in one step that readers never see the middle of."""
