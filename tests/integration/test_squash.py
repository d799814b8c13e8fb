"""Applied revisions become one script: what a fresh database, one that had them all, and one in the middle of them make of it."""

from __future__ import annotations

from pathlib import Path

import pytest

import embedmig
from embedmig.commands.squash import call_of, what_stays
from embedmig.operations.backfill import BackfillSpace
from embedmig.operations.create_space import CreateSpace
from embedmig.operations.derive_space import DeriveSpace
from embedmig.operations.execute import Execute
from embedmig.operations.flip_alias import FlipAlias
from embedmig.operations.gate import Gate
from embedmig.operations.retire_space import RetireSpace
from embedmig.types import Space
from tests.in_process import Fake, downgrade, space_script, tag, upgrade
from tests.project import CONFIG, Project


def database(project: Project, name: str) -> None:
    """Another table with a ledger of its own, as if it were another database."""
    if not project.one(f"select to_regclass('{name}')"):
        with project.connect() as conn:
            conn.execute(
                f"create table {name} (like documents including all); insert into {name} select * from documents"
            )
    text = CONFIG.replace("[collections", f'schema = "ledger_{name}"\n[collections', 1)
    project.configure(text.replace('"documents"', f'"{name}"').replace("docs_embeddings", f"{name}_embeddings"))


@pytest.fixture
def scripts(project: Project) -> Path:
    """Three revisions: a version, a second one, and the first one's end."""
    Fake().register()
    project.documents(5)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    gone = f"    op.retire_space({tag()!r}, collection='docs', after='0s')\n"
    project.script(
        "0003_end.py", f"from embedmig import op\nrevision = '0003'\ndown_revision = '0002'\ndef upgrade():\n{gone}"
    )
    return project.migrations


def shown(project: Project) -> tuple[list[str], str | None, list[str], bool]:
    found = embedmig.status(project.opened())
    docs = found.collections["docs"]
    return found.current, docs.active, [one.version for one in docs.spaces if one.state != "retired"], found.settled


def test_a_fresh_database_runs_one_script_and_one_that_had_them_all_nothing_and_both_go_on_alike(
    project: Project, scripts: Path
) -> None:
    database(project, "old")
    upgrade(project)
    before = shown(project)
    assert before == (["0003"], tag(16), [tag(16)], True)
    made = embedmig.squash(project.opened(), "3")
    assert made.replaces == ["0001", "0002", "0003"]
    assert made.left_out == [tag()]
    assert [path.name for path in scripts.glob("*.py")] == ["0003_squashed.py"]
    assert all(path.parent.name == "squashed_0003" and path.exists() for path in made.moved)

    assert upgrade(project).revisions == []
    assert shown(project) == before
    assert [one.code for one in embedmig.check(project.opened()) if one.severity == "error"] == []
    found = embedmig.show(project.opened(), "0003")
    assert [one["revision"] for one in found.attempts] == ["0001", "0002", "0003"]
    assert all(one["same_script"] for one in found.attempts)
    assert [one.state for one in embedmig.history(project.opened())] == ["applied"]
    for target in ("-1", "base"):
        with pytest.raises(embedmig.PlanError, match=r"stands for 0001 … 0003, and there is no way back across it"):
            downgrade(project, target)
    with pytest.raises(embedmig.UnknownTarget, match=r"0002 is a part of 0003_squashed\.py"):
        embedmig.show(project.opened(), "0002")

    database(project, "fresh")
    assert upgrade(project).revisions == ["0003"]
    assert shown(project) == before
    with pytest.raises(embedmig.PlanError, match="no way back"):
        downgrade(project, "base")

    space_script(project, "0004", "0003", old=tag(16), dimensions=12)
    for name in ("fresh", "old"):
        database(project, name)
        assert upgrade(project).revisions == ["0004"]
        assert downgrade(project).current == ["0003"]
        assert shown(project)[:2] == before[:2]


def test_a_database_in_the_middle_is_told_to_finish_first_and_what_was_tampered_with_is_refused(
    project: Project, scripts: Path
) -> None:
    database(project, "half")
    upgrade(project, "0002")
    database(project, "old")
    upgrade(project)
    made = embedmig.squash(project.opened(), "0003")

    database(project, "half")
    for run in (upgrade, downgrade):
        with pytest.raises(
            embedmig.GraphError, match=r"0003_squashed.py stands for 0001 … 0003.* in the middle"
        ) as refused:
            run(project)
    assert "with the scripts from before the squash" in (refused.value.hint or "")
    assert any(
        one.code == "EM016" and "0003_squashed.py stands for" in one.message for one in embedmig.check(project.opened())
    )
    squashed = made.path.read_text()
    made.path.unlink()
    for path in made.moved:
        path.rename(scripts / path.name)
    upgrade(project)
    for path in made.moved:
        (scripts / path.name).rename(path)
    made.path.write_text(squashed)
    assert upgrade(project).revisions == []
    assert shown(project) == (["0003"], tag(16), [tag(16)], True)

    made.path.write_text(squashed.replace('"0001": "', '"0001": "0'))
    assert embedmig.status(project.opened()).edited == ["0003"]
    with pytest.raises(embedmig.PlanError, match=r"0003_squashed\.py was edited after it was applied"):
        upgrade(project)
    made.path.write_text(squashed)
    database(project, "fresh")
    upgrade(project)
    made.path.write_text(squashed + "# edited\n")
    with pytest.raises(embedmig.PlanError, match=r"0003_squashed\.py was edited after it was applied"):
        upgrade(project)


OLD, NEW, HALF = (Space("docs", "fake/hash", "1", n) for n in (8, 16, 4))


@pytest.mark.one_server
def test_what_is_gone_is_left_out_and_what_was_computed_from_it_is_embedded() -> None:
    operations = [
        CreateSpace(OLD), BackfillSpace(OLD), Gate("docs", OLD.tag, 0.9), FlipAlias("docs", OLD.tag), Execute("grant"),
        DeriveSpace(HALF, OLD.tag), Gate("docs", HALF.tag), FlipAlias("docs", HALF.tag), RetireSpace("docs", OLD.tag, "1d"),
        CreateSpace(NEW), BackfillSpace(NEW, "hot"),
    ]  # fmt: skip
    kept, left_out = what_stays(operations, set())
    assert left_out == [("docs", OLD.tag)]
    assert kept == [
        Execute("grant"), CreateSpace(HALF), BackfillSpace(HALF), Gate("docs", HALF.tag), FlipAlias("docs", HALF.tag),
        CreateSpace(NEW), BackfillSpace(NEW, "hot"),
    ]  # fmt: skip
    assert what_stays(operations, {("docs", NEW.tag)})[0] == kept[:-2]
    names = {("docs", NEW.tag): "NEW"}
    assert call_of(kept[-1], names) == 'op.backfill(NEW, order="hot")'
    assert call_of(FlipAlias("docs", None), names) == 'op.flip_alias("docs", to=None)'


def test_what_is_not_applied_or_built_upon_in_its_middle_is_not_squashed(project: Project, scripts: Path) -> None:
    upgrade(project, "0002")
    refused = {"0001": "0001 is the first revision", "0003": "0003 is not applied here"}
    for target, said in refused.items():
        with pytest.raises(embedmig.UsageError, match=said):
            embedmig.squash(project.opened(), target)
    project.script(
        "0003b.py", "revision = '0003b'\ndown_revision = '0001'\ndef upgrade(): pass\ndef downgrade(): pass\n"
    )
    with pytest.raises(embedmig.UsageError, match=r"0003b\.py builds on 0001, in the middle of what would be squashed"):
        embedmig.squash(project.opened(), "0002")
    assert len(list(scripts.glob("**/*.py"))) == 4, "nothing was moved"
