"""rebase: renumbers a script that is not applied."""

from __future__ import annotations

from pathlib import Path

from embedmig.commands.project import ProjectLike, applied_revisions, opened
from embedmig.revisions import authoring


def rebase(project: ProjectLike, name: str) -> Path:
    """Renumbers a script that is not applied onto the one other head."""
    project = opened(project)
    with project.looking() as (context, conn):
        applied = applied_revisions(context, conn)
    return authoring.rebase(project.config.migrations, name, applied)
