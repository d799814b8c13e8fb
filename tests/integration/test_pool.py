"""Behind a transaction pool: applications read through every flip, and embedmig itself asks for a direct connection."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest

import embedmig
from embedmig import Reader
from embedmig.errors import ConfigError
from tests.project import NEW_TAG, OLD_TAG, Project
from tests.waiting import wait_until

PGBOUNCER = shutil.which("pgbouncer") or shutil.which("pgbouncer", path="/usr/sbin")
pytestmark = pytest.mark.skipif(PGBOUNCER is None, reason="pgbouncer is not installed")
SEARCH = "select version from docs_embeddings order by embedding <=> %s::vector limit 10"


def free_port() -> int:
    """A port on the loopback that nobody listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture
def pool(project: Project) -> Iterator[str]:
    """The URL of a PgBouncer in transaction mode with two server connections, in front of the test's database."""
    address = urlsplit(project.url)
    where = {name: values[0] for name, values in parse_qs(address.query).items()}
    port, folder = free_port(), Path(tempfile.mkdtemp(prefix="embedmig-pool-"))
    config = folder / "pgbouncer.ini"
    config.write_text(
        f"""[databases]
pooled = host={where["host"]} port={where.get("port", "5432")} dbname={address.path[1:]} user={address.username}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = 2
ignore_startup_parameters = extra_float_digits,options
"""
    )
    folder.chmod(0o755)
    by_socket = where["host"].startswith("/")
    server = pwd.getpwuid(Path(where["host"]).stat().st_uid).pw_name if by_socket else "nobody"
    user = ["-u", server] if os.geteuid() == 0 else []  # it refuses to be root
    process = subprocess.Popen([str(PGBOUNCER), "-q", *user, str(config)], stderr=subprocess.DEVNULL)
    url = f"postgresql://anyone@127.0.0.1:{port}/pooled"

    def answers() -> bool:
        try:
            psycopg.connect(url, autocommit=True).close()
        except psycopg.OperationalError:
            return False
        return True

    try:
        wait_until(answers, "the pool to answer")
        yield url
    finally:
        process.terminate()
        process.wait()
        shutil.rmtree(folder)


@pytest.fixture
def moved(project: Project) -> Project:
    """Two spaces; the alias shows the first."""
    project.documents(30)
    project.two_spaces()
    embedmig.upgrade(project.opened(), "0001")
    return project


def test_no_read_through_the_pool_fails_or_is_mixed_while_the_alias_flips(moved: Project, pool: str) -> None:
    ended, answers, failures = threading.Event(), list[set[str]](), list[Exception]()

    def read() -> None:
        queries = {OLD_TAG: [0.5] * 64, NEW_TAG: [0.5] * 256}
        with psycopg.connect(pool, autocommit=True, prepare_threshold=None) as conn:
            while not ended.is_set():
                for version, query in queries.items():
                    try:
                        rows = conn.execute(
                            f"{SEARCH.replace(' order', ' where version = %s order')}", (version, str(query))
                        )  # type: ignore[arg-type]
                        answers.append({row[0] for row in rows})
                    except psycopg.Error as error:
                        failures.append(error)

    readers = [threading.Thread(target=read) for _ in range(4)]
    for reader in readers:
        reader.start()
    try:
        embedmig.upgrade(moved.opened())
        for _ in range(5):
            embedmig.downgrade(moved.opened(), "-1")
            embedmig.upgrade(moved.opened())
    finally:
        ended.set()
        for reader in readers:
            reader.join()
    assert not failures
    assert all(len(versions) <= 1 for versions in answers)
    assert {OLD_TAG} in answers
    assert {NEW_TAG} in answers


def test_a_reader_behind_the_pool_notices_every_flip(moved: Project, pool: str) -> None:
    with Reader(pool, "docs") as reader:
        assert {hit.version for hit in reader.search("shock wave")} == {OLD_TAG}
        embedmig.upgrade(moved.opened())
        assert {hit.version for hit in reader.search("shock wave")} == {NEW_TAG}
        embedmig.downgrade(moved.opened(), "-1")
        assert {hit.version for hit in reader.search("shock wave")} == {OLD_TAG}


def test_a_run_through_the_pool_is_refused_before_anything_is_touched(moved: Project, pool: str) -> None:
    other = threading.Event()

    def busy() -> None:
        with psycopg.connect(pool, autocommit=True, prepare_threshold=None) as conn:
            while not other.is_set():
                conn.execute("select pg_sleep(0.001)")

    crowd = [threading.Thread(target=busy) for _ in range(3)]
    for one in crowd:
        one.start()
    try:
        with pytest.raises(ConfigError, match="transaction pool"):
            embedmig.upgrade(embedmig.open_project(moved.folder / "embedmig.toml", database=pool))
    finally:
        other.set()
        for one in crowd:
            one.join()
    assert embedmig.status(moved.opened()).current == ["0001"]
