"""Vectors that are computed from vectors: a cast, a cut, a copy. No text goes to a model, not one to see whether it answers."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import psycopg
import pytest

import embedmig
from embedmig.engine import derive
from embedmig.errors import EmbedmigError, PlanError
from embedmig.report.forecasts import plan_page
from embedmig.report.tables import keeping_costs
from embedmig.testing import fake_vectors
from tests.fault_injection import Dead, Moments, disturbed
from tests.in_process import Fake, downgrade, space_script, spaces, tag, upgrade
from tests.project import CONFIG, Project
from tests.stores import running

pytestmark = pytest.mark.with_ledger

SMALL_RANGES = "\n[backfill]\nrange_rows = 10\n"
DERIVE = """
from embedmig import Space, op

revision = {revision!r}
down_revision = {down!r}
OLD = {old!r}
NEW = Space(collection="docs", model="fake/hash", version={version!r}, dimensions={dimensions}, {more})


def upgrade() -> None:
    op.derive_space(NEW, of=OLD{options})
    op.backfill(NEW)
    op.create_index(NEW)
    op.gate(NEW, completeness=1.0)
    op.flip_alias("docs", to=NEW)


def downgrade() -> None:
    op.gate(OLD, collection="docs", completeness=1.0)
    op.flip_alias("docs", to=OLD)
"""
ADOPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
OLD = Space(collection="docs", model="fake/hash", version="1", dimensions=8)


def upgrade() -> None:
    op.adopt_space(OLD, table="documents", column="embedding")
    op.flip_alias("docs", to=OLD)


def downgrade() -> None:
    op.flip_alias("docs", to=None)
"""
HALF = 'storage="halfvec"'
HALF_TAG = tag() + "/halfvec"


@pytest.fixture
def fake() -> Fake:
    return Fake().register()


def derive_script(
    project: Project, more: str = HALF, *, options: str = "", old: str = tag(), dimensions: int = 8, version: str = "1",
    number: int = 2,
) -> None:  # fmt: skip
    values = {"old": old, "more": more, "options": options, "dimensions": dimensions, "version": version}
    values |= {"revision": f"{number:04d}", "down": f"{number - 1:04d}"}
    project.script(f"{number:04d}_derive.py", DERIVE.format(**values))


@contextmanager
def sends(fake: Fake, texts: int) -> Iterator[None]:
    """What happens meanwhile sends so many texts to models, those that test them included."""
    before = sum(one.texts for one in fake.made)
    yield
    assert sum(one.texts for one in fake.made) - before == texts


def held(project: Project, version: str = HALF_TAG) -> dict[int, tuple[bytes, Any]]:
    """Content hash and vector ``(dimensions,)`` of every row of a version, by key."""
    table = project.one(f"select table_name from embedmig.spaces where version = '{version}'")
    rows = project.rows(f"select id, content_hash, embedding::text from embedmig.{table}")
    return {key: (digest, np.array(json.loads(vector), np.float32)) for key, digest, vector in rows}


def expect_derived(project: Project, version: str = HALF_TAG, dimensions: int = 8) -> None:
    """The version holds the vectors of the other one, cut and in half precision, with the hashes of the texts as they are."""
    rows = project.rows("select id, concat_ws(E'\\n\\n', title, body) from documents where title is not null")
    vectors = fake_vectors([text for _, text in rows], 8)[:, :dimensions]
    found = held(project, version)
    assert found.keys() == {key for key, _ in rows}
    for (key, text), vector in zip(rows, vectors, strict=True):
        digest, got = found[key]
        assert digest == hashlib.sha256(text.encode()).digest()
        assert np.allclose(got, vector / np.linalg.norm(vector), atol=1e-3)


def test_a_cast_sends_no_text_and_everything_else_is_as_ever(project: Project, fake: Fake) -> None:
    project.documents(50)
    space_script(project)
    upgrade(project)
    derive_script(project)
    project.configure(CONFIG, SMALL_RANGES)
    planned = embedmig.dry_run(project.opened())[0].operations
    assert [one.estimate.rows for one in planned[:2]] == [50, 0]
    assert "l2_normalize" not in str(planned[0].sql)
    assert "insert into" in str(planned[0].sql)
    with sends(fake, 0):
        ran = upgrade(project)
    assert ran.revisions == ["0002"]
    expect_derived(project)
    outcome = project.one("select outcome from embedmig.embedding_operations where kind = 'derive_space'")
    assert outcome == f"derived 50 vectors from {tag()}, 0 texts"
    assert project.one("select count(*) from docs_embeddings where version like '%halfvec'") == 50
    with sends(fake, 0):
        downgrade(project)
    assert project.one(f"select count(*) from docs_embeddings where version = '{tag()}'") == 50
    assert {one.version: one.completeness for one in spaces(project)} == {tag(): 1.0, HALF_TAG: 1.0}


@pytest.mark.parametrize("storage", ["vector", "halfvec"])
def test_fewer_dimensions_are_the_first_ones_normalized_again(project: Project, fake: Fake, storage: str) -> None:
    project.documents(20)
    space_script(project, more=f'storage="{storage}"')
    upgrade(project)
    old = tag() if storage == "vector" else HALF_TAG
    derive_script(project, 'cut=True, storage="halfvec"', dimensions=5, old=old)
    with sends(fake, 0):
        upgrade(project)
    expect_derived(project, tag(5) + "/halfvec/cut", 5)
    assert project.one("select count(*) from embedmig.canaries") == 10  # those of the other version, cut as well


def test_what_the_other_version_lacks_or_has_of_an_earlier_text_is_left_to_the_backfill(
    project: Project, fake: Fake
) -> None:
    project.documents(50)
    space_script(project)
    upgrade(project)
    with project.connect() as conn:
        conn.execute("update documents set body = 'edited' where id < 3")
        conn.execute("delete from documents where id = 10")
        conn.execute("update documents set title = null, body = null where id = 11")
        conn.execute("insert into documents values (100, 'new', 'row')")
    derive_script(project)
    fake.made.clear()
    upgrade(project)
    expect_derived(project)
    changed = project.rows("select concat_ws(E'\\n\\n', title, body) from documents where id < 3 or id = 100")
    assert fake.seen.keys() == {text for (text,) in changed}
    assert max(fake.seen.values()) <= 2  # the other version takes them in as well


def upgrade_killed_at(project: Project, moments_of_death: range) -> None:
    """The same command, killed at one moment after another until it gets through; it must have died more than three times."""
    deaths = 0
    for moment in moments_of_death:
        with disturbed(Moments({}, dies_at=moment)) as moments:
            try:
                upgrade(project)
            except (Dead, EmbedmigError):
                deaths += moments.dead
            if not moments.dead:
                break
    assert deaths > 3


def test_a_derivation_killed_anywhere_goes_on_and_sends_nothing(project: Project, fake: Fake) -> None:
    project.documents(60)
    space_script(project)
    upgrade(project)
    derive_script(project)
    project.configure(CONFIG, SMALL_RANGES)
    with sends(fake, 0):
        upgrade_killed_at(project, range(30, 400, 23))
    expect_derived(project)
    assert project.one("select version from embedmig.aliases") == HALF_TAG


def test_adopted_vectors_are_derived_where_the_script_says_that_they_are_current(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    conn.execute("alter table documents add column embedding vector(8)")
    texts = conn.execute("select id, concat_ws(E'\\n\\n', title, body) from documents where id < 8").fetchall()
    for (key, _), vector in zip(texts, fake_vectors([text for _, text in texts], 8), strict=True):
        unit = (vector / np.linalg.norm(vector)).tolist()
        conn.execute("update documents set embedding = %s where id = %s", (str(unit), key))
    project.script("0001_adopt.py", ADOPT)
    upgrade(project)
    derive_script(project)
    with pytest.raises(PlanError, match="of which text the adopted vectors"):
        upgrade(project)
    assert project.one("select count(*) from embedmig.spaces") == 1
    derive_script(project, options=", assume_current=True")
    upgrade(project)
    expect_derived(project)
    assert fake.seen.total() == 2  # the rows that had no vector
    derived = project.one("select derived from embedmig.spaces where derived is not null")
    assert derived == {"of": tag(), "assumed_current": True, "done": True}
    assert "taken to be of the texts as they were" in project.one(
        "select outcome from embedmig.embedding_operations where kind = 'derive_space'"
    )


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"version": "2"}, "version is '2', not '1'"),
        ({"more": HALF + ', document_prefix="x "'}, "document_prefix is 'x ', not ''"),
        ({"dimensions": 16}, "16 dimensions can't be made of 8"),
        ({"dimensions": 4}, "8 dimensions become 4 by cut=True alone"),
        ({"more": ""}, "they are one version"),
    ],
)
def test_what_can_not_be_computed_is_refused_before_anything_is_changed(
    project: Project, fake: Fake, changes: dict[str, Any], why: str
) -> None:
    project.documents(5)
    space_script(project)
    upgrade(project)
    derive_script(project, **changes)
    for run in (upgrade, lambda project: embedmig.dry_run(project.opened())):
        with pytest.raises(PlanError) as refused:
            run(project)
        assert why in refused.value.message
        assert refused.value.exit_code == 2
    assert any(why in found.message for found in embedmig.check(project.opened()))
    assert project.one("select count(*) from embedmig.spaces") == 1


def test_nobody_embeds_what_is_still_being_derived(
    project: Project, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.documents(5)
    space_script(project)
    upgrade(project)
    derive_script(project)
    with monkeypatch.context() as patch:
        patch.setattr(derive, "derive_range", lambda *_: conn_is_lost())
        with pytest.raises(embedmig.DatabaseFailed):
            upgrade(project)
    with sends(fake, 0):
        with pytest.raises(embedmig.AnswerIsNo, match="is being derived from") as refused:
            embedmig.backfill(project.opened(), "docs")
        assert refused.value.hint.startswith("embedmig upgrade")
        upgrade(project)
    expect_derived(project)


def conn_is_lost() -> None:
    raise psycopg.OperationalError("killed")


def test_a_script_is_written_that_runs_unedited(project: Project, fake: Fake) -> None:
    project.documents(20)
    space_script(project)
    upgrade(project)
    path = embedmig.revision(project.opened(), "half", derive="0001", fields={"storage": "halfvec"})
    assert "op.derive_space(NEW, of=OLD)" in path.read_text()
    with sends(fake, 0):
        upgrade(project)
        downgrade(project)
    assert not [found for found in embedmig.check(project.opened()) if found.severity == "error"]


# --- to a store beside PostgreSQL, and back -------------------------------------------------------------------

NEAR = '\n[stores.near]\nkind = "memory"\nurl = "{file}"\ngive_up_after = "1s"\n'


@pytest.fixture
def near(project: Project) -> str:
    """A configuration with a store in a file."""
    more = SMALL_RANGES + NEAR.format(file=project.folder / "near.db")
    project.configure(CONFIG, more)
    return more


@pytest.fixture
def far(project: Project, near: str) -> Iterator[None]:
    """Another store beside it: Qdrant's engine behind a double."""
    with running("qdrant", project.folder) as store:
        project.configure(CONFIG, near + store.section("far"))
        yield


def points(project: Project, version: str) -> dict[int, Any]:
    """The vectors ``(dimensions,)`` that the store holds and the manifest names, by key."""
    with project.opened().looking() as (context, conn):
        record = context.registry.space(conn, "docs", version)
        assert record is not None
        store = context.store(conn, record)
        table = f"embedmig.{record.place[1]}"
        ids = dict(project.rows(f"select point_id::text, id from {table}"))
        assert set(store.list_ids(conn)) == set(ids)
        return {ids[one]: vector for one, vector in store.fetch(conn, list(ids)).items()}


def test_vectors_move_to_a_store_on_to_another_and_back_without_a_text(project: Project, far: None) -> None:
    fake = Fake().register()
    project.documents(30)
    space_script(project)
    upgrade(project)
    there, on, back = tag() + "/on-near", tag() + "/on-far", HALF_TAG
    for number, (old, more) in enumerate([(tag(), 'store="near"'), (there, 'store="far"'), (on, HALF)], 2):
        derive_script(project, more, old=old, number=number)
        with sends(fake, 0):
            upgrade(project)
    texts = project.rows("select id, concat_ws(E'\\n\\n', title, body) from documents")
    vectors = fake_vectors([text for _, text in texts], 8)
    for version in (there, on):
        found = points(project, version)
        for (key, _), vector in zip(texts, vectors, strict=True):
            assert np.allclose(found[key], vector / np.linalg.norm(vector), atol=1e-5)
    expect_derived(project, back)
    with sends(fake, 0):
        downgrade(project)
    assert project.one("select version from embedmig.aliases") == on


def test_a_move_to_a_store_killed_anywhere_goes_on_and_leaves_nothing_behind(project: Project, near: str) -> None:
    fake = Fake().register()
    project.documents(40)
    space_script(project, more="chunk={'size': 16}")
    upgrade(project)
    old, new = tag(more="chunk-16/"), tag(more="chunk-16/") + "/on-near"
    derive_script(project, 'chunk={"size": 16}, store="near"', old=old)
    with sends(fake, 0):
        upgrade_killed_at(project, range(40, 400, 31))
    assert project.one("select version from embedmig.aliases") == new
    tables = [row[0] for row in project.rows("select table_name from embedmig.spaces order by id")]
    ids, chunks = (project.rows(f"select id, chunk from embedmig.{table} order by id, chunk") for table in tables)
    assert ids == chunks
    with project.opened().looking() as (context, conn):
        record = context.registry.space(conn, "docs", new)
        assert record is not None
        assert context.store(conn, record).count(conn) == len(ids)


# --- what is kept ---------------------------------------------------------------------------------------------


def test_what_it_takes_to_keep_a_version_for_a_rollback_is_said(project: Project, fake: Fake) -> None:
    project.documents(50)
    project.configure(CONFIG, "\n[embedders.fake]\nprice = 1000\n")
    space_script(project)
    upgrade(project)
    derive_script(project)
    upgrade(project)
    with project.connect() as conn:
        conn.execute("update documents set body = 'edited ' || id")
        conn.execute("select pg_stat_force_next_flush()")
        conn.execute("analyze documents")
    old, new = spaces(project)
    assert new.keeping is None
    assert old.keeping is not None
    assert old.keeping["bytes"] == old.bytes
    assert old.keeping["texts_per_month"] > 50
    assert old.keeping["usd_per_month"] > 0
    kept = project.one("select state_since::date + 21 from embedmig.spaces where state = 'retained'")
    assert old.keeping["retire_from"] == kept.isoformat()
    said = keeping_costs(old.keeping)
    assert said.startswith(f"takes up to {old.keeping['texts_per_month']:,} texts a month, $")
    assert said.endswith(f"it may be retired from {kept}")
    space_script(project, "0003", "0002", dimensions=16)
    planned = embedmig.plan(project.opened())
    assert planned.keeping[HALF_TAG]["texts_per_month"] > 50
    assert planned.keeping[HALF_TAG]["usd_per_month"] > 0
    assert f"keeping {HALF_TAG} for a rollback takes up to" in str(plan_page(planned).renderables[-1])
