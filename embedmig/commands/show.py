"""show: one revision, what it would do and what has become of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from embedmig.commands.history import HistoryEntry, entry
from embedmig.commands.project import ProjectLike, opened
from embedmig.commands.status import attempt_line
from embedmig.database.ledger import Attempt, RecordedEstimate, ledger_exists
from embedmig.errors import EmbedmigError
from embedmig.revisions.scripts import Script
from embedmig.runner import step_of


@dataclass(frozen=True, slots=True)
class RevisionDetails:
    """A script with what it would do and what has become of it."""

    entry: HistoryEntry
    checksum: str
    source: str
    upgrade: list[str]
    downgrade: list[str] | None
    attempts: list[dict[str, Any]]


def show(project: ProjectLike, name: str) -> RevisionDetails:
    """One revision: its operations, its source and its attempts."""
    project = opened(project)
    script = project.readable_graph.resolve(name)
    if script.error:
        raise script.error
    attempts: list[dict[str, Any]] = []
    try:
        with project.looking() as (context, conn):
            if ledger_exists(conn, context.database.schema):
                known = context.ledger.recorded_estimates(conn, script.revision)
                attempts = [
                    attempt_line(attempt)
                    | {"same_script": _is_same(script, attempt)}
                    | {"backfills": [estimate_line(one) for one in known if one.attempt == attempt.id]}
                    for attempt in context.ledger.attempts(conn)
                    if attempt.revision in (script.revision, *script.replaces)
                ]
    except EmbedmigError:
        attempts = []  # the script is in its file
    ups = [operation.describe() for operation in step_of(script, "upgrade").operations]
    downs = None
    if hasattr(script.load(), "downgrade"):
        downs = [operation.describe() for operation in step_of(script, "downgrade").operations]
    return RevisionDetails(
        entry(script, project.readable_graph.heads(), None), script.checksum, script.source, ups, downs, attempts
    )


def _is_same(script: Script, attempt: Attempt) -> bool | None:
    """Whether the script, or one that it stands for, is what was run; None where nothing was."""
    if attempt.direction == "retire":
        return None
    return attempt.checksum in (script.checksum, *script.replaces.get(attempt.revision, ()))


def estimate_line(found: RecordedEstimate) -> dict[str, Any]:
    """What a backfill was expected to take, and what it took, as JSON shows it."""
    return {"position": found.position, "estimate": found.estimate, "truth": found.truth}
