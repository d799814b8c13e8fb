"""A space as a table of its own in PostgreSQL, typed to its dimensions: manifest and vectors in one."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar, NamedTuple

from psycopg import errors as pg
from psycopg import sql

from embedmig.database import Connection, ident, literal, scalar
from embedmig.database.registry import Place, SpaceRecord
from embedmig.errors import PlaceMissing, PlanError, VectorRefused
from embedmig.source import DOC_HASH, HAS_TEXT, Source, comma
from embedmig.source.rows import Key
from embedmig.source.sampling import by_hash
from embedmig.stores import aliases
from embedmig.stores.manifest import Manifest
from embedmig.stores.pgvector import extension, index
from embedmig.stores.pgvector.copy_format import copy_bytes
from embedmig.stores.pgvector.hnsw import LIMIT, IndexEncoding, encoding_of
from embedmig.stores.pgvector.search import OFFSETS, Shown, nearest, shown
from embedmig.stores.protocol import Batch, Capabilities, IndexBuild, IndexOptions, IndexState
from embedmig.types import MAX_DIMENSIONS, Hit, Space

RESERVED = ("chunk", "version", "content_hash", "embedding", "embedded_at", "chunk_count", "chunk_start", "chunk_end")
SHOWN = ("chunk", "version", "embedding", *OFFSETS)  # by the alias


class TablePlace(NamedTuple):
    """A :data:`Place` as this store understands it."""

    schema: str
    table: str
    embedding: str
    version: str

    @property
    def relation(self) -> sql.Identifier:
        """The table that holds the vectors."""
        return ident(self.schema, self.table)


def table_name(space: Space, fingerprint: str) -> str:
    """A name within PostgreSQL's 63 bytes that tells the space and can't collide with another's."""
    slug = re.sub(r"[^a-z0-9]+", "_", f"{space.collection} {space.name} {space.version} {space.dimensions}".lower())
    unique = hashlib.sha256(f"{space.collection}\0{space.tag}\0{fingerprint}".encode()).hexdigest()[:8]
    return f"{slug.strip('_')[:52]}_{unique}"


def vector_type(space: Space) -> sql.SQL:
    """``vector(256)`` or ``halfvec(256)``."""
    return literal(f"{space.storage}({space.dimensions})")


class PgvectorStore(Manifest):
    """One space's table: a manifest that holds the vectors too, and the :class:`VectorStore` of those."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        dimensions=max(MAX_DIMENSIONS.values()),
        indexed_dimensions=max(LIMIT.values()),
        metrics=frozenset(("cosine", "l2", "ip")),
        filters=True,
        alias=True,
        same_transaction=True,
    )

    def __init__(self, source: Source, record: SpaceRecord, table: sql.Identifier | None = None) -> None:
        self.place = TablePlace(*record.place)
        super().__init__(source, record, table or self.place.relation)
        # A model in half precision rounds each component by up to 2⁻¹¹ = 4.9e-4 of itself, and so the norm; stored in
        # half precision it is rounded once more.
        self.norm_tolerance = 1e-3 if self.space.storage == "vector" else 2e-3

    # --- the table

    @staticmethod
    def new_place(space: Space, fingerprint: str, schema: str) -> Place:
        """A table in embedmig's own schema."""
        return TablePlace(schema, table_name(space, fingerprint), "embedding", "version")

    @staticmethod
    def check_server(conn: Connection) -> None:
        """pgvector must be there, or to be had."""
        extension.check(conn)

    @staticmethod
    def server_sql(conn: Connection) -> list[sql.SQL]:
        """The extension."""
        return extension.create_sql(conn)

    @staticmethod
    def check_source(source: Source) -> None:
        """A key column can't have the name of a column of the table's own, nor a column that the alias shows of its own."""
        taken = [column.name for column in source.key if column.name in RESERVED]
        if taken:
            raise PlanError(
                f"key column {taken[0]!r} of {source.collection.table} has a name that spaces use themselves",
                hint=f"rename it in the table; spaces have {', '.join(RESERVED)}",
            )
        taken = [column.name for column in source.columns if column.name in SHOWN]
        if taken:
            raise PlanError(
                f"columns: {taken[0]!r} of {source.collection.table} has the name of a column that the alias has itself",
                hint=f"rename it in the table, or leave it out of columns; the alias has {', '.join(SHOWN)}",
            )

    @property
    def name(self) -> str:
        """The version, which the alias view says of each of its rows."""
        return self.record.version

    def create(self, conn: Connection) -> None:
        """The extension where it is not there yet, and the table. A table of the same name must be the same."""
        extension.create(conn)
        conn.execute(self.create_sql())
        made = scalar(
            conn,
            "select format_type(atttypid, atttypmod) from pg_attribute where attrelid = to_regclass(%s) and attname = %s",
            (self.place.relation.as_string(conn), self.place.embedding),
        )
        if made.split(".")[-1] != vector_type(self.space).as_string(conn):
            raise VectorRefused(
                f"{'.'.join(self.place[:2])} is there already and holds {made}, not {self.space.dimensions} dimensions",
                hint="choose another version for the new space",
            )

    def create_sql(self) -> sql.Composed:
        """The space's table. No foreign key to the source: dropping it would lock the source out."""
        keys = comma(
            sql.SQL("{} {} not null").format(ident(column.name), literal(column.declaration))
            for column in self.source.key
        )
        pieces = sql.SQL(", chunk_count int not null, chunk_start int not null, chunk_end int not null")
        return sql.SQL(
            """create table if not exists {table} (
                 {keys},
                 chunk int not null default 0,
                 version text not null default {tag} check (version = {tag}),
                 content_hash bytea not null,
                 embedding {type} not null,
                 embedded_at timestamptz not null default now(){pieces},
                 primary key ({key}, chunk)
               )"""
        ).format(
            table=self.table, keys=keys, tag=sql.Literal(self.space.tag), type=vector_type(self.space),
            pieces=pieces if self.space.chunk else sql.SQL(""), key=self.source.key_columns,
        )  # fmt: skip

    def drop(self, conn: Connection) -> None:
        """Drops the table."""
        conn.execute(self.drop_sql())

    def drop_sql(self) -> sql.Composed:
        """The statement that drops the table."""
        return sql.SQL("drop table if exists {}").format(self.table)

    def disk_bytes(self, conn: Connection, vectors: int) -> int:
        """What the table takes on disk, indexes included."""
        return int(
            scalar(conn, "select coalesce(pg_total_relation_size(to_regclass(%s)), 0)", (self.table.as_string(conn),))
        )

    def count(self, conn: Connection) -> int:
        """One scan of the table."""
        with refusals(self.space):
            return int(scalar(conn, sql.SQL("select count(*) from {}").format(self.table)))

    # --- points

    def upsert(self, conn: Connection, batch: Batch) -> int:
        """What :meth:`write` does with one batch, in a transaction of its own or in the caller's.

        A row that the source does not have, or has with another text by now, is not taken.
        """
        with refusals(self.space), conn.transaction():
            self.prepare_writer(conn)
            return self._put(conn, [batch], first=False)

    def id_of(self, key: Key, chunk: int, content_hash: bytes) -> str:
        """Of what the table has of each vector: it is found by its key, and says its text."""
        return json.dumps([*key, chunk, content_hash.hex()], ensure_ascii=False)

    def list_ids(self, conn: Connection) -> Iterator[str]:
        """One snapshot of the table, read a part at a time."""
        query = sql.SQL("select {}, e.chunk, e.content_hash from {}").format(self.source.key_text("e"), self._stored())
        with refusals(self.space), conn.transaction(), conn.cursor(name="embedmig_ids") as cursor:
            for key, chunk, content_hash in cursor.execute(query):
                yield self.id_of(tuple(key), chunk, content_hash)

    def delete(self, conn: Connection, ids: Sequence[str]) -> None:
        """One statement."""
        with refusals(self.space):
            conn.execute(sql.SQL("delete from {} e using {}").format(self.table, self._points(ids)))

    def fetch(self, conn: Connection, ids: Sequence[str]) -> Mapping[str, Sequence[float]]:
        """One statement."""
        query = sql.SQL("select {}, e.chunk, e.content_hash, e.embedding::real[] from {}, {}").format(
            self.source.key_text("e"), self._stored(), self._points(ids)
        )
        with refusals(self.space):
            return {self.id_of(tuple(row[0]), row[1], row[2]): row[3] for row in conn.execute(query)}

    def _stored(self) -> sql.Composed:
        """Where the points are, as a relation ``e``."""
        return sql.SQL("{} e").format(self.table)

    def _points(self, ids: Sequence[str]) -> sql.Composed:
        """The points as a relation ``p``, joined to the table ``e``."""
        columns = list(zip(*map(json.loads, ids), strict=True)) or [()] * (len(self.source.key) + 2)
        names = [*(ident(f"k{n}") for n in range(1, len(columns) - 1)), ident("chunk"), ident("digest")]
        arrays = comma(
            sql.SQL("{}::text[]").format(sql.Literal([str(value) for value in column])) for column in columns
        )
        keys = [
            sql.SQL("{} {} {}::{}").format(
                ident("e", column.name), column.operator("="), ident("p", f"k{n}"), literal(column.qualified)
            )
            for n, column in enumerate(self.source.key, 1)
        ]
        return sql.SQL(
            "unnest({}) p({}) where {} and e.chunk = p.chunk::int and e.content_hash = decode(p.digest, 'hex')"
        ).format(arrays, comma(names), sql.SQL(" and ").join(keys))  # fmt: skip

    # --- writing

    def prepare_writer(self, conn: Connection) -> None:
        """Once a writing connection: the table that batches are copied into, and a planner that looks rows up by key.

        Vectors stay in its rows as long as a page holds them: out of line, each would be cut up, indexed and put together again
        on its way.
        """
        keys = comma(sql.SQL("{} text").format(ident(f"k{n}")) for n in range(1, len(self.source.key) + 1))
        conn.execute(
            sql.SQL(
                """create temp table if not exists embedmig_batch (
                     {}, chunk int, content_hash bytea, chunk_count int, chunk_start int, chunk_end int, embedding {}
                   ) with (toast_tuple_target = 8160) on commit delete rows"""
            ).format(keys, vector_type(self.space))
        )
        conn.execute("set enable_hashjoin = off; set enable_mergejoin = off")

    def _put(self, conn: Connection, batches: Sequence[Batch], *, first: bool) -> int:
        """One COPY and one INSERT for all of them."""
        if not first:
            conn.execute("truncate embedmig_batch")
        columns = [f"k{n}" for n in range(1, len(self.source.key) + 1)]
        columns += ["chunk", "content_hash", "chunk_count", "chunk_start", "chunk_end", "embedding"]
        query = sql.SQL("copy embedmig_batch ({}) from stdin (format binary)").format(comma(ident(c) for c in columns))
        with conn.cursor() as cursor, cursor.copy(query) as copy:
            copy.write(copy_bytes(batches, self.space.storage, conn.info.encoding))
        if self.space.chunk:
            conn.execute(self._delete_surplus())
        return conn.execute(self._insert()).rowcount

    def _batch_keys(self) -> sql.Composed:
        """The batch with its keys in their own types, as ``b``."""
        keys = comma(
            sql.SQL("{}::{} as {}").format(ident(f"k{n}"), literal(column.qualified), ident(column.name))
            for n, column in enumerate(self.source.key, 1)
        )
        return sql.SQL(
            "(select {}, chunk, content_hash, chunk_count, chunk_start, chunk_end, embedding from embedmig_batch)"
        ).format(keys)

    def _insert(self) -> sql.Composed:
        pieces = sql.SQL(", chunk_count, chunk_start, chunk_end") if self.space.chunk else sql.SQL("")
        update = sql.SQL(
            ", chunk_count = excluded.chunk_count, chunk_start = excluded.chunk_start, chunk_end = excluded.chunk_end"
        )
        return sql.SQL(
            """insert into {table} as e ({key}, chunk, content_hash, embedding{pieces})
               select {distinct} {source_key}, b.chunk, b.content_hash, b.embedding{pieces} from {batch} b join {rows} s on {join}
               where {hash} = b.content_hash
               on conflict ({key}, chunk) do update set content_hash = excluded.content_hash,
                 embedding = excluded.embedding, embedded_at = excluded.embedded_at{update}"""
        ).format(
            table=self.table, key=self.source.key_columns, pieces=pieces, source_key=self.source.key_of("s"),
            batch=self._batch_keys(), rows=self.source.rows(), join=self.source.join("b", "s"), hash=DOC_HASH,
            update=update if self.space.chunk else sql.SQL(""), distinct=self._distinct(),
        )  # fmt: skip

    def _distinct(self) -> sql.Composable:
        """A row whose key was spelt in two ways is in the batch twice; most types have one spelling a value."""
        if all(column.one_spelling for column in self.source.key):
            return sql.SQL("")
        return sql.SQL("distinct on ({}, b.chunk)").format(self.source.key_of("s"))

    def _delete_surplus(self) -> sql.Composed:
        """A text that got shorter has fewer chunks: those past its end go."""
        return sql.SQL("delete from {} e using {} b where {} and e.chunk >= b.chunk_count").format(
            self.table, self._batch_keys(), self.source.join("b", "e")
        )

    # --- reading

    def view(self, order: Sequence[str] = ()) -> sql.Composed:
        """The alias view (DESIGN 3): cast to the bare type so that it can be replaced by another dimension, the
        version as a constant that the planner folds, and an inner join so that a deleted row is gone at its commit.

        ``order`` is that of the columns in a view that it replaces.
        """
        hide = self.source.collection.stale == "hide"
        pinned = ident(self.record.ledger_schema, "pinned_text")
        return sql.SQL(
            """select {shown}, e.chunk, {tag}::text as version, e.embedding::{type} as embedding{extra}
               from {table} e join {rows} s on {join}{hide}"""
        ).format(
            shown=self.source.key_of("s"), tag=sql.Literal(self.space.tag), type=literal(self.space.storage), extra=self.following(order),
            table=self.table, rows=self.source.rows(text=hide, extra=self.source.columns, pinned=pinned), join=self.source.join("s", "e"),
            hide=sql.SQL(" where {} = e.content_hash").format(DOC_HASH) if hide else sql.SQL(""),
        )  # fmt: skip

    def following(self, order: Sequence[str]) -> sql.Composed:
        """What the view shows after the vector: the collection's columns, then the place of the chunk.

        The place is shown, as NULL, of texts that are not cut too: a flip between the two kinds of version leaves the view
        its columns. What ``order`` names comes first, in that order: ``CREATE OR REPLACE`` can only append.
        """
        place = "e.{}" if self.space.chunk else "null::int as {}"
        columns: dict[str, sql.Composable] = {column.name: ident("s", column.name) for column in self.source.columns}
        for name in OFFSETS:  # a view that shows a column of the application's under that name keeps it
            columns.setdefault(name, sql.SQL(place).format(ident(name)))
        names = sorted(columns, key=lambda name: order.index(name) if name in order else len(order))
        return sql.Composed([sql.SQL(", {}").format(columns[name]) for name in names])

    def search(
        self, conn: Connection, vector: Sequence[float], k: int, *, where: Mapping[str, Any] | None = None, exact: bool = False
    ) -> list[Hit]:  # fmt: skip
        """Through the index, or over all vectors, as the alias view would."""
        with refusals(self.space):
            return nearest(conn, self.shown(conn), vector, k, where=where, exact=exact)

    def shown(self, conn: Connection) -> Shown:
        """What the alias would show, whatever it shows."""
        relation = sql.SQL("({}) as shown").format(self.view())
        return shown(conn, relation, self.space, self.record.version, self.form(conn))

    def form(self, conn: Connection) -> IndexEncoding | None:
        """The stand-in that the index holds; None: the vectors themselves."""
        return encoding_of(conn, self.place.relation)

    def alias(self, conn: Connection) -> str | None:
        """The version that the view says of each of its rows."""
        return aliases.version_shown(conn, self.source)

    def set_alias(self, conn: Connection) -> None:
        """Replaces the view: nobody sees it before the transaction ends."""
        with refusals(self.space):
            aliases.put_view(conn, self.source, self)

    # --- the index

    @staticmethod
    def describe_index(space: Space, options: IndexOptions) -> str:
        """The graph's parameters, and what it holds of each vector where that is not the vector itself."""
        return index.describe(space, options)

    @staticmethod
    def check_index(space: Space, options: IndexOptions) -> None:
        """What pgvector's HNSW can hold."""
        index.check(space, options)

    @staticmethod
    def index_over_limit(space: Space, options: IndexOptions) -> tuple[str, str] | None:
        """By the type that the index holds."""
        return index.over_limit(space, options)

    def index_sql(self, options: IndexOptions) -> list[sql.Composable]:
        """The index, and what readers are told of it."""
        read = index.may_be_read(self.record)
        return [
            index.create(self.place, self.space, options, concurrently=read),
            index.comment(self.place, self.space, index.encoding(self.space, options)),
        ]

    def build_index(self, conn: Connection, options: IndexOptions, build: IndexBuild) -> str:
        """In a session of its own; nobody waits for it where somebody reads the space."""
        with refusals(self.space):
            return index.Builder(conn, self.record, self.place, options, build).run()

    def index_state(self, conn: Connection) -> IndexState:
        """The best state among the forms that the index may have: one that is valid is enough."""
        return index.best_state(conn, self.place, self.space)

    def seconds_since_read(self, conn: Connection) -> float | None:
        """By the last scan of the index, which PostgreSQL notes since version 16."""
        return index.seconds_since_read(conn, self.place, self.record.state_since)

    # --- what an audit asks

    def measured(self) -> sql.Composed:
        """Every vector of the table that the space is in, as a relation ``r``: ``key text[], version, dims, norm``."""
        embedding = ident("e", self.place.embedding)
        return sql.SQL(
            """(select {key} as key, {version} as version, vector_dims({embedding}) as dims,
                  vector_norm({embedding}::vector) as norm from {table} e where {embedding} is not null) r"""
        ).format(
            key=self.source.key_text("e"), version=ident("e", self.place.version), embedding=embedding,
            table=self.place.relation,
        )  # fmt: skip

    def drawn(self, size: int, seed: int) -> sql.Composed:
        """A query over vectors in the order of a hash of their key, beside the text they were made of: key, text, start
        and end of the piece, vector. Of those with another content hash than the row's the text is gone.
        """
        order = by_hash(sql.SQL("({}::text || e.chunk)").format(self.source.key_text("e")), seed)
        piece = sql.SQL("e.chunk_start, e.chunk_end" if self.space.chunk else "0, null::int")
        return sql.SQL(
            """select {key}, s.embedmig_doc, {piece}, e.embedding::real[]
               from (select * from {table} e order by {order} limit {size}) e
               join {rows} s on {join} where {has_text} and {hash} = e.content_hash"""
        ).format(
            key=self.source.key_text("e"), piece=piece, table=self.table, order=order, size=sql.Literal(size),
            rows=self.source.rows(), join=self.source.join("s", "e"), has_text=HAS_TEXT, hash=DOC_HASH,
        )  # fmt: skip


@contextmanager
def refusals(space: Space) -> Iterator[None]:
    """Says in the words of the protocol what PostgreSQL says of a table that is not there, or of a vector that can't be."""
    try:
        yield
    except pg.UndefinedTable as error:
        raise PlaceMissing(
            f"the table of {space.tag} is not there",
            hint="restore it, or embed the collection again under a new version",
        ) from error
    except pg.DataException as error:
        raise VectorRefused(f"{space.tag}: {error.diag.message_primary}") from error
