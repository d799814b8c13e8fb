"""A version that is kept for a rollback takes half the bytes, and is a flip away at every moment."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import psycopg
import pytest

import embedmig
from embedmig.database import cancelled_by
from embedmig.database.registry import Registry
from embedmig.errors import EmbedmigError, PlanError
from embedmig.operations.compact_space import CompactSpace
from embedmig.report.tables import _notes
from embedmig.stores.pgvector import compacting
from embedmig.testing import fake_vectors
from tests.fault_injection import Dead, Moments, disturbed
from tests.in_process import Fake, downgrade, space_script, spaces, tag, upgrade
from tests.project import Project

WIDE = 256
OLD, NEW = tag(WIDE), tag(32)
COMPACT = """
from embedmig import op

revision = {revision!r}
down_revision = {down!r}


def upgrade() -> None:
    op.compact_space({version!r}, collection="docs"{options})


def downgrade() -> None:
    pass
"""
HALF_QUERY = "embedding::vector::halfvec(256) <=> '{vector}'::vector::halfvec(256)"


@pytest.fixture
def fake() -> Fake:
    return Fake().register()


def compact_script(project: Project, number: int = 3, version: str = OLD, options: str = "") -> None:
    values = {"revision": f"{number:04d}", "down": f"{number - 1:04d}", "version": version, "options": options}
    project.script(f"{number:04d}_compact.py", COMPACT.format(**values))


def migrated(project: Project, rows: int, **more: Any) -> None:
    """A version of 256 dimensions that is kept, behind one of 32 that is shown."""
    project.documents(rows)
    space_script(project, dimensions=WIDE, **more)
    space_script(project, "0002", "0001", dimensions=32, old=OLD)
    upgrade(project)


def execute(project: Project, statements: str) -> None:
    with project.connect() as conn:
        conn.execute(statements)  # type: ignore[arg-type]


def table_of(project: Project, version: str = OLD) -> str:
    return str(project.one(f"select 'embedmig.' || table_name from embedmig.spaces where version = '{version}'"))


def column_type(project: Project) -> str:
    return str(project.one(f"select format_type(atttypid, atttypmod) from pg_attribute where attname = 'embedding' and attrelid = '{table_of(project)}'::regclass"))  # fmt: skip


def indexes(project: Project, version: str = OLD) -> list[str]:
    found = project.rows(
        f"select indexdef from pg_indexes where schemaname || '.' || tablename = '{table_of(project)}'"
    )
    return [row[0] for row in found if "hnsw" in row[0]]


def compacted(project: Project) -> dict[str, Any]:
    found: dict[str, Any] = project.one(f"select compacted from embedmig.spaces where version = '{OLD}'")
    return found


def expect_vectors(project: Project) -> None:
    """Every row as it is now, within half precision."""
    rows = project.rows("select id, concat_ws(E'\\n\\n', title, body) from documents order by id")
    held = dict(project.rows(f"select id, embedding::text from {table_of(project)}"))
    assert held.keys() == {key for key, _ in rows}
    wanted = fake_vectors([text for _, text in rows], WIDE)
    wanted /= np.linalg.norm(wanted, axis=1, keepdims=True)
    for (key, _), vector in zip(rows, wanted, strict=True):
        assert np.allclose(json.loads(held[key]), vector, atol=1e-3)


def test_a_compacted_version_is_kept_fresh_and_shown_again_as_it_was(project: Project, fake: Fake) -> None:
    migrated(project, 300)
    execute(project, "create view mine as select id, embedding from docs_embeddings")
    compact_script(project)
    planned = embedmig.dry_run(project.opened())[0].operations[0]
    assert [word in str(planned.sql) for word in ("drop index", "halfvec(256) using", "using hnsw")] == [True] * 3
    before, sent = (
        project.one(f"select pg_total_relation_size('{table_of(project)}')"),
        sum(one.texts for one in fake.made),
    )
    upgrade(project)
    assert sum(one.texts for one in fake.made) == sent
    assert column_type(project) == f"halfvec({WIDE})"
    assert ["halfvec_cosine_ops" in index for index in indexes(project)] == [True]
    assert project.one(f"select pg_total_relation_size('{table_of(project)}')") < 0.7 * before  # half of the numbers
    recall = compacted(project)["recall"]
    assert recall["queries"] == 50
    assert min(recall["rounded"], recall["index_before"], recall["index"]) > 0.9
    outcome = project.one("select outcome from embedmig.embedding_operations where kind = 'compact_space'")
    assert f"half precision keeps {recall['rounded']:.4f} of the first 10 rows (50 queries)" in outcome
    assert upgrade(project).revisions == []

    execute(project, "update documents set body = 'edited' where id = 1; delete from documents where id = 2")
    execute(project, "insert into documents values (999, 'new', 'row')")
    embedmig.sync(project.opened())
    expect_vectors(project)
    assert embedmig.sync(project.opened(), repair=True)
    assert embedmig.audit(project.opened(), "docs").findings == []
    status = next(one for one in spaces(project) if one.version == OLD)
    assert (status.completeness, status.index, status.compacted) == (1.0, "valid", compacted(project))

    downgrade(project)  # of the compaction: the version stays as it is
    downgrade(project)
    assert project.one("select count(*) from mine") == 300
    assert project.one("select pg_typeof(embedding)::text from docs_embeddings limit 1") == "vector"
    vector = str(fake_vectors(["new\n\nrow"], WIDE)[0].tolist())
    with project.connect() as conn:
        conn.execute("set enable_seqscan = off; set enable_sort = off")
        ordered = f"explain select id from docs_embeddings order by {HALF_QUERY.format(vector=vector)} limit 5"
        assert "_hnsw_half" in str(conn.execute(ordered).fetchall())  # type: ignore[arg-type]
    found = embedmig.search(project.opened(), "docs", "new\n\nrow", k=3)
    assert found.hits[0].key == (999,)
    upgrade(project)
    assert column_type(project) == f"halfvec({WIDE})"


def test_a_killed_compaction_is_finished_by_the_same_command(
    project: Project, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed as each step begins, and in the transaction that rewrites; the version is whole all the while."""
    monkeypatch.setattr(compacting, "QUERIES", 1)
    migrated(project, 20)
    compact_script(project)

    def killed_before(owner: type, name: str, when: Callable[..., bool] = lambda *_: True) -> tuple[bool, bool]:
        """Whether the vectors are rounded afterwards, and whether there is an index."""
        original = getattr(owner, name)
        with monkeypatch.context() as patched, disturbed(Moments({})) as moments:

            def method(*arguments: Any) -> Any:
                moments.dead = moments.dead or when(*arguments)
                return original(*arguments)

            patched.setattr(owner, name, method)
            with pytest.raises((Dead, EmbedmigError)):
                upgrade(project)
            assert moments.dead
        assert project.one(f"select count(*) from {table_of(project)}") == 20
        return column_type(project) == f"halfvec({WIDE})", bool(indexes(project))

    assert killed_before(CompactSpace, "_drop_index") == (False, True)
    assert killed_before(CompactSpace, "_rewrite") == (False, False)
    assert killed_before(Registry, "set_compacted", lambda *given: given[-1]["rounded"]) == (False, False)
    assert killed_before(CompactSpace, "_build_index") == (True, False)
    assert killed_before(CompactSpace, "_finish") == (True, True)
    assert "compaction not finished" in str([_notes(one) for one in spaces(project)])
    upgrade(project)
    assert compacted(project)["done"]
    assert compacted(project)["recall"].keys() == {"queries", "first", "rounded", "index_before", "index"}
    expect_vectors(project)
    downgrade(project)
    downgrade(project)
    assert project.one(f"select count(*) from docs_embeddings where version = '{OLD}'") == 20


def test_without_its_index_a_version_is_smaller_and_another_revision_brings_it_back(
    project: Project, fake: Fake
) -> None:
    migrated(project, 30)
    compact_script(project, options=', index="drop"')
    upgrade(project)
    assert (column_type(project), indexes(project)) == (f"halfvec({WIDE})", [])
    assert "index" not in compacted(project)["recall"]
    compact_script(project, 4)
    upgrade(project)
    assert len(indexes(project)) == 1
    assert compacted(project)["recall"]["index"] > 0.9
    execute(project, "drop index embedmig." + indexes(project)[0].split()[2])
    project.script("0005_index.py", COMPACT.format(revision="0005", down="0004", version=OLD, options="").replace(
        f"op.compact_space({OLD!r}, collection=\"docs\")",
        'op.create_index(Space(collection="docs", model="fake/hash", version="1", dimensions=256))',
    ).replace("import op", "import Space, op"))  # fmt: skip
    upgrade(project)
    assert ["halfvec_cosine_ops" in index for index in indexes(project)] == [True]
    embedmig.retire(project.opened(), "docs", OLD, after="0s", confirm=OLD)


def test_what_can_not_be_compacted_is_refused_before_anything_is_changed(project: Project, fake: Fake) -> None:
    project.documents(10)
    lengths, half = OLD.replace("norm-l2", "norm-none"), OLD + "/halfvec"
    space_script(project, dimensions=WIDE, more='normalize="none"')
    space_script(project, "0002", "0001", dimensions=WIDE, more='storage="halfvec"', old=lengths)
    space_script(project, "0003", "0002", dimensions=32, old=half)
    upgrade(project)
    for version, options, says in (
        (NEW, "", "the alias of 'docs' shows"),
        (half, "", "in half precision as it is"),
        (half, ', index="half"', "is not known"),
        (lengths, "", "may be longer than half precision holds"),
    ):
        compact_script(project, 4, version, options)
        with pytest.raises(PlanError, match=says) as refused:
            upgrade(project)
        assert refused.value.exit_code == 2
        assert refused.value.hint
    compact_script(project, 4, half, ', index="drop"')
    upgrade(project)
    assert indexes(project, half) == []


def test_a_statement_is_cancelled_when_the_run_is_to_stop(project: Project) -> None:
    stop = threading.Event()
    stop.set()
    with project.connect() as conn, cancelled_by(stop, conn), pytest.raises(psycopg.errors.QueryCanceled):
        conn.execute("select pg_sleep(60)")
