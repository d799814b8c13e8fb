"""reader → embedder → writer: batches read, embedded and written at the same time, into one space.

The queues between the three are bounded, so that memory stays flat. Every commit is one transaction: vectors, what
they settle, and heartbeat together. Where the batches come from is the feed's business: rows that the space lacks
(:mod:`embedmig.backfill`), or changes that it has not taken in (:mod:`embedmig.sync`).
"""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from embedmig.changes import Changes, Claim
from embedmig.chunking import pieces_of
from embedmig.db import Connection, retry_transient
from embedmig.embedders.encoder import Encoder
from embedmig.errors import AnswerIsNo
from embedmig.registry import Registry
from embedmig.stores import Batch, Key, Piece, Row
from embedmig.stores.pgvector import PgvectorStore
from embedmig.types import Vectors

COMMIT_ROWS = 2048  # finished batches are written together up to this many vectors


@dataclass(frozen=True, slots=True)
class Work:
    """A batch on its way to the model: whole rows, cut into pieces, the texts in step with the pieces.

    ``claims`` are the pending changes that it settles; ``number`` counts the batches of a row copy, in key order.
    """

    rows: tuple[Row, ...]
    owners: tuple[Row, ...]
    pieces: tuple[Piece, ...]
    texts: list[str]
    claims: tuple[Claim, ...] = ()
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Embedded:
    """A batch that came back: what is to be written, and what it cost."""

    work: Work
    batch: Batch
    tokens: int
    truncated: int


@dataclass(frozen=True, slots=True)
class Tally:
    """What a pipeline did. ``changed`` rows were edited or deleted between reading and writing, and were not taken."""

    rows: int = 0
    tokens: int = 0
    cost: float | None = None
    failed: int = 0
    truncated: int = 0
    changed: int = 0


@dataclass
class Pipeline:
    """Embeds what a feed gives into one space.

    ``guard`` raises when this run must not go on; ``fence`` does so inside the transaction, given rows, tokens and
    cost; ``committed`` hears of every commit. ``price`` is USD per million tokens, None where it is unknown; no
    batch is begun that could pass ``max_cost``.
    """

    registry: Registry
    store: PgvectorStore
    encoder: Encoder
    writing: Connection
    stop: threading.Event
    guard: Callable[[], None]
    fence: Callable[[Connection, int, int, float | None], None]
    committed: Callable[[], None]
    price: float | None = None
    max_cost: float | None = None
    clock: Callable[[], float] = time.monotonic
    tally: Tally = field(default_factory=Tally, init=False)
    failure: BaseException | None = field(default=None, init=False)
    _done: set[int] = field(default_factory=set, init=False)
    _keys: dict[int, Key] = field(default_factory=dict, init=False)
    _next: int = field(default=0, init=False)
    _writer_lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

    @property
    def next_number(self) -> int:
        """The number of the next batch of a row copy, when all before it are written."""
        return self._next

    def halting(self) -> bool:
        """Whether a feed should give no more."""
        return self.failure is not None or self.stop.is_set()

    async def run(self, feed: AsyncIterator[Work]) -> None:
        """One reader, as many requests in flight as the embedder takes, one writer.

        When something fails, what is in flight is still written, where the database takes it; then the failure is
        raised. A stop is not a failure: it returns.
        """
        with frozen_objects():
            await self._run(feed)
        if isinstance(self.failure, WriterFailed):
            raise self.failure.cause
        if self.failure is not None:
            raise self.failure

    async def _run(self, feed: AsyncIterator[Work]) -> None:
        width = self.encoder.limits.concurrency
        todo: asyncio.Queue[Work | None] = asyncio.Queue(width + 1)
        done: asyncio.Queue[Embedded | None] = asyncio.Queue(width + 1)
        writer = asyncio.create_task(self._write_all(done))
        workers = [asyncio.create_task(self._embed_all(todo, done)) for _ in range(width)]
        try:
            async for work in feed:
                await todo.put(work)
        except Exception as error:  # noqa: BLE001  kept, and raised when what is in flight has been written
            self._fail(error)
        for _ in workers:
            await todo.put(None)
        await asyncio.gather(*workers)
        await done.put(None)
        await writer

    # --- embedding

    async def _embed_all(self, todo: asyncio.Queue[Work | None], done: asyncio.Queue[Embedded | None]) -> None:
        while (work := await todo.get()) is not None:
            if self.failure is not None:
                await self._put_back(work)  # drain: the feed may be waiting for room
                continue
            try:
                self._spend(work)
                await done.put(await self._embed(work))
            except Exception as error:  # noqa: BLE001  kept, and raised when what is in flight has been written
                self._fail(error)
                await self._put_back(work)

    async def _embed(self, work: Work) -> Embedded:
        answer = await self.encoder.encode(work.texts, "document")
        if not answer.rejected:
            batch = Batch(work.owners, work.pieces, answer.vectors)
        else:
            batch = without_refused(work, answer.vectors, answer.rejected)
        return Embedded(work, batch, answer.tokens or 0, answer.truncated)

    def _spend(self, work: Work) -> None:
        """Stops before the budget is passed: a batch is begun only if what it and those in flight may cost still fits."""
        if self.max_cost is None or self.price is None:
            return
        ahead = sum(map(len, work.texts)) / 2 * self.price / 1e6  # two characters a token: dearer than any real text
        if (self.tally.cost or 0.0) + ahead * self.encoder.limits.concurrency > self.max_cost:
            raise AnswerIsNo(
                f"the next batches could pass max_cost ({self.max_cost:.2f} USD); "
                f"spent so far: {self.tally.cost or 0:.4f} USD",
                hint="raise max_cost in the embedder's section, then run the same command again",
            )

    async def _put_back(self, work: Work) -> None:
        """Claimed changes of a batch that came to nothing wait for another try."""
        if work.claims and not isinstance(self.failure, WriterFailed):
            changes = Changes(self.registry, self.store)
            await self._with_writer(lambda: changes.put_back(self.writing, work.claims, str(self.failure)))

    # --- writing

    async def _write_all(self, done: asyncio.Queue[Embedded | None]) -> None:
        """Writes what came back, several batches in one transaction where they wait."""
        ended = False
        while not ended:
            taken: list[Embedded] = []
            item = await done.get()
            while item is not None:
                taken.append(item)
                if done.empty() or sum(len(one.batch.pieces) for one in taken) >= COMMIT_ROWS:
                    break
                item = done.get_nowait()
            ended = item is None
            if taken and not isinstance(self.failure, WriterFailed):
                await self._with_writer(lambda taken=taken: self._commit(taken))  # type: ignore[misc]

    async def _with_writer(self, work: Callable[[], None]) -> None:
        """One at a time: the writing connection is shared by those who finish and those who put back."""
        async with self._writer_lock:
            try:
                await asyncio.to_thread(work)
            except Exception as error:  # noqa: BLE001  kept, and raised when the other tasks have ended
                self._fail(WriterFailed(error))

    def _commit(self, taken: list[Embedded]) -> None:
        """One transaction: vectors, dead letters, position, settled changes, heartbeat and cost."""
        self.guard()
        tokens = sum(item.tokens for item in taken)
        cost = tokens * self.price / 1e6 if self.price is not None else None
        offered = sum(len(item.batch.pieces) for item in taken)
        rows = sum(len(item.work.rows) - len(item.batch.failures) for item in taken)
        claims = [claim for item in taken for claim in item.work.claims]
        position = self._position(taken)

        def transaction() -> int:
            with self.writing.transaction():
                self.store.take_turn(self.writing, alone=bool(claims))
                written = self.store.write(self.writing, self.registry, [item.batch for item in taken])
                if claims:
                    Changes(self.registry, self.store).settle(self.writing, claims)
                if position is not None:
                    self.registry.save_position(self.writing, self.store.record.id, position)
                self.fence(self.writing, rows, tokens, cost)
            return written

        written = retry_transient(transaction)
        self.tally = Tally(
            rows=self.tally.rows + rows,
            tokens=self.tally.tokens + tokens,
            cost=None if cost is None else (self.tally.cost or 0.0) + cost,
            failed=self.tally.failed + sum(len(item.batch.failures) for item in taken),
            truncated=self.tally.truncated + sum(item.truncated for item in taken),
            changed=self.tally.changed + offered - written,
        )
        self.committed()

    def _position(self, taken: list[Embedded]) -> Key | None:
        """The last key up to which every batch of the row copy is written: batches come back in any order."""
        keys = {item.work.number: item.work.rows[-1].key for item in taken if item.work.number is not None}
        self._done.update(keys)
        self._keys.update(keys)
        reached: Key | None = None
        while self._next in self._done:
            self._done.discard(self._next)
            reached = self._keys.pop(self._next)
            self._next += 1
        return reached

    def _fail(self, error: BaseException) -> None:
        if self.failure is None or isinstance(error, WriterFailed):
            self.failure = error


class WriterFailed(Exception):
    """The writer failed: nothing more can be kept, so nothing more is waited for."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


@contextmanager
def frozen_objects() -> Iterator[None]:
    """Python's collector passes over what was there before: rows come and go by the thousand, and each sets it off to
    walk through every class and function of the libraries, which takes a sixth of this process's CPU.
    """
    if gc.get_freeze_count():  # somebody else has done so: theirs to undo
        yield
        return
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


# --- batches --------------------------------------------------------------------------------------------------


def cut(rows: Sequence[Row], store: PgvectorStore, size: int) -> list[Work]:
    """Whole rows together until a batch is full; a row of many chunks may overfill it, and the encoder splits it."""
    batches: list[Work] = []
    some: list[Row] = []
    owners: list[Row] = []
    pieces: list[Piece] = []
    for row in rows:
        these = pieces_of(row.text, store.space.chunk)
        if pieces and len(pieces) + len(these) > size:
            batches.append(assemble(some, owners, pieces))
            some, owners, pieces = [], [], []
        some.append(row)
        owners.extend([row] * len(these))
        pieces.extend(these)
    if some:
        batches.append(assemble(some, owners, pieces))
    return batches


def assemble(rows: Sequence[Row], owners: Sequence[Row], pieces: Sequence[Piece]) -> Work:
    """A batch with the texts of its pieces."""
    texts = [owner.text[piece.start : piece.end] for owner, piece in zip(owners, pieces, strict=True)]
    return Work(tuple(rows), tuple(owners), tuple(pieces), texts)


def without_refused(work: Work, vectors: Vectors, rejected: dict[int, str]) -> Batch:
    """Takes the rows out of which the model refused a piece: a row is in the space whole or not at all."""
    refused = {work.owners[position].key: reason for position, reason in sorted(rejected.items(), reverse=True)}
    kept = [position for position, owner in enumerate(work.owners) if owner.key not in refused]
    return Batch(
        [work.owners[position] for position in kept],
        [work.pieces[position] for position in kept],
        vectors[kept],
        [(row, refused[row.key]) for row in work.rows if row.key in refused],
    )
