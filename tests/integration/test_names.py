"""Names as people give them: long, quoted, with signs that mean something to SQL, to Python and to shells."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

import embedmig
from embedmig import Reader
from embedmig.errors import ConfigError
from tests.forking import Forked
from tests.in_process import Fake, downgrade, space_script, upgrade
from tests.project import COMMAND, CONFIG, Project


@pytest.fixture(autouse=True)
def fake() -> Fake:
    """The provider ``fake``."""
    return Fake().register()


@pytest.mark.parametrize(
    "schema", ["With.Dot", 'with"quote', "per%cent", "%s", "a b:c", "UPPER", "select", "public", "é" * 31]
)
def test_the_ledgers_schema_may_have_any_name(project: Project, schema: str) -> None:
    quoted = schema.replace('"', '\\"')
    project.configure(CONFIG.replace('migrations = "migrations"', f'migrations = "migrations"\nschema = "{quoted}"'))
    project.documents(6)
    space_script(project)
    upgrade(project)
    shown = embedmig.status(project.opened()).collections["docs"]
    assert (shown.spaces[0].completeness, shown.alias_fault) == (1.0, None)
    assert embedmig.search(project.opened(), "docs", "wind 0", k=1).hits
    assert all(verdict.passed for verdict in embedmig.gate(project.opened(), "docs"))
    embedmig.sync(project.opened())
    downgrade(project, "base")


@pytest.mark.parametrize("schema", ["x" * 64, "é" * 32, "pg_vectors"])
def test_a_schema_that_postgresql_would_cut_or_refuse_is_refused_with_its_line(project: Project, schema: str) -> None:
    project.configure(CONFIG.replace('migrations = "migrations"', f'schema = "{schema}"'))
    with pytest.raises(ConfigError, match=r"embedmig\.toml:4: embedmig\.schema can't be the name"):
        project.opened()


@pytest.mark.parametrize(
    "alias", ['"with.dot"', '"per%cent"', '"with""quote"', '"select"', "long_" + "x" * 80, '"Ж' + "ж" * 40 + '"']
)
def test_an_alias_may_have_any_name(project: Project, alias: str) -> None:
    project.configure(CONFIG.replace('"docs_embeddings"', f"'{alias}'"))
    project.documents(6)
    space_script(project)
    space_script(project, "0002", "0001", old="fake-hash@1/dim-8/norm-l2", dimensions=16)
    upgrade(project)
    assert embedmig.search(project.opened(), "docs", "wind 0", k=1).hits
    with psycopg.connect(project.url) as conn:
        assert conn.execute(f"select count(*) from {alias}").fetchone() == (6,)  # type: ignore[arg-type]
    downgrade(project)
    embedmig.alias_rebuild(project.opened(), "docs")
    assert embedmig.search(project.opened(), "docs", "wind 0", k=1).hits


@pytest.mark.parametrize("name", ["100% of %s", 'dot.and"quote', "SELECT"])
def test_a_table_its_key_and_its_schema_may_have_any_name(project: Project, name: str) -> None:
    quoted = '"' + name.replace('"', '""') + '"'
    column = '"Of ' + quoted[1:]
    project.configure(
        CONFIG.replace('"documents"', f"'{quoted}.{quoted}'")
        .replace('key = "id"', f"key = '{quoted}'")
        .replace('columns = ["title"]', f"columns = ['title', '{column}']")
    )
    project.documents(6)
    with project.connect() as conn:
        conn.execute(f"alter table documents rename to {quoted}; create schema {quoted}")  # type: ignore[arg-type]
        conn.execute(f"alter table {quoted} set schema {quoted}")  # type: ignore[arg-type]
        conn.execute(f"alter table {quoted}.{quoted} rename id to {quoted}")  # type: ignore[arg-type]
        conn.execute(f"alter table {quoted}.{quoted} add column {column} int default 1")  # type: ignore[arg-type]
    space_script(project)
    upgrade(project)
    with project.connect() as conn:
        conn.execute(f"update {quoted}.{quoted} set body = 'edited' where {quoted} = 3")  # type: ignore[arg-type]
    embedmig.sync(project.opened())
    embedmig.sync(project.opened(), repair=True)
    assert embedmig.status(project.opened()).collections["docs"].spaces[0].completeness == 1.0
    assert embedmig.audit(project.opened(), sample=6).findings == []
    assert embedmig.search(project.opened(), "docs", "wind 0", k=1).hits
    with Reader(project.url, "docs") as reader:
        assert len(reader.search("wind", k=6, where={name: [1, 2], f"Of {name}": 1})) == 2
    downgrade(project, "base")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("x" * 63 + "_one", "x" * 63 + "_two"),
        ("Shown", "shown"),
        ("é" * 31 + "a1", "é" * 31 + "a2"),
        ('"shown"', "SHOWN"),
    ],
)
def test_two_aliases_that_postgresql_takes_for_one_are_refused(project: Project, one: str, other: str) -> None:
    second = CONFIG[CONFIG.index("[collections") :].replace("collections.docs", "collections.more")
    project.configure(
        CONFIG.replace('"docs_embeddings"', f"'{one}'") + second.replace('"docs_embeddings"', f"'{other}'")
    )
    with pytest.raises(ConfigError, match=r"collections\.more\.alias is the alias of docs too"):
        project.opened()


LONG = "long " + "x" * 80


@pytest.mark.parametrize("name", ["100% of 'them'", 'dot.and "quote"', "a/b", "select", "Ж" * 40])
def test_a_collection_and_its_folders_may_have_any_name(project: Project, tmp_path: Path, name: str) -> None:
    """Two collections of one table, whose names begin alike: what each makes has a name of its own."""
    project.folder = tmp_path / "R&D 100% 'of' it"
    (project.folder / "the migrations").mkdir(parents=True)
    project.migrations = project.folder / "the migrations"
    names = [name, f"{name} 2", LONG + "a", LONG + "b"]
    head, one = CONFIG.replace('"migrations"', '"the migrations"').split("[collections.docs]")
    sections = [
        f"[collections.{json.dumps(each)}]{one.replace('docs_embeddings', f'found_{n}')}"
        for n, each in enumerate(names)
    ]
    project.configure(head + "\n".join(sections))
    project.documents(6)
    for number, each in enumerate(names):
        space_script(project, f"000{number + 1}", f"000{number}" if number else None)
        path = project.migrations / f"000{number + 1}_space.py"
        text = path.read_text().replace('"docs"', repr(each)).replace("'docs'", repr(each))
        path.write_text(text)
    upgrade(project)
    with project.connect() as conn:
        conn.execute("update documents set body = 'edited' where id = 3; delete from documents where id = 4")
    embedmig.sync(project.opened())
    found = embedmig.status(project.opened()).collections
    assert [(found[each].capture, found[each].spaces[0].completeness) for each in names] == [("installed", 1.0)] * 4
    assert all(embedmig.search(project.opened(), each, "wind 0", k=1).hits for each in names)
    assert embedmig.audit(project.opened()).findings == []
    assert embedmig.check(project.opened()) == []
    assert embedmig.make_golden(project.opened(), name, 2).path.exists()
    embedmig.write_report(project.opened(), project.folder / "report.html")
    embedmig.sync(project.opened(), name, repair=True)
    embedmig.alias_rebuild(project.opened(), name)
    assert embedmig.uninstall(project.opened(), confirm=True).done
    assert project.one("select count(*) from pg_trigger where tgname like 'embedmig%'") == 0


@pytest.fixture
def own_folder() -> Iterator[Path]:
    """Not pytest's: root's server runs as another user, and each pytest that starts closes ``pytest-of-root`` to others."""
    with tempfile.TemporaryDirectory(prefix="embedmig-test-") as folder:
        yield Path(folder)


def run(folder: Path, *command: str, **environment: str) -> str:
    """What a command prints that needs no project."""
    pipe = subprocess.PIPE
    with Forked(
        [COMMAND, *command], cwd=folder, env=os.environ | environment, stdout=pipe, stderr=pipe, text=True
    ) as process:
        out, err = process.communicate()
    assert process.returncode == 0, err
    return out.strip()


@pytest.mark.one_server
@pytest.mark.parametrize(
    "name",
    [
        "R&D 100%",
        'it\'s, a "quoted" folder',
        "$HOME `x` \\ back",
        "-dash;#[x]",
        "日本語",
        "deep/" + "long_folder_name_" * 8,
    ],
)
def test_the_embedded_server_runs_in_any_folder(own_folder: Path, server_url: str, name: str) -> None:
    folder = own_folder / name
    folder.mkdir(parents=True)
    (folder / "embedmig.toml").write_text('[embedmig]\ndatabase = "embedded"\n')

    try:
        with psycopg.connect(run(folder, "server", "url")) as conn:
            assert conn.execute("select current_setting('data_directory')").fetchone() == (
                str(folder / ".embedmig/postgres"),
            )
    finally:
        run(folder, "server", "stop")
    assert not (folder / ".embedmig/postgres/postmaster.pid").exists()


@pytest.mark.one_server
def test_the_embedded_server_gets_no_api_key(own_folder: Path, server_url: str) -> None:
    (own_folder / "embedmig.toml").write_text(
        '[embedmig]\ndatabase = "embedded"\n[embedders.openai]\napi_key = "env:THE_KEY"\n'
    )
    run(own_folder, "server", "start", THE_KEY="sk-secret")
    try:
        pid = (own_folder / ".embedmig/postgres/postmaster.pid").read_text().split()[0]
        assert b"sk-secret" not in Path(f"/proc/{pid}/environ").read_bytes()
    finally:
        run(own_folder, "server", "stop")
