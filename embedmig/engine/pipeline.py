"""reader → embedder → writer: batches read, embedded and written at the same time, into one space.

The queues between the three are bounded, so that memory stays flat. Every commit is one transaction: vectors, what
they settle, and heartbeat together. Where the batches come from is the feed's business: rows that the space lacks
(:mod:`embedmig.engine.backfill`), or changes that it has not taken in (:mod:`embedmig.engine.sync`).
"""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from embedmig.database import Connection, retry_transient
from embedmig.database.registry import Registry
from embedmig.embedders.encoder import Encoder
from embedmig.engine.outbox import Changes, Claim
from embedmig.engine.ranges import KeyRange, RangeLost, Ranges, Reached
from embedmig.errors import AnswerIsNo
from embedmig.lazy import Later
from embedmig.source.chunking import pieces_of
from embedmig.source.rows import Key, Piece, Row
from embedmig.stores import Batch
from embedmig.stores.pgvector.table import PgvectorStore
from embedmig.types import Tally, Vectors

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

BYTES_A_TOKEN = 2  # dearer than any real text: English has about 4, Chinese 2.5
COMMIT_ROWS = 2048  # finished batches are written together up to this many vectors
UNKNOWN_BATCHES = 3  # for each request another worker may have out: what it asked for since its last commit


@dataclass(frozen=True, slots=True)
class Work:
    """A batch on its way to the model: whole rows, cut into pieces, the texts in step with the pieces.

    ``claims`` are the pending changes that it settles; ``number`` counts the batches of a key ``range``, in key order.
    One without rows is the end of its range.
    """

    rows: tuple[Row, ...]
    owners: tuple[Row, ...]
    pieces: tuple[Piece, ...]
    texts: list[str]
    claims: tuple[Claim, ...] = ()
    range: KeyRange | None = None
    number: int = 0


@dataclass(frozen=True, slots=True)
class Embedded:
    """A batch that came back: what is to be written, and what it cost."""

    work: Work
    batch: Batch
    tokens: int
    truncated: int


@dataclass
class Pipeline:
    """Embeds what a feed gives into one space.

    ``guard`` raises when this run must not go on; ``fence`` does so inside the transaction, given rows, tokens and
    cost; ``committed`` hears of every commit. ``price`` is USD per million tokens, None where it is unknown; no
    batch is begun that could pass ``max_cost``, what other workers spend (``elsewhere``) included. ``copied`` is the
    part of the tally that ``ranges`` know of.
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
    ranges: Ranges | None = None
    clock: Callable[[], float] = time.monotonic
    tally: Tally = field(default_factory=Tally, init=False)
    copied: Tally = field(default_factory=Tally, init=False)
    elsewhere: Tally = field(default_factory=Tally, init=False)
    workers: int = field(default=1, init=False)
    failure: BaseException | None = field(default=None, init=False)
    _spent: float = field(default=0.0, init=False)  # USD, by the answers' own count, written or not
    _begun: float = field(default=0.0, init=False)  # USD, estimated, of requests under way
    _writer_lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)

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
                await self._release(work)  # drain: the feed may be waiting for room
                continue
            if work.range is not None and work.range.over:
                continue  # taken over: what the model made of it would be refused
            try:
                await done.put(await self._embed(work))
            except Exception as error:  # noqa: BLE001  kept, and raised when what is in flight has been written
                self._fail(error)
                await self._release(work)

    async def _embed(self, work: Work) -> Embedded:
        if not work.rows:
            return Embedded(work, Batch((), (), np.empty((0, 0), np.float32)), 0, 0)
        begun = self._begin_to_spend(work)
        answer = await self.encoder.encode(work.texts, "document")
        self._spent += (answer.tokens or 0) * (self.price or 0.0) / 1e6
        self._begun -= begun
        if not answer.rejected:
            batch = Batch(work.owners, work.pieces, answer.vectors)
        else:
            batch = without_refused(work, answer.vectors, answer.rejected)
        return Embedded(work, batch, answer.tokens or 0, answer.truncated)

    def _begin_to_spend(self, work: Work) -> float:
        """What the batch may cost, in USD, noted as begun. It is begun only if what is spent, what is under way and
        it still fit into the budget: raises :class:`AnswerIsNo`.
        """
        if self.max_cost is None or self.price is None:
            return 0.0
        ahead = sum(len(text.encode(errors="replace")) for text in work.texts) / BYTES_A_TOKEN * self.price / 1e6
        others = ahead * self.encoder.limits.concurrency * UNKNOWN_BATCHES * (self.workers - 1)
        spent = self._spent + (self.elsewhere.cost or 0.0)
        if spent + self._begun + ahead + others > self.max_cost:
            raise AnswerIsNo(
                f"the next batch could pass max_cost ({self.max_cost:.2f} USD); spent so far: {spent:.4f} USD",
                hint="raise max_cost in the embedder's section, then run the same command again",
            )
        self._begun += ahead
        return ahead

    async def _release(self, work: Work) -> None:
        """Claimed changes of a batch that came to nothing wait for another try."""
        if work.claims and not isinstance(self.failure, WriterFailed):
            changes = Changes(self.registry, self.store)
            await self._with_writer(lambda: changes.release(self.writing, work.claims, str(self.failure)))

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
        """One transaction: vectors, dead letters, positions, settled changes, heartbeat and cost.

        What belongs to a range that another worker has taken over is left out: its vectors are that one's to write.
        """
        self.guard()
        reached = reach(taken)
        while True:
            try:
                did = retry_transient(functools.partial(self._transaction, taken, reached))
                break
            except RangeLost as lost:
                lost.range.over = True
                self.tally = self.tally.plus(self._paid([item for item in taken if item.work.range is lost.range]))
                taken = [item for item in taken if item.work.range is not lost.range]
        for held, its in did.items():
            self.tally = self.tally.plus(its)
            if held is not None:
                self.copied = self.copied.plus(its)
                held.over = reached[held].ended
        self.committed()

    def _transaction(
        self, taken: Sequence[Embedded], reached: Mapping[KeyRange, Reached]
    ) -> dict[KeyRange | None, Tally]:
        """Writes batches; returns what was done of each range, and under None of what belongs to none."""
        claims = [claim for item in taken for claim in item.work.claims]
        did: dict[KeyRange | None, Tally] = {}
        with self.writing.transaction():
            self.store.wait_for_settling(self.writing, alone=bool(claims))
            for held, items in by_range(taken).items():
                batches = [item.batch for item in items]
                written = self.store.write(self.writing, self.registry, batches, first=not did)
                did[held] = self._did(items, written)
            if claims:
                Changes(self.registry, self.store).settle(self.writing, claims)
            for held, its in did.items():
                if held is not None and self.ranges is not None:
                    self.ranges.save(self.writing, held, reached[held], its)
            whole = sum_of(did.values())
            self.fence(self.writing, whole.rows, whole.tokens, whole.cost)
        return did

    def _did(self, items: Sequence[Embedded], written: int) -> Tally:
        failed = sum(len(item.batch.failures) for item in items)
        return self._paid(items).plus(
            Tally(
                rows=sum(len(item.work.rows) for item in items) - failed,
                failed=failed,
                truncated=sum(item.truncated for item in items),
                changed=sum(len(item.batch.pieces) for item in items) - written,
            )
        )

    def _paid(self, items: Sequence[Embedded]) -> Tally:
        """What the model asked for some batches, whether they are written or not."""
        tokens = sum(item.tokens for item in items)
        return Tally(tokens=tokens, cost=tokens * self.price / 1e6 if self.price is not None else None)

    def _fail(self, error: BaseException) -> None:
        if self.failure is None or isinstance(error, WriterFailed):
            self.failure = error


class WriterFailed(Exception):
    """The writer failed: nothing more can be kept, so nothing more is waited for."""

    def __init__(self, cause: Exception) -> None:
        super().__init__(str(cause))
        self.cause = cause


def by_range(taken: Sequence[Embedded]) -> dict[KeyRange | None, list[Embedded]]:
    """What belongs to each range; under None what belongs to none."""
    found: dict[KeyRange | None, list[Embedded]] = {}
    for item in taken:
        found.setdefault(item.work.range, []).append(item)
    return found


def reach(taken: Sequence[Embedded]) -> dict[KeyRange, Reached]:
    """How far each range is when these are written."""
    numbers: dict[KeyRange, dict[int, Key | None]] = {}
    for work in (item.work for item in taken):
        if work.range is not None:
            numbers.setdefault(work.range, {})[work.number] = work.rows[-1].key if work.rows else None
    return {held: held.reach(written) for held, written in numbers.items()}


def sum_of(tallies: Iterable[Tally]) -> Tally:
    """All together."""
    return functools.reduce(Tally.plus, tallies, Tally())


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
