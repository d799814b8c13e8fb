"""Building a space's HNSW index: over what is there, with memory and workers for it, watched for progress and for Ctrl-C.

pgvector's README and DESIGN 3: loading into an existing index is 4.8 times slower than building it afterwards, and
building with the default 64 MB is 2.4 to 2.8 times slower than with enough memory. Nobody reads a space that no alias
shows, so it is built plainly there, which is quicker and leaves nothing behind when it is killed.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

import psycopg
from psycopg import errors as pg
from psycopg import sql

from embedmig.database import Connection, ident, scalar, translated
from embedmig.database.registry import SpaceRecord
from embedmig.errors import EmbedmigError, Interrupted, PlanError
from embedmig.events import Notice
from embedmig.formatting import duration
from embedmig.source.sampling import about
from embedmig.stores.aliases import CHANNEL
from embedmig.stores.index_sizes import IndexStorage, graph_bytes, index_bytes
from embedmig.stores.pgvector import build_resources, hnsw
from embedmig.stores.pgvector.hnsw import LIMIT, RERANK, IndexEncoding, storages
from embedmig.stores.protocol import IndexBuild, IndexOptions, IndexState
from embedmig.types import Progress, Space

if TYPE_CHECKING:
    from embedmig.stores.pgvector.table import TablePlace

LOOK_SECONDS = 0.2


# --- what can be built --------------------------------------------------------------------------------------------


def encoding(space: Space, options: IndexOptions) -> IndexEncoding:
    """What the index holds of each vector, and how many candidates a search takes from it."""
    storage = options.storage or space.storage
    own = storage == space.storage
    return IndexEncoding(storage, 1 if own else options.rerank or RERANK[storage])


def describe(space: Space, options: IndexOptions) -> str:
    """In a few words."""
    form = encoding(space, options)
    held = "" if form.storage == space.storage else f", {form.storage}, {form.rerank} candidates a result"
    return f"HNSW index of {space.tag} of {space.collection} (m={options.m}, ef_construction={options.ef_construction}{held})"


def check(space: Space, options: IndexOptions) -> None:
    """Dimensions and parameters must be within what pgvector's HNSW can hold. Raises :class:`PlanError`.

    It must be able to hold the vectors, in no greater precision than they have, and stand for their metric.
    """
    storage, m, ef_construction = encoding(space, options).storage, options.m, options.ef_construction
    if storage not in storages(space):
        raise PlanError(
            f"create_index: storage {storage!r} is not possible for {space.storage}", hint='"halfvec" or "binary"'
        )
    if options.rerank is not None and (storage == space.storage or not 1 <= options.rerank <= 100):
        raise PlanError(
            f"create_index: rerank={options.rerank} is not possible",
            hint='1 to 100, with storage="halfvec" for a space of vectors, or with storage="binary"',
        )
    if storage == "binary" and space.metric != "cosine" and space.normalize == "none":
        raise PlanError(
            f"create_index: signs say nothing of the lengths that {space.metric} compares",
            hint='normalize="l2" or metric="cosine"; or another storage',
        )
    if limit := over_limit(space, options):
        raise PlanError(f"{space.tag}: {limit[0]}", hint=limit[1])
    if not 2 <= m <= 100 or not 4 <= ef_construction <= 1000 or ef_construction < 2 * m:
        raise PlanError(
            f"create_index: m={m}, ef_construction={ef_construction} is not possible",
            hint="pgvector: m from 2 to 100, ef_construction from 4 to 1000 and at least 2·m",
        )


def over_limit(space: Space, options: IndexOptions) -> tuple[str, str] | None:
    """Why the index can't hold the space's dimensions, and what can be done; None where it can."""
    storage = encoding(space, options).storage
    if space.dimensions <= LIMIT[storage]:
        return None
    hint = "ask the model for fewer dimensions, or leave the index out"
    if space.storage == "vector" and space.dimensions <= LIMIT["halfvec"]:
        hint = 'op.create_index(…, storage="halfvec") holds up to 4,000; a space with storage="halfvec" takes half the disk too'
    elif space.dimensions <= LIMIT["binary"]:
        hint = 'op.create_index(…, storage="binary") holds them; or ask the model for fewer dimensions'
    return f"an HNSW index on {storage} holds at most {LIMIT[storage]:,} dimensions, not {space.dimensions:,}", hint


# --- what is there ------------------------------------------------------------------------------------------------


def best_state(conn: Connection, place: TablePlace, space: Space) -> IndexState:
    """The best state among the forms that the space's HNSW index may have: one that is valid is enough."""
    found = {state(conn, place, space, storage) for storage in storages(space)}
    order: tuple[IndexState, ...] = ("valid", "building", "invalid")
    return next((one for one in order if one in found), "none")


def state(conn: Connection, place: TablePlace, space: Space, storage: IndexStorage) -> IndexState:
    """The state of the index in one form; an INVALID one is what a killed concurrent build leaves behind."""
    row = conn.execute(
        """select i.indisvalid and i.indisready, exists (select from pg_stat_progress_create_index p where p.index_relid = c.oid)
           from pg_class c join pg_index i on i.indexrelid = c.oid
           where c.relnamespace = to_regnamespace(%s) and c.relname = %s""",
        (ident(place.schema).as_string(conn), hnsw.index_name(place.table, space, storage)),
    ).fetchone()
    if row is None:
        return "none"
    return "valid" if row[0] else "building" if row[1] else "invalid"


def seconds_since_read(conn: Connection, place: TablePlace, since: datetime | None) -> float | None:
    """How long ago a search used the index; None where it was not used ``since``, or before PostgreSQL 16."""
    if conn.info.server_version < 160000:
        return None
    query = """select extract(epoch from now() - s.last_idx_scan)::float8 from pg_stat_user_indexes s
               join pg_class c on c.oid = s.indexrelid join pg_am a on a.oid = c.relam
               where s.schemaname = %s and s.relname = %s and a.amname = 'hnsw' and s.last_idx_scan > %s"""
    return scalar(conn, query, (place.schema, place.table, since))  # type: ignore[no-any-return]


# --- building -----------------------------------------------------------------------------------------------------


def create(place: TablePlace, space: Space, options: IndexOptions, *, concurrently: bool) -> sql.Composed:
    """Builds the HNSW index under its fixed name."""
    form = encoding(space, options)
    name = hnsw.index_name(place.table, space, form.storage)
    return hnsw.create(
        place.relation, name, space, form, options.m, options.ef_construction, concurrently=concurrently
    )  # fmt: skip


def drop(place: TablePlace, space: Space, storage: IndexStorage, *, concurrently: bool = False) -> sql.Composed:
    """Removes the index of one form; wanted for an INVALID leftover, which ``if not exists`` would skip."""
    return sql.SQL("drop index {} if exists {}").format(
        sql.SQL("concurrently" if concurrently else ""),
        ident(place.schema, hnsw.index_name(place.table, space, storage)),
    )


def comment(place: TablePlace, space: Space, form: IndexEncoding) -> sql.Composed:
    """What readers are told of the index."""
    said = sql.SQL("null") if form.storage == space.storage else sql.Literal(form.comment())
    name = ident(place.schema, hnsw.index_name(place.table, space, form.storage))
    return sql.SQL("comment on index {} is {}").format(name, said)


def may_be_read(record: SpaceRecord) -> bool:
    """Whether somebody may read or write the space now, or after going back to it."""
    return record.state in ("active", "retained")


def cancel(building: Connection, thread: threading.Thread) -> None:
    """Ends a build: again until it is heard, for between two statements a cancellation is lost."""
    while thread.is_alive():
        building.cancel_safe()
        thread.join(LOOK_SECONDS)


@dataclass
class Builder:
    """One build: in a thread of its own, on a connection of its own, watched from this one."""

    conn: Connection
    record: SpaceRecord
    place: TablePlace
    options: IndexOptions
    build: IndexBuild
    error: BaseException | None = None

    def __post_init__(self) -> None:
        self.space = self.record.space
        self.form = encoding(self.space, self.options)
        self.concurrently = may_be_read(self.record)

    def run(self) -> str:
        """Builds it, unless a valid one is there; an INVALID leftover is dropped first."""
        build_resources.end_orphans(self.conn, self.place.relation.as_string(self.conn))
        found = state(self.conn, self.place, self.space, self.form.storage)
        if found == "valid":
            self._tell()
            return "is there and valid"
        room = self._room()
        if found != "none":
            self.conn.execute(drop(self.place, self.space, self.form.storage))
        with translated("building the index"), self.build.database.connect("index") as building:
            prepare(building, room)
            built = self._watch(building)
        self._tell()
        return built

    def _room(self) -> build_resources.Room:
        """Memory, workers and disk for it. Raises :class:`DatabaseFailed` where there is too little."""
        rows = about(self.conn, self.place.relation)
        graph = graph_bytes(rows, self.space.dimensions, self.form.storage, self.options.m)
        index = index_bytes(max(rows, self.build.rows), self.space.dimensions, self.form.storage, self.options.m)
        machine = build_resources.look(self.conn, self.build.memory)
        room = build_resources.room(
            machine, graph, index, rows, memory=self.options.memory, workers=self.options.workers
        )
        for note in room.notes:
            self.build.report(Notice(note))
        return room

    def _tell(self) -> None:
        """Readers learn what to ask the index for, and the index in another form, which nobody asks any more, goes."""
        self.conn.execute(comment(self.place, self.space, self.form))
        for storage in storages(self.space):
            if storage != self.form.storage and state(self.conn, self.place, self.space, storage) != "none":
                self.conn.execute(drop(self.place, self.space, storage, concurrently=self.concurrently))
        self.conn.execute("select pg_notify(%s, %s)", (CHANNEL, self.record.collection))

    def _watch(self, building: Connection) -> str:
        """Raises what the build raised, or :class:`Interrupted`."""
        began = time.monotonic()
        thread = threading.Thread(target=self._build, args=(building,), daemon=True)
        thread.start()
        while thread.is_alive():
            thread.join(LOOK_SECONDS)
            try:
                self.build.guard()
            except EmbedmigError:
                cancel(building, thread)
                raise
            if self.build.stop.is_set():
                cancel(building, thread)
            else:
                self._report(time.monotonic() - began)
        if isinstance(self.error, pg.QueryCanceled) and self.build.stop.is_set():
            raise Interrupted(
                "stopped while the index was built", hint="run the same command again: the build starts anew"
            )
        if self.error is not None:
            raise self.error
        return f"built in {duration(time.monotonic() - began)}"

    def _build(self, building: Connection) -> None:
        statement = create(self.place, self.space, self.options, concurrently=self.concurrently)
        try:
            try:
                building.execute(statement)
            except psycopg.Error as error:
                if "shared memory" not in str(error):
                    raise
                # A container's /dev/shm is often 64 MB, and parallel workers share their memory there.
                building.execute("set max_parallel_maintenance_workers = 0")
                building.execute(statement)
        except BaseException as error:  # noqa: BLE001  raised in the watching thread
            self.error = error

    def _report(self, seconds: float) -> None:
        row = self.conn.execute(
            """select case when tuples_total > 0 then tuples_done else blocks_done end,
                      case when tuples_total > 0 then tuples_total else blocks_total end
               from pg_stat_progress_create_index where relid = to_regclass(%s)""",
            (self.place.relation.as_string(self.conn),),
        ).fetchone()
        if row and row[1]:
            self.build.report(Progress("indexing", row[0], row[1], "", active_seconds=seconds))


def prepare(conn: Connection, room: build_resources.Room) -> None:
    """The session that builds. When its client is gone, PostgreSQL is to notice it, and not to build on for nobody."""
    for name, value in (
        ("maintenance_work_mem", f"{room.memory >> 10}kB"),
        ("max_parallel_maintenance_workers", str(room.workers)),
        ("client_connection_check_interval", "2s"),
    ):
        with suppress(pg.InvalidParameterValue):  # the last one, on systems that can't tell
            conn.execute("select set_config(%s, %s, false)", (name, value))
