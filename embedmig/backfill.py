"""reader → embedder → writer: the rows that a space lacks, read, embedded and written at the same time.

The queues between the three are bounded, so that memory stays flat. Every batch is one transaction: vectors,
position and heartbeat together. What is left is always asked of the data; the position is a hint where to begin.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from embedmig.chunking import pieces_of
from embedmig.db import Database, retry_transient, translated
from embedmig.embedders.encoder import Encoder
from embedmig.errors import AnswerIsNo, EmbedmigError, Interrupted
from embedmig.ledger import Ledger
from embedmig.registry import Registry
from embedmig.stores import Batch, Key, Piece, Row
from embedmig.stores.pgvector import PgvectorStore
from embedmig.types import Progress

PAGE_BYTES = 4_000_000  # of text held by one page; pages shrink where documents are long
PAGE_ROWS = (64, 4096)
COMMIT_ROWS = 2048  # finished batches are written together up to this many vectors
MAX_SWEEPS = 5


@dataclass(frozen=True, slots=True)
class Work:
    """A batch on its way to the model: whole rows, cut into pieces, the texts in step with the pieces."""

    number: int
    rows: tuple[Row, ...]
    owners: tuple[Row, ...]
    pieces: tuple[Piece, ...]
    texts: list[str]


@dataclass(frozen=True, slots=True)
class Embedded:
    """A batch that came back: what is to be written, and what it cost."""

    work: Work
    batch: Batch
    tokens: int
    truncated: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What a backfill did."""

    rows: int = 0
    tokens: int = 0
    cost: float | None = None
    failed: int = 0
    truncated: int = 0
    changed: int = 0  # read, but edited or deleted before they were written: not taken, read again
    seconds: float = 0.0


@dataclass
class Backfill:
    """One run of the pipeline into one space.

    ``stop`` ends it after the batches in hand; ``guard`` raises when the run lock is lost; ``price`` is in USD per
    million tokens, None where it is unknown; the run stops before ``max_cost`` is passed.
    """

    database: Database
    registry: Registry
    ledger: Ledger
    attempt: int
    store: PgvectorStore
    encoder: Encoder
    report: Callable[[Progress], None]
    stop: threading.Event
    guard: Callable[[], None]
    price: float | None = None
    max_cost: float | None = None
    clock: Callable[[], float] = time.monotonic
    tally: Tally = field(default_factory=Tally, init=False)
    _total: int | None = field(default=None, init=False)
    _failure: BaseException | None = field(default=None, init=False)
    _committed: set[int] = field(default_factory=set, init=False)
    _contiguous: int = field(default=0, init=False)

    def run(self) -> Tally:
        """Embeds until nothing is left that this run can do.

        Raises :class:`Interrupted` when stopped, and what the embedder or the database raised; in every case all
        that came back from the model has been written first, where the database still takes it.
        """
        self._began = self.clock()
        counter = threading.Thread(target=self._count_total, daemon=True)
        counter.start()
        with (
            translated("filling a space"),
            self.database.connect("backfill reader") as self._reading,
            self.database.connect("backfill writer") as self._writing,
        ):
            self.store.prepare_writer(self._writing)
            asyncio.run(self._embed_everything())
            with self._writing.transaction():
                self.ledger.fence(self._writing, self.attempt)
                self.registry.save_position(self._writing, self.store.record.id, ())
        counter.join()
        return self.tally

    # --- what is read

    async def _embed_everything(self) -> None:
        try:
            await self._sweeps()
        finally:
            await self.encoder.embedder.aclose()

    async def _sweeps(self) -> None:
        """From where the last run stopped to the end; then what that left out.

        The upper key is fixed at the start of each sweep, so that writers who never stop can't keep it from ending.
        """
        resumed: Key | None = tuple(self.store.record.resume_after or ()) or None
        after, upto = resumed, self.store.last_key(self._reading)
        for sweep in range(MAX_SWEEPS):
            changed = self.tally.changed
            await self._pipeline(after, upto)
            incomplete = (sweep == 0 and resumed is not None) or self.tally.changed > changed
            after, upto = None if incomplete else upto, self.store.last_key(self._reading)
            if after == upto:
                return

    async def _batches(self, after: Key | None, upto: Key | None) -> AsyncIterator[Work]:
        """Pages from the source, cut into batches of at most the embedder's size; ends early when told to stop."""
        size, limit = self.encoder.limits.batch_size, PAGE_ROWS[0]
        number = self._contiguous
        while not self._halting():
            page = await asyncio.to_thread(self.store.missing_page, self._reading, self.registry, after, upto, limit)
            for work in self._cut(page, size):
                if self._halting():
                    return
                yield replace(work, number=number)
                number += 1
            if len(page) < limit:
                return
            after = page[-1].key
            limit = page_size(page)

    def _cut(self, page: Sequence[Row], size: int) -> list[Work]:
        """Whole rows together until a batch is full; a row of many chunks may overfill it, and the encoder splits it."""
        batches: list[Work] = []
        rows: list[Row] = []
        owners: list[Row] = []
        pieces: list[Piece] = []
        for row in page:
            cut = pieces_of(row.text, self.store.space.chunk)
            if pieces and len(pieces) + len(cut) > size:
                batches.append(assemble(rows, owners, pieces))
                rows, owners, pieces = [], [], []
            rows.append(row)
            owners.extend([row] * len(cut))
            pieces.extend(cut)
        if rows:
            batches.append(assemble(rows, owners, pieces))
        return batches

    # --- the pipeline

    async def _pipeline(self, after: Key | None, upto: Key | None) -> None:
        """One reader, as many requests in flight as the embedder takes, one writer."""
        width = self.encoder.limits.concurrency
        todo: asyncio.Queue[Work | None] = asyncio.Queue(width + 1)
        done: asyncio.Queue[Embedded | None] = asyncio.Queue(width + 1)
        writer = asyncio.create_task(self._write_all(done))
        workers = [asyncio.create_task(self._embed_all(todo, done)) for _ in range(width)]
        try:
            async for work in self._batches(after, upto):
                await todo.put(work)
        except Exception as error:  # noqa: BLE001  kept, and raised when what is in flight has been written
            self._fail(error)
        for _ in workers:
            await todo.put(None)
        await asyncio.gather(*workers)
        await done.put(None)
        await writer
        self._raise_if_halted()

    async def _embed_all(self, todo: asyncio.Queue[Work | None], done: asyncio.Queue[Embedded | None]) -> None:
        while (work := await todo.get()) is not None:
            if self._failure is not None:
                continue  # drain: the reader may be waiting for room
            try:
                self._spend(work)
                await done.put(await self._embed(work))
            except Exception as error:  # noqa: BLE001  kept, and raised when what is in flight has been written
                self._fail(error)

    async def _embed(self, work: Work) -> Embedded:
        answer = await self.encoder.encode(work.texts, "document")
        if not answer.rejected:
            batch = Batch(work.owners, work.pieces, answer.vectors)
        else:
            batch = without_refused(work, answer.vectors, answer.rejected)
        return Embedded(work, batch, answer.tokens or 0, answer.truncated)

    def _spend(self, work: Work) -> None:
        """Stops before the budget is passed: a batch is begun only if what it may cost still fits."""
        if self.max_cost is None or self.price is None:
            return
        ahead = sum(map(len, work.texts)) / 2 * self.price / 1e6  # two characters a token: dearer than any real text
        if (self.tally.cost or 0.0) + ahead * self.encoder.limits.concurrency > self.max_cost:
            raise AnswerIsNo(
                f"the next batches could pass max_cost ({self.max_cost:.2f} USD); spent so far: {self.tally.cost or 0:.4f} USD",
                hint="raise max_cost in the embedder's section, then run the same command again",
            )

    async def _write_all(self, done: asyncio.Queue[Embedded | None]) -> None:
        """Writes what came back, several batches in one transaction where they wait."""
        ended = False
        while not ended:
            taken: list[Embedded] = []
            item = await done.get()
            while item is not None:
                taken.append(item)
                if done.empty() or sum(len(e.batch.pieces) for e in taken) >= COMMIT_ROWS:
                    break
                item = done.get_nowait()
            ended = item is None
            if taken and not isinstance(self._failure, WriterFailed):
                try:
                    await asyncio.to_thread(self._commit, taken)
                except Exception as error:  # noqa: BLE001  kept, and raised when the other tasks have ended
                    self._fail(WriterFailed(error))

    # --- what is written

    def _commit(self, taken: list[Embedded]) -> None:
        """One transaction: vectors, dead letters, position, heartbeat and cost."""
        self.guard()
        tokens = sum(item.tokens for item in taken)
        cost = tokens * self.price / 1e6 if self.price is not None else None
        offered = sum(len(item.batch.pieces) for item in taken)
        rows = sum(len(item.work.rows) - len(item.batch.failures) for item in taken)
        position = self._position(taken)

        def transaction() -> int:
            with self._writing.transaction():
                written = sum(self.store.write(self._writing, self.registry, item.batch) for item in taken)
                if position is not None:
                    self.registry.save_position(self._writing, self.store.record.id, position)
                self.ledger.fence(self._writing, self.attempt, rows=rows, tokens=tokens, cost=cost)
            return written

        written = retry_transient(transaction)
        self.tally = Tally(
            rows=self.tally.rows + rows,
            tokens=self.tally.tokens + tokens,
            cost=None if cost is None else (self.tally.cost or 0.0) + cost,
            failed=self.tally.failed + sum(len(item.batch.failures) for item in taken),
            truncated=self.tally.truncated + sum(item.truncated for item in taken),
            changed=self.tally.changed + offered - written,
            seconds=self.clock() - self._began,
        )
        self._report()

    def _position(self, taken: list[Embedded]) -> Key | None:
        """The last key up to which every batch is written: batches come back in any order."""
        self._committed.update(item.work.number for item in taken)
        keys = {item.work.number: item.work.rows[-1].key for item in taken}
        reached: Key | None = None
        while self._contiguous in self._committed:
            self._committed.discard(self._contiguous)
            reached = keys.get(self._contiguous, reached)
            self._contiguous += 1
        return reached

    # --- the rest

    def _count_total(self) -> None:
        """The denominator, counted once as of the start and on the side: embedding doesn't wait for it."""
        try:
            with self.database.connect("backfill count") as conn:
                counts = self.store.counts(conn, self.registry)
            self._total = counts.missing - counts.failed
        except (EmbedmigError, Exception):  # noqa: BLE001  a figure for the display; the run itself reports what is wrong
            self._total = None

    def _report(self) -> None:
        tally = self.tally
        self.report(
            Progress(
                "embedding",
                tally.rows,
                self._total,
                "rows",
                tally.tokens,
                tally.cost,
                self.clock() - self._began,
                tally.failed,
            )
        )

    def _halting(self) -> bool:
        return self._failure is not None or self.stop.is_set()

    def _fail(self, error: BaseException) -> None:
        self._failure = self._failure or error

    def _raise_if_halted(self) -> None:
        if isinstance(self._failure, WriterFailed):
            raise self._failure.cause
        if self._failure is not None:
            raise self._failure
        if self.stop.is_set():
            raise Interrupted(
                f"stopped after {self.tally.rows:,} rows; every one of them is kept",
                hint="run the same command again: it goes on here",
            )


class WriterFailed(Exception):
    """The writer failed: nothing more can be kept, so nothing more is waited for."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def page_size(page: Sequence[Row]) -> int:
    """How many rows to read next, so that a page holds about ``PAGE_BYTES`` of text."""
    average = max(1, sum(len(row.text) for row in page) // max(1, len(page)))
    return max(PAGE_ROWS[0], min(PAGE_ROWS[1], PAGE_BYTES // average))


def assemble(rows: Sequence[Row], owners: Sequence[Row], pieces: Sequence[Piece]) -> Work:
    """A batch with the texts of its pieces."""
    texts = [owner.text[piece.start : piece.end] for owner, piece in zip(owners, pieces, strict=True)]
    return Work(0, tuple(rows), tuple(owners), tuple(pieces), texts)


def without_refused(work: Work, vectors: object, rejected: dict[int, str]) -> Batch:
    """Takes the rows out of which the model refused a piece: a row is in the space whole or not at all."""
    import numpy as np

    refused = {work.owners[position].key: reason for position, reason in sorted(rejected.items(), reverse=True)}
    kept = [position for position, owner in enumerate(work.owners) if owner.key not in refused]
    return Batch(
        [work.owners[position] for position in kept],
        [work.pieces[position] for position in kept],
        np.asarray(vectors)[kept],
        [(row, refused[row.key]) for row in work.rows if row.key in refused],
    )
