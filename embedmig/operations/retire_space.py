"""retire_space: the vectors of an old version are dropped. The point of no return, recorded as such."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import ClassVar

from psycopg import sql

from embedmig.config.toml_values import parse_duration
from embedmig.database import Connection, clock, scalar
from embedmig.database.registry import SpaceRecord
from embedmig.errors import AnswerIsNo, PlanError
from embedmig.gates.evidence import fallen
from embedmig.gates.evidence_table import EvidenceTable
from embedmig.operations.base import Context, Operation, PlannedState, Run
from embedmig.revisions.states import in_words
from embedmig.source.installed import remove_capture
from embedmig.stores import open_manifest
from embedmig.types import SpaceState

QUIET_SECONDS = 3600.0  # a version is no longer read when its index has not been used for so long


@dataclass(frozen=True, slots=True)
class RetireSpace(Operation):
    """``after`` is how long the version must have been retained; ``evals_stable`` how many evaluations
    of what the alias shows must have stayed where this version was.
    """

    kind: ClassVar[str] = "retire_space"
    validated_again: ClassVar[bool] = False
    collection: str
    version: str
    after: str
    evals_stable: int | None = None

    def describe(self) -> str:
        return (
            f"retire {self.version} of {self.collection}: its vectors are dropped, {self.after} after it was last shown"
        )

    def validate(self, plan: PlannedState) -> None:
        """The version must be embedmig's own, and not the one that the alias shows by then."""
        planned = plan.expect(self.collection, self.version)
        parse_duration(self.after)
        if self.evals_stable is not None and self.evals_stable < 1:
            raise PlanError(f"retire_space: evals_stable {self.evals_stable} is not above 0")
        if plan.aliases.get(self.collection) == self.version:
            raise PlanError(f"retire_space: the alias of {self.collection!r} shows {self.version} at this point")
        if planned.record and planned.record.adopted:
            raise PlanError("adopted vectors belong to the application; embedmig doesn't drop them")
        del plan.spaces[self.collection, self.version]

    def sql(self, plan: PlannedState) -> list[sql.Composable] | str:
        record = plan.context.registry.space(plan.conn, self.collection, self.version)
        if record is None:
            return "made in this very plan"
        return [open_manifest(plan.context.source_as_it_is(plan.conn, self.collection), record).drop_sql()]

    def apply(self, run: Run, conn: Connection) -> str:
        """Refuses while it is too early; the revision stays pending, and a later run asks again."""
        record = run.record(self.collection, self.version)
        if record.state == "retired":
            return "was retired"
        refuse_early(run.context, conn, record, self.after)
        if self.evals_stable is not None:
            refuse_unstable(run.context, conn, record, self.evals_stable)
        drop(run.context, conn, record)
        return "dropped; there is no way back to it but to embed again"

    def complete(self, run: Run) -> None:
        """What a store beside PostgreSQL has of it goes last: nothing brings it back."""
        finish(run.context, run.conn, self.collection, self.version)


def refuse_early(context: Context, conn: Connection, record: SpaceRecord, after: str) -> None:
    """Raises :class:`AnswerIsNo` while the version is shown, was shown too recently, or is still read."""
    if record.adopted:
        raise PlanError("adopted vectors belong to the application; embedmig doesn't drop them")
    alias = context.registry.alias(conn, record.collection)
    if record.state == "active" or (alias and alias.version == record.version):
        raise AnswerIsNo(f"{record.version} is what the alias shows", hint="only a retained version can be retired")
    if record.state != "retained":
        raise AnswerIsNo(f"{record.version} is {record.state}, not retained")
    kept = scalar(conn, "select extract(epoch from now() - %s)::float8", (record.state_since,))
    if kept < parse_duration(after):
        raise AnswerIsNo(
            f"{record.version} has been retained for {kept / 86400:.1f} days, not for {after}",
            hint="until then it is the way back",
        )
    refuse_read(context, conn, record)


def refuse_read(context: Context, conn: Connection, record: SpaceRecord) -> None:
    """Raises :class:`AnswerIsNo` while somebody searches in the version's own table."""
    if (idle := context.remains(conn, record).seconds_since_read(conn)) is not None and idle < QUIET_SECONDS:
        raise AnswerIsNo(
            f"{record.version} was read {idle:.0f} s ago, by something that doesn't go through the alias",
            hint=f"find it in pg_stat_activity; its place is {'.'.join(record.place[:2])}",
        )


def refuse_begun(context: Context, conn: Connection, record: SpaceRecord) -> None:
    """Raises :class:`AnswerIsNo` while the revision that makes the version is under way, up or down: the rest of it would find the
    version gone.
    """
    found = context.ledger.progress(conn).get(record.revision)
    if found is not None and found.partly:
        raise AnswerIsNo(
            f"{record.version} is {record.state}, and revision {record.revision}, which makes it, is {in_words(found.state)}",
            hint="embedmig downgrade -1 takes that back first; then the version may be retired",
        )
    refuse_read(context, conn, record)


def refuse_unstable(context: Context, conn: Connection, record: SpaceRecord, count: int) -> None:
    """Raises :class:`AnswerIsNo` while what the alias shows has not proved as good as the version that is to go."""
    alias = context.registry.alias(conn, record.collection)
    shown = context.registry.space(conn, record.collection, alias.version) if alias and alias.version else None
    if shown is None:
        raise AnswerIsNo(f"the alias of {record.collection} shows nothing that could stand in for {record.version}")
    known = EvidenceTable(context.database.schema).known(conn, shown, clock(conn), context.config.gates.completeness)
    if reason := fallen(known, record.version, count):
        raise AnswerIsNo(reason, hint=f"{record.version} is kept until then: it is the way back")


def drop(context: Context, conn: Connection, record: SpaceRecord) -> None:
    """Inside a transaction: the vectors go, the registry's entry stays."""
    open_manifest(context.source_as_it_is(conn, record.collection), record).drop(conn)
    forget(context, conn, record, "retired")


def finish(context: Context, conn: Connection, collection: str, version: str) -> bool:
    """After :func:`drop` is committed; whether anything was left to go. A version that was made again meanwhile is left alone."""
    record = context.registry.space(conn, collection, version)
    if record is None or record.state != "retired":
        return False
    return open_manifest(context.source_as_it_is(conn, collection), record).finish_drop(conn)


def forget(context: Context, conn: Connection, record: SpaceRecord, state: SpaceState) -> None:
    """Waiting changes, dead letters and what is left of a backfill of a version go; so does capture, where it was the last that wanted it."""
    registry = context.registry
    left = (registry.ranges_table, registry.repeats_table, registry.digests_table)
    for table in (registry.pending_table, registry.failed_table, registry.hot_table, *left):
        conn.execute(sql.SQL("delete from {} where space = %s").format(table), (record.id,))
    context.registry.set_state(conn, record.id, state)
    live = [found for found in context.registry.spaces(conn, record.collection) if found.live]
    if not any(found.writer == "embedmig" for found in live):
        remove_capture(conn, context.registry, record.collection)


def retire_now(context: Context, conn: Connection, record: SpaceRecord) -> float:
    """By hand: drops the space and leaves a ledger row that marks the point of no return. Returns milliseconds."""
    began = time.monotonic()
    with conn.transaction():
        conn.execute("set local lock_timeout = '500ms'")
        drop(context, conn, record)
        context.ledger.note_by_hand(conn, record.revision, record.version, "was retired: its vectors are gone")
    finish(context, conn, record.collection, record.version)
    return (time.monotonic() - began) * 1000
