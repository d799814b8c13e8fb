"""current: the applied heads."""

from __future__ import annotations

from dataclasses import dataclass

from embedmig.commands.project import PartlyDone, ProjectLike, applied_revisions, opened, partly_done


@dataclass(frozen=True, slots=True)
class Position:
    """Where the database stands: the applied heads, and what is applied or taken back in part."""

    current: list[str]
    partly: list[PartlyDone]


def current(project: ProjectLike = None) -> list[str]:
    """The applied heads."""
    return position(project).current


def position(project: ProjectLike = None) -> Position:
    """The applied heads, and the revisions that no run has brought to an end."""
    project = opened(project)
    with project.looking() as (context, conn):
        graph = project.readable_graph
        heads = graph.applied_heads(applied_revisions(graph, context, conn))
        return Position(list(heads), partly_done(graph, context, conn))
