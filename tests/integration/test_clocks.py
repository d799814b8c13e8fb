"""A machine whose clock is an hour off: whatever is kept, and whatever is judged, goes by the database's clock."""

from __future__ import annotations

import datetime as dt
import sys
import time

import psycopg
import pytest

import embedmig
from embedmig import AnswerIsNo, Reader, Verdict
from embedmig.errors import GateClosed
from tests.in_process import Fake, space_script, spaces, tag, upgrade
from tests.project import CONFIG, Project

HALF_AN_HOUR = dt.timedelta(minutes=30)
KEPT = """select format('%I.%I', table_name, column_name) from information_schema.columns
          where table_schema = 'embedmig' and data_type = 'timestamp with time zone'"""


@pytest.fixture(params=[1, -1], ids=["ahead", "behind"])
def hours_off(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    """The clock of this process, for everything of embedmig."""
    hours: int = request.param
    true_time = time.time
    monkeypatch.setattr(time, "time", lambda: true_time() + hours * 3600)

    class Clock(dt.datetime):
        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> dt.datetime:  # type: ignore[override]
            return dt.datetime.now(tz) + dt.timedelta(hours=hours)

    for name, module in [*sys.modules.items()]:
        if name.startswith("embedmig.") and getattr(module, "datetime", None) is dt.datetime:
            monkeypatch.setattr(module, "datetime", Clock)
    return hours


def test_with_a_clock_an_hour_off_gates_retirement_freshness_and_history_are_right(
    project: Project, conn: psycopg.Connection, hours_off: int
) -> None:
    began = now(conn)
    Fake().register()
    project.configure(CONFIG, '\n[gates]\nfreshness = "30m"\n')
    project.documents(6)
    space_script(project)
    upgrade(project)

    gated(project, soak="30m", not_before=began + hours_off * HALF_AN_HOUR)
    with pytest.raises(GateClosed):
        upgrade(project)
    closed = {verdict.name for verdict in verdicts(project) if not verdict.passed}
    assert closed == ({"soak", "not_before"} if hours_off > 0 else {"soak"})
    launch = embedmig.gather_report(project.opened()).eta.at
    assert launch is not None
    assert began + HALF_AN_HOUR <= launch <= now(conn) + HALF_AN_HOUR
    gated(project, soak="0s", not_before=began - HALF_AN_HOUR)
    upgrade(project)

    conn.execute("update documents set body = 'edited' where id = 1")
    waits = next(space for space in spaces(project) if space.version == tag(16))
    assert waits.oldest_pending_seconds is not None
    assert 0 <= waits.oldest_pending_seconds < 1800
    assert {verdict.passed for verdict in verdicts(project) if verdict.name in ("freshness", "soak", "not_before")} == {
        True
    }
    embedmig.sync(project.opened(), "docs")

    keep_evidence(project)
    embedmig.pause(project.opened(), "docs", "month end")
    with pytest.raises(AnswerIsNo, match=r"retained for 0\.0 days, not for 30m"):
        embedmig.retire(project.opened(), "docs", tag(8), after="30m", confirm=tag(8))
    assert embedmig.retire(project.opened(), "docs", tag(8), after="0s", confirm=tag(8))
    assert all(began <= one.started_at <= now(conn) for one in embedmig.gather_report(project.opened()).attempts)
    expect_times_of_the_database(conn, began)


def now(conn: psycopg.Connection) -> dt.datetime:
    row = conn.execute("select clock_timestamp()").fetchone()
    assert row is not None
    moment: dt.datetime = row[0]
    return moment


def gated(project: Project, *, soak: str, not_before: dt.datetime) -> None:
    """The second version's script, with a gate that asks the calendar."""
    space_script(project, "0002", "0001", old=tag(8), dimensions=16)
    path = project.migrations / "0002_space.py"
    calendar = f'completeness=0.995, soak="{soak}", not_before="{not_before.isoformat()}")'
    path.write_text(path.read_text().replace("completeness=0.995)", calendar, 1))


def verdicts(project: Project) -> list[Verdict]:
    return embedmig.gate(project.opened(), "docs", tag(16))


def keep_evidence(project: Project) -> None:
    """An evaluation and a shadow read: they are kept with the time at which they were made."""
    golden = project.folder / "golden.yaml"
    golden.write_text("- query: wave\n  relevant: [1]\n")
    embedmig.evaluate(project.opened(), "docs", golden_set=golden)
    with Reader(project.url, "docs", shadow=tag(8), rate=1.0) as reader:
        reader.search("wave", 3)


def expect_times_of_the_database(conn: psycopg.Connection, began: dt.datetime) -> None:
    """Of everything that was written down; leases and pauses end a little later than now."""
    seen = set()
    for (place,) in conn.execute(KEPT).fetchall():
        table, column = place.split(".")
        query = f"""select count(*), count(*) filter (where {column} not between %s and clock_timestamp() + interval '10 min')
                    from embedmig.{table} where isfinite({column})"""
        rows, strange = conn.execute(query, (began,)).fetchone() or (0, 0)  # type: ignore[arg-type]
        assert strange == 0, f"{strange} of {rows} rows of {place} are not of the time of this test"
        seen |= {table} if rows else set()
    assert seen >= {
        "embedding_migrations",
        "embedding_operations",
        "spaces",
        "aliases",
        "captures",
        "controls",
        "evals",
        "shadow_reads",
    }
