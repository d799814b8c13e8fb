"""--dry-run and --sql: what upgrade or downgrade would do."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embedmig.commands.project import ProjectLike, opened
from embedmig.commands.running import Direction, steps_between
from embedmig.database import check_suitable
from embedmig.operations.base import PlannedState
from embedmig.runner import plan_of, validate
from embedmig.types import Estimate, Space


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


def dry_run(
    project: ProjectLike = None, direction: Direction = "upgrade", target: str = "head"
) -> list[PlannedRevision]:
    """Validates the plan against the database and says what it would take; changes nothing and calls no model."""
    project = opened(project)
    with project.looking() as (context, conn):
        check_suitable(conn)
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
