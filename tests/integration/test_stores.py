"""Every store keeps the promises of ``testing.STORE_PROMISES``, and a store that breaks one fails the suite."""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import psycopg
import pytest

from embedmig import testing
from embedmig.config import Collection
from embedmig.config.settings import StoreSettings
from embedmig.database import Connection, Database
from embedmig.errors import Interrupted, PlaceMissing, VectorRefused
from embedmig.source import Column, Source
from embedmig.source.rows import Row
from embedmig.source.table import resolve
from embedmig.stores import Batch, IndexBuild, VectorStore, open_store, point_id, store_class
from embedmig.stores.external import CHUNK
from embedmig.testing import STORE_PROMISES, MemoryStore, StorePromise, StoreUnderTest
from embedmig.types import Space

DOCS = Collection("docs", table="docs", key=("id",), text=("body",), alias="docs_search")
PROMISES = pytest.mark.parametrize("promise", STORE_PROMISES, ids=lambda promise: promise.__name__)


def unwatched(url: str = "") -> IndexBuild:
    """A build on nobody's behalf."""
    return IndexBuild(Database(url, "embedmig"), lambda _: None, threading.Event(), lambda: None)


@dataclass
class PgvectorUnderTest:
    """A database of its own with a table of texts."""

    url: str
    persists: bool = True

    def connect(self) -> AbstractContextManager[Connection]:
        return psycopg.connect(self.url, autocommit=True)

    def open(self, space: Space) -> VectorStore:
        with self.connect() as conn:
            conn.execute("create schema if not exists embedmig")
            conn.execute("create table if not exists docs (id bigint primary key, body text not null)")
            source, record = resolve(conn, DOCS), testing.fake_record(space, self.place(space))
        return open_store(source, record)

    def place(self, space: Space) -> tuple[str, str, str, str]:
        return store_class(space, {}).new_place(space, "mark", "embedmig")

    def put_texts(self, conn: Connection, rows: Sequence[Row]) -> None:
        with conn.cursor() as cursor:
            cursor.executemany(
                "insert into docs values (%s, %s) on conflict (id) do update set body = excluded.body",
                [(row.key[0], row.text) for row in rows],
            )

    def index_build(self) -> IndexBuild:
        return unwatched(self.url)


@dataclass
class MemoryUnderTest:
    """A file of its own; ``broken`` names what is wrong with the store on purpose."""

    path: str
    broken: str = ""
    persists: bool = True

    def connect(self) -> AbstractContextManager[Connection]:
        return nullcontext(cast(Connection, None))

    def open(self, space: Space) -> VectorStore:
        source = Source(
            DOCS, 0, "public", "docs", (Column("id", "bigint", True),), (Column("body", "text", True),), (), False
        )
        kind = broken(self.broken) if self.broken else MemoryStore
        record = testing.fake_record(space, kind.new_place(space, "mark", "embedmig"))
        return kind(source, record, StoreSettings("memory", "memory", self.path))

    def put_texts(self, conn: Connection, rows: Sequence[Row]) -> None:
        pass

    def index_build(self) -> IndexBuild:
        return unwatched()


@PROMISES
def test_pgvector_keeps_the_promises(promise: StorePromise, url: str) -> None:
    promise(PgvectorUnderTest(url))


@PROMISES
def test_the_store_in_a_file_keeps_the_promises(promise: StorePromise, tmp_path: Path) -> None:
    promise(MemoryUnderTest(str(tmp_path / "store")))


# --- the suite itself -----------------------------------------------------------------------------------------


METHODS = sorted(name for name, member in vars(VectorStore).items() if not name.startswith("_") and name != "capabilities" and (callable(member) or isinstance(member, staticmethod | property)))  # fmt: skip


MAY_DO_NOTHING = ("check_server", "check_source", "seconds_since_read")


def is_static(name: str) -> bool:
    return isinstance(inspect.getattr_static(MemoryStore, name), staticmethod | classmethod)


def does_nothing(name: str) -> type[MemoryStore]:
    """Accepts the call, and neither does nor answers anything."""

    def nothing(*_: Any, **__: Any) -> None:
        return None

    member: Any = staticmethod(nothing) if is_static(name) else property(nothing) if name == "name" else nothing
    return type("DoesNothing", (MemoryStore,), {name: member})


def fails(name: str) -> type[MemoryStore]:
    """For the methods of which nothing is a possible answer."""

    def fail(*_: Any, **__: Any) -> None:
        raise RuntimeError("broken")

    return type("Fails", (MemoryStore,), {name: staticmethod(fail) if is_static(name) else fail})


class AcknowledgesTooEarly(MemoryStore):
    """Writes a batch with the next one."""

    waiting: Batch | None = None

    def upsert(self, conn: Connection, batch: Batch) -> int:
        given, self.waiting = self.waiting, batch
        if given is not None:
            super().upsert(conn, given)
        return len(batch.pieces)


class TakesNaN(MemoryStore):
    """As milvus-lite does."""

    def upsert(self, conn: Connection, batch: Batch) -> int:
        import numpy as np

        return super().upsert(conn, Batch(batch.rows, batch.pieces, np.nan_to_num(batch.vectors)))


class TakesHalfABatch(MemoryStore):
    """Writes the rows before the one that it refuses."""

    def upsert(self, conn: Connection, batch: Batch) -> int:
        try:
            return super().upsert(conn, batch)
        except VectorRefused:
            super().upsert(conn, Batch(batch.rows[:2], batch.pieces[:2], batch.vectors[:2, : self.space.dimensions]))
            raise


class MakesItsPlaceByWriting(MemoryStore):
    def upsert(self, conn: Connection, batch: Batch) -> int:
        self.create(conn)
        return super().upsert(conn, batch)


class IsEmptyWhereThereIsNone(MemoryStore):
    def count(self, conn: Connection) -> int:
        try:
            return super().count(conn)
        except PlaceMissing:
            return 0


class DeletesTheFirstChunkAlone(MemoryStore):
    def delete(self, conn: Connection, ids: Sequence[str]) -> None:
        chunks = {point[0]: point[1][CHUNK] for point in self._points()}
        super().delete(conn, [one for one in ids if not chunks.get(one)])


class DeletesAnId(MemoryStore):
    """Of a point by its key: other texts' points too."""

    def id_of(self, key: tuple[str, ...], chunk: int, content_hash: bytes) -> str:
        return point_id(self.space.tag, key, chunk, b"")


class ListsAllButOne(MemoryStore):
    def list_ids(self, conn: Connection) -> Iterator[str]:
        return iter(sorted(super().list_ids(conn))[1:])


class ListsTwice(MemoryStore):
    def list_ids(self, conn: Connection) -> Iterator[str]:
        found = list(super().list_ids(conn))
        return iter(found + found[:1])


class FlipsInTwoSteps(MemoryStore):
    """Deletes the alias and makes it anew, as Qdrant's documentation does."""

    def set_alias(self, conn: Connection) -> None:
        with self._transaction() as db:
            db.execute("delete from aliases")
        super().set_alias(conn)


class FindsTheFarthest(MemoryStore):
    def search(self, conn: Connection, vector: Sequence[float], k: int, **rest: Any) -> list[Any]:
        return super().search(conn, [-value for value in vector], k, **rest)


class MixesVersions(MemoryStore):
    """Every space's points are in one collection."""

    @staticmethod
    def collection_name(space: Space, unique: str) -> str:  # noqa: ARG004
        return "all"


class ForgetsTheIndexWhenStopped(MemoryStore):
    def build_index(self, conn: Connection, options: Any, build: IndexBuild) -> str:
        if not build.stop.is_set():
            return "built"
        raise Interrupted("stopped")


SUBTLE: dict[str, type[MemoryStore]] = {
    kind.__name__: kind
    for kind in (
        AcknowledgesTooEarly, TakesNaN, TakesHalfABatch, MakesItsPlaceByWriting, IsEmptyWhereThereIsNone,
        DeletesTheFirstChunkAlone, DeletesAnId, ListsAllButOne, ListsTwice, FlipsInTwoSteps, FindsTheFarthest, MixesVersions,
        ForgetsTheIndexWhenStopped,
    )
}  # fmt: skip


def broken(what: str) -> type[MemoryStore]:
    """The store that has this fault: one of :data:`SUBTLE`, or the name of a method that does nothing."""
    if what in SUBTLE:
        return SUBTLE[what]
    return fails(what) if what in MAY_DO_NOTHING else does_nothing(what)


def broken_promises(make: Callable[[], StoreUnderTest]) -> Iterator[str]:
    for promise in STORE_PROMISES:
        try:
            promise(make())
        except Exception:  # noqa: BLE001  whatever it is, the suite has noticed
            yield promise.__name__


@pytest.mark.parametrize("what", [*METHODS, *SUBTLE])
def test_a_store_that_is_broken_on_purpose_breaks_a_promise(what: str, tmp_path: Path) -> None:
    paths = iter(range(100))
    found = broken_promises(lambda: MemoryUnderTest(str(tmp_path / f"store{next(paths)}"), what))
    assert next(found, None), f"no promise notices a store whose fault is {what}"
