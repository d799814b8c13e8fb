"""The documentation is true: the reference names everything there is and nothing else, and what is shown is what happens."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import psycopg
import pytest
import typer
import yaml

import embedmig
from embedmig import Reader
from embedmig.cli import app
from embedmig.cli.anywhere import options_first
from embedmig.config import loading as configuration
from embedmig.config import providers
from embedmig.config.tenants import read_tenants
from embedmig.gates.evidence_table import EvidenceTable
from embedmig.operations import op
from embedmig.types import Space
from tests.project import NEW_TAG, OLD_TAG, Project
from tests.transcripts import ROOT, Session, agrees, blocks, live_through, prepare

pytestmark = pytest.mark.one_server

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md")])
LIVED = [
    ROOT / "README.md",
    *(
        ROOT / "docs" / f"{name}.md"
        for name in (
            "tutorial",
            "live-traffic",
            "proof",
            "audit",
            "python",
            "stores/tutorial",
            "adopt-milvus",
            "integrations",
        )
    ),
]
COMMANDS: dict[str, click.Command] = typer.main.get_command(app).commands  # type: ignore[attr-defined]


def name_of(document: Path) -> str:
    """A document's name in a test's."""
    return document.relative_to(ROOT).as_posix()


def read(name: str) -> str:
    """A page of docs/."""
    return (ROOT / "docs" / name).read_text()


def section(text: str, heading: str) -> str:
    """A heading and what stands under it, up to the next one of its level or above."""
    level = len(heading) - len(heading.lstrip("#"))
    _, found, rest = text.partition(f"\n{heading}")
    assert found, f"there is no section {heading!r}"
    return found + re.split(rf"\n#{{1,{level}}} ", rest)[0]


def options_of(command: click.Command) -> set[str]:
    """Every way to write the options of a command."""
    return {spelling for parameter in command.params if parameter.param_type_name == "option"
            for spelling in parameter.opts} - {"--help"}  # fmt: skip


def described_options(text: str) -> set[str]:
    """The options that a text describes: those in code that begin with a dash."""
    code = " ".join(re.findall(r"`([^`]+)`", text))
    return set(re.findall(r"(?<![\w-])(--[a-z][a-z-]*|-[a-z])\b", code))


# --- the reference --------------------------------------------------------------------------------------------


def test_every_command_is_in_the_reference_and_every_one_in_the_reference_exists() -> None:
    described = re.findall(r"^### `embedmig ([a-z-]+)", read("commands.md"), re.MULTILINE)
    assert sorted(described) == sorted(COMMANDS)


@pytest.mark.parametrize("name", sorted(COMMANDS))
def test_every_option_of_a_command_is_in_the_reference_and_the_reference_has_no_other(name: str) -> None:
    described = described_options(section(read("commands.md"), f"### `embedmig {name}"))
    wanted = options_of(COMMANDS[name])
    if name == "downgrade":  # described once, under upgrade
        assert "as above" in section(read("commands.md"), "### `embedmig downgrade")
    assert wanted - described == set()
    assert described - wanted - {"-1"} == set()


def test_the_options_before_the_command_and_their_variables_are_in_the_reference() -> None:
    text = section(read("commands.md"), "## Options of every command")
    root = typer.main.get_command(app)
    assert described_options(text) - {"--help"} == options_of(root)
    variables = {f"EMBEDMIG_{name}" for name in ("CONFIG", "DATABASE", "JSON", "NO_COLOR", "DEBUG")}
    assert variables <= set(re.findall(r"`([A-Z_]+)`", text))


@pytest.mark.parametrize(
    ("heading", "keys"),
    [
        ("## `[embedmig]`", configuration._MAIN),
        ("## `[collections.NAME]`", configuration._COLLECTION),
        ("### `[collections.NAME.embedding]`", configuration._EMBEDDING),
        ("## `[embedders.PROVIDER]`", providers.EMBEDDER),
        ("## `[gates]`", configuration._GATES),
        ("## `[throttle]`", configuration._THROTTLE),
        ("## `[backfill]`", configuration._BACKFILL),
        ("## `[ray]`", configuration._RAY),
        ("## `[index]`", configuration._INDEX),
        ("## `[check]`", configuration._CHECK),
    ],
)
def test_every_key_of_the_configuration_is_described_and_no_other(heading: str, keys: dict[str, object]) -> None:
    text = section(read("configuration.md"), heading)
    if heading == "## `[collections.NAME]`":
        text = text.partition("\n### ")[0]
    cells = re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE)
    assert {key for cell in cells for key in re.findall(r"`(\w+)`", cell)} == set(keys)


def test_every_operation_and_every_argument_of_it_is_described() -> None:
    text = read("operations.md")
    methods = {name: method for name, method in inspect.getmembers(op, inspect.ismethod) if name[0] != "_"}
    assert set(re.findall(r"^## `op\.(\w+)\(", text, re.MULTILINE)) == set(methods)
    for name, method in methods.items():
        heading = section(text, f"## `op.{name}(").strip().partition("\n")[0]
        assert heading == f"## `op.{name}{call_of(method)}`"


def call_of(method: Callable[..., object]) -> str:
    """``(space, *, to=None)``: a method's arguments and defaults as the reference writes them."""
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in inspect.signature(method).parameters.values()]
    return str(inspect.Signature(bare)).replace("'", '"')


def test_every_public_name_is_on_the_page_about_python_and_every_function_with_its_arguments() -> None:
    text = read("python.md")
    assert set(embedmig.__all__) - set(re.findall(r"`(?:embedmig\.)?(\w+)", text)) == {"__version__"}
    public = {name: getattr(embedmig, name) for name in embedmig.__all__}
    functions = {name for name, value in public.items() if inspect.isfunction(value)} - {"within"}  # is the scripts'
    assert set(re.findall(r"^### `embedmig\.(.+)`$", text, re.MULTILINE)) == {
        f"{name}{call_of(public[name])}" for name in functions | {"Reader", "AsyncReader"}
    }
    errors = {name: value for name, value in public.items() if inspect.isclass(value) and issubclass(value, Exception)}
    assert dict(re.findall(r"^\| `(\w+)` \| `\w+` \| (\d+) \|", section(text, "## Errors"), re.MULTILINE)) == {
        name: str(value.exit_code) for name, value in errors.items()
    }


def test_the_fields_of_every_result_are_described() -> None:
    rows = re.findall(r"^\| `(\w+)` \| ((?:`\w+`(?:, )?)+)", read("python.md"), re.MULTILINE)
    described = {name: re.findall(r"`(\w+)`", fields) for name, fields in rows if len(fields) > 2}
    for name in (*described, "Status", "RunResult", "Hit"):
        value = getattr(embedmig, name)
        if dataclasses.is_dataclass(value):
            assert described[name] == [field.name for field in dataclasses.fields(value)], name


def test_every_field_of_a_space_is_described() -> None:
    text = section(read("operations.md"), "## `Space`")
    described = {
        word for cell in re.findall(r"^\| (`[^|]+`) \|", text, re.MULTILINE) for word in re.findall(r"\w+", cell)
    }
    assert described == set(inspect.signature(Space).parameters)


# --- what can be checked without running ----------------------------------------------------------------------


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_toml_block_is_a_configuration_and_python_and_yaml_can_be_read(document: Path, tmp_path: Path) -> None:
    for block in blocks(document.read_text()):
        if block.language == "python":
            ast.parse(block.body)
        if block.language == "yaml":
            assert yaml.safe_load(block.body)
        if block.language == "toml" and "[tenants]" in block.body:
            (tmp_path / "fleet.toml").write_text(block.body)
            read_tenants(tmp_path / "fleet.toml", environ={"GLOBEX_DATABASE_URL": "postgresql://host/globex"})
        elif block.language == "toml":
            tomllib.loads(block.body)
            whole = block.body if "[embedmig]" in block.body else f'[embedmig]\ndatabase = "embedded"\n{block.body}'
            (tmp_path / "embedmig.toml").write_text(whole)
            configuration.load(
                tmp_path / "embedmig.toml", environ={"DATABASE_URL": "postgresql://host/name", "TENANT": "acme"}
            )


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_command_of_an_example_that_is_not_run_exists_with_its_options(document: Path) -> None:
    everywhere = options_of(typer.main.get_command(app))
    for block in blocks(document.read_text()):
        if block.language != "sh":
            continue
        for line in block.body.replace("\\\n", " ").splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["embedmig"]:
                command, *rest = [
                    word for word in options_first(words[1:]) if word not in everywhere and "env:" not in word
                ]
                given = {word.partition("=")[0] for word in rest if re.match(r"--?[a-z]", word)}
                assert given <= options_of(COMMANDS[command]), line


@pytest.mark.parametrize("document", DOCUMENTS, ids=name_of)
def test_every_link_leads_somewhere_and_every_test_named_is_there(document: Path) -> None:
    text = document.read_text()
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        place, _, anchor = target.partition("#")
        page = document.parent / place if place else document
        assert page.exists(), target
        assert not anchor or anchor in anchors(page.read_text()), target
    for path, test in re.findall(r"`(tests/[\w/]+\.py)(?:::(\w+))?`", text):
        assert (ROOT / path).is_file(), path
        assert not test or f"def {test}(" in (ROOT / path).read_text(), test


def anchors(text: str) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


# --- what is run ----------------------------------------------------------------------------------------------


@pytest.fixture
def session() -> Iterator[Session]:
    """A folder with an embedded database of its own, as the documents have it."""
    with tempfile.TemporaryDirectory(prefix="embedmig-docs-") as folder:
        session = Session(Path(folder))
        yield session
        session.close()


@pytest.mark.parametrize("document", LIVED, ids=name_of)
def test_every_transcript_shows_what_really_happens(document: Path, session: Session) -> None:
    prepare(document, session)
    results = live_through(document.read_text(), session)
    assert results
    for step, printed in results:
        assert agrees(step.shown, printed), f"$ {step.command}\n--- shown\n{step.shown}--- printed\n{printed}"


def test_a_comparison_that_ignores_times_still_sees_a_difference() -> None:
    assert agrees("flip  (7 ms)\n…\nend\n", "flip (12.5 s)\nanything\nmore\nend\n")
    assert not agrees("12 rows embedded (7 ms)\n", "13 rows embedded (7 ms)\n")
    assert not agrees("one\n", "one\ntwo\n")


def test_the_recipe_of_rights_is_enough_for_each_role_and_no_more(project: Project, server_url: str) -> None:
    project.documents()
    database = project.one("select current_database()")
    roles = {role: f"{role}_{database}" for role in ("migrator", "watcher", "app")}
    recipe = [block.body for block in blocks(read("privileges.md")) if block.language == "sql"]
    recipe = [re.sub(r"\b(migrator|watcher|app)\b", lambda role: roles[role[1]], part) for part in recipe]
    with project.connect() as conn:
        conn.execute(f"revoke all on database {database} from public")
        for role in roles.values():
            conn.execute(f"create role {role} login")
        conn.execute(recipe[0].replace("database shop", f"database {database}"))
    as_superuser = project.url
    try:
        project.two_spaces()
        project.url = as_superuser.replace("postgres:@", f"{roles['migrator']}:@")
        project.run("upgrade", "head")
        with psycopg.connect(project.url, autocommit=True) as conn:
            conn.execute(recipe[1])
        project.run("downgrade", "-1")
        project.run("upgrade", "head")

        project.url = as_superuser.replace("postgres:@", f"{roles['watcher']}:@")
        for command in ("status --check", "current", "history", "show 2", "check", "gate docs", "upgrade --dry-run"):
            project.run(*command.split())
        assert project.run("downgrade", "-1", expect=None).returncode != 0

        project.url = as_superuser.replace("postgres:@", f"{roles['app']}:@")
        project.run("search", "docs", "supersonic flutter")
        with psycopg.connect(project.url) as conn, pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("select * from documents")
    finally:
        with psycopg.connect(as_superuser, autocommit=True) as conn:
            for role in roles.values():
                conn.execute(f"drop owned by {role} cascade")
                conn.execute(f"drop role {role}")


def test_the_recipe_of_rights_for_shadow_reads_is_enough_and_without_it_only_the_shadow_fails(project: Project) -> None:
    project.documents()
    project.two_spaces()
    embedmig.upgrade(project.opened())
    role, as_superuser = f"app_{project.one('select current_database()')}", project.url
    url = as_superuser.replace("postgres:@", f"{role}:@")
    (recipe,) = [block.body for block in blocks(read("proof.md")) if block.language == "sql" and "to app" in block.body]

    def shadow_reads() -> int:
        with Reader(url, "docs", shadow=OLD_TAG, rate=1.0) as reader:
            assert {hit.version for hit in reader.search("supersonic flutter")} == {NEW_TAG}
        return int(project.one("select count(*) from embedmig.shadow_reads"))

    with project.connect() as conn:
        conn.execute(f"create role {role} login; grant usage on schema embedmig, public to {role}")
        conn.execute(f"grant select on embedmig.aliases, docs_embeddings to {role}")
    try:
        assert shadow_reads() == 0
        with project.connect() as conn:
            conn.execute(re.sub(r"\bapp\b", role, recipe))
        assert shadow_reads() == 1
        with Reader(url, "docs", canary=OLD_TAG, share=1.0) as reader:
            assert {hit.version for hit in reader.search("supersonic flutter")} == {OLD_TAG}
        with psycopg.connect(url, autocommit=True) as conn:
            assert EvidenceTable("embedmig").prune_reads(conn, "docs", OLD_TAG, keep=0) == 1
    finally:
        with project.connect() as conn:
            conn.execute(f"drop owned by {role}; drop role {role}")


def test_the_site_is_built_without_a_broken_link_and_every_page_has_its_place(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "-q", "-d", str(tmp_path / "site")],
        cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "site" / "search" / "search_index.json").exists()
