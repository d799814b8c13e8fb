"""One space in a collection of Qdrant.

Writes wait until they are applied; a status other than ``completed`` is an unknown outcome, not a success. The alias is moved by one
``create_alias``, which overwrites: of ``[delete, create]`` each action was saved by itself until Qdrant made lists of actions
atomic (#10425, September 2026).
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from embedmig.config.settings import StoreSettings
from embedmig.database.registry import SpaceRecord
from embedmig.errors import (
    ConfigError,
    OutcomeUnknown,
    PlaceMissing,
    PlanError,
    StoreError,
    StoreUnsuitable,
    UsageError,
    VectorRefused,
)
from embedmig.lazy import Later
from embedmig.source import Source
from embedmig.stores.external import (
    CHUNK,
    HASH,
    KEY,
    VERSION,
    CollectionInfo,
    ExternalStore,
    Held,
    IndexStatus,
    Near,
    Point,
    pages,
)
from embedmig.stores.protocol import Capabilities, IndexOptions
from embedmig.stores.qdrant.client import RequestRefused, asking
from embedmig.stores.qdrant.payload import as_text, condition, native, path, payload_type
from embedmig.types import Metric, Space

if TYPE_CHECKING:
    from qdrant_client import QdrantClient, models
else:
    models = Later("qdrant_client.models")

OLDEST = (1, 14)
"""The first server whose scroll loses no points beside writers (#6289)."""

REQUEST_BYTES, REQUEST_ROWS = 8 << 20, 1_000
"""Of one upsert. A server takes 32 MiB of JSON unless it is told otherwise (#2537), a proxy often less."""

BYTES_A_NUMBER = 21  # of a float32 in JSON, with its comma
PAGE = 2_000  # points of a listing or a fetch
OPERATIONS = 200  # changes of payloads in one request
INDEXING_THRESHOLD = 10_000
"""Kilobytes of vectors above which Qdrant gives a segment a graph: its own default. 0 is none at all, for the time of a backfill."""

DISTANCES: dict[Metric, str] = {"cosine": "Cosine", "l2": "Euclid", "ip": "Dot"}
METRICS: dict[str, Metric] = {distance: metric for metric, distance in DISTANCES.items()}
OPTIONS: dict[str, type] = {"shards": int, "replicas": int, "write_consistency": int, "on_disk": bool, "vector": str}
DURABLE: dict[str, Any] = {"wait": True, "ordering": "strong"}
"""Of every change of points: applied when it is answered, and in one order on all replicas."""


class QdrantStore(ExternalStore):
    """Where ``options.vector`` is set, collections have named vectors, and it is the one."""

    kind: ClassVar[str] = "qdrant"
    extra: ClassVar[str] = "qdrant"
    capabilities: ClassVar[Capabilities] = Capabilities(
        dimensions=65_536, indexed_dimensions=65_536, metrics=frozenset(("cosine", "l2", "ip")), filters=True, alias=True,
        same_transaction=False, half_precision=True,
    )  # fmt: skip
    options: ClassVar[frozenset[str]] = frozenset(OPTIONS)

    def __init__(self, source: Source, record: SpaceRecord, settings: StoreSettings) -> None:
        super().__init__(source, record, settings)
        for name, kind in OPTIONS.items():
            if type(settings.options.get(name)) not in (kind, type(None)):
                raise ConfigError(f"[stores.{settings.name}.options] {name} must be of type {kind.__name__}")
        self.vector: str | None = settings.options.get("vector")
        self.seconds = math.ceil(settings.timeout)
        self.building = False

    # --- the server

    def asking(self) -> AbstractContextManager[QdrantClient]:
        """The client; its errors become embedmig's own."""
        return asking(self.settings)

    def applied(self, *results: models.UpdateResult) -> None:
        """Raises :class:`OutcomeUnknown` unless they are: ``wait_timeout`` says not, or not yet (#8239, #8768)."""
        for result in results:
            if result.status != models.UpdateStatus.COMPLETED:
                raise OutcomeUnknown(
                    f"{self.settings.name} has not applied a change of {self.collection!r} in time: {result.status}"
                )

    def server_version(self) -> str:
        """Of :data:`OLDEST` at least. The version is told to everybody, so the key is tried too."""
        with self.asking() as client:
            version = client.info().version
            client.collection_exists(self.collection)
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
            oldest = ".".join(map(str, OLDEST))
            raise StoreUnsuitable(
                f"{self.settings.name} is Qdrant {version}", hint=f"Qdrant {oldest} or newer is needed"
            )
        return version

    # --- the collection

    @staticmethod
    def collection_name(space: Space, unique: str) -> str:  # noqa: ARG004
        """Qdrant takes up to 255 characters."""
        return unique

    @classmethod
    def check_source(cls, source: Source) -> None:
        """A path into a payload can't have a quotation mark in a name."""
        super().check_source(source)
        if quoted := [column.name for column in (*source.key, *source.columns) if '"' in column.name]:
            raise PlanError(
                f"Qdrant can't filter by the name {quoted[0]!r}", hint="rename it, or leave it out of columns"
            )

    def info(self) -> models.CollectionInfo:
        """What Qdrant says of the collection; its counts are approximate. Raises :class:`PlaceMissing`."""
        with self.asking() as client:
            return client.get_collection(self.collection)

    def describe(self) -> CollectionInfo | None:
        """By the vector that ``options.vector`` names, or the only one."""
        try:
            params = self.vector_params(self.info())
        except PlaceMissing:
            return None
        if (metric := METRICS.get(params.distance.value)) is None:
            raise StoreUnsuitable(f"collection {self.collection!r} compares by {params.distance.value}")
        return CollectionInfo(params.size, metric)

    def vector_params(self, info: models.CollectionInfo) -> models.VectorParams:
        """Raises :class:`StoreUnsuitable` where the collection has no such vector."""
        found = info.config.params.vectors
        if isinstance(found, models.VectorParams) and self.vector is None:
            return found
        named = found if isinstance(found, dict) else {}
        if self.vector in named:
            return named[self.vector]
        raise StoreUnsuitable(
            f"the vectors of collection {self.collection!r} are named: {', '.join(named) or 'not at all'}",
            hint=f'say which in [stores.{self.settings.name}.options]: vector = "NAME"; or take the line out',
        )

    def create_collection(self) -> None:
        """Without a graph, which would be built anew all through a backfill; with indexes for filters."""
        try:
            self.create_without_indexes()
        except StoreError:
            if self.describe() is None:
                raise
        for column in self.source.columns:
            self.index_payload(path(column.name), payload_type(column))
        self.index_payload(VERSION, "keyword")

    def create_without_indexes(self) -> None:
        """Refused where it is there."""
        options = self.settings.options
        params = models.VectorParams(
            size=self.space.dimensions, distance=models.Distance(DISTANCES[self.space.metric]), on_disk=options.get("on_disk"),
            datatype=models.Datatype.FLOAT16 if self.space.half_precision else None,
        )  # fmt: skip
        with self.asking() as client:
            client.create_collection(
                self.collection, {self.vector: params} if self.vector else params, shard_number=options.get("shards"),
                replication_factor=options.get("replicas"), write_consistency_factor=options.get("write_consistency"),
                optimizers_config=models.OptimizersConfigDiff(indexing_threshold=0), timeout=self.seconds,
            )  # fmt: skip

    def index_payload(self, field: str, kind: str) -> None:
        """Nothing where it is there. Filtered searches need it before the graph is built, and in strict mode always."""
        with self.asking() as client:
            self.applied(client.create_payload_index(self.collection, field, models.PayloadSchemaType(kind), **DURABLE))

    def drop_collection(self) -> None:
        """Qdrant removes its aliases too."""
        with self.asking() as client:
            client.delete_collection(self.collection, timeout=self.seconds)

    def size_bytes(self) -> int | None:
        """Qdrant does not say."""
        return None

    # --- points

    def put(self, points: Sequence[Point]) -> None:
        """Request by request; one that is refused is cut in two until it is known which point is."""
        rows = max(1, min(REQUEST_ROWS, REQUEST_BYTES // (self.space.dimensions * BYTES_A_NUMBER)))
        for request in pages(points, rows):
            self.put_request(request)

    def put_request(self, points: Sequence[Point]) -> None:
        """Raises :class:`VectorRefused` for a point that is refused by itself."""
        vectors = [point.vector.tolist() for point in points]
        batch = models.Batch(
            ids=[point.id for point in points],
            vectors={self.vector: vectors} if self.vector else vectors,
            payloads=[self.payload(point) for point in points],
        )
        try:
            with self.asking() as client:
                self.applied(client.upsert(self.collection, batch, **DURABLE))
        except RequestRefused as error:
            if len(points) == 1:
                raise VectorRefused(f"point {points[0].id} of key {points[0].key}: {error.message}") from error
            half = len(points) // 2
            self.put_request(points[:half])
            self.put_request(points[half:])

    def payload(self, point: Point) -> dict[str, Any]:
        """What is said of a point. A column that is NULL is left out; the key's are texts."""
        columns = {name: value for name, value in point.columns.items() if value is not None}
        columns |= {column.name: text for column, text in zip(self.source.key, point.key, strict=True)}
        own = {KEY: list(point.key), CHUNK: point.chunk, HASH: point.content_hash.hex(), VERSION: self.space.tag}
        return columns | own

    def remove(self, ids: Sequence[str]) -> None:
        """By id."""
        for page in pages(ids, PAGE):
            chosen = models.PointIdsList(points=[native(one) for one in page])
            with self.asking() as client:
                self.applied(client.delete(self.collection, chosen, **DURABLE))

    def held(self, fields: Sequence[str] | None = ()) -> Iterator[Sequence[Held]]:
        """In the order of ids; a page whose outcome is unknown is asked for again."""
        wanted = True if fields is None else [path(name) for name in fields] or False
        offset: Any = None
        while True:
            found, offset = self.attempt(partial(self.scroll, offset, wanted))
            yield [Held(str(record.id), record.payload or {}) for record in found]
            if offset is None:
                return

    def scroll(self, offset: Any, wanted: bool | list[str]) -> tuple[list[models.Record], Any]:
        """A page and where the next one begins; None: nowhere."""
        with self.asking() as client:
            return client.scroll(self.collection, limit=PAGE, offset=offset, with_payload=wanted, with_vectors=False)

    def vectors(self, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """Of norm 1 where the metric is cosine: Qdrant keeps them so."""
        found: dict[str, Sequence[float]] = {}
        wanted = [self.vector] if self.vector else True
        for page in pages(ids, PAGE):
            with self.asking() as client:
                records = client.retrieve(
                    self.collection, [native(one) for one in page], with_payload=False, with_vectors=wanted
                )
            for record in records:
                held: Any = record.vector
                found[str(record.id)] = held[self.vector] if self.vector else held
        return found

    def near(self, vector: Sequence[float], limit: int, where: Mapping[str, Any], *, exact: bool) -> list[Near]:
        """Searches by the graph, where there is one, or compares with every vector."""
        wanted = self.conditions(where)
        with self.asking() as client:
            found = client.query_points(
                self.collection, query=list(vector), using=self.vector, limit=limit, query_filter=wanted,
                search_params=models.SearchParams(exact=exact), with_payload=[KEY, CHUNK, HASH],
            )  # fmt: skip
        return [self.near_of(point) for point in found.points]

    def near_of(self, point: models.ScoredPoint) -> Near:
        """Qdrant gives cosine and inner product as likeness, L2 as distance. Of a collection that was adopted, points may say nothing."""
        said = point.payload or {}
        distance = {"cosine": 1 - point.score, "l2": point.score, "ip": -point.score}[self.space.metric]
        content_hash = bytes.fromhex(said.get(HASH, ""))
        return Near(str(point.id), tuple(said.get(KEY, ())), said.get(CHUNK, 0), content_hash, distance)

    def conditions(self, where: Mapping[str, Any]) -> models.Filter | None:
        """All of them. Raises :class:`UsageError` for a column that points don't have."""
        keys = {column.name for column in self.source.key}
        kinds = {column.name: payload_type(column) for column in self.source.columns}
        if unknown := [name for name in where if name not in keys and name not in kinds]:
            raise UsageError(
                f"there is no column {unknown[0]!r}", hint=f"there is {', '.join(sorted(keys | set(kinds)))}"
            )
        must: list[Any] = [
            condition(name, as_text(value)) if name in keys else condition(name, value, kinds[name])
            for name, value in where.items()
        ]
        return models.Filter(must=must) if must else None

    def total(self) -> int:
        """What Qdrant says of a collection is approximate (#3844): it is asked to count."""
        with self.asking() as client:
            return client.count(self.collection, exact=True).count

    def set_columns(self, columns: Mapping[str, Mapping[str, Any]]) -> None:
        """Points with the same columns in one change. A null takes the field away."""
        alike: dict[str, tuple[dict[str, Any], list[str]]] = {}
        for one, values in columns.items():
            payload = dict(values)
            alike.setdefault(json.dumps(payload, sort_keys=True), (payload, []))[1].append(one)
        self.set_payloads(alike.values())

    def set_version(self, ids: Sequence[str], version: str) -> None:
        """In one change a page."""
        self.set_payloads([({VERSION: version}, ids)])

    def set_payloads(self, payloads: Iterable[tuple[dict[str, Any], Sequence[str]]]) -> None:
        """Sets these fields of points by id and leaves their other fields. By filter: points that are gone are no error then."""
        changes = (
            models.SetPayloadOperation(set_payload=models.SetPayload(payload=payload, filter=with_ids(page)))
            for payload, ids in payloads
            for page in pages(ids, PAGE)
        )
        for some in pages(changes, OPERATIONS):
            with self.asking() as client:
                self.applied(*client.batch_update_points(self.collection, some, **DURABLE))

    # --- index and alias

    def start_index(self, options: IndexOptions) -> None:
        """Tells Qdrant the graph's parameters and from how many kilobytes a segment has one."""
        info = self.info()
        config = info.config
        built_as = (config.hnsw_config.m, config.hnsw_config.ef_construct)
        if built_as != (options.m, options.ef_construction) or config.optimizer_config.indexing_threshold == 0:
            self.update_collection(
                hnsw_config=models.HnswConfigDiff(m=options.m, ef_construct=options.ef_construction),
                optimizers_config=models.OptimizersConfigDiff(indexing_threshold=INDEXING_THRESHOLD),
            )
        elif (
            info.status == models.CollectionStatus.RED
        ):  # the cause may be gone; the optimizer does not look by itself (#4072)
            self.wake_optimizer()
        self.building = True

    def wake_optimizer(self) -> None:
        """By a change that changes nothing."""
        self.update_collection(optimizers_config=models.OptimizersConfigDiff())

    def update_collection(self, **changes: Any) -> None:
        """Returns when Qdrant has taken the change over; the work comes after it."""
        with self.asking() as client:
            client.update_collection(self.collection, timeout=self.seconds, **changes)

    def index_status(self) -> IndexStatus:
        """What Qdrant says of its optimizer; if that is nothing more, whether the points are in the graph."""
        info = self.info()
        indexed, total = info.indexed_vectors_count or 0, info.points_count
        if info.config.hnsw_config.m == 0 or info.config.optimizer_config.indexing_threshold == 0:
            return IndexStatus("none", indexed, total, "the optimizer is told to build none")
        if info.status == models.CollectionStatus.RED or info.optimizer_status != models.OptimizersStatusOneOf.OK:
            said = getattr(info.optimizer_status, "error", "status red")
            return IndexStatus("invalid", indexed, total, f"the optimizer failed: {said}")
        if info.status == models.CollectionStatus.GREY and self.building:
            # after a restart the optimizer waits for a change, whatever it is (#3962, #4940)
            self.wake_optimizer()
        if info.status != models.CollectionStatus.GREEN:
            return IndexStatus("building", indexed, total, f"status {info.status}")
        if (queue := info.update_queue) and (queue.length or queue.deferred_points):
            return IndexStatus("building", indexed, total, f"{queue.length} changes wait to be applied")
        return self.graph_status(info)

    def graph_status(self, info: models.CollectionInfo) -> IndexStatus:
        """``green`` alone proves nothing (#7187): points are in the graph, but for those in segments too small to have one."""
        params, threshold = self.vector_params(info), info.config.optimizer_config.indexing_threshold
        width = 2 if params.datatype == models.Datatype.FLOAT16 else 4
        small = info.segments_count * (threshold or INDEXING_THRESHOLD) * 1024 // (params.size * width)
        indexed, total = info.indexed_vectors_count or 0, self.total()
        if total - indexed > small:
            return IndexStatus("building", indexed, total, f"{total - indexed:,} points are in no graph")
        return IndexStatus("valid", indexed, total)

    def alias_target(self, name: str) -> str | None:
        """Out of all aliases."""
        with self.asking() as client:
            aliases = client.get_aliases().aliases
        return next((alias.collection_name for alias in aliases if alias.alias_name == name), None)

    def point_alias(self, name: str) -> None:
        """One action, which overwrites (#7584)."""
        create = models.CreateAlias(collection_name=self.collection, alias_name=name)
        self.change_alias(models.CreateAliasOperation(create_alias=create))

    def remove_alias(self, name: str) -> None:
        """One action."""
        if self.alias_target(name) is not None:
            self.change_alias(models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=name)))

    def change_alias(self, action: models.CreateAliasOperation | models.DeleteAliasOperation) -> None:
        """Never more than one."""
        with self.asking() as client:
            client.update_collection_aliases([action], timeout=self.seconds)


def with_ids(ids: Sequence[str]) -> models.Filter:
    """Those of the points that are there."""
    return models.Filter(must=[models.HasIdCondition(has_id=[native(one) for one in ids])])
