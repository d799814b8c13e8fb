"""Whether what a version needs is still there: others drop and rename tables and columns, and nothing tells embedmig."""

from __future__ import annotations

from psycopg import sql

from embedmig.database import Connection, ident, scalar
from embedmig.database.registry import SpaceRecord
from embedmig.errors import SourceError
from embedmig.source import Source, list_columns
from embedmig.stores.adopted_place import VERSION
from embedmig.stores.kinds import open_external
from embedmig.stores.pgvector.adopted import ADDED
from embedmig.stores.pgvector.table import TablePlace

OWN_COLUMNS = ["content_hash"]
"""Of a table that embedmig made for a version: what says of which text a vector is."""


def require_vectors(conn: Connection, source: Source, record: SpaceRecord) -> None:
    """Raises :class:`SourceError` where a live version's table, its columns or the text that it was made from are gone,
    with what leads out of it. Wants no right at all.
    """
    if lost := lost_text(source, record):
        raise SourceError(
            f"{record.version} was made from {source.collection.table}.{lost[0]}, which is not there any more",
            hint=f"set text in [collections.{record.collection}] to the columns there are, and migrate to a version of "
            "them: embedmig revision; until then this version is as it was",
        )
    if missing := lost_place(conn, source, record):
        raise SourceError(
            f"{missing} is not there any more: {record.version} has lost its vectors", hint=way_out(record)
        )


def lost_text(source: Source, record: SpaceRecord) -> list[str]:
    """Text columns that a version was made from and that are not there any more, nor renamed: it can't be kept fresh."""
    there = {column.name for column in source.every}
    return [column.name for column in source.reading(record.text_columns).text if column.name not in there]


def lost_place(conn: Connection, source: Source, record: SpaceRecord) -> str | None:
    """The table, column or collection of a version's vectors that is not there; None where all is."""
    if record.space.external:
        return lost_collection(conn, source, record)
    name, columns = place_in_words(record)
    columns += [] if record.adopted else OWN_COLUMNS
    relation = TablePlace(*record.place).relation.as_string(conn)
    oid = scalar(conn, "select to_regclass(%s)::oid::bigint", (relation,))
    if oid is None:
        return f"table {name}"
    known = list_columns(conn, oid)
    lost = [column for column in columns if column not in known]
    return f"column {name}.{lost[0]}" if lost else None


def lost_collection(conn: Connection, source: Source, record: SpaceRecord) -> str | None:
    """As :func:`lost_place`, of a store beside PostgreSQL. Raises :class:`StoreError` where it can't be asked."""
    table = ident(*record.place[:2]).as_string(conn)
    if scalar(conn, "select to_regclass(%s)", (table,)) is None:
        return f"table {'.'.join(record.place[:2])}, which names the points,"
    store = open_external(source, record)
    return describe_place(record) if store.attempt(store.describe) is None else None


def collection_in_words(record: SpaceRecord) -> str:
    """The collection of a version in a store beside PostgreSQL."""
    return f"{record.place[3]} of {record.space.store}"


def describe_place(record: SpaceRecord) -> str:
    """Where a version's vectors are."""
    if record.space.external:
        return f"collection {collection_in_words(record)}"
    return f"table {'.'.join(record.place[:2])}"


def way_out(record: SpaceRecord) -> str:
    """What to do about lost vectors, as commands."""
    name = record.collection
    if record.adopted:
        release = f"embedmig release {name} {record.version} stops watching it"
        return release if record.state != "active" else f"flip the alias to another version; then {release}"
    what = "collection" if record.space.external else "table"
    again = f"embedmig sync {name} --repair makes the {what} again and embeds every row"
    if record.state == "retained":
        return f"embedmig retire {name} {record.version} --after 0s --confirm {record.version}; or {again}"
    return again if record.state != "active" else f"{again}; then embedmig alias rebuild {name}"


def place_in_words(record: SpaceRecord) -> tuple[str, list[str]]:
    """The table that a version's vectors are in, and their columns there: vector and version; of a store beside PostgreSQL the
    collection, and the field of its points that embedmig writes.
    """
    if record.space.external:
        return f"collection {collection_in_words(record)}", [VERSION]
    place = TablePlace(*record.place)
    return f"{place.schema}.{place.table}", [place.embedding, place.version]


def drop_hashes(conn: Connection, record: SpaceRecord) -> None:
    """What embedmig wrote down of adopted vectors goes; the vectors stay."""
    for table in made_tables(record):
        conn.execute(sql.SQL("drop table if exists {}").format(ident(*table)))


def made_tables(record: SpaceRecord) -> list[tuple[str, str]]:
    """The tables that embedmig made for a version, whether they are still there or not."""
    if record.adopted and not record.space.external:
        return [(record.ledger_schema, f"written_{record.id}")]
    return [record.place[:2]]


def added_column(conn: Connection, record: SpaceRecord) -> tuple[str, str, str] | None:
    """Schema, table and name of a version column that embedmig added; None where it was there before, or is gone.

    Where no comment says so, as in what an older embedmig adopted, the catalog does: it keeps the default with which a column
    was added.
    """
    if record.space.external:
        return None
    place = TablePlace(*record.place)
    query = """select coalesce(col_description(attrelid, attnum) = %s, false) or atthasmissing
               from pg_attribute where attrelid = to_regclass(%s) and attname = %s and not attisdropped"""
    values = (ADDED, place.relation.as_string(conn), place.version)
    return (place.schema, place.table, place.version) if record.adopted and scalar(conn, query, values) else None
