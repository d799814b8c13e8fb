"""pause, resume and throttle: how fast running backfills and syncs may be."""

from __future__ import annotations

from collections.abc import Callable

from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.database import whoami
from embedmig.engine.throttle import Control, control, set_control
from embedmig.errors import UsageError


def pause(project: ProjectLike = None, collection: str | None = None, reason: str = "") -> list[str]:
    """Running backfills and syncs stop within a batch; :func:`resume` continues them. Returns the collections."""
    project = opened(project)
    return _set(project, collection, lambda old: Control(True, old.rows_per_second, reason, whoami()))


def resume(project: ProjectLike = None, collection: str | None = None) -> list[str]:
    """Continues what :func:`pause` stopped. Returns the collections."""
    project = opened(project)
    return _set(project, collection, lambda old: Control(False, old.rows_per_second, "", whoami()))


def throttle(
    project: ProjectLike, rows_per_second: float | None, collection: str | None = None, reason: str = ""
) -> list[str]:
    """Limits running backfills and syncs to a speed; None removes the limit. Returns the collections."""
    project = opened(project)
    if rows_per_second is not None and rows_per_second <= 0:
        raise UsageError(f"{rows_per_second:g} rows/s is not above 0", hint="embedmig pause")
    return _set(project, collection, lambda old: Control(old.paused, rows_per_second, reason, whoami()))


def _set(project: Project, collection: str | None, change: Callable[[Control], Control]) -> list[str]:
    names = project.collections(collection)
    with project.working() as (context, conn):
        for name in names:
            set_control(conn, context.registry, name, change(control(conn, context.registry, name)))
    return names
