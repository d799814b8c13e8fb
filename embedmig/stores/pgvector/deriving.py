"""Vectors of one table computed from those of another, or of an adopted column, in one statement: a cast, a cut, a copy."""

from __future__ import annotations

from psycopg import errors as pg
from psycopg import sql

from embedmig.database import Connection, literal
from embedmig.source.rows import Key
from embedmig.stores.pgvector.table import PgvectorStore, refusals, vector_type

HALF = (1e-4, 65504.0)
"""Between these norms a vector is neither infinite nor zero in half precision, however its numbers are spread."""


def insert_sql(new: PgvectorStore, old: PgvectorStore, after: Key | None, upto: Key | None) -> sql.Composed:
    """Fills ``new`` between two keys (exclusive, inclusive) with what ``old`` has of the rows as they are now."""
    columns = ["chunk", "content_hash", *(("chunk_count", "chunk_start", "chunk_end") if new.space.chunk else ())]
    return sql.SQL(
        """insert into {table} ({key}, {columns}, embedding)
           select {key}, {columns}, {value} from ({current}) e where {storable}"""
    ).format(
        table=new.table, key=new.source.key_columns, columns=literal(", ".join(columns)), value=computed(new, old),
        current=old.current_values(after, upto), storable=storable(new, old),
    )  # fmt: skip


def fill_range(conn: Connection, new: PgvectorStore, old: PgvectorStore, after: Key | None, upto: Key | None) -> int:
    """Runs :func:`insert_sql`; returns how many vectors were written. What ``new`` has already is left as it is: it seldom has
    anything, and a statement that is ready for that takes a quarter longer, so it is tried without.
    """
    statement = insert_sql(new, old, after, upto)
    with refusals(new.space):
        try:
            with conn.transaction():
                return conn.execute(statement).rowcount
        except pg.UniqueViolation:
            return conn.execute(statement + sql.SQL(" on conflict do nothing")).rowcount


def computed(new: PgvectorStore, old: PgvectorStore) -> sql.Composed:
    """The new vector out of ``e.embedding``: its first numbers, normalized again, where it is shorter; in the new type."""
    value = literal("e.embedding")
    if new.space.dimensions < old.space.dimensions:
        value = literal(f"l2_normalize({prefix(new)})")
    return sql.SQL("({})::{}").format(value, vector_type(new.space))


def storable(new: PgvectorStore, old: PgvectorStore) -> sql.SQL:
    """Whether the new vector can be kept; a row whose vector can't be is left to the model, which refuses it by name."""
    if new.space.dimensions < old.space.dimensions:
        return literal(f"vector_norm({prefix(new)}) > 0")
    unit = new.space.normalize == "l2" and not old.record.adopted
    if new.space.half_precision and not old.space.half_precision and not unit:
        return literal("vector_norm(e.embedding) between {} and {}".format(*HALF))
    return sql.SQL("true")


def prefix(new: PgvectorStore) -> str:
    """The first numbers of ``e.embedding``, in single precision."""
    return f"subvector(e.embedding::vector, 1, {new.space.dimensions})"
