"""backfill: helps to fill a space."""

from __future__ import annotations

import threading
from collections.abc import Callable

from embedmig.commands.project import ProjectLike, ignore, opened
from embedmig.database import schema
from embedmig.engine.context import RunContext
from embedmig.errors import UnknownTarget
from embedmig.events import Event
from embedmig.operations.backfill import fence_of_joined, fill
from embedmig.types import Tally
from embedmig.workers import Executor, pool_of


def backfill(
    project: ProjectLike,
    collection: str,
    version: str | None = None,
    *,
    workers: int | None = None,
    executor: Executor = "processes",
    report: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
) -> Tally:
    """Helps to fill a space: beside a running upgrade, beside others like it, or alone, where ``upgrade --no-wait`` left
    that to a worker. Takes no lock: ranges are claimed. It ends when all of them are finished, whoever finished them.
    """
    project = opened(project)
    pool = pool_of(project.config, project.context(start=True).database, executor, workers)
    with project.working() as (context, conn):
        schema.require_current(conn, context.database.schema)
        live = [r for r in context.registry.spaces(conn, collection) if not r.adopted and r.live]
        record = next((r for r in reversed(live) if version in (None, r.version)), None)
        if record is None:
            raise UnknownTarget(
                f"collection {collection!r} has no space {version or ''}".rstrip(), hint="embedmig status"
            )
        run = RunContext(report or ignore, stop or threading.Event(), fence=fence_of_joined(context, record))
        return fill(context, conn, record, run, "hot", pool)
