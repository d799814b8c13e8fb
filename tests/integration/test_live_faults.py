"""Faults under live traffic: what breaks, breaks loudly and loses nothing; the same command goes on."""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import psycopg
import pytest

import embedmig
from embedmig import embedders, runner
from embedmig.database import Database
from embedmig.engine.outbox import TAKE, Changes
from embedmig.errors import (
    AnswerIsNo,
    CutoverBlocked,
    DatabaseFailed,
    EmbedderUnavailable,
    EmbedmigError,
    PlanError,
    RunSuperseded,
    SourceError,
    UsageError,
)
from embedmig.stores import open_manifest
from embedmig.testing import FakeEmbedder
from embedmig.types import Limits, Space
from tests.fault_injection import Daemon, Moments, disturbed
from tests.in_process import space_script, tag
from tests.integration.test_live_traffic import DIMENSIONS, unit_vectors
from tests.openai_server import OpenAIServer
from tests.project import CONFIG, Project
from tests.waiting import wait_until

pytestmark = pytest.mark.with_ledger

OLD, NEW = (tag(dimensions) for dimensions in DIMENSIONS)
EVERYONE = """select pg_terminate_backend(pid) from pg_stat_activity
              where datname = current_database() and application_name like 'embedmig %'"""
LOCK_HOLDER = EVERYONE.replace("embedmig %", "embedmig lock %")


class Model(FakeEmbedder):
    """Runs ``before`` ahead of every answer; down while ``down`` is set."""

    before: Any = staticmethod(lambda: None)
    down: set[int] = set()  # noqa: RUF012  shared by all on purpose: dimensions of models that are down

    async def embed(self, texts: list[str], role: Any) -> Any:
        type(self).before()
        if self.dimensions in self.down:
            raise EmbedderUnavailable("the API is down")
        return await super().embed(texts, role)


@dataclass
class Live:
    """A project whose first space is shown, and the model of its spaces."""

    project: Project
    model: type[Model]
    poison: list[str]

    @property
    def opened(self) -> embedmig.Project:
        """The project, read anew."""
        return self.project.opened()

    def do(self, query: str) -> None:
        """As the application would."""
        with self.project.connect() as conn:
            conn.execute(query)  # type: ignore[arg-type]

    def sync_once(self) -> None:
        """A pass with something to do: a process looks at its models once, before it uses them."""
        self.do("update documents set body = 'first' where id = 0")
        embedmig.sync(self.opened, "docs")

    def expect_exact(self, where: str = "true") -> None:
        """Every live space."""
        self.project.expect_exact(where, unit_vectors)


@pytest.fixture
def live(project: Project) -> Iterator[Live]:
    """Forty rows, batches of five, the first space shown, the second one written and not applied."""
    model = type("ModelOfThisTest", (Model,), {"down": set()})
    poison: list[str] = []

    def create(space: Space, _: object) -> FakeEmbedder:
        limits = Limits(batch_size=5, concurrency=1)
        return model(space.dimensions, limits=limits, poison=poison[0] if poison else None)

    embedders.register("fake", create)
    project.documents(40)
    space_script(project, "0001", dimensions=DIMENSIONS[0])
    embedmig.upgrade(project.opened())
    space_script(project, "0002", "0001", dimensions=DIMENSIONS[1], old=OLD)
    yield Live(project, model, poison)
    model.before = staticmethod(lambda: None)


def at_call(number: int, happens: Any) -> Any:
    """Something that happens once, at the n-th call of the model."""
    calls = iter(range(1, 1_000_000))

    def before() -> None:
        if next(calls) == number:
            happens()

    return staticmethod(before)


# --- the database ---------------------------------------------------------------------------------------------


def test_a_run_that_loses_the_connection_of_its_lock_stops_and_goes_on_when_asked_again(live: Live) -> None:
    live.model.before = at_call(4, lambda: live.do(LOCK_HOLDER))
    with pytest.raises(RunSuperseded, match="run lock was lost"):
        embedmig.upgrade(live.opened)
    before = live.project.one("select count(*) from embedmig.spaces s where s.state = 'active'")
    status, error = live.project.one(
        "select array[status, error] from embedmig.embedding_migrations order by id desc limit 1"
    )
    assert (before, status) == (1, "failed")
    assert "run lock was lost" in error
    assert embedmig.upgrade(live.opened).current == ["0002"]
    live.expect_exact()


def test_a_backfill_whose_every_connection_is_cut_keeps_what_it_had_and_goes_on(live: Live) -> None:
    live.model.before = at_call(5, lambda: live.do(EVERYONE))
    with pytest.raises((DatabaseFailed, RunSuperseded)) as raised:
        embedmig.upgrade(live.opened)
    assert raised.value.exit_code == 1
    assert "run the same command again" in str(raised.value.hint)
    assert embedmig.upgrade(live.opened).current == ["0002"]
    live.expect_exact()


def test_a_flip_that_is_cut_leaves_the_alias_as_it_was(live: Live) -> None:
    with live.project.connect() as reader:
        with reader.transaction():
            reader.execute("select from docs_embeddings limit 1")
            flip = Daemon(lambda: embedmig.upgrade(live.opened))
            flip.start(0)
            waits = "select exists (select from pg_locks where not granted and locktype = 'relation')"
            wait_until(lambda: live.project.one(waits), "the flip to wait for the reader")
            live.do(EVERYONE)
            with pytest.raises(EmbedmigError):
                flip.join()
        assert reader.execute("select distinct version from docs_embeddings").fetchall() == [(OLD,)]
    assert embedmig.upgrade(live.opened).current == ["0002"]
    live.expect_exact()


def test_a_flip_behind_a_reader_idle_in_transaction_gives_up_by_name_and_succeeds_when_he_is_gone(
    live: Live, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "LOCK_PATIENCE_SECONDS", 0.5)
    with live.project.connect() as idle, live.project.connect() as other:
        with idle.transaction():
            idle.execute("select title from docs_embeddings limit 1")
            flip = Daemon(lambda: embedmig.upgrade(live.opened))
            flip.start(0)
            other.execute("set statement_timeout = '1s'")  # far more than the flip may hold anyone up
            while not flip.ended:
                other.execute("select count(*) from docs_embeddings")
            with pytest.raises(
                CutoverBlocked, match=f"pid {idle.info.backend_pid} .*select title from docs_embeddings"
            ):
                flip.join()
        assert embedmig.upgrade(live.opened).current == ["0002"]


# --- the model ------------------------------------------------------------------------------------------------


def test_a_model_that_is_down_keeps_no_other_space_from_being_synced(live: Live) -> None:
    embedmig.upgrade(live.opened)
    live.sync_once()
    live.model.down.add(DIMENSIONS[0])
    live.do("update documents set body = 'while the API was down' where id < 12")
    one, two = embedmig.sync(live.opened, "docs")
    assert (two.waiting, two.error, one.waiting) == (0, None, 12)
    assert "down" in str(one.error)
    embedmig.sync(live.opened, "docs")  # nothing is due yet: what is known of the model stays known
    found = embedmig.status(live.opened).collections["docs"]
    assert found.rollback is not None
    assert "down" in str(found.rollback.obstacle)
    with live.project.connect() as conn:
        waits = conn.execute("select reason, not_before > now() from embedmig.pending_changes where attempts > 0")
        assert set(waits.fetchall()) == {("the API is down", True)}
        conn.execute("update embedmig.pending_changes set not_before = now()")
    live.model.down.clear()
    assert [synced.waiting for synced in embedmig.sync(live.opened, "docs")] == [0, 0]
    assert embedmig.status(live.opened).collections["docs"].rollback.obstacle is None  # type: ignore[union-attr]
    live.expect_exact()


def test_while_a_space_is_filled_the_one_that_is_shown_takes_its_changes_in(live: Live) -> None:
    old = live.project.one(f"select table_name from embedmig.spaces where version = '{OLD}'")
    query = f"select content_hash from embedmig.{old} where id = 3"
    before = live.project.one(query)

    def someone_edits() -> None:
        live.do("update documents set body = 'edited under way' where id = 3")
        wait_until(lambda: live.project.one(query) != before, "the shown space to take the change in")

    live.model.before = at_call(4, someone_edits)
    embedmig.upgrade(live.opened)
    live.sync_once()
    live.expect_exact()


def test_an_api_that_is_down_keeps_its_changes_waiting_and_takes_them_in_when_it_is_back(live: Live) -> None:
    with OpenAIServer(dimensions=8) as server:
        settings = f"base_url = '{server.url}'\ngive_up_after = 0.2\n"
        live.project.configure(CONFIG + "\n[embedders.openai]\n" + settings)
        live.project.space_script("0002", "0001", model="openai/some-model", version="1", dimensions=8)
        embedmig.upgrade(live.opened)
        live.sync_once()
        live.do("update documents set body = 'while the API was down' where id < 12")
        server.api.extend([{"status": 503, "times": 1_000_000}])
        fine, down = embedmig.sync(live.opened, "docs")
        assert (fine.waiting, fine.error, down.waiting) == (0, None, 12)
        assert "503" in str(down.error)
        server.api.script.clear()
        live.do("update embedmig.pending_changes set not_before = now()")
        assert [synced.waiting for synced in embedmig.sync(live.opened, "docs")] == [0, 0]
    assert live.project.one("select count(*) from embedmig.failed_rows") == 0


@pytest.mark.parametrize("usage", ["told", "none", "zero"])
def test_no_sum_is_passed_while_writers_go_on(live: Live, usage: str) -> None:
    with OpenAIServer(dimensions=8, usage=usage) as server:
        reach = f"[embedders.openai]\nbase_url = '{server.url}'\nbatch_size = 5\nconcurrency = 1\nprice = 1000\n"
        live.project.configure(f"{CONFIG}\n{reach}max_cost = 0.2\n")
        live.project.space_script("0002", "0001", model="openai/some-model", version="1", dimensions=8)
        with pytest.raises(AnswerIsNo, match="max_cost"):
            embedmig.upgrade(live.opened)
        spent = live.project.one("select cost_usd from embedmig.embedding_migrations order by id desc limit 1")
        assert 0 < spent <= 0.2
        assert server.stats.tokens * 1000 / 1e6 <= 0.2 + 0.1, "the probe and the canary texts apart"
        live.do("update documents set body = 'changed meanwhile' where id < 20")
        live.project.configure(f"{CONFIG}\n{reach}max_cost = 4\n")
        embedmig.upgrade(live.opened)
        embedmig.sync(live.opened, "docs")
        assert [space.complete for space in embedmig.status(live.opened).collections["docs"].spaces] == [40, 40]


def test_a_sum_is_for_all_passes_of_a_process_that_follows(live: Live) -> None:
    with OpenAIServer(dimensions=8) as server:
        reach = f"[embedders.openai]\nbase_url = '{server.url}'\nprice = 1000\n"
        live.project.configure(f"{CONFIG}\n{reach}")
        live.project.space_script("0002", "0001", model="openai/some-model", version="1", dimensions=8)
        embedmig.upgrade(live.opened)
        live.project.configure(f"{CONFIG}\n{reach}max_cost = 0.2\n")
        before, stop, errors = server.stats.tokens, threading.Event(), []

        def heard(passes: list[embedmig.Synced]) -> None:
            errors.extend(synced.error for synced in passes if synced.error)

        follower = threading.Thread(
            target=embedmig.follow, args=(live.opened, "docs"), kwargs={"report": heard, "stop": stop, "seconds": 0.05}
        )
        follower.start()
        for number in itertools.count():
            live.do(f"update documents set body = 'edition {number}' || repeat(' of a text', 30) where id < 5")
            if errors or stop.wait(0.2):
                break
        wait_until(lambda: bool(errors), "the sum to be used up")
        spent = server.stats.tokens
        live.do("update documents set body = body || ' once more' where id < 5")
        passed = len(errors)
        wait_until(lambda: len(errors) > passed, "another pass")
        stop.set()
        follower.join()
        assert "max_cost" in errors[-1]
        assert server.stats.tokens == spent, "nothing more is embedded"
        assert (spent - before) * 1000 / 1e6 <= 0.2 + 0.1, "canary texts apart"


def test_sync_killed_between_embedding_and_writing_loses_nothing_and_the_next_takes_over_at_once(live: Live) -> None:
    live.sync_once()
    live.do("update documents set body = 'changed' where id < 12")
    moments = Moments({})

    def dies() -> None:
        moments.dead = True

    live.model.before = at_call(1, dies)
    with disturbed(moments), pytest.raises(EmbedmigError):
        embedmig.sync(live.opened, "docs")
    assert live.project.one("select count(*) from embedmig.pending_changes where claimed_until > now()") > 0
    (synced,) = embedmig.sync(live.opened, "docs")
    assert (synced.rows, synced.waiting) == (12, 0)
    live.expect_exact()


def test_a_row_that_the_model_refuses_is_dead_lettered_with_its_reason_and_retried_on_demand(live: Live) -> None:
    live.poison.append("unspeakable")
    live.do("update documents set body = 'unspeakable' where id = 7")
    live.do("update documents set body = 'harmless' where id = 8")
    (synced,) = embedmig.sync(live.opened, "docs")
    assert (synced.rows, synced.failed, synced.waiting) == (1, 1, 0)
    (space,) = embedmig.status(live.opened).collections["docs"].spaces
    assert space.failures == [{"key": ["7"], "reason": "poison"}]
    assert not space.unaccounted
    live.poison.clear()
    embedmig.sync(live.opened, "docs", retry_failed=True)
    live.expect_exact()
    assert live.project.one("select count(*) from embedmig.failed_rows") == 0


# --- the source -----------------------------------------------------------------------------------------------


def test_a_truncate_in_the_middle_of_a_backfill_leaves_nothing_behind(live: Live) -> None:
    def truncates() -> None:
        live.do("truncate documents")
        live.do("insert into documents values (3, 'after', 'the flood')")

    live.model.before = at_call(4, truncates)
    embedmig.upgrade(live.opened)
    embedmig.sync(live.opened, "docs")
    live.expect_exact()
    assert live.project.one("select count(*) from docs_embeddings") == 1


def test_a_transaction_open_across_the_whole_migration_is_taken_in_when_it_commits(live: Live) -> None:
    with psycopg.connect(live.project.url) as slow:
        slow.execute("update documents set body = 'written long ago' where id < 10")
        slow.execute("delete from documents where id = 11")
        slow.execute("insert into documents values (99, 'new', 'and long in coming')")
        embedmig.upgrade(live.opened)
        slow.commit()
    assert [synced.waiting for synced in embedmig.sync(live.opened, "docs")] == [0, 0]
    live.expect_exact()


def test_a_source_that_was_renamed_is_named_in_the_error_and_found_again_under_its_name(live: Live) -> None:
    live.do("alter table documents rename to papers")
    assert "table documents is not there" in str(embedmig.status(live.opened).collections["docs"].error)
    for command in (embedmig.sync, embedmig.upgrade):
        with pytest.raises(SourceError, match="table documents is not there"):
            command(live.opened)
    live.do("update papers set body = 'written under another name' where id = 1")
    live.do("alter table papers rename to documents")
    embedmig.sync(live.opened, "docs")
    live.expect_exact()


@pytest.mark.parametrize(("to", "new_key"), [("numeric", "5000000000000000000000"), ("text", "'a name'")])
def test_a_key_that_was_retyped_opens_no_gate_and_every_command_says_what_to_alter(
    live: Live, to: str, new_key: str
) -> None:
    embedmig.alias_drop(live.opened, "docs")
    live.do(f"alter table documents alter column id type {to}")
    for command in (embedmig.gate, embedmig.sync, embedmig.alias_rebuild):
        with pytest.raises(SourceError, match=f"key column id of documents is {to} now") as raised:
            command(live.opened, "docs")
    statement, _, then = str(raised.value.hint).partition("; then ")
    assert then == "embedmig sync --repair"
    live.do(statement)
    embedmig.sync(live.opened, "docs", repair=True)
    embedmig.alias_rebuild(live.opened, "docs")
    live.do("update documents set body = 'edited' where id = '1'")
    live.do(f"insert into documents values ({new_key}, 'beyond', 'every integer')")
    embedmig.sync(live.opened, "docs")
    live.expect_exact()
    assert all(verdict.passed for verdict in embedmig.gate(live.opened, "docs"))


def test_no_type_of_text_column_and_no_predicate_makes_a_writer_fail(project: Project) -> None:
    embedders.register("fake", lambda space, _: FakeEmbedder(space.dimensions))
    with project.connect() as conn:
        conn.execute("create type mood as enum ('draft', 'public')")
        conn.execute("create function shown(m mood) returns boolean language sql immutable as $$select m = 'public'$$")
        conn.execute("create table documents (id bigint primary key, title text, body json, m mood default 'public')")
        conn.execute("insert into documents select n, 'Title', '{\"n\": 1}' from generate_series(1, 5) n")
    project.configure(CONFIG + "where = \"shown(m) and m >= 'draft'::mood\"\n")
    space_script(project, dimensions=8)
    embedmig.upgrade(project.opened())
    with project.connect() as conn:
        conn.execute("update documents set title = 'TITLE' where id = 1")
        conn.execute("update documents set body = '{\"n\": 2}' where id = 2")
        conn.execute("update documents set m = 'draft' where id = 3")
        conn.execute("insert into documents values (6, 'six', '{}')")
        conn.execute("delete from documents where id = 4")
    assert project.one("select count(*) from embedmig.outbox_docs") == 5
    embedmig.sync(project.opened(), "docs")
    project.expect_exact("m = 'public'", unit_vectors)


def test_a_long_outbox_is_distributed_in_transactions_of_bounded_size(live: Live) -> None:
    rows = 2 * TAKE + 5
    live.do(f"insert into embedmig.outbox_docs select n from generate_series(1, {rows}) n")
    context = live.opened.context(start=True)
    with context.database.connect("test") as conn:
        record = context.registry.spaces(conn, "docs")[0]
        changes = Changes(context.registry, open_manifest(context.source(conn, "docs"), record))
        left = []
        while changes.distribute(conn):
            left.append(live.project.one("select count(*) from embedmig.outbox_docs"))
    assert left == [TAKE + 5, 5]
    assert live.project.one("select count(*) from embedmig.outbox_docs") == 0
    assert live.project.one("select count(*) from embedmig.pending_changes") == rows


# --- operating ------------------------------------------------------------------------------------------------


def test_a_paused_migration_holds_still_says_why_and_goes_on(live: Live) -> None:
    embedmig.pause(live.opened, "docs", "month end")
    said: list[str] = []
    running = Daemon(lambda: embedmig.upgrade(live.opened, report=lambda event: said.append(str(event))))
    running.start(0)
    wait_until(lambda: any("month end" in text for text in said), "the run to say that it is paused")
    assert "month end" in str(embedmig.status(live.opened).collections["docs"].held_back)
    held = "select count(*) from embedmig.spaces where version = '{}' and state = 'building'"
    assert live.project.one(held.format(NEW)) == 1
    embedmig.resume(live.opened, "docs")
    running.join()
    live.expect_exact()


def test_a_throttle_is_shown_with_its_reason(live: Live) -> None:
    embedmig.throttle(live.opened, 250, "docs", "business hours")
    assert "250 rows/s" in str(embedmig.status(live.opened).collections["docs"].held_back)
    assert "business hours" in str(embedmig.status(live.opened).collections["docs"].held_back)
    embedmig.throttle(live.opened, None, "docs")
    assert embedmig.status(live.opened).collections["docs"].held_back is None


def test_without_waiting_the_first_run_prepares_a_worker_fills_and_a_later_run_flips(live: Live) -> None:
    with pytest.raises(AnswerIsNo, match="40 rows are still to be embedded") as raised:
        embedmig.upgrade(live.opened, no_wait=True)
    assert raised.value.exit_code == 3
    live.do("update documents set body = 'meanwhile' where id = 1")
    embedmig.backfill(live.opened, "docs", report=lambda _: None, stop=threading.Event())
    assert embedmig.upgrade(live.opened, no_wait=True).current == ["0002"]
    embedmig.sync(live.opened, "docs")
    live.expect_exact()


def test_a_version_is_retired_when_its_time_has_come_and_never_before(live: Live) -> None:
    with pytest.raises(AnswerIsNo, match="is what the alias shows"):
        embedmig.retire(live.opened, "docs", OLD, after="0s", confirm=OLD)
    embedmig.upgrade(live.opened)
    with pytest.raises(UsageError, match="can't be taken back"):
        embedmig.retire(live.opened, "docs", OLD, after="0s", confirm=None)
    with pytest.raises(UsageError, match=f"retiring {OLD} can't"):  # by its revision; the confirmation is the full tag
        embedmig.retire(live.opened, "docs", "1", after="0s", confirm="1")
    with pytest.raises(AnswerIsNo, match="not for 21d"):
        embedmig.retire(live.opened, "docs", OLD, after="21d", confirm=OLD)
    retired = embedmig.retire(live.opened, "docs", "1", after="0s", confirm=OLD)
    assert retired.milliseconds < 2000
    row = live.project.one("select error from embedmig.embedding_migrations where direction = 'retire'")
    assert OLD in row
    with pytest.raises(PlanError, match="is retired") as raised:
        embedmig.downgrade(live.opened, "0001")
    assert "40 rows again" in str(raised.value.hint)
    live.do("delete from documents where id = 1")
    embedmig.sync(live.opened, "docs")
    live.expect_exact()


def test_the_alias_makes_room_for_a_schema_change_and_comes_back_with_its_grants(live: Live) -> None:
    grants = "select array_agg(privilege_type::text || ' ' || grantee order by 1) from information_schema.role_table_grants where table_name = 'docs_embeddings' and grantee = 'pg_monitor'"
    live.do("grant select on docs_embeddings to pg_monitor")
    before = live.project.one(grants)
    with pytest.raises(psycopg.errors.FeatureNotSupported):
        live.do("alter table documents alter column title type varchar(300)")
    embedmig.alias_drop(live.opened, "docs")
    live.do("alter table documents alter column title type varchar(300)")
    embedmig.alias_rebuild(live.opened, "docs")
    assert live.project.one(grants) == before == ["SELECT pg_monitor"]
    assert live.project.one("select count(*) from docs_embeddings") == 40
    live.do("update documents set title = 'as wide as before' where id = 1")
    embedmig.sync(live.opened, "docs")
    live.expect_exact()


@dataclass
class HotFails:
    """A model whose request with the hot row fails, when all others have been answered."""

    broken: bool = True
    others: set[str] = field(default_factory=set)
    answered: asyncio.Event = field(default_factory=asyncio.Event)

    def create(self, space: Space, _: object) -> FakeEmbedder:
        outer = self

        class Embedder(FakeEmbedder):
            async def embed(self, texts: list[str], role: Any) -> Any:
                if outer.broken and any(text.startswith("boundary 3\n") for text in texts):
                    await outer.answered.wait()
                    raise EmbedderUnavailable("connection reset")
                outer.others.update(text for text in texts if "\n\n" in text)
                if len(outer.others) >= ROWS - 1:
                    outer.answered.set()
                return await super().embed(texts, role)

        return Embedder(space.dimensions, limits=Limits(5, 2))


ROWS = 40


def test_after_a_failed_hot_request_the_same_command_leaves_no_row_behind(project: Project) -> None:
    model = HotFails()
    embedders.register("fake", model.create)
    project.documents(ROWS)
    space_script(project)
    with pytest.raises(AnswerIsNo):
        embedmig.upgrade(project.opened(), no_wait=True)
    with project.connect() as conn:
        conn.execute("insert into embedmig.hot_rows (space, key) select id, '{3}' from embedmig.spaces")
    with pytest.raises(EmbedderUnavailable, match="connection reset"):
        embedmig.backfill(project.opened(), "docs")
    assert project.one("select state from embedmig.spaces") == "building"
    model.broken = False
    embedmig.backfill(project.opened(), "docs")
    assert project.one("select state from embedmig.spaces") == "ready"
    project.expect_exact(embed=unit_vectors)


@pytest.mark.parametrize("state", ["active", "retained"])
def test_a_backfill_that_ends_late_takes_no_space_back_to_ready(live: Live, state: str) -> None:
    with pytest.raises(AnswerIsNo):
        embedmig.upgrade(live.opened, no_wait=True)
    newest = f"version = '{NEW}'"
    live.model.before = at_call(4, lambda: live.do(f"update embedmig.spaces set state = '{state}' where {newest}"))
    embedmig.backfill(live.opened, "docs")
    assert live.project.one(f"select state from embedmig.spaces where {newest}") == state


@pytest.mark.parametrize("fault", ["alter table notes rename body to text", "drop table notes cascade"])
def test_a_daemon_outlives_one_collections_fault_and_goes_on_with_the_others(live: Live, fault: str) -> None:
    notes = "create table notes (id int primary key, body text); insert into notes values (1, 'a note')"
    live.do(notes)
    live.project.configure(CONFIG, '\n[collections.notes]\ntable = "notes"\nkey = "id"\ntext = "body"\nalias = "n"\n')
    script = next(live.project.migrations.glob("0002*"))
    script.write_text(
        script.read_text().replace('"docs"', '"notes"').replace("'docs'", "'notes'").split("def downgrade")[0]
    )
    embedmig.upgrade(live.opened)
    live.do(f"drop view n; {fault}")
    heard: list[embedmig.Synced] = []
    with following(live, heard):
        wait_until(lambda: [one for one in heard if one.collection == "notes" and one.error], "the fault to be told")
        live.do("update documents set body = 'edited' where id = 1")
        wait_until(lambda: sum(one.rows for one in heard if one.collection == "docs") >= 1, "the other to be synced")


def test_an_idle_daemon_keeps_its_connections(live: Live, monkeypatch: pytest.MonkeyPatch) -> None:
    embedmig.upgrade(live.opened)
    opened, connect = [0], Database.connect

    def counted(database: Database, *given: Any, **more: Any) -> Any:
        opened[0] += 1
        return connect(database, *given, **more)

    heard: list[embedmig.Synced] = []
    with following(live, heard):
        wait_until(lambda: len(heard) > 6, "some passes")
        monkeypatch.setattr(Database, "connect", counted)
        passed = len(heard)
        wait_until(lambda: len(heard) > passed + 20, "more passes")
    assert opened[0] <= 1, "two spaces: two passes at once at most"


@contextmanager
def following(live: Live, heard: list[embedmig.Synced]) -> Iterator[None]:
    """``sync --follow`` in a thread, while this lasts."""
    stop = threading.Event()
    given: dict[str, Any] = {"report": heard.extend, "stop": stop, "seconds": 0.05}
    running = Daemon(lambda: embedmig.follow(live.opened, **given))
    running.start(0)
    try:
        yield
    finally:
        stop.set()
        running.join()


def test_a_paused_or_throttled_wait_says_so_at_once_in_sync_gate_and_upgrade(live: Live) -> None:
    def sync(project: embedmig.Project, report: Any) -> object:
        return embedmig.sync(project, "docs", report=report)

    def downgrade(project: embedmig.Project, report: Any) -> object:
        return embedmig.downgrade(project, "-1", report=report)

    def upgrade(project: embedmig.Project, report: Any) -> object:
        return embedmig.upgrade(project, report=report)

    upgrades_and_gates = (
        (upgrade, "throttled to 5 rows/s by"),
        (downgrade, "paused by"),
        (upgrade, "throttled to 5 rows/s by"),
    )
    for command, why in (*upgrades_and_gates, (sync, "paused by"), (sync, "throttled to 5 rows/s by")):
        live.do("update documents set body = body || ' again' where id = 3")
        if why.startswith("paused"):
            embedmig.pause(live.opened, "docs", "month end")
        else:
            embedmig.throttle(live.opened, 5, "docs", "month end")
        said: list[str] = []
        running = Daemon(lambda command=command, said=said: command(live.opened, lambda event: said.append(str(event))))  # type: ignore[misc]
        running.start(0)
        wait_until(lambda said=said, why=why: any(f"docs: {why}" in one for one in said), f"{why} to be said")  # type: ignore[misc]
        assert all("month end" in one for one in said if why in one)
        embedmig.resume(live.opened, "docs")
        embedmig.throttle(live.opened, None, "docs")
        running.join()
    embedmig.sync(live.opened, "docs")  # a gate waits for its own space alone
    live.expect_exact()
