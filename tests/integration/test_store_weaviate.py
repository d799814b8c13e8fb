"""The store in Weaviate keeps the promises of every store, and gets past what Weaviate is known to do.

It runs on the double of :mod:`tests.doubles.weaviate`; where ``EMBEDMIG_WEAVIATE_URL`` names a server (with
``EMBEDMIG_WEAVIATE_GRPC``, host and port, and ``EMBEDMIG_WEAVIATE_API_KEY``), the promises run on that one too.
"""

from __future__ import annotations

import os
import socket
import sys
import threading
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pytest

from embedmig import testing
from embedmig.config import Collection
from embedmig.config.settings import StoreSettings
from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.errors import (
    ConfigError,
    MissingExtra,
    OutcomeUnknown,
    PlanError,
    StoreError,
    StoreThrottled,
    StoreUnauthorized,
    StoreUnreachable,
    StoreUnsuitable,
    UsageError,
    VectorRefused,
)
from embedmig.source import Column, Source
from embedmig.source.rows import Row
from embedmig.stores import IndexBuild, IndexOptions, VectorStore
from embedmig.stores.external import Point
from embedmig.stores.weaviate import WeaviateStore, store
from embedmig.stores.weaviate.client import addresses, ask
from embedmig.stores.weaviate.properties import column_name, property_name
from embedmig.testing import STORE_PROMISES, StorePromise
from embedmig.testing.store_promises import CHUNKED, OTHER, SPACE, assert_holds, batch_of, ids_of, rows_of
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


# --- what Weaviate is known to do: on the double, whose switches name the threads -------------------------------


@pytest.fixture
def faulty(double: WeaviateDouble) -> Iterator[WeaviateDouble]:
    double.set()
    yield double
    double.set()


def small(store: WeaviateStore, rows: Sequence[int] = range(12)) -> list[Point]:
    return store.points_of(batch_of(store.space, rows_of(rows)))


def opened(server: WeaviateDouble, space: Space = SPACE, *columns: Column, key: Sequence[str] = ("id",), **settings: Any) -> WeaviateStore:  # fmt: skip
    """A store of a test's own whose collection is there."""
    made = WeaviateUnderTest(settings_of(server, **settings))
    opened = made.of(space, source(*columns, key=key, alias=f"{made.mark}_docs"))
    opened.create(NOBODY)
    return opened


def listed(store: WeaviateStore) -> list[str]:
    return sorted(store.list_ids(NOBODY))


def test_a_delete_goes_on_where_the_server_stops_it(faulty: WeaviateDouble) -> None:
    store = opened(faulty)
    points = small(store, range(40))
    store.put_all(points)
    faulty.set(delete_cap=7)
    store.delete(NOBODY, [point.id for point in points[:30]])
    assert listed(store) == sorted(point.id for point in points[30:])
    assert faulty.asked()["BatchDelete"] == 6  # five that delete, one that finds nothing left


def test_points_that_were_not_taken_are_put_again(faulty: WeaviateDouble) -> None:
    store = opened(faulty)
    for refused in (3, 12):  # some of the batch, all of it
        faulty.set(read_only=refused, read_only_times=2)
        assert store.put_all(small(store)) == 12
        assert faulty.asked()["BatchObjects"] == 3
        assert listed(store) == sorted(point.id for point in small(store))


def test_a_batch_that_stays_incomplete_is_an_error_with_the_servers_words(faulty: WeaviateDouble) -> None:
    store = opened(faulty, give_up_after=0.3)
    faulty.set(read_only=2, read_only_times=1000)
    with pytest.raises(OutcomeUnknown, match="of 12 points 2 were not taken: store is read-only"):
        store.put_all(small(store))


def test_a_batch_without_an_answer_is_put_again_and_is_there_once(faulty: WeaviateDouble) -> None:
    store = opened(faulty, timeout=0.5)
    faulty.set(unanswered=1)
    assert store.put_all(small(store)) == 12
    assert faulty.asked()["BatchObjects"] == 2
    assert_holds(store, NOBODY, batch_of(SPACE, rows_of(range(12))))


def test_a_server_in_maintenance_is_asked_again_by_us_and_not_by_the_client(faulty: WeaviateDouble) -> None:
    """The client alone would wait 1, 2, 4 … 32 seconds."""
    store = opened(faulty)
    waits: list[float] = []
    store.patience = replace(store.patience, sleep=waits.append)
    faulty.set(unavailable=3)
    assert store.put_all(small(store)) == 12
    assert waits == [0.1, 0.2, 0.4]
    faulty.set(unavailable=2)
    assert store.count(NOBODY) == 12
    assert len(waits) == 5


def test_batches_get_smaller_where_the_server_has_no_room(faulty: WeaviateDouble) -> None:
    store = opened(faulty)
    faulty.set(exhausted_over=7)
    assert store.put_all(small(store, range(40))) == 40
    assert store.put_points == 5
    assert_holds(store, NOBODY, batch_of(SPACE, rows_of(range(40))))


def test_too_many_requests_are_waited_for(faulty: WeaviateDouble) -> None:
    store = opened(faulty)
    faulty.set(rest_status=429, rest_path="/v1/schema", rest_times=2)
    assert store.put_all(small(store)) == 12
    store = opened(faulty, give_up_after=0.2)
    faulty.set(rest_status=429, rest_path="/v1/schema", rest_times=1000)
    with pytest.raises(StoreThrottled):
        store.put_all(small(store))


@pytest.mark.parametrize(("status", "kind"), [(500, OutcomeUnknown), (503, StoreUnreachable), (403, StoreUnauthorized), (501, StoreUnsuitable), (422, StoreError)])  # fmt: skip
def test_a_refusal_is_told_by_its_status(faulty: WeaviateDouble, status: int, kind: type[StoreError]) -> None:
    store = opened(faulty)
    faulty.set(rest_status=status, rest_path="/v1/aliases")
    with pytest.raises(StoreError) as caught:
        store.alias_target("docs")
    assert type(caught.value) is kind


def test_a_wrong_key_is_told_and_never_shown(faulty: WeaviateDouble) -> None:
    store = opened(faulty, api_key="right-key-1234", timeout=29.0)
    store.put_all(small(store))
    faulty.set(key="right-key-1234")
    assert store.count(NOBODY) == 12
    wrong = opened_elsewhere(store, replace(store.settings, api_key="wrong-key-5678", timeout=28.0))
    with_no_longer = opened_elsewhere(store, store.settings)
    faulty.set(key="another")
    for refused, call in ((wrong, wrong.total), (wrong, wrong.shape), (with_no_longer, with_no_longer.total)):
        with pytest.raises(StoreUnauthorized) as caught:
            call()
        shown = "".join(traceback.format_exception(caught.value)) + repr(refused.settings)
        assert "key-1234" not in shown
        assert "key-5678" not in shown


def opened_elsewhere(store: WeaviateStore, settings: StoreSettings) -> WeaviateStore:
    """The same collection with other settings."""
    return WeaviateStore(store.source, store.record, settings)


def test_a_server_that_is_not_there_is_an_error_and_one_that_comes_back_has_everything(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    server = WeaviateDouble(tmp_path_factory.mktemp("weaviate")).start()
    try:
        store = opened(server, give_up_after=0.3)
        store.put_all(small(store))
        store.set_alias(NOBODY)
        server.kill()
        for call in (store.total, store.shape, lambda: store.put(small(store))):
            with pytest.raises(StoreUnreachable):
                store.attempt(call)
        never = opened_elsewhere(store, replace(store.settings, timeout=27.0))
        with pytest.raises(StoreUnreachable):
            never.attempt(never.server_version)
        server.start()
        patient = opened_elsewhere(store, replace(store.settings, give_up_after=30.0))
        assert patient.count(NOBODY) == 12
        assert patient.alias(NOBODY) == store.name
    finally:
        server.kill()


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "weaviate"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "weaviate", None)
    store = WeaviateUnderTest(StoreSettings("vectors", "weaviate", "http://localhost:1")).of(SPACE, source())
    for call in (store.server_version, store.total, store.create_collection, lambda: store.remove(["id"]), lambda: store.near([0.5] * 8, 1, {}, exact=False)):  # fmt: skip
        with pytest.raises(MissingExtra, match="weaviate-client is not installed"):
            call()


def test_where_grpc_is_follows_from_the_url_unless_it_is_said() -> None:
    def at(url: str, **options: Any) -> tuple[Any, ...]:
        found = addresses(StoreSettings("vectors", "weaviate", url, options=options))
        return (found["http_port"], found["grpc_host"], found["grpc_port"], found["grpc_secure"])

    assert at("http://localhost:8080") == (8080, "localhost", 50051, False)
    assert at("https://vectors.example") == (443, "vectors.example", 50051, True)
    assert at("https://one.c0.weaviate.cloud") == (443, "grpc-one.c0.weaviate.cloud", 443, True)
    assert at("http://here:80", grpc="there:90") == (80, "there", 90, False)
    for url, options in (
        ("localhost:8080", {}),
        ("http://here", {"grpc": "there"}),
        ("http://here:80", {"grpc": "here:80"}),
    ):
        with pytest.raises(ConfigError):
            at(url, **options)


def test_a_write_to_no_collection_would_make_one(faulty: WeaviateDouble) -> None:
    """Which is why the store looks first: the double does as the server does."""
    bench = WeaviateUnderTest(settings_of(faulty))
    name = f"{bench.mark}_made".capitalize()
    ask(bench.settings, lambda client: client.collections.use(name).data.insert_many([{"body": "text"}]))
    assert ask(bench.settings, lambda client: client.collections.exists(name))


def test_an_index_is_ready_when_every_node_says_so_twice(faulty: WeaviateDouble) -> None:
    store = opened(faulty)
    store.put_all(small(store))
    faulty.set(early_ready=2)
    status = store.index_status()
    assert (status.state, status.indexed, status.total) == ("building", 0, 12)
    assert store.build_index(NOBODY, IndexOptions(), unwatched())
    assert store.index_state(NOBODY) == "valid"
    for node in ("UNAVAILABLE", "TIMEOUT", "empty"):
        faulty.set(second=node)
        status = store.index_status()
        assert status.state == "building"
        assert "node2" in status.why
    faulty.set(full=True)
    assert store.index_state(NOBODY) == "invalid"


def test_the_graph_is_said_by_options_of_the_store(faulty: WeaviateDouble) -> None:
    store = opened(faulty, options={"m": 24, "ef_construction": 200})
    config = ask(store.settings, lambda client: client.collections.use(store.collection).config.get())
    index: Any = (config.vector_config or {})["default"].vector_index_config
    assert (index.max_connections, index.ef_construction) == (24, 200)
    store.check_index(SPACE, IndexOptions())
    with pytest.raises(PlanError, match="belong to the collection"):
        store.check_index(SPACE, IndexOptions(m=24))


# --- alias and names --------------------------------------------------------------------------------------------


def test_an_alias_is_moved_by_one_request(faulty: WeaviateDouble) -> None:
    one = opened(faulty)
    other = opened(faulty, OTHER)
    name = f"{one.alias_name}_moved"
    one.point_alias(name)
    faulty.set()
    other.point_alias(name)
    assert faulty.asked() == {"PUT /aliases": 1, "ALL": 0}
    assert one.alias_target(name) == other.name
    for _ in range(2):
        one.remove_alias(name)
    assert one.alias_target(name) is None


def test_an_alias_that_is_a_collections_name_is_refused(faulty: WeaviateDouble) -> None:
    store, taken = opened(faulty), opened(faulty, OTHER)
    for name in (taken.name, "not a name"):
        with pytest.raises(StoreError):
            store.point_alias(name)
    assert taken.describe()


def test_an_aliass_name_is_not_taken_for_the_collections(faulty: WeaviateDouble) -> None:
    """A delete through it answers 200 and does nothing."""
    store = opened(faulty)
    store.put_all(small(store))
    store.point_alias(f"{store.name}_alias")
    bench = WeaviateUnderTest(store.settings)
    by_alias = bench.of(SPACE, store.source, f"{store.name}_alias")
    for call in (by_alias.drop_collection, by_alias.describe):
        with pytest.raises(StoreError, match="is an alias of"):
            call()
    assert store.count(NOBODY) == 12


def test_writes_go_to_all_replicas_and_reads_need_one(faulty: WeaviateDouble) -> None:
    store = opened(faulty)
    points = small(store)
    for write in (lambda: store.put_all(points), lambda: store.set_version([points[0].id], SPACE.tag), lambda: store.remove([points[1].id])):  # fmt: skip
        faulty.set()
        write()
        assert faulty.asked()["ALL"] >= 1
    faulty.set()
    assert_holds(store, NOBODY, batch_of(SPACE, [row for row in rows_of(range(12)) if row.key != ("1",)]))
    store.search(NOBODY, [0.5] * 8, 3)
    assert not faulty.asked()["ALL"]


def test_two_make_the_same_collection_at_once(faulty: WeaviateDouble) -> None:
    for _ in range(5):
        bench, start = WeaviateUnderTest(settings_of(faulty)), threading.Barrier(4)
        errors: list[BaseException] = []

        def create(bench: WeaviateUnderTest = bench, start: threading.Barrier = start, errors: list[BaseException] = errors) -> None:  # fmt: skip
            store = bench.open(SPACE)
            start.wait()
            try:
                store.create(NOBODY)
            except Exception as error:  # noqa: BLE001  looked at below
                errors.append(error)

        threads = [threading.Thread(target=create) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not errors


COLUMNS = ("plain", "id", "Title", "größe", "a b", 'quo"te', "vector", "embedmig_x_", "a_b_", "_", "naïve_1", "名前")


@pytest.mark.parametrize("name", COLUMNS)
def test_any_column_has_a_property_and_is_found_by_its_own_name(faulty: WeaviateDouble, name: str) -> None:
    assert column_name(property_name(name)) == name
    store = opened(faulty, SPACE, Column(name, "text", False), key=("number",))
    rows = rows_of(range(4))
    values: Mapping[Any, Mapping[str, Any]] = {row.key: {name: f"of {row.key[0]}"} for row in rows}
    store.put_all(store.points_of(batch_of(SPACE, rows), values))
    assert sorted(held.payload[name] for page in store.held([name]) for held in page) == [
        "of 0",
        "of 1",
        "of 2",
        "of 3",
    ]
    assert all(held.payload[name] for page in store.held(None) for held in page)
    asked = [0.5] * SPACE.dimensions
    where = {name: "of 2"}
    assert [hit.key_text for hit in store.search(NOBODY, asked, 4, where=where)] == [("2",)]


def test_names_that_fit_nowhere_are_refused_before_anything_is_made() -> None:
    for name in ("embedmig_hash", "Ü" * 60):
        with pytest.raises(PlanError, match="column"):
            WeaviateStore.check_source(source(Column(name, "text", False)))
    assert WeaviateStore.collection_name(SPACE, "docs_1") == "Docs_1"
    assert WeaviateStore.collection_name(SPACE, "1_docs") == "E1_docs"


# --- what points say --------------------------------------------------------------------------------------------

TYPED: tuple[tuple[str, Any, Any, Any], ...] = (
    ("boolean", True, True, False),
    ("integer", 7, 7, 8),
    ("bigint", 2**53, 2**53, 5),
    ("double precision", 0.5, 0.5, 1.5),
    ("text", "two words", "two words", "two"),
    (
        "timestamp with time zone",
        datetime(2026, 1, 2, 1, tzinfo=timezone(timedelta(hours=1))),
        "2026-01-02T00:00:00+00:00",
        "2026-01-02",
    ),
    ("date", date(2026, 1, 2), "2026-01-02", "2026"),
    ("numeric(10,2)", Decimal("1.50"), "1.5", "1.6"),
    ("uuid", uuid.UUID(int=5), str(uuid.UUID(int=5)), str(uuid.UUID(int=6))),
    ("jsonb", {"a": 1}, '{"a": 1}', "{}"),
    ("bytea", b"\x01\x02", "0102", "01"),
    ("text[]", ["x", "y"], ["x", "y"], "z"),
    ("bigint[]", [2**60, 1], [2**60, 1], 2),
    ("double precision[]", [0.5], [0.5], 0.25),
    ("boolean[]", [True], [True], False),
)


def test_values_keep_their_types_and_are_found_by_them(faulty: WeaviateDouble) -> None:
    columns = [Column(f"c{place}", kind, False) for place, (kind, *_) in enumerate(TYPED)]
    store = opened(faulty, SPACE, *columns)
    rows = rows_of(range(2))
    values = {rows[0].key: {f"c{place}": one[1] for place, one in enumerate(TYPED)}}
    store.put_all(store.points_of(batch_of(SPACE, rows), values))
    held = {one.payload["embedmig_key"][0]: one.payload for page in store.held(None) for one in page}
    assert {place: held["0"][f"c{place}"] for place in range(len(TYPED))} == {
        place: one[2] for place, one in enumerate(TYPED)
    }
    assert held["0"]["embedmig_version"] == SPACE.tag
    assert held["0"]["embedmig_hash"] == rows[0].content_hash.hex()
    asked = [0.5] * SPACE.dimensions
    for place, (_, given, _, other) in enumerate(TYPED):
        name = f"c{place}"
        one = given[0] if isinstance(given, list) else given
        for where, keys in (({name: one}, ["0"]), ({name: [one, other]}, ["0"]), ({name: other}, []), ({name: None}, ["1"]), ({name: []}, [])):  # fmt: skip
            for exact in (False, True):
                found = [hit.key_text[0] for hit in store.search(NOBODY, asked, 2, where=where, exact=exact)]
                assert found == keys, (where, found)
    with pytest.raises(UsageError, match="unheard"):
        store.search(NOBODY, asked, 2, where={"unheard": 1})


def test_a_whole_number_that_would_come_out_as_another_is_refused(faulty: WeaviateDouble) -> None:
    store = opened(faulty, SPACE, Column("number", "bigint", False))
    batch = batch_of(SPACE, rows_of(range(1)))
    with pytest.raises(StoreError, match="2\\^53"):
        store.put_all(store.points_of(batch, {("0",): {"number": 2**53 + 1}}))
    assert listed(store) == []


def test_columns_change_and_nothing_else_of_a_point(faulty: WeaviateDouble) -> None:
    store = opened(faulty, SPACE, Column("colour", "text", False), Column("Size", "integer", False))
    batch = batch_of(SPACE, rows_of(range(5)))
    points = store.points_of(batch, {row.key: {"colour": "red", "Size": 1} for row in batch.rows})
    store.put_all(points)
    store.set_columns({points[0].id: {"colour": "blue", "Size": None}, str(uuid.UUID(int=9)): {"colour": "blue"}})
    assert_holds(store, NOBODY, batch)
    held = {one.id: one.payload for page in store.held(["colour", "Size", "embedmig_version"]) for one in page}
    assert held[points[0].id] == {"colour": "blue", "Size": None, "embedmig_version": SPACE.tag}
    assert held[points[1].id] == {"colour": "red", "Size": 1, "embedmig_version": SPACE.tag}


def test_a_column_that_came_later_is_declared_before_it_is_written(faulty: WeaviateDouble) -> None:
    """Weaviate would guess its type."""
    store = opened(faulty)
    later = replace(store.source, columns=(Column("year", "integer", False),))
    wider = WeaviateStore(later, store.record, store.settings)
    points = wider.points_of(batch_of(SPACE, rows_of(range(2))), {("0",): {"year": 2026}})
    wider.put_all(points)
    assert [hit.key_text for hit in wider.search(NOBODY, [0.5] * 8, 2, where={"year": 2026})] == [("0",)]
    config = ask(store.settings, lambda client: client.collections.use(store.collection).config.get())
    assert {one.name: one.data_type.value for one in config.properties}["year"] == "int"
    texts = [one for one in config.properties if one.data_type.value.startswith("text")]
    assert {str(one.tokenization and one.tokenization.value) for one in texts} == {
        "field"
    }  # else filters compare words


def test_a_composite_keys_parts_are_each_in_their_place(faulty: WeaviateDouble) -> None:
    store = opened(faulty, SPACE, key=("part", "number"))
    rows = [row._replace(key=(str(place % 3), str(place % 5))) for place, row in enumerate(rows_of(range(15)))]
    batch = batch_of(SPACE, rows)
    store.put_all(store.points_of(batch))
    place = [row.key for row in rows].index(("0", "2"))  # has the value, in the other place, and is the nearest
    asked = [float(value) for value in batch.vectors[place]]
    for exact in (False, True):
        assert store.search(NOBODY, asked, 1, where={"part": 2}, exact=exact)[0].key_text[0] == "2"
        hits = store.search(NOBODY, asked, 15, where={"part": 2}, exact=exact)
        assert sorted(hit.key_text for hit in hits) == [("2", str(number)) for number in range(5)]
        assert [hit.key_text for hit in store.search(NOBODY, asked, 15, where={"part": 2, "number": [1]}, exact=exact)] == [("2", "1")]  # fmt: skip


# --- search and listing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
@pytest.mark.parametrize("flat_search_cutoff", [40_000, 0], ids=["by the server", "by us"])
def test_exact_is_exact_and_distances_are_pgvectors(
    faulty: WeaviateDouble, metric: Any, flat_search_cutoff: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the server would look into the index, everything is read and compared here."""
    monkeypatch.setattr(store, "LISTED", 5)
    opening = opened(faulty, replace(SPACE, metric=metric, version=f"{metric}-{flat_search_cutoff}"))
    if not flat_search_cutoff:
        known = opening.shape
        monkeypatch.setattr(opening, "shape", lambda: replace(known(), compared=0))
    batch = batch_of(opening.space, rows_of(range(20)))
    opening.put_all(opening.points_of(batch))
    asked = batch.vectors[3] * 2
    inner = batch.vectors @ asked
    by_hand = {"cosine": 1 - inner / 2, "l2": np.linalg.norm(batch.vectors - asked, axis=1), "ip": -inner}[metric]
    order = np.argsort(by_hand)
    hits = opening.search(NOBODY, [float(value) for value in asked], 6, exact=True)
    assert [hit.key_text for hit in hits] == [batch.rows[place].key for place in order[:6]]
    assert np.allclose([hit.distance for hit in hits], by_hand[order[:6]], atol=1e-3)


def test_a_listing_of_many_pages_has_every_point_once(faulty: WeaviateDouble, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "LISTED", 7)
    monkeypatch.setattr(store, "FETCHED", 7)
    opening = opened(faulty, CHUNKED)
    batch = batch_of(CHUNKED, rows_of(range(12)))
    opening.put_all(opening.points_of(batch))
    faulty.set(unavailable=1)
    assert_holds(opening, NOBODY, batch)
    assert len(ids_of(opening, batch)) == 36


def test_other_dimensions_are_refused_wherever_they_are_met(faulty: WeaviateDouble) -> None:
    store = opened(faulty)
    store.put_all(small(store))
    with pytest.raises(VectorRefused):
        store.search(NOBODY, [0.5] * 9, 3)
    wide = WeaviateStore(store.source, replace(store.record, definition=store.record.definition | {"dimensions": 9}), store.settings)  # fmt: skip
    with pytest.raises(VectorRefused, match=r"holds 8 dimensions: .* length 9"):
        wide.put(wide.points_of(batch_of(wide.space, rows_of(range(20, 22)))))
    assert store.count(NOBODY) == 12


# --- collections that are somebody else's ---------------------------------------------------------------------


@pytest.mark.parametrize("named", [False, True], ids=["one vector without a name", "one of two by name"])
def test_an_adopted_collection_is_listed_searched_and_marked(faulty: WeaviateDouble, named: bool) -> None:
    from weaviate.classes.config import Configure, DataType, Property
    from weaviate.classes.data import DataObject

    bench = WeaviateUnderTest(settings_of(faulty, options={"vector": "title"} if named else {}))
    name, batch = f"{bench.mark}_articles", batch_of(SPACE, rows_of(range(6)))
    ids = [str(uuid.UUID(int=place)) for place in range(1, 7)]
    vectors: Any = Configure.Vectors
    config: Any = [vectors.self_provided(name=one) for one in ("body", "title")] if named else None

    def fill(client: Any) -> None:
        if named:
            client.collections.create(name, properties=[Property(name="articleId", data_type=DataType.INT)], vector_config=config)  # fmt: skip
        client.collections.use(name.capitalize()).data.insert_many([
            DataObject({"articleId": place}, one, {"title": vector.tolist()} if named else vector.tolist())
            for place, (one, vector) in enumerate(zip(ids, batch.vectors, strict=True))
        ])  # fmt: skip

    ask(bench.settings, fill)
    store = bench.of(SPACE, source(), name)
    found = store.describe()
    assert found is not None
    assert (found.dimensions, found.metric) == (8, "cosine")
    assert {one.id: one.payload["articleId"] for page in store.held(["articleId"]) for one in page} == dict(zip(ids, range(6), strict=True))  # fmt: skip
    assert np.allclose([store.vectors(ids)[one] for one in ids], batch.vectors, atol=1e-3)
    assert [one.id for one in store.near(batch.vectors[2].tolist(), 1, {}, exact=False)] == [ids[2]]
    store.set_version([*ids[:4], str(uuid.UUID(int=99))], "model@1")
    said = {one.id: one.payload for page in store.held(None) for one in page}
    assert [said[one].get("embedmig_version") for one in ids] == ["model@1"] * 4 + [None] * 2
    assert [said[one]["articleId"] for one in ids] == list(range(6))
    if named:
        with pytest.raises(StoreUnsuitable, match="body, title"):
            opened_elsewhere(store, settings_of(faulty)).describe()


def test_what_is_added_to_an_adopted_collection_is_left_out_of_its_vectors(faulty: WeaviateDouble) -> None:
    """Else marking an object would have its vectorizer make another vector, and bill it."""
    from weaviate.classes.config import Configure

    bench = WeaviateUnderTest(settings_of(faulty))
    name = f"{bench.mark}_articles".capitalize()
    ask(
        bench.settings,
        lambda client: client.collections.create(name, vector_config=Configure.Vectors.text2vec_openai()),
    )
    bench.of(SPACE, source(), name).set_version([], "model@1")
    config = ask(bench.settings, lambda client: client.collections.use(name).config.get())
    (added,) = config.properties
    assert added.name == "embedmig_version"
    skipped = [one.skip for one in (added.vectorizer_config, *(added.vectorizer_configs or {}).values()) if one]
    assert skipped == [True], added


# --- the double ------------------------------------------------------------------------------------------------


def test_what_the_double_does_not_do_it_says(faulty: WeaviateDouble) -> None:
    from weaviate.classes.query import Filter

    opening = opened(faulty)
    opening.put_all(small(opening))
    for call in (
        lambda client: client.collections.list_all(),
        lambda client: client.collections.use(opening.name).query.bm25("words"),
        lambda client: client.collections.use(opening.name).query.fetch_objects(
            filters=Filter.by_property("embedmig_hash").like("a*")
        ),
        lambda client: client.collections.use(opening.name).data.insert({}),
    ):
        with pytest.raises(StoreUnsuitable):
            ask(opening.settings, call)


def test_nobody_listens_at_a_port_that_is_free() -> None:
    """An address that was wrong from the start."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    settings = StoreSettings(
        "vectors", "weaviate", f"http://127.0.0.1:{port}", options={"grpc": f"127.0.0.1:{port + 1}"}
    )
    store = WeaviateUnderTest(settings).of(SPACE, source())
    with pytest.raises(StoreUnreachable, match=r"stores\.vectors"):
        store.server_version()
