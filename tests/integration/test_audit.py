"""Audit: what is really in the store is found, whatever the registry believes; and nothing else is."""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import psycopg
import pytest

import embedmig
from embedmig.errors import EXIT_NO, UsageError
from embedmig.intervals import wilson
from embedmig.quality.audit import Audit, AuditFinding
from embedmig.quality.audit.reembedding import MAX_SAMPLE
from tests.project import NEW_TAG, OLD_TAG, Project, wordllama_vectors

pytestmark = pytest.mark.with_ledger

ADOPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
OLD = Space(collection="docs", model="wordllama/l2-supercat", version="0.4", dimensions=64)


def upgrade() -> None:
    op.adopt_space(OLD, table="documents", column="embedding")
    op.flip_alias("docs", to=OLD)


def downgrade() -> None:
    op.flip_alias("docs", to=None)
"""


@pytest.fixture
def space(project: Project) -> Project:
    """A collection with an active space of embedmig's own."""
    project.space_script("0001")
    project.prepared("audit", lambda: (project.documents(40), embedmig.upgrade(project.opened())))
    return project


@pytest.fixture
def with_column(project: Project) -> Project:
    """Documents with vectors in a column of their own, which embedmig knows nothing about yet."""
    project.documents(40)
    texts = [row[0] for row in project.rows("select concat_ws(E'\\n\\n', title, body) from documents order by id")]
    with project.connect() as conn:
        conn.execute("alter table documents add column embedding vector(64)")
        vectors = wordllama_vectors(texts, 64)
        conn.cursor().executemany(
            "update documents set embedding = %s::vector where id = %s",
            [(str(vector.tolist()), number) for number, vector in enumerate(vectors)],
        )
    return project


@pytest.fixture
def adopted(with_column: Project) -> Project:
    """The same, adopted."""
    with_column.script("0001_adopt.py", ADOPT)
    embedmig.upgrade(with_column.opened())
    return with_column


def audit(project: Project, **options: int) -> Audit:
    return embedmig.audit(project.opened(), **options)


def found(project: Project, **options: int) -> dict[str, AuditFinding]:
    return {one.code: one for one in audit(project, **options).findings}


def table(project: Project) -> str:
    return str(project.one("select format('%I.%I', table_schema, table_name) from embedmig.spaces order by id limit 1"))


def test_of_a_sound_space_nothing_is_said_and_the_exit_code_is_0(space: Project) -> None:
    document = space.json("audit", "docs", "--sample", "40")
    assert document["findings"] == []
    (seen,) = document["spaces"]
    assert (seen["version"], seen["vectors"], seen["sample"]["foreign"]) == (OLD_TAG, 40, 0)
    assert seen["sample"]["lowest"] > 0.9999


def test_what_is_wrong_with_vectors_rows_and_triggers_is_found_with_their_keys(space: Project) -> None:
    name = table(space)
    with space.connect() as conn:
        conn.execute("drop trigger embedmig_docs_insert on documents")
        conn.execute("alter table documents disable trigger all")
        conn.execute("insert into documents values (100, 'unseen', 'by the trigger that is gone')")
        conn.execute("delete from documents where id = 1")
        conn.execute("update documents set body = 'edited' where id in (2, 3)")
        conn.execute(f"update {name} set embedding = array_fill(0, array[64])::real[]::vector where id = 4")
        conn.execute(
            f"update {name} set embedding = (embedding::real[]::vector * array_fill(2, array[64])::real[]::vector) where id = 5"
        )
        conn.execute(f"update {name} set embedding = embedding where id = 6")
    codes = found(space)
    assert {code: sorted(one.keys) for code, one in codes.items()} == {
        "missing": ["100"], "orphans": ["1"], "stale": ["2", "3"], "zero": ["4"], "not-unit": ["5"], "capture": [],
    }  # fmt: skip
    assert codes["capture"].message.startswith("capture is missing")
    assert codes["stale"].count == 2
    assert "stale" in space.run("audit", expect=EXIT_NO).stdout


def test_changes_that_wait_are_not_called_stale_or_missing(space: Project) -> None:
    with space.connect() as conn:
        conn.execute("insert into documents values (100, 'new', 'waits')")
        conn.execute("update documents set body = 'waits too' where id = 2")
        conn.execute("delete from documents where id = 3")
    assert found(space) == {}


def test_an_alias_changed_by_hand_and_an_index_left_invalid_are_found(space: Project) -> None:
    with space.connect() as conn:
        columns = "id, 0 as chunk, 'other'::text as version, embedding::vector, title, null::int as chunk_start, null::int as chunk_end"
        rows = f"{table(space)} join documents using (id)"
        conn.execute(f"create or replace view docs_embeddings as select {columns} from {rows}")
        conn.execute(
            "update pg_index set indisvalid = false where indrelid = %s::regclass and not indisprimary", (table(space),)
        )
    codes = found(space)
    assert set(codes) == {"mixed", "index"}
    assert "other (40)" in codes["mixed"].message


def test_a_column_of_vectors_without_a_space_is_said_to_be_untagged(with_column: Project) -> None:
    (one,) = audit(with_column).findings
    assert (one.code, one.count, one.version) == ("untagged-column", 40, None)
    assert "documents.embedding (vector(64)) holds 40 vectors" in one.message
    assert "--adopt documents.embedding" in one.hint


REFUSED = ("NaN", "Infinity", "-Infinity")
BINARY = {"vector": "!hhff", "halfvec": "!hhee"}  # dimensions, unused, components


@pytest.mark.parametrize("value", REFUSED)
@pytest.mark.parametrize("kind", BINARY)
def test_pgvector_takes_no_vector_in_that_is_not_finite(conn: psycopg.Connection, kind: str, value: str) -> None:
    conn.execute(f"create table held (id int, embedding {kind}(2))")
    columns = "copy held (embedding) from stdin"

    def text() -> None:
        conn.execute(f"insert into held values (1, '[{value},1]')")

    def array() -> None:
        conn.execute(f"insert into held values (1, array['{value}'::real, 1]::real[]::{kind})")

    def copy_text() -> None:
        with conn.cursor().copy(columns) as copy:
            copy.write(f"[{value},1]\n")

    def copy_binary() -> None:
        with conn.cursor().copy(f"{columns} (format binary)") as copy:
            copy.set_types(["bytea"])  # as it stands: the type's own bytes
            copy.write_row([struct.pack(BINARY[kind], 2, 0, float(value), 1.0)])

    def arithmetic() -> None:
        most = {"vector": "3e38", "halfvec": "65000"}[kind]
        conn.execute(f"insert into held select 1, ('[{most},1]'::{kind} + '[{most},1]'::{kind})")

    for way in (text, array, copy_text, copy_binary, arithmetic):
        with pytest.raises(psycopg.errors.DataError):
            way()
    with conn.cursor().copy(f"{columns} (format binary)") as copy:  # the way itself is open
        copy.set_types(["bytea"])
        copy.write_row([struct.pack(BINARY[kind], 2, 0, 0.5, 1.0)])
    assert conn.execute("select embedding::text from held").fetchall() == [("[0.5,1]",)]


def test_in_a_users_own_table_strangers_and_writers_without_a_version_are_found(adopted: Project) -> None:
    assert found(adopted, sample=40) == {}
    with adopted.connect() as conn:
        conn.execute(
            "insert into documents select 100, 'new', 'by the application', embedding from documents where id = 1"
        )
        conn.execute("update documents set embedding_version = 'ada-002' where id in (7, 8)")
        conn.execute("update documents set embedding = null where id = 9")
    codes = found(adopted)
    assert set(codes) == {"writer", "unknown-version", "missing"}
    assert codes["writer"].keys == ["100"]
    assert sorted(codes["unknown-version"].keys) == ["7", "8"]
    assert codes["missing"].count == 4  # no search finds the untagged and the unknown either


def replace(project: Project, name: str, share: float, dimensions: int) -> int:
    """Puts another model's vectors in the place of a share of a space's: wordllama's, turned by a random rotation."""
    random = np.random.default_rng(7)
    turn = np.linalg.qr(random.standard_normal((dimensions, dimensions)))[0]
    keys = random.choice(2000, int(share * 2000), replace=False).tolist()
    with project.connect() as conn:
        held: Any = conn.execute(f"select id, embedding::real[] from {name} where id = any(%s)", (keys,)).fetchall()
        conn.cursor().executemany(
            f"update {name} set embedding = %s::real[]::vector where id = %s",
            [((np.array(vector) @ turn).tolist(), key) for key, vector in held],
        )
    return len(keys)


def test_vectors_of_another_model_with_the_same_dimensions_are_found_by_a_sample_with_their_share(
    project: Project,
) -> None:
    project.documents(2000)
    project.space_script("0001", dimensions=256)
    embedmig.upgrade(project.opened())
    assert found(project, sample=500) == {}

    assert replace(project, table(project), 0.05, 256) == 100
    assert found(project) == {}, "nothing about them is wrong but where they point"
    (space,) = audit(project, sample=500).spaces
    (foreign,) = audit(project, sample=500).findings
    assert (foreign.code, foreign.version) == ("foreign", NEW_TAG)
    assert foreign.interval is not None
    assert foreign.interval[0] < 0.05 < foreign.interval[1]
    assert space.sample is not None
    assert space.sample.lowest is not None
    assert space.sample.lowest < 0.5
    assert space.sample.median is not None
    assert space.sample.median > 0.9999


def test_a_sample_skips_rows_edited_since_and_may_be_larger_than_the_corpus(space: Project) -> None:
    with space.connect() as conn:
        conn.execute("update documents set body = 'a wholly different matter' where id < 10")
    result = audit(space, sample=500)
    assert result.findings == []
    assert result.spaces[0].sample is not None
    assert result.spaces[0].sample.checked == 30
    with pytest.raises(UsageError):
        audit(space, sample=MAX_SAMPLE + 1)


def test_the_interval_is_that_of_wilson() -> None:
    low, high = wilson(25, 500)  # R: prop.test(25, 500, correct = FALSE)
    assert (round(low, 4), round(high, 4)) == (0.0341, 0.0728)
    assert wilson(0, 500)[0] == 0.0
    assert wilson(0, 0) == (0.0, 1.0)


def test_a_key_that_is_none_any_more_is_found(project: Project, conn: psycopg.Connection) -> None:
    project.documents(10)
    project.space_script("0001")
    embedmig.upgrade(project.opened())
    conn.execute(
        "alter table documents drop constraint documents_pkey; insert into documents select * from documents where id = 7"
    )
    (found,) = embedmig.audit(project.opened()).findings
    assert found.code == "key"
    assert "is not unique: (7)" in found.message
