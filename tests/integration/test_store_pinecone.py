"""Pinecone keeps the promises of every store, and what else its limits and its delays ask for.

On a double (:mod:`tests.doubles.pinecone`); with ``EMBEDMIG_PINECONE_API_KEY`` the promises on the service too, as namespaces of
an index ``embedmig-tests``, which is left.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import httpx
import numpy as np
import pytest
from pinecone import Pinecone
from pinecone._internal.validation import require_valid_resource_name

from embedmig import testing
from embedmig.config import Collection
from embedmig.config.settings import StoreSettings
from embedmig.database import Connection
from embedmig.errors import (
    MissingExtra,
    OutcomeUnknown,
    PlaceMissing,
    PlanError,
    StoreThrottled,
    StoreUnauthorized,
    StoreUnreachable,
    StoreUnsuitable,
    VectorRefused,
)
from embedmig.source import Column, Source
from embedmig.source.rows import Row
from embedmig.stores import Batch, IndexBuild, VectorStore
from embedmig.stores.external import CollectionInfo, Patience, Point
from embedmig.stores.pinecone import PineconeStore
from embedmig.testing import STORE_PROMISES, StorePromise
from embedmig.testing.fake_embedder import fake_vectors
from embedmig.testing.store_promises import (
    OTHER,
    SPACE,
    assert_holds,
    batch_of,
    filled,
    ids_of,
    rows_of,
    survives_kill_at_any_step,
    unit,
)
from embedmig.types import Metric, Space
from tests.doubles.pinecone import KEY
from tests.integration.test_stores import unwatched
from tests.waiting import wait_until

NOBODY = cast(Connection, None)  # this store looks at no connection
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
    """Names of its own: those of another ``mark`` are others."""

    url: str
    api_key: str
    options: Mapping[str, Any] = field(default_factory=dict)
    mark: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    timeout: float = 30.0
    give_up_after: float = 60.0
    source: Source = SOURCE
    persists: bool = True
    opened: list[PineconeStore] = field(default_factory=list, compare=False)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"opened": []}

    @property
    def settings(self) -> StoreSettings:
        return StoreSettings(
            "pinecone", "pinecone", url=self.url, api_key=self.api_key, timeout=self.timeout,
            give_up_after=self.give_up_after, options=self.options,
        )  # fmt: skip

    def connect(self) -> AbstractContextManager[Connection]:
        return nullcontext(NOBODY)

    def open(self, space: Space) -> VectorStore:
        return self.store(space, PineconeStore.new_place(space, self.mark, "embedmig")[3])

    def store(self, space: Space, collection: str, *, adopted: bool = False) -> PineconeStore:
        record = replace(testing.fake_record(space, ("embedmig", "manifest", "", collection)), adopted=adopted)
        settings = self.settings

        class Bound(PineconeStore):
            """As the promises make another one of its kind: of source and record alone."""

            def __init__(self, source: Source, record: Any) -> None:
                super().__init__(source, record, settings)

        self.opened.append(Bound(self.source, record))
        return self.opened[-1]

    def put_texts(self, conn: Connection, rows: Sequence[Row]) -> None:
        pass

    def index_build(self) -> IndexBuild:
        return unwatched()


SERVERS = ["an index a space", "a namespace a space"] + ["the service"] * bool(
    os.environ.get("EMBEDMIG_PINECONE_API_KEY")
)


@pytest.fixture
def bench(request: pytest.FixtureRequest, double: Double) -> Iterator[PineconeUnderTest]:
    """What was made is removed: a project has a number of indexes."""
    which = getattr(request, "param", SERVERS[0])
    if which == "the service":
        given = PineconeUnderTest("", os.environ["EMBEDMIG_PINECONE_API_KEY"], SHARED, timeout=120, give_up_after=300)
    else:
        given = PineconeUnderTest(double.url, KEY, SHARED if "namespace" in which else {})
    yield given
    httpx.delete(f"{double.url}/__faults").raise_for_status()
    for one in {one.collection: one for one in given.opened}.values():
        one.attempt(one.drop_collection)  # an adopted one too


@pytest.mark.parametrize("bench", SERVERS, indirect=True)
@pytest.mark.parametrize("promise", STORE_PROMISES, ids=lambda promise: promise.__name__)
def test_pinecone_keeps_the_promises(promise: StorePromise, bench: PineconeUnderTest) -> None:
    if bench.options and promise is survives_kill_at_any_step and bench.url:
        pytest.skip(
            "what is written and when is the same as in an index of its own; six processes more would show no more"
        )
    promise(bench)


# --- visibility


@pytest.mark.parametrize("slow", ["search", "fetch", "list", "filter"])
def test_a_write_is_acknowledged_when_the_slowest_kind_of_read_sees_it(
    slow: str, bench: PineconeUnderTest, double: Double
) -> None:
    double.fault(lag={slow: 0.4})
    with filled(bench) as (store, conn, batch):
        assert_holds(store, conn, batch)
        asked = [float(value) for value in batch.vectors[0]]
        assert len(store.search(conn, asked, 100)) == 12
        store.delete(conn, ids_of(store, batch)[:5])
        assert len(list(store.list_ids(conn))) == store.count(conn) == len(store.search(conn, asked, 100)) == 7
        assert len(store.fetch(conn, ids_of(store, batch))) == 7


@pytest.mark.parametrize("slow", ["search", "fetch", "list", "filter"])
def test_a_write_that_is_not_seen_in_time_is_an_unknown_outcome(
    slow: str, bench: PineconeUnderTest, double: Double
) -> None:
    bench.timeout, bench.give_up_after = 0.2, 0.1
    store = bench.open(SPACE)
    store.create(NOBODY)
    double.fault(lag={slow: 3600})
    with pytest.raises(OutcomeUnknown, match=r"after 0\.2 s"):
        store.upsert(NOBODY, batch_of(SPACE, rows_of(range(3))))


def test_writes_without_numbers_are_refused_since_they_can_not_be_waited_for(
    bench: PineconeUnderTest, double: Double
) -> None:
    store = bench.open(SPACE)
    store.create(NOBODY)
    double.fault(numbers=False)
    with pytest.raises(StoreUnsuitable, match="x-pinecone-request-lsn"):
        store.upsert(NOBODY, batch_of(SPACE, rows_of(range(3))))


# --- what servers and networks do


@pytest.mark.parametrize("applied", [True, False], ids=["was done", "was not done"])
@pytest.mark.parametrize("status", [None, 503], ids=["cut", "503"])
@pytest.mark.parametrize("what", ["upsert", "delete"])
def test_what_has_an_unknown_outcome_is_sent_again(
    what: str, status: int | None, applied: bool, bench: PineconeUnderTest, double: Double
) -> None:
    with filled(bench) as (store, conn, batch):
        double.fault(failing=[{"path": f"documents/{what}", "times": 1, "status": status, "applied": applied}])
        double.asked()
        if what == "upsert":
            store.upsert(conn, batch)
            assert_holds(store, conn, batch)
        else:
            store.delete(conn, ids_of(store, batch))
            assert not list(store.list_ids(conn))
        assert len(double.asked(f"documents/{what}")) == 2


def test_a_refusal_for_the_time_being_is_waited_out_as_long_as_it_says(
    bench: PineconeUnderTest, double: Double
) -> None:
    with filled(bench) as (store, conn, batch):
        pauses: list[float] = []
        store.patience = Patience(10, sleep=pauses.append)  # type: ignore[attr-defined]
        throttled = {"path": "documents/upsert", "times": 2, "status": 429, "headers": {"retry-after": "3.5"}}
        double.fault(failing=[throttled])
        store.upsert(conn, batch)
        assert pauses[:2] == [3.5, 3.5]  # the client itself repeats nothing
        double.fault(failing=[throttled | {"times": 100}])
        store.patience = Patience(0.0)  # type: ignore[attr-defined]
        with pytest.raises(StoreThrottled) as refused:
            store.upsert(conn, batch)
        assert refused.value.retry_after == 3.5


def test_more_requests_a_second_than_pinecone_takes_only_take_longer(bench: PineconeUnderTest, double: Double) -> None:
    with filled(bench) as (store, conn, batch):
        double.fault(rate=3)
        for _ in range(2):
            store.upsert(conn, batch)
        assert len(store.fetch(conn, ids_of(store, batch))) == 12


def test_requests_that_are_too_large_are_cut_and_a_point_that_is_too_large_is_refused(
    bench: PineconeUnderTest, double: Double
) -> None:
    with filled(bench) as (store, conn, batch):
        double.fault(request_bytes=1_500)
        double.asked()
        store.upsert(conn, batch)
        assert_holds(store, conn, batch)
        sent = [one["bytes"] for one in double.asked("documents/upsert")]
        assert max(sent) > 1_500 > min(sent)
        double.fault(request_bytes=100)
        with pytest.raises(VectorRefused):
            store.upsert(conn, batch)


def test_requests_keep_within_two_megabytes_and_a_thousand_documents(bench: PineconeUnderTest, double: Double) -> None:
    store = bench.open(SPACE)
    store.create(NOBODY)
    wide = bench.open(replace(SPACE, dimensions=512, version="wide"))
    wide.create(NOBODY)
    double.asked()
    assert store.upsert(NOBODY, batch_of(SPACE, rows_of(range(1_100)))) == 1_100
    assert len(double.asked("documents/upsert")) == 2
    assert store.count(NOBODY) == len(list(store.list_ids(NOBODY))) == 1_100
    assert wide.upsert(NOBODY, batch_of(wide.record.space, rows_of(range(800)))) == 800
    sent = [one["bytes"] for one in double.asked("documents/upsert")]
    assert 1_500_000 < max(sent) <= 2 * 1024 * 1024
    assert len(sent) == 3


def test_a_wrong_key_and_a_missing_one_are_named_and_never_printed(bench: PineconeUnderTest) -> None:
    secret = "pcsk_a-secret"
    for key in (secret, ""):
        store = replace(bench, api_key=key, opened=[]).store(SPACE, "anything")
        with pytest.raises(StoreUnauthorized) as refused:
            store.create(NOBODY)
        assert refused.value.hint
        said = "".join(traceback.format_exception(refused.value)) + repr(store) + repr(store.settings)
        assert secret not in said


def test_a_missing_client_is_named_with_the_extra_that_brings_it(
    bench: PineconeUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pinecone", None)
    bench.options = dict(SHARED)
    store = replace(bench, url="http://127.0.0.1:1", opened=[]).store(SPACE, "anything")
    points = store.points_of(batch_of(SPACE, rows_of(range(1))))
    calls = (
        lambda: store.put(points),
        store.server_version,
        store.create_collection,
        store.drop_collection,
        store.describe,
        store.total,
    )
    for call in calls:
        with pytest.raises(MissingExtra) as missing:
            call()
        assert missing.value.hint == 'pip install "embedmig[pinecone]"'


def test_a_service_that_can_not_be_reached_is_asked_until_patience_ends(bench: PineconeUnderTest) -> None:
    bench.give_up_after = 0.3
    store = replace(bench, url="http://127.0.0.1:9", opened=[]).store(SPACE, "anything")
    with pytest.raises(StoreUnreachable):
        store.create(NOBODY)


def test_work_goes_on_when_the_service_is_back_and_nothing_that_it_acknowledged_is_lost(
    bench: PineconeUnderTest, double: Double
) -> None:
    with filled(bench) as (store, conn, batch):
        double.kill()
        pauses: list[float] = []

        def sleep(seconds: float) -> None:
            pauses.append(seconds)
            if double.process.poll() is not None:
                double.start()

        store.patience = Patience(60, sleep=sleep)  # type: ignore[attr-defined]
        assert_holds(store, conn, batch)
        assert pauses


# --- places


def test_one_index_more_than_the_plan_has_is_refused_with_what_helps(bench: PineconeUnderTest, double: Double) -> None:
    double.fault(indexes=0)
    with pytest.raises(StoreUnsuitable) as refused:
        bench.open(SPACE).create(NOBODY)
    assert "[stores.pinecone.options]" in (refused.value.hint or "")


def test_an_index_is_made_anew_once_its_name_is_free(bench: PineconeUnderTest, double: Double) -> None:
    with filled(bench) as (store, conn, batch):
        double.fault(removing=0.5)
        control = Pinecone(KEY, host=double.url)
        control.indexes.delete(store.name, timeout=-1)
        with pytest.raises(PlaceMissing):
            list(bench.open(SPACE).list_ids(conn))
        store.create(conn)
        assert store.count(conn) == 0
        assert store.upsert(conn, batch)


@pytest.mark.parametrize("bench", SERVERS[:2], indirect=True)
def test_what_was_removed_behind_our_back_is_missing_and_not_empty(bench: PineconeUnderTest, double: Double) -> None:
    with filled(bench) as (store, conn, batch):
        control = Pinecone(KEY, host=double.url)
        if bench.options:
            control.index(SHARED["index"]).delete_namespace(name=store.name)
        else:
            control.indexes.delete(store.name, timeout=-1)
        asked = [float(value) for value in batch.vectors[0]]
        for read in (store.list_ids, store.count, lambda conn: store.search(conn, asked, 3)):
            with pytest.raises(PlaceMissing):
                list(read(conn))  # type: ignore[call-overload]


def test_a_shared_index_of_other_dimensions_is_refused(bench: PineconeUnderTest) -> None:
    bench.options = {"index": f"shared-{bench.mark}"}
    bench.open(SPACE).create(NOBODY)
    with pytest.raises(VectorRefused, match="8 dimensions by cosine, not 16"):
        bench.open(replace(SPACE, dimensions=16)).create(NOBODY)
    bench.options = {}
    bench.store(SPACE, f"shared-{bench.mark}")  # removed with the rest


def test_spaces_of_one_index_leave_each_other_alone(bench: PineconeUnderTest) -> None:
    bench.options = SHARED
    with filled(bench) as (one, conn, batch), filled(bench, OTHER) as (other, _, _):
        other.drop(conn)
        assert_holds(one, conn, batch)


@pytest.mark.parametrize(
    "unique", ["articles_wordllama_1_256_0a1b2c3d", "a" * 52 + "_0a1b2c3d", "_a", "a__b", "a" * 46]
)
def test_names_are_ones_that_pinecone_takes(unique: str) -> None:
    name = PineconeStore.collection_name(SPACE, unique)
    require_valid_resource_name("name", name)
    assert name != PineconeStore.collection_name(SPACE, unique[:-1] + "x")


@pytest.mark.parametrize("name", ["_id", "$where", "embedmig_vector", "embedmig_key", "ä" * 33])
def test_columns_whose_names_pinecone_refuses_are_refused_before_anything_is_made(name: str) -> None:
    with pytest.raises(PlanError, match="name"):
        PineconeStore.check_source(replace(SOURCE, columns=(Column(name, "text", True),)))


# --- columns

COLUMNS: dict[str, Any] = {
    "team": "blue", "public": True, "year": 2024, "price": 9.5, "large": 2**60, "exact": Decimal("1.10"), "tags": ["a", "b"],
    "numbers": [1, 2], "day": date(2024, 2, 29), "gone": None, "made": datetime(2024, 2, 29, 13, tzinfo=timezone(timedelta(hours=1))), "extra": {"a": 1},
}  # fmt: skip
WITH_COLUMNS = replace(
    SOURCE, columns=tuple(Column(name, "integer[]" if name == "numbers" else "text", False) for name in COLUMNS)
)


def with_columns(bench: PineconeUnderTest, rows: int = 6) -> tuple[PineconeStore, list[Point]]:
    """A store whose rows of even number have :data:`COLUMNS`, and those of odd number other ones."""
    bench.source = WITH_COLUMNS
    store = cast(PineconeStore, bench.open(SPACE))
    store.create(NOBODY)
    given = rows_of(range(rows))
    other = {"team": "red", "public": False, "year": 1}
    points = store.points_of(
        batch_of(SPACE, given), {row.key: other if int(row.key[0]) % 2 else COLUMNS for row in given}
    )
    store.put_all(points)
    return store, points


def test_points_say_whose_they_are_and_hold_columns_in_types_of_their_own(bench: PineconeUnderTest) -> None:
    store, points = with_columns(bench)
    held = {one.id: one.payload for page in store.held(None) for one in page}
    assert set(held) == {one.id for one in points}
    assert held[points[0].id] | {"id": "0"} == {
        "id": "0", "embedmig_key": ["0"], "embedmig_chunk": 0, "embedmig_hash": points[0].content_hash.hex(), "embedmig_version": SPACE.tag,
        "team": "blue", "public": True, "year": 2024, "price": 9.5, "large": str(2**60), "exact": "1.1", "tags": ["a", "b"],
        "numbers": ["1", "2"], "day": "2024-02-29", "made": "2024-02-29T12:00:00+00:00", "extra": '{"a": 1}',
    }  # fmt: skip
    some = {one.id: one.payload for page in store.held(["team"]) for one in page}
    assert some[points[1].id] == {"team": "red"}


@pytest.mark.parametrize(("where", "rows"), [
    ({"team": "blue"}, {0, 2, 4}), ({"team": ["red", "green"]}, {1, 3, 5}), ({"team": []}, set()), ({"public": False}, {1, 3, 5}),
    ({"year": 2024, "team": "red"}, set()), ({"large": 2**60}, {0, 2, 4}), ({"tags": "b"}, {0, 2, 4}), ({"numbers": 2}, {0, 2, 4}),
    ({"price": None}, {1, 3, 5}), ({"price": [9.5, None]}, {0, 1, 2, 3, 4, 5}), ({"id": [1, 2]}, {1, 2}), ({"day": date(2024, 2, 29)}, {0, 2, 4}),
    ({"made": datetime(2024, 2, 29, 12, tzinfo=UTC)}, {0, 2, 4}),
])  # fmt: skip
def test_filters_find_what_they_say(where: dict[str, Any], rows: set[int], filled_once: PineconeStore) -> None:
    asked = [1.0] + [0.0] * 7
    assert {int(one.key[0]) for one in filled_once.near(asked, 100, where, exact=False)} == rows


@pytest.fixture(scope="module")
def filled_once(server: Double) -> PineconeStore:
    return with_columns(PineconeUnderTest(server.url, KEY))[0]


def test_parts_of_a_key_are_told_apart(bench: PineconeUnderTest) -> None:
    bench.source = replace(SOURCE, key=(Column("tenant", "text", True), Column("id", "text", True)))
    store = bench.open(SPACE)
    store.create(NOBODY)
    rows = [row._replace(key=key) for row, key in zip(rows_of(range(2)), [("a", "b"), ("b", "a")], strict=True)]
    batch = batch_of(SPACE, rows)
    store.upsert(NOBODY, batch)
    found = store.search(NOBODY, [1.0] + [0.0] * 7, 10, where={"tenant": "b"})
    assert [hit.key_text for hit in found] == [("b", "a")]
    store.delete(NOBODY, ids_of(store, batch)[:1])
    assert_holds(store, NOBODY, Batch(batch.rows[1:], batch.pieces[1:], batch.vectors[1:]))


def test_changed_columns_replace_the_old_ones_and_nothing_else(bench: PineconeUnderTest, double: Double) -> None:
    store, points = with_columns(bench)
    before = store.fetch(NOBODY, [points[0].id])
    refused = {"path": "documents/update", "times": 1, "status": 429, "headers": {"retry-after": "0"}}
    double.fault(failing=[refused])
    store.set_columns(
        {points[0].id: {"team": "green", "tags": None}, "never-there": {"team": "green"}, points[1].id: {}}
    )
    found = store.near([1.0] + [0.0] * 7, 10, {"team": "green"}, exact=False)
    assert [one.id for one in found] == [points[0].id]
    wait_until(
        lambda: {one.id: one.payload for page in store.held(None) for one in page}[points[0].id].get("team") == "green",
        "it is seen",
    )
    held = {one.id: one.payload for page in store.held(None) for one in page}
    assert "tags" not in held[points[0].id]
    assert held[points[0].id]["year"] == 2024
    assert held[points[1].id]["team"] == "red"
    assert len(held) == 6
    assert store.fetch(NOBODY, [points[0].id]) == before


def test_updates_that_came_through_are_not_sent_again(bench: PineconeUnderTest, double: Double) -> None:
    store, points = with_columns(bench, rows=250)
    double.fault(failing=[{"path": "documents/update", "times": 1, "status": 503}])
    double.asked()
    store.set_columns({one.id: {"team": "green"} for one in points})
    assert len(double.asked("documents/update")) == 4
    assert len(store.near([1.0] + [0.0] * 7, 1_000, {"team": "green"}, exact=False)) == 250


def test_rows_that_pinecone_can_not_hold_are_refused_by_key(bench: PineconeUnderTest) -> None:
    bench.source = WITH_COLUMNS
    store = cast(PineconeStore, bench.open(SPACE))
    store.create(NOBODY)
    batch = batch_of(SPACE, rows_of(range(3)))
    large = store.points_of(batch, {("1",): {"team": "x" * 41_000}})
    with pytest.raises(VectorRefused, match="key 1 take 41,"):
        store.put_all(large)
    batch.vectors[2] = 0
    with pytest.raises(VectorRefused, match="key 2 is zero"):
        store.upsert(NOBODY, batch)
    assert store.count(NOBODY) == 0


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_distances_are_those_of_pgvector(metric: Metric, bench: PineconeUnderTest) -> None:
    space = replace(SPACE, metric=metric, version=metric)
    with filled(bench, space) as (store, conn, batch):
        asked = batch.vectors[3] * 2
        apart = {
            "cosine": 1 - batch.vectors @ batch.vectors[3],
            "l2": np.linalg.norm(batch.vectors - asked, axis=1),
            "ip": -batch.vectors @ asked,
        }[metric]
        hits = store.search(conn, asked.tolist(), 12)
        assert [hit.key_text for hit in hits] == [batch.rows[place].key for place in np.argsort(apart)]
        assert np.allclose([hit.distance for hit in hits], np.sort(apart), atol=1e-5)


# --- what others made


@pytest.fixture
def vectors_index(bench: PineconeUnderTest, double: Double) -> PineconeStore:
    """250 points of an application's own in an index of the vectors API."""
    name = f"theirs-{bench.mark}"
    control = Pinecone(KEY, host=double.url)
    control.indexes.create(name=name, dimension=8, metric="cosine", timeout=-1)
    wait_until(lambda: control.indexes.describe(name).status.ready, "it is seen")
    vectors = unit(fake_vectors([str(number) for number in range(250)], 8)).tolist()
    points = [{"id": f"a{n}", "values": vectors[n], "metadata": {"article": n, "title": f"t{n}"}} for n in range(250)]
    control.index(name).upsert(vectors=points, show_progress=False)
    store = bench.store(SPACE, name, adopted=True)
    wait_until(lambda: store.total() == len(list(store.list_ids(NOBODY))) == 250, "it is seen")
    return store


def test_an_index_of_the_vectors_api_is_adopted(vectors_index: PineconeStore) -> None:
    store = vectors_index
    assert store.describe() == CollectionInfo(8, "cosine")
    held = {one.id: one.payload for page in store.held(None) for one in page}
    assert held["a7"] == {"article": 7, "title": "t7"}
    assert {one.id: one.payload for page in store.held(["article"]) for one in page}["a7"] == {"article": 7}
    vectors = store.vectors([*held, "a1000"])
    assert set(vectors) == set(held)
    found = store.near(vectors["a7"], 3, {}, exact=False)
    assert found[0].id == "a7"
    assert abs(found[0].distance) < 1e-5
    store.set_version(["a7", "a8"], SPACE.tag)
    store.set_columns({"a7": {"title": "new"}})
    marked = store.near(vectors["a7"], 10, {"embedmig_version": SPACE.tag}, exact=False)
    assert {one.id for one in marked} == {"a7", "a8"}
    assert [one.id for one in store.near(vectors["a7"], 10, {"title": "new"}, exact=False)] == ["a7"]
    wait_until(
        lambda: {one.id: one.payload for page in store.held(None) for one in page}["a7"].get("title") == "new",
        "it is seen",
    )
    assert store.vectors(["a7"])["a7"] == vectors["a7"]
    assert store.total() == 250


def test_nothing_is_written_into_an_index_of_the_vectors_api_nor_removed_from_it(vectors_index: PineconeStore) -> None:
    with pytest.raises(StoreUnsuitable, match="vectors API"):
        vectors_index.upsert(NOBODY, batch_of(SPACE, rows_of(range(3))))
    with pytest.raises(PlanError, match="belongs to the application"):
        vectors_index.delete(NOBODY, ["a1"])
    with pytest.raises(StoreUnsuitable, match="remove a field"):
        vectors_index.set_columns({"a1": {"title": None}})
    assert vectors_index.total() == len(list(vectors_index.list_ids(NOBODY))) == 250


def test_a_namespace_of_a_document_index_is_adopted_and_no_other_one_touched(
    bench: PineconeUnderTest, double: Double
) -> None:
    name = f"theirs-{bench.mark}"
    control = Pinecone(KEY, host=double.url)
    field = {"type": "dense_vector", "dimension": 8, "metric": "cosine"}
    control.indexes.create(name=name, schema={"fields": {"embedding": field}}, timeout=-1)
    wait_until(lambda: control.indexes.describe(name).status.ready, "it is seen")
    vectors = unit(fake_vectors([str(number) for number in range(20)], 8)).tolist()
    for namespace in ("ours", "others"):
        documents = [{"_id": f"a{n}", "embedding": vectors[n], "article": n} for n in range(20)]
        control.index(name).documents.upsert(namespace=namespace, documents=documents)
    store = bench.store(SPACE, f"{name}/ours", adopted=True)
    wait_until(lambda: store.total() == len(list(store.list_ids(NOBODY))) == 20, "it is seen")
    store.set_version([f"a{n}" for n in range(20)], SPACE.tag)
    assert len(store.near(vectors[3], 100, {"embedmig_version": SPACE.tag}, exact=False)) == 20
    assert store.near(vectors[3], 1, {}, exact=False)[0].id == "a3"
    assert np.allclose(store.vectors(["a3"])["a3"], vectors[3])
    others = bench.store(SPACE, f"{name}/others", adopted=True)
    assert others.near(vectors[3], 100, {"embedmig_version": SPACE.tag}, exact=False) == []
    bench.store(SPACE, name)  # removed with the rest
