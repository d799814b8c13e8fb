"""What an application uses to search: the alias says which version it shows, and the version says which model encodes.

A query is never encoded by a model other than the one that made the vectors it is compared with, whatever the
configuration says by now; and every read filters on the version, so that a flip in between gives no row of another.
"""

from __future__ import annotations

import asyncio
import random as randomness
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import psycopg

from embedmig.config.settings import EmbedderSettings, StoreSettings
from embedmig.database import Connection, Database, Turn, awaiting, first_line, in_thread
from embedmig.database.cuts_table import CutsTable
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import AliasRecord, Registry
from embedmig.embedders.encoder import Encoder
from embedmig.errors import AliasMoved, CutUnknown, EmbedderError, EmbedmigError, MissingExtra, PlaceMissing, UsageError
from embedmig.reading.canary import Canary, Share, Tenants
from embedmig.reading.connections import Lost, connections_of
from embedmig.reading.query_model import OpenVersion, QueryModel
from embedmig.reading.rerank import BUDGET_MS, Reranker, RerankOptions
from embedmig.reading.rescue import PATIENCE, RETRY_SECONDS, BridgedEncoder, bridged, log
from embedmig.reading.shadow import Shadow, ShadowTask
from embedmig.stores.aliases import space_of
from embedmig.stores.manifest import Manifest
from embedmig.stores.search import Resolved, find_manifest, nearest, resolve_alias, resolve_version
from embedmig.types import RERANK_DEPTH, Hit, Hits, Metric

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
    """Searches a collection through its alias, on a connection of its own where ``url`` is an address, or on the application's: a
    connection or a pool of psycopg's, an engine or a session of SQLAlchemy's. A read is then in the application's transaction.

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

    _size = 1

    def __init__(
        self,
        url: Any,
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
        self._registry = Registry(url.schema if isinstance(url, Database) else schema)
        self._settings, self._stores = settings or {}, stores or {}
        chance = random or randomness.Random()  # noqa: S311  a sample, not a secret
        self._canary = Canary(canary, share, canary_for, chance) if canary else None
        self._rerank, self._options = rerank, RerankOptions(depth, budget_ms, max_texts)
        self._rerank_share = Share("rerank", rerank_share, rerank_for, chance, 1.0)
        self._rerankers: dict[str, Reranker] = {}
        self._bridge, self._rescue, self._retry_at = bridge, rescue, 0.0
        self._loop = asyncio.new_event_loop()
        self._resolved: Resolved | None = None
        self._model: QueryModel | None = None
        self._record: AliasRecord | None = None
        self._manifests: dict[str, Manifest] = {}
        self._closed, self._looking = False, Turn()
        self._connections = connections_of(url, schema, collection, self._size)
        self._shadow = (
            Shadow(
                self._connections.database, collection, shadow, rate, self._settings, chance, keep_texts, self._stores
            )
            if shadow
            else None
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Gives connections and model back; shadow reads that are queued are waited for, five seconds at most."""
        if self._closed:
            return
        if self._shadow:
            in_thread(self._shadow.close)
        for reranker in self._rerankers.values():
            reranker.close()
        self._forget()
        if self._model:
            self._model.retire()
        self._closed = True
        self._loop.close()
        self._connections.close()

    @property
    def version(self) -> str:
        """The version that the alias shows, as far as this reader has heard."""
        return self._up_to_date().version

    @property
    def fingerprint(self) -> str:
        """Part of the key under which an application caches a query's vector: it changes with every flip."""
        return self._up_to_date().fingerprint

    @property
    def metric(self) -> Metric:
        """By which the distances are measured."""
        return self._current().shown.space.metric

    def encode(self, text: str) -> QueryVector:
        """A query's vector, with the version it can be compared with. Raises :class:`UsageError` for an empty text."""
        return self._encode(text)[0]

    def search(
        self, text: str, k: int = 10, *, where: Mapping[str, Any] | None = None, tenant: str | None = None,
        rerank: str | bool | None = None, depth: int | None = None, budget_ms: float | None = None, max_texts: int | None = None,
        cut: str | None = None,
    ) -> Hits:  # fmt: skip
        """The ``k`` nearest rows to ``text``, nearest first, each by its nearest chunk, all of one version. ``tenant`` is who asks,
        for a canary and for re-ranking.

        ``where`` gives values that key or ``columns`` of the alias must have (a list: one of them); where at least ``k``
        rows have them, ``k`` are found. Shadow reads are of searches without it. ``rerank`` is a version for this search, True the
        reader's in any case, False none; ``depth``, ``budget_ms`` and ``max_texts`` are as for the reader.

        ``cut`` is the name of a threshold: of those rows, only those that are as near as it asks in the version that answered.
        Raises :class:`CutUnknown` where it has no value for that version.

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
                    return self._near_enough(found, cut)
                return self._near_enough(self._ask(text, k, where, version, options), cut)
            except (AliasMoved, Lost):
                self._forget()
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
            self._forget()
            raise AliasMoved(f"the alias of {self.collection} moved away from {current.version}")
        if self.lazy and hits:
            with self._connections.lend() as conn:
                self._registry.note_reads(conn, self.collection, [hit.key_text for hit in hits])
        return hits

    def text(self, hit: Hit) -> str | None:
        """The passage that was found: the hit's chunk, or the row's whole text where texts are not cut.

        None where the row is gone by now, or where the text was edited since it was cut. Wants SELECT on the source too and,
        of a chunked version, on its space. Raises :class:`UsageError` where the version is gone.
        """
        self._current()  # hears of flips: the collection may be another one since
        with self._connections.lend() as conn:
            manifest = self._manifests.get(hit.version)
            if manifest is None:
                manifest = find_manifest(conn, self._registry, self.collection, hit.version, self._stores)
                self._manifests[hit.version] = manifest
            return manifest.passage(conn, hit.key_text, hit.chunk)

    # --- helpers

    def _near_enough(self, found: Hits, cut: str | None) -> Hits:
        """The hits within a threshold of the version that ranked them; a query mapped by a bridge has other distances."""
        if cut is None:
            return found
        if found.bridged_from:
            raise CutUnknown(
                f"the cut {cut!r} says nothing of a query that came through a bridge from {found.bridged_from}",
                hint="search without the cut",
            )
        with self._connections.lend() as conn:
            limit = CutsTable(self._registry.schema).limit(conn, self.collection, found.served_by, cut)
        found[:] = [hit for hit in found if hit.distance <= limit]
        return found

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
        began, lend = time.perf_counter(), self._connections.lend
        reranker = self._reranker(version)
        read = reranker.begin(lend, text, options) if reranker else ""
        query, current = self._encode(text)
        if reranker is None or isinstance(read, str):
            hits = self.nearest(query, k, where=where)
            found = Hits(hits, served_by=query.version, why=read if isinstance(read, str) else "")
        else:
            hits = self.nearest(query, max(k, options.depth), where=where)
            found = reranker.rank(lend, read, hits, k)
        if isinstance(current.encoder, BridgedEncoder):
            found.bridged_from, found.loss = current.encoder.by, current.encoder.loss
        if self._shadow and not where:
            milliseconds = (time.perf_counter() - began) * 1000
            self._shadow.offer(ShadowTask(text, query.vector, current, hits[:k], k, milliseconds))
        return found

    def _encode(self, text: str) -> tuple[QueryVector, Resolved]:
        """A query's vector, and what it is compared with."""
        require_text(text)
        current, model = self._current(), self._model
        assert model is not None
        try:
            vector = model.vector(text)
        except EmbedderError as error:
            current, model = self._rescued(error, current)
            vector = model.vector(text)
        return QueryVector(vector, current.version, current.fingerprint), current

    def _reranker(self, version: str | None) -> Reranker | None:
        """None while the alias shows that version itself."""
        if version is None or version == self._current().version:
            return None
        if version not in self._rerankers:
            self._rerankers[version] = Reranker(
                self._connections.database, self.collection, version, self._settings, self._stores
            )
        return self._rerankers[version]

    def _ask_canary(self, text: str, k: int, where: Mapping[str, Any] | None) -> Hits | None:
        """The canary's own answer; None where the alias's version has to answer instead, as it has while it is that one."""
        canary = self._canary
        assert canary is not None
        if canary.version == self._current().version or not canary.available:
            return None
        try:
            found = self._canary_version(canary)
            vector = found.model.vector(text)
            with self._connections.lend() as conn:
                return Hits(nearest(conn, found.resolved, vector, k, where=where), served_by=canary.version)
        except Lost:
            raise
        except (EmbedmigError, psycopg.Error) as error:
            canary.failed(error)
            return None

    def _canary_version(self, canary: Canary) -> OpenVersion:
        """Opened when it is first asked."""
        with self._looking:
            if canary.found is None:
                with self._connections.lend() as conn:
                    resolved = resolve_version(
                        conn, self._registry, self.collection, canary.version, self._settings, self._stores
                    )
                canary.found = OpenVersion(resolved, QueryModel(resolved.encoder, self._loop))
            return canary.found

    # --- what is known of the alias

    def _forget(self) -> None:
        """What is known of the alias is out of date."""
        self._resolved, self._retry_at = None, 0.0
        self._manifests.clear()
        for reranker in self._rerankers.values():
            reranker.forget()
        if self._canary:  # the columns shown go with the alias
            self._canary.forget()

    def _current(self) -> Resolved:
        """What the alias shows, as far as is known: a flip says so by NOTIFY, and an empty result asks again."""
        if self._closed:
            raise UsageError(f"the reader of {self.collection} is closed", hint="open another: Reader(url, collection)")
        if self._connections.heard() or (self._retry_at and time.monotonic() >= self._retry_at):
            self._forget()
        known = self._resolved  # another search may forget it while this one asks
        if known and self._connections.unsure() and self._showing() != known.version:
            self._forget()
        return self._resolved or self._resolve()

    def _up_to_date(self) -> Resolved:
        """As :meth:`_current`. Notes come to a coroutine's connections with the answers to its reads, so that it has to ask here."""
        if awaiting() and self._showing() != self._current().version:
            self._forget()
        return self._current()

    def _showing(self) -> str | None:
        with self._connections.lend() as conn:
            record = self._registry.alias(conn, self.collection)
        return record.version if record else None

    def _resolve(self) -> Resolved:
        """Looks at the alias, once for all who wait."""
        with self._looking:
            if self._resolved is None:
                with self._connections.lend() as conn:
                    record = self._alias(conn)
                    self._show(record, self._opened(conn, record))
            assert self._resolved is not None
            return self._resolved

    def _show(self, record: AliasRecord, resolved: Resolved) -> None:
        """A model that is no longer asked is let go; one that is the same goes on."""
        if self._model is None or self._model.encoder is not resolved.encoder:
            if self._model:
                self._model.retire()
            self._model = QueryModel(resolved.encoder, self._loop)
        self._record, self._resolved = record, resolved

    def _opened(self, conn: Connection, record: AliasRecord) -> Resolved:
        if self._bridge is not None and self._bridge != record.version:
            return self._through(conn, record, self._bridge)
        settings = self._settings
        if self._rescue:
            settings = {
                name: replace(one, give_up_after=min(one.give_up_after, PATIENCE)) for name, one in settings.items()
            }
        try:
            return resolve_alias(conn, record, settings, self._stores, self._same_model(record))
        except (EmbedderError, MissingExtra) as error:
            return self._rescuing(conn, record, error)

    def _same_model(self, record: AliasRecord) -> Encoder | None:
        """The encoder that is open, where it is still the alias': of the same space, over the same weights."""
        if self._model is None or self._record is None or isinstance(self._model.encoder, BridgedEncoder):
            return None
        then, now = ((one.fingerprint, space_of(one.encoder or {})) for one in (self._record, record))
        return self._model.encoder if then == now else None

    def _alias(self, conn: Connection) -> AliasRecord:
        record = None
        if ledger_exists(conn, self._registry.schema):
            record = self._registry.alias(conn, self.collection)
        if record is None or record.version is None or record.encoder is None:
            raise UsageError(
                f"the alias of {self.collection!r} shows no version yet",
                hint="embedmig upgrade head creates and fills it",
            )
        return record

    def _through(self, conn: Connection, record: AliasRecord, by: str | None) -> Resolved:
        """The active version, searched through a bridge."""
        encoder = bridged(conn, self._registry, record, by, self._settings)
        return resolve_alias(conn, record, self._settings, self._stores, encoder)

    def _rescued(self, error: EmbedmigError, failed: Resolved) -> tuple[Resolved, QueryModel]:
        """The active version through a bridge, where its own model can't be reached and that is allowed. Raises ``error`` else."""
        if isinstance(failed.encoder, BridgedEncoder):
            raise error
        with self._looking:
            if not self._resolved or not isinstance(self._resolved.encoder, BridgedEncoder):
                with self._connections.lend() as conn:
                    record = self._alias(conn)
                    self._show(record, self._rescuing(conn, record, error))
            assert self._resolved is not None
            assert self._model is not None
            return self._resolved, self._model

    def _rescuing(self, conn: Connection, record: AliasRecord, error: EmbedmigError) -> Resolved:
        if not self._rescue:
            raise error
        try:
            found = self._through(conn, record, None)
        except EmbedmigError as none:
            raise error from none
        self._retry_at = time.monotonic() + RETRY_SECONDS
        assert isinstance(found.encoder, BridgedEncoder)
        log.warning("%s is searched through a bridge from %s (%s): %s", found.version, found.encoder.by, found.encoder.loss, first_line(error))  # fmt: skip
        return found

    # --- reading

    def _read(self, current: Resolved, vector: Sequence[float], k: int, where: Mapping[str, Any] | None) -> list[Hit]:
        try:
            with self._connections.lend() as conn:
                return nearest(conn, current, vector, k, where=where)
        except (*REPLACED, PlaceMissing):
            # The view was replaced between resolving and reading, by one of another type, dimension or store.
            if self._showing() != current.version:
                return []
            self._forget()
            anew = self._current()
            if (anew.version, anew.shown.columns) == (current.version, current.shown.columns):
                raise
        if anew.version != current.version:
            return []
        with self._connections.lend() as conn:  # the view has other columns
            return nearest(conn, anew, vector, k, where=where)


def require_text(text: str) -> None:
    """Raises :class:`UsageError` for a query without words."""
    if not text.strip():
        raise UsageError("the query is empty", hint="a text without words has no vector")
