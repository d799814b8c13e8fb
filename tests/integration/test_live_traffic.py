"""Insert, update, delete, truncate, backfill, sync, flip, downgrade, death and restart in random order, at random
moments of each other; between them columns are renamed and dropped, triggers dropped and disabled, partitions come and go. At rest every space equals what embedding the source from scratch would give.

``EMBEDMIG_EXAMPLES=500`` runs more of them. Every sequence that ever failed is kept below, by name.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from psycopg import errors as pg

import embedmig
from embedmig.errors import AnswerIsNo, EmbedmigError, GateClosed
from embedmig.source.rows import Piece, Row
from embedmig.stores import Batch
from embedmig.testing import fake_vectors
from embedmig.types import Limits
from tests.fault_injection import APART, Daemon, Moments, disturbed
from tests.in_process import Fake, space_script, tag
from tests.project import CONFIG, Project
from tests.waiting import wait_until

pytestmark = pytest.mark.one_server

EXAMPLES = int(os.environ.get("EMBEDMIG_EXAMPLES", "25"))
DIMENSIONS = (8, 12)
KEYS = range(12)
HEAD_START = 0.05
BATCH = "\n[embedders.fake]\nbatch_size = 3\n"

keys = st.sampled_from(KEYS)
words = st.sampled_from(["", " ", "cone", "wind", "plate", "wave", "shock"])
moments = st.integers(1, 90)


def unit_vectors(texts: list[str], dimensions: int) -> Any:
    """What the model of these tests makes of texts."""
    vectors = fake_vectors(texts, dimensions)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


writes = st.one_of(
    st.tuples(
        st.just(
            "insert into documents values (%s, %s, %s, %s)"
            " on conflict (id) do update set body = excluded.body, published = excluded.published"
        ),
        st.tuples(keys, words, words, st.booleans()),
    ),
    st.tuples(  # enough of them to be noted as a range
        st.just(
            "insert into documents select n, 'bulk', %s, n %% 7 > 0 from generate_series(%s::int, 24) n on conflict do nothing"
        ),
        st.tuples(words, keys),
    ),
    st.tuples(st.just("update documents set body = %s where id = %s"), st.tuples(words, keys)),
    st.tuples(st.just("update documents set title = %s, body = title where id >= %s"), st.tuples(words, keys)),
    st.tuples(st.just("update documents set views = views + 1, body = body where id >= %s"), st.tuples(keys)),
    st.tuples(st.just("update documents set published = not published where id = %s"), st.tuples(keys)),
    st.tuples(st.just("update documents set id = %s where id = %s"), st.tuples(keys, keys)),
    st.tuples(st.just("delete from documents where id = %s"), st.tuples(keys)),
    st.tuples(st.just("delete from documents where id >= %s"), st.tuples(keys)),
    st.tuples(st.just("truncate documents"), st.just(())),
)
write_lists = st.lists(writes, min_size=1, max_size=3)
disturbances = st.lists(st.tuples(moments, write_lists), max_size=3)
daemons = st.lists(moments, max_size=2)
deaths = st.one_of(st.none(), moments)
SCHEMA_CHANGES = {
    "a text column is renamed for a while": [
        "alter table documents rename column body to content",
        "update documents set content = 'renamed' where id >= 3",
        "alter table documents rename column content to body",
    ],
    "a column comes and goes": [
        "alter table documents add column extra int not null default 7",
        "update documents set body = 'wider' where id = 2",
        "alter table documents drop column extra",
    ],
    "a trigger is dropped": ["drop trigger if exists embedmig_docs_update{row} on documents"],
    "triggers are disabled": ["alter table documents disable trigger user"],
    "the outbox is dropped": ["drop table if exists embedmig.outbox_docs"],
}
PARTITION_CHANGES = {
    "a partition is detached": [
        "alter table documents detach partition low",
        "update low set body = 'apart' where id = 1",
    ],
    "a partition is attached": ["alter table documents attach partition low for values from (minvalue) to (6)"],
    "a partition is truncated": ["truncate high"],
}
GIVEN_UP = (pg.LockNotAvailable, pg.UniqueViolation, pg.CheckViolation)  # as an application might
NOT_NOW = (
    *GIVEN_UP,
    pg.UndefinedTable,
    pg.UndefinedObject,
    pg.WrongObjectType,
    pg.InvalidTableDefinition,
    pg.ObjectNotInPrerequisiteState,
)


class Traffic:
    """What happens to a collection, one call a kind of event; the machine below and the kept cases drive it."""

    def __init__(self, folder: Path, url: str) -> None:
        Fake(options={"limits": Limits(batch_size=3, concurrency=2)}).register()
        self.project = Project(folder, url)
        self.project.configure(CONFIG + 'where = "published"\n', BATCH)
        space_script(self.project, "0001", dimensions=DIMENSIONS[0])
        self.conn = self._application()
        self.open: psycopg.Connection[Any] | None = None
        self.opened = self.project.opened()

    def _application(self) -> psycopg.Connection[Any]:
        conn = self.project.connect()
        conn.execute("set lock_timeout = '100ms'")
        return conn

    def begin(self, *, partitioned: bool = False, grows: bool = False) -> None:
        """An empty database, a table with a few rows, and the first space; the index of the second ``grows`` with it."""
        space_script(self.project, "0002", "0001", dimensions=DIMENSIONS[1], old=tag(DIMENSIONS[0]), grows=grows)
        self.partitioned = partitioned
        self.conn.execute("drop table if exists documents, low, high cascade")
        self.conn.execute("drop schema if exists embedmig cascade")
        self.conn.execute(
            "create table documents (id bigint primary key, title text, body text,"
            " published boolean not null default true, views int not null default 0)"
            + (" partition by range (id)" if partitioned else "")
        )
        if partitioned:
            self.conn.execute("create table low partition of documents for values from (minvalue) to (6)")
            self.conn.execute("create table high partition of documents for values from (6) to (maxvalue)")
        self.conn.execute("insert into documents select n, 'title', 'body ' || n from generate_series(0, 6) n")
        self.opened = self.project.opened()
        embedmig.upgrade(self.opened, "0001")

    # --- the application

    def write(self, some: list[tuple[str, tuple[object, ...]]], conn: psycopg.Connection[Any] | None = None) -> None:
        """Writes; one that must wait for another, or meets a key that is taken, is given up, as an application might."""
        for query, values in some:
            with suppress(*GIVEN_UP):
                (conn or self.conn).execute(query, values)

    def change_schema(self, what: str) -> None:
        """A migration of the application's, in one transaction; one that can't be done now is given up."""
        statements = (SCHEMA_CHANGES | (PARTITION_CHANGES if self.partitioned else {})).get(what, [])
        with suppress(*NOT_NOW), self.conn.transaction():
            for statement in statements:
                self.conn.execute(statement.format(row="_row" if self.partitioned else ""))  # type: ignore[call-overload]

    def open_transaction(self, some: list[tuple[str, tuple[object, ...]]]) -> None:
        """Writes, and doesn't commit yet."""
        if self.open is None:
            self.open = self._application()
            self.open.autocommit = False
        for query, values in some:
            with suppress(*GIVEN_UP), self.open.transaction():
                self.open.execute(query, values)

    def end_transaction(self, *, commit: bool = True) -> None:
        """Ends the one that is open."""
        if self.open is not None:
            self.open.commit() if commit else self.open.rollback()
            self.open.close()
            self.open = None

    # --- embedmig

    def run(
        self,
        command: Callable[[], object],
        disturbed_by: list[tuple[int, list[tuple[str, tuple[object, ...]]]]] = [],  # noqa: B006
        daemons_at: list[int] = [],  # noqa: B006
        dies_at: int | None = None,
    ) -> None:
        """Runs a command; at some of its statements rows are written, sync passes begin, or it dies."""
        passes: list[Daemon] = []

        def begin_pass() -> None:
            apart = embedmig.open_project(self.project.folder / "embedmig.toml", database=f"{self.project.url}&{APART}")
            passes.append(Daemon(lambda: embedmig.sync(apart, "docs")))
            passes[-1].start(HEAD_START)

        at: dict[int, Callable[[], None]] = {moment: begin_pass for moment in daemons_at}  # noqa: C420
        at |= {moment: (lambda some=some: self.write(some)) for moment, some in disturbed_by}  # type: ignore[misc]
        moments_of_run = Moments(at, dies_at=dies_at)
        try:
            with disturbed(moments_of_run):
                command()
        except GateClosed:
            pass  # a writer was quicker than the last look
        except EmbedmigError:
            assert moments_of_run.dead
        for one in passes:
            one.join()

    def upgrade(self, **disturbance: Any) -> None:
        """To the second space, unless it is there."""
        self.run(lambda: embedmig.upgrade(self.opened), **disturbance)

    def downgrade(self, **disturbance: Any) -> None:
        """Back to the first, if the second is shown."""
        if embedmig.current(self.opened) == ["0002"]:
            self.run(lambda: embedmig.downgrade(self.opened, "-1"), **disturbance)

    def backfill(self, version: str) -> None:
        """Fills a space outside a revision."""
        embedmig.backfill(self.opened, "docs", version, report=lambda _: None, stop=threading.Event())

    def sync(self, **disturbance: Any) -> None:
        """One pass."""
        self.run(lambda: embedmig.sync(self.opened, "docs"), **disturbance)

    # --- what must be true

    def expect_one_version(self) -> None:
        """At any moment: the alias shows one version, that of the registry, and no row that is not there."""
        shown = self.conn.execute("select distinct version from docs_embeddings").fetchall()
        active = self.conn.execute("select version from embedmig.aliases").fetchone()
        assert {row[0] for row in shown} <= {active[0]}  # type: ignore[index]
        ghosts = self.conn.execute(
            "select id from docs_embeddings except select id from documents where published"
        ).fetchall()
        assert not ghosts

    def expect_exact_at_rest(self) -> None:
        """When everyone has finished: every live space is exact, and nothing waits."""
        self.end_transaction()
        unfinished = self.conn.execute("select version from embedmig.spaces where state = 'building'").fetchall()
        for row in unfinished:
            self.backfill(row[0])
        embedmig.sync(self.opened, "docs")
        if (
            embedmig.status(self.opened).collections["docs"].capture != "installed"
        ):  # what it doesn't notice, nobody repairs
            embedmig.sync(self.opened, "docs", repair=True)
        assert embedmig.status(self.opened).collections["docs"].capture == "installed"
        assert self.project.one("select count(*) from embedmig.outbox_docs") == 0
        assert self.project.one("select count(*) from embedmig.pending_changes") == 0
        assert self.project.one("select count(*) from embedmig.failed_rows") == 0
        self.project.expect_exact("published", unit_vectors)
        self.expect_one_version()

    def close(self) -> None:
        """Ends what is open."""
        self.end_transaction(commit=False)
        self.conn.close()
        self.project.close()


class AnyOrder(RuleBasedStateMachine):
    """hypothesis chooses what happens next, and when."""

    url = ""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.traffic = Traffic(Path(self.folder.name), self.url)

    @initialize(partitioned=st.booleans(), grows=st.booleans())
    def begin(self, partitioned: bool, grows: bool) -> None:
        self.traffic.begin(partitioned=partitioned, grows=grows)

    @rule(what=st.sampled_from([*SCHEMA_CHANGES, *PARTITION_CHANGES]))
    def change_schema(self, what: str) -> None:
        self.traffic.change_schema(what)

    @rule(some=write_lists)
    def write(self, some: Any) -> None:
        self.traffic.write(some)

    @rule(some=write_lists)
    def write_and_leave_open(self, some: Any) -> None:
        self.traffic.open_transaction(some)

    @precondition(lambda self: self.traffic.open is not None)
    @rule(commit=st.booleans())
    def end_what_is_open(self, commit: bool) -> None:
        self.traffic.end_transaction(commit=commit)

    @rule(disturbed_by=disturbances, daemons_at=daemons, dies_at=deaths)
    def sync(self, **disturbance: Any) -> None:
        self.traffic.sync(**disturbance)

    @rule(disturbed_by=disturbances, daemons_at=daemons, dies_at=deaths)
    def upgrade(self, **disturbance: Any) -> None:
        self.traffic.upgrade(**disturbance)

    @rule(disturbed_by=disturbances, daemons_at=daemons, dies_at=deaths)
    def downgrade(self, **disturbance: Any) -> None:
        self.traffic.downgrade(**disturbance)

    @invariant()
    def one_version(self) -> None:
        if self.traffic.conn.execute("select to_regclass('docs_embeddings')").fetchone()[0]:  # type: ignore[index]
            self.traffic.expect_one_version()

    def teardown(self) -> None:
        try:
            if self.traffic.conn.execute("select to_regclass('docs_embeddings')").fetchone()[0]:  # type: ignore[index]
                self.traffic.expect_exact_at_rest()
        finally:
            self.traffic.close()
            self.folder.cleanup()


def test_whatever_happens_in_whatever_order_every_space_is_exact_at_rest(url: str) -> None:
    machine = type("AnyOrder", (AnyOrder,), {"url": url})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=12,
            deadline=None,
            print_blob=True,
            database=None,
            phases=[Phase.generate],  # a run takes a second: what failed is printed as it was
            suppress_health_check=list(HealthCheck),
        ),
    )


# --- kept: each of these went wrong once ----------------------------------------------------------------------


@pytest.fixture
def traffic(tmp_path: Path, url: str) -> Any:
    """A collection with its first space."""
    made = Traffic(tmp_path, url)
    made.begin()
    yield made
    made.close()


LATE = """
create function hold() returns trigger language plpgsql as $$
begin perform pg_advisory_xact_lock_shared(7, 7); return new; end $$;
create trigger hold before insert on {table} for each row
  when (new.id = 3 and new.content_hash = sha256('title\n\nbody 3')) execute function hold();
"""
WAITS = "select exists (select from pg_locks where locktype = 'advisory' and not granted and (classid = 7) = {ours})"


@pytest.mark.parametrize(
    "change",
    ["update documents set body = 'newer' where id = 3", "delete from documents where id = 3"],
)
def test_a_batch_that_is_written_late_undoes_nothing_that_was_taken_in_meanwhile(traffic: Traffic, change: str) -> None:
    with pytest.raises(AnswerIsNo):
        embedmig.upgrade(traffic.opened, no_wait=True)
    table = traffic.project.one(
        "select format('embedmig.%I', table_name) from embedmig.spaces where state = 'building'"
    )
    with traffic.project.connect() as conn:
        conn.execute(LATE.format(table=table))
        conn.execute("select pg_advisory_lock(7, 7)")
        late = Daemon(lambda: traffic.backfill(tag(DIMENSIONS[1])))
        late.start(0)
        wait_until(lambda: traffic.project.one(WAITS.format(ours="true")), "the batch to be on its way into the space")
        traffic.conn.execute(change)  # type: ignore[call-overload]
        meanwhile = Daemon(lambda: embedmig.sync(traffic.project.opened(), "docs"))
        meanwhile.start(0)
        wait_until(
            lambda: meanwhile.ended or traffic.project.one(WAITS.format(ours="false")), "sync to be through, or to wait"
        )
    late.join()
    meanwhile.join()
    traffic.expect_exact_at_rest()


def test_a_row_that_is_in_two_batches_of_one_commit_is_written(traffic: Traffic) -> None:
    context = traffic.opened.context(start=True)
    with context.database.connect("writer") as conn:
        record = context.registry.spaces(conn, "docs")[0]
        store = context.manifest(conn, record)
        store.prepare_writer(conn)
        text = "title\n\nbody 3"
        row = Row(("3",), text, hashlib.sha256(text.encode()).digest())
        batch = Batch([row], [Piece(0, 1, 0, len(text))], unit_vectors([text], DIMENSIONS[0]))
        with conn.transaction():
            assert store.write(conn, [batch, batch]) == 2
    traffic.expect_exact_at_rest()
