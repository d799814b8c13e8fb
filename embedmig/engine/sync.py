"""Sync: takes captured changes into every live space, so that the version to go back to is as fresh as the one shown.

Safe to run anywhere, any number of times at once, beside a running upgrade: entries are claimed, rows are written
under their content hash. One provider that is down does not stop the other spaces.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field

from embedmig.config import ThrottleSettings
from embedmig.database import Connection, Database, translated
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.embedders import model_check
from embedmig.embedders.blocking import wait_for
from embedmig.embedders.encoder import Encoder
from embedmig.engine.backfill import live_requests
from embedmig.engine.carry import carry_moved
from embedmig.engine.context import RunContext, SpendingLimit
from embedmig.engine.once import MOST_BYTES
from embedmig.engine.outbox import LIVE, Changes
from embedmig.engine.pipeline import Pipeline, Request
from embedmig.engine.rescan import rescan
from embedmig.engine.throttle import Throttle
from embedmig.errors import AnswerIsNo, EmbedderError, EmbedmigError, MissingExtra, StoreError
from embedmig.source import Source
from embedmig.stores import Manifest, open_manifest
from embedmig.stores.presence import lost_text
from embedmig.types import Tally

LISTING_SECONDS = 600.0
"""Between two listings of an adopted collection in `sync --follow`, unless the collection has a period for `rescan`."""


def is_listed(record: SpaceRecord) -> bool:
    """Whether only a listing tells what is in a space: the application writes it, beside PostgreSQL."""
    return record.adopted and record.space.external


@dataclass(frozen=True, slots=True)
class Synced:
    """What one pass did to one space; ``error`` says why it did no more, ``hint`` what to do, and ``exit_code`` of what kind
    that was: 3 is a no (a model that changed, a budget that is used up). ``version`` is empty where the collection could not
    be looked at.
    """

    collection: str
    version: str
    rows: int
    failed: int
    waiting: int
    oldest_seconds: float
    error: str | None
    exit_code: int = 0
    hint: str | None = None

    @classmethod
    def failed_with(cls, collection: str, version: str, error: EmbedmigError) -> Synced:
        """Nothing was done, and why."""
        return cls(collection, version, 0, 0, 0, 0.0, error.message, error.exit_code, error.hint)


class KeptConnections:
    """Connections of the passes of a process that goes on: those of passes that ended well are used again. Close it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._idle: list[Connection] = []

    @contextmanager
    def __call__(self, purpose: str) -> Iterator[Connection]:
        """A connection for as long as a pass takes; closed where the pass fails, so that what it claimed is free at once."""
        conn = self._idle.pop() if self._idle else self._database.connect(purpose)
        try:
            yield conn
        except BaseException:
            conn.close()
            raise
        if not conn.closed:
            self._idle.append(conn)

    def close(self) -> None:
        while self._idle:
            self._idle.pop().close()


@dataclass
class Sync:
    """Passes over the live spaces of one collection. ``encoder`` gives a space's model, as it was when it was made, and
    ``limit`` what it may spend. ``listed`` is when adopted collections of stores beside PostgreSQL were listed, by space, on the
    monotonic clock. ``connect`` gives the passes their connections: new ones, unless something else is said.
    """

    database: Database
    registry: Registry
    source: Source
    encoder: Callable[[SpaceRecord], Encoder]
    limit: Callable[[SpaceRecord], SpendingLimit]
    context: RunContext
    throttle: ThrottleSettings = field(default_factory=ThrottleSettings)
    connect: Callable[[str], AbstractContextManager[Connection]] | None = None
    listed: dict[int, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._connect = self.connect or self.database.connect

    def once(self, only: str | None = None) -> list[Synced]:
        """Takes in what waits now, all spaces at the same time; ``only`` names one version. What goes wrong with one of several
        is an answer like any other; raises what goes wrong with all of them.
        """
        records = [record for record in self.spaces(now=True) if only in (None, record.version)]
        with ThreadPoolExecutor(max(1, len(records)), thread_name_prefix="embedmig-sync") as threads:
            passes = [threads.submit(self.space, record) for record in records]
        failures = [one.exception() for one in passes]
        if failures and all(failures):
            raise next(one for one in failures if one)
        return [
            Synced.failed_with(record.collection, record.version, failure)
            if isinstance(failure, EmbedmigError) else one.result()
            for record, one, failure in zip(records, passes, failures, strict=True)
        ]  # fmt: skip

    def spaces(self, *, now: bool = False) -> list[SpaceRecord]:
        """The live spaces that embedmig writes; where triggers don't see all changes, looks for them first, and ``now`` for
        those, too, that take a scan of the table."""
        with translated("syncing"), self._connect("sync reader") as reading:
            rescan(reading, self.registry, self.source, now=now)
            found = self.registry.spaces(reading, self.source.collection.name)
            written = [record for record in found if record.state in LIVE and record.writer == "embedmig"]
            listed = [record for record in found if record.live and is_listed(record) and (now or self._is_due(record))]
            return [record for record in written if not lost_text(self.source, record)] + listed

    def _is_due(self, record: SpaceRecord) -> bool:
        """Whether an adopted collection was last listed so long ago: that reads all of its points."""
        period = self.source.collection.rescan or LISTING_SECONDS
        return time.monotonic() - self.listed.get(record.id, float("-inf")) >= period

    def space(self, record: SpaceRecord) -> Synced:
        """One pass over one space. A model that fails is an answer, not an error: the other spaces go on."""
        if is_listed(record):
            return self._list(record)
        store, tally, error, code = open_manifest(self.source, record), Tally(), None, 0
        changes = Changes(self.registry, store)
        with translated("syncing"), self._connect("sync reader") as reading:
            store.check_key(reading)
            while changes.distribute(reading):
                pass
            if not self.context.stop.is_set():
                try:
                    if changes.waiting(reading).count:
                        tally = self._drain(reading, store)
                    store.collect(reading)
                except (EmbedderError, MissingExtra, AnswerIsNo, StoreError) as failed:
                    error, code = failed.message, failed.exit_code
                if error or tally.rows:  # entries that wait for another try say nothing about the model
                    self.registry.save_model_error(reading, record.id, error)
            left = changes.waiting(reading)
            if error:
                reading.close()  # what is claimed and was not asked for is free at once
        return Synced(
            record.collection, record.version, tally.rows, tally.failed, left.count, left.oldest_seconds, error, code
        )

    def _list(self, record: SpaceRecord) -> Synced:
        """What the application has written into a collection of its own since it was listed last is taken note of."""
        self.listed[record.id] = time.monotonic()
        with translated("syncing"), self._connect("sync reader") as reading:
            try:
                rows = open_manifest(self.source, record).reread(reading)
            except StoreError as failed:
                return Synced.failed_with(record.collection, record.version, failed)
        return Synced(record.collection, record.version, rows, 0, 0, 0.0, None)

    def _drain(self, reading: Connection, store: Manifest) -> Tally:
        with self.database.connect("sync writer") as writing:
            store.prepare_writer(writing)
            carry_moved(writing, store)
            model_check.check_once(self.database.url, reading, self.registry, store.record, self.encoder(store.record))
            encoder = self.encoder(store.record)  # another one: the check closes its own
            limit = self.limit(store.record)
            remembers = 0 if limit.price == 0 else MOST_BYTES
            pipeline = Pipeline(self.registry, store, encoder, writing, self.context, limit, remembers=remembers)
            throttle = Throttle(self.registry, store.record.collection, self.context, self.throttle)
            wait_for(self._embed(reading, pipeline, throttle))
        return pipeline.tally

    async def _embed(self, reading: Connection, pipeline: Pipeline, throttle: Throttle) -> None:
        async def feed() -> AsyncIterator[Request]:
            changes = Changes(self.registry, pipeline.store)
            async for request in live_requests(reading, changes, pipeline.request_size):
                await throttle.wait(reading, len(request.rows))
                yield request
                if pipeline.halting():
                    return

        try:
            await pipeline.run(feed())
        finally:
            await pipeline.encoder.embedder.aclose()


def space_pass(sync: Sync, record: SpaceRecord) -> Synced:
    """A pass over a space. What goes wrong with it, its table dropped under it included, is an answer like any other."""
    try:
        return sync.space(record)
    except EmbedmigError as failure:
        return Synced.failed_with(record.collection, record.version, failure)
