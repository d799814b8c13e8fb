"""The HNSW index: its forms and what searches make of them, what a build needs, and builds that are killed."""

from __future__ import annotations

import os
import signal
import threading
from pathlib import Path

import psycopg
import pytest
from psycopg import sql

import embedmig
from embedmig import Reader
from embedmig.errors import DatabaseFailed, EmbedderUnavailable, PlanError, UsageError
from embedmig.operations.create_index import CreateIndex
from embedmig.stores.pgvector import build_resources, search
from embedmig.stores.pgvector.build_resources import Machine, room
from embedmig.stores.pgvector.hnsw import IndexEncoding
from embedmig.testing import fake_space
from embedmig.types import Limits
from tests.fault_injection import Daemon
from tests.in_process import Fake, space_script, spaces, tag, upgrade
from tests.project import CONFIG, Project
from tests.waiting import wait_until

pytestmark = pytest.mark.with_ledger

GB = 1 << 30
COSTLY = "op.create_index(NEW, m=64, ef_construction=600, workers=0)"
INDEX = f"""
from embedmig import Space, op

revision = "0002"
down_revision = "0001"
NEW = Space(collection="docs", model="fake/hash", version="1", dimensions=64)


def upgrade() -> None:
    {COSTLY}
"""


@pytest.fixture
def fake() -> Fake:
    """The provider ``fake``."""
    return Fake().register()


def scripted(project: Project, call: str, revision: str = "0001", down: str | None = None, **space: object) -> None:
    """A revision whose index is asked for with ``call``."""
    space_script(project, revision, down, **space)  # type: ignore[arg-type]
    path = project.migrations / f"{revision}_space.py"
    path.write_text(path.read_text().replace("op.create_index(NEW)", call))


def plan_of_search(conn: psycopg.Connection, reader: Reader, where: dict[str, object] | None = None) -> str:
    """How PostgreSQL would answer a search of the reader, were a scan of everything out of the question."""
    current = reader._current().shown
    wanted, values = search.conditions(current, where or {})
    assert current.form is not None
    query = search._by_quantized(current, current.form, wanted, 5, 50)
    values |= {"vector": str([0.1] * current.space.dimensions), "version": current.version}
    conn.execute("set enable_seqscan = off; set enable_sort = off")
    cursor = psycopg.ClientCursor(conn)
    return "\n".join(row[0] for row in cursor.execute(sql.SQL("explain (costs off) ") + query, values))


# --- forms --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("storage", "of"), [("halfvec", "vector"), ("binary", "vector"), ("binary", "halfvec")])
def test_an_index_over_stand_ins_is_used_and_its_candidates_are_ranked_by_the_vectors(
    project: Project, conn: psycopg.Connection, fake: Fake, storage: str, of: str
) -> None:
    project.documents(400)
    more = f"storage={of!r}" if of != "vector" else ""
    scripted(project, f"op.create_index(NEW, storage={storage!r}, rerank=40)", dimensions=64, more=more)
    upgrade(project)
    assert [(space.index, space.state) for space in spaces(project)] == [("valid", "active")]

    with Reader(project.url, "docs") as reader:
        hits = reader.search("wind tunnel 7", k=10)
        suffix = {"halfvec": "_hnsw_half", "binary": "_hnsw_bits"}[storage]
        assert suffix in plan_of_search(conn, reader), "the planner takes the index through the alias"
        query = str(list(reader.encode("wind tunnel 7").vector))
    exact = conn.execute(
        f"select id::text, embedding <=> %s::{of} from docs_embeddings order by 2 limit 10",  # type: ignore[arg-type]
        (query,),
    ).fetchall()
    assert [hit.distance for hit in hits] == pytest.approx([distance for _, distance in exact])
    found = embedmig.search(project.opened(), "docs", "wind tunnel 7", version=tag(64) if of == "vector" else None)
    assert [hit.distance for hit in found.hits] == pytest.approx([hit.distance for hit in hits])


def test_3072_dimensions_are_indexed_in_half_precision_though_they_are_kept_in_full(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(300)
    scripted(project, "op.create_index(NEW)", dimensions=3072)
    with pytest.raises(PlanError, match="at most 2,000 dimensions, not 3,072") as raised:
        upgrade(project)
    assert 'op.create_index(…, storage="halfvec")' in str(raised.value.hint)

    scripted(project, 'op.create_index(NEW, storage="halfvec")', dimensions=3072)
    upgrade(project)
    assert [(space.index, space.complete) for space in spaces(project)] == [("valid", 300)]
    with Reader(project.url, "docs") as reader:
        assert len(reader.search("wind tunnel", k=10)) == 10
        assert "_hnsw_half" in plan_of_search(conn, reader)
    assert not [finding for finding in embedmig.check(project.opened()) if finding.code == "EM006"]


def test_an_index_in_another_form_takes_the_place_of_the_first_under_a_reader(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(60)
    space_script(project, dimensions=64)
    upgrade(project)
    with Reader(project.url, "docs") as reader:
        before = [hit.key for hit in reader.search("heat 3", k=5)]
        assert reader._current().shown.form is None
        project.script(
            "0002_bits.py",
            'from embedmig import Space, op\nrevision = "0002"\ndown_revision = "0001"\n'
            'NEW = Space(collection="docs", model="fake/hash", version="1", dimensions=64)\n'
            'def upgrade():\n    op.create_index(NEW, storage="binary", rerank=20)\n'
            "def downgrade():\n    op.create_index(NEW)\n",
        )
        upgrade(project)
        assert [hit.key for hit in reader.search("heat 3", k=5)] == before
        assert reader._current().shown.form == IndexEncoding("binary", 20)
        names = (
            "select array_agg(c.relname::text) from pg_class c join pg_am a on a.oid = c.relam where a.amname = 'hnsw'"
        )
        assert [name.rsplit("_", 1)[1] for name in project.one(names)] == ["bits"]
        embedmig.downgrade(project.opened(), "-1")
        assert [hit.key for hit in reader.search("heat 3", k=5)] == before
        assert reader._current().shown.form is None


@pytest.mark.parametrize("call", ["op.create_index(NEW)", 'op.create_index(NEW, storage="binary")'])
def test_a_search_of_one_tenant_in_fifty_finds_as_many_as_it_asked_for(project: Project, fake: Fake, call: str) -> None:
    with project.connect() as conn:
        conn.execute("create table documents (id bigint primary key, title text, body text, tenant_id int)")
        conn.execute(
            "insert into documents select n, 'title ' || n, md5(n::text), n % 50 from generate_series(1, 2000) n"
        )
    project.configure(CONFIG.replace('columns = ["title"]', 'columns = ["title", "tenant_id"]'))
    scripted(project, call, dimensions=64)
    upgrade(project)
    with project.connect() as conn, Reader(project.url, "docs") as reader:
        conn.execute("analyze documents")
        conn.execute(
            sql.SQL("analyze embedmig.{}").format(sql.Identifier(project.one("select table_name from embedmig.spaces")))
        )
        reader._connections._resting[0].execute(
            "set enable_seqscan = off; set enable_bitmapscan = off; set enable_sort = off"
        )
        hits = reader.search("title 7", k=20, where={"tenant_id": 7})
        assert [hit.columns["tenant_id"] for hit in hits] == [7] * 20
        assert {hit.columns["tenant_id"] for hit in reader.search("title 7", k=60, where={"tenant_id": [7, 8]})} == {
            7,
            8,
        }
        assert [hit.key for hit in reader.search("title 7", k=5, where={"id": 107, "tenant_id": 7})] == [(107,)]
        with pytest.raises(UsageError, match="no column 'body'"):
            reader.search("title 7", where={"body": "x"})


@pytest.mark.parametrize(
    ("call", "more", "said"),
    [
        ('op.create_index(NEW, storage="vector")', 'storage="halfvec"', "not possible for halfvec"),
        ('op.create_index(NEW, storage="binary")', 'metric="l2", normalize="none"', "lengths that l2 compares"),
        ("op.create_index(NEW, rerank=4)", "", "rerank=4"),
        ('op.create_index(NEW, memory="lots")', "", "memory 'lots'"),
        ("op.create_index(NEW, workers=-1)", "", "-1 workers"),
        ('op.create_index(NEW, during="load")', "", "during='load'"),
    ],
)
@pytest.mark.with_ledger(False)
def test_an_index_that_could_not_be_is_refused_before_anything_is_changed(
    project: Project, fake: Fake, call: str, more: str, said: str
) -> None:
    project.documents(3)
    scripted(project, call, more=more)
    with pytest.raises(PlanError, match=said):
        upgrade(project)
    assert project.one("select to_regnamespace('embedmig')") is None


# --- an index that grows with the backfill ------------------------------------------------------------------

ROWS = 240
WRITERS = """
create table writers (pid int, id bigint);
create function note() returns trigger language plpgsql as $$
begin
  insert into writers values (pg_backend_pid(), new.id);
  if new.id = 130 then perform pg_advisory_xact_lock_shared(7, 7); end if;
  return new;
end $$;
create trigger note before insert on {table} for each row execute function note();
"""


def test_an_index_that_grows_is_written_by_several_and_a_killed_run_goes_on_where_all_of_them_were(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(ROWS)
    space_script(project, dimensions=64, grows=True)
    fake.options = {"limits": Limits(8, 4), "script": [None] * 8 + [EmbedderUnavailable("out of order")]}
    with pytest.raises(EmbedderUnavailable):
        upgrade(project)
    (grown,) = spaces(project)
    assert grown.index == "valid"
    assert 0 < grown.complete < 120
    table = project.one("select format('embedmig.%I', table_name) from embedmig.spaces")
    conn.execute(WRITERS.format(table=table))
    conn.execute(
        "update pg_index set indisvalid = false from pg_class c where c.oid = indexrelid and relname like '%_hnsw'"
    )

    fake.options = {"limits": Limits(8, 4)}
    conn.execute("select pg_advisory_lock(7, 7)")
    killed = Daemon(lambda: upgrade(project))
    killed.start(0)
    waits = "select pid from pg_locks where locktype = 'advisory' and not granted and classid = 7"
    late = wait_until(
        lambda: project.one(f"select max(pid) from ({waits}) w"), "row 130 to be on its way into the space"
    )
    far = f"select count(*) from {table} where id > 137"
    wait_until(lambda: project.one(far) >= 32, "the other writers to go on beside it")
    assert project.one("select coalesce(min(position[1]::int), 0) from embedmig.ranges") < 130, (
        "what is not committed is not passed"
    )
    assert len(conn.execute("select distinct pid from writers where id <> 130 and id > 129").fetchall()) > 1
    conn.execute("select pg_terminate_backend(%s), pg_advisory_unlock(7, 7)", (late,))
    with pytest.raises(DatabaseFailed):
        killed.join()

    upgrade(project)
    (grown,) = spaces(project)
    assert (grown.index, grown.state, grown.complete) == ("valid", "active", ROWS)
    assert max(fake.seen.values()) <= 2, "nothing is paid for again but what was in flight"
    assert sum(count - 1 for count in fake.seen.values()) <= 2 * 8 * 4
    assert project.one("select count(*) from pg_index where not indisvalid") == 0
    with Reader(project.url, "docs") as reader:
        hits = reader.search("wind tunnel 7", k=10)
        query = str(list(reader.encode("wind tunnel 7").vector))
    exact = conn.execute(
        "select embedding <=> %s::vector from docs_embeddings order by 1 limit 10", (query,)
    ).fetchall()
    assert [hit.distance for hit in hits] == pytest.approx([distance for (distance,) in exact])


def test_a_growing_index_belongs_to_a_space_in_postgresql() -> None:
    index = CreateIndex(fake_space(store="qdrant"), during="backfill")
    with pytest.raises(PlanError, match="qdrant indexes vectors in its own time"):
        index.refuse_during()


# --- what a build needs -------------------------------------------------------------------------------------


def test_a_build_that_would_fill_the_disk_does_not_begin(
    project: Project, fake: Fake, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.documents(3)
    space_script(project)
    monkeypatch.setattr(build_resources, "look", lambda *_: Machine(GB, None, 1000, "/data"))
    with pytest.raises(DatabaseFailed, match=r"needs about .* of disk, its log included, and /data has 1.0 kB left"):
        upgrade(project)
    assert [space.index for space in spaces(project)] == ["none"]


def test_workers_that_would_not_fit_into_dev_shm_are_left_out_or_refused() -> None:
    tight = Machine(budget=8 * GB, shared=64 << 20, disk=None)
    chosen = room(tight, graph=2 * GB, index=GB // 2, rows=10**6, memory=None, workers=None)
    assert (chosen.workers, chosen.memory) == (0, int(2 * GB * 1.1))
    assert "one process builds the index" in chosen.notes[0]
    with pytest.raises(DatabaseFailed, match="4 workers would share"):
        room(tight, graph=2 * GB, index=GB // 2, rows=10**6, memory=None, workers=4)
    assert room(Machine(8 * GB, 8 * GB, None), 2 * GB, GB // 2, 10**6, memory=None, workers=4).workers == 4


def test_memory_is_what_the_graph_takes_as_far_as_it_may() -> None:
    assert room(Machine(8 * GB, None, None), 1000, 1000, 10, memory=None, workers=None).memory == 64 << 20
    short = room(Machine(GB, None, None), 4 * GB, 4 * GB, 10**6, memory=None, workers=0)
    assert short.memory == GB
    assert "slows down" in short.notes[0]
    assert room(Machine(GB, None, None), 4 * GB, 4 * GB, 10**6, memory=5 * GB, workers=0).memory == 5 * GB


@pytest.mark.one_server
def test_a_server_on_this_machine_is_seen_to_be_here(conn: psycopg.Connection) -> None:
    found = build_resources.look(conn, None)
    assert found.disk is not None
    assert found.budget >= 64 << 20
    assert build_resources.look(conn, 3 * GB).budget == 3 * GB


# --- killed -------------------------------------------------------------------------------------------------


def building(conn: psycopg.Connection) -> int | None:
    """The server process that has begun to build, if there is one."""
    row = conn.execute(
        "select pid from pg_stat_progress_create_index where datname = current_database() and tuples_done > 100"
    ).fetchone()
    return row[0] if row else None


def test_a_build_whose_client_was_killed_is_ended_and_done_by_the_same_command(
    project: Project, conn: psycopg.Connection
) -> None:
    project.documents(3000)
    project.space_script()
    path = project.migrations / "0001_space.py"
    path.write_text(path.read_text().replace("op.create_index(NEW)", COSTLY))
    here = Path(embedmig.__file__).parent.parent
    project.environment["PYTHONPATH"] = os.pathsep.join([str(here), str(project.folder)])
    process = project.start("upgrade", "head")
    orphan = wait_until(lambda: building(conn), "the build", of=process)
    process.send_signal(signal.SIGKILL)
    process.wait()
    path.write_text(path.read_text().replace(COSTLY, "op.create_index(NEW)"))
    project.run("upgrade", "head")
    assert conn.execute("select count(*) from pg_stat_activity where pid = %s", (orphan,)).fetchone() == (0,)
    assert [space.index for space in spaces(project)] == ["valid"]
    assert project.one("select count(*) from pg_index i where not i.indisvalid") == 0


@pytest.mark.parametrize("state", ["building", "active"])
def test_a_build_whose_server_process_ended_is_done_by_the_same_command(
    project: Project, conn: psycopg.Connection, fake: Fake, state: str
) -> None:
    project.documents(3000)
    scripted(project, COSTLY if state == "building" else "pass", dimensions=64)
    if state == "active":  # the build is concurrent then, and leaves an INVALID index behind
        upgrade(project)
        project.script("0002_index.py", INDEX)
    caught: list[BaseException] = []

    def run() -> None:
        try:
            upgrade(project)
        except BaseException as error:  # noqa: BLE001  looked at below
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    pid = wait_until(lambda: building(conn) or not thread.is_alive(), "the build")
    conn.execute("select pg_terminate_backend(%s, 10000)", (pid,))
    thread.join()
    assert isinstance(caught[0], DatabaseFailed), caught
    if state == "active":
        assert [space.index for space in spaces(project)] == ["invalid"]
    upgrade(project)
    assert [space.index for space in spaces(project)] == ["valid"]
    assert project.one("select count(*) from pg_index i where not i.indisvalid") == 0
