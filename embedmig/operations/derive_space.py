"""derive_space: a space whose vectors are computed from those of another version, without a model call.

The geometry must be the same but for what can be computed: fewer dimensions, another storage type, another store.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from psycopg import sql

from embedmig.database import Connection, retry_transient
from embedmig.database.registry import SpaceRecord
from embedmig.embedders import model_check
from embedmig.engine.derive import Derive
from embedmig.engine.follower import sync_other_spaces
from embedmig.errors import PlanError
from embedmig.operations.base import PlannedSpace, PlannedState, Run
from embedmig.operations.create_space import CreateSpace
from embedmig.stores import derive_sql, open_manifest
from embedmig.stores.index_sizes import table_bytes
from embedmig.stores.presence import require_vectors
from embedmig.types import Estimate, Space, Tally

COMPUTED = ("dimensions", "cut", "storage", "store", "metric", "variant", "weights")
"""Fields of a space that may differ: what can be computed, how vectors are compared, and names. Weights are compared as they
are known, which may be from the database."""


@dataclass(frozen=True, slots=True)
class DeriveSpace(CreateSpace):
    """``of`` is the tag of the version that the vectors are computed from."""

    kind: ClassVar[str] = "derive_space"
    of: str
    assume_current: bool = False

    @property
    def transactional(self) -> bool:
        """Online: commits a key range at a time."""
        return False

    def describe(self) -> str:
        return f"derive {self.space.tag} of {self.space.collection} from {self.of}, without a model"

    def check_model(self, plan: PlannedState, planned: PlannedSpace) -> None:
        """None is called. The other version must be there by then, filled, and of the same geometry."""
        old = plan.expect(self.space.collection, self.of)
        refuse_other_geometry(self.space, old.space, old.record.weights if old.record else "")
        source = plan.source(self.space.collection)
        if old.record and source.reading(old.record.text_columns).text != source.text:
            raise PlanError(
                f"{self.of} was made from {', '.join(old.record.text_columns)}, and text of [collections.{self.space.collection}] is "
                f"{', '.join(column.name for column in source.text)} now",
                hint="op.create_space and op.backfill: other texts have other vectors",
            )
        if not old.has_vectors:
            raise PlanError(f"{self.of} has no vectors at this point", hint="op.backfill it before")
        if old.record:
            require_vectors(plan.conn, source, old.record)
        if old.adopted and not self.assume_current:
            raise PlanError(
                f"of which text the adopted vectors of {self.of} were made is not known",
                hint="assume_current=True takes them to be of the texts as they are now, and the ledger records that",
            )
        planned.has_vectors, planned.derived_from = True, old

    def estimate(self, plan: PlannedState) -> Estimate:
        """The rows that the other version has as they are now; no text."""
        old = plan.expect(self.space.collection, self.of).record
        if old is None:
            return Estimate(note="0 texts")
        counts = plan.context.manifest(plan.conn, old).counts(plan.conn)
        size = table_bytes(counts.vectors, self.space.dimensions, self.space.storage)
        return Estimate(counts.complete, 0, 0.0, size, "0 texts", counts.vectors)

    def sql(self, plan: PlannedState) -> list[sql.Composable] | str:
        """The table, and what fills it; embedmig runs that a key range at a time."""
        made = CreateSpace.sql(self, plan)
        old, planned = plan.expect(self.space.collection, self.of), plan.expect(self.space.collection, self.space.tag)
        old_record, record = old.record or old.draft, planned.record or planned.draft
        assert old_record is not None
        assert record is not None
        source = plan.source(self.space.collection)
        fills = derive_sql(open_manifest(source, record), open_manifest(source, old_record))
        return [*(made if isinstance(made, list) else ()), *([fills] if fills else ())] or "not SQL: vectors are copied"

    def run(self, run: Run) -> str:
        """Makes the space where it is not there yet, and fills it."""
        old = run.record(self.space.collection, self.of)
        record = self._made(run, old)
        tally = self._filled(run, record, old)
        assumed = ", taken to be of the texts as they were" if old.adopted else ""
        return f"derived {tally.rows:,} vectors from {self.of}{assumed}, 0 texts"

    def _made(self, run: Run, old: SpaceRecord) -> SpaceRecord:
        """Locks on the source are waited for in short tries, so that nobody queues behind them."""

        def transaction() -> None:
            with run.conn.transaction():
                run.conn.execute("set local lock_timeout = '500ms'")
                self.make(run, run.conn, old.weights or old.space.weights)
                record = run.record(self.space.collection, self.space.tag)
                if record.derived is None or record.derived["of"] != self.of:
                    self._note(run, run.conn, record, done=False)
                    model_check.carry(run.conn, run.context.registry, old, record)

        retry_transient(transaction)
        return run.record(self.space.collection, self.space.tag)

    def _note(self, run: Run, conn: Connection, record: SpaceRecord, *, done: bool) -> None:
        run.context.registry.set_derived(conn, record.id, self.of, assumed_current=self.assume_current, done=done)

    def _filled(self, run: Run, record: SpaceRecord, old: SpaceRecord) -> Tally:
        context, conn = run.context, run.conn
        with sync_other_spaces(
            context.database, lambda beside, stop: context.sync(beside, record.collection, stop), record.id, run.notice
        ):
            tally = Derive(
                context.database, context.registry, context.manifest(conn, record), context.manifest(conn, old), run,
                context.config.backfill,
            ).run()  # fmt: skip
        with conn.transaction():
            self._note(run, conn, record, done=True)
            context.registry.set_state(conn, record.id, "ready", only_from="building")
        return tally


def refuse_other_geometry(new: Space, old: Space, weights: str = "") -> None:
    """Raises :class:`PlanError` where vectors of ``new`` can't be computed from those of ``old``, naming what differs. ``weights``
    are those that the database knows to have made the old ones.
    """
    if different := list(differing(new, old, weights or old.weights)):
        raise PlanError(
            f"{new.tag} can't be derived from {old.tag}: {'; '.join(different)}",
            hint="op.create_space and op.backfill embed the texts; only fewer dimensions (cut=True), storage and store can be derived",
        )


def differing(new: Space, old: Space, weights: str) -> Iterator[str]:
    """What keeps vectors of ``new`` from being computed from those of ``old``, in words."""
    if new.tag == old.tag and new.collection == old.collection:
        yield "they are one version"
    before: dict[str, Any] = asdict(old)
    for name, value in asdict(new).items():
        if name not in COMPUTED and value != before[name]:
            yield f"{name} is {value!r}, not {before[name]!r}"
    if new.weights and weights and new.weights != weights:
        yield f"weights are {new.weights[:19]}…, not {weights[:19]}…"
    if new.dimensions > old.dimensions:
        yield f"{new.dimensions} dimensions can't be made of {old.dimensions}"
    elif new.dimensions < old.dimensions and not new.cut:
        yield f"{old.dimensions} dimensions become {new.dimensions} by cut=True alone"
    elif new.dimensions == old.dimensions and new.cut != old.cut:
        yield f"cut is {new.cut}, not {old.cut}"
