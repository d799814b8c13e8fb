"""sync: takes captured changes into the spaces."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

from psycopg import sql

from embedmig.commands.project import ProjectLike, opened
from embedmig.database import Connection, translated
from embedmig.engine import rescan
from embedmig.engine.follower import POLL_SECONDS, Follower
from embedmig.engine.sync import KeptConnections, Sync, Synced
from embedmig.errors import EXIT_USAGE, DatabaseInterrupted, DatabaseUnavailable, EmbedmigError
from embedmig.events import Event, Notice
from embedmig.operations.base import Context

NUDGE = "embedmig_sync"


def sync(
    project: ProjectLike = None,
    collection: str | None = None,
    *,
    repair: bool = False,
    retry_failed: bool = False,
    report: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
) -> list[Synced]:
    """Takes the changes that wait now into every live space; one collection, or all of them. ``report`` hears at once why it
    waits: because the collection is paused, or throttled.

    Of several collections, one that can't be looked at is in the result with its error, and the others are done; so is one
    that the configuration no longer names.
    """
    project = opened(project)
    halt = stop or threading.Event()
    with project.working() as (context, conn):
        names, found = project.collections(collection), list[Synced]()
        for name in names:
            try:
                with translated(f"syncing {name}"):
                    if repair:
                        rescan.repair(conn, context.registry, context.source(conn, name))
                    if retry_failed:
                        for record in context.registry.spaces(conn, name):
                            context.registry.retry_failed(conn, record.id)
                    found += context.sync(conn, name, halt, report).once()
            except EmbedmigError as failure:
                if len(names) == 1 or conn.closed:
                    raise
                found.append(Synced.failed_with(name, "", failure))
        if collection is None:
            found += [
                Synced(one.collection, "", 0, 0, 0, 0.0, one.in_words, EXIT_USAGE, one.command)
                for one in context.undeclared(conn)
            ]
        return found


def follow(
    project: ProjectLike = None,
    collection: str | None = None,
    *,
    report: Callable[[list[Synced]], None] | None = None,
    events: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
    seconds: float = POLL_SECONDS,
) -> None:
    """Syncs until told to stop; several may run at once. Wakes when nudged by NOTIFY, and every second anyway: a
    trigger that notified would make all writers commit one after another.

    ``report`` hears what passes did, ``events`` why one waits. A database that goes away is waited for, longer each time; a
    collection whose table is not as it should be is told of and tried again, and the others go on.
    """
    project = opened(project)
    halt, patience = stop or threading.Event(), seconds
    heard = unrepeated(events) if events else None
    database = project.context(start=True).database
    follower = Follower()
    with closing(KeptConnections(database)) as kept, follower:
        while not halt.is_set():
            try:
                with project.working() as (context, conn):
                    conn.execute(sql.SQL("listen {}").format(sql.Identifier(NUDGE)))
                    if heard and collection is None:
                        for one in context.undeclared(conn):
                            heard(Notice(f"{one.in_words}; {one.command}"))
                    while not halt.is_set():
                        for name in project.collections(collection):

                            def passes(context: Context = context, conn: Connection = conn, name: str = name) -> Sync:
                                return replace(context.sync(conn, name, halt, heard), connect=kept)

                            follower.begin_collection(name, conn, passes)
                        done = follower.collect()
                        if report:
                            report(done)
                        patience = seconds
                        for _ in conn.notifies(timeout=seconds, stop_after=1):
                            pass
            except (DatabaseInterrupted, DatabaseUnavailable):
                halt.wait(patience)
                patience = min(patience * 2, 60.0)
    if report:
        report(follower.collect())  # what was under way


def unrepeated(report: Callable[[Event], None], seconds: float = 30.0) -> Callable[[Event], None]:
    """Passes on what was not said within the last ``seconds``: every pass of a throttled collection says that it is."""
    said: dict[str, float] = {}

    def hear(event: Event) -> None:
        text, now = str(event), time.monotonic()
        if now - said.get(text, float("-inf")) >= seconds:
            said[text] = now
            report(event)

    return hear
