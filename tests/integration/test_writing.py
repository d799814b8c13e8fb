"""Scripts that `revision` writes run unedited, and a plan's SQL is printed without running any."""

from __future__ import annotations

from embedmig import commands
from tests.project import NEW_TAG, Project

DECLARED = '\n[collections.docs.embedding]\nmodel = "wordllama/l2-supercat"\nversion = "0.4"\ndimensions = 256\n'


def test_a_declared_model_that_is_not_the_active_one_is_generated_and_runs_unedited(project: Project) -> None:
    project.documents(10)
    project.space_script("0001")
    commands.upgrade(project.opened())
    project.configure((project.folder / "embedmig.toml").read_text(), DECLARED)
    written = project.run("revision", "-m", "declared", "--autogenerate").stdout
    assert written == "migrations/0002_declared.py\n"
    assert commands.upgrade(project.opened()).current == ["0002"]
    assert commands.status(project.opened()).collections["docs"].active == NEW_TAG
    again = project.run("revision", "-m", "again", "--autogenerate", expect=2)
    assert "nothing to generate" in again.stderr


def test_what_looks_at_files_alone_needs_no_address_of_a_database(project: Project) -> None:
    project.configure((project.folder / "embedmig.toml").read_text().replace("env:TEST_DATABASE_URL", "env:NOT_SET"))
    project.two_spaces()
    assert project.json("check", "--offline")["findings"] == []
    for command in ("history", "heads", "show 2"):
        project.run(*command.split())
    for command in ("check", "status", "upgrade"):
        assert "embedmig.database is env:NOT_SET, which is not set" in project.run(command, expect=2).stderr


def test_the_sql_of_a_plan_is_printed_and_nothing_is_run(project: Project) -> None:
    project.documents(10)
    project.space_script("0001")
    printed = project.run("upgrade", "head", "--sql").stdout
    assert "create table" in printed
    assert "not SQL: the model makes the vectors" in printed
    assert project.one("select to_regnamespace('embedmig')") is None
