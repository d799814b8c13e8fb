"""Bad input: a clear error that says what, why and how to mend it, the right exit code, and the database as it was."""

from __future__ import annotations

import re
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
import pytest
from psycopg import sql

import embedmig
from embedmig.database import require_suitable
from embedmig.errors import EXIT_FAILED, EXIT_NO, EXIT_USAGE, ConfigError, DatabaseUnsuitable, EmbedmigError
from embedmig.stores.pgvector import extension
from tests.conftest import PASSWORD_ROLE
from tests.model import Model
from tests.openai_server import OpenAIServer
from tests.project import CONFIG, Project
from tests.waiting import wait_until

MODELS = """
import numpy as np

from embedmig.embedders.model_check import TEXTS

HARMLESS = {"a harmless sentence", *TEXTS}


def good(texts):
    return np.array([[len(text), 1.0, 2.0, 3.0] for text in texts])

def wrong_dimension(texts):
    return np.ones((len(texts), 5))

def nan(texts):
    return np.full((len(texts), 4), np.nan)

def fewer(texts):
    return np.ones((len(texts) - 1, 4))

def fewer_later(texts):
    return good(texts) if HARMLESS.issuperset(texts) else fewer(texts)

def wrong_dimension_later(texts):
    return good(texts) if HARMLESS.issuperset(texts) else wrong_dimension(texts)
"""
FORTUNE = "sesame-that-nobody-may-see"


# --- the database, as it was ----------------------------------------------------------------------------------


def snapshot(conn: psycopg.Connection) -> dict[str, Any]:
    """Everything that a user could find changed: relations, columns, views, triggers, extensions, and every row."""
    outside = "nspname !~ '^pg_' and nspname <> 'information_schema'"
    found: dict[str, Any] = {
        name: conn.execute(query).fetchall()
        for name, query in {
            "schemas": f"select nspname from pg_namespace where {outside} order by 1",
            "relations": f"""select n.nspname, c.relname, c.relkind, case c.relkind when 'v' then pg_get_viewdef(c.oid) end
                             from pg_class c join pg_namespace n on n.oid = relnamespace where {outside} order by 1, 2""",
            "columns": f"""select n.nspname, c.relname, a.attname, format_type(atttypid, atttypmod), attnotnull, atthasdef
                           from pg_attribute a join pg_class c on c.oid = attrelid join pg_namespace n on n.oid = relnamespace
                           where {outside} and attnum > 0 order by 1, 2, 3""",
            "triggers": "select tgname, tgrelid from pg_trigger order by 1, 2",
            "extensions": "select extname, extversion from pg_extension order by 1",
        }.items()
    }
    for schema, name, kind, _ in found["relations"]:
        if kind == "r":
            table = sql.Identifier(schema, name)
            found[f"{schema}.{name}"] = conn.execute(
                sql.SQL("select t::text from {} t order by 1").format(table)
            ).fetchall()
    return found


@contextmanager
def untouched(project: Project) -> Iterator[None]:
    """Asserts that what happens inside leaves the database as it was."""
    with project.connect() as conn:
        before = snapshot(conn)
        yield
        after = snapshot(conn)
        changed = [name for name in before.keys() | after.keys() if before.get(name) != after.get(name)]
        assert not changed, changed


def explained(done: subprocess.CompletedProcess[str], *words: str) -> None:
    """The error names the trouble, ends with a hint, shows no traceback and no secret; stdout has no data."""
    for word in words:
        assert word in done.stderr
    assert done.stderr.startswith(("error: ", "closed: ")) or "\nerror: " in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("hint: ")
    assert "Traceback" not in done.stderr
    assert "unexpected" not in done.stderr
    assert FORTUNE not in done.stderr
    assert done.stdout == ""


def model_script(project: Project, function: str, **more: Any) -> None:
    (project.folder / "models.py").write_text(MODELS)
    project.space_script(model=f"python/models:{function}", version="1", dimensions=4, **more)


@pytest.fixture
def ready(project: Project) -> Project:
    """Twenty documents and a sound revision that has not run."""
    project.documents(20)
    model_script(project, "good")
    return project


# --- refused in validation ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Case:
    """What is spoilt, and words that the error must have. ``called``: only a call of the model can tell."""

    name: str
    spoil: Callable[[Project], object]
    words: tuple[str, ...]
    called: bool = False


def configured(before: str, after: str) -> Callable[[Project], None]:
    """Spoils the configuration."""
    assert before in CONFIG
    return lambda project: project.configure(CONFIG.replace(before, after))


def executed(statement: str) -> Callable[[Project], object]:
    """Spoils the database."""

    def spoil(project: Project) -> None:
        with project.connect() as conn:
            conn.execute(statement)

    return spoil


def scripted(name: str, text: str) -> Callable[[Project], object]:
    """Adds a spoilt script."""
    return lambda project: project.script(name, text)


def model(function: str) -> Callable[[Project], None]:
    """Takes another model."""
    return lambda project: model_script(project, function)


NO_KEY = "alter table documents drop constraint documents_pkey; alter table documents alter id drop not null; "
EMPTY = "from embedmig import op\nrevision = {!r}\ndown_revision = {!r}\ndef upgrade(): pass\n"


def write_a_cycle(project: Project) -> None:
    project.script("0002_a.py", EMPTY.format("0002", "0003"))
    project.script("0003_b.py", EMPTY.format("0003", "0002"))


CASES = [
    Case("a table that is missing", configured('"documents"', '"document"'), ("document", "did you mean documents?")),
    Case("a text column that is missing", configured('"body"', '"bodies"'), ("'bodies'", "did you mean body?")),
    Case("a key that is missing", configured('"id"', '"ident"'), ("key column 'ident'", "it has id, title, body")),
    Case("a shown column that is missing", configured('columns = ["title"]', 'columns = ["tenant"]'), ("'tenant'",)),
    Case("a predicate that is none", configured("columns", 'where = "published"\ncolumns'), ("published", "predicate")),
    Case("a key with duplicates", executed(NO_KEY + "insert into documents select * from documents where id = 7"),
         ("is not unique", "(7)", "primary key")),
    Case("a key with NULLs", executed(NO_KEY + "update documents set id = null where id = 7"), ("has NULLs",)),
    Case("an alias that is a table of the user's", executed("create table docs_embeddings (precious text)"),
         ("public.docs_embeddings is a table", "left as it is", "another alias")),
    Case("an alias that is a view of the user's", executed("create view docs_embeddings as select 1 as precious"),
         ("public.docs_embeddings is a view", "another alias")),
    Case("a model of another dimension", model("wrong_dimension"), ("5 dimensions, 4 are expected", "dimensions=5"), called=True),
    Case("a model that gives NaN", model("nan"), ("NaN",), called=True),
    Case("a model that gives fewer vectors than texts", model("fewer"), ("0 vectors for 1 texts",), called=True),
    Case("a model that is not there", model("nobody"), ("nobody", "function's name")),
    Case("a script with a syntax error", scripted("0002_x.py", 'revision = "0002"\ndef upgrade(:\n'), ("0002_x.py:2",)),
    Case("a script without revision", scripted("0002_x.py", "def upgrade(): pass\n"), ("0002_x.py", "has no revision")),
    Case("a script without upgrade", scripted("0002_x.py", 'revision = "0002"\ndown_revision = "0001"\n'),
         ("0002_x.py", "no upgrade()")),
    Case("a script that raises", scripted("0002_x.py", EMPTY.format("0002", "0001") + "1 / 0\n"),
         ("0002_x.py:5", "ZeroDivisionError")),
    Case("two scripts with one number", scripted("1_x.py", EMPTY.format("1", None)), ("0001_space.py", "1_x.py", "rebase")),
    Case("a cycle", write_a_cycle, ("0002_a.py", "0003_b.py", "cycle")),
    Case("a down revision that is missing", scripted("0003_x.py", EMPTY.format("0003", "0002")), ("'0002' does not exist",)),
    Case("an unknown key in the configuration", configured("alias =", 'aliass = "x"\nalias ='),
         ("embedmig.toml:", "aliass", "did you mean alias?")),
    Case("a collection without alias", configured('alias = "docs_embeddings"', ""), ("collections.docs has no alias",)),
    Case("a literal API key", lambda project: project.configure(CONFIG, f'[embedders.openai]\napi_key = "{FORTUNE}"\n'),
         ("api_key", "plain text", "env:")),
    Case("a missing API key", lambda project: project.space_script(model="openai/text-embedding-3-small", version="1"),
         ("no API key", "api_key"), called=True),
    Case("a version that is not pinned", lambda project: project.space_script(version="latest"), ("not pinned",)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_is_refused_before_anything_is_changed(ready: Project, case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    """By upgrade; and by a dry run and by check, which run in this process, where no call of the model is needed to tell."""
    monkeypatch.syspath_prepend(ready.folder)
    case.spoil(ready)
    with untouched(ready):
        done = ready.run("upgrade", "head", expect=EXIT_USAGE)
        explained(done, *case.words)
        if not case.called:
            with pytest.raises(EmbedmigError, match=re.escape(case.words[0])) as refused:
                embedmig.dry_run(ready.opened())
            assert refused.value.exit_code == EXIT_USAGE
            assert case.words[0] in found_by_check(ready)


def found_by_check(project: Project) -> str:
    """What check says of a plan that upgrade refuses: findings, or the error of a configuration that can't be read."""
    try:
        found = embedmig.check(project.opened())
    except ConfigError as error:
        return error.message
    return "\n".join(f"{one.where}:{one.line} {one.message}" for one in found if one.code != "EM015")


def test_one_tag_for_two_configurations_is_refused_and_the_difference_named(ready: Project) -> None:
    ready.run("upgrade", "head")
    text = (ready.migrations / "0001_space.py").read_text()
    ready.script("0002_x.py", text.replace("revision = '0001'", "revision = '0002'").replace(
        "down_revision = None", "down_revision = '0001'").replace("dimensions=4", 'dimensions=4, document_prefix="p: "'))  # fmt: skip
    with untouched(ready):
        done = ready.run("upgrade", "head", expect=EXIT_USAGE)
    explained(done, "another fingerprint", "document_prefix was '', is 'p: '", "variant")


def test_an_edited_applied_script_is_not_taken_back(ready: Project) -> None:
    ready.run("upgrade", "head")
    path = ready.migrations / "0001_space.py"
    path.write_text(path.read_text() + "# an afterthought\n")
    with untouched(ready):
        explained(ready.run("downgrade", "base", expect=EXIT_USAGE), "0001_space.py was edited", "stamp 0001")
        assert "edited" in ready.run("check", expect=EXIT_NO).stdout


# --- the database ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (f"{PASSWORD_ROLE}:{FORTUNE}@", ("password authentication failed", "check user and password")),
        (f"{PASSWORD_ROLE}@", ("no password supplied", "PGPASSWORD")),
        ("postgres@no-such-host.invalid", ("no-such-host.invalid", "check the host's name")),
    ],
)
def test_a_database_that_can_not_be_reached_is_named_without_its_password(
    ready: Project, given: str, words: tuple[str, ...]
) -> None:
    address = ready.url.partition("://")[2].partition("@")[2]
    rest = "/" + address.partition("/")[2] if "host" not in given else "/nowhere"
    with untouched(ready):
        done = ready.run("--database", f"postgresql://{given}{rest}", "upgrade", "head", expect=EXIT_USAGE)
    explained(done, *words)


def test_a_database_without_pgvector_is_refused_where_the_role_can_not_create_it(
    ready: Project, server_url: str
) -> None:
    name = f"plain_{uuid.uuid4().hex[:12]}"
    url = server_url.replace("/postgres?", f"/{name}?")
    with psycopg.connect(server_url, autocommit=True) as admin:
        admin.execute(f"create role {name} login")
        admin.execute(f"create database {name} template template0")
        try:
            with psycopg.connect(url) as conn:
                before = snapshot(conn)
            user = url.replace(url.partition("://")[2].partition("@")[0] + "@", f"{name}@")
            done = ready.run("--database", user, "upgrade", "head", expect=EXIT_USAGE)
            explained(done, "pgvector", "CREATE EXTENSION vector")
            with psycopg.connect(url) as conn:
                assert snapshot(conn) == before
        finally:
            admin.execute(f"drop database {name} with (force)")
            admin.execute(f"drop role {name}")


@pytest.mark.parametrize(
    ("server", "pgvector", "words"),
    [(130_011, "0.8.0", "PostgreSQL 13 is too old"), (160_000, "0.6.2", "pgvector 0.6.2 is too old"),
     (160_000, "0.6-dev", "pgvector 0.6-dev is too old"), (160_000, None, "pgvector")],
)  # fmt: skip
def test_a_server_or_an_extension_too_old_is_refused_with_what_is_needed(
    server: int, pgvector: str | None, words: str
) -> None:
    def look() -> None:
        require_suitable(server)
        extension.require(pgvector, can_create=False)

    with pytest.raises(DatabaseUnsuitable, match=words) as raised:
        look()
    assert raised.value.hint
    assert raised.value.exit_code == EXIT_USAGE


def test_a_dry_run_and_check_refuse_an_extension_that_is_too_old(
    ready: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(ready.folder)
    monkeypatch.setattr(extension, "MINIMUM", (99,))
    with pytest.raises(DatabaseUnsuitable, match="is too old") as refused:
        embedmig.dry_run(ready.opened())
    assert refused.value.exit_code == EXIT_USAGE
    assert "is too old" in found_by_check(ready)


@pytest.mark.parametrize("pgvector", ["0.7.0", "0.9.0-dev", "0.10.0", "0.10", "1.0"])
def test_versions_are_compared_as_numbers(pgvector: str) -> None:
    extension.require(pgvector, can_create=False)


def test_a_lost_connection_in_mid_backfill_keeps_what_was_written_and_the_same_command_goes_on(
    project: Project, conn: psycopg.Connection
) -> None:
    project.documents(300)
    watched = Model(project)
    for purpose in ("backfill writer", "lock", "backfill reader", "runner"):
        before = len(watched.asked)
        with watched.held():
            process = project.start("upgrade", "head")
            wait_until(lambda: len(watched.asked) > before, "the model to be asked", of=process)  # noqa: B023
            ended = conn.execute(
                "select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name like %s",
                (f"embedmig {purpose} %:{process.pid}",),
            ).fetchall()
            assert ended == [(True,)]
        stdout, stderr = process.communicate()
        done = subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)
        assert done.returncode == EXIT_FAILED, stderr
        explained(done, "lost", "run the same command again")
        assert project.one("select to_regclass('docs_embeddings')") is None
    project.run("upgrade", "head")
    assert project.one("select count(*) from docs_embeddings") == 300
    assert len(watched.asked) <= 300 + 4 * 8 * watched.batch_size


def test_a_full_disk_in_mid_backfill_says_so_and_the_same_command_goes_on(ready: Project) -> None:
    """The server's own report of a full disk, raised by a trigger once ten vectors are in."""
    (ready.folder / "embedmig.toml").write_text(CONFIG + "\n[embedders.python]\nbatch_size = 5\n")
    with ready.connect() as conn:
        conn.execute(
            """create function full_disk() returns trigger language plpgsql as $$
               begin raise exception 'could not extend file: No space left on device' using errcode = 'disk_full'; end $$;
               create function lay_trap() returns event_trigger language plpgsql as $$
               declare made record;
               begin
                 for made in select * from pg_event_trigger_ddl_commands() where object_type = 'table' and object_identity like 'embedmig.docs_%' loop
                   execute format('create trigger trap before insert on %s for each row when (new.id >= 10) execute function full_disk()',
                                  made.object_identity);
                 end loop;
               end $$;
               create event trigger trap on ddl_command_end when tag in ('CREATE TABLE') execute function lay_trap()"""
        )
    explained(ready.run("upgrade", "head", expect=EXIT_FAILED), "ran out of disk", "make room")
    assert ready.one("select to_regclass('docs_embeddings')") is None
    assert ready.one("select status from embedmig.embedding_migrations") == "failed"
    with ready.connect() as conn:
        conn.execute("drop function full_disk cascade; drop event trigger trap")
    ready.run("upgrade", "head")
    assert ready.one("select count(*) from docs_embeddings") == 20


# --- the model ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("function", "words"),
    [("fewer_later", "19 vectors for 20 texts"), ("wrong_dimension_later", "5 dimensions, 4 are expected")],
)
def test_a_model_that_goes_wrong_in_mid_backfill_flips_nothing_and_the_same_command_goes_on(
    ready: Project, function: str, words: str
) -> None:
    model_script(ready, function)
    explained(ready.run("upgrade", "head", expect=EXIT_FAILED), words)
    assert ready.one("select to_regclass('docs_embeddings')") is None
    assert ready.one("select status from embedmig.embedding_migrations") == "failed"
    mended = MODELS.replace(
        f"def {function}(texts):\n    return good(texts) if",
        f"def {function}(texts):\n    return good(texts) if True or",
    )
    (ready.folder / "models.py").write_text(mended)
    ready.run("upgrade", "head")
    assert ready.one("select count(*) from docs_embeddings") == 20


def api(project: Project, server: OpenAIServer, more: str = "") -> None:
    """Points the project at a local server."""
    project.environment["SOME_API_KEY"] = FORTUNE
    project.configure(
        CONFIG,
        f'\n[embedders.openai]\nbase_url = "{server.url}"\napi_key = "env:SOME_API_KEY"\nbatch_size = 5\nconcurrency = 2\n{more}',
    )
    project.space_script(model="openai/text-embedding-3-small", version="1", dimensions=16)


@pytest.mark.parametrize(
    ("options", "requests", "words"),
    [
        ({"key": "another"}, 3, ("401", "api_key")),  # the key is tried in each header that servers read
        ({"models": ("other",)}, 1, ("404", "base_url")),
        (
            {"poison": "harmless"},
            5,
            ("400", "refuses every text"),
        ),  # the others tell poison and dialects from a misconfiguration
    ],
    ids=["401", "404", "400"],
)
def test_an_api_that_refuses_for_good_is_not_asked_again(
    ready: Project, options: dict[str, Any], requests: int, words: tuple[str, ...]
) -> None:
    with OpenAIServer(**options) as server, untouched(ready):
        api(ready, server)
        explained(ready.run("upgrade", "head", expect=EXIT_USAGE), *words)
        assert server.stats.requests == requests


def test_429_5xx_and_time_outs_are_asked_again_in_whole_batches(ready: Project) -> None:
    faults: list[dict[str, Any]] = [
        {},
        {"status": 429, "retry_after_ms": 20},
        {"status": 503},
        {"status": 500},
        {"slow": 4.0},
    ]
    with OpenAIServer(script=faults) as server:
        api(ready, server, "timeout = 2.0\n")
        ready.run("upgrade", "head")
        assert server.stats.faults == 4
        assert server.stats.sizes[5] >= 4, "twenty rows go in whole batches, whatever the first requests met"
    assert ready.one("select count(*) from docs_embeddings") == 20
