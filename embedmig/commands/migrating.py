"""Upgrade, downgrade, their dry runs, and stamp."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedmig.commands.project import Project, applied_heads, applied_revisions, ignore
from embedmig.database import Connection, translated
from embedmig.engine.backfill import NoWorkers, WorkerPool
from embedmig.errors import PlanError
from embedmig.events import Event
from embedmig.operations.base import Context, PlannedState
from embedmig.revisions.graph import Graph
from embedmig.revisions.scripts import Script
from embedmig.runner import Runner, Step, plan_of, step_of, validate
from embedmig.types import Estimate, Space
from embedmig.workers import Executor, pool_of


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run did: the revisions in order, the heads after it, and wall-clock seconds."""

    direction: str
    revisions: list[str]
    current: list[str]
    seconds: float


@dataclass(frozen=True, slots=True)
class PlannedOperation:
    """An operation of a dry run: what it is, what it would take, its statements or why there are none."""

    kind: str
    description: str
    estimate: Estimate
    sql: list[str] | str
    space: Space | None = None


@dataclass(frozen=True, slots=True)
class PlannedRevision:
    """A revision of a dry run."""

    revision: str
    message: str
    direction: str
    operations: list[PlannedOperation]


Direction = Literal["upgrade", "downgrade"]


def upgrade(
    project: Project,
    target: str = "head",
    *,
    no_wait: bool = False,
    workers: int | None = None,
    executor: Executor = "processes",
    report: Callable[[Event], None] = ignore,
    stop: threading.Event | None = None,
) -> Ran:
    """Applies what lies between the applied heads and ``target``.

    ``no_wait`` does what is quick and leaves the embedding to workers: raises :class:`AnswerIsNo` while rows are left.
    ``workers`` of this machine or of a cluster (``executor``) share the backfill; None: as many as configured.
    """
    context = project.context(start=True)

    def pool() -> WorkerPool:
        return pool_of(project.config, context.database, executor, workers)

    return _run(project, "upgrade", target, report, stop or threading.Event(), no_wait=no_wait, workers=pool)


def downgrade(
    project: Project, target: str, *, report: Callable[[Event], None] = ignore, stop: threading.Event | None = None
) -> Ran:
    """Takes back what was applied after ``target``."""
    return _run(project, "downgrade", target, report, stop or threading.Event())


def _run(
    project: Project,
    direction: Direction,
    target: str,
    report: Callable[[Event], None],
    stop: threading.Event,
    *,
    no_wait: bool = False,
    workers: Callable[[], WorkerPool] = NoWorkers,
) -> Ran:
    began = time.monotonic()
    context, ran = project.context(start=True), [""]

    def steps(conn: Connection) -> list[Step]:
        found = steps_between(project, conn, context, direction, target)
        ran[:] = [step.script.revision for step in found]
        return found

    Runner(context, report, stop, no_wait, workers).run(steps)
    with translated("reading"), context.database.connect("read") as conn:
        current = list(applied_heads(project, context, conn))
    return Ran(direction, ran, current, time.monotonic() - began)


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


def dry_run(project: Project, direction: Direction, target: str) -> list[PlannedRevision]:
    """Validates the plan against the database and says what it would take; changes nothing and calls no model."""
    with project.looking() as (context, conn):
        steps = steps_between(project, conn, context, direction, target)
        plan = plan_of(context, conn, offline=True)
        planned = []
        for step in steps:
            validate(plan, [step])
            planned.append(
                PlannedRevision(
                    step.script.revision,
                    step.script.message,
                    step.direction,
                    [_planned(plan, op) for op in step.operations],
                )
            )
        return planned


def _planned(plan: PlannedState, operation: Any) -> PlannedOperation:
    statements = operation.sql(plan)
    if not isinstance(statements, str):
        statements = [statement.as_string(plan.conn) for statement in statements]
    return PlannedOperation(
        operation.kind, operation.describe(), operation.estimate(plan), statements, getattr(operation, "space", None)
    )


def stamp(project: Project, target: str) -> Ran:
    """Records the revisions up to ``target`` as applied, and those after it as not, without running them."""
    began, context = time.monotonic(), project.context(start=True)
    graph = project.graph
    wanted = set() if target == "base" else {script.revision for script in _lineage(graph, target)}

    def write(conn: Connection) -> None:
        applied = context.ledger.applied(conn)
        with conn.transaction():
            for script in reversed(graph.walk()):
                before, now = script.revision in applied, script.revision in wanted
                if now and applied.get(script.revision) != script.checksum:
                    context.ledger.stamp(conn, script.revision, "stamp", script.checksum)
                elif before and not now:
                    context.ledger.stamp(conn, script.revision, "unstamp", script.checksum)

    Runner(context, ignore, threading.Event()).run(lambda _: [], prepare=write)
    with context.database.connect("read") as conn:
        return Ran("stamp", sorted(wanted), list(applied_heads(project, context, conn)), time.monotonic() - began)


def _lineage(graph: Graph, target: str) -> list[Script]:
    targets = graph.heads() if target == "heads" else (graph.resolve(target).revision,)
    return [script for name in targets for script in (*graph.ancestors(name), graph.get(name))]
