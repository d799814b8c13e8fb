"""The first hour of somebody who has vectors already, from the installed wheel to a finished migration: ``init`` looks at the
database, and what it writes passes.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from psycopg import Connection

import embedmig
from tests import wheel
from tests.project import Project, embeddings

MODEL = "wordllama/l2-supercat@0.4"
TAG = "wordllama-l2-supercat@0.4/dim-64/norm-l2"
TEXTS = ["A link is sent to your address", "The carrier scans every parcel once", "Refunds take five working days"]

UNLABELLED = """
create table articles (id bigserial primary key, title text not null, body text, lang text, embedding vector(64));
create table plain_notes (note text, v vector(64));"""

LANGCHAIN = """
create table langchain_pg_collection (uuid uuid primary key, name varchar not null unique, cmetadata json);
create table langchain_pg_embedding (
  id varchar primary key, collection_id uuid references langchain_pg_collection (uuid) on delete cascade,
  embedding vector, document varchar, cmetadata jsonb);
create unique index ix_langchain_pg_embedding_id on langchain_pg_embedding (id);
create index ix_cmetadata_gin on langchain_pg_embedding using gin (cmetadata jsonb_path_ops);
insert into langchain_pg_collection values
  ('6f1c2f3e-8a55-4c0c-9d0a-6a3f0c9f0001', 'Help desk'), ('6f1c2f3e-8a55-4c0c-9d0a-6a3f0c9f0002', 'news')"""
"""As langchain-postgres 0.0.19 makes them (vectorstores.py)."""

LLAMAINDEX = """
create table data_handbook (
  id bigserial primary key, text varchar not null, metadata_ json, node_id varchar, embedding vector(64),
  text_search_tsv tsvector generated always as (to_tsvector('english', text)) stored);
create index handbook_idx on data_handbook using gin (text_search_tsv);
create index handbook_idx_1 on data_handbook ((metadata_ ->> 'ref_doc_id'))"""
"""As llama-index-vector-stores-postgres 0.9.0 makes it (base.py, hybrid search)."""


OTHERS = """
create table documents (id bigserial primary key, content text, metadata jsonb, embedding vector(1536));
create function match_documents(query_embedding vector(1536)) returns setof documents language sql as 'select * from documents';
create schema ai;
create table ai.vectorizer (id int primary key, source_schema name, source_table name, name text, config jsonb);
insert into ai.vectorizer values (1, 'public', 'blog', 'blog', '{"embedding":
  {"implementation": "openai", "model": "text-embedding-3-small", "dimensions": 768}, "destination":
  {"implementation": "table", "target_schema": "public", "target_table": "blog_embedding_store"}}');
create table blog_embedding_store (
  embedding_uuid uuid primary key default gen_random_uuid(), id int not null, chunk_seq int not null, chunk text not null,
  embedding vector(768) not null, unique (id, chunk_seq))"""
"""A guide of Supabase, and pgai 0.12.1 (ai.sql)."""


def vectors() -> list[str]:
    """Of ``TEXTS``, as the application made them."""
    return [str(vector.tolist()) for vector in embeddings(64).embed(TEXTS, norm=True)]


@pytest.fixture
def fresh(project: Project) -> Project:
    """A database without embedmig, and a folder without a project."""
    (project.folder / "embedmig.toml").unlink()
    project.migrations.rmdir()
    project.install(wheel.installed())
    return project


def begun(project: Project, *more: str) -> tuple[str, embedmig.Project]:
    """What ``init`` said, and the project that it wrote: nothing is to be found in it, and its plan is sound."""
    said = project.run("init", "--database", "env:TEST_DATABASE_URL", "--yes", *more).stderr
    assert "next: embedmig upgrade --dry-run" in said
    written = project.opened()
    assert embedmig.check(written, offline=True) == []
    assert embedmig.dry_run(written)
    return said, written


def moved(project: Project, collection: str, alias: str) -> None:
    """To a finished migration: the adopted vectors are searched, the next model's are made, and the alias shows them."""
    project.run("upgrade")
    assert embedmig.search(project.opened(), collection, "when does my money come back").version == TAG
    project.run("revision", "-m", "256", "--collection", collection, "--model", "wordllama/l2-supercat", "--model-version", "0.4",
        "--dimensions", "256")  # fmt: skip
    project.run("upgrade")
    assert project.one(f"select count(*) from {alias} where version like '%dim-256%'") == len(TEXTS)


def test_an_unlabelled_table_is_found_adopted_and_searched(fresh: Project) -> None:
    with fresh.connect() as conn:
        conn.execute(UNLABELLED)  # type: ignore[arg-type]
        insert = "insert into articles (title, body, lang, embedding) values ('Help', %s, 'en', %s)"
        conn.cursor().executemany(insert, list(zip(TEXTS, vectors(), strict=True)))
    said, _ = begun(fresh, "--model", MODEL, "--make-golden", "3")
    assert "3 queries" in said
    moved(fresh, "articles", "articles_embeddings")
    assert "articles.embedding: 3 rows, 64 dimensions" in said
    assert "not proposed: no primary key" in said, "a table that can't be a source is named with the reason"
    (script,) = fresh.migrations.glob("*_256.py")
    assert "ndcg_at_10=within(0.01, of=OLD)" in script.read_text(), (
        "there is a golden set, so the gate asks for quality"
    )
    written = (fresh.folder / "embedmig.toml").read_text()
    assert 'text = ["title", "body"]' in written
    assert 'database = "env:TEST_DATABASE_URL"' in written
    assert (fresh.folder / ".gitignore").read_text() == ".embedmig/\n"


def test_each_collection_of_langchain_becomes_one_of_its_own(fresh: Project) -> None:
    with fresh.connect() as conn:
        conn.execute(LANGCHAIN)  # type: ignore[arg-type]
        insert = (
            "insert into langchain_pg_embedding (id, collection_id, document, embedding)"
            " select %s || c.name, c.uuid, %s, %s from langchain_pg_collection c"
        )
        conn.cursor().executemany(
            insert, [(str(n), *pair) for n, pair in enumerate(zip(TEXTS, vectors(), strict=True))]
        )
    said, written = begun(fresh, "--model", MODEL)
    moved(fresh, "help_desk", "help_desk_embeddings")
    assert embedmig.search(written, "news", "my money").version == TAG, "the other collection stays where it is"
    assert said.count("3 rows, 64 dimensions, made by LangChain") == 2


def test_a_table_of_llamaindex_is_found_by_its_columns_and_nothing_is_labelled_by_a_guess(fresh: Project) -> None:
    with fresh.connect() as conn:
        conn.execute(LLAMAINDEX)  # type: ignore[arg-type]
        insert = "insert into data_handbook (text, metadata_, node_id, embedding) values (%s, '{}', %s, %s)"
        conn.cursor().executemany(insert, list(zip(TEXTS, "abc", vectors(), strict=True)))
    refused = fresh.run("init", "--database", "env:TEST_DATABASE_URL", expect=2)
    assert "add --yes" in refused.stderr
    assert list(fresh.folder.iterdir()) == []
    said, _ = begun(fresh)
    assert "data_handbook.embedding: 3 rows, 64 dimensions, made by LlamaIndex" in said
    assert "nothing says which model made data_handbook.embedding" in said
    script = fresh.folder / "migrations" / "0001_adopt_data_handbook_embedding.py"
    assert "Name it here" in script.read_text()
    model, version = MODEL.split("@")
    script.write_text(script.read_text().replace("unknown/model", model).replace('"unlabelled"', f'"{version}"'))
    moved(fresh, "handbook", "handbook_embeddings")


def test_the_program_that_made_a_table_is_recognised_and_its_record_of_the_model_believed(
    url: str, conn: Connection
) -> None:
    conn.execute(OTHERS)
    blog, documents = embedmig.find_vectors(url)
    assert (blog.collection, blog.made_by, blog.model) == ("blog", "pgai", "openai/text-embedding-3-small")
    assert (blog.key, blog.text, blog.dimensions) == (("embedding_uuid",), ("chunk",), 768)
    assert (documents.collection, documents.made_by, documents.model) == ("documents", "a guide of Supabase", "")
    assert (documents.key, documents.text, documents.alias) == (("id",), ("content",), "documents_embeddings")


def test_a_password_stays_in_the_environment(fresh: Project, tmp_path: Path) -> None:
    address = fresh.url + ("&" if "?" in fresh.url else "?") + "password=right"
    said = fresh.run("init", "--database", address).stderr
    assert "no column of vectors" in said
    assert "export DATABASE_URL=" in said
    assert "right" not in (tmp_path / "embedmig.toml").read_text()
