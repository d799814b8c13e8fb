"""The store in Weaviate keeps the promises of every store, and gets past what Weaviate is known to do.

It runs on the double of :mod:`tests.doubles.weaviate`; where ``EMBEDMIG_WEAVIATE_URL`` names a server (with
``EMBEDMIG_WEAVIATE_GRPC``, host and port, and ``EMBEDMIG_WEAVIATE_API_KEY``), the promises run on that one too.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from embedmig import testing
from embedmig.config import Collection
from embedmig.config.settings import StoreSettings
from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.source import Column, Source
from embedmig.source.rows import Row
from embedmig.stores import IndexBuild, VectorStore
from embedmig.stores.weaviate import WeaviateStore
from embedmig.testing import STORE_PROMISES, StorePromise
from embedmig.types import Space
from tests.doubles.weaviate import WeaviateDouble
from tests.integration.test_stores import unwatched

DOCS = Collection("docs", table="docs", key=("id",), text=("body",), alias="docs_search")
NOBODY = cast(Connection, None)


def source(*columns: Column, key: Sequence[str] = ("id",), alias: str = "docs_search") -> Source:
    collection = Collection("docs", table="docs", key=tuple(key), text=("body",), alias=alias)
    return Source(
        collection, 0, "public", "docs", tuple(Column(name, "bigint", True) for name in key), (Column("body", "text", True),),
        columns, False,
    )  # fmt: skip


@dataclass
class WeaviateUnderTest:
    """A server; ``mark`` tells the test's collections and aliases from others'."""

    settings: StoreSettings
    mark: str = field(default_factory=lambda: f"t{uuid.uuid4().hex[:8]}")
    persists: bool = True

    def connect(self) -> AbstractContextManager[Connection]:
        return nullcontext(NOBODY)

    def open(self, space: Space) -> VectorStore:
        return self.of(space, source(alias=f"{self.mark}_docs"))

    def of(self, space: Space, where: Source, collection: str = "") -> WeaviateStore:
        settings = self.settings

        class Bound(WeaviateStore):
            def __init__(self, source: Source, record: SpaceRecord) -> None:
                super().__init__(source, record, settings)

        place = WeaviateStore.new_place(space, self.mark, "embedmig")
        name = collection or f"{self.mark}_{place[3]}"
        return Bound(where, testing.fake_record(space, (*place[:3], name)))

    def put_texts(self, conn: Connection, rows: Sequence[Row]) -> None:
        pass

    def index_build(self) -> IndexBuild:
        return unwatched()


@pytest.fixture(scope="session")
def double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[WeaviateDouble]:
    server = WeaviateDouble(tmp_path_factory.mktemp("weaviate")).start()
    yield server
    server.kill()


def settings_of(server: WeaviateDouble, **rest: Any) -> StoreSettings:
    options = {"grpc": server.grpc} | rest.pop("options", {})
    return StoreSettings("vectors", "weaviate", server.url, **({"give_up_after": 5.0} | rest), options=options)


REAL = os.environ.get("EMBEDMIG_WEAVIATE_URL")


@pytest.fixture(params=["double", *(["real"] if REAL else [])])
def bench(request: pytest.FixtureRequest) -> Iterator[WeaviateUnderTest]:
    if request.param == "double":
        server = request.getfixturevalue("double")
        server.set()
        made = WeaviateUnderTest(settings_of(server))
    else:
        grpc = os.environ.get("EMBEDMIG_WEAVIATE_GRPC")
        key = os.environ.get("EMBEDMIG_WEAVIATE_API_KEY")
        made = WeaviateUnderTest(StoreSettings("vectors", "weaviate", REAL or "", key, options={"grpc": grpc} if grpc else {}))  # fmt: skip
    yield made
    if request.param == "real":
        remove_all(made)


def remove_all(bench: WeaviateUnderTest) -> None:
    """What has the test's mark."""
    from embedmig.stores.weaviate.client import ask

    def remove(client: Any) -> None:
        for alias in client.alias.list_all():
            if alias.lower().startswith(bench.mark):
                client.alias.delete(alias_name=alias)
        for name in client.collections.list_all():
            if name.lower().startswith(bench.mark):
                client.collections.delete(name)

    ask(bench.settings, remove)


@pytest.mark.parametrize("promise", STORE_PROMISES, ids=lambda promise: promise.__name__)
def test_weaviate_keeps_the_promises(promise: StorePromise, bench: WeaviateUnderTest) -> None:
    promise(bench)
