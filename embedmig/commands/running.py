"""What upgrade and downgrade share: which steps lie between two revisions, and running them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from embedmig.commands.project import Project, applied_heads, applied_revisions, ignore
from embedmig.database import Connection, translated
from embedmig.engine.backfill import NoWorkers, WorkerPool
from embedmig.errors import PlanError
from embedmig.events import Event
from embedmig.operations.base import Context
from embedmig.revisions.scripts import Script
from embedmig.runner import Runner, Step, step_of

Direction = Literal["upgrade", "downgrade"]


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run did: the revisions in order, the heads after it, and wall-clock seconds."""

    direction: str
    revisions: list[str]
    current: list[str]
    seconds: float


def run_to(
    project: Project,
    direction: Direction,
    target: str,
    report: Callable[[Event], None] | None,
    stop: threading.Event,
    *,
    no_wait: bool = False,
    workers: Callable[[], WorkerPool] = NoWorkers,
) -> RunResult:
    """Runs what lies between the applied heads and ``target``, under the run lock."""
    began, context = time.monotonic(), project.context(start=True)
    ran: list[str] = []

    def steps(conn: Connection) -> list[Step]:
        found = steps_between(project, conn, context, direction, target)
        ran[:] = [step.script.revision for step in found]
        return found

    Runner(context, report or ignore, stop, no_wait, workers).run(steps)
    with translated("reading"), context.database.connect("read") as conn:
        current = list(applied_heads(project, context, conn))
    return RunResult(direction, ran, current, time.monotonic() - began)


def steps_between(
    project: Project, conn: Connection, context: Context, direction: Direction, target: str
) -> list[Step]:
    """What a command to ``target`` would run, in order."""
    applied = applied_revisions(context, conn)
    heads = project.graph.applied_heads(applied)
    if direction == "upgrade":
        return [step_of(script, "upgrade") for script in project.graph.upgrade_plan(heads, target)]
    scripts = project.graph.downgrade_plan(heads, target)
    refuse_edited(scripts, applied)
    return [step_of(script, "downgrade") for script in scripts]


def refuse_edited(scripts: list[Script], applied: Mapping[str, str]) -> None:
    """What is taken back must be what was applied. Raises :class:`PlanError`."""
    for script in scripts:
        if applied.get(script.revision) not in (None, script.checksum):
            raise PlanError(
                f"{script.path.name} was edited after it was applied, so its downgrade() may not fit what was done",
                hint=f"restore the file as it was reviewed, or record the new one: embedmig stamp {script.revision}",
            )
