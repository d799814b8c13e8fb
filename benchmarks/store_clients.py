"""Stores' own clients as an application would use them, without embedmig: what :mod:`benchmarks.stores` compares with."""

from __future__ import annotations

import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import psycopg

from tests.stores import RunningStore

BATCH = 1_000


class Client(ABC):
    """One collection of rows ``(key, title, vector)``, with an index as embedmig's has."""

    @abstractmethod
    def fill(self, keys: Sequence[str], titles: Sequence[str], vectors: Any) -> None:
        """``vectors`` is ``(n, dimensions)`` float32. Acknowledged when it returns."""

    def build_index(self) -> None:  # noqa: B027  most make it with the collection
        """Where it was not made with the collection."""

    def close(self) -> None:  # noqa: B027  most end with the process
        """It is not asked again."""

    @abstractmethod
    def nearest(self, vector: Sequence[float], limit: int) -> list[str]:
        """Keys, nearest first, by cosine."""


def batches(
    keys: Sequence[str], titles: Sequence[str], vectors: Any
) -> Iterator[tuple[Sequence[str], Sequence[str], Any]]:
    """Of :data:`BATCH` rows."""
    for start in range(0, len(keys), BATCH):
        part = slice(start, start + BATCH)
        yield keys[part], titles[part], vectors[part]


def point_id(key: str) -> str:
    return str(uuid.uuid5(uuid.NAMESPACE_OID, key))


class MilvusAlone(Client):
    def __init__(self, server: RunningStore, name: str, dimensions: int) -> None:
        self.name = name
        from pymilvus import DataType, MilvusClient

        self.client = MilvusClient(uri=server.url)
        schema = MilvusClient.create_schema(auto_id=False, enable_dynamic_field=True)
        schema.add_field("id", DataType.VARCHAR, is_primary=True, max_length=36)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dimensions)
        index = MilvusClient.prepare_index_params()
        index.add_index("vector", index_type="HNSW", metric_type="COSINE", params={"M": 16, "efConstruction": 64})
        self.client.create_collection(self.name, schema=schema, consistency_level="Strong")
        self.client.create_index(self.name, index)
        self.client.load_collection(self.name)

    def fill(self, keys: Sequence[str], titles: Sequence[str], vectors: Any) -> None:
        for some in batches(keys, titles, vectors):
            rows = [
                {"id": point_id(key), "vector": vector, "key": key, "title": title}
                for key, title, vector in zip(*some, strict=True)
            ]
            self.client.upsert(self.name, rows)

    def nearest(self, vector: Sequence[float], limit: int) -> list[str]:
        found = self.client.search(self.name, data=[list(vector)], limit=limit, output_fields=["key"], search_params={"params": {"ef": 64}}, consistency_level="Session")  # fmt: skip
        return [hit["entity"]["key"] for hit in found[0]]


class QdrantAlone(Client):
    def __init__(self, server: RunningStore, name: str, dimensions: int) -> None:
        self.name = name
        from qdrant_client import QdrantClient, models

        self.client = QdrantClient(url=server.url, timeout=60, check_compatibility=False)
        params = models.VectorParams(size=dimensions, distance=models.Distance.COSINE)
        config = models.OptimizersConfigDiff(indexing_threshold=0)  # as embedmig's while it is filled
        self.client.create_collection(self.name, params, optimizers_config=config)

    def fill(self, keys: Sequence[str], titles: Sequence[str], vectors: Any) -> None:
        from qdrant_client import models

        for some_keys, some_titles, some in batches(keys, titles, vectors):
            payloads = [{"key": key, "title": title} for key, title in zip(some_keys, some_titles, strict=True)]
            ids: list[Any] = [point_id(key) for key in some_keys]
            self.client.upsert(self.name, models.Batch(ids=ids, vectors=some.tolist(), payloads=payloads), wait=True)

    def nearest(self, vector: Sequence[float], limit: int) -> list[str]:
        found = self.client.query_points(self.name, query=list(vector), limit=limit, with_payload=["key"])
        return [(point.payload or {})["key"] for point in found.points]


class PgvectorAlone(Client):
    def __init__(self, server: RunningStore, name: str, dimensions: int) -> None:
        self.name = name
        self.conn = psycopg.connect(server.url, autocommit=True)
        self.conn.execute("create extension if not exists vector")
        self.conn.execute(
            f"create table {self.name} (id uuid primary key, key text, title text, vector vector({dimensions}))"
        )  # type: ignore[arg-type]

    def fill(self, keys: Sequence[str], titles: Sequence[str], vectors: Any) -> None:
        for some in batches(keys, titles, vectors):
            with self.conn.transaction(), self.conn.cursor().copy(f"copy {self.name} from stdin") as copy:  # type: ignore[arg-type]
                for key, title, vector in zip(*some, strict=True):
                    copy.write_row((point_id(key), key, title, str(vector.tolist())))

    def close(self) -> None:
        self.conn.close()

    def build_index(self) -> None:
        self.conn.execute(f"create index on {self.name} using hnsw (vector vector_cosine_ops)")  # type: ignore[arg-type]

    def nearest(self, vector: Sequence[float], limit: int) -> list[str]:
        query = f"select key from {self.name} order by vector <=> %s::vector limit %s"
        return [row[0] for row in self.conn.execute(query, (str(list(vector)), limit))]  # type: ignore[arg-type]


CLIENTS: dict[str, Callable[[RunningStore, str, int], Client]] = {
    "milvus": MilvusAlone,
    "qdrant": QdrantAlone,
    "pgvector": PgvectorAlone,
}
