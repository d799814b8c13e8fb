"""compact_space: a version that is kept for a rollback, its vectors in half the bytes, and still a flip away.

What it costs in recall is measured before anything is changed. Then the index goes, the table is rewritten in one
transaction, and the index comes back over what is there. A run that was killed goes on after what was committed.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from psycopg import errors as pg
from psycopg import sql

from embedmig.database import Connection, cancelled_by, retry_transient
from embedmig.database.registry import SpaceRecord
from embedmig.errors import Interrupted, PlanError
from embedmig.formatting import size
from embedmig.operations.base import Operation, PlannedState, Run
from embedmig.stores import Compaction, IndexBuild, compacted_options, compaction, open_manifest
from embedmig.types import Estimate, Tally

IndexChoice = Literal["keep", "drop"]
Statements = list[sql.Composed]
DERIVE = "op.derive_space makes a version in half precision of it, without a model; then this one may be retired"


@dataclass(frozen=True, slots=True)
class CompactSpace(Operation):
    """``index``: ``keep`` builds the one that was there anew, in half precision; ``drop`` leaves none."""

    kind: ClassVar[str] = "compact_space"
    collection: str
    version: str
    index: IndexChoice = "keep"

    @property
    def transactional(self) -> bool:
        """Online: the table in one transaction, the index after it."""
        return False

    def describe(self) -> str:
        index = "its index of those" if self.index == "keep" else "without an index"
        return f"keep {self.version} of {self.collection} in half precision, {index}"

    def validate(self, plan: PlannedState) -> None:
        """It must be embedmig's own, in PostgreSQL, and not what the alias shows by then."""
        planned = plan.expect(self.collection, self.version)
        space = planned.space
        if self.index not in ("keep", "drop"):
            raise PlanError(f"compact_space: index {self.index!r} is not known", hint='"keep" or "drop"')
        if planned.adopted:
            raise PlanError("adopted vectors belong to the application; embedmig does not change them", hint=DERIVE)
        if space.external:
            raise PlanError(f"{space.store} does not change the precision of vectors that it holds", hint=DERIVE)
        if plan.aliases.get(self.collection) == self.version:
            raise PlanError(
                f"compact_space: the alias of {self.collection!r} shows {self.version} at this point",
                hint="only a version that is kept for a rollback is compacted",
            )
        if planned.record and planned.record.state in ("building", "ready"):
            raise PlanError(f"{self.version} is {planned.record.state}: it was never shown", hint=DERIVE)
        if space.half_precision and self.index == "keep":
            raise PlanError(
                f"{self.version} is in half precision as it is",
                hint='index="drop" leaves out its index, for the rest of its bytes',
            )
        if space.normalize == "none":
            raise PlanError(f"the vectors of {self.version} may be longer than half precision holds", hint=DERIVE)

    def estimate(self, plan: PlannedState) -> Estimate:
        """The bytes of the table in half precision, which is written beside the one that is there, and of the index."""
        record = plan.expect(self.collection, self.version).record
        if record is None:
            return Estimate(note="0 texts")
        manifest = open_manifest(plan.source(self.collection), record)
        work, rows = compaction(manifest), manifest.counts(plan.conn).vectors
        before, after = work.bytes(plan.conn, rows, self._index_found(plan.conn, work))
        return Estimate(rows, 0, 0.0, after, f"0 texts; {size(before)} → about {size(after)}")

    def sql(self, plan: PlannedState) -> list[sql.Composable] | str:
        """In their order; the index as it is there now."""
        planned = plan.expect(self.collection, self.version)
        record = planned.record or planned.draft
        if record is None:
            return "its space is not there by then"
        work = compaction(open_manifest(plan.source(self.collection), record))
        found = self._index_found(plan.conn, work) if planned.record else None
        rewritten = work.rewrite_sql() if work.rewrites() else []
        return [*work.drop_index_sql(), *rewritten, *(work.create_index_sql(found) if found else [])]

    def _index_found(self, conn: Connection, work: Compaction) -> dict[str, Any] | None:
        return work.index(conn) if self.index == "keep" else None

    def run(self, run: Run) -> str:
        """Goes on from what :attr:`SpaceRecord.compacted` says."""
        record = run.record(self.collection, self.version)
        if record.state != "retained":
            raise PlanError(f"{self.version} is {record.state}, not retained", hint="embedmig status")
        state = record.compacted
        if state and state["done"] and state["index"] == self.index:
            return "was compacted"
        self._measure(run, record)
        self._drop_index(run)
        self._rewrite(run)
        self._build_index(run)
        return self._finish(run)

    def _parts(self, run: Run) -> tuple[SpaceRecord, dict[str, Any], Compaction]:
        """As they are now: each step changes them."""
        record = run.record(self.collection, self.version)
        return record, dict(record.compacted or {}), compaction(run.context.manifest(run.conn, record))

    def _measure(self, run: Run, record: SpaceRecord) -> None:
        """What is about to be lost is measured and written down first: nobody can find it out afterwards."""
        _, state, work = self._parts(run)
        if not state:
            state = {"rounded": False, "found": work.index(run.conn), "bytes": [work.bytes(run.conn, 0, None)[0]]}
            state["recall"] = work.lost_by_rounding(run.conn)
        run.context.registry.set_compacted(run.conn, record.id, state | {"index": self.index, "done": False})

    def _drop_index(self, run: Run) -> None:
        record, state, work = self._parts(run)
        if self.index == "drop" or (not record.rounded and work.rewrites()):
            self._in_one(run, work.drop_index_sql(), record, state)

    def _rewrite(self, run: Run) -> None:
        record, state, work = self._parts(run)
        if not work.rewrites():
            return
        work.require_room(run.conn)
        with cancelled_by(run.stop, run.conn):
            try:
                self._in_one(run, work.rewrite_sql(), record, state | {"rounded": True})
            except pg.QueryCanceled:
                if run.stop.is_set():
                    raise Interrupted(
                        "stopped while the table was rewritten: it is as it was",
                        hint="run the same command again: it is rewritten anew",
                    ) from None
                raise

    def _in_one(self, run: Run, statements: Statements, record: SpaceRecord, state: dict[str, Any]) -> None:
        """One transaction. Its lock is waited for in short tries, so that nobody queues behind it."""

        def transaction() -> None:
            run.guard()
            with run.conn.transaction():
                run.conn.execute("set local lock_timeout = '500ms'")
                for statement in statements:
                    run.conn.execute(statement)
                run.context.registry.set_compacted(run.conn, record.id, state)
                run.fence(run.conn, Tally())

        retry_transient(transaction)

    def _build_index(self, run: Run) -> None:
        record, state, _ = self._parts(run)
        if self.index == "drop" or state["found"] is None:
            return
        build = IndexBuild(run.context.database, run.report, run.stop, run.guard, run.context.config.index.memory)
        run.context.store(run.conn, record).build_index(run.conn, compacted_options(state["found"]), build)

    def _finish(self, run: Run) -> str:
        """Measures again, and says what was won and lost."""
        record, state, work = self._parts(run)
        before = state["bytes"][0]
        after, _ = work.bytes(run.conn, 0, None)
        state |= {"done": True, "bytes": [before, after], "recall": state["recall"] | work.lost_by_index(run.conn)}
        run.context.registry.set_compacted(run.conn, record.id, state)
        return ", ".join([f"{size(before)} → {size(after)}", *losses(state["recall"])])


def losses(recall: dict[str, Any]) -> Iterator[str]:
    """What a compaction has cost, in words."""
    if "rounded" in recall:
        yield f"half precision keeps {recall['rounded']:.4f} of the first {recall['first']} rows ({recall['queries']} queries)"
    if "index" in recall:
        before = f", {recall['index_before']:.4f} before" if "index_before" in recall else ""
        yield f"its index finds {recall['index']:.4f} of them{before}"
