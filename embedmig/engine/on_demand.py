"""Rows that readers want now: embedded when they ask, written as every other row is, in a thread beside the reads.

Readers of one process share it: a row that one of them has asked for is not asked for again. Another process is kept from
it by the claim on the row's pending change, as workers are.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

import psycopg

from embedmig.database import Connection, Database, first_line, translated
from embedmig.database.registry import Registry
from embedmig.embedders import model_check
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder
from embedmig.engine.backfill import CLAIM_ROWS, requests_for
from embedmig.engine.context import RunContext, SpendingLimit
from embedmig.engine.outbox import Changes
from embedmig.engine.pipeline import Pipeline, Request
from embedmig.engine.read_counts import ReadCounts, ReadCountsTable
from embedmig.engine.throttle import control
from embedmig.errors import AnswerIsNo, EmbedmigError, UsageError
from embedmig.source.rows import Key
from embedmig.stores import Manifest
from embedmig.stores.protocol import pages
from embedmig.types import Tally

IDLE_SECONDS = 1.0  # without a row asked for, the connections rest
STALLED_SECONDS = 2.0  # without an answer, readers no longer wait for one
RETRY_SECONDS = 5.0  # after a failure, nothing is asked for so long
LASTING_SECONDS = 60.0  # after a no: the budget is used up, the model is another one
CLOSING_SECONDS = 5.0
FLUSH_SECONDS = 1.0
REFUSED = (psycopg.errors.InsufficientPrivilege, psycopg.errors.ReadOnlySqlTransaction)


def embed_rows(
    database: Database, registry: Registry, store: Manifest, make: Callable[[], Encoder], limit: SpendingLimit, keys: Sequence[Key]
) -> Tally:  # fmt: skip
    """Embeds those of these rows that the space lacks, as a change of each would be taken in, with an encoder that ``make`` gives;
    returns what was done. Counted as texts that reads wanted. Raises what the encoder and the database raise.
    """
    with (
        translated("embedding"),
        database.connect("rows reader") as reading,
        database.connect("rows writer") as writing,
    ):
        model_check.check_once(database.url, reading, registry, store.record, make())
        context = RunContext(fence=lambda conn, did: count_texts(conn, registry, store.record.id, did))
        return embed_keys((reading, writing), registry, store, make(), context, limit, keys)


def embed_keys(
    connections: tuple[Connection, Connection], registry: Registry, store: Manifest, encoder: Encoder, context: RunContext,
    limit: SpendingLimit, keys: Sequence[Key],
) -> Tally:  # fmt: skip
    """Embeds those of these rows that the space lacks, until the run is stopped, and closes the model. The connections are one to
    read and one to write.
    """
    reading, writing = connections
    store.prepare_writer(writing)
    pipeline = Pipeline(registry, store, encoder, writing, context, limit)
    changes = Changes(registry, store)

    async def feed() -> AsyncIterator[Request]:
        for page in pages(keys, CLAIM_ROWS):
            if pipeline.halting():
                return
            claims = await asyncio.to_thread(changes.claim_keys, reading, page)
            async for request in requests_for(reading, changes, claims, pipeline.request_size):
                yield request

    async def run() -> None:
        try:
            await pipeline.run(feed(), within=True)
        finally:
            await encoder.embedder.aclose()

    wait_for(run())
    return pipeline.tally


def count_texts(conn: Connection, registry: Registry, space: int, did: Tally) -> None:
    """Within the transaction that writes the rows."""
    counts = ReadCounts(texts=did.rows, tokens=did.tokens, cost=did.cost or 0.0)
    ReadCountsTable(registry.schema).add(conn, space, counts)


@dataclass
class OnDemand:
    """One space's, with its models: ``encoder`` of documents and ``queries`` of queries, which may be one and the same. ``manifest``,
    ``encoder`` and ``queries`` make those of this thread; ``limit`` is what all processes together may spend on what readers ask
    for. Raises what ``encoder`` and ``queries`` raise.
    """

    database: Database
    registry: Registry
    space: int
    manifest: Callable[[Connection], Manifest]
    encoder: Callable[[], Encoder]
    queries: Callable[[], Encoder] | None
    limit: SpendingLimit
    warn: Callable[[str], None] = lambda _text: None
    clock: Callable[[], float] = time.monotonic
    counts: ReadCounts = field(default_factory=ReadCounts, init=False)

    def __post_init__(self) -> None:
        self._moved = threading.RLock()  # a future that is done calls who waits for it
        self._in_flight: set[Key] = set()
        self._waiting: list[tuple[Future[None], set[Key]]] = []
        self._since: float | None = None  # when what is in flight was asked for, or something of it last came back
        self._quiet_until = float("-inf")
        self._asked: asyncio.Queue[Sequence[Key] | None] = asyncio.Queue()
        self._stop = threading.Event()
        self._connections: dict[str, Connection] = {}
        self._own_cost = 0.0
        self._model = self.encoder()
        self._query_model = self.queries() if self.queries else self._model
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, name="embedmig-on-demand", daemon=True)
        self._thread.start()

    # --- for readers, on any thread

    @property
    def available(self) -> bool:
        """Whether rows that are asked for now may be hoped for: the model answers, or was not asked yet."""
        with self._moved:
            stalled = self._since is not None and self.clock() - self._since > STALLED_SECONDS
            return not stalled and self.clock() >= self._quiet_until

    def encode_query(self, text: str) -> Future[tuple[float, ...]]:
        """A query's vector, when the model has made it."""
        return asyncio.run_coroutine_threadsafe(self._encode_query(text), self._loop)

    def ask(self, keys: Sequence[Key]) -> None:
        """Has these rows embedded; those that are on their way are not asked for again."""
        with self._moved:
            new = [key for key in keys if key not in self._in_flight]
            if not new or self._stop.is_set():
                return
            self._since = self._since or self.clock()
            self._in_flight.update(new)
        self._loop.call_soon_threadsafe(self._asked.put_nowait, new)

    def settled(self, keys: Sequence[Key]) -> Future[None]:
        """Done when these rows are written, or can't be."""
        settled: Future[None] = Future()
        with self._moved:
            self._waiting.append((settled, set(keys)))
            self._settle()
        return settled

    def note(self, read: ReadCounts) -> None:
        """Counts a read; the figures are kept in the database within a second or so."""
        with self._moved:
            first = not self.counts.reads
            self.counts = self.counts.plus(read)
        if first:
            with suppress(RuntimeError):  # closed
                self._loop.call_soon_threadsafe(self._loop.call_later, FLUSH_SECONDS, self._flush_aside)

    def close(self) -> None:
        """Waits for what is in flight, five seconds at most."""
        self._stop.set()
        with suppress(RuntimeError):  # it has ended by itself
            self._loop.call_soon_threadsafe(self._asked.put_nowait, None)
        self._thread.join(CLOSING_SECONDS)

    # --- the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        finally:
            self._flush()
            self._disconnect()
            self._loop.run_until_complete(self._loop.shutdown_default_executor())
            self._loop.close()

    async def _serve(self) -> None:
        try:
            while (keys := await self._asked.get()) is not None:
                try:
                    await self._embed(keys)
                except Exception as error:  # noqa: BLE001  whatever it is, reads go on without
                    self._failed(error)
        finally:
            for model in {self._model, self._query_model}:
                await model.embedder.aclose()

    async def _encode_query(self, text: str) -> tuple[float, ...]:
        encoded = await self._query_model.encode([text], "query")
        with self._moved:
            cost = self.limit.cost(encoded.tokens or 0) or 0.0
            self.counts = self.counts.plus(ReadCounts(tokens=encoded.tokens or 0, cost=cost))
        if encoded.rejected:
            raise UsageError(f"the query has no vector: {encoded.rejected[0]}")
        return tuple(encoded.vectors[0].tolist())

    async def _embed(self, keys: Sequence[Key]) -> None:
        """These rows, and what else is asked for until it has been quiet for a second."""
        reading, writing, store = await asyncio.to_thread(self._connected)
        pipeline = Pipeline(
            self.registry, store, self._model, writing, RunContext(stop=self._stop, fence=self._count), self.limit,
            look=lambda: self._look(writing, pipeline.tally),
            written=lambda requests: self._landed([row.key for one in requests for row in one.rows]),
        )  # fmt: skip
        try:
            await pipeline.run(self._requests(keys, pipeline, reading), within=True)
        finally:
            self._own_cost += pipeline.tally.cost or 0.0

    async def _requests(
        self, keys: Sequence[Key] | None, pipeline: Pipeline, reading: Connection
    ) -> AsyncIterator[Request]:
        changes = Changes(self.registry, pipeline.store)
        while keys is not None and not pipeline.halting():
            wanted = set(keys)
            if (await asyncio.to_thread(control, reading, self.registry, pipeline.store.record.collection)).paused:
                claims = []
            else:
                claims = await asyncio.to_thread(changes.claim_keys, reading, keys)
            async for request in requests_for(reading, changes, claims, pipeline.request_size):
                wanted -= {row.key for row in request.rows}
                yield request
            self._landed(list(wanted))  # somebody else has them, or nothing is to be done
            keys = await self._next()

    async def _next(self) -> Sequence[Key] | None:
        """What is asked for next, the end included, which is left for others to see."""
        try:
            keys = await asyncio.wait_for(self._asked.get(), IDLE_SECONDS)
        except TimeoutError:
            return None
        if keys is None:
            self._asked.put_nowait(None)
        return keys

    def _connected(self) -> tuple[Connection, Connection, Manifest]:
        """The connections and the space as it is now. Raises :class:`ModelChanged` where the model is not what it was."""
        with translated("embedding for readers"):
            if "writer" not in self._connections:
                self._store = self.manifest(self._connection("reader"))
                self._store.prepare_writer(self._connection("writer"))
            reading, writing = self._connection("reader"), self._connection("writer")
            model_check.check_once(self.database.url, reading, self.registry, self._store.record, self.encoder())
        return reading, writing, self._store

    def _connection(self, purpose: str) -> Connection:
        if purpose not in self._connections:
            self._connections[purpose] = self.database.connect(f"on demand {purpose}")
        return self._connections[purpose]

    def _disconnect(self) -> None:
        """What was claimed is free."""
        while self._connections:
            self._connections.popitem()[1].close()

    def _landed(self, keys: Sequence[Key]) -> None:
        """These rows are not waited for any more."""
        with self._moved:
            self._in_flight.difference_update(keys)
            self._since = self.clock() if self._in_flight else None
            self._settle()

    def _settle(self) -> None:
        """Those who wait for rows that are no longer in flight hear of it; those who gave up are forgotten."""
        waiting, self._waiting = self._waiting, []
        for settled, wanted in waiting:
            if settled.cancelled():
                continue
            if not self._in_flight.isdisjoint(wanted):
                self._waiting.append((settled, wanted))
            elif settled.set_running_or_notify_cancel():
                settled.set_result(None)

    def _failed(self, error: Exception) -> None:
        """Nothing is asked for a while; where this role may not write, never again."""
        refused = isinstance(error, REFUSED) or isinstance(error.__cause__, REFUSED)
        self._disconnect()
        while not self._asked.empty() and not self._stop.is_set():
            self._asked.get_nowait()
        with self._moved:
            seconds = LASTING_SECONDS if isinstance(error, AnswerIsNo) else RETRY_SECONDS
            self._quiet_until = float("inf") if refused else self.clock() + seconds
            self._in_flight.clear()
        self._landed([])
        self.warn(first_line(error))

    # --- figures

    def _count(self, conn: Connection, did: Tally) -> None:
        count_texts(conn, self.registry, self.space, did)

    def _look(self, conn: Connection, did: Tally) -> None:
        """What was spent for readers before, and by other processes."""
        whole = ReadCountsTable(self.registry.schema).total(conn, self.space).cost
        self.limit.note_elsewhere(self.space, max(0.0, whole - self._own_cost - (did.cost or 0.0)))

    def _flush_aside(self) -> None:
        self._loop.run_in_executor(None, self._flush)

    def _flush(self) -> None:
        """On a connection of its own: no read and no row waits for a figure."""
        with self._moved:
            counts, self.counts = self.counts, ReadCounts()
        if not counts.reads:
            return
        try:
            with self.database.connect("read counts") as conn:
                ReadCountsTable(self.registry.schema).add(conn, self.space, counts)
        except (psycopg.Error, EmbedmigError) as error:
            self.warn(f"reads are not counted: {first_line(error)}")
