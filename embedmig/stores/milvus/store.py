"""One space in a collection of Milvus."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any, ClassVar, TypeVar

import numpy as np

from embedmig.errors import (
    EmbedmigError,
    OutcomeUnknown,
    PlaceMissing,
    StoreError,
    StoreThrottled,
    StoreUnreachable,
    StoreUnsuitable,
)
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
from embedmig.stores.milvus.client import client_of, of_status
from embedmig.stores.milvus.fields import ID, VECTOR, Fields, filter_of, key_field, near_of, own_of
from embedmig.stores.protocol import Capabilities, IndexOptions
from embedmig.types import Metric, Space

T = TypeVar("T")

METRICS: dict[Metric, str] = {"cosine": "COSINE", "l2": "L2", "ip": "IP"}
FLAT, HNSW = "FLAT", "HNSW"
BATCH_BYTES = 8_000_000  # of one upsert: the server takes 64 MB a message, and the payload comes on top
BATCH_ROWS = 2_000
PAGE = 1_000  # points of a listing's page, or fetched at once
WINDOW = 16_384  # the most points of one search
EF = 32_768  # the most that a search may look at in a graph
COLLECTION_MISSING = 100
ALIAS_MISSING = frozenset((1600, COLLECTION_MISSING))  # the second of milvus-lite
THROTTLED = frozenset((8, 9, 49))  # quota exhausted, rate limited; 49 before 2.3
STILL_WRITTEN = "No data left in file"  # of milvus-lite 3.2, which loads an index while a thread of its own writes it
UNREACHABLE = frozenset((2,))  # the client's own: it has found no server


class MilvusStore(ExternalStore):
    """One space in a collection of its own."""

    kind: ClassVar[str] = "milvus"
    extra: ClassVar[str] = "milvus"
    capabilities: ClassVar[Capabilities] = Capabilities(
        dimensions=32_768, indexed_dimensions=32_768, metrics=frozenset(METRICS), filters=True, alias=True,
        same_transaction=False,
    )  # fmt: skip
    options: ClassVar[frozenset[str]] = frozenset(("database", "replicas", "shards", "vector"))

    def _call(self, method: str, *arguments: Any, **more: Any) -> Any:
        """A method of the client on this collection. Raises errors of :mod:`embedmig.errors` alone."""
        return self._ask(
            lambda client: getattr(client, method)(self.collection, *arguments, timeout=self.settings.timeout, **more)
        )

    def _ask(self, call: Callable[[Any], T]) -> T:
        import grpc
        from pymilvus.exceptions import MilvusException

        try:
            return call(self._client())
        except (MilvusException, grpc.RpcError) as error:
            raise self._translated(error) from error

    def _client(self) -> Any:
        options = self.settings.options
        return client_of(
            self.settings.name,
            self.settings.url,
            self.settings.api_key or "",
            str(options.get("database", "")),
            self.settings.timeout,
        )

    def _translated(self, error: Any) -> EmbedmigError:
        """By the status of the call or the server's code."""
        name, code = self.settings.name, getattr(error, "code", None)
        if callable(code):  # gRPC's own
            return of_status(name, code().name, error.details())
        if code == COLLECTION_MISSING:
            return PlaceMissing(f"collection {self.collection!r} is not in {name}")
        if code in UNREACHABLE:
            return StoreUnreachable(f"{name} can't be reached: {error.message}")
        if code in THROTTLED or STILL_WRITTEN in error.message:
            return StoreThrottled(f"{name} refuses requests for the time being: {error.message}")
        cause = error.__cause__ or error.__context__
        if cause is not None and callable(getattr(cause, "code", None)):
            return of_status(name, cause.code().name, cause.details())
        return StoreError(f"{name}: {error.message}")

    def _read(self, method: str, **more: Any) -> Any:
        """A read of a collection, which must be in the server's memory: after a restart it may not be."""
        try:
            return self._call(method, **more)
        except (StoreError, PlaceMissing) as error:
            if isinstance(error, StoreUnreachable | StoreThrottled | OutcomeUnknown):
                raise
            self._require()
            self._call("load_collection")
            return self._call(method, **more)

    def _require(self) -> None:
        """Raises :class:`PlaceMissing`."""
        if not self._call("has_collection"):
            raise PlaceMissing(f"collection {self.collection!r} is not in {self.settings.name}")

    @cached_property
    def fields(self) -> Fields:
        """Of an adopted collection as it is described; those of embedmig's own are known. Raises :class:`PlaceMissing`."""
        if not self.record.adopted:
            return Fields()
        return Fields.of(self._call("describe_collection"), self.settings.options.get("vector"))

    # --- the server and the collection

    def server_version(self) -> str:
        """As it says."""
        return str(self._ask(lambda client: client.get_server_version(timeout=self.settings.timeout)))

    @staticmethod
    def collection_name(space: Space, unique: str) -> str:  # noqa: ARG004
        """Letters, digits and underscores, not beginning with a digit."""
        return f"embedmig_{unique}"

    def describe(self) -> CollectionInfo | None:
        """Dimensions out of the schema, the metric out of the index."""
        if not self._call("has_collection"):
            return None
        dimensions = Fields.of(self._call("describe_collection"), self.fields.vector).dimensions
        found = {name: metric for metric, name in METRICS.items()}
        index = self._index()
        metric = found.get(str(index.get("metric_type"))) if index else None
        return CollectionInfo(dimensions, metric or self.space.metric)

    def check_adoptable(self) -> None:
        """A point is given a version by being written again under its own id."""
        if self.fields.refusal:
            raise StoreUnsuitable(
                f"points of {self.collection!r} can't be given a version: {self.fields.refusal}",
                hint="copy keys and texts into a table, for a version of embedmig's own",
            )

    def create_collection(self) -> None:
        """With an index that compares every vector, for a collection without one can't be searched; and in memory."""
        if not self._call("has_collection"):
            from pymilvus import DataType, MilvusClient

            schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
            schema.add_field(ID, DataType.VARCHAR, is_primary=True, max_length=36)
            schema.add_field(VECTOR, DataType.FLOAT_VECTOR, dim=self.space.dimensions)
            schema.add_field(KEY, DataType.VARCHAR, max_length=65_535)
            schema.add_field(CHUNK, DataType.INT64)
            schema.add_field(HASH, DataType.VARCHAR, max_length=64)
            schema.add_field(VERSION, DataType.VARCHAR, max_length=1_024)
            more = {"num_shards": shards} if (shards := self.settings.options.get("shards")) else {}
            self._call("create_collection", schema=schema, consistency_level="Strong", **more)
        if self._index() is None:
            self._make_index(FLAT, {})
        self._load()

    def _load(self) -> None:
        self._call("load_collection", replica_number=int(self.settings.options.get("replicas", 1)))

    def drop_collection(self) -> None:
        """The server says nothing where there is none."""
        self._call("drop_collection")

    # --- points

    def put(self, points: Sequence[Point]) -> None:
        """In requests of some megabytes, one after the other."""
        rows = max(1, min(BATCH_ROWS, BATCH_BYTES // (4 * self.space.dimensions)))
        for some in pages(points, rows):
            self._upsert([self._row(point) for point in some])

    def _row(self, point: Point) -> dict[str, Any]:
        columns = {name: value for name, value in point.columns.items() if value is not None}
        return columns | {
            key_field(place): part for place, part in enumerate(point.key)
        } | {
            ID: point.id, VECTOR: point.vector, KEY: json.dumps(list(point.key), ensure_ascii=False), CHUNK: point.chunk,
            HASH: point.content_hash.hex(), VERSION: self.record.version,
        }  # fmt: skip

    def _upsert(self, rows: list[dict[str, Any]]) -> None:
        self._written("upsert", rows)

    def _written(self, method: str, *arguments: Any, **more: Any) -> None:
        """A write; the server's answer to one of a collection that is not there says so in no code of its own."""
        try:
            self._call(method, *arguments, **more)
        except (StoreUnreachable, StoreThrottled, OutcomeUnknown):
            raise
        except StoreError:
            self._require()
            raise

    def remove(self, ids: Sequence[str]) -> None:
        """By primary key."""
        for some in pages(ids, BATCH_ROWS):
            self._written("delete", ids=some)

    def held(self, fields: Sequence[str] | None = ()) -> Iterator[Sequence[Held]]:
        """By the client's iterator: a walk by hand, from the last id on, loses rows on some servers."""
        wanted = ["*"] if fields is None else [self.fields.id, *fields]
        walk = self._read(
            "query_iterator", filter="", batch_size=PAGE, output_fields=wanted, consistency_level="Strong"
        )
        try:
            while page := self._ask(lambda _: walk.next()):
                yield [self.fields.held(row) for row in page]
        finally:
            walk.close()

    def vectors(self, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """By primary key."""
        name, vector = self.fields.id, self.fields.vector
        rows = [row for some in pages(ids, PAGE) for row in self._rows(some, [name, vector])]
        return {str(row[name]): [float(value) for value in row[vector]] for row in rows}

    def _rows(self, ids: list[str], fields: list[str]) -> list[dict[str, Any]]:
        found = self._read("query", ids=self.fields.native(ids), output_fields=fields, consistency_level="Strong")
        return [dict(row) for row in found]

    def near(self, vector: Sequence[float], limit: int, where: Mapping[str, Any], *, exact: bool) -> list[Near]:
        """``exact`` looks at as much of the graph as the server allows: at all of it up to :data:`EF` points.

        milvus-lite applies a filter to what the graph has found: where that is not enough, the points that meet it are compared.
        """
        most, wanted = min(limit, WINDOW), filter_of(self._conditions(where))
        own = [] if self.record.adopted else [KEY, CHUNK, HASH]
        found = self._read(
            "search", data=[list(map(float, vector))], anns_field=self.fields.vector, limit=most, filter=wanted,
            consistency_level="Strong" if exact else "Session", output_fields=own,
            search_params={"metric_type": METRICS[self.space.metric], "params": {"ef": EF if exact else max(64, most)}},
        )[0]  # fmt: skip
        if wanted and len(found) < most:
            return self._compared(vector, most, wanted)
        return [
            near_of(hit["entity"], str(hit.get(self.fields.id, hit.get("id"))), self._distance(float(hit["distance"])))
            for hit in found
        ]

    def _compared(self, vector: Sequence[float], limit: int, wanted: str) -> list[Near]:
        """The nearest of the points that meet a filter, one by one."""
        rows = self._read(
            "query",
            filter=wanted,
            limit=WINDOW,
            output_fields=[ID, VECTOR, KEY, CHUNK, HASH],
            consistency_level="Strong",
        )
        held = np.array([row[VECTOR] for row in rows], np.float32).reshape(len(rows), self.space.dimensions)
        asked = np.asarray(vector, np.float32)
        if self.space.metric == "l2":
            distances = np.linalg.norm(held - asked, axis=1)
        elif self.space.metric == "ip":
            distances = -(held @ asked)
        else:
            distances = 1 - held @ asked / (np.linalg.norm(held, axis=1) * np.linalg.norm(asked))
        return [
            near_of(rows[place], str(rows[place][ID]), float(distances[place]))
            for place in np.argsort(distances)[:limit]
        ]

    def _conditions(self, where: Mapping[str, Any]) -> dict[str, Any]:
        """By the names that fields have, with columns of the key as texts."""
        keys = {column.name: key_field(place) for place, column in enumerate(self.source.key)}
        return {
            keys.get(name, name): value
            if name not in keys
            else list(map(str, value))
            if isinstance(value, list)
            else str(value)
            for name, value in where.items()
        }

    def _distance(self, said: float) -> float:
        """The server gives similarities for cosine and the inner product, and squares for L2."""
        if self.space.metric == "l2":
            return math.sqrt(max(0.0, said))
        return 1.0 - said if self.space.metric == "cosine" else -said

    def total(self) -> int:
        """``count(*)``, which sees every acknowledged write and no point twice."""
        found = self._read("query", filter="", output_fields=["count(*)"], consistency_level="Strong")
        return int(found[0]["count(*)"])

    def set_columns(self, columns: Mapping[str, Mapping[str, Any]]) -> None:
        """A point is written whole, so it is read first. Columns that it says no more are null: milvus-lite keeps what is left out."""

        def changed(row: dict[str, Any]) -> dict[str, Any]:
            return {**dict.fromkeys(row), **own_of(row), **columns[row[ID]]}

        self._rewrite(list(columns), changed)

    def set_version(self, ids: Sequence[str], version: str) -> None:
        """As above."""
        self._rewrite(ids, lambda row: row | {VERSION: version})

    def _rewrite(self, ids: Sequence[str], change: Callable[[dict[str, Any]], dict[str, Any]]) -> None:
        for some in pages(ids, PAGE):
            if rows := self._rows(some, ["*"]):
                self._upsert([change(row) for row in rows])

    def size_bytes(self) -> int | None:
        """The server does not say."""
        return None

    # --- index and alias

    def _index(self) -> dict[str, Any] | None:
        """What the server says of the vectors' index."""
        names = self._call("list_indexes", field_name=self.fields.vector)
        return dict(self._call("describe_index", index_name=names[0])) if names else None

    def _make_index(self, kind: str, parameters: dict[str, int]) -> None:
        from pymilvus import MilvusClient

        made = MilvusClient.prepare_index_params()
        made.add_index(
            field_name=VECTOR,
            index_name=VECTOR,
            index_type=kind,
            metric_type=METRICS[self.space.metric],
            params=parameters,
        )
        self._call("create_index", index_params=made)

    def start_index(self, options: IndexOptions) -> None:
        """In the place of the one that compares every vector. What was written last is sealed first, so that it is in the graph.
        While they change, some seconds, the collection can't be searched.
        """
        self._require()
        index = self._index()
        if index is None or index.get("index_type") != HNSW:
            self._call("flush")
            if index is not None:
                self._drop_index()
            self._make_index(HNSW, {"M": options.m, "efConstruction": options.ef_construction})
        self._load()

    def _drop_index(self) -> None:
        """Only of a collection that is not in memory; whoever reads it meanwhile loads it again. Raises :class:`StoreThrottled`
        then: it is tried again.
        """
        from pymilvus.client.types import LoadState

        self._call("release_collection")
        try:
            self._call("drop_index", index_name=VECTOR)
        except StoreError as error:
            if type(error) is not StoreError or self._call("get_load_state")["state"] == LoadState.NotLoad:
                raise
            raise StoreThrottled(f"{error.message} (somebody reads the collection)") from error

    def index_status(self) -> IndexStatus:
        """Valid when no row is pending and the collection is in memory; of an adopted one, whatever kind of index it has."""
        self._require()
        index = self._index()
        if (
            index is None
            or (index.get("index_type") != HNSW and not self.record.adopted)
            or index.get("index_type") == FLAT
        ):
            return IndexStatus("none")
        indexed, total, pending = (
            int(index.get(name) or 0) for name in ("indexed_rows", "total_rows", "pending_index_rows")
        )
        state = str(index.get("state"))
        if state == "Failed":
            return IndexStatus("invalid", indexed, total, str(index.get("index_state_fail_reason") or ""))
        ready = state == "Finished" and not pending and self._loaded()
        return IndexStatus("valid" if ready else "building", indexed, total)

    def _loaded(self) -> bool:
        from pymilvus.client.types import LoadState

        return bool(self._call("get_load_state")["state"] == LoadState.Loaded)

    def alias_target(self, name: str) -> str | None:
        """As the server describes it."""
        from pymilvus.exceptions import MilvusException

        def look(client: Any) -> str | None:
            try:
                return str(client.describe_alias(name, timeout=self.settings.timeout)["collection_name"])
            except MilvusException as error:
                if error.code in ALIAS_MISSING:
                    return None
                raise

        return self._ask(look)

    def point_alias(self, name: str) -> None:
        """Altered in one step; made where there is none."""
        self._require()
        if self.alias_target(name) is None:
            self._call("create_alias", alias=name)
        else:
            self._call("alter_alias", alias=name)

    def remove_alias(self, name: str) -> None:
        """Where it is there."""
        if self.alias_target(name) is not None:
            self._ask(lambda client: client.drop_alias(name, timeout=self.settings.timeout))
