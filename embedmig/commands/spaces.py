"""The space that a command is about."""

from __future__ import annotations

from collections.abc import Sequence

from embedmig.commands.project import Project
from embedmig.database import Connection
from embedmig.database.registry import SpaceRecord
from embedmig.errors import UnknownTarget
from embedmig.formatting import short_tags
from embedmig.operations.base import Context


def find_space(
    project: Project, context: Context, conn: Connection, collection: str, version: str | None
) -> SpaceRecord:
    project.config.collection(collection)
    found = context.spaces(conn, collection)
    live = [record for record in found if record.live]
    if version is not None:
        return named(live, found, collection, version)
    if not live:
        raise UnknownTarget(f"collection {collection!r} has no space", hint=f"known: {_tags(found)}")
    return live[-1]


def named(among: Sequence[SpaceRecord], every: Sequence[SpaceRecord], collection: str, name: str) -> SpaceRecord:
    """The version that is called by its full tag, by the revision that made it, or by a part of the tag that no other has, or
    by its short name.

    Raises :class:`UnknownTarget` naming those there are.
    """
    short = short_tags([record.version for record in among])
    for found in (
        [record for record in among if record.version == name],
        [record for record in among if _same_revision(record.revision, name)],
        [record for record in among if name in record.version],
        [record for record in among if short[record.version] == name],
    ):
        if len(found) == 1:
            return found[0]
        if found:
            raise UnknownTarget(
                f"{name!r} is a part of {len(found)} versions of {collection!r}", hint=f"one of {_tags(found)}"
            )
    raise UnknownTarget(f"collection {collection!r} has no space {name}", hint=f"known: {_tags(every)}")


def _same_revision(revision: str, name: str) -> bool:
    """``2`` is ``0002``."""
    return revision == name or (revision.isdigit() and name.isdigit() and int(revision) == int(name))


def version_names(project: Project, collection: str | None) -> list[str]:
    """The tags of the live versions of one collection, or of all."""
    with project.looking() as (context, conn):
        names = [collection] if collection else list(project.config.collections)
        return [one.version for name in names for one in context.spaces(conn, name) if one.live]


def _tags(records: Sequence[SpaceRecord]) -> str:
    return ", ".join(record.version for record in records) or "none"
