"""pgvector in another database than the texts': a real one, on the test session's server."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, cast

import psycopg
import pytest

from embedmig import testing
from embedmig.config import Collection
from embedmig.config.settings import StoreSettings
from embedmig.database import Connection, Database
from embedmig.errors import ConfigError, OutcomeUnknown, StoreUnauthorized, StoreUnreachable
from embedmig.source import Column, Source
from embedmig.source.rows import Row
from embedmig.stores import IndexBuild, IndexOptions
from embedmig.stores.external import KEY, VERSION
from embedmig.stores.pgvector.external import ExternalPgvectorStore
from embedmig.testing import STORE_PROMISES, StorePromise
from embedmig.testing.store_promises import SPACE, batch_of, rows_of
from embedmig.types import Space
from tests import stores
from tests.conftest import PASSWORD_ROLE

CONN = cast(Connection, None)
COLUMNS = (Column("title", "text", False), Column("price", "numeric", False), Column("tags", "text[]", False))


@dataclass
class ExternalUnderTest:
    """A database that holds vectors alone, with names of this test's own."""

    url: str
    unique: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    persists: bool = True

    def connect(self) -> AbstractContextManager[Connection]:
        return nullcontext(CONN)

    def open(self, space: Space, columns: tuple[Column, ...] = (), **settings: Any) -> ExternalPgvectorStore:
        collection = Collection("docs", table="docs", key=("id",), text=("body",), alias=f"docs_{self.unique}")
        key, text = (Column("id", "bigint", True),), (Column("body", "text", True),)
        record = testing.fake_record(space, ExternalPgvectorStore.new_place(space, self.unique, "embedmig"))
        given = {"url": self.url, "give_up_after": 5.0} | settings
        source = Source(collection, 0, "public", "docs", key, text, columns, row_security=False)
        return ExternalPgvectorStore(source, record, StoreSettings("vectors", "pgvector", **given))

    def put_texts(self, conn: Connection, rows: Sequence[Row]) -> None:
        pass

    def index_build(self) -> IndexBuild:
        return IndexBuild(Database("", "embedmig"), lambda _: None, threading.Event(), lambda: None)


@pytest.fixture(scope="module")
def vectors_url() -> Iterator[str]:
    with stores.database() as url:
        yield url


@pytest.fixture
def bench(vectors_url: str) -> Iterator[ExternalUnderTest]:
    yield ExternalUnderTest(vectors_url)
    with psycopg.connect(vectors_url, autocommit=True) as conn:
        conn.execute("drop schema if exists embedmig_vectors cascade")


@pytest.mark.parametrize("promise", STORE_PROMISES, ids=lambda promise: promise.__name__)
def test_pgvector_elsewhere_keeps_the_promises(promise: StorePromise, bench: ExternalUnderTest) -> None:
    promise(bench)


def test_columns_are_filtered_by_and_changed_and_nothing_else_of_a_point(bench: ExternalUnderTest) -> None:
    store, batch = bench.open(SPACE, COLUMNS), batch_of(SPACE, rows_of(range(4)))
    store.create(CONN)
    columns = {
        row.key: {"title": f'a "quoted" {row.key[0]}\n', "price": 1, "tags": ["a", row.key[0]]} for row in batch.rows
    }
    points = store.points_of(batch, columns)
    store.put_all(points)
    store.build_index(CONN, IndexOptions(), bench.index_build())
    store.set_columns({points[1].id: {"title": "new"}, str(uuid.uuid4()): {"title": "nobody"}})
    held = {point.id: point.payload for page in store.held(None) for point in page}
    assert held.keys() == {point.id for point in points}
    assert {name: held[points[1].id].get(name) for name in ("title", "price", KEY)} == {
        "title": "new",
        "price": None,
        KEY: ["1"],
    }
    asked = [float(value) for value in batch.vectors[0]]
    for where, keys in (
        ({"title": "new"}, {"1"}), ({"title": ['a "quoted" 2\n', "none"]}, {"2"}), ({"title": []}, set()), ({"price": None}, {"1"}),
        ({"price": 1, "tags": "3"}, {"3"}), ({"tags": ["0", "2"]}, {"0", "2"}), ({"id": [2, 3], "tags": "a"}, {"2", "3"}),
    ):  # fmt: skip
        for exact in (False, True):
            assert {near.key[0] for near in store.near(asked, 4, where, exact=exact)} == keys
    store.set_version([points[0].id], "other")
    assert {point.payload[VERSION] for page in store.held((VERSION,)) for point in page} == {"other", SPACE.tag}


@pytest.mark.parametrize(("storage", "form"), [("halfvec", None), ("vector", "halfvec"), ("vector", "binary")])
def test_smaller_vectors_and_smaller_indexes_find_the_same(bench: ExternalUnderTest, storage: Any, form: Any) -> None:
    store, batch = bench.open(replace(SPACE, storage=storage)), batch_of(SPACE, rows_of(range(60)))
    store.create(CONN)
    store.upsert(CONN, batch)
    store.build_index(CONN, IndexOptions(storage=form), bench.index_build())
    asked = [float(value) for value in batch.vectors[7]]
    through, exactly = (store.search(CONN, asked, 1, exact=exact) for exact in (False, True))
    assert through[0].key_text == exactly[0].key_text == ("7",)
    assert store.search(CONN, asked, 60)[0].key_text == ("7",)
    assert store.disk_bytes(CONN, 60) > 60 * 8 * 2


def test_the_alias_is_a_view_that_keeps_its_rights_when_the_vectors_type_changes(bench: ExternalUnderTest) -> None:
    one, other = bench.open(SPACE), bench.open(replace(SPACE, version="2", storage="halfvec", dimensions=16))
    for store in (one, other):
        store.create(CONN)
        store.upsert(CONN, batch_of(store.space, rows_of(range(3))))
    one.set_alias(CONN)
    view = f'embedmig_vectors."{one.alias_name}"'
    with psycopg.connect(bench.url, autocommit=True) as conn:
        conn.execute(f"grant select on {view} to public")  # type: ignore[arg-type]
        other.set_alias(CONN)
        assert one.alias(CONN) == other.name
        found = conn.execute(f"select key, version, vector_dims(embedding) from {view} order by key").fetchall()  # type: ignore[arg-type]
        assert found == [([str(n)], other.record.version, 16) for n in range(3)]
        assert conn.execute("select has_table_privilege('public', %s, 'select')", (view,)).fetchone() == (True,)
        other.remove_alias(other.alias_name)
        conn.execute(f"create table {view} (n int)")  # type: ignore[arg-type]
    assert one.alias(CONN) == one.alias_name  # a stranger's, which a flip refuses


def test_pgvector_in_a_schema_of_its_own_and_a_role_without_more_rights_than_needed(vectors_url: str) -> None:
    with stores.database() as url, psycopg.connect(url, autocommit=True) as conn:
        conn.execute("create schema ext; create extension vector schema ext; create schema articles")
        conn.execute(
            f"grant usage on schema ext to {PASSWORD_ROLE}; grant usage, create on schema articles to {PASSWORD_ROLE}"
        )  # type: ignore[arg-type]
        address = psycopg.conninfo.make_conninfo(url, user=PASSWORD_ROLE, password="right")
        bench = ExternalUnderTest(address)
        store, batch = bench.open(SPACE, options={"schema": "articles"}), batch_of(SPACE, rows_of(range(5)))
        assert store.server_version()
        store.create(CONN)
        store.upsert(CONN, batch)
        store.build_index(CONN, IndexOptions(), bench.index_build())
        store.set_alias(CONN)
        assert store.search(CONN, [float(v) for v in batch.vectors[3]], 1)[0].key_text == ("3",)
        with pytest.raises(StoreUnauthorized):
            bench.open(SPACE).create(CONN)  # there is no schema embedmig_vectors, and it may make none
        wrong = address.replace("right", "wrong")
        with pytest.raises(StoreUnauthorized) as caught:
            bench.open(SPACE, url=wrong).server_version()
        assert "wrong" not in str(caught.value)


def test_a_database_out_of_reach_or_a_session_that_ends_is_told_in_the_words_of_stores(
    bench: ExternalUnderTest,
) -> None:
    with pytest.raises(StoreUnreachable):
        bench.open(SPACE, url="postgresql://127.0.0.1:1/none", give_up_after=0.1).create(CONN)
    with pytest.raises(ConfigError, match="has no url"):
        bench.open(SPACE, url="")
    store, batch = bench.open(SPACE), batch_of(SPACE, rows_of(range(5)))
    store.create(CONN)
    store.upsert(CONN, batch)
    with psycopg.connect(bench.url, autocommit=True) as conn:
        ended = "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
        conn.execute(ended)
        with pytest.raises(OutcomeUnknown):
            store.total()
        conn.execute(ended)
        assert store.count(CONN) == 5  # asked again
