"""The main job with the vectors in a store beside PostgreSQL; and killed between any two of its steps."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

import embedmig
from embedmig import Reader
from embedmig.errors import EXIT_FAILED
from embedmig.stores import drop_collection, open_store
from embedmig.stores.external import VERSION, ExternalStore
from tests import applications, milvus_server, stores
from tests.acceptance.test_corpora import DATA, load
from tests.acceptance.test_kill import barrier, end_backends, gone, kill, waits_at
from tests.acceptance.test_quality import by_hand
from tests.applications import Application, Point, articles
from tests.in_process import Fake, downgrade, spaces, upgrade
from tests.milvus_server import MilvusServer
from tests.model import Model
from tests.project import CONFIG, NEW_TAG, OLD_TAG, Project
from tests.stores import RunningStore
from tests.waiting import wait_until

pytestmark = pytest.mark.one_server

FAR = 'store="far"'


ON_EVERY_SERVER = pytest.mark.parametrize("server", stores.NAMES, indirect=True, scope="module")
ADOPTED_ON = pytest.mark.parametrize(
    "server", [name for name in stores.NAMES if name != "pgvector"], indirect=True, scope="module"
)
"""What others have made with pgvector in another database is not adopted."""
KILLED_ON = pytest.mark.parametrize("server", ["milvus", "qdrant"], indirect=True, scope="module")
"""A real server, and a real engine; the store in a file, milvus-lite and the other doubles have the same engine's code around them."""


@pytest.fixture(scope="module")
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStore]:
    with (
        stores.running(request.param, tmp_path_factory.mktemp("store")) as found,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("STORE_API_KEY", found.api_key)
        yield found


@pytest.fixture
def store(server: RunningStore, project: Project) -> Iterator[RunningStore]:
    """One for all tests: each leaves nothing in it."""
    yield server
    with project.opened().looking() as (context, conn):
        for record in context.registry.spaces(conn):
            if record.live and not record.adopted:
                drop_collection(conn, project.opened().config.collection("docs"), record)


def opened_store(project: Project, version: str) -> ExternalStore:
    """A version's store, past the engine."""
    with project.opened().looking() as (context, conn):
        record = context.registry.space(conn, "docs", version)
        assert record is not None
        found = open_store(context.source(conn, "docs"), record)
    assert isinstance(found, ExternalStore)
    return found


def ids(project: Project, version: str) -> set[str]:
    """What the store holds of a version."""
    return {point.id for page in opened_store(project, version).held() for point in page}


# --- the main job -----------------------------------------------------------------------------------------------


def measured(project: Project, version: str) -> float:
    """nDCG@10 by exact search."""
    found = embedmig.evaluate(
        project.opened(), "docs", version, golden_set=DATA / "cranfield" / "qrels.tsv", exact_only=True
    )
    return float(found.evaluations[0].metrics["ndcg@10"]["value"])


@ON_EVERY_SERVER
def test_a_corpus_moves_in_a_store_as_it_moves_in_postgresql(project: Project, store: RunningStore) -> None:
    """Vectors in PostgreSQL are measured against the same NumPy in test_quality."""
    rows = load(project, "cranfield")
    project.configure(CONFIG, store.section())
    old, new = f"{OLD_TAG}/on-far", f"{NEW_TAG}/on-far"
    project.space_script("0001", more=FAR)
    project.space_script("0002", "0001", old=old, dimensions=256, more=FAR)
    project.run("upgrade", "head", timeout=500)
    status = project.json("status", "--check")["collections"]["docs"]
    assert status["active"] == new
    assert [space["complete"] for space in status["spaces"]] == [rows] * 2
    assert len(ids(project, new)) == rows
    for version, dimensions in ((old, 64), (new, 256)):
        assert measured(project, version) == pytest.approx(by_hand("cranfield", dimensions), abs=5e-4)

    with Reader(project.url, "docs", stores=project.opened().config.stores) as reader:
        hits = reader.search("supersonic flutter")
        assert {hit.version for hit in hits} == {new}
        third = hits[2]
        titles = reader.search("supersonic flutter", where={"title": third.columns["title"]})
        assert titles[0].key == third.key
        assert {hit.columns["title"] for hit in titles} == {third.columns["title"]}
        assert [hit.key for hit in reader.search("heat", where={"id": [third.key[0], "none"]})] == [third.key]
        project.run("downgrade", "-1")
        assert {hit.version for hit in reader.search("supersonic flutter")} == {old}
        project.run("upgrade", "head")
        assert {hit.version for hit in reader.search("supersonic flutter")} == {new}
    assert project.one("select rows_done from embedmig.embedding_migrations order by id desc limit 1") == 0
    for version in (old, new):
        project.run("downgrade", "base") if version == old else None
        found = opened_store(project, version)
        project.run("retire", "docs", version, "--after", "0s", "--confirm", version)
        assert found.describe() is None


# --- kill -9 ----------------------------------------------------------------------------------------------------

BARRIERS = """
create function hold_here() returns trigger language plpgsql set lock_timeout = 0 as $$
begin
  perform pg_advisory_xact_lock_shared(tg_argv[0]::int, 0);
  return null;
end $$;
create trigger intent after insert or update of wanted on embedmig.aliases for each row when (new.wanted is not null)
  execute function hold_here(11);
create trigger flip after insert or update of version on embedmig.aliases for each row when (new.version is not null)
  execute function hold_here(12);
create trigger forgetting before delete on embedmig.garbage for each statement execute function hold_here(13);
"""
NAMING = "create trigger naming before insert on {} for each statement execute function hold_here(10)"


def expect_as_undisturbed(project: Project, version: str) -> None:
    """Points, manifest and source agree, and nothing is left to be deleted."""
    import hashlib

    rows = project.rows("select id::text, concat_ws(E'\\n\\n', title, body) from documents")
    found = opened_store(project, version)
    wanted = {found.id_of((key,), 0, hashlib.sha256(text.encode()).digest()) for key, text in rows}
    table = project.one(f"select table_name from embedmig.spaces where version = '{version}'")
    assert ids(project, version) == wanted
    assert {str(row[0]) for row in project.rows(f"select point_id from embedmig.{table}")} == wanted
    assert not project.rows("select * from embedmig.garbage")


def killed_at(project: Project, conn: psycopg.Connection, kind: int, *command: str) -> None:
    """SIGKILL for a command that has come to a barrier."""
    with barrier(conn, kind, 0):
        process = project.start(*command)
        wait_until(lambda: waits_at(conn, kind, 0), f"the barrier {kind}", of=process)
        kill(process)
        end_backends(conn, process)
        wait_until(lambda: gone(conn, process), "the dead run's connections")


@KILLED_ON
def test_killed_between_any_two_steps_it_goes_on_and_both_systems_agree(
    project: Project, store: RunningStore, conn: psycopg.Connection
) -> None:
    project.documents(60)
    model = Model(project, more=store.section())
    project.space_script(model="python/watched_model:embed", version="1", dimensions=8, more=FAR)
    version = "python-watched_model-embed@1/dim-8/norm-l2/on-far"
    project.run("stamp", "base")
    conn.execute(BARRIERS)
    if has_alias := store.kind != "pinecone":
        killed_at(project, conn, 11, "upgrade", "head")  # the flip is intended, and nothing is done
        assert opened_store(project, version).alias_target("docs_embeddings") is None
    killed_at(project, conn, 12, "upgrade", "head")  # the store's alias is there, and nothing is committed
    found = opened_store(project, version)
    assert found.alias_target("docs_embeddings") == (found.name if has_alias else None)
    assert project.one("select version from embedmig.aliases") is None
    project.run("upgrade", "head")
    assert project.json("status", "--check")["collections"]["docs"]["active"] == version
    expect_as_undisturbed(project, version)

    table = project.one("select format('embedmig.%I', table_name) from embedmig.spaces")
    conn.execute(NAMING.format(table))
    conn.execute("update documents set body = 'edited ' || id where id < 20")
    conn.execute("delete from documents where id >= 50")
    asked = len(model.asked)
    killed_at(project, conn, 10, "sync")  # points are put, and no row names them
    assert len(ids(project, version)) > 60
    killed_at(project, conn, 13, "sync")  # what they replace is deleted, and not forgotten
    project.run("sync")
    expect_as_undisturbed(project, version)
    assert len(model.asked) - asked <= 20 + 8 * model.batch_size


@KILLED_ON
def test_a_row_that_is_edited_while_its_writer_is_dead_leaves_a_point_that_the_gate_removes(
    project: Project, store: RunningStore, conn: psycopg.Connection
) -> None:
    project.documents(20)
    Model(project, more=store.section())
    project.space_script(model="python/watched_model:embed", version="1", dimensions=8, more=FAR)
    version = "python-watched_model-embed@1/dim-8/norm-l2/on-far"
    project.run("upgrade", "head")
    conn.execute(BARRIERS)
    conn.execute(NAMING.format(project.one("select format('embedmig.%I', table_name) from embedmig.spaces")))
    conn.execute("update documents set body = 'written by the dead'")
    killed_at(project, conn, 10, "sync")
    conn.execute("update documents set body = 'written since'")
    project.run("sync")
    found = {one.name: one for one in embedmig.gate(project.opened(), "docs", version)}
    assert not found["store_points"].passed
    assert "unknown there: " in found["store_points"].advice
    assert len(project.json("search", "docs", "wind", "-k", "100")["hits"]) == 20
    project.run("sync", "--repair")
    expect_as_undisturbed(project, version)


# --- what was there before embedmig ----------------------------------------------------------------------------

ADOPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
OLD = Space(collection="docs", model={model!r}, version="1", dimensions=8, store="far")


def upgrade():
    op.adopt_space(OLD, store="far", collection={collection!r}, key="payload.article_id")
    op.flip_alias("docs", to=OLD)


def downgrade():
    op.flip_alias("docs", to=None)
"""
REPLACE = """
from embedmig import Space, op

revision = "0002"
down_revision = "0001"
NEW = Space(collection="docs", model="fake/hash", version="1", dimensions=16, store="far")


def upgrade():
    op.create_space(NEW)
    op.backfill(NEW)
    op.gate(NEW, completeness=1.0)
    op.flip_alias("docs", to=NEW)


def downgrade():
    op.gate({old!r}, collection="docs", completeness=1.0)
    op.flip_alias("docs", to={old!r})
"""
ADOPTED, MADE = (f"fake-hash@1/dim-{dimensions}/norm-l2/on-far" for dimensions in (8, 16))
WATCHED = "python-watched_model-embed@1/dim-8/norm-l2/on-far"


@pytest.fixture
def theirs(project: Project, store: RunningStore) -> Iterator[Application]:
    """An application's collection with a point for every row, which it reads by an alias where there are any."""
    project.documents(40)
    project.configure(CONFIG, store.section())
    found = applications.on(store, "articles_v1")
    found.make()
    found.put(articles(range(40), texts(project)))
    if found.has_alias:
        found.set_alias("docs_embeddings")
    yield found
    if found.has_alias:
        found.remove_alias("docs_embeddings")
    found.drop()


def texts(project: Project) -> dict[int, str]:
    return dict(project.rows("select id, concat_ws(E'\\n\\n', title, body) from documents"))  # type: ignore[arg-type]


def tagged(theirs: Application) -> set[str | None]:
    """The versions that its points carry."""
    return {payload.get(VERSION) for payload in theirs.payloads().values()}


@ADOPTED_ON
def test_an_applications_collection_is_adopted_replaced_and_gone_back_to(
    project: Project, store: RunningStore, theirs: Application, conn: psycopg.Connection
) -> None:
    Fake().register()
    before, first = theirs.payloads(), texts(project)
    project.script("0001_space.py", ADOPT.format(collection=theirs.name, model="fake/hash"))
    project.script("0002_space.py", REPLACE.format(old=ADOPTED))
    upgrade(project, "0001")
    assert theirs.payloads() == {one: payload | {VERSION: ADOPTED} for one, payload in before.items()}
    assert opened_store(project, ADOPTED).vectors(list(before)).keys() == before.keys()

    with Reader(project.url, "docs", stores=project.opened().config.stores) as reader:
        hits = reader.search("wind", k=40)
        assert {hit.key[0] for hit in hits} == set(range(40))
        assert {hit.version for hit in hits} == {ADOPTED}
        upgrade(project)
        assert {hit.version for hit in reader.search("wind")} == {MADE}
        if theirs.has_alias:
            assert theirs.alias("docs_embeddings") == opened_store(project, MADE).name
        conn.execute("insert into documents values (100, 'new', 'row')")
        conn.execute("delete from documents where id = 0")
        theirs.put(
            [*articles([100], texts(project), **{VERSION: ADOPTED}), Point(900, "nobody's", {"article_id": 900})]
        )
        downgrade(project)
        again = reader.search("wind", k=100)
        assert {hit.key[0] for hit in again} == {*range(1, 40), 100}
        assert {hit.version for hit in again} == {ADOPTED}
    downgrade(project, "base")
    if theirs.has_alias:
        assert theirs.alias("docs_embeddings") == theirs.name
    assert theirs.payloads().keys() == {*before, theirs.id_of(100), theirs.id_of(900)}

    copied = embedmig.import_collection(
        project.opened(), "copies", store="far", collection=theirs.name, key="payload.article_id", text=["payload.body"],
        fields={"model": "fake/hash", "version": "1"},
    )  # fmt: skip
    assert (copied.points, copied.new, copied.without_text, copied.problem) == (42, 41, 1, "")
    assert dict(project.rows("select article_id, body from copies")) == {
        str(n): text for n, text in (texts(project) | first).items()
    }


@KILLED_ON
def test_an_adoption_that_is_killed_between_its_steps_is_finished_by_the_same_command(
    project: Project, store: RunningStore, theirs: Application, conn: psycopg.Connection
) -> None:
    Model(project, more=store.section())
    project.script("0001_space.py", ADOPT.format(collection=theirs.name, model="python/watched_model:embed"))
    before = theirs.payloads()
    embedmig.stamp(project.opened(), "base")
    conn.execute(BARRIERS)
    conn.execute(
        "create trigger adopting before insert on embedmig.spaces for each statement execute function hold_here(14)"
    )
    conn.execute(
        "create trigger adopted after update on embedmig.embedding_operations for each statement execute function hold_here(15)"
    )
    killed_at(project, conn, 14, "upgrade", "head")  # every point is tagged, and nothing is registered
    assert tagged(theirs) == {WATCHED}
    assert project.one("select count(*) from embedmig.spaces") == 0
    killed_at(project, conn, 15, "upgrade", "head")  # it is registered, and the ledger does not say so
    assert project.one("select count(*) from embedmig.spaces") == 1
    upgrade(project)
    assert theirs.payloads() == {one: payload | {VERSION: WATCHED} for one, payload in before.items()}
    (space,) = spaces(project)
    assert (space.state, space.complete, space.content) == ("active", 40, "unknown")


# --- the store itself -------------------------------------------------------------------------------------------


@pytest.fixture
def mortal() -> Iterator[MilvusServer]:
    """A real server that may be killed."""
    if not milvus_server.installed(standalone=False):
        pytest.skip("pip install milvus-lite")
    server = milvus_server.start(standalone=False)
    yield server
    server.close()


def test_a_store_that_dies_in_a_backfill_is_waited_for_and_nothing_is_embedded_twice(
    project: Project, mortal: MilvusServer
) -> None:
    project.documents(400)
    model = Model(project, pause=0.003, more=RunningStore("milvus", mortal.url).section())
    project.space_script(model="python/watched_model:embed", version="1", dimensions=8, more=FAR)
    version = "python-watched_model-embed@1/dim-8/norm-l2/on-far"
    process = project.start("upgrade", "head")
    wait_until(lambda: len(model.asked) > 100, "the model to be asked", of=process)
    mortal.kill()
    mortal.start()
    _, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    expect_as_undisturbed(project, version)
    assert sorted(model.asked) == sorted(set(model.asked))


def test_a_store_that_stays_away_ends_the_run_and_the_same_command_finishes_it(
    project: Project, mortal: MilvusServer
) -> None:
    project.documents(400)
    section = RunningStore("milvus", mortal.url).section().replace('"20s"', '"1s"')
    model = Model(project, pause=0.003, more=section)
    project.space_script(model="python/watched_model:embed", version="1", dimensions=8, more=FAR)
    version = "python-watched_model-embed@1/dim-8/norm-l2/on-far"
    process = project.start("upgrade", "head")
    wait_until(lambda: len(model.asked) > 100, "the model to be asked", of=process)
    mortal.kill()
    _, said = process.communicate(timeout=120)
    assert process.returncode == EXIT_FAILED, said
    assert "far can't be reached" in said
    status = project.json("status")["collections"]["docs"]["spaces"][0]
    assert "far can't be reached" in status["fault"]
    mortal.start()
    project.run("upgrade", "head")
    expect_as_undisturbed(project, version)
    assert len(model.asked) <= 400 + 8 * model.batch_size
