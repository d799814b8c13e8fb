"""A long run is held back by what its surroundings suffer, says why, and never counts time in which it was held."""

from __future__ import annotations

import io
import re
import signal
from datetime import UTC, datetime

import pytest
from rich.console import Console

import embedmig
from embedmig import Reader, embedders
from embedmig.commands.eta import eta
from embedmig.engine.outbox import TAKE, Changes
from embedmig.engine.throttle import LAG
from embedmig.report.live import Live as Screen
from embedmig.stores import open_manifest
from embedmig.testing import FakeEmbedder
from embedmig.types import Limits, Progress
from tests.fault_injection import Daemon
from tests.in_process import Fake, space_script, tag
from tests.project import CONFIG, Project
from tests.waiting import wait_until


@pytest.fixture
def busy(project: Project) -> Project:
    """Forty rows, a first revision that is not applied, and a table that says how the database is doing."""
    embedders.register("fake", lambda space, _: FakeEmbedder(space.dimensions, limits=Limits(5, 1)))
    project.documents(40)
    space_script(project)
    with project.connect() as conn:
        conn.execute("create table strain (lag float8); insert into strain values (99)")
    return project


@pytest.mark.parametrize(
    ("throttle", "why"),
    [
        ('pause_when = "select exists (select from strain)"', "pause_when is true"),
        ('replication_lag = "10s"', "a standby is 99 s behind, more than 10 s"),
    ],
)
def test_a_run_waits_while_the_database_suffers_and_says_why(
    busy: Project, monkeypatch: pytest.MonkeyPatch, throttle: str, why: str
) -> None:
    monkeypatch.setattr(
        "embedmig.engine.throttle.LAG", "select coalesce(max(lag), 0)::float8 from strain"
    )  # there is no standby here
    busy.configure(f"{CONFIG}\n[throttle]\n{throttle}\n")
    said: list[str] = []
    running = Daemon(lambda: embedmig.upgrade(busy.opened(), report=lambda event: said.append(str(event))))
    running.start(0)
    wait_until(lambda: any(why in text for text in said), "the run to say why it waits")
    assert busy.one("select rows_done from embedmig.embedding_migrations") == 0
    with busy.connect() as conn:
        conn.execute("delete from strain")
    running.join()
    assert busy.one("select count(*) from docs_embeddings") == 40


def test_the_lag_of_standbys_can_be_asked_of_a_real_server(busy: Project) -> None:
    assert busy.one(LAG) == 0


def test_held_time_counts_neither_for_the_speed_nor_for_what_is_left() -> None:
    shown = io.StringIO()
    now = [0.0]
    screen = Screen(Console(file=shown, width=200), clock=lambda: now[0])
    now[0] = 31.0
    screen(Progress("embedding", 1000, 3000, "rows", 0, None, 10.0, 0))  # of 31 seconds it was held for 21
    assert "1,000/3,000 rows · 33 % · 100 rows/s · 20 s left" in shown.getvalue()


def test_at_fifty_rows_a_second_speed_eta_ledger_plan_and_report_are_right(project: Project) -> None:
    embedders.register("fake", lambda space, _: FakeEmbedder(space.dimensions, limits=Limits(5, 1)))
    project.documents(100)
    space_script(project)
    embedmig.upgrade(project.opened())
    embedmig.throttle(project.opened(), 50, "docs")
    space_script(project, "0002", "0001", dimensions=16, old=tag(8))
    said: list[Progress] = []
    embedmig.upgrade(project.opened(), report=lambda event: said.append(event) if isinstance(event, Progress) else None)
    half = next(one for one in said if one.what == "embedding" and one.done >= 50 and one.total)
    last = [one for one in said if one.what == "embedding"][-1]
    assert last.done == 100
    assert last.rate <= 55  # the first five rows wait for nobody
    assert half.eta_seconds is not None
    assert half.eta_seconds >= (100 - half.done) / 56
    assert "throttled to 50 rows/s" in last.held_by
    (active, truth), = project.rows(
        """select active_seconds, truth from embedmig.embedding_migrations a join embedmig.embedding_operations o on o.attempt = a.id
           where a.revision = '0002' and truth is not null"""
    )  # fmt: skip
    assert active >= truth["seconds"] >= 95 / 50
    assert truth["working_seconds"] < truth["seconds"]
    space_script(project, "0003", "0002", dimensions=24, old=tag(16))
    (throttled,) = embedmig.plan(project.opened()).forecasts
    assert throttled.time.seconds == pytest.approx(100 / 50)
    assert "throttled to 50 rows/s" in throttled.time.known_by
    now = datetime.now(UTC)
    launch = eta(project.opened(), now).at
    assert launch is not None
    assert (launch - now).total_seconds() == pytest.approx(100 / 50)
    embedmig.throttle(project.opened(), None, "docs")
    (free,) = embedmig.plan(project.opened()).forecasts
    assert free.time.seconds == pytest.approx(truth["working_seconds"]), "the model's own speed"


def test_what_readers_found_is_embedded_first_and_the_cold_rest_after_it(project: Project) -> None:
    fake = Fake(options={"limits": Limits(5, 1)}).register()
    project.documents(40)
    space_script(project, dimensions=8)
    embedmig.upgrade(project.opened())
    space_script(project, "0002", "0001", dimensions=16, old=tag(8))
    script = next((project.folder / "migrations").glob("0002*.py"))
    script.write_text(script.read_text().replace("op.backfill(NEW)", 'op.backfill(NEW, order="hot")'))
    with pytest.raises(Exception, match="still to be embedded"):
        embedmig.upgrade(project.opened(), no_wait=True)
    with Reader(project.url, "docs", lazy=True) as reader:
        hot = {hit.key_text[0] for hit in reader.search("shock wave", 5)}
    embedmig.upgrade(project.opened())
    texts = dict(project.rows("select title || E'\\n\\n' || body, id::text from documents"))
    first = next(call for one in fake.made if one.dimensions == 16 for call in one.calls if call[0] in texts)
    assert {texts[text] for text in first} == hot


def test_an_outbox_of_a_million_entries_is_handed_out_in_bounded_transactions_and_settled(busy: Project) -> None:
    embedmig.upgrade(busy.opened())
    with busy.connect() as conn:
        conn.execute("delete from strain")
        conn.execute("insert into embedmig.outbox_docs select n % 20000 from generate_series(1, 1000000) n")
    context = busy.opened().context(start=True)
    with context.database.connect("test") as conn:
        record = context.registry.spaces(conn, "docs")[0]
        changes = Changes(context.registry, open_manifest(context.source(conn, "docs"), record))
        passes = 1
        while changes.distribute(conn):
            passes += 1
    assert passes == 1_000_000 // TAKE + 1
    assert busy.one("select count(*) from embedmig.pending_changes") == 20_000
    (synced,) = embedmig.sync(busy.opened(), "docs")
    assert (synced.waiting, synced.rows) == (0, 0)
    assert busy.one("select count(*) from docs_embeddings") == 40


def test_daemons_share_the_work_tell_their_health_and_stop_cleanly_when_told(project: Project) -> None:
    project.documents(60)
    project.two_spaces()
    project.run("upgrade", "0001")
    daemons = [project.start("sync", "--follow") for _ in range(2)]
    both = "select count(*) = 2 from pg_stat_activity where application_name like 'embedmig sync reader %'"
    wait_until(lambda: project.one(both), "both to have made a pass")
    waiting = "select (select count(*) from embedmig.outbox_docs) + (select count(*) from embedmig.pending_changes)"
    with project.connect() as conn:
        for edit in range(5):
            conn.execute("update documents set body = body || %s", (f" {edit}",))
    wait_until(lambda: project.one(waiting) == 0, "the daemons to take everything in")
    for daemon in daemons:
        daemon.send_signal(signal.SIGTERM)
    synced = 0
    for daemon in daemons:
        _, said = daemon.communicate()
        assert daemon.returncode == 0, said
        assert "stopped; what was claimed is finished" in said
        health = re.findall(r"synced ([\d,]+) rows, [\d,]+ wait", said)
        assert health, said
        synced += sum(int(rows.replace(",", "")) for rows in health)
    assert synced >= 60
    project.expect_exact()
