"""Upgrade, downgrade, their dry runs, and stamp."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from embedmig.backfill import Alone, Crew
from embedmig.commands.project import Project, applied_heads, applied_revisions, ignore
from embedmig.db import Connection, scalar, translated
from embedmig.errors import PlanError
from embedmig.events import Event
from embedmig.graph import Graph
from embedmig.ledger import ledger_exists
from embedmig.operations.base import Plan, Site
from embedmig.runner import Runner, Step, plan_of, step_of, validate
from embedmig.scripts import Script
from embedmig.strategy import Advice, advise
from embedmig.types import Estimate, Space
from embedmig.workers import Executor, crew_of


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
    crew = crew_of(project.config, project.site(start=True).database, executor, workers)
    return _run(project, "upgrade", target, report, stop or threading.Event(), no_wait=no_wait, crew=crew)


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
    crew: Crew | None = None,
) -> Ran:
    began = time.monotonic()
    site, ran = project.site(start=True), [""]

    def steps(conn: Connection) -> list[Step]:
        found = _steps(project, conn, site, direction, target)
        ran[:] = [step.script.revision for step in found]
        return found

    Runner(site, report, stop, no_wait, crew or Alone()).run(steps)
    with translated("reading"), site.database.connect("read") as conn:
        current = list(applied_heads(project, site, conn))
    return Ran(direction, ran, current, time.monotonic() - began)


def _steps(project: Project, conn: Connection, site: Site, direction: Direction, target: str) -> list[Step]:
    applied = applied_revisions(site, conn)
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
    with project.looking() as (site, conn):
        steps = _steps(project, conn, site, direction, target)
        plan = plan_of(site, conn, offline=True)
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


def _planned(plan: Plan, operation: Any) -> PlannedOperation:
    statements = operation.sql(plan)
    if not isinstance(statements, str):
        statements = [statement.as_string(plan.conn) for statement in statements]
    return PlannedOperation(
        operation.kind, operation.describe(), operation.estimate(plan), statements, getattr(operation, "space", None)
    )


@dataclass(frozen=True, slots=True)
class Outlook:
    """A plan with its advice: seconds by the rate that was last measured with that model, None where there is none."""

    revisions: list[PlannedRevision]
    seconds: dict[str, float | None]
    advice: dict[str, Advice]


def plan(project: Project, target: str = "head") -> Outlook:
    """What an upgrade would take, and which strategy fits each collection that it embeds."""
    planned = dry_run(project, "upgrade", target)
    seconds: dict[str, float | None] = {}
    advice: dict[str, Advice] = {}
    with project.looking() as (site, conn):
        for revision in planned:
            for operation in revision.operations:
                if operation.kind == "backfill" and operation.space:
                    collection, rows = operation.space.collection, operation.estimate.rows or 0
                    seconds[collection] = _seconds(site, conn, operation.space, rows)
                    changes = _changes_per_second(site, conn, collection)
                    advice[collection] = advise(rows, seconds[collection], changes)
    return Outlook(planned, seconds, advice)


def _seconds(site: Site, conn: Connection, space: Space, rows: int) -> float | None:
    if not ledger_exists(conn, site.database.schema):
        return None
    rate = site.ledger.measured_rate(conn, site.registry.spaces_table, space.model)
    return rows / rate if rate else None


def _changes_per_second(site: Site, conn: Connection, collection: str) -> float | None:
    """Updates and deletes since PostgreSQL's statistics began; inserts are left out, for the load was inserts too."""
    query = """select (n_tup_upd + n_tup_del) / nullif(extract(epoch from now() - coalesce(
                 (select stats_reset from pg_stat_database where datname = current_database()), pg_postmaster_start_time())), 0)::float8
               from pg_stat_user_tables where relid = %s"""
    return scalar(conn, query, (site.source(conn, collection).oid,))  # type: ignore[no-any-return]


def stamp(project: Project, target: str) -> Ran:
    """Records the revisions up to ``target`` as applied, and those after it as not, without running them."""
    began, site = time.monotonic(), project.site(start=True)
    graph = project.graph
    wanted = set() if target == "base" else {script.revision for script in _lineage(graph, target)}

    def write(conn: Connection) -> None:
        applied = site.ledger.applied(conn)
        with conn.transaction():
            for script in reversed(graph.walk()):
                before, now = script.revision in applied, script.revision in wanted
                if now and applied.get(script.revision) != script.checksum:
                    site.ledger.stamp(conn, script.revision, "stamp", script.checksum)
                elif before and not now:
                    site.ledger.stamp(conn, script.revision, "unstamp", script.checksum)

    Runner(site, ignore, threading.Event()).run(lambda _: [], prepare=write)
    with site.database.connect("read") as conn:
        return Ran("stamp", sorted(wanted), list(applied_heads(project, site, conn)), time.monotonic() - began)


def _lineage(graph: Graph, target: str) -> list[Script]:
    targets = graph.heads() if target == "heads" else (graph.resolve(target).revision,)
    return [script for name in targets for script in (*graph.ancestors(name), graph.get(name))]
