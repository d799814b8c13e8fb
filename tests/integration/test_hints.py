"""Every command that a hint gives is run against the state that prints it.

:data:`SHOWN` names each such command in the source, file by file, with the test that runs it: a scenario below, or a test
elsewhere. A hint that is new, or words of one that changed, are not in it, and fail.
"""

from __future__ import annotations

import ast
import re
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer

import embedmig
from embedmig.cli import app, main
from embedmig.database import RunLock
from embedmig.stores.search import VersionGone, VersionNotReady, find_manifest, resolve_version
from tests.in_process import Fake, space_script, tag, upgrade
from tests.project import CONFIG, Project

pytestmark = pytest.mark.with_ledger

PACKAGE = Path(embedmig.__file__).parent
TESTS = Path(__file__).parents[1]
COMMANDS = "|".join(sorted(typer.main.get_command(app).commands))  # type: ignore[attr-defined]
COMMAND = re.compile(rf"\bembedmig (?:{COMMANDS})\b")
NOT_HINTS = {"cli/application.py", "planning/strategy.py", "revisions/states.py"}  # help, advice and names of events


class Terminal:
    """``embedmig`` in this process, with the model that lives in the test."""

    def __init__(self, project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self.project, self.conn, self.capsys, self.monkeypatch = project, project.connect(), capsys, monkeypatch
        monkeypatch.setenv("TEST_DATABASE_URL", project.url)
        monkeypatch.setenv("COLUMNS", "400")
        monkeypatch.chdir(project.folder)

    def run(self, command: str) -> tuple[int, str]:
        """Exit code, and all that was said, as one line."""
        self.monkeypatch.setattr(sys, "argv", shlex.split(command))
        with pytest.raises(SystemExit) as ended:
            main()
        said = self.capsys.readouterr()
        return int(ended.value.code or 0), " ".join((said.out + said.err).split())

    def follow(
        self, shown_by: str, hint: str, *, code: int | None = None, then: str | None = "", as_typed: str = ""
    ) -> str:
        """``shown_by`` says the hint, whose command does its work; then the first command, or ``then``, says it no more.

        ``as_typed`` is the hint with what stands for the user's own words. Returns what the command said.
        """
        ended, said = self.run(f"embedmig {shown_by}")
        assert hint in said, said
        assert ended == code or code is None
        ended, did = self.run(as_typed or hint)
        assert ended == 0, did
        if then is not None:
            ended, said = self.run(f"embedmig {then or shown_by}")
            assert ended == 0, said
            assert hint not in said, said
        return did


@pytest.fixture
def terminal(
    project: Project, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Terminal]:
    """Ten documents, two revisions with a version each, and nothing applied."""
    Fake().register()
    project.documents(10)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    made = Terminal(project, capsys, monkeypatch)
    yield made
    made.conn.close()


def live(terminal: Terminal) -> Terminal:
    """Both are applied."""
    upgrade(terminal.project)
    return terminal


def edited(project: Project, before: str, after: str) -> None:
    assert before in CONFIG
    project.configure(CONFIG.replace(before, after))


# --- scenarios --------------------------------------------------------------------------------------------------


def nothing_has_run_yet(t: Terminal) -> None:
    t.follow("sync", "embedmig upgrade head", code=2)


def a_table_of_the_ledger_was_dropped(t: Terminal) -> None:
    live(t)
    t.conn.execute("drop table embedmig.embedding_operations cascade")
    t.follow("status", "embedmig uninstall", code=1, as_typed="embedmig uninstall --yes", then=None)
    code, said = t.run("embedmig upgrade head")
    assert code == 0, said
    t.conn.execute("drop table embedmig.spaces cascade")
    code, said = t.run("embedmig uninstall --yes")
    assert (code, 'drop schema "embedmig" cascade' in said) == (2, True), said
    t.conn.execute("drop schema embedmig cascade")
    code, said = t.run("embedmig upgrade head")
    assert code == 0, said
    assert t.run("embedmig status --check")[0] == 0


def the_alias_shows_nothing(t: Terminal) -> None:
    live(t)
    embedmig.downgrade(t.project.opened(), "base")
    t.follow("alias rebuild docs", "embedmig upgrade head", code=2)
    embedmig.downgrade(t.project.opened(), "base")
    t.follow("search docs wave", "embedmig upgrade head", code=2)
    embedmig.downgrade(t.project.opened(), "base")
    t.follow("cuts docs", "embedmig upgrade head", code=2)


def the_alias_is_dropped_and_rebuilt(t: Terminal) -> None:
    live(t).follow("alias drop docs", "embedmig alias rebuild docs", then=None)
    t.conn.execute("drop view docs_embeddings")
    t.follow("status", "embedmig alias rebuild docs")
    t.conn.execute("drop view docs_embeddings")
    t.follow("audit", "embedmig alias rebuild docs", code=3)
    t.conn.execute("drop view docs_embeddings")
    t.follow("search docs wave", "embedmig alias rebuild docs", code=2)


def the_view_was_changed_by_hand(t: Terminal) -> None:
    live(t)
    [(definition,)] = t.conn.execute("select pg_get_viewdef('docs_embeddings'::regclass)").fetchall()
    changed = definition.replace(tag(16), "another@1/dim-16/norm-l2")
    t.conn.execute(f"create or replace view docs_embeddings as {changed}")
    t.follow("audit", "embedmig alias rebuild docs", code=3)


def a_renamed_alias_is_rebuilt_and_its_old_name_dropped(t: Terminal) -> None:
    live(t)
    edited(t.project, 'alias = "docs_embeddings"', 'alias = "docs_search"')
    for command in ("status", "check"):
        assert "embedmig alias rebuild docs" in t.run(f"embedmig {command}")[1]
    said = t.follow("upgrade head", "embedmig alias rebuild docs")
    assert "embedmig alias drop docs --old" in said
    t.follow("alias rebuild docs --old", "embedmig alias drop docs --old", code=2, then=None)
    assert t.project.one("select to_regclass('docs_embeddings')") is None


def a_renamed_alias_is_carried_out_by_a_flip(t: Terminal) -> None:
    upgrade(t.project, "0001")
    edited(t.project, 'alias = "docs_embeddings"', 'alias = "docs_search"')
    t.follow("upgrade head", "embedmig alias drop docs --old", then=None)


def a_column_that_the_alias_does_not_show(t: Terminal) -> None:
    live(t)
    with pytest.raises(embedmig.UsageError) as raised, embedmig.Reader(t.project.url, "docs") as reader:
        reader.search("wave", where={"body": "x"})
    edited(t.project, 'columns = ["title"]', 'columns = ["title", "body"]')
    assert str(raised.value.hint).endswith("embedmig alias rebuild docs")
    assert t.run("embedmig alias rebuild docs")[0] == 0
    with embedmig.Reader(t.project.url, "docs") as reader:
        assert reader.search("wave", where={"body": "x"}) == []


def changes_wait(t: Terminal) -> None:
    live(t)
    t.project.configure(CONFIG, '\n[gates]\nfreshness = "0s"\n')
    t.conn.execute("update documents set body = 'newer'")
    t.follow("gate docs", "embedmig sync", code=3)


def triggers_are_gone(t: Terminal) -> None:
    live(t)
    for command, hint in (
        ("gate docs", "embedmig sync --repair"),
        ("status", "embedmig sync --repair"),
        ("audit", "embedmig sync docs --repair"),
    ):
        t.conn.execute("drop trigger embedmig_docs_update on documents")
        t.follow(command, hint)


def triggers_are_found_gone_by_check(t: Terminal) -> None:
    live(t)
    t.conn.execute("drop trigger embedmig_docs_update on documents")
    assert t.run("embedmig status --check")[0] == 3
    t.follow("check", "embedmig sync docs --repair", code=3)
    assert t.run("embedmig status --check")[0] == 0


def the_extension_was_dropped(t: Terminal) -> None:
    live(t)
    t.conn.execute("drop extension vector cascade; update documents set body = 'newer' where id = 1")
    t.follow("sync docs", "embedmig sync --repair", code=1, then="sync docs")
    code, said = t.run("embedmig alias rebuild docs")
    assert code == 0, said
    code, said = t.run("embedmig status --check")
    assert code == 0, said


def revisions_were_recorded_that_never_ran(t: Terminal) -> None:
    assert t.run("embedmig stamp head")[0] == 0
    for command in ("status --check", "check"):
        code, said = t.run(f"embedmig {command}")
        assert (code, "embedmig stamp base" in said) == (3, True), said
    did = t.follow("upgrade head", "embedmig stamp base", code=0, then=None)
    assert "at base" in did
    code, said = t.run("embedmig upgrade head")
    assert code == 0, said
    code, said = t.run("embedmig status --check")
    assert code == 0, said


def a_table_took_the_place_of_the_alias(t: Terminal) -> None:
    live(t)
    t.conn.execute("drop view docs_embeddings; create table docs_embeddings (precious text)")
    for command, code in (("status --check", 3), ("check", 3), ("audit", 3), ("search docs wave", 2), ("alias rebuild docs", 2), ("downgrade -1", 2)):  # fmt: skip
        ended, said = t.run(f"embedmig {command}")
        assert (ended, "rename or drop" in said) == (code, True), said
    t.conn.execute("alter table docs_embeddings rename to kept")
    t.follow("status", "embedmig alias rebuild docs", then="status --check")
    t.conn.execute("drop view docs_embeddings; alter table kept rename to docs_embeddings")
    code, said = t.run("embedmig uninstall --yes")
    assert code == 0, said
    assert t.project.one("select to_regclass('docs_embeddings')::text") == "docs_embeddings"


def a_view_stands_on_the_alias(t: Terminal) -> None:
    live(t)
    t.conn.execute("create view mine as table docs_embeddings")
    for command in ("alias drop docs", "downgrade base"):
        code, said = t.run(f"embedmig {command}")
        assert (code, "view mine depends on view docs_embeddings" in said) == (1, True), said
    t.conn.execute("drop view mine")
    code, said = t.run("embedmig downgrade base")
    assert code == 0, said


def capture_is_configured_anew(t: Terminal) -> None:
    live(t)
    t.conn.execute("alter table documents add column seen timestamptz default now()")
    edited(t.project, 'key = "id"', 'key = "id"\ncapture = "watermark"\nchanged_at = "seen"')
    t.follow("check", "embedmig sync docs --repair", code=3)


def a_collection_is_not_in_the_configuration(t: Terminal) -> None:
    live(t)
    t.project.configure(CONFIG.replace("[collections.docs]", "[collections.papers]"))
    for command, code in (("status --check", 3), ("check", 3), ("sync", 2), ("upgrade head", 0)):
        ended, said = t.run(f"embedmig {command}")
        assert (ended, "docs_embeddings shows" in said) == (code, True), said
        assert "embedmig uninstall" in said
    t.project.configure(CONFIG)
    code, said = t.run("embedmig status --check")
    assert code == 0, said
    assert t.run("embedmig uninstall --yes")[0] == 0


def the_configuration_asks_for_a_revision(t: Terminal) -> None:
    live(t)
    edited(t.project, 'text = ["title", "body"]', 'text = ["title"]')
    hint = "embedmig revision --collection docs -m …"
    typed = "embedmig revision --collection docs -m titles --model fake/hash --model-version 2 --dimensions 8"
    t.follow("upgrade head", hint, code=2, as_typed=typed, then="upgrade head")


def an_applied_script_was_edited(t: Terminal) -> None:
    live(t)
    path = t.project.migrations / "0001_space.py"
    path.write_text(path.read_text() + "# an afterthought\n")
    t.follow("upgrade head", "embedmig stamp 0002", code=2)


def an_applied_script_is_lost(t: Terminal) -> None:
    live(t)
    (t.project.migrations / "0002_space.py").unlink()
    t.follow("upgrade head", "embedmig stamp --purge 0001", code=2)


def a_revision_is_applied_in_part(t: Terminal) -> None:
    path = t.project.migrations / "0002_space.py"
    reviewed = path.read_text()
    flip = '    op.flip_alias("docs", to=NEW)\n'
    failing = reviewed.replace(flip, f"{flip}    op.execute('select 1 / 0')\n")
    path.write_text(failing)
    assert t.run("embedmig upgrade head")[0] == 1
    t.follow("status", "embedmig downgrade -1", then=None)
    assert embedmig.current(t.project.opened()) == ["0001"]
    assert t.run("embedmig upgrade head")[0] == 1
    path.write_text(reviewed)
    t.follow("downgrade 0002", "embedmig upgrade 0002", code=2, then="status")
    assert embedmig.current(t.project.opened()) == ["0002"]


def the_alias_shows_what_no_applied_revision_left(t: Terminal) -> None:
    live(t)
    embedmig.stamp(t.project.opened(), "0001")
    t.follow("downgrade base", "embedmig stamp 0002", code=2, then="status")


def a_version_of_its_own_is_not_released(t: Terminal) -> None:
    live(t)
    said = t.run(f"embedmig release docs {tag()}")[1]
    command = f"embedmig retire docs {tag()} --confirm {tag()}"
    assert command in said
    assert t.run(f"{command} --after 0s")[0] == 0


def rows_are_left_to_workers(t: Terminal) -> None:
    t.follow("upgrade 0001 --no-wait", "embedmig backfill docs", code=3)


def there_is_no_such_version(t: Terminal) -> None:
    live(t)
    t.follow("backfill docs --version nothing", "embedmig status", then=None)
    with pytest.raises(embedmig.EmbedmigError) as raised:
        embedmig.search(t.project.opened(), "docs", "wave", version="nothing")
    assert raised.value.hint


def a_version_is_not_filled(t: Terminal) -> None:
    upgrade(t.project, "0001")
    assert t.run("embedmig upgrade head --no-wait")[0] == 3
    context = t.project.opened().context(start=False)
    with pytest.raises(VersionNotReady) as raised:  # what a canary and shadow reads meet
        resolve_version(t.conn, context.registry, "docs", tag(16), {})
    assert raised.value.hint == "embedmig upgrade head"
    assert t.run(raised.value.hint)[0] == 0
    assert resolve_version(t.conn, context.registry, "docs", tag(16), {}).version == tag(16)


def an_empty_version_is_evaluated(t: Terminal) -> None:
    upgrade(t.project, "0001")
    embedmig.make_golden(t.project.opened(), "docs", 5)
    assert t.run("embedmig upgrade head --no-wait")[0] == 3
    t.follow(f"eval docs --version {tag(16)}", "embedmig upgrade head", code=2)


def nobody_measured_the_version(t: Terminal) -> None:
    live(t)
    embedmig.make_golden(t.project.opened(), "docs", 5)
    t.follow("status", "not measured: embedmig eval docs", as_typed="embedmig eval docs")


def no_golden_set(t: Terminal) -> None:
    upgrade(t.project, "0001")
    t.follow("check", "embedmig eval docs --make-golden 200", code=3, then=None)


def a_gate_wants_evidence(t: Terminal) -> None:
    upgrade(t.project, "0001")
    path = t.project.migrations / "0002_space.py"
    asked = f"op.gate(NEW, completeness=0.995, ndcg_at_10=within(0.9, of={tag()!r}), overlap_at_10=0.0)"
    text = path.read_text().replace("op.gate(NEW, completeness=0.995)", asked)
    path.write_text(text.replace("import Space, op", "import Space, op, within"))
    for command in (f"embedmig eval docs --version {tag(16)}", f"embedmig compare docs OLD {tag(16)}"):
        code, said = t.run("embedmig upgrade head")
        assert (code, command in said) == (3, True), said
        if "eval" in command:
            embedmig.make_golden(t.project.opened(), "docs", 5)  # with a set, a gate measures by itself
        assert t.run(command.replace("OLD", tag()))[0] == 0
    code, said = t.run("embedmig upgrade head")
    assert code == 0, said


def a_run_holds_the_lock(t: Terminal) -> None:
    live(t)
    with RunLock(t.project.opened().context(start=False).database):
        t.follow("upgrade head", "embedmig status", code=4, then=None)


def a_speed_of_nothing(t: Terminal) -> None:
    live(t).follow("throttle 0", "embedmig pause", code=2, then=None)
    t.follow("pause", "embedmig resume", then=None)


def nobody_confirms_the_uninstall(t: Terminal) -> None:
    live(t).follow("uninstall", "embedmig uninstall --yes", code=2)


def everything_is_taken_back(t: Terminal) -> None:
    live(t).follow("downgrade base", "embedmig uninstall", then=None, as_typed="embedmig uninstall --yes")


def there_are_two_heads(t: Terminal) -> None:
    live(t)
    beside = "revision = '0003'\ndown_revision = '0001'\ndef upgrade(): ...\ndef downgrade(): ...\n"
    t.project.script("0003_beside.py", beside)
    t.follow("upgrade head", 'embedmig merge -m "…"', code=2, as_typed="embedmig merge -m both", then="upgrade head")


def two_heads_are_found_by_check(t: Terminal) -> None:
    live(t)
    beside = "revision = '0003'\ndown_revision = '0001'\ndef upgrade(): ...\ndef downgrade(): ...\n"
    t.project.script("0003_beside.py", beside)
    assert "embedmig rebase 0003_beside" in t.run("embedmig check")[1]
    assert t.run("embedmig rebase 0003_beside")[0] == 0
    assert t.run("embedmig upgrade head")[0] == 0


def two_scripts_have_one_number(t: Terminal) -> None:
    live(t)
    beside = "revision = '0002'\ndown_revision = '0001'\ndef upgrade(): ...\ndef downgrade(): ...\n"
    t.project.script("0002_zbeside.py", beside)
    t.follow("upgrade head", "embedmig rebase 0002_zbeside", code=2)


def a_number_names_two_scripts(t: Terminal) -> None:
    live(t)
    beside = "revision = '0002'\ndown_revision = '0001'\ndef upgrade(): ...\ndef downgrade(): ...\n"
    t.project.script("0002_zbeside.py", beside)
    t.follow("rebase 0002", "embedmig rebase 0002_zbeside", code=2, then=None)


def an_applied_script_is_not_renumbered(t: Terminal) -> None:
    live(t).follow("rebase 0002", "embedmig downgrade -1", code=2, then=None)


def a_name_that_nothing_has(t: Terminal) -> None:
    live(t).follow("upgrade 0020", "embedmig history", code=2, then=None)
    t.follow("show base", "embedmig history", code=2, then=None)
    t.follow("rebase 0020", "embedmig history", code=2, then=None)


def a_merge_of_what_is_one_line(t: Terminal) -> None:
    live(t).follow("merge 0001 0002 -m both", "embedmig heads", code=2, then=None)


def a_direction_that_leads_nowhere(t: Terminal) -> None:
    live(t).follow("upgrade base", "embedmig downgrade base", code=2, then=None)


def an_empty_folder(t: Terminal) -> None:
    for path in (*t.project.migrations.glob("*.py"), t.project.folder / "embedmig.toml"):
        path.unlink()
    (t.project.folder / "pyproject.toml").write_text("[project]\n")
    code, said = t.run("embedmig -c pyproject.toml status")
    assert (code, "embedmig init" in said) == (2, True), said
    t.follow("status", "embedmig init", code=2, then=None)
    t.follow("init", "embedmig init DIR", code=2, then=None, as_typed="embedmig init another")


def no_script_yet(t: Terminal) -> None:
    for path in t.project.migrations.glob("*.py"):
        path.unlink()
    typed = "embedmig revision -m first --model fake/hash --model-version 1 --dimensions 8"
    t.follow("show 0001", 'embedmig revision -m "…" --model', code=2, as_typed=typed, then="upgrade head")


def a_column_of_vectors_that_nobody_accounts_for(t: Terminal) -> None:
    live(t)
    t.conn.execute("alter table documents add column vectors vector(4)")
    t.conn.execute("update documents set vectors = '[1,0,0,0]'")
    hint = "embedmig revision -m … --collection docs --adopt documents.vectors --model …"
    typed = "embedmig revision -m adopt --collection docs --adopt documents.vectors --model fake/hash --model-version 0"
    t.follow("audit", hint, code=3, as_typed=typed, then=None)
    assert t.run("embedmig upgrade head")[0] == 0
    assert hint not in t.run("embedmig audit")[1]


def there_is_nothing_to_compare(t: Terminal) -> None:
    t.follow("drift docs --model fake/hash --model-version 2", "embedmig status", code=2, then=None)


def too_few_rows_for_a_bridge(t: Terminal) -> None:
    live(t)
    t.follow(f"bridge docs --from {tag(16)} --to {tag()}", "embedmig backfill docs", code=2, then=None)


def the_embedded_server_is_not_there_yet(t: Terminal) -> None:
    t.project.configure(CONFIG.replace("env:TEST_DATABASE_URL", "embedded"))
    code, said = t.run("embedmig status")
    assert (code, "embedmig upgrade head" in said) == (2, True)


def a_retirement_wants_evaluations(t: Terminal) -> None:
    live(t)
    embedmig.make_golden(t.project.opened(), "docs", 5)
    assert t.run("embedmig eval docs")[0] == 0
    retire = f"retire docs {tag()} --after 0s --confirm {tag()} --evals-stable 2"
    assert t.follow(retire, "embedmig eval docs", code=3, then=None)
    assert "embedmig eval docs makes one" not in t.run(f"embedmig {retire}")[1]


def a_revision_is_pending(t: Terminal) -> None:
    upgrade(t.project, "0001")
    t.follow("check", "embedmig upgrade head", code=3)


def a_key_was_given_another_type(t: Terminal) -> None:
    live(t)
    t.conn.execute("drop view docs_embeddings; alter table documents alter column id type int")
    for expected in (2, 1):  # of two versions none could be looked at, then one
        code, said = t.run("embedmig sync")
        assert code == expected
        change = re.search(r"alter table \S+ alter column id type integer using id::text::integer", said)
        assert change, said
        t.conn.execute(change[0])
    assert "embedmig sync --repair" in said
    assert t.run("embedmig sync --repair")[0] == 0


def an_alias_of_an_older_embedmig(t: Terminal) -> None:
    live(t)
    t.conn.execute("update embedmig.aliases set encoder = encoder - 'collection'")
    context = t.project.opened().context(start=False)
    with pytest.raises(embedmig.UsageError) as raised:  # what a canary and shadow reads meet
        find_manifest(t.conn, context.registry, "docs", tag())
    hint = str(raised.value.hint)
    assert t.run(hint.removesuffix(" writes it"))[0] == 0
    assert find_manifest(t.conn, context.registry, "docs", tag()).record.version == tag()


def a_version_that_was_retired(t: Terminal) -> None:
    live(t)
    embedmig.retire(t.project.opened(), "docs", tag(), after="0s", confirm=tag())
    context = t.project.opened().context(start=False)
    with pytest.raises(VersionGone) as raised:  # what a hit of that version meets, which an application kept
        find_manifest(t.conn, context.registry, "docs", tag())
    assert str(raised.value.hint).startswith("embedmig status")
    assert "retired" in t.run("embedmig status")[1]


# --- which test runs which hint -----------------------------------------------------------------------------------

GIVEN_UP = "integration/test_versions.py::test_a_version_that_is_given_up_before_it_was_shown_is_retired_by_hand"
LOST = "integration/test_versions.py::test_a_dropped_table_of_a_version_is_shown_made_again_by_repair_or_retired"
RACE = "a race that no command can be made to lose in a test: "
SQUASH = "integration/test_squash.py::test_a_database_in_the_middle_is_told_to_finish_first_and_what_was_tampered_with_is_refused"
NEXT = "unit/test_next_step.py::test_the_most_urgent_thing_comes_first"
FIRST_HOUR = "acceptance/test_first_hour.py::test_an_unlabelled_table_is_found_adopted_and_searched"

SHOWN: dict[str, dict[str, Callable[[Terminal], None] | str]] = {
    "cli/beginning.py": {
        "embedmig upgrade --dry-run": FIRST_HOUR,
        "embedmig upgrade": FIRST_HOUR,
    },
    "cli/migrating.py": {
        "embedmig status --each": "integration/test_fleet.py::test_ctrl_c_ends_the_runs_at_work_after_their_batch_and_begins_no_other",
    },
    "cli/operating.py": {
        "embedmig alias rebuild {}": the_alias_is_dropped_and_rebuilt,
        "embedmig alias drop {} --old": a_renamed_alias_is_rebuilt_and_its_old_name_dropped,
        "embedmig resume": a_speed_of_nothing,
        "embedmig uninstall --yes": nobody_confirms_the_uninstall,
    },
    "commands/alias.py": {"embedmig upgrade head": the_alias_shows_nothing},
    "commands/answers.py": {"embedmig eval {}": a_gate_wants_evidence},
    "commands/backfill.py": {"embedmig status": there_is_no_such_version},
    "commands/cuts.py": {"embedmig upgrade head creates and fills it": the_alias_shows_nothing},
    "commands/drift.py": {"embedmig status": there_is_nothing_to_compare},
    "commands/next_step.py": {
        "embedmig downgrade -1": "integration/test_quality_verdict.py::test_a_collapse_of_quality_is_red_in_status_report_metrics_and_after_the_upgrade",
        "embedmig status --watch": "integration/test_writing.py::test_the_status_is_watched_on_a_terminal_until_it_is_interrupted",
        "embedmig check": an_applied_script_was_edited,
        "embedmig gate {}": NEXT,
        "embedmig upgrade --dry-run": FIRST_HOUR,
        "embedmig revision --help": NEXT,
        "embedmig eval {}": nobody_measured_the_version,
        "embedmig sync --repair": triggers_are_gone,
        "embedmig alias rebuild {}": the_alias_is_dropped_and_rebuilt,
        "embedmig resume {}": NEXT,
        "embedmig upgrade {}": a_revision_is_applied_in_part,
    },
    "commands/project.py": {"embedmig upgrade head": nothing_has_run_yet},
    "commands/running.py": {
        "embedmig downgrade {}": "integration/test_squash.py::test_a_fresh_database_runs_one_script_and_one_that_had_them_all_nothing_and_both_go_on_alike",
        "embedmig uninstall": everything_is_taken_back,
        "embedmig upgrade {}": a_revision_is_applied_in_part,
        "embedmig stamp {}": an_applied_script_was_edited,
    },
    "commands/status.py": {
        "embedmig bridge {} --from NEW --to {}": "integration/test_models.py::test_the_day_on_which_a_model_ends_is_said_wherever_its_version_is_shown",
        "embedmig retire {} {} --confirm {}": GIVEN_UP,
    },
    "commands/squash.py": {
        "embedmig upgrade {}": "integration/test_squash.py::test_what_is_not_applied_or_built_upon_in_its_middle_is_not_squashed"
    },
    "reading/integrations/langchain.py": {"embedmig sync": "a note in an error of LangChain's own"},
    "commands/throttle.py": {"embedmig pause": a_speed_of_nothing},
    "commands/unmade.py": {
        "embedmig stamp {}": revisions_were_recorded_that_never_ran,
        "embedmig upgrade head": revisions_were_recorded_that_never_ran,
    },
    "config/loading.py": {"embedmig init": an_empty_folder},
    "config/toml_values.py": {"embedmig init": an_empty_folder},
    "database/embedded.py": {"embedmig upgrade head": the_embedded_server_is_not_there_yet},
    "database/failures.py": {
        "embedmig uninstall": a_table_of_the_ledger_was_dropped,
        "embedmig upgrade head": a_table_of_the_ledger_was_dropped,
        "embedmig sync --repair": the_extension_was_dropped,
    },
    "database/cuts_table.py": {
        "embedmig cuts {}": "integration/test_cuts.py::test_the_same_share_of_pairs_lies_over_a_threshold_before_the_flip_and_after_and_going_back_has_the_old_one"
    },
    "database/ledger.py": {"embedmig status": RACE + "another run took over"},
    "database/run_lock.py": {"embedmig status": a_run_holds_the_lock},
    "database/schema/__init__.py": {
        "embedmig upgrade head": "integration/test_ledger.py::"
        "test_the_ledger_of_an_older_embedmig_is_brought_up_to_date_though_no_revision_is_pending"
    },
    "embedders/model_check.py": {
        "embedmig drift": "integration/test_drift.py::"
        "test_an_interrupted_upgrade_is_not_resumed_with_another_model_and_the_exit_code_is_3"
    },
    "gates/conditions.py": {
        "embedmig sync --repair": triggers_are_gone,
        "embedmig sync": changes_wait,
        "embedmig gate": "advice about precision, in a note beside an estimate",
    },
    "gates/evidence.py": {
        "embedmig eval {} --version {}": a_gate_wants_evidence,
        "embedmig eval {}": a_retirement_wants_evaluations,
        "embedmig compare {} OLD {}": a_gate_wants_evidence,
    },
    "gates/quality_verdict.py": {"embedmig eval {}": nobody_measured_the_version},
    "lint/cutover.py": {
        "embedmig retire {} {}": a_version_of_its_own_is_not_released,
        "embedmig eval {} --make-golden 200": no_golden_set,
    },
    "lint/revisions.py": {
        "embedmig merge": two_heads_are_found_by_check,
        "embedmig rebase {}": two_heads_are_found_by_check,
        "embedmig upgrade head": a_revision_is_pending,
    },
    "lint/spaces.py": {
        "embedmig revision": the_configuration_asks_for_a_revision,
    },
    "operations/compact_space.py": {
        "embedmig status": "integration/test_compact.py::test_what_can_not_be_compacted_is_refused_before_anything_is_changed"
    },
    "operations/shared_vectors.py": {"embedmig backfill {}": too_few_rows_for_a_bridge},
    "operations/backfill.py": {
        "embedmig upgrade goes on": "integration/test_derive.py::test_nobody_embeds_what_is_still_being_derived",
        "embedmig backfill {}": rows_are_left_to_workers,
        "embedmig status": RACE + "a version retired under a worker",
    },
    "operations/base.py": {
        "embedmig stamp {}": the_alias_shows_what_no_applied_revision_left,
        "embedmig show REVISION": "names no command for this state alone: of a version whose revision nobody wrote down",
        "embedmig stamp": "as for embedmig show REVISION",
    },
    "operations/evaluating.py": {"embedmig upgrade head": an_empty_version_is_evaluated},
    "operations/flip_alias.py": {
        "embedmig alias drop {} --old": a_renamed_alias_is_carried_out_by_a_flip,
        "embedmig status": RACE + "an alias moved between plan and flip",
    },
    "operations/kept_embeddings.py": {
        "embedmig try": "integration/test_try.py::test_the_backfill_of_the_model_that_was_chosen_sends_no_text_that_try_has_embedded",
    },
    "operations/release_space.py": {"embedmig retire {} {} --confirm {}": a_version_of_its_own_is_not_released},
    "operations/retire_space.py": {"embedmig downgrade -1": GIVEN_UP},
    "operations/taking_back.py": {"embedmig stamp REVISION": "put right by hand: integration/test_states.py"},
    "quality/bridge_table.py": {
        "embedmig bridge {} --from {} --to VERSION": "integration/test_rerank.py::test_a_bridge_is_fitted_measured_and_kept_for_its_pair_alone",
    },
    "quality/audit/checks.py": {
        "embedmig sync {} --repair": triggers_are_gone,
        "embedmig alias rebuild {}": the_view_was_changed_by_hand,
        "embedmig upgrade": "integration/test_ledger.py::test_an_invalid_index_closes_the_gate_and_is_dropped_and_built_anew",
        "embedmig revision -m … --collection {} --adopt {}.{} --model": a_column_of_vectors_that_nobody_accounts_for,
    },
    "quality/embedding_cache.py": {
        "embedmig try": "integration/test_try.py::test_the_backfill_of_the_model_that_was_chosen_sends_no_text_that_try_has_embedded",
    },
    "reading/rescue.py": {
        "embedmig bridge {} --from VERSION --to {}": "integration/test_rerank.py::test_a_bridge_is_fitted_measured_and_kept_for_its_pair_alone",
    },
    "reading/reader.py": {"embedmig upgrade head": the_alias_shows_nothing},
    "report/decision.py": {
        "embedmig eval": "a note on a page, beside the verdict",
        "embedmig downgrade -1": "a note on a page, beside the verdict",
    },
    "report/page.py": {
        "embedmig gate": "a note on a page, beside the figure",
        "embedmig downgrade -1": "a note on a page, beside the verdict",
    },
    "report/tables.py": {
        "embedmig upgrade {}": a_revision_is_applied_in_part,
        "embedmig downgrade -1": a_revision_is_applied_in_part,
        "embedmig sync --repair": triggers_are_gone,
    },
    "revisions/authoring.py": {
        "embedmig revision -m MESSAGE --collection NAME": "a comment in the first script",
        "embedmig downgrade -1": an_applied_script_is_not_renumbered,
        "embedmig init DIR": an_empty_folder,
        "embedmig init": an_empty_folder,
        "embedmig rebase {}": a_number_names_two_scripts,
        "embedmig history": a_name_that_nothing_has,
        "embedmig heads": a_merge_of_what_is_one_line,
    },
    "revisions/graph.py": {
        "embedmig upgrade {}": SQUASH,
        "embedmig history": a_name_that_nothing_has,
        'embedmig revision -m "…"': no_script_yet,
        "embedmig downgrade base": a_direction_that_leads_nowhere,
        "embedmig stamp --purge {}": an_applied_script_is_lost,
        "embedmig rebase {}": two_scripts_have_one_number,
        'embedmig merge -m "…"': there_are_two_heads,
        "embedmig current": "no target is known that Alembic refuses in this way after the checks before it",
    },
    "revisions/scripts.py": {"embedmig squash": SQUASH, "embedmig init": an_empty_folder},
    "source/capture.py": {
        "embedmig sync": "integration/test_capture.py::test_rows_of_partitions_that_come_and_go_are_taken_in_by_sync"
    },
    "source/table.py": {"embedmig sync --repair": a_key_was_given_another_type},
    "stores/alias_health.py": {"embedmig alias rebuild {}": a_table_took_the_place_of_the_alias},
    "stores/aliases.py": {"embedmig alias rebuild {}": an_alias_of_an_older_embedmig},
    "stores/differences.py": {
        "embedmig alias rebuild {}": a_renamed_alias_is_rebuilt_and_its_old_name_dropped,
        "embedmig sync {} --repair": capture_is_configured_anew,
        "embedmig uninstall": a_collection_is_not_in_the_configuration,
        "embedmig revision --collection {} -m …": the_configuration_asks_for_a_revision,
    },
    "stores/external_search.py": {
        "embedmig sync {} --repair": "integration/test_external.py::test_a_point_that_is_gone_closes_the_gate_and_repair_embeds_it_alone"
    },
    "stores/losses.py": {"embedmig sync {} --repair": triggers_are_found_gone_by_check},
    "stores/pgvector/search.py": {"embedmig alias rebuild {}": a_column_that_the_alias_does_not_show},
    "stores/presence.py": {
        "embedmig sync {} --repair": LOST,
        "embedmig retire {} {} --after 0s --confirm {}": LOST,
        "embedmig alias rebuild {}": LOST,
        "embedmig release {} {}": "integration/test_versions.py::"
        "test_a_dropped_column_of_an_adopted_version_is_shown_with_what_to_do_and_released",
        "embedmig revision": "integration/test_capture.py::"
        "test_a_dropped_text_column_breaks_no_write_and_a_new_revision_goes_on_without_it",
    },
    "stores/store_alias.py": {
        "embedmig alias rebuild {}": "integration/test_external.py::test_an_alias_moved_by_hand_is_seen_refused_and_mended"
    },
    "stores/search.py": {
        "embedmig upgrade head": a_version_is_not_filled,
        "embedmig status": a_version_that_was_retired,
    },
}


SCENARIOS = list(dict.fromkeys(one for commands in SHOWN.values() for one in commands.values() if callable(one)))
SCENARIOS.append(a_view_stands_on_the_alias)  # its hint has no command


NO_LEDGER = pytest.param(nothing_has_run_yet, marks=pytest.mark.with_ledger(False))


@pytest.mark.parametrize(
    "scenario",
    [NO_LEDGER if one is nothing_has_run_yet else one for one in SCENARIOS],
    ids=lambda one: one.__name__,
)
def test_the_command_of_a_hint_leads_out_of_the_state_that_prints_it(
    terminal: Terminal, scenario: Callable[[Terminal], None]
) -> None:
    scenario(terminal)


def commands_in_source() -> Iterator[tuple[str, str]]:
    """Every command of embedmig in a string of the source, docstrings left out: the file, and the text from there on."""
    for path in sorted(PACKAGE.rglob("*.py")):
        tree = ast.parse(path.read_text())
        docs = {id(one.value) for one in ast.walk(tree) if isinstance(one, ast.Expr)}
        parts = {id(part) for one in ast.walk(tree) if isinstance(one, ast.JoinedStr) for part in one.values}
        for node in ast.walk(tree):
            if id(node) not in docs | parts:
                for found in COMMAND.finditer(text_of(node)):
                    yield str(path.relative_to(PACKAGE)), text_of(node)[found.start() :]


def text_of(node: ast.AST) -> str:
    """A string as it stands there, ``{}`` for what is filled in."""
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "{}" for part in node.values)
    return node.value if isinstance(node, ast.Constant) and isinstance(node.value, str) else ""


def test_every_command_in_the_source_is_named_with_the_test_that_runs_it() -> None:
    met = set()
    for file, text in commands_in_source():
        if file not in NOT_HINTS:
            known = [command for command in SHOWN.get(file, {}) if text.startswith(command)]
            assert known, f"{file}: {text[:70]!r} is run by no test"
            met.add((file, max(known, key=len)))
    assert met == {(file, command) for file, commands in SHOWN.items() for command in commands}


def test_the_tests_that_are_named_are_there() -> None:
    for named in {one for commands in SHOWN.values() for one in commands.values() if isinstance(one, str)}:
        if "::" in named:
            file, test = named.split("::")
            assert f"def {test}(" in (TESTS / file).read_text(), named
