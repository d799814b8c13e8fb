"""Measures a space: for a verdict exactly, as of one moment; for a look by what :mod:`counting` knows or estimates."""

from __future__ import annotations

from dataclasses import replace

from psycopg import sql

from embedmig.database import Connection, scalar
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.engine.outbox import unsettled, waiting
from embedmig.gates import counting
from embedmig.gates.conditions import Measured
from embedmig.gates.counting import Counted
from embedmig.source import Source, capture
from embedmig.source.rows import Key
from embedmig.stores import Manifest, open_manifest, open_store
from embedmig.stores.presence import require_vectors

LISTED = 11  # ten keys are shown; one more says that there are more


def measure(
    conn: Connection, registry: Registry, source: Source, record: SpaceRecord, *, listed: bool = True
) -> Measured:
    """Everything a gate looks at, as of one moment: a change is either in the space or waiting, never in between.

    Every row is compared, now; and with a store beside PostgreSQL every point, unless ``listed`` is false. What was counted is
    kept for :func:`look`, where this role may write it.
    Raises :class:`SourceError` where the vectors are gone, or where the source's key is no longer of the space's type: they
    can't be compared.
    """
    require_vectors(conn, source, record)
    manifest = open_manifest(source, record)
    if not record.adopted:
        manifest.check_key(conn)
    large = not counting.is_small(conn, *manifest.tables)
    mark = counting.mark(conn, registry, manifest) if large else {}
    listing = manifest.listing(conn) if listed else None
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        counted = count(conn, registry, manifest)
        found = around(conn, registry, manifest, counted)
    if large:
        counting.keep(conn, registry, record.id, mark, counted)
    return replace(found, listing=listing or manifest.compare_counts(conn, counted.counts.vectors))


def look(conn: Connection, registry: Registry, source: Source, record: SpaceRecord) -> Measured:
    """The same for whoever only looks: at most some hundred pages are read. Wants SELECT alone.

    Exact where the space is small, or where nothing has happened since it was counted; an estimate elsewhere.
    Raises as :func:`measure`.
    """
    require_vectors(conn, source, record)
    manifest = open_manifest(source, record)
    if source.foreign or counting.is_small(conn, *manifest.tables):
        return measure(conn, registry, source, record, listed=False)
    mark = counting.mark(conn, registry, manifest)
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        counted = counting.kept(conn, registry, record.id, mark) or counting.estimate(conn, registry, manifest)
        counted = counted or count(conn, registry, manifest)
        found = around(conn, registry, manifest, counted)
    return replace(found, listing=manifest.compare_counts(conn, counted.counts.vectors) if counted.exact else None)


def count(conn: Connection, registry: Registry, manifest: Manifest) -> Counted:
    """Every row, inside a transaction; and which of those that are missing nobody can account for."""
    now = scalar(conn, "select clock_timestamp()")
    counts = manifest.counts(conn)
    if manifest.record.writer != "embedmig" or manifest.record.adopted:
        return Counted(counts, now, unaccounted=())
    missing = counts.missing - counts.failed
    return Counted(counts, now, unaccounted=unaccounted(conn, registry, manifest) if missing else ())


def around(conn: Connection, registry: Registry, manifest: Manifest, counted: Counted) -> Measured:
    """What goes with a count, of the same snapshot: the index, what waits, and whether changes are captured."""
    source, record = manifest.source, manifest.record
    index = open_store(source, record).index_state(conn)
    if record.writer != "embedmig":
        return Measured(counted.counts, index, counted_at=counted.at, error=counted.error)
    return Measured(
        counted.counts,
        index,
        waiting(conn, registry, source, record.id),
        capture.health(conn, registry, source),
        counted.unaccounted,
        counted.at,
        counted.error,
    )


def unaccounted(conn: Connection, registry: Registry, manifest: Manifest) -> tuple[Key, ...]:
    """Some eligible rows that the space lacks although no change waits for them and no model refused them."""
    missing = manifest.missing_keys(unsettled(conn, registry, manifest.source, manifest.record.id))
    query = sql.SQL("{} limit {}").format(missing, sql.Literal(LISTED))
    return tuple(tuple(row[0]) for row in conn.execute(query))
