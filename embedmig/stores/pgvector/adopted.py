"""A space that was there before embedmig: vectors in a column of the source table itself, tagged where they are.

Which text they were made from nobody wrote down. So their completeness is by presence, and says so. Where embedmig
writes new ones (``writer="embedmig"``), a table beside the source keeps the content hash of what it has written itself;
about the rest nothing is claimed. That table is the manifest.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from psycopg import sql

from embedmig.config import Collection
from embedmig.database import Connection, ident, literal, scalar
from embedmig.database.registry import Place, SpaceRecord
from embedmig.errors import PlanError, UsageError
from embedmig.source import DOC_HASH, HAS_TEXT, Column, Source, comma, find_table, list_columns, pick
from embedmig.source.rows import Key
from embedmig.source.sampling import by_hash
from embedmig.stores.manifest import SpaceCounts
from embedmig.stores.pgvector import extension
from embedmig.stores.pgvector.hnsw import IndexEncoding
from embedmig.stores.pgvector.table import SHOWN, PgvectorStore, TablePlace
from embedmig.stores.protocol import IndexBuild, IndexOptions, IndexState
from embedmig.types import Space


class AdoptedStore(PgvectorStore):
    """Reads, and where embedmig is the writer also writes, a space that lives in the user's own table."""

    def __init__(self, source: Source, record: SpaceRecord) -> None:
        super().__init__(source, record, ident(record.ledger_schema, f"written_{record.id}"))
        self.embedding, self.version = self.place.embedding, self.place.version

    @property
    def tables(self) -> tuple[sql.Identifier, ...]:
        """The source alone: the vectors are in it."""
        return (self.source.relation,)

    @property
    def own_columns(self) -> tuple[Column, ...]:
        """The vector and its version."""
        return tuple(Column(name, "", False) for name in (self.embedding, self.version))

    def present(self, *, current: bool = True) -> sql.Composable:
        """By the hashes of what embedmig wrote; by presence where the text is not asked for, or nobody wrote it down."""
        if current and self.record.writer == "embedmig":
            return super().present()
        return sql.SQL("coalesce({}, false)").format(self.held())  # of no version: not null, but not here

    def held(self) -> sql.Composed:
        """By presence: of which text the vector was made is not known."""
        return sql.SQL("({} is not null and {} = {})").format(
            ident("s", self.embedding), ident("s", self.version), sql.Literal(self.space.tag)
        )

    def untagged(self) -> sql.Composable:
        """A vector that somebody wrote without its version."""
        return sql.SQL("({} is not null and {} is null)").format(ident("s", self.embedding), ident("s", self.version))

    def counts(self, conn: Connection) -> SpaceCounts:
        """One scan of the source."""
        query = sql.SQL(
            """select count(*) filter (where {has_text}), count(*) filter (where {has_text} and {held}),
                      count(*) filter (where {held}), count(*) filter (where not {has_text}),
                      count(*) filter (where {untagged})
               from {rows} s"""
        ).format(has_text=HAS_TEXT, held=self.held(), untagged=self.untagged(), rows=self.rows())
        row = conn.execute(query).fetchone()
        assert row is not None
        return SpaceCounts(
            eligible=row[0], complete=row[1], vectors=row[2], blank=row[3], untagged=row[4], hash_known=False
        )

    def count(self, conn: Connection) -> int:
        """How many rows carry a vector with the space's tag."""
        query = sql.SQL("select count(*) from {} s where {}").format(self.rows(text=False), self.held())
        return int(scalar(conn, query))

    def index_state(self, conn: Connection) -> IndexState:
        """The best state among the vector indexes on the adopted column."""
        rows = conn.execute(
            """select i.indisvalid and i.indisready from pg_index i join pg_class c on c.oid = i.indexrelid
               join pg_am m on m.oid = c.relam join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
               where i.indrelid = %s and a.attname = %s and m.amname in ('hnsw', 'ivfflat')""",
            (self.source.oid, self.embedding),
        ).fetchall()
        return "none" if not rows else "valid" if any(row[0] for row in rows) else "invalid"

    def form(self, conn: Connection) -> IndexEncoding | None:
        """An index of the application's is over the vectors."""
        return None

    def disk_bytes(self, conn: Connection, vectors: int) -> int:
        """The vectors' own size, estimated from a sample of the column: the table belongs to the application."""
        query = sql.SQL("select coalesce(avg(pg_column_size({})), 0) from (select {} from {} limit 1000) s").format(
            ident("s", self.embedding), ident(self.embedding), self.source.relation
        )
        return int(scalar(conn, query) * vectors)

    def view(self, order: Sequence[str] = ()) -> sql.Composed:
        """The alias view on the adopted column: an untagged row is never read."""
        return sql.SQL(
            """select {shown}, 0 as chunk, {tag}::text as version, {embedding}::{type} as embedding{extra}
               from {rows} s where {held}"""
        ).format(
            shown=self.source.key_of("s"), tag=sql.Literal(self.space.tag), embedding=ident("s", self.embedding),
            type=literal(self.space.storage), extra=self.following(order),
            rows=self.rows(text=False, extra=self.source.columns), held=self.held(),
        )  # fmt: skip

    # --- writing

    def create_sql(self) -> sql.Composed:
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
            embedding=ident(self.embedding),
            version=ident(self.version),
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

    # --- what belongs to the application

    def drop(self, conn: Connection) -> None:
        """Refused."""
        raise PlanError("adopted vectors belong to the application; embedmig doesn't drop them")

    def delete(self, conn: Connection, ids: Sequence[str]) -> None:
        """Refused: a vector goes with its row."""
        raise PlanError("adopted vectors belong to the application; embedmig doesn't delete them")

    def id_of(self, key: Key, chunk: int, content_hash: bytes) -> str:
        """By key alone: of which text the vector was made is not known."""
        return super().id_of(key, 0, b"")

    def _stored(self) -> sql.Composed:
        """The vectors of this version."""
        return sql.SQL(
            "(select {key}, 0 as chunk, ''::bytea as content_hash, {embedding} as embedding from {rows} s where {held}) e"
        ).format(
            key=self.source.key_of("s"), embedding=ident("s", self.embedding), rows=self.rows(text=False), held=self.held()
        )  # fmt: skip

    def build_index(self, conn: Connection, options: IndexOptions, build: IndexBuild) -> str:
        """Refused."""
        raise PlanError(ITS_OWN_INDEX)

    def current_values(self, after: Key | None, upto: Key | None) -> sql.Composed:
        """Of which text a vector was made is not known, so all count as current but those that embedmig wrote for another text."""
        outdated = sql.SQL("false")
        if self.record.writer == "embedmig":
            outdated = sql.SQL("exists (select from {} w where {} and w.content_hash <> {})").format(  # type: ignore[assignment]
                self.table, self.source.join("w", "s"), DOC_HASH
            )
        return sql.SQL(
            """select {key}, 0 as chunk, {hash} as content_hash, {embedding} as embedding from {rows} s
               where {bounds} and {has_text} and {held} and vector_dims({embedding}) = {dimensions} and not {outdated}"""
        ).format(
            key=self.source.key_of("s"), hash=DOC_HASH, embedding=ident("s", self.embedding), rows=self.rows(),
            bounds=self.between(after, upto), has_text=HAS_TEXT, held=self.held(), dimensions=sql.Literal(self.space.dimensions),
            outdated=outdated,
        )  # fmt: skip

    # --- what an audit asks

    def untagged_since_adoption(self, conn: Connection) -> str | None:
        """Adoption tags all rows that are there without rewriting them, which the catalog remembers."""
        query = "select atthasmissing from pg_attribute where attrelid = %s and attname = %s"
        return self.version if scalar(conn, query, (self.source.oid, self.version)) else None

    def _drawn(self, size: int, seed: int) -> sql.Composed:
        """Vectors of this version in the adopted column, beside the text that stands there now."""
        return sql.SQL(
            """select {key}, s.embedmig_doc, 0, null::int, e.embedding
               from (select {key} as embedmig_key, {columns}, {embedding}::real[] as embedding from {table} e
                     where {embedding} is not null and {version} = {tag} and vector_dims({embedding}) = {dimensions}
                     order by {order} limit {size}) e
               join {rows} s on {join} where {has_text}"""
        ).format(
            key=self.source.key_text("e"), columns=self.source.key_columns, embedding=ident("e", self.embedding),
            table=self.place.relation, version=ident("e", self.version), tag=sql.Literal(self.record.version),
            dimensions=sql.Literal(self.space.dimensions), order=by_hash(self.source.key_text("e"), seed), size=sql.Literal(size),
            rows=self.source.rows(), join=self.source.join("s", "e"), has_text=HAS_TEXT,
        )  # fmt: skip


ITS_OWN_INDEX = "an adopted space is indexed by its application; op.execute can create an index on its column"


@dataclass(frozen=True, slots=True)
class Adoption:
    """A column of vectors that is about to become a space. ``table`` is the source's name in the script."""

    source: Source
    space: Space
    table: str
    column: str
    version_column: str

    @property
    def place(self) -> Place:
        """The column, where it is."""
        return TablePlace(self.source.schema, self.source.table, self.column, self.version_column)

    def check(self, conn: Connection, *, tagged: bool) -> None:
        """The column must be the collection's own, of the right type and length, and the version column free unless the
        space is ``tagged`` already. Raises :class:`PlanError`, :class:`DatabaseUnsuitable`.
        """
        extension.check(conn)
        if find_table(conn, replace(self.source.collection, table=self.table)).oid != self.source.oid:
            raise PlanError(
                f"adopt_space: {self.table} is not the table of collection {self.space.collection!r} ({self.source.collection.table})",
                hint="vectors are adopted where the texts are",
            )
        if taken := set(SHOWN) & {key.name for key in self.source.key}:
            raise PlanError(
                f"key column {min(taken)!r} of {self.table} has the name of a column that the alias has itself",
                hint=f"rename it in the table; the alias has {', '.join(SHOWN)}",
            )
        known = list_columns(conn, self.source.oid)
        self._check_type(conn, pick(known, self.column, self.source.collection, "embedding"))
        version = known.get(self.version_column)
        if not tagged and version is not None and version.type not in ("text", "character varying"):
            raise PlanError(
                f"adopt_space: {self.table}.{self.version_column} is there already, as {version.type}",
                hint='version_column="…" names another',
            )

    def _check_type(self, conn: Connection, column: Column) -> None:
        match = re.fullmatch(r"(?:.+\.)?(vector|halfvec)(?:\((\d+)\))?", column.type)
        if match is None or match[1] != self.space.storage:
            raise PlanError(
                f"adopt_space: {self.table}.{column.name} is {column.type}, the space says {self.space.storage}",
                hint='storage="vector" or "halfvec", as the column is',
            )
        found = int(match[2]) if match[2] else self._other_length(conn, column)
        if found not in (None, self.space.dimensions):
            raise PlanError(
                f"adopt_space: {self.table}.{column.name} holds vectors of {found} dimensions, the space says {self.space.dimensions}",
                hint=f"dimensions={found}, and the model that made them",
            )

    def _other_length(self, conn: Connection, column: Column) -> int | None:
        """A column of bare ``vector`` may hold several lengths."""
        query = sql.SQL(
            "select vector_dims({c}) from {t} where {w} and {c} is not null and vector_dims({c}) <> {d} limit 1"
        )
        values = {
            "c": ident(column.name), "t": self.source.relation, "w": self.source.predicate, "d": sql.Literal(self.space.dimensions),
        }  # fmt: skip
        found = scalar(conn, query.format(**values))
        return int(found) if found is not None else None

    def tag_sql(self, conn: Connection) -> list[sql.Composed]:
        """Two statements that tag every row and rewrite none; none where the column is there. Of a table that several
        collections share, the rows within ``where`` that have no tag yet are updated.
        """
        values = {
            "table": self.source.relation, "column": ident(self.version_column), "vector": ident(self.column),
            "tag": sql.Literal(self.space.tag), "where": self.source.predicate,
        }  # fmt: skip
        there = self.version_column in list_columns(conn, self.source.oid)
        if self.source.collection.where is None:
            statements = [] if there else [
                "alter table {table} add column {column} text default {tag}",
                "alter table {table} alter column {column} drop default",
            ]  # fmt: skip
        else:
            statements = [] if there else ["alter table {table} add column {column} text"]
            statements.append(
                "update {table} set {column} = {tag} where {where} and {vector} is not null and {column} is null"
            )
        if not there:
            statements.append("comment on column {table}.{column} is {comment}")
        return [sql.SQL(statement).format(**values, comment=sql.Literal(ADDED)) for statement in statements]


ADDED = "added by embedmig: the version of the row's vector"
"""The comment of a version column that was not there before: what an uninstall may remove."""


class UnaccountedColumn(NamedTuple):
    """A column of vectors that no space accounts for, with its type, the table's rows and those that have a vector."""

    name: str
    type: str
    rows: int
    vectors: int


def vectors_in(conn: Connection, collection: Collection, column: str) -> dict[str, Any]:
    """Storage and dimensions of a column of ``collection.table``, as fields of a space; dimensions where they can be known.

    Raises :class:`SourceError` where there is no such table or column, :class:`UsageError` where it holds no vectors.
    """
    found = find_table(conn, collection)
    known = pick(list_columns(conn, found.oid), column, collection, "embedding")
    match = re.fullmatch(r"(?:.+\.)?(vector|halfvec)(?:\((\d+)\))?", known.type)
    if match is None:
        raise UsageError(
            f"{collection.table}.{known.name} is {known.type}, which holds no vectors", hint="vector or halfvec"
        )
    query = sql.SQL("select vector_dims({c}) from {t} where {c} is not null limit 1")
    length = match[2] or scalar(conn, query.format(c=ident(known.name), t=ident(found.schema, found.name)))
    return {"storage": match[1]} | ({"dimensions": int(length)} if length else {})


def unaccounted_columns(
    conn: Connection, source: Source, records: Sequence[SpaceRecord]
) -> Iterator[UnaccountedColumn]:
    """Columns of vectors in the source that none of ``records`` has adopted."""
    adopted = {TablePlace(*one.place).embedding for one in records if one.adopted}
    for column in list_columns(conn, source.oid).values():
        if column.type.split(".")[-1].startswith(("vector", "halfvec")) and column.name not in adopted:
            held = sql.SQL("select count(*), count({c}) from {t}").format(c=ident(column.name), t=source.relation)
            row = conn.execute(held).fetchone()
            assert row is not None
            if row[1]:
                yield UnaccountedColumn(column.name, column.type, *row)
