"""backfill: embeds every eligible row that the space lacks. How it goes on is :mod:`embedmig.engine.backfill`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

from psycopg import sql

from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.embedders import model_check
from embedmig.embedders.encoder import Encoder
from embedmig.engine.backfill import Backfill, NoWorkers, Order, WorkerPool
from embedmig.engine.carry import Carry, donors
from embedmig.engine.context import Fence, RunContext, SpendingLimit, Spent
from embedmig.engine.follower import sync_other_spaces
from embedmig.engine.once import MOST_BYTES
from embedmig.engine.repeats import CopyRepeats
from embedmig.engine.sync import Sync
from embedmig.errors import AnswerIsNo, PlanError, RunSuperseded
from embedmig.operations.base import Context, Operation, PlannedState, Run
from embedmig.operations.estimate_recorder import EstimateRecorder, counter, estimate_of, weighable
from embedmig.operations.kept_embeddings import take_kept
from embedmig.planning.prices import BATCH_SHARE
from embedmig.planning.tokens import weigh
from embedmig.source import table as sources
from embedmig.source.sampling import about
from embedmig.stores import Manifest, carrying, repeats
from embedmig.stores.presence import require_vectors
from embedmig.types import Estimate, Space, Tally

if TYPE_CHECKING:
    from embedmig.engine.batch_api.sender import SenderLock


LOOKS_PER_SECOND = 5_000
"""Equal texts are looked for among all at 200,000 rows a second and more, and remembered at about as many; this leaves the look a few
percent of a backfill's time, whatever share of the texts repeats."""
QUICK = frozenset({"wordllama", "model2vec"})  # static embeddings: quicker than that, before anybody has measured it


@dataclass(frozen=True, slots=True)
class BackfillSpace(Operation):
    """``order``: by key, or ``hot``, what readers asked for first."""

    kind: ClassVar[str] = "backfill"
    repeats: ClassVar[bool] = True
    space: Space
    order: Order = "key"

    @property
    def transactional(self) -> bool:
        """Online: commits a batch at a time."""
        return False

    def describe(self) -> str:
        order = ", what is read first" if self.order == "hot" else ""
        return f"embed what {self.space.tag} of {self.space.collection} lacks{order}"

    def validate(self, plan: PlannedState) -> None:
        """The space must be there by then, and embedmig's own to fill."""
        planned = plan.expect(self.space.collection, self.space.tag)
        if planned.record and planned.record.adopted:
            raise PlanError("an adopted space is written by the application; embedmig doesn't backfill it")
        if planned.record:
            require_vectors(plan.conn, plan.source(self.space.collection), planned.record)
        if self.order not in ("key", "hot"):
            raise PlanError(f"backfill: order {self.order!r} is not known", hint='"key" or "hot"')
        plan.claim(self.space, adopted=False)
        planned.has_vectors = True

    def estimate(self, plan: PlannedState) -> Estimate:
        """Rows exactly; tokens by the model's tokenizer where it is here; dollars where the price is known."""
        source, planned = plan.source(self.space.collection), plan.expect(self.space.collection, self.space.tag)
        counted = sources.count_rows(plan.conn, source)
        rows, missing = counted.eligible, sql.Composed([sql.SQL("true")])
        if known := (planned.derived_from or planned).record:  # what is derived before has what the other version has
            manifest = plan.context.manifest(plan.conn, known)
            found = manifest.counts(plan.conn)
            rows, missing = found.missing - found.failed, manifest.lacking()
        weights = planned.record.weights if planned.record else self.space.weights
        if carried := donors(plan.context.spaces(plan.conn), self.space, weights):
            missing = sql.SQL("{} and not {}").format(missing, carrying.known(carried))
            rows = sources.count_rows(plan.conn, source, missing).eligible
        characters = round(counted.characters * rows / max(1, counted.eligible))
        settings = plan.context.config.settings(self.space.provider)
        space, count = weighable(self.space), counter(self.space, settings)
        return estimate_of(
            self.space, settings, rows, weigh(plan.conn, source, space, count, rows, characters, missing)
        )

    def sql(self, plan: PlannedState) -> str:
        return "not SQL: the model makes the vectors, and embedmig writes them in batches"

    def run(self, run: Run) -> str:
        """Runs the pipeline until nothing is left that this run can do."""
        record = run.record(self.space.collection, self.space.tag)
        if run.no_wait and (left := rows_left(run.context, run.conn, record)):
            raise AnswerIsNo(
                f"{left:,} rows are still to be embedded into {record.version}",
                hint=f"embedmig backfill {record.collection} does it; then run the same command again",
            )
        with EstimateRecorder(run, record) as recorder:
            heard = replace(run, report=recorder.report)
            tally = fill(run.context, run.conn, record, heard, self.order, run.pool, counted=recorder.counted)
        notes = [f"{tally.carried:,} rows carried from versions that have their texts"] if tally.carried else []
        notes += [f"{tally.rows:,} rows embedded"]
        notes += [f"{tally.failed:,} refused by the model"] if tally.failed else []
        notes += [f"{tally.truncated:,} texts cut at the model's limit"] if tally.truncated else []
        return ", ".join(notes)


def fill(
    context: Context,
    conn: Connection,
    record: SpaceRecord,
    run: RunContext,
    order: Order,
    pool: WorkerPool | None = None,
    *,
    joins: bool = False,
    spent: Spent | None = None,
    counted: Callable[[Connection, int], None] = lambda _conn, _rows: None,
) -> Tally:
    """Backfills a space; one that was being built is ready when nothing is left. The arguments are those of
    :class:`Backfill`.

    Raises :class:`ModelChanged` before anything is embedded where the model is no longer the one that it was.
    """
    if record.being_derived:
        raise AnswerIsNo(
            f"{record.version} is being derived from {record.derived and record.derived['of']}: until that is over, nothing of it is embedded",
            hint="embedmig upgrade goes on with it",
        )
    return Fill(context, conn, record, run, order, pool or NoWorkers(), joins, spent, counted).run()


@dataclass
class Fill:
    """What :func:`fill` does, with its arguments."""

    context: Context
    conn: Connection
    record: SpaceRecord
    fills: RunContext
    order: Order
    pool: WorkerPool
    joins: bool
    spent: Spent | None
    counted: Callable[[Connection, int], None]

    def __post_init__(self) -> None:
        space = self.record.space
        self.store = self.context.manifest(self.conn, self.record)
        self.encoder = self.context.encoder(space, self.record.weights, traffic="bulk")
        self.limit = self.context.limit(space)
        self.once = slower_than_a_look(self.context, self.conn, space, self.limit)
        self.checked = False

    def run(self) -> Tally:
        """Who leads begins with what is known, and ends last: it looks for rows behind the last range."""
        tally = Tally() if self.joins else self._carry()
        tally = tally.plus(self._embed())
        if not self.joins:
            tally = tally.plus(self._copy_repeats())
            self.context.registry.set_state(self.conn, self.record.id, "ready", only_from="building")
        return tally

    def _embed(self) -> Tally:
        """Batches of the API first, where they are wanted; changes go into the other spaces meanwhile."""
        from embedmig.engine.batch_api.claims import Claims
        from embedmig.engine.batch_api.sender import SenderLock

        with (
            sync_other_spaces(self.context.database, self._sync_beside, self.record.id, self.fills.notice),
            SenderLock(self.context.database, self.record.id, self.fills) as lock,
        ):
            sends = self.context.config.settings(self.record.space.provider).mode == "batch" and not self.joins
            tally = Tally() if self.joins else self._take_kept()
            if sends:
                self._check_model()
            if sends and lock.send_or_share():
                tally = tally.plus(self._by_batches(lock, sends=True))
            lock.share()
            tally = tally.plus(self._by_requests(find=self.once))
            if not self.joins and Claims(self.context.registry, self.record.id).sent(self.conn):
                self._check_model()  # batches of a time when the mode was another
                lock.send()
                tally = tally.plus(self._by_batches(lock, sends=False))
                lock.share()
                tally = tally.plus(self._by_requests(find=self.once))
        return tally

    def _carry(self) -> Tally:
        rows = about(self.conn, self.store.source.relation)
        return Carry(self.conn, self.store, self.fills).run(rows)

    def _take_kept(self) -> Tally:
        return take_kept(self.context, self.conn, self.record, self.fills, self.limit, self._check_model)

    def _copy_repeats(self) -> Tally:
        if not repeats.known(self.conn, self.store):
            return Tally()
        copied, left = CopyRepeats(self.context.database, self.store, self.fills).run()
        return copied.plus(self._by_requests(find=False)) if left else copied

    def _by_requests(self, *, find: bool) -> Tally:
        config = self.context.config
        return Backfill(
            self.context.database, self.context.registry, self.store, self.encoder, self.fills, self.limit, config.backfill,
            config.throttle, self.order, self.pool, self.joins, self.counted, self.spent, before_first=self._check_model,
            finds_repeats=find, remembers=MOST_BYTES if self.once else 0,
        ).run()  # fmt: skip

    def _by_batches(self, lock: SenderLock, *, sends: bool) -> Tally:
        guarded = replace(self.fills, guard=both(self.fills.guard, lock.require))
        return fill_by_api_batches(self.context, self.store, self.encoder, guarded, sends=sends)

    def _check_model(self) -> None:
        """Once."""
        if not self.checked:
            encoder = self.context.encoder(self.record.space, self.record.weights)
            model_check.check(self.conn, self.context.registry, self.record, encoder)
            self.checked = True

    def _sync_beside(self, beside: Connection, stop: threading.Event) -> Sync:
        return self.context.sync(beside, self.record.collection, stop)


def slower_than_a_look(context: Context, conn: Connection, space: Space, limit: SpendingLimit) -> bool:
    """Whether a text costs more to embed than to be looked for among those that are embedded: money, or more time."""
    if limit.price != 0:
        return True
    measured = context.ledger.measured(conn, context.registry.spaces_table, space.model)
    if measured is None:
        return space.provider not in QUICK
    return measured.rows < LOOKS_PER_SECOND * measured.seconds


def both(one: Callable[[], None], other: Callable[[], None]) -> Callable[[], None]:
    """Calls one after the other."""

    def call() -> None:
        one()
        other()

    return call


def fence_of_joined(context: Context, record: SpaceRecord) -> Fence:
    """For a worker that has no attempt of its own: writes while the space is there to be written, and has what it did
    counted by the attempt that it helps.
    """

    def fence(conn: Connection, did: Tally) -> None:
        if not context.registry.is_live(conn, record.id):
            raise RunSuperseded(
                f"{record.version} was retired meanwhile, so this worker stopped", hint="embedmig status"
            )
        context.ledger.credit(conn, record.revision, did)

    return fence


def fill_by_api_batches(
    context: Context, store: Manifest, encoder: Encoder, run: RunContext, *, sends: bool = True
) -> Tally:
    """All that API batches can carry, at half the price; what is left is embedded by requests. Without ``sends``, those
    that are out.
    """
    from embedmig.embedders.openai import OpenAIEmbedder
    from embedmig.embedders.openai_batch import BatchClient
    from embedmig.engine.batch_api import ApiBatches

    assert isinstance(encoder.embedder, OpenAIEmbedder)
    client = BatchClient(encoder.embedder, context.config.settings(store.space.provider).give_up_after, run.stop)
    limit = context.limit(store.space, BATCH_SHARE)
    return ApiBatches(context.database, context.registry, store, encoder, client, run, limit, sends).run()


def rows_left(context: Context, conn: Connection, record: SpaceRecord) -> int:
    counts = context.manifest(conn, record).counts(conn)
    return counts.missing - counts.failed
