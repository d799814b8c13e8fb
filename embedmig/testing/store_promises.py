"""The suite that every store has to pass: each function is a promise, and raises AssertionError where it is broken."""

from __future__ import annotations

import copy
import hashlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from psycopg import sql

from embedmig.database import Connection
from embedmig.database.registry import Place, SpaceRecord, definition_of
from embedmig.errors import EmbedmigError, Interrupted, PlaceMissing, PlanError, VectorRefused
from embedmig.source.rows import Piece, Row
from embedmig.stores import Batch, IndexBuild, IndexOptions, VectorStore
from embedmig.testing.fake_embedder import fake_space, fake_vectors
from embedmig.types import Chunk, Space, Vectors, fingerprint


class StoreUnderTest(Protocol):
    """A store with nothing in it, a fresh one for each promise. Where it ``persists``, it can be pickled: a process that
    writes into it is killed.
    """

    persists: bool

    def connect(self) -> AbstractContextManager[Connection]:
        """A connection to PostgreSQL; anything where the store looks at none."""

    def open(self, space: Space) -> VectorStore:
        """The store of a space of one and the same source, which has one key column. Its place is not made yet."""

    def index_build(self) -> IndexBuild:
        """For an index build that nobody watches."""

    def put_texts(self, conn: Connection, rows: Sequence[Row]) -> None:
        """Has the source hold these rows, for a store that compares."""


SPACE = fake_space(8, normalize="l2")
READS = 200  # beside flips
OTHER = replace(SPACE, version="2")
CHUNKED = replace(SPACE, version="chunked", chunk=Chunk(size=30))


def fake_record(space: Space, place: Place) -> SpaceRecord:
    """What the registry would say of a space of :class:`FakeEmbedder`'s."""
    return SpaceRecord(
        id=1, collection=space.collection, version=space.tag, fingerprint=fingerprint(space, ("body",)), revision="0001",
        state="building", adopted=False, place=place, writer="embedmig", definition=definition_of(space),
        text_columns=("body",), weights="", state_since=None,
    )  # fmt: skip


# --- material -----------------------------------------------------------------------------------------------------


def rows_of(numbers: Sequence[int], text: str = "text of row") -> list[Row]:
    """Rows by number; another ``text`` makes other content of the same rows."""
    texts = [f"{text} {number}, which is long enough to be cut into three pieces of it" for number in numbers]
    return [
        Row((str(number),), one, hashlib.sha256(one.encode()).digest())
        for number, one in zip(numbers, texts, strict=True)
    ]


def batch_of(space: Space, rows: Sequence[Row]) -> Batch:
    """The rows with unit vectors; in three pieces each where the space is chunked."""
    count = 3 if space.chunk else 1
    owners, pieces = [], []
    for row in rows:
        cuts = [len(row.text) * place // count for place in range(count + 1)]
        pieces += [Piece(n, count, cuts[n], cuts[n + 1]) for n in range(count)]
        owners += [row] * count
    texts = [owner.text[piece.start : piece.end] for owner, piece in zip(owners, pieces, strict=True)]
    return Batch(owners, pieces, unit(fake_vectors(texts, space.dimensions)))


def unit(vectors: Vectors) -> Vectors:
    """Of norm 1."""
    return np.ascontiguousarray(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), dtype=np.float32)


def ids_of(store: VectorStore, batch: Batch) -> list[str]:
    """The points' ids, in the order of the vectors."""
    return [
        store.id_of(row.key, piece.chunk, row.content_hash) for row, piece in zip(batch.rows, batch.pieces, strict=True)
    ]


def assert_holds(store: VectorStore, conn: Connection, batch: Batch) -> None:
    """These points, and no other; each with its vector, to half precision."""
    ids, listed = ids_of(store, batch), list(store.list_ids(conn))
    assert sorted(listed) == sorted(ids)
    assert store.count(conn) == len(ids)
    fetched = store.fetch(conn, ids)
    assert set(fetched) == set(ids)
    for one, vector in zip(ids, batch.vectors, strict=True):
        assert np.allclose(fetched[one], vector, atol=2e-3)


@contextmanager
def raises(*kinds: type[EmbedmigError]) -> Iterator[None]:
    """An assertion, where pytest need not be installed."""
    try:
        yield
    except kinds:
        return
    raise AssertionError(f"none of {', '.join(kind.__name__ for kind in kinds)} was raised")


@contextmanager
def filled(
    bench: StoreUnderTest, space: Space = SPACE, rows: int = 12
) -> Iterator[tuple[VectorStore, Connection, Batch]]:
    """A store with some rows in it."""
    store, given = bench.open(space), rows_of(range(rows))
    batch = batch_of(space, given)
    with bench.connect() as conn:
        bench.put_texts(conn, given)
        store.create(conn)
        assert store.upsert(conn, batch) == len(batch.pieces)
        yield store, conn, batch


@contextmanager
def threads(*work: Callable[[], None]) -> Iterator[list[BaseException]]:
    """While this lasts they are at work; what one raised is given, and raised at the end."""
    failed: list[BaseException] = []

    def keep(one: Callable[[], None]) -> None:
        try:
            one()
        except BaseException as error:  # noqa: BLE001  raised below
            failed.append(error)

    running = [threading.Thread(target=keep, args=(one,), daemon=True) for one in work]
    for thread in running:
        thread.start()
    try:
        yield failed
    finally:
        for thread in running:
            thread.join(120)
    if failed:
        raise failed[0]


# --- promises -----------------------------------------------------------------------------------------------------


def says_what_it_can_hold(bench: StoreUnderTest) -> None:
    """Places differ where spaces do, and an index of too many dimensions is refused before anything is built."""
    store, other, can = bench.open(SPACE), bench.open(OTHER), bench.open(SPACE).capabilities
    with bench.connect() as conn:
        store.check_server(conn)
        store.check_source(store.source)
        assert all(isinstance(one, sql.SQL) for one in store.server_sql(conn))
        store.create(conn)
        since = store.seconds_since_read(conn)
        assert since is None or since >= 0
    assert can.dimensions >= SPACE.dimensions
    assert SPACE.metric in can.metrics
    places = [store.new_place(space, "mark", "schema") for space in (SPACE, SPACE, OTHER)]
    assert places[0] == places[1] != places[2]
    assert store.name != other.name
    assert SPACE.tag in store.describe_index(SPACE, IndexOptions())
    assert store.index_sql(IndexOptions())
    assert store.index_over_limit(SPACE, IndexOptions()) is None
    store.check_index(SPACE, IndexOptions())
    large = fake_space(8)
    object.__setattr__(large, "dimensions", can.indexed_dimensions + 1)  # more than a space can be declared with
    limit = store.index_over_limit(large, IndexOptions())
    assert limit
    assert all(limit)
    with raises(PlanError):
        store.check_index(large, IndexOptions())


def makes_a_place_once_and_drops_it_whole(bench: StoreUnderTest) -> None:
    """Created twice it is one; dropped, nothing of it is left; of other dimensions it is not taken for the same."""
    with filled(bench) as (store, conn, batch):
        store.create(conn)
        assert_holds(store, conn, batch)
        wide: Any = copy.copy(store)
        wide.record = replace(store.record, definition=store.record.definition | {"dimensions": SPACE.dimensions + 1})
        wide.space = wide.record.space
        with raises(VectorRefused):
            wide.create(conn)
        assert store.disk_bytes(conn, len(batch.pieces)) > 0
        store.drop(conn)
        store.drop(conn)
        store.create(conn)
        assert store.count(conn) == 0
        assert not list(store.list_ids(conn))


def upserts_the_same_batch_any_number_of_times(bench: StoreUnderTest) -> None:
    """Repeated after an unknown outcome, whole or in parts, a batch is there once, with its own vectors."""
    with filled(bench) as (store, conn, batch):
        part = Batch(batch.rows[3:7], batch.pieces[3:7], batch.vectors[3:7])
        for repeated in (batch, part, batch):
            store.upsert(conn, repeated)
            assert_holds(store, conn, batch)


def a_late_upsert_of_an_old_text_overwrites_nothing(bench: StoreUnderTest) -> None:
    """A request that was thought lost arrives after the row's new text: the new vector stays what it is."""
    with filled(bench) as (store, conn, old):
        rows = rows_of(range(12), "another text of row")
        new = batch_of(SPACE, rows)
        bench.put_texts(conn, rows)
        store.upsert(conn, new)
        store.upsert(conn, old)
        fetched = store.fetch(conn, ids_of(store, new))
        for one, vector in zip(ids_of(store, new), new.vectors, strict=True):
            assert np.allclose(fetched[one], vector, atol=2e-3)
        store.delete(conn, ids_of(store, old))
        assert_holds(store, conn, new)


def gives_each_point_an_id_of_its_own(bench: StoreUnderTest) -> None:
    """By key, chunk and content; the same from every process."""
    store = bench.open(SPACE)
    told = [
        (("1",), 0, b"a"),
        (("1",), 0, b"b"),
        (("1",), 1, b"a"),
        (("2",), 0, b"a"),
        (("1", "2"), 0, b"a"),
        (("12",), 0, b"a"),
    ]
    ids = [store.id_of(*one) for one in told]
    assert all(ids)
    assert len(set(ids)) == len(ids)
    assert [bench.open(SPACE).id_of(*one) for one in told] == ids


def deletes_every_chunk_and_nothing_else(bench: StoreUnderTest) -> None:
    """The ids of a row's pieces leave no piece of it; what is not there is no error."""
    with filled(bench, CHUNKED) as (store, conn, batch):
        assert_holds(store, conn, batch)
        gone, ids = {("3",), ("7",)}, ids_of(store, batch)
        keep = [place for place, row in enumerate(batch.rows) if row.key not in gone]
        doomed = [one for place, one in enumerate(ids) if place not in keep]
        assert len(doomed) == 6
        for _ in range(2):
            store.delete(conn, doomed)
            assert not store.fetch(conn, doomed)
        assert_holds(
            store, conn, Batch([batch.rows[n] for n in keep], [batch.pieces[n] for n in keep], batch.vectors[keep])
        )
        store.delete(conn, [])


def lists_everything_beside_writers(bench: StoreUnderTest) -> None:
    """What was there before a listing began is in it once, whatever is written meanwhile."""
    with filled(bench, rows=60) as (store, conn, batch):
        before, more = set(ids_of(store, batch)), rows_of(range(1000, 1120))
        bench.put_texts(conn, more)

        def write() -> None:
            with bench.connect() as writing:
                for start in range(0, len(more), 10):
                    store.upsert(writing, batch_of(SPACE, more[start : start + 10]))
                    store.upsert(writing, batch)

        with threads(write):
            for _ in range(10):
                listed = list(store.list_ids(conn))
                assert len(listed) == len(set(listed))
                assert before <= set(listed)
        assert store.count(conn) == len(list(store.list_ids(conn))) == len(before) + len(more)


def finds_the_nearest_of_its_own_version(bench: StoreUnderTest) -> None:
    """By the space's metric, nearest first, no more than asked for, and where asked with a key's value alone."""
    with filled(bench) as (store, conn, batch), filled(bench, OTHER):
        asked = [float(value) for value in batch.vectors[5]]
        order = np.argsort(1 - batch.vectors @ batch.vectors[5])
        for exact in (False, True):
            hits = store.search(conn, asked, 4, exact=exact)
            assert [hit.key_text for hit in hits] == [batch.rows[place].key for place in order[:4]]
            assert {hit.version for hit in hits} == {SPACE.tag}
            assert abs(hits[0].distance) < 2e-3
            assert [hit.distance for hit in hits] == sorted(hit.distance for hit in hits)
        assert len(store.search(conn, asked, 100)) == len(batch.pieces)
        if store.capabilities.filters:
            hits = store.search(conn, asked, 4, where={store.source.key[0].name: 9})
            assert [hit.key_text for hit in hits] == [("9",)]


def refuses_other_dimensions(bench: StoreUnderTest) -> None:
    """And has nothing of the batch."""
    with filled(bench) as (store, conn, batch):
        wide = batch_of(replace(SPACE, dimensions=SPACE.dimensions + 1), rows_of(range(12)))
        with raises(VectorRefused):
            store.upsert(conn, wide)
        assert_holds(store, conn, batch)


def refuses_numbers_that_are_not_finite(bench: StoreUnderTest) -> None:
    """NaN and infinity; and has nothing of the batch, the sound vectors included."""
    with filled(bench) as (store, conn, batch):
        more = rows_of(range(100, 104))
        bench.put_texts(conn, more)
        for bad in (np.nan, np.inf):
            broken = batch_of(SPACE, more)
            broken.vectors[2, 3] = bad
            with raises(VectorRefused):
                store.upsert(conn, broken)
            assert_holds(store, conn, batch)


def refuses_a_place_that_is_not_there(bench: StoreUnderTest) -> None:
    """It is not made by writing to it, and is not taken for an empty one."""
    store = bench.open(SPACE)
    batch = batch_of(SPACE, rows_of(range(3)))
    ids = ids_of(store, batch)
    calls: tuple[Callable[[Connection], Any], ...] = (
        lambda conn: store.upsert(conn, batch),
        lambda conn: store.delete(conn, ids),
        lambda conn: list(store.list_ids(conn)),
        lambda conn: store.fetch(conn, ids),
        lambda conn: store.search(conn, [0.5] * SPACE.dimensions, 3),
        store.count,
        store.set_alias,
        lambda conn: store.build_index(conn, IndexOptions(), bench.index_build()),
    )
    for call in calls:
        with bench.connect() as conn, raises(PlaceMissing):
            call(conn)


def builds_an_index_that_can_be_stopped(bench: StoreUnderTest) -> None:
    """Valid when it is built; stopped, it is built by the next call; built, it is left alone."""
    with filled(bench, rows=200) as (store, conn, batch):
        assert store.index_state(conn) in ("none", "valid")
        stopped = bench.index_build()
        stopped.stop.set()
        with suppress(Interrupted):  # it may be quicker than the stop
            store.build_index(conn, IndexOptions(), stopped)
        for _ in range(2):
            assert store.build_index(conn, IndexOptions(), bench.index_build())
            assert store.index_state(conn) == "valid"
        asked = [float(value) for value in batch.vectors[5]]
        assert store.search(conn, asked, 1)[0].key_text == batch.rows[5].key


def flips_beside_readers(bench: StoreUnderTest) -> None:
    """While the alias goes to and fro, it always shows one of the two; and what a reader then finds is of that version.

    A store without aliases shows none, whatever is set: PostgreSQL alone says which version is read.
    """
    with filled(bench) as (one, conn, batch), filled(bench, OTHER) as (other, _, _):
        by_name = {one.name: one, other.name: other}
        assert one.alias(conn) is None
        one.set_alias(conn)
        if not one.capabilities.alias:
            assert one.alias(conn) is other.alias(conn) is None
            return
        asked, done = [float(value) for value in batch.vectors[0]], threading.Event()
        reads: list[int] = []

        def read() -> None:
            with bench.connect() as reading:
                while not done.is_set():
                    shown = one.alias(reading)
                    assert shown in by_name, f"the alias shows {shown}"
                    hits = by_name[shown].search(reading, asked, 5)
                    assert {hit.version for hit in hits} == {by_name[shown].record.version}
                    reads.append(len(hits))

        with threads(read, read) as failed:
            try:
                while len(reads) < READS and not failed:
                    for store in (other, one):
                        store.set_alias(conn)
                        store.set_alias(conn)
                        assert one.alias(conn) == other.alias(conn) == store.name
            finally:
                done.set()
        assert set(reads) == {5}


def survives_kill_at_any_step(bench: StoreUnderTest) -> None:
    """A process is killed between each two steps, or in the midst of the next. What was acknowledged is there; the same
    steps again come to the same end.
    """
    if not bench.persists:
        return
    store = bench.open(SPACE)
    with bench.connect() as conn:
        bench.put_texts(conn, rows_of(range(40)))
        for done in range(len(STEPS) + 1):
            store = bench.open(replace(SPACE, version=f"killed-{done}"))
            _run_and_kill(bench, store.record.space, done)
            _assert_acknowledged(store, conn, done)
            for step in STEPS:
                step(store, conn)
            assert_holds(store, conn, batch_of(SPACE, rows_of(range(5, 40))))
            assert store.alias(conn) == shown(store)


STEPS: tuple[Callable[[VectorStore, Connection], object], ...] = (
    lambda store, conn: store.create(conn),
    lambda store, conn: store.upsert(conn, batch_of(SPACE, rows_of(range(20)))),
    lambda store, conn: store.upsert(conn, batch_of(SPACE, rows_of(range(20, 40)))),
    lambda store, conn: store.delete(conn, ids_of(store, batch_of(SPACE, rows_of(range(5))))),
    lambda store, conn: store.set_alias(conn),
)


def _assert_acknowledged(store: VectorStore, conn: Connection, done: int) -> None:
    listed = set(store.list_ids(conn)) if done >= 1 else set()
    for steps, rows in ((2, range(5, 20)), (3, range(20, 40))):
        if done >= steps:
            assert set(ids_of(store, batch_of(SPACE, rows_of(rows)))) <= listed
    if done >= 4:
        assert listed.isdisjoint(ids_of(store, batch_of(SPACE, rows_of(range(5)))))
    if done >= 5:
        assert store.alias(conn) == shown(store)


def shown(store: VectorStore) -> str | None:
    """What the alias says once it was set: nothing, where the store has none."""
    return store.name if store.capabilities.alias else None


def _run_and_kill(bench: StoreUnderTest, space: Space, done: int) -> None:
    """SIGKILL for a process that has done so many steps and goes on with the next."""
    context = multiprocessing.get_context("forkserver")  # which imports a store's client once
    context.set_forkserver_preload(["embedmig.testing", type(bench).__module__])
    ours, theirs = context.Pipe()
    process = context.Process(target=_work, args=(bench, space, done, theirs), daemon=True)
    process.start()
    theirs.close()
    try:
        assert ours.recv() == done
    except EOFError as error:
        raise AssertionError(f"the process failed before step {done}") from error
    finally:
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()


def _work(bench: StoreUnderTest, space: Space, done: int, pipe: Any) -> None:
    """In the process that is killed."""
    store = bench.open(space)
    with bench.connect() as conn:
        for step in STEPS[:done]:
            step(store, conn)
        pipe.send(done)
        for step in STEPS[done : done + 1]:
            step(store, conn)
        threading.Event().wait()


StorePromise = Callable[[StoreUnderTest], None]
STORE_PROMISES: tuple[StorePromise, ...] = (
    says_what_it_can_hold,
    makes_a_place_once_and_drops_it_whole,
    upserts_the_same_batch_any_number_of_times,
    a_late_upsert_of_an_old_text_overwrites_nothing,
    gives_each_point_an_id_of_its_own,
    deletes_every_chunk_and_nothing_else,
    lists_everything_beside_writers,
    finds_the_nearest_of_its_own_version,
    refuses_other_dimensions,
    refuses_numbers_that_are_not_finite,
    refuses_a_place_that_is_not_there,
    builds_an_index_that_can_be_stopped,
    flips_beside_readers,
    survives_kill_at_any_step,
)
