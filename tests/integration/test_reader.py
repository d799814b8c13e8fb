"""What an application relies on: the right encoder, one version, every flip noticed."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

import embedmig
from embedmig import AsyncReader, Reader
from embedmig.errors import AliasMoved, UsageError
from tests.project import CONFIG, NEW_TAG, OLD_TAG, Project

pytestmark = pytest.mark.with_ledger


@pytest.fixture
def moved(project: Project) -> Project:
    """Two spaces; the alias shows the first."""
    project.two_spaces()
    project.prepared("reader", lambda: (project.documents(30), embedmig.upgrade(project.opened(), "0001")))
    return project


def test_a_reader_notices_a_flip_and_encodes_with_the_new_model(moved: Project) -> None:
    with Reader(moved.url, "docs") as reader:
        assert {hit.version for hit in reader.search("shock wave")} == {OLD_TAG}
        before = reader.fingerprint
        embedmig.upgrade(moved.opened())
        assert {hit.version for hit in reader.search("shock wave")} == {NEW_TAG}
        assert reader.fingerprint != before
        embedmig.downgrade(moved.opened(), "-1")
        assert {hit.version for hit in reader.search("shock wave")} == {OLD_TAG}


def test_a_vector_kept_across_a_flip_is_refused_and_not_compared(moved: Project) -> None:
    with Reader(moved.url, "docs") as reader:
        cached = reader.encode("shock wave")
        assert reader.nearest(cached)
        embedmig.upgrade(moved.opened())
        with pytest.raises(AliasMoved, match="made for"):
            reader.nearest(cached)


def test_a_flip_that_was_not_announced_is_noticed_by_the_empty_result(moved: Project) -> None:
    with Reader(moved.url, "docs") as reader:
        reader.search("shock wave")
        reader._conn.execute("unlisten *")
        embedmig.upgrade(moved.opened())
        assert {hit.version for hit in reader.search("shock wave")} == {NEW_TAG}


def test_the_asynchronous_reader_answers_the_same(moved: Project) -> None:
    async def ask() -> list[tuple[object, ...]]:
        async with AsyncReader(moved.url, "docs") as reader:
            return [hit.key for hit in await reader.search("supersonic flutter", 5)]

    with Reader(moved.url, "docs") as reader:
        assert asyncio.run(ask()) == [hit.key for hit in reader.search("supersonic flutter", 5)]


def test_a_reader_outlives_a_lost_connection(moved: Project) -> None:
    with Reader(moved.url, "docs") as reader, moved.connect() as conn:
        reader.search("panel")
        conn.execute("select pg_terminate_backend(%s)", (reader._conn.info.backend_pid,))
        assert reader.search("panel")


def test_rows_that_a_lazy_reader_found_are_embedded_first(moved: Project) -> None:
    project = moved.opened()
    with moved.connect() as conn, Reader(moved.url, "docs", lazy=True) as reader:
        context = project.context(start=True)
        record = context.registry.space(conn, "docs", OLD_TAG)
        assert record is not None
        conn.execute(
            "update embedmig.spaces set state = 'building' where id = %s", (record.id,)
        )  # as a second space would be
        found = [hit.key_text for hit in reader.search("buckling of a shell", 3)]
        hot = conn.execute("select key, reads from embedmig.hot_rows order by key").fetchall()
        assert [tuple(key) for key, _ in hot] == sorted(found)


def test_a_search_before_the_first_flip_says_what_to_do(project: Project) -> None:
    project.documents(1)
    with Reader(project.url, "docs") as reader, pytest.raises(UsageError, match="shows no version yet"):
        reader.search("anything")


def test_a_reader_that_is_closed_says_so(moved: Project) -> None:
    reader = Reader(moved.url, "docs")
    reader.close()
    with pytest.raises(UsageError, match="is closed"):
        reader.search("shock wave")


def test_a_list_for_a_column_of_arrays_is_an_error_of_ours(project: Project) -> None:
    project.documents(3)
    with project.connect() as conn:
        conn.execute("alter table documents add tags text[] not null default '{a}'")
    project.configure(CONFIG.replace('columns = ["title"]', 'columns = ["title", "tags"]'))
    project.space_script("0001")
    embedmig.upgrade(project.opened())
    with Reader(project.url, "docs") as reader:
        with pytest.raises(UsageError, match="tags"):
            reader.search("shock wave", where={"tags": ["a"]})
        assert len(reader.search("shock wave")) == 3


@pytest.mark.parametrize(
    ("k", "where"),
    [(-1, None), ("3", None), (2.5, None), (3, {"id": "seven"}), (3, {"title": {"a": 1}}), (3, {"title": [1]})],
    ids=str,
)
def test_a_search_that_is_asked_wrongly_says_what_is_wrong(moved: Project, k: Any, where: Any) -> None:
    with Reader(moved.url, "docs") as reader:
        with pytest.raises(UsageError) as wrong:
            reader.search("a text", k=k, where=where)
        assert wrong.value.hint
        assert reader.search("a text", k=3)
