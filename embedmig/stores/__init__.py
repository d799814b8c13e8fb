"""Where vectors are kept: one protocol, one store a file.

A store answers what a space holds against its source, by key and content hash, and never by comparing counts alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from psycopg import sql

from embedmig.database import Connection
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.source import Column, Source
from embedmig.source.rows import Piece, Row
from embedmig.types import Vectors

IndexState = Literal["valid", "building", "invalid", "none"]


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
class SpaceCounts:
    """What a space holds against its source.

    ``complete`` are eligible rows whose every chunk is there with the current content hash (by presence alone where
    ``hash_known`` is false, as for adopted vectors); ``failed`` are eligible rows dead-lettered at their current
    content; ``orphans`` are rows with vectors but without an eligible source row; ``blank`` rows have no text and are
    not eligible; ``untagged`` are vectors that carry no version.
    """

    eligible: int
    complete: int
    vectors: int
    blank: int = 0
    failed: int = 0
    orphans: int = 0
    untagged: int = 0
    hash_known: bool = True

    @property
    def completeness(self) -> float:
        """Share of eligible rows that are complete; 1.0 where there is nothing to do."""
        return self.complete / self.eligible if self.eligible else 1.0

    @property
    def missing(self) -> int:
        """Eligible rows that are not complete."""
        return self.eligible - self.complete


class Store(Protocol):
    """One space in one store."""

    source: Source
    record: SpaceRecord

    def counts(self, conn: Connection, registry: Registry) -> SpaceCounts:
        """Compares the space with its source, exactly."""
        ...

    def held(self) -> sql.Composable:
        """Whether row ``s`` of :func:`~embedmig.source.sampling.sampled_rows` is complete."""
        ...

    def untagged(self) -> sql.Composable:
        """Whether it has a vector that carries no version."""
        ...

    def own_columns(self) -> tuple[Column, ...]:
        """What these two want of the source beside its key and text."""
        ...

    def vectors(self, conn: Connection) -> int:
        """How many vectors carry the space's tag."""
        ...

    def index_state(self, conn: Connection) -> IndexState:
        """The state of the space's vector index."""
        ...

    def bytes(self, conn: Connection, vectors: int) -> int:
        """What the space takes on disk, indexes included; ``vectors`` is how many it holds."""
        ...

    def view(self) -> sql.Composed:
        """The query of the alias view that shows this space."""
        ...


def open_store(source: Source, record: SpaceRecord) -> Store:
    """The store of a registered space."""
    if record.adopted:
        from embedmig.stores.pgvector.adopted import AdoptedStore

        return AdoptedStore(source, record)
    from embedmig.stores.pgvector.table import PgvectorStore

    return PgvectorStore(source, record)
