"""Measures a space: for a verdict exactly, as of one moment; for a look by what :mod:`counting` knows or estimates."""

from __future__ import annotations

from psycopg import sql

from embedmig.database import Connection, scalar
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.engine.outbox import unsettled, waiting
from embedmig.gates import counting
from embedmig.gates.conditions import Measured
from embedmig.gates.counting import Counted
from embedmig.source import DOC_HASH, HAS_TEXT, Source, capture
from embedmig.source.rows import Key
from embedmig.stores import Store, open_store
from embedmig.stores.pgvector.table import PgvectorStore

LISTED = 11  # ten keys are shown; one more says that there are more


def measure(conn: Connection, registry: Registry, source: Source, record: SpaceRecord) -> Measured:
    """Everything a gate looks at, as of one moment: a change is either in the space or waiting, never in between.

    Every row is compared, now. What was counted is kept for :func:`look`, where this role may write it.
    Raises :class:`SourceError` where the source's key is no longer of the space's type: they can't be compared.
    """
    store = open_store(source, record)
    if not record.adopted:
        PgvectorStore(source, record).check_key(conn)
    large = not is_small(conn, source, store)
    mark = counting.mark(conn, registry, store) if large else {}
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        counted = count(conn, registry, store)
        found = around(conn, registry, store, counted)
    if large:
        counting.keep(conn, registry, record.id, mark, counted)
    return found


def look(conn: Connection, registry: Registry, source: Source, record: SpaceRecord) -> Measured:
    """The same for whoever only looks: at most some hundred pages are read. Wants SELECT alone.

    Exact where the space is small, or where nothing has happened since it was counted; an estimate elsewhere.
    """
    store = open_store(source, record)
    if source.foreign or is_small(conn, source, store):
        return measure(conn, registry, source, record)
    mark = counting.mark(conn, registry, store)
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        counted = counting.kept(conn, registry, record.id, mark) or counting.estimate(conn, registry, store)
        return around(conn, registry, store, counted or count(conn, registry, store))


def is_small(conn: Connection, source: Source, store: Store) -> bool:
    """Whether a count is as quick as a look."""
    tables = [source.relation] if store.record.adopted else [source.relation, store.record.relation]
    return counting.is_small(conn, *tables)


def count(conn: Connection, registry: Registry, store: Store) -> Counted:
    """Every row, inside a transaction; and which of those that are missing nobody can account for."""
    now = scalar(conn, "select clock_timestamp()")
    counts = store.counts(conn, registry)
    if store.record.writer != "embedmig" or not isinstance(store, PgvectorStore):
        return Counted(counts, now, unaccounted=())
    missing = counts.missing - counts.failed
    return Counted(counts, now, unaccounted=unaccounted(conn, registry, store) if missing else ())


def around(conn: Connection, registry: Registry, store: Store, counted: Counted) -> Measured:
    """What goes with a count, of the same snapshot: the index, what waits, and whether changes are captured."""
    index, source, record = store.index_state(conn), store.source, store.record
    if record.writer != "embedmig":
        return Measured(counted.counts, index, counted_at=counted.at, error=counted.error)
    return Measured(
        counted.counts,
        index,
        waiting(conn, registry, source, record.id),
        capture.state(conn, registry, source),
        counted.unaccounted,
        counted.at,
        counted.error,
    )


def unaccounted(conn: Connection, registry: Registry, store: PgvectorStore) -> tuple[Key, ...]:
    """Some eligible rows that the space lacks although no change waits for them and no model refused them."""
    source = store.source
    query = sql.SQL(
        """select {key} from {rows} s where {has_text} and not {present} and not {refused}
             and not exists (select from ({unsettled}) u where u.key = {key}) limit {limit}"""
    ).format(
        key=source.key_text("s"),
        rows=source.rows(),
        has_text=HAS_TEXT,
        present=store.present(DOC_HASH),
        refused=store.refused(registry),
        unsettled=unsettled(conn, registry, source, store.record.id),
        limit=sql.Literal(LISTED),
    )
    return tuple(tuple(row[0]) for row in conn.execute(query))
