"""A store without a server: points in one SQLite file, compared one by one. It outlives the process that wrote it.

It shows what a store beside PostgreSQL looks like, and takes the place of one in tests.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from embedmig.database import Connection
from embedmig.database.registry import Place, SpaceRecord
from embedmig.errors import Interrupted, PlaceMissing, PlanError, UsageError, VectorRefused
from embedmig.source import Source
from embedmig.source.rows import Key
from embedmig.stores import Batch, Capabilities, IndexBuild, IndexOptions, IndexState, point_id
from embedmig.stores.protocol import rows_once
from embedmig.types import Hit, Progress, Space

TABLES = """
    create table if not exists places (name text primary key, dimensions int not null, indexed int not null default 0);
    create table if not exists points (place text, id text, key text, chunk int, vector blob, primary key (place, id));
    create table if not exists aliases (name text primary key, place text not null);
"""


class MemoryStore:
    """One space. Its place is the file's path and the name of a collection in it."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        dimensions=65_536, indexed_dimensions=65_536, metrics=frozenset(("cosine", "l2", "ip")), filters=True, alias=True,
        same_transaction=False,
    )  # fmt: skip

    def __init__(self, source: Source, record: SpaceRecord) -> None:
        self.source, self.record, self.space = source, record, record.space
        self.path, self.collection = Path(record.place[0]), record.place[1]

    @staticmethod
    def new_place(space: Space, fingerprint: str, schema: str) -> Place:
        """A collection of its own in the file ``schema``."""
        return (schema, f"{space.tag} {fingerprint}", "", "")

    @staticmethod
    def check_server(conn: Connection) -> None:
        """There is none."""

    @staticmethod
    def check_source(source: Source) -> None:
        """Whatever the source's key is, it is kept as text."""

    @staticmethod
    def describe_index(space: Space, options: IndexOptions) -> str:  # noqa: ARG004
        """There is none that could be described better."""
        return f"index of {space.tag} of {space.collection}"

    @staticmethod
    def check_index(space: Space, options: IndexOptions) -> None:
        """By dimensions alone."""
        if limit := MemoryStore.index_over_limit(space, options):
            raise PlanError(f"{space.tag}: {limit[0]}", hint=limit[1])

    @staticmethod
    def index_over_limit(space: Space, options: IndexOptions) -> tuple[str, str] | None:  # noqa: ARG004
        """As many as a vector may have."""
        most = MemoryStore.capabilities.indexed_dimensions
        if space.dimensions <= most:
            return None
        return (
            f"an index holds at most {most:,} dimensions, not {space.dimensions:,}",
            "ask the model for fewer dimensions",
        )

    @property
    def name(self) -> str:
        """The collection's."""
        return self.collection

    # --- the place

    @contextmanager
    def _transaction(self, *, there: bool = True) -> Iterator[sqlite3.Connection]:
        """Commits as a whole, to disk. Raises :class:`PlaceMissing` where the place must be ``there`` and is not."""
        db = sqlite3.connect(self.path, timeout=60, isolation_level=None)
        try:
            db.execute("pragma journal_mode = wal")
            db.executescript(TABLES)
            db.execute("begin immediate")
            found = db.execute("select dimensions from places where name = ?", (self.collection,)).fetchone()
            if there and found is None:
                raise PlaceMissing(f"collection {self.collection!r} is not in {self.path.name}")
            if there and found[0] != self.space.dimensions:
                raise VectorRefused(f"{self.collection!r} holds {found[0]} dimensions, not {self.space.dimensions}")
            yield db
            db.execute("commit")
        finally:
            db.close()

    def create(self, conn: Connection) -> None:
        """An entry in the file."""
        with self._transaction(there=False) as db:
            values = (self.collection, self.space.dimensions)
            db.execute("insert or ignore into places (name, dimensions) values (?, ?)", values)
        with self._transaction():
            pass

    def drop(self, conn: Connection) -> None:
        """The entry and its points."""
        with self._transaction(there=False) as db:
            for table, column in (("points", "place"), ("aliases", "place"), ("places", "name")):
                db.execute(f"delete from {table} where {column} = ?", (self.collection,))  # noqa: S608

    def disk_bytes(self, conn: Connection, vectors: int) -> int:
        """The vectors' own."""
        return vectors * self.space.dimensions * 4

    # --- points

    def upsert(self, conn: Connection, batch: Batch) -> int:
        """One transaction."""
        if batch.vectors.shape[1:] != (self.space.dimensions,) or not np.isfinite(batch.vectors).all():
            raise VectorRefused(f"{self.space.tag}: not {self.space.dimensions} finite numbers")
        points = [
            (self.collection, self.id_of(row.key, piece.chunk, row.content_hash), json.dumps(row.key), piece.chunk, vector.tobytes())
            for row, piece, vector in zip(batch.rows, batch.pieces, batch.vectors, strict=True)
        ]  # fmt: skip
        with self._transaction() as db:
            db.executemany("insert or replace into points values (?, ?, ?, ?, ?)", points)
        return len(points)

    def delete(self, conn: Connection, ids: Sequence[str]) -> None:
        """One transaction."""
        with self._transaction() as db:
            db.executemany("delete from points where place = ? and id = ?", [(self.collection, one) for one in ids])

    def id_of(self, key: Key, chunk: int, content_hash: bytes) -> str:
        """Content-addressed."""
        return point_id(self.space.tag, key, chunk, content_hash)

    def _points(self) -> list[tuple[str, Key, int, Any]]:
        """Id, key, chunk and vector ``(dimensions,)`` of every point, as of one moment."""
        with self._transaction() as db:
            rows = db.execute(
                "select id, key, chunk, vector from points where place = ?", (self.collection,)
            ).fetchall()
        return [(row[0], tuple(json.loads(row[1])), row[2], np.frombuffer(row[3], np.float32)) for row in rows]

    def list_ids(self, conn: Connection) -> Iterator[str]:
        """As of one moment."""
        return iter([point[0] for point in self._points()])

    def fetch(self, conn: Connection, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """Out of all."""
        wanted = set(ids)
        return {point[0]: point[3].tolist() for point in self._points() if point[0] in wanted}

    def search(
        self, conn: Connection, vector: Sequence[float], k: int, *, where: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[Hit]:  # fmt: skip
        """Every vector is compared. ``where`` names columns of the key."""
        names = [column.name for column in self.source.key]
        if unknown := [name for name in where or {} if name not in names]:
            raise UsageError(f"there is no column {unknown[0]!r}", hint=f"there is {', '.join(names)}")
        asked = np.asarray(vector, np.float32)
        hits = [
            Hit(key, chunk, self.space.tag, self._distance(asked, held), key_text=key)
            for _, key, chunk, held in self._points()
            if all(key[names.index(name)] == str(value) for name, value in (where or {}).items())
        ]
        return rows_once(sorted(hits, key=lambda hit: (hit.distance, hit.key, hit.chunk)))[:k]

    def _distance(self, one: Any, other: Any) -> float:
        if self.space.metric == "l2":
            return float(np.linalg.norm(one - other))
        inner = float(one @ other)
        return -inner if self.space.metric == "ip" else 1 - inner / float(np.linalg.norm(one) * np.linalg.norm(other))

    def count(self, conn: Connection) -> int:
        """All of the collection."""
        return len(self._points())

    # --- index and alias

    def index_sql(self, options: IndexOptions) -> str:
        """There is no SQL."""
        return "not SQL: nothing is built but a note"

    def build_index(self, conn: Connection, options: IndexOptions, build: IndexBuild) -> str:
        """Notes that there is one."""
        total = self.count(conn)
        for done in range(total + 1):
            build.guard()
            if build.stop.is_set():
                raise Interrupted("stopped while the index was built", hint="run the same command again")
            build.report(Progress("indexing", done, total, ""))
        with self._transaction() as db:
            db.execute("update places set indexed = 1 where name = ?", (self.collection,))
        return "built"

    def index_state(self, conn: Connection) -> IndexState:
        """Whether it was noted."""
        with self._transaction() as db:
            found = db.execute("select indexed from places where name = ?", (self.collection,)).fetchone()
        return "valid" if found[0] else "none"

    def seconds_since_read(self, conn: Connection) -> float | None:
        """Nobody notes it."""
        return None

    def alias(self, conn: Connection) -> str | None:
        """Of the file."""
        with self._transaction(there=False) as db:
            found = db.execute("select place from aliases where name = ?", (self.source.collection.alias,)).fetchone()
        return found[0] if found else None

    def set_alias(self, conn: Connection) -> None:
        """One statement."""
        with self._transaction() as db:
            db.execute("insert or replace into aliases values (?, ?)", (self.source.collection.alias, self.collection))
