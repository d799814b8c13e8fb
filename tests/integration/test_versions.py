"""The life of a version to its end: released, retired and made again; what was dropped by hand; configured against live."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import psycopg
import pytest

import embedmig
from embedmig import AnswerIsNo, EmbedmigError, PlanError, SourceError
from embedmig.database import RunLock
from embedmig.events import Event, Notice, Progress
from embedmig.testing import fake_vectors
from embedmig.types import Limits
from tests.in_process import Fake, downgrade, space_script, spaces, tag, upgrade
from tests.project import CONFIG, Project

pytestmark = pytest.mark.with_ledger

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

RELEASE = """
from embedmig import Space, op

revision = "0003"
down_revision = "0002"
OLD = Space(collection="docs", model="fake/hash", version="1", dimensions=8)


def upgrade() -> None:
    op.release_space(OLD)


def downgrade() -> None:
    op.adopt_space(OLD, table="documents", column="embedding")
"""

AGAIN = """
from embedmig import Space, op

revision = "0003"
down_revision = "0002"
OLD = Space(collection="docs", model="fake/hash", version="1", dimensions=8)


def upgrade() -> None:
    op.create_space(OLD)
    op.backfill(OLD)
    op.gate(OLD, completeness=0.995)
    op.flip_alias("docs", to=OLD)


def downgrade() -> None:
    op.gate({new!r}, collection="docs", completeness=0.995)
    op.flip_alias("docs", to={new!r})
"""


@pytest.fixture
def fake() -> Fake:
    return Fake().register()


@pytest.fixture
def adopted(project: Project, conn: psycopg.Connection, fake: Fake) -> Project:
    """Ten documents with vectors of the application's own: adopted and shown by 0001."""
    project.documents(10)
    conn.execute("alter table documents add column embedding vector(8)")
    for key, text in conn.execute("select id, concat_ws(E'\n\n', title, body) from documents").fetchall():
        conn.execute(
            "update documents set embedding = %s where id = %s", (str(fake_vectors([text], 8)[0].tolist()), key)
        )
    project.script("0001_adopt.py", ADOPT.format(more=""))
    upgrade(project)
    return project


@pytest.fixture
def replaced(adopted: Project) -> Project:
    """A version of embedmig's own, by 0002, is shown in place of the adopted one."""
    space_script(adopted, "0002", "0001", dimensions=16, old=tag(8))
    upgrade(adopted)
    return adopted


def unit_vectors(texts: list[str], dimensions: int) -> Any:
    vectors = fake_vectors(texts, dimensions)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def states(project: Project) -> dict[str, str]:
    return {space.version: space.state for space in spaces(project)}


# --- released, and made again -----------------------------------------------------------------------------------


def test_an_adopted_version_is_released_and_then_its_column_may_be_dropped(
    replaced: Project, conn: psycopg.Connection
) -> None:
    released = embedmig.release(replaced.opened(), "docs", tag(8))
    assert released.columns == ["embedding", "embedding_version"]
    conn.execute("alter table documents drop column embedding, drop column embedding_version")
    assert states(replaced) == {tag(8): "released", tag(16): "active"}
    found = embedmig.status(replaced.opened()).collections["docs"]
    assert (found.error, found.rollback) == (None, None)
    assert embedmig.audit(replaced.opened()).findings == []
    assert "released" in replaced.run("status").stdout
    with pytest.raises(PlanError, match="is released"):
        downgrade(replaced)


def test_a_version_that_the_alias_shows_is_not_released_and_one_that_embedmig_made_is_retired_instead(
    replaced: Project,
) -> None:
    downgrade(replaced)
    with pytest.raises(AnswerIsNo, match="is what the alias of docs shows"):
        embedmig.release(replaced.opened(), "docs", tag(8))
    assert states(replaced)[tag(8)] == "active"
    with pytest.raises(PlanError, match="only adopted versions are released"):
        embedmig.release(replaced.opened(), "docs", tag(16))
    assert replaced.run("release", "docs", tag(8), expect=3).stderr


def test_a_script_releases_and_its_downgrade_adopts_again(replaced: Project, conn: psycopg.Connection) -> None:
    replaced.script("0003_release.py", RELEASE)
    upgrade(replaced)
    assert states(replaced)[tag(8)] == "released"
    downgrade(replaced)
    assert states(replaced)[tag(8)] == "ready"
    assert conn.execute("select count(*) from documents where embedding_version = %s", (tag(8),)).fetchone() == (10,)


def test_a_release_takes_what_embedmig_installed_for_the_version_with_it(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(5)
    conn.execute("alter table documents add column embedding vector(8)")
    project.script("0001_adopt.py", ADOPT.format(more=', writer="embedmig"'))
    upgrade(project)
    assert conn.execute("select count(*) from pg_trigger where tgname like 'embedmig%'").fetchone() != (0,)
    downgrade(project)
    embedmig.release(project.opened(), "docs", tag(8))
    assert conn.execute("select count(*) from pg_trigger where tgname like 'embedmig%'").fetchone() == (0,)
    assert conn.execute("select count(*) from pg_class where relname like 'written_%'").fetchone() == (0,)


def test_a_retired_version_is_made_again_under_its_own_name(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    space_script(project)
    space_script(project, "0002", "0001", dimensions=16, old=tag(8))
    upgrade(project)
    embedmig.retire(project.opened(), "docs", tag(8), after="0s", confirm=tag(8))
    project.script("0003_again.py", AGAIN.format(new=tag(16)))
    (again,) = embedmig.dry_run(project.opened())
    assert again.operations[1].estimate.rows == 10
    upgrade(project)
    assert states(project) == {tag(8): "active", tag(16): "retained"}
    project.expect_exact(embed=unit_vectors)
    assert conn.execute("select count(*), min(version) from docs_embeddings").fetchone() == (10, tag(8))
    downgrade(project)
    assert states(project) == {tag(8): "retained", tag(16): "active"}


@pytest.mark.parametrize("state", ["building", "ready"])
def test_a_version_that_is_given_up_before_it_was_shown_is_retired_by_hand(
    project: Project, conn: psycopg.Connection, state: str
) -> None:
    fake = Fake(options={"limits": Limits(batch_size=1, concurrency=1)}).register()
    project.configure(CONFIG, "\n[backfill]\nrange_rows = 2\n")
    project.documents(10)
    space_script(project)
    upgrade(project)
    space_script(project, "0002", "0001", dimensions=16, old=tag(8))
    path, stop = project.migrations / "0002_space.py", threading.Event()
    reviewed = path.read_text()
    if state == "ready":
        path.write_text(reviewed.replace("completeness=0.995", "completeness=0.995, not_before='2999-01-01'", 1))
    with pytest.raises(EmbedmigError):
        embedmig.upgrade(
            project.opened(),
            stop=stop,
            report=lambda event: stop.set() if state == "building" and told_of_rows(event, 4) else None,
        )
    assert states(project)[tag(16)] == state

    path.rename(project.folder / "elsewhere.py")
    assert "EM016" in {one.code for one in embedmig.check(project.opened())}
    (project.folder / "elsewhere.py").rename(path)
    with pytest.raises(AnswerIsNo, match="0002, which makes it, is partly applied") as refused:
        embedmig.retire(project.opened(), "docs", tag(16), confirm=tag(16))
    assert "embedmig downgrade -1" in str(refused.value.hint)
    downgrade(project)
    path.unlink()
    given_up = next(space for space in spaces(project) if space.version == tag(16))
    assert given_up.hint is not None
    command = f"embedmig retire docs {tag(16)} --confirm {tag(16)}"
    assert command in given_up.hint
    assert command in " ".join(project.run("status").stdout.split())
    project.run(*command.split()[1:])
    assert states(project) == {tag(8): "active", tag(16): "retired"}
    assert embedmig.status(project.opened()).settled
    asked = fake.seen.total()
    conn.execute("update documents set body = 'newer' where id = 1")
    embedmig.sync(project.opened(), "docs")
    assert fake.seen.total() == asked + 1, "the one version that is left"

    path.write_text(reviewed)
    upgrade(project)
    project.expect_exact(embed=unit_vectors)


def told_of_rows(event: Event, rows: int) -> bool:
    """Whether a run says that it has embedded so many."""
    return isinstance(event, Progress) and event.done >= rows


# --- what somebody dropped by hand ------------------------------------------------------------------------------


def run_every_look(project: Project) -> tuple[embedmig.CollectionStatus, set[str]]:
    """The collection as status shows it, and the codes of an audit; report and metrics end well too. Check finds what is gone,
    and an upgrade that has nothing to do says it and ends with 0.
    """
    project.run("report", "--audit")
    assert "embedmig_sound{" in project.run("status", "--format", "prometheus").stdout
    assert " EM025 missing-object: " in project.run("check", expect=3).stdout
    project.run("status", "--exact")
    found = embedmig.status(project.opened())
    assert not found.settled
    said: list[Event] = []
    ran = embedmig.upgrade(project.opened(), report=said.append)
    assert ran.revisions == []
    assert ran.missing
    assert said == [Notice(text) for text in ran.missing]
    return found.collections["docs"], {one.code for one in embedmig.audit(project.opened()).findings}


@pytest.mark.parametrize("column", ["embedding", "embedding_version"])
def test_a_dropped_column_of_an_adopted_version_is_shown_with_what_to_do_and_released(
    replaced: Project, conn: psycopg.Connection, column: str
) -> None:
    conn.execute(f"alter table documents drop column {column}")  # type: ignore[arg-type]
    found, codes = run_every_look(replaced)
    lost = next(space for space in found.spaces if space.version == tag(8))
    assert lost.fault is not None
    assert f"documents.{column} is not there" in lost.fault
    assert lost.hint == f"embedmig release docs {tag(8)} stops watching it"
    assert found.rollback is not None
    assert found.rollback.fault == lost.fault
    assert next(space for space in found.spaces if space.version == tag(16)).completeness == 1.0
    assert "gone" in codes
    assert lost.fault in replaced.run("status").stdout
    assert replaced.run("gate", "docs", "--version", tag(8), expect=2).stderr.count("is not there")
    replaced.run(*lost.hint.removesuffix(" stops watching it").split()[1:])
    assert embedmig.status(replaced.opened()).settled


def test_a_dropped_table_of_a_version_is_shown_made_again_by_repair_or_retired(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    space_script(project)
    space_script(project, "0002", "0001", dimensions=16, old=tag(8))
    upgrade(project)
    tables = dict(conn.execute("select version, format('embedmig.%I', table_name) from embedmig.spaces").fetchall())
    conn.execute(f"drop table {tables[tag(16)]} cascade")  # the view goes with it
    found, codes = run_every_look(project)
    lost = next(space for space in found.spaces if space.version == tag(16))
    assert lost.hint is not None
    assert "sync docs --repair" in lost.hint
    assert "alias rebuild docs" in lost.hint
    assert found.alias_fault is not None
    assert codes == {"gone", "alias"}
    embedmig.sync(project.opened(), "docs", repair=True)
    embedmig.alias_rebuild(project.opened(), "docs")
    assert embedmig.status(project.opened()).settled
    assert conn.execute("select count(*) from docs_embeddings").fetchone() == (10,)

    conn.execute(f"drop table {tables[tag(8)]}")  # type: ignore[arg-type]
    assert f"embedmig retire docs {tag(8)} --after 0s" in project.run("status").stdout
    embedmig.retire(project.opened(), "docs", tag(8), after="0s", confirm=tag(8))
    assert states(project) == {tag(8): "retired", tag(16): "active"}
    assert embedmig.status(project.opened()).settled


def test_a_table_of_vectors_that_lost_a_column_of_its_own_is_made_again(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    space_script(project)
    upgrade(project)
    table = project.one("select format('embedmig.%I', table_name) from embedmig.spaces")
    conn.execute(f"alter table {table} drop column content_hash cascade")  # type: ignore[arg-type]
    found, _ = run_every_look(project)
    assert f"column {table}.content_hash is not there" in str(found.spaces[0].fault)
    assert conn.execute("select count(*) from docs_embeddings").fetchone() == (10,)
    embedmig.sync(project.opened(), "docs", repair=True)
    assert embedmig.status(project.opened()).settled
    project.expect_exact(embed=unit_vectors)


def test_one_collections_fault_does_not_hide_the_others(project: Project, conn: psycopg.Connection, fake: Fake) -> None:
    project.documents(10)
    with_others(project, conn)
    space_script(project)
    upgrade(project)
    conn.execute("drop table other")
    found = embedmig.status(project.opened()).collections
    assert found["docs"].error is None
    assert found["docs"].spaces[0].completeness == 1.0
    assert found["others"].error is not None
    assert "table other is not there" in found["others"].error
    assert "table other is not there" in project.run("status").stdout
    assert {one.code for one in embedmig.audit(project.opened()).findings} == {"source"}
    project.run("report", "--audit")


def with_others(project: Project, conn: psycopg.Connection) -> None:
    """A second collection, ``others``, over a table of its own."""
    conn.execute("create table other as select * from documents")
    conn.execute("alter table other add primary key (id)")
    section = CONFIG.partition("\n\n[")[2].join(["\n[", ""])
    project.configure(CONFIG + section.replace("docs", "others").replace('"documents"', '"other"'))


def test_sync_does_the_other_collections_reports_each_and_fails(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    with_others(project, conn)
    space_script(project)
    space_script(project, "0002", "0001", dimensions=16)
    path = project.migrations / "0002_space.py"
    path.write_text(path.read_text().replace('"docs"', '"others"'))
    upgrade(project)
    for order in (("documents", "other"), ("other", "documents")):  # whichever comes first in the configuration
        broken, sound = order
        conn.execute(f"update {sound} set body = body || '.'")  # type: ignore[arg-type]
        conn.execute(f"alter table {broken} rename column body to content")  # type: ignore[arg-type]
        bad, good = ("docs", "others") if broken == "documents" else ("others", "docs")
        found = {one.collection: one for one in embedmig.sync(project.opened())}
        assert found[good].rows == 10
        assert found[good].error is None
        assert "text column 'body' is not in" in str(found[bad].error)
        assert found[bad].hint
        said = project.run("sync", expect=1)
        assert "text column 'body' is not in" in " ".join(said.stdout.split())
        assert "hint: it has id, title, content" in said.stderr
        assert "Traceback" not in said.stderr
        project.run("sync", bad, expect=2)  # by itself: nothing was done
        conn.execute(f"alter table {broken} rename column content to body")  # type: ignore[arg-type]
    assert {one.error for one in embedmig.sync(project.opened(), repair=True)} == {None}


def test_an_upgrade_over_a_table_of_vectors_that_was_dropped_says_what_makes_it_again(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    space_script(project)
    upgrade(project)
    space_script(project, "0002", "0001", dimensions=16, old=tag(8))
    path = project.migrations / "0002_space.py"
    reviewed = path.read_text()
    path.write_text(reviewed.replace("    op.flip_alias", "    op.execute('select 1 / 0')\n    op.flip_alias", 1))
    with pytest.raises(embedmig.EmbedmigError):
        upgrade(project)
    path.write_text(reviewed)
    conn.execute(f"drop table embedmig.{project.one('select table_name from embedmig.spaces where id = 2')}")  # type: ignore[arg-type]
    for act in (upgrade, lambda project: embedmig.dry_run(project.opened())):
        with pytest.raises(SourceError, match="has lost its vectors") as raised:
            act(project)
        assert "embedmig sync docs --repair" in str(raised.value.hint)
    embedmig.sync(project.opened(), "docs", repair=True)
    upgrade(project)
    assert conn.execute("select count(*), min(version) from docs_embeddings").fetchone() == (10, tag(16))


@pytest.mark.parametrize("gone", ["column", "table", "by a script"])
def test_a_version_is_retired_though_its_source_is_gone(
    project: Project, conn: psycopg.Connection, fake: Fake, gone: str
) -> None:
    project.documents(10)
    space_script(project)
    space_script(project, "0002", "0001", dimensions=16, old=tag(8))
    upgrade(project)
    if gone == "column":
        conn.execute("alter table documents drop column body")
    else:
        conn.execute("drop table documents cascade")
    if gone == "by a script":
        project.script("0003_retire.py", RETIRE)
        (planned,) = embedmig.dry_run(project.opened())
        assert "drop table" in planned.operations[0].sql[0]
        upgrade(project)
    else:
        assert embedmig.retire(project.opened(), "docs", tag(8), after="0s", confirm=tag(8)).bytes > 0
    assert states(project) == {tag(8): "retired", tag(16): "active"}
    assert embedmig.uninstall(project.opened(), confirm=True).done


RETIRE = f"""
from embedmig import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.retire_space("{tag(8)}", collection="docs", after="0s")


def downgrade() -> None: ...
"""


def test_an_adopted_version_is_released_though_its_table_is_gone(replaced: Project, conn: psycopg.Connection) -> None:
    conn.execute("drop table documents cascade")
    embedmig.release(replaced.opened(), "docs", tag(8))
    assert states(replaced)[tag(8)] == "released"


def test_a_dropped_text_column_or_source_is_a_state_that_is_shown(replaced: Project, conn: psycopg.Connection) -> None:
    conn.execute("alter table documents drop column body")
    found, codes = run_every_look(replaced)
    assert found.error is not None
    assert "body" in found.error
    assert (found.active, codes) == (tag(16), {"source"})
    embedmig.release(replaced.opened(), "docs", tag(8))
    conn.execute("drop table documents cascade")
    found, codes = run_every_look(replaced)
    assert found.error is not None
    assert codes == {"source"}


def test_eval_passes_by_a_version_whose_vectors_are_gone(replaced: Project, conn: psycopg.Connection) -> None:
    embedmig.make_golden(replaced.opened(), "docs", 5)
    conn.execute("alter table documents drop column embedding")
    found = embedmig.evaluate(replaced.opened(), "docs")
    assert {one.version for one in found.evaluations} == {tag(16)}
    assert any("documents.embedding is not there" in notice for notice in found.notices)
    with pytest.raises(SourceError, match="is not there"):
        embedmig.search(replaced.opened(), "docs", "wave", version=tag(8))


# --- vectors that the application writes ------------------------------------------------------------------------


def test_where_nobody_can_know_which_adopted_rows_are_out_of_date_it_is_said(replaced: Project) -> None:
    said = "rows edited without a new vector can't be counted"
    rollback = embedmig.status(replaced.opened()).collections["docs"].rollback
    assert rollback is not None
    assert rollback.edits == "unknown"
    assert said in replaced.run("status").stdout
    assert said in replaced.run("gate", "docs", "--version", tag(8)).stdout
    replaced.run("report")
    assert said.replace("'", "&#39;") in (replaced.folder / "embedmig-report.html").read_text()


# --- configured against live ------------------------------------------------------------------------------------


@pytest.fixture
def live(project: Project, fake: Fake) -> Project:
    """One version, shown by 0001, and an application's role that reads the alias."""
    space_script(project)
    project.prepared("versions", lambda: (project.documents(10), upgrade(project)))
    return project


def edited(project: Project, *edits: tuple[str, str]) -> None:
    """Edits the configuration, and nothing else."""
    text = CONFIG
    for before, after in edits:
        assert before in text
        text = text.replace(before, after)
    project.configure(text)


def differing(project: Project) -> dict[str, embedmig.Difference]:
    return {one.key: one for one in embedmig.status(project.opened()).collections["docs"].differences}


ALIAS = 'alias = "docs_embeddings"'


@pytest.mark.parametrize(
    ("edit", "key", "way"),
    [
        ((ALIAS, 'alias = "docs_search"'), "alias", "alias rebuild"),
        ((ALIAS, ALIAS + '\nwhere = "id < 5"'), "where", "alias rebuild"),
        (('columns = ["title"]', 'columns = ["title", "body"]'), "columns", "alias rebuild"),
        ((ALIAS, ALIAS + '\nstale = "hide"'), "stale", "alias rebuild"),
        (('text = ["title", "body"]', 'text = ["title"]'), "text", "revision"),
        (('key = "id"', 'key = ["id", "body"]'), "key", "revision"),
        ((ALIAS, ALIAS + "\nchunk = { size = 100 }"), "chunk", "revision"),
        (
            (ALIAS, ALIAS + '\nembedding = { model = "fake/hash", version = "2", dimensions = 8 }'),
            "embedding",
            "revision",
        ),
        ((ALIAS, ALIAS + '\ncapture = "watermark"\nchanged_at = "seen"'), "capture", "sync --repair"),
    ],
)
def test_each_difference_is_named_with_what_is_served_and_what_carries_it_out(
    live: Project, conn: psycopg.Connection, edit: tuple[str, str], key: str, way: str
) -> None:
    conn.execute("alter table documents add column seen timestamptz default now()")
    assert embedmig.check(live.opened()) == []
    edited(live, edit)
    one = differing(live)[key]
    assert one.way == way
    assert one.served
    assert one.live != one.configured
    shown = live.run("status").stdout
    assert f"{key} is {one.configured} in the configuration, live is {one.live}" in shown
    assert "EM019" in live.run("check", expect=3).stdout
    assert "EM019" not in live.run("check", "--offline", expect=None).stdout
    if way == "revision":
        with pytest.raises(PlanError, match=f"docs: {key} is"):
            upgrade(live)
    else:
        assert one.in_words in " ".join(live.run("upgrade", "head").stderr.split())
    assert conn.execute("select count(*) from docs_embeddings").fetchone() == (10,)


def test_a_revision_that_makes_what_the_configuration_asks_for_is_applied_and_ends_the_difference(
    live: Project,
) -> None:
    edited(live, ('text = ["title", "body"]', 'text = ["title"]'))
    live.space_script("0002", "0001", model="fake/hash", version="2", dimensions=8, old=tag(8))
    assert {one.code for one in embedmig.check(live.opened())} == {"EM015", "EM020"}
    upgrade(live)
    assert differing(live) == {}
    assert embedmig.check(live.opened()) == []


def test_a_version_is_kept_as_it_was_made_while_the_configuration_names_another_text(
    live: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    edited(live, ('text = ["title", "body"]', 'text = ["title"]'))
    conn.execute("update documents set body = 'a cone' where id = 1")
    assert [one.rows for one in embedmig.sync(live.opened())] == [1]
    live.expect_exact(embed=unit_vectors)  # by title and body
    (space,) = spaces(live)
    assert (space.completeness, space.fault) == (1.0, None)


def test_a_renamed_alias_never_removes_the_view_that_is_read_and_the_plan_says_so(
    live: Project, conn: psycopg.Connection
) -> None:
    role = f"reads_{conn.info.dbname}"
    conn.execute(f"create role {role}")  # type: ignore[arg-type]
    conn.execute(f"grant select on docs_embeddings to {role}")  # type: ignore[arg-type]
    edited(live, (ALIAS, 'alias = "docs_search"'))
    space_script(live, "0002", "0001", dimensions=16, old=tag(8))
    (planned,) = embedmig.dry_run(live.opened())
    assert planned.operations[-1].estimate.note == (
        "alias: public.docs_embeddings → public.docs_search; "
        "public.docs_embeddings stays as a second name until embedmig alias drop docs --old"
    )
    upgrade(live)
    shown = "select distinct version from {}"
    for name in ("docs_search", "docs_embeddings"):
        assert live.rows(shown.format(name)) == [(tag(16),)]
    assert live.one(f"select has_table_privilege('{role}', 'docs_search', 'select')")
    assert differing(live) == {}
    downgrade(live)
    for name in ("docs_search", "docs_embeddings"):
        assert live.rows(shown.format(name)) == [(tag(8),)]
    embedmig.alias_drop(live.opened(), "docs")
    assert live.one("select to_regclass('docs_search')") is None
    assert live.one("select to_regclass('docs_embeddings')") is None
    embedmig.alias_rebuild(live.opened(), "docs")
    assert live.one(f"select has_table_privilege('{role}', 'docs_embeddings', 'select')")
    edited(live)  # and back: the former name is embedmig's own
    assert live.json("alias", "rebuild", "docs")["alias"] == "public.docs_embeddings"
    live.run("alias", "drop", "docs", "--old")
    assert live.one("select to_regclass('docs_search')") is None
    assert live.rows(shown.format("docs_embeddings")) == [(tag(8),)]
    conn.execute(f"drop owned by {role}")  # type: ignore[arg-type]
    conn.execute(f"drop role {role}")  # type: ignore[arg-type]


@pytest.mark.parametrize("by", ["alias rebuild", "the next flip"])
def test_a_stricter_filter_is_reported_with_its_command_until_readers_have_it(
    live: Project, conn: psycopg.Connection, by: str
) -> None:
    def read() -> tuple[set[int], set[object]]:
        seen = {row[0] for row in conn.execute("select id from docs_embeddings").fetchall()}
        with embedmig.Reader(live.url, "docs") as reader:
            return seen, {hit.key[0] for hit in reader.search("plate", k=10)}

    command = "embedmig alias rebuild docs"
    edited(live, (ALIAS, ALIAS + '\nwhere = "id < 5"'))
    assert differing(live)["where"].served == "readers see the rows that the live filter lets through"
    for said in (live.run("status").stdout, live.run("check", expect=3).stdout, live.run("upgrade", "head").stderr):
        assert command in " ".join(said.split())
    assert read() == (set(range(10)), set(range(10)))  # reported, and not half carried out
    if by == "alias rebuild":
        assert "where: none → id < 5: carried out" in live.run(*command.split()[1:]).stderr
    else:
        space_script(live, "0002", "0001", old=tag(8), dimensions=16)
        upgrade(live)
    assert read() == (set(range(5)), set(range(5)))
    assert "where" not in differing(live)
    assert live.run("check", expect=None).stdout.count("EM019") == 0


# --- uninstall --------------------------------------------------------------------------------------------------

CATALOG = """
select 'relation', n.nspname || '.' || c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname not in ('pg_catalog', 'information_schema', 'pg_toast') and n.nspname not like 'pg_temp%'
union all select 'trigger', tgname from pg_trigger where not tgisinternal
union all select 'function', p.oid::regprocedure::text from pg_proc p join pg_namespace n on n.oid = p.pronamespace
where n.nspname not in ('pg_catalog', 'information_schema')
union all select 'schema', nspname from pg_namespace where nspname not like 'pg_%'
union all select 'column', attrelid::regclass || '.' || attname from pg_attribute
where attrelid = 'documents'::regclass and attnum > 0 and not attisdropped"""


@pytest.mark.with_ledger(False)
def test_uninstall_leaves_the_database_as_it_was_and_touches_neither_texts_nor_adopted_vectors(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(10)
    conn.execute("alter table documents add column embedding vector(8)")
    conn.execute("update documents set embedding = array_fill(0.5, array[8])::vector")
    before, rows = set(project.rows(CATALOG)), project.rows("select * from documents order by id")
    project.script("0001_adopt.py", ADOPT.format(more=', writer="embedmig"'))
    space_script(project, "0002", "0001", dimensions=16, old=tag(8))
    project.configure(CONFIG.replace('alias = "docs_embeddings"', 'alias = "docs_embeddings"\nstale = "hide"'))
    upgrade(project)
    assert set(project.rows(CATALOG)) > before
    planned = embedmig.uninstall(project.opened())
    assert [(view.name, view.version) for view in planned.views] == [("public.docs_embeddings", tag(16))]
    assert planned.columns == ["public.documents.embedding_version"]
    assert any("public.documents.embedding: the adopted vectors" in one for one in planned.leaves)
    assert set(project.rows(CATALOG)) > before  # a plan removes nothing
    done = project.json("uninstall", "--yes")
    assert done["done"]
    assert set(project.rows(CATALOG)) == before
    assert project.rows("select * from documents order by id") == rows
    assert "nothing of embedmig's" in project.run("uninstall", "--yes").stdout
    upgrade(project)  # and begins again
    assert states(project) == {tag(8): "retained", tag(16): "active"}


def test_uninstall_without_a_terminal_wants_yes_and_removes_nothing_before(live: Project) -> None:
    before = live.rows(CATALOG)
    said = live.run("uninstall", expect=2).stderr
    assert "view public.docs_embeddings: applications read docs through it" in said
    assert "embedmig uninstall --yes" in said
    assert live.rows(CATALOG) == before


def test_uninstall_removes_nothing_where_something_of_the_users_depends_on_it(
    live: Project, conn: psycopg.Connection
) -> None:
    conn.execute("create view mine as select id from docs_embeddings")
    before = live.rows(CATALOG)
    with pytest.raises(PlanError, match="view mine depends on view docs_embeddings"):
        embedmig.uninstall(live.opened(), confirm=True)
    assert live.rows(CATALOG) == before
    assert embedmig.status(live.opened()).settled


def test_uninstall_is_refused_while_a_run_holds_the_lock(live: Project) -> None:
    with RunLock(live.opened().context(start=False).database):
        live.run("uninstall", "--yes", expect=4)


def test_uninstall_works_where_the_source_is_gone(live: Project, conn: psycopg.Connection) -> None:
    conn.execute("drop table documents cascade")
    assert embedmig.uninstall(live.opened(), confirm=True).done
    assert live.one("select to_regnamespace('embedmig')") is None


def test_downgrade_to_base_says_what_it_leaves_and_names_uninstall(live: Project) -> None:
    said: list[str] = []
    embedmig.downgrade(live.opened(), "base", report=lambda event: said.append(str(event)))
    assert any("embedmig uninstall" in one for one in said)
