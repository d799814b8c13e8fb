"""The ledger: heads that derive from it, edited scripts, closed gates, dead letters, and its own versions."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic.config import Config as AlembicConfig
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import create_engine, pool

import embedmig
from embedmig.database import LOCK_CLASS, RunLock, schema
from embedmig.errors import EXIT_NO, CutoverBlocked, DatabaseUnsuitable, GateClosed, LockHeld, PlanError
from tests.in_process import Fake, downgrade, space_script, spaces, tag, upgrade
from tests.project import Project
from tests.waiting import wait_until


@pytest.fixture
def fake() -> Fake:
    """The provider ``fake``."""
    return Fake().register()


@pytest.fixture
def two(project: Project, fake: Fake) -> Project:
    """Twenty documents, and two revisions: 8 dimensions, then 16."""
    project.documents(20)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    return project


def attempts(conn: psycopg.Connection) -> list[tuple[Any, ...]]:
    query = "select revision, direction, status, rows_done from embedmig.embedding_migrations order by id"
    return conn.execute(query).fetchall()


# --- heads ----------------------------------------------------------------------------------------------------


def test_the_current_heads_are_what_the_ledger_says_and_nothing_else(two: Project, conn: psycopg.Connection) -> None:
    assert embedmig.current(two.opened()) == []
    upgrade(two)
    assert embedmig.current(two.opened()) == ["0002"]
    downgrade(two)
    assert embedmig.current(two.opened()) == ["0001"]
    upgrade(two)
    assert attempts(conn) == [
        ("0001", "upgrade", "done", 20),
        ("0002", "upgrade", "done", 20),
        ("0002", "downgrade", "done", 0),
        ("0002", "upgrade", "done", 0),
    ]
    conn.execute("delete from embedmig.embedding_operations where attempt > 1")
    conn.execute("delete from embedmig.embedding_migrations where id > 1")
    assert embedmig.current(two.opened()) == ["0001"]


def test_base_takes_the_alias_away_and_keeps_the_vectors(two: Project, conn: psycopg.Connection, fake: Fake) -> None:
    upgrade(two)
    downgrade(two, "base")
    assert two.one("select to_regclass('docs_embeddings')") is None
    assert [(space.state, space.rows) for space in spaces(two)] == [("retained", 20), ("retained", 20)]
    embedded = fake.seen.total()
    upgrade(two)
    assert fake.seen.total() == embedded
    assert two.one("select count(*) from docs_embeddings") == 20


def test_stamp_records_without_running_and_base_takes_it_back(two: Project, fake: Fake) -> None:
    embedmig.stamp(two.opened(), "0002")
    assert embedmig.current(two.opened()) == ["0002"]
    assert embedmig.status(two.opened()).pending == []
    assert spaces(two) == []
    assert fake.seen.total() == 0
    embedmig.stamp(two.opened(), "0001")
    assert embedmig.current(two.opened()) == ["0001"]
    embedmig.stamp(two.opened(), "base")
    assert embedmig.current(two.opened()) == []


def test_stamping_an_edited_script_makes_it_the_one_that_was_applied(two: Project) -> None:
    upgrade(two)
    path = two.migrations / "0001_space.py"
    path.write_text(path.read_text() + "# an afterthought\n")
    assert embedmig.status(two.opened()).edited == ["0001"]
    assert [finding.code for finding in embedmig.check(two.opened())] == ["EM012"]
    downgrade(two, "0001")
    with pytest.raises(PlanError, match=r"0001_space\.py was edited") as raised:
        downgrade(two, "base")
    assert "stamp 0001" in str(raised.value.hint)
    embedmig.stamp(two.opened(), "0001")
    assert embedmig.status(two.opened()).edited == []
    downgrade(two, "base")


def test_line_ends_alone_are_no_edit(two: Project) -> None:
    upgrade(two)
    path = two.migrations / "0001_space.py"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert embedmig.status(two.opened()).settled


def test_no_two_attempts_run_at_once(two: Project, conn: psycopg.Connection) -> None:
    upgrade(two)
    begin = """insert into embedmig.embedding_migrations (revision, direction, status, checksum, applied_by, host, tool_version)
               values ('0002', 'upgrade', 'running', '', '', '', '')"""
    conn.execute(begin)
    with pytest.raises(psycopg.errors.UniqueViolation):
        conn.execute(begin)


def test_whoever_looks_is_not_kept_out_by_a_run_and_whoever_writes_is(two: Project, conn: psycopg.Connection) -> None:
    upgrade(two, "0001")
    with RunLock(two.opened().context(start=True).database):
        assert embedmig.status(two.opened()).current == ["0001"]
        with pytest.raises(LockHeld, match="another run holds the lock"):
            upgrade(two)
        with pytest.raises(LockHeld):
            embedmig.stamp(two.opened(), "head")
    assert len(attempts(conn)) == 1


def test_a_run_whose_server_process_still_ends_is_waited_for(
    two: Project, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after ``kill -9``: the server notices a moment later, and the same command comes at once."""
    monkeypatch.setattr("embedmig.database.run_lock.LOCK_PATIENCE", "30s")
    locks = """select l.pid from pg_locks l join pg_database d on d.oid = l.database and d.datname = current_database()
               where l.locktype = 'advisory' and l.classid = %s and l.granted = %s"""
    with RunLock(two.opened().context(start=True).database), ThreadPoolExecutor() as threads:
        [holder] = conn.execute(locks, (LOCK_CLASS, True)).fetchone() or (None,)
        after = threads.submit(upgrade, two)
        wait_until(
            lambda: after.done() or conn.execute(locks, (LOCK_CLASS, False)).fetchone(),
            "the next run to wait",
        )
        conn.execute("select pg_terminate_backend(%s)", (holder,))
        after.result()
    assert embedmig.status(two.opened()).settled


# --- gates ----------------------------------------------------------------------------------------------------

SOUR = '''
import numpy as np


def embed(texts):
    """Refuses whatever has the word flutter in it."""
    if any("flutter" in text for text in texts):
        raise ValueError("flutter is not to be embedded")
    return np.array([[len(text), 1.0, 2.0, 3.0] for text in texts])
'''


def test_a_closed_gate_exits_3_flips_nothing_and_the_same_command_goes_on_when_the_data_is_mended(
    project: Project, conn: psycopg.Connection
) -> None:
    project.documents(30)
    (project.folder / "sour.py").write_text(SOUR)
    project.space_script(model="python/sour:embed", version="1", dimensions=4)
    done = project.run("upgrade", "head", expect=EXIT_NO)
    assert "closed: the gate on " in done.stderr
    assert "completeness 0.9 is below the required 0.995" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("hint: ")
    assert project.one("select to_regclass('docs_embeddings')") is None
    status, gates = conn.execute("select status, gates from embedmig.embedding_migrations").fetchone() or ((), [])
    assert status == "gated"
    assert {gate["name"]: gate["passed"] for gate in gates}["completeness"] is False

    assert project.run("gate", "docs", expect=EXIT_NO).returncode == EXIT_NO
    conn.execute(
        "update documents set title = replace(title, 'flutter', 'flapping'), body = replace(body, 'flutter', 'flapping')"
    )
    project.run("upgrade", "head")
    assert project.one("select count(*) from docs_embeddings") == 30
    assert project.run("gate", "docs").returncode == 0


def test_a_closed_gate_keeps_a_rollback_back_as_well(two: Project, conn: psycopg.Connection) -> None:
    upgrade(two)
    old = two.one("select table_name from embedmig.spaces where version like '%dim-8%'")
    conn.execute(f"delete from embedmig.{old} where id < 5")
    with pytest.raises(GateClosed) as raised:
        downgrade(two)
    assert raised.value.exit_code == EXIT_NO
    assert embedmig.status(two.opened()).collections["docs"].active == tag(16)
    assert attempts(conn)[-1][:3] == ("0002", "downgrade", "gated")


def test_a_poison_row_is_found_in_few_requests_recorded_with_its_reason_and_passed_by(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    fake.options = {"poison": "venom"}
    project.documents(300)
    conn.execute("update documents set body = 'venom' where id = 123")
    space_script(project)
    upgrade(project)

    assert project.one("select count(*) from docs_embeddings") == 299
    (space,) = spaces(project)
    assert (space.rows, space.complete, space.failed_rows) == (299, 299, 1)
    assert [(failure["key"], failure["reason"]) for failure in space.failures] == [(["123"], "poison")]
    requests = sum(len(one.calls) for one in fake.made)
    assert (
        requests <= 1 + 5 + 2 * 6 + 1 + 1
    )  # probe, five batches of 64, two halves on six levels, canary, canary texts

    before = fake.seen
    conn.execute("update documents set body = 'wine' where id = 123")
    project.script("0002_again.py", (project.migrations / "0001_space.py").read_text().replace(
        "revision = '0001'", "revision = '0002'").replace("down_revision = None", "down_revision = '0001'"))  # fmt: skip
    upgrade(project)
    assert [text for text in fake.seen if fake.seen[text] != before[text]] == ["panel 123\n\nwine"]
    assert spaces(project)[0].complete == 300


# --- indexes --------------------------------------------------------------------------------------------------


def index_of(conn: psycopg.Connection) -> tuple[int, bool]:
    row = conn.execute(
        """select i.indexrelid, i.indisvalid from pg_index i join pg_class c on c.oid = i.indexrelid
           join pg_am a on a.oid = c.relam where a.amname = 'hnsw'"""
    ).fetchone()
    assert row is not None
    return row


def test_an_invalid_index_closes_the_gate_and_is_dropped_and_built_anew(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(20)
    space_script(project)
    upgrade(project)
    before, valid = index_of(conn)
    assert valid
    conn.execute(
        "update pg_index set indisvalid = false where indexrelid = %s", (before,)
    )  # as a killed build leaves it
    assert spaces(project)[0].index == "invalid"
    verdicts = {verdict.name: verdict.passed for verdict in embedmig.gate(project.opened(), "docs")}
    assert verdicts["index"] is False

    project.script("0002_again.py", (project.migrations / "0001_space.py").read_text().replace(
        "revision = '0001'", "revision = '0002'").replace("down_revision = None", "down_revision = '0001'"))  # fmt: skip
    upgrade(project)
    after, valid = index_of(conn)
    assert valid
    assert after != before
    assert spaces(project)[0].index == "valid"


def test_a_flip_that_a_reader_keeps_waiting_names_it_and_goes_through_when_it_ends(
    two: Project, conn: psycopg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade(two, "0001")
    monkeypatch.setattr("embedmig.runner.LOCK_PATIENCE_SECONDS", 0.3)
    with psycopg.connect(two.url) as reader:
        reader.execute("select * from docs_embeddings limit 1")
        with pytest.raises(CutoverBlocked, match="no lock within") as raised:
            upgrade(two)
        assert f"pid {reader.info.backend_pid} (idle in transaction" in raised.value.message
        assert embedmig.status(two.opened()).collections["docs"].active == tag()
    assert upgrade(two).current == ["0002"]
    assert two.one("select rows_done from embedmig.embedding_migrations order by id desc limit 1") == 0


# --- the ledger's own versions --------------------------------------------------------------------------------


def test_the_ledgers_tables_are_versioned_and_those_of_a_newer_embedmig_are_left_alone(
    two: Project, conn: psycopg.Connection
) -> None:
    upgrade(two, "0001")
    assert two.one("select version_num from embedmig.ledger_schema") == schema.HEAD
    conn.execute("update embedmig.ledger_schema set version_num = '9999'")
    for act in (
        lambda: upgrade(two),
        lambda: embedmig.status(two.opened()),
        lambda: embedmig.stamp(two.opened(), "base"),
    ):
        with pytest.raises(DatabaseUnsuitable, match="newer embedmig") as raised:
            act()
        assert "pip install --upgrade embedmig" in str(raised.value.hint)
    assert len(attempts(conn)) == 1


def back_to(url: str, version: str) -> None:
    """Takes the ledger's tables back to what an older embedmig had."""
    script = ScriptDirectory(str(Path(schema.__file__).parent))
    options = {"version_table": schema.VERSION_TABLE, "version_table_schema": "embedmig", "embedmig_schema": "embedmig"}
    engine = create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url), poolclass=pool.NullPool)
    with (
        engine.begin() as session,
        EnvironmentContext(
            AlembicConfig(), script, fn=lambda at, _: script._downgrade_revs(version, at)
        ) as environment,
    ):
        environment.configure(connection=session, **options)
        environment.run_migrations()


@pytest.mark.parametrize("version", ["0001", "0010"])
def test_the_ledger_of_an_older_embedmig_is_brought_up_to_date_though_no_revision_is_pending(
    two: Project, conn: psycopg.Connection, version: str
) -> None:
    upgrade(two)
    before, vectors = attempts(conn), vectors_of(conn)
    back_to(two.url, version)
    if version == "0001":  # it captured nothing yet
        drop_capture(conn)
    with pytest.raises(DatabaseUnsuitable) as raised:
        embedmig.status(two.opened())
    assert "embedmig upgrade head" in str(raised.value.hint)
    assert upgrade(two).revisions == []
    assert two.one("select version_num from embedmig.ledger_schema") == schema.HEAD
    assert embedmig.status(two.opened()).settled
    assert attempts(conn) == before
    assert vectors_of(conn) == vectors
    embedmig.sync(two.opened(), repair=True)
    conn.execute("insert into documents values (7001, 'heat shield', 'written after the update')")
    embedmig.sync(two.opened())
    assert [len(rows) for rows in vectors_of(conn)] == [len(rows) + 1 for rows in vectors]
    assert embedmig.search(two.opened(), "docs", "heat shield\n\nwritten after the update", 1).hits[0].key == (7001,)
    downgrade(two)
    assert two.one("select version from embedmig.aliases") == tag()


def drop_capture(conn: psycopg.Connection) -> None:
    """Triggers, their functions and the outbox, whatever collection they are of."""
    for kind, found in (
        ("function", "select oid::regprocedure::text from pg_proc where pronamespace = 'embedmig'::regnamespace and proname like 'capture%'"),
        ("table", "select oid::regclass::text from pg_class where relnamespace = 'embedmig'::regnamespace and relkind = 'r' and relname like 'outbox%'"),
    ):  # fmt: skip
        for (name,) in conn.execute(found).fetchall():  # type: ignore[arg-type]
            conn.execute(f"drop {kind} {name} cascade")  # type: ignore[arg-type]


def vectors_of(conn: psycopg.Connection) -> list[list[Any]]:
    """Every row of both versions: key, hash and vector."""
    tables = [name for (name,) in conn.execute("select table_name from embedmig.spaces order by id").fetchall()]
    query = "select id, content_hash, embedding::text from embedmig.{} order by id"
    return [conn.execute(query.format(name)).fetchall() for name in tables]  # type: ignore[arg-type]
