"""What a role needs: looking wants SELECT alone, searching less still, and a role without rights changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg
import pytest

import embedmig
from embedmig import Reader
from embedmig.errors import EmbedmigError
from tests.in_process import Fake, space_script, tag, upgrade
from tests.project import CONFIG, Project


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
    assert [finding.code for finding in embedmig.check(as_role(running, role))] == ["EM015"]
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
