"""sync: takes captured changes into the spaces."""

from __future__ import annotations

import threading
from collections.abc import Callable

from psycopg import sql

from embedmig.commands.project import ProjectLike, opened
from embedmig.database import Connection, retry_transient
from embedmig.engine.follower import POLL_SECONDS, Follower
from embedmig.engine.sync import Synced, reconcile
from embedmig.errors import DatabaseInterrupted, DatabaseUnavailable
from embedmig.operations.base import Context
from embedmig.source import capture
from embedmig.stores import check_keys, open_manifest

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
                _repair(context, conn, name)
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


def _repair(context: Context, conn: Connection, collection: str) -> None:
    """For a time without triggers: they are made again, then every row is compared."""
    source = context.source(conn, collection)
    spaces = [
        record
        for record in context.registry.spaces(conn, collection)
        if record.state != "retired" and not record.adopted
    ]
    if not spaces:
        return

    def install() -> None:
        with conn.transaction():
            conn.execute("set local lock_timeout = '500ms'")
            check_keys(conn, context.registry, source)
            capture.install(conn, context.registry, source, [column.name for column in source.text])

    retry_transient(install)
    for record in spaces:
        if not record.adopted:  # which text adopted vectors were made from is unknown: nothing there is called stale
            reconcile(conn, context.registry, open_manifest(source, record))
