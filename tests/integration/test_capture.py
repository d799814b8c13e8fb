"""Capture and sync: what changes in the source reaches every live space, and nothing else does."""

from __future__ import annotations

import psycopg
import pytest

import embedmig
from tests.project import CONFIG, NEW_TAG, OLD_TAG, Project

pytestmark = pytest.mark.with_ledger

OUTBOX = "select count(*) from embedmig.outbox_docs"


@pytest.fixture
def live(project: Project) -> Project:
    """A collection with an active space of 64 dimensions, captured."""
    project.space_script("0001")
    project.prepared("capture", lambda: (project.documents(20), embedmig.upgrade(project.opened())))
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


@pytest.mark.parametrize("writer", ["embedmig", "application"])
def test_repair_does_for_adopted_vectors_what_gate_and_audit_recommend_it_for(project: Project, writer: str) -> None:
    project.documents(10)
    with project.connect() as conn:
        conn.execute("alter table documents add column embedding vector(64)")
        conn.execute("update documents set embedding = array_fill(0.125, array[64])::vector")
    project.script(
        "0001_adopt.py",
        "from embedmig import Space, op\nrevision = '0001'\ndown_revision = None\n"
        "OLD = Space(collection='docs', model='wordllama/l2-supercat', version='0.4', dimensions=64)\n"
        "def upgrade():\n"
        f"    op.adopt_space(OLD, table='documents', column='embedding', writer={writer!r})\n"
        "    op.flip_alias('docs', to=OLD)\n",
    )
    embedmig.upgrade(project.opened())
    with project.connect() as conn:
        conn.execute("drop trigger if exists embedmig_docs_update on documents")
        conn.execute("drop trigger if exists embedmig_docs_insert on documents")
        conn.execute("insert into documents (id, title, body) values (100, 'new', 'while the triggers were away')")
        conn.execute("update documents set embedding = null where id = 3")

    def recommended() -> list[str]:
        found = embedmig.audit(project.opened(), "docs").findings
        said = [*closed(project).values(), *(one.hint for one in found)]
        return [text for text in said if "--repair" in text]

    assert bool(recommended()) == (writer == "embedmig")
    embedmig.sync(project.opened(), "docs", repair=True)
    assert recommended() == []
    missing = project.one("select count(*) from documents where embedding is null")
    assert missing == (0 if writer == "embedmig" else 2)


# --- what goes wrong inside a trigger, and rows that come without one ---------------------------------------------


def closed(project: Project) -> dict[str, str]:
    """Conditions that keep the gate closed, with what would open them."""
    return {verdict.name: verdict.advice for verdict in embedmig.gate(project.opened(), "docs") if not verdict.passed}


def die(*_: object) -> None:
    """In the place of something that never ended."""
    raise KeyboardInterrupt


def health(project: Project) -> tuple[str, str]:
    """Of the capture, as status says it: state and reason."""
    found = embedmig.status(project.opened()).collections["docs"]
    return found.capture, found.capture_note


BREAKING = {
    "the outbox is dropped": "drop table embedmig.outbox_docs",
    "the outbox takes no such key": "alter table embedmig.outbox_docs add check (id < 0) not valid",
    "the outbox was altered": "alter table embedmig.outbox_docs rename column id to other",
}


@pytest.mark.parametrize("what", BREAKING)
def test_a_broken_trigger_lets_writes_through_closes_the_gate_and_one_command_repairs_it(
    live: Project, what: str
) -> None:
    with live.connect() as conn:
        conn.execute(BREAKING[what])  # type: ignore[call-overload]
        conn.execute("update documents set body = 'written all the same' where id = 1")
        conn.execute("insert into documents values (100, 'new', 'and inserted'), (101, 'another', 'and inserted')")
        conn.execute("delete from documents where id = 2")
        with conn.transaction():
            conn.execute("set local session_replication_role = replica")
            conn.execute("insert into documents values (102, 'replicated', 'and inserted')")
        conn.execute(
            "alter table embedmig.outbox_docs drop constraint if exists outbox_docs_id_check"
        ) if "key" in what else None
    state, note = health(live)
    assert state == "broken"
    assert note.startswith("since 20")
    assert "outbox_docs" in note
    assert "broken" in closed(live)["capture"]
    embedmig.sync(live.opened(), "docs", repair=True)
    assert health(live) == ("installed", "")
    assert not closed(live)
    live.expect_exact()


def test_a_text_column_renamed_by_a_schema_migration_breaks_no_write_and_repair_follows_it(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("alter table documents rename column body to content")
        conn.execute("update documents set content = 'edited' where id = 1")
        conn.execute("insert into documents values (100, 'new', 'a new cone')")
    live.configure(CONFIG.replace('"body"', '"content"'))
    assert health(live)[0] == "broken"
    embedmig.sync(live.opened(), "docs", repair=True)
    with live.connect() as conn:
        conn.execute("update documents set content = 'edited once more' where id = 3")
        assert live.one(OUTBOX) == 1
        embedmig.sync(live.opened(), "docs")
        assert not closed(live)
        conn.execute("alter table documents rename column content to body")
    live.expect_exact()


def test_a_dropped_text_column_breaks_no_write_and_a_new_revision_goes_on_without_it(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("alter table documents drop column body")
        conn.execute("update documents set title = 'edited' where id = 1")
    live.configure(CONFIG.replace('text = ["title", "body"]', 'text = ["title"]'))
    live.space_script("0002", "0001", dimensions=128)
    with pytest.raises(embedmig.EmbedmigError, match="capture is broken"):
        embedmig.upgrade(live.opened())
    embedmig.sync(live.opened(), "docs", repair=True)
    embedmig.upgrade(live.opened())
    with live.connect() as conn:
        conn.execute("update documents set title = 'again' where id = 2")
    assert live.one(OUTBOX) == 1
    embedmig.sync(live.opened(), "docs")
    assert not closed(live)


def test_a_renamed_key_breaks_no_write_and_is_said(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("alter table documents rename column id to doc_id")
        conn.execute("update documents set title = 'edited' where doc_id = 1")
    found = embedmig.status(live.opened()).collections["docs"]
    assert "key column 'id' is not in documents" in (found.error or "")


def test_the_schema_of_embedmig_renamed_or_dropped_breaks_no_write(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("alter schema embedmig rename to elsewhere")
        conn.execute("update documents set body = 'edited' where id = 1")
        conn.execute("alter schema elsewhere rename to embedmig")
        embedmig.sync(live.opened(), "docs", repair=True)
        live.expect_exact()
        conn.execute("drop schema embedmig cascade")
        conn.execute("update documents set body = 'edited again' where id = 1")


def test_a_publication_of_all_tables_stops_no_sync(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("create publication everything for all tables")
        conn.execute("update documents set body = 'published' where id = 1")
    embedmig.sync(live.opened(), "docs")
    assert live.one(OUTBOX) == 0
    live.expect_exact()


def test_rows_of_partitions_that_come_and_go_are_taken_in_by_sync(project: Project) -> None:
    with project.connect() as conn:
        conn.execute("create table documents (id bigint primary key, title text, body text) partition by range (id)")
        for low in (0, 100, 200):
            conn.execute(f"create table part_{low} partition of documents for values from ({low}) to ({low + 100})")  # type: ignore[call-overload]
        conn.execute(
            "insert into documents select n, 'title ' || n, 'body of ' || n from generate_series(0, 299, 10) n"
        )
    project.space_script("0001")
    embedmig.upgrade(project.opened())
    with project.connect() as conn:
        conn.execute("create table loaded (like documents including all)")
        conn.execute("insert into loaded select n, 'loaded', 'before it was attached' from generate_series(300, 309) n")
        for change in (
            "alter table documents attach partition loaded for values from (300) to (400)",
            "truncate part_0",
            "alter table documents detach partition part_100",
            "drop table part_200",
        ):
            conn.execute(change)  # type: ignore[call-overload]
            assert health(project)[0] == "incomplete"
            assert "capture" in closed(project)
            embedmig.sync(project.opened(), "docs")
            assert not closed(project)
            project.expect_exact()
        conn.execute("insert into part_100 values (151, 'detached', 'and of no concern')")
        conn.execute("alter table loaded disable trigger user")
    assert health(project) == ("disabled", "a trigger of partition loaded does not fire")


def test_a_table_swapped_by_rename_is_noticed_and_taken_over(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("create table fresh (like documents including all)")
        conn.execute("insert into fresh select id, title, 'fresh' from documents where id > 5")
        conn.execute("alter table documents rename to documents_old; alter table fresh rename to documents")
    state, note = health(live)
    assert (state, "documents_old" in note) == ("missing", True)
    fault = embedmig.status(live.opened()).collections["docs"].alias_fault
    assert fault is not None
    assert "reads documents_old, not documents: embedmig alias rebuild docs" in fault
    embedmig.sync(live.opened(), "docs", repair=True)
    embedmig.alias_rebuild(live.opened(), "docs")
    assert (
        live.one("select count(*) from pg_trigger where tgrelid = 'documents_old'::regclass and not tgisinternal") == 0
    )
    found = embedmig.status(live.opened()).collections["docs"]
    assert (found.capture, found.alias_fault) == ("installed", None)
    assert live.rows("select id from docs_embeddings order by 1") == live.rows("select id from documents order by 1")
    live.expect_exact()


def test_an_alias_that_went_with_a_cascade_is_said_and_comes_back(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("drop view docs_embeddings")
    assert "is not there" in (embedmig.status(live.opened()).collections["docs"].alias_fault or "")
    assert "alias rebuild" in live.run("search", "docs", "cone", expect=2).stderr
    embedmig.alias_rebuild(live.opened(), "docs")
    assert embedmig.status(live.opened()).collections["docs"].alias_fault is None


def test_two_ledgers_watch_one_table_side_by_side(live: Project) -> None:
    second = CONFIG.replace("[embedmig]", '[embedmig]\nschema = "other"').replace("docs_embeddings", "docs_others")
    live.configure(second)
    embedmig.upgrade(live.opened())
    with live.connect() as conn:
        conn.execute("update documents set body = 'seen by both' where id = 1")
    assert (live.one(OUTBOX), live.one("select count(*) from other.outbox_docs")) == (1, 1)
    assert health(live) == ("installed", "")
    live.configure(CONFIG)
    assert health(live) == ("installed", "")


def test_triggers_that_another_took_over_are_missing(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("create function nothing() returns trigger language plpgsql as 'begin return null; end'")
        conn.execute(
            "create or replace trigger embedmig_docs_update after update on documents execute function nothing()"
        )
    assert health(live)[0] == "missing"
    embedmig.sync(live.opened(), "docs", repair=True)


def test_a_partition_as_a_source_is_captured_when_it_is_written_by_way_of_its_parent(project: Project) -> None:
    with project.connect() as conn:
        conn.execute("create table everything (id bigint primary key, title text, body text) partition by range (id)")
        conn.execute("create table documents partition of everything for values from (0) to (1000)")
        conn.execute("insert into everything select n, 'title', 'body of ' || n from generate_series(0, 9) n")
    project.space_script("0001")
    embedmig.upgrade(project.opened())
    with project.connect() as conn:
        conn.execute("update everything set body = 'edited' where id = 1")
        conn.execute("delete from everything where id = 2")
        conn.execute("insert into everything values (50, 'new', 'one')")
    embedmig.sync(project.opened(), "docs")
    project.expect_exact()
    with project.connect() as conn:
        conn.execute("truncate everything")
    embedmig.sync(project.opened(), "docs")
    project.expect_exact()


def test_a_child_by_inheritance_that_is_made_later_closes_the_gate(live: Project) -> None:
    with live.connect() as conn:
        conn.execute("create table child () inherits (documents)")
    assert "inherit" in closed(live)["capture"]


def test_repair_that_was_killed_before_it_had_compared_opens_no_gate(
    live: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live.connect() as conn:
        conn.execute("alter table documents disable trigger embedmig_docs_update")
        conn.execute("update documents set body = 'nobody saw this' where id = 1")
    assert health(live)[0] == "disabled"
    with monkeypatch.context() as patched:
        patched.setattr("embedmig.engine.rescan.reconcile", die)
        with pytest.raises(KeyboardInterrupt):
            embedmig.sync(live.opened(), "docs", repair=True)
    assert health(live)[0] == "incomplete"
    embedmig.sync(live.opened(), "docs", repair=True)
    assert not closed(live)
    live.expect_exact()
