"""An application's own collections in the stores: made, filled and read by each vendor's client, as if embedmig were not there."""

from __future__ import annotations

import contextlib
import json
import sqlite3
import uuid
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from embedmig.testing.memory_store import TABLES
from embedmig.testing.store_promises import fake_vectors, unit
from tests.stores import RunningStore
from tests.waiting import wait_until

Payload = Mapping[str, Any]


class Point(NamedTuple):
    """``number`` is made an id of the store's kind."""

    number: int
    text: str
    payload: Payload


class Application(ABC):
    """One collection of points whose vectors are those that ``fake/hash`` gives their texts, ``(n, 8)`` float32 of norm 1."""

    has_alias = True

    def __init__(self, name: str) -> None:
        self.name = name

    def id_of(self, number: int) -> str:
        """As embedmig reads it."""
        return str(number)

    def put(self, points: Sequence[Point], dimensions: int = 8) -> None:
        """Upserts them whole."""
        vectors = unit(fake_vectors([point.text for point in points], dimensions)).tolist()
        self.write([(point.number, vector, point.payload) for point, vector in zip(points, vectors, strict=True)])
        wait_until(
            lambda: {self.id_of(point.number) for point in points} <= self.payloads().keys(), "the points to be seen"
        )

    @abstractmethod
    def make(self, dimensions: int = 8, metric: str = "cosine") -> None:
        """The collection."""

    @abstractmethod
    def write(self, points: Sequence[tuple[int, list[float], Payload]]) -> None:
        """Acknowledged."""

    @abstractmethod
    def payloads(self) -> dict[str, dict[str, Any]]:
        """Of every point, by id."""

    def alias(self, name: str) -> str | None:
        """The collection that an alias shows."""
        raise NotImplementedError(name)

    def set_alias(self, name: str) -> None:
        """Shows the collection."""
        raise NotImplementedError(name)

    def remove_alias(self, name: str) -> None:
        """Wherever it leads."""
        raise NotImplementedError(name)

    @abstractmethod
    def drop(self) -> None:
        """The collection."""


class InMemory(Application):
    """The store without a server."""

    def __init__(self, name: str, file: Path) -> None:
        super().__init__(name)
        self.file = file

    def _run(self, statement: str, *values: Any) -> list[Any]:
        with contextlib.closing(sqlite3.connect(self.file, timeout=60, isolation_level=None)) as db:
            db.executescript(TABLES)
            return db.execute(statement, values).fetchall()

    def make(self, dimensions: int = 8, metric: str = "cosine") -> None:
        self._run(
            "insert into places (name, dimensions, metric, indexed) values (?, ?, ?, 1)", self.name, dimensions, metric
        )

    def write(self, points: Sequence[tuple[int, list[float], Payload]]) -> None:
        for number, vector, payload in points:
            held = np.array(vector, np.float32).tobytes()
            self._run(
                "insert or replace into points values (?, ?, ?, ?)", self.name, str(number), json.dumps(payload), held
            )

    def remove(self, number: int) -> None:
        """A point."""
        self._run("delete from points where place = ? and id = ?", self.name, str(number))

    def payloads(self) -> dict[str, dict[str, Any]]:
        rows = self._run("select id, payload from points where place = ?", self.name)
        return {one: json.loads(payload) for one, payload in rows}

    def alias(self, name: str) -> str | None:
        found = self._run("select place from aliases where name = ?", name)
        return found[0][0] if found else None

    def set_alias(self, name: str) -> None:
        self._run("insert or replace into aliases values (?, ?)", name, self.name)

    def drop(self) -> None:
        self._run("delete from places where name = ?", self.name)


class OnQdrant(Application):
    """Numbers as ids."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name)
        from qdrant_client import QdrantClient

        self.client = QdrantClient(url=url, check_compatibility=False)

    def make(self, dimensions: int = 8, metric: str = "cosine") -> None:
        from qdrant_client import models

        distance = {"cosine": models.Distance.COSINE, "l2": models.Distance.EUCLID}[metric]
        self.client.create_collection(self.name, models.VectorParams(size=dimensions, distance=distance))

    def write(self, points: Sequence[tuple[int, list[float], Payload]]) -> None:
        from qdrant_client import models

        self.client.upsert(
            self.name, [models.PointStruct(id=n, vector=v, payload=dict(p)) for n, v, p in points], wait=True
        )

    def payloads(self) -> dict[str, dict[str, Any]]:
        found, _ = self.client.scroll(self.name, limit=10_000, with_payload=True)
        return {str(point.id): point.payload or {} for point in found}

    def alias(self, name: str) -> str | None:
        aliases = self.client.get_aliases().aliases
        return next((one.collection_name for one in aliases if one.alias_name == name), None)

    def set_alias(self, name: str) -> None:
        from qdrant_client import models

        create = models.CreateAlias(collection_name=self.name, alias_name=name)
        self.client.update_collection_aliases([models.CreateAliasOperation(create_alias=create)])

    def remove_alias(self, name: str) -> None:
        from qdrant_client import models

        delete = models.DeleteAlias(alias_name=name)
        self.client.update_collection_aliases([models.DeleteAliasOperation(delete_alias=delete)])

    def drop(self) -> None:
        self.client.delete_collection(self.name)


class OnMilvus(Application):
    """A schema of the application's: a whole number as primary key, and fields of its own names."""

    def __init__(self, name: str, url: str) -> None:
        super().__init__(name)
        from pymilvus import MilvusClient

        self.client = MilvusClient(uri=url)

    def make(self, dimensions: int = 8, metric: str = "cosine", *, dynamic: bool = True, auto_id: bool = False) -> None:
        from pymilvus import DataType

        schema = self.client.create_schema(auto_id=auto_id, enable_dynamic_field=dynamic)
        schema.add_field("pk", DataType.INT64, is_primary=True)
        schema.add_field("vec", DataType.FLOAT_VECTOR, dim=dimensions)
        schema.add_field("kind", DataType.VARCHAR, max_length=100)
        index = self.client.prepare_index_params()
        index.add_index("vec", index_type="HNSW", metric_type=metric.upper(), params={"M": 16, "efConstruction": 64})
        self.client.create_collection(self.name, schema=schema, index_params=index)

    def write(self, points: Sequence[tuple[int, list[float], Payload]]) -> None:
        self.client.upsert(self.name, [{"pk": n, "vec": v, "kind": "article"} | dict(p) for n, v, p in points])

    def payloads(self) -> dict[str, dict[str, Any]]:
        rows = self.client.query(
            self.name, filter="pk >= 0", output_fields=["*"], consistency_level="Strong", limit=10_000
        )
        return {str(row["pk"]): {k: v for k, v in row.items() if k not in ("pk", "vec")} for row in rows}

    def alias(self, name: str) -> str | None:
        from pymilvus.exceptions import MilvusException

        try:
            return str(self.client.describe_alias(name)["collection_name"])
        except MilvusException:
            return None

    def set_alias(self, name: str) -> None:
        self.client.create_alias(self.name, name)

    def remove_alias(self, name: str) -> None:
        self.client.drop_alias(name)

    def drop(self) -> None:
        self.client.drop_collection(self.name)


class OnWeaviate(Application):
    """UUIDs as ids, and properties that the application declared."""

    def __init__(self, name: str, settings: Any) -> None:
        super().__init__(name.capitalize())
        self.settings = settings

    def _ask(self, call: Any) -> Any:
        from embedmig.stores.weaviate.client import ask

        return ask(self.settings, call)

    def id_of(self, number: int) -> str:
        return str(uuid.UUID(int=number + 1))

    def make(self, dimensions: int = 8, metric: str = "cosine") -> None:
        from weaviate.classes.config import Configure, DataType, Property

        properties = [
            Property(name="article_id", data_type=DataType.INT),
            Property(name="body", data_type=DataType.TEXT),
        ]
        vectors = Configure.Vectors.self_provided(name="body")
        self._ask(lambda client: client.collections.create(self.name, properties=properties, vector_config=vectors))

    def write(self, points: Sequence[tuple[int, list[float], Payload]]) -> None:
        from weaviate.classes.data import DataObject

        objects = [DataObject(dict(p), self.id_of(n), {"body": v}) for n, v, p in points]
        answer = self._ask(lambda client: client.collections.use(self.name).data.insert_many(objects))
        assert not answer.errors

    def payloads(self) -> dict[str, dict[str, Any]]:
        found = self._ask(lambda client: client.collections.use(self.name).query.fetch_objects(limit=1_000))
        return {str(one.uuid): {k: v for k, v in one.properties.items() if v is not None} for one in found.objects}

    def alias(self, name: str) -> str | None:
        found = self._ask(lambda client: client.alias.get(alias_name=name.capitalize()))
        return found.collection if found else None

    def set_alias(self, name: str) -> None:
        self._ask(lambda client: client.alias.create(alias_name=name.capitalize(), target_collection=self.name))

    def remove_alias(self, name: str) -> None:
        self._ask(lambda client: client.alias.delete(alias_name=name.capitalize()))

    def drop(self) -> None:
        self._ask(lambda client: client.collections.delete(self.name))


class OnPinecone(Application):
    """An index of the vectors API, which indexes made before the documents API answer to."""

    has_alias = False

    def __init__(self, name: str, url: str, key: str) -> None:
        super().__init__(name.replace("_", "-"))
        from pinecone import Pinecone

        self.control = Pinecone(key, host=url)

    def id_of(self, number: int) -> str:
        return f"a{number}"

    def make(self, dimensions: int = 8, metric: str = "cosine") -> None:
        self.control.indexes.create(name=self.name, dimension=dimensions, metric=metric, timeout=-1)
        wait_until(lambda: self.control.indexes.describe(self.name).status.ready, "the index")

    def write(self, points: Sequence[tuple[int, list[float], Payload]]) -> None:
        vectors = [{"id": self.id_of(n), "values": v, "metadata": dict(p)} for n, v, p in points]
        index = self.control.index(self.name)
        index.upsert(vectors=vectors, show_progress=False)
        wanted = len(self.payloads().keys() | {self.id_of(n) for n, *_ in points})
        wait_until(lambda: index.describe_index_stats().total_vector_count >= wanted, "the points to be counted")

    def payloads(self) -> dict[str, dict[str, Any]]:
        index = self.control.index(self.name)
        ids = [one.id for page in index.list() for one in page.vectors]
        found: dict[str, dict[str, Any]] = {}
        for start in range(0, len(ids), 100):
            vectors = index.fetch(ids=ids[start : start + 100]).vectors
            found |= {one: vector.metadata or {} for one, vector in vectors.items()}
        return found

    def drop(self) -> None:
        self.control.indexes.delete(self.name, timeout=-1)


def on(store: RunningStore, name: str) -> Application:
    """A collection of that name, not made yet."""
    if store.kind == "qdrant":
        return OnQdrant(name, store.url)
    if store.kind == "milvus":
        return OnMilvus(name, store.url)
    if store.kind == "pinecone":
        return OnPinecone(name, store.url, store.api_key)
    from embedmig.config.settings import StoreSettings

    grpc = store.options.split('"')[1]
    return OnWeaviate(name, StoreSettings("theirs", "weaviate", store.url, options={"grpc": grpc}, give_up_after=5))


def articles(numbers: Sequence[int] | range, texts: Mapping[int, str], **more: Any) -> list[Point]:
    """A point for each row of these numbers, with its key in the payload."""
    return [Point(n, texts[n], {"article_id": n, "body": texts[n]} | more) for n in numbers]
