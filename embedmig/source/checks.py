"""What can't be a source, or not with these settings: found while a revision is validated, before anything is changed."""

from __future__ import annotations

from psycopg import errors as pg
from psycopg import sql

from embedmig.database import Connection, first_line, ident, scalar
from embedmig.errors import SourceError
from embedmig.source.table import Source, hidden_rows

HIDDEN = "embedmig_"  # names that queries and triggers use beside the key's columns
OUTBOX = ("changed_at",)
STAMPS = (
    "timestamp with time zone", "timestamp without time zone", "date",
    "bigint", "integer", "numeric", "double precision",
)  # fmt: skip


def check_source(conn: Connection, source: Source) -> None:
    """Table, names and key. Raises :class:`SourceError`."""
    check_table(source)
    check_names(source)
    check_key(conn, source)


def check_table(source: Source) -> None:
    """Tables whose rows come and go in ways that neither triggers nor a count can show."""
    name, table = source.collection.name, source.collection.table
    if source.schema.startswith("pg_temp"):
        raise SourceError(f"collection {name!r}: {table} is a temporary table, which no other session sees")
    if source.filtered:
        raise hidden_rows(source)
    if source.children and source.collection.capture == "triggers":
        raise SourceError(
            f"collection {name!r}: other tables inherit from {table}; what is written to them passes its triggers by",
            hint=f'capture = "watermark" and changed_at = "…" in [collections.{name}], or a partitioned table',
        )
    for column in source.changed_at:
        if column.base not in STAMPS and not column.base.startswith(("timestamp(", "numeric(")):
            raise SourceError(
                f"collection {name!r}: changed_at column {column.name} is {column.type}",
                hint="a timestamp, a date, or a number of seconds, milliseconds or microseconds since 1970",
            )


def check_names(source: Source) -> None:
    """A key column can't have a name that the outbox uses itself."""
    for column in source.key:
        if column.name.startswith(HIDDEN) or (column.name in OUTBOX and source.collection.capture == "triggers"):
            raise SourceError(
                f"collection {source.collection.name!r}: key column {column.name!r} has a name that embedmig uses itself",
                hint="rename it in the table",
            )


def check_key(conn: Connection, source: Source) -> None:
    """Refuses a key that has no order, NULLs or duplicates; a unique index that covers it spares the scan.

    Raises :class:`SourceError`.
    """
    for column in source.key:
        if not column.operators:
            raise key_error(source, f"can't be compared: {column.name} is {column.type}")
    unique = has_unique_index(conn, source)
    if unique and all(column.not_null for column in source.key):
        return
    nulls = sql.SQL(" or ").join(sql.SQL("{} is null").format(ident(c.name)) for c in source.key)
    if scalar(conn, sql.SQL("select exists (select from {} where {})").format(source.relation, nulls)):
        raise key_error(source, "has NULLs")
    if unique:
        return
    twice = conn.execute(
        sql.SQL("select {} from {} s group by {} having count(*) > 1 limit 1").format(
            source.key_text("s"), source.relation, source.key_of("s")
        )
    ).fetchone()
    if twice:
        raise key_error(source, f"is not unique: ({', '.join(twice[0])}) stands there more than once")


def key_error(source: Source, what: str) -> SourceError:
    """A key that can't identify rows."""
    return SourceError(
        f"collection {source.collection.name!r}: key ({', '.join(c.name for c in source.key)}) of {source.collection.table} {what}",
        hint="name a key that identifies a row, such as the primary key",
    )


def has_unique_index(conn: Connection, source: Source) -> bool:
    """Whether a full unique index lies within the key's columns."""
    return bool(
        scalar(
            conn,
            """select exists (select from pg_index i where i.indrelid = %s and i.indisunique and i.indisvalid
               and i.indpred is null and i.indexprs is null and (
                 select array_agg(a.attname::text) from pg_attribute a
                 where a.attrelid = i.indrelid and a.attnum = any(i.indkey[0:i.indnkeyatts - 1])) <@ %s)""",
            (source.oid, [column.name for column in source.key]),
        )
    )


def check_filter(conn: Connection, source: Source) -> None:
    """Refuses a ``where`` whose rows change although nobody writes them: by the clock, by another table, by the session.

    PostgreSQL is asked whether it would index by it, on an empty copy of the table that is never committed.
    """
    where, name = source.collection.where, source.collection.name
    if where is None or source.collection.rescan is not None:
        return
    trial = sql.SQL(
        "create temp table {name} (like {table}); create index on pg_temp.{name} ((1)) where {where}"
    ).format(name=ident(source.table), table=source.relation, where=source.predicate)
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(trial)
    except (pg.InvalidObjectDefinition, pg.FeatureNotSupported) as error:
        raise SourceError(
            f"collection {name!r}: where = {where!r} depends on more than the row itself ({first_line(error)})",
            hint=f'no trigger sees such changes: rescan = "5m" in [collections.{name}] compares every row so often; '
            "or keep the answer in a column. A function of your own that depends on its arguments alone: mark it IMMUTABLE",
        ) from error
