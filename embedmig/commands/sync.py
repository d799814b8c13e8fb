"""sync: takes captured changes into the spaces."""

from __future__ import annotations

import threading
from collections.abc import Callable

from psycopg import sql

from embedmig.commands.project import ProjectLike, opened
from embedmig.engine import rescan
from embedmig.engine.follower import POLL_SECONDS, Follower
from embedmig.engine.sync import Synced
from embedmig.errors import DatabaseInterrupted, DatabaseUnavailable

NUDGE = "embedmig_sync"


def sync(
    project: ProjectLike = None,
    collection: str | None = None,
    *,
    repair: bool = False,
    retry_failed: bool = False,
    stop: threading.Event | None = None,
) -> list[Synced]:
    """Takes the changes that wait now into every live space; one collection, or all of them."""
    project = opened(project)
    halt = stop or threading.Event()
    with project.working() as (context, conn):
        found: list[Synced] = []
        for name in project.collections(collection):
            if repair:
                rescan.repair(conn, context.registry, context.source(conn, name))
            if retry_failed:
                for record in context.registry.spaces(conn, name):
                    context.registry.retry_failed(conn, record.id)
            found += context.sync(conn, name, halt).once()
        return found


def follow(
    project: ProjectLike = None,
    collection: str | None = None,
    *,
    report: Callable[[list[Synced]], None] | None = None,
    stop: threading.Event | None = None,
    seconds: float = POLL_SECONDS,
) -> None:
    """Syncs until told to stop; several may run at once. Wakes when nudged by NOTIFY, and every second anyway: a
    trigger that notified would make all writers commit one after another.

    A database that goes away is waited for, longer each time.
    """
    project = opened(project)
    halt, patience = stop or threading.Event(), seconds
    with Follower() as follower:
        while not halt.is_set():
            try:
                with project.working() as (context, conn):
                    conn.execute(sql.SQL("listen {}").format(sql.Identifier(NUDGE)))
                    while not halt.is_set():
                        for name in project.collections(collection):
                            done = follower.collect()
                            if report:
                                report(done)
                            follower.begin(context.sync(conn, name, halt))
                        patience = seconds
                        for _ in conn.notifies(timeout=seconds, stop_after=1):
                            pass
            except (DatabaseInterrupted, DatabaseUnavailable):
                halt.wait(patience)
                patience = min(patience * 2, 60.0)
