"""Figures for looking: an exact count is shown while nothing has happened since, and an estimate says that it is one."""

from __future__ import annotations

import json

import psycopg
import pytest

import embedmig
from embedmig import SpaceStatus
from embedmig.database import ident
from embedmig.gates import counting
from embedmig.source.sampling import about
from tests.in_process import Fake, space_script, spaces, tag, upgrade
from tests.project import CONFIG, Project
from tests.waiting import wait_until

pytestmark = pytest.mark.with_ledger

ROWS = 300
TABLE = "embedmig.{}"


@pytest.fixture
def fake() -> Fake:
    """The provider ``fake``."""
    return Fake().register()


@pytest.fixture
def large(project: Project, fake: Fake, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A complete space that is too large to be counted for a look."""
    project.documents(ROWS)
    space_script(project)
    upgrade(project)
    written = "select coalesce(sum(n_tup_ins), 0) from pg_stat_user_tables where relname in ('documents', %r)"
    wait_until(lambda: project.one(written % table(project)) == 2 * ROWS, "the statistics are published")
    monkeypatch.setattr(counting, "SMALL", 0)
    return project


def table(project: Project) -> str:
    return str(project.one("select table_name from embedmig.spaces"))


def looked(project: Project) -> SpaceStatus:
    return spaces(project)[0]


def counted(project: Project) -> SpaceStatus:
    return embedmig.status(project.opened(), exact=True).collections["docs"].spaces[0]


EVENTS = {
    "an insert": "insert into documents values (1000, 'new', 'text')",
    "an update": "update documents set title = 'another' where id = 7",
    "a delete": "delete from documents where id = 7",
    "a truncate": "truncate documents",
    "a delete in the space": "delete from embedmig.{table} where id = 7",
    "an update in the space": "update embedmig.{table} set content_hash = '' where id = 7",
    "a truncate of the space": "truncate embedmig.{table}",
    "a refused row": "insert into embedmig.failed_rows (space, key, content_hash, reason) values (1, '{{7}}', '', 'no')",
    "a change that waits": "insert into embedmig.pending_changes (space, key, changed_at) values (1, '{{7}}', now())",
}


@pytest.mark.parametrize("event", EVENTS)
def test_an_exact_count_is_shown_until_something_happens(large: Project, event: str) -> None:
    first = counted(large)
    assert (first.counted, first.completeness, first.rows) == ("exact", 1.0, ROWS)
    again = looked(large)
    assert (again.counted, again.counted_at, again.completeness) == ("exact", first.counted_at, 1.0)

    with large.connect() as conn:
        conn.execute(EVENTS[event].format(table=table(large)))  # type: ignore[arg-type]
    found = wait_until(lambda: one if (one := looked(large)).counted_at != first.counted_at else None, event)
    if event == "a truncate":  # of nothing there is no sample, and the count is quick
        assert (found.counted, found.source_rows, found.rows) == ("exact", 0, ROWS)
    else:
        assert found.counted == "estimated"
        assert found.completeness < 1.0


@pytest.mark.parametrize(("before", "after"), [("", 'where = "id < 100"\n'), ('["title", "body"]', '["title"]')])
def test_another_question_in_the_configuration_is_another_count(large: Project, before: str, after: str) -> None:
    assert counted(large).counted == "exact"
    large.configure(CONFIG.replace(before, after) if before else CONFIG + after)
    assert looked(large).counted == "estimated"


def test_a_gate_counts_every_time_and_keeps_what_it_counted(large: Project) -> None:
    assert all(verdict.passed for verdict in embedmig.gate(large.opened(), "docs"))
    assert (looked(large).counted, looked(large).completeness) == ("exact", 1.0)

    with large.connect() as conn:
        conn.execute("set session_replication_role = replica; alter table documents disable trigger all")
        conn.execute("delete from embedmig.{}".format(table(large)))  # type: ignore[arg-type]  # noqa: UP032
        value = {verdict.name: verdict.value for verdict in embedmig.gate(large.opened(), "docs")}["completeness"]
        assert value == 0.0, "whatever was kept, and whatever the statistics have heard of by now"


def test_the_run_that_ends_with_a_gate_leaves_an_exact_count(
    project: Project, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "SMALL", 0)
    project.documents(ROWS)
    space_script(project)
    upgrade(project)
    kept = project.one("select counts from embedmig.counts")
    assert (kept["eligible"], kept["complete"], kept["vectors"]) == (ROWS, ROWS, ROWS)


def test_an_estimate_of_a_part_says_how_far_it_may_be_off(
    project: Project, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with project.connect() as conn:
        conn.execute("create table documents (id bigint primary key, title text, body text)")
        conn.execute(
            """insert into documents select n, case when n % 10 > 0 then 'title ' || n end,
                 case when n % 10 > 0 then repeat('x', 400) end from generate_series(1, 6000) n"""
        )
    space_script(project)
    upgrade(project)
    monkeypatch.setattr(counting, "SMALL", 0)
    monkeypatch.setattr(counting, "PAGES", 60)
    with project.connect() as conn:  # as an interrupted backfill leaves it: whole pages are there, whole pages are not
        conn.execute("delete from embedmig.{} where id > 4200".format(table(project)))  # type: ignore[arg-type]  # noqa: UP032
    found = looked(project)

    assert found.counted == "estimated"
    assert 0 < found.completeness_error < 0.3
    assert abs(found.completeness - 0.7) <= found.completeness_error
    assert abs(found.source_rows - 5400) < 540
    verdict = next(verdict for verdict in found.gates if verdict.name == "completeness")
    assert not verdict.passed
    assert "unaccounted_rows" not in {verdict.name for verdict in found.gates}, "nobody looked"
    monkeypatch.undo()
    assert (looked(project).counted, looked(project).complete) == ("exact", 3780), "six thousand rows are counted"


def test_an_estimate_is_never_every_row(large: Project) -> None:
    found = looked(large)
    assert (found.counted, found.complete) == ("estimated", ROWS - 1)
    assert found.completeness < 1.0
    assert found.completeness_error > 0


def test_who_may_only_select_sees_what_was_kept_and_keeps_nothing(large: Project, conn: psycopg.Connection) -> None:
    name = f"watcher_{conn.info.dbname}"
    conn.execute(f"create role {name} login")  # type: ignore[arg-type]
    try:
        conn.execute(f"grant usage on schema embedmig to {name}; grant select on all tables in schema embedmig to {name}; "
                     f"grant select on documents to {name}")  # type: ignore[arg-type]  # fmt: skip
        before, _, after = large.url.partition("@")
        watcher = embedmig.open_project(
            large.folder / "embedmig.toml", database=f"{before.partition('://')[0]}://{name}@{after}"
        )
        seen = embedmig.status(watcher, exact=True).collections["docs"].spaces[0]
        assert (seen.counted, seen.completeness) == ("exact", 1.0)
        assert large.one("select count(*) from embedmig.counts") == 0
        kept = counted(large)
        assert embedmig.status(watcher).collections["docs"].spaces[0].counted_at == kept.counted_at
    finally:
        conn.execute(f"drop owned by {name}; drop role {name}")  # type: ignore[arg-type]


def test_adopted_vectors_and_partitioned_sources_are_estimated_too(
    project: Project, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    with project.connect() as conn:
        conn.execute(
            """create table documents (id bigint primary key, title text, body text, old vector(4)) partition by range (id);
               create table part_1 partition of documents for values from (0) to (100);
               create table part_2 partition of documents for values from (100) to (1000);
               insert into documents select n, 'title ' || n, 'body', case when n < 100 then '[1,0,0,0]'::vector end
               from generate_series(0, 199) n"""
        )
    project.script("0001_adopt.py", ADOPT)
    space_script(project, "0002", "0001", old=tag(4))
    upgrade(project)
    monkeypatch.setattr(counting, "SMALL", 0)
    adopted, made = spaces(project)
    assert (adopted.counted, adopted.rows, adopted.complete, adopted.source_rows) == ("estimated", 100, 100, 200)
    assert (made.complete, made.source_rows) == (199, 200)


ADOPT = f"""
from embedmig import Space, op

revision = "0001"
down_revision = None
OLD = Space(collection="docs", model="fake/hash", version="1", dimensions=4)


def upgrade() -> None:
    op.adopt_space(OLD, table="documents", column="old")


def downgrade() -> None:
    op.flip_alias("docs", to=None)


assert OLD.tag == {json.dumps(tag(4))}
"""


@pytest.mark.parametrize("analysed", [False, True])
def test_a_small_table_is_counted_whether_it_was_analysed_or_not(conn: psycopg.Connection, analysed: bool) -> None:
    conn.execute("create table small (id int) with (autovacuum_enabled = false)")
    if analysed:
        conn.execute("insert into small select generate_series(1, 3000)")
        conn.execute("analyze small")
        conn.execute("delete from small where id > 7")
    else:
        conn.execute("insert into small select generate_series(1, 7)")
    assert about(conn, ident("small")) == 7
