"""cuts: the thresholds of a collection, a value for each version."""

from __future__ import annotations

from dataclasses import dataclass

from embedmig.commands.project import ProjectLike, opened
from embedmig.database.cuts_table import Cut, CutsTable
from embedmig.errors import CutUnknown, UsageError
from embedmig.operations.carrying import settle


@dataclass(frozen=True, slots=True)
class CutsResult:
    """The ``cuts`` of every live version, and in words which can't be had. ``active`` is the version that the alias shows."""

    collection: str
    active: str
    cuts: list[Cut]
    unknown: list[str]


def cuts(project: ProjectLike, collection: str) -> CutsResult:
    """Keeps what ``[collections.NAME.cuts]`` declares, carries it over to every live version that holds vectors, and lists all.

    Raises :class:`UsageError` before anything is shown, :class:`ConfigError` for a number of which it can't be told for which version it is.
    """
    project = opened(project)
    project.config.collection(collection)
    with project.working() as (context, conn):
        alias = context.registry.alias(conn, collection)
        shown = context.registry.space(conn, collection, alias.version) if alias and alias.version else None
        if shown is None:
            raise UsageError(
                f"the alias of {collection!r} shows no version yet", hint="embedmig upgrade head creates and fills it"
            )
        unknown = []
        others = [one for one in context.registry.spaces(conn, collection) if one.state in ("ready", "retained")]
        for record in (shown, *others):
            try:
                settle(context, conn, record, shown)
            except CutUnknown as error:
                unknown.append(error.message)
        live = {record.version for record in context.registry.spaces(conn, collection) if record.live}
        kept = [cut for cut in CutsTable(context.database.schema).all_of(conn, collection) if cut.version in live]
        return CutsResult(collection, shown.version, kept, unknown)
