"""Spaces in PostgreSQL: every type, metric and kind of key; chunks; adopted vectors; and the view that shows them."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pgvector.sqlalchemy  # noqa: F401  so that SQLAlchemy knows the type
import psycopg
import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

import embedmig
from embedmig.autogenerate import include_object
from embedmig.errors import PlanError
from embedmig.testing import fake_vectors
from tests.in_process import Fake, downgrade, space_script, spaces, tag, upgrade
from tests.project import CONFIG, Project

pytestmark = pytest.mark.with_ledger


@pytest.fixture
def fake() -> Fake:
    """The provider ``fake``."""
    return Fake().register()


def text_of(conn: psycopg.Connection, key: int) -> str:
    row = conn.execute("select concat_ws(E'\\n\\n', title, body) from documents where id = %s", (key,)).fetchone()
    assert row is not None
    return str(row[0])


def one(conn: psycopg.Connection, query: str, *values: Any) -> Any:
    row = conn.execute(query, values).fetchone()
    return row[0] if row else None


def space_table(conn: psycopg.Connection, version: str) -> str:
    return str(
        one(conn, "select format('%%I.%%I', table_schema, table_name) from embedmig.spaces where version = %s", version)
    )


# --- types and metrics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
@pytest.mark.parametrize(("metric", "distance"), [("cosine", "<=>"), ("l2", "<->"), ("ip", "<#>")])
def test_every_metric_and_storage_finds_what_a_full_comparison_finds(
    project: Project, conn: psycopg.Connection, fake: Fake, storage: str, metric: str, distance: str
) -> None:
    project.documents(60)
    space_script(project, more=f"metric={metric!r}, storage={storage!r}")
    upgrade(project)
    query = text_of(conn, 7)
    found = embedmig.search(project.opened(), "docs", query, k=5)

    assert found.hits[0].key == (7,)
    vector = fake_vectors([query], 8)[0].astype(np.float64)
    near = str((vector / np.linalg.norm(vector)).tolist())
    exact = conn.execute(f"select id from docs_embeddings order by embedding {distance} %s::{storage} limit 5", (near,))
    assert [hit.key[0] for hit in found.hits] == [row[0] for row in exact]
    definition = one(conn, "select indexdef from pg_indexes where indexdef like '%%hnsw%%'")
    assert f"{storage}_{metric}_ops" in definition


@pytest.mark.with_ledger(False)
def test_2001_dimensions_as_vector_are_refused_with_the_way_out_and_fit_as_halfvec(
    project: Project, fake: Fake
) -> None:
    project.documents(3)
    space_script(project, dimensions=2001)
    with pytest.raises(PlanError, match=r"at most 2,000 dimensions, not 2,001") as raised:
        upgrade(project)
    assert "halfvec" in str(raised.value.hint)
    assert project.one("select to_regnamespace('embedmig')") is None

    space_script(project, dimensions=2001, more='storage="halfvec"')
    upgrade(project)
    assert [(s.complete, s.index) for s in spaces(project)] == [(3, "valid")]


def test_dimensions_that_no_index_holds_are_refused(project: Project, fake: Fake) -> None:
    project.documents(3)
    space_script(project, dimensions=4001, more='storage="halfvec"')
    with pytest.raises(PlanError, match="at most 4,000") as raised:
        upgrade(project)
    assert "fewer dimensions" in str(raised.value.hint)


# --- keys and names -------------------------------------------------------------------------------------------

AWKWARD = [
    "plain",
    "with 'quotes' and \"more\"",
    "{brace,comma}",
    "back\\slash",
    "NULL",
    "",
    "ümläut",
    "向量",
    " blank ",
    "%s",
]
KEYS: dict[str, tuple[str, str, str]] = {  # the table, its rows out of n = 0 to 149, the configured key
    "text": ("k text primary key", "'n' || n", '"k"'),
    "text in another collation": ('k text collate "C" primary key', "(array['a', 'B', 'ä'])[1 + n % 3] || n", '"k"'),
    "varchar": ("k varchar(20) primary key", "'n' || n", '"k"'),
    "uuid": ("k uuid primary key", "md5(n::text)::uuid", '"k"'),
    "negative numbers": ("k bigint primary key", "(75 - n) * 1000000000000", '"k"'),
    "numeric": ("k numeric(12, 2) primary key", "n / 4.0", '"k"'),
    "a time": (
        "k timestamptz primary key",
        "'2026-01-01 00:00:00.000001+00'::timestamptz + n * interval '1 hour'",
        '"k"',
    ),
    "composite": (
        "a text, b int, c uuid, primary key (a, b, c)",
        "'t' || n % 7, n, md5('u' || n)::uuid",
        '["a", "b", "c"]',
    ),
}


@pytest.mark.parametrize("kind", KEYS)
def test_any_scalar_key_is_paged_written_and_shown(
    project: Project, conn: psycopg.Connection, fake: Fake, kind: str
) -> None:
    columns, values, key = KEYS[kind]
    conn.execute(f"create table documents ({columns}, title text)")
    conn.execute(f"insert into documents select {values}, 'text ' || n from generate_series(0, 149) n")
    project.configure(
        CONFIG.replace('key = "id"', f"key = {key}").replace(', "body"', ""), "[backfill]\nrange_rows = 20"
    )
    space_script(project)
    upgrade(project)

    assert one(conn, "select count(*) from embedmig.ranges where done") == 8
    assert [(s.rows, s.complete, s.orphans) for s in spaces(project)] == [(150, 150, 0)]
    names = ", ".join(json.loads(f"[{key}]" if key[0] == '"' else key))
    assert one(conn, f"select count(*) from docs_embeddings join documents using ({names})") == 150
    assert fake.seen.total() == 150
    hit = embedmig.search(project.opened(), "docs", "text 42", k=1).hits[0]
    assert hit.columns == {"title": "text 42"}


def test_awkward_texts_as_keys_come_back_as_they_were(project: Project, conn: psycopg.Connection, fake: Fake) -> None:
    conn.execute("create table documents (id text primary key, title text, body text)")
    conn.cursor().executemany(
        "insert into documents values (%s, %s, 'b')", [(key, f"t{n}") for n, key in enumerate(AWKWARD)]
    )
    space_script(project)
    upgrade(project)
    assert {row[0] for row in conn.execute("select id from docs_embeddings")} == set(AWKWARD)
    assert [s.complete for s in spaces(project)] == [len(AWKWARD)]


def test_schemas_and_quoted_names_in_mixed_case_are_followed(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    conn.execute(
        """create schema "My Schema";
           create table "My Schema"."Docs ""2"" Table" ("Id" int primary key, "The Body" text, tenant int, "order" text);
           insert into "My Schema"."Docs ""2"" Table" select n, 'body ' || n, n % 3, 'o' from generate_series(1, 20) n"""
    )
    project.configure(
        """
[embedmig]
database = "env:TEST_DATABASE_URL"
schema = "My Ledger"
[collections.docs]
table = '"My Schema"."Docs ""2"" Table"'
key = '"Id"'
text = ['"The Body"', 'ORDER']
alias = '"Docs Now"'
columns = ['Tenant']
"""
    )
    space_script(project)
    upgrade(project)
    assert one(conn, 'select count(*) from "My Schema"."Docs Now" where tenant = 1') == 7
    columns = [c.name for c in conn.execute('select * from "My Schema"."Docs Now" limit 0').description or ()]
    assert columns == ["Id", "chunk", "version", "embedding", "tenant", "chunk_start", "chunk_end"]
    assert embedmig.search(project.opened(), "docs", "body 3\n\no", k=1).hits[0].key_text == ("3",)
    downgrade(project, "base")
    assert one(conn, "select count(*) from pg_views where viewname = 'Docs Now'") == 0


# --- which rows -----------------------------------------------------------------------------------------------


def test_where_says_which_rows_are_embedded_and_found(project: Project, conn: psycopg.Connection, fake: Fake) -> None:
    project.documents(20)
    conn.execute("alter table documents add column published boolean not null default true")
    conn.execute("update documents set published = false where id < 5")
    project.configure(CONFIG.replace("columns =", 'where = "published"\ncolumns ='))
    space_script(project)
    upgrade(project)
    assert fake.seen.total() == 15
    assert [(s.rows, s.completeness) for s in spaces(project)] == [(15, 1.0)]
    conn.execute("update documents set published = false where id = 7")
    assert one(conn, "select count(*) from docs_embeddings where id <= 7") == 2


def test_rows_without_text_are_counted_and_do_not_hold_the_gate(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    conn.execute("update documents set title = null, body = null where id = 1")
    conn.execute("update documents set title = '', body = E' \\n\\t ' where id = 2")
    space_script(project)
    upgrade(project)
    found = embedmig.status(project.opened()).collections["docs"]
    assert (found.source_rows, found.blank_rows) == (8, 2)
    assert found.spaces[0].completeness == 1.0


@pytest.mark.parametrize(("stale", "shown"), [("serve", 1), ("hide", 0)])
def test_an_edited_row_is_served_or_hidden_until_it_is_embedded_anew(
    project: Project, conn: psycopg.Connection, fake: Fake, stale: str, shown: int
) -> None:
    project.documents(10)
    project.configure(CONFIG.replace("columns =", f'stale = "{stale}"\ncolumns ='))
    space_script(project)
    upgrade(project)
    conn.execute("update documents set body = 'another' where id = 3")
    assert one(conn, "select count(*) from docs_embeddings where id = 3") == shown
    assert one(conn, "select count(*) from docs_embeddings") == 9 + shown
    assert spaces(project)[0].complete == 9


def test_a_deleted_row_is_gone_from_the_alias_at_its_commit(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    space_script(project)
    upgrade(project)
    conn.execute("delete from documents where id = 3")
    assert one(conn, "select count(*) from docs_embeddings where id = 3") == 0


# --- chunks ---------------------------------------------------------------------------------------------------


def test_chunks_are_offsets_into_the_text_and_a_shorter_text_loses_its_surplus(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    pytest.importorskip("semantic_text_splitter", reason="the splitter is not installed")
    long = " ".join(f"Sätze, number {n}, end here." for n in range(30))
    conn.execute("create table documents (id int primary key, title text, body text)")
    conn.execute("insert into documents values (1, 'long', %s), (2, null, 'short')", (long,))
    space_script(project, more='chunk={"size": 100, "overlap": 20}')
    upgrade(project)

    version = tag(more="chunk-100+20/")
    chunks = conn.execute(
        f"select chunk, chunk_count, chunk_start, chunk_end from {space_table(conn, version)} where id = 1 order by chunk"
    ).fetchall()
    text = text_of(conn, 1)
    assert len(chunks) > 5
    assert [row[0] for row in chunks] == list(range(len(chunks)))
    assert {row[1] for row in chunks} == {len(chunks)}
    assert all(text[start:end] in fake.seen and end - start <= 100 for _, _, start, end in chunks)
    assert one(conn, "select count(*) from docs_embeddings where id = 2") == 1
    assert spaces(project)[0].complete == 2

    conn.execute("update documents set body = 'now short' where id = 1")
    first = (project.migrations / "0001_space.py").read_text()
    again = first.replace("revision = '0001'", "revision = '0002'").replace(
        "down_revision = None", "down_revision = '0001'"
    )
    project.script("0002_again.py", again)
    upgrade(project)
    assert one(conn, "select array_agg(chunk) from docs_embeddings where id = 1") == [0]
    assert spaces(project)[0].complete == 2


# --- adopted vectors ------------------------------------------------------------------------------------------

ADOPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
OLD = Space(collection="docs", model="fake/hash", version="1", dimensions=8)


def upgrade() -> None:
    op.adopt_space(OLD, table="documents", column="embedding"{more})
    op.flip_alias("docs", to=OLD)


def downgrade() -> None:
    op.flip_alias("docs", to=None)
"""


def adopt(project: Project, conn: psycopg.Connection, column: str = "vector(8)", more: str = "") -> None:
    project.documents(10)
    conn.execute(f"alter table documents add column embedding {column}")
    for key in range(8):
        vector = fake_vectors([text_of(conn, key)], 8)[0].tolist()
        conn.execute("update documents set embedding = %s where id = %s", (str(vector), key))
    project.script("0001_adopt.py", ADOPT.format(more=more))


def test_adopted_vectors_stay_where_they_are_and_a_row_without_a_version_is_seen_but_never_read(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    adopt(project, conn)
    upgrade(project)
    assert fake.seen.total() == 0
    assert one(conn, "select count(*) from docs_embeddings where version = %s", tag()) == 8
    assert embedmig.search(project.opened(), "docs", text_of(conn, 5), k=1).hits[0].key_text == ("5",)

    conn.execute(
        "insert into documents (id, title, embedding) select 99, 'untagged', embedding from documents where id = 1"
    )
    assert one(conn, "select count(*) from docs_embeddings where id = 99") == 0
    space = spaces(project)[0]
    assert (space.untagged, space.rows, space.content) == (1, 8, "unknown")


def test_a_version_column_that_is_there_already_is_taken_as_it_is(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    adopt(project, conn, more=', version_column="made_by"')
    conn.execute("alter table documents add column made_by text")
    conn.execute("update documents set made_by = %s where id < 4", (tag(),))
    conn.execute("update documents set made_by = 'something else' where id = 4")
    upgrade(project)
    assert {row[0] for row in conn.execute("select id from docs_embeddings")} == {0, 1, 2, 3}
    assert spaces(project)[0].untagged == 3


def test_a_column_of_bare_vector_is_adopted_where_every_length_is_right(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    adopt(project, conn, column="vector")
    conn.execute("update documents set embedding = '[1,2,3]' where id = 4")
    with pytest.raises(PlanError, match="3 dimensions, the space says 8"):
        upgrade(project)
    conn.execute("update documents set embedding = null where id = 4")
    upgrade(project)
    assert one(conn, "select count(*) from docs_embeddings") == 7


@pytest.mark.parametrize(
    ("column", "words"), [("vector(5)", "5 dimensions, the space says 8"), ("halfvec(8)", "is halfvec")]
)
@pytest.mark.with_ledger(False)
def test_a_column_of_another_length_or_type_is_not_adopted(
    project: Project, conn: psycopg.Connection, fake: Fake, column: str, words: str
) -> None:
    project.documents(2)
    conn.execute(f"alter table documents add column embedding {column}")
    project.script("0001_adopt.py", ADOPT.format(more=""))
    with pytest.raises(PlanError, match=re.escape(words)):
        upgrade(project)
    assert one(conn, "select to_regnamespace('embedmig')") is None


# --- the view -------------------------------------------------------------------------------------------------

RIGHTS = """
select pg_get_userbyid(relowner), obj_description(c.oid, 'pg_class'),
       (select array_agg(coalesce(right_of.column, '') || a::text order by right_of.column, a::text)
        from (select null as column, relacl as acl union all
              select attname, attacl from pg_attribute where attrelid = c.oid) right_of, aclexplode(acl) a)
from pg_class c where oid = 'docs_embeddings'::regclass
"""

VECTOR_TYPE = """
select format_type(atttypid, atttypmod) from pg_attribute
where attrelid = 'docs_embeddings'::regclass and attname = 'embedding'
"""


def test_a_flip_to_other_dimensions_keeps_the_view_and_the_prepared_statements_of_its_readers(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    upgrade(project, "0001")
    before = one(conn, "select 'docs_embeddings'::regclass::oid")
    conn.execute("create view built_on_it as select id, embedding from docs_embeddings")
    queries = [
        "select * from docs_embeddings order by id",
        "select version, vector_dims(embedding) from docs_embeddings order by id",
        "select count(*) from built_on_it",
    ]
    for query in queries:
        conn.execute(query, prepare=True)
    for target, dimensions in (("head", 16), ("0001", 8)):
        upgrade(project) if target == "head" else downgrade(project, target)
        rows = conn.execute(queries[1], prepare=True).fetchall()
        assert set(rows) == {(tag(dimensions), dimensions)}
        assert len(conn.execute(queries[0], prepare=True).fetchall()) == 10
        assert one(conn, "select 'docs_embeddings'::regclass::oid") == before


def test_a_flip_to_another_type_keeps_owner_comment_and_grants(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), more='storage="halfvec"')
    upgrade(project, "0001")
    role = f"r_{conn.info.dbname}"
    conn.execute(f"create role {role}")
    try:
        conn.execute(
            f"""comment on view docs_embeddings is 'ours';
                grant create on schema public to {role};
                alter view docs_embeddings owner to {role};
                grant select (id, title) on docs_embeddings to public;
                grant select, update on docs_embeddings to postgres with grant option"""
        )
        before = conn.execute(RIGHTS).fetchone()
        upgrade(project)
        assert one(conn, VECTOR_TYPE) == "halfvec"
        assert conn.execute(RIGHTS).fetchone() == before
    finally:
        conn.execute(f"drop owned by {role} cascade; drop role {role}")


def test_a_view_that_hangs_on_the_alias_is_named_when_the_type_must_change_and_nothing_is_flipped(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), more='storage="halfvec"')
    upgrade(project, "0001")
    conn.execute("create view built_on_it as select id, embedding from docs_embeddings")
    with pytest.raises(PlanError, match="other views depend on it") as raised:
        upgrade(project)
    assert raised.value.hint
    assert embedmig.status(project.opened()).collections["docs"].active == tag()
    conn.execute("drop view built_on_it")
    upgrade(project)
    assert fake.seen.most_common(1)[0][1] == 1  # what is stored in half precision is computed from what is there


def test_row_level_security_of_the_source_holds_through_the_alias(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    role = f"r_{conn.info.dbname}"
    conn.execute(
        f"create role {role} login; alter table documents enable row level security; "
        "create policy low on documents using (id < 4); "
        f"grant select on documents to {role}"
    )
    try:
        space_script(project)
        upgrade(project)
        assert "security_invoker=true" in one(
            conn, "select reloptions from pg_class where oid = 'docs_embeddings'::regclass"
        )
        conn.execute(f"grant usage on schema embedmig to {role}; grant select on all tables in schema embedmig to {role}; "
                     f"grant select on docs_embeddings to {role}")  # fmt: skip
        assert one(conn, "select count(*) from docs_embeddings") == 10
        conn.execute(f"set role {role}")
        assert one(conn, "select count(*) from docs_embeddings") == 4
        conn.execute("reset role")
    finally:
        conn.execute(f"reset role; drop owned by {role}; drop role {role}")


def test_the_applications_own_autogenerate_sees_nothing_of_embedmig(project: Project, fake: Fake) -> None:
    project.documents(3)
    space_script(project)
    upgrade(project)
    metadata = sa.MetaData()
    columns = sa.Column("id", sa.BigInteger, primary_key=True), sa.Column("title", sa.Text), sa.Column("body", sa.Text)
    sa.Table("documents", metadata, *columns)
    engine = sa.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(project.url))

    def differences(**options: Any) -> list[Any]:
        with engine.connect() as session:
            return list(compare_metadata(MigrationContext.configure(session, opts=options), metadata))

    assert differences(include_schemas=True)
    assert differences(include_schemas=True, include_object=include_object) == []
    assert differences(include_object=include_object) == []
