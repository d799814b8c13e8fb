"""One real PostgreSQL a test session, one database a test, made from a template; the installed command as a process."""

from __future__ import annotations

import os
import subprocess
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from embedmig.database import Database, schema
from tests import schedule, servers
from tests.project import Project

SERVER = "EMBEDMIG_TEST_SERVER"
NAMED = "EMBEDMIG_TEST_SERVER_NAME"
TEMPLATE = "embedmig_template"
LEDGER_TEMPLATE = "embedmig_template_with_ledger"
PASSWORD_ROLE = "needs_password"


def pytest_configure(config: pytest.Config) -> None:
    """The controlling process starts the server; the workers of xdist find it in the environment."""
    os.environ.pop("COLUMNS", None)  # what a command prints into a pipe is not to depend on who runs the tests
    if hasattr(config, "workerinput") or SERVER in os.environ:
        return
    for library in (
        "OMP",
        "OPENBLAS",
    ):  # whose threads wait busily for a core; the test processes keep the cores at work
        os.environ.setdefault(f"{library}_NUM_THREADS", "1")
    folder = Path(tempfile.mkdtemp(prefix="embedmig-test-"))
    os.environ[SERVER] = start_server(folder)
    config.add_cleanup(lambda: stop_server(folder))
    make_ledger_template(os.environ[SERVER])
    with psycopg.connect(os.environ[SERVER].replace("/postgres?", f"/{TEMPLATE}?")) as conn:
        row = conn.execute(
            "select current_setting('server_version'), extversion from pg_extension where extname = 'vector'"
        ).fetchone()
        os.environ[NAMED] = "PostgreSQL {}, pgvector {}".format(*row or ("?", "?"))


def start_server(folder: Path) -> str:
    """A server of its own with the template and a role that has to give a password."""
    url = servers.start(folder, PASSWORD_ROLE)
    with psycopg.connect(url, autocommit=True) as conn:
        conn.execute(f"create role {PASSWORD_ROLE} login password 'right'")
        conn.execute(f"create database {TEMPLATE}")
        with psycopg.connect(url.replace("/postgres?", f"/{TEMPLATE}?"), autocommit=True) as template:
            template.execute("create extension vector")
    return url


def make_ledger_template(server: str) -> None:
    """A template in which embedmig's own tables are as the first command makes them."""
    with psycopg.connect(server, autocommit=True) as conn:
        conn.execute(f"create database {LEDGER_TEMPLATE} template {TEMPLATE}")
    schema.upgrade(Database(server.replace("/postgres?", f"/{LEDGER_TEMPLATE}?"), "embedmig"))


def stop_server(folder: Path) -> None:
    """Ends the server and removes its files."""
    servers.stop(folder)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """On another server than the newest: the tests that speak SQL, but for those whose promise has nothing to do with the server.

    The processes of pytest-xdist begin with the slowest tests.
    """
    if servers.wanted() != "18":
        speaks = [item for item in items if "server_url" in getattr(item, "fixturenames", ())]
        kept = [item for item in speaks if item.get_closest_marker("one_server") is None]
        config.hook.pytest_deselected(items=[item for item in items if item not in set(kept)])
        items[:] = kept
    if worker := getattr(config, "workerinput", None):
        items[:] = schedule.arranged(items, worker["workercount"])


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Which server it was, and how many tests ran on it."""
    schedule.record(terminalreporter.stats)
    ran = len(terminalreporter.stats.get("passed", [])) + len(terminalreporter.stats.get("failed", []))
    terminalreporter.write_line(f"{os.environ.get(NAMED, 'no server')}: {ran} tests run")


@pytest.fixture
def server_url() -> str:
    """The server's own database, for what concerns no test's data."""
    return os.environ[SERVER]


@pytest.fixture
def url(request: pytest.FixtureRequest, server_url: str) -> Iterator[str]:
    """A fresh database with pgvector in it; marked ``with_ledger``, with embedmig's own tables too."""
    name = f"t_{uuid.uuid4().hex[:16]}"
    marker = request.node.get_closest_marker("with_ledger")
    template = TEMPLATE if marker is None or marker.args == (False,) else LEDGER_TEMPLATE
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"create database {name} template {template} strategy file_copy")
    yield server_url.replace("/postgres?", f"/{name}?")
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"drop database if exists {name} with (force)")


@pytest.fixture
def conn(url: str) -> Iterator[psycopg.Connection]:
    """A connection to the test's database."""
    with psycopg.connect(url, autocommit=True) as connection:
        yield connection


@pytest.fixture
def project(tmp_path: Path, url: str) -> Iterator[Project]:
    """An empty project beside the test's database; what it started is ended with it."""
    made = Project(tmp_path, url)
    yield made
    made.close()


Cli = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def cli(project: Project) -> Cli:
    """Runs the installed ``embedmig`` in the project's folder as a user would."""
    return project.run
