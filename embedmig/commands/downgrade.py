"""downgrade: takes revisions back."""

from __future__ import annotations

import threading
from collections.abc import Callable

from embedmig.commands.project import ProjectLike, opened
from embedmig.commands.running import RunResult, run_to
from embedmig.events import Event


def downgrade(
    project: ProjectLike,
    target: str,
    *,
    report: Callable[[Event], None] | None = None,
    stop: threading.Event | None = None,
) -> RunResult:
    """Takes back what was applied after ``target``. ``report`` and ``stop`` are as for :func:`upgrade`."""
    project = opened(project)
    return run_to(project, "downgrade", target, report, stop or threading.Event())
