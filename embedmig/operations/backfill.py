"""backfill: embeds every eligible row that the space lacks. The pipeline itself is :mod:`embedmig.engine.backfill`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from psycopg import sql

from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.embedders import model_check
from embedmig.embedders.encoder import Encoder
from embedmig.embedders.prices import BATCH_SHARE
from embedmig.embedders.prices import price as price_of
from embedmig.engine.backfill import Backfill, NoWorkers, Order, WorkerPool
from embedmig.engine.follower import others_kept_fresh
from embedmig.errors import AnswerIsNo, PlanError, RunSuperseded
from embedmig.events import Event, Notice
from embedmig.operations.base import Context, Operation, PlannedState, Run
from embedmig.operations.estimate_recorder import EstimateRecorder, counter, estimate_of, weighable
from embedmig.planning.tokens import weigh
from embedmig.source import DOC_HASH
from embedmig.source import table as sources
from embedmig.stores.pgvector.table import PgvectorStore
from embedmig.types import Estimate, Space, Tally


@dataclass(frozen=True, slots=True)
class BackfillSpace(Operation):
    """See the module."""

    kind: ClassVar[str] = "backfill"
    repeats: ClassVar[bool] = True
    space: Space
    order: Order = "key"

    @property
    def transactional(self) -> bool:
        """Online: commits a batch at a time."""
        return False

    def describe(self) -> str:
        """One line."""
        order = ", what is read first" if self.order == "hot" else ""
        return f"embed what {self.space.tag} of {self.space.collection} lacks{order}"

    def validate(self, plan: PlannedState) -> None:
        """The space must be there by then, and embedmig's own to fill."""
        planned = plan.expect(self.space.collection, self.space.tag)
        if planned.record and planned.record.adopted:
            raise PlanError("an adopted space is written by the application; embedmig doesn't backfill it")
        if self.order not in ("key", "hot"):
            raise PlanError(f"backfill: order {self.order!r} is not known", hint='"key" or "hot"')
        plan.claim(self.space, adopted=False)
        planned.has_vectors = True

    def estimate(self, plan: PlannedState) -> Estimate:
        """Rows exactly; tokens by the model's tokenizer where it is here; dollars where the price is known."""
        source, planned = plan.source(self.space.collection), plan.expect(self.space.collection, self.space.tag)
        counted = sources.count_rows(plan.conn, source)
        rows, missing = counted.eligible, sql.Composed([sql.SQL("true")])
        if planned.record:
            store = plan.context.store(plan.conn, planned.record)
            assert isinstance(store, PgvectorStore)
            found = store.counts(plan.conn, plan.context.registry)
            rows = found.missing - found.failed
            missing = sql.SQL("not {} and not {}").format(store.present(DOC_HASH), store.refused(plan.context.registry))
        characters = round(counted.characters * rows / max(1, counted.eligible))
        settings = plan.context.config.settings(self.space.provider)
        space, count = weighable(self.space), counter(self.space, settings)
        return estimate_of(
            self.space, settings, rows, weigh(plan.conn, source, space, count, rows, characters, missing)
        )

    def sql(self, plan: PlannedState) -> str:
        """Vectors come from a model."""
        return "not SQL: the model makes the vectors, and embedmig writes them in batches"

    def run(self, run: Run) -> str:
        """Runs the pipeline until nothing is left that this run can do."""
        record = run.record(self.space.collection, self.space.tag)
        if run.no_wait and (left := rows_left(run.context, run.conn, record)):
            raise AnswerIsNo(
                f"{left:,} rows are still to be embedded into {record.version}",
                hint=f"embedmig backfill {record.collection} does it; then run the same command again",
            )
        ledger, attempt = run.context.ledger, run.attempt

        def fence(conn: Connection, rows: int, tokens: int, cost: float | None) -> None:
            ledger.fence(conn, attempt, rows=rows, tokens=tokens, cost=cost)

        with EstimateRecorder(run, record) as recorder:
            orders = FillOrders(
                recorder.report, run.stop, run.guard, fence, self.order, run.pool, False, recorder.counted
            )
            tally = fill(run.context, run.conn, record, orders)
        notes = [f"{tally.rows:,} rows embedded"]
        notes += [f"{tally.failed:,} refused by the model"] if tally.failed else []
        notes += [f"{tally.truncated:,} texts cut at the model's limit"] if tally.truncated else []
        return ", ".join(notes)


@dataclass(frozen=True, slots=True)
class FillOrders:
    """On whose behalf a space is filled: who hears of it, who may stop it, what each commit must find true, and who is
    told how many rows there are to do. ``pool`` and ``joins`` are those of :class:`Backfill`.
    """

    report: Callable[[Event], None]
    stop: threading.Event
    guard: Callable[[], None]
    fence: Callable[[Connection, int, int, float | None], None]
    order: Order = "key"
    pool: WorkerPool = field(default_factory=NoWorkers)
    joins: bool = False
    counted: Callable[[Connection, int], None] = lambda _conn, _rows: None


def fill(context: Context, conn: Connection, record: SpaceRecord, orders: FillOrders) -> Tally:
    """Runs the pipeline into a space; one that was being built is ready when nothing is left.

    Raises :class:`ModelChanged` before anything is embedded where the model is no longer the one that it was.
    """
    from embedmig.engine.batch_api.claims import Claims

    store = context.store(conn, record)
    assert isinstance(store, PgvectorStore)
    model_check.check(conn, context.registry, record, context.encoder(record.space, record.weights))
    settings = context.config.settings(record.space.provider)
    price, encoder = price_of(record.space, settings), context.encoder(record.space, record.weights, traffic="bulk")

    def by_requests() -> Tally:
        return Backfill(
            context.database, context.registry, store, encoder, orders.report, orders.stop, orders.guard, orders.fence,
            price, settings.max_cost, context.config.throttle, orders.order, context.config.backfill, orders.pool,
            orders.joins, orders.counted,
        ).run()  # fmt: skip

    with others_kept_fresh(
        context.database,
        lambda beside, done: context.sync(beside, record.collection, done),
        record.id,
        lambda text: orders.report(Notice(text)),
    ):
        batches = settings.mode == "batch" and not orders.joins
        tally = fill_by_batches(context, store, encoder, orders) if batches else Tally()
        tally = tally.plus(by_requests())
        if not orders.joins and Claims(context.registry, record.id).sent(conn):  # of a time when the mode was another
            tally = tally.plus(fill_by_batches(context, store, encoder, orders, sends=False)).plus(by_requests())
    if record.state == "building":
        context.registry.set_state(conn, record.id, "ready")
    return tally


def fence_of_joined(context: Context, record: SpaceRecord) -> Callable[[Connection, int, int, float | None], None]:
    """For a worker that has no attempt of its own: writes while the space is there to be written, and has what it did
    counted by the attempt that it helps.
    """

    def fence(conn: Connection, rows: int, tokens: int, cost: float | None) -> None:
        if not context.registry.is_live(conn, record.id):
            raise RunSuperseded(
                f"{record.version} was retired meanwhile, so this worker stopped", hint="embedmig status"
            )
        context.ledger.credit(conn, record.revision, rows, tokens, cost)

    return fence


def fill_by_batches(
    context: Context, store: PgvectorStore, encoder: Encoder, orders: FillOrders, *, sends: bool = True
) -> Tally:
    """All that batches can carry, at half the price; what is left, requests take. Without ``sends``, what is out."""
    from embedmig.embedders.openai import OpenAIEmbedder
    from embedmig.embedders.openai_batch import BatchClient
    from embedmig.engine.batch_api import Batches

    assert isinstance(encoder.embedder, OpenAIEmbedder)
    settings = context.config.settings(store.space.provider)
    price = price_of(store.space, settings)
    return Batches(
        context.database, context.registry, store, encoder,
        BatchClient(encoder.embedder, settings.give_up_after, orders.stop), orders.report, orders.stop, orders.guard,
        orders.fence, None if price is None else price * BATCH_SHARE, settings.max_cost, sends,
    ).run()  # fmt: skip


def rows_left(context: Context, conn: Connection, record: SpaceRecord) -> int:
    """Rows that a backfill would still embed."""
    counts = context.store(conn, record).counts(conn, context.registry)
    return counts.missing - counts.failed
