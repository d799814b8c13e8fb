"""alias: the view around a schema change of the source."""

from __future__ import annotations

from collections.abc import Callable

from embedmig.commands.project import Project, ProjectLike, opened
from embedmig.database import Connection, RunLock, retry_transient
from embedmig.database.registry import Registry
from embedmig.errors import UsageError
from embedmig.source import Source
from embedmig.stores import Manifest, aliases
from embedmig.stores.differences import Difference
from embedmig.stores.store_alias import restore_store_alias


def alias_drop(project: ProjectLike, collection: str, *, old: bool = False) -> str:
    """Drops the view, so that the source's columns may be altered; returns its name.

    The registry keeps what it showed: :func:`alias_rebuild` restores it. With ``old``, only the names go that the alias had
    before the configuration named another.
    """
    return _with_alias(opened(project), collection, aliases.drop_former if old else aliases.drop_dependents)


def alias_rebuild(project: ProjectLike, collection: str) -> str:
    """Creates the view of the active version again, with the name, filter and columns that the configuration names now;
    returns its name. A name that it had before stays as a second one until :func:`alias_drop` with ``old``.
    """
    return _with_alias(opened(project), collection, aliases.rebuild_dependents)


def alias_differences(project: ProjectLike, collection: str) -> list[Difference]:
    """Where the configuration of a collection is not what the alias shows, and what carries each difference out."""
    project = opened(project)
    with project.looking() as (context, conn):
        return context.differences(conn, project.config.collection(collection).name)


def _with_alias(
    project: Project, collection: str, change: Callable[[Connection, Registry, Source, Manifest], None]
) -> str:
    project.config.collection(collection)
    with RunLock(project.context(start=True).database), project.working() as (context, conn):
        source = context.source(conn, collection)
        alias = context.registry.alias(conn, collection)
        if alias is None or alias.version is None:
            raise UsageError(f"the alias of {collection!r} shows nothing", hint="embedmig upgrade head")
        record = context.registry.space(conn, collection, alias.version)
        assert record is not None
        if change is aliases.rebuild_dependents:
            aliases.refuse_foreign(conn, context.registry, source)
            context.manifest(conn, record).check_key(conn)

        def transaction() -> None:
            with conn.transaction():
                conn.execute("set local lock_timeout = '500ms'")
                change(conn, context.registry, source, context.manifest(conn, record))

        retry_transient(transaction)
        if change is aliases.rebuild_dependents and record.space.external:
            restore_store_alias(conn, source, record)
        shown = context.registry.alias(conn, collection)
        assert shown is not None
        return f"{shown.alias_schema}.{shown.alias_name}"
