"""A space that was there before embedmig: vectors in a column of the source table itself, tagged where they are.

Which text they were made from nobody wrote down. So their completeness is by presence, and says so.
"""

from __future__ import annotations

from psycopg import sql

from embedmig.database import Connection, ident, literal, scalar
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.source import DOC_HASH, HAS_TEXT, Column, Source, comma
from embedmig.stores import IndexState, SpaceCounts
from embedmig.stores.pgvector.table import PgvectorStore


class AdoptedStore:
    """Reads a space that lives in the user's own table."""

    def __init__(self, source: Source, record: SpaceRecord) -> None:
        self.source = source
        self.record = record
        self.space = record.space
        self.embedding = record.embedding_column
        self.version = record.version_column

    def _rows(self, *, text: bool, shown: tuple[Column, ...] = ()) -> sql.Composed:
        own = self.own_columns()
        return self.source.rows(
            text=text, extra=(*(c for c in shown if c.name not in (self.embedding, self.version)), *own)
        )

    def own_columns(self) -> tuple[Column, ...]:
        """The vector and its version."""
        return tuple(Column(name, "", False) for name in (self.embedding, self.version))

    def held(self) -> sql.Composed:
        """By presence: of which text the vector was made is not known."""
        return self._tagged()

    def untagged(self) -> sql.Composed:
        """A vector that somebody wrote without its version."""
        return sql.SQL("({} is not null and {} is null)").format(ident("s", self.embedding), ident("s", self.version))

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

    def bytes(self, conn: Connection, vectors: int) -> int:
        """The vectors' own size, estimated from a sample of the column: the table belongs to the application."""
        query = sql.SQL("select coalesce(avg(pg_column_size({})), 0) from (select {} from {} limit 1000) s").format(
            ident("s", self.embedding), ident(self.embedding), self.source.relation
        )
        return int(scalar(conn, query) * vectors)

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


class AdoptedWriter(PgvectorStore):
    """Writes adopted vectors where they are, for ``writer="embedmig"``.

    A table beside the source keeps the content hash of what embedmig itself has written; about the rest nothing is
    claimed. That table stands where another space has its vectors, so the questions asked of it are the same.
    """

    def __init__(self, source: Source, record: SpaceRecord) -> None:
        super().__init__(source, record)
        self.table = record.hashes

    def create(self) -> sql.Composed:
        """The table of hashes."""
        keys = comma(
            sql.SQL("{} {} not null").format(ident(column.name), literal(column.declaration))
            for column in self.source.key
        )
        return sql.SQL(
            "create table if not exists {} ({}, chunk int not null default 0, content_hash bytea not null, "
            "primary key ({}, chunk))"
        ).format(self.table, keys, self.source.key_columns)

    def _insert(self) -> sql.Composed:
        """The row is locked by its own update, so its text can't change between the comparison and the write."""
        return sql.SQL(
            """with written as (
                 update {source} t set {embedding} = b.embedding, {version} = {tag} from {batch} b join {rows} s on {join}
                 where {own} and {hash} = b.content_hash
                   and sha256(convert_to({doc}, 'UTF8')) = b.content_hash
                 returning {written_key}, b.chunk, b.content_hash)
               insert into {table} as e ({key}, chunk, content_hash) select * from written
               on conflict ({key}, chunk) do update set content_hash = excluded.content_hash"""
        ).format(
            source=self.source.relation,
            embedding=ident(self.record.embedding_column),
            version=ident(self.record.version_column),
            tag=sql.Literal(self.space.tag),
            batch=self._batch_keys(),
            rows=self.source.rows(),
            join=self.source.join("b", "s"),
            own=self.source.join("b", "t"),
            hash=DOC_HASH,
            doc=self.source.document("t"),
            written_key=self.source.key_of("t"),
            table=self.table,
            key=self.source.key_columns,
        )


def writer_of(source: Source, record: SpaceRecord) -> PgvectorStore:
    """The store that embedmig writes a space through."""
    return AdoptedWriter(source, record) if record.adopted else PgvectorStore(source, record)
