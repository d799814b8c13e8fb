"""What an application uses to search: the alias says which version it shows, and the version says which model encodes.

A query is never encoded by a model other than the one that made the vectors it is compared with, whatever the
configuration says by now; and every read filters on the version, so that a flip in between gives no row of another.
"""

from __future__ import annotations

import asyncio
import random as randomness
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from embedmig.config.settings import EmbedderSettings, StoreSettings
from embedmig.database import Connection, Database, first_line, ident, scalar
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import AliasRecord, Registry
from embedmig.embedders.blocking import wait_for
from embedmig.errors import AliasMoved, EmbedderError, EmbedmigError, MissingExtra, PlaceMissing, UsageError
from embedmig.reading.canary import Canary, Share, Tenants
from embedmig.reading.rerank import BUDGET_MS, Reranker, RerankOptions
from embedmig.reading.rescue import PATIENCE, RETRY_SECONDS, BridgedEncoder, bridged, log
from embedmig.reading.shadow import Shadow, ShadowTask
from embedmig.stores.aliases import CHANNEL
from embedmig.stores.manifest import Manifest
from embedmig.stores.search import Resolved, encode_query, find_manifest, nearest, resolve_alias, resolve_version
from embedmig.types import RERANK_DEPTH, Hit, Hits

T = TypeVar("T")

REPLACED = (
    psycopg.errors.UndefinedFunction,
    psycopg.errors.DataException,
    psycopg.errors.UndefinedTable,
    psycopg.errors.UndefinedColumn,
)
TRIES = 5  # flips during one search before it gives up


@dataclass(frozen=True, slots=True)
class QueryVector:
    """A query's vector ``(dimensions,)``, and the version that it may be compared with. Cache it under fingerprint and text."""

    vector: tuple[float, ...]
    version: str
    fingerprint: str


class Reader:
    """Searches a collection through its alias.

    ``settings`` say how to reach each provider; what the model *is* comes from the alias. ``lazy`` notes which rows
    were found, so that a backfill with ``order="hot"`` embeds those first. One reader serves one thread; close it, or use it
    as a context manager. Raises :class:`UsageError` where there is nothing to be shown.

    ``shadow`` is a version on which a share ``rate`` of the reads is repeated in the background; the result is
    kept in the database, without the texts unless ``keep_texts``. ``canary`` is a version that answers a share of the
    reads itself, and those of the tenants that ``canary_for`` names (a set, or a function). If either fails,
    the active version answers and one warning is logged. ``random`` draws the shares.

    ``rerank`` is a version that ranks what the active one finds: the nearest ``depth`` rows, in all reads or a share
    ``rerank_share`` of them, and in those that ``rerank_for`` names (tenants, a function of one, or columns with the values that
    ``where`` has to have). Vectors that it lacks are embedded within ``budget_ms`` and kept, ``max_texts`` a read at most; where
    some still lack then, the active version's answer is given.

    ``bridge`` is a version whose model encodes the queries, mapped by the bridge that was fitted from it to the active one; with
    ``rescue``, the newest bridge is used while the active version's own model can't be reached. ``stores`` say how to reach stores beside
    PostgreSQL, by the names that versions give them.
    """

    def __init__(
        self,
        url: str | Database,
        collection: str,
        *,
        schema: str = "embedmig",
        settings: Mapping[str, EmbedderSettings] | None = None,
        lazy: bool = False,
        shadow: str | None = None,
        rate: float = 0.05,
        keep_texts: bool = False,
        canary: str | None = None,
        share: float | None = None,
        canary_for: Collection[str] | Callable[[str], bool] | None = None,
        rerank: str | None = None,
        depth: int = RERANK_DEPTH,
        budget_ms: float = BUDGET_MS,
        max_texts: int | None = None,
        rerank_share: float | None = None,
        rerank_for: Tenants | None = None,
        bridge: str | None = None,
        rescue: bool = False,
        random: randomness.Random | None = None,
        stores: Mapping[str, StoreSettings] | None = None,
    ) -> None:
        self.collection = collection
        self.lazy = lazy
        self._database = Database(url, schema) if isinstance(url, str) else url
        self._registry = Registry(self._database.schema)
        self._settings, self._stores = settings or {}, stores or {}
        chance = random or randomness.Random()  # noqa: S311  a sample, not a secret
        self._canary = Canary(canary, share, canary_for, chance) if canary else None
        self._rerank, self._options = rerank, RerankOptions(depth, budget_ms, max_texts)
        self._rerank_share = Share("rerank", rerank_share, rerank_for, chance, 1.0)
        self._rerankers: dict[str, Reranker] = {}
        self._bridge, self._rescue, self._retry_at = bridge, rescue, 0.0
        self._shadow = (
            Shadow(self._database, collection, shadow, rate, self._settings, chance, keep_texts, self._stores)
            if shadow
            else None
        )
        self._loop = asyncio.new_event_loop()
        self._resolved: Resolved | None = None
        self._manifests: dict[str, Manifest] = {}
        self._conn = self._connect()

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives connection and model back; shadow reads that are queued are waited for, five seconds at most."""
        if self._shadow:
            self._shadow.close()
        for reranker in self._rerankers.values():
            reranker.close()
        self._forget()
        self._loop.close()
        self._conn.close()

    @property
    def version(self) -> str:
        """The version that the alias shows, as far as this reader has heard."""
        return self._current().version

    @property
    def fingerprint(self) -> str:
        """Part of the key under which an application caches a query's vector: it changes with every flip."""
        return self._current().fingerprint

    def encode(self, text: str) -> QueryVector:
        """A query's vector, with the version it can be compared with. Raises :class:`UsageError` for an empty text."""
        require_text(text)
        current = self._current()
        try:
            vector = wait_for(encode_query(current.encoder, text), self._loop)
        except EmbedderError as error:
            current = self._rescued(error)
            vector = wait_for(encode_query(current.encoder, text), self._loop)
        return QueryVector(vector, current.version, current.fingerprint)

    def search(
        self, text: str, k: int = 10, *, where: Mapping[str, Any] | None = None, tenant: str | None = None,
        rerank: str | bool | None = None, depth: int | None = None, budget_ms: float | None = None, max_texts: int | None = None,
    ) -> Hits:  # fmt: skip
        """The ``k`` nearest rows to ``text``, nearest first, each by its nearest chunk, all of one version. ``tenant`` is who asks,
        for a canary and for re-ranking.

        ``where`` gives values that key or ``columns`` of the alias must have (a list: one of them); where at least ``k``
        rows have them, ``k`` are found. Shadow reads are of searches without it. ``rerank`` is a version for this search, True the
        reader's in any case, False none; ``depth``, ``budget_ms`` and ``max_texts`` are as for the reader.

        If the alias flips while the query is encoded, the query is encoded anew for the version it shows then. A
        connection that was lost is opened again. Raises :class:`DatabaseUnavailable` where that can't be done.
        """
        require_text(text)
        version = self._reranks(rerank, tenant, where)
        given: dict[str, Any] = {"depth": depth, "budget_ms": budget_ms, "max_texts": max_texts}
        options = replace(self._options, **{name: value for name, value in given.items() if value is not None})
        for _ in range(TRIES):
            try:
                if (
                    self._canary
                    and self._canary.picks(tenant)
                    and (found := self._ask_canary(text, k, where)) is not None
                ):
                    return found
                return self._ask(text, k, where, version, options)
            except AliasMoved:
                self._forget()
            except psycopg.OperationalError:
                if not self._conn.broken:
                    raise
                self._reconnect()
        raise AliasMoved(f"the alias of {self.collection} moved {TRIES} times during one search")

    def nearest(self, query: QueryVector, k: int = 10, *, where: Mapping[str, Any] | None = None) -> list[Hit]:
        """The ``k`` nearest rows to a vector that :meth:`encode` made, perhaps a while ago; ``where`` as in :meth:`search`.

        Raises :class:`AliasMoved` where it was made for another version than the alias shows: a comparison across
        versions would raise nothing and return wrong rows.
        """
        current = self._current()
        if query.version != current.version or query.fingerprint != current.fingerprint:
            raise AliasMoved(
                f"the query's vector was made for {query.version}, and the alias shows {current.version}",
                hint="encode the query again; use the fingerprint as part of the cache's key",
            )
        hits = self._read(current, query.vector, k, where)
        if not hits and self._showing() != current.version:
            raise AliasMoved(f"the alias of {self.collection} moved away from {current.version}")
        if self.lazy and hits:
            self._registry.note_reads(self._conn, self.collection, [hit.key_text for hit in hits])
        return hits

    def text(self, hit: Hit) -> str | None:
        """The passage that was found: the hit's chunk, or the row's whole text where texts are not cut.

        None where the row is gone by now, or where the text was edited since it was cut. Wants SELECT on the source too and,
        of a chunked version, on its space. Raises :class:`UsageError` where the version is gone.
        """
        self._current()  # hears of flips: the collection may be another one since
        if hit.version not in self._manifests:
            self._manifests[hit.version] = find_manifest(
                self._conn, self._registry, self.collection, hit.version, self._stores
            )
        return self._manifests[hit.version].passage(self._conn, hit.key_text, hit.chunk)

    # --- helpers

    def _reranks(self, wanted: str | bool | None, tenant: str | None, where: Mapping[str, Any] | None) -> str | None:
        """The version that re-ranks this read."""
        if isinstance(wanted, str):
            return wanted
        if wanted and self._rerank is None:
            raise UsageError("this reader has no version to re-rank with", hint='search(…, rerank="VERSION")')
        chosen = self._rerank is not None and wanted is None and self._rerank_share.picks(tenant, where)
        return self._rerank if chosen or wanted else None

    def _ask(
        self, text: str, k: int, where: Mapping[str, Any] | None, version: str | None, options: RerankOptions
    ) -> Hits:
        """What the alias shows, perhaps re-ranked; a shadow hears of it when the answer is there."""
        began = time.perf_counter()
        reranker = self._reranker(version)
        read = reranker.begin(self._conn, text, options) if reranker else ""
        query = self.encode(text)
        if reranker is None or isinstance(read, str):
            hits = self.nearest(query, k, where=where)
            found = Hits(hits, served_by=query.version, why=read if isinstance(read, str) else "")
        else:
            hits = self.nearest(query, max(k, options.depth), where=where)
            found = reranker.rank(self._conn, read, hits, k)
        if self._resolved and isinstance(self._resolved.encoder, BridgedEncoder):
            found.bridged_from, found.loss = self._resolved.encoder.by, self._resolved.encoder.loss
        if self._shadow and self._resolved and not where:
            milliseconds = (time.perf_counter() - began) * 1000
            self._shadow.offer(ShadowTask(text, query.vector, self._resolved, hits[:k], k, milliseconds))
        return found

    def _reranker(self, version: str | None) -> Reranker | None:
        """None while the alias shows that version itself."""
        if version is None or version == self._current().version:
            return None
        if version not in self._rerankers:
            self._rerankers[version] = Reranker(self._database, self.collection, version, self._settings, self._stores)
        return self._rerankers[version]

    def _ask_canary(self, text: str, k: int, where: Mapping[str, Any] | None) -> Hits | None:
        """The canary's own answer; None where the alias's version has to answer instead, as it has while it is that one."""
        canary = self._canary
        assert canary is not None
        if canary.version == self._current().version or not canary.available:
            return None
        try:
            if canary.resolved is None:
                canary.resolved = resolve_version(
                    self._conn, self._registry, self.collection, canary.version, self._settings, self._stores
                )
            vector = wait_for(encode_query(canary.resolved.encoder, text), self._loop)
            return Hits(nearest(self._conn, canary.resolved, vector, k, where=where), served_by=canary.version)
        except (EmbedmigError, psycopg.Error) as error:
            if self._conn.broken:
                raise
            canary.failed(error)
            return None

    def _connect(self) -> Connection:
        conn = self._database.connect("reader", own=False)
        self._standby = bool(scalar(conn, "select pg_is_in_recovery()"))
        if not self._standby:  # a standby hears no notes
            conn.execute(sql.SQL("listen {}").format(ident(CHANNEL)))
        return conn

    def _reconnect(self) -> None:
        """Notes may have been missed meanwhile, so what was known of the alias is forgotten too."""
        self._conn.close()
        self._conn = self._connect()
        self._forget()

    def _forget(self) -> None:
        """What is known of the alias is out of date; its model is let go in the loop that it was used in."""
        if self._resolved is not None:
            wait_for(self._resolved.encoder.embedder.aclose(), self._loop)
        self._resolved, self._retry_at = None, 0.0
        self._manifests.clear()
        for reranker in self._rerankers.values():
            reranker.forget()
        if self._canary and self._canary.resolved:  # the columns shown go with the alias
            wait_for(self._canary.resolved.encoder.embedder.aclose(), self._loop)
            self._canary.resolved = None

    def _current(self) -> Resolved:
        """What the alias shows, as far as is known: a flip says so by NOTIFY, and an empty result asks again."""
        if self._loop.is_closed():
            raise UsageError(f"the reader of {self.collection} is closed", hint="open another: Reader(url, collection)")
        if any(note.payload == self.collection for note in self._conn.notifies(timeout=0)):
            self._forget()
        if self._standby and self._resolved and self._showing() != self._resolved.version:
            self._forget()
        if self._retry_at and time.monotonic() >= self._retry_at:
            self._forget()
        if self._resolved is None:
            self._resolved = self._resolve()
        return self._resolved

    def _showing(self) -> str | None:
        record = self._registry.alias(self._conn, self.collection)
        return record.version if record else None

    def _resolve(self) -> Resolved:
        record = self._alias()
        if self._bridge is not None and self._bridge != record.version:
            return self._through(record, self._bridge)
        settings = self._settings
        if self._rescue:
            settings = {
                name: replace(one, give_up_after=min(one.give_up_after, PATIENCE)) for name, one in settings.items()
            }
        try:
            return resolve_alias(self._conn, record, settings, self._stores)
        except (EmbedderError, MissingExtra) as error:
            return self._rescued(error)

    def _alias(self) -> AliasRecord:
        record = None
        if ledger_exists(self._conn, self._database.schema):
            record = self._registry.alias(self._conn, self.collection)
        if record is None or record.version is None or record.encoder is None:
            raise UsageError(
                f"the alias of {self.collection!r} shows no version yet",
                hint="embedmig upgrade head creates and fills it",
            )
        return record

    def _through(self, record: AliasRecord, by: str | None) -> Resolved:
        """The active version, searched through a bridge."""
        encoder = bridged(self._conn, self._registry, record, by, self._settings)
        return resolve_alias(self._conn, record, self._settings, self._stores, encoder)

    def _rescued(self, error: EmbedmigError) -> Resolved:
        """The active version through a bridge, where its own model can't be reached and that is allowed. Raises ``error`` else."""
        if not self._rescue or (self._resolved and isinstance(self._resolved.encoder, BridgedEncoder)):
            raise error
        try:
            self._resolved = self._through(self._alias(), None)
        except EmbedmigError as none:
            raise error from none
        self._retry_at = time.monotonic() + RETRY_SECONDS
        encoder = self._resolved.encoder
        assert isinstance(encoder, BridgedEncoder)
        log.warning("%s is searched through a bridge from %s (%s): %s", self._resolved.version, encoder.by, encoder.loss, first_line(error))  # fmt: skip
        return self._resolved

    def _read(self, current: Resolved, vector: Sequence[float], k: int, where: Mapping[str, Any] | None) -> list[Hit]:
        try:
            return nearest(self._conn, current, vector, k, where=where)
        except (*REPLACED, PlaceMissing):
            # The view was replaced between resolving and reading, by one of another type, dimension or store.
            if self._showing() == current.version:
                raise
            return []


class AsyncReader:
    """:class:`Reader` for applications on asyncio: the same promises, its work on a thread of its own."""

    def __init__(self, url: str, collection: str, **options: Any) -> None:
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="embedmig-reader")
        self._make = partial(Reader, url, collection, **options)
        self._reader: Reader | None = None

    async def __aenter__(self) -> AsyncReader:
        self._reader = await self._call(self._make)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._call(self._open.close)
        self._thread.shutdown()

    @property
    def _open(self) -> Reader:
        if self._reader is None:
            raise UsageError("the reader is not open", hint="async with AsyncReader(…) as reader: …")
        return self._reader

    async def _call(self, work: Callable[..., T], *arguments: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def encode(self, text: str) -> QueryVector:
        """As :meth:`Reader.encode`."""
        return await self._call(self._open.encode, text)

    async def search(
        self, text: str, k: int = 10, *, where: Mapping[str, Any] | None = None, tenant: str | None = None,
        rerank: str | bool | None = None, depth: int | None = None, budget_ms: float | None = None, max_texts: int | None = None,
    ) -> Hits:  # fmt: skip
        """As :meth:`Reader.search`."""
        options: dict[str, Any] = {"rerank": rerank, "depth": depth, "budget_ms": budget_ms, "max_texts": max_texts}
        return await self._call(partial(self._open.search, text, k, where=where, tenant=tenant, **options))

    async def nearest(self, query: QueryVector, k: int = 10, *, where: Mapping[str, Any] | None = None) -> list[Hit]:
        """As :meth:`Reader.nearest`."""
        return await self._call(partial(self._open.nearest, query, k, where=where))

    async def text(self, hit: Hit) -> str | None:
        """As :meth:`Reader.text`."""
        return await self._call(self._open.text, hit)


def require_text(text: str) -> None:
    """Raises :class:`UsageError` for a query without words."""
    if not text.strip():
        raise UsageError("the query is empty", hint="a text without words has no vector")
