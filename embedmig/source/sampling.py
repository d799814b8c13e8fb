"""A source by some of its rows: pages of its table at random, or rows in the order of a hash of their key.

The same sample each time, so that two looks at an unchanged table agree.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

from embedmig.database import Connection, ident, planned_rows, scalar
from embedmig.database.registry import as_array
from embedmig.source.rows import Key
from embedmig.source.table import HAS_TEXT, Column, Source, comma

NO_PAGES = (psycopg.errors.FeatureNotSupported, psycopg.errors.WrongObjectType)
"""Raised where a table has no pages to sample: it is a foreign one."""
SIZE_PAGES = 96  # looked at for a table's size
TEXT_PAGES = 1000  # looked at for texts, of a table that has more


@dataclass(frozen=True, slots=True)
class Pages:
    """Pages of a table at random. ``count`` are all that it has, ``percent`` of them are read."""

    count: int
    percent: float
    analysed: bool
    """Whether PostgreSQL has statistics of every part of the table."""

    @property
    def clause(self) -> sql.Composed:
        """To be written behind the table's name."""
        return sql.SQL("tablesample system ({}) repeatable (0)").format(sql.Literal(self.percent))


def some_pages(conn: Connection, relation: sql.Composable, most: int) -> Pages:
    """About ``most`` pages of a table, its partitions included."""
    row = conn.execute(
        """select coalesce(sum(pg_relation_size(c.oid)), 0) / current_setting('block_size')::int,
                  coalesce(bool_and(c.reltuples >= 0), true)
           from pg_class c where c.oid = any(%(leaves)s)""",
        {"leaves": leaves(conn, relation)},
    ).fetchone()
    assert row is not None
    count = int(row[0])
    return Pages(count, min(100.0, 100.0 * most / max(1, count)), row[1])


def leaves(conn: Connection, relation: sql.Composable) -> list[int]:
    """The tables in which a relation's rows really are: itself, or its partitions."""
    query = """select coalesce(relid::oid, c.oid)::bigint from pg_class c
               left join lateral pg_partition_tree(c.oid) on isleaf where c.oid = %s::regclass"""
    return [row[0] for row in conn.execute(query, (relation.as_string(conn),))]


def about(conn: Connection, relation: sql.Composable, most: int = SIZE_PAGES) -> int:
    """How many rows a table has: counted where it has no more than ``most`` pages, or else by its statistics; where it has
    none yet, by about ``most`` of its pages.
    """
    pages = some_pages(conn, relation, most)
    if pages.percent == 100.0:
        return int(scalar(conn, sql.SQL("select count(*) from {}").format(relation)))
    if pages.analysed:
        return planned_rows(conn, relation)
    query = sql.SQL("select count(*), count(distinct (tableoid, (ctid::text::point)[0])) from {} {}")
    row = conn.execute(query.format(relation, pages.clause)).fetchone()
    assert row is not None
    return int(row[0] / max(row[1], 1) * pages.count)


def sampled_rows(source: Source, pages: Pages, extra: Sequence[Column] = ()) -> sql.Composed:
    """Those pages as :meth:`Source.rows` shows the table, ineligible rows among them: ``embedmig_eligible`` says which,
    ``embedmig_page`` of which page each is.
    """
    return sql.SQL(
        """select {items}, {doc} as embedmig_doc, coalesce({predicate}, false) as embedmig_eligible,
                  (tableoid, (ctid::text::point)[0])::text as embedmig_page
           from {table} {pages}"""
    ).format(
        items=comma(ident(column.name) for column in (*source.key, *extra)), doc=source.document(),
        predicate=source.predicate, table=source.relation, pages=pages.clause,
    )  # fmt: skip


def by_hash(key: sql.Composable, seed: int) -> sql.Composed:
    """An order that has nothing to do with the rows' place on disk."""
    return sql.SQL("hashtextextended({}::text, {})").format(key, sql.Literal(seed))


def draw_rows(conn: Connection, source: Source, size: int, seed: int) -> list[tuple[Key, str]]:
    """``size`` rows with text, or as many as there are, from the whole table: key and text."""
    query = sql.SQL("select {key}, s.embedmig_doc from {rows} s where {has_text} order by {hash}, {key} limit {size}").format(
        key=source.key_text("s"), rows=source.rows(), has_text=HAS_TEXT, hash=by_hash(source.key_text("s"), seed),
        size=sql.Literal(size),
    )  # fmt: skip
    return [(tuple(row[0]), row[1]) for row in conn.execute(query)]


def named_rows(conn: Connection, source: Source, keys: Iterable[Key]) -> list[tuple[Key, str]]:
    """Those of these rows that have text: key and text."""
    query = sql.SQL(
        "select k.key, s.embedmig_doc from (select unnest({}::text[])::text[] as key) k join {} s on {} = k.key where {}"
    ).format(
        sql.Literal([as_array(key) for key in keys]), source.rows(), source.key_text("s"), HAS_TEXT
    )  # fmt: skip
    return [(tuple(row[0]), row[1]) for row in conn.execute(query)]


def draw_texts(conn: Connection, source: Source, size: int) -> list[str]:
    """About ``size`` texts, without a look at the whole of a big table.

    Texts of rows that are not taken stay where they are: they are joined after the draw.
    """
    pages = some_pages(conn, source.relation, TEXT_PAGES).clause
    order = sql.SQL("order by {}").format(by_hash(source.key_text(source.table), 1))
    try:
        return _texts(conn, source, size, pages, order)
    except NO_PAGES:
        return _texts(conn, source, size, sql.SQL(""), sql.SQL(""))


def _texts(conn: Connection, source: Source, size: int, pages: sql.Composable, order: sql.Composable) -> list[str]:
    names = comma(ident(name) for name in dict.fromkeys(column.name for column in (*source.key, *source.text)))
    query = sql.SQL(
        """select s.embedmig_doc from (
             select {doc} as embedmig_doc from (select {names} from {table} {pages} where {where} {order} limit {size}) r) s
           where {has_text}"""
    ).format(
        doc=source.document(), names=names, table=source.relation, pages=pages, where=source.predicate, order=order,
        size=sql.Literal(size), has_text=HAS_TEXT,
    )  # fmt: skip
    return [row[0] for row in conn.execute(query)]
