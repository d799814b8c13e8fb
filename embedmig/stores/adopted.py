"""A space that was there before embedmig: vectors in a column of the source table itself, tagged where they are.

Which text they were made from nobody wrote down. So their completeness is by presence, and says so.
"""

from __future__ import annotations

from psycopg import sql

from embedmig.db import Connection, ident, literal, scalar
from embedmig.registry import Registry, SpaceRecord
from embedmig.source import HAS_TEXT, Column, Source
from embedmig.stores import IndexState, SpaceCounts


class AdoptedStore:
    """Reads a space that lives in the user's own table."""

    def __init__(self, source: Source, record: SpaceRecord) -> None:
        self.source = source
        self.record = record
        self.space = record.space
        self.embedding = record.embedding_column
        self.version = record.version_column

    def _rows(self, *, text: bool, shown: tuple[Column, ...] = ()) -> sql.Composed:
        own = tuple(Column(name, "", False) for name in (self.embedding, self.version))
        return self.source.rows(
            text=text, extra=(*(c for c in shown if c.name not in (self.embedding, self.version)), *own)
        )

    def _tagged(self) -> sql.Composed:
        return sql.SQL("{} is not null and {} = {}").format(
            ident("s", self.embedding), ident("s", self.version), sql.Literal(self.space.tag)
        )

    def counts(self, conn: Connection, registry: Registry) -> SpaceCounts:
        """One scan of the source."""
        query = sql.SQL(
            """select count(*) filter (where {has_text}), count(*) filter (where {has_text} and {tagged}),
                      count(*) filter (where {tagged}), count(*) filter (where not {has_text}),
                      count(*) filter (where {embedding} is not null and {version} is null)
               from {rows} s"""
        ).format(
            has_text=HAS_TEXT, tagged=self._tagged(), embedding=ident("s", self.embedding), version=ident("s", self.version),
            rows=self._rows(text=True),
        )  # fmt: skip
        row = conn.execute(query).fetchone()
        assert row is not None
        return SpaceCounts(
            eligible=row[0], complete=row[1], vectors=row[2], blank=row[3], untagged=row[4], hash_known=False
        )

    def vectors(self, conn: Connection) -> int:
        """How many rows carry a vector with the space's tag."""
        return int(
            scalar(conn, sql.SQL("select count(*) from {} s where {}").format(self._rows(text=False), self._tagged()))
        )

    def index_state(self, conn: Connection) -> IndexState:
        """The best state among the vector indexes on the adopted column."""
        rows = conn.execute(
            """select i.indisvalid and i.indisready from pg_index i join pg_class c on c.oid = i.indexrelid
               join pg_am m on m.oid = c.relam join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
               where i.indrelid = %s and a.attname = %s and m.amname in ('hnsw', 'ivfflat')""",
            (self.source.oid, self.embedding),
        ).fetchall()
        return "none" if not rows else "valid" if any(row[0] for row in rows) else "invalid"

    def bytes(self, conn: Connection) -> int:
        """The vectors' own size, estimated from a sample of the column: the table belongs to the application."""
        query = sql.SQL("select coalesce(avg(pg_column_size({})), 0) from (select {} from {} limit 1000) s").format(
            ident("s", self.embedding), ident(self.embedding), self.source.relation
        )
        return int(scalar(conn, query) * self.vectors(conn))

    def view(self) -> sql.Composed:
        """The alias view on the adopted column: an untagged row is never read."""
        extra = [sql.SQL(", {}").format(ident("s", column.name)) for column in self.source.columns]
        return sql.SQL(
            """select {shown}, 0 as chunk, {tag}::text as version, {embedding}::{type} as embedding{extra}
               from {rows} s where {tagged}"""
        ).format(
            shown=self.source.key_of("s"), tag=sql.Literal(self.space.tag), embedding=ident("s", self.embedding),
            type=literal(self.space.storage), extra=sql.Composed(extra),
            rows=self._rows(text=False, shown=self.source.columns), tagged=self._tagged(),
        )  # fmt: skip
