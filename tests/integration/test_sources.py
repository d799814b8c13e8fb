"""Every kind of table: what is written to it is captured, or it is refused before anything is changed."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import psycopg
import pytest
from psycopg import sql

import embedmig
from embedmig.errors import SourceError
from tests.project import CONFIG, Project

pytestmark = pytest.mark.with_ledger

SPACE = "select format('embedmig.%I', table_name) from embedmig.spaces"


def begin(project: Project, setup: str, collection: str) -> None:
    """A table, a collection over it, and an active space."""
    with project.connect() as conn:
        conn.execute(setup)  # type: ignore[call-overload]
    head = CONFIG[: CONFIG.index("[collections.docs]")]
    project.configure(f'{head}[collections.docs]\nalias = "docs_embeddings"\n{collection}')
    project.space_script("0001")
    embedmig.upgrade(project.opened())


def expect_same(project: Project, key: str, table: str = "documents", where: str = "true") -> None:
    """After one sync the space has the eligible rows and no others, and every gate is open."""
    embedmig.sync(project.opened(), "docs")
    space = project.one(SPACE)
    assert project.rows(f"select {key}::text from {space} order by 1") == project.rows(
        f"select {key}::text from {table} where {where} order by 1"
    )
    closed = [verdict for verdict in embedmig.gate(project.opened(), "docs") if not verdict.passed]
    assert not closed


def write(project: Project, *statements: str) -> None:
    """As an application would, one transaction a statement."""
    with project.connect() as conn:
        for statement in statements:
            conn.execute(statement)  # type: ignore[call-overload]


NAMES = ["new", "old", "found", "tg_op", "n", "o", "r", "s", "c", "e", "doc", "digest", "place", "generation", "chunks", "before", "key", "space", "percent%", 'quo"te', "Mixed"]  # fmt: skip


@pytest.mark.parametrize("partitioned", [False, True])
def test_no_name_of_a_column_means_anything_else_in_a_trigger_or_a_query(project: Project, partitioned: bool) -> None:
    quoted = ['"' + name.replace('"', '""') + '"' for name in NAMES]
    keys = ", ".join(f"{name} int default 1" for name in quoted)
    begin(
        project,
        f"create table documents ({keys}, embedmig_many text, many boolean default true, primary key ({', '.join(quoted)}))"
        + (
            f" partition by list ({quoted[0]}); create table part partition of documents default" if partitioned else ""
        ),
        'table = "documents"\nkey = [' + ", ".join(f"'{name}'" for name in quoted) + ']\ntext = ["embedmig_many"]\n'
        "where = \"many and old > 0 and embedmig_many not like '%never%'\"\n",
    )
    rows = "select n, 'a text ' || n from generate_series(1, 20) n"
    write(
        project,
        f"insert into documents (new, embedmig_many) {rows}",
        "insert into documents (new, embedmig_many) values (50, 'never'), (51, 'one')",
        "update documents set embedmig_many = 'edited' where new = 3",
        "update documents set many = false where new = 4",
        "update documents set found = 2 where new = 5",
        "delete from documents where new = 6",
    )
    expect_same(project, "new::text || found", where="many and embedmig_many <> 'never'")
    project.run("search", "docs", "edited", "-k", "1")
    embedmig.sync(project.opened(), "docs", repair=True)
    assert embedmig.status(project.opened(), exact=True).collections["docs"].capture == "installed"


def test_a_virtual_generated_column_is_captured_although_triggers_see_nothing_there(project: Project) -> None:
    with project.connect() as conn:
        if conn.info.server_version < 180000:
            pytest.skip("virtual generated columns came with PostgreSQL 18")
    begin(
        project,
        "create table documents (id int primary key, title text, body text, shown date,"
        " whole text generated always as (title || ': ' || body), visible boolean generated always as (shown is not null));"
        "insert into documents select n, 'title', 'body ' || n, '2026-01-01' from generate_series(1, 9) n",
        'table = "documents"\nkey = "id"\ntext = ["whole"]\nwhere = "visible"\n',
    )
    write(
        project,
        "update documents set body = 'another' where id = 1",
        "insert into documents values (20, 'title', 'new', '2026-01-01'), (21, 'title', 'hidden', null)",
        "update documents set shown = null where id = 2",
        "delete from documents where id = 3",
    )
    assert project.one("select count(*) from embedmig.outbox_docs") == 4
    expect_same(project, "id", where="visible")


KEYS = {
    "a domain": ("create domain k as int not null check (value > 0)", "k", "n"),
    "a domain over a domain": ("create domain base as text; create domain k as base check (value is not null)", "k", "'k' || n"),
    "an enum elsewhere": (
        """create schema apart; do $$ begin execute 'create type apart.k as enum (' ||
           (select string_agg(quote_literal('e' || n), ',') from generate_series(1, 99) n) || ')'; end $$""",
        "apart.k", "('e' || n)::apart.k",
    ),
    "a composite": ("create type k as (a int, b text)", "k", "row(n, 'x,\"' || n)::k"),
    "numeric": ("", "numeric", "n / 7.0"),
    "interval": ("", "interval", "n * interval '1 day 1 hour'"),
    "char(n)": ("", "char(6)", "'k' || n"),
    "an array": ("", "text[]", "array['a,\"' || n, null]"),
    "a range": ("", "int4range", "int4range(n, n + 1)"),
    "timestamptz": ("", "timestamptz", "'2026-03-29 00:30+00'::timestamptz + n * interval '1 hour 1 microsecond'"),
    "bytea": ("", "bytea", "sha256(n::text::bytea)"),
    "bigint at its end": ("", "bigint", "9223372036854775807 - n"),
}  # fmt: skip


@pytest.mark.parametrize("kind", KEYS)
def test_keys_of_every_kind_live_through_writes_sync_and_truncate(project: Project, kind: str) -> None:
    setup, type_, value = KEYS[kind]
    begin(
        project,
        f"{setup}; create table documents (id {type_} primary key, body text);"
        f"insert into documents select {value}, 'body ' || n from generate_series(1, 30) n",
        'table = "documents"\nkey = "id"\ntext = ["body"]\n[backfill]\nrange_rows = 10\n',
    )
    write(
        project,
        f"insert into documents select {value}, 'more' from generate_series(40, 60) n",
        f"update documents set body = 'edited' where id in (select {value} from generate_series(3, 5) n)",
        f"update documents set id = (select {value} from generate_series(80, 80) n) where id = (select {value} from generate_series(7, 7) n)",
        f"delete from documents where id in (select {value} from generate_series(8, 9) n)",
    )
    expect_same(project, "id")
    write(project, "truncate documents")
    expect_same(project, "id")


APART = """
create schema apart; create type apart.pair as (a int, b int);
create function apart.cmp(apart.pair, apart.pair) returns int language sql immutable as 'select btrecordcmp($1, $2)';
"""
for sign, name, compared in (("<", "lt", "< 0"), ("<=", "le", "<= 0"), ("=", "eq", "= 0"), (">=", "ge", ">= 0"), (">", "gt", "> 0")):  # fmt: skip
    APART += f"""
create function apart.{name}(apart.pair, apart.pair) returns boolean language sql immutable as 'select apart.cmp($1, $2) {compared}';
create operator apart.{sign} (leftarg = apart.pair, rightarg = apart.pair, function = apart.{name}, merges = {name == "eq"},
  commutator = operator(apart.{ {"<": ">", "<=": ">=", "=": "=", ">=": "<=", ">": "<"}[sign] }));"""
APART += """
create operator class apart.pair_ops default for type apart.pair using btree as operator 1 apart.<, operator 2 apart.<=,
  operator 3 apart.=, operator 4 apart.>=, operator 5 apart.>, function 1 apart.cmp(apart.pair, apart.pair);
"""


def test_a_key_whose_operators_live_in_a_schema_that_nobody_looks_in(project: Project) -> None:
    begin(
        project,
        f"{APART}; create table documents (id apart.pair, tenant int, body text, primary key (id, tenant));"
        "insert into documents select row(n, 1)::apart.pair, 1, 'body ' || n from generate_series(1, 30) n",
        'table = "documents"\nkey = ["id", "tenant"]\ntext = ["body"]\n[backfill]\nrange_rows = 10\n',
    )
    write(
        project,
        "update documents set body = 'edited' where (id).a = 3",
        "delete from documents where (id).a = 4",
        "insert into documents values (row(99, 1), 1, 'new')",
    )
    expect_same(project, "id")


@pytest.mark.parametrize(
    ("type_", "old", "new"),
    [
        ("numeric", "3", "3.00"),
        ("interval", "interval '3 days'", "interval '72 hours'"),
        ("float8", "0", "'-0'::float8"),
    ],
)
def test_a_row_whose_key_is_spelt_anew_is_one_row(project: Project, type_: str, old: str, new: str) -> None:
    value = "n * interval '1 day'" if type_ == "interval" else f"n::{type_}"
    begin(
        project,
        f"create table documents (id {type_} primary key, body text);"
        f"insert into documents select {value}, 'body ' || n from generate_series(0, 9) n",
        'table = "documents"\nkey = "id"\ntext = ["body"]\n',
    )
    write(project, f"update documents set id = {new}, body = 'spelt anew' where id = {old}")
    expect_same(project, "count(*)")
    write(
        project,
        f"update documents set body = 'again' where id = {new}",
        f"update documents set id = {old} where id = {new}",
    )
    expect_same(project, "count(*)")


@pytest.mark.parametrize("schema", ["public", "extensions"])
@pytest.mark.parametrize("type_", ["citext", "ltree"])
def test_keys_and_texts_of_contrib_types_wherever_they_are_installed(project: Project, type_: str, schema: str) -> None:
    """On no search path in the second case. Letters count in a text: citext's own operator holds two spellings for equal."""
    if not project.rows(f"select from pg_available_extensions where name = '{type_}'"):
        pytest.skip(f"this server comes without {type_}; PostgreSQL 17 of make test-matrix has it")
    one = f"('Top.K' || n)::{schema}.{type_}"
    begin(
        project,
        f"create schema if not exists extensions; create extension {type_} schema {schema};"
        f"create table documents (id {schema}.{type_} primary key, label {schema}.{type_}, body text);"
        f"insert into documents select {one}, {one}, 'body ' || n from generate_series(1, 30) n",
        'table = "documents"\nkey = "id"\ntext = ["label", "body"]\ncolumns = ["label"]\n[backfill]\nrange_rows = 10\n',
    )
    of = f"id = ('Top.K{{}}')::{schema}.{type_}"
    write(
        project,
        "set search_path = public, extensions",
        f"update documents set label = upper(label::text)::{type_} where {of.format(3)}",
        f"update documents set id = upper(id::text)::{type_} where {of.format(4)}",
        f"update documents set body = 'edited' where {of.format(5)}",
        f"delete from documents where {of.format(6)}",
        f"insert into documents select {one}, {one}, 'more' from generate_series(40, 60) n",
    )
    assert project.one("select count(*) from embedmig.outbox_docs where lower(id::text) = 'top.k3'") == 1
    expect_same(project, "lower(id::text)")
    assert project.one("select label::text from docs_embeddings where label::text = 'TOP.K3'") == "TOP.K3"
    write(project, "truncate documents")
    expect_same(project, "id")


def test_hidden_stale_rows_are_the_same_in_every_session(project: Project) -> None:
    columns = {"at": "now()", "day": "date '2026-01-01' + n", "ratio": "n / 3.0", "raw": "sha256('x')", "span": "n * interval '1 day 2 hours'", "price": "n::money", "low": "char(8) 'a'", "span2": "array[now()]"}  # fmt: skip
    types = ["timestamptz", "date", "float8", "bytea", "interval", "money", "char(8)", "timestamptz[]"]
    begin(
        project,
        f"create table documents (id int primary key, {', '.join(f'{name} {kind}' for name, kind in zip(columns, types, strict=True))});"
        f"insert into documents select n, {', '.join(columns.values())} from generate_series(1, 9) n",
        f'table = "documents"\nkey = "id"\ntext = {list(columns)}\nstale = "hide"\n'.replace("'", '"'),
    )
    with project.connect() as conn:
        for setting in ("timezone = 'America/New_York'", "datestyle = 'German'", "extra_float_digits = 0", "bytea_output = 'escape'", "intervalstyle = 'iso_8601'"):  # fmt: skip
            conn.execute(f"set {setting}")  # type: ignore[call-overload]
        assert conn.execute("select count(*) from docs_embeddings").fetchone() == (9,)
        conn.execute(
            "update documents set ratio = ratio + 1e-15 where id = 1"
        )  # not to be seen in this session's texts
        assert conn.execute("select count(*) from docs_embeddings").fetchone() == (8,)
    expect_same(project, "id")


@pytest.mark.parametrize(
    ("where", "why"),
    [
        ("shown <= now()", "IMMUTABLE"),
        ("random() < 2", "IMMUTABLE"),
        ("id in (select id from other)", "subquery"),
        ("shown::date > '2026-01-01'", "IMMUTABLE"),
    ],
)
def test_a_filter_whose_answer_changes_by_itself_is_refused(project: Project, where: str, why: str) -> None:
    setup = "create table documents (id int primary key, body text, shown timestamptz default now()); create table other (id int)"
    with pytest.raises(SourceError, match=why) as refused:
        begin(project, setup, f'table = "documents"\nkey = "id"\ntext = ["body"]\nwhere = "{where}"\n')
    assert "rescan" in (refused.value.hint or "")
    assert project.one("select to_regclass('embedmig.outbox_docs')") is None


def test_with_a_period_such_a_filter_is_kept_true(project: Project) -> None:
    begin(
        project,
        "create table documents (id int primary key, body text); create table hidden (id int);"
        "insert into documents select n, 'body ' || n from generate_series(1, 9) n; insert into hidden values (1)",
        'table = "documents"\nkey = "id"\ntext = ["body"]\nwhere = "id not in (select id from hidden)"\nrescan = "5m"\n',
    )
    write(project, "delete from hidden", "insert into hidden values (2)", "insert into documents values (20, 'new')")
    expect_same(project, "id", where="id <> 2")


def test_a_filter_with_percent_signs_and_qualified_names(project: Project) -> None:
    begin(
        project,
        "create table documents (id int primary key, body text);"
        "insert into documents select n, 'body ' || n from generate_series(1, 19) n",
        'table = "documents"\nkey = "id"\ntext = ["body"]\nwhere = "documents.body not like \'%1%\' and id % 2 = 0"\n',
    )
    write(project, "update documents set body = '1' where id = 2", "insert into documents values (30, 'new')")
    expect_same(project, "id", where="body not like '%1%' and id % 2 = 0")
    version = project.one("select version from embedmig.spaces")
    assert "30" in project.run("search", "docs", "new", "-k", "1", "--version", version).stdout
    assert embedmig.make_golden(project.opened(), "docs", 4).queries == 4


WORKS = {
    "unlogged": "create unlogged table documents (id int primary key, body text)",
    "typed": "create type kind as (id int, body text); create table documents of kind (primary key (id))",
    "an identity that is always generated": "create table documents (id int generated always as identity primary key, body text)",
    "a deferrable key": "create table documents (id int primary key deferrable initially deferred, body text)",
    "columns were dropped": "create table documents (a int, id int primary key, b text, body text); alter table documents drop a, drop b",
    "a rule": "create table documents (id int primary key, body text); create table log (id int);"
    "create rule noted as on update to documents do also insert into log values (new.id)",
    "triggers of its own": """create table documents (id int primary key, body text, edits int default 0);
        create function before() returns trigger language plpgsql as 'begin new.body := upper(new.body); return new; end';
        create trigger a before insert or update on documents for each row execute function before();
        create function again() returns trigger language plpgsql as
          'begin update documents set edits = 1, body = body || ''!'' where id = new.id and edits = 0; return null; end';
        create trigger z after insert on documents for each row execute function again();
        create function guard() returns trigger language plpgsql as
          'begin if current_user = ''nobody'' then raise exception ''no''; end if; return null; end';
        create trigger g before update on documents for each statement execute function guard()""",
}


@pytest.mark.parametrize("kind", WORKS)
def test_tables_with_habits_of_their_own_are_captured(project: Project, kind: str) -> None:
    insert = (
        "insert into documents (id, body) overriding system value select n, 'body ' || n from generate_series({}) n"
    )
    begin(
        project,
        f"{WORKS[kind]}; {insert.format('1, 9')}",
        'table = "documents"\nkey = "id"\ntext = ["body"]\n',
    )
    write(
        project,
        insert.format("20, 40"),
        "update documents set body = 'edited' where id = 3",
        "delete from documents where id = 4",
    )
    expect_same(project, "id")


TEXTS = {
    "json": ("jsonb default '{\"a\": [1, 2]}'", "'{\"a\": 3}'"),
    "an array": ("text[] default '{x,y}'", "'{z}'"),
    "a composite": ("pair default row('x', 1)::pair", "row('y', 2)"),
    "a domain": ("remark default 'calm'", "'wild'"),
    "an enum": ("mood default 'calm'", "'wild'"),
    "stored": ("text generated always as (upper(title)) stored", "default"),
}


@pytest.mark.parametrize("kind", TEXTS)
def test_texts_of_other_types_are_captured(project: Project, kind: str) -> None:
    declared, edited = TEXTS[kind]
    begin(
        project,
        "create type pair as (a text, b int); create domain remark as text check (value <> ''); create type mood as enum ('calm', 'wild');"
        f"create table documents (id int primary key, title text, body {declared});"
        "insert into documents (id, title) select n, 'title ' || n from generate_series(1, 9) n",
        'table = "documents"\nkey = "id"\ntext = ["title", "body"]\n',
    )
    write(
        project,
        f"update documents set title = 'edited', body = {edited} where id = 3",
        "delete from documents where id = 4",
    )
    assert project.one("select count(*) from embedmig.outbox_docs") == 2
    expect_same(project, "id")


def test_a_materialised_view_is_watched_by_its_watermark(project: Project) -> None:
    begin(
        project,
        "create table base (id int primary key, body text, at timestamptz default now());"
        "insert into base select n, 'body ' || n from generate_series(1, 9) n;"
        "create materialized view documents as table base; create unique index on documents (id)",
        'table = "documents"\nkey = "id"\ntext = ["body"]\ncapture = "watermark"\nchanged_at = "at"\n',
    )
    write(
        project,
        "update base set body = 'edited', at = now() where id = 3; delete from base where id = 4; insert into base values (20, 'new')",
        "refresh materialized view concurrently documents",
    )
    expect_same(project, "id")


def test_a_foreign_table_is_watched_by_its_watermark(project: Project) -> None:
    if not project.rows("select from pg_available_extensions where name = 'postgres_fdw'"):
        pytest.skip("this server comes without postgres_fdw; PostgreSQL 17 of make test-matrix has it")
    with project.connect() as conn:
        where = ", ".join(
            f"{name} '{value}'"
            for name, value in (("host", conn.info.host), ("port", conn.info.port), ("dbname", conn.info.dbname))
        )
    begin(
        project,
        "create table base (id int primary key, body text, at timestamptz default now());"
        "insert into base select n, 'body ' || n from generate_series(1, 9) n;"
        f"create extension postgres_fdw; create server here foreign data wrapper postgres_fdw options ({where});"
        "create user mapping for current_user server here options (user 'postgres');"
        "create foreign table documents (id int not null, body text, at timestamptz) server here options (table_name 'base')",
        'table = "documents"\nkey = "id"\ntext = ["body"]\ncapture = "watermark"\nchanged_at = "at"\n',
    )
    write(
        project,
        "update base set body = 'edited', at = now() where id = 3; delete from base where id = 4; insert into base values (20, 'new')",
    )
    expect_same(project, "id")
    assert embedmig.status(project.opened()).collections["docs"].source_rows == 9


def test_a_key_under_a_collation_that_takes_two_spellings_for_one_is_one_row(project: Project) -> None:
    if not project.rows("select from pg_collation where collname = 'und-x-icu'"):
        pytest.skip("this server was built without ICU; PostgreSQL 17 of make test-matrix has it")
    begin(
        project,
        "create collation either (provider = icu, locale = 'und-u-ks-level2', deterministic = false);"
        "create table documents (id text collate either primary key, body text);"
        "insert into documents select 'Key ' || n, 'body ' || n from generate_series(1, 30) n",
        'table = "documents"\nkey = "id"\ntext = ["body"]\n[backfill]\nrange_rows = 10\n',
    )
    write(
        project,
        "update documents set id = 'KEY 3', body = 'spelt anew' where id = 'key 3'",
        "update documents set id = 'kEY 4' where id = 'key 4'",
        "delete from documents where id = 'KEY 5'",
        "insert into documents values ('key 5', 'again')",
    )
    expect_same(project, "lower(id)")


REFUSED = {
    "a view": ("create table base (id int primary key, body text); create view documents as table base", "", "a view"),
    "a temporary table": ("create temp table documents (id int primary key, body text)", "", "not there|temporary"),
    "a key without an order": ("create table documents (id point, body text)", "", "can't be compared"),
    "a key with NULLs": ("create table documents (id int unique, body text); insert into documents values (null, 'x')", "", "NULL"),
    "a key with NULLs in a part": (
        "create table documents (id int, part int, body text, unique (id, part)); insert into documents values (1, null, 'x')",
        'key = ["id", "part"]\n', "NULL",
    ),
    "a materialised view with triggers": (
        "create table base (id int primary key, body text); create materialized view documents as table base", "", "materialised",
    ),
    "a table that others inherit from": (
        "create table documents (id int primary key, body text); create table child () inherits (documents)", "", "inherit",
    ),
    "a key named like the outbox's own column": (
        "create table documents (id int, changed_at timestamptz, body text, primary key (id, changed_at))",
        'key = ["id", "changed_at"]\n', "changed_at",
    ),
    "a watermark that is no time": (
        "create table documents (id int primary key, body text, at text)",
        'key = "id"\ncapture = "watermark"\nchanged_at = "at"\n', "changed_at column at is text",
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cant_be_a_source_is_refused_before_anything_is_changed(project: Project, kind: str) -> None:
    setup, more, why = REFUSED[kind]
    with pytest.raises(SourceError, match=why) as refused:
        begin(project, setup, 'table = "documents"\ntext = ["body"]\n' + (more or 'key = "id"\n'))
    assert refused.value.exit_code == 2
    assert project.one("select count(*) from pg_trigger where not tgisinternal") == 0


@pytest.fixture
def ordinary_owner(project: Project) -> Iterator[Project]:
    """The project as a role that is no superuser, which will own what it makes."""
    with project.connect() as conn:
        owner = f"owner_{conn.info.dbname}"
        conn.execute(
            sql.SQL(
                "create role {o} login; grant create, temporary on database {d} to {o}; grant usage, create on schema public to {o}"
            ).format(o=sql.Identifier(owner), d=sql.Identifier(conn.info.dbname))
        )
    superuser = project.url
    project.url = superuser.replace("postgres:@", f"{owner}:@").replace("postgres@", f"{owner}@")
    yield project
    project.url = superuser
    with project.connect() as conn:
        conn.execute(f"drop owned by {owner} cascade; drop role {owner}")  # type: ignore[call-overload]


UNDER_POLICIES = (
    "create table documents (id int primary key, tenant int, body text);"
    "insert into documents select n, n % 2, 'body ' || n from generate_series(1, 10) n;"
    "alter table documents enable row level security;"
)


@pytest.mark.with_ledger(False)
def test_row_level_security_that_hides_rows_is_refused_and_later_empties_no_space(ordinary_owner: Project) -> None:
    project = ordinary_owner
    half = "create policy half on documents using (tenant = 0)"
    begin(project, UNDER_POLICIES + half, 'table = "documents"\nkey = "id"\ntext = ["body"]\n')
    write(project, "alter table documents force row level security")
    with pytest.raises(SourceError, match="row-level security hides rows"):
        embedmig.sync(project.opened(), "docs")
    project.space_script("0002", "0001", dimensions=128)
    with pytest.raises(SourceError, match="row-level security hides rows"):
        embedmig.upgrade(project.opened())
    write(project, "alter table documents no force row level security")
    expect_same(project, "id")


@pytest.mark.with_ledger(False)
def test_forced_row_level_security_is_no_hindrance_to_an_owner_whom_a_policy_shows_every_row(
    ordinary_owner: Project,
) -> None:
    project = ordinary_owner
    begin(
        project,
        UNDER_POLICIES + "alter table documents force row level security;"
        "create policy half on documents using (tenant = 0);"
        "create policy every on documents to current_user using (true)",
        'table = "documents"\nkey = "id"\ntext = ["body"]\n',
    )
    write(project, "update documents set body = 'edited' where id in (3, 4); delete from documents where id = 5")
    expect_same(project, "id")
    assert project.one("select count(*) from docs_embeddings") == 9

    write(project, "create policy own on documents as restrictive using (tenant = 1)")
    assert "row-level security hides" in (embedmig.status(project.opened()).collections["docs"].error or "")
    with pytest.raises(SourceError, match="row-level security hides rows"):
        embedmig.sync(project.opened(), "docs")
    write(project, "drop policy own on documents")
    expect_same(project, "id")


@pytest.mark.parametrize(
    ("type_", "now"),
    [
        ("timestamptz", "now()"),
        ("timestamp", "now()::timestamp"),
        ("bigint", "(extract(epoch from now()) * 1000)::bigint"),
        ("date", "current_date"),
    ],
)
def test_a_watermark_finds_edits_whatever_stamps_there_are_beside_them(project: Project, type_: str, now: str) -> None:
    future = "99999999999999" if type_ == "bigint" else "'infinity'"
    begin(
        project,
        f"create table documents (id int primary key, body text, at {type_} default {now});"
        "insert into documents select n, 'body ' || n from generate_series(1, 9) n",
        'table = "documents"\nkey = "id"\ntext = ["body"]\ncapture = "watermark"\nchanged_at = "at"\n',
    )
    write(project, f"update documents set at = {future}, body = 'by a fast clock' where id = 1")
    expect_same(project, "id")
    write(
        project,
        f"update documents set body = 'edited', at = {now} where id = 2",
        "insert into documents values (20, 'without a stamp', null)",
        "insert into documents values (21, 'restored with its old stamp', "
        + ("1" if type_ == "bigint" else "'2001-01-01'")
        + ")",
        "delete from documents where id = 3",
    )
    expect_same(project, "id")


def test_an_idle_watermark_collection_is_not_read_from_end_to_end_at_every_look(project: Project) -> None:
    begin(
        project,
        "create table documents (id int primary key, body text, at timestamptz default now() - interval '1 day'); create index on documents (at);"
        "insert into documents select n, 'body ' || n from generate_series(1, 3000) n",
        'table = "documents"\nkey = "id"\ntext = ["body"]\ncapture = "watermark"\nchanged_at = "at"\n',
    )
    embedmig.sync(project.opened(), "docs")
    write(project, "vacuum analyze documents")
    with project.opened().working() as (context, conn):
        before = project.one(
            "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_all_tables where relname = 'documents'"
        )
        sync = context.sync(conn, "docs", threading.Event())
        for _ in range(5):
            sync.spaces()
        conn.execute("select pg_stat_force_next_flush()")
    after = project.one(
        "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_all_tables where relname = 'documents'"
    )
    assert after - before < 500


def test_of_a_table_that_two_collections_share_each_adopts_its_own_rows(project: Project) -> None:
    vector = "('[' || array_to_string(array_fill({}, array[{}]), ',') || ']')::vector"
    write(
        project,
        "create table documents (id int primary key, tenant int, body text, embedding vector)",
        f"insert into documents select n, 1, 'one ' || n, {vector.format(0.125, 64)} from generate_series(1, 9) n",
        f"insert into documents select n, 2, 'two ' || n, {vector.format(0.0625, 256)} from generate_series(11, 19) n",
    )
    collection = '[collections.{0}]\ntable = "documents"\nkey = "id"\ntext = ["body"]\nalias = "{0}_shown"\nwhere = "tenant = {1}"\n'
    project.configure(
        CONFIG[: CONFIG.index("[collections.docs]")] + collection.format("one", 1) + collection.format("two", 2)
    )
    for revision, name, dimensions in (("0001", "one", 64), ("0002", "two", 256)):
        project.script(
            f"{revision}_adopt.py",
            f"from embedmig import Space, op\nrevision = {revision!r}\ndown_revision = {None if revision == '0001' else '0001'!r}\n"
            f"OLD = Space(collection={name!r}, model='wordllama/l2-supercat', version='{revision}', dimensions={dimensions})\n"
            "def upgrade():\n    op.adopt_space(OLD, table='documents', column='embedding')\n"
            f"    op.flip_alias({name!r}, to=OLD)\n",
        )
    embedmig.upgrade(project.opened())
    tags = project.rows(
        "select tenant, embedding_version like '%dim-64%', count(*) from documents group by 1, 2 order by 1"
    )
    assert tags == [(1, True, 9), (2, False, 9)]
    assert [project.one(f"select count(*) from {name}_shown") for name in ("one", "two")] == [9, 9]


def test_a_database_in_another_encoding(project: Project, server_url: str) -> None:
    with project.connect() as conn:
        name = f"{conn.info.dbname}_l1"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"create database {name} template template0 encoding 'LATIN1' lc_collate 'C' lc_ctype 'C'")  # type: ignore[call-overload]
    utf8, project.url = project.url, server_url.replace("/postgres?", f"/{name}?")
    try:
        begin(
            project,
            "create extension vector; create table documents (id text primary key, body text);"
            "insert into documents values ('Büro', 'naïve'), ('plain', 'plain')",
            'table = "documents"\nkey = "id"\ntext = ["body"]\n',
        )
        write(
            project,
            "insert into documents values ('Straße', 'größer')",
            "update documents set body = 'déjà vu' where id = 'Büro'",
        )
        expect_same(project, "id")
    finally:
        project.url = utf8
        with psycopg.connect(server_url, autocommit=True) as conn:
            conn.execute(f"drop database {name} with (force)")  # type: ignore[call-overload]
