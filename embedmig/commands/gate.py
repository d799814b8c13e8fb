"""gate: whether a version may be shown."""

from __future__ import annotations

from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.commands.spaces import find_space
from embedmig.operations.gate import Gate, evaluate, evaluate_evidence
from embedmig.runner import step_of
from embedmig.types import Verdict


def gate(project: ProjectLike, collection: str, version: str | None = None) -> list[Verdict]:
    """Evaluates the gate on a version as its script asks for it, else with ``[gates]``; changes nothing.

    Without a version: the newest space's.
    """
    project = opened(project)
    with project.looking() as (context, conn):
        record = find_space(project, context, conn, collection, version)
        asked = gate_of(project, collection, record.version)
        thresholds = asked.thresholds(context)
        found = evaluate(context, conn, record, thresholds)
        found += evaluate_evidence(context, conn, record, asked.evidence, thresholds.completeness)
        return found + asked.own_verdicts(conn)


def gate_of(project: Project, collection: str, version: str) -> Gate:
    """The newest script's gate on a version's way up; the defaults where no script has one."""
    for script in project.graph.walk():
        for operation in step_of(script, "upgrade").operations:
            if isinstance(operation, Gate) and (operation.collection, operation.version) == (collection, version):
                return operation
    return Gate(collection, version)
