"""The commands as functions: from a notebook's loop, by a path, and each loading no more than it needs."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

import embedmig
from tests.project import NEW_TAG, OLD_TAG, Project

HEAVY = (
    "alembic", "sqlalchemy", "numpy", "openai", "httpx", "requests", "wordllama", "safetensors", "tokenizers", "jinja2", "yaml",
    "embedmig.reading",
)  # fmt: skip

WATCHED = """
import sys
from embedmig.cli import main

sys.argv[1:] = {arguments!r}
try:
    main()
except SystemExit as ended:
    assert not ended.code, ended.code
finally:
    print("LOADED", *[name for name in {heavy!r} if name in sys.modules])
"""


def loaded(project: Project, code: str) -> set[str]:
    """The heavy libraries that a new process has loaded by the end."""
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=project.folder, env=project.environ, capture_output=True, text=True, check=True
    )  # fmt: skip
    return set(done.stdout.partition("LOADED")[2].split())


@pytest.fixture
def filled(project: Project) -> Project:
    """Two versions, both applied."""
    project.documents(20)
    project.two_spaces()
    embedmig.upgrade(project.opened())
    return project


def test_every_command_that_calls_a_model_works_inside_a_running_event_loop(project: Project) -> None:
    project.documents(20)
    project.two_spaces()
    made = project.opened()

    async def notebook() -> None:
        assert embedmig.upgrade(made).revisions == ["0001", "0002"]
        assert embedmig.status(made).collections["docs"].active == NEW_TAG
        assert embedmig.search(made, "docs", "shock wave", 3).version == NEW_TAG
        assert embedmig.search(made, "docs", "shock wave", 3, OLD_TAG).version == OLD_TAG
        with project.connect() as conn:
            conn.execute("update documents set body = 'a plate in the wind' where id = 1")
        assert {synced.rows for synced in embedmig.sync(made)} == {1}
        assert not embedmig.audit(made, sample=5).findings
        assert embedmig.plan(made).revisions == []
        with embedmig.Reader(project.url, "docs") as reader:
            assert len(reader.search("shock wave", 3)) == 3
        assert embedmig.downgrade(made, "-1").current == ["0001"]

    asyncio.run(notebook())


def test_a_project_is_given_opened_or_by_its_path_or_found_where_the_command_line_finds_it(
    filled: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEST_DATABASE_URL", filled.url)
    path = filled.folder / "embedmig.toml"
    monkeypatch.chdir(filled.folder)
    ways = (embedmig.open_project(path), path, str(path), None)
    assert [embedmig.current(way) for way in ways] == [["0002"]] * 4
    assert embedmig.status().current == ["0002"]
    monkeypatch.chdir(filled.folder.parent)
    with pytest.raises(embedmig.ConfigError):
        embedmig.current()


def test_the_report_is_written_by_a_function(filled: Project, tmp_path: Path) -> None:
    path = embedmig.write_report(filled.opened(), tmp_path / "page.html")
    assert NEW_TAG in path.read_text()


LIGHT = (
    "--version", "status", "history", "heads", "current", "show 2", "show head", "gate docs", "check", "pause", "resume",
    "plan", "upgrade head",
)  # fmt: skip


def test_a_command_loads_no_library_that_it_does_not_need(filled: Project) -> None:
    found = {command: loaded(filled, WATCHED.format(arguments=command.split(), heavy=HEAVY)) for command in LIGHT}
    assert {command: libraries for command, libraries in found.items() if libraries} == {}
    searched = loaded(filled, WATCHED.format(arguments=["search", "docs", "shock wave"], heavy=HEAVY))
    assert searched & {"alembic", "sqlalchemy", "openai", "requests", "wordllama"} == set(), (
        "a model's files, and not its package"
    )


def test_importing_embedmig_loads_nothing_beside_the_standard_library(project: Project) -> None:
    code = "import sys; import embedmig; print('LOADED', *[n for n in sys.modules if n.startswith('embedmig.')], *[n for n in {} if n in sys.modules])"
    assert loaded(project, code.format((*HEAVY, "typer", "rich", "psycopg"))) == set()
