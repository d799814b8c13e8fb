"""The table that texts come from: what the catalog says of it, and the expressions that every query shares.

Names in the configuration are SQL names: ``schema.table``, folded to lower case unless quoted.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal, LiteralString, NamedTuple

import psycopg
from psycopg import errors as pg
from psycopg import sql

from embedmig.config import Collection
from embedmig.database import Connection, first_line, ident, literal, scalar, schema
from embedmig.database.sessions import SHOWS_EVERY_ROW
from embedmig.errors import SourceError

BLANK = sql.SQL(r"E' \t\n\r\f\x0B'")


@dataclass(frozen=True, slots=True)
class Column:
    """A column as the catalog knows it; ``type`` is what ``format_type`` prints, for people.

    ``qualified`` is the type for statements, whatever the search path; ``base`` is it without its domains: it takes NULL and
    every value. ``operators`` is the schema of the type's comparison operators, empty where it has no order.
    ``one_spelling``: equal values have equal texts. ``by_session``: the text depends on the session's settings.
    ``expression`` is that of a virtual generated column, which triggers see as NULL.
    """

    name: str
    type: str
    not_null: bool
    qualified: str = ""
    base: str = ""
    collation: str = ""
    operators: str = "pg_catalog"
    one_spelling: bool = True
    by_session: bool = False
    expression: str | None = None

    @property
    def declaration(self) -> str:
        """The type as a column definition needs it: keys join only where their collations agree."""
        return f"{self.qualified} collate {self.collation}" if self.collation else self.qualified

    @property
    def nullable(self) -> str:
        """The same without domains."""
        return f"{self.base} collate {self.collation}" if self.collation else self.base

    def operator(self, sign: LiteralString) -> sql.Composable:
        """A comparison by the type's own operator, wherever its extension is installed."""
        if self.operators == "pg_catalog":
            return sql.SQL(sign)
        return sql.SQL("operator({}.{})").format(ident(self.operators), sql.SQL(sign))


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
    child: bool = False  # of a partitioned table, or by inheritance: it is written by way of its parents too
    filtered: bool = False  # row-level security may hide rows from this role
    children: bool = False  # by inheritance: their rows are read with it, and written without it
    every: tuple[Column, ...] = ()
    changed_at: tuple[Column, ...] = ()  # one where changes are found by a watermark, none where by triggers

    def reading(self, text: Sequence[str]) -> Source:
        """The same table with the text columns that a version was made from, whatever the configuration names now.

        A column that is not there was renamed, if the configuration names as many: it says what stands in its place.
        """
        known = {column.name: column for column in self.every}
        places = zip(text, self.text, strict=True) if len(text) == len(self.text) else ((name, None) for name in text)
        return replace(self, text=tuple(known.get(name) or now or Column(name, "text", False) for name, now in places))

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
        return comma(self._part(array, position) for position in range(1, len(self.key) + 1))

    def _part(self, array: sql.Composable, position: int) -> sql.Composed:
        return sql.SQL("(({})[{}])::{}").format(array, sql.Literal(position), literal(self.key[position - 1].qualified))

    def join(self, left: str, right: str) -> sql.Composed:
        """``l."id" = r."id" and …``"""
        pairs = [
            sql.SQL("{} {} {}").format(ident(left, c.name), c.operator("="), ident(right, c.name)) for c in self.key
        ]
        return sql.SQL(" and ").join(pairs)

    def beyond(self, alias: str, sign: Literal["<", "<=", ">", ">="], array: sql.Composable) -> sql.Composed:
        """Whether a key lies on that side of the one in a ``text[]``: one comparison of rows, which an index answers."""
        if len({column.operators for column in self.key}) == 1:
            return sql.SQL("({}) {} ({})").format(self.key_of(alias), self.key[0].operator(sign), self.key_from(array))
        strict, last = sign[0], self.key[-1]
        side = sql.SQL("{} {} {}").format(
            ident(alias, last.name), last.operator(sign), self._part(array, len(self.key))
        )
        for place, column in reversed(list(enumerate(self.key[:-1], 1))):
            side = sql.SQL("({name} {beyond} {part} or ({name} {same} {part} and {rest}))").format(
                name=ident(alias, column.name), part=self._part(array, place), rest=side,
                beyond=column.operator("<" if strict == "<" else ">"), same=column.operator("="),
            )  # fmt: skip
        return side

    def document(self, alias: str | None = None, pinned: sql.Composable | None = None) -> sql.Composed:
        """The text columns joined by a blank line, NULLs skipped.

        ``pinned`` is a function that writes a value as embedmig's own sessions do, for statements that other sessions run.
        """
        names = ((c, ident(alias, c.name) if alias else ident(c.name)) for c in self.text)
        parts = (sql.SQL("{}({})").format(pinned, name) if pinned and c.by_session else name for c, name in names)
        return sql.SQL(r"concat_ws(E'\n\n', {})").format(comma(parts))

    def rows(
        self, *, text: bool = True, extra: Sequence[Column] = (), pinned: sql.Composable | None = None
    ) -> sql.Composed:
        """The eligible rows as a subquery: key columns, ``embedmig_doc`` (the joined text) and ``extra`` columns.

        The predicate stands inside, so that its unqualified names mean the source's columns and nothing else, and
        only the columns named are dependencies of a view made of it.
        """
        items: list[sql.Composable] = [ident(column.name) for column in (*self.key, *extra)]
        if text:
            items.append(sql.SQL("{} as embedmig_doc").format(self.document(pinned=pinned)))
        return sql.SQL("(select {} from {} where {})").format(comma(items), self.relation, self.predicate)


def comma(parts: Iterable[sql.Composable]) -> sql.Composed:
    """Joins composables by commas."""
    return sql.SQL(", ").join(list(parts))


DOC_HASH = sql.SQL("sha256(convert_to(s.embedmig_doc, 'UTF8'))")
"""The content hash of a row ``s`` of :meth:`Source.rows`: 32 bytes."""

HAS_TEXT = sql.SQL("btrim(s.embedmig_doc, {}) <> ''").format(BLANK)
"""A row of nothing but white space has no vector: it is not eligible, and is counted."""


def resolve(conn: Connection, collection: Collection) -> Source:
    """Looks the collection's table and columns up. Raises :class:`SourceError` for what isn't there."""
    found = find_table(conn, collection)
    if found.kind not in "rpmf":
        raise SourceError(
            f"collection {collection.name!r}: {collection.table} is {KINDS.get(found.kind, 'no table')}",
            hint="table names a table, a partitioned or foreign table, or a materialised view; docs/sources.md has the list",
        )
    known = list_columns(conn, found.oid)
    source = Source(
        collection, found.oid, found.schema, found.name,
        key=tuple(pick(known, name, collection, "key") for name in collection.key),
        text=tuple(pick(known, name, collection, "text") for name in collection.text),
        columns=tuple(pick(known, name, collection, "columns") for name in collection.columns if name not in collection.key),
        row_security=found.row_security,
        partitioned=found.kind == "p",
        foreign=found.kind == "f",
        child=found.child,
        filtered=found.filtered,
        children=found.children,
        every=tuple(known.values()),
        changed_at=tuple(pick(known, name, collection, "changed_at") for name in [collection.changed_at] if name),
    )  # fmt: skip
    check_predicate(conn, source)
    return source


def unresolved(collection: Collection) -> Source:
    """The source of a collection whose table, or a column of it, is not there: it has no columns."""
    return Source(collection, 0, "", collection.table, (), (), (), row_security=False)


KINDS = {"v": "a view", "S": "a sequence", "i": "an index", "c": "a composite type", "t": "a TOAST table"}


class Found(NamedTuple):
    """What the catalog says of a table; ``filtered``: row-level security may hide rows of it from this role."""

    oid: int
    schema: str
    name: str
    kind: str
    row_security: bool
    filtered: bool
    child: bool
    children: bool


FIND_TABLE = sql.SQL(
    """select c.oid::bigint, n.nspname, c.relname, c.relkind, c.relrowsecurity, row_security_active(c.oid) and not {},
           exists (select from pg_inherits where inhrelid = c.oid),
           c.relkind <> 'p' and exists (select from pg_inherits where inhparent = c.oid)
    from pg_class c join pg_namespace n on n.oid = c.relnamespace where c.oid = to_regclass(%s)"""
).format(SHOWS_EVERY_ROW)


def find_table(conn: Connection, collection: Collection) -> Found:
    """The table, found as SQL would find it. Raises :class:`SourceError`."""
    try:
        row = conn.execute(FIND_TABLE, (collection.table,)).fetchone()
    except (pg.SyntaxError, pg.InvalidName) as error:
        raise no_table(collection, f" ({first_line(error)})") from error
    if row is None:
        raise no_table(collection, suggestion=suggest_table(conn, collection.table))
    return Found(*row)


def no_table(collection: Collection, why: str = "", suggestion: str = "") -> SourceError:
    return SourceError(
        f"collection {collection.name!r}: table {collection.table} is not there{why}",
        hint=f'table = … in [collections.{collection.name}]: schema.table, with "quotes" where the name needs them{suggestion}',
    )


def suggest_table(conn: Connection, wanted: str) -> str:
    """The table whose name is nearest, if one is near."""
    rows = conn.execute(
        """select relname from pg_class where relkind in ('r', 'p') and relname <> all(%s)
           and relnamespace not in ('pg_catalog'::regnamespace, 'information_schema'::regnamespace)""",
        (list(schema.TABLES),),
    ).fetchall()
    near = difflib.get_close_matches(wanted.split(".")[-1].strip('"'), [row[0] for row in rows], 1)
    return f"; did you mean {near[0]}?" if near else ""


COLUMNS = """
    select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
           case when n.nspname <> 'pg_catalog' and pg_type_is_visible(t.oid) then quote_ident(n.nspname) || '.' else '' end
             || format_type(a.atttypid, a.atttypmod),
           case when bn.nspname <> 'pg_catalog' and pg_type_is_visible(b.oid) then quote_ident(bn.nspname) || '.' else '' end
             || format_type(b.oid, b.typmod),
           case when a.attcollation <> bt.typcollation then
             (select quote_ident(cn.nspname) || '.' || quote_ident(c.collname)
              from pg_collation c join pg_namespace cn on cn.oid = c.collnamespace where c.oid = a.attcollation) else '' end,
           coalesce((select o.nspname from pg_opclass k join pg_am m on m.oid = k.opcmethod
                     join pg_amop op on op.amopfamily = k.opcfamily and op.amopstrategy = 3
                       and op.amoplefttype = k.opcintype and op.amoprighttype = k.opcintype
                     join pg_operator e on e.oid = op.amopopr join pg_namespace o on o.oid = e.oprnamespace
                     where m.amname = 'btree' and k.opcdefault and k.opcintype = b.oid limit 1),
                    case when bt.typname = any(%(unordered)s) and bn.nspname = 'pg_catalog' then '' else 'pg_catalog' end),
           (bn.nspname = 'pg_catalog' and bt.typname = any(%(one_spelling)s) or bt.typtype = 'e')
             and coalesce((select c.collisdeterministic from pg_collation c where c.oid = a.attcollation), true),
           not (en.nspname = 'pg_catalog' and et.typname = any(%(fixed)s) or et.typtype = 'e'
                or et.typname in ('citext', 'ltree', 'hstore')),
           {expression}
    from pg_attribute a join pg_type t on t.oid = a.atttypid join pg_namespace n on n.oid = t.typnamespace
    cross join lateral (
      with recursive down as (
        select a.atttypid as oid, a.atttypmod as typmod, 0 as depth union all
        select d.typbasetype, d.typtypmod, depth + 1 from down join pg_type d on d.oid = down.oid where d.typtype = 'd')
      select oid, typmod from down order by depth desc limit 1) b
    join pg_type bt on bt.oid = b.oid join pg_namespace bn on bn.oid = bt.typnamespace
    join pg_type et on et.oid = case when bt.typelem <> 0 and bt.typlen = -1 then bt.typelem else bt.oid end
    join pg_namespace en on en.oid = et.typnamespace
    where a.attrelid = %(oid)s and a.attnum > 0 and not a.attisdropped order by a.attnum"""
VIRTUAL = """(select pg_get_expr(d.adbin, d.adrelid) from pg_attrdef d
              where a.attgenerated = 'v' and d.adrelid = a.attrelid and d.adnum = a.attnum)"""
UNORDERED = ["json", "xml", "point", "lseg", "path", "box", "polygon", "line", "circle"]
ONE_SPELLING = [
    "int2", "int4", "int8", "text", "varchar", "name", "uuid", "bool", "bytea", "date", "timestamp", "timestamptz", "time",
    "oid", "xid8", "inet", "cidr", "macaddr", "macaddr8", "bit", "varbit", "char", "money",
]  # fmt: skip
"""Types whose equal values are spelt alike; numeric, float8, interval, char(n), jsonb, arrays and others have more spellings."""
FIXED_TEXT = [
    "text", "varchar", "bpchar", "name", "char", "int2", "int4", "int8", "numeric", "bool", "uuid", "oid", "xid8", "json",
    "jsonb", "xml", "inet", "cidr", "macaddr", "macaddr8", "bit", "varbit", "time", "timetz", "tsvector", "tsquery", "pg_lsn",
]  # fmt: skip
"""Types whose text is the same in every session."""


def list_columns(conn: Connection, oid: int) -> dict[str, Column]:
    """The table's columns by name."""
    expression = VIRTUAL if conn.info.server_version >= 180000 else "null::text"
    rows = conn.execute(
        literal(COLUMNS.replace("{expression}", expression)),
        {"oid": oid, "unordered": UNORDERED, "one_spelling": ONE_SPELLING, "fixed": FIXED_TEXT},
    )
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


def hidden_rows(source: Source) -> SourceError:
    """Rows that a policy hides would seem to be deleted."""
    return SourceError(
        f"collection {source.collection.name!r}: row-level security hides rows of {source.collection.table} from this role",
        hint="run as a role that sees every row: by a policy USING (true) and no restrictive one, as the owner without FORCE ROW LEVEL SECURITY, or with BYPASSRLS",
    )


def check_predicate(conn: Connection, source: Source) -> None:
    """Has the server plan the predicate once, so that a slip in it is found before anything is changed."""
    try:
        conn.execute(sql.SQL("select from {} s limit 0").format(source.rows()))
    except psycopg.Error as error:
        if source.filtered:
            raise hidden_rows(source) from error
        raise SourceError(
            f"collection {source.collection.name!r}: the rows can't be read ({first_line(error)})",
            hint=f"where = {source.collection.where!r} is a predicate over {source.collection.table}"
            if source.collection.where
            else "check the role's rights on the table",
        ) from error


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


EVERY = sql.SQL("true")


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


def count_rows(conn: Connection, source: Source, among: sql.Composable = EVERY) -> SourceCounts:
    """Counts the source's rows ``s`` that meet a condition, one scan."""
    row = conn.execute(
        sql.SQL(
            "select count(*), count(*) filter (where not ({has_text})), coalesce(sum(length(s.embedmig_doc)), 0) from {rows} s where {among}"
        ).format(has_text=HAS_TEXT, rows=source.rows(), among=among)
    ).fetchone()
    assert row is not None
    return SourceCounts(*row)
