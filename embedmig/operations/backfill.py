"""backfill: embeds every eligible row that the space lacks. How it goes on is :mod:`embedmig.engine.backfill`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, ClassVar

from psycopg import sql

from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.embedders import model_check
from embedmig.embedders.encoder import Encoder
from embedmig.engine.backfill import Backfill, NoWorkers, Order, WorkerPool
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
from embedmig.stores import Manifest
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
        notes = [f"{tally.rows:,} rows embedded"]
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
    from embedmig.engine.batch_api.claims import Claims
    from embedmig.engine.batch_api.sender import SenderLock

    if record.being_derived:
        raise AnswerIsNo(
            f"{record.version} is being derived from {record.derived and record.derived['of']}: until that is over, nothing of it is embedded",
            hint="embedmig upgrade goes on with it",
        )
    store = context.manifest(conn, record)
    encoder = context.encoder(record.space, record.weights, traffic="bulk")
    config, limit = context.config, context.limit(record.space)
    once = slower_than_a_look(context, conn, record.space, limit)

    @cache
    def check_model() -> None:
        model_check.check(conn, context.registry, record, context.encoder(record.space, record.weights))

    def by_requests(*, find: bool = once) -> Tally:
        return Backfill(
            context.database, context.registry, store, encoder, run, limit, config.backfill, config.throttle, order,
            pool or NoWorkers(), joins, counted, spent, before_first=check_model,
            finds_repeats=find, remembers=MOST_BYTES if once else 0,
        ).run()  # fmt: skip

    def sync_beside(beside: Connection, stop: threading.Event) -> Sync:
        return context.sync(beside, record.collection, stop)

    def by_batches(lock: SenderLock, *, sends: bool) -> Tally:
        guarded = replace(run, guard=both(run.guard, lock.require))
        return fill_by_api_batches(context, store, encoder, guarded, sends=sends)

    with (
        sync_other_spaces(context.database, sync_beside, record.id, run.notice),
        SenderLock(context.database, record.id, run) as lock,
    ):
        sends = config.settings(record.space.provider).mode == "batch" and not joins
        tally = Tally() if joins else take_kept(context, conn, record, run, limit, check_model)
        if sends:
            check_model()
        if sends and lock.send_or_share():
            tally = tally.plus(by_batches(lock, sends=True))
        lock.share()
        tally = tally.plus(by_requests())
        if not joins and Claims(context.registry, record.id).sent(conn):  # of a time when the mode was another
            check_model()
            lock.send()
            tally = tally.plus(by_batches(lock, sends=False))
            lock.share()
            tally = tally.plus(by_requests())
    if not joins:  # who leads ends last: it looks for rows behind the last range
        copied, left = CopyRepeats(context.database, store, run).run()
        tally = tally.plus(copied).plus(by_requests(find=False) if left else Tally())
        context.registry.set_state(conn, record.id, "ready", only_from="building")
    return tally


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
