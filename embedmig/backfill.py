"""The rows that a space lacks, and the changes that it has not taken in: what has changed goes before what is old.

What is left is always asked of the data; the saved position is a hint where to begin.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from embedmig.brake import Brake
from embedmig.changes import TAKE, Changes
from embedmig.config import Throttle
from embedmig.db import Connection, Database, translated
from embedmig.embedders.encoder import Encoder
from embedmig.errors import Interrupted
from embedmig.events import Event, Notice
from embedmig.pipeline import Pipeline, Tally, Work, cut
from embedmig.registry import Registry
from embedmig.stores import Key, Row
from embedmig.stores.pgvector import PgvectorStore
from embedmig.types import Progress

PAGE_BYTES = 4_000_000  # of text held by one page; pages shrink where documents are long
PAGE_ROWS = (64, 4096)
MAX_SWEEPS = 5
REMEMBERED = 50_000
CLAIM_ROWS = 500  # changes looked at together: most of a long queue may need no embedding
LIVE_SECONDS = 1.0  # how often the row copy looks for changes to let through first


@dataclass
class Backfill:
    """One run into one space.

    ``stop`` ends it after the batches in hand; ``guard`` raises when the run lock is lost; ``price`` and ``max_cost``
    are those of :class:`Pipeline`, as is ``fence``. ``counted`` is told how many rows there are to do, on the side.
    """

    database: Database
    registry: Registry
    store: PgvectorStore
    encoder: Encoder
    report: Callable[[Event], None]
    stop: threading.Event
    guard: Callable[[], None]
    fence: Callable[[Connection, int, int, float | None], None]
    price: float | None = None
    max_cost: float | None = None
    throttle: Throttle = field(default_factory=Throttle)
    order: Literal["key", "hot"] = "key"
    counted: Callable[[Connection, int], None] = lambda _conn, _rows: None
    clock: Callable[[], float] = time.monotonic
    _total: int | None = field(default=None, init=False)
    _given: dict[tuple[Key, bytes], None] = field(default_factory=dict, init=False)

    def run(self) -> Tally:
        """Embeds until nothing is left that this run can do.

        Raises :class:`Interrupted` when stopped, and what the embedder or the database raised; in every case all
        that came back from the model has been written first, where the database still takes it.
        """
        counter = threading.Thread(target=self._count_total, daemon=True)
        counter.start()
        with (
            translated("filling a space"),
            self.database.connect("backfill reader") as self._reading,
            self.database.connect("backfill writer") as writing,
        ):
            self.store.prepare_writer(writing)
            asyncio.run(self._embed_everything(writing))
            with writing.transaction():
                self.fence(writing, 0, 0, None)
                self.registry.save_position(writing, self.store.record.id, ())
        counter.join()
        return self._pipeline.tally

    async def _embed_everything(self, writing: Connection) -> None:
        self._began = self.clock()
        self._brake = Brake(
            self.registry,
            self.store.record.collection,
            self.stop,
            lambda text: self.report(Notice(text)),
            self.throttle,
        )
        self._pipeline = Pipeline(
            self.registry, self.store, self.encoder, writing, self.stop, self.guard, self.fence, self._report,
            self.price, self.max_cost,
        )  # fmt: skip
        try:
            await self._sweeps()
        finally:
            await self.encoder.embedder.aclose()

    # --- what is read

    async def _sweeps(self) -> None:
        """From where the last run stopped to the end; then what that left out.

        The upper key is fixed at the start of each sweep, so that writers who never stop can't keep it from ending:
        what they write is captured.
        """
        resumed: Key | None = tuple(self.store.record.resume_after or ()) or None
        after, upto = resumed, self.store.last_key(self._reading)
        for sweep in range(MAX_SWEEPS):
            changed = self._pipeline.tally.changed
            await self._pipeline.run(self._batches(after, upto))
            if self.stop.is_set():
                raise Interrupted(
                    f"stopped after {self._pipeline.tally.rows:,} rows; every one of them is kept",
                    hint="run the same command again: it goes on here",
                )
            incomplete = (sweep == 0 and resumed is not None) or self._pipeline.tally.changed > changed
            after, upto = None if incomplete else upto, self.store.last_key(self._reading)
            if after == upto:
                return

    async def _batches(self, after: Key | None, upto: Key | None) -> AsyncIterator[Work]:
        """Pages from the source in key order, cut into batches; between them, every second, what has changed."""
        size, limit = self.encoder.limits.batch_size, PAGE_ROWS[0]
        number, looked = self._pipeline.next_number, float("-inf")
        while not self._pipeline.halting():
            page = await asyncio.to_thread(self.store.missing_page, self._reading, self.registry, after, upto, limit)
            for work in cut(page, self.store, size):
                if self.clock() - looked >= LIVE_SECONDS:
                    async for first in self._first(size):
                        yield first
                    looked = self.clock()
                await self._brake.wait(self._reading, len(work.rows))
                if self._pipeline.halting():
                    return
                for rest in self._without_given(work, size):
                    yield replace(rest, number=number)
                    number += 1
            if len(page) < limit:
                break
            after, limit = page[-1].key, page_size(page)
        async for first in self._first(size):
            yield first

    async def _first(self, size: int) -> AsyncIterator[Work]:
        """What goes before the row copy: changes, and then, where the order is hot, what readers found."""
        changes = Changes(self.registry, self.store)
        async for live in live_work(self._reading, changes, size):
            self._note_given(live)
            yield live
        while self.order == "hot" and (rows := await asyncio.to_thread(changes.take_hot, self._reading, size)):
            for work in cut(rows, self.store, size):
                self._note_given(work)
                yield work

    def _note_given(self, work: Work) -> None:
        """Remembers rows that went first, so that the row copy doesn't pay for them again. Bounded: it saves, no more."""
        self._given.update(dict.fromkeys((row.key, row.content_hash) for row in work.rows))
        while len(self._given) > REMEMBERED:
            del self._given[next(iter(self._given))]

    def _without_given(self, work: Work, size: int) -> list[Work]:
        """The batch, or what is left of it, without rows that went first as they are."""
        rows = [row for row in work.rows if (row.key, row.content_hash) not in self._given]
        return [work] if len(rows) == len(work.rows) else cut(rows, self.store, size)

    # --- the rest

    def _count_total(self) -> None:
        """The denominator, counted once as of the start and on the side: embedding doesn't wait for it."""
        with self.database.connect("backfill count") as conn:
            counts = self.store.counts(conn, self.registry)
            self._total = counts.missing - counts.failed
            self.counted(conn, self._total)

    def _report(self) -> None:
        tally, active = self._pipeline.tally, self.clock() - self._began - self._brake.held_seconds
        pace = self.encoder.pace
        self.report(
            Progress(
                "embedding", tally.rows, self._total, "rows", tally.tokens, tally.cost, active, tally.failed,
                held_by=pace.reason if pace else "",
            )
        )  # fmt: skip


async def live_work(conn: Connection, changes: Changes, size: int) -> AsyncIterator[Work]:
    """The changes that wait for a space now, as batches; rows that are gone are removed on the way.

    No more than waited when it began: writers who never stop must not keep the row copy, or the caller, for ever.
    """
    while await asyncio.to_thread(changes.distribute, conn) >= TAKE:
        pass
    left = (await asyncio.to_thread(changes.waiting, conn)).count
    while left > 0 and (claims := await asyncio.to_thread(changes.claim, conn, min(max(size, CLAIM_ROWS), left))):
        left -= len(claims)
        wanted = await asyncio.to_thread(changes.sort_out, conn, claims)
        claim_of = {row.key: claim for claim, row in wanted}
        for work in cut([row for _, row in wanted], changes.store, size):
            yield replace(work, claims=tuple(claim_of[row.key] for row in work.rows))


def page_size(page: Sequence[Row]) -> int:
    """How many rows to read next, so that a page holds about ``PAGE_BYTES`` of text."""
    average = max(1, sum(len(row.text) for row in page) // max(1, len(page)))
    return max(PAGE_ROWS[0], min(PAGE_ROWS[1], PAGE_BYTES // average))
