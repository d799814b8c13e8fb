"""A space in a collection of its own in Weaviate."""

from __future__ import annotations

import heapq
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from embedmig.config.settings import StoreSettings
from embedmig.database.registry import SpaceRecord
from embedmig.errors import (
    OutcomeUnknown,
    PlaceMissing,
    PlanError,
    StoreError,
    StoreThrottled,
    StoreUnsuitable,
    VectorRefused,
)
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
from embedmig.stores.weaviate.client import ask
from embedmig.stores.weaviate.conditions import Conditions
from embedmig.stores.weaviate.index import status_of
from embedmig.stores.weaviate.properties import (
    NAME_CHARACTERS,
    column_name,
    declared,
    plain,
    property_name,
    text,
    types_of,
)
from embedmig.stores.weaviate.shape import VECTOR, Shape, capitalized, definition, distance
from embedmig.types import Space

if TYPE_CHECKING:
    from weaviate import WeaviateClient
    from weaviate.collections import Collection

T = TypeVar("T")

NOBODY = (
    "00000000-0000-0000-0000-000000000000"  # before every id: with a cursor from the first page on, pages are in order
)
OLDEST = (1, 32)  # the first that has aliases
LISTED, FETCHED, DELETED = 1_000, 500, 1_000  # points a request; the server stops a delete at 10,000 (#1915)
PUT_POINTS, PUT_BYTES = 1_000, 8_000_000  # a request; gRPC takes 100 MB unless the server says less
FOUND_MOST = 10_000  # by a search: QUERY_MAXIMUM_RESULTS
WRITERS = 8  # requests at once where Weaviate has no bulk update
SECONDS_READY = 0.2  # between two looks at an index that says it is ready: the first is sometimes wrong (client #1412)

DIMENSIONS = re.compile(r"in (\d+) dimensions")


class WeaviateStore(ExternalStore):
    """The collection has one vector that is meant; the index is in it from the first point on."""

    kind: ClassVar[str] = "weaviate"
    extra: ClassVar[str] = "weaviate"
    capabilities: ClassVar[Capabilities] = Capabilities(
        dimensions=65_535, indexed_dimensions=65_535, metrics=frozenset(("cosine", "l2", "ip")), filters=True, alias=True,
        same_transaction=False,
    )  # fmt: skip
    options: ClassVar[frozenset[str]] = frozenset(("grpc", "replicas", "m", "ef_construction", "vector"))

    def __init__(self, source: Source, record: SpaceRecord, settings: StoreSettings) -> None:
        super().__init__(source, record, settings)
        self.collection = capitalized(self.collection)
        self.types = types_of(source)
        self.put_points = PUT_POINTS
        self.known: Shape | None = None

    # --- the server

    def ask(self, call: Callable[[WeaviateClient], T]) -> T:
        """One request. Raises errors of ours alone."""
        return ask(self.settings, call)

    def of_points(self, call: Callable[[Collection[Any, Any]], T]) -> T:
        """One request to the collection. That it is missing is seen by looking for it: the answer alone does not tell."""
        try:
            return self.ask(lambda client: call(client.collections.use(self.collection)))
        except StoreError as error:
            if type(error) is StoreError:
                self.shape()
            raise

    def to_points(self, call: Callable[[Collection[Any, Any]], T]) -> T:
        """One request that writes: to all replicas, so that whichever is asked next has seen it."""

        def write(points: Collection[Any, Any]) -> T:
            from weaviate.classes.config import ConsistencyLevel

            return call(points.with_consistency_level(ConsistencyLevel.ALL))

        return self.of_points(write)

    def server_version(self) -> str:
        """Too old where aliases are missing."""
        version = str(self.ask(lambda client: client.get_meta())["version"])
        if tuple(int(part) for part in re.findall(r"\d+", version)[:2]) < OLDEST:
            raise StoreUnsuitable(
                f"Weaviate at stores.{self.settings.name} is {version}; aliases came with {'.'.join(map(str, OLDEST))}",
                hint="upgrade the server",
            )
        return version

    @staticmethod
    def collection_name(space: Space, unique: str) -> str:  # noqa: ARG004
        """Capitalised, as Weaviate would do by itself."""
        return capitalized(unique if unique[0].isalpha() else f"E{unique}")

    @classmethod
    def check_source(cls, source: Source) -> None:
        """By the length that names have when they are spelt out."""
        super().check_source(source)
        for column in (*source.key, *source.columns):
            if len(property_name(column.name)) > NAME_CHARACTERS:
                raise PlanError(
                    f"columns: {column.name!r} is longer than a property's name may be in Weaviate, where it must be spelt out",
                    hint="rename it to letters a-z, digits and _, or leave it out of columns",
                )

    @classmethod
    def describe_index(cls, space: Space, options: IndexOptions) -> str:  # noqa: ARG003
        """The graph's parameters were said when the collection was made."""
        return f"HNSW index of {space.tag} in weaviate, which is built with the collection"

    @classmethod
    def check_index(cls, space: Space, options: IndexOptions) -> None:
        """Weaviate can't change the graph's parameters later."""
        super().check_index(space, options)
        default = IndexOptions()
        if (options.m, options.ef_construction) != (default.m, default.ef_construction):
            raise PlanError(
                f"{space.tag}: m and ef_construction belong to the collection in weaviate, which is made before its index",
                hint="leave them out of op.create_index, and say them as options of the store",
            )

    # --- the collection

    def shape(self) -> Shape:
        """As it is now. Raises :class:`PlaceMissing`."""
        try:
            config = self.ask(lambda client: client.collections.use(self.collection).config.get())
        except PlaceMissing as error:
            raise PlaceMissing(f"collection {self.collection!r} is not in {self.settings.name}") from error
        if config.name != self.collection:
            raise StoreError(
                f"{self.collection!r} is an alias of {config.name!r}", hint="say the collection's own name"
            )
        self.known = Shape.of(config, self.settings)
        return self.known

    def describe(self) -> CollectionInfo | None:
        """Dimensions are those of the points. An empty collection that is not ours takes any."""
        try:
            shape = self.shape()
            first = self.of_points(lambda points: points.query.fetch_objects(limit=1, include_vector=True, return_properties=[]))  # fmt: skip
        except PlaceMissing:
            return None
        said = DIMENSIONS.search(shape.description)
        dimensions = int(said[1]) if said else self.space.dimensions
        if first.objects and (vector := first.objects[0].vector.get(shape.vector or VECTOR)):
            dimensions = len(vector)
        return CollectionInfo(dimensions, shape.metric)

    def create_collection(self) -> None:
        """With its index, which is in it from the first point on."""

        def create(client: WeaviateClient) -> None:
            if not client.collections.exists(self.collection):
                client.collections.create(self.collection, **definition(self.space, self.types, self.settings.options))

        self._unless_there(create)

    def _unless_there(self, create: Callable[[WeaviateClient], None]) -> None:
        """Two may do it at once: the second is refused."""
        try:
            self.ask(create)
        except StoreError as error:
            if type(error) is not StoreError or not self.ask(lambda client: client.collections.exists(self.collection)):
                raise

    def drop_collection(self) -> None:
        """The answer is the same where nothing was dropped, as through an alias: so it is looked for afterwards."""
        self.ask(lambda client: client.collections.delete(self.collection))
        try:
            self.shape()
        except PlaceMissing:
            return
        raise OutcomeUnknown(f"collection {self.collection!r} is still in {self.settings.name} after it was deleted")

    # --- points

    def put(self, points: Sequence[Point]) -> None:
        """The collection must be there first: Weaviate makes one by itself, of a shape that it guesses (#5973)."""
        shape = self._with_properties(self.types)
        for part in self._requests(points):
            self._put(part, shape)

    def _with_properties(self, types: Mapping[str, str]) -> Shape:
        """Columns that came later, and adopted collections, lack some."""
        shape = self.shape()
        missing = [name for name in types if name not in shape.properties]
        for name in missing:
            self._declare(name, types[name])
        return self.shape() if missing else shape

    def _declare(self, name: str, kind: str) -> None:
        """Two may do it at once: the second is refused."""
        try:
            self.of_points(lambda points: points.config.add_property(declared(name, kind)))
        except StoreError as error:
            if type(error) is not StoreError or name not in self.shape().properties:
                raise

    def _requests(self, points: Sequence[Point]) -> Iterator[list[Point]]:
        part: list[Point] = []
        size = 0
        for point in points:
            weight = 4 * self.space.dimensions + sum(len(text(value)) for value in point.columns.values()) + 500
            if part and (len(part) >= self.put_points or size + weight > PUT_BYTES):
                yield part
                part, size = [], 0
            part.append(point)
            size += weight
        if part:
            yield part

    def _put(self, points: Sequence[Point], shape: Shape) -> None:
        from weaviate.classes.data import DataObject
        from weaviate.exceptions import WeaviateInsertManyAllFailedError

        objects = [DataObject(self._payload(point), point.id, self._vector(point.vector, shape)) for point in points]

        def insert(collection: Collection[Any, Any]) -> dict[int, str]:
            try:
                answer = collection.data.insert_many(objects)
            except WeaviateInsertManyAllFailedError as error:
                return dict.fromkeys(range(len(objects)), error.message)
            return {place: one.message for place, one in answer.errors.items()}

        try:
            failed = self.to_points(insert)
        except StoreThrottled:
            # too much at once, or the server has no memory left
            self.put_points = max(1, min(len(points), self.put_points) // 2)
            raise
        if failed:
            self._refused(failed, len(points))

    def _payload(self, point: Point) -> dict[str, Any]:
        own = {KEY: list(point.key), CHUNK: point.chunk, HASH: point.content_hash.hex(), VERSION: self.space.tag}
        key = {column.name: part for column, part in zip(self.source.key, point.key, strict=True)}
        values = self._plain({**point.columns, **key})
        return own | {name: value for name, value in values.items() if value is not None}

    def _plain(self, columns: Mapping[str, Any]) -> dict[str, Any]:
        """By property; None for what a point has no value of."""
        names = {column: property_name(column) for column in columns}
        return {names[column]: plain(value, self.types[names[column]]) for column, value in columns.items()}

    @staticmethod
    def _vector(vector: Any, shape: Shape) -> Any:
        numbers = np.asarray(vector, np.float32).tolist()
        return {shape.vector: numbers} if shape.vector else numbers

    def _refused(self, failed: Mapping[int, str], count: int) -> None:
        """Objects fail one by one, for reasons that come as words alone: what can't be told for good is put again."""
        found = self.describe()
        if found is None:
            raise PlaceMissing(f"collection {self.collection!r} is not in {self.settings.name}")
        words = f"of {count} points {len(failed)} were not taken: {next(iter(failed.values()))}"
        if found.dimensions != self.space.dimensions:
            raise VectorRefused(f"{self.collection!r} holds {found.dimensions} dimensions: {words}")
        raise OutcomeUnknown(f"Weaviate at stores.{self.settings.name}: {words}")

    def remove(self, ids: Sequence[str]) -> None:
        """Again until nothing is found: what a delete leaves, because it found too many, only its count tells (#13104)."""
        for part in pages(ids, DELETED):
            while (answer := self.to_points(lambda points: points.data.delete_many(where=_by_ids(part)))).matches:  # noqa: B023  called at once
                if answer.failed:
                    raise OutcomeUnknown(f"{answer.failed} of {answer.matches} points were not deleted")

    def held(self, fields: Sequence[str] | None = ()) -> Iterator[Sequence[Held]]:
        """By a cursor over ids, which no filter can go with (#5070)."""
        shape = self.attempt(self.shape)
        known = None if fields is None else {self._stored(field, shape): field for field in fields}
        names = known and {stored: field for stored, field in known.items() if stored in shape.properties}
        for objects in self._walk(None if names is None else list(names)):
            yield [Held(str(one.uuid), one.properties and self._named(one.properties, names)) for one in objects]

    @staticmethod
    def _named(properties: Mapping[str, Any], names: Mapping[str, str] | None) -> dict[str, Any]:
        return {(column_name(name) if names is None else names[name]): value for name, value in properties.items()}

    @staticmethod
    def _stored(field: str, shape: Shape) -> str:
        """Of adopted collections fields are named as they are."""
        return field if field in shape.properties else property_name(field)

    def _walk(self, names: list[str] | None, vectors: bool = False) -> Iterator[Any]:
        after = NOBODY
        while True:
            page = self.attempt(
                lambda: self.of_points(
                    lambda points: points.query.fetch_objects(
                        limit=LISTED, after=after, include_vector=vectors, return_properties=True if names is None else names  # noqa: B023  called at once
                    )
                )
            )  # fmt: skip
            if not page.objects:
                return
            yield page.objects
            after = str(page.objects[-1].uuid)

    def vectors(self, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """By a filter on ids."""
        vector = self._shape().vector or VECTOR
        found: dict[str, Sequence[float]] = {}
        for part in pages(ids, FETCHED):
            answer = self.of_points(
                lambda points: points.query.fetch_objects_by_ids(
                    part, limit=len(part), include_vector=True, return_properties=[]  # noqa: B023  called at once
                )
            )  # fmt: skip
            found |= {str(one.uuid): one.vector[vector] for one in answer.objects if vector in one.vector}  # type: ignore[misc]
        return found

    def _shape(self) -> Shape:
        """What does not change while a collection is there; requests tell when it is not."""
        return self.known or self.shape()

    def total(self) -> int:
        """By the server's own count."""
        return self.of_points(lambda points: points.aggregate.over_all(total_count=True)).total_count or 0

    def set_columns(self, columns: Mapping[str, Mapping[str, Any]]) -> None:
        """Point by point: Weaviate has no update of many."""
        self._with_properties(self.types)
        self._patch({one: self._plain(values) for one, values in columns.items()})

    def set_version(self, ids: Sequence[str], version: str) -> None:
        """Point by point, too."""
        self._with_properties({VERSION: self.types[VERSION]})
        self._patch({one: {VERSION: version} for one in ids})

    def _patch(self, changes: Mapping[str, Mapping[str, Any]]) -> None:
        def patch(one: tuple[str, Mapping[str, Any]]) -> None:
            uuid, values = one
            try:
                self.to_points(lambda points: points.data.update(uuid, dict(values)))
            except PlaceMissing:
                self.shape()  # the collection is there: the point is not

        with ThreadPoolExecutor(WRITERS) as writers:
            for _ in writers.map(patch, changes.items()):
                pass

    def size_bytes(self) -> int | None:
        """Weaviate does not say."""
        return None

    # --- search

    def near(self, vector: Sequence[float], limit: int, where: Mapping[str, Any], *, exact: bool) -> list[Near]:
        """With a filter that leaves few, the server compares them all: so ``exact`` has one that every point meets."""
        if len(vector) != self.space.dimensions:
            raise VectorRefused(f"{self.space.tag}: {len(vector)} numbers, not {self.space.dimensions}")
        conditions = Conditions(where, self.types)
        if conditions.never:
            return []
        shape = self.shape() if exact else self._shape()
        if exact and (VERSION not in shape.properties or self.total() >= shape.compared):
            return heapq.nsmallest(limit, self._all(vector, conditions, shape), key=attrgetter("distance"))
        by = conditions.filter(self.space.tag if exact else None)
        return self._nearest(vector, min(limit, FOUND_MOST), by, shape)

    def _nearest(self, vector: Sequence[float], limit: int, where: Any, shape: Shape) -> list[Near]:
        from weaviate.classes.query import MetadataQuery

        names = [name for name in (KEY, CHUNK, HASH) if name in shape.properties]
        answer = self.of_points(
            lambda points: points.query.near_vector(
                list(vector), limit=limit, filters=where, target_vector=shape.vector, return_properties=names,
                return_metadata=MetadataQuery(distance=True),
            )
        )  # fmt: skip
        return [self._near(one, one.metadata.distance or 0.0) for one in answer.objects]

    def _near(self, one: Any, distance: float) -> Near:
        """Weaviate's distances are pgvector's, but that it leaves L2 squared."""
        said = one.properties
        return Near(
            str(one.uuid), tuple(said.get(KEY) or ()), said.get(CHUNK) or 0, bytes.fromhex(said.get(HASH) or ""),
            distance**0.5 if self.space.metric == "l2" else distance,
        )  # fmt: skip

    def _all(self, vector: Sequence[float], conditions: Conditions, shape: Shape) -> Iterator[Near]:
        """Every point, compared here: for collections that are too large, or compressed, for the server to do so."""
        asked = np.asarray(vector, np.float64)
        names = [name for name in (KEY, CHUNK, HASH, *conditions.properties) if name in shape.properties]
        for objects in self._walk(names, vectors=True):
            for one in objects:
                held = np.asarray(one.vector.get(shape.vector or VECTOR, ()), np.float64)
                if len(held) and conditions.hold(one.properties):
                    yield self._near(one, distance(self.space.metric, asked, held))

    # --- index and alias

    def start_index(self, options: IndexOptions) -> None:
        """It was begun with the first point."""
        self.shape()

    def index_status(self) -> IndexStatus:
        """Ready is ready when it was said twice."""
        status = self._look()
        if status.state != "valid":
            return status
        self.patience.sleep(SECONDS_READY)
        return self._look()

    def _look(self) -> IndexStatus:
        self.shape()
        total = self.total()
        nodes = self.ask(lambda client: client.cluster.nodes(self.collection, output="verbose"))
        return status_of(nodes, self.collection, total)

    def alias_target(self, name: str) -> str | None:
        """Aliases are capitalised, too."""
        found = self.ask(lambda client: client.alias.get(alias_name=capitalized(name)))
        return found.collection if found else None

    def point_alias(self, name: str) -> None:
        """Replaced in one step (#8463), or made; where another makes it at the same time, replaced after all."""
        alias = capitalized(name)

        def replace(client: WeaviateClient) -> bool:
            return client.alias.update(alias_name=alias, new_target_collection=self.collection)

        def create(client: WeaviateClient) -> None:
            client.alias.create(alias_name=alias, target_collection=self.collection)

        try:
            if not self.ask(replace):
                self.ask(create)
        except StoreError as error:
            if type(error) is StoreError:
                self.shape()
                if self.alias_target(name) != self.collection and not self.ask(replace):
                    raise
            else:
                raise

    def remove_alias(self, name: str) -> None:
        """A missing one is no error."""
        self.ask(lambda client: client.alias.delete(alias_name=capitalized(name)))


def _by_ids(ids: list[str]) -> Any:
    from weaviate.classes.query import Filter

    return Filter.by_id().contains_any(ids)
