"""Between the operations: revisions that are partly applied or partly taken back, and what may follow."""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

import embedmig
from embedmig.errors import (
    EXIT_NO,
    EXIT_USAGE,
    AliasMoved,
    DatabaseFailed,
    EmbedmigError,
    IllegalTransition,
    PlanError,
    ScriptError,
    UnknownTarget,
)
from embedmig.revisions import states
from tests.in_process import Fake, downgrade, space_script, tag, upgrade
from tests.project import CONFIG, Project

pytestmark = pytest.mark.with_ledger

FLIP = '    op.flip_alias("docs", to=NEW)\n'


@pytest.fixture
def fake() -> Fake:
    """The provider ``fake``."""
    return Fake().register()


@pytest.fixture
def two(project: Project, fake: Fake) -> Project:
    """Twenty documents, the first revision applied, and a second one that moves from 8 dimensions to 16."""
    space_script(project)
    project.prepared("states", lambda: (project.documents(20), upgrade(project)))
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    return project


def second(project: Project) -> Path:
    return project.migrations / "0002_space.py"


def edit(path: Path, before: str, after: str) -> None:
    assert before in path.read_text()
    path.write_text(path.read_text().replace(before, after))


def statement(project: Project, statement: str, *, place: str = "after the flip", revision: str = "0002") -> None:
    """A statement of the script's own in ``upgrade()``, before or after its flip."""
    line = f"    op.execute({statement!r})\n"
    edit(project.migrations / f"{revision}_space.py", FLIP, FLIP + line if place == "after the flip" else line + FLIP)


def at_the_end_of_downgrade(project: Project, statement: str) -> None:
    path = second(project)
    path.write_text(path.read_text() + f"    op.execute({statement!r})\n")


def fails(project: Project, **arguments: str) -> None:
    with pytest.raises(DatabaseFailed):
        upgrade(project)


def shown(project: Project) -> str | None:
    """What the application reads: the one version in the view, and that the ledger agrees."""
    if project.one("select to_regclass('docs_embeddings')") is None:
        assert project.one("select version from embedmig.aliases") is None
        return None
    [(version,)] = project.rows("select distinct version from docs_embeddings")
    assert project.one("select version from embedmig.aliases") == version
    return str(version)


def state(project: Project, revision: str = "0002") -> str:
    context = project.opened().context(start=True)
    with context.database.connect() as conn:
        return context.ledger.progress(conn)[revision].state


# --- partly applied -------------------------------------------------------------------------------------------


def test_a_run_that_failed_after_its_flip_is_taken_back_and_not_the_revision_before_it(two: Project) -> None:
    statement(two, "grant select on docs_embeddings to nobody_at_all")
    fails(two)
    assert shown(two) == tag(16)
    assert state(two) == "partly_applied"

    done = downgrade(two)
    assert done.revisions == ["0002"]
    assert done.current == ["0001"]
    assert shown(two) == tag()
    assert state(two) == "pending"


@pytest.mark.parametrize("place", ["before the flip", "after the flip"])
@pytest.mark.parametrize("target", ["-1", "0001", "base"])
def test_what_failed_is_taken_back_first_whatever_the_target_and_wherever_it_failed(
    two: Project, place: str, target: str
) -> None:
    statement(two, "select 1 / 0", place=place)
    fails(two)
    assert downgrade(two, target).revisions == (["0002", "0001"] if target == "base" else ["0002"])
    assert shown(two) == (None if target == "base" else tag())


def test_what_never_happened_is_not_undone(two: Project, conn: psycopg.Connection) -> None:
    statement(two, "select 1 / 0", place="before the flip")
    statement(two, "create table notes ()")
    at_the_end_of_downgrade(two, "drop table notes")
    at_the_end_of_downgrade(two, "select 1")
    fails(two)
    conn.execute("update documents set title = title || '.'")
    old = two.one("select table_name from embedmig.spaces where version like '%dim-8%'")
    conn.execute(f"delete from embedmig.{old}")  # a gate on the old version would be closed; there is no flip to guard
    assert downgrade(two).revisions == ["0002"]


def test_upgrade_goes_on_with_it_and_repeats_no_statement_that_was_done(two: Project) -> None:
    statement(two, "create table notes ()", place="before the flip")
    statement(two, "select count(*) from missing_table")
    fails(two)
    with two.connect() as conn:
        conn.execute("create table missing_table ()")
    assert upgrade(two).current == ["0002"]


def test_its_failed_operation_may_be_edited_and_what_it_did_may_not(two: Project) -> None:
    statement(two, "create table notes ()", place="before the flip")
    statement(two, "select 1 / 0")
    fails(two)
    edit(second(two), "create table notes ()", "create table other_notes ()")
    for act in (upgrade, downgrade):
        with pytest.raises(PlanError, match=r"0002_space\.py was edited.*operation 5 was 'execute create table notes"):
            act(two)
    edit(second(two), "create table other_notes ()", "create table notes ()")
    edit(second(two), "1 / 0", "1")
    assert upgrade(two).current == ["0002"]


def test_stamp_leads_out_of_it_in_both_directions(two: Project) -> None:
    statement(two, "select 1 / 0")
    fails(two)
    embedmig.stamp(two.opened(), "0002")
    assert state(two) == "applied"
    assert downgrade(two).revisions == ["0002"]
    fails(two)
    embedmig.stamp(two.opened(), "0001")
    assert state(two) == "pending"
    assert shown(two) == tag(16)
    with pytest.raises(AliasMoved, match=f"shows {tag(16)}, not {tag()}") as raised:
        downgrade(two, "base")
    assert raised.value.exit_code == EXIT_USAGE
    assert "embedmig stamp 0002" in str(raised.value.hint)
    assert shown(two) == tag(16)


@pytest.mark.parametrize("away", ["0001", "base"])
def test_a_revision_that_was_stamped_away_and_back_is_taken_back_as_ever(two: Project, away: str) -> None:
    upgrade(two)
    embedmig.stamp(two.opened(), away)
    with pytest.raises(AliasMoved) as raised:
        embedmig.upgrade(two.opened(), "0001") if away == "base" else downgrade(two, "base")
    assert "embedmig stamp 0002" in str(raised.value.hint)
    embedmig.stamp(two.opened(), "0002")
    assert downgrade(two).revisions == ["0002"]
    assert shown(two) == tag()
    assert downgrade(two).revisions == ["0001"]
    assert shown(two) is None


def test_there_is_no_way_back_to_what_is_applied_in_part(two: Project) -> None:
    statement(two, "select 1 / 0")
    fails(two)
    with pytest.raises(UnknownTarget, match="not applied as a whole"):
        downgrade(two, "0002")


# --- partly taken back ----------------------------------------------------------------------------------------


def partly_back(project: Project) -> None:
    """The second revision is applied, and its downgrade fails after its flip."""
    at_the_end_of_downgrade(project, "select 1 from missing_table")
    upgrade(project)
    with pytest.raises(DatabaseFailed):
        downgrade(project)
    assert shown(project) == tag()
    assert state(project) == "partly_taken_back"


def test_a_downgrade_that_failed_goes_on_with_the_same_command(two: Project, conn: psycopg.Connection) -> None:
    partly_back(two)
    conn.execute("create table missing_table ()")
    assert downgrade(two).revisions == ["0002"]
    assert (shown(two), state(two)) == (tag(), "pending")


def test_upgrade_after_a_downgrade_that_failed_shows_the_new_version_again(two: Project, fake: Fake) -> None:
    statement(two, "create table notes ()", place="before the flip")  # stays: only the flip was taken back
    partly_back(two)
    embedded = fake.seen.total()
    assert upgrade(two).revisions == ["0002"]
    assert (shown(two), state(two)) == (tag(16), "applied")
    assert fake.seen.total() == embedded


def test_upgrade_after_a_downgrade_that_failed_takes_no_new_operation_for_done(two: Project) -> None:
    partly_back(two)
    statement(two, "create table notes ()", place="before the flip")
    with pytest.raises(PlanError, match="operation 5 was 'flip the alias"):
        upgrade(two)


def test_there_and_back_in_parts_ends_where_the_last_command_says(two: Project, conn: psycopg.Connection) -> None:
    statement(two, "select 1 from missing_table")
    at_the_end_of_downgrade(two, "select 1 / (select count(*) from documents where id < 0)")
    fails(two)
    for _ in range(2):  # what never ran has nothing to take back: the failing statement is passed over
        assert downgrade(two).revisions == ["0002"]
        assert shown(two) == tag()
        fails(two)
        assert shown(two) == tag(16)
    conn.execute("create table missing_table ()")
    upgrade(two)
    for _ in range(2):
        with pytest.raises(DatabaseFailed):
            downgrade(two)
        assert (shown(two), state(two)) == (tag(), "partly_taken_back")
        upgrade(two)
        assert (shown(two), state(two)) == (tag(16), "applied")


# --- several --------------------------------------------------------------------------------------------------


def test_of_several_revisions_in_one_run_the_one_that_failed_is_the_first_to_be_taken_back(two: Project) -> None:
    space_script(two, "0003", "0002", old=tag(16), dimensions=32)
    statement(two, "select 1 / 0", revision="0003")
    fails(two)
    assert embedmig.current(two.opened()) == ["0002"]
    assert downgrade(two).revisions == ["0003"]
    assert (shown(two), embedmig.current(two.opened())) == (tag(16), ["0002"])


def test_of_several_heads_the_one_in_parts_is_the_first_to_be_taken_back(two: Project) -> None:
    two.script(
        "0003_beside.py", "revision = '0003'\ndown_revision = '0001'\ndef upgrade(): ...\ndef downgrade(): ...\n"
    )
    upgrade(two, "0003")
    statement(two, "select 1 / 0")
    with pytest.raises(DatabaseFailed):
        upgrade(two, "0002")
    assert downgrade(two).revisions == ["0002"]
    assert (shown(two), embedmig.current(two.opened())) == (tag(), ["0003"])


def test_a_downgrade_never_takes_away_what_another_revision_shows(two: Project) -> None:
    space_script(two, "0003", "0001", old=tag(), dimensions=32)
    upgrade(two, "0002")
    upgrade(two, "0003")
    with pytest.raises(AliasMoved, match="which revision 0003 put there") as raised:
        downgrade(two, "0002@-1")
    assert raised.value.exit_code == EXIT_USAGE
    assert shown(two) == tag(32)


# --- refused --------------------------------------------------------------------------------------------------


def test_the_ledger_refuses_what_the_table_of_states_does_not_have(two: Project) -> None:
    context = two.opened().context(start=True)
    with context.database.connect() as conn:
        with pytest.raises(IllegalTransition, match="0001 is applied"):
            context.ledger.begin(conn, "0001", "upgrade", "")
        with pytest.raises(IllegalTransition, match="0002 is pending"):
            context.ledger.begin(conn, "0002", "downgrade", "")
        [space] = context.registry.spaces(conn, "docs")
        for beyond in {before for _, before in states.SPACES} - {"active", "retained"}:
            with pytest.raises(IllegalTransition, match="active"):
                context.registry.set_state(conn, space.id, beyond)


def test_a_worker_that_comes_late_does_not_make_an_active_space_ready(two: Project) -> None:
    context = two.opened().context(start=True)
    with context.database.connect() as conn:
        [space] = context.registry.spaces(conn, "docs")
        context.registry.set_state(conn, space.id, "ready", only_from="building")
    assert two.one("select state from embedmig.spaces") == "active"


def test_upgrade_refuses_applied_scripts_that_were_edited_and_says_the_way_out(two: Project) -> None:
    path = two.migrations / "0001_space.py"
    reviewed = path.read_text()
    path.write_text(reviewed + "# an afterthought\n")
    with pytest.raises(PlanError, match=r"0001_space\.py was edited") as raised:
        upgrade(two)
    assert "embedmig stamp 0001" in str(raised.value.hint)
    assert embedmig.current(two.opened()) == ["0001"]
    embedmig.stamp(two.opened(), "0001")
    assert upgrade(two).current == ["0002"]
    path.write_text(reviewed)
    with pytest.raises(PlanError, match="was edited") as raised:
        upgrade(two)
    assert "embedmig stamp 0002" in str(raised.value.hint)  # of 0001 it would record 0002 as not applied
    embedmig.stamp(two.opened(), "0002")
    assert embedmig.status(two.opened()).settled


def test_an_applied_script_that_is_lost_for_good_has_a_way_out(two: Project) -> None:
    upgrade(two)
    second(two).unlink()
    refused = two.run("upgrade", "head", expect=EXIT_USAGE)
    assert "embedmig stamp --purge 0001" in refused.stderr
    two.run("stamp", "--purge", "0001")
    two.run("upgrade", "head")
    assert shown(two) == tag(16)


def test_stamp_leaves_another_branch_alone_unless_it_is_to_purge(two: Project) -> None:
    two.script(
        "0003_beside.py", "revision = '0003'\ndown_revision = '0001'\ndef upgrade(): ...\ndef downgrade(): ...\n"
    )
    embedmig.stamp(two.opened(), "heads")
    embedmig.stamp(two.opened(), "0002")
    assert embedmig.current(two.opened()) == ["0002", "0003"]
    embedmig.stamp(two.opened(), "0002", purge=True)
    assert embedmig.current(two.opened()) == ["0002"]


# --- shown ----------------------------------------------------------------------------------------------------


def test_status_current_and_check_show_what_is_applied_in_part(two: Project) -> None:
    statement(two, "select 1 / 0")
    two.configure(CONFIG, "\n[check]\nselect = ['EM015']\n")
    fails(two)
    for _ in range(2):
        found = two.json("status")["partly"]
        assert [(one["revision"], one["state"], len(one["done"])) for one in found] == [("0002", "partly_applied", 4)]
        assert two.json("current") == {"schema": 1, "current": ["0001"], "partly": found}
    assert "0002 is partly applied (4 operations finished)" in two.run("status").stdout
    assert "0002 is partly applied" in two.run("current").stdout
    assert "0002 is partly applied" in two.run("check", expect=EXIT_NO).stdout
    two.run("status", "--check", expect=EXIT_NO)
    assert [entry["state"] for entry in two.json("history")["revisions"]] == ["partly_applied", "applied"]


@pytest.mark.parametrize("text", ["revision = '0003'\ndown_revision = '0002'\n\ndef upgrade(:\n", "def upgrade(:\n"])
def test_one_unreadable_script_is_shown_with_its_error_and_stops_nothing_that_only_looks(
    two: Project, text: str
) -> None:
    two.script("0003_broken.py", text)
    [unreadable] = embedmig.status(two.opened()).unreadable
    assert unreadable["path"] == "0003_broken.py"
    assert "0003_broken.py:" in unreadable["error"]
    assert not embedmig.status(two.opened()).settled
    assert [bool(entry.error) for entry in embedmig.history(two.opened())] == [True, False, False]
    assert embedmig.current(two.opened()) == ["0001"]
    assert "0003_broken.py:" in two.run("history").stdout
    assert "0003_broken.py:" in two.run("status").stdout
    with pytest.raises(ScriptError, match=r"0003_broken\.py:"):
        upgrade(two)


def test_a_script_on_top_of_one_that_says_nothing_is_shown_as_cut_off(two: Project) -> None:
    second(two).write_text("def upgrade(:\n")
    space_script(two, "0003", "0002", old=tag(16), dimensions=32)
    errors = {entry.path: entry.error for entry in embedmig.history(two.opened())}
    assert "no readable script of 0002" in str(errors["0003_space.py"])
    assert errors["0001_space.py"] is None


def test_another_script_under_an_old_number_is_told_apart(two: Project) -> None:
    upgrade(two)
    downgrade(two)
    second(two).unlink()
    two.script("0002_other.py", "revision = '0002'\ndown_revision = '0001'\ndef upgrade(): ...\ndef downgrade(): ...\n")
    upgrade(two)
    assert [attempt["same_script"] for attempt in embedmig.show(two.opened(), "0002").attempts] == [False, False, True]


# --- before anything is changed -------------------------------------------------------------------------------

WRONG = {
    "provider": ('model="fake/hash"', 'model="nobody/hash"', "no provider is called 'nobody'"),
    "model": ('model="fake/hash", version="1"', 'model="wordllama/l9", version="0.4"', "carries no model"),
    "dimension": ('model="fake/hash", version="1"', 'model="wordllama/l2-supercat", version="0.4"', "no 16 dimensions"),
    "version": ('model="fake/hash", version="1", dimensions=16', 'model="wordllama/l2-supercat", version="0.1", dimensions=64', "is installed"),
}  # fmt: skip


@pytest.mark.parametrize("what", WRONG)
def test_a_dry_run_and_check_refuse_the_model_that_upgrade_would_refuse(two: Project, what: str) -> None:
    before, after, said = WRONG[what]
    edit(second(two), before.replace('"', "'"), after)
    for act in (lambda: embedmig.dry_run(two.opened(), "upgrade", "head"), lambda: upgrade(two)):
        with pytest.raises(EmbedmigError, match=said) as raised:
            act()
        assert raised.value.exit_code == EXIT_USAGE
    found = {one.code: one for one in embedmig.check(two.opened())}
    assert said in found["EM022"].message
    assert found["EM022"].where == "migrations/0002_space.py"
    offline = [one.code for one in embedmig.check(two.opened(), offline=True)]
    assert ("EM022" in offline) == (what != "version")  # what is installed here is not what files tell


def test_a_dry_run_and_check_refuse_an_extra_that_is_not_installed(
    two: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("embedmig.embedders.sentence_transformers.package_folder", lambda _: None)
    edit(second(two), "model='fake/hash'", "model='sentence-transformers/all-MiniLM-L6-v2'")
    with pytest.raises(EmbedmigError, match="is not installed") as raised:
        embedmig.dry_run(two.opened(), "upgrade", "head")
    assert raised.value.exit_code == EXIT_USAGE
    assert "EM022" in [one.code for one in embedmig.check(two.opened())]


def test_a_dry_run_and_check_refuse_a_column_that_is_not_there_and_need_no_key(
    two: Project, conn: psycopg.Connection
) -> None:
    edit(second(two), "model='fake/hash'", "model='openai/text-embedding-3-small'")
    assert "EM022" not in [one.code for one in embedmig.check(two.opened())]
    conn.execute("alter table documents rename column body to contents")
    with pytest.raises(EmbedmigError, match="'body' is not in documents"):
        embedmig.dry_run(two.opened(), "upgrade", "head")
    assert "EM022" in [one.code for one in embedmig.check(two.opened())]


@pytest.mark.parametrize("kind", ["vector(12)", "halfvec(12)", "vector"])
def test_an_adoption_takes_storage_and_dimensions_from_the_column(
    two: Project, conn: psycopg.Connection, kind: str
) -> None:
    conn.execute(f"alter table documents add embedding {kind}")
    conn.execute("update documents set embedding = array_fill(1, array[12])::vector")
    asked = (
        "revision",
        "-m",
        "adopt",
        "--adopt",
        "documents.embedding",
        "--model",
        "fake/hash",
        "--model-version",
        "1",
    )
    two.run(*asked)
    text = next(two.migrations.glob("0003_*")).read_text()
    assert "dimensions=12" in text
    assert ('storage="halfvec"' in text) == kind.startswith("halfvec")
    refused = two.run(*asked, "--dimensions", "8", expect=EXIT_USAGE)
    assert "dimensions is 12 in the database, not 8" in refused.stderr
    asked = tuple("documents.embeddings" if one == "documents.embedding" else one for one in asked)
    assert "did you mean embedding?" in two.run(*asked, expect=EXIT_USAGE).stderr


NOTES_DDL = """
create table ddl_log (id serial, said text, name text);
create function note_ddl() returns event_trigger language plpgsql as $$
begin insert into ddl_log (said, name) values (current_query(), current_setting('application_name')); end $$;
create event trigger note_ddl on ddl_command_start execute function note_ddl();
"""


def test_sql_prints_what_the_server_is_asked_to_do_triggers_included(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(20)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    conn.execute("drop extension vector")
    printed = printed_and_asked(project, conn)
    assert printed[0] == "create extension if not exists vector"
    assert any("create trigger" in text for text in printed)


def test_sql_of_an_adoption_has_the_tags_and_the_table_of_what_embedmig_writes(
    project: Project, conn: psycopg.Connection, fake: Fake
) -> None:
    project.documents(20)
    conn.execute("alter table documents add column embedding vector(8)")
    project.script("0001_adopt.py", ADOPT)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    printed = printed_and_asked(project, conn)
    assert any("written_" in text for text in printed)


ADOPT = """
from embedmig import Space, op

revision = "0001"
down_revision = None
OLD = Space(collection="docs", model="fake/hash", version="1", dimensions=8)


def upgrade() -> None:
    op.adopt_space(OLD, table="documents", column="embedding", writer="embedmig")
    op.flip_alias("docs", to=OLD)


def downgrade() -> None:
    op.flip_alias("docs", to=None)
"""


def printed_and_asked(project: Project, conn: psycopg.Connection) -> list[str]:
    """What ``--sql`` prints, which is what the server is asked to do."""
    planned = embedmig.dry_run(project.opened(), "upgrade", "head")
    printed = [text for step in planned for one in step.operations if isinstance(one.sql, list) for text in one.sql]
    embedmig.stamp(project.opened(), "base")  # embedmig's own tables are its own business
    conn.execute(NOTES_DDL)
    upgrade(project)
    conn.execute("drop event trigger note_ddl")
    query = """select said from (select id, said, lag(said) over (order by id) as before from ddl_log
                 where name like 'embedmig runner%' or name like 'embedmig index%') log
               where said is distinct from before order by id"""
    assert printed == [row[0] for row in conn.execute(query)]
    return printed
