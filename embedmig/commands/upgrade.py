"""upgrade: applies revisions."""

from __future__ import annotations

import threading
from collections.abc import Callable

from embedmig.commands.project import ProjectLike, opened
from embedmig.commands.running import RunResult, run_to
from embedmig.engine.backfill import WorkerPool
from embedmig.events import Event
from embedmig.workers import Executor, pool_of


def upgrade(
    project: ProjectLike = None,
    target: str = "head",
    *,
    no_wait: bool = False,
    workers: int | None = None,
    executor: Executor = "processes",
    report: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
) -> RunResult:
    """Applies what lies between the applied heads and ``target``.

    ``no_wait`` does what is quick and leaves the embedding to workers: raises :class:`AnswerIsNo` while rows are left.
    ``workers`` of this machine or of a cluster (``executor``) share the backfill; None: as many as configured.
    ``report`` is called with every event; setting ``stop`` ends the run after the current batch: raises :class:`Interrupted`.
    """
    project = opened(project)
    config, database = project.config, project.context(start=True).database

    def pool() -> WorkerPool:
        return pool_of(config, database, executor, workers)

    return run_to(project, "upgrade", target, report, stop or threading.Event(), no_wait=no_wait, workers=pool)
