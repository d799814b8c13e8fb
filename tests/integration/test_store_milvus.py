"""Milvus, real: the standalone 2.3.5 and milvus-lite; another server where EMBEDMIG_MILVUS_URL names one."""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import pytest

from embedmig import testing
from embedmig.config import Collection
from embedmig.config.settings import StoreSettings
from embedmig.database import Connection, Database
from embedmig.errors import OutcomeUnknown, StoreError, StoreUnreachable
from embedmig.source import Column, Source
from embedmig.source.rows import Row
from embedmig.stores import IndexBuild, IndexOptions
from embedmig.stores.external import KEY, VERSION
from embedmig.stores.milvus import MilvusStore
from embedmig.stores.milvus.fields import filter_of
from embedmig.testing import STORE_PROMISES, StorePromise
from embedmig.testing.store_promises import CHUNKED, SPACE, batch_of, rows_of
from embedmig.types import Space
from tests import milvus_server

CONN = cast(Connection, None)


def docs(alias: str = "docs_search") -> Source:
    collection = Collection("docs", table="docs", key=("id",), text=("body",), alias=alias)
    return Source(
        collection,
        0,
        "public",
        "docs",
        (Column("id", "bigint", True),),
        (Column("body", "text", True),),
        (),
        row_security=False,
    )


@dataclass
class MilvusUnderTest:
    """A server, and names of this test's own on it."""

    url: str
    unique: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    persists: bool = True

    def connect(self) -> AbstractContextManager[Connection]:
        return nullcontext(CONN)

    def open(self, space: Space) -> MilvusStore:
        record = testing.fake_record(space, MilvusStore.new_place(space, self.unique, "embedmig"))
        settings = StoreSettings(
            "milvus", "milvus", self.url, api_key=os.environ.get("EMBEDMIG_MILVUS_API_KEY"), give_up_after=30
        )
        return MilvusStore(docs(f"docs_{self.unique}"), record, settings)

    def put_texts(self, conn: Connection, rows: Sequence[Row]) -> None:
        pass

    def index_build(self) -> IndexBuild:
        return IndexBuild(Database("", "embedmig"), lambda _: None, threading.Event(), lambda: None)


SERVERS = [
    pytest.param("standalone", id="2.3.5"),
    pytest.param("lite", id="lite"),
    *([pytest.param("named", id="real")] if os.environ.get("EMBEDMIG_MILVUS_URL") else []),
]


@pytest.fixture(scope="module", params=SERVERS)
def server(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server with nothing of ours in it."""
    if request.param == "named":
        yield os.environ["EMBEDMIG_MILVUS_URL"]
        return
    standalone = request.param == "standalone"
    if not milvus_server.installed(standalone=standalone):
        pytest.skip("pip install milvus==2.3.5" if standalone else "pip install milvus-lite")
    running = milvus_server.start(standalone=standalone)
    yield running.url
    running.close()


@pytest.fixture
def bench(server: str) -> Iterator[MilvusUnderTest]:
    found = MilvusUnderTest(server)
    yield found
    store = found.open(SPACE)
    store.remove_alias(store.alias_name)
    for space in (
        SPACE,
        replace(SPACE, version="2"),
        CHUNKED,
        *(replace(SPACE, version=f"killed-{n}") for n in range(6)),
    ):
        found.open(space).drop_collection()


@pytest.mark.parametrize("promise", STORE_PROMISES, ids=lambda promise: promise.__name__)
def test_milvus_keeps_the_promises(promise: StorePromise, bench: MilvusUnderTest) -> None:
    promise(bench)


def test_the_index_is_built_although_a_reader_loads_the_collection_meanwhile(
    bench: MilvusUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, batch = bench.open(SPACE), batch_of(SPACE, rows_of(range(20)))
    store.create(CONN)
    store.upsert(CONN, batch)
    whole, loaded = MilvusStore._call, list[str]()

    def call(store: MilvusStore, method: str, *arguments: Any, **more: Any) -> Any:
        if method == "drop_index" and not loaded:
            whole(store, "load_collection")
            loaded.append(store.collection)
        return whole(store, method, *arguments, **more)

    monkeypatch.setattr(MilvusStore, "_call", call)
    assert store.build_index(CONN, IndexOptions(), bench.index_build()) == "built"
    assert store.index_state(CONN) == "valid"
    assert loaded


def test_an_index_that_milvus_lite_still_writes_is_loaded_when_it_is_written(
    bench: MilvusUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymilvus.exceptions import MilvusException

    store, whole, refusals = bench.open(SPACE), MilvusStore._call, [MilvusException(1, "No data left in file")]
    store.create(CONN)

    def call(store: MilvusStore, method: str, *arguments: Any, **more: Any) -> Any:
        if method == "load_collection" and refusals:
            raise store._translated(refusals.pop())
        return whole(store, method, *arguments, **more)

    monkeypatch.setattr(MilvusStore, "_call", call)
    assert store.build_index(CONN, IndexOptions(), bench.index_build()) == "built"
    assert not refusals


def test_columns_are_changed_and_nothing_else_of_a_point(bench: MilvusUnderTest) -> None:
    store, rows = bench.open(SPACE), rows_of(range(4))
    store.create(CONN)
    batch = batch_of(SPACE, rows)
    points = store.points_of(batch, {row.key: {"title": f'a "quoted" {row.key[0]}\n', "price": 1.5} for row in rows})
    store.put_all(points)
    store.set_columns({points[1].id: {"title": "new"}, str(uuid.uuid4()): {"title": "nobody"}})
    held = {point.id: point.payload for page in store.held(None) for point in page}
    assert held.keys() == {point.id for point in points}
    assert held[points[1].id]["title"] == "new"
    assert "price" not in held[points[1].id]
    assert held[points[1].id][KEY] == ["1"]
    asked = [float(value) for value in batch.vectors[0]]
    assert store.vectors([points[1].id])[points[1].id] == pytest.approx([float(v) for v in batch.vectors[1]], abs=1e-6)
    assert [near.key for near in store.near(asked, 4, {"title": "new"}, exact=True)] == [("1",)]
    assert [near.key for near in store.near(asked, 4, {"title": ['a "quoted" 2\n', "none"]}, exact=True)] == [("2",)]
    store.set_version([points[0].id], "other")
    assert {point.payload[VERSION] for page in store.held((VERSION,)) for point in page} == {"other", SPACE.tag}


@pytest.mark.parametrize(("metric", "far"), [("l2", 2**0.5), ("ip", 0.0), ("cosine", 1.0)])
def test_distances_are_those_of_pgvector(bench: MilvusUnderTest, metric: Any, far: float) -> None:
    import numpy as np

    store = bench.open(replace(SPACE, metric=metric))
    store.create(CONN)
    batch = batch_of(SPACE, rows_of(range(2)))
    batch.vectors[:] = np.eye(2, SPACE.dimensions, dtype=np.float32)
    store.upsert(CONN, batch)
    found = store.near([1.0, *[0.0] * (SPACE.dimensions - 1)], 2, {}, exact=True)
    near = -1.0 if metric == "ip" else 0.0
    assert [point.distance for point in found] == pytest.approx([near, far], abs=1e-5)


def test_what_it_holds_is_found_after_an_index_took_the_place_of_another(bench: MilvusUnderTest) -> None:
    store = bench.open(SPACE)
    store.create(CONN)
    batch = batch_of(SPACE, rows_of(range(50)))
    store.upsert(CONN, batch)
    assert store.index_state(CONN) == "none"
    store.build_index(CONN, IndexOptions(), bench.index_build())
    assert store.index_state(CONN) == "valid"
    more = batch_of(SPACE, rows_of(range(50, 60)))
    store.upsert(CONN, more)
    found = store.search(CONN, [float(value) for value in more.vectors[3]], 1)
    assert found[0].key_text == more.rows[3].key


def test_a_filter_that_few_points_meet_finds_them_however_far_they_are(bench: MilvusUnderTest) -> None:
    store = bench.open(SPACE)
    store.create(CONN)
    batch = batch_of(SPACE, rows_of(range(300)))
    store.upsert(CONN, batch)
    store.build_index(CONN, IndexOptions(), bench.index_build())
    asked = [float(value) for value in batch.vectors[0]]
    far = sorted(range(300), key=lambda place: float(batch.vectors[place] @ batch.vectors[0]))[:3]
    found = store.near(asked, 10, {"id": [str(place) for place in far]}, exact=False)
    assert [point.key for point in found] == [(str(place),) for place in reversed(far)]
    assert [point.distance for point in found] == pytest.approx(
        [1 - float(batch.vectors[place] @ batch.vectors[0]) for place in reversed(far)], abs=1e-5
    )


def test_a_server_that_is_not_there_is_said_to_be_out_of_reach() -> None:
    store = MilvusUnderTest(f"http://127.0.0.1:{milvus_server.free_port()}").open(SPACE)
    with pytest.raises(StoreUnreachable, match="milvus can't be reached"):
        store.server_version()


def test_an_alias_that_has_the_name_of_a_collection_is_refused(bench: MilvusUnderTest) -> None:
    store = bench.open(SPACE)
    store.create(CONN)
    with pytest.raises(StoreError) as caught:
        store.point_alias(store.collection)
    assert not isinstance(caught.value, OutcomeUnknown)


def test_values_of_a_filter_are_quoted() -> None:
    assert filter_of({"a b": 'x" or 1 == 1', "n": [1, 2], "yes": True, "none": None, "nobody": []}) == (
        '($meta["a b"] == "x\\" or 1 == 1") and ($meta["n"] == 1 or $meta["n"] == 2) and ($meta["yes"] == true) and embedmig_chunk < 0'
    )
