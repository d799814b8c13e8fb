"""The stores beside PostgreSQL that a test can run on: how each is started, and what the configuration says of it."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests import milvus_server

NAMES = ["milvus", "qdrant", "pinecone", "weaviate", "pgvector"]
"""Milvus is real, and so is pgvector in a database of its own; Qdrant is its engine behind a double, the others are doubles."""


@dataclass(frozen=True)
class RunningStore:
    """A store that can be reached: ``kind`` and ``url`` as ``[stores.NAME]`` has them."""

    kind: str
    url: str
    api_key: str = ""
    options: str = "{}"

    def section(self, name: str = "far") -> str:
        """Of ``embedmig.toml``."""
        key = 'api_key = "env:STORE_API_KEY"\n' if self.api_key else ""
        return f'\n[stores.{name}]\nkind = "{self.kind}"\nurl = "{self.url}"\ngive_up_after = "20s"\noptions = {self.options}\n{key}'


@contextmanager
def running(name: str, folder: Path) -> Iterator[RunningStore]:
    """A store with nothing in it; skipped where what it takes is not installed."""
    if name == "pgvector":
        with database() as url:
            yield RunningStore("pgvector", url)
        return
    if name != "milvus":
        yield from doubled(name, folder)
        return
    if not milvus_server.installed():
        pytest.skip("pip install milvus==2.3.5")
    server = milvus_server.start()
    try:
        yield RunningStore("milvus", server.url)
    finally:
        server.close()


@contextmanager
def database() -> Iterator[str]:
    """A database with nothing in it on the test session's server."""
    from tests.conftest import SERVER

    name, server = f"v_{uuid.uuid4().hex[:16]}", os.environ[SERVER]
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"create database {name}")
    yield server.replace("/postgres?", f"/{name}?")
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"drop database if exists {name} with (force)")


def doubled(name: str, folder: Path) -> Iterator[RunningStore]:
    """A double in a process of its own."""
    double: Any
    if name == "qdrant":
        from tests.doubles.qdrant.process import QdrantDouble

        double = QdrantDouble(folder)
        found = RunningStore("qdrant", double.url)
    elif name == "weaviate":
        from tests.doubles.weaviate import WeaviateDouble

        double = WeaviateDouble(folder).start()
        found = RunningStore("weaviate", double.url, options=f'{{ grpc = "{double.grpc}" }}')
    else:
        from tests.doubles.pinecone import KEY
        from tests.integration.test_store_pinecone import Double

        double = Double(folder)
        found = RunningStore("pinecone", double.url, KEY)
    try:
        yield found
    finally:
        double.kill()
