"""Pinecone keeps the promises of every store, and what else its limits and its delays ask for.

On a double (:mod:`tests.doubles.pinecone`); with ``EMBEDMIG_PINECONE_API_KEY`` the promises on the service too.
"""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import httpx
import pytest

from embedmig import testing
from embedmig.config import Collection
from embedmig.config.settings import StoreSettings
from embedmig.database import Connection, Database
from embedmig.source import Column, Source
from embedmig.source.rows import Row
from embedmig.stores import IndexBuild, VectorStore
from embedmig.stores.pinecone import PineconeStore
from embedmig.testing import STORE_PROMISES, StorePromise
from embedmig.types import Space
from tests.doubles.pinecone import KEY
from tests.integration.test_stores import unwatched

DOCS = Collection("docs", table="docs", key=("id",), text=("body",), alias="docs_search")
SOURCE = Source(DOCS, 0, "public", "docs", (Column("id", "bigint", True),), (Column("body", "text", True),), (), False)
SHARED = {"index": "embedmig-tests"}


class Double:
    """The server in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, 0
        self.start()

    def start(self) -> None:
        command = [sys.executable, "-m", "tests.doubles.pinecone", str(self.folder), str(self.port)]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        self.port = int(self.process.stdout.readline())

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def fault(self, **faults: Any) -> None:
        httpx.post(f"{self.url}/__faults", json=faults).raise_for_status()

    def asked(self, part: str = "") -> list[dict[str, Any]]:
        """The requests since it was asked last."""
        return [one for one in httpx.get(f"{self.url}/__requests").json() if part in one["path"]]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Double]:
    double = Double(tmp_path_factory.mktemp("pinecone"))
    yield double
    double.kill()


@pytest.fixture
def double(server: Double) -> Iterator[Double]:
    """With no faults but its delays, before and after."""
    yield server
    httpx.delete(f"{server.url}/__faults").raise_for_status()
    server.asked()


@dataclass
class PineconeUnderTest:
    """Names of its own: ``mark`` is in each."""

    url: str
    api_key: str
    options: Mapping[str, Any] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    timeout: float = 30.0
    give_up_after: float = 60.0
    persists: bool = True

    @property
    def settings(self) -> StoreSettings:
        return StoreSettings(
            "pinecone", "pinecone", url=self.url, api_key=self.api_key, timeout=self.timeout,
            give_up_after=self.give_up_after, options=self.options,
        )  # fmt: skip

    def connect(self) -> AbstractContextManager[Connection]:
        return nullcontext(cast(Connection, None))

    def open(self, space: Space) -> VectorStore:
        record = testing.fake_record(space, PineconeStore.new_place(space, self.mark, "embedmig"))
        settings = self.settings

        class Bound(PineconeStore):
            def __init__(self, source: Source, record: Any) -> None:
                super().__init__(source, record, settings)

        return Bound(SOURCE, record)

    def put_texts(self, conn: Connection, rows: Sequence[Row]) -> None:
        pass

    def index_build(self) -> IndexBuild:
        return unwatched()


SERVERS = ["an index a space", "a namespace a space"] + ["real"] * bool(os.environ.get("EMBEDMIG_PINECONE_API_KEY"))


@pytest.fixture
def bench(request: pytest.FixtureRequest, double: Double) -> Iterator[PineconeUnderTest]:
    if request.param == "real":
        given = PineconeUnderTest("", os.environ["EMBEDMIG_PINECONE_API_KEY"], SHARED)
    else:
        given = PineconeUnderTest(double.url, KEY, SHARED if "namespace" in request.param else {})
    yield given


@pytest.mark.parametrize("bench", SERVERS, indirect=True)
@pytest.mark.parametrize("promise", STORE_PROMISES, ids=lambda promise: promise.__name__)
def test_pinecone_keeps_the_promises(promise: StorePromise, bench: PineconeUnderTest) -> None:
    promise(bench)
