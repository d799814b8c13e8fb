"""Scripts that `revision` writes run unedited, and a plan's SQL is printed without running any."""

from __future__ import annotations

import contextlib
import os
import pty
import re
import signal

import yaml

import embedmig
from tests.project import NEW_TAG, Project
from tests.transcripts import ROOT

DECLARED = '\n[collections.docs.embedding]\nmodel = "wordllama/l2-supercat"\nversion = "0.4"\ndimensions = 256\n'


def test_a_declared_model_that_is_not_the_active_one_is_generated_and_runs_unedited(project: Project) -> None:
    project.documents(10)
    project.space_script("0001")
    embedmig.upgrade(project.opened())
    project.configure((project.folder / "embedmig.toml").read_text(), DECLARED)
    written = project.run("revision", "-m", "declared", "--autogenerate").stdout
    assert written == "migrations/0002_declared.py\n"
    assert embedmig.upgrade(project.opened()).current == ["0002"]
    assert embedmig.status(project.opened()).collections["docs"].active == NEW_TAG
    again = project.run("revision", "-m", "again", "--autogenerate", expect=2)
    assert "nothing to generate" in again.stderr


def test_what_looks_at_files_alone_needs_no_address_of_a_database(project: Project) -> None:
    unset = (project.folder / "embedmig.toml").read_text().replace("env:TEST_DATABASE_URL", "env:NOT_SET")
    project.configure(unset, '[check]\nignore = { EM020 = "no query is judged here" }')
    project.two_spaces()
    assert project.json("check", "--offline")["findings"] == []
    for command in ("history", "heads", "show 2"):
        project.run(*command.split())
    for command in ("check", "status", "upgrade"):
        assert "embedmig.database is env:NOT_SET, which is not set" in project.run(command, expect=2).stderr


def test_the_hook_before_a_commit_stops_a_careless_script_and_wants_no_database(project: Project) -> None:
    project.configure((project.folder / "embedmig.toml").read_text().replace("env:TEST_DATABASE_URL", "env:NOT_SET"))
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    command, *arguments = hook["entry"].split()
    assert command == "embedmig"
    script = project.space_script("0001")
    assert re.search(hook["files"], script.relative_to(project.folder).as_posix())
    project.run(*arguments)
    script.write_text(script.read_text().replace("    op.gate(NEW, completeness=0.995)\n", ""))
    assert "EM001" in project.run(*arguments, expect=3).stdout


def test_the_status_is_watched_on_a_terminal_until_it_is_interrupted(project: Project) -> None:
    project.documents(3)
    project.space_script("0001")
    screen, terminal = pty.openpty()
    process = project.start("status", "--watch", stdout=terminal)
    os.close(terminal)
    seen = b""
    while b"docs_embeddings" not in seen:
        seen += os.read(screen, 4096)
    process.send_signal(signal.SIGINT)
    with contextlib.suppress(OSError):  # which says that the other end is closed
        while os.read(screen, 4096):
            pass
    assert process.wait(timeout=60) == 0
    os.close(screen)


def test_the_sql_of_a_plan_is_printed_and_nothing_is_run(project: Project) -> None:
    project.documents(10)
    project.space_script("0001")
    printed = project.run("upgrade", "head", "--sql").stdout
    assert "create table" in printed
    assert "not SQL: the model makes the vectors" in printed
    assert project.one("select to_regnamespace('embedmig')") is None
