"""Collections that an application made in a store beside PostgreSQL: adopted where they are, replaced, gone back to, left alone."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

import embedmig
from embedmig import PlanError, Reader
from embedmig.errors import AliasMoved, EmbedmigError, GateClosed, PlaceMissing, StoreUnsuitable
from tests.applications import InMemory, OnMilvus, Point, articles
from tests.in_process import Fake, downgrade, space_script, spaces, tag, upgrade
from tests.project import CONFIG, Project

pytestmark = pytest.mark.with_ledger

OLD, NEW = tag(8) + "/on-near", tag(16) + "/on-near"
ALIAS = "docs_embeddings"
ROWS = 20
VERSION = "embedmig_version"

ADOPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
OLD = Space(collection="docs", model="fake/hash", version="1", dimensions={dimensions}, store="near")


def upgrade():
    op.adopt_space(OLD, store="near", collection={collection!r}, key={key!r}{more})
    op.flip_alias("docs", to=OLD)


def downgrade():
    op.flip_alias("docs", to=None)
"""


def adoption(
    project: Project,
    *,
    collection: str = "articles_v1",
    key: str = "payload.article_id",
    dimensions: int = 8,
    more: str = "",
) -> None:
    """The revision that adopts, and shows what it adopted."""
    text = ADOPT.format(collection=collection, key=key, dimensions=dimensions, more=more)
    project.script("0001_adopt.py", text)


@pytest.fixture
def fake() -> Fake:
    return Fake().register()


def texts(project: Project) -> dict[int, str]:
    """What embedmig would embed, by key."""
    return dict(project.rows("select id, concat_ws(E'\\n\\n', title, body) from documents"))  # type: ignore[arg-type]


@pytest.fixture
def theirs(project: Project, fake: Fake) -> InMemory:
    """Twenty articles, with a point each, in a collection that the application reads by an alias of its own."""
    project.documents(ROWS)
    file = project.folder / "near.db"
    project.configure(CONFIG, f'\n[stores.near]\nkind = "memory"\nurl = "{file}"\ngive_up_after = "1s"\n')
    found = InMemory("articles_v1", Path(file))
    found.make()
    found.put(articles(range(ROWS), texts(project)))
    found.set_alias(ALIAS)
    return found


def found_by(project: Project, number: int) -> tuple[str, int]:
    """Version and key of what is nearest to an article's own text."""
    with Reader(project.url, "docs", stores=project.opened().config.stores) as reader:
        hit = reader.search(texts(project)[number], k=1)[0]
    return hit.version, hit.key[0]


def test_points_stay_where_they_are_and_say_their_version(project: Project, theirs: InMemory) -> None:
    before = theirs.payloads()
    adoption(project)
    upgrade(project)
    assert theirs.payloads() == {one: payload | {VERSION: OLD} for one, payload in before.items()}
    (space,) = spaces(project)
    assert (space.state, space.complete, space.content) == ("active", ROWS, "unknown")
    assert found_by(project, 7) == (OLD, 7)
    with Reader(project.url, "docs", stores=project.opened().config.stores) as reader:
        title = texts(project)[3].split("\n")[0]
        assert [hit.key for hit in reader.search("wind", where={"title": title})] == [(3,)]  # the payload has no title


def test_the_applications_alias_is_taken_over_by_the_first_flip_and_given_back(
    project: Project, theirs: InMemory
) -> None:
    adoption(project, collection=ALIAS)  # by the alias: it is the collection that is adopted
    space_script(project, "0002", "0001", dimensions=16, old=OLD, more='store="near"')
    upgrade(project, "0001")
    assert theirs.alias(ALIAS) == "articles_v1"
    upgrade(project)
    assert theirs.alias(ALIAS) not in (None, "articles_v1")
    assert found_by(project, 7) == (NEW, 7)
    downgrade(project)
    assert (theirs.alias(ALIAS), found_by(project, 7)) == ("articles_v1", (OLD, 7))
    downgrade(project)
    assert theirs.alias(ALIAS) == "articles_v1"
    assert project.one("select to_regclass('docs_embeddings')") is None


def test_an_alias_that_shows_something_else_is_not_taken(project: Project, theirs: InMemory) -> None:
    other = InMemory("articles_v0", theirs.file)
    other.make()
    other.set_alias(ALIAS)
    adoption(project)
    with pytest.raises(AliasMoved, match="articles_v0, which embedmig did not set"):
        upgrade(project)
    assert theirs.alias(ALIAS) == "articles_v0"


def test_what_the_application_writes_afterwards_is_taken_note_of_and_opens_or_closes_the_way_back(
    project: Project, theirs: InMemory, conn: psycopg.Connection
) -> None:
    adoption(project)
    space_script(project, "0002", "0001", dimensions=16, old=OLD, more='store="near"')
    upgrade(project)
    conn.execute("insert into documents select n, 'new', 'row ' || n from generate_series(100, 104) n")
    conn.execute("delete from documents where id = 0")
    with pytest.raises(GateClosed, match="completeness"):
        downgrade(project)
    written = texts(project)
    theirs.put(articles(range(100, 105), written, **{VERSION: OLD}))
    theirs.put(articles([1], written))  # written anew, without its version
    theirs.put([Point(900, "nobody's", {"article_id": 900})])
    synced = {one.version: one for one in embedmig.sync(project.opened())}
    assert synced[OLD].rows == 6
    status = embedmig.status(project.opened()).collections["docs"]
    old = next(one for one in status.spaces if one.version == OLD)
    assert (old.complete, old.untagged) == (ROWS + 5 - 2, 1)
    assert status.rollback is not None
    assert (status.rollback.rows, status.rollback.edits) == (1, "unknown")
    theirs.put(articles([1], written, **{VERSION: OLD}))
    downgrade(project)
    assert found_by(project, 102) == (OLD, 102)
    assert found_by(project, 1) == (OLD, 1)
    assert theirs.payloads().keys() == {str(n) for n in (*range(ROWS), *range(100, 105), 900)}


def test_points_that_fit_no_row_are_counted_named_and_refused_above_the_share_that_is_allowed(
    project: Project, theirs: InMemory
) -> None:
    theirs.put([
        Point(30, "no key", {"body": "x"}), Point(31, "a list", {"article_id": [1]}), Point(32, "nobody's", {"article_id": 777}),
        Point(55, "twice", {"article_id": 5}), Point(34, "another's", {"article_id": 6, VERSION: "other@1"}),
    ])  # fmt: skip
    before = theirs.payloads()
    adoption(project)
    with pytest.raises(PlanError) as refused:
        upgrade(project)
    for said in (
        "of 25 points of articles_v1 5 can't be adopted, 20.00%; 0.00% are allowed", "2 have no payload.article_id (30, 31)",
        "1 have a key that documents.id does not have (777)", "2 have the key of another point (5, 6)", "nothing was written",
    ):  # fmt: skip
        assert said in refused.value.message
    assert "unmatched=0.2" in (refused.value.hint or "")
    assert theirs.payloads() == before
    assert project.one("select count(*) from embedmig.spaces") == 0
    adoption(project, more=", unmatched=0.2")
    upgrade(project)
    assert spaces(project)[0].complete == ROWS
    assert theirs.payloads()["34"][VERSION] == "other@1"
    assert theirs.payloads()["32"][VERSION] == OLD
    assert found_by(project, 5) == (OLD, 5)


@pytest.mark.parametrize(
    ("script", "refusal", "said"),
    [
        ({"dimensions": 16}, PlanError, "holds 8 dimensions by cosine, the space says 16 by cosine"),
        ({"dimensions": "8, metric='l2'"}, PlanError, "holds 8 dimensions by cosine, the space says 8 by l2"),
        ({"collection": "articles_v2"}, PlaceMissing, "'articles_v2' is not in near"),
        ({"key": "article_id"}, PlanError, "neither the point's id nor a field"),
        ({"more": ", unmatched=2"}, PlanError, "is not a share"),
        ({"more": ", writer='embedmig'"}, EmbedmigError, "does not write into a collection"),
    ],
    ids=["dimensions", "metric", "missing", "key", "share", "writer"],
)
@pytest.mark.with_ledger(False)
def test_what_does_not_fit_is_refused_before_anything_is_touched(
    project: Project, theirs: InMemory, script: dict[str, object], refusal: type[EmbedmigError], said: str
) -> None:
    before = theirs.payloads()
    adoption(project, **script)  # type: ignore[arg-type]
    with pytest.raises(refusal, match=said):
        upgrade(project)
    assert theirs.payloads() == before
    assert project.one("select to_regclass('embedmig.spaces')") is None


def test_released_and_uninstalled_the_collection_and_its_alias_are_as_the_application_has_them(
    project: Project, theirs: InMemory
) -> None:
    adoption(project)
    space_script(project, "0002", "0001", dimensions=16, old=OLD, more='store="near"')
    upgrade(project)
    with pytest.raises(PlanError, match="belong to the application"):
        embedmig.retire(project.opened(), "docs", OLD, after="0s", confirm=OLD)
    planned = embedmig.uninstall(project.opened())
    assert any("collection articles_v1 of near: the adopted vectors of" in one for one in planned.leaves)
    points = theirs.payloads()
    embedmig.uninstall(project.opened(), confirm=True)
    assert theirs.alias(ALIAS) == "articles_v1"
    assert theirs.payloads() == points
    assert theirs._run("select count(*) from places") == [(1,)]
    upgrade(project)  # adopted again: its points say their version already
    released = embedmig.release(project.opened(), "docs", OLD)
    assert (released.table, released.columns) == ("collection articles_v1 of near", [])
    assert theirs.payloads() == points


def test_a_collection_that_is_gone_is_said_to_be_and_released(project: Project, theirs: InMemory) -> None:
    adoption(project)
    space_script(project, "0002", "0001", dimensions=16, old=OLD)
    upgrade(project)
    theirs.drop()
    old = next(one for one in spaces(project) if one.version == OLD)
    assert "collection articles_v1 of near is not there any more" in (old.fault or "")
    assert f"embedmig release docs {OLD}" in (old.hint or "")
    with pytest.raises(EmbedmigError, match="articles_v1"):
        downgrade(project)
    embedmig.release(project.opened(), "docs", OLD)


def test_an_audit_names_what_a_writer_left_untagged(project: Project, theirs: InMemory) -> None:
    adoption(project)
    upgrade(project)
    assert embedmig.audit(project.opened(), sample=10).findings == []
    theirs.put(articles([2], texts(project)))
    (one,) = (found for found in embedmig.audit(project.opened()).findings if found.code == "writer")
    assert (one.count, one.keys) == (1, ["2"])
    assert one.hint == f"let it set {VERSION} with the vector"


def test_a_script_is_written_from_what_the_store_says(project: Project, theirs: InMemory) -> None:
    fields = {"store": "near", "model": "fake/hash", "version": "1"}
    path = embedmig.revision(project.opened(), "adopt", adopt="articles_v1", fields=fields, key="payload.article_id")
    assert "dimensions=8" in path.read_text()
    upgrade(project)
    assert spaces(project)[0].complete == ROWS
    with pytest.raises(EmbedmigError, match="dimensions is 8 in near, not 9"):
        embedmig.revision(project.opened(), "again", adopt="articles_v1", fields=fields | {"dimensions": 9})
    with pytest.raises(EmbedmigError, match="'nothing' is not in near"):
        embedmig.revision(project.opened(), "again", adopt="nothing", fields=fields)


@pytest.mark.parametrize(
    ("made", "said"),
    [({"dynamic": False}, "no dynamic field"), ({"auto_id": True}, "the server makes its ids")],
    ids=["schema", "ids"],
)
def test_a_milvus_collection_whose_points_can_not_be_marked_is_refused(
    project: Project, fake: Fake, made: dict[str, bool], said: str
) -> None:
    pytest.importorskip("milvus_lite")
    project.documents(3)
    folder = project.folder / "milvus.db"
    project.configure(CONFIG, f'\n[stores.near]\nkind = "milvus"\nurl = "{folder}"\n')
    collection = OnMilvus("articles_v1", str(folder))
    collection.make(**made)
    adoption(project, key="id")
    with pytest.raises(StoreUnsuitable, match=said):
        upgrade(project)
    collection.drop()
    collection.client.close()


def test_an_adopted_collection_is_copied_into_a_version_of_embedmigs_own_without_the_model(
    project: Project, theirs: InMemory, fake: Fake
) -> None:
    adoption(project)
    project.script(
        "0002_copy.py",
        "from embedmig import Space, op\nrevision = '0002'\ndown_revision = '0001'\n"
        "NEW = Space(collection='docs', model='fake/hash', version='1', dimensions=8)\n"
        f"def upgrade():\n    op.derive_space(NEW, of={OLD!r}, assume_current=True)\n    op.backfill(NEW)\n"
        "    op.gate(NEW, completeness=1.0)\n    op.flip_alias('docs', to=NEW)\n"
        f"def downgrade():\n    op.flip_alias('docs', to={OLD!r})\n",
    )
    upgrade(project)
    assert not fake.seen
    assert found_by(project, 7) == (tag(8), 7)
    assert theirs.payloads().keys() == {str(n) for n in range(ROWS)}
