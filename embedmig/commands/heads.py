"""heads: the revisions that nothing builds on."""

from __future__ import annotations

from embedmig.commands.history import HistoryEntry, entry
from embedmig.commands.project import ProjectLike, opened


def heads(project: ProjectLike = None) -> list[HistoryEntry]:
    """The revisions that nothing builds on."""
    project = opened(project)
    return [entry(project.graph.get(name), project.graph.heads(), None) for name in project.graph.heads()]
