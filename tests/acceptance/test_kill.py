"""Kill it at any moment, run the same command again: nothing is lost, doubled, or paid for twice."""

from __future__ import annotations

import random
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
import pytest

from embedmig.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_LOCKED
from tests.model import Model
from tests.project import CONFIG, Project
from tests.waiting import read_until, wait_until

pytestmark = pytest.mark.one_server

BARRIER = """
create function hold_here() returns trigger language plpgsql set lock_timeout = 0 as $$
begin
  perform pg_advisory_xact_lock_shared(tg_argv[0]::int, (to_jsonb(new) ->> tg_argv[1])::int);
  return new;
end $$;
create trigger at_begin before insert on embedmig.embedding_operations
  for each row execute function hold_here(1, 'position');
create trigger at_end before update on embedmig.embedding_operations
  for each row when (new.finished_at is not null) execute function hold_here(2, 'position');
create trigger at_close before update on embedmig.embedding_migrations
  for each row when (new.status = 'done') execute function hold_here(3, 'rows_done');
"""
"""Where the test holds the advisory lock (kind, number), the run stops: as an operation is journalled as begun or as
done (a transactional one inside its transaction), and as the attempt is closed."""


@pytest.fixture
def model(project: Project) -> Model:
    """120 documents, one revision, and a model that is watched."""
    project.documents(120)
    return Model(project)


def vectors(project: Project, schema: str) -> str:
    """The table that the one space of a schema is in."""
    return str(project.one(f"select format('%I.%I', table_schema, table_name) from {schema}.spaces"))


def count(project: Project) -> int:
    return int(project.one(f"select count(*) from {vectors(project, 'embedmig')}"))


def differences_from_an_undisturbed_run(project: Project) -> int:
    """Rows that differ in key, hash or vector from what a calm run of the same script puts into another schema."""
    calm = CONFIG.replace("[embedmig]", '[embedmig]\nschema = "calm"').replace("docs_embeddings", "calm_embeddings")
    project.configure(calm)
    project.run("upgrade", "head")
    return int(
        project.one(
            f"""select count(*) from {vectors(project, "embedmig")} a full join {vectors(project, "calm")} b using (id, chunk)
                where a.version is distinct from b.version or a.content_hash is distinct from b.content_hash
                   or (a.embedding <-> b.embedding) is null or (a.embedding <-> b.embedding) > 1e-6"""
        )
    )


@contextmanager
def barrier(conn: psycopg.Connection, kind: int, number: int) -> Iterator[None]:
    conn.execute("select pg_advisory_lock(%s, %s)", (kind, number))
    yield
    conn.execute("select pg_advisory_unlock(%s, %s)", (kind, number))


def waits_at(conn: psycopg.Connection, kind: int, number: int) -> bool:
    query = """select exists (select from pg_locks where locktype = 'advisory' and not granted
               and database = (select oid from pg_database where datname = current_database())
               and classid = %s::bigint::oid and objid = %s::bigint::oid)"""
    return bool(conn.execute(query, (kind, number)).fetchone()[0])


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL


def end_backends(conn: psycopg.Connection, process: subprocess.Popen[str]) -> None:
    """The server notices at once that the client is dead, so that a statement in hand can't commit afterwards."""
    query = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like %s"
    conn.execute(query, (f"embedmig %:{process.pid}",))


def gone(conn: psycopg.Connection, process: subprocess.Popen[str]) -> bool:
    """Whether the server has noticed that a process died: no backend of its is left."""
    query = "select not exists (select from pg_stat_activity where application_name like %s)"
    return bool(conn.execute(query, (f"embedmig %:{process.pid}",)).fetchone()[0])


def test_killed_at_every_operation_boundary_it_goes_on_and_embeds_nothing_twice(
    project: Project, model: Model, conn: psycopg.Connection
) -> None:
    project.run("stamp", "base")
    conn.execute(BARRIER)
    points = [(kind, position) for position in range(5) for kind in (1, 2)] + [(3, 0)]
    for kind, position in points:
        with barrier(conn, kind, position):
            process = project.start("upgrade", "head")
            wait_until(lambda: waits_at(conn, kind, position), f"the barrier {kind, position}", of=process)  # noqa: B023
            kill(process)
            end_backends(conn, process)
            wait_until(lambda: gone(conn, process), "the dead run's connections")  # noqa: B023
    project.run("upgrade", "head")

    assert sorted(model.asked) == sorted(set(model.asked))
    assert len(model.asked) == count(project) == 120
    attempts = conn.execute("select status, count(*) from embedmig.embedding_migrations group by 1").fetchall()
    assert dict(attempts) == {"interrupted": len(points), "done": 1}
    assert differences_from_an_undisturbed_run(project) == 0


def test_killed_ten_times_in_a_backfill_it_sends_no_more_than_the_rows_and_what_was_in_flight(
    project: Project, conn: psycopg.Connection
) -> None:
    project.documents(800)
    model, moments = Model(project, pause=0.003), random.Random(2)
    lost = 0
    for _ in range(10):
        before, further = len(model.asked), moments.randint(1, 60)
        process = project.start("upgrade", "head")
        wait_until(lambda: len(model.asked) >= before + further, "the model to be asked", of=process)  # noqa: B023
        kill(process)
        wait_until(lambda: gone(conn, process), "the dead run's connections")  # noqa: B023
        in_flight = len(model.asked) - lost - count(project)
        # One batch at the model, one waiting for room, two in the queue, and as many in the writer's hand.
        assert 0 <= in_flight <= 8 * model.batch_size
        lost += in_flight
    assert count(project) < 800, "the backfill was over before the last kill"
    project.run("upgrade", "head")

    assert count(project) == 800
    assert len(model.asked) <= 800 + lost
    assert differences_from_an_undisturbed_run(project) == 0


def test_of_two_runners_one_works_and_the_other_exits_4_at_once_naming_who_holds_the_lock(
    project: Project, model: Model
) -> None:
    with model.held():
        first = project.start("upgrade", "head")
        wait_until(lambda: model.asked, "the first run to embed", of=first)
        second = project.run("upgrade", "head", expect=EXIT_LOCKED)
        assert f":{first.pid} " in second.stderr
        assert "hint:" in second.stderr
        document = project.json("downgrade", "base", expect=EXIT_LOCKED)
        assert document["error"]["type"] == "LockHeld"
    first.communicate()
    assert first.returncode == 0
    assert len(model.asked) == count(project) == 120


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_ctrl_c_finishes_the_batch_in_hand_and_the_same_command_goes_on(
    project: Project, model: Model, number: signal.Signals
) -> None:
    with model.held():
        process = project.start("upgrade", "head")
        wait_until(lambda: model.asked, "the model to be asked", of=process)
        process.send_signal(number)
        read_until(process, "stopping after the current batch")
    _, said = process.communicate()
    assert process.returncode == EXIT_INTERRUPTED, said
    assert "hint: run the same command again" in said
    assert "Traceback" not in said
    assert 0 < count(project) == len(model.asked) < 120
    assert project.one("select status from embedmig.embedding_migrations") == "interrupted"

    project.run("upgrade", "head")
    assert len(model.asked) == count(project) == 120


def test_the_second_ctrl_c_ends_at_once_though_the_model_never_answers(project: Project, model: Model) -> None:
    with model.held():
        process = project.start("upgrade", "head")
        wait_until(lambda: model.asked, "the model to be asked", of=process)
        process.send_signal(signal.SIGINT)
        read_until(process, "stopping after the current batch")
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    assert process.returncode == EXIT_INTERRUPTED
    assert "run the same command again" in said
    assert "Traceback" not in said
    project.run("upgrade", "head")
    assert count(project) == 120
    assert len(model.asked) <= 120 + 8 * model.batch_size


def test_a_run_whose_lock_is_lost_ends_at_once_though_the_model_never_answers(
    project: Project, model: Model, conn: psycopg.Connection
) -> None:
    with model.held():
        process = project.start("upgrade", "head")
        wait_until(lambda: model.asked, "the model to be asked", of=process)
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity where datname = current_database() and application_name like 'embedmig lock%'"
        )
        _, said = process.communicate(timeout=20)
    assert process.returncode == EXIT_FAILED
    assert "the run lock was lost" in said
    assert count(project) == 0
    project.run("upgrade", "head")
    assert count(project) == 120
