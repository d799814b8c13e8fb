"""Re-ranking reads: the active version finds candidates by its own encoder, another version alone ranks them by its own.

The other version need not be complete: what it lacks of the candidates is embedded within the read's budget and written into
its space, which is so filled by reading. Where some still lack a vector then, the active version's order is the answer: no
answer is ranked by two versions.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from functools import partial

import psycopg

from embedmig.config.settings import EmbedderSettings
from embedmig.database import Connection, Database, Turn, first_line, in_thread, result_of
from embedmig.database.registry import Registry
from embedmig.embedders.encoder import Encoder
from embedmig.embedders.shared_limits import SharedRateBudget
from embedmig.engine.context import SpendingLimit
from embedmig.engine.on_demand import REFUSED, OnDemand
from embedmig.engine.read_counts import ReadCounts
from embedmig.errors import EmbedmigError, UsageError
from embedmig.planning.prices import price
from embedmig.reading.canary import Rest
from embedmig.reading.connections import Lost
from embedmig.source.rows import Key
from embedmig.stores import Manifest
from embedmig.stores.search import Ranker, Stores, encoder_for, find_manifest
from embedmig.types import MAX_RERANK_DEPTH, RERANK_DEPTH, Hit, Hits, Space

Lend = Callable[[], AbstractContextManager[Connection]]

BUDGET_MS = 150.0
PATIENCE = 10.0  # seconds that an API may go without a success before reads do without it
TIMEOUTS = 3  # queries in a row that were not encoded in time, before reads do without for a while


@dataclass(frozen=True, slots=True)
class RerankOptions:
    """``depth`` candidates; the milliseconds that a read may take longer; and the most of its texts that are embedded for it.

    Raises :class:`UsageError` for numbers that can't be.
    """

    depth: int = RERANK_DEPTH
    budget_ms: float = BUDGET_MS
    max_texts: int | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.depth <= MAX_RERANK_DEPTH:
            raise UsageError(f"rerank: depth {self.depth} is not from 1 to {MAX_RERANK_DEPTH:,}")
        if self.budget_ms <= 0 or (self.max_texts is not None and self.max_texts < 0):
            raise UsageError("rerank: budget_ms is above 0, max_texts 0 or more")


class NotRanked(Exception):
    """The other version can't answer this read; says why, and how many of the candidates it lacks."""

    def __init__(self, why: str, missing: int = 0, *, budget_ended: bool = False) -> None:
        super().__init__(why)
        self.why, self.missing, self.budget_ended = why, missing, budget_ended


@dataclass
class RerankedRead:
    """A read on its way: its query at the other version's model, and where that version's vectors are, whatever flips meanwhile."""

    query: Future[tuple[float, ...]]
    options: RerankOptions
    ranker: Ranker
    deadline: float = 0.0
    lacked: int = 0
    budget_ended: bool = False


class Reranker:
    """One reader's side of a version that re-ranks. What embeds is shared by all readers of the process."""

    def __init__(
        self,
        database: Database,
        collection: str,
        version: str,
        settings: Mapping[str, EmbedderSettings],
        stores: Stores,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.version, self._collection = version, collection
        self._database, self._registry = database, Registry(database.schema)
        self._settings, self._stores, self._clock = settings, stores, clock
        self._rest = Rest("embedmig.rerank", f"{version} does not re-rank, the active version answers", clock)
        self._ranker: Ranker | None = None
        self._may_queue, self._opening = True, Turn()
        self._shared: OnDemand | None = None
        self._late = 0

    def begin(self, lend: Lend, text: str, options: RerankOptions) -> RerankedRead | str:
        """Sends the query to the model, which encodes it while the candidates are looked for; or says why not. ``lend`` gives a
        connection for a while: none is kept while a model is waited for.
        """
        if not self._rest.over:
            return "it failed a moment ago"
        try:
            ranker, shared = self._opened(lend)
            return RerankedRead(shared.encode_query(text), options, ranker)
        except (EmbedmigError, psycopg.Error, RuntimeError) as error:  # the last: what is shared has ended
            return self._failed(error)

    def rank(self, lend: Lend, read: RerankedRead, hits: Sequence[Hit], k: int) -> Hits:
        """The best ``k`` of ``hits`` by the version's own distance; as they are where it can't rank all of them."""
        read.deadline = self._clock() + read.options.budget_ms / 1000
        recalled_by = hits[0].version if hits else ""
        try:
            ranked = self._rank(lend, read, hits)
        except NotRanked as no:
            self._note(read, hits, no)
            return Hits(
                hits[:k], served_by=recalled_by, candidates=len(hits), missing=no.missing,
                embedded=max(0, read.lacked - no.missing), budget_ended=no.budget_ended, why=no.why,
            )  # fmt: skip
        self._note(read, hits, None)
        return Hits(
            ranked[:k], served_by=self.version, recalled_by=recalled_by, candidates=len(hits), embedded=read.lacked,
        )  # fmt: skip

    def forget(self) -> None:
        """The alias has moved, or what is known of the version is out of date."""
        self._ranker = None

    def close(self) -> None:
        """The last reader of the process ends what embeds."""
        if self._shared is not None:
            in_thread(partial(_give_back, self._shared))
            self._shared = None

    # --- ranking

    def _rank(self, lend: Lend, read: RerankedRead, hits: Sequence[Hit]) -> list[Hit]:
        ranker, keys = read.ranker, [hit.key_text for hit in hits]
        try:
            # Usually everything is there by now, and one question tells; of a store beside PostgreSQL, its vectors would be fetched twice else.
            if read.query.done() and not ranker.manifest.space.external:
                vector = self._vector(read)
                with lend() as conn:
                    ranked = ranker.rank_current(conn, keys, vector)
                if ranked is not None:
                    return ranked
            lacking = self._lacking(lend, ranker, keys)
            read.lacked = len(lacking)
            if lacking:
                self._fill(lend, read, lacking)
            vector = self._vector(read)
            with lend() as conn:
                return ranker.rank(conn, keys, vector)
        except (EmbedmigError, psycopg.Error) as error:
            raise NotRanked(self._failed(error), read.lacked) from error

    def _in_time(self, shared: OnDemand, keys: Sequence[Key], seconds: float) -> bool:
        """Whether these rows are written, or can't be, before the seconds are over."""
        try:
            result_of(shared.settled(keys), seconds)
        except TimeoutError:
            return False
        return True

    def _lacking(self, lend: Lend, ranker: Ranker, keys: Sequence[Key]) -> dict[Key, bool]:
        with lend() as conn:
            return ranker.lacking(conn, keys)

    def _fill(self, lend: Lend, read: RerankedRead, lacking: Mapping[Key, bool]) -> None:
        """Has what is lacking embedded, and waits as long as there is time. Raises :class:`NotRanked` where some still is."""
        assert self._shared is not None
        ranker = read.ranker
        wanted = [key for key, batched in lacking.items() if not batched]
        asked = wanted[: read.options.max_texts] if ranker.manifest.record.writer == "embedmig" else []
        if not self._shared.available:
            self._queue(lend, ranker, wanted)
            raise NotRanked("its vectors can't be made now", len(lacking))
        self._shared.ask(asked)
        if len(asked) < len(lacking):
            self._queue(lend, ranker, [key for key in wanted if key not in set(asked)])
            raise NotRanked(f"{len(lacking)} candidates have no vector, and {len(asked)} may be embedded", len(lacking))
        in_time = self._in_time(self._shared, asked, read.deadline - self._clock())
        left = len(self._lacking(lend, ranker, asked)) if in_time else len(asked)
        if left:
            why = "its vectors could not be made" if in_time else "the budget ended"
            raise NotRanked(why, left, budget_ended=not in_time)

    def _queue(self, lend: Lend, ranker: Ranker, keys: Sequence[Key]) -> None:
        """A backfill in the order ``hot`` takes them first."""
        if not keys or not self._may_queue:
            return
        try:
            with lend() as conn:
                self._registry.note_reads(conn, self._collection, keys, space=ranker.manifest.record.id)
        except REFUSED:
            self._may_queue = False  # a role that only reads

    def _vector(self, read: RerankedRead) -> tuple[float, ...]:
        try:
            vector = result_of(read.query, read.deadline - self._clock())
        except TimeoutError as error:
            self._late += 1
            if self._late >= TIMEOUTS:
                self._late = 0
                self._rest.begin(error, silent=True)
            raise NotRanked("the query was not encoded in time", budget_ended=True) from error
        except UsageError as error:  # the query's fault
            raise NotRanked(error.message) from error
        self._late = 0
        return vector

    # --- the version

    def _opened(self, lend: Lend) -> tuple[Ranker, OnDemand]:
        """Any version that is there will do, in whatever state. Raises :class:`VersionGone`, and what its encoder raises."""
        if self._ranker is None or self._shared is None:
            with self._opening:
                self._ranker = self._ranker or self._found(lend)
                self._shared = self._shared or self._share_of(self._ranker.manifest)
        return self._ranker, self._shared

    def _found(self, lend: Lend) -> Ranker:
        with lend() as conn:
            manifest = find_manifest(conn, self._registry, self._collection, self.version, self._stores)
            return Ranker(manifest, manifest.shown(conn))

    def _share_of(self, manifest: Manifest) -> OnDemand:
        place = (self._database.url, self._database.schema, self._collection, self.version)
        return in_thread(lambda: _share(place, lambda: self._on_demand(manifest)))

    def _on_demand(self, manifest: Manifest) -> OnDemand:
        space, documents = manifest.space, replace(manifest.space, query_model="")
        settings = self._settings_of(documents)
        return OnDemand(
            self._database, self._registry, manifest.record.id,
            lambda conn: find_manifest(conn, self._registry, self._collection, self.version, self._stores),
            lambda: self._encoder(documents, manifest.record.weights),
            (lambda: self._encoder(space, manifest.record.weights)) if space.query_model else None,
            SpendingLimit(price(documents, settings), settings.max_cost), self._rest.warn,
        )  # fmt: skip

    def _settings_of(self, space: Space) -> EmbedderSettings:
        """Of the provider of its ``query_side``, with less patience than a backfill has."""
        settings = self._settings.get(space.query_side.provider) or EmbedderSettings()
        return replace(settings, give_up_after=min(settings.give_up_after, PATIENCE))

    def _encoder(self, space: Space, weights: str) -> Encoder:
        """Of queries; of documents where the space says no model for queries. It keeps to the limits that it shares with all
        others on this database, in the share of live traffic.
        """
        settings = self._settings_of(space)
        encoder = encoder_for(space, weights, settings)
        if hasattr(encoder.embedder, "share"):
            encoder.embedder.share(SharedRateBudget(self._database, settings, encoder.space.provider, "live"))
        return encoder

    def _failed(self, error: Exception) -> str:
        if isinstance(error, Lost):
            raise error
        self.forget()
        self._rest.begin(error)
        return first_line(error)

    def _note(self, read: RerankedRead, hits: Sequence[Hit], no: NotRanked | None) -> None:
        if self._shared is not None:
            ended = bool(no and no.budget_ended)
            self._shared.note(
                ReadCounts(
                    1, int(no is None), len(hits), len(hits) - read.lacked, int(ended), int(bool(no and not ended))
                )
            )


# --- one a process and version ----------------------------------------------------------------------------------

_lock = threading.Lock()
_users: dict[tuple[str, ...], tuple[OnDemand, int]] = {}


def _share(place: tuple[str, ...], make: Callable[[], OnDemand]) -> OnDemand:
    """The one that is there, or a new one. Give it back."""
    with _lock:
        shared, users = _users.get(place) or (make(), 0)
        _users[place] = shared, users + 1
        return shared


def _give_back(shared: OnDemand) -> None:
    with _lock:
        place = next(place for place, (one, _) in _users.items() if one is shared)
        users = _users[place][1] - 1
        if users:
            _users[place] = shared, users
        else:
            del _users[place]
    if not users:
        shared.close()
