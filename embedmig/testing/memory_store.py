"""A store without a server: points in one SQLite file, compared one by one. It outlives the process that wrote it.

It shows what a store beside PostgreSQL looks like, and takes the place of one in tests: ``kind = "memory"``, and the file's path
as its ``url``.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from embedmig.errors import PlaceMissing, StoreUnreachable
from embedmig.stores.external import (
    CHUNK,
    HASH,
    KEY,
    VERSION,
    CollectionInfo,
    ExternalStore,
    Held,
    IndexStatus,
    Near,
    Point,
    pages,
)
from embedmig.stores.protocol import Capabilities, IndexOptions
from embedmig.types import Space

TABLES = """
    create table if not exists places (name text primary key, dimensions int not null, metric text not null, indexed int not null default 0);
    create table if not exists points (place text, id text, payload text, vector blob, primary key (place, id));
    create table if not exists aliases (name text primary key, place text not null);
"""


class MemoryStore(ExternalStore):
    """One space."""

    kind: ClassVar[str] = "memory"
    extra: ClassVar[str] = ""
    capabilities: ClassVar[Capabilities] = Capabilities(
        dimensions=65_535, indexed_dimensions=65_535, metrics=frozenset(("cosine", "l2", "ip")), filters=True, alias=True,
        same_transaction=False,
    )  # fmt: skip

    @contextmanager
    def _transaction(self, *, there: bool = True) -> Iterator[sqlite3.Connection]:
        """Commits as a whole, to disk. Raises :class:`PlaceMissing` where the collection must be ``there`` and is not."""
        path = Path(self.settings.url)
        if not path.parent.is_dir():
            raise StoreUnreachable(f"{self.settings.name}: there is no folder for {path.name}")
        db = sqlite3.connect(path, timeout=60, isolation_level=None)
        try:
            db.execute("pragma journal_mode = wal")
            db.executescript(TABLES)
            db.execute("begin immediate")
            if there and not db.execute("select 1 from places where name = ?", (self.collection,)).fetchone():
                raise PlaceMissing(f"collection {self.collection!r} is not in {path.name}")
            yield db
            db.execute("commit")
        finally:
            db.close()

    # --- the server and the collection

    def server_version(self) -> str:
        """SQLite's."""
        with self._transaction(there=False):
            return sqlite3.sqlite_version

    @staticmethod
    def collection_name(space: Space, unique: str) -> str:  # noqa: ARG004
        """Any will do."""
        return unique

    def describe(self) -> CollectionInfo | None:
        """An entry of the file."""
        with self._transaction(there=False) as db:
            query = "select dimensions, metric from places where name = ?"
            found = db.execute(query, (self.collection,)).fetchone()
        return CollectionInfo(*found) if found else None

    def create_collection(self) -> None:
        """One statement."""
        with self._transaction(there=False) as db:
            values = (self.collection, self.space.dimensions, self.space.metric)
            db.execute("insert or ignore into places (name, dimensions, metric) values (?, ?, ?)", values)

    def drop_collection(self) -> None:
        """The entry, its points and what names it."""
        with self._transaction(there=False) as db:
            for table, column in (("points", "place"), ("aliases", "place"), ("places", "name")):
                db.execute(f"delete from {table} where {column} = ?", (self.collection,))  # noqa: S608

    # --- points

    def put(self, points: Sequence[Point]) -> None:
        """One transaction."""
        rows = [
            (self.collection, point.id, json.dumps(self._payload(point)), point.vector.tobytes()) for point in points
        ]
        with self._transaction() as db:
            db.executemany("insert or replace into points values (?, ?, ?, ?)", rows)

    def _payload(self, point: Point) -> dict[str, Any]:
        own = {KEY: point.key, CHUNK: point.chunk, HASH: point.content_hash.hex(), VERSION: self.record.version}
        return own | dict(point.columns)

    def remove(self, ids: Sequence[str]) -> None:
        """One transaction."""
        with self._transaction() as db:
            db.executemany("delete from points where place = ? and id = ?", [(self.collection, one) for one in ids])

    def _points(self) -> list[tuple[str, dict[str, Any], Any]]:
        """Id, payload and vector ``(dimensions,)`` of every point, as of one moment."""
        with self._transaction() as db:
            query = "select id, payload, vector from points where place = ?"
            rows = db.execute(query, (self.collection,)).fetchall()
        return [(row[0], json.loads(row[1]), np.frombuffer(row[2], np.float32)) for row in rows]

    def held(self, fields: Sequence[str] | None = ()) -> Iterator[Sequence[Held]]:
        """As of one moment."""
        for page in pages(self._points(), 1000):
            yield [
                Held(one, {name: value for name, value in payload.items() if fields is None or name in fields})
                for one, payload, _ in page
            ]

    def vectors(self, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """Out of all."""
        wanted = set(ids)
        return {one: vector.tolist() for one, _, vector in self._points() if one in wanted}

    def near(self, vector: Sequence[float], limit: int, where: Mapping[str, Any], *, exact: bool) -> list[Near]:
        """Every vector is compared."""
        asked, keys = np.asarray(vector, np.float32), [column.name for column in self.source.key]
        by_key = {keys.index(name): texts(value) for name, value in where.items() if name in keys}
        others = {name: value for name, value in where.items() if name not in keys}
        found = [
            Near(
                one,
                tuple(payload.get(KEY, ())),
                payload.get(CHUNK, 0),
                bytes.fromhex(payload.get(HASH, "")),
                self._distance(asked, held),
            )
            for one, payload, held in self._points()
            if all(payload[KEY][place] in values for place, values in by_key.items())
            and all(meets(payload.get(name), value) for name, value in others.items())
        ]
        return sorted(found, key=lambda point: (point.distance, point.key, point.chunk))[:limit]

    def _distance(self, one: Any, other: Any) -> float:
        if self.space.metric == "l2":
            return float(np.linalg.norm(one - other))
        inner = float(one @ other)
        return -inner if self.space.metric == "ip" else 1 - inner / float(np.linalg.norm(one) * np.linalg.norm(other))

    def total(self) -> int:
        """By a count of the table's rows."""
        with self._transaction() as db:
            found = db.execute("select count(*) from points where place = ?", (self.collection,)).fetchone()
        return int(found[0])

    def set_columns(self, columns: Mapping[str, Mapping[str, Any]]) -> None:
        """One transaction."""
        with self._transaction() as db:
            for one, values in columns.items():
                self._change(db, one, lambda own, values=values: own | dict(values), own=True)

    def set_version(self, ids: Sequence[str], version: str) -> None:
        """One transaction."""
        with self._transaction() as db:
            for one in ids:
                self._change(db, one, lambda payload: payload | {VERSION: version})

    def _change(self, db: sqlite3.Connection, one: str, change: Any, *, own: bool = False) -> None:
        """Of a point that is there; ``own``: of it only what embedmig says itself is given to the change."""
        query = "select payload from points where place = ? and id = ?"
        if found := db.execute(query, (self.collection, one)).fetchone():
            payload = json.loads(found[0])
            if own:
                payload = {name: payload[name] for name in (KEY, CHUNK, HASH, VERSION) if name in payload}
            values = (json.dumps(change(payload)), self.collection, one)
            db.execute("update points set payload = ? where place = ? and id = ?", values)

    def size_bytes(self) -> int | None:
        """It does not say."""
        return None

    # --- index and alias

    def start_index(self, options: IndexOptions) -> None:
        """Notes that there is one."""
        with self._transaction() as db:
            db.execute("update places set indexed = 1 where name = ?", (self.collection,))

    def index_status(self) -> IndexStatus:
        """Whether it was noted."""
        with self._transaction() as db:
            found = db.execute("select indexed from places where name = ?", (self.collection,)).fetchone()
        return IndexStatus("valid" if found[0] else "none")

    def alias_target(self, name: str) -> str | None:
        """Of the file."""
        with self._transaction(there=False) as db:
            found = db.execute("select place from aliases where name = ?", (name,)).fetchone()
        return found[0] if found else None

    def point_alias(self, name: str) -> None:
        """One statement."""
        with self._transaction() as db:
            db.execute("insert or replace into aliases values (?, ?)", (name, self.collection))

    def remove_alias(self, name: str) -> None:
        """One statement."""
        with self._transaction(there=False) as db:
            db.execute("delete from aliases where name = ?", (name,))


def texts(wanted: Any) -> list[str]:
    """The texts that a column of the key may have."""
    return [str(one) for one in (wanted if isinstance(wanted, list) else [wanted])]


def meets(held: Any, wanted: Any) -> bool:
    """Whether a point's value is the one wanted, or one of them; of a list, any."""
    values = wanted if isinstance(wanted, list) else [wanted]
    return any(one in held for one in values) if isinstance(held, list) else held in values
