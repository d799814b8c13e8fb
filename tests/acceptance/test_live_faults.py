"""The server itself goes down: in the middle of a backfill and in the middle of a flip. A server of its own for these."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from tests.conftest import start_server, stop_server
from tests.model import Model
from tests.project import NEW_TAG, OLD_TAG, Project
from tests.waiting import wait_until

pytestmark = pytest.mark.one_server


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Project]:
    """A project on a server that nobody else uses."""
    with tempfile.TemporaryDirectory(prefix="embedmig-own-") as folder:
        made = Project(tmp_path, start_server(Path(folder)))
        try:
            yield made
        finally:
            made.close()
            stop_server(Path(folder))


def crash(project: Project) -> None:
    """``kill -9`` of a backend: the server ends every session, and recovers. Returns when it has ended them."""
    witness, victim = project.connect(), project.connect()
    os.kill(victim.info.backend_pid, signal.SIGKILL)
    wait_until(lambda: gone(witness), "the server to end its sessions")
    victim.close()


def gone(conn: psycopg.Connection) -> bool:
    """Whether the server has ended this session."""
    try:
        conn.execute("select")
    except psycopg.OperationalError:
        return True
    return False


def back(project: Project) -> bool:
    """Whether the server takes connections again."""
    try:
        return bool(project.one("select true"))
    except psycopg.OperationalError:
        return False


def test_a_server_that_restarts_in_mid_backfill_costs_an_exit_1_and_the_same_command_goes_on(alone: Project) -> None:
    alone.documents(120)
    model = Model(alone)
    with model.held():
        process = alone.start("upgrade", "head")
        wait_until(lambda: model.asked, "the model to be asked")
        crash(alone)
        wait_until(lambda: back(alone), "the server to be back")
    _, said = process.communicate()
    assert process.returncode == 1, said
    assert "run the same command again" in said
    alone.run("upgrade", "head")
    assert alone.one("select count(*) from docs_embeddings") == 120
    assert alone.one("select array_agg(status order by id) from embedmig.embedding_migrations")[-1] == "done"


def test_a_server_that_restarts_in_mid_flip_leaves_the_alias_and_the_same_command_flips_it(alone: Project) -> None:
    alone.documents(20)
    alone.two_spaces()
    alone.run("upgrade", "0001")
    reader = alone.connect()
    reader.execute("begin")
    reader.execute("select from docs_embeddings limit 1")
    process = alone.start("upgrade", "head")
    waits = "select exists (select from pg_locks where not granted and locktype = 'relation')"
    wait_until(lambda: alone.one(waits), "the flip to wait for the reader")
    crash(alone)
    reader.close()
    wait_until(lambda: back(alone), "the server to be back")
    _, said = process.communicate()
    assert process.returncode == 1, said
    assert alone.one("select max(version) from docs_embeddings") == OLD_TAG
    alone.run("upgrade", "head")
    assert alone.one("select min(version) from docs_embeddings") == NEW_TAG
    alone.expect_exact()
