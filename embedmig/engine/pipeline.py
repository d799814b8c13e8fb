"""reader → embedder → writer: requests are made, answered and written as batches at the same time, into one space.

The queues between the three are bounded, so that memory stays flat. Every commit is one transaction: vectors, what
they settle, and heartbeat together. Where each vector goes into an index as it is written, several connections write at
the same time, a request each. Where the requests come from is the feed's business: rows that the space lacks
(:mod:`embedmig.engine.backfill`), or changes that it has not taken in (:mod:`embedmig.engine.sync`).
"""

from __future__ import annotations

import asyncio
import functools
import gc
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from embedmig.database import Connection, retry_transient
from embedmig.database.registry import Registry
from embedmig.embedders.encoder import Encoder
from embedmig.embedders.tokens import estimate_tokens
from embedmig.engine.context import RunContext, SpendingLimit
from embedmig.engine.once import TextsOnce, digest
from embedmig.engine.outbox import Changes, Claim
from embedmig.engine.ranges import KeyRange, RangeLost, Ranges
from embedmig.errors import EmbedmigError
from embedmig.lazy import Later
from embedmig.source.chunking import pieces_of
from embedmig.source.rows import Key, Piece, Row
from embedmig.stores import Batch, Manifest, chunks
from embedmig.types import Tally, Vectors

if TYPE_CHECKING:
    import numpy as np
else:
    np = Later("numpy")

BYTES_A_TOKEN = 2  # dearer than any real text: English has about 4, Chinese 2.5
GUARD_SECONDS = 0.3  # between two looks whether the run may go on
COMMIT_ROWS = 2048  # batches are written together up to this many vectors
SLOW_COMMIT_ROWS = 256  # and up to this many where each takes a millisecond: who settles a change waits for the commit
UNKNOWN_REQUESTS = 3  # for each request another worker may have out: at the model, waiting to be written, being written
STALE_SECONDS = 0.2  # where there is a limit: how old it may be that there is no other worker


Numbers: TypeAlias = dict[int, Key | None]
"""Of requests in a range, each with its last key; None: the end of the range."""


@dataclass(frozen=True, slots=True)
class Request:
    """What goes to the model at once: whole rows, cut into pieces, the texts in step with the pieces.

    ``claims`` are the pending changes that it settles; ``number`` counts the requests of a key ``range``, in key order.
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
    """A request that was answered: the batch to be written, and what it cost. ``digests`` and ``replaced`` are as
    :func:`embedmig.stores.chunks.note` wants them.
    """

    request: Request
    batch: Batch
    tokens: int
    truncated: int
    digests: Mapping[bytes, bytes] = field(default_factory=dict)
    replaced: Sequence[bytes] = ()


@dataclass
class Pipeline:
    """Embeds what a feed gives into one space.

    Batches are written on ``writing``, one commit after the other; or, where there are ``writers``, on those at the same time.
    No request is begun that could pass the ``limit``, what other workers spend included, which ``look`` asks the database
    for. ``committed`` hears of every commit, and ``written`` of the requests in it. ``copied`` is the part of the tally that ``ranges`` know of. ``remembers`` is how many bytes of vectors are kept to be
    used again for equal texts. In ``busy_seconds`` a request was at the model or being written.
    """

    registry: Registry
    store: Manifest
    encoder: Encoder
    writing: Connection
    context: RunContext
    limit: SpendingLimit
    ranges: Ranges | None = None
    committed: Callable[[], None] = lambda: None
    look: Callable[[], None] = lambda: None
    remembers: int = 0
    clock: Callable[[], float] = time.monotonic
    written: Callable[[Sequence[Request]], None] = lambda _requests: None
    writers: Sequence[Connection] = ()
    tally: Tally = field(default_factory=Tally, init=False)
    copied: Tally = field(default_factory=Tally, init=False)
    elsewhere: Tally = field(default_factory=Tally, init=False)
    workers: int = field(default=1, init=False)
    failure: BaseException | None = field(default=None, init=False)
    busy_seconds: float = field(default=0.0, init=False)
    _in_hand: int = field(default=0, init=False)
    _looked: float = field(default=float("-inf"), init=False)
    _writer_lock: asyncio.Lock = field(default_factory=asyncio.Lock, init=False)
    _saving: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        self._once = TextsOnce(self.encoder, self.remembers)
        # Of their own: the loop's threads read pages and call models, which must not wait for slow commits.
        self._threads = ThreadPoolExecutor(len(self.writers), "embedmig-writer") if self.writers else None

    def halting(self) -> bool:
        """Whether a feed should give no more."""
        return self.failure is not None or self.context.stop.is_set()

    def request_size(self) -> int:
        """Pieces of a request, as far as has been learnt of the model's server."""
        most = self.encoder.limits.batch_size
        return min(most, SLOW_COMMIT_ROWS) if self.writers else most

    @property
    def _commit_rows(self) -> int:
        return SLOW_COMMIT_ROWS if self.writers else COMMIT_ROWS

    async def run(self, feed: AsyncIterator[Request], *, within: bool = False) -> None:
        """One reader, as many requests in flight as the embedder takes, one writer or as many as there are connections.

        When something fails, what is in flight is still written, where the database takes it; then the failure is
        raised. A stop is not a failure: it returns. ``within`` an application, Python's collector is left as it is.
        """
        with nullcontext() if within else frozen_objects():
            await self._run(feed)
        if isinstance(self.failure, WriterFailed):
            raise self.failure.cause
        if self.failure is not None:
            raise self.failure

    async def _run(self, feed: AsyncIterator[Request]) -> None:
        work = asyncio.create_task(self._work(feed))
        watch = asyncio.create_task(self._watch(work))
        try:
            await work
        except asyncio.CancelledError:
            if self.failure is None:
                raise
        finally:
            watch.cancel()

    async def _watch(self, work: asyncio.Task[None]) -> None:
        """Ends the work where the run must not go on, whatever the model takes to answer."""
        while True:
            await asyncio.sleep(GUARD_SECONDS)
            try:
                await asyncio.to_thread(self.context.guard)
            except EmbedmigError as error:
                self._fail(WriterFailed(error))
                work.cancel()
                return

    async def _work(self, feed: AsyncIterator[Request]) -> None:
        width = self.encoder.limits.concurrency
        todo: asyncio.Queue[Request | None] = asyncio.Queue(width + 1)
        done: asyncio.Queue[Embedded | None] = asyncio.Queue(width + 1)
        writers = [asyncio.create_task(self._write_all(done, conn)) for conn in self.writers or (self.writing,)]
        workers = [asyncio.create_task(self._embed_all(todo, done)) for _ in range(width)]
        try:
            try:
                async for request in feed:
                    await todo.put(request)
                    if self.encoder.first is not None:
                        await todo.join()  # its answer shows how large the next may be
            except Exception as error:  # noqa: BLE001  kept, and raised when what is in flight has been written
                self._fail(error)
            for _ in workers:
                await todo.put(None)
            await asyncio.gather(*workers)
            for _ in writers:
                await done.put(None)
            await asyncio.gather(*writers)
        finally:
            for task in (*writers, *workers):  # all have ended, unless this was cancelled
                task.cancel()

    @contextmanager
    def _busy(self) -> Iterator[None]:
        if not self._in_hand:
            self._busy_since = self.clock()
        self._in_hand += 1
        try:
            yield
        finally:
            self._in_hand -= 1
            if not self._in_hand:
                self.busy_seconds += self.clock() - self._busy_since

    # --- embedding

    async def _embed_all(self, todo: asyncio.Queue[Request | None], done: asyncio.Queue[Embedded | None]) -> None:
        while (request := await todo.get()) is not None:
            await self._embed_one(request, done)
            todo.task_done()

    async def _embed_one(self, request: Request, done: asyncio.Queue[Embedded | None]) -> None:
        if self.failure is not None:
            await self._release(request)  # drain: the feed may be waiting for room
            return
        if request.range is not None and request.range.over:
            return  # taken over: what the model made of it would be refused
        try:
            with self._busy():
                embedded = await self._embed(request)
            await done.put(embedded)
        except Exception as error:  # noqa: BLE001  kept, and raised when what is in flight has been written
            self._fail(error)
            await self._release(request)

    async def _embed(self, request: Request) -> Embedded:
        if not request.rows:
            return Embedded(request, Batch((), (), np.empty((0, 0), np.float32)), 0, 0)
        begun, tokens = await self._begin_to_spend(request), 0
        try:
            digests, held, replaced = await self._chunks(request)
            answer, sent = await self._once.encode(request.texts, held)
            tokens = self._tokens_of(sent) if answer.tokens is None else answer.tokens
        finally:
            self.limit.settle(begun, self.limit.cost(tokens) or 0.0)
        if not answer.rejected:
            batch = Batch(request.owners, request.pieces, answer.vectors)
        else:
            batch = without_refused(request, answer.vectors, answer.rejected)
        return Embedded(request, batch, tokens, answer.truncated, digests, replaced)

    async def _chunks(self, request: Request) -> tuple[dict[bytes, bytes], Mapping[bytes, Any], Sequence[bytes]]:
        """Of texts that are cut: the digests of their chunks, by the text's hash; of changed rows the vectors that the space has of
        such chunks, and the hashes of the texts that they were cut from.
        """
        if not self.remembers or self.store.space.chunk is None:
            return {}, {}, ()
        marks = [digest(text) for text in request.texts]
        digests: dict[bytes, bytes] = {}
        for owner, mark in zip(request.owners, marks, strict=True):
            digests[owner.content_hash] = digests.get(owner.content_hash, b"") + mark
        if not request.claims:
            return digests, {}, ()
        keys = [row.key for row in request.rows]
        async with self._writer_lock:
            held, replaced = await asyncio.to_thread(chunks.held, self.writing, self.store, keys, set(marks))
        return digests, held, replaced

    def _tokens_of(self, texts: Sequence[str]) -> int:
        """Of an answer that does not say it: estimated where they cost something, or else not counted."""
        if not self.limit.price:
            return 0
        prefix = self.store.space.document_prefix
        return estimate_tokens(prefix + text for text in texts)

    async def _begin_to_spend(self, request: Request) -> float:
        """What the request may cost, in USD, noted as begun. It is begun only if what is spent, what is under way and
        it still fit into the limit: raises :class:`AnswerIsNo`.
        """
        if not self.limit.applies:
            return 0.0
        if (
            self.workers > 1 or self.clock() - self._looked > STALE_SECONDS
        ):  # in a fraction of a second others may spend it all
            self._looked = self.clock()
            await self._with_writer(self.look)  # behind a commit that is under way: a slow database slows this down too
        prefix = len(self.store.space.document_prefix.encode())
        size = sum(prefix + len(text.encode(errors="replace")) for text in request.texts)
        ahead = self.limit.cost(size / BYTES_A_TOKEN) or 0.0
        unseen = ahead * (self.encoder.limits.concurrency + 1) * UNKNOWN_REQUESTS * (self.workers - 1)
        self.limit.begin(ahead, unseen, hint="raise max_cost, then run the same command again: it goes on from here")
        return ahead

    async def _release(self, request: Request) -> None:
        """Claimed changes of a request that came to nothing wait for another try."""
        if request.claims and not isinstance(self.failure, WriterFailed):
            changes = Changes(self.registry, self.store)
            await self._with_writer(lambda: changes.release(self.writing, request.claims, str(self.failure)))

    # --- writing

    async def _write_all(self, done: asyncio.Queue[Embedded | None], conn: Connection) -> None:
        """Writes what came back, several batches in one transaction where they wait."""
        ended = False
        while not ended:
            taken: list[Embedded] = []
            item = await done.get()
            while item is not None:
                taken.append(item)
                if done.empty() or sum(len(one.batch.pieces) for one in taken) >= self._commit_rows:
                    break
                item = done.get_nowait()
            ended = item is None
            if taken and not isinstance(self.failure, WriterFailed):
                await self._write(taken, conn)

    async def _write(self, taken: list[Embedded], conn: Connection) -> None:
        async with nullcontext() if self.writers else self._writer_lock:
            done = await self._in_thread(functools.partial(self._commit, conn, taken), self._threads)
        if done:
            await self._with_writer(functools.partial(self._tell, taken))

    async def _with_writer(self, work: Callable[[], None]) -> None:
        """One at a time: the writing connection is shared by those who finish and those who put back."""
        async with self._writer_lock:
            await self._in_thread(work)

    async def _in_thread(self, work: Callable[[], None], threads: ThreadPoolExecutor | None = None) -> bool:
        """Whether it ended well; else the run ends with what it raised, when the other tasks have ended."""
        try:
            with self._busy():
                await asyncio.get_running_loop().run_in_executor(threads, work)
        except Exception as error:  # noqa: BLE001  kept, and raised
            self._fail(WriterFailed(error))
            return False
        return True

    def _tell(self, taken: Sequence[Embedded]) -> None:
        self.committed()
        self.written([item.request for item in taken])

    def _commit(self, conn: Connection, taken: list[Embedded]) -> None:
        """One transaction: vectors, dead letters, positions, settled changes, heartbeat and cost."""
        self.context.guard()
        with self.store.delivered(conn, [item.batch for item in taken]):
            self._write_named(conn, taken)
        self.store.collect(conn)

    def _write_named(self, conn: Connection, taken: Sequence[Embedded]) -> None:
        """:meth:`_transaction`, without what belongs to ranges that are lost: its vectors are for whoever has taken them over."""
        while True:
            try:
                return retry_transient(functools.partial(self._transaction, conn, taken))
            except RangeLost as lost:
                lost.range.over = True
                with self._saving:
                    paid = self._paid([item for item in taken if item.request.range is lost.range])
                    self.tally = self.tally.plus(paid)
                taken = [item for item in taken if item.request.range is not lost.range]

    def _transaction(self, conn: Connection, taken: Sequence[Embedded]) -> None:
        """Writes batches, and notes what was done of each range, and under None of what belongs to none."""
        claims = [claim for item in taken for claim in item.request.claims]
        did: dict[KeyRange | None, Tally] = {}
        numbers = numbers_of(taken)
        with ExitStack() as committed:
            with conn.transaction():
                self.store.wait_for_settling(conn, alone=bool(claims))
                for held, items in by_range(taken).items():
                    written = self.store.write(conn, [item.batch for item in items], first=not did)
                    self._note_chunks(conn, items)
                    did[held] = self._did(items, written)
                if claims:
                    Changes(self.registry, self.store).settle(conn, claims)
                # Until the commit: of two writers of a range, the later one saves how far both are.
                committed.enter_context(self._saving)
                for held, its in did.items():
                    if held is not None and self.ranges is not None:
                        self.ranges.save(conn, held, held.reach(numbers[held]), its)
                self.context.fence(conn, sum_of(did.values()))
            self._note_committed(did, numbers)

    def _note_committed(self, did: Mapping[KeyRange | None, Tally], numbers: Mapping[KeyRange, Numbers]) -> None:
        for held, its in did.items():
            self.tally = self.tally.plus(its)
            if held is not None:
                self.copied = self.copied.plus(its)
                held.over = held.over or held.reach(numbers[held]).ended
                held.note(numbers[held])

    def _note_chunks(self, conn: Connection, items: Sequence[Embedded]) -> None:
        digests = {text: marks for item in items for text, marks in item.digests.items()}
        if digests:
            chunks.note(conn, self.store, digests, [one for item in items for one in item.replaced])

    def _did(self, items: Sequence[Embedded], written: int) -> Tally:
        failed = sum(len(item.batch.failures) for item in items)
        return self._paid(items).plus(
            Tally(
                rows=sum(len(item.request.rows) for item in items) - failed,
                failed=failed,
                truncated=sum(item.truncated for item in items),
                changed=sum(len(item.batch.pieces) for item in items) - written,
            )
        )

    def _paid(self, items: Sequence[Embedded]) -> Tally:
        """What the model asked for some batches, whether they are written or not."""
        tokens = sum(item.tokens for item in items)
        return Tally(tokens=tokens, cost=self.limit.cost(tokens))

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
        found.setdefault(item.request.range, []).append(item)
    return found


def numbers_of(taken: Sequence[Embedded]) -> dict[KeyRange, Numbers]:
    found: dict[KeyRange, Numbers] = {}
    for request in (item.request for item in taken):
        if request.range is not None:
            found.setdefault(request.range, {})[request.number] = request.rows[-1].key if request.rows else None
    return found


def sum_of(tallies: Iterable[Tally]) -> Tally:
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


# --- requests -------------------------------------------------------------------------------------------------


def requests_of(rows: Sequence[Row], store: Manifest, size: Callable[[], int]) -> Iterator[Request]:
    """Whole rows together until a request has ``size`` pieces, which is asked anew for each, as it may be learnt meanwhile;
    a row of many chunks may overfill it, and the encoder splits it.
    """
    some: list[Row] = []
    owners: list[Row] = []
    pieces: list[Piece] = []
    most = size()
    for row in rows:
        these = pieces_of(row.text, store.space.chunk)
        if pieces and len(pieces) + len(these) > most:
            yield assemble(some, owners, pieces)
            some, owners, pieces = [], [], []
            most = size()
        some.append(row)
        owners.extend([row] * len(these))
        pieces.extend(these)
    if some:
        yield assemble(some, owners, pieces)


def assemble(rows: Sequence[Row], owners: Sequence[Row], pieces: Sequence[Piece]) -> Request:
    texts = [owner.text[piece.start : piece.end] for owner, piece in zip(owners, pieces, strict=True)]
    return Request(tuple(rows), tuple(owners), tuple(pieces), texts)


def without_refused(request: Request, vectors: Vectors, rejected: dict[int, str]) -> Batch:
    """Takes the rows out of which the model refused a piece: a row is in the space whole or not at all."""
    refused = {request.owners[position].key: reason for position, reason in sorted(rejected.items(), reverse=True)}
    kept = [position for position, owner in enumerate(request.owners) if owner.key not in refused]
    return Batch(
        [request.owners[position] for position in kept],
        [request.pieces[position] for position in kept],
        vectors[kept],
        [(row, refused[row.key]) for row in request.rows if row.key in refused],
    )
