"""Keeping things running: sync, pause and throttle, the alias around a schema change, retirement."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from embedmig.commands.project import Project
from embedmig.database import Connection, RunLock, retry_transient, schema, translated, whoami
from embedmig.database.ledger import ledger_exists
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.engine.context import RunContext
from embedmig.engine.follower import POLL_SECONDS, Follower
from embedmig.engine.sync import Synced, reconcile
from embedmig.engine.throttle import Control, control, set_control
from embedmig.errors import DatabaseFailed, DatabaseUnavailable, UnknownTarget, UsageError
from embedmig.events import Event
from embedmig.operations.backfill import fence_of_joined, fill
from embedmig.operations.base import Context
from embedmig.operations.retire_space import refuse_early, refuse_unstable, retire_now
from embedmig.source import Source, capture
from embedmig.stores import Store, aliases
from embedmig.stores.pgvector.adopted import writer_of
from embedmig.stores.pgvector.table import PgvectorStore
from embedmig.types import Tally
from embedmig.workers import Executor, pool_of

NUDGE = "embedmig_sync"


@contextmanager
def working(project: Project) -> Iterator[tuple[Context, Connection]]:
    """A session that may write, on a database that embedmig has run on."""
    context = project.context(start=True)
    with translated("working"), context.database.connect("operate") as conn:
        if not ledger_exists(conn, context.database.schema):
            raise UsageError("embedmig has not run on this database yet", hint="embedmig upgrade head")
        yield context, conn


# --- sync -----------------------------------------------------------------------------------------------------


def sync(
    project: Project,
    collection: str | None = None,
    *,
    repair: bool = False,
    retry_failed: bool = False,
    stop: threading.Event | None = None,
) -> list[Synced]:
    """Takes the changes that wait now into every live space; one collection, or all of them."""
    halt = stop or threading.Event()
    with working(project) as (context, conn):
        found: list[Synced] = []
        for name in _names(project, collection):
            if repair:
                _repair(context, conn, name)
            if retry_failed:
                for record in context.registry.spaces(conn, name):
                    context.registry.retry_failed(conn, record.id)
            found += context.sync(conn, name, halt).once()
        return found


def follow(
    project: Project,
    collection: str | None,
    *,
    report: Callable[[list[Synced]], None],
    stop: threading.Event,
    seconds: float = POLL_SECONDS,
) -> None:
    """Syncs until told to stop; several may run at once. Wakes when nudged by NOTIFY, and every second anyway: a
    trigger that notified would make all writers commit one after another.

    A database that goes away is waited for, longer each time.
    """
    patience = seconds
    with Follower() as follower:
        while not stop.is_set():
            try:
                with working(project) as (context, conn):
                    conn.execute(sql.SQL("listen {}").format(sql.Identifier(NUDGE)))
                    while not stop.is_set():
                        for name in _names(project, collection):
                            report(follower.collect())
                            follower.begin(context.sync(conn, name, stop))
                        patience = seconds
                        for _ in conn.notifies(timeout=seconds, stop_after=1):
                            pass
            except (DatabaseFailed, DatabaseUnavailable) as error:
                if not isinstance(error.__cause__, psycopg.OperationalError):
                    raise
                stop.wait(patience)
                patience = min(patience * 2, 60.0)


def backfill(
    project: Project,
    collection: str,
    version: str | None = None,
    *,
    workers: int | None = None,
    executor: Executor = "processes",
    report: Callable[[Event], None],
    stop: threading.Event,
) -> Tally:
    """Helps to fill a space: beside a running upgrade, beside others like it, or alone, where ``upgrade --no-wait`` left
    that to a worker. Takes no lock: ranges are claimed. It ends when all of them are finished, whoever finished them.
    """
    pool = pool_of(project.config, project.context(start=True).database, executor, workers)
    with working(project) as (context, conn):
        schema.require_current(conn, context.database.schema)
        live = [r for r in context.registry.spaces(conn, collection) if not r.adopted and r.state != "retired"]
        record = next((r for r in reversed(live) if version in (None, r.version)), None)
        if record is None:
            raise UnknownTarget(
                f"collection {collection!r} has no space {version or ''}".rstrip(), hint="embedmig status"
            )
        run = RunContext(report, stop, fence=fence_of_joined(context, record))
        return fill(context, conn, record, run, "hot", pool)


def _names(project: Project, collection: str | None) -> list[str]:
    return [project.config.collection(collection).name] if collection else list(project.config.collections)


def _repair(context: Context, conn: Connection, collection: str) -> None:
    """For a time without triggers: they are made again, then every row is compared."""
    source = context.source(conn, collection)
    spaces = [
        record
        for record in context.registry.spaces(conn, collection)
        if record.state != "retired" and not record.adopted
    ]
    if not spaces:
        return

    def install() -> None:
        with conn.transaction():
            conn.execute("set local lock_timeout = '500ms'")
            capture.install(conn, context.registry, source, [column.name for column in source.text])

    retry_transient(install)
    for record in spaces:
        if not record.adopted:  # which text adopted vectors were made from is unknown: nothing there is called stale
            reconcile(conn, context.registry, PgvectorStore(source, record))


# --- pause, resume, throttle ----------------------------------------------------------------------------------


def pause(project: Project, collection: str | None = None, reason: str = "") -> list[str]:
    """Running backfills and syncs stop within a batch, and go on where they were when resumed."""
    return _set(project, collection, lambda old: Control(True, old.rows_per_second, reason, whoami()))


def resume(project: Project, collection: str | None = None) -> list[str]:
    """The reverse of :func:`pause`."""
    return _set(project, collection, lambda old: Control(False, old.rows_per_second, "", whoami()))


def throttle(
    project: Project, rows_per_second: float | None, collection: str | None = None, reason: str = ""
) -> list[str]:
    """Holds running backfills and syncs to a speed; None lets them go."""
    if rows_per_second is not None and rows_per_second <= 0:
        raise UsageError(f"{rows_per_second:g} rows/s is no speed", hint="embedmig pause stops it")
    return _set(project, collection, lambda old: Control(old.paused, rows_per_second, reason, whoami()))


def _set(project: Project, collection: str | None, change: Callable[[Control], Control]) -> list[str]:
    names = _names(project, collection)
    with working(project) as (context, conn):
        for name in names:
            set_control(conn, context.registry, name, change(control(conn, context.registry, name)))
    return names


# --- the alias around a schema change ---------------------------------------------------------------------------


def alias_drop(project: Project, collection: str) -> str:
    """Takes the view away for a moment, so that the source's columns may be altered; returns its name.

    What it showed stays written down: :func:`alias_rebuild` brings it back.
    """
    return _with_alias(
        project, collection, lambda conn, registry, source, _: aliases.drop_dependents(conn, registry, source)
    )


def alias_rebuild(project: Project, collection: str) -> str:
    """Makes the view of the active version anew, with the columns that the configuration names now."""
    return _with_alias(project, collection, aliases.rebuild_dependents)


def _with_alias(
    project: Project, collection: str, change: Callable[[Connection, Registry, Source, Store], None]
) -> str:
    project.config.collection(collection)
    with RunLock(project.context(start=True).database), working(project) as (context, conn):
        source = context.source(conn, collection)
        alias = context.registry.alias(conn, collection)
        if alias is None or alias.version is None:
            raise UsageError(f"the alias of {collection!r} shows nothing", hint="embedmig upgrade head")
        record = context.registry.space(conn, collection, alias.version)
        assert record is not None
        if change is aliases.rebuild_dependents:
            writer_of(source, record).check_key(conn)

        def transaction() -> None:
            with conn.transaction():
                conn.execute("set local lock_timeout = '500ms'")
                change(conn, context.registry, source, context.store(conn, record))

        retry_transient(transaction)
    return ".".join(aliases.alias_name(source))


# --- retirement -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Retired:
    """What was dropped, and how long it took."""

    version: str
    bytes: int
    milliseconds: float


def retire(
    project: Project, collection: str, version: str, *, after: str, confirm: str | None, evals_stable: int | None = None
) -> Retired:
    """Drops the vectors of a retained version, for good. Raises :class:`AnswerIsNo` while it is too early, or while the
    last ``evals_stable`` evaluations of what the alias shows don't prove it as good.
    """
    if evals_stable is not None and evals_stable < 1:
        raise UsageError(f"--evals-stable {evals_stable} is not above 0")
    if confirm != version:
        raise UsageError(
            f"retiring {version} can't be taken back", hint=f"--confirm {version} says that you mean this one"
        )
    with RunLock(project.context(start=True).database), working(project) as (context, conn):
        record = _retained(project, context, conn, collection, version)
        refuse_early(context, conn, record, after)
        if evals_stable is not None:
            refuse_unstable(context, conn, record, evals_stable)
        size = context.store(conn, record).bytes(conn, 0)  # adopted ones, whose size goes by it, are refused
        milliseconds = retire_now(context, conn, record)
    return Retired(version, size, milliseconds)


def _retained(project: Project, context: Context, conn: Connection, collection: str, version: str) -> SpaceRecord:
    project.config.collection(collection)
    record = context.registry.space(conn, collection, version)
    if record is None:
        known = ", ".join(found.version for found in context.registry.spaces(conn, collection)) or "none"
        raise UnknownTarget(f"collection {collection!r} has no space {version}", hint=f"known: {known}")
    return record
