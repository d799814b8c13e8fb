"""create_index: the vector index, built by the store after the load, or before it and grown by it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from psycopg import sql

from embedmig.config.toml_values import parse_size
from embedmig.errors import ConfigError, PlanError
from embedmig.operations.base import Operation, PlannedState, Run
from embedmig.source import count_rows
from embedmig.source.sampling import about
from embedmig.stores import IndexBuild, IndexOptions, IndexStorage, describe_index, open_store, store_class
from embedmig.stores.index_sizes import index_bytes
from embedmig.types import Estimate, Space


@dataclass(frozen=True, slots=True)
class CreateIndex(Operation):
    """``memory`` is as PostgreSQL writes it (``"2GB"``); ``storage`` is what the index holds of each
    vector, the space's own unless given, and ``rerank`` how many candidates a search then takes for each result. With
    ``during`` it is there before the vectors are.
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
    during: Literal["backfill"] | None = None

    @property
    def options(self) -> IndexOptions:
        """For the store. Raises :class:`ConfigError` for a size that can't be read."""
        memory = parse_size(self.memory) if self.memory is not None else None
        return IndexOptions(self.m, self.ef_construction, self.storage, self.rerank, memory, self.workers)

    @property
    def transactional(self) -> bool:
        """Online: the store builds it in a session of its own."""
        return False

    def describe(self) -> str:
        options = IndexOptions(self.m, self.ef_construction, self.storage, self.rerank)
        grows = ", which grows with the backfill" if self.during else ""
        return f"build the {describe_index(self.space, options)}{grows}"

    def validate(self, plan: PlannedState) -> None:
        """Dimensions and parameters must be within what the store's index can hold."""
        planned = plan.expect(self.space.collection, self.space.tag)
        if planned.record and planned.record.adopted:
            raise PlanError(
                "an adopted space is indexed by its application; op.execute can create an index on its column"
            )
        if self.workers is not None and self.workers < 0:
            raise PlanError(f"create_index: {self.workers} workers are not possible", hint="0 or more")
        try:
            options = self.options
        except ConfigError as error:
            raise PlanError(f"create_index: memory {self.memory!r} {error.message}", hint=error.hint) from error
        store_class(self.space, plan.context.config.stores).check_index(self.space, options)
        self.refuse_during()

    def refuse_during(self) -> None:
        """Raises :class:`PlanError` where an index can't grow with the backfill."""
        if self.during not in (None, "backfill"):
            raise PlanError(
                f"create_index: during={self.during!r} is not possible", hint='during="backfill", or leave it out'
            )
        if self.during and self.space.external:
            raise PlanError(
                f"create_index: during is for indexes in PostgreSQL; {self.space.store} indexes vectors in its own time",
                hint="leave during out, and put op.create_index after op.backfill: it waits for the store",
            )

    def estimate(self, plan: PlannedState) -> Estimate:
        """Disk: what the index holds of the vectors, and the graph's links."""
        rows = count_rows(plan.conn, plan.source(self.space.collection)).eligible
        return Estimate(bytes=index_bytes(rows, self.space.dimensions, self.storage or self.space.storage, self.m))

    def sql(self, plan: PlannedState) -> list[sql.Composable] | str:
        """It waits for the backfill, which is not SQL."""
        planned = plan.expect(self.space.collection, self.space.tag)
        record = planned.record or planned.draft
        if record is None:
            return "its space is not there by then"
        return open_store(plan.source(self.space.collection), record).index_sql(self.options)

    def run(self, run: Run) -> str:
        """Builds it, unless a valid one is there."""
        record = run.record(self.space.collection, self.space.tag)
        rows = about(run.conn, run.context.source(run.conn, record.collection).relation) if self.during else 0
        build = IndexBuild(run.context.database, run.report, run.stop, run.guard, run.context.config.index.memory, rows)
        return run.context.store(run.conn, record).build_index(run.conn, self.options, build)
