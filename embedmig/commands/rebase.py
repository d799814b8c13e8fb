"""rebase: renumbers a script that is not applied."""

from __future__ import annotations

from pathlib import Path

from embedmig.commands.project import ProjectLike, opened
from embedmig.database.ledger import ledger_exists
from embedmig.revisions import authoring


def rebase(project: ProjectLike, name: str) -> Path:
    """Renumbers a script that is not applied onto the one other head."""
    project = opened(project)
    with project.looking() as (context, conn):
        known = context.ledger.progress(conn) if ledger_exists(conn, context.database.schema) else {}
    begun = {name: one.checksum for name, one in known.items() if one.state != "pending"}
    return authoring.rebase(project.config.migrations, name, begun)
