"""history: every revision."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from embedmig.commands.project import ProjectLike, applied_revisions, opened
from embedmig.errors import EmbedmigError
from embedmig.revisions.scripts import Script


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


def history(project: ProjectLike = None) -> list[HistoryEntry]:
    """Every revision, newest first. Reads files alone, unless the database is at hand to say what is applied."""
    project = opened(project)
    heads = project.graph.heads()
    try:
        with project.looking() as (context, conn):
            applied: dict[str, str] | None = applied_revisions(context, conn)
    except EmbedmigError:
        applied = None  # the history is in the files
    return [entry(script, heads, applied) for script in project.graph.walk()]


def entry(script: Script, heads: tuple[str, ...], applied: dict[str, str] | None) -> HistoryEntry:
    return HistoryEntry(
        script.revision, list(script.down_revisions), script.message, script.path.name, script.create_date, list(script.labels),
        script.revision in heads, None if applied is None else script.revision in applied,
    )  # fmt: skip
