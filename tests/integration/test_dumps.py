"""A dump holds the whole state: restored under another name, every command goes on from where the dump was taken."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import psycopg
import pytest

import embedmig
from embedmig.testing import fake_vectors
from tests.in_process import Fake, downgrade, space_script, tag, upgrade
from tests.project import Project
from tests.servers import program

pytestmark = pytest.mark.one_server  # the programs are the newest server's

Restore = Callable[..., None]


@pytest.fixture(autouse=True)
def fake() -> Fake:
    """The provider ``fake``."""
    return Fake().register()


@pytest.fixture
def restore(project: Project, server_url: str, tmp_path: Path) -> Iterator[Restore]:
    """Dumps the project's database, restores it under another name, with the options of one or more passes of
    ``pg_restore``, and lets the project go on there.
    """
    name, dump = f"t_{uuid.uuid4().hex[:16]}", tmp_path / "dump"

    def run(*passes: str) -> None:
        subprocess.run([program("pg_dump"), "-Fc", "-f", dump, project.url], check=True)
        with psycopg.connect(server_url, autocommit=True) as conn:
            conn.execute(f"create database {name}")  # type: ignore[arg-type]
        project.url = server_url.replace("/postgres?", f"/{name}?")
        for options in passes:
            subprocess.run([program("pg_restore"), *options.split(), "-d", project.url, dump], check=True)

    yield run
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"drop database if exists {name} with (force)")  # type: ignore[arg-type]


def unit_vectors(texts: list[str], dimensions: int) -> Any:
    vectors = fake_vectors(texts, dimensions)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def capture(project: Project) -> tuple[str, str]:
    """What ``status`` says of it."""
    found = embedmig.status(project.opened()).collections["docs"]
    return found.capture, found.capture_note


def test_a_restored_database_goes_on_where_the_dump_was_taken(project: Project, restore: Restore) -> None:
    project.documents(20)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    upgrade(project)
    with project.connect() as conn:
        conn.execute("update documents set body = 'waits in the outbox' where id = 3")
        conn.execute("grant select on docs_embeddings to public")
    dumped = project.url
    restore("--exit-on-error")

    assert project.url != dumped
    assert embedmig.status(project.opened()).current == ["0002"]
    assert capture(project) == ("installed", "")
    with project.connect() as conn:
        conn.execute("update documents set body = 'written after the restore' where id = 4")
    embedmig.sync(project.opened())
    project.expect_exact(embed=unit_vectors)
    assert embedmig.search(project.opened(), "docs", "waits", k=1).hits
    downgrade(project)
    upgrade(project)
    project.expect_exact(embed=unit_vectors)
    assert project.one("select has_table_privilege('public', 'docs_embeddings', 'select')")
    downgrade(project, "base")

    project.url = dumped
    assert embedmig.status(project.opened()).current == ["0002"]
    assert project.one("select count(*) from embedmig.outbox_docs") == 1


@pytest.mark.parametrize("partitioned", [False, True], ids=["a table", "a partitioned table"])
def test_after_a_restore_with_triggers_disabled_capture_says_so_and_one_command_repairs_it(
    project: Project, restore: Restore, partitioned: bool
) -> None:
    if partitioned:
        with project.connect() as conn:
            conn.execute(
                "create table documents (id bigint primary key, title text, body text) partition by range (id)"
            )
            conn.execute("create table part partition of documents for values from (0) to (100)")
            conn.execute("insert into documents select n, 'title ' || n, 'body of ' || n from generate_series(1, 20) n")
    else:
        project.documents(20)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    upgrade(project)
    restore("--exit-on-error --schema-only", "--exit-on-error --data-only --disable-triggers")

    state, note = capture(project)
    assert state == "disabled"
    assert "fires in the wrong sessions, as after pg_restore --disable-triggers" in note
    assert not all(verdict.passed for verdict in embedmig.gate(project.opened(), "docs"))
    with project.connect() as conn:
        conn.execute("set session_replication_role = replica")
        conn.execute("update documents set body = 'as the apply worker writes' where id = 5")
    embedmig.sync(project.opened(), repair=True)
    project.expect_exact(embed=unit_vectors)
    assert capture(project) == ("installed", "")
    with project.connect() as conn:
        conn.execute("set session_replication_role = replica")
        conn.execute("update documents set body = 'as the apply worker writes again' where id = 6")
    embedmig.sync(project.opened())
    project.expect_exact(embed=unit_vectors)
    downgrade(project)
    upgrade(project)
