"""A hot standby: what only looks works there, a reader follows a flip, and what writes says that it is one."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

import embedmig
from embedmig import Reader
from embedmig.errors import EmbedmigError
from tests.in_process import Fake, space_script, tag, upgrade
from tests.project import CONFIG, Project
from tests.servers import program
from tests.waiting import wait_until

pytestmark = pytest.mark.one_server  # pg_basebackup is the newest server's


@pytest.fixture
def standby(project: Project) -> Iterator[str]:
    """The address of the project's database on a standby of the test server; it takes the server's operating system user."""
    data = Path(project.one("select current_setting('data_directory')"))
    folder = Path(tempfile.mkdtemp(prefix="embedmig-standby-"))
    user = data.stat().st_uid
    os.chown(folder, user, -1)

    def run(name: str, *options: str) -> None:
        command = [program(name), "-D", str(folder / "data"), *options]
        subprocess.run(command, check=True, cwd=folder, user=user if os.getuid() == 0 else None)

    try:
        run("pg_basebackup", "-d", project.url, "-R", "-c", "fast")
        run("pg_ctl", "-w", "-l", str(folder / "log"), "-o", f"-k {folder} -h ''", "start")
        try:
            with project.connect() as conn:
                yield f"postgresql://postgres@/{conn.info.dbname}?host={folder}&port={conn.info.port}"
        finally:
            run("pg_ctl", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder)


@pytest.fixture
def running(project: Project) -> Project:
    """One revision applied, one pending."""
    Fake().register()
    project.configure(CONFIG, 'where = "id >= 0 and title is not null"\n')
    project.documents(20)
    space_script(project)
    space_script(project, "0002", "0001", old=tag(), dimensions=16)
    upgrade(project, "0001")
    return project


def catch_up(project: Project, standby: str) -> None:
    """Waits until the standby has what the primary has now: the tests' servers write their log a moment after a commit."""
    with project.connect() as primary:
        primary.execute("set synchronous_commit = on")
        primary.execute("select pg_logical_emit_message(true, 'embedmig', 'written so far')")
    written = project.one("select pg_current_wal_lsn()::text")
    with psycopg.connect(standby, autocommit=True) as conn:
        query = "select pg_last_wal_replay_lsn() >= %s::pg_lsn"
        wait_until(lambda: (conn.execute(query, (written,)).fetchone() or (False,))[0], "the standby to catch up")


def test_what_looks_works_on_a_standby_and_a_reader_there_follows_a_flip(running: Project, standby: str) -> None:
    catch_up(running, standby)
    replica = embedmig.open_project(running.folder / "embedmig.toml", database=standby)
    found = embedmig.status(replica)
    assert (found.current, found.pending) == (["0001"], ["0002"])
    assert found.collections["docs"].spaces[0].completeness == 1.0
    assert embedmig.status(replica, exact=True).collections["docs"].capture == "installed"
    assert embedmig.search(replica, "docs", "wind", k=3).hits
    assert all(verdict.passed for verdict in embedmig.gate(replica, "docs"))
    assert [finding.code for finding in embedmig.check(replica)] == ["EM015", "EM020"]
    assert [entry.applied for entry in embedmig.history(replica)] == [False, True]
    assert embedmig.current(replica) == ["0001"]
    assert embedmig.show(replica, "0001").attempts
    assert embedmig.dry_run(replica, "upgrade", "head")[0].revision == "0002"
    assert embedmig.plan(replica).forecasts[0].revision == "0002"
    assert embedmig.gather_report(replica).eta.at
    assert embedmig.audit(replica, sample=5).findings == []
    assert embedmig.uninstall(replica).views

    with Reader(standby, "docs") as reader:
        assert reader.search("wind", k=1)[0].version == tag()
        upgrade(running)
        catch_up(running, standby)
        wait_until(lambda: reader.search("wind", k=1)[0].version == tag(16), "the reader to follow")


WRITING: dict[str, Callable[[embedmig.Project], object]] = {
    "upgrade": lambda replica: embedmig.upgrade(replica),
    "downgrade": lambda replica: embedmig.downgrade(replica, "-1"),
    "stamp": lambda replica: embedmig.stamp(replica, "base"),
    "sync": lambda replica: embedmig.sync(replica),
    "sync --repair": lambda replica: embedmig.sync(replica, repair=True),
    "alias rebuild": lambda replica: embedmig.alias_rebuild(replica, "docs"),
    "retire": lambda replica: embedmig.retire(replica, "docs", tag(), after="0s", confirm=tag()),
    "uninstall": lambda replica: embedmig.uninstall(replica, confirm=True),
}


def test_what_writes_names_the_standby(running: Project, standby: str) -> None:
    catch_up(running, standby)
    replica = embedmig.open_project(running.folder / "embedmig.toml", database=standby)
    for command, write in WRITING.items():
        with pytest.raises(EmbedmigError, match="standby") as raised:
            write(replica)
        assert "primary" in str(raised.value.hint), command
