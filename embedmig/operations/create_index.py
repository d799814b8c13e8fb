"""create_index: the HNSW index, built after the load, with memory and workers for it.

pgvector's README and DESIGN 3: loading into an existing index is 4.8 times slower than building it afterwards, and
building with the default 64 MB is 2.4 to 2.8 times slower than with enough memory.
"""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from typing import ClassVar

import psycopg
from psycopg import errors as pg
from psycopg import sql

from embedmig.db import Connection, translated
from embedmig.errors import Interrupted, PlanError
from embedmig.operations.base import Operation, Plan, Run
from embedmig.operations.create_space import draft
from embedmig.stores.pgvector import PgvectorStore
from embedmig.types import MAX_INDEX_DIMENSIONS, Estimate, Progress, Space

MEMORY_MB = (64, 4096)
LOOK_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class CreateIndex(Operation):
    """See the module. ``maintenance_work_mem`` is as PostgreSQL writes it (``"2GB"``)."""

    kind: ClassVar[str] = "create_index"
    repeats: ClassVar[bool] = True
    space: Space
    m: int = 16
    ef_construction: int = 64
    maintenance_work_mem: str | None = None
    workers: int | None = None

    @property
    def transactional(self) -> bool:
        """Online: a concurrent build can't run inside a transaction."""
        return False

    def describe(self) -> str:
        """One line."""
        return f"build the HNSW index of {self.space.tag} of {self.space.collection} (m={self.m}, ef_construction={self.ef_construction})"

    def validate(self, plan: Plan) -> None:
        """Dimensions and parameters must be within what pgvector's HNSW can hold."""
        planned = plan.expect(self.space.collection, self.space.tag)
        if planned.record and planned.record.adopted:
            raise PlanError(
                "an adopted space is indexed by its application; op.execute can create an index on its column"
            )
        limit = MAX_INDEX_DIMENSIONS[self.space.storage]
        if self.space.dimensions > limit:
            way_out = (
                'storage="halfvec" holds up to 4,000' if self.space.storage == "vector" and self.space.dimensions <= 4000
                else "ask the model for fewer dimensions, or leave the index out"
            )  # fmt: skip
            raise PlanError(
                f"{self.space.tag}: an HNSW index on {self.space.storage} holds at most {limit:,} dimensions, not {self.space.dimensions:,}",
                hint=way_out,
            )
        if not 2 <= self.m <= 100 or not 4 <= self.ef_construction <= 1000 or self.ef_construction < 2 * self.m:
            raise PlanError(
                f"create_index: m={self.m}, ef_construction={self.ef_construction} is not possible",
                hint="pgvector: m from 2 to 100, ef_construction from 4 to 1000 and at least 2·m",
            )

    def estimate(self, plan: Plan) -> Estimate:
        """Disk: the vectors once more, and the graph's links."""
        from embedmig.source import count_rows

        rows = count_rows(plan.conn, plan.source(self.space.collection)).eligible
        return Estimate(bytes=rows * bytes_per_vector(self.space, self.m))

    def sql(self, plan: Plan) -> list[sql.Composable]:
        """One statement; it waits for the backfill, which is not SQL."""
        source = plan.source(self.space.collection)
        store = PgvectorStore(source, draft(self.space, source, plan.site.database.schema, plan.revision, ""))
        return [store.create_index(concurrently=False, m=self.m, ef_construction=self.ef_construction)]

    def run(self, run: Run) -> str:
        """Builds it, unless a valid one is there; an INVALID leftover is dropped first."""
        record = run.record(self.space.collection, self.space.tag)
        store = run.site.store(run.conn, record)
        assert isinstance(store, PgvectorStore)
        state = store.index_state(run.conn)
        if state == "valid":
            return "is there and valid"
        if state != "none":
            run.conn.execute(store.drop_index())
        with translated("building the index"), run.site.database.connect("index") as building:
            self._prepare(building, store)
            # Nobody reads a space that no alias shows: a plain build is quicker, doesn't wait for strangers' transactions,
            # and leaves nothing behind when it is killed.
            concurrently = record.state in ("active", "retained")
            statement = store.create_index(concurrently=concurrently, m=self.m, ef_construction=self.ef_construction)
            return Build(run, building, statement, record.relation).watch()

    def _prepare(self, conn: Connection, store: PgvectorStore) -> None:
        """Memory for the whole graph where that is reasonable, and workers for the cores there are."""
        vectors = store.vectors(conn)
        wanted = vectors * bytes_per_vector(self.space, self.m) // 1_000_000 * 5 // 4
        memory = self.maintenance_work_mem or f"{max(MEMORY_MB[0], min(MEMORY_MB[1], wanted))}MB"
        workers = (
            self.workers if self.workers is not None else max(0, (os.cpu_count() or 1) - 1) if vectors > 10_000 else 0
        )
        conn.execute("select set_config('maintenance_work_mem', %s, false)", (memory,))
        conn.execute("select set_config('max_parallel_maintenance_workers', %s, false)", (str(workers),))


def bytes_per_vector(space: Space, m: int) -> int:
    """What a vector takes in the graph: itself, 2·m neighbours of 6 bytes at the base, and headers (pgvector's hnsw.h)."""
    width = 4 if space.storage == "vector" else 2
    return space.dimensions * width + 2 * m * 6 * 2 + 200


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
        return f"built in {time.monotonic() - began:.1f} s"

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
