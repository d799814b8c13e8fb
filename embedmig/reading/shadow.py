"""Shadow reads: a share of the reads is repeated on another version, in the background.

One bounded thread; when its queue is full, reads are dropped, and nothing that goes wrong in it reaches the answer.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random

import psycopg

from embedmig.config.settings import EmbedderSettings
from embedmig.database import Connection, Database, first_line
from embedmig.database.registry import Registry
from embedmig.errors import (
    DatabaseUnavailable,
    EmbedderError,
    PlaceMissing,
    StoreThrottled,
    StoreUnreachable,
    UsageError,
)
from embedmig.gates.evidence_table import EvidenceTable, ShadowRead
from embedmig.quality.measures import overlap
from embedmig.stores.search import (
    NO_STORES,
    Resolved,
    Stores,
    VersionNotReady,
    encode_query,
    nearest,
    resolve_version,
)
from embedmig.types import Hit

QUEUE = 100  # reads that wait; more are dropped
DEPTH = 10  # overlap is kept at ten, however many rows the application asked for
CLOSING_SECONDS = 5.0
PRUNE_EVERY = 500

log = logging.getLogger("embedmig.shadow")


@dataclass(frozen=True, slots=True)
class ShadowTask:
    """A read that was answered: the text, its vector, the version that answered, the hits, and the time."""

    text: str
    vector: Sequence[float]
    shown: Resolved
    hits: Sequence[Hit]
    k: int
    milliseconds: float


class Shadow:
    """Asks ``version`` a share ``rate`` of the reads that it is offered, and keeps what it saw.

    Raises :class:`UsageError` for a rate outside 0 to 1; nothing afterwards.
    """

    def __init__(
        self,
        database: Database,
        collection: str,
        version: str,
        rate: float,
        settings: Mapping[str, EmbedderSettings],
        random: Random,
        keep_texts: bool = False,
        stores: Stores = NO_STORES,
    ) -> None:
        if not 0 < rate <= 1:
            raise UsageError(f"shadow: rate {rate} is not a share", hint="above 0, at most 1, such as 0.05")
        self.version = version
        self.dropped = 0
        self._rate, self._random = rate, random
        self._queue: queue.Queue[ShadowTask | None] = queue.Queue(QUEUE)
        self._worker = ShadowWorker(database, collection, version, settings, keep_texts, stores)
        self._thread: threading.Thread | None = None
        self._over = threading.Event()

    def offer(self, task: ShadowTask) -> None:
        """Takes a read if its turn comes and there is room. Never waits, never raises."""
        if self._over.is_set() or task.shown.version == self.version or self._random.random() >= self._rate:
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="embedmig-shadow", daemon=True)
            self._thread.start()
        try:
            self._queue.put_nowait(task)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Waits for what is queued, five seconds at most."""
        if self._thread is None or self._over.is_set():
            return
        deadline = time.monotonic() + CLOSING_SECONDS
        try:
            self._queue.put(None, timeout=CLOSING_SECONDS)
        except queue.Full:
            self._over.set()
        self._thread.join(max(0.0, deadline - time.monotonic()))
        self._over.set()

    def _run(self) -> None:
        """The thread. Whatever ends it, the reads go on, and one warning is logged."""
        try:
            while not self._over.is_set() and (task := self._queue.get()) is not None:
                self._worker.serve(task)
        except Exception as error:  # noqa: BLE001  whatever it is, it must not reach the application
            log.warning("shadow reads of %s have stopped: %s", self.version, first_line(error))
        finally:
            self._over.set()
            self._worker.close()


class ShadowWorker:
    """The other side of the queue, with a connection, an event loop and a model of its own."""

    def __init__(
        self,
        database: Database,
        collection: str,
        version: str,
        settings: Mapping[str, EmbedderSettings],
        keep_texts: bool,
        stores: Stores,
    ) -> None:
        self.collection, self.version, self._stores = collection, version, stores
        self._database, self._settings, self._keep_texts = database, settings, keep_texts
        self._registry, self._kept = Registry(database.schema), EvidenceTable(database.schema)
        self._conn: Connection | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._other: Resolved | None = None
        self._served = 0

    def serve(self, task: ShadowTask) -> None:
        """One read. A database out of reach or a space not ready passes it by; raises for a retired one."""
        try:
            conn = self._connection()
            if self._other is None:
                self._other = self._resolve(conn)
            self._kept.add_read(conn, self._read(conn, task, self._other))
            self._served += 1
            if self._served % PRUNE_EVERY == 0:
                self._kept.prune_reads(conn, self.collection, self.version)
        except (DatabaseUnavailable, VersionNotReady, psycopg.OperationalError, StoreUnreachable, StoreThrottled):
            return
        except (psycopg.errors.UndefinedTable, PlaceMissing):
            self._other = None  # retired a moment ago, or the alias is away: the registry knows
            self._resolve(self._connection())

    def _resolve(self, conn: Connection) -> Resolved:
        return resolve_version(conn, self._registry, self.collection, self.version, self._settings, self._stores)

    def close(self) -> None:
        """Gives connection and model back."""
        if self._loop is not None:
            if self._other is not None:
                self._loop.run_until_complete(self._other.encoder.embedder.aclose())
            self._loop.close()
        if self._conn is not None:
            self._conn.close()

    def _connection(self) -> Connection:
        if self._conn is None or self._conn.broken or self._conn.closed:
            self._conn = self._database.connect("shadow", own=False)
        return self._conn

    def _read(self, conn: Connection, task: ShadowTask, other: Resolved) -> ShadowRead:
        """Asks the other version; its model's failure is part of what is measured."""
        text, active = task.text if self._keep_texts else None, task.shown.version
        began = time.perf_counter()
        self._loop = self._loop or asyncio.new_event_loop()
        try:
            vector = self._loop.run_until_complete(encode_query(other.encoder, task.text))
            hits = nearest(conn, other, vector, DEPTH)
        except (EmbedderError, UsageError) as error:
            said = f"{type(error).__name__}: {first_line(error)}".replace(task.text, "…")[:300]
            return ShadowRead(self.collection, active, self.version, DEPTH, error=said, query=text)
        took = (time.perf_counter() - began) * 1000
        shown = task.hits if task.k >= DEPTH else nearest(conn, task.shown, task.vector, DEPTH)
        share = overlap([hit.key_text for hit in shown], [hit.key_text for hit in hits], DEPTH)
        return ShadowRead(self.collection, active, self.version, DEPTH, share, task.milliseconds, took, None, text)
