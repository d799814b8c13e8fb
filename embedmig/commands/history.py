"""history: every revision."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from embedmig.commands.project import ProjectLike, opened, progress_of
from embedmig.errors import EmbedmigError
from embedmig.revisions.progress import Progress
from embedmig.revisions.scripts import Script


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """A revision as ``history`` lists it; ``applied`` and ``state`` are None where the database was not asked.

    ``error`` says why the script can't be used; one whose revision can't be read either has ``?`` in its place.
    """

    revision: str
    down_revisions: list[str]
    message: str
    path: str
    create_date: datetime | None
    labels: list[str]
    head: bool
    applied: bool | None = None
    state: str | None = None
    error: str | None = None


def history(project: ProjectLike = None) -> list[HistoryEntry]:
    """Every revision, newest first. Reads files alone, unless the database is at hand to say what is applied."""
    project = opened(project)
    graph = project.readable_graph
    try:
        with project.looking() as (context, conn):
            known: dict[str, Progress] | None = progress_of(graph, context, conn)
    except EmbedmigError:
        known = None  # the history is in the files
    without = [
        HistoryEntry("?", [], "", path.name, None, [], False, error=error.message)
        for path, error in graph.unreadable
        if path not in {script.path for script in graph.scripts.values()}
    ]
    return without + [entry(script, graph.heads(), known) for script in graph.walk()]


def entry(script: Script, heads: tuple[str, ...], known: dict[str, Progress] | None) -> HistoryEntry:
    state = None if known is None else known.get(script.revision, Progress(script.revision)).state
    return HistoryEntry(
        script.revision, list(script.down_revisions), script.message, script.path.name, script.create_date, list(script.labels),
        script.revision in heads, None if state is None else state == "applied", state, script.error.message if script.error else None,
    )  # fmt: skip
