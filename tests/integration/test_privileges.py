"""What a role needs: looking wants SELECT alone, searching less still, and a role without rights changes nothing."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import embedmig
from embedmig import Reader
from embedmig.errors import EmbedmigError
from tests.in_process import Fake, space_script, tag, upgrade
from tests.project import CONFIG, Project

PAGE = Path(__file__).parents[2] / "docs/privileges.md"
ROLES = ("app", "migrator", "shop_owner")
Transcript = Callable[[str], list[str]]


@pytest.fixture
def fake() -> Fake:
    """The provider ``fake``."""
    return Fake().register()


@pytest.fixture
def role(conn: psycopg.Connection) -> Iterator[str]:
    """A login without any right of its own."""
    name = f"r_{conn.info.dbname}"
    conn.execute(f"create role {name} login")
    yield name
    conn.execute(f"drop owned by {name}; drop role {name}")


@pytest.fixture
def transcript(conn: psycopg.Connection) -> Iterator[Transcript]:
    """The SQL under one of the page's headings, block by block, in this test's database and with roles of its own."""
    database = conn.info.dbname
    own = {name: f"{name}_{database}" for name in ROLES}
    for name in own.values():
        conn.execute(f"create role {name} login")

    def blocks(heading: str) -> list[str]:
        section = PAGE.read_text().split(f"## {heading}\n")[1].split("\n## ")[0]
        found = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
        return [re.sub(r"\w+", lambda word: {**own, "shop": database}.get(word[0], word[0]), one) for one in found]

    yield blocks
    everyone = ", ".join(own.values())
    conn.execute(f"drop owned by {everyone} cascade; drop role {everyone}")


@pytest.fixture
def running(project: Project, fake: Fake) -> Project:
    """One revision applied, one pending."""
    project.documents(20)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    upgrade(project, "0001")
    return project


def as_role(project: Project, role: str) -> embedmig.Project:
    return embedmig.open_project(project.folder / "embedmig.toml", database=url_of(project, role))


def url_of(project: Project, role: str) -> str:
    before, _, after = project.url.partition("@")
    return f"{before.partition('://')[0]}://{role}@{after}"


def test_an_ordinary_owner_takes_a_collection_through_its_whole_life(
    project: Project, conn: psycopg.Connection, fake: Fake, transcript: Transcript
) -> None:
    """Not a superuser, by SET ROLE; pgvector in another schema, FORCE ROW LEVEL SECURITY, an application that is not the owner."""
    owner, migrator, app = (f"{name}_{conn.info.dbname}" for name in ("shop_owner", "migrator", "app"))
    project.configure(CONFIG.replace("[embedmig]", f'[embedmig]\nconnect = {{ role = "{owner}" }}'))
    project.documents(20)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    prepare, rules, grants = transcript("Another owner, row-level security, pgvector in its own schema")
    conn.execute(f"drop extension vector; alter role {owner} nologin")
    conn.execute(prepare)

    def as_owner(statements: str) -> None:
        with psycopg.connect(url_of(project, migrator)) as session:
            session.execute(f"set role {owner}; {statements}")

    def write(statements: str) -> None:
        with psycopg.connect(url_of(project, app)) as session:
            session.execute(statements)
        embedmig.sync(as_role(project, migrator))
        assert seen() == {row[0] for row in project.rows("select id from documents where id < 1000")}

    def seen() -> set[int]:
        with psycopg.connect(url_of(project, app)) as session:
            return {row[0] for row in session.execute("select id from docs_embeddings")}

    as_owner(rules)
    embedmig.upgrade(as_role(project, migrator), "0001")
    as_owner(grants)
    conn.execute("insert into documents values (2000, 'hidden', 'from the application by its policy')")
    write("insert into documents values (100, 'new', 'by the application'); delete from documents where id = 3")
    embedmig.downgrade(as_role(project, migrator), "-1")
    embedmig.upgrade(as_role(project, migrator))
    as_owner(grants)  # of the view, which the downgrade took away
    write("update documents set body = 'edited by the application' where id = 5")
    with Reader(url_of(project, app), "docs") as reader:
        assert reader.search("edited by", k=3)
    assert embedmig.status(as_role(project, migrator)).collections["docs"].spaces[0].completeness == 1.0
    assert project.one("select viewowner from pg_views where viewname = 'docs_embeddings'") == owner

    embedmig.retire(as_role(project, migrator), "docs", tag(), after="0s", confirm=tag())
    assert embedmig.uninstall(as_role(project, migrator), confirm=True).done
    assert project.one("select to_regnamespace('embedmig')") is None
    with psycopg.connect(url_of(project, app)) as session:
        session.execute("insert into documents values (101, 'after', 'embedmig is gone')")


def test_every_command_that_looks_runs_with_select_alone(running: Project, conn: psycopg.Connection, role: str) -> None:
    conn.execute(
        f"""grant usage on schema embedmig to {role};
            grant select on all tables in schema embedmig to {role};
            grant select on documents, docs_embeddings to {role}"""
    )
    before = conn.execute("select count(*), max(id) from embedmig.embedding_migrations").fetchone()

    found = embedmig.status(as_role(running, role))
    assert found.current == ["0001"]
    assert found.pending == ["0002"]
    assert found.collections["docs"].active == tag()
    assert found.collections["docs"].spaces[0].completeness == 1.0
    assert [finding.code for finding in embedmig.check(as_role(running, role))] == ["EM015", "EM020"]
    assert all(verdict.passed for verdict in embedmig.gate(as_role(running, role), "docs"))
    assert [entry.applied for entry in embedmig.history(as_role(running, role))] == [False, True]
    assert embedmig.current(as_role(running, role)) == ["0001"]
    assert embedmig.show(as_role(running, role), "0001").attempts
    assert embedmig.dry_run(as_role(running, role), "upgrade", "head")[0].revision == "0002"
    assert embedmig.plan(as_role(running, role)).forecasts[0].revision == "0002"
    assert embedmig.gather_report(as_role(running, role)).eta.at
    assert conn.execute("select count(*), max(id) from embedmig.embedding_migrations").fetchone() == before


def test_search_needs_the_view_and_the_registry_of_aliases_and_no_more(
    running: Project, conn: psycopg.Connection, role: str
) -> None:
    conn.execute(
        f"""grant usage on schema embedmig to {role};
            grant select on embedmig.aliases, docs_embeddings to {role}"""
    )
    text = running.one("select concat_ws(E'\\n\\n', title, body) from documents where id = 7")
    assert embedmig.search(as_role(running, role), "docs", text, k=1).hits[0].key_text == ("7",)
    with Reader(url_of(running, role), "docs") as reader:
        assert reader.search(text, k=1)[0].key_text == ("7",)
    with psycopg.connect(url_of(running, role)) as reading, pytest.raises(psycopg.errors.InsufficientPrivilege):
        reading.execute("select * from documents")


def test_a_migration_without_the_rights_for_it_says_so_and_changes_nothing(
    running: Project, conn: psycopg.Connection, role: str
) -> None:
    conn.execute(
        f"""grant usage on schema embedmig to {role};
            grant select on all tables in schema embedmig to {role};
            grant select on documents, docs_embeddings to {role}"""
    )
    with pytest.raises(EmbedmigError, match=r"permission denied|can't be created") as raised:
        embedmig.upgrade(as_role(running, role))
    assert raised.value.hint
    assert embedmig.status(running.opened()).current == ["0001"]
    assert running.one("select count(*) from embedmig.embedding_migrations") == 1


@pytest.mark.parametrize("owner", [False, True], ids=["a reader", "the owner of the table"])
def test_a_first_migration_without_the_rights_for_it_leaves_nothing_behind(
    project: Project, conn: psycopg.Connection, fake: Fake, role: str, owner: bool
) -> None:
    project.documents(5)
    space_script(project)
    conn.execute(f"alter table documents owner to {role}" if owner else f"grant select on documents to {role}")
    with pytest.raises(EmbedmigError, match=r"permission denied|can't be created") as raised:
        embedmig.upgrade(as_role(project, role))
    assert raised.value.hint
    assert project.one("select to_regnamespace('embedmig')") is None
    assert embedmig.status(as_role(project, role)).current == []
    conn.execute("alter table documents owner to postgres")


def test_who_may_not_create_triggers_is_told_of_the_alternative_which_needs_none(
    project: Project, conn: psycopg.Connection, fake: Fake, role: str
) -> None:
    project.documents(5)
    conn.execute("alter table documents add column updated_at timestamptz not null default now()")
    conn.execute(
        f"""grant create on database {conn.info.dbname} to {role}; grant create, usage on schema public to {role};
            grant select on documents to {role}"""
    )
    space_script(project)
    with pytest.raises(EmbedmigError, match="triggers can't be created on documents") as raised:
        embedmig.upgrade(as_role(project, role))
    assert 'capture = "watermark"' in str(raised.value.hint)
    assert project.one("select to_regclass('docs_embeddings')") is None
    project.configure(f'{CONFIG}capture = "watermark"\nchanged_at = "updated_at"\n')
    embedmig.upgrade(as_role(project, role))
    conn.execute(
        "update documents set body = 'newer', updated_at = now() where id = 3; delete from documents where id = 4"
    )
    embedmig.sync(as_role(project, role), "docs")
    assert project.one("select count(*) from docs_embeddings") == 4
