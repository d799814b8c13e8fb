"""Qdrant as a store: over its real engine behind a double of its REST interface, and on the server that ``EMBEDMIG_QDRANT_URL`` names."""

from __future__ import annotations

import os
import sys
import threading
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any, cast

import numpy as np
import pytest
from qdrant_client import QdrantClient, models
from qdrant_client.http.exceptions import UnexpectedResponse

from embedmig import testing
from embedmig.config import Collection
from embedmig.config.settings import StoreSettings
from embedmig.database import Connection, Database
from embedmig.errors import (
    ConfigError,
    Interrupted,
    MissingExtra,
    OutcomeUnknown,
    PlaceMissing,
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
from embedmig.stores import IndexBuild, IndexOptions
from embedmig.stores.external import Patience, Point
from embedmig.stores.qdrant import QdrantStore
from embedmig.stores.qdrant import store as qdrant_store
from embedmig.stores.qdrant.client import open_client
from embedmig.testing import STORE_PROMISES, StorePromise
from embedmig.testing.store_promises import (
    CHUNKED,
    OTHER,
    SPACE,
    assert_holds,
    batch_of,
    ids_of,
    rows_of,
    threads,
    unit,
)
from embedmig.types import Space
from tests.doubles.qdrant.process import QdrantDouble
from tests.waiting import wait_until

NO_CONN = cast(Connection, None)
KEY = Column("id", "bigint", True)
BODY = Column("body", "text", True)
COLUMNS = (
    Column("lang", "text", False), Column("pages", "integer", False), Column("price", "double precision", False),
    Column("open", "boolean", False), Column("seen", "timestamp with time zone", False), Column("odd.name [1]", "text", False),
    Column("tags", "text[]", False), Column("made", "timestamp without time zone", False), Column("cost", "numeric", False),
    Column("sizes", "integer[]", False),
)  # fmt: skip
SERVERS = ["double", *(["real"] if "EMBEDMIG_QDRANT_URL" in os.environ else [])]
SECRET = "secret-key-of-the-double"


@dataclass
class QdrantUnderTest:
    """Collections and an alias of names that nobody else has."""

    url: str
    api_key: str | None = None
    columns: tuple[Column, ...] = ()
    keys: tuple[Column, ...] = (KEY,)
    settings: dict[str, Any] = field(default_factory=dict)
    prefix: str = field(default_factory=lambda: f"t_{uuid.uuid4().hex[:12]}_")
    persists: bool = True

    def connect(self) -> AbstractContextManager[Connection]:
        return nullcontext(NO_CONN)

    def open(self, space: Space) -> QdrantStore:
        settings = StoreSettings(
            name="qdrant",
            kind="qdrant",
            url=self.url,
            api_key=self.api_key,
            api_key_variable="QDRANT_KEY",
            **self.settings,
        )
        docs = Collection(
            "docs", table="docs", key=("id",), text=("body",), alias="docs_search", store_alias=f"{self.prefix}alias"
        )
        source = Source(docs, 0, "public", "docs", self.keys, (BODY,), self.columns, False)
        place = QdrantStore.new_place(space, "mark", "embedmig")
        return bound(settings)(source, testing.fake_record(space, (*place[:3], self.prefix + place[3])))

    def put_texts(self, conn: Connection, rows: Sequence[Row]) -> None:
        pass

    def index_build(self) -> IndexBuild:
        return IndexBuild(Database("", "embedmig"), lambda _: None, threading.Event(), lambda: None)

    def client(self) -> QdrantClient:
        return QdrantClient(url=self.url, api_key=self.api_key, check_compatibility=False)

    def drop_all(self) -> None:
        client = self.client()
        for found in client.get_collections().collections:
            if found.name.startswith(self.prefix):
                client.delete_collection(found.name)


def bound(settings: StoreSettings) -> Callable[[Source, Any], QdrantStore]:
    """The store with its settings, which the promises don't know."""

    class Bound(QdrantStore):
        def __init__(self, source: Source, record: Any) -> None:
            super().__init__(source, record, settings)

    return Bound


@pytest.fixture(scope="session")
def session_double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantDouble]:
    """One a test session."""
    server = QdrantDouble(tmp_path_factory.mktemp("qdrant"))
    yield server
    server.kill()


@pytest.fixture
def double(session_double: QdrantDouble) -> Iterator[QdrantDouble]:
    """Without faults."""
    yield session_double
    session_double.recover()


@pytest.fixture(scope="module")
def module_double(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QdrantDouble]:
    """Another, which wants a key and may be killed."""
    server = QdrantDouble(tmp_path_factory.mktemp("own"), SECRET)
    yield server
    server.kill()


@pytest.fixture
def own_double(module_double: QdrantDouble) -> Iterator[QdrantDouble]:
    """Alive and without faults."""
    yield module_double
    if module_double.process is None:
        module_double.start()
    module_double.recover()


@pytest.fixture(params=SERVERS)
def bench(request: pytest.FixtureRequest) -> Iterator[QdrantUnderTest]:
    """Wherever a user would run it."""
    if request.param == "real":
        made = QdrantUnderTest(os.environ["EMBEDMIG_QDRANT_URL"], os.environ.get("EMBEDMIG_QDRANT_API_KEY"))
    else:
        made = QdrantUnderTest(request.getfixturevalue("double").url)
    yield made
    made.drop_all()


@pytest.fixture
def doubled(double: QdrantDouble) -> Iterator[QdrantUnderTest]:
    """Where faults are: on the double alone."""
    made = QdrantUnderTest(double.url)
    yield made
    double.recover()
    made.drop_all()


def filled(bench: QdrantUnderTest, space: Space = SPACE, rows: int = 12) -> tuple[QdrantStore, Any]:
    store, batch = bench.open(space), batch_of(space, rows_of(range(rows)))
    store.create(NO_CONN)
    store.upsert(NO_CONN, batch)
    return store, batch


def impatient(store: QdrantStore, seconds: float = 0.0) -> QdrantStore:
    """Gives up after that many seconds, which nobody has to wait."""
    now = [0.0]

    def sleep(pause: float) -> None:
        now[0] += pause

    store.patience = Patience(seconds, sleep, lambda: now[0])
    return store


@pytest.mark.parametrize("promise", STORE_PROMISES, ids=lambda promise: promise.__name__)
def test_qdrant_keeps_the_promises(promise: StorePromise, bench: QdrantUnderTest) -> None:
    promise(bench)


# --- what points say, and what can be asked of them ---------------------------------------------------------------

MADE = datetime(2026, 1, 1)  # noqa: DTZ001  a column without time zone
SEEN = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)


def with_columns(bench: QdrantUnderTest) -> QdrantStore:
    """Three rows of one chunk each."""
    bench.columns = COLUMNS
    store, batch = bench.open(SPACE), batch_of(SPACE, rows_of(range(3)))
    values: list[dict[str, Any]] = [
        {"lang": "de", "pages": 3, "price": 1.5, "open": True, "seen": SEEN, "odd.name [1]": 'a"b', "tags": ["x", "y"],
         "made": MADE, "cost": Decimal("9.90"), "sizes": [1, 2]},
        {"lang": "en", "pages": 2**40, "price": 3.0, "open": False, "seen": None, "odd.name [1]": None, "tags": []},
        {"lang": None, "pages": 3, "price": 0.1, "open": None, "seen": SEEN + timedelta(1), "odd.name [1]": "c", "tags": ["z"]},
    ]  # fmt: skip
    store.create(NO_CONN)
    store.put_all(store.points_of(batch, {(str(n),): row for n, row in enumerate(values)}))
    return store


def test_points_say_key_chunk_content_version_and_columns(bench: QdrantUnderTest) -> None:
    store = with_columns(bench)
    row = rows_of([0])[0]
    (first,) = bench.client().retrieve(store.name, [store.id_of(("0",), 0, row.content_hash)])
    assert first.payload == {
        "embedmig_key": ["0"], "embedmig_chunk": 0, "embedmig_hash": row.content_hash.hex(), "embedmig_version": SPACE.tag,
        "lang": "de", "pages": 3, "price": 1.5, "open": True, "seen": "2026-03-29T01:30:00+00:00", "odd.name [1]": 'a"b',
        "tags": ["x", "y"], "made": "2026-01-01T00:00:00", "cost": "9.9", "sizes": [1, 2], "id": "0",
    }  # fmt: skip
    held = [point for page in store.held(["embedmig_key", "odd.name [1]", "price"]) for point in page]
    assert {point.payload["embedmig_key"][0]: point.payload["price"] for point in held} == {
        "0": 1.5,
        "1": 3.0,
        "2": 0.1,
    }
    assert sum('"' in point.payload.get("odd.name [1]", "") for point in held) == 1
    assert all(set(point.payload) > {"price", "embedmig_hash"} for page in store.held(None) for point in page)


@pytest.mark.parametrize(
    ("where", "keys"),
    [
        ({"lang": "de"}, {"0"}), ({"lang": ["de", "en"]}, {"0", "1"}), ({"lang": None}, {"2"}), ({"lang": []}, set()),
        ({"pages": 3}, {"0", "2"}), ({"pages": 2**40}, {"1"}), ({"price": 0.1}, {"2"}), ({"price": 3}, {"1"}), ({"price": Decimal(3)}, {"1"}),
        ({"cost": Decimal("9.90")}, {"0"}), ({"made": MADE}, {"0"}), ({"sizes": 2}, {"0"}),
        ({"open": True}, {"0"}), ({"open": False}, {"1"}), ({"seen": SEEN}, {"0"}), ({"seen": SEEN.isoformat()}, {"0"}),
        ({"seen": SEEN.astimezone(timezone(timedelta(hours=2)))}, {"0"}), ({"odd.name [1]": 'a"b'}, {"0"}),
        ({"odd.name [1]": ["c", None]}, {"1", "2"}), ({"tags": "y"}, {"0"}), ({"id": 1}, {"1"}), ({"id": [0, 2]}, {"0", "2"}),
        ({"id": 2, "pages": 3}, {"2"}), ({"id": "0 or true"}, set()),
    ],
    ids=lambda value: repr(value) if isinstance(value, dict) else "",
)  # fmt: skip
def test_searches_filter_by_columns_of_every_type(where: dict[str, Any], keys: set[str], shared: QdrantStore) -> None:
    for exact in (False, True):
        hits = shared.search(NO_CONN, [0.5] * SPACE.dimensions, 10, where=where, exact=exact)
        assert {hit.key_text[0] for hit in hits} == keys


@pytest.fixture(scope="module", params=SERVERS)
def shared(request: pytest.FixtureRequest) -> Iterator[QdrantStore]:
    """One collection for all filters."""
    url = (
        os.environ["EMBEDMIG_QDRANT_URL"] if request.param == "real" else request.getfixturevalue("session_double").url
    )
    made = QdrantUnderTest(url, os.environ.get("EMBEDMIG_QDRANT_API_KEY") if request.param == "real" else None)
    yield with_columns(made)
    made.drop_all()


def test_a_column_that_is_not_there_is_refused(shared: QdrantStore) -> None:
    with pytest.raises(UsageError, match="colour"):
        shared.search(NO_CONN, [0.5] * SPACE.dimensions, 3, where={"colour": "red"})
    with pytest.raises(UsageError, match="yesterday"):
        shared.search(NO_CONN, [0.5] * SPACE.dimensions, 3, where={"seen": "yesterday"})


def test_a_key_of_two_columns_is_found_by_either_in_its_place(bench: QdrantUnderTest) -> None:
    bench.keys = (Column("shop", "text", True), Column("item", "text", True))
    store = bench.open(SPACE)
    store.create(NO_CONN)
    rows = [
        row._replace(key=key) for row, key in zip(rows_of(range(3)), [("a", "b"), ("b", "a"), ("a", "c")], strict=True)
    ]
    store.upsert(NO_CONN, batch_of(SPACE, rows))
    found = store.search(NO_CONN, [0.5] * SPACE.dimensions, 3, where={"shop": "a"})
    assert {hit.key_text for hit in found} == {("a", "b"), ("a", "c")}


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_distances_are_as_pgvector_has_them(metric: Any, bench: QdrantUnderTest) -> None:
    store, batch = filled(bench, replace(SPACE, metric=metric, version=metric))
    asked = np.asarray(batch.vectors[3])
    true = {
        "cosine": 1 - batch.vectors @ asked, "l2": np.linalg.norm(batch.vectors - asked, axis=1), "ip": -(batch.vectors @ asked),
    }[metric]  # fmt: skip
    hits = store.search(NO_CONN, [float(value) for value in asked], 12, exact=True)
    assert [hit.key_text[0] for hit in hits] == [str(n) for n in np.argsort(true)]
    assert np.allclose([hit.distance for hit in hits], np.sort(true), atol=1e-5)


def test_rows_are_found_though_their_chunks_fill_the_first_answer(bench: QdrantUnderTest) -> None:
    store, batch = bench.open(CHUNKED), batch_of(CHUNKED, rows_of(range(4)))
    near = unit(np.ones((1, SPACE.dimensions), np.float32))[0]
    many = [Point(str(uuid.uuid4()), ("0",), chunk, b"h", near) for chunk in range(30)]
    store.create(NO_CONN)
    store.upsert(NO_CONN, batch)
    store.put_all(many)
    hits = store.search(NO_CONN, [float(value) for value in near], 4)
    assert [hit.key_text for hit in hits][:1] == [("0",)]
    assert {hit.key_text[0] for hit in hits} == {"0", "1", "2", "3"}


def test_columns_change_without_the_vector(bench: QdrantUnderTest) -> None:
    store = with_columns(bench)
    ids = [point.id for page in store.held() for point in page]
    before = store.fetch(NO_CONN, ids)
    gone, new = str(uuid.uuid4()), {"lang": "fr", "pages": None, "tags": ["z"]}
    store.set_columns({ids[0]: new, ids[1]: new, gone: new})
    said = {point.id: dict(point.payload) for page in store.held(None) for point in page}
    assert [said[one]["lang"] for one in ids[:2]] == ["fr", "fr"]
    assert said[ids[0]] | {"embedmig_chunk": 0, "tags": ["z"]} == said[ids[0]]
    assert "pages" not in said[ids[0]]
    assert said[ids[2]]["lang"] != "fr"
    assert gone not in said
    assert store.fetch(NO_CONN, ids) == before


def test_half_precision_is_kept_in_half_the_bytes(bench: QdrantUnderTest) -> None:
    store, batch = filled(bench, replace(SPACE, storage="halfvec"))
    vectors = bench.client().get_collection(store.name).config.params.vectors
    assert isinstance(vectors, models.VectorParams)
    assert vectors.datatype == models.Datatype.FLOAT16
    assert_holds(store, NO_CONN, batch)


# --- collections that others made ---------------------------------------------------------------------------------


def test_an_adopted_collection_is_listed_read_and_marked(bench: QdrantUnderTest) -> None:
    """Numbers as ids, named vectors, somebody else's payload."""
    bench.settings = {"options": {"vector": "text"}}
    store, client = bench.open(SPACE), bench.client()
    params = {
        name: models.VectorParams(size=SPACE.dimensions, distance=models.Distance.COSINE) for name in ("text", "image")
    }
    client.create_collection(store.name, params)
    vectors = [[1.0] + [0.0] * 7, [0.0, 1.0] + [0.0] * 6]
    client.upsert(store.name, [
        models.PointStruct(id=n, vector={"text": one, "image": one[::-1]}, payload={"article": f"a{n}"})
        for n, one in enumerate(vectors)
    ])  # fmt: skip
    store.create(NO_CONN)
    assert [(point.id, point.payload) for page in store.held(["article"]) for point in page] == [
        ("0", {"article": "a0"}), ("1", {"article": "a1"}),
    ]  # fmt: skip
    assert store.fetch(NO_CONN, ["1"]) == {"1": vectors[1]}
    assert [near.id for near in store.near(vectors[1], 2, {}, exact=True)] == ["1", "0"]
    store.set_version(["1", "77"], "v1")
    assert [point.payload for page in store.held(None) for point in page] == [
        {"article": "a0"}, {"article": "a1", "embedmig_version": "v1"},
    ]  # fmt: skip
    bench.settings = {}
    with pytest.raises(StoreUnsuitable, match="text, image"):
        bench.open(SPACE).describe()


def test_a_collection_that_compares_otherwise_is_not_taken(bench: QdrantUnderTest) -> None:
    store = bench.open(SPACE)
    for distance, refusal in ((models.Distance.EUCLID, VectorRefused), (models.Distance.MANHATTAN, StoreUnsuitable)):
        bench.client().create_collection(store.name, models.VectorParams(size=SPACE.dimensions, distance=distance))
        with pytest.raises(refusal):
            store.create(NO_CONN)
        store.drop(NO_CONN)


def test_a_collection_made_anew_with_other_dimensions_refuses_points(bench: QdrantUnderTest) -> None:
    store, batch = filled(bench)
    client = bench.client()
    client.delete_collection(store.name)
    client.create_collection(store.name, models.VectorParams(size=5, distance=models.Distance.COSINE))
    with pytest.raises(VectorRefused, match=r"of key \('0',\)"):
        store.upsert(NO_CONN, batch)
    assert store.count(NO_CONN) == 0


@pytest.mark.parametrize("options", [{"shards": "two"}, {"replicas": True}, {"on_disk": 1}, {"vector": 3}], ids=repr)
def test_options_of_another_type_are_refused_before_anything_is_made(
    options: dict[str, Any], doubled: QdrantUnderTest
) -> None:
    doubled.settings = {"options": options}
    with pytest.raises(ConfigError, match=next(iter(options))):
        doubled.open(SPACE)


def test_a_collection_is_made_as_the_options_say(doubled: QdrantUnderTest) -> None:
    doubled.settings = {
        "options": {"shards": 2, "replicas": 3, "write_consistency": 2, "on_disk": True, "vector": "text"}
    }
    store, batch = filled(doubled)
    params = doubled.client().get_collection(store.name).config.params
    assert (params.shard_number, params.replication_factor, params.write_consistency_factor) == (2, 3, 2)
    assert isinstance(params.vectors, dict)
    assert params.vectors["text"].on_disk
    assert_holds(store, NO_CONN, batch)


@pytest.mark.parametrize("name", ['say "hi"', "embedmig_key"])
def test_columns_that_a_payload_can_not_hold_are_refused(name: str, doubled: QdrantUnderTest) -> None:
    doubled.columns = (Column(name, "text", False),)
    store = doubled.open(SPACE)
    with pytest.raises(PlanError, match=name.split()[0]):
        store.check_source(store.source)


# --- the alias ----------------------------------------------------------------------------------------------------


def test_a_flip_to_a_collection_that_is_gone_leaves_the_alias_alone(bench: QdrantUnderTest) -> None:
    store, _ = filled(bench)
    store.set_alias(NO_CONN)
    with pytest.raises(PlaceMissing):
        bench.open(OTHER).set_alias(NO_CONN)
    assert store.alias(NO_CONN) == store.name
    for _ in range(2):
        store.remove_alias(store.alias_name)
        assert store.alias(NO_CONN) is None


def test_a_collection_that_is_dropped_takes_its_alias_with_it(bench: QdrantUnderTest) -> None:
    """As one that is restored from a snapshot has none (#6754)."""
    store, batch = filled(bench)
    store.set_alias(NO_CONN)
    store.drop(NO_CONN)
    assert store.alias(NO_CONN) is None
    store.create(NO_CONN)
    store.upsert(NO_CONN, batch)
    assert store.alias(NO_CONN) is None


def test_a_program_that_reads_by_the_alias_and_the_version_never_mixes_them(bench: QdrantUnderTest) -> None:
    """What the documentation tells programs without the Reader: filter on the version encoded for, and ask again when nothing is found."""
    stores = {SPACE.tag: filled(bench)[0], OTHER.tag: filled(bench, OTHER)[0]}
    one, other = stores.values()
    one.set_alias(NO_CONN)
    done, reads, seconds = threading.Event(), [0], [0]

    def read() -> None:
        client, version = bench.client(), SPACE.tag
        while not done.is_set():
            found: list[Any] = []
            while not found:
                only = models.FieldCondition(key="embedmig_version", match=models.MatchValue(value=version))
                found = client.query_points(
                    one.alias_name, query=[0.5] * SPACE.dimensions, query_filter=models.Filter(must=[only]), limit=5
                ).points
                if not found:  # the other version's encoder, then
                    version = OTHER.tag if version == SPACE.tag else SPACE.tag
                    seconds[0] += 1
            assert {point.payload["embedmig_version"] for point in found} == {version}
            reads[0] += 1

    with threads(read, read) as failed:
        while (reads[0] < 100 or not seconds[0]) and not failed:
            other.set_alias(NO_CONN)
            one.set_alias(NO_CONN)
        done.set()
    with pytest.raises(UnexpectedResponse, match="400"):  # where dimensions differ, it is told
        bench.client().query_points(one.alias_name, query=[0.5] * (SPACE.dimensions + 1))


def test_an_alias_may_not_have_the_name_of_a_collection(bench: QdrantUnderTest) -> None:
    store, _ = filled(bench)
    other = bench.open(OTHER)
    other.create(NO_CONN)
    with pytest.raises(StoreError, match="answered 4"):
        store.point_alias(other.name)
    assert bench.client().get_aliases().aliases is not None
    assert store.alias_target(other.name) is None


def delete_and_create(store: QdrantStore, target: str) -> list[Any]:
    """The list of actions that Qdrant's documentation shows."""
    return [
        models.DeleteAliasOperation(delete_alias=models.DeleteAlias(alias_name=store.alias_name)),
        models.CreateAliasOperation(
            create_alias=models.CreateAlias(collection_name=target, alias_name=store.alias_name)
        ),
    ]


def test_the_list_of_actions_that_is_not_used_loses_the_alias(doubled: QdrantUnderTest) -> None:
    """What the flips above avoid: until #10425 a list was half done when an action failed."""
    store, _ = filled(doubled)
    store.set_alias(NO_CONN)
    with pytest.raises(Exception, match="404"):
        doubled.client().update_collection_aliases(delete_and_create(store, "nowhere"))
    assert store.alias(NO_CONN) is None


def test_a_server_that_dies_in_a_flip_has_the_old_alias_or_the_new(own_double: QdrantDouble) -> None:
    """Killed after the action, before its answer: unknown, and the same call again settles it. A list is left half done (#7584, #10425)."""
    bench = QdrantUnderTest(own_double.url, SECRET)
    (old, _), (new, _) = filled(bench), filled(bench, OTHER)
    old.set_alias(NO_CONN)
    own_double.fail(dies_after_actions=1)
    with pytest.raises((OutcomeUnknown, StoreUnreachable)):
        impatient(new).set_alias(NO_CONN)
    own_double.start_again()
    assert new.alias(NO_CONN) == new.name
    new.set_alias(NO_CONN)
    assert new.alias(NO_CONN) == new.name
    own_double.fail(dies_after_actions=1)
    with pytest.raises(Exception, match=r".*"):
        bench.client().update_collection_aliases(delete_and_create(old, old.name))
    own_double.start_again()
    assert old.alias(NO_CONN) is None


# --- writes whose outcome is unknown, refusals, limits ------------------------------------------------------------


def test_what_is_not_yet_applied_is_repeated_until_it_is(doubled: QdrantUnderTest, double: QdrantDouble) -> None:
    """``wait_timeout`` is no success (#8239, #8768): what it was said of is in no listing."""
    store, batch = doubled.open(SPACE), batch_of(SPACE, rows_of(range(12)))
    store.create(NO_CONN)
    double.fail(wait_timeout=1)
    with pytest.raises(OutcomeUnknown, match="wait_timeout"):
        store.put(store.points_of(batch))
    assert not list(store.list_ids(NO_CONN))
    double.fail(wait_timeout=2)
    impatient(store, 60).upsert(NO_CONN, batch)
    assert_holds(store, NO_CONN, batch)
    double.fail(wait_timeout=10**6)
    for change in (store.upsert, lambda conn, _: store.delete(conn, ids_of(store, batch))):
        with pytest.raises(OutcomeUnknown):
            change(NO_CONN, batch)


def test_changes_that_are_applied_and_not_answered_are_repeated(doubled: QdrantUnderTest, double: QdrantDouble) -> None:
    store, batch = doubled.open(SPACE), batch_of(SPACE, rows_of(range(12)))
    store.create(NO_CONN)
    before = double.requests("PUT points")
    double.fail(severed=2)
    impatient(store, 60).upsert(NO_CONN, batch)
    assert double.requests("PUT points") == before + 3
    assert_holds(store, NO_CONN, batch)


def test_an_answer_that_does_not_come_in_time_is_an_unknown_outcome(
    doubled: QdrantUnderTest, double: QdrantDouble
) -> None:
    doubled.settings = {"timeout": 0.5}  # the client knows whole seconds
    store, batch = filled(doubled)
    double.fail(late=1.5)
    with pytest.raises(OutcomeUnknown, match="ReadTimeout"):
        impatient(store).upsert(NO_CONN, batch)


@pytest.mark.parametrize(("retry_after", "waited"), [(7, 7.0), (None, 0.1), (0.5, 0.1)])
def test_a_throttled_request_waits_as_long_as_it_is_told(
    retry_after: float | None, waited: float, doubled: QdrantUnderTest, double: QdrantDouble
) -> None:
    """The last one is no whole number, which the client can't read (#5917)."""
    store, batch = filled(doubled)
    pauses: list[float] = []
    store.patience = Patience(60, pauses.append, lambda: 0.0)
    double.fail(throttled=1, retry_after=retry_after)
    store.upsert(NO_CONN, batch)
    assert pauses == [waited]
    double.fail(throttled=10**6, retry_after=retry_after)
    with pytest.raises(StoreThrottled):
        impatient(store).count(NO_CONN)


@pytest.mark.parametrize("status", [400, 413])
def test_requests_that_are_too_large_are_cut_until_one_point_is(
    status: int, doubled: QdrantUnderTest, double: QdrantDouble
) -> None:
    """Qdrant says 400 (#2537), proxies 413."""
    store, batch = doubled.open(SPACE), batch_of(SPACE, rows_of(range(50)))
    store.create(NO_CONN)
    double.fail(largest=4000, too_large=status)
    store.upsert(NO_CONN, batch)
    assert_holds(store, NO_CONN, batch)
    double.fail(largest=100, too_large=status)
    with pytest.raises(VectorRefused, match=f"answered {status}"):
        store.upsert(NO_CONN, batch)


def test_a_large_batch_is_sent_in_requests_within_the_limits(
    monkeypatch: pytest.MonkeyPatch, doubled: QdrantUnderTest, double: QdrantDouble
) -> None:
    monkeypatch.setattr(qdrant_store, "REQUEST_BYTES", 10 * SPACE.dimensions * qdrant_store.BYTES_A_NUMBER)
    monkeypatch.setattr(qdrant_store, "PAGE", 7)
    store = doubled.open(SPACE)
    batch, before = batch_of(SPACE, rows_of(range(35))), double.requests("PUT points")
    store.create(NO_CONN)
    store.upsert(NO_CONN, batch)
    assert double.requests("PUT points") == before + 4
    assert_holds(store, NO_CONN, batch)
    store.delete(NO_CONN, ids_of(store, batch))
    assert store.count(NO_CONN) == 0


# --- a server that can't be asked ---------------------------------------------------------------------------------


def test_a_wrong_key_is_refused_and_never_told(own_double: QdrantDouble, capsys: pytest.CaptureFixture[str]) -> None:
    right = QdrantUnderTest(own_double.url, SECRET).open(SPACE)
    assert right.server_version() == "1.19.0"
    for key in ("wrong-" + SECRET, SECRET + "\n", "schlüssel-" + SECRET, None):
        store = QdrantUnderTest(own_double.url, key).open(SPACE)
        with pytest.raises(StoreUnauthorized) as refused:
            store.server_version()
        assert "QDRANT_KEY" in (refused.value.hint or "")
        told = (
            "".join(traceback.format_exception(refused.value))
            + repr(refused.value)
            + repr(store)
            + repr(store.settings)
        )
        assert SECRET not in told


def test_a_server_that_is_not_there_is_said_to_be_unreachable_and_waited_for(own_double: QdrantDouble) -> None:
    """Killed and started again, it has what it acknowledged."""
    store, _ = filled(QdrantUnderTest(own_double.url, SECRET))
    own_double.kill()
    with pytest.raises(StoreUnreachable) as refused:
        impatient(store).count(NO_CONN)
    assert "[stores.qdrant]" in (refused.value.hint or "")
    store.patience = Patience(60, lambda _: own_double.start_again())
    store.upsert(NO_CONN, batch_of(SPACE, rows_of(range(12, 15))))
    assert_holds(store, NO_CONN, batch_of(SPACE, rows_of(range(15))))


def test_a_server_that_is_busy_starting_is_asked_again(doubled: QdrantUnderTest, double: QdrantDouble) -> None:
    store, batch = filled(doubled)
    double.fail(unavailable=2)
    assert impatient(store, 60).count(NO_CONN) == len(batch.rows)
    double.fail(unavailable=1)
    with pytest.raises(StoreUnreachable):
        impatient(store).count(NO_CONN)


def test_a_server_that_is_too_old_is_refused(doubled: QdrantUnderTest, double: QdrantDouble) -> None:
    double.fail(version="1.13.6")
    with pytest.raises(StoreUnsuitable, match=r"1\.13\.6"):
        doubled.open(SPACE).server_version()


def test_an_answer_of_something_else_names_the_url(doubled: QdrantUnderTest) -> None:
    """Here of a path below which there is no Qdrant."""
    store = QdrantUnderTest(doubled.url + "/__faults").open(SPACE)
    with pytest.raises(StoreError, match="not Qdrant") as refused:
        store.server_version()
    assert "url" in (refused.value.hint or "")


def test_an_address_that_is_none_is_refused_without_telling_it() -> None:
    password = uuid.uuid4().hex
    with pytest.raises(ConfigError) as refused:
        QdrantUnderTest(f"ftp://user:{password}@host").open(SPACE).count(NO_CONN)
    assert password not in "".join(traceback.format_exception(refused.value))


def test_the_missing_package_is_named_with_its_extra(monkeypatch: pytest.MonkeyPatch, doubled: QdrantUnderTest) -> None:
    open_client.cache_clear()
    monkeypatch.setitem(sys.modules, "qdrant_client", None)
    with pytest.raises(MissingExtra) as missing:
        doubled.open(SPACE).count(NO_CONN)
    assert missing.value.hint == 'pip install "embedmig[qdrant]"'


# --- an index that is not what it seems ---------------------------------------------------------------------------


@pytest.fixture
def small_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kilobyte of vectors is enough for a graph: 32 of ours."""
    monkeypatch.setattr(qdrant_store, "INDEXING_THRESHOLD", 1)


def test_every_point_is_in_the_graph_when_the_index_is_said_to_be_built(
    small_graphs: None, bench: QdrantUnderTest
) -> None:
    store, batch = filled(bench, rows=400)
    assert store.index_state(NO_CONN) == "none"
    store.build_index(NO_CONN, IndexOptions(m=8, ef_construction=32), bench.index_build())
    info = bench.client().get_collection(store.name)
    assert (info.config.hnsw_config.m, info.config.hnsw_config.ef_construct) == (8, 32)
    assert (info.indexed_vectors_count or 0) > 300
    asked = [float(value) for value in batch.vectors[7]]
    assert store.search(NO_CONN, asked, 1)[0].key_text == batch.rows[7].key


def test_an_optimizer_that_waits_is_woken_by_a_build_and_by_nothing_else(
    small_graphs: None, doubled: QdrantUnderTest, double: QdrantDouble
) -> None:
    """Grey after a restart (#3962, #4940)."""
    store, _ = filled(doubled, rows=400)
    store.build_index(NO_CONN, IndexOptions(), doubled.index_build())
    double.fail(grey=True)
    before = double.requests("PATCH collections")
    assert doubled.open(SPACE).index_state(NO_CONN) == "building"
    assert double.requests("PATCH collections") == before
    assert store.build_index(NO_CONN, IndexOptions(), doubled.index_build()) == "built"
    assert double.requests("PATCH collections") == before + 1


def test_green_is_not_believed_while_points_are_in_no_graph(
    small_graphs: None, doubled: QdrantUnderTest, double: QdrantDouble
) -> None:
    """#7187; a stop is heard."""
    store, _ = filled(doubled, rows=400)
    double.fail(unindexed=True)
    build = doubled.index_build()
    told: list[Any] = []

    def stop(event: Any) -> None:
        told.append(event)
        build.stop.set()

    with pytest.raises(Interrupted):
        store.build_index(NO_CONN, IndexOptions(), replace(build, report=stop))
    assert told
    wait_until(lambda: "no graph" in store.index_status().why, "the status green")
    assert store.index_status().state == "building"
    double.recover()
    assert store.build_index(NO_CONN, IndexOptions(), doubled.index_build()) == "built"


@pytest.mark.parametrize("share", [0.1, 3.0])
def test_counts_that_are_approximate_are_not_used(
    share: float, small_graphs: None, doubled: QdrantUnderTest, double: QdrantDouble
) -> None:
    """#3844, #2775."""
    store, batch = filled(doubled, rows=400)
    double.fail(counts=share)
    assert store.count(NO_CONN) == len(batch.rows)
    assert store.build_index(NO_CONN, IndexOptions(), doubled.index_build()) == "built"
    assert store.index_status().total == len(batch.rows)


def test_an_optimizer_that_failed_ends_the_build_with_its_reason(
    small_graphs: None, doubled: QdrantUnderTest, double: QdrantDouble
) -> None:
    """#4072; once the cause is gone the same call goes on."""
    store, _ = filled(doubled)
    double.fail(red="No space left on device (os error 28)")
    with pytest.raises(StoreError, match="No space left"):
        store.build_index(NO_CONN, IndexOptions(), doubled.index_build())
    assert store.index_state(NO_CONN) == "invalid"
    double.recover()
    assert store.build_index(NO_CONN, IndexOptions(), doubled.index_build()) == "built"
