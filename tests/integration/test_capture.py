"""Capture and sync: what changes in the source reaches every live space, and nothing else does."""

from __future__ import annotations

import psycopg
import pytest

import embedmig
from tests.project import CONFIG, NEW_TAG, OLD_TAG, Project

OUTBOX = "select count(*) from embedmig.outbox_docs"


@pytest.fixture
def live(project: Project) -> Project:
    """A collection with an active space of 64 dimensions, captured."""
    project.documents(20)
    project.space_script("0001")
    embedmig.upgrade(project.opened())
    return project


def test_every_way_of_changing_a_text_is_captured_and_synced(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("insert into documents values (100, 'new', 'a new cone')")
        conn.execute("update documents set body = 'another text' where id = 1")
        conn.execute("delete from documents where id = 2")
        conn.execute("update documents set id = 200 where id = 3")
        with conn.cursor().copy("copy documents from stdin") as copy:
            copy.write("300\tcopied\tin bulk\n")
        with conn.transaction():
            conn.execute("set local session_replication_role = replica")
            conn.execute("insert into documents values (400, 'replicated', 'arrived from elsewhere')")
    assert live.one(OUTBOX) == 7  # the changed key counts twice: gone under one name, new under the other
    embedmig.sync(live.opened(), "docs")
    live.expect_exact()


def test_changes_of_value_are_captured_and_mentions_are_not(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("alter table documents add column views int default 0")
        conn.execute("update documents set views = views + 1")
        conn.execute("update documents set body = body, title = title")
    assert live.one(OUTBOX) == 0


def test_the_rows_of_one_statement_are_noted_as_a_range_and_each_of_them_is_synced(
    live: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedmig.engine.outbox.TAKE", 500)
    insert = "insert into documents select n, 'bulk', 'body of row ' || n from"
    with live.connect() as conn:
        conn.execute(f"{insert} generate_series(1000, 6999) n")
        assert live.one("select count(*) from embedmig.outbox_docs where embedmig_upto is not null") == 1
        conn.execute(f"{insert} generate_series(-30, -1) n")
        conn.execute("delete from documents where id in (-7, 1500)")
        conn.execute("update documents set id = 8000 where id = 1600")
        conn.execute(f"{insert} generate_series(10000, 19999, 500) n")  # few and far between
        conn.execute(f"{insert} generate_series(9223372036854775780, 9223372036854775807) n")
        ends = "array[-9223372036854775808, -9223372036854775807]"
        conn.execute(f"{insert} unnest({ends} || array(select generate_series(20000, 20020))) n")
    waiting = embedmig.status(live.opened()).collections["docs"].spaces[0].pending_changes
    assert waiting == 6000 + 30 + 1 + 20 + 28 + 23  # those deleted again wait too, to be looked for in the spaces
    embedmig.sync(live.opened(), "docs")
    assert live.one(OUTBOX) == 0
    live.expect_exact()


def test_the_rows_of_one_statement_with_a_key_of_several_columns_are_noted_one_by_one(project: Project) -> None:
    with project.connect() as conn:
        conn.execute(
            "create table documents (tenant text, id uuid default gen_random_uuid(), title text, body text, primary key (tenant, id))"
        )
    project.configure(CONFIG.replace('key = "id"', 'key = ["tenant", "id"]'))
    project.space_script("0001")
    embedmig.upgrade(project.opened())
    with project.connect() as conn:
        conn.execute(
            "insert into documents (tenant, title, body) select 'b', 't', 'body ' || n from generate_series(1, 40) n"
        )
        conn.execute("delete from documents where body = 'body 3'")
        conn.execute("update documents set body = 'edited' where body = 'body 4'")
    assert project.one("select count(*) from embedmig.outbox_docs where embedmig_upto is not null") == 0
    assert embedmig.status(project.opened()).collections["docs"].spaces[0].pending_changes == 40
    embedmig.sync(project.opened(), "docs")
    (found,) = embedmig.status(project.opened()).collections["docs"].spaces
    assert (found.pending_changes, found.rows, found.complete, found.orphans) == (0, 39, 39, 0)


def test_ranges_outlive_a_key_that_is_given_another_type(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("insert into documents select n, 'bulk', 'body of row ' || n from generate_series(100, 199) n")
        table = live.one("select table_name from embedmig.spaces")
        with conn.transaction():
            conn.execute("drop view docs_embeddings")
            for name in ("documents", "embedmig.outbox_docs", f'embedmig."{table}"'):
                conn.execute(f"alter table {name} alter column id type text using id::text")
    embedmig.sync(live.opened(), "docs", repair=True)
    live.expect_exact()


def test_a_writer_with_operators_of_his_own_runs_nothing_of_his_as_the_triggers_owner(live: Project) -> None:
    with live.connect() as conn:
        guest = f"guest_{conn.info.dbname}"
        conn.execute(f"create role {guest} login; create schema traps authorization {guest}")
        conn.execute(f"grant insert on documents to {guest}; grant usage on schema public to {guest}")
        try:
            conn.execute(f"set role {guest}; set search_path = traps, pg_catalog, public")
            sums = [(sign, kind, kind, kind) for sign in "+-*" for kind in ("int4", "int8", "float8")]
            sums.append(("*", "int8", "int4", "int8"))
            compared = [(sign, kind, kind, "bool") for sign in "<=" for kind in ("int4", "int8", "float8")]
            for place, (operator, left, right, result) in enumerate(sums + compared):
                conn.execute(
                    f"create function trap{place}({left}, {right}) returns {result} language plpgsql as "
                    "$$ begin raise exception 'run as %', current_user; end $$"
                )
                conn.execute(
                    f"create operator {operator} (leftarg = {left}, rightarg = {right}, function = trap{place})"
                )
            conn.execute("insert into documents select n, 'bulk', 'body' from pg_catalog.generate_series(100, 199) n")
        finally:
            conn.execute(f"reset role; drop owned by {guest} cascade; drop role {guest}")
    assert live.one("select count(*) from embedmig.outbox_docs where embedmig_upto is not null") == 1


def test_a_truncate_empties_every_space(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("truncate documents")
        conn.execute("insert into documents values (7, 'after', 'the flood')")
    embedmig.sync(live.opened(), "docs")
    live.expect_exact()


def test_a_transaction_that_commits_after_the_backfill_is_not_lost(live: Project) -> None:
    with psycopg.connect(live.url) as slow:
        slow.execute("update documents set body = 'written long before it is committed' where id = 5")
        slow.execute("delete from documents where id = 6")
        live.space_script("0002", "0001", old=OLD_TAG, dimensions=128)
        with live.connect() as conn:
            conn.execute("insert into documents values (500, 'meanwhile', 'committed at once')")
        embedmig.sync(live.opened(), "docs")
        slow.commit()
    embedmig.sync(live.opened(), "docs")
    live.expect_exact()


def test_the_old_space_stays_as_fresh_as_the_new_one(live: Project) -> None:
    live.space_script("0002", "0001", old=OLD_TAG, dimensions=256)
    embedmig.upgrade(live.opened())
    with live.connect() as conn:
        conn.execute("update documents set body = 'edited after the flip' where id < 10")
        conn.execute("delete from documents where id = 11")
    found = embedmig.status(live.opened()).collections["docs"]
    assert [space.pending_changes for space in found.spaces] == [11, 11]
    assert found.rollback is not None
    assert (found.rollback.to, found.rollback.rows) == (OLD_TAG, 10)
    ran = embedmig.downgrade(live.opened(), "-1")
    assert ran.current == ["0001"]
    embedmig.sync(live.opened(), "docs")
    live.expect_exact()
    assert embedmig.status(live.opened()).collections["docs"].spaces[1].version == NEW_TAG


def test_a_row_that_stops_being_eligible_leaves_and_one_that_becomes_so_arrives(project: Project) -> None:
    project.documents(10)
    with project.connect() as conn:
        conn.execute("alter table documents add column published boolean not null default true")
        conn.execute("update documents set published = false where id > 7")
    project.configure((project.folder / "embedmig.toml").read_text() + 'where = "published"\n')
    project.space_script("0001")
    embedmig.upgrade(project.opened())
    assert project.one("select count(*) from docs_embeddings") == 8
    with project.connect() as conn:
        conn.execute("update documents set published = not published where id in (0, 9)")
    assert project.one("select count(*) from docs_embeddings where id = 0") == 0  # at its own commit
    embedmig.sync(project.opened(), "docs")
    project.expect_exact(where="published")


def test_a_partitioned_table_is_captured_wherever_its_rows_are_written(project: Project) -> None:
    with project.connect() as conn:
        conn.execute("create table documents (id bigint primary key, title text, body text) partition by range (id)")
        conn.execute("create table part_low partition of documents for values from (0) to (100)")
        conn.execute("insert into documents select n, 'title ' || n, 'body of ' || n from generate_series(0, 9) n")
    project.space_script("0001")
    embedmig.upgrade(project.opened())
    with project.connect() as conn:
        conn.execute("insert into part_low values (50, 'direct', 'written to the partition itself')")
        conn.execute("create table part_high partition of documents for values from (100) to (200)")
        conn.execute("insert into part_high values (150, 'later', 'in a partition made later')")
        conn.execute("update documents set body = 'changed' where id = 4")
    embedmig.sync(project.opened(), "docs")
    project.expect_exact()


def test_a_trigger_dropped_by_hand_closes_the_gate_and_repair_opens_it(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("drop trigger embedmig_docs_update on documents")
        conn.execute("update documents set body = 'nobody saw this' where id = 1")
    assert embedmig.status(live.opened()).collections["docs"].capture == "missing"
    verdicts = {verdict.name: verdict.passed for verdict in embedmig.gate(live.opened(), "docs")}
    assert verdicts["capture"] is False
    assert verdicts["unaccounted_rows"] is False
    embedmig.sync(live.opened(), "docs", repair=True)
    assert all(verdict.passed for verdict in embedmig.gate(live.opened(), "docs"))
    live.expect_exact()


def test_a_table_without_triggers_is_watched_by_its_watermark(project: Project) -> None:
    project.documents(10)
    with project.connect() as conn:
        conn.execute("alter table documents add column updated_at timestamptz not null default now()")
    project.configure(
        (project.folder / "embedmig.toml").read_text() + 'capture = "watermark"\nchanged_at = "updated_at"\n'
    )
    project.space_script("0001")
    embedmig.upgrade(project.opened())
    assert project.one("select count(*) from pg_trigger where not tgisinternal") == 0
    with project.connect() as conn:
        conn.execute("update documents set body = 'newer', updated_at = now() where id = 3")
        conn.execute("insert into documents values (77, 'new', 'and stamped')")
        conn.execute("delete from documents where id = 4")
    embedmig.sync(project.opened(), "docs")
    project.expect_exact()


def test_adopted_vectors_are_kept_fresh_where_they_are_when_embedmig_writes_them(project: Project) -> None:
    project.documents(10)
    with project.connect() as conn:
        conn.execute("alter table documents add column embedding vector(64)")
        conn.execute("update documents set embedding = array_fill(0.125, array[64])::vector")
    project.script(
        "0001_adopt.py",
        "from embedmig import Space, op\nrevision = '0001'\ndown_revision = None\n"
        "OLD = Space(collection='docs', model='wordllama/l2-supercat', version='0.4', dimensions=64)\n"
        "def upgrade():\n"
        "    op.adopt_space(OLD, table='documents', column='embedding', writer='embedmig')\n"
        "    op.flip_alias('docs', to=OLD)\n",
    )
    embedmig.upgrade(project.opened())
    with project.connect() as conn:
        conn.execute("insert into documents (id, title, body) values (100, 'new', 'a new cone')")
        conn.execute("update documents set body = 'edited' where id = 1")
    embedmig.sync(project.opened(), "docs")
    found = dict(project.rows("select id, embedding::text from documents where id in (0, 1, 100)"))
    untouched = "[" + ",".join(["0.125"] * 64) + "]"
    assert found[0] == untouched  # what was adopted is not touched
    assert untouched not in (found[1], found[100])
    assert project.one("select count(*) from docs_embeddings") == 11
    assert project.one("select count(*) from embedmig.pending_changes") == 0
