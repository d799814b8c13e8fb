"""What an application relies on: the right encoder, one version, every flip noticed."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, ExitStack
from typing import Any

import pytest
import sqlalchemy

import embedmig
from embedmig import AsyncReader, Reader
from embedmig.database.cursors import Cursor
from embedmig.embedders.wordllama import WordLlama
from embedmig.errors import AliasMoved, UsageError
from embedmig.reading import connections
from embedmig.stores.pgvector import search
from embedmig.testing.memory_store import MemoryStore
from tests.project import CONFIG, NEW_TAG, OLD_TAG, Project
from tests.readers import OWN, Open, open_pool, over_what_the_application_has
from tests.waiting import wait_until

READERS = "pid <> pg_backend_pid() and application_name like 'embedmig reader%' and datname = current_database()"


@pytest.fixture(params=OWN)
def opened(request: pytest.FixtureRequest) -> Open:
    """Opens a reader: the promises are those of both kinds."""
    return OWN[request.param]


pytestmark = pytest.mark.with_ledger


@pytest.fixture
def moved(project: Project) -> Project:
    """Two spaces; the alias shows the first."""
    project.two_spaces()
    project.prepared("reader", lambda: (project.documents(30), embedmig.upgrade(project.opened(), "0001")))
    return project


def test_a_reader_notices_a_flip_and_encodes_with_the_new_model(moved: Project, opened: Open) -> None:
    with opened(moved.url, "docs") as reader:
        assert {hit.version for hit in reader.search("shock wave")} == {OLD_TAG}
        before = reader.fingerprint
        embedmig.upgrade(moved.opened())
        assert {hit.version for hit in reader.search("shock wave")} == {NEW_TAG}
        assert reader.fingerprint != before
        embedmig.downgrade(moved.opened(), "-1")
        assert {hit.version for hit in reader.search("shock wave")} == {OLD_TAG}


def test_a_vector_kept_across_a_flip_is_refused_and_not_compared(moved: Project, opened: Open) -> None:
    with opened(moved.url, "docs") as reader:
        cached = reader.encode("shock wave")
        assert reader.nearest(cached)
        embedmig.upgrade(moved.opened())
        with pytest.raises(AliasMoved, match=r"made for|moved away"):
            reader.nearest(cached)


def test_a_flip_that_was_not_announced_is_noticed_by_the_empty_result(
    moved: Project, opened: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "CHANNEL", "another")
    with opened(moved.url, "docs") as reader:
        reader.search("shock wave")
        embedmig.upgrade(moved.opened())
        assert {hit.version for hit in reader.search("shock wave")} == {NEW_TAG}


def test_a_reader_outlives_a_lost_connection(moved: Project, opened: Open) -> None:
    with opened(moved.url, "docs") as reader, moved.connect() as conn:
        reader.search("panel")
        conn.execute(f"select pg_terminate_backend(pid) from pg_stat_activity where {READERS}")  # type: ignore[arg-type]
        assert reader.search("panel")


def test_rows_that_a_lazy_reader_found_are_embedded_first(moved: Project, opened: Open) -> None:
    project = moved.opened()
    with moved.connect() as conn, opened(moved.url, "docs", lazy=True) as reader:
        context = project.context(start=True)
        record = context.registry.space(conn, "docs", OLD_TAG)
        assert record is not None
        conn.execute(
            "update embedmig.spaces set state = 'building' where id = %s", (record.id,)
        )  # as a second space would be
        found = [hit.key_text for hit in reader.search("buckling of a shell", 3)]
        hot = conn.execute("select key, reads from embedmig.hot_rows order by key").fetchall()
        assert [tuple(key) for key, _ in hot] == sorted(found)


def test_a_search_before_the_first_flip_says_what_to_do(project: Project, opened: Open) -> None:
    project.documents(1)
    with opened(project.url, "docs") as reader, pytest.raises(UsageError, match="shows no version yet"):
        reader.search("anything")


def test_a_reader_that_is_closed_says_so(moved: Project, opened: Open) -> None:
    with opened(moved.url, "docs") as reader:
        reader.close()
        with pytest.raises(UsageError, match="is closed"):
            reader.search("shock wave")


def test_a_list_for_a_column_of_arrays_is_an_error_of_ours(project: Project, opened: Open) -> None:
    project.documents(3)
    with project.connect() as conn:
        conn.execute("alter table documents add tags text[] not null default '{a}'")
    project.configure(CONFIG.replace('columns = ["title"]', 'columns = ["title", "tags"]'))
    project.space_script("0001")
    embedmig.upgrade(project.opened())
    with opened(project.url, "docs") as reader:
        with pytest.raises(UsageError, match="tags"):
            reader.search("shock wave", where={"tags": ["a"]})
        assert len(reader.search("shock wave")) == 3


WRONG: list[tuple[Any, Any]] = [
    (-1, None),
    ("3", None),
    (2.5, None),
    (3, {"id": "seven"}),
    (3, {"title": {"a": 1}}),
    (3, {"title": [1]}),
]


def test_a_search_that_is_asked_wrongly_says_what_is_wrong(moved: Project, opened: Open) -> None:
    with opened(moved.url, "docs") as reader:
        for k, where in WRONG:
            with pytest.raises(UsageError) as wrong:
                reader.search("a text", k=k, where=where)
            assert wrong.value.hint
            assert reader.search("a text", k=3)


def test_a_search_is_one_statement_and_a_filtered_one_looks_at_the_plan_once_a_minute(
    moved: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[Any] = []
    execute = Cursor.execute
    monkeypatch.setattr(
        Cursor, "execute", lambda self, *given, **more: said.append(given) or execute(self, *given, **more)
    )
    with Reader(moved.url, "docs") as reader:
        query = reader.encode("shock wave")

        def statements(**options: Any) -> int:
            said.clear()
            assert len(reader.nearest(query, 3, **options)) == 3
            return len(said)

        assert [statements(), statements()] == [1, 1]
        for where in ({"id": [3, 5, 7]}, {"id": [3, 5, 9]}):
            assert [statements(where=where), statements(where=where)] == [2, 1]
        monkeypatch.setattr(search, "LOOK_SECONDS", 0.0)
        assert statements(where={"id": [3, 5, 7]}) == 2


# --- over what the application has ------------------------------------------------------------------------------


def test_a_reader_over_an_applications_connection_pool_engine_or_session_answers_the_same_through_every_flip(
    moved: Project,
) -> None:
    with ExitStack() as stack:
        lent, session = over_what_the_application_has(moved.url, stack)
        own = stack.enter_context(Reader(moved.url, "docs"))
        for tag, move in ((OLD_TAG, None), (NEW_TAG, embedmig.upgrade), (OLD_TAG, embedmig.downgrade)):
            if move:
                session.rollback()  # what it has read is locked until its transaction ends
                lent["AsyncSession"].rollback()
                move(moved.opened(), "head" if move is embedmig.upgrade else "-1")
            expected = own.search("supersonic flutter", 5)
            some = own.search("supersonic flutter", 5, where={"id": [3, 5]})
            assert {hit.version for hit in expected} == {tag}
            for kind, reader in lent.items():
                assert reader.search("supersonic flutter", 5) == expected, kind
                assert reader.text(expected[0]) == own.text(expected[0]), kind
                assert reader.search("supersonic flutter", 5, where={"id": [3, 5]}) == some, kind
                with pytest.raises(UsageError, match="can't be compared"):
                    reader.search("supersonic flutter", 3, where={"id": "seven"})
        session.execute(sqlalchemy.text("delete from documents where id <> 7"))
        assert [hit.key for hit in lent["Session"].search("flutter", 5)] == [(7,)], "it sees what it has not committed"
        assert len(lent["Engine"].search("flutter", 5)) == 5
        session.rollback()
        assert len(lent["Session"].search("flutter", 5)) == 5
    with pytest.raises(UsageError, match="can't read through"):
        Reader(7, "docs")


# --- at once ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["own", "pool"])
def test_64_searches_at_once_share_8_connections_and_tasks_that_are_cancelled_give_theirs_back(
    moved: Project, kind: str
) -> None:
    asyncio.run(at_once(moved, kind))


async def at_once(moved: Project, kind: str) -> None:
    """Sixty-four at once; then sixty-four that are cancelled where a lock keeps them; then sixty-four again."""
    async with AsyncExitStack() as stack:
        pool = await open_pool(moved.url, 8)(stack) if kind == "pool" else None
        reader = await stack.enter_async_context(AsyncReader(pool or moved.url, "docs"))
        expected = await reader.search("supersonic flutter", 5)

        async def ask() -> None:
            assert await reader.search("supersonic flutter", 5) == expected

        await asyncio.gather(*(ask() for _ in range(64)))
        used = "pid <> pg_backend_pid() and datname = current_database() and backend_type = 'client backend'"
        assert moved.one(f"select count(*) from pg_stat_activity where {used}") <= 8
        with moved.connect() as conn:
            conn.execute("begin; lock table documents in access exclusive mode")
            kept = [asyncio.create_task(reader.search("supersonic flutter", 5)) for _ in range(64)]
            waits = f"select count(*) = 8 from pg_stat_activity where {used} and wait_event_type = 'Lock'"
            await asyncio.to_thread(wait_until, lambda: moved.one(waits), "eight searches to wait for the lock")
            for task in kept:
                task.cancel()
            ended = await asyncio.gather(*kept, return_exceptions=True)
            assert {type(one) for one in ended} == {asyncio.CancelledError}
            conn.execute("rollback")
        await asyncio.gather(*(ask() for _ in range(64)))
        if pool:
            assert pool.get_stats()["pool_available"] == 8
        assert moved.one(f"select count(*) from pg_stat_activity where {used} and state <> 'idle'") == 0


def test_the_event_loop_goes_on_while_a_model_computes_and_a_store_is_asked(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = project.folder / "near.db"
    project.configure(CONFIG, f'\n[stores.near]\nkind = "memory"\nurl = "{file}"\ngive_up_after = "1s"\n')
    project.documents(20)
    project.space_script("0001", more="store='near'")
    embedmig.upgrade(project.opened())
    stores = project.opened().config.stores
    with Reader(project.url, "docs", stores=stores) as plain:
        expected = plain.search("shock wave", 5)
    beats = [0]

    def slowly(work: Any) -> Any:
        def call(self: Any, *arguments: Any, **options: Any) -> Any:
            before = beats[0]
            wait_until(lambda: beats[0] > before, "the loop to go on meanwhile")
            return work(self, *arguments, **options)

        return call

    monkeypatch.setattr(WordLlama, "_embed", slowly(WordLlama._embed))
    monkeypatch.setattr(MemoryStore, "near", slowly(MemoryStore.near))

    async def search() -> None:
        async def beat() -> None:
            while True:
                beats[0] += 1
                await asyncio.sleep(0)

        beating = asyncio.create_task(beat())
        async with AsyncReader(project.url, "docs", stores=stores) as reader:
            found = await asyncio.gather(*(reader.search("shock wave", 5) for _ in range(4)))
            assert found == [expected] * 4
        beating.cancel()

    asyncio.run(search())
