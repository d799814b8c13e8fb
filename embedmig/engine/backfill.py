"""The rows that a space lacks, and the changes that it has not taken in: what has changed goes before what is old.

The work is cut into key ranges, which any number of workers claim, on one machine or on many: one worker alone does
the same. What is left is always asked of the data; a range's position says where to begin.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import Literal

from embedmig.config import ThrottleSettings
from embedmig.config.settings import BackfillSettings
from embedmig.database import Connection, Database, translated
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder
from embedmig.engine.context import RunContext, SpendingLimit, Spent
from embedmig.engine.outbox import TAKE, Changes, Claim
from embedmig.engine.pipeline import Pipeline, Request, requests_of
from embedmig.engine.ranges import KeyRange, RangeLost, Ranges, Reached
from embedmig.engine.throttle import Throttle
from embedmig.errors import DatabaseFailed, EmbedmigError, Interrupted
from embedmig.source.rows import Key, Row
from embedmig.stores import Manifest, repeats
from embedmig.types import Progress, Tally

PAGE_BYTES = 4_000_000  # of text held by one page; pages shrink where documents are long
PAGE_ROWS = (64, 4096)
REMEMBERED = 50_000  # rows that were embedded ahead of the row copy
CLAIM_ROWS = 500  # changes looked at together: most of a long queue may need no embedding
LIVE_SECONDS = 1.0  # how often the row copy looks for changes to let through first, and for how long it does
LOOK_SECONDS = 1.0  # how often a worker looks at what the others have done
POLL_SECONDS = 0.25  # how often one that has nothing to do looks whether a range has become free

Order = Literal["key", "hot"]


class WorkerPool:
    """Workers that one leads: started with the ranges cut, told to end when it ends. What a pool leaves out is as if
    there were no workers.
    """

    def start(self, record: SpaceRecord, order: Order, spent: Spent) -> None:
        """Has them claim ranges of the space."""

    def news(self) -> list[str]:
        """What has become of them since this was asked last: who has died or given up, and why."""
        return []

    def does_all(self) -> bool:
        """Whether the leader leaves the embedding to them: they were told so, and some are at work."""
        return False

    def failure(self) -> EmbedmigError | None:
        """What to end with, when those who were to do it all have ended with rows left."""
        return None

    def end(self) -> None:
        """Has them finish what they have in hand, and waits for them."""


class NoWorkers(WorkerPool):
    """The pool of a run that works alone."""


@dataclass
class Backfill:
    """One worker's run into one space.

    It stays until every range is finished, whoever has it, and takes over those of workers that die or hang. Who
    ``joins`` cuts no ranges. ``pool`` are workers beside it. ``counted`` is told how many rows there are to do, on the
    side. ``before_first`` is called before the first text goes to the model, if any does.
    ``finds_repeats``: of rows with equal texts one is embedded, see :mod:`embedmig.engine.repeats`. ``remembers`` is that of
    :class:`Pipeline`.
    """

    database: Database
    registry: Registry
    store: Manifest
    encoder: Encoder
    context: RunContext
    limit: SpendingLimit
    settings: BackfillSettings
    throttle: ThrottleSettings
    order: Order = "key"
    pool: WorkerPool = field(default_factory=NoWorkers)
    joins: bool = False
    counted: Callable[[Connection, int], None] = lambda _conn, _rows: None
    spent: Spent | None = None
    before_first: Callable[[], None] = lambda: None
    finds_repeats: bool = False
    remembers: int = 0
    clock: Callable[[], float] = time.monotonic
    _total: int | None = field(default=None, init=False)
    _looked: float = field(default=float("-inf"), init=False)
    _page_rows: int = field(default=PAGE_ROWS[0], init=False)
    _embedded: dict[tuple[Key, bytes], None] = field(default_factory=dict, init=False)

    def run(self) -> Tally:
        """Embeds until nothing is left that this run can do; returns what it and its pool did.

        Raises :class:`Interrupted` when stopped, and what the embedder or the database raised; in every case all
        that came back from the model has been written first, where the database still takes it.
        """
        with (
            translated("filling a space"),
            self.database.connect("backfill reader") as self._reading,
            self.database.connect("backfill writer") as self._writing,
            ExitStack() as connections,
        ):
            self.store.prepare_writer(self._writing)
            self._writers = self._several(connections)
            self._ranges = Ranges(self.registry, self.store, self.settings)
            if not self.joins:
                self._find_repeats()
                self._ranges.begin(self._reading)
                Changes(self.registry, self.store).make_due(self._reading)
            self._before = self.spent.before if self.spent else self._ranges.total(self._reading)[0]
            self.limit.settle(0.0, self.spent.cost if self.spent else 0.0)
            with self._counting(), self._led():
                wait_for(self._embed_everything())
                self._look()
            with self._writing.transaction():
                self.context.fence(self._writing, Tally())
        return self._tally

    def _several(self, connections: ExitStack) -> list[Connection]:
        """Where each vector goes into an index as it is written: connections that write at the same time."""
        if not self.store.indexes_on_write(self._reading):
            return []
        writers = [
            connections.enter_context(self.database.connect("backfill writer")) for _ in range(self.settings.writers)
        ]
        for conn in writers:
            self.store.prepare_writer(conn)
        return writers

    def _find_repeats(self) -> None:
        """Before work is cut; of work that was cut before, they are known."""
        if self._ranges.left(self._reading).unfinished:
            return
        if self.finds_repeats:
            repeats.find(self._reading, self.store)
        else:
            repeats.forget(self._reading, self.store)

    @property
    def _tally(self) -> Tally:
        """What this worker did, and the others since it began."""
        return self._pipeline.tally.plus(self._pipeline.elsewhere)

    @contextmanager
    def _led(self) -> Iterator[None]:
        """While this lasts, the pool is at work."""
        spent = Spent(self._before, self.limit.spent)
        self.pool.start(self.store.record, self.order, spent)
        try:
            yield
        finally:
            self.pool.end()

    async def _embed_everything(self) -> None:
        self._began = self.clock()
        self._throttle = Throttle(self.registry, self.store.record.collection, self.context, self.throttle)
        self._pipeline = Pipeline(
            self.registry,
            self.store,
            self.encoder,
            self._writing,
            self.context,
            self.limit,
            self._ranges,
            self._report,
            self._look,
            remembers=self.remembers,
            writers=self._writers,
        )
        try:
            over = False
            while not over:
                if not self.pool.does_all():
                    await self._pipeline.run(self._checked())
                if self.context.stop.is_set():
                    raise Interrupted(
                        f"stopped after {self._tally.rows:,} rows; every one of them is kept",
                        hint="run the same command again: it goes on here",
                    )
                over = await self._over()
        finally:
            await self.encoder.embedder.aclose()

    async def _over(self) -> bool:
        """Whether nothing is left for this worker; waits a moment where something may yet be.

        When all ranges are finished, rows that came behind the last one make another: without triggers nobody else
        would see them.
        """
        left = await asyncio.to_thread(self._ranges.left, self._reading)
        if not left.unfinished:
            return self.joins or not await asyncio.to_thread(self._ranges.extend, self._reading)
        self.context.guard()
        await asyncio.to_thread(self._report)
        if error := self.pool.failure():
            raise error
        if left.free and not self.pool.does_all():
            return False
        await asyncio.sleep(POLL_SECONDS)
        return False

    # --- what is read

    async def _checked(self) -> AsyncIterator[Request]:
        """The requests; the model is looked at before the first that has texts."""
        async for request in self._requests():
            if request.rows:
                await asyncio.to_thread(self.before_first)
            yield request

    async def _requests(self) -> AsyncIterator[Request]:
        """One range after another; before each, and every second, what has changed."""
        self._live_looked = float("-inf")
        held: KeyRange | None = None
        while not self._pipeline.halting():
            async for live in self._live():
                yield live
            held = await asyncio.to_thread(self._ranges.claim, self._reading)
            if held is None:
                return
            async for request in self._range(held):
                yield request

    async def _range(self, held: KeyRange) -> AsyncIterator[Request]:
        """Pages from the source in key order, as requests, and at last the end of the range.

        The upper key is fixed, so that writers who never stop can't keep it from ending: what they write is captured.
        """
        after, number, renewed = held.after, 0, self.clock()
        while True:
            limit = self._page_rows
            page = await asyncio.to_thread(self.store.missing_page, self._reading, after, held.upto, limit)
            for request in requests_of(page, self.store, self._pipeline.request_size):
                if self.clock() - self._live_looked >= LIVE_SECONDS:
                    async for live in self._live():
                        yield live
                await self._throttle.wait(self._reading, len(request.rows))
                if self.clock() - renewed >= self.settings.lease / 4:
                    renewed = self.clock()
                    await asyncio.to_thread(self._renew, held)
                if self._pipeline.halting() or held.over:
                    return
                for rest in self._without_embedded(request):
                    yield replace(rest, range=held, number=number)
                    number += 1
            if page:
                self._page_rows = page_size(page)
            if len(page) < limit:
                break
            after = page[-1].key
        yield Request((), (), (), [], range=held, number=number)

    def _renew(self, held: KeyRange) -> None:
        """While an operator or a slow model holds the work back, and nothing is committed. Not by a clock of its own:
        who hangs must lose the range.
        """
        with suppress(RangeLost), self._reading.transaction():
            self._ranges.save(self._reading, held, Reached(None, False), Tally())
            return
        held.over = True

    async def _live(self) -> AsyncIterator[Request]:
        """What goes before the row copy: changes, and then, where the order is hot, what readers found."""
        changes, until = Changes(self.registry, self.store), self.clock() + LIVE_SECONDS
        async for request in live_requests(
            self._reading, changes, self._pipeline.request_size, lambda: self.clock() < until
        ):
            self._remember(request)
            yield request
        while self.order == "hot" and await asyncio.to_thread(changes.has_hot, self._reading):
            claims = await asyncio.to_thread(changes.claim_hot, self._reading, self._pipeline.request_size())
            async for request in requests_for(self._reading, changes, claims, self._pipeline.request_size):
                self._remember(request)
                yield request
        self._live_looked = self.clock()

    def _remember(self, request: Request) -> None:
        """Rows that went first, so that the row copy doesn't pay for them again. Bounded: it saves, no more."""
        self._embedded.update(dict.fromkeys((row.key, row.content_hash) for row in request.rows))
        while len(self._embedded) > REMEMBERED:
            del self._embedded[next(iter(self._embedded))]

    def _without_embedded(self, request: Request) -> Iterable[Request]:
        """The request, or what is left of it, without rows that went first as they are."""
        if not self._embedded:
            return [request]
        rows = [row for row in request.rows if (row.key, row.content_hash) not in self._embedded]
        return (
            [request] if len(rows) == len(request.rows) else requests_of(rows, self.store, self._pipeline.request_size)
        )

    # --- the rest

    @contextmanager
    def _counting(self) -> Iterator[None]:
        """The denominator, counted once as of the start and on the side: embedding doesn't wait for it, nor its end."""
        if self.joins:
            yield
            return
        with self.database.connect("backfill count") as conn:
            counter = threading.Thread(target=self._count_total, args=(conn,), daemon=True)
            counter.start()
            try:
                yield
            finally:
                counter.join(1.0)  # its figure is kept beside the truth; but nobody waits for a long count
                while counter.is_alive():
                    conn.cancel()
                    counter.join(0.05)

    def _count_total(self, conn: Connection) -> None:
        with suppress(DatabaseFailed), translated("counting"):  # cancelled, or lost with the others, which say so
            counts = self.store.counts(conn)
            self._total = counts.missing - counts.failed
            self.counted(conn, self._total)

    def _look(self) -> None:
        """What the other workers did since this one began, and what has become of the pool."""
        whole, workers = self._ranges.total(self._writing)
        others = whole.plus(self._before, -1).plus(self._pipeline.copied, -1)
        if others.rows >= 0:  # else the next run has cut them anew already
            self._pipeline.elsewhere = others
            self.limit.note_elsewhere(self.store.record.id, others.cost or 0.0)
        self._pipeline.workers = self._throttle.workers = max(1, workers)
        for news in (*self.pool.news(), *self.encoder.news()):
            self.context.notice(news)

    def _report(self) -> None:
        if self.clock() - self._looked >= LOOK_SECONDS:
            self._looked = self.clock()
            self._look()
        tally, active = self._tally, self.clock() - self._began - self._throttle.held_seconds
        pace = self.encoder.pace
        self.context.report(
            Progress(
                "embedding", tally.rows, self._total, "rows", tally.tokens, tally.cost, active, tally.failed,
                held_by=self._throttle.speed or (pace.reason if pace else ""),
                working_seconds=self._pipeline.busy_seconds, throttled_seconds=self._throttle.throttled_seconds,
            )
        )  # fmt: skip


async def live_requests(
    conn: Connection, changes: Changes, size: Callable[[], int], more: Callable[[], bool] = lambda: True
) -> AsyncIterator[Request]:
    """The changes that wait for a space now, as requests; rows that are gone are removed on the way.

    No more than waited when it began: writers who never stop must not keep the row copy, or the caller, for ever.
    ``more`` is asked before each page of them.
    """
    while await asyncio.to_thread(changes.distribute, conn) >= TAKE:
        pass
    left = (await asyncio.to_thread(changes.waiting, conn)).count
    while (
        left > 0
        and more()
        and (claims := await asyncio.to_thread(changes.claim, conn, min(max(size(), CLAIM_ROWS), left)))
    ):
        left -= len(claims)
        async for request in requests_for(conn, changes, claims, size):
            yield request


async def requests_for(
    conn: Connection, changes: Changes, claims: Sequence[Claim], size: Callable[[], int]
) -> AsyncIterator[Request]:
    """What of claimed changes has to be embedded, as requests that settle them."""
    wanted = await asyncio.to_thread(changes.settle_unneeded, conn, claims)
    claim_of = {row.key: claim for claim, row in wanted}
    for request in requests_of([row for _, row in wanted], changes.store, size):
        yield replace(request, claims=tuple(claim_of[row.key] for row in request.rows))


def page_size(page: Sequence[Row]) -> int:
    """How many rows to read next, so that a page holds about ``PAGE_BYTES`` of text."""
    average = max(1, sum(len(row.text) for row in page) // max(1, len(page)))
    return max(PAGE_ROWS[0], min(PAGE_ROWS[1], PAGE_BYTES // average))
