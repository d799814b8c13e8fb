"""Measures a space for gates and status: one snapshot, SELECT alone."""

from __future__ import annotations

from psycopg import sql

from embedmig import capture
from embedmig.changes import unsettled, waiting
from embedmig.db import Connection
from embedmig.gates import Measured
from embedmig.registry import Registry, SpaceRecord
from embedmig.source import DOC_HASH, HAS_TEXT, Source
from embedmig.stores import Key, open_store
from embedmig.stores.pgvector import PgvectorStore

LISTED = 11  # ten keys are shown; one more says that there are more


def measure(conn: Connection, registry: Registry, source: Source, record: SpaceRecord) -> Measured:
    """Everything a gate looks at, as of one moment: a change is either in the space or waiting, never in between.

    Raises :class:`SourceError` where the source's key is no longer of the space's type: they can't be compared.
    """
    store = open_store(source, record)
    if not record.adopted:
        PgvectorStore(source, record).check_key(conn)
    with conn.transaction():
        conn.execute("set transaction isolation level repeatable read")
        counts, index = store.counts(conn, registry), store.index_state(conn)
        if record.writer != "embedmig":
            return Measured(counts, index)
        if not isinstance(store, PgvectorStore):
            state = capture.state(conn, registry, source)
            return Measured(counts, index, waiting(conn, registry, source, record.id), state)
        missing = counts.missing - counts.failed
        return Measured(
            counts,
            index,
            waiting(conn, registry, source, record.id),
            capture.state(conn, registry, source),
            unaccounted(conn, registry, store) if missing else (),
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
