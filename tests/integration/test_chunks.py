"""Chunked collections: a search finds rows, each by its nearest chunk, whichever way the vectors are compared."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import psycopg
import pytest
from rich.console import Console

import embedmig
from embedmig import Reader
from embedmig.errors import PlanError
from embedmig.quality.measures import overlap
from embedmig.report import documents, tables
from embedmig.stores.pgvector import search
from tests.in_process import Fake, downgrade, space_script, tag, upgrade
from tests.project import CONFIG, Project

pytestmark = pytest.mark.with_ledger

ROWS = 60
LONG = 7  # the document whose chunks are the nearest to everything
PLAIN, CHUNKED = tag(), tag(more="chunk-60/")
QUERIES = ["heat of a plate", "wind tunnel", "a shell that buckles", "shock"]
THROUGH_THE_INDEX = "set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off"


class Nearest(NamedTuple):
    """A row by its nearest chunk."""

    key: int
    chunk: int
    distance: float


def text_of(row: int) -> str:
    sentences = 40 if row == LONG else 1 + row % 5
    return " ".join(f"Sentence {n} of document {row} is about heat, wind and shells." for n in range(sentences))


@pytest.fixture
def chunked(project: Project, conn: psycopg.Connection) -> Project:
    """Two versions of one corpus, whole and in chunks; the alias shows the chunked one."""
    Fake().register()
    project.configure(CONFIG.replace('columns = ["title"]', 'columns = ["title", "tenant"]'))
    conn.execute("create table documents (id bigint primary key, title text, body text, tenant int)")
    conn.cursor().executemany(
        "insert into documents values (%s, null, %s, %s)", [(n, text_of(n), n % 4) for n in range(ROWS)]
    )
    space_script(project)
    space_script(project, "0002", "0001", old=PLAIN, more='chunk={"size": 60}')
    upgrade(project)
    return project


def table_of(project: Project, version: str = CHUNKED) -> str:
    return "embedmig." + str(project.one(f"select table_name from embedmig.spaces where version = '{version}'"))


def crowd(project: Project, query: Sequence[float]) -> None:
    """Moves the long document's chunks next to a query, so that its 40 are nearer than any other row's."""
    random = np.random.default_rng(5)
    with project.connect() as conn:
        for chunk in range(project.one(f"select count(*) from {table_of(project)} where id = {LONG}")):
            near = np.asarray(query) + random.normal(0, 0.01, len(query))
            conn.execute(
                f"update {table_of(project)} set embedding = %s where id = %s and chunk = %s",  # type: ignore[arg-type]
                (str(near.tolist()), LONG, chunk),
            )


def exact(
    project: Project, query: Sequence[float], k: int, where: str = "true", version: str = CHUNKED
) -> list[Nearest]:
    """The answer by NumPy: every chunk compared, the nearest of each row, the nearest rows."""
    held = project.rows(
        f"select e.id, e.chunk, e.embedding::real[] from {table_of(project, version)} e join documents d using (id) where {where}"
    )
    vectors = np.array([row[2] for row in held], np.float64).reshape(len(held), len(query))
    asked = np.asarray(query, np.float64)
    distances = 1 - vectors @ asked / np.linalg.norm(vectors, axis=1) / np.linalg.norm(asked)
    best: dict[int, Nearest] = {}
    for place in np.argsort(distances, kind="stable"):
        key, chunk, _ = held[place]
        best.setdefault(key, Nearest(key, chunk, float(distances[place])))
    return list(best.values())[:k]


def same(hits: Sequence[embedmig.Hit], wanted: Sequence[Nearest]) -> bool:
    assert [hit.distance for hit in hits] == pytest.approx([one.distance for one in wanted], abs=1e-5)
    return [(hit.key, hit.chunk) for hit in hits] == [((one.key,), one.chunk) for one in wanted]


@pytest.mark.parametrize("session", ["", THROUGH_THE_INDEX, f"{THROUGH_THE_INDEX}; set hnsw.max_scan_tuples = 1"])
@pytest.mark.parametrize("index", ["", 'storage="halfvec"'])
def test_k_rows_are_found_each_by_its_nearest_chunk_although_one_document_has_the_nearest_forty(
    chunked: Project, session: str, index: str
) -> None:
    if index:
        space_script(chunked, "0003", "0002", old=CHUNKED, more='chunk={"size": 60}, variant="other"')
        script = chunked.migrations / "0003_space.py"
        script.write_text(script.read_text().replace("create_index(NEW)", f"create_index(NEW, {index})"))
        upgrade(chunked)
    version = embedmig.status(chunked.opened()).collections["docs"].active
    assert version is not None
    with Reader(chunked.url, "docs") as reader:
        reader._connections._resting[0].execute(session)  # type: ignore[arg-type]
        if not index:
            crowd(chunked, reader.encode(QUERIES[0]).vector)
        for query in QUERIES:
            vector = reader.encode(query).vector
            for k in (1, 5, 20, ROWS, ROWS + 40):
                assert same(reader.search(query, k), exact(chunked, vector, k, version=version)), (query, k)
            for where, condition in (({"tenant": 2}, "tenant = 2"), ({"tenant": [1, 3]}, "tenant in (1, 3)"),
                                     ({"id": LONG, "tenant": 3}, f"id = {LONG}"), ({"tenant": 9}, "false")):  # fmt: skip
                wanted = exact(chunked, vector, 5, condition, version)
                assert same(reader.search(query, 5, where=where), wanted), (query, where)


def test_a_refill_asks_the_index_for_more_and_compares_no_vector_beside_it(
    chunked: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Reader(chunked.url, "docs") as reader:
        vector = reader.encode(QUERIES[0]).vector
        crowd(chunked, vector)
        reader._connections._resting[0].execute(THROUGH_THE_INDEX)
        monkeypatch.delattr(search, "_rows_exactly")
        assert same(reader.search(QUERIES[0], 5), exact(chunked, vector, 5))


def test_a_hit_says_where_its_passage_is_and_the_reader_fetches_it(chunked: Project) -> None:
    with Reader(chunked.url, "docs") as reader:
        hit = reader.search(QUERIES[0], 1, where={"id": LONG})[0]
        assert hit.key == (LONG,)
        assert hit.key_text == (str(LONG),)
        assert set(hit.columns) == {"title", "tenant"}
        assert hit.start is not None
        passage = reader.text(hit)
        assert passage
        assert passage == text_of(LONG)[hit.start : hit.end]
        assert len(passage) <= 60
        with chunked.connect() as conn:
            conn.execute("update documents set body = 'Another text. ' || body where id = %s", (LONG,))
            assert reader.text(hit) is None  # those characters are of a text that is gone
            conn.execute("delete from documents where id = %s", (LONG,))
        assert reader.text(hit) is None
        downgrade(chunked, "0001")
        whole = reader.search(QUERIES[0], 1)[0]
        assert (whole.start, whole.end) == (None, None)
        assert reader.text(whole) == text_of(whole.key[0])


def test_a_row_that_was_edited_is_not_found_where_stale_rows_are_hidden(chunked: Project) -> None:
    chunked.configure(CONFIG.replace('columns = ["title"]', 'columns = ["title", "tenant"]\nstale = "hide"'))
    embedmig.alias_rebuild(chunked.opened(), "docs")
    with Reader(chunked.url, "docs") as reader, chunked.connect() as conn:
        vector = reader.encode(QUERIES[0]).vector
        crowd(chunked, vector)
        conn.execute("update documents set body = 'edited' where id in (%s, 3)", (LONG,))
        reader._connections._resting[0].execute(THROUGH_THE_INDEX)
        wanted = exact(chunked, vector, 20, f"id not in ({LONG}, 3)")
        assert same(reader.search(QUERIES[0], 20), wanted)


def test_shadow_reads_compare_and_eval_count_rows(chunked: Project) -> None:
    with Reader(chunked.url, "docs") as reader:
        vector = reader.encode(QUERIES[0]).vector
    crowd(chunked, vector)  # both versions encode queries with the same model
    share = overlap(
        [(str(one.key),) for one in exact(chunked, vector, 10)],
        [(str(one.key),) for one in exact(chunked, vector, 10, version=PLAIN)], 10,
    )  # fmt: skip
    with Reader(chunked.url, "docs", shadow=PLAIN, rate=1.0) as reader:
        reader.search(QUERIES[0], 5)
    kept = chunked.rows("select overlap_at_k from embedmig.shadow_reads")
    assert [row[0] for row in kept] == [pytest.approx(share)]

    queries = chunked.folder / "queries.yaml"
    queries.write_text(f"- query: {QUERIES[0]}\n")
    found = embedmig.compare(chunked.opened(), "docs", PLAIN, CHUNKED, queries=queries).comparison
    assert found.overlap["value"] == pytest.approx(share)

    golden = chunked.folder / "golden.yaml"
    tenth = exact(chunked, vector, 10)[9].key
    golden.write_text(f"- query: {QUERIES[0]}\n  relevant: [{tenth}]\n")
    result = embedmig.evaluate(chunked.opened(), "docs", CHUNKED, golden_set=golden)
    assert {e.mode: e.metrics["recall@10"]["value"] for e in result.evaluations} == {"exact": 1.0, "index": 1.0}


def test_gate_status_audit_eval_compare_and_shadow_count_the_same_rows(
    chunked: Project, conn: psycopg.Connection
) -> None:
    """Of 60 rows one has lost 40 chunks, one has lost 1 of 3, one has an earlier text; a row that is gone has 2 chunks left."""
    table = table_of(chunked)
    kept = [row[0] for row in conn.execute(f"select id from {table} group by id having count(*) = 3 order by id")]  # type: ignore[arg-type]
    partly, edited, gone, *others = kept
    conn.execute(f"delete from {table} where id = {LONG} or (id = {partly} and chunk = 1)")  # type: ignore[arg-type]
    conn.execute("update documents set body = body || ' Changed.' where id = %s", (edited,))
    conn.execute("delete from documents where id = %s", (gone,))
    conn.execute(f"delete from {chunked.one('select outbox from embedmig.captures')}")  # type: ignore[arg-type]  # lost: nothing waits
    complete, eligible = ROWS - 4, ROWS - 1

    for exact in (False, True):
        found = embedmig.status(chunked.opened(), exact=exact).collections["docs"]
        space = next(one for one in found.spaces if one.version == CHUNKED)
        assert (found.source_rows, space.source_rows, space.complete, space.orphans) == (
            eligible,
            eligible,
            complete,
            1,
        )
        assert found.rollback is not None
        assert found.rollback.rows == 1  # the whole texts of the other version: the edited one is out of date
    (verdict,) = [one for one in embedmig.gate(chunked.opened(), "docs", CHUNKED) if one.name == "completeness"]
    assert float(verdict.value) == pytest.approx(complete / eligible, abs=5e-4)
    audited = {one.code: one.count for one in embedmig.audit(chunked.opened()).findings if one.version == CHUNKED}
    assert audited == {"missing": 2, "stale": 1, "orphans": 1}

    golden = chunked.folder / "golden.yaml"
    golden.write_text(f"- query: {QUERIES[0]}\n  relevant: [{LONG}, {others[0]}]\n")
    measured = embedmig.evaluate(chunked.opened(), "docs", CHUNKED, golden_set=golden, k=ROWS).evaluations
    assert [one.completeness for one in measured] == [pytest.approx(complete / eligible)] * len(measured)
    assert {one.metrics[f"recall@{ROWS}"]["value"] for one in measured} == {0.5}
    compared = embedmig.compare(chunked.opened(), "docs", PLAIN, CHUNKED, golden_set=golden, k=ROWS).comparison
    assert compared.overlap["value"] == pytest.approx((eligible - 1) / eligible)  # all but the row that is lost
    with Reader(chunked.url, "docs", shadow=PLAIN, rate=1.0) as reader:
        assert len({hit.key for hit in reader.search(QUERIES[0], ROWS)}) == eligible - 1
    assert chunked.rows("select overlap_at_k from embedmig.shadow_reads") == [
        (pytest.approx(compared.overlap_at_10["value"]),)
    ]


def test_the_search_command_shows_the_place_of_a_chunk(chunked: Project) -> None:
    result = embedmig.search(chunked.opened(), "docs", QUERIES[0], k=3)
    hits = documents.plain(result)["hits"]
    assert [hit["key"] for hit in hits] == [list(hit.key) for hit in result.hits]
    assert all(isinstance(hit["key"][0], int) and hit["end"] > hit["start"] >= 0 for hit in hits)
    console = Console(width=200)
    with console.capture() as captured:
        console.print(tables.hits_table(result))
    nearest = next(line.split() for line in captured.get().splitlines() if line.split()[:1] == ["1"])
    assert nearest[3:5] == [str(result.hits[0].chunk), f"{result.hits[0].start}-{result.hits[0].end}"]
    assert same(embedmig.search(chunked.opened(), "docs", QUERIES[0], 3, version=CHUNKED).hits,
                exact(chunked, embedmig_vector(chunked), 3))  # fmt: skip


def embedmig_vector(project: Project) -> Sequence[float]:
    with Reader(project.url, "docs") as reader:
        return reader.encode(QUERIES[0]).vector


def test_a_key_has_its_own_types_and_one_that_python_has_no_value_for_is_text(
    project: Project, conn: psycopg.Connection
) -> None:
    Fake().register()
    project.configure(CONFIG.replace('key = "id"', 'key = ["id", "day"]'))
    conn.execute("create table documents (id uuid, day date, title text, body text, primary key (id, day))")
    one = uuid.uuid4()
    days: list[Any] = [dt.date(2026, 1, 2), "infinity"]
    conn.cursor().executemany("insert into documents values (%s, %s, 'a', %s)", [(one, day, str(day)) for day in days])
    space_script(project)
    upgrade(project)
    hits = embedmig.search(project.opened(), "docs", "a", 2).hits
    assert {hit.key for hit in hits} == {(one, day) for day in days}
    assert {hit.key_text for hit in hits} == {(str(one), str(day)) for day in days}
    with Reader(project.url, "docs") as reader:
        assert {reader.text(hit) for hit in hits} == {f"a\n\n{day}" for day in days}


# --- the view -------------------------------------------------------------------------------------------------

COLUMNS = (
    "select array_agg(attname::text order by attnum) from pg_attribute where attrelid = 'docs_embeddings'::regclass"
)


def test_a_flip_between_a_chunked_and_an_unchunked_version_keeps_the_view_and_its_readers_statements(
    chunked: Project, conn: psycopg.Connection
) -> None:
    before = conn.execute("select 'docs_embeddings'::regclass::oid").fetchone()
    conn.execute("create view built_on_it as select id, chunk_start from docs_embeddings")
    queries: list[Any] = ["select * from docs_embeddings order by id, chunk", "select count(*) from built_on_it"]
    places: Any = "select count(chunk_start), count(chunk_end), count(*) from docs_embeddings"
    for query in (*queries, places):
        conn.execute(query, prepare=True)
    pieces = chunked.one(f"select count(*) from {table_of(chunked)}")
    for flip, shown in ((lambda: downgrade(chunked, "0001"), (0, 0, ROWS)), (lambda: upgrade(chunked), (pieces,) * 3)):
        flip()
        assert conn.execute(places, prepare=True).fetchone() == shown
        assert len(conn.execute(queries[0], prepare=True).fetchall()) == shown[2]
        assert conn.execute(queries[1], prepare=True).fetchone() == (shown[2],)
        assert conn.execute("select 'docs_embeddings'::regclass::oid").fetchone() == before


def test_a_view_made_before_chunks_had_a_place_is_read_and_grows_in_place(
    chunked: Project, conn: psycopg.Connection
) -> None:
    older = f"""select s.id, e.chunk, '{CHUNKED}'::text as version, e.embedding::vector as embedding, s.title, s.tenant
                from {table_of(chunked)} e join documents s on e.id = s.id"""
    conn.execute(f"drop view docs_embeddings; create view docs_embeddings as {older}")  # type: ignore[arg-type]
    conn.execute("create view built_on_it as select id, embedding from docs_embeddings")
    before = conn.execute("select 'docs_embeddings'::regclass::oid").fetchone()
    with Reader(chunked.url, "docs") as reader:
        found = reader.search(QUERIES[0], 5)
        assert same(found, exact(chunked, reader.encode(QUERIES[0]).vector, 5))
        assert found[0].start is None
        assert reader.text(found[0])
        downgrade(chunked, "0001")
        upgrade(chunked)
        assert reader.search(QUERIES[0], 5)[0].start is not None
    chunked.configure(CONFIG.replace('columns = ["title"]', 'columns = ["body", "title", "tenant"]'))
    embedmig.alias_rebuild(chunked.opened(), "docs")
    assert chunked.one(COLUMNS) == [
        "id",
        "chunk",
        "version",
        "embedding",
        "title",
        "tenant",
        "chunk_start",
        "chunk_end",
        "body",
    ]
    assert conn.execute("select 'docs_embeddings'::regclass::oid").fetchone() == before


def test_a_column_shown_under_a_name_of_the_alias_is_refused_before_anything_is_made(
    project: Project, conn: psycopg.Connection
) -> None:
    Fake().register()
    project.configure(CONFIG.replace('columns = ["title"]', 'columns = ["chunk_start"]'))
    conn.execute("create table documents (id bigint primary key, title text, body text, chunk_start int)")
    space_script(project)
    with pytest.raises(PlanError, match="'chunk_start' of documents has the name of a column that the alias has"):
        upgrade(project)
