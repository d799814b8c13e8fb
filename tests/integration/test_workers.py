"""Several workers at one space: the sum is the same as with one, whoever dies, hangs or has another clock."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

import embedmig
from embedmig.errors import EXIT_INTERRUPTED, EXIT_NO, EXIT_USAGE
from tests.in_process import Fake, space_script, spaces, upgrade
from tests.model import Model, unit_vectors
from tests.project import CONFIG, Project
from tests.waiting import wait_until

ROWS = 600
IN_FLIGHT = 64  # texts that a worker may have asked for and not written: eight batches
RANGES = "[backfill]\nrange_rows = 50\n"
HOLDERS = """select distinct split_part(worker, ':', 2)::int from embedmig.ranges
             where not done and claimed_until > now()"""
SKEWED = """
import time

true_time = time.time
time.time = lambda: true_time() + 1200
"""


@pytest.fixture
def model(project: Project) -> Model:
    """600 documents in ranges of about fifty, a revision, and a model that is watched."""
    project.documents(ROWS)
    return Model(project, more=RANGES)


def holders(project: Project, conn: psycopg.Connection) -> set[int]:
    """The processes that have a range now."""
    if conn.execute("select to_regclass('embedmig.ranges')").fetchone() == (None,):
        return set()
    return {row[0] for row in conn.execute(HOLDERS)}


@contextmanager
def at_work(
    project: Project, model: Model, conn: psycopg.Connection, *commands: str, workers: int
) -> Iterator[tuple[list[subprocess.Popen[str]], set[int]]]:
    """Processes that run commands, and those that have a range, once there are so many; the model is held meanwhile."""
    with model.held():
        started: list[subprocess.Popen[str]] = []
        for command in commands:
            started.append(project.start(*command.split()))
            wait_until(lambda: holders(project, conn), "a range to be claimed", of=started[0])
        wait_until(lambda: len(holders(project, conn)) >= workers, f"{workers} workers", of=started[0])
        wait_until(lambda: len(model.asked) >= workers * model.batch_size, "each to ask", of=started[0])
        yield started, holders(project, conn)


def ended(process: subprocess.Popen[str], code: int = 0) -> str:
    """What a process said until its end."""
    _, said = process.communicate(timeout=60)
    assert process.returncode == code, said
    return said


def expect_the_sum_of_one(project: Project, conn: psycopg.Connection) -> None:
    """Keys, hashes and vectors are what one worker makes, and every row was written once."""
    project.expect_exact(embed=unit_vectors)
    assert conn.execute("select sum(rows), bool_and(done) from embedmig.ranges").fetchone() == (ROWS, True)


def test_three_processes_do_together_what_one_does_and_ask_for_nothing_twice(
    project: Project, model: Model, conn: psycopg.Connection
) -> None:
    with at_work(project, model, conn, "upgrade --workers 3", workers=3) as (started, _):
        pass
    assert f"{ROWS} rows embedded" in ended(started[0])
    expect_the_sum_of_one(project, conn)
    assert sorted(model.asked) == sorted(set(model.asked))
    assert project.one("select rows_done from embedmig.embedding_migrations") == ROWS
    assert project.one("select count(distinct worker) from embedmig.ranges") == 3


def test_a_worker_killed_in_mid_range_is_named_and_its_range_taken_over_where_it_stopped(
    project: Project, model: Model, conn: psycopg.Connection
) -> None:
    with at_work(project, model, conn, "upgrade --workers 3", workers=3) as (started, found):
        victim = max(found - {started[0].pid})
        os.kill(victim, signal.SIGKILL)
    said = ended(started[0])
    assert f"worker {victim} was killed by SIGKILL" in said
    expect_the_sum_of_one(project, conn)
    assert len(model.asked) <= ROWS + IN_FLIGHT


def test_a_worker_that_hangs_loses_its_range_and_what_it_writes_when_it_wakes_is_refused(
    project: Project, model: Model, conn: psycopg.Connection
) -> None:
    model = Model(project, more=RANGES + 'lease = "1h"\n')
    with at_work(project, model, conn, "upgrade", "backfill docs", workers=2) as ((upgrade, joined), _):
        joined.send_signal(signal.SIGSTOP)
        leases = "select bool_and(claimed_until - now() between '50m' and '1h') from embedmig.ranges where not done"
        assert project.one(leases) is True
    wait_until(lambda: holders(project, conn) == {joined.pid}, "the others to be done", of=upgrade)
    conn.execute("update embedmig.ranges set claimed_until = now() where not done")  # an hour later
    ended(upgrade)
    expect_the_sum_of_one(project, conn)
    joined.send_signal(signal.SIGCONT)
    ended(joined)
    expect_the_sum_of_one(project, conn)
    assert len(model.asked) <= ROWS + 2 * IN_FLIGHT
    assert project.one("select count(*) from embedmig.ranges where turn > 1") >= 1


def test_clocks_that_disagree_by_twenty_minutes_take_no_range_from_anyone(
    project: Project, model: Model, conn: psycopg.Connection
) -> None:
    (project.folder / "skewed").mkdir()
    (project.folder / "skewed" / "sitecustomize.py").write_text(SKEWED)
    with at_work(project, model, conn, "upgrade", workers=1) as ((upgrade,), _):
        project.environment["PYTHONPATH"] = f"{project.folder / 'skewed'}:{project.folder}"
        late = project.start("backfill", "docs")
        wait_until(lambda: len(holders(project, conn)) == 2, "both to have a range", of=late)
    ended(upgrade)
    ended(late)
    expect_the_sum_of_one(project, conn)
    assert sorted(model.asked) == sorted(set(model.asked))
    assert project.one("select max(turn) from embedmig.ranges") == 1
    assert project.one("select rows_done from embedmig.embedding_migrations") == ROWS


def test_more_workers_than_ranges_do_what_one_does(project: Project, model: Model, conn: psycopg.Connection) -> None:
    conn.execute("delete from documents where id >= 60")
    project.run("upgrade", "--workers", "4")
    project.expect_exact(embed=unit_vectors)
    assert project.one("select count(*) from embedmig.ranges") == 2
    assert len(model.asked) == 60


KEYS = """
[embedders.python]
batch_size = 8
api_key = "env:OWN_KEY"
[embedders.openai]
api_key = "env:OTHERS_KEY"
"""


def test_a_worker_gets_the_key_of_its_own_provider_and_no_other(
    project: Project, model: Model, conn: psycopg.Connection
) -> None:
    project.configure(CONFIG, RANGES + KEYS)
    project.environment |= {"OWN_KEY": "sk-own", "OTHERS_KEY": "sk-others"}
    with at_work(project, model, conn, "upgrade --workers 2", workers=2) as (started, found):
        (worker,) = found - {started[0].pid}
        environment = Path(f"/proc/{worker}/environ").read_bytes()
        assert b"sk-own" in environment
        assert b"sk-others" not in environment
    ended(started[0])
    expect_the_sum_of_one(project, conn)


PAID = """
from embedmig.types import Answer
from watched_model import embed as watched


def embed(texts):
    return Answer(watched(texts), tokens=sum(map(len, texts)) // 4)
"""


def test_a_limit_of_cost_is_for_all_workers_together(project: Project, model: Model, conn: psycopg.Connection) -> None:
    (project.folder / "paid_model.py").write_text(PAID)
    price = "[embedders.python]\nbatch_size = 8\nprice = 100_000\n"  # about a dollar a text
    project.configure(CONFIG, RANGES + price)
    project.space_script(model="python/paid_model:embed", version="1", dimensions=8)
    with at_work(project, model, conn, "upgrade --workers 3 --max-cost 300", workers=3) as (started, _):
        pass
    said = ended(started[0], EXIT_NO)
    assert "max_cost (300.00 USD)" in said
    assert 100 < sum(map(len, model.asked)) / 4 * 0.1 <= 300


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, EXIT_INTERRUPTED), (signal.SIGKILL, -signal.SIGKILL)])
def test_workers_end_with_the_one_that_leads_and_the_same_command_goes_on(
    project: Project, model: Model, conn: psycopg.Connection, number: signal.Signals, code: int
) -> None:
    with at_work(project, model, conn, "upgrade --workers 3", workers=3) as (started, found):
        started[0].send_signal(number)
    ended(started[0], code)
    wait_until(lambda: not any(map(psutil.pid_exists, found)), "the workers to end")
    done = project.one("select sum(rows) from embedmig.ranges")
    assert 0 < done < ROWS
    project.run("upgrade", "--workers", "2")
    expect_the_sum_of_one(project, conn)
    assert len(model.asked) <= ROWS + (IN_FLIGHT if number is signal.SIGKILL else 0)


def test_without_ray_the_extra_is_named_and_nothing_is_touched(project: Project, model: Model) -> None:
    (project.folder / "ray.py").write_text("raise ImportError('hidden')")
    for command in (["upgrade"], ["backfill", "docs"]):
        done = project.run(*command, "--executor", "ray", expect=EXIT_USAGE)
        assert 'pip install "embedmig[ray]"' in done.stderr
    assert project.one("select to_regnamespace('embedmig')") is None


@pytest.mark.parametrize("capture", ['capture = "triggers"', 'capture = "watermark"\nchanged_at = "at"'])
def test_what_changes_in_a_finished_range_while_no_worker_is_there_is_not_missed(
    project: Project, conn: psycopg.Connection, capture: str
) -> None:
    fake = Fake().register()
    project.documents(100)
    conn.execute("alter table documents add at timestamptz default now()")
    project.configure(CONFIG, f"{capture}\n[backfill]\nrange_rows = 20\n")
    space_script(project)
    upgrade(project)
    assert fake.seen.total() == 100
    conn.execute(
        "update embedmig.ranges set done = false, position = null where id = (select max(id) from embedmig.ranges)"
    )
    conn.execute("update documents set body = 'meanwhile', at = now() where id in (5, 95)")
    embedmig.backfill(project.opened(), "docs", report=lambda _: None, stop=threading.Event())
    assert [(space.complete, space.rows) for space in spaces(project)] == [(100, 100)]
    assert fake.seen.total() == 102
