"""A space as a table of its own in PostgreSQL, typed to its dimensions."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Sequence
from typing import LiteralString

from psycopg import sql

from embedmig.database import Connection, ident, literal, scalar
from embedmig.database.registry import Registry, SpaceRecord
from embedmig.source import DOC_HASH, HAS_TEXT, Column, Source, check_key_types, comma
from embedmig.source.rows import Key, Row
from embedmig.stores import Batch, IndexState, SpaceCounts
from embedmig.stores.index_sizes import IndexStorage
from embedmig.stores.pgvector import hnsw
from embedmig.stores.pgvector.copy_format import copy_bytes
from embedmig.types import Space

TURN_CLASS = 0x656D6273  # "embs"; the second half of the lock's key is the space's number
RESERVED = ("chunk", "version", "content_hash", "embedding", "embedded_at", "chunk_count", "chunk_start", "chunk_end")


def table_name(space: Space, fingerprint: str) -> str:
    """A name within PostgreSQL's 63 bytes that tells the space and can't collide with another's."""
    slug = re.sub(r"[^a-z0-9]+", "_", f"{space.collection} {space.name} {space.version} {space.dimensions}".lower())
    unique = hashlib.sha256(f"{space.collection}\0{space.tag}\0{fingerprint}".encode()).hexdigest()[:8]
    return f"{slug.strip('_')[:52]}_{unique}"


def vector_type(space: Space) -> sql.SQL:
    """``vector(256)`` or ``halfvec(256)``."""
    return literal(f"{space.storage}({space.dimensions})")


class PgvectorStore:
    """Creates, fills, indexes and reads one space's table."""

    def __init__(self, source: Source, record: SpaceRecord) -> None:
        self.source = source
        self.record = record
        self.space = record.space
        self.table = record.relation

    # --- the table

    def create(self) -> sql.Composed:
        """The space's table. No foreign key to the source: dropping it would lock the source out."""
        keys = comma(
            sql.SQL("{} {} not null").format(ident(column.name), literal(column.declaration))
            for column in self.source.key
        )
        pieces = sql.SQL(", chunk_count int not null, chunk_start int not null, chunk_end int not null")
        return sql.SQL(
            """create table {table} (
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

    def check_key(self, conn: Connection) -> None:
        """Refuses a source whose key is no longer of the type that the space has. Raises :class:`SourceError`."""
        check_key_types(conn, self.source, self.table, self.space.tag)

    def drop(self) -> sql.Composed:
        """Drops the vectors: the point of no return."""
        return sql.SQL("drop table if exists {}").format(self.table)

    def bytes(self, conn: Connection, vectors: int) -> int:
        """What the table takes on disk, indexes included."""
        return int(
            scalar(conn, "select coalesce(pg_total_relation_size(to_regclass(%s)), 0)", (self.table.as_string(conn),))
        )

    def vectors(self, conn: Connection) -> int:
        """How many vectors there are, counted."""
        return int(scalar(conn, sql.SQL("select count(*) from {}").format(self.table)))

    # --- what is left

    def present(self, digest: sql.Composable) -> sql.Composed:
        """Whether row ``s`` is in the space with that content hash, every chunk of it."""
        whole = sql.SQL("")
        if self.space.chunk:
            whole = sql.SQL(  # type: ignore[assignment]
                " and e.chunk_count = (select count(*) from {} c where {} and c.content_hash = e.content_hash)"
            ).format(self.table, self.source.join("c", "e"))
        return sql.SQL("exists (select from {} e where {} and e.chunk = 0 and e.content_hash = {}{})").format(
            self.table, self.source.join("e", "s"), digest, whole
        )

    def held(self) -> sql.Composed:
        """As :meth:`present`, with the content hash as it is now."""
        return self.present(DOC_HASH)

    def untagged(self) -> sql.Composable:
        """A space's table takes no vector without its version."""
        return sql.SQL("false")

    def own_columns(self) -> tuple[Column, ...]:
        """None: its vectors are in its own table."""
        return ()

    def refused(self, registry: Registry) -> sql.Composed:
        """Whether row ``s`` is dead-lettered at its current content."""
        return sql.SQL("exists (select from {} f where f.space = {} and f.key = {} and f.content_hash = {})").format(
            registry.failed_table, sql.Literal(self.record.id), self.source.key_text("s"), DOC_HASH
        )

    def batched(self, registry: Registry) -> sql.Composed:
        """Whether row ``s`` is in a batch at the API."""
        return sql.SQL("exists (select from {} b where b.space = {} and b.key = {})").format(
            registry.batch_rows_table, sql.Literal(self.record.id), self.source.key_text("s")
        )

    def missing_page(
        self, conn: Connection, registry: Registry, after: Key | None, upto: Key | None, limit: int
    ) -> list[Row]:  # fmt: skip
        """The next rows without a current vector, in key order, between two keys (exclusive, inclusive).

        One short statement by keyset, so that memory stays flat and no cursor is held during a model call.
        """
        query = sql.SQL(
            """select {hash}, s.doc, {key} from {rows} s
               where {has_text} and not {present} and not {refused} and not {batched} and {after} and {upto}
               order by {order} limit {limit}"""
        ).format(
            hash=DOC_HASH, key=comma(sql.SQL("{}::text").format(ident("s", c.name)) for c in self.source.key),
            rows=self.source.rows(), has_text=HAS_TEXT, present=self.present(DOC_HASH), refused=self.refused(registry),
            batched=self.batched(registry), after=self._bound(">", after), upto=self._bound("<=", upto),
            order=self.source.key_of("s"), limit=sql.Literal(limit),
        )  # fmt: skip
        with conn.transaction():
            # Keyset paging wants the key's index whatever the statistics say: a sort would read the whole table a page.
            conn.execute(
                "set local enable_sort = off; set local enable_hashjoin = off; set local enable_mergejoin = off"
            )
            return [Row(tuple(row[2:]), row[1], row[0]) for row in conn.cursor(binary=True).execute(query)]

    def delete_orphans(self, conn: Connection) -> int:
        """Removes vectors whose row is gone or no longer eligible; returns how many."""
        query = sql.SQL("delete from {} e where not exists (select from {} s where {} and {})").format(
            self.table, self.source.rows(), self.source.join("s", "e"), HAS_TEXT
        )
        return conn.execute(query).rowcount

    def last_key(self, conn: Connection, after: Key | None = None) -> Key | None:
        """The upper end of the work, fixed when it starts, so that it is finite; None where nothing comes ``after``."""
        descending = sql.SQL(", ").join(sql.SQL("{} desc").format(ident("s", c.name)) for c in self.source.key)
        query = sql.SQL("select {} from {} s where {} order by {} limit 1").format(
            self.source.key_text("s"), self.source.rows(text=False), self._bound(">", after), descending
        )
        row = conn.execute(query).fetchone()
        return tuple(row[0]) if row else None

    def _bound(self, operator: LiteralString, key: Key | None) -> sql.Composable:
        """Whether row ``s`` lies on that side of a key; true where there is none."""
        if key is None:
            return sql.SQL("true")
        array = sql.SQL("{}::text[]").format(sql.Literal(list(key)))
        return sql.SQL("({}) {} ({})").format(self.source.key_of("s"), sql.SQL(operator), self.source.key_from(array))

    def counts(self, conn: Connection, registry: Registry) -> SpaceCounts:
        """One pass over source and space, joined by key."""
        chunked = "count(*) as chunks, max(e.chunk_count) as wanted, array_agg(distinct e.content_hash) as hashes"
        query = sql.SQL(
            """with held as (select {key}, {held} from {table} e {grouped}),
               wanting as (
                 select {source_key}, {has_text} as has_text, case when {has_text} then {hash} end as digest from {rows} s)
               select count(*) filter (where s.has_text),
                      count(*) filter (where s.has_text and h.hashes = array[s.digest] and h.chunks = h.wanted),
                      coalesce(sum(h.chunks), 0)::bigint,
                      count(*) filter (where not s.has_text),
                      count(*) filter (where s.has_text and f.content_hash = s.digest),
                      count(*) filter (where s.has_text is not true)  - count(*) filter (where not s.has_text and h.chunks is null)
               from wanting s full join held h using ({key})
               left join {failed} f on f.space = {space} and f.key = {key_text}"""
        ).format(
            key=self.source.key_columns, source_key=self.source.key_of("s"), rows=self.source.rows(), table=self.table,
            held=sql.SQL(chunked if self.space.chunk else "1::bigint as chunks, 1 as wanted, array[e.content_hash] as hashes"),
            grouped=sql.SQL("group by {}").format(self.source.key_columns) if self.space.chunk else sql.SQL(""),
            has_text=HAS_TEXT, hash=DOC_HASH, failed=registry.failed_table, space=sql.Literal(self.record.id),
            key_text=self.source.key_text("s"),
        )  # fmt: skip
        row = conn.execute(query).fetchone()
        assert row is not None
        return SpaceCounts(
            eligible=row[0], complete=row[1], vectors=row[2], blank=row[3], failed=row[4], orphans=row[5]
        )

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

    def wait_for_settling(self, conn: Connection, *, alone: bool) -> None:
        """Inside a transaction, before it looks at the data: who settles changes waits for batches that are being
        written, and they for it.

        The statement that writes a batch sees the source as it was when it began. Were a newer change of one of its
        rows taken in and settled meanwhile, the batch would put the older vector, or that of a deleted row, back,
        and nothing would be left that knows. Batches of a row copy settle nothing, so they don't wait for each other.
        """
        function = sql.SQL("pg_advisory_xact_lock" if alone else "pg_advisory_xact_lock_shared")
        conn.execute(sql.SQL("select {}(%s, %s)").format(function), (TURN_CLASS, self.record.id))

    def write(self, conn: Connection, registry: Registry, batches: Sequence[Batch], *, first: bool = True) -> int:
        """Inside a transaction, whose ``first`` it is or not: puts batches in; returns how many vectors were taken.

        A row whose text changed since it was read is not taken: its hash is checked in the statement that writes.
        """
        written = 0
        for some in without_repeats(batches):
            if not first:
                conn.execute("truncate embedmig_batch")
            written, first = written + self._put(conn, some), False
        failures = [(row.key, row.content_hash, why) for batch in batches for row, why in batch.failures]
        if failures:
            registry.record_failures(conn, self.record.id, failures)
        return written

    def _put(self, conn: Connection, batches: Sequence[Batch]) -> int:
        """One COPY and one INSERT for all of them."""
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
            sql.SQL("{}::{} as {}").format(ident(f"k{n}"), literal(column.type), ident(column.name))
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
               select {source_key}, b.chunk, b.content_hash, b.embedding{pieces} from {batch} b join {rows} s on {join}
               where {hash} = b.content_hash
               on conflict ({key}, chunk) do update set content_hash = excluded.content_hash,
                 embedding = excluded.embedding, embedded_at = excluded.embedded_at{update}"""
        ).format(
            table=self.table, key=self.source.key_columns, pieces=pieces, source_key=self.source.key_of("s"),
            batch=self._batch_keys(), rows=self.source.rows(), join=self.source.join("b", "s"), hash=DOC_HASH,
            update=update if self.space.chunk else sql.SQL(""),
        )  # fmt: skip

    def _delete_surplus(self) -> sql.Composed:
        """A text that got shorter has fewer chunks: those past its end go."""
        return sql.SQL("delete from {} e using {} b where {} and e.chunk >= b.chunk_count").format(
            self.table, self._batch_keys(), self.source.join("b", "e")
        )

    # --- the index

    def index_state(self, conn: Connection) -> IndexState:
        """The best state among the forms that the space's HNSW index may have: one that is valid is enough."""
        found = {self.encoding_state(conn, storage) for storage in hnsw.storages(self.space)}
        return next((state for state in ("valid", "building", "invalid") if state in found), "none")

    def encoding_state(self, conn: Connection, storage: IndexStorage) -> IndexState:
        """The state of the index in one form; an INVALID one is what a killed concurrent build leaves behind."""
        return index_state(conn, self.record.table_schema, self.index_name(storage))

    def index_name(self, storage: IndexStorage) -> str:
        """Fixed, and another for each form."""
        return hnsw.index_name(self.record.table_name, self.space, storage)

    def create_index(
        self, form: hnsw.IndexEncoding, *, concurrently: bool, m: int, ef_construction: int
    ) -> sql.Composed:
        """Builds the HNSW index under its fixed name."""
        name = self.index_name(form.storage)
        return hnsw.create(self.table, name, self.space, form, m, ef_construction, concurrently=concurrently)

    def comment_index(self, form: hnsw.IndexEncoding) -> sql.Composed:
        """Tells searches what to ask for; an index over the vectors themselves needs nothing said."""
        comment = sql.SQL("null") if form.storage == self.space.storage else sql.Literal(form.comment())
        return sql.SQL("comment on index {} is {}").format(
            ident(self.record.table_schema, self.index_name(form.storage)), comment
        )

    def drop_index(self, storage: IndexStorage, *, concurrently: bool = False) -> sql.Composed:
        """Removes the index of one form; wanted for an INVALID leftover, which ``if not exists`` would skip."""
        return sql.SQL("drop index {} if exists {}").format(
            sql.SQL("concurrently" if concurrently else ""),
            ident(self.record.table_schema, self.index_name(storage)),
        )

    # --- reading

    def view(self) -> sql.Composed:
        """The alias view (DESIGN 3): cast to the bare type so that it can be replaced by another dimension, the
        version as a constant that the planner folds, and an inner join so that a deleted row is gone at its commit.
        """
        hide = self.source.collection.stale == "hide"
        extra = [sql.SQL(", {}").format(ident("s", column.name)) for column in self.source.columns]
        return sql.SQL(
            """select {shown}, e.chunk, {tag}::text as version, e.embedding::{type} as embedding{extra}
               from {table} e join {rows} s on {join}{hide}"""
        ).format(
            shown=self.source.key_of("s"), tag=sql.Literal(self.space.tag), type=literal(self.space.storage), extra=sql.Composed(extra),
            table=self.table, rows=self.source.rows(text=hide, extra=self.source.columns), join=self.source.join("s", "e"),
            hide=sql.SQL(" where {} = e.content_hash").format(DOC_HASH) if hide else sql.SQL(""),
        )  # fmt: skip


def index_state(conn: Connection, schema: str, name: str) -> IndexState:
    """Whether the index of that name is usable."""
    row = conn.execute(
        """select i.indisvalid and i.indisready, exists (select from pg_stat_progress_create_index p where p.index_relid = c.oid)
           from pg_class c join pg_index i on i.indexrelid = c.oid
           where c.relnamespace = to_regnamespace(%s) and c.relname = %s""",
        (ident(schema).as_string(conn), name),
    ).fetchone()
    if row is None:
        return "none"
    return "valid" if row[0] else "building" if row[1] else "invalid"


def without_repeats(batches: Sequence[Batch]) -> Iterator[list[Batch]]:
    """The batches in their order, together as long as no row is in two of them: a statement inserts a row once."""
    some: list[Batch] = []
    seen: set[Key] = set()
    for batch in batches:
        keys = {row.key for row in batch.rows}
        if not seen.isdisjoint(keys):
            yield some
            some, seen = [], set()
        if keys:
            some.append(batch)
            seen |= keys
    if some:
        yield some
