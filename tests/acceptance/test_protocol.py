"""The page for other languages: its SQL is what the server takes, and its TypeScript program searches through a flip."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

import embedmig
from tests.openai_server import OpenAIServer
from tests.project import CONFIG, SPACE, Project
from tests.transcripts import ROOT, blocks

pytestmark = pytest.mark.one_server

PAGE = (ROOT / "docs" / "protocol.md").read_text()
MODELS = ("text-embedding-3-small", "text-embedding-3-large")
MODULES = ROOT / "node_modules"
COMPILER = ["--strict", "--target", "es2022", "--module", "node16", "--types", "node", "--skipLibCheck"]
HINT = "make packages installs pg, typescript and their types, where there is npm"


def code(language: str) -> list[str]:
    return [block.body for block in blocks(PAGE) if block.language == language]


@pytest.fixture
def searched(project: Project) -> Project:
    """Two versions by an API of OpenAI's kind, which makes the same vector of equal texts; the alias shows the first."""
    with OpenAIServer(dimensions=64) as server:
        project.environment |= {"OPENAI_API_KEY": "key", "OPENAI_BASE_URL": server.url}
        project.configure(
            CONFIG.replace('"body"', '"title"').replace('["title", "title"]', '["title"]'),
            f'\n[embedders.openai]\nbase_url = "{server.url}"\n',
        )
        project.documents(12)
        for revision, down, model in (("0001", None, MODELS[0]), ("0002", "0001", MODELS[1])):
            values = {"revision": revision, "down": down, "version": "1", "dimensions": 64, "downgrade": "    pass"}
            more = ", query_prefix='panel '"
            project.script(f"{revision}.py", SPACE.format(**values, model=f"openai/{model}", more=more))
        embedmig.upgrade(project.opened(), "0001")
        yield project


def test_the_protocols_sql_resolves_and_searches_and_its_program_in_typescript_goes_on_through_a_flip(
    searched: Project,
) -> None:
    resolve, search = code("sql")
    with searched.connect() as conn:
        assert conn.execute(resolve).fetchall()[0][2:] == (f"openai/{MODELS[0]}", 64, "panel ", {})  # type: ignore[call-overload]
        conn.execute(search)  # type: ignore[call-overload]
        version = searched.one("select version from embedmig.aliases")
        found = conn.execute(f"execute search('{[0.5] * 64}', '{version}')").fetchall()  # type: ignore[call-overload]
        assert len(found) == 3
    if not (MODULES / "pg").is_dir():
        pytest.skip(HINT)
    program = compiled(searched.folder)
    environment = searched.environ | {"DATABASE_URL": searched.url, "NODE_PATH": str(MODULES)}
    with subprocess.Popen(
        ["node", program], env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as node:
        assert node.stdin
        assert node.stdout
        for model in MODELS:
            node.stdin.write("11\n")  # with the prefix it is the eleventh title
            node.stdin.flush()
            assert re.sub(r"\s+", " ", node.stdout.readline()) == f"openai/{model} [ '11 panel 11 0.000' ] "
            embedmig.upgrade(searched.opened())
        node.stdin.close()
        assert node.wait(30) == 0


def compiled(folder: Path) -> Path:
    """The page's program, its types checked strictly."""
    (folder / "search.ts").write_text(code("typescript")[0])
    (folder / "node_modules").symlink_to(MODULES)
    node = shutil.which("node")
    assert node is not None
    done = subprocess.run(
        [node, MODULES / "typescript/bin/tsc", *COMPILER, "search.ts"],
        cwd=folder,
        env=os.environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return folder / "search.js"
