"""Versions whose vectors are in a store beside PostgreSQL: written in order, compared by listing, flipped in both, and read."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

import embedmig
from embedmig import GateClosed, Reader
from embedmig.database.registry import Registry
from embedmig.errors import AliasMoved
from embedmig.stores.external import VERSION
from embedmig.testing import MemoryStore
from tests import in_process
from tests.in_process import Fake, downgrade, space_script, tag, upgrade
from tests.project import CONFIG, Project

pytestmark = pytest.mark.with_ledger

NEAR = 'store="near"'
OLD, NEW = tag(8) + "/on-near", tag(16) + "/on-near"


@pytest.fixture
def fake() -> Fake:
    return Fake().register()


@pytest.fixture
def near(project: Project, fake: Fake) -> Path:
    """The file of a store that the project's collection may use."""
    file = project.folder / "near.db"
    project.configure(CONFIG, f'\n[stores.near]\nkind = "memory"\nurl = "{file}"\ngive_up_after = "1s"\n')
    return file


def store_of(project: Project, version: str = OLD) -> MemoryStore:
    """The store itself, past the engine."""
    opened = project.opened()
    with opened.looking() as (context, conn):
        record = context.registry.space(conn, "docs", version)
        assert record is not None
        store = context.store(conn, record)
    assert isinstance(store, MemoryStore)
    return store


def ids_in(store: MemoryStore) -> set[str]:
    return {point.id for page in store.held() for point in page}


def named(project: Project, dimensions: int = 8) -> set[str]:
    """The points that the manifest names."""
    table = project.one(f"select table_name from embedmig.spaces where (definition->>'dimensions')::int = {dimensions}")
    return {str(row[0]) for row in project.rows(f"select point_id from embedmig.{table}")}


@contextmanager
def reading(project: Project, **more: Any) -> Iterator[Reader]:
    with Reader(project.url, "docs", stores=project.opened().config.stores, **more) as reader:
        yield reader


def expect_exact(project: Project, version: str = OLD, dimensions: int = 8) -> None:
    """The store has a point for every row, of its text as it is now, and no other; the manifest names the same."""
    import hashlib

    rows = project.rows("select id::text, concat_ws(E'\\n\\n', title, body) from documents")
    store = store_of(project, version)
    wanted = {store.id_of((key,), 0, hashlib.sha256(text.encode()).digest()) for key, text in rows if text.strip()}
    assert ids_in(store) == wanted
    assert named(project, dimensions) == wanted
    assert not project.rows("select * from embedmig.garbage")


# --- written in order -------------------------------------------------------------------------------------------


def test_a_version_is_made_filled_gated_and_flipped_in_a_store(project: Project, near: Path) -> None:
    project.documents(50)
    space_script(project, more=NEAR)
    upgrade(project)
    expect_exact(project)
    status = embedmig.status(project.opened()).collections["docs"]
    assert (status.active, status.alias_fault) == (OLD, None)
    assert status.spaces[0].completeness == 1.0
    assert store_of(project).alias_target("docs_embeddings") == store_of(project).name
    held = [point for page in store_of(project).held(None) for point in page]
    assert {point.payload[VERSION] for point in held} == {OLD}
    assert {point.payload["title"] for point in held} == {row[0] for row in project.rows("select title from documents")}


def test_edited_and_deleted_rows_leave_no_point_behind(project: Project, near: Path, fake: Fake) -> None:
    project.documents(50)
    space_script(project, more=NEAR)
    upgrade(project)
    with project.connect() as conn:
        conn.execute("update documents set body = 'edited ' || id where id < 10")
        conn.execute("delete from documents where id between 20 and 29")
        conn.execute("insert into documents values (100, 'new', 'row')")
    embedmig.sync(project.opened())
    expect_exact(project)
    with project.connect() as conn:
        conn.execute("truncate documents")
    embedmig.sync(project.opened())
    expect_exact(project)


def test_a_text_that_comes_back_has_its_point_again(project: Project, near: Path) -> None:
    project.documents(5)
    space_script(project, more=NEAR)
    upgrade(project)
    for body in ("other", "on the wind of a wind"):
        with project.connect() as conn:
            conn.execute("update documents set body = %s where id = 0", (body,))
        embedmig.sync(project.opened())
        expect_exact(project)


def test_chunks_of_a_text_that_got_shorter_leave_the_store(project: Project, near: Path) -> None:
    project.documents(5)
    space_script(project, more=NEAR + ", chunk={'size': 12}")
    upgrade(project)
    version = tag(8, "chunk-12/") + "/on-near"
    before = ids_in(store_of(project, version))
    with project.connect() as conn:
        conn.execute("update documents set body = '' where id = 1")
    embedmig.sync(project.opened())
    after = ids_in(store_of(project, version))
    assert after == named(project)
    assert len(after) < len(before)
    assert not project.rows("select * from embedmig.garbage")


# --- the gate ---------------------------------------------------------------------------------------------------


def test_a_point_that_is_gone_closes_the_gate_and_repair_embeds_it_alone(
    project: Project, near: Path, fake: Fake
) -> None:
    project.documents(30)
    space_script(project, more=NEAR)
    upgrade(project)
    lost = sorted(ids_in(store_of(project)))[:3]
    store_of(project).remove(lost)
    verdicts = {one.name: one for one in embedmig.gate(project.opened(), "docs", OLD)}
    assert (verdicts["store_points"].value, verdicts["store_points"].passed) == (3, False)
    asked = sum(fake.seen.values())
    embedmig.sync(project.opened(), repair=True)
    expect_exact(project)
    assert sum(fake.seen.values()) == asked + 3


def test_a_point_that_nobody_named_closes_the_gate_and_repair_removes_it(project: Project, near: Path) -> None:
    project.documents(10)
    space_script(project, more=NEAR)
    upgrade(project)
    store = store_of(project)
    with sqlite3.connect(near) as db:
        db.execute(
            "insert into points select place, '00000000-0000-0000-0000-000000000001', payload, vector from points limit 1"
        )
    assert store.total() == 11
    found = {one.name: one for one in embedmig.gate(project.opened(), "docs", OLD)}["store_points"]
    assert not found.passed
    assert "unknown there: 1" in found.advice
    with reading(project) as reader:
        assert len(reader.search("wind", 100)) == 10
    embedmig.sync(project.opened(), repair=True)
    expect_exact(project)


def test_a_listing_that_disagrees_with_the_stores_own_count_opens_nothing(
    project: Project, near: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.documents(10)
    space_script(project, more=NEAR)
    monkeypatch.setattr(MemoryStore, "total", lambda _: 12)
    with pytest.raises(GateClosed, match="store_points is unknown") as caught:
        upgrade(project)
    assert "lists 10 points and counts 12" in (caught.value.hint or "")
    assert embedmig.status(project.opened()).collections["docs"].active is None


def test_a_collection_that_was_dropped_is_told_of_and_made_again(project: Project, near: Path, fake: Fake) -> None:
    project.documents(10)
    space_script(project, more=NEAR)
    upgrade(project)
    store_of(project).drop_collection()
    found = embedmig.status(project.opened()).collections["docs"]
    assert "collection" in (found.spaces[0].fault or "")
    embedmig.sync(project.opened(), repair=True)
    embedmig.alias_rebuild(project.opened(), "docs")
    expect_exact(project)
    assert embedmig.status(project.opened()).collections["docs"].sound


# --- the flip ---------------------------------------------------------------------------------------------------


def test_flips_and_rollbacks_move_both_aliases(project: Project, near: Path) -> None:
    project.documents(20)
    space_script(project, more=NEAR)
    upgrade(project)
    space_script(project, "0002", "0001", old=OLD, dimensions=16, more=NEAR)
    upgrade(project)
    assert store_of(project, OLD).alias_target("docs_embeddings") == store_of(project, NEW).name
    with reading(project) as reader:
        assert {hit.version for hit in reader.search("wind", 5)} == {NEW}
        downgrade(project)
        assert {hit.version for hit in reader.search("wind", 5)} == {OLD}
    assert store_of(project, OLD).alias_target("docs_embeddings") == store_of(project, OLD).name
    expect_exact(project, OLD)
    expect_exact(project, NEW, 16)


def test_an_alias_moved_by_hand_is_seen_refused_and_mended(project: Project, near: Path) -> None:
    project.documents(10)
    space_script(project, more=NEAR)
    upgrade(project)
    with sqlite3.connect(near) as db:
        db.execute("insert into places (name, dimensions, metric) values ('strange', 8, 'cosine')")
        db.execute("update aliases set place = 'strange'")
    assert "shows strange" in (embedmig.status(project.opened()).collections["docs"].alias_fault or "")
    space_script(project, "0002", "0001", old=OLD, dimensions=16, more=NEAR)
    with pytest.raises(AliasMoved, match="strange"):
        upgrade(project)
    assert embedmig.status(project.opened()).collections["docs"].active == OLD
    embedmig.alias_rebuild(project.opened(), "docs")
    upgrade(project)
    assert store_of(project, NEW).alias_target("docs_embeddings") == store_of(project, NEW).name


def test_a_flip_between_stores_keeps_grants_and_the_way_back(project: Project, near: Path) -> None:
    project.documents(20)
    space_script(project, dimensions=16)
    upgrade(project)
    inside = tag(16)
    with project.connect() as conn:
        conn.execute("grant select on docs_embeddings to public")
    space_script(project, "0002", "0001", old=inside, more=NEAR)
    upgrade(project)
    shown = project.rows(
        "select attname from pg_attribute where attrelid = 'docs_embeddings'::regclass and attnum > 0 order by attnum"
    )
    assert [row[0] for row in shown] == ["id", "chunk", "version", "point_id", "title", "chunk_start", "chunk_end"]
    assert project.one("select has_table_privilege('public', 'docs_embeddings', 'select')")
    with reading(project) as reader:
        assert {hit.version for hit in reader.search("wind", 3)} == {OLD}
        downgrade(project)
        assert {hit.version for hit in reader.search("wind", 3)} == {inside}
    assert project.one("select has_table_privilege('public', 'docs_embeddings', 'select')")


# --- reading ----------------------------------------------------------------------------------------------------


def test_a_search_in_a_store_finds_what_a_search_in_postgresql_finds(project: Project, near: Path) -> None:
    project.documents(60)
    space_script(project, dimensions=8)
    upgrade(project)
    space_script(project, "0002", "0001", old=tag(8), more=NEAR)
    upgrade(project)
    for query in ("wind", "heat of a shell", "supersonic flutter"):
        inside, beside = (embedmig.search(project.opened(), "docs", query, 10, version) for version in (tag(8), OLD))
        assert [hit.key for hit in beside.hits] == [hit.key for hit in inside.hits]
        assert [hit.columns for hit in beside.hits] == [hit.columns for hit in inside.hits]
        assert [hit.distance for hit in beside.hits] == pytest.approx([hit.distance for hit in inside.hits], abs=1e-5)


def test_a_row_is_not_found_from_its_deletion_on_and_answers_stay_full(project: Project, near: Path) -> None:
    project.documents(60)
    space_script(project, more=NEAR)
    upgrade(project)
    with reading(project) as reader:
        first = reader.search("wind", 10)
        with project.connect() as conn:
            conn.execute("delete from documents where id = any(%s)", ([hit.key[0] for hit in first],))
        second = reader.search("wind", 10)
        assert len(second) == 10
        assert {hit.key for hit in second}.isdisjoint(hit.key for hit in first)
        assert len(reader.search("wind", 60)) == 50


def test_filters_run_in_the_store_and_postgresql_has_the_last_word(project: Project, near: Path) -> None:
    project.documents(60)
    space_script(project, more=NEAR)
    upgrade(project)
    with reading(project) as reader:
        titles = [hit.columns["title"] for hit in reader.search("wind", 5)]
        assert {hit.columns["title"] for hit in reader.search("heat", 5, where={"title": titles})} == set(titles)
        assert [hit.key for hit in reader.search("heat", 5, where={"id": 7})] == [(7,)]
        with project.connect() as conn:
            conn.execute("update documents set title = 'moved' where title = %s", (titles[0],))
        assert not reader.search("heat", 5, where={"title": titles[0]})


def test_a_column_that_changes_without_its_text_is_found_by_its_new_value_and_no_model_is_asked(
    project: Project, near: Path, fake: Fake
) -> None:
    project.configure((project.folder / "embedmig.toml").read_text().replace('["title"]', '["price", "tags"]'))
    project.documents(20)
    with project.connect() as conn:
        conn.execute("alter table documents add price numeric default 1.50, add tags text[]")
    space_script(project, more=NEAR)
    upgrade(project)
    asked = sum(fake.seen.values())
    with project.connect() as conn:
        conn.execute("update documents set price = 9.9, tags = '{a,b}' where id = 7")
    embedmig.sync(project.opened())
    assert sum(fake.seen.values()) == asked
    expect_exact(project)
    with reading(project) as reader:
        assert [hit.key for hit in reader.search("wind", 5, where={"price": Decimal("9.9")})] == [(7,)]
    store = store_of(project)
    asked = sum(fake.seen.values())
    point = next(point for page in store.held(None) for point in page if point.payload["embedmig_key"] == ["7"])
    store.set_columns({point.id: {"price": "0"}})
    embedmig.sync(project.opened(), repair=True)
    assert sum(fake.seen.values()) == asked
    said = next(one.payload for page in store_of(project).held(None) for one in page if one.id == point.id)
    assert (said["price"], said["tags"]) == ("9.9", ["a", "b"])


def title_of(project: Project, key: str) -> str:
    held = (one.payload for page in store_of(project).held(None) for one in page)
    return str(next(payload["title"] for payload in held if payload["embedmig_key"] == [key]))


def test_a_writer_that_has_read_the_columns_before_they_changed_puts_the_newer_ones_last(
    project: Project, near: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While its points are on their way, the column changes and another process takes the change in and settles it."""
    project.documents(10)
    space_script(project, more=NEAR)
    whole, changed = MemoryStore.put, list[str]()

    def put(store: MemoryStore, points: Any) -> None:
        if not changed:
            changed.append("7")
            with project.connect() as conn:
                conn.execute("update documents set title = 'moved' where id = 7")
            embedmig.sync(project.opened())
            assert title_of(project, "7") == "moved"
        whole(store, points)

    monkeypatch.setattr(MemoryStore, "put", put)
    upgrade(project)
    assert title_of(project, "7") == "moved"
    assert not project.rows("select * from embedmig.pending_changes")


def test_hidden_rows_are_those_whose_text_has_changed(project: Project, near: Path) -> None:
    project.configure((project.folder / "embedmig.toml").read_text().replace("columns =", 'stale = "hide"\ncolumns ='))
    project.documents(20)
    space_script(project, more=NEAR)
    upgrade(project)
    with reading(project) as reader:
        with project.connect() as conn:
            conn.execute("update documents set body = 'edited' where id < 5")
        assert len(reader.search("wind", 20)) == 15
        embedmig.sync(project.opened())
        assert len(reader.search("wind", 20)) == 20


def test_a_chunk_is_found_with_its_place_and_its_text(project: Project, near: Path) -> None:
    project.documents(20)
    space_script(project, more=NEAR + ", chunk={'size': 12}")
    upgrade(project)
    with reading(project) as reader:
        hits = reader.search("wind", 20)
        assert len({hit.key for hit in hits}) == 20
        for hit in hits:
            text = project.one(f"select concat_ws(E'\\n\\n', title, body) from documents where id = {hit.key[0]}")
            assert reader.text(hit) == text[hit.start : hit.end]


def test_a_reader_needs_no_more_rights_than_for_a_version_in_postgresql(project: Project, near: Path) -> None:
    project.documents(20)
    space_script(project, more=NEAR)
    upgrade(project)
    with project.connect() as conn:
        conn.execute("drop role if exists narrow_reader")
        conn.execute("create role narrow_reader")
        conn.execute("grant usage on schema embedmig, public to narrow_reader")
        conn.execute("grant select on embedmig.aliases, docs_embeddings to narrow_reader")
    url = f"{project.url}{'&' if '?' in project.url else '?'}options=-c%20role%3Dnarrow_reader"
    try:
        with Reader(url, "docs", stores=project.opened().config.stores) as reader:
            assert len(reader.search("wind", 5, where={"id": [1, 2, 3]})) == 3
    finally:
        with project.connect() as conn:
            conn.execute("drop owned by narrow_reader; drop role narrow_reader")


def test_a_plan_says_what_a_store_will_hold_and_what_a_flip_into_it_means(project: Project, near: Path) -> None:
    project.documents(20)
    space_script(project, dimensions=16)
    upgrade(project)
    space_script(project, "0002", "0001", old=tag(16), more=NEAR)
    found = embedmig.plan(project.opened())
    assert found.forecasts[0].sizes["vector"].table == 20 * 8 * 4
    flip = next(one for one in found.revisions[0].operations if one.kind == "flip_alias")
    assert flip.estimate.note == "the view is made anew: embedding goes, point_id comes"
    assert "EM024" in {one.code for one in embedmig.check(project.opened())}


# --- the end of a version ---------------------------------------------------------------------------------------


def test_a_retired_version_leaves_nothing_in_its_store(project: Project, near: Path) -> None:
    project.documents(10)
    space_script(project, more=NEAR)
    upgrade(project)
    space_script(project, "0002", "0001", old=OLD, dimensions=16, more=NEAR)
    upgrade(project)
    store = store_of(project, OLD)
    embedmig.retire(project.opened(), "docs", OLD, after="0s", confirm=OLD)
    assert store.describe() is None
    assert store_of(project, NEW).total() == 10


def test_a_retirement_that_comes_to_nothing_leaves_the_collection_and_one_that_is_cut_short_is_finished(
    project: Project, near: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.documents(10)
    space_script(project, more=NEAR)
    upgrade(project)
    space_script(project, "0002", "0001", old=OLD, dimensions=16, more=NEAR)
    upgrade(project)
    store, retired = store_of(project, OLD), {"after": "0s", "confirm": OLD}
    with monkeypatch.context() as patch:
        patch.setattr(Registry, "set_state", raises(RuntimeError("the database is gone")))
        with pytest.raises(RuntimeError):
            embedmig.retire(project.opened(), "docs", OLD, **retired)
    assert store.total() == len(named(project)) == 10
    with monkeypatch.context() as patch:
        patch.setattr(MemoryStore, "drop_collection", raises(embedmig.StoreError("the store is gone")))
        with pytest.raises(embedmig.StoreError):
            embedmig.retire(project.opened(), "docs", OLD, **retired)
    assert (store.total(), {one.state for one in in_process.spaces(project)}) == (10, {"active", "retired"})
    assert embedmig.uninstall(project.opened()).collections == [
        f"{store.name} of near",
        f"{store_of(project, NEW).name} of near",
    ]
    embedmig.retire(project.opened(), "docs", OLD, **retired)
    assert store.describe() is None
    with pytest.raises(embedmig.AnswerIsNo, match="is retired"):
        embedmig.retire(project.opened(), "docs", OLD, **retired)


def raises(error: Exception) -> Callable[..., None]:
    def method(*_: Any) -> None:
        raise error

    return method


def test_the_database_has_no_collection_left_after_an_uninstall(project: Project, near: Path) -> None:
    project.documents(10)
    space_script(project, more=NEAR)
    upgrade(project)
    store = store_of(project)
    plan = embedmig.uninstall(project.opened())
    assert plan.collections == [f"{store.name} of near"]
    embedmig.uninstall(project.opened(), confirm=True)
    assert store.describe() is None
    assert store.alias_target("docs_embeddings") is None


def test_a_store_out_of_reach_is_told_before_anything_is_touched(project: Project, near: Path) -> None:
    project.documents(5)
    project.configure(CONFIG, '\n[stores.near]\nkind = "memory"\nurl = "/nowhere/near.db"\n')
    space_script(project, more=NEAR)
    with pytest.raises(embedmig.StoreError) as caught:
        upgrade(project)
    assert caught.value.exit_code == 2
    assert in_process.spaces(project) == []
