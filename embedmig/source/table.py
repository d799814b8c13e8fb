"""The table that texts come from: what the catalog says of it, and the expressions that every query shares.

Names in the configuration are SQL names: ``schema.table``, folded to lower case unless quoted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import errors as pg
from psycopg import sql

from embedmig.config import Collection
from embedmig.database import Connection, first_line, ident, literal, scalar
from embedmig.errors import SourceError

BLANK = sql.SQL(r"E' \t\n\r\f\x0B'")


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalog knows it; ``type`` is what ``format_type`` prints."""

    name: str
    type: str
    not_null: bool
    collation: str = ""

    @property
    def declaration(self) -> str:
        """The type as a column definition needs it: keys join only where their collations agree."""
        return f"{self.type} collate {self.collation}" if self.collation else self.type


@dataclass(frozen=True)
class Source:
    """A collection's table, resolved against the catalog."""

    collection: Collection
    oid: int
    schema: str
    table: str
    key: tuple[Column, ...]
    text: tuple[Column, ...]
    columns: tuple[Column, ...]
    row_security: bool
    partitioned: bool = False
    foreign: bool = False
    changed_at: tuple[Column, ...] = ()  # one where changes are found by a watermark, none where by triggers

    @property
    def predicate(self) -> sql.SQL:
        """Which rows are eligible, over the table's own column names; ``true`` where all are."""
        return literal(f"({self.collection.where})") if self.collection.where else sql.SQL("true")

    @property
    def relation(self) -> sql.Identifier:
        """The table, qualified and quoted."""
        return ident(self.schema, self.table)

    @property
    def key_columns(self) -> sql.Composed:
        """``"id", "part"``"""
        return comma(ident(column.name) for column in self.key)

    def key_of(self, alias: str) -> sql.Composed:
        """``s."id", s."part"``"""
        return comma(ident(alias, column.name) for column in self.key)

    def key_text(self, alias: str) -> sql.Composed:
        """The key as ``text[]``: any scalar type survives the trip through text, and a list of keys is one column."""
        return sql.SQL("array[{}]").format(comma(sql.SQL("{}::text").format(ident(alias, c.name)) for c in self.key))

    def key_from(self, array: sql.Composable) -> sql.Composed:
        """The key's columns out of a ``text[]``, in their own types."""
        casts = (
            sql.SQL("(({})[{}])::{}").format(array, sql.Literal(position), literal(column.type))
            for position, column in enumerate(self.key, 1)
        )
        return comma(casts)

    def join(self, left: str, right: str) -> sql.Composed:
        """``l."id" = r."id" and …``"""
        pairs = [sql.SQL("{} = {}").format(ident(left, c.name), ident(right, c.name)) for c in self.key]
        return sql.SQL(" and ").join(pairs)

    def document(self, alias: str | None = None) -> sql.Composed:
        """The text columns joined by a blank line, NULLs skipped."""
        parts = comma(ident(alias, c.name) if alias else ident(c.name) for c in self.text)
        return sql.SQL(r"concat_ws(E'\n\n', {})").format(parts)

    def rows(self, *, text: bool = True, extra: Sequence[Column] = ()) -> sql.Composed:
        """The eligible rows as a subquery: key columns, ``doc`` (the joined text) and ``extra`` columns.

        The predicate stands inside, so that its unqualified names mean the source's columns and nothing else, and
        only the columns named are dependencies of a view made of it.
        """
        items: list[sql.Composable] = [ident(column.name) for column in (*self.key, *extra)]
        if text:
            items.append(sql.SQL("{} as doc").format(self.document()))
        return sql.SQL("(select {} from {} where {})").format(comma(items), self.relation, self.predicate)


def comma(parts: Iterable[sql.Composable]) -> sql.Composed:
    """Joins composables by commas."""
    return sql.SQL(", ").join(list(parts))


DOC_HASH = sql.SQL("sha256(convert_to(s.doc, 'UTF8'))")
"""The content hash of a row ``s`` of :meth:`Source.rows`: 32 bytes."""

HAS_TEXT = sql.SQL("btrim(s.doc, {}) <> ''").format(BLANK)
"""A row of nothing but white space has no vector: it is not eligible, and is counted."""


def resolve(conn: Connection, collection: Collection) -> Source:
    """Looks the collection's table and columns up. Raises :class:`SourceError` for what isn't there."""
    oid, schema, table, kind, row_security = find_table(conn, collection)
    if kind not in "rpmf":
        raise SourceError(
            f"{collection.table} is not a table", hint="table names a table, a partitioned or foreign table"
        )
    known = list_columns(conn, oid)
    source = Source(
        collection, oid, schema, table,
        key=tuple(pick(known, name, collection, "key") for name in collection.key),
        text=tuple(pick(known, name, collection, "text") for name in collection.text),
        columns=tuple(pick(known, name, collection, "columns") for name in collection.columns if name not in collection.key),
        row_security=row_security,
        partitioned=kind == "p",
        foreign=kind == "f",
        changed_at=tuple(pick(known, name, collection, "changed_at") for name in [collection.changed_at] if name),
    )  # fmt: skip
    check_predicate(conn, source)
    return source


def find_table(conn: Connection, collection: Collection) -> tuple[int, str, str, str, bool]:
    """oid, schema, name, kind and row security of the table, found as SQL would find it."""
    try:
        row = conn.execute(
            """select c.oid::bigint, n.nspname, c.relname, c.relkind, c.relrowsecurity
               from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = %s::regclass""",
            (collection.table,),
        ).fetchone()
    except (pg.UndefinedTable, pg.InvalidSchemaName, pg.SyntaxError, pg.InvalidName) as error:
        raise SourceError(
            f"collection {collection.name!r}: table {collection.table} is not there ({first_line(error)})",
            hint=f'table = … in [collections.{collection.name}]: schema.table, with "quotes" where the name needs them'
            + suggest_table(conn, collection.table),
        ) from error
    assert row is not None
    return row[0], row[1], row[2], row[3], row[4]


def suggest_table(conn: Connection, wanted: str) -> str:
    """The table whose name is nearest, if one is near."""
    rows = conn.execute(
        "select relname from pg_class where relkind in ('r', 'p') and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)"
    ).fetchall()
    near = difflib.get_close_matches(wanted.split(".")[-1].strip('"'), [row[0] for row in rows], 1)
    return f"; did you mean {near[0]}?" if near else ""


def list_columns(conn: Connection, oid: int) -> dict[str, Column]:
    """The table's columns by name."""
    rows = conn.execute(
        """select attname, format_type(atttypid, atttypmod), attnotnull,
                  case when attcollation <> typcollation then attcollation::regcollation::text else '' end
           from pg_attribute join pg_type t on t.oid = atttypid
           where attrelid = %s and attnum > 0 and not attisdropped order by attnum""",
        (oid,),
    ).fetchall()
    return {row[0]: Column(*row) for row in rows}


def pick(known: dict[str, Column], name: str, collection: Collection, role: str) -> Column:
    """The column that a name in the configuration means."""
    meant = name[1:-1].replace('""', '"') if name.startswith('"') and name.endswith('"') else name.lower()
    column = known.get(meant) or known.get(name)
    if column is None:
        near = difflib.get_close_matches(name, known, 1)
        raise SourceError(
            f"collection {collection.name!r}: {role} column {name!r} is not in {collection.table}",
            hint=f"it has {', '.join(known)}" + (f"; did you mean {near[0]}?" if near else ""),
        )
    return column


def check_predicate(conn: Connection, source: Source) -> None:
    """Has the server plan the predicate once, so that a slip in it is found before anything is changed."""
    try:
        conn.execute(sql.SQL("select from {} s limit 0").format(source.rows()))
    except psycopg.Error as error:
        raise SourceError(
            f"collection {source.collection.name!r}: the rows can't be read ({first_line(error)})",
            hint=f"where = {source.collection.where!r} is a predicate over {source.collection.table}"
            if source.collection.where
            else "check the role's rights on the table",
        ) from error


def check_key(conn: Connection, source: Source) -> None:
    """Refuses a key that has NULLs or duplicates; a unique index that covers it spares the scan.

    Raises :class:`SourceError`.
    """
    if has_unique_index(conn, source):
        if all(column.not_null for column in source.key):
            return
        if not scalar(conn, sql.SQL("select exists (select from {} where ({}) is null)").format(
                source.relation, sql.SQL(" is null or ").join(ident(c.name) for c in source.key))) :  # fmt: skip
            return
        raise key_error(source, "has NULLs")
    nulls = sql.SQL(" or ").join(sql.SQL("{} is null").format(ident(c.name)) for c in source.key)
    if scalar(conn, sql.SQL("select exists (select from {} where {})").format(source.relation, nulls)):
        raise key_error(source, "has NULLs")
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


def check_key_types(conn: Connection, source: Source, table: sql.Identifier, tag: str) -> None:
    """Refuses a source whose key is no longer of the types that ``table``, which holds vectors of ``tag``, has for it.

    Raises :class:`SourceError`. A table that is not there yet has nothing to differ.
    """
    name = table.as_string(conn)
    oid = scalar(conn, "select to_regclass(%s)::oid::bigint", (name,))
    known = list_columns(conn, oid) if oid is not None else {}
    for column in source.key:
        held = known.get(column.name)
        if known and (held is None or held.type != column.type):
            raise SourceError(
                f"key column {column.name} of {source.collection.table} is {column.type} now; "
                f"space {tag} was made for {held.type if held else 'another key'}",
                hint=f"alter table {name} alter column {column.name} type {column.type} using {column.name}::text::{column.type}; "
                "then embedmig sync --repair"
                if held
                else "a key can't be exchanged: make a new space under another version",
            )


@dataclass(frozen=True, slots=True)
class SourceCounts:
    """Rows of the source: those that meet ``where``, those of them without text, and characters in the rest."""

    rows: int
    blank: int
    characters: int

    @property
    def eligible(self) -> int:
        """Rows that want a vector."""
        return self.rows - self.blank


def count_rows(conn: Connection, source: Source) -> SourceCounts:
    """Counts the source's rows, one scan."""
    row = conn.execute(
        sql.SQL(
            "select count(*), count(*) filter (where not ({has_text})), coalesce(sum(length(s.doc)), 0) from {rows} s"
        ).format(has_text=HAS_TEXT, rows=source.rows())
    ).fetchone()
    assert row is not None
    return SourceCounts(*row)
