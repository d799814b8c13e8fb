"""The space that a command is about."""

from __future__ import annotations

from embedmig.commands.project import Project
from embedmig.database import Connection
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import SpaceRecord
from embedmig.errors import UnknownTarget
from embedmig.operations.base import Context


def find_space(
    project: Project, context: Context, conn: Connection, collection: str, version: str | None
) -> SpaceRecord:
    project.config.collection(collection)
    found = context.registry.spaces(conn, collection) if ledger_exists(conn, context.database.schema) else []
    live = [record for record in found if record.live and version in (None, record.version)]
    if not live:
        known = ", ".join(record.version for record in found) or "none"
        raise UnknownTarget(f"collection {collection!r} has no space {version or ''}".rstrip(), hint=f"known: {known}")
    return live[-1]
