"""current: the applied heads."""

from __future__ import annotations

from embedmig.commands.project import ProjectLike, applied_heads, opened


def current(project: ProjectLike = None) -> list[str]:
    """The applied heads."""
    project = opened(project)
    with project.looking() as (context, conn):
        return list(applied_heads(project, context, conn))
