"""create_index: the HNSW index, built after the load, with memory and workers for it.

pgvector's README and DESIGN 3: loading into an existing index is 4.8 times slower than building it afterwards, and
building with the default 64 MB is 2.4 to 2.8 times slower than with enough memory. Nobody reads a space that no alias
shows, so it is built plainly there, which is quicker and leaves nothing behind when it is killed.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import ClassVar

import psycopg
from psycopg import errors as pg
from psycopg import sql

from embedmig.config.toml_values import parse_size
from embedmig.database import Connection, translated
from embedmig.database.registry import SpaceRecord
from embedmig.errors import ConfigError, Interrupted, PlanError
from embedmig.events import Notice
from embedmig.formatting import duration
from embedmig.gates import counting
from embedmig.operations.base import Operation, PlannedState, Run
from embedmig.operations.create_space import draft
from embedmig.stores.aliases import CHANNEL
from embedmig.stores.index_sizes import IndexStorage, graph_bytes, index_bytes
from embedmig.stores.pgvector import build_resources
from embedmig.stores.pgvector.hnsw import LIMIT, RERANK, IndexEncoding, storages
from embedmig.stores.pgvector.table import PgvectorStore
from embedmig.types import Estimate, Progress, Space

LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class CreateIndex(Operation):
    """``memory`` is as PostgreSQL writes it (``"2GB"``); ``storage`` is what the index holds of each
    vector, the space's own unless given, and ``rerank`` how many candidates a search then takes for each result.
    """

    kind: ClassVar[str] = "create_index"
    repeats: ClassVar[bool] = True
    space: Space
    m: int = 16
    ef_construction: int = 64
    memory: str | None = None
    workers: int | None = None
    storage: IndexStorage | None = None
    rerank: int | None = None

    @property
    def form(self) -> IndexEncoding:
        """What the index holds."""
        storage = self.storage or self.space.storage
        own = storage == self.space.storage
        return IndexEncoding(storage, 1 if own else self.rerank or RERANK[storage])

    @property
    def transactional(self) -> bool:
        """Online: a concurrent build can't run inside a transaction."""
        return False

    def describe(self) -> str:
        form = self.form
        held = "" if form.storage == self.space.storage else f", {form.storage}, {form.rerank} candidates a result"
        return f"build the HNSW index of {self.space.tag} of {self.space.collection} (m={self.m}, ef_construction={self.ef_construction}{held})"

    def validate(self, plan: PlannedState) -> None:
        """Dimensions and parameters must be within what pgvector's HNSW can hold."""
        planned = plan.expect(self.space.collection, self.space.tag)
        if planned.record and planned.record.adopted:
            raise PlanError(
                "an adopted space is indexed by its application; op.execute can create an index on its column"
            )
        self._validate_form()
        if not 2 <= self.m <= 100 or not 4 <= self.ef_construction <= 1000 or self.ef_construction < 2 * self.m:
            raise PlanError(
                f"create_index: m={self.m}, ef_construction={self.ef_construction} is not possible",
                hint="pgvector: m from 2 to 100, ef_construction from 4 to 1000 and at least 2·m",
            )
        if self.workers is not None and self.workers < 0:
            raise PlanError(f"create_index: {self.workers} workers are not possible", hint="0 or more")
        if self.memory is not None:
            try:
                parse_size(self.memory)
            except ConfigError as error:
                raise PlanError(f"create_index: memory {self.memory!r} {error.message}", hint=error.hint) from error

    def _validate_form(self) -> None:
        """The index must be able to hold the vectors, in no greater precision than they have, and stand for their metric."""
        space, storage = self.space, self.form.storage
        if storage not in storages(space):
            raise PlanError(
                f"create_index: storage {storage!r} is not possible for {space.storage}", hint='"halfvec" or "binary"'
            )
        if self.rerank is not None and (storage == space.storage or not 1 <= self.rerank <= 100):
            raise PlanError(
                f"create_index: rerank={self.rerank} is not possible",
                hint='1 to 100, with storage="halfvec" for a space of vectors, or with storage="binary"',
            )
        if storage == "binary" and space.metric != "cosine" and space.normalize == "none":
            raise PlanError(
                f"create_index: signs say nothing of the lengths that {space.metric} compares",
                hint='normalize="l2" or metric="cosine"; or another storage',
            )
        if space.dimensions > LIMIT[storage]:
            raise PlanError(
                f"{space.tag}: an HNSW index on {storage} holds at most {LIMIT[storage]:,} dimensions, not {space.dimensions:,}",
                hint=way_out(space),
            )

    def estimate(self, plan: PlannedState) -> Estimate:
        """Disk: what the index holds of the vectors, and the graph's links."""
        from embedmig.source import count_rows

        rows = count_rows(plan.conn, plan.source(self.space.collection)).eligible
        return Estimate(bytes=index_bytes(rows, self.space.dimensions, self.form.storage, self.m))

    def sql(self, plan: PlannedState) -> list[sql.Composable]:
        """One statement; it waits for the backfill, which is not SQL."""
        source = plan.source(self.space.collection)
        store = PgvectorStore(source, draft(self.space, source, plan.context.database.schema, plan.revision, ""))
        return [store.create_index(self.form, concurrently=False, m=self.m, ef_construction=self.ef_construction)]

    def run(self, run: Run) -> str:
        """Builds it, unless a valid one is there; an INVALID leftover is dropped first."""
        record = run.record(self.space.collection, self.space.tag)
        store = run.context.store(run.conn, record)
        assert isinstance(store, PgvectorStore)
        form = self.form
        build_resources.end_orphans(run.conn, record.relation.as_string(run.conn))
        state = store.encoding_state(run.conn, form.storage)
        if state == "valid":
            self._tell(run, record, store)
            return "is there and valid"
        room = self._room(run, record)
        if state != "none":
            run.conn.execute(store.drop_index(form.storage))
        with translated("building the index"), run.context.database.connect("index") as building:
            prepare(building, room)
            statement = store.create_index(
                form, concurrently=read(record), m=self.m, ef_construction=self.ef_construction
            )
            built = Build(run, building, statement, record.relation).watch()
        self._tell(run, record, store)
        return built

    def _room(self, run: Run, record: SpaceRecord) -> build_resources.Room:
        """Memory, workers and disk for it. Raises :class:`DatabaseFailed` where there is too little."""
        rows, form = counting.about(run.conn, record.relation), self.form
        graph = graph_bytes(rows, self.space.dimensions, form.storage, self.m)
        index = index_bytes(rows, self.space.dimensions, form.storage, self.m)
        machine = build_resources.look(run.conn, run.context.config.index.memory)
        memory = parse_size(self.memory) if self.memory else None
        room = build_resources.room(machine, graph, index, rows, memory=memory, workers=self.workers)
        for note in room.notes:
            run.report(Notice(note))
        return room

    def _tell(self, run: Run, record: SpaceRecord, store: PgvectorStore) -> None:
        """Readers learn what to ask the index for, and the index in another form, which nobody asks any more, goes."""
        run.conn.execute(store.comment_index(self.form))
        for storage in storages(self.space):
            if storage != self.form.storage and store.encoding_state(run.conn, storage) != "none":
                run.conn.execute(store.drop_index(storage, concurrently=read(record)))
        run.conn.execute("select pg_notify(%s, %s)", (CHANNEL, record.collection))


def way_out(space: Space) -> str:
    """What can be done about too many dimensions."""
    if space.storage == "vector" and space.dimensions <= LIMIT["halfvec"]:
        return 'op.create_index(…, storage="halfvec") holds up to 4,000; a space with storage="halfvec" takes half the disk too'
    if space.dimensions <= LIMIT["binary"]:
        return 'op.create_index(…, storage="binary") holds them; or ask the model for fewer dimensions'
    return "ask the model for fewer dimensions, or leave the index out"


def read(record: SpaceRecord) -> bool:
    """Whether somebody may read or write the space now, or after going back to it."""
    return record.state in ("active", "retained")


def prepare(conn: Connection, room: build_resources.Room) -> None:
    """The session that builds. When its client is gone, PostgreSQL is to notice it, and not to build on for nobody."""
    for name, value in (
        ("maintenance_work_mem", f"{room.memory >> 10}kB"),
        ("max_parallel_maintenance_workers", str(room.workers)),
        ("client_connection_check_interval", "2s"),
    ):
        with suppress(pg.InvalidParameterValue):  # the last one, on systems that can't tell
            conn.execute("select set_config(%s, %s, false)", (name, value))


@dataclass
class Build:
    """An index build in a thread of its own, watched from this one for progress and for Ctrl-C."""

    run: Run
    conn: Connection
    statement: sql.Composed
    table: sql.Identifier
    error: BaseException | None = None

    def watch(self) -> str:
        """Raises what the build raised, or :class:`Interrupted`."""
        began = time.monotonic()
        thread = threading.Thread(target=self._build, daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(LOOK_SECONDS)
            self.run.guard()
            if self.run.stop.is_set():
                self.conn.cancel_safe()
                thread.join()
            else:
                self._report(time.monotonic() - began)
        if isinstance(self.error, pg.QueryCanceled) and self.run.stop.is_set():
            raise Interrupted(
                "stopped while the index was built", hint="run the same command again: the build starts anew"
            )
        if self.error is not None:
            raise self.error
        return f"built in {duration(time.monotonic() - began)}"

    def _build(self) -> None:
        try:
            try:
                self.conn.execute(self.statement)
            except psycopg.Error as error:
                if "shared memory" not in str(error):
                    raise
                # A container's /dev/shm is often 64 MB, and parallel workers share their memory there.
                self.conn.execute("set max_parallel_maintenance_workers = 0")
                self.conn.execute(self.statement)
        except BaseException as error:  # noqa: BLE001  raised in the watching thread
            self.error = error

    def _report(self, seconds: float) -> None:
        row = self.run.conn.execute(
            """select case when tuples_total > 0 then tuples_done else blocks_done end,
                      case when tuples_total > 0 then tuples_total else blocks_total end
               from pg_stat_progress_create_index where relid = to_regclass(%s)""",
            (self.table.as_string(self.run.conn),),
        ).fetchone()
        if row and row[1]:
            self.run.report(Progress("indexing", row[0], row[1], "", active_seconds=seconds))
