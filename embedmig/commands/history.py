"""Looking at revisions: history, heads, current, show; and check, which finds fault with them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from embedmig.commands.project import Project, applied_heads, applied_revisions
from embedmig.commands.status import attempt_line
from embedmig.database.ledger import RecordedEstimate, ledger_exists
from embedmig.errors import EmbedmigError
from embedmig.lint import Finding, findings
from embedmig.lint.reading import read
from embedmig.revisions.scripts import Script
from embedmig.runner import step_of


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A revision as ``history`` lists it; ``applied`` is None where the database was not asked."""

    revision: str
    down_revisions: list[str]
    message: str
    path: str
    create_date: datetime | None
    labels: list[str]
    head: bool
    applied: bool | None = None


def history(project: Project) -> list[HistoryEntry]:
    """Every revision, newest first. Reads files alone, unless the database is at hand to say what is applied."""
    heads = project.graph.heads()
    try:
        with project.looking() as (context, conn):
            applied: dict[str, str] | None = applied_revisions(context, conn)
    except EmbedmigError:
        applied = None  # the history is in the files
    return [_entry(script, heads, applied) for script in project.graph.walk()]


def _entry(script: Script, heads: tuple[str, ...], applied: dict[str, str] | None) -> HistoryEntry:
    return HistoryEntry(
        script.revision, list(script.down_revisions), script.message, script.path.name, script.create_date, list(script.labels),
        script.revision in heads, None if applied is None else script.revision in applied,
    )  # fmt: skip


def heads(project: Project) -> list[HistoryEntry]:
    """The revisions that nothing builds on."""
    return [_entry(project.graph.get(name), project.graph.heads(), None) for name in project.graph.heads()]


def current(project: Project) -> list[str]:
    """The applied heads."""
    with project.looking() as (context, conn):
        return list(applied_heads(project, context, conn))


@dataclass(frozen=True, slots=True)
class Shown:
    """A script with what it would do and what has become of it."""

    entry: HistoryEntry
    checksum: str
    source: str
    upgrade: list[str]
    downgrade: list[str] | None
    attempts: list[dict[str, Any]]


def show(project: Project, name: str) -> Shown:
    """One revision: its operations, its source and its attempts."""
    script = project.graph.resolve(name)
    attempts: list[dict[str, Any]] = []
    try:
        with project.looking() as (context, conn):
            if ledger_exists(conn, context.database.schema):
                known = context.ledger.recorded_estimates(conn, script.revision)
                attempts = [
                    attempt_line(attempt)
                    | {"backfills": [estimate_line(one) for one in known if one.attempt == attempt.id]}
                    for attempt in context.ledger.attempts(conn)
                    if attempt.revision == script.revision
                ]
    except EmbedmigError:
        attempts = []  # the script is in its file
    ups = [operation.describe() for operation in step_of(script, "upgrade").operations]
    downs = None
    if hasattr(script.load(), "downgrade"):
        downs = [operation.describe() for operation in step_of(script, "downgrade").operations]
    return Shown(_entry(script, project.graph.heads(), None), script.checksum, script.source, ups, downs, attempts)


def estimate_line(found: RecordedEstimate) -> dict[str, Any]:
    """What a backfill was expected to take, and what it took, as JSON shows it."""
    return {"position": found.position, "estimate": found.estimate, "truth": found.truth}


def check(project: Project, *, offline: bool = False) -> list[Finding]:
    """For CI: every rule of :mod:`embedmig.lint` that the configuration selects; ``offline`` asks no database."""
    applied = None
    if not offline:
        with project.looking() as (context, conn):
            applied = applied_revisions(context, conn)
    return findings(read(project.config, lambda: project.graph, applied), project.config.check)
